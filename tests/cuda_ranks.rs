//! The CUDA backend over several ranks, on the stand-in libraries: ranks are threads that share the device. Every operation
//! against the float64 CPU backend; the same to the bit on all ranks and from run to run.
//!
//! Tolerances are those of one rank (see `cuda_backend.rs`), for ranks only cut sums elsewhere: a similarity of fp16
//! embeddings is off by 5e-5 or so and of those of fp32 mode by 5e-7, a weight by that over tau, and 16-bit weights and
//! values add 4e-4; 2e-6 is for sums in fp32.

use crate::standin::on_a_device;
use faer::{Mat, MatRef};
use half::f16;
use rand::{Rng, SeedableRng};
use unicon::backend::cpu::Cpu;
use unicon::backend::cuda::{Cuda, Mode, Options};
use unicon::backend::{Backend, Similarity, Ties};
use unicon::distributed::{Group, share_rows, threads};
use unicon::fit::{Data, FitOptions, KernelOptions, Landmarks, RefineOptions, fit};
use unicon::io::{HostMatrix, MatView, RowRange, RowSource};
use unicon::kernel::Kernel;
use unicon::loss::{EpsBy, Loss, LossKind};
use unicon::model::Model;
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;
use unicon::spectral::SvdMethod;

fn open(mode: Mode, group: Group) -> Cuda {
    Cuda::open(0, Options { mode, ..Options::default() }).unwrap().with_group(group)
}

fn features(n: usize, d: usize, seed: u64) -> HostMatrix {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values = (0..n * d).map(|_| rng.random_range(-1.0f32..1.0)).collect();
    HostMatrix::from_f32("x", n, d, values).unwrap()
}

fn small(rows: usize, cols: usize, seed: u64) -> Mat<f64> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    Mat::from_fn(rows, cols, |_, _| f64::from(rng.random_range(-1.0f32..1.0)))
}

/// A ragged relation: some rows match nothing, some several, and the partners of a row are far apart.
fn ragged(n_x: usize, n_y: usize) -> Positives {
    let (mut ptr, mut idx) = (vec![0i64], Vec::new());
    for i in 0..n_x {
        let mut row: Vec<i64> = (0..i % 4).map(|k| ((i * 7 + k * 311) % n_y) as i64).collect();
        row.sort_unstable();
        row.dedup();
        idx.extend(row);
        ptr.push(idx.len() as i64);
    }
    Positives::from_csr(&ptr, &idx, n_y).unwrap()
}

fn host<B: Backend>(backend: &B, m: &B::Matrix) -> Mat<f64> {
    let (rows, cols) = backend.shape(m);
    let (mut out, mut next) = (Mat::zeros(rows, cols), 0);
    let store = backend.store(m, &mut |first, panel| {
        assert_eq!(first, next);
        next += panel.len() / cols;
        panel.iter().enumerate().for_each(|(k, v)| out[(first + k / cols, k % cols)] = *v);
        Ok(())
    });
    store.unwrap();
    assert_eq!(next, rows);
    out
}

fn column(values: impl IntoIterator<Item = f64>) -> Mat<f64> {
    let values: Vec<f64> = values.into_iter().collect();
    Mat::from_fn(values.len(), 1, |i, _| values[i])
}

/// Log-sums may be minus infinity, on every backend alike.
fn finite(values: &[f64]) -> Mat<f64> {
    column(values.iter().map(|v| if *v == f64::NEG_INFINITY { -1e3 } else { *v }))
}

struct Case {
    shape: (usize, usize),
    positives: Positives,
    loss: Loss,
    negatives: NegativeSampling,
    start: &'static str,
}

/// How close a result has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Features in fp32, whatever the mode.
    Features,
    /// Of similarities.
    Similarities,
    /// Counts and copies.
    Exact,
}

