//! Fits: presets, budgets, few rows with many columns, degenerate data.

use crate::program::{Lab, distance};
use faer::Mat;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use std::time::Duration;
use unicon::backend::Backend;
use unicon::backend::cpu::Cpu;
use unicon::fit::{
    BestOptions, DampingOptions, Data, Dim, Factorization, FitInfo, FitOptions, Init, KernelOptions,
    Landmarks, MinibatchOptions, Preset, RefineOptions, fit, fit_best,
};
use unicon::io::{HostMatrix, RowSource, read_all};
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::{Loss, LossKind};
use unicon::model::{Component, Encoder, Model, Side};
use unicon::positives::Positives;

/// Values of two noisy linear views of a latent variable of `k` numbers, row by row.
pub(crate) fn views(
    n: usize,
    (d1, d2): (usize, usize),
    k: usize,
    noise: f64,
    seed: u64,
) -> (Vec<f64>, Vec<f64>) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut normal = |len: usize| -> Vec<f64> { (0..len).map(|_| StandardNormal.sample(&mut rng)).collect() };
    let (z, u, v) = (normal(n * k), normal(k * d1), normal(k * d2));
    let (ex, ey) = (normal(n * d1), normal(n * d2));
    let view = |map: &[f64], d: usize, e: &[f64]| -> Vec<f64> {
        let entry = |i: usize, j: usize| (0..k).map(|l| z[i * k + l] * map[l * d + j]).sum::<f64>();
        (0..n * d).map(|at| entry(at / d, at % d) + noise * e[at]).collect()
    };
    (view(&u, d1, &ex), view(&v, d2, &ey))
}

pub(crate) fn matrix(name: &str, n: usize, values: &[f64]) -> HostMatrix {
    HostMatrix::from_f64(name, n, values.len() / n, values.to_vec()).unwrap()
}

pub(super) fn pairs(
    n: usize,
    d: (usize, usize),
    k: usize,
    noise: f64,
    seed: u64,
) -> (HostMatrix, HostMatrix) {
    let (x, y) = views(n, d, k, noise, seed);
    (matrix("x", n, &x), matrix("y", n, &y))
}

pub(super) fn oracle() -> Cpu<f64> {
    Cpu::new(2).unwrap()
}

/// `F1^T F2` of a linear model.
pub(super) fn product(model: &Model) -> Mat<f64> {
    model.components[0].x.matrix.transpose() * &model.components[0].y.matrix
}

pub(super) fn relative(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    (a - b).norm_l2() / b.norm_l2()
}

// ---- few rows of many columns

/// Rows of each kind that a decomposition may stumble on.
fn few_rows() -> Vec<(String, usize, HostMatrix, HostMatrix)> {
    let mut all = Vec::new();
    for (n, d) in [(12, (40, 33)), (12, (16, 17)), (12, (12, 12)), (12, (40, 7)), (9, (13, 30))] {
        let (x, y) = views(n, d, 5, 0.5, n as u64);
        all.push((format!("{n} rows of {d:?}"), n, matrix("x", n, &x), matrix("y", n, &y)));
        // Rank 4, and copies of rows on both sides.
        let (x, y) = views(n, d, 4, 0.0, 2);
        all.push((format!("{n} rows of {d:?}, rank 4"), n, matrix("x", n, &x), matrix("y", n, &y)));
        let twice =
            |v: &[f64], d: usize| -> Vec<f64> { (0..n * d).map(|at| v[(at / d / 2) * d + at % d]).collect() };
        let (x, y) = views(n, d, 5, 0.5, 3);
        let (x, y) = (twice(&x, d.0), twice(&y, d.1));
        all.push((format!("{n} rows of {d:?}, in twos"), n, matrix("x", n, &x), matrix("y", n, &y)));
    }
    all
}

/// A ridge that no sum feels, but that is defined by the columns: the fit takes the way over `d x d` matrices. It splits
/// `F1^T F2` anew, which gives the same factors for powers 1/2 and 0.
fn by_columns(o: &FitOptions) -> FitOptions {
    FitOptions { ridge: 1e-300, ..o.clone() }
}

