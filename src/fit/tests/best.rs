//! The preset `best`: choices, budget, mini-batches, starts and checkpoints.

use super::{Sample, many, oracle, pairs};
use crate::backend::cpu::Cpu;
use crate::backend::{Arithmetic, Backend};
use crate::fit::info::Seconds;
use crate::fit::linear::Encoders;
use crate::fit::metric::Metric;
use crate::fit::minibatch::Descent;
use crate::fit::monitor::{Clock, Monitor};
use crate::fit::objective::Alignment;
use crate::fit::refine::refine;
use crate::fit::validation::Validation;
use crate::fit::{
    BestOptions, Data, Dim, FitInfo, FitStatus, KernelOptions, Landmarks, MinibatchOptions, RefineOptions,
    WIDTHS, fit_best,
};
use crate::io::HostMatrix;
use crate::kernel::{Kernel, KernelKind};
use crate::loss::{Loss, LossKind};
use crate::model::{Encoder, Model};
use crate::optim::Objective;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use faer::Mat;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};

fn data(s: &Sample) -> Data<'_> {
    Data { x: &s.x, y: &s.y, positives: &s.positives }
}

fn run(s: &Sample, options: &BestOptions) -> (Model, FitInfo) {
    fit_best(&oracle(), data(s), None, options).unwrap()
}

/// Options that descend on mini-batches of data as small as a test's.
fn small(dim: Dim) -> BestOptions {
    let minibatch = MinibatchOptions { batch: 64, epochs: 4, min_steps: 40, ..MinibatchOptions::default() };
    BestOptions { minibatch: Some(minibatch), final_loss: true, ..BestOptions::new(dim) }
}

fn same(a: &Model, b: &Model) -> bool {
    let parts =
        |m: &Model| m.components.iter().map(|c| (c.x.matrix.clone(), c.y.matrix.clone())).collect::<Vec<_>>();
    parts(a) == parts(b)
}

/// The exact loss before and after a descent on mini-batches without validation rows, and after L-BFGS on all pairs,
/// from random encoders in the coordinates of the features.
fn descents(s: &Sample, loss: &Loss, dim: usize) -> [f64; 3] {
    let backend = oracle();
    let (x, y) = (backend.load(&s.x).unwrap(), backend.load(&s.y).unwrap());
    let (d1, d2) = (backend.shape(&x).1, backend.shape(&y).1);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    let mut random = |d: usize| Mat::from_fn(dim, d, |_, _| rng.random_range(-1.0..1.0));
    let start = Encoders { f1: random(d1), f2: random(d2) };
    let alignment = || Alignment {
        backend: &backend,
        x: &x,
        y: &y,
        positives: &s.positives,
        loss: loss.clone(),
        negatives: NegativeSampling::All,
        maps: None,
        dim,
        seconds: Seconds::default(),
    };
    let value = |e: &Encoders| {
        let mut f = alignment();
        let v = f.variables(e);
        f.evaluate(&v, &mut vec![0.0; v.len()]).unwrap()
    };
    let clock = Clock::new(Instant::now(), None);
    let identity = |d: usize| Metric::new(Mat::identity(d, d), Arithmetic::F64);
    let (mx, my) = (identity(d1), identity(d2));
    let options = MinibatchOptions { batch: 100, epochs: 30, ..MinibatchOptions::default() };
    let (backend, positives) = (&backend, &s.positives);
    let descent = Descent {
        backend,
        x: &x,
        y: &y,
        positives,
        loss: loss.clone(),
        metric: (&mx, &my),
        options,
        seed: 5,
    };
    let sizes = (start.f1.norm_l2().powi(2), start.f2.norm_l2().powi(2));
    let mut info = FitInfo::default();
    let mut monitor = Monitor::new(backend, clock, &mut info, None);
    let reached = descent.run(&start, sizes, None, &mut monitor).unwrap();
    assert!(info.trace.len() > 4 && info.trace.iter().all(|t| t.loss.is_finite()));
    let options = RefineOptions { max_steps: 200, tol: 1e-9, ..RefineOptions::default() };
    let variables = alignment().variables(&start);
    let mut info = FitInfo::default();
    let mut monitor = Monitor::new(backend, clock, &mut info, None);
    let exact = refine(alignment(), variables, &options, None, &mut monitor).unwrap();
    [value(&start), value(&reached), value(&exact)]
}

/// Mini-batches reach most of what L-BFGS gains on all pairs, for every member and relation: their negatives stand for
/// all.
#[test]
fn mini_batches_come_close_to_the_exact_minimum() {
    for (name, s) in [("pairs", pairs(600, 12, 10, 6, 0.4, 1)), ("many", many(300, 12, 10, 6, 0.4, 2))] {
        for loss in [
            Loss::clip(0.07),
            Loss::clip(0.3).with_nu(1.5),
            Loss::new(LossKind::Sigmoid, 0.5),
            Loss::new(LossKind::TripletHard, 1.0),
            Loss::new(LossKind::TripletSmooth, 0.2),
        ] {
            let [start, reached, exact] = descents(&s, &loss, 5);
            assert!(start - reached > 0.8 * (start - exact), "{name} {loss:?}: {start} {reached} {exact}");
        }
    }
}

