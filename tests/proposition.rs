//! What is exact in the method, and what is not: the proposition of docs/method.md, statement by statement, in float64.
//!
//! For fixed features `X`, `Y` and a bilinear form `M` (`s = X M Y^T`, `L(M)` its loss), with `C = X^T S(gamma) Y / rho`:
//!
//! 1. `rho C = -dL/dM`.
//! 2. A spectral update's `F1^T F2` maximises `rho tr(F1 C F2^T) - rho/2 |F1^T F2|^2` at rank `r`, that is, minimises
//!    `L` to first order plus `rho/2 |F1^T F2|^2`; the maximum is `rho/2` times the sum of the leading `r` squared singular values.
//! 3. `M <- [M + C]_r` never raises `L` for `rho >= |X|^2 |Y|^2 / (2 n tau)` (clip, one-to-one, spectral norms).
//! 4. The undamped update is not of that kind: it can raise `L`.

use faer::Mat;
use rand::{Rng, SeedableRng};
use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Similarity};
use unicon::data::synthetic_pairs;
use unicon::fit::{Center, Data, Factorization, FitOptions, Init, fit};
use unicon::io::{HostMatrix, read_all};
use unicon::loss::{Loss, LossKind};
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;

fn random(rows: usize, cols: usize, seed: u64) -> Mat<f64> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    Mat::from_fn(rows, cols, |_, _| rng.random_range(-1.0..1.0))
}

