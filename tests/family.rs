//! Losses of one's own: any psi and phi of the unified loss. As built-in members written as functions they give the built-in
//! numbers; others agree with the definition, with central differences of the loss and with their own explicit matrix; every solver
//! takes them; and what a function does wrong is said by name.

use crate::operator::{
    KINDS, backend_matches_definition, embeddings, host, load, max_abs, operator_matches_matrix, ragged,
    random,
};
use faer::Mat;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Similarity};
use unicon::data::LatentFactor;
use unicon::fit::{
    Batches, BestOptions, DampingOptions, Data, Dim, FitOptions, Init, KernelOptions, Landmarks,
    RefineOptions, fit, fit_best,
};
use unicon::io::HostMatrix;
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::{Answer, BLOCK, Custom, EpsBy, Family, Loss, LossKind};
use unicon::model::Model;
use unicon::positives::Positives;
use unicon::real::Real;
use unicon::similarity::NegativeSampling;
use unicon::similarity::definition::definition;
use unicon::{Error, Result};

/// Value and derivative of one argument.
type Point = fn(f64, f64) -> (f64, f64);

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A loss of a psi and a phi of one argument and `tau`.
fn own(name: &str, tau: f64, psi: Point, phi: Point) -> Loss {
    let on_arrays = move |f: Point| {
        move |at: &[f64], value: &mut [f64], derivative: &mut [f64]| {
            assert!(!at.is_empty() && at.len() <= BLOCK && !at.iter().any(|t| t.is_nan()));
            for (k, at) in at.iter().enumerate() {
                (value[k], derivative[k]) = f(*at, tau);
            }
        }
    };
    Loss { tau, ..Loss::custom(Custom::of_functions(name, on_arrays(psi), on_arrays(phi))) }
}

const IDENTITY: Point = |u, _| (u, 1.0);

/// A built-in member as functions.
fn written_out(loss: &Loss) -> Loss {
    let (tau, margin) = (loss.tau, 0.5);
    assert_eq!(margin, loss.margin);
    let custom = match loss.kind {
        LossKind::Clip => own(
            "clip",
            tau,
            |t, tau| ((t / tau).exp(), (t / tau).exp() / tau),
            |u, tau| (tau * u.ln(), tau / u),
        ),
        LossKind::Sigmoid => {
            own("sigmoid", tau, |t, tau| (softplus(t / tau), logistic(t / tau) / tau), IDENTITY)
        }
        LossKind::TripletHard => {
            own("hinge", tau, |t, _| ((t + 0.5).max(0.0), f64::from(t + 0.5 > 0.0)), IDENTITY)
        }
        LossKind::TripletSmooth => own(
            "smooth",
            tau,
            |t, tau| (-tau * tau * softplus((0.5 - t) / tau), tau * logistic((0.5 - t) / tau)),
            IDENTITY,
        ),
        LossKind::Custom => unreachable!(),
    };
    Loss { nu: loss.nu, eps_pos: loss.eps_pos, eps_neg: loss.eps_neg, ..custom }
}

/// Members that are not built in.
fn others(tau: f64) -> Vec<Loss> {
    vec![
        own(
            "log of softplus",
            tau,
            |t, tau| (softplus(t / tau), logistic(t / tau) / tau),
            |u, _| (u.ln_1p(), 1.0 / (1.0 + u)),
        ),
        own("squared hinge", tau, |t, _| ((t + 0.3).max(0.0).powi(2), 2.0 * (t + 0.3).max(0.0)), IDENTITY),
        own(
            "root of exp",
            tau,
            |t, tau| ((t / tau).exp(), (t / tau).exp() / tau),
            |u, _| (u.sqrt(), 0.5 / u.sqrt()),
        ),
        own("tanh, squared", tau, |t, _| (1.0 + t.tanh(), 1.0 - t.tanh().powi(2)), |u, _| (u * u, 2.0 * u)),
    ]
}

