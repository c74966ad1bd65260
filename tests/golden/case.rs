//! A golden case as its folder has it: what was asked, what came out, and the errors found.

use faer::Mat;
use serde_json::Value;
use std::path::PathBuf;
use unicon::backend::Backend;
use unicon::backend::cpu::Cpu;
use unicon::io::{HostMatrix, RowSource, open, read_all, read_index_vector};
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::{EpsBy, Loss, LossKind};
use unicon::positives::Positives;
use unicon::real::Real;

/// Everything a `meta.json` may hold. Keys that describe the reference only are listed so that a new option cannot
/// slip by unread.
pub const KNOWN_KEYS: &[&str] = &[
    "C_max_abs",
    "C_singular_values_top",
    "S_max_abs",
    "arrays",
    "batch_size",
    "batch_weights",
    "beta",
    "case",
    "cos_clamp",
    "d1",
    "d2",
    "deltas",
    "eig_Kx",
    "eig_cut",
    "factorization",
    "family",
    "gamma",
    "gap_sigma_r_over_next",
    "gap_sigma_r_over_next_aggregate",
    "gap_sigma_r_over_next_batches",
    "kernel",
    "kernel_params",
    "kernel_vs_nystrom_max_abs_diff",
    "ks",
    "lengthscale",
    "loss",
    "loss_cols",
    "loss_def",
    "loss_rows",
    "loss_train_after",
    "losses_before_each_batch",
    "losses_before_each_step",
    "m",
    "matching_accuracy",
    "matching_accuracy_first_index_wins",
    "n",
    "n_batch",
    "n_batches",
    "n_iters",
    "n_train",
    "n_x",
    "n_y",
    "note",
    "optimistic",
    "peer_float32_same_log_eps_max_abs_err_finite",
    "peer_float32_same_log_eps_nonfinite_entries",
    "peer_float32_sim_max_abs_diff",
    "peer_float64_max_abs_diff",
    "peer_float64_rectangular_max_abs_diff_to_S_rows_plus_ny_over_nx_S_cols",
    "peer_float64_sim_max_abs_diff",
    "peer_max_abs_diff",
    "pessimistic",
    "positives_per_column",
    "positives_per_row",
    "r",
    "rho",
    "ridge",
    "s_init",
    "scale_inputs",
    "sigma_final",
    "sim_change_under_half_ulp_float32_input_noise",
    "stable_float32_max_abs_err",
    "steps",
    "test",
    "test_min_top1_margin",
    "tol",
    "weights",
];

pub struct Case {
    pub dir: PathBuf,
    pub meta: Value,
    /// What exceeded its limit.
    pub failures: Vec<String>,
    /// (what, error, limit) of every check.
    pub checks: Vec<(String, f64, f64)>,
}

impl Case {
    pub fn has(&self, name: &str) -> bool {
        self.dir.join(format!("{name}.npy")).exists()
    }

