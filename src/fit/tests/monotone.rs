//! The loss never rises, from good starts and from hostile ones.

use super::{Sample, many, oracle, pairs};
use crate::backend::cpu::Cpu;
use crate::fit::{
    BestOptions, DampingOptions, Data, Dim, FitInfo, FitOptions, Init, KernelOptions, Landmarks,
    RefineOptions, fit, fit_best,
};
use crate::kernel::{Kernel, KernelKind};
use crate::loss::{Loss, LossKind};
use crate::real::Real;
use crate::similarity::NegativeSampling;
use faer::Mat;

fn data(s: &Sample) -> Data<'_> {
    Data { x: &s.x, y: &s.y, positives: &s.positives }
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

fn run<T: Real>(s: &Sample, options: &FitOptions) -> FitInfo {
    fit(&Cpu::<T>::new(1).unwrap(), data(s), None, options).unwrap().1
}

fn falls(info: &FitInfo) {
    let losses: Vec<f64> = info.trace.iter().map(|t| t.loss).collect();
    assert!(losses.iter().all(|l| l.is_finite()), "{losses:?}");
    assert!(losses.windows(2).all(|w| w[1] <= w[0]), "{losses:?}");
}

#[test]
fn damping_and_refinement_descend_for_every_member() {
    for s in [pairs(150, 9, 8, 5, 0.3, 1), many(80, 9, 8, 5, 0.3, 2)] {
        for loss in losses() {
            let base = FitOptions { loss: loss.clone(), whiten: Some(0.1), ..FitOptions::new(4) };
            let damped = FitOptions { damping: Some(DampingOptions::default()), n_iters: 8, ..base.clone() };
            let info = run::<f64>(&s, &damped);
            falls(&info);
            // C ignores how norms change, so it need not point downhill; for plain clip it does.
            assert!(info.trace.len() > 2 || loss != Loss::clip(0.07), "{loss:?}");
            let refined = FitOptions { refine: Some(RefineOptions::default()), n_iters: 1, ..base };
            for info in [run::<f64>(&s, &refined), run::<f32>(&s, &refined)] {
                falls(&info);
                let (first, last) = (info.trace[0].loss, info.trace[info.trace.len() - 1].loss);
                assert!(last < first - 1e-3 * first.abs(), "{loss:?}: {first} to {last}");
                // The loss reported last is the returned encoders'.
                assert!((info.final_loss.unwrap() - last).abs() < 1e-4 * last.abs().max(1e-3), "{loss:?}");
            }
        }
    }
}

/// Encoders of Nystrom features, and negatives that are sampled, then all: within a sample the loss never rises.
#[test]
fn nystrom_encoders_and_samples_descend_too() {
    for s in [pairs(150, 9, 8, 5, 0.3, 1), many(80, 9, 8, 5, 0.3, 2)] {
        for loss in losses() {
            let kernel = KernelOptions::new(Kernel::new(KernelKind::Angular), Landmarks::Count(24));
            let base = FitOptions {
                loss: loss.clone(),
                kernel: Some(kernel),
                whiten: Some(0.1),
                ..FitOptions::new(4)
            };
            let damped = FitOptions { damping: Some(DampingOptions::default()), n_iters: 5, ..base.clone() };
            falls(&run::<f64>(&s, &damped));
            let refined = FitOptions { refine: Some(RefineOptions::default()), n_iters: 1, ..base.clone() };
            falls(&run::<f64>(&s, &refined));
            let sampled = NegativeSampling::Sampled { per_anchor: 24, seed: 5 };
            let damped =
                FitOptions { negatives: sampled, growth: 2.0, exact_last: true, n_iters: 12, ..damped };
            let info = run::<f64>(&s, &damped);
            assert_eq!(info.trace.last().unwrap().negatives, None, "{loss:?}");
            for stage in info.trace.chunk_by(|a, b| a.negatives == b.negatives) {
                assert!(stage.windows(2).all(|w| w[1].loss <= w[0].loss), "{loss:?} {stage:?}");
            }
            assert!(info.trace[0].sampling_error.unwrap() > 0.0);
        }
    }
}

#[test]
fn the_undamped_iteration_is_what_damping_mends() {
    let s = pairs(200, 12, 10, 6, 0.3, 3);
    let plain = FitOptions { loss: Loss::clip(0.07), n_iters: 6, ..FitOptions::new(6) };
    let undamped = run::<f64>(&s, &plain);
    let damped = run::<f64>(&s, &FitOptions { damping: Some(DampingOptions::default()), ..plain });
    assert!(damped.final_loss.unwrap() < undamped.final_loss.unwrap());
}

#[test]
fn hostile_starts_end_in_finite_encoders() {
    let s = pairs(90, 7, 6, 4, 0.2, 4);
    let zeros = Init::Given(Mat::zeros(3, 7), Mat::zeros(3, 6));
    // One direction only: all similarities are +-1.
    let saturated = |d: usize| Mat::from_fn(3, d, |_, j| if j == 0 { 1.0 } else { 0.0 });
    let saturated = Init::Given(saturated(7), saturated(6));
    for init in [zeros, saturated, Init::Random] {
        for tau in [0.01, 1.0] {
            let options = FitOptions {
                loss: Loss::clip(tau),
                init: init.clone(),
                n_iters: 1,
                refine: Some(RefineOptions::default()),
                ..FitOptions::new(3)
            };
            falls(&run::<f32>(&s, &options));
            let damped = FitOptions { refine: None, damping: Some(DampingOptions::default()), ..options };
            falls(&run::<f32>(&s, &damped));
        }
    }
}

#[test]
fn best_beats_the_paper_without_validation_rows_and_keeps_zero_rows() {
    let s = pairs(400, 14, 11, 6, 0.4, 5);
    let paper = run::<f32>(&s, &FitOptions { loss: Loss::clip(0.07), ..FitOptions::new(6) });
    let options = BestOptions { final_loss: true, ..BestOptions::new(Dim::Fixed(6)) };
    let (model, info) = fit_best(&oracle(), data(&s), None, &options).unwrap();
    assert!(info.final_loss.unwrap() < 0.5 * paper.final_loss.unwrap());
    let chosen = info.chosen.unwrap();
    assert_eq!((chosen.held_back, chosen.dim), ((40, 40), 6));
    assert_eq!(model.embedding_dim(), 6);
    // The dimension is found where it is not given.
    let options = BestOptions::new(Dim::Auto);
    let dim = fit_best(&oracle(), data(&s), None, &options).unwrap().1.chosen.unwrap().dim;
    assert!((4..=8).contains(&dim), "{dim}");
}