/// What the operator gives for a loss: the loss of rows and of columns, S, X^T S Y, S V, S^T U and both gradients.
fn everything<T: Real>(
    loss: &Loss,
    positives: &Positives,
    r: usize,
    seed: u64,
    negatives: NegativeSampling,
) -> Vec<Mat<f64>> {
    let cpu = Cpu::<T>::new(2).unwrap();
    let (n_x, n_y) = (positives.n_x(), positives.n_y());
    let (zx, zy) = (embeddings(&cpu, n_x, r, seed), embeddings(&cpu, n_y, r, seed + 1));
    let (u, v) = (load(&cpu, &random(n_x, 3, seed + 2)), load(&cpu, &random(n_y, 4, seed + 3)));
    let s = Similarity::Embeddings(&zx, &zy);
    let w = cpu.weights(s, loss, positives, negatives).unwrap();
    let (gx, gy) = cpu.gradients(&zx, &zy, &w).unwrap();
    vec![
        Mat::from_fn(1, 2, |_, k| [w.loss_rows, w.loss_cols][k]),
        cpu.dense(s, &w).unwrap(),
        cpu.cross(s, &w, &u, &v).unwrap(),
        host(&cpu, &cpu.apply(s, &w, &v).unwrap()),
        host(&cpu, &cpu.apply_transpose(s, &w, &u).unwrap()),
        host(&cpu, &gx),
        host(&cpu, &gy),
    ]
}

/// The built-in member and the same as functions, within `limit` of the largest entry of each result.
fn same_numbers<T: Real>(
    loss: &Loss,
    positives: &Positives,
    seed: u64,
    negatives: NegativeSampling,
    limit: f64,
) {
    let want = everything::<T>(loss, positives, 5, seed, negatives);
    let got = everything::<T>(&written_out(loss), positives, 5, seed, negatives);
    for (k, (got, want)) in got.iter().zip(&want).enumerate() {
        let (error, size) = (max_abs(&(got - want)), max_abs(want));
        assert!(
            error <= limit * size.max(1e-3),
            "result {k}: {error:e} of {size:e} ({loss:?}, {negatives:?})"
        );
    }
}

#[test]
fn built_in_members_written_out_give_the_built_in_numbers() {
    for kind in KINDS {
        for (tau, nu) in [(1.0, 1.0), (0.07, 1.5), (0.01, 2.0)] {
            let loss = Loss { eps_pos: 0.8, eps_neg: 1.2, ..Loss::new(kind, tau).with_nu(nu) };
            for positives in [Positives::diagonal(70), ragged(60, 90, 3)] {
                // A rounding of s is 1/tau roundings of an exponential: 100 of 1e-16 at most, and sums of some.
                same_numbers::<f64>(&loss, &positives, 1, NegativeSampling::All, 1e-12);
                let sampled = NegativeSampling::Sampled { per_anchor: 16, seed: 2 };
                same_numbers::<f64>(&loss, &positives, 1, sampled, 1e-12);
            }
        }
        // Several tiles and strips, and more pairs than fill a block of arguments.
        let loss = Loss::new(kind, 0.1).with_nu(1.2);
        same_numbers::<f64>(&loss, &Positives::diagonal(1100), 4, NegativeSampling::All, 1e-12);
        same_numbers::<f64>(&loss, &ragged(600, 700, 5), 4, NegativeSampling::All, 1e-12);
        // The members in float32 round every weight; the hinge jumps where a similarity rounds across its kink.
        if kind != LossKind::TripletHard {
            same_numbers::<f32>(&loss, &Positives::diagonal(600), 4, NegativeSampling::All, 2e-4);
        }
    }
}

#[test]
fn s_is_minus_the_derivative_of_the_loss() {
    let cpu = Cpu::<f64>::new(1).unwrap();
    for loss in
        others(0.4).into_iter().flat_map(|l| [l.clone(), Loss { eps_pos: 0.6, eps_neg: 1.3, nu: 1.4, ..l }])
    {
        for positives in [Positives::diagonal(7), ragged(6, 9, 3)] {
            let (n_x, n_y) = (positives.n_x(), positives.n_y());
            let s = random(n_x, n_y, 11) * faer::Scale(0.9);
            let weights = |s: &Mat<f64>| {
                let s = load(&cpu, s);
                let w = cpu.weights(Similarity::Dense(&s), &loss, &positives, NegativeSampling::All).unwrap();
                let dense = cpu.dense(Similarity::Dense(&s), &w).unwrap();
                (w.value(), dense)
            };
            let got = weights(&s).1;
            let defined = definition(s.as_ref(), &loss, &positives).unwrap().weights;
            assert!(max_abs(&(&got - &defined)) < 1e-13 * max_abs(&defined), "{loss:?}");
            for i in 0..n_x {
                for j in 0..n_y {
                    let moved = |step: f64| {
                        let mut s = s.clone();
                        s[(i, j)] += step;
                        weights(&s).0
                    };
                    let h = 1e-5;
                    let want = -(moved(h) - moved(-h)) / (2.0 * h);
                    let error = (got[(i, j)] - want).abs();
                    assert!(error < 1e-7 * (1.0 + max_abs(&got)), "{loss:?} ({i}, {j}): {error:e}");
                }
            }
        }
    }
}