    pub fn source(&self, name: &str) -> Box<dyn RowSource> {
        let path = self.dir.join(format!("{name}.npy"));
        open(path.to_str().unwrap()).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn matrix(&self, name: &str) -> Mat<f64> {
        let source = self.source(name);
        let values = read_all::<f64>(&source).unwrap();
        let cols = source.cols();
        Mat::from_fn(source.rows(), cols, |i, j| values[i * cols + j])
    }

    pub fn number(&self, key: &str) -> f64 {
        self.meta[key].as_f64().unwrap_or_else(|| panic!("{}: {key} is no number", self.dir.display()))
    }

    pub fn count(&self, key: &str) -> usize {
        self.number(key) as usize
    }

    pub fn text(&self, key: &str) -> &str {
        self.meta[key].as_str().unwrap_or_default()
    }

    pub fn loss(&self) -> Loss {
        let def = self.meta["loss_def"].as_object().expect("loss_def");
        let mut loss = Loss::default();
        for (key, value) in def {
            let number = || value.as_f64().expect("a number");
            match key.as_str() {
                "kind" => {
                    loss.kind = match value.as_str() {
                        Some("clip") => LossKind::Clip,
                        Some("sigmoid") => LossKind::Sigmoid,
                        Some("triplet_hard") => LossKind::TripletHard,
                        Some("triplet_smooth") => LossKind::TripletSmooth,
                        other => panic!("unknown loss {other:?}"),
                    }
                }
                "tau" => loss.tau = number(),
                "nu" => loss.nu = number(),
                "margin" => loss.margin = number(),
                "eps_pos" => loss.eps_pos = number(),
                "eps_neg" => loss.eps_neg = number(),
                "log_eps" => loss.log_eps = number(),
                "eps_by" => {
                    loss.eps_by = match value.as_str() {
                        Some("positives") => EpsBy::Positives,
                        Some("diagonal") => EpsBy::Diagonal,
                        other => panic!("unknown eps_by {other:?}"),
                    }
                }
                other => panic!("unknown loss option {other}"),
            }
        }
        loss
    }

    pub fn kernel(&self) -> Kernel {
        let params = &self.meta["kernel_params"];
        let number = |key: &str| params[key].as_f64().unwrap_or(1.0);
        Kernel {
            kind: kernel_kind(self.text("kernel")),
            beta: number("beta"),
            gamma: number("gamma"),
            lengthscale: number("lengthscale"),
            cos_clamp: self.number("cos_clamp"),
        }
    }

    pub fn positives(&self, n_x: usize, n_y: usize) -> Positives {
        if !self.has("pos_indptr") {
            assert_eq!(n_x, n_y);
            return Positives::diagonal(n_x);
        }
        let read = |name: &str| read_index_vector(self.dir.join(format!("{name}.npy"))).unwrap();
        Positives::from_csr(&read("pos_indptr"), &read("pos_indices"), n_y).unwrap()
    }

    pub fn check(&mut self, what: &str, error: f64, limit: f64) {
        self.checks.push((what.to_string(), error, limit));
        if error.is_nan() || error > limit {
            self.failures.push(format!("{what}: error {error:.2e} above {limit:.2e}"));
        }
    }

    pub fn check_matrix(&mut self, what: &str, got: &Mat<f64>, name: &str, limit: f64) {
        let want = self.matrix(name);
        if (got.nrows(), got.ncols()) != (want.nrows(), want.ncols()) {
            self.failures.push(format!("{what}: shape {:?} against {:?}", got.shape(), want.shape()));
            return;
        }
        let error = max_abs(&(got - &want));
        self.check(what, error, limit);
    }
}

/// Largest entry, NaN if there is one.
pub fn max_abs(m: &Mat<f64>) -> f64 {
    let mut max = 0.0f64;
    for j in 0..m.ncols() {
        for i in 0..m.nrows() {
            if m[(i, j)].is_nan() {
                return f64::NAN;
            }
            max = max.max(m[(i, j)].abs());
        }
    }
    max
}

pub fn kernel_kind(name: &str) -> KernelKind {
    match name {
        "linear" => KernelKind::Linear,
        "cosine" => KernelKind::Cosine,
        "angular" => KernelKind::Angular,
        "arccos" => KernelKind::Arccos,
        "exp_cosine" => KernelKind::ExpCosine,
        "rbf" => KernelKind::Rbf,
        "matern" => KernelKind::Matern,
        other => panic!("unknown kernel {other}"),
    }
}

pub fn load<T: Real>(cpu: &Cpu<T>, m: &Mat<f64>) -> <Cpu<T> as Backend>::Matrix {
    let values = (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect();
    cpu.load(&HostMatrix::from_f64("m", m.nrows(), m.ncols(), values).unwrap()).unwrap()
}

pub fn host<T: Real>(cpu: &Cpu<T>, m: &<Cpu<T> as Backend>::Matrix) -> Mat<f64> {
    let (rows, cols) = cpu.shape(m);
    let mut out = Mat::zeros(rows, cols);
    cpu.store(m, &mut |first, panel| {
        for (k, v) in panel.iter().enumerate() {
            out[(first + k / cols, k % cols)] = *v;
        }
        Ok(())
    })
    .unwrap();
    out
}
