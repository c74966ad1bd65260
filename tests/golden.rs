//! Every float64 reference case, in f64 and f32, against this crate's public API.
//!
//! The folder is `tests/golden`, or the one named by `UNICON_GOLDEN_DIR`. Every case found is run; error and limit are
//! printed per case; a family, option or metadata key that is not known here fails.
//!
//! Limits. Explicit S: relative to max|S|, f64 1e-13 at tau = 1 growing as 1/tau; f32 `4 eps/tau` (s/tau carries
//! `|s|/tau * 6e-8`), with a floor of 1e-7/n for saturated cases. Linear fits: f64 1e-8, f32 5e-6. Kernel fits: f64 1e-8
//! (times the case's own conditioning), f32 2e-4, 2e-3 for the singular linear kernel.

mod case;

use case::{Case, KNOWN_KEYS, host, kernel_kind, load, max_abs};
use faer::Mat;
use serde_json::Value;
use std::path::{Path, PathBuf};
use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Similarity, Standing, Ties};
use unicon::fit::{Batches, Data, Factorization, FitOptions, Init, KernelOptions, Landmarks, fit};
use unicon::io::{RowSource, read_index_vector};
use unicon::kernel::Kernel;
use unicon::model::{Model, Side};
use unicon::positives::Positives;
use unicon::real::Real;
use unicon::retrieval::recall_at_k;
use unicon::similarity::NegativeSampling;
use unicon::spectral::psd_half_powers;

fn is_f64<T: Real>() -> bool {
    T::NAME == "f64"
}

/// Relative error of anything that passes through e^{s/tau}.
fn exponential_limit<T: Real>(tau: f64) -> f64 {
    (if is_f64::<T>() { 50.0 } else { 4.0 }) * T::EPSILON / tau.min(1.0)
}

fn explicit<T: Real>(case: &mut Case, cpu: &Cpu<T>) {
    let s = case.matrix("s");
    let (n_x, n_y) = (s.nrows(), s.ncols());
    let (loss, positives) = (case.loss(), case.positives(n_x, n_y));
    let s = load(cpu, &s);
    let s = Similarity::Dense(&s);
    let w = cpu.weights(s, &loss, &positives, NegativeSampling::All).unwrap();
    let limit = exponential_limit::<T>(loss.tau);
    for (key, got) in [("loss", w.value()), ("loss_rows", w.loss_rows), ("loss_cols", w.loss_cols)] {
        let want = case.number(key);
        case.check(key, (got - want).abs(), limit * want.abs().max(1.0));
    }
    let dense = cpu.dense(s, &w).unwrap();
    let floor = if is_f64::<T>() { 1e-15 } else { 1e-7 } / n_x.max(n_y) as f64;
    let limit = limit * case.number("S_max_abs") + floor;
    case.check_matrix("S", &dense, "S", limit);
}

fn operator<T: Real>(case: &mut Case, cpu: &Cpu<T>) {
    let (loss, scale_inputs, rho) =
        (case.loss(), case.meta["scale_inputs"].as_bool().unwrap(), case.number("rho"));
    let (x, y) = (case.matrix("x"), case.matrix("y"));
    let positives = case.positives(x.nrows(), y.nrows());
    let (x, y) = (load(cpu, &x), load(cpu, &y));
    let (zx, norm_x) = cpu.encode(&x, case.matrix("F1").as_ref()).unwrap();
    let (zy, norm_y) = cpu.encode(&y, case.matrix("F2").as_ref()).unwrap();
    let s = Similarity::Embeddings(&zx, &zy);
    let w = cpu.weights(s, &loss, &positives, NegativeSampling::All).unwrap();
    let limit = 10.0 * exponential_limit::<T>(loss.tau);
    let want = case.number("loss");
    case.check("loss", (w.value() - want).abs(), limit * want.abs().max(1.0));
    let dense = cpu.dense(s, &w).unwrap();
    let scale = max_abs(&case.matrix("S"));
    case.check_matrix("S", &dense, "S", limit * scale);
    let c = if scale_inputs {
        let inverse = |n: &[f64]| n.iter().map(|n| 1.0 / n).collect::<Vec<_>>();
        let (x, y) =
            (cpu.scale_rows(&x, &inverse(&norm_x)).unwrap(), cpu.scale_rows(&y, &inverse(&norm_y)).unwrap());
        cpu.cross(s, &w, &x, &y).unwrap()
    } else {
        cpu.cross(s, &w, &x, &y).unwrap()
    };
    let c = c * faer::Scale(1.0 / rho);
    let scale = case.number("C_max_abs");
    case.check_matrix("C", &c, "C", limit * scale);
    // The operator against the explicit matrix.
    let sv = host(cpu, &cpu.apply(s, &w, &zy).unwrap());
    let dense_sv = &dense * host(cpu, &zy);
    case.check(
        "S V against the explicit S",
        max_abs(&(sv - &dense_sv)),
        limit * scale.max(max_abs(&dense_sv)),
    );
}