#[test]
fn few_rows_are_solved_in_their_span_to_rounding() {
    let usual = FitOptions { loss: Loss::clip(0.5), ..FitOptions::new(3) };
    let once = FitOptions { n_iters: 1, ..usual.clone() };
    let variants = [
        once.clone(),
        FitOptions { whiten: Some(0.1), ..once.clone() },
        FitOptions { n_iters: 3, scale_inputs: true, ..usual.clone() },
        FitOptions { init: Init::Random, whiten: Some(1.0), n_iters: 2, seed: 4, ..usual.clone() },
        FitOptions { factorization: Factorization::Orthonormal, ..usual.clone() },
        FitOptions { factorization: Factorization::Orthonormal, whiten: Some(0.3), ..once.clone() },
        FitOptions {
            refine: Some(RefineOptions { max_steps: 3, ..RefineOptions::default() }),
            whiten: Some(0.1),
            ..once
        },
    ];
    let cpu = oracle();
    for (name, n, x, y) in few_rows() {
        let positives = Positives::diagonal(n);
        let data = Data { x: &x, y: &y, positives: &positives };
        for o in &variants {
            let (thin, info) = fit(&cpu, data, None, o).unwrap();
            let (wide, want) = fit(&cpu, data, None, &by_columns(o)).unwrap();
            let error = relative(&product(&thin), &product(&wide));
            // Sums in another order; a line search and repeated updates pass rounding on.
            assert!(error < 1e-8, "{name}: {error:e} {o:?}");
            // With a ridge the values told are those of `F1^T F2`: of `C` to twice the factors' power.
            let power = 2.0 * o.factorization.power();
            let expected = &want.singular_values;
            let s: Vec<f64> = info.singular_values.iter().take(3).map(|s| s.powf(power)).collect();
            assert!(distance(&s, &expected[..s.len()]) < 1e-9 * expected[0], "{name}: {s:?} {expected:?}");
            assert!((info.final_loss.unwrap() - want.final_loss.unwrap()).abs() < 1e-9, "{name} {o:?}");
        }
    }
}

/// The reference is the formula itself, in float64: `W_x C W_y` of `d x d` matrices, decomposed.
#[test]
fn a_whitened_update_of_few_rows_is_regularised_cca() {
    let (n, d1, d2, lambda, r) = (10, 24, 19, 0.2, 4);
    let (x, y) = pairs(n, (d1, d2), 6, 0.4, 8);
    let positives = Positives::diagonal(n);
    let o = FitOptions { n_iters: 1, whiten: Some(lambda), ..FitOptions::new(r) };
    let model = fit(&oracle(), Data { x: &x, y: &y, positives: &positives }, None, &o).unwrap().0;
    let host = |s: &HostMatrix| {
        let (v, d) = (read_all::<f64>(s).unwrap(), s.cols());
        Mat::from_fn(n, d, |i, j| v[i * d + j])
    };
    let (x, y) = (host(&x), host(&y));
    let root = |x: &Mat<f64>| {
        let g = (x.transpose() * x) * faer::Scale(1.0 / n as f64);
        let d = g.nrows();
        let mean = (0..d).map(|i| g[(i, i)]).sum::<f64>() / d as f64;
        let e = g.self_adjoint_eigen(faer::Side::Lower).unwrap();
        let (q, s) = (e.U(), e.S().column_vector());
        let scaled = Mat::from_fn(d, d, |i, j| q[(i, j)] / (s[j].max(0.0) + lambda * mean).sqrt());
        &scaled * q.transpose()
    };
    // nu I - 1 1^T/n over n of both directions: the centred cross-covariance, up to a factor.
    let s = Mat::from_fn(n, n, |i, j| f64::from(u8::from(i == j)) - 1.0 / n as f64);
    let (wx, wy) = (root(&x), root(&y));
    let c = &wx * (x.transpose() * &s * &y) * &wy;
    let svd = c.thin_svd().unwrap();
    let (u, v) = (svd.U().subcols(0, r), svd.V().subcols(0, r));
    let scaled = Mat::from_fn(d1, r, |i, k| u[(i, k)] * svd.S()[k]);
    let want = &wx * (scaled * v.transpose()) * &wy;
    let got = product(&model);
    let unit = |m: &Mat<f64>| m * faer::Scale(1.0 / m.norm_l2());
    assert!((unit(&got) - unit(&want)).norm_l2() < 1e-10);
}