#[test]
fn the_operator_is_its_own_matrix() {
    let sampled = NegativeSampling::Sampled { per_anchor: 40, seed: 3 };
    for loss in others(0.2) {
        let loss = loss.with_nu(1.5);
        operator_matches_matrix::<f64>(&loss, &Positives::diagonal(1031), 9, NegativeSampling::All);
        operator_matches_matrix::<f32>(&loss, &ragged(513, 600, 4), 7, NegativeSampling::All);
        operator_matches_matrix::<f64>(&loss, &ragged(150, 260, 8), 6, sampled);
    }
}

#[test]
fn sampled_gradients_are_those_of_the_sampled_loss() {
    let cpu = Cpu::<f64>::new(2).unwrap();
    let negatives = NegativeSampling::Sampled { per_anchor: 40, seed: 3 };
    for loss in others(0.5) {
        let positives = ragged(150, 160, 8);
        let (zx, zy) = (host(&cpu, &embeddings(&cpu, 150, 6, 5)), embeddings(&cpu, 160, 6, 6));
        let weights = |zx: &Mat<f64>| {
            let zx = load(&cpu, zx);
            cpu.weights(Similarity::Embeddings(&zx, &zy), &loss, &positives, negatives).unwrap()
        };
        let gx = host(&cpu, &cpu.gradients(&load(&cpu, &zx), &zy, &weights(&zx)).unwrap().0);
        let size = max_abs(&gx);
        for (i, k) in [(0, 0), (77, 3), (149, 5)] {
            let moved = |step: f64| {
                let mut z = zx.clone();
                z[(i, k)] += step;
                weights(&z).value()
            };
            let want = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!(
                (gx[(i, k)] - want).abs() < 1e-6 * (1.0 + size),
                "{loss:?} ({i}, {k}): {} {want}",
                gx[(i, k)]
            );
        }
    }
}

