//! The golden cases through the program: `weights`, `gram`, and `fit`, `encode`, `eval` of every fit.

use crate::program::{Lab, distance, numbers};
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A case, copied into a folder to work in.
struct Case {
    lab: Lab,
    name: String,
    meta: Value,
}

fn cases(prefix: &str) -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    folders.retain(|p| p.is_dir() && p.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    folders.sort();
    assert!(!folders.is_empty(), "no cases {prefix}");
    let load = |folder: &PathBuf| {
        let lab = Lab::new();
        lab.take(folder);
        let meta = std::fs::read_to_string(folder.join("meta.json")).unwrap();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        Case { lab, name, meta: serde_json::from_str(&meta).unwrap() }
    };
    folders.iter().map(load).collect()
}

impl Case {
    fn has(&self, array: &str) -> bool {
        self.lab.path(&format!("{array}.npy")).exists()
    }

    fn number(&self, key: &str) -> f64 {
        self.meta[key].as_f64().unwrap_or_else(|| panic!("{}: {key}", self.name))
    }

    fn text(&self, key: &str) -> &str {
        self.meta[key].as_str().unwrap_or_else(|| panic!("{}: {key}", self.name))
    }

    fn values(&self, array: &str) -> Vec<f64> {
        self.lab.matrix(&format!("{array}.npy")).0
    }

    /// The loss as arguments; none where only the library has the option.
    fn loss(&self) -> Option<String> {
        let l = &self.meta["loss_def"];
        if l["eps_by"] == "diagonal" {
            return None;
        }
        let mut args = format!(" --loss {}", l["kind"].as_str().unwrap());
        for name in ["tau", "nu", "margin", "eps_pos", "eps_neg", "log_eps"] {
            if let Some(value) = l[name].as_f64() {
                let _ = write!(args, " --{} {value}", name.replace('_', "-"));
            }
        }
        Some(args)
    }

    fn positives(&self) -> &str {
        if self.has("pos_indptr") { " --pos-indptr pos_indptr.npy --pos-indices pos_indices.npy" } else { "" }
    }

    /// Fits, encodes the test rows and evaluates; everything within `limit` of the case.
    fn check_fit(&self, args: &str, limit: f64) {
        let lab = &self.lab;
        let val = if self.has("x_val") { " --val-x x_val.npy --val-y y_val.npy" } else { "" };
        let fit = lab.json(&format!(
            "fit --preset global --x x_train.npy --y y_train.npy --rank {} --iters {} --precision f64 --no-final-loss \
             --out m.safetensors{val}{}{}{args}",
            self.meta["r"],
            self.meta["n_iters"],
            self.positives(),
            self.loss().unwrap(),
        ));
        assert_eq!(fit["rank"], self.meta["r"], "{}", self.name);
        for side in ["x", "y"] {
            lab.json(&format!(
                "encode --model m.safetensors --side {side} --input {side}_test.npy --out z{side}.npy --precision f64"
            ));
        }
        let ((zx, r), (zy, _)) = (lab.matrix("zx.npy"), lab.matrix("zy.npy"));
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let sim: Vec<f64> = zx.chunks(r).flat_map(|a| zy.chunks(r).map(move |b| product(a, b))).collect();
        // Embeddings are written in float32: two unit vectors of rounded entries.
        let error = distance(&sim, &self.values("sim_test"));
        assert!(error < limit + 2.4e-7, "{}: similarities differ by {error:e}", self.name);
        self.check_eval();
    }

    fn check_eval(&self) {
        let margin = self.meta["test_min_top1_margin"].as_f64().unwrap_or(1e-4);
        if self.has("test_gt") || margin < 1e-6 {
            return;
        }
        let eval = self.lab.json("eval --model m.safetensors --x x_test.npy --y y_test.npy --precision f64");
        for (way, key) in [("x_to_y", "x2y"), ("y_to_x", "y2x")] {
            let got = numbers(&eval["recall"][way]);
            let want = [1, 5, 10].map(|k| self.meta["test"][format!("{key}_R@{k}")].as_f64().unwrap());
            // Counts of rows over counts of rows.
            assert!(distance(&got, &want) < 1e-12, "{}: {way}: {got:?}, expected {want:?}", self.name);
        }
        let (got, want) = (eval["matching_accuracy"].as_f64().unwrap(), self.number("matching_accuracy"));
        assert!((got - want).abs() < 1e-12, "{}: matching accuracy {got}, expected {want}", self.name);
    }
}