fn model_similarity<T: Real>(case: &Case, cpu: &Cpu<T>, model: &Model) -> Mat<f64> {
    let encode = |side, name: &str| host(cpu, &model.encode(cpu, side, &case.source(name)).unwrap());
    encode(Side::X, "x_test") * encode(Side::Y, "y_test").transpose()
}

fn check_recalls<T: Real>(case: &mut Case, cpu: &Cpu<T>, model: &Model, sim_error: f64) {
    // Exact wherever the error is far below the smallest top-1 to top-2 gap.
    let margin = case.meta["test_min_top1_margin"].as_f64().unwrap_or(0.0);
    let zx = model.encode(cpu, Side::X, &case.source("x_test")).unwrap();
    let zy = model.encode(cpu, Side::Y, &case.source("y_test")).unwrap();
    let truth = if case.has("test_gt") {
        relation(&case.matrix("test_gt"))
    } else {
        Positives::diagonal(cpu.shape(&zx).0)
    };
    let got = recall_at_k(cpu, &zx, &zy, &truth, &[1], Ties::LowerIndex).unwrap();
    if sim_error * 10.0 < margin {
        let test = case.meta["test"].clone();
        let want = test["x2y_R@1"].as_f64().unwrap();
        case.check("x2y R@1", (got.x_to_y[0] - want).abs(), 1e-12);
    }
}

fn relation(gt: &Mat<f64>) -> Positives {
    let (mut ptr, mut idx) = (vec![0], Vec::new());
    for i in 0..gt.nrows() {
        idx.extend((0..gt.ncols()).filter(|&j| gt[(i, j)] != 0.0).map(|j| j as i64));
        ptr.push(idx.len() as i64);
    }
    Positives::from_csr(&ptr, &idx, gt.ncols()).unwrap()
}

fn linear<T: Real>(case: &mut Case, cpu: &Cpu<T>) {
    let (x, y) = (case.source("x_train"), case.source("y_train"));
    let positives = case.positives(x.rows(), y.rows());
    let size = case.count("batch_size");
    let count = case.meta["n_batches"].as_u64().map(|c| c as usize);
    let options = FitOptions {
        loss: case.loss(),
        n_iters: case.count("n_iters"),
        rho: case.number("rho"),
        factorization: match case.text("factorization") {
            "sqrt" => Factorization::Sqrt,
            "orthonormal" => Factorization::Orthonormal,
            other => panic!("unknown factorization {other}"),
        },
        ridge: case.number("ridge"),
        scale_inputs: case.meta["scale_inputs"].as_bool().unwrap(),
        init: Init::Given(case.matrix("F1_init"), case.matrix("F2_init")),
        batches: (size < x.rows()).then_some(Batches { count, drop_trailing: true, ..Batches::new(size) }),
        final_loss: size == x.rows(),
        ..FitOptions::new(case.count("r"))
    };
    let val = case.has("x_val").then(|| (case.source("x_val"), case.source("y_val")));
    let val_positives = val.as_ref().map(|(x, _)| Positives::diagonal(x.rows()));
    let validation =
        val.as_ref().zip(val_positives.as_ref()).map(|((x, y), positives)| Data { x, y, positives });
    let data = Data { x: &x, y: &y, positives: &positives };
    let (model, info) = fit(cpu, data, validation, &options).unwrap();
    let limit = if is_f64::<T>() { 1e-8 } else { 5e-6 };
    // Sums over negatives of the additive members are not averaged: G scales with the loss.
    let c = &model.components[0];
    let g = c.x.matrix.transpose() * &c.y.matrix;
    let scale = max_abs(&case.matrix("G")).max(1.0);
    case.check_matrix("F1^T F2", &g, "G", limit * scale);
    let sim = model_similarity(case, cpu, &model);
    case.check_matrix("test similarities", &sim, "sim_test", limit);
    check_recalls(case, cpu, &model, limit);
    for (it, batches) in case.meta["losses_before_each_batch"].as_array().unwrap().clone().iter().enumerate()
    {
        let losses: Vec<f64> = batches.as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        case.check("loss", (info.loss[it] - mean).abs(), limit * mean.abs().max(1.0));
    }
    if options.final_loss {
        let want = case.number("loss_train_after");
        case.check("final loss", (info.final_loss.unwrap() - want).abs(), limit * want.abs().max(1.0));
    }
    if validation.is_some() {
        for (it, weights) in case.meta["batch_weights"].as_array().unwrap().clone().iter().enumerate() {
            for (b, w) in weights.as_array().unwrap().iter().enumerate() {
                case.check("batch weight", (info.batch_weights[it][b] - w.as_f64().unwrap()).abs(), 1e-12);
            }
        }
    }
}