#[test]
fn nystrom_encoders_descend_and_lbfgs_follows_on_request() {
    let s = pairs(600, 12, 10, 6, 0.4, 4);
    let kernel = Some(KernelOptions::new(Kernel::new(KernelKind::Angular), Landmarks::Count(40)));
    for kernel in [None, kernel] {
        let o = BestOptions { kernel, exact: true, ..small(Dim::Fixed(5)) };
        let info = run(&s, &o).1;
        let (sampled, exact): (Vec<_>, Vec<_>) = info.trace.iter().partition(|t| t.negatives.is_some());
        assert!(sampled.len() > 2 && exact.len() > 1);
        assert!(exact.windows(2).all(|w| w[1].loss <= w[0].loss));
        assert!(info.final_loss.unwrap().is_finite());
    }
}

#[test]
fn temperature_and_rank_are_chosen_on_validation_rows() {
    let s = pairs(500, 14, 11, 6, 0.4, 5);
    for minibatch in [None, small(Dim::Auto).minibatch] {
        let o = BestOptions { tau_auto: true, minibatch, ..small(Dim::Fixed(6)) };
        let (model, info) = run(&s, &o);
        let tau = info.chosen.unwrap().tau;
        assert!([0.03, 0.05, 0.07, 0.1, 0.2].contains(&tau), "{tau}");
        assert_eq!(model.loss.tau, tau);
    }
    let energy = |share| run(&s, &small(Dim::Energy(share))).1.chosen.unwrap().dim;
    let (half, most, all) = (energy(0.5), energy(0.9), energy(1.0));
    assert!(1 <= half && half < most && most <= all && all <= 11, "{half} {most} {all}");
    assert!(run(&s, &small(Dim::Auto)).1.chosen.unwrap().dim >= 4);
}

#[test]
fn a_budget_is_kept_and_still_gives_a_model() {
    let s = pairs(3000, 16, 12, 8, 0.4, 6);
    let started = std::time::Instant::now();
    let budget = Some(Duration::from_secs(2));
    let mut o = BestOptions { budget, ..small(Dim::Fixed(6)) };
    o.final_loss = false;
    let minibatch = o.minibatch.as_mut().unwrap();
    (minibatch.epochs, minibatch.patience) = (1_000_000, usize::MAX);
    let (model, info) = run(&s, &o);
    assert_eq!((info.status, model.embedding_dim()), (FitStatus::OutOfTime, 6));
    assert!(info.trace.len() > 1);
    // A step more than the budget and a slow machine: generous, but far below the million epochs.
    assert!(started.elapsed() < Duration::from_secs(20));
    // Nothing but the spectral step fits into no time at all.
    let none = BestOptions { budget: Some(Duration::ZERO), ..o };
    assert!(run(&s, &none).1.trace.is_empty());
}

#[test]
fn equal_seeds_give_equal_models_whatever_the_threads() {
    let s = pairs(900, 12, 10, 6, 0.4, 7);
    let o = small(Dim::Fixed(5));
    let fit = |threads: usize, o: &BestOptions| {
        fit_best(&Cpu::<f32>::new(threads).unwrap(), data(&s), None, o).unwrap().0
    };
    let one = fit(1, &o);
    assert!(same(&one, &fit(1, &o)) && same(&one, &fit(3, &o)));
    assert!(!same(&one, &fit(1, &BestOptions { seed: 1, ..o })));
}

#[test]
fn a_good_start_is_taken_and_a_bad_one_is_not() {
    let s = pairs(500, 12, 10, 6, 0.4, 8);
    let good = run(&s, &small(Dim::Fixed(5))).0;
    // High powers of the singular values leave one direction: a bad spectral step. Without steps the better is returned.
    let mut o = BestOptions { powers: vec![1000.0], ..small(Dim::Fixed(5)) };
    o.refine.max_steps = 0;
    let spectral = run(&s, &o).0;
    let taken = run(&s, &BestOptions { start: Some(good.clone()), ..o.clone() }).0;
    // It goes into whitened coordinates and back: rounding of two products in float64.
    let (a, b) = (&taken.components[0].x.matrix, &good.components[0].x.matrix);
    assert!((a - b).norm_l2() < 1e-9 * b.norm_l2());
    let mut bad = good;
    bad.components[0].x.matrix.fill(0.0);
    assert!(same(&run(&s, &BestOptions { start: Some(bad), ..o }).0, &spectral));
}