#[test]
fn weights() {
    let mut checked = 0;
    for case in cases("S1_").into_iter().chain(cases("SM_")) {
        let Some(loss) = case.loss() else { continue };
        for way in ["", " --definition"] {
            let args = format!("weights --similarity s.npy --out out.npy{loss}{}{way}", case.positives());
            let json = case.lab.json(&args);
            let scale = case.number("S_max_abs").max(1e-7);
            let error = distance(&case.values("out"), &case.values("S"));
            // Both in float64; at tau = 0.01 exponents reach 200, whose rounding is amplified as much.
            assert!(
                error <= 1e-12 * scale,
                "{}{way}: S differs by {error:e}, largest entry {scale:e}",
                case.name
            );
            let (got, want) = (json["loss"].as_f64().unwrap(), case.number("loss"));
            assert!(
                (got - want).abs() <= 1e-12 * want.abs().max(1.0),
                "{}{way}: loss {got}, expected {want}",
                case.name
            );
        }
        checked += 1;
    }
    assert!(checked > 35, "only {checked} cases");
}

#[test]
fn grams() {
    for case in cases("GRAM_") {
        let parameters =
            ["beta", "gamma", "lengthscale"].map(|p| format!("--{p} {}", case.number(p))).join(" ");
        for kernel in ["linear", "cosine", "angular", "arccos", "exp_cosine", "rbf", "matern"] {
            for (suffix, clamp) in [("", 1e-5), ("_noclamp", 0.0)] {
                let file = format!("K_{kernel}{suffix}");
                if !case.has(&file) {
                    continue;
                }
                let args = format!("--kernel {kernel} {parameters} --cos-clamp {clamp}");
                let json = case.lab.json(&format!("gram --a a.npy --b b.npy --out out.npy {args}"));
                assert_eq!(json["dtype"], "float64");
                let error = distance(&case.values("out"), &case.values(&file));
                // The angle near 0 and the distance near 0 are square roots of rounding (1e-16).
                assert!(error < 1e-7, "{} {file}: differs by {error:e}", case.name);
            }
        }
    }
}

#[test]
fn linear_fits() {
    for case in cases("LIN_") {
        let (size, rows) = (case.number("batch_size"), case.meta["n_train"][0].as_f64().unwrap());
        let mut args = format!(
            " --init F1_init.npy,F2_init.npy --rho {} --factorization {} --ridge {}",
            case.number("rho"),
            case.text("factorization"),
            case.number("ridge")
        );
        if case.meta["scale_inputs"] == true {
            args.push_str(" --scale-inputs");
        }
        if size < rows {
            let _ = write!(args, " --batch-size {size} --drop-trailing");
        }
        if let Some(count) = case.meta["n_batches"].as_u64() {
            let _ = write!(args, " --batches {count}");
        }
        // Both in float64; where validation accuracies weigh batches, the case's own went through float32.
        case.check_fit(&args, 1e-8);
    }
}

#[test]
fn kernel_fits() {
    for case in cases("KER_") {
        let mut args =
            kernel(&case) + &format!(" --exact --rho {} --tol {}", case.number("rho"), case.number("tol"));
        if case.text("s_init") == "given" {
            args.push_str(" --init similarity:s_init.npy");
        }
        if case.number("n_batches") > 1.0 {
            let _ = write!(args, " --batch-size {} --drop-trailing", case.number("n_batch"));
        }
        case.check_fit(&args, 1e-8);
    }
}

#[test]
fn nystrom_fits() {
    for case in cases("NYS_") {
        let factorization = case.text("factorization");
        let args = format!("{} --landmark-rows landmarks.npy --factorization {factorization}", kernel(&case));
        case.check_fit(&args, 1e-8);
    }
}

fn kernel(case: &Case) -> String {
    let mut args = format!(
        " --kernel {} --cos-clamp {} --kernel-ridge {}",
        case.text("kernel"),
        case.number("cos_clamp"),
        case.number("ridge")
    );
    for name in ["beta", "gamma", "lengthscale"] {
        if let Some(value) = case.meta["kernel_params"][name].as_f64() {
            let _ = write!(args, " --{name} {value}");
        }
    }
    args
}