fn kernel_fit<T: Real>(case: &mut Case, cpu: &Cpu<T>) {
    let (x, y) = (case.source("x_train"), case.source("y_train"));
    let positives = case.positives(x.rows(), y.rows());
    let batches = case.count("n_batches");
    let kernel =
        KernelOptions { ridge: case.number("ridge"), ..KernelOptions::new(case.kernel(), Landmarks::Exact) };
    let options = FitOptions {
        loss: case.loss(),
        n_iters: case.count("n_iters"),
        rho: case.number("rho"),
        tol: case.number("tol"),
        init: match case.text("s_init") {
            "zeros" => Init::Zeros,
            "given" => Init::Similarity(case.matrix("s_init")),
            other => panic!("unknown s_init {other}"),
        },
        batches: (batches > 1)
            .then(|| Batches { drop_trailing: true, ..Batches::new(case.count("n_batch")) }),
        kernel: Some(kernel),
        final_loss: false,
        ..FitOptions::new(case.count("r"))
    };
    let val = case.has("x_val").then(|| (case.source("x_val"), case.source("y_val")));
    let val_positives = val.as_ref().map(|(x, _)| Positives::diagonal(x.rows()));
    let validation =
        val.as_ref().zip(val_positives.as_ref()).map(|((x, y), positives)| Data { x, y, positives });
    let (model, info) = fit(cpu, Data { x: &x, y: &y, positives: &positives }, validation, &options).unwrap();
    let singular = case.text("kernel") == "linear";
    let limit = match (is_f64::<T>(), singular) {
        (true, _) => 1e-8,
        (false, false) => 2e-4,
        (false, true) => 2e-3,
    };
    let sim = model_similarity(case, cpu, &model);
    case.check_matrix("test similarities", &sim, "sim_test", limit);
    check_recalls(case, cpu, &model, limit);
    let c = &model.components[0];
    if case.count("n_iters") == 1 {
        let ab = c.x.matrix.transpose() * &c.y.matrix;
        let scale = max_abs(&case.matrix("ABt_first")).max(1.0);
        // A carries K^{-1/2}: errors of C are amplified by up to 1/sqrt(ridge) a side.
        case.check_matrix("A B^T", &ab, "ABt_first", 10.0 * limit * scale);
    }
    if is_f64::<T>() {
        let steps = case.meta["steps"][0].as_u64().unwrap() as f64;
        case.check("steps", (info.iterations as f64 - steps).abs(), 0.0);
        for (it, delta) in case.meta["deltas"][0].as_array().unwrap().clone().iter().enumerate().skip(1) {
            case.check("change of A B^T", (info.change[it - 1] - delta.as_f64().unwrap()).abs(), 1e-7);
        }
        if batches > 1 {
            let weights: Vec<f64> =
                case.meta["weights"].as_array().unwrap().iter().map(|w| w.as_f64().unwrap()).collect();
            for (got, want) in info.batch_weights[0].iter().zip(weights) {
                case.check("weights", (got - want).abs(), 1e-12);
            }
        }
    }
    let losses = case.meta["losses_before_each_step"].as_array().unwrap().clone();
    let first = losses.iter().map(|l| l[0].as_f64().unwrap()).sum::<f64>() / losses.len() as f64;
    case.check("first loss", (info.loss[0] - first).abs(), limit * first.abs().max(1.0));
}

