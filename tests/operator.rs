//! S(gamma) as an operator: against its definition and central differences of the loss, against its own explicit matrix,
//! across backends' number types, tile boundaries, threads, temperatures and relations.

use faer::Mat;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use unicon::backend::cpu::Cpu;
use unicon::backend::{Arithmetic, Backend, Similarity};
use unicon::control::Control;
use unicon::io::HostMatrix;
use unicon::loss::{EpsBy, Loss, LossKind};
use unicon::positives::Positives;
use unicon::real::Real;
use unicon::similarity::definition::definition;
use unicon::similarity::{NegativeSampling, Weights};

pub const KINDS: [LossKind; 4] =
    [LossKind::Clip, LossKind::Sigmoid, LossKind::TripletHard, LossKind::TripletSmooth];

pub type Rows<T> = <Cpu<T> as Backend>::Matrix;

pub fn random(rows: usize, cols: usize, seed: u64) -> Mat<f64> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    Mat::from_fn(rows, cols, |_, _| rng.random_range(-1.0..1.0))
}

pub fn load<T: Real>(cpu: &Cpu<T>, m: &Mat<f64>) -> Rows<T> {
    let values = (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect();
    cpu.load(&HostMatrix::from_f64("m", m.nrows(), m.ncols(), values).unwrap()).unwrap()
}

pub fn host<T: Real>(cpu: &Cpu<T>, m: &Rows<T>) -> Mat<f64> {
    let (rows, cols) = cpu.shape(m);
    let mut out = Mat::zeros(rows, cols);
    cpu.store(m, &mut |first, panel| {
        panel.iter().enumerate().for_each(|(k, v)| out[(first + k / cols, k % cols)] = *v);
        Ok(())
    })
    .unwrap();
    out
}

/// Unit-norm embeddings.
pub fn embeddings<T: Real>(cpu: &Cpu<T>, n: usize, r: usize, seed: u64) -> Rows<T> {
    let identity = Mat::<f64>::identity(r, r);
    cpu.encode(&load(cpu, &random(n, r, seed)), identity.as_ref()).unwrap().0
}

/// Ragged positives: some rows have none, one has many.
pub fn ragged(n_x: usize, n_y: usize, seed: u64) -> Positives {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (mut ptr, mut idx) = (vec![0i64], Vec::new());
    for i in 0..n_x {
        let count = if i == 1 { n_y / 2 + 1 } else { rng.random_range(0..3usize) };
        let mut row = rand::seq::index::sample(&mut rng, n_y, count.min(n_y)).into_vec();
        row.sort_unstable();
        idx.extend(row.into_iter().map(|j| j as i64));
        ptr.push(idx.len() as i64);
    }
    Positives::from_csr(&ptr, &idx, n_y).unwrap()
}

pub fn max_abs(m: &Mat<f64>) -> f64 {
    assert!(!m.has_nan());
    m.norm_max()
}

#[test]
fn s_is_minus_the_derivative_of_the_loss() {
    let cpu = Cpu::<f64>::new(1).unwrap();
    for kind in KINDS {
        for (tau, nu, eps_by) in
            [(1.0, 1.0, EpsBy::Positives), (0.3, 1.5, EpsBy::Positives), (0.5, 0.7, EpsBy::Diagonal)]
        {
            let weights = (0.6, 1.3);
            let loss = Loss { nu, eps_by, eps_pos: weights.0, eps_neg: weights.1, ..Loss::new(kind, tau) };
            for positives in [
                Positives::diagonal(7),
                ragged(6, 9, 3),
                Positives::from_groups(&[1, 2, 1, 3], &[1, 3, 3, 1, 2]).unwrap(),
            ] {
                let (n_x, n_y) = (positives.n_x(), positives.n_y());
                let s = random(n_x, n_y, 11) * faer::Scale(0.9);
                let value = |s: &Mat<f64>| {
                    let s = load(&cpu, s);
                    cpu.weights(Similarity::Dense(&s), &loss, &positives, NegativeSampling::All)
                        .unwrap()
                        .value()
                };
                let given = load(&cpu, &s);
                let w =
                    cpu.weights(Similarity::Dense(&given), &loss, &positives, NegativeSampling::All).unwrap();
                let got = cpu.dense(Similarity::Dense(&given), &w).unwrap();
                let h = 1e-5;
                for i in 0..n_x {
                    for j in 0..n_y {
                        let moved = |step: f64| {
                            let mut s = s.clone();
                            s[(i, j)] += step;
                            value(&s)
                        };
                        let want = -(moved(h) - moved(-h)) / (2.0 * h);
                        let error = (got[(i, j)] - want).abs();
                        assert!(error < 1e-7 * (1.0 + max_abs(&got)), "{kind:?} {tau} ({i}, {j}): {error:e}");
                    }
                }
            }
        }
    }
}

#[test]
fn embedding_gradients_are_derivatives_of_the_loss() {
    let cpu = Cpu::<f64>::new(1).unwrap();
    for kind in KINDS {
        let loss = Loss::new(kind, 0.5).with_nu(1.2);
        let positives = ragged(6, 8, 9);
        let (zx, zy) = (random(6, 4, 1) * faer::Scale(0.4), random(8, 4, 2) * faer::Scale(0.4));
        let value = |zx: &Mat<f64>, zy: &Mat<f64>| {
            let (zx, zy) = (load(&cpu, zx), load(&cpu, zy));
            cpu.weights(Similarity::Embeddings(&zx, &zy), &loss, &positives, NegativeSampling::All)
                .unwrap()
                .value()
        };
        let (lx, ly) = (load(&cpu, &zx), load(&cpu, &zy));
        let w =
            cpu.weights(Similarity::Embeddings(&lx, &ly), &loss, &positives, NegativeSampling::All).unwrap();
        let (gx, gy) = cpu.gradients(&lx, &ly, &w).unwrap();
        let (gx, gy) = (host(&cpu, &gx), host(&cpu, &gy));
        let h = 1e-6;
        let check = |got: f64, want: f64| {
            assert!((got - want).abs() < 1e-7 * (1.0 + want.abs()), "{kind:?}: {got} {want}")
        };
        for k in 0..4 {
            for i in 0..6 {
                let moved = |step: f64| {
                    let mut z = zx.clone();
                    z[(i, k)] += step;
                    value(&z, &zy)
                };
                check(gx[(i, k)], (moved(h) - moved(-h)) / (2.0 * h));
            }
            for j in 0..8 {
                let moved = |step: f64| {
                    let mut z = zy.clone();
                    z[(j, k)] += step;
                    value(&zx, &z)
                };
                check(gy[(j, k)], (moved(h) - moved(-h)) / (2.0 * h));
            }
        }
    }
}

/// Twice the unit roundoff of the products of tiles: that of the number type, or what products of halves leave out.
pub fn epsilon<T: Real>(cpu: &Cpu<T>) -> f64 {
    match cpu.arithmetic() {
        Arithmetic::Bf16Halves => 2f64.powi(-15),
        _ => T::EPSILON,
    }
}

/// The loss and the explicit matrix of a backend, against the triple sums of the definition.
pub fn backend_matches_definition<T: Real>(loss: &Loss, positives: &Positives, r: usize, seed: u64) {
    let cpu = Cpu::<T>::new(2).unwrap();
    let (zx, zy) =
        (embeddings(&cpu, positives.n_x(), r, seed), embeddings(&cpu, positives.n_y(), r, seed + 1));
    let s = host(&cpu, &zx) * host(&cpu, &zy).transpose();
    let want = definition(s.as_ref(), loss, positives).unwrap();
    let similarity = Similarity::Embeddings(&zx, &zy);
    let w = cpu.weights(similarity, loss, positives, NegativeSampling::All).unwrap();
    let got = cpu.dense(similarity, &w).unwrap();
    // A similarity is a sum of r products of unit rows: a few roundings, which the exponential turns into 1/tau as many.
    let epsilon = epsilon(&cpu);
    let limit = 20.0 * epsilon / loss.tau.min(1.0);
    let size = want.weights.norm_max();
    let error = max_abs(&(&got - &want.weights));
    assert!(error <= limit * size + epsilon * 1e-3, "S: {error:e} of {size:e} ({loss:?})");
    for (got, want) in [(w.loss_rows, want.loss_rows), (w.loss_cols, want.loss_cols)] {
        assert!((got - want).abs() <= limit * want.abs().max(1.0), "loss {got}, {want} ({loss:?})");
    }
}

/// Everything the operator does, against products with its explicit matrix.
pub fn operator_matches_matrix<T: Real>(
    loss: &Loss,
    positives: &Positives,
    r: usize,
    negatives: NegativeSampling,
) {
    let cpu = Cpu::<T>::new(2).unwrap();
    let (n_x, n_y) = (positives.n_x(), positives.n_y());
    let (zx, zy) = (embeddings(&cpu, n_x, r, 5), embeddings(&cpu, n_y, r, 6));
    let s = Similarity::Embeddings(&zx, &zy);
    let w = cpu.weights(s, loss, positives, negatives).unwrap();
    let dense = cpu.dense(s, &w).unwrap();
    let scale = max_abs(&dense) * (n_x.max(n_y) as f64).sqrt();
    let limit = 40.0 * epsilon(&cpu) / loss.tau.min(1.0) * scale;
    let near = |what: &str, got: Mat<f64>, want: Mat<f64>| {
        let error = max_abs(&(&got - &want));
        assert!(error <= limit * (1.0 + max_abs(&want)), "{what}: {error:e} above {limit:e} ({loss:?})");
    };
    let (v, u) = (load(&cpu, &random(n_y, 5, 7)), load(&cpu, &random(n_x, 3, 8)));
    near("S V", host(&cpu, &cpu.apply(s, &w, &v).unwrap()), &dense * host(&cpu, &v));
    near("S^T U", host(&cpu, &cpu.apply_transpose(s, &w, &u).unwrap()), dense.transpose() * host(&cpu, &u));
    for (x, y) in [(&u, &v), (&load(&cpu, &random(n_x, 6, 1)), &load(&cpu, &random(n_y, 2, 2)))] {
        let want = host(&cpu, x).transpose() * &dense * host(&cpu, y);
        near("X^T S Y", cpu.cross(s, &w, x, y).unwrap(), want);
    }
    let (gx, gy) = cpu.gradients(&zx, &zy, &w).unwrap();
    near("-S Z_y", host(&cpu, &gx), -(&dense * host(&cpu, &zy)));
    near("-S^T Z_x", host(&cpu, &gy), -(dense.transpose() * host(&cpu, &zx)));
}

#[test]
fn operator_across_tile_boundaries() {
    for kind in KINDS {
        let loss = Loss::new(kind, 0.2).with_nu(1.5);
        operator_matches_matrix::<f64>(&loss, &Positives::diagonal(1031), 9, NegativeSampling::All);
        operator_matches_matrix::<f32>(&loss, &ragged(513, 1100, 4), 7, NegativeSampling::All);
    }
}

#[test]
fn operator_at_small_temperatures() {
    // 0.01 in f32 takes the robust path: e^{(s - 1)/tau} spans e^{-200}.
    for tau in [0.07, 0.02, 0.01] {
        let loss = Loss::clip(tau).with_nu(1.5);
        operator_matches_matrix::<f32>(&loss, &Positives::diagonal(600), 4, NegativeSampling::All);
        operator_matches_matrix::<f64>(&loss, &ragged(300, 200, 2), 4, NegativeSampling::All);
    }
}

#[test]
fn sampled_operator_is_the_derivative_of_the_sampled_loss() {
    for kind in KINDS {
        let loss = Loss::new(kind, 0.3).with_nu(1.2);
        for positives in [Positives::diagonal(230), ragged(150, 260, 8)] {
            let negatives = NegativeSampling::Sampled { per_anchor: 40, seed: 3 };
            operator_matches_matrix::<f64>(&loss, &positives, 6, negatives);
            let cpu = Cpu::<f64>::new(2).unwrap();
            let (n_x, n_y) = (positives.n_x(), positives.n_y());
            let (zx, zy) = (host(&cpu, &embeddings(&cpu, n_x, 6, 5)), embeddings(&cpu, n_y, 6, 6));
            let weights = |zx: &Mat<f64>| {
                let zx = load(&cpu, zx);
                cpu.weights(Similarity::Embeddings(&zx, &zy), &loss, &positives, negatives).unwrap()
            };
            let w = weights(&zx);
            let gx = host(&cpu, &cpu.gradients(&load(&cpu, &zx), &zy, &w).unwrap().0);
            for (i, k) in [(0, 0), (77, 3), (149, 5)] {
                let moved = |step: f64| {
                    let mut z = zx.clone();
                    z[(i, k)] += step;
                    weights(&z).value()
                };
                let want = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((gx[(i, k)] - want).abs() < 1e-7 * (1.0 + want.abs()), "{kind:?} ({i}, {k})");
            }
        }
    }
}

#[test]
fn sampled_sums_average_to_the_exact_ones() {
    let cpu = Cpu::<f64>::new(2).unwrap();
    let n = 400;
    let (zx, zy) = (embeddings(&cpu, n, 8, 1), embeddings(&cpu, n, 8, 2));
    let s = Similarity::Embeddings(&zx, &zy);
    let (loss, positives) = (Loss::new(LossKind::Sigmoid, 0.5), Positives::diagonal(n));
    let exact = cpu.weights(s, &loss, &positives, NegativeSampling::All).unwrap().value();
    let seeds = 60;
    let mean = (0..seeds)
        .map(|seed| {
            let negatives = NegativeSampling::Sampled { per_anchor: 50, seed };
            cpu.weights(s, &loss, &positives, negatives).unwrap().value()
        })
        .sum::<f64>()
        / seeds as f64;
    assert!((mean - exact).abs() < 0.01 * exact.abs(), "{mean} {exact}");
}

#[test]
fn zero_similarities_equal_zero_embeddings() {
    let cpu = Cpu::<f64>::new(2).unwrap();
    for kind in KINDS {
        for eps_by in [EpsBy::Positives, EpsBy::Diagonal] {
            let loss = Loss { eps_by, eps_pos: 0.7, ..Loss::new(kind, 0.1).with_nu(1.5) };
            for positives in [Positives::diagonal(90), ragged(90, 130, 1)] {
                let (n_x, n_y) = (positives.n_x(), positives.n_y());
                let (zx, zy) = (load(&cpu, &Mat::zeros(n_x, 2)), load(&cpu, &Mat::zeros(n_y, 2)));
                let (x, y) = (load(&cpu, &random(n_x, 5, 1)), load(&cpu, &random(n_y, 7, 2)));
                let both = [Similarity::Zeros(n_x, n_y), Similarity::Embeddings(&zx, &zy)].map(|s| {
                    let w = cpu.weights(s, &loss, &positives, NegativeSampling::All).unwrap();
                    let (c, sv) =
                        (cpu.cross(s, &w, &x, &y).unwrap(), host(&cpu, &cpu.apply(s, &w, &y).unwrap()));
                    (w.value(), c, sv, cpu.dense(s, &w).unwrap())
                });
                let [a, b] = &both;
                assert!((a.0 - b.0).abs() < 1e-12 * a.0.abs().max(1.0), "{kind:?}");
                for (a, b) in [(&a.1, &b.1), (&a.2, &b.2), (&a.3, &b.3)] {
                    assert!(max_abs(&(a - b)) < 1e-12 * max_abs(a).max(1e-3), "{kind:?}");
                }
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let runs = [1, 2, 5].map(|threads| {
        let cpu = Cpu::<f32>::new(threads).unwrap();
        let (zx, zy) = (embeddings(&cpu, 2100, 16, 1), embeddings(&cpu, 2100, 16, 2));
        let (x, y) = (load(&cpu, &random(2100, 9, 3)), load(&cpu, &random(2100, 11, 4)));
        let s = Similarity::Embeddings(&zx, &zy);
        let positives = Positives::diagonal(2100);
        let w = cpu.weights(s, &Loss::clip(0.1), &positives, NegativeSampling::All).unwrap();
        let (gx, gy) = cpu.gradients(&zx, &zy, &w).unwrap();
        (w.value().to_bits(), cpu.cross(s, &w, &x, &y).unwrap(), host(&cpu, &gx), host(&cpu, &gy))
    });
    for run in &runs[1..] {
        assert_eq!(run.0, runs[0].0);
        assert!(run.1 == runs[0].1 && run.2 == runs[0].2 && run.3 == runs[0].3);
    }
}

#[test]
fn large_groups_cost_no_list_of_pairs() {
    // 2 groups of 1,000 imply 2 million pairs; the relation holds O(n) numbers and the result equals the CSR's.
    let n = 1000;
    let groups: Vec<i64> = (0..n).map(|i| i % 2).collect();
    let by_groups = Positives::from_groups(&groups, &groups).unwrap();
    let (mut ptr, mut idx) = (vec![0], Vec::new());
    for i in 0..n {
        idx.extend((0..n).filter(|j| j % 2 == i % 2));
        ptr.push(idx.len() as i64);
    }
    let by_csr = Positives::from_csr(&ptr, &idx, n as usize).unwrap();
    let cpu = Cpu::<f64>::new(2).unwrap();
    let (zx, zy) = (embeddings(&cpu, n as usize, 5, 1), embeddings(&cpu, n as usize, 5, 2));
    let s = Similarity::Embeddings(&zx, &zy);
    let of = |p: &Positives| -> (Weights, Mat<f64>) {
        let w = cpu.weights(s, &Loss::clip(0.2), p, NegativeSampling::All).unwrap();
        let c = cpu.cross(s, &w, &zx, &zy).unwrap();
        (w, c)
    };
    let (a, b) = (of(&by_groups), of(&by_csr));
    assert_eq!(a.0.value(), b.0.value());
    assert_eq!(a.1, b.1);
}

#[test]
fn bfloat16_products_are_as_good_as_their_rounding() {
    let rough = Cpu::<f32>::new(2).unwrap().with_bf16().unwrap();
    let exact = Cpu::<f64>::new(2).unwrap();
    let positives = Positives::diagonal(700);
    let loss = Loss::clip(0.07).with_nu(1.5);
    fn run<T: Real>(cpu: &Cpu<T>, loss: &Loss, positives: &Positives) -> (f64, Mat<f64>) {
        let n = positives.n_x();
        let (zx, zy) = (embeddings(cpu, n, 33, 1), embeddings(cpu, n, 33, 2));
        let (x, y) = (load(cpu, &random(n, 20, 3)), load(cpu, &random(n, 30, 4)));
        let s = Similarity::Embeddings(&zx, &zy);
        let w = cpu.weights(s, loss, positives, NegativeSampling::All).unwrap();
        (w.value(), cpu.cross(s, &w, &x, &y).unwrap())
    }
    let ((loss_bf16, c_bf16), (loss_f64, c_f64)) =
        (run(&rough, &loss, &positives), run(&exact, &loss, &positives));
    // A rounding of 2^-9 in each factor, over tau; no error of that size where float32 is faster and is used.
    assert!((loss_bf16 - loss_f64).abs() < 2e-3 * loss_f64.abs(), "{loss_bf16} {loss_f64}");
    let error = (&c_bf16 - &c_f64).norm_l2() / c_f64.norm_l2();
    let least = if rough.arithmetic() == Arithmetic::Bf16 { 1e-5 } else { 0.0 };
    assert!(error < 1e-2 && error >= least, "{error}");
    assert!(Cpu::<f64>::new(1).unwrap().with_bf16().is_err());
}

#[test]
fn cancelling_stops_between_panels() {
    let control = Arc::new(Control::default());
    let cpu = Cpu::<f32>::with(1, None, control.clone()).unwrap();
    let (zx, zy) = (embeddings(&cpu, 4000, 8, 1), embeddings(&cpu, 4000, 8, 2));
    let panels = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let seen = panels.clone();
    control.set_hook(Some(Box::new(move |progress| {
        seen.store(progress.done, std::sync::atomic::Ordering::Relaxed);
        if progress.done == 3 {
            std::ops::ControlFlow::Break(())
        } else {
            std::ops::ControlFlow::Continue(())
        }
    })));
    let s = Similarity::Embeddings(&zx, &zy);
    let result = cpu.weights(s, &Loss::clip(0.1), &Positives::diagonal(4000), NegativeSampling::All);
    assert!(matches!(result, Err(unicon::Error::Cancelled)));
    assert_eq!(panels.load(std::sync::atomic::Ordering::Relaxed), 3);
    control.reset();
    control.set_hook(None);
    assert!(cpu.weights(s, &Loss::clip(0.1), &Positives::diagonal(4000), NegativeSampling::All).is_ok());
}

#[test]
fn memory_limit_is_kept() {
    let cpu = Cpu::<f32>::with(1, Some(1 << 20), Arc::default()).unwrap();
    let small = load(&cpu, &Mat::zeros(1000, 100));
    assert_eq!(cpu.memory(), (400_000, 400_000));
    let source = HostMatrix::from_f64("big", 1000, 300, vec![0.0; 300_000]).unwrap();
    let error = cpu.load(&source).unwrap_err().to_string();
    assert!(error.contains("1600000") && error.contains("1048576"), "{error}");
    drop(small);
    assert_eq!(cpu.memory().0, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_relation_and_temperature(
        n_x in 1usize..40, n_y in 2usize..60, r in 1usize..9, kind in 0usize..4, tau in 0.01f64..1.0,
        nu in 0.5f64..2.5, seed in 0u64..1000, diagonal: bool,
    ) {
        let positives = if diagonal { Positives::diagonal(n_x) } else { ragged(n_x.max(2), n_y, seed) };
        let loss = Loss::new(KINDS[kind], tau).with_nu(nu);
        // A similarity on either side of the hinge's kink gives another S: float64 alone agrees to the last bits.
        backend_matches_definition::<f64>(&loss, &positives, r, seed);
        if loss.kind != LossKind::TripletHard {
            backend_matches_definition::<f32>(&loss, &positives, r, seed);
        }
        operator_matches_matrix::<f64>(&loss, &positives, r, NegativeSampling::All);
        operator_matches_matrix::<f32>(&loss, &positives, r, NegativeSampling::All);
    }
}