/// Cut short at any validation or step and continued, a fit ends bit for bit where an undisturbed one does.
#[test]
fn a_checkpoint_continues_every_phase_bit_for_bit() {
    let s = pairs(500, 12, 10, 6, 0.4, 9);
    let dir = tempfile::tempdir().unwrap();
    let mut o = BestOptions { exact: true, ..small(Dim::Fixed(5)) };
    o.refine.max_steps = 5;
    let whole = run(&s, &o);
    let total = whole.1.trace.len();
    assert!(total > 6);
    for stop in 1..=total {
        let path = dir.path().join(format!("{stop}.state"));
        let o = BestOptions { checkpoint: Some(path), ..o.clone() };
        let mut seen = 0;
        // The spectral step comes first; a checkpoint follows each iterate that is shown, so this one is lost.
        let cut = crate::fit::fit_best_watched(&oracle(), data(&s), None, &o, &mut |_| {
            seen += 1;
            if seen > stop { Err(crate::Error::Cancelled) } else { Ok(()) }
        });
        assert!(cut.is_err());
        let continued = run(&s, &o);
        assert!(same(&whole.0, &continued.0), "stopped at {stop} of {total}");
        let losses = |i: &FitInfo| i.trace.iter().map(|t| t.loss).collect::<Vec<_>>();
        assert_eq!(losses(&whole.1), losses(&continued.1));
    }
    // A state of another fit is refused.
    let other = BestOptions { checkpoint: Some(dir.path().join("3.state")), seed: 9, ..o };
    assert!(fit_best(&oracle(), data(&s), None, &other).is_err());
}

/// With `gamma = 1` the Gram matrix of these rows is close to the identity, and nothing carries over to other rows.
#[test]
fn a_kernels_width_is_chosen_in_median_distances() {
    let s = pairs(400, 30, 20, 6, 1.0, 12);
    let kernel = KernelOptions::new(Kernel::new(KernelKind::Rbf), Landmarks::Count(100));
    let own = BestOptions { kernel: Some(kernel), ..BestOptions::new(Dim::Fixed(6)) };
    let chosen = BestOptions { widths: WIDTHS.to_vec(), ..own.clone() };
    let ((_, before), (model, after)) = (run(&s, &own), run(&s, &chosen));
    let score = |info: &FitInfo| info.trace.iter().filter_map(|t| t.score).fold(0.0, f64::max);
    assert!(score(&after) > 2.0 * score(&before), "{} {}", score(&after), score(&before));
    let width = after.chosen.unwrap().width.unwrap();
    assert_eq!((WIDTHS.contains(&width), before.chosen.unwrap().width), (true, None));
    let [c] = &model.components[..] else { panic!("one component") };
    let gamma = |e: &Encoder| e.map.as_ref().unwrap().kernel.gamma;
    // Distances between rows `z A + e`, z and e standard normal: 2 (6 + 1) d in the mean.
    for (gamma, d) in [(gamma(&c.x), 30.0f64), (gamma(&c.y), 20.0)] {
        let unit = gamma.powf(-0.5) / width;
        assert!((unit / (14.0 * d).sqrt() - 1.0).abs() < 0.2, "{unit} {d}");
    }
    // A kernel without a width has nothing to choose.
    let angular = KernelOptions::new(Kernel::new(KernelKind::Angular), Landmarks::Count(100));
    let angular = run(&s, &BestOptions { kernel: Some(angular), ..chosen }).1;
    assert_eq!(angular.chosen.unwrap().width, None);
}

#[test]
fn among_encoders_that_find_every_pair_the_loss_decides() {
    let backend = oracle();
    let rows = |d: [f64; 4]| backend.load(&HostMatrix::from_f64("z", 2, 2, d.to_vec()).unwrap()).unwrap();
    let (positives, loss) = (Positives::diagonal(2), Loss::clip(0.07));
    let unit = || Mat::from_fn(2, 2, |i, j| f64::from(u8::from(i == j)));
    let score = |y: [f64; 4]| {
        let (x, y) = (rows([1.0, 0.0, 0.0, 1.0]), rows(y));
        let validation = Validation { x: &x, y: &y, positives: &positives, loss: &loss };
        validation.score(&backend, &Encoders { f1: unit(), f2: unit() }).unwrap()
    };
    let (apart, close, wrong) =
        (score([1.0, 0.0, 0.0, 1.0]), score([0.8, 0.6, 0.6, 0.8]), score([0.0, 1.0, 1.0, 0.0]));
    assert!(apart > close && close > 1.0 && apart <= 2.0, "{apart} {close}");
    assert_eq!(wrong, 0.5);
}

/// Whoever watches sees the better of the first two shrinkages before the others are tried, as encoders of the features themselves,
/// and what is returned.
#[test]
fn the_first_encoders_are_shown_before_everything_is_chosen() {
    let s = pairs(200, 8, 6, 4, 0.3, 17);
    let refine = RefineOptions { max_steps: 0, ..RefineOptions::default() };
    let o = BestOptions { refine, minibatch: None, ..BestOptions::new(Dim::Fixed(3)) };
    let mut shown = Vec::new();
    let (model, info) = crate::fit::fit_best_watched(&oracle(), data(&s), None, &o, &mut |i| {
        shown.push((i.x.clone(), i.seconds, i.offsets.clone()));
        Ok(())
    })
    .unwrap();
    assert!(info.chosen.unwrap().candidates.len() > 2);
    let [(first, soon, _), (last, later, offsets)] = &shown[..] else { panic!("{}", shown.len()) };
    let end = &model.components[0].x;
    assert!(soon < later && first.shape() == (3, 8) && first.norm_max().is_finite());
    assert!(*last == end.matrix && offsets.0 == end.offset);
}