/// A model of zeros: a start that is not taken, but that may leave the span of the rows.
fn zeros((d1, d2): (usize, usize), r: usize) -> Model {
    let encoder = |d: usize| Encoder { offset: None, map: None, matrix: Mat::zeros(r, d) };
    let component = Component { weight: 1.0, x: encoder(d1), y: encoder(d2) };
    Model::new(vec![component], &FitOptions::new(r))
}

#[test]
fn the_preset_best_solves_few_rows_in_their_span() {
    let cpu = oracle();
    for (n, d) in [(30, (70, 55)), (30, (70, 11))] {
        let (x, y) = pairs(n + 15, d, 6, 0.6, 5);
        let rows = |m: &HostMatrix, from: usize, to: usize| {
            matrix("part", to - from, &read_all::<f64>(m).unwrap()[from * m.cols()..to * m.cols()])
        };
        let (tx, ty) = (rows(&x, 0, n), rows(&y, 0, n));
        let (vx, vy) = (rows(&x, n, n + 15), rows(&y, n, n + 15));
        let (p, vp) = (Positives::diagonal(n), Positives::diagonal(15));
        let data = Data { x: &tx, y: &ty, positives: &p };
        let held = Data { x: &vx, y: &vy, positives: &vp };
        for max_steps in [0, 3] {
            let mut o = BestOptions { loss: Loss::clip(0.3), ..BestOptions::new(Dim::Fixed(4)) };
            o.refine.max_steps = max_steps;
            let (thin, info) = fit_best(&cpu, data, Some(held), &o).unwrap();
            let wide = BestOptions { start: Some(zeros(d, 4)), ..o };
            let (wide, want) = fit_best(&cpu, data, Some(held), &wide).unwrap();
            let chosen = |i: &FitInfo| i.chosen.as_ref().map(|c| (c.whiten, c.power, c.dim));
            assert_eq!(chosen(&info), chosen(&want));
            let error = relative(&product(&thin), &product(&wide));
            assert!(error < 1e-7, "{n} rows of {d:?}, {max_steps} steps: {error:e}");
        }
    }
}

/// More dimensions than rows can fill: what is left over is zero, the rest as it was.
#[test]
fn dimensions_beyond_the_rows_are_zero() {
    let (x, y) = pairs(6, (30, 25), 5, 0.5, 9);
    let positives = Positives::diagonal(6);
    let data = Data { x: &x, y: &y, positives: &positives };
    let of = |r: usize, o: &dyn Fn(FitOptions) -> FitOptions| {
        fit(&oracle(), data, None, &o(FitOptions { n_iters: 1, ..FitOptions::new(r) })).unwrap().0
    };
    for o in
        [&|o| o as FitOptions, &|o| FitOptions { factorization: Factorization::Orthonormal, ..o }, &|o| {
            FitOptions { whiten: Some(0.1), ..o }
        }] as [&dyn Fn(FitOptions) -> FitOptions; 3]
    {
        let (some, many) = (of(5, o), of(20, o));
        assert_eq!(many.dim(), 20);
        assert!(relative(&product(&many), &product(&some)) < 1e-8);
    }
    let damped = of(20, &|o| FitOptions { damping: Some(DampingOptions::default()), n_iters: 3, ..o });
    assert!(damped.dim() == 20 && damped.components[0].x.matrix.norm_l2().is_finite());
}

// ---- budgets and reports