fn nystrom<T: Real>(case: &mut Case, cpu: &Cpu<T>) {
    assert_eq!(case.number("eig_cut"), 1e-10, "another cut than the crate's");
    let (x, y) = (case.source("x_train"), case.source("y_train"));
    let landmarks: Vec<usize> =
        read_index_vector(case.dir.join("landmarks.npy")).unwrap().into_iter().map(|i| i as usize).collect();
    assert_eq!((landmarks.len(), x.rows()), (case.count("m"), case.count("n")));
    let kernel = case.kernel();
    let ridge = case.number("ridge");
    let options = FitOptions {
        loss: case.loss(),
        n_iters: case.count("n_iters"),
        kernel: Some(KernelOptions {
            ridge,
            ..KernelOptions::new(kernel, Landmarks::Rows(landmarks.clone()))
        }),
        factorization: if case.text("factorization") == "sqrt" {
            Factorization::Sqrt
        } else {
            Factorization::Orthonormal
        },
        final_loss: false,
        ..FitOptions::new(case.count("r"))
    };
    assert_eq!(case.text("s_init"), "zeros");
    let positives = case.positives(x.rows(), y.rows());
    let (model, _) = fit(cpu, Data { x: &x, y: &y, positives: &positives }, None, &options).unwrap();
    let limit = if is_f64::<T>() { 1e-8 } else { 2e-4 };
    let sim = model_similarity(case, cpu, &model);
    case.check_matrix("test similarities", &sim, "sim_test", limit);
    if case.has("sim_test_kernel_solver") {
        let limit = limit.max(10.0 * case.number("kernel_vs_nystrom_max_abs_diff"));
        case.check_matrix("the kernel solver's similarities", &sim, "sim_test_kernel_solver", limit);
    }
    let z = &model.components[0].x.map.as_ref().unwrap().landmarks;
    let k_zz = host(cpu, &cpu.kernel(&kernel, &load(cpu, z), z.as_ref()).unwrap());
    let (_, inverse_half) = psd_half_powers(k_zz.as_ref(), ridge, 1e-10).unwrap();
    let phi = host(cpu, &cpu.kernel(&kernel, &load(cpu, &case.matrix("x_test")), z.as_ref()).unwrap())
        * inverse_half;
    case.check_matrix("Phi Phi^T", &(&phi * phi.transpose()), "phi_x_gram_test", limit);
}

fn gram<T: Real>(case: &mut Case, cpu: &Cpu<T>) {
    let (a, b) = (case.matrix("a"), case.matrix("b"));
    let a = load(cpu, &a);
    for name in ["linear", "cosine", "angular", "arccos", "exp_cosine", "rbf", "matern"] {
        for (suffix, cos_clamp) in [("", 1e-5), ("_noclamp", 0.0)] {
            let file = format!("K_{name}{suffix}");
            if !case.has(&file) {
                continue;
            }
            let kernel = Kernel {
                kind: kernel_kind(name),
                beta: case.number("beta"),
                gamma: case.number("gamma"),
                lengthscale: case.number("lengthscale"),
                cos_clamp,
            };
            let got = host(cpu, &cpu.kernel(&kernel, &a, b.as_ref()).unwrap());
            // acos near +-1 turns an error e of the cosine into sqrt(2 e) (no clamp) or e/sqrt(2e-5) (clamp); the square
            // root in matern does the same to a distance near 0.
            let scale = max_abs(&case.matrix(&file)).max(1.0);
            let rounding = 16.0 * T::EPSILON;
            let limit = match name {
                "angular" if cos_clamp == 0.0 => rounding.sqrt(),
                "angular" | "arccos" => rounding / 4e-3,
                "matern" => rounding.sqrt(),
                _ => 4.0 * rounding,
            };
            case.check_matrix(&file, &got, &file, limit * scale);
        }
    }
}