#[test]
fn zero_similarities_equal_zero_embeddings() {
    let cpu = Cpu::<f64>::new(2).unwrap();
    for loss in others(0.3) {
        let loss = Loss { eps_pos: 0.7, ..loss.with_nu(1.5) };
        for positives in [Positives::diagonal(90), ragged(90, 130, 1)] {
            let (n_x, n_y) = (positives.n_x(), positives.n_y());
            let (zx, zy) = (load(&cpu, &Mat::zeros(n_x, 2)), load(&cpu, &Mat::zeros(n_y, 2)));
            let (x, y) = (load(&cpu, &random(n_x, 5, 1)), load(&cpu, &random(n_y, 7, 2)));
            let [a, b] = [Similarity::Zeros(n_x, n_y), Similarity::Embeddings(&zx, &zy)].map(|s| {
                let w = cpu.weights(s, &loss, &positives, NegativeSampling::All).unwrap();
                (w.value(), cpu.cross(s, &w, &x, &y).unwrap(), cpu.dense(s, &w).unwrap())
            });
            assert!((a.0 - b.0).abs() < 1e-12 * a.0.abs().max(1.0), "{loss:?}");
            for (a, b) in [(&a.1, &b.1), (&a.2, &b.2)] {
                assert!(max_abs(&(a - b)) < 1e-12 * max_abs(a).max(1e-3), "{loss:?}");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let loss = &others(0.2)[0];
    let runs = [1, 3].map(|threads| {
        let cpu = Cpu::<f32>::new(threads).unwrap();
        let (zx, zy) = (embeddings(&cpu, 1300, 8, 1), embeddings(&cpu, 1300, 8, 2));
        let w = cpu
            .weights(
                Similarity::Embeddings(&zx, &zy),
                loss,
                &Positives::diagonal(1300),
                NegativeSampling::All,
            )
            .unwrap();
        let (gx, gy) = cpu.gradients(&zx, &zy, &w).unwrap();
        (w.value().to_bits(), host(&cpu, &gx), host(&cpu, &gy))
    });
    assert!(runs[0] == runs[1]);
}

/// A root has no slope at 0: where nothing is inside phi it is not asked.
#[test]
fn phi_of_nothing_is_not_asked() {
    let loss = Loss { eps_pos: 0.0, ..others(0.5).remove(2) };
    let cpu = Cpu::<f64>::new(1).unwrap();
    // Row 0 matches all columns and has no negatives; the others have some.
    let positives = Positives::from_csr(&[0, 3, 4, 5], &[0, 1, 2, 1, 2], 3).unwrap();
    let s = random(3, 3, 4);
    let given = load(&cpu, &s);
    let w = cpu.weights(Similarity::Dense(&given), &loss, &positives, NegativeSampling::All).unwrap();
    let want = definition(s.as_ref(), &loss, &positives).unwrap();
    assert!((w.value() - want.loss_rows - want.loss_cols).abs() < 1e-14);
    let got = cpu.dense(Similarity::Dense(&given), &w).unwrap();
    assert!(max_abs(&(&got - &want.weights)) < 1e-14 && max_abs(&got) > 0.0);
}

/// Calls are per block: there are not many more of them than blocks.
#[test]
fn functions_are_called_per_block() {
    struct Counted(Arc<[AtomicUsize; 2]>);
    impl Family for Counted {
        fn psi(&self, t: &[f64], value: &mut [f64], derivative: &mut [f64]) -> Answer {
            self.0[0].fetch_add(1, Ordering::Relaxed);
            self.0[1].fetch_add(t.len(), Ordering::Relaxed);
            value.copy_from_slice(t);
            derivative.fill(1.0);
            Ok(())
        }
        fn phi(&self, u: &[f64], value: &mut [f64], derivative: &mut [f64]) -> Answer {
            value.copy_from_slice(u);
            derivative.fill(1.0);
            Ok(())
        }
    }
    let counts = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let loss = Loss::custom(Custom::new("identity", Counted(counts.clone())));
    let n = 2048;
    let cpu = Cpu::<f32>::new(2).unwrap();
    let (zx, zy) = (embeddings(&cpu, n, 8, 1), embeddings(&cpu, n, 8, 2));
    let w = cpu
        .weights(Similarity::Embeddings(&zx, &zy), &loss, &Positives::diagonal(n), NegativeSampling::All)
        .unwrap();
    cpu.gradients(&zx, &zy, &w).unwrap();
    let [calls, arguments] = [0, 1].map(|k| counts[k].load(Ordering::Relaxed));
    // Twice an entry in each pass, and the pairs themselves.
    assert_eq!(arguments, 4 * n * (n - 1) + 2 * n);
    assert!(calls <= arguments / (BLOCK / 2) + 4, "{calls} calls for {arguments} arguments");
}

fn text(result: Result<impl Sized>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn what_a_function_does_wrong_is_said() {
    let cpu = Cpu::<f32>::new(2).unwrap();
    let (zx, zy) = (embeddings(&cpu, 300, 8, 1), embeddings(&cpu, 300, 8, 2));
    let weights = |loss: &Loss| {
        cpu.weights(Similarity::Embeddings(&zx, &zy), loss, &Positives::diagonal(300), NegativeSampling::All)
    };
    let log = own("log", 1.0, |t, _| (t.ln(), 1.0 / t), IDENTITY);
    let found = text(weights(&log));
    assert!(found.contains("psi of the loss \"log\" is NaN at t = -"), "{found}");
    let steep = own("steep", 1.0, |t, _| ((1e4 * t).exp(), 1e4 * (1e4 * t).exp()), IDENTITY);
    let found = text(weights(&steep));
    assert!(found.contains("psi of the loss \"steep\" is inf at t = "), "{found}");
    let phi = own("phi", 1.0, |t, _| (t - 9.0, 1.0), |u, _| (u.sqrt(), 0.5 / u.sqrt()));
    let found = text(weights(&phi));
    assert!(found.contains("phi of the loss \"phi\" is NaN at u = -"), "{found}");
    // Sums and weights beyond float64.
    let large = own("large", 1.0, |_, _| (1e308, 1e308), IDENTITY);
    let found = text(weights(&large));
    assert!(found.contains("phi of the loss \"large\" is inf at u = inf"), "{found}");
    // The second pass asks again, and may be refused again.
    struct Tired(AtomicUsize);
    impl Family for Tired {
        fn psi(&self, t: &[f64], value: &mut [f64], derivative: &mut [f64]) -> Answer {
            if self.0.fetch_add(t.len(), Ordering::Relaxed) > 2 * 300 * 300 + 600 {
                return Err("tired".into());
            }
            value.copy_from_slice(t);
            derivative.fill(1.0);
            Ok(())
        }
        fn phi(&self, u: &[f64], value: &mut [f64], derivative: &mut [f64]) -> Answer {
            value.copy_from_slice(u);
            derivative.fill(1.0);
            Ok(())
        }
    }
    let tired = Loss::custom(Custom::new("tired", Tired(AtomicUsize::new(0))));
    let w = weights(&tired).unwrap();
    let found = text((0..2).map(|_| cpu.gradients(&zx, &zy, &w)).collect::<Result<Vec<_>>>());
    assert!(found.contains("psi of the loss \"tired\" failed: tired"), "{found}");
    // What has no meaning.
    let diagonal = Loss { eps_by: EpsBy::Diagonal, ..others(1.0).remove(0) };
    assert!(text(diagonal.validate()).starts_with("eps_by: "));
    assert!(text(Loss { family: None, ..others(1.0).remove(0) }.validate()).starts_with("loss: "));
    assert!(text(Loss { kind: LossKind::Clip, ..others(1.0).remove(0) }.validate()).starts_with("loss: "));
    let auto = BestOptions { tau_auto: true, loss: others(1.0).remove(0), ..BestOptions::new(Dim::Fixed(2)) };
    let (x, y) = sample();
    let positives = Positives::diagonal(x.rows());
    let data = Data { x: &x, y: &y, positives: &positives };
    assert!(text(fit_best(&cpu, data, None, &auto)).starts_with("tau: "));
}

use unicon::io::RowSource;

/// Paired features of two views.
fn sample() -> (HostMatrix, HostMatrix) {
    let train = LatentFactor { sizes: [240, 20, 20], ..LatentFactor::linear() }.draw(3).unwrap().train;
    (train.x, train.y)
}

/// Similarities of a model between rows of both sides.
fn similarities(model: &Model, x: &HostMatrix, y: &HostMatrix) -> Mat<f64> {
    let cpu = Cpu::<f64>::new(2).unwrap();
    let of = |side, source: &HostMatrix| host(&cpu, &model.encode(&cpu, side, source).unwrap());
    of(unicon::model::Side::X, x) * of(unicon::model::Side::Y, y).transpose()
}

/// Every solver finds with functions what it finds with the built-in member, and takes those that are not built in.
#[test]
fn every_solver_takes_them() {
    let (x, y) = sample();
    let cpu = Cpu::<f64>::new(2).unwrap();
    let positives = Positives::diagonal(x.rows());
    let data = Data { x: &x, y: &y, positives: &positives };
    let plain = |loss: &Loss| FitOptions { loss: loss.clone(), n_iters: 2, ..FitOptions::new(5) };
    let kernel = |landmarks| Some(KernelOptions::new(Kernel::new(KernelKind::Angular), landmarks));
    let batches = Some(Batches::new(60));
    let ways = |loss: &Loss| {
        vec![
            plain(loss),
            FitOptions { whiten: Some(0.1), ..plain(loss) },
            FitOptions { batches, ..plain(loss) },
            FitOptions { kernel: kernel(Landmarks::Exact), ..plain(loss) },
            FitOptions { kernel: kernel(Landmarks::Count(50)), ..plain(loss) },
            FitOptions { kernel: kernel(Landmarks::Exact), batches, ..plain(loss) },
            FitOptions { damping: Some(DampingOptions::default()), n_iters: 3, ..plain(loss) },
            FitOptions {
                refine: Some(RefineOptions { max_steps: 3, ..RefineOptions::default() }),
                whiten: Some(0.1),
                ..plain(loss)
            },
        ]
    };
    for built_in in [Loss::clip(0.5).with_nu(1.5), Loss::new(LossKind::Sigmoid, 0.7)] {
        let written = written_out(&built_in);
        for (k, (a, b)) in ways(&built_in).iter().zip(&ways(&written)).enumerate() {
            let (a, b) = (fit(&cpu, data, None, a).unwrap(), fit(&cpu, data, None, b).unwrap());
            let (a_loss, b_loss) = (a.1.final_loss.unwrap_or(0.0), b.1.final_loss.unwrap_or(0.0));
            assert!((a_loss - b_loss).abs() < 1e-9 * a_loss.abs().max(1.0), "way {k}: {a_loss} {b_loss}");
            let error = max_abs(&(similarities(&a.0, &x, &y) - similarities(&b.0, &x, &y)));
            // Updates and steps carry roundings on; a line search may end another rounding apart.
            assert!(error < 1e-6, "way {k} {built_in:?}: {error:e}");
        }
    }
    for loss in others(0.5) {
        for o in ways(&loss) {
            let (model, info) = fit(&cpu, data, None, &o).unwrap();
            assert!(info.loss.iter().all(|l| l.is_finite()), "{loss:?}");
            assert!(!max_abs(&similarities(&model, &x, &y)).is_nan());
        }
        let best = BestOptions { loss: loss.clone(), final_loss: true, ..BestOptions::new(Dim::Fixed(5)) };
        let (_, info) = fit_best(&cpu, data, None, &best).unwrap();
        assert!(info.final_loss.unwrap().is_finite());
    }
}

/// A refinement lowers the user's own loss.
#[test]
fn descent_lowers_a_loss_of_ones_own() {
    let (x, y) = sample();
    let cpu = Cpu::<f64>::new(2).unwrap();
    let positives = Positives::diagonal(x.rows());
    let data = Data { x: &x, y: &y, positives: &positives };
    for loss in others(0.2).into_iter().take(2) {
        let refine = Some(RefineOptions { max_steps: 8, ..RefineOptions::default() });
        let start = FitOptions { loss, n_iters: 1, whiten: Some(0.1), ..FitOptions::new(5) };
        let before = fit(&cpu, data, None, &start).unwrap().1.final_loss.unwrap();
        let after = fit(&cpu, data, None, &FitOptions { refine, ..start }).unwrap().1.final_loss.unwrap();
        assert!(after < before - 1e-3 * before.abs(), "{before} {after}");
    }
}

#[test]
fn files_hold_the_name_and_nothing_else() {
    let (x, y) = sample();
    let cpu = Cpu::<f64>::new(1).unwrap();
    let positives = Positives::diagonal(x.rows());
    let data = Data { x: &x, y: &y, positives: &positives };
    let loss = others(0.5).remove(0).with_nu(1.2);
    let (model, _) = fit(&cpu, data, None, &FitOptions { loss, ..FitOptions::new(4) }).unwrap();
    assert!(!model.loss.family.as_ref().unwrap().has_functions());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    model.save(&path).unwrap();
    let back = Model::load(&path).unwrap();
    assert_eq!(back.loss, model.loss);
    assert_eq!((back.loss.kind, back.loss.nu), (LossKind::Custom, 1.2));
    assert_eq!(back.loss.family.as_ref().unwrap().name(), "log of softplus");
    assert!(max_abs(&(similarities(&back, &x, &y) - similarities(&model, &x, &y))) == 0.0);
    // It encodes, but the loss cannot be computed without its functions.
    let error = text(fit(&cpu, data, None, &FitOptions { loss: back.loss, ..FitOptions::new(4) }));
    assert!(error.starts_with("loss: expected psi and phi") && error.contains("log of softplus"), "{error}");
    // Built-in losses are recorded as before.
    let plain = serde_json::to_value(Loss::clip(0.1)).unwrap();
    assert!(plain.get("family").is_none());
    assert!(matches!(Loss::clip(0.1).validate(), Ok(())));
    assert!(matches!(
        definition(Mat::zeros(2, 2).as_ref(), &model.loss, &Positives::diagonal(2)),
        Err(Error::InvalidArgument { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_relation_and_temperature(
        n_x in 1usize..40, n_y in 2usize..60, r in 1usize..9, which in 0usize..4, tau in 0.01f64..1.0,
        nu in 0.5f64..2.5, seed in 0u64..1000, diagonal: bool,
    ) {
        let positives = if diagonal { Positives::diagonal(n_x) } else { ragged(n_x.max(2), n_y, seed) };
        let built_in = Loss::new(KINDS[which], tau).with_nu(nu);
        same_numbers::<f64>(&built_in, &positives, seed, NegativeSampling::All, 1e-12);
        let loss = others(tau).remove(which).with_nu(nu);
        backend_matches_definition::<f64>(&loss, &positives, r, seed);
        operator_matches_matrix::<f64>(&loss, &positives, r, NegativeSampling::All);
        // Weights of the root of an exponential leave the range of float32 at small temperatures.
        if tau > 0.1 {
            backend_matches_definition::<f32>(&loss, &positives, r, seed);
            operator_matches_matrix::<f32>(&loss, &positives, r, NegativeSampling::All);
        }
    }
}

/// Similarities that no cosines are: the loss, S and products, against the definition.
#[test]
fn given_similarities_may_be_any_numbers() {
    fn check<T: Real>(loss: &Loss, positives: &Positives, spread: f64, limit: f64) {
        let cpu = Cpu::<T>::new(2).unwrap();
        let (n_x, n_y) = (positives.n_x(), positives.n_y());
        let given = load(&cpu, &(random(n_x, n_y, 5) * faer::Scale(spread)));
        let s = Similarity::Dense(&given);
        let want = definition(host(&cpu, &given).as_ref(), loss, positives).unwrap();
        let w = cpu.weights(s, loss, positives, NegativeSampling::All).unwrap();
        let (value, defined) = (w.value(), want.loss_rows + want.loss_cols);
        assert!((value - defined).abs() <= limit * defined.abs(), "{value} {defined} ({loss:?}, {spread})");
        let dense = cpu.dense(s, &w).unwrap();
        let error = max_abs(&(&dense - &want.weights));
        assert!(error <= limit * max_abs(&want.weights), "{error:e} ({loss:?}, {spread})");
        let v = load(&cpu, &random(n_y, 3, 6));
        let product = host(&cpu, &cpu.apply(s, &w, &v).unwrap());
        let want = &want.weights * host(&cpu, &v);
        let error = max_abs(&(&product - &want));
        assert!(error <= 10.0 * limit * max_abs(&want), "S V: {error:e} ({loss:?}, {spread})");
    }
    for positives in [Positives::diagonal(90), ragged(60, 90, 3)] {
        for spread in [1.0, 3.0, 8.0] {
            for (kind, tau) in [
                (LossKind::Clip, 1.0),
                (LossKind::Clip, 0.07),
                // Sums beyond e^40 of float32 and e^300 of float64, with the constant shift.
                (LossKind::Clip, 0.0235),
                (LossKind::Sigmoid, 0.3),
                (LossKind::TripletSmooth, 0.3),
            ] {
                let loss = Loss::new(kind, tau);
                // Exponents of s/tau, up to 680, carry that many roundings.
                check::<f64>(&loss, &positives, spread, 1e-12);
                check::<f32>(&loss, &positives, spread, 2e-4);
            }
        }
    }
}

/// A start of normal similarities is one of the given matrix that the seed draws, on both solvers and in batches.
#[test]
fn normal_similarities_start_a_fit() {
    let (x, y) = sample();
    let cpu = Cpu::<f64>::new(2).unwrap();
    let positives = Positives::diagonal(x.rows());
    let data = Data { x: &x, y: &y, positives: &positives };
    let kernel = Some(KernelOptions::new(Kernel::new(KernelKind::Angular), Landmarks::Exact));
    let batches = Some(Batches::new(60));
    for kernel in [None, kernel] {
        let plain = FitOptions { n_iters: 1, loss: Loss::clip(0.3), kernel, ..FitOptions::new(4) };
        let of = |o: &FitOptions, seed: u64| {
            let o = FitOptions { init: Init::Gaussian, seed, ..o.clone() };
            fit(&cpu, data, None, &o).unwrap()
        };
        let [a, b, other] = [of(&plain, 3), of(&plain, 3), of(&plain, 4)]
            .map(|(model, info)| (similarities(&model, &x, &y), info));
        assert!(a.0 == b.0 && a.0 != other.0);
        // The loss that the update starts from is that of independent standard normal similarities: each direction's mean of
        // tau log of about n e^{1/(2 tau^2)}, but for the few largest that carry such a sum.
        let loss = a.1.loss[0];
        assert!(loss > 0.3 * (240f64).ln() && loss < 4.0, "{loss}");
        let in_batches = FitOptions { batches, ..plain.clone() };
        let (model, info) = of(&in_batches, 3);
        assert!(info.loss[0].is_finite() && !max_abs(&similarities(&model, &x, &y)).is_nan());
        // Each batch has its own similarities: no two losses of batches are equal, nor are those of other seeds.
        assert_ne!(info.loss[0], of(&in_batches, 4).1.loss[0]);
    }
    let too_large = Init::Similarity(Mat::from_fn(240, 240, |_, _| 1e31));
    let error = text(fit(&cpu, data, None, &FitOptions { init: too_large, ..FitOptions::new(4) }));
    assert!(error.starts_with("init similarity: expected finite numbers"), "{error}");
}