#[test]
fn what_is_returned_is_named_and_so_are_the_losses() {
    let lab = Lab::new();
    let (x, y) = views(600, (12, 10), 6, 0.5, 3);
    lab.npy("x.npy", &[600, 12], &x);
    lab.npy("y.npy", &[600, 10], &y);
    let args = "fit --x x.npy --y y.npy --rank 5 --out m.safetensors";
    let json = lab.json(args);
    let trace = json["info"]["trace"].as_array().unwrap();
    let scores: Vec<f64> = trace.iter().map(|t| t["score"].as_f64().unwrap()).collect();
    let returned = json["info"]["returned"].as_u64().unwrap() as usize;
    let highest = scores.iter().copied().fold(0.0, f64::max);
    assert!(scores[returned] >= highest - 1e-12 || highest >= 1.0, "{returned}: {scores:?}");
    // Every pair is seen: the loss of the step returned is the final one.
    let of_step = trace[returned]["loss"].as_f64().unwrap();
    let last = json["info"]["final_loss"].as_f64().unwrap();
    assert!((of_step - last).abs() < 1e-4 * last.abs().max(1e-3), "{of_step} {last}");
    let text = lab.text(args);
    for word in ["over all rows, of the encoders returned", "returned", "held back to judge", "whole process"]
    {
        assert!(text.contains(word), "{word}: {text}");
    }
    // A sample: what it saw is another loss, and is called one.
    let text = lab.text(&format!("{args} --negatives 64"));
    assert!(text.contains("loss seen") && text.contains("* returned"), "{text}");
}

#[test]
fn a_budget_that_is_used_up_says_so() {
    let lab = Lab::new();
    let (x, y) = views(3000, (24, 20), 12, 0.8, 5);
    lab.npy("x.npy", &[3000, 24], &x);
    lab.npy("y.npy", &[3000, 20], &y);
    let tail = "--x x.npy --y y.npy --rank 8 --out m.safetensors";
    for args in [
        "fit --refine 100000".to_string(),
        "fit --preset global --iters 100000".to_string(),
        "fit --preset global --iters 100000 --damping".to_string(),
        "fit --preset global --iters 1 --refine 100000".to_string(),
    ] {
        let budget = Duration::from_millis(1500);
        let json = lab.json(&format!("{args} --budget 1500ms {tail}"));
        let status = json["info"]["status"].as_str().unwrap().to_string();
        let seconds = json["info"]["seconds"]["total"].as_f64().unwrap();
        // Convergence may come first; whatever ends it, all the work is counted. Generous: the machine may be busy.
        assert!(["out-of-time", "converged"].contains(&status.as_str()), "{args}: {status}");
        assert!(seconds < 4.0 * budget.as_secs_f64(), "{args}: {seconds} s");
    }
    // The paper's mini-batches: those that there is time for, and one at least.
    let batches = |budget: &str| {
        let json = lab.json(&format!("fit --preset paper --iters 2 {budget} {tail}"));
        let weights: Vec<usize> = json["info"]["batch_weights"]
            .as_array()
            .unwrap()
            .iter()
            .map(|w| w.as_array().unwrap().len())
            .collect();
        (json["info"]["status"].as_str().unwrap().to_string(), weights)
    };
    assert_eq!(batches(""), ("completed".into(), vec![100, 100]));
    assert_eq!(batches("--budget 1ms"), ("out-of-time".into(), vec![1]));
    // No time at all: the spectral step, and no word of steps that were done.
    let json = lab.json(&format!("fit --budget 1ms {tail}"));
    assert_eq!(json["info"]["status"], "out-of-time");
    assert!(json["info"]["final_loss"].is_null() && json["info"]["trace"].as_array().unwrap().is_empty());
    assert!(lab.text(&format!("fit --budget 1ms {tail}")).contains("the budget was used up"));
}

// ---- degenerate data