type Results = Vec<(&'static str, Kind, Mat<f64>)>;

/// Everything a backend computes from one problem.
fn everything<B: Backend>(b: &B, case: &Case) -> Results {
    use Kind::{Exact, Features, Similarities};
    let ((n_x, n_y), p) = (case.shape, &case.positives);
    let (d1, d2, r) = (19, 23, 10);
    let (x, y) = (b.load(&features(n_x, d1, 1)).unwrap(), b.load(&features(n_y, d2, 2)).unwrap());
    let mut out: Results = vec![("x", Exact, host(b, &x)), ("gram", Features, b.gram(&x).unwrap())];
    let (zx, norms) = b.encode(&x, small(r, d1, 3).as_ref()).unwrap();
    let (zy, _) = b.encode(&y, small(r, d2, 4).as_ref()).unwrap();
    out.push(("norms", Features, column(b.group().concat(norms.clone()).unwrap())));
    out.push(("zx", Similarities, host(b, &zx)));
    out.push(("linear", Features, host(b, &b.linear(&x, small(7, d1, 6).as_ref()).unwrap())));
    out.push(("scaled", Features, host(b, &b.scale_rows(&x, &norms).unwrap())));
    let kernel = b.kernel(&Kernel::default(), &x, small(11, d1, 7).as_ref()).unwrap();
    out.push(("kernel", Features, host(b, &kernel)));
    let stacked = b.hstack(&[(1.0, &x), (0.5, &x)]).unwrap();
    out.push(("hstack", Features, host(b, &stacked)));
    let ids: Vec<u32> = (0..n_x as u32).rev().step_by(2).chain([3, 3]).collect();
    out.push(("select", Exact, host(b, &b.select(&x, &ids).unwrap())));
    out.push(("select z", Similarities, host(b, &b.select(&zx, &ids).unwrap())));
    out.push(("rows", Exact, host(b, &b.rows(&x, 100..n_x - 7).unwrap())));
    let given = (case.start == "dense").then(|| b.load(&features(n_x, n_y, 5)).unwrap());
    let s = match (case.start, &given) {
        ("zeros", _) => Similarity::Zeros(n_x, n_y),
        ("dense", Some(s)) => Similarity::Dense(s),
        _ => Similarity::Embeddings(&zx, &zy),
    };
    let w = b.weights(s, &case.loss, p, case.negatives).unwrap();
    out.push(("loss", Similarities, column([w.loss_rows, w.loss_cols])));
    out.push(("log-sums of rows", Similarities, finite(&w.rows.log_neg)));
    out.push(("log-sums of columns", Similarities, finite(&w.cols.log_neg)));
    out.push(("psi of rows", Similarities, column(w.rows.dpsi.iter().copied())));
    out.push(("psi of columns", Similarities, column(w.cols.dpsi.iter().copied())));
    out.push(("cross", Similarities, b.cross(s, &w, &x, &y).unwrap()));
    out.push(("cross, other side", Similarities, b.cross(s, &w, &stacked, &y).unwrap()));
    out.push(("apply", Similarities, host(b, &b.apply(s, &w, &y).unwrap())));
    out.push(("apply_transpose", Similarities, host(b, &b.apply_transpose(s, &w, &x).unwrap())));
    out.push(("pairs", Similarities, column(b.positive_similarities(s, p).unwrap())));
    // Rivals of equal rank to a rounding may swap: on one device all ranks still count alike.
    let ranks = b.standings(s, p, false).unwrap();
    let ranks = ranks.iter().map(|q| q.rank(Ties::LowerIndex).unwrap_or(f64::MAX));
    out.push(("ranks", Similarities, column(ranks.map(f64::ln))));
    if case.start == "embeddings" {
        let (gx, gy) = b.gradients(&zx, &zy, &w).unwrap();
        out.push(("gx", Similarities, host(b, &gx)));
        out.push(("gy", Similarities, host(b, &gy)));
        out.push(("backward", Similarities, b.encode_backward(&x, &zx, &norms, &gx).unwrap()));
        let top = b.top_k(&zx, &zy, 3).unwrap();
        out.push(("top scores", Similarities, column(top.scores.iter().map(|v| f64::from(*v)))));
    } else {
        out.push(("dense", Similarities, b.dense(s, &w).unwrap()));
    }
    out
}

fn error(got: MatRef<'_, f64>, want: MatRef<'_, f64>) -> f64 {
    (got - want).norm_l2() / want.norm_l2().max(f64::MIN_POSITIVE)
}

fn bits(results: &Results) -> Vec<u64> {
    let of = |m: &Mat<f64>| -> Vec<u64> {
        (0..m.ncols()).flat_map(|j| (0..m.nrows()).map(move |i| m[(i, j)].to_bits())).collect()
    };
    results.iter().flat_map(|(_, _, m)| of(m)).collect()
}

fn check(case: &Case, mode: Mode, sizes: &[usize]) {
    let want = everything(&Cpu::<f64>::new(1).unwrap(), case);
    let rounding = match mode {
        Mode::Fp16 => 5e-5,
        Mode::Bf16 => 4e-4,
        Mode::Fp32 => 5e-7,
    };
    // A hinge counts: an entry within rounding of its kink may fall on either side.
    let kink = if case.loss.kind == LossKind::TripletHard { 6e-3 } else { 0.0 };
    let storage = match mode {
        Mode::Fp16 => 4e-4,
        Mode::Bf16 => 3.2e-3,
        Mode::Fp32 => 0.0,
    };
    let limit = 4.0 * rounding / case.loss.tau + storage + kink + 2e-6;
    for &size in sizes {
        let run = || threads::run(size, |group| everything(&open(mode, group), case));
        let all = run();
        for (rank, got) in all.iter().enumerate() {
            assert!(bits(got) == bits(&all[0]), "rank {rank} of {size} differs from rank 0");
        }
        for ((name, kind, got), (_, _, want)) in all[0].iter().zip(&want) {
            let limit = match kind {
                Kind::Exact => 0.0,
                // Sums of up to 4096 products in fp32.
                Kind::Features => 2e-6,
                // A rank counts rivals within a rounding of the positive.
                Kind::Similarities if *name == "ranks" => limit.max(1e-2),
                Kind::Similarities => limit,
            };
            let error = error(got.as_ref(), want.as_ref());
            let what = (case.loss.kind, case.loss.tau, case.shape, case.negatives, case.start);
            assert!(error <= limit, "{name}, {size} ranks, {mode:?}, {what:?}: {error:e} above {limit:e}");
        }
        // Once for clip and once for an additive loss is enough for that.
        if matches!(case.loss.kind, LossKind::Clip | LossKind::Sigmoid) && size == 3 {
            assert!(run().iter().all(|again| bits(again) == bits(&all[0])), "not the same again");
        }
    }
}

fn losses() -> [Loss; 5] {
    let of = |kind, tau, nu| Loss { nu, ..Loss::new(kind, tau) };
    [
        of(LossKind::Clip, 0.2, 1.0),
        // Running maxima.
        of(LossKind::Clip, 0.012, 1.5),
        of(LossKind::Sigmoid, 0.5, 1.5),
        of(LossKind::TripletHard, 1.0, 1.0),
        of(LossKind::TripletSmooth, 0.5, 1.0),
    ]
}

const SAMPLED: NegativeSampling = NegativeSampling::Sampled { per_anchor: 100, seed: 3 };

/// Blocks are of 512 rows: of three ranks one has none.
const N: usize = 530;

#[test]
fn one_to_one() {
    if !on_a_device("cuda_ranks::one_to_one") {
        return;
    }
    let case = |loss, negatives| Case {
        shape: (N, N),
        positives: Positives::diagonal(N),
        loss,
        negatives,
        start: "embeddings",
    };
    let [clip, cold, sigmoid, hinge, _] = losses();
    check(&case(clip, NegativeSampling::All), Mode::Fp16, &[1, 3]);
    check(&case(cold, NegativeSampling::All), Mode::Fp32, &[2]);
    check(&case(sigmoid, NegativeSampling::All), Mode::Bf16, &[3]);
    // Counts rivals: the hinge's kinks are where the tolerance says.
    check(&case(hinge, NegativeSampling::All), Mode::Fp32, &[2]);
}

#[test]
fn sampled_negatives() {
    if !on_a_device("cuda_ranks::sampled_negatives") {
        return;
    }
    for (k, loss) in losses().into_iter().skip(1).enumerate() {
        let (shape, positives) = match k % 2 {
            0 => ((N, N), Positives::diagonal(N)),
            _ => ((300, 420), ragged(300, 420)),
        };
        let case = Case { shape, positives, loss, negatives: SAMPLED, start: "embeddings" };
        check(&case, Mode::Fp32, if k == 0 { &[3] } else { &[2] });
    }
}

#[test]
fn rectangular_and_ragged() {
    if !on_a_device("cuda_ranks::rectangular_and_ragged") {
        return;
    }
    // Two blocks of rows and of columns, the last of which are small.
    let shape = (514, 530);
    let [clip, _, sigmoid, _, smooth] = losses();
    let diagonal = Loss { eps_by: EpsBy::Diagonal, eps_pos: 0.5, ..clip };
    for (k, loss) in [diagonal, sigmoid, smooth].into_iter().enumerate() {
        let positives = ragged(shape.0, shape.1);
        let case = Case { shape, positives, loss, negatives: NegativeSampling::All, start: "embeddings" };
        check(&case, if k == 0 { Mode::Fp16 } else { Mode::Fp32 }, if k == 0 { &[3] } else { &[2] });
    }
}

#[test]
fn starts_without_embeddings() {
    if !on_a_device("cuda_ranks::starts_without_embeddings") {
        return;
    }
    let shape = (515, 530);
    for (k, loss) in losses().into_iter().take(4).enumerate() {
        let start = if k % 2 == 0 { "zeros" } else { "dense" };
        let positives = ragged(shape.0, shape.1);
        let case = Case { shape, positives, loss, negatives: NegativeSampling::All, start };
        check(&case, Mode::Fp16, if k == 0 { &[2, 3] } else { &[2] });
    }
}

/// How far the products of two models' encoders are apart: the singular vectors themselves may turn.
fn distance(a: &Model, b: &Model) -> f64 {
    let product = |m: &Model| {
        let c = &m.components[0];
        c.x.matrix.transpose() * &c.y.matrix
    };
    error(product(a).as_ref(), product(b).as_ref())
}

fn model_bits(model: &Model) -> Vec<u64> {
    let of = |m: &Mat<f64>| -> Vec<u64> {
        (0..m.ncols()).flat_map(|j| (0..m.nrows()).map(move |i| m[(i, j)].to_bits())).collect()
    };
    model.components.iter().flat_map(|c| [of(&c.x.matrix), of(&c.y.matrix)].concat()).collect()
}

/// Pairs of features with a few directions in common, of falling strength: triplets that are well apart.
fn related(n: usize) -> (HostMatrix, HostMatrix) {
    let mut latent = small(n, 6, 9);
    (0..6).for_each(|j| latent.col_mut(j).iter_mut().for_each(|v| *v *= 0.8f64.powi(j as i32)));
    let side = |d: usize, seed: u64| {
        let m = &latent * small(6, d, seed) + small(n, d, seed + 1) * faer::Scale(0.2);
        let values = (0..n * d).map(|k| m[(k / d, k % d)] as f32).collect();
        HostMatrix::from_f32("features", n, d, values).unwrap()
    };
    (side(12, 20), side(10, 30))
}

#[test]
fn fits() {
    if !on_a_device("cuda_ranks::fits") {
        return;
    }
    let (x, y) = related(N);
    let positives = Positives::diagonal(N);
    let data = Data { x: &x, y: &y, positives: &positives };
    let linear = FitOptions { whiten: Some(0.1), ..FitOptions::new(3) };
    let refine = RefineOptions { max_steps: 2, ..RefineOptions::default() };
    let refined = FitOptions { refine: Some(refine), ..linear.clone() };
    let kernel = KernelOptions::new(Kernel::default(), Landmarks::Count(20));
    let nystrom = FitOptions { kernel: Some(kernel), ..FitOptions::new(3) };
    for options in [linear, refined, nystrom] {
        let run = |size| {
            threads::run(size, |group| {
                let gpu = open(Mode::Fp32, group.clone());
                group.conclude(fit(&gpu, data, None, &options)).unwrap()
            })
        };
        let (alone, info) = fit(&open(Mode::Fp32, Group::default()), data, None, &options).unwrap();
        for size in [2, 3] {
            let all = run(size);
            for (model, other) in &all {
                assert!(model_bits(model) == model_bits(&all[0].0), "ranks have different models");
                // fp32 sums cut elsewhere, over a few updates.
                let error = distance(model, &alone);
                assert!(error <= 1e-4, "{size} ranks, {options:?}: {error:e}");
                let (a, b) = (other.final_loss.unwrap(), info.final_loss.unwrap());
                assert!((a - b).abs() <= 1e-5 * b.abs(), "{a} {b}");
            }
        }
        let (first, again) = (run(2), run(2));
        assert!(model_bits(&first[0].0) == model_bits(&again[0].0), "not the same again");
    }
}

#[test]
fn ranks_bring_rows_of_their_own_in_types_of_their_own() {
    if !on_a_device("cuda_ranks::ranks_bring_rows_of_their_own_in_types_of_their_own") {
        return;
    }
    let (n, d) = (700, 9);
    let values: Vec<f16> = (0..n * d).map(|k| f16::from_f64(((k * 37 % 101) as f64 - 50.0) / 64.0)).collect();
    let want = Mat::from_fn(n, d, |i, j| f64::from(values[i * d + j]));
    let wide: Vec<f32> = values.iter().map(|v| f32::from(*v)).collect();
    for cuts in [[0, 0, 3, 700], [0, 600, 600, 700], [0, 512, 699, 700]] {
        let all = threads::run(3, |group| {
            let gpu = open(Mode::Fp16, group.clone());
            let own = cuts[group.rank()]..cuts[group.rank() + 1];
            let narrow = MatView::from_slice(&values, n, d).unwrap();
            let single = MatView::from_slice(&wide, n, d).unwrap();
            let source: &dyn RowSource = if group.rank() == 1 { &single } else { &narrow };
            // All rows everywhere, in two types; then each rank its own.
            let whole = host(&gpu, &gpu.load(source).unwrap());
            let local = share_rows(&group, RowRange::new(source, own).unwrap()).unwrap();
            let x = gpu.load(&local).unwrap();
            let zeros = gpu.screen(&local).unwrap();
            group.conclude(Ok((whole, host(&gpu, &x), zeros))).unwrap()
        });
        assert!(all.iter().all(|(a, b, zeros)| a == &want && b == &want && *zeros == 0));
    }
}

#[test]
fn triplets_are_those_of_rank_0() {
    if !on_a_device("cuda_ranks::triplets_are_those_of_rank_0") {
        return;
    }
    let c = small(130, 110, 5);
    let methods = [SvdMethod::Full, SvdMethod::Randomized { oversample: 8, power_iterations: 2, seed: 1 }];
    for method in methods {
        let want = Cpu::<f64>::new(1).unwrap().top_r(c.as_ref(), 9, method).unwrap();
        let all = threads::run(3, |group| open(Mode::Fp16, group).top_r(c.as_ref(), 9, method).unwrap());
        for t in &all {
            assert!(t.u == all[0].u && t.v == all[0].v && t.s == all[0].s && t.all == all[0].all);
            // Through the Gram matrix in float64, whose condition is that of the matrix squared.
            t.s.iter().zip(&want.s).for_each(|(a, b)| assert!((a - b).abs() <= 1e-9 * b, "{a} {b}"));
        }
    }
}

#[test]
fn one_rank_that_fails_ends_all_by_name() {
    if !on_a_device("cuda_ranks::one_rank_that_fails_ends_all_by_name") {
        return;
    }
    use std::ops::ControlFlow;
    use unicon::control::Phase;
    let (x, y) = related(N);
    let positives = Positives::diagonal(N);
    let data = Data { x: &x, y: &y, positives: &positives };
    for phase in [Phase::Features, Phase::Statistics, Phase::Weights] {
        let said = threads::run(3, |group| {
            let gpu = open(Mode::Fp16, group.clone());
            let ends = group.rank() == 1;
            gpu.control().set_hook(Some(Box::new(move |p| {
                if ends && p.phase == phase { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })));
            group.conclude(fit(&gpu, data, None, &FitOptions::new(3))).unwrap_err().to_string()
        });
        assert_eq!(said, ["communicator: rank 1: cancelled", "cancelled", "communicator: rank 1: cancelled"]);
    }
    // A device without room for what it must hold.
    let said = threads::run(2, |group| {
        let memory_limit = (group.rank() == 1).then_some(40_000);
        let options = Options { memory_limit, ..Options::default() };
        let gpu = Cuda::open(0, options).unwrap().with_group(group.clone());
        group.conclude(fit(&gpu, data, None, &FitOptions::new(3))).unwrap_err().to_string()
    });
    assert!(said[1].starts_with("out of memory: "), "{said:?}");
    assert_eq!(said[0], format!("communicator: rank 1: {}", said[1]));
}