fn host(m: &Mat<f64>) -> HostMatrix {
    let values = (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect();
    HostMatrix::from_f64("m", m.nrows(), m.ncols(), values).unwrap()
}

/// Fixed features of both sides, their relation and a loss.
struct Problem {
    cpu: Cpu<f64>,
    x: Mat<f64>,
    y: Mat<f64>,
    positives: Positives,
    loss: Loss,
}

impl Problem {
    fn new(x: Mat<f64>, y: Mat<f64>, positives: Positives, loss: Loss) -> Self {
        Self { cpu: Cpu::new(1).unwrap(), x, y, positives, loss }
    }

    fn similarity(&self, m: &Mat<f64>) -> Mat<f64> {
        &self.x * m * self.y.transpose()
    }

    /// `L(M)` and `X^T S Y`.
    fn at(&self, m: &Mat<f64>) -> (f64, Mat<f64>) {
        let load = |m: &Mat<f64>| self.cpu.load(&host(m)).unwrap();
        let dense = load(&self.similarity(m));
        let s = Similarity::Dense(&dense);
        let w = self.cpu.weights(s, &self.loss, &self.positives, NegativeSampling::All).unwrap();
        (w.value(), self.cpu.cross(s, &w, &load(&self.x), &load(&self.y)).unwrap())
    }

    /// `F1`, `F2` after one update of the solver from similarities `s`.
    fn update(
        &self,
        s: &Mat<f64>,
        rank: usize,
        rho: f64,
        factorization: Factorization,
    ) -> (Mat<f64>, Mat<f64>) {
        let options = FitOptions {
            loss: self.loss.clone(),
            rho,
            factorization,
            center: Center::Off,
            n_iters: 1,
            init: Init::Similarity(s.clone()),
            ..FitOptions::new(rank)
        };
        let (x, y) = (host(&self.x), host(&self.y));
        let data = Data { x: &x, y: &y, positives: &self.positives };
        let (model, _) = fit(&self.cpu, data, None, &options).unwrap();
        let c = &model.components[0];
        (c.x.matrix.clone(), c.y.matrix.clone())
    }
}

fn product(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    (0..a.ncols()).map(|j| (0..a.nrows()).map(|i| a[(i, j)] * b[(i, j)]).sum::<f64>()).sum()
}

/// The leading `r` singular triplets of `m`, multiplied out.
fn truncated(m: &Mat<f64>, r: usize) -> Mat<f64> {
    let svd = m.thin_svd().unwrap();
    let scaled = Mat::from_fn(m.nrows(), r, |i, k| svd.U()[(i, k)] * svd.S()[k]);
    scaled * svd.V().subcols(0, r).transpose()
}

fn losses() -> [Loss; 5] {
    [
        Loss::clip(0.07),
        Loss::clip(0.3).with_nu(1.5),
        Loss::new(LossKind::Sigmoid, 0.5),
        Loss::new(LossKind::TripletHard, 1.0),
        Loss::new(LossKind::TripletSmooth, 0.2),
    ]
}

/// A problem of each member, one-to-one and many-to-many, with a bilinear form whose similarities are in [-1, 1].
fn problems() -> Vec<(Problem, Mat<f64>)> {
    let mut all = Vec::new();
    for loss in losses() {
        for positives in [
            Positives::diagonal(14),
            Positives::from_groups(&[0, 1, 2, 3, 4, 1, 2, 5, 6, 6], &[6, 5, 4, 3, 2, 1, 0, 1]).unwrap(),
        ] {
            let (n_x, n_y) = (positives.n_x(), positives.n_y());
            let problem = Problem::new(random(n_x, 6, 1), random(n_y, 5, 2), positives, loss.clone());
            let m = random(6, 5, 3);
            let scale = 0.9 / problem.similarity(&m).norm_max();
            all.push((problem, m * faer::Scale(scale)));
        }
    }
    all
}

#[test]
fn c_is_minus_the_gradient_in_the_bilinear_form() {
    for (problem, m) in problems() {
        let (_, c) = problem.at(&m);
        // Central differences err by h^2 L'''/6 and by rounding, 1e-16 L / h: with h = 1e-5 and third derivatives up to
        // 1/tau^2 (2e2) times the features' cubes both stay below 1e-7.
        let h = 1e-5;
        for i in 0..m.nrows() {
            for j in 0..m.ncols() {
                let moved = |step: f64| {
                    let mut m = m.clone();
                    m[(i, j)] += step;
                    problem.at(&m).0
                };
                let slope = (moved(h) - moved(-h)) / (2.0 * h);
                let error = (slope + c[(i, j)]).abs();
                assert!(error < 1e-7 * (1.0 + c.norm_max()), "{:?} ({i}, {j}): {error:e}", problem.loss);
            }
        }
    }
}

#[test]
fn the_spectral_step_is_the_maximiser_at_its_rank() {
    let (rank, rho) = (2, 0.7);
    for (problem, m) in problems() {
        let s = problem.similarity(&m);
        let c = problem.at(&m).1 * faer::Scale(1.0 / rho);
        let objective = |f1: &Mat<f64>, f2: &Mat<f64>| {
            let g = f1.transpose() * f2;
            rho * product(&g, &c) - rho / 2.0 * g.squared_norm_l2()
        };
        let (f1, f2) = problem.update(&s, rank, rho, Factorization::Sqrt);
        let best = objective(&f1, &f2);
        let singular = c.singular_values().unwrap();
        let want = rho / 2.0 * singular[..rank].iter().map(|s| s * s).sum::<f64>();
        assert!((best - want).abs() < 1e-10 * want, "{:?}: {best} {want}", problem.loss);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        for seed in 0..200 {
            // Far away, of the length that suits it best, and close by.
            let (a, b) = (random(rank, 6, 100 + seed), random(rank, 5, 400 + seed));
            let g = a.transpose() * &b;
            let length = product(&g, &c) / g.squared_norm_l2();
            let scaled = |m: &Mat<f64>, by: f64| m * faer::Scale(by);
            let far = objective(&scaled(&a, length), &b);
            let step = f1.norm_max() * 10f64.powf(rng.random_range(-3.0..0.0));
            let near = objective(&(&f1 + scaled(&a, step)), &(&f2 + scaled(&b, step)));
            assert!(far < best && near < best, "{:?}: {far} {near} above {best}", problem.loss);
        }
        // Orthonormal encoders maximise tr(F1 C F2^T) among such encoders.
        let (u, v) = problem.update(&s, rank, rho, Factorization::Orthonormal);
        let best = product(&(u.transpose() * &v), &c);
        assert!((best - singular[..rank].iter().sum::<f64>()).abs() < 1e-10 * best);
        for seed in 0..50 {
            let basis = |d: usize, seed: u64| random(d, rank, seed).qr().compute_thin_Q();
            let other = product(&(basis(6, seed) * basis(5, 1000 + seed).transpose()), &c);
            assert!(other < best, "{other} above {best}");
        }
    }
}

/// Two views of common latent points, `n x 12` and `n x 10`.
fn views(n: usize) -> (Mat<f64>, Mat<f64>) {
    let (x, y) = synthetic_pairs(n, 12, 10, 6, 0.3, 3).unwrap();
    let dense = |values: Vec<f32>, d: usize| Mat::from_fn(n, d, |i, j| f64::from(values[i * d + j]));
    (dense(read_all(&x).unwrap(), 12), dense(read_all(&y).unwrap(), 10))
}

#[test]
fn steps_about_the_last_form_descend_and_undamped_updates_need_not() {
    let (n, rank, tau) = (120, 4, 0.07);
    let (x, y) = views(n);
    let norm = |m: &Mat<f64>| m.singular_values().unwrap()[0];
    let rho = (norm(&x) * norm(&y)).powi(2) / (2.0 * n as f64 * tau);
    let problem = Problem::new(x, y, Positives::diagonal(n), Loss::clip(tau));
    let mut m = Mat::zeros(12, 10);
    let (mut value, mut slope) = problem.at(&m);
    let first = value;
    for step in 0..60 {
        m = truncated(&(&m + slope * faer::Scale(1.0 / rho)), rank);
        let next = problem.at(&m);
        assert!(next.0 <= value * (1.0 + 1e-12), "step {step}: {value} to {}", next.0);
        (value, slope) = next;
    }
    assert!(value < 0.9 * first, "{first} to {value}");
    // The paper's update with its normalised similarities, here the library's own loss after one, two and more.
    let (x, y) = (host(&problem.x), host(&problem.y));
    let data = Data { x: &x, y: &y, positives: &problem.positives };
    let options = FitOptions { loss: problem.loss, n_iters: 5, center: Center::Off, ..FitOptions::new(rank) };
    let losses = fit(&problem.cpu, data, None, &options).unwrap().1.loss;
    let rises = losses.windows(2).filter(|w| w[1] > w[0] * 1.01).count();
    assert!(rises > 0, "{losses:?}");
}