/// Every embedding is finite, and no row of it longer than one.
fn sound(model: &Model, data: Data<'_>, what: &str) {
    let cpu = oracle();
    for (side, source) in [(Side::X, data.x), (Side::Y, data.y)] {
        let z = model.encode(&cpu, side, source).unwrap();
        let width = cpu.shape(&z).1;
        cpu.store(&z, &mut |_, rows| {
            for row in rows.chunks(width) {
                let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                assert!(norm < 1.0 + 1e-6, "{what}: {norm}");
            }
            Ok(())
        })
        .unwrap();
    }
}

/// A name, features of both sides (row by row), how many rows, and what matches where that is not the diagonal.
type Poor = (String, Vec<f64>, Vec<f64>, usize, Option<Positives>);

/// Data of every poor kind.
fn poor() -> Vec<Poor> {
    let mut all = Vec::new();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(17);
    let mut some = |len: usize| -> Vec<f64> { (0..len).map(|_| rng.random_range(-1.0..1.0)).collect() };
    for n in [1, 2, 3] {
        all.push((format!("{n} rows"), some(n * 5), some(n * 4), n, None));
    }
    let n = 40;
    let constant = |d: usize| -> Vec<f64> { (0..n * d).map(|at| (at % d) as f64 - 1.5).collect() };
    all.push(("all rows equal".into(), constant(5), constant(4), n, None));
    all.push(("a constant side".into(), some(n * 5), constant(4), n, None));
    all.push(("a zero side".into(), some(n * 5), vec![0.0; n * 4], n, None));
    all.push(("nothing but zeros".into(), vec![0.0; n * 5], vec![0.0; n * 4], n, None));
    let columns = |d: usize, v: Vec<f64>| -> Vec<f64> {
        let of = |at: usize, v: f64| {
            if at.is_multiple_of(d) {
                0.0
            } else if at % d == 1 {
                3.0
            } else {
                v
            }
        };
        v.into_iter().enumerate().map(|(at, v)| of(at, v)).collect()
    };
    all.push((
        "a zero and a constant column".into(),
        columns(5, some(n * 5)),
        columns(4, some(n * 4)),
        n,
        None,
    ));
    all.push(("one column".into(), some(n), some(n), n, None));
    all.push(("one column and many".into(), some(n), some(n * 4), n, None));
    let line: Vec<f64> = some(n);
    let along =
        |d: usize| -> Vec<f64> { (0..n * d).map(|at| line[at / d] * ((at % d) as f64 + 1.0)).collect() };
    all.push(("one direction".into(), along(5), along(4), n, None));
    let one = Positives::from_groups(&vec![7; n], &vec![7; n]).unwrap();
    all.push(("a single group".into(), some(n * 5), some(n * 4), n, Some(one)));
    let two: Vec<i64> = (0..n as i64).map(|i| i % 2).collect();
    all.push((
        "two groups".into(),
        some(n * 5),
        some(n * 4),
        n,
        Some(Positives::from_groups(&two, &two).unwrap()),
    ));
    let mut indptr = vec![0i64; n + 1];
    indptr[30..].fill(1);
    let only = Positives::from_csr(&indptr, &[3], n).unwrap();
    all.push(("a single pair".into(), some(n * 5), some(n * 4), n, Some(only)));
    let (x, y) = (some(n * 5), some(n * 4));
    let thrice =
        |v: &[f64], d: usize| -> Vec<f64> { (0..n * d).map(|at| v[(at / d % 3) * d + at % d]).collect() };
    all.push(("three rows repeated".into(), thrice(&x, 5), thrice(&y, 4), n, None));
    all
}