fn metrics<T: Real>(case: &mut Case, cpu: &Cpu<T>) {
    let (sim, gt) = (case.matrix("sim"), case.matrix("gt"));
    let positives = relation(&gt);
    let standings = |sim: &Mat<f64>, positives: &Positives| {
        cpu.standings(Similarity::Dense(&load(cpu, sim)), positives, false).unwrap()
    };
    let (back_sim, back_gt) = (sim.transpose().to_owned(), gt.transpose().to_owned());
    for (found, sim, gt, direction) in [
        (standings(&sim, &positives), &sim, &gt, "x2y"),
        (standings(&back_sim, &positives.transposed()), &back_sim, &back_gt, "y2x"),
    ] {
        for k in case.meta["ks"].as_array().unwrap().clone() {
            let k = k.as_u64().unwrap();
            let recall =
                |ties: Ties| found.iter().map(|q| q.hit(k as usize, ties)).sum::<f64>() / found.len() as f64;
            let key = format!("{direction}_R@{k}");
            let bound = |which: &str| case.meta[which][&key].as_f64().unwrap();
            let (low, high) = (bound("pessimistic"), bound("optimistic"));
            case.check("pessimistic", (recall(Ties::Pessimistic) - low).abs(), 1e-12);
            case.check("optimistic", (recall(Ties::Optimistic) - high).abs(), 1e-12);
            for ties in [Ties::LowerIndex, Ties::Expected] {
                case.check(&key, (low - recall(ties)).max(recall(ties) - high).max(0.0), 1e-12);
            }
        }
        // The exact counts, by their definition.
        for (i, got) in found.iter().enumerate() {
            let right: Vec<usize> = (0..sim.ncols()).filter(|&j| gt[(i, j)] != 0.0).collect();
            let best = right.iter().copied().reduce(|a, b| if sim[(i, b)] > sim[(i, a)] { b } else { a });
            let want = best.map_or(Standing::default(), |b| {
                let count = |f: &dyn Fn(usize) -> bool| {
                    (0..sim.ncols()).filter(|&j| gt[(i, j)] == 0.0 && f(j)).count() as u32
                };
                let equal = |j: usize| sim[(i, j)] == sim[(i, b)];
                Standing {
                    ahead: count(&|j| sim[(i, j)] > sim[(i, b)]),
                    tied: count(&equal),
                    tied_before: count(&|j| equal(j) && j < b),
                    positives: right.iter().filter(|&&j| equal(j)).count() as u32,
                }
            });
            case.check("rank", f64::from(u8::from(*got != want)), 0.0);
        }
    }
    if let Some(want) = case.meta["matching_accuracy_first_index_wins"].as_f64() {
        let found = standings(&sim, &positives);
        let got = found.iter().map(|q| q.hit(1, Ties::LowerIndex)).sum::<f64>() / found.len() as f64;
        case.check("matching accuracy", (got - want).abs(), 1e-12);
    }
}

fn run<T: Real>(dir: &Path) -> Vec<String> {
    let meta: Value = serde_json::from_str(&std::fs::read_to_string(dir.join("meta.json")).unwrap()).unwrap();
    for key in meta.as_object().unwrap().keys() {
        assert!(KNOWN_KEYS.contains(&key.as_str()), "{}: unknown key {key}", dir.display());
    }
    let mut case = Case { dir: dir.to_path_buf(), meta, failures: Vec::new(), checks: Vec::new() };
    let cpu = Cpu::<T>::new(2).unwrap();
    match case.text("family") {
        "S_one_to_one" | "S_many_to_many" => explicit(&mut case, &cpu),
        "C" => operator(&mut case, &cpu),
        "linear_fit" => linear(&mut case, &cpu),
        "kernel_fit" => kernel_fit(&mut case, &cpu),
        "nystrom_fit" => nystrom(&mut case, &cpu),
        "gram" => gram(&mut case, &cpu),
        "metrics" => metrics(&mut case, &cpu),
        other => panic!("{}: unknown family {other:?}", dir.display()),
    }
    let name = dir.file_name().unwrap().to_string_lossy().into_owned();
    assert!(!case.checks.is_empty(), "{name}: nothing was checked");
    let worst = case
        .checks
        .iter()
        .max_by(|a, b| (a.1 / a.2.max(1e-300)).total_cmp(&(b.1 / b.2.max(1e-300))))
        .unwrap();
    println!("{:42} {} {:5.1e} of {:5.1e}  {}", name, T::NAME, worst.1, worst.2, worst.0);
    case.failures.iter().map(|f| format!("{name} {}: {f}", T::NAME)).collect()
}

fn run_all<T: Real>() {
    let dir = std::env::var_os("UNICON_GOLDEN_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"), PathBuf::from);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {}", dir.display());
    let failures: Vec<String> = cases.iter().flat_map(|case| run::<T>(case)).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn golden_f64() {
    run_all::<f64>();
}

#[test]
fn golden_f32() {
    run_all::<f32>();
}