#[test]
fn poor_data_gives_a_model_or_a_reason() {
    let losses = [
        Loss::clip(0.07),
        Loss::clip(0.07).with_nu(1.5),
        Loss::new(LossKind::Sigmoid, 0.2),
        Loss::new(LossKind::TripletHard, 1.0),
        Loss::new(LossKind::TripletSmooth, 0.2),
    ];
    let (mut made, mut refused) = (0, 0);
    for (name, x, y, n, positives) in poor() {
        let (d1, d2) = (x.len() / n, y.len() / n);
        let (x, y) = (matrix("x", n, &x), matrix("y", n, &y));
        let positives = positives.unwrap_or_else(|| Positives::diagonal(n));
        let data = Data { x: &x, y: &y, positives: &positives };
        for loss in &losses {
            for rank in [1, d1.min(d2)] {
                let plain = FitOptions { loss: loss.clone(), ..FitOptions::new(rank) };
                let kernel = |landmarks| {
                    let kernel = Kernel::new(KernelKind::Angular);
                    Some(KernelOptions::new(kernel, landmarks))
                };
                let iterations = [
                    plain.clone(),
                    FitOptions { whiten: Some(0.1), ..plain.clone() },
                    FitOptions { whiten: Some(0.0), n_iters: 3, ..plain.clone() },
                    FitOptions {
                        factorization: Factorization::Orthonormal,
                        scale_inputs: true,
                        ..plain.clone()
                    },
                    FitOptions { damping: Some(DampingOptions::default()), n_iters: 3, ..plain.clone() },
                    FitOptions { refine: Some(RefineOptions::default()), ..plain.clone() },
                    FitOptions { init: Init::Random, n_iters: 2, ..plain.clone() },
                    FitOptions { ridge: 0.1, ..plain.clone() },
                    FitOptions { dim: 1, kernel: kernel(Landmarks::Auto), ..plain.clone() },
                    FitOptions { dim: 1, kernel: kernel(Landmarks::Exact), ..plain.clone() },
                    FitOptions { loss: loss.clone(), ..Preset::PaperLinear.options(rank) },
                ];
                let mut outcome = |what: String, fitted: unicon::Result<(Model, FitInfo)>| match fitted {
                    Ok((model, info)) => {
                        made += 1;
                        sound(&model, data, &what);
                        assert!(info.final_loss.is_none_or(f64::is_finite), "{what}: {:?}", info.final_loss);
                    }
                    Err(e) => {
                        refused += 1;
                        // Too few rows for the paper's batches.
                        assert!(e.to_string().starts_with("batch_size") && n < 30, "{what}: {e}");
                    }
                };
                for o in &iterations {
                    outcome(format!("{name}: {o:?}"), fit(&oracle(), data, None, o));
                }
                let loss = loss.clone();
                let best = BestOptions { loss, final_loss: true, ..BestOptions::new(Dim::Fixed(rank)) };
                let batch = MinibatchOptions { batch: 8, min_steps: 9, ..MinibatchOptions::default() };
                let minibatch = Some(batch);
                for o in [
                    best.clone(),
                    BestOptions { minibatch, ..best.clone() },
                    BestOptions { dim: Dim::Auto, tau_auto: true, ..best.clone() },
                    BestOptions { dim: Dim::Energy(0.9), sample: Some(3), ..best.clone() },
                    BestOptions { kernel: kernel(Landmarks::Auto), dim: Dim::Fixed(1), ..best },
                ] {
                    outcome(format!("{name}: {o:?}"), fit_best(&oracle(), data, None, &o));
                }
            }
        }
    }
    assert!(made > 1500 && refused > 0, "{made} {refused}");
}

/// No pair at all is an error that says so, in the program too.
#[test]
fn nothing_to_match_is_an_error() {
    let lab = Lab::new();
    let (x, y) = views(30, (5, 4), 3, 0.3, 6);
    lab.npy("x.npy", &[30, 5], &x);
    lab.npy("y.npy", &[30, 4], &y);
    lab.npy("a.npy", &[30], &(0..30i64).collect::<Vec<_>>());
    lab.npy("b.npy", &[30], &(100..130i64).collect::<Vec<_>>());
    let line = lab
        .fails(1, "fit --x x.npy --y y.npy --groups-x a.npy --groups-y b.npy --rank 2 --out m.safetensors");
    assert!(line.contains("groups") && line.contains("none in common"), "{line}");
}
