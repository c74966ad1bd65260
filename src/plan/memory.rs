//! How much a fit holds: one count of its sample-sized matrices serves the prediction of `unicon plan`, of a rank's share
//! of the rows, and the workspace queries of the C library.
//!
//! Counts are floats, exact below 2^53: a query may be about any sizes.

use super::traffic::Shares;
use super::{Job, Rates, devices};
use crate::backend::cpu::{PIECE, STAGE_ROWS};
use crate::fit::{BestOptions, Center, Dim, FitOptions, Init, KernelOptions, Landmarks};
use crate::similarity::schedule::TILE;

/// The sizes of a fit, of x and of y.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) rows: (usize, usize),
    /// Columns.
    pub(crate) widths: (usize, usize),
    /// Validation rows.
    pub(crate) validation: (usize, usize),
}

fn wide((a, b): (usize, usize)) -> (f64, f64) {
    (a as f64, b as f64)
}

/// Bytes of so many elements of `element` bytes; the largest number where they are more.
fn bytes(elements: f64, element: u64) -> u64 {
    (elements * element as f64) as u64
}

/// One side's solver features: elements held from mapping on, elements needed only while mapping, and their width.
#[derive(Clone, Copy)]
pub(super) struct Side {
    held: f64,
    passing: f64,
    width: f64,
}

impl Side {
    /// `n` rows of `d` columns as they are, or whitened.
    pub(super) fn linear(whiten: bool, n: f64, d: f64) -> Self {
        Self { held: n * d, passing: if whiten { n * d } else { 0.0 }, width: d }
    }

    fn of(kernel: Option<&KernelOptions>, whiten: bool, n: f64, d: f64) -> Self {
        let Some(kernel) = kernel else { return Self::linear(whiten, n, d) };
        if kernel.landmarks == Landmarks::Exact {
            // The Gram matrix and its points pass; both of its roots are held.
            return Self { held: 2.0 * n * n, passing: n * n + n * d, width: n };
        }
        // The raw features, the landmarks and their Gram matrix, and kernel values pass; features `n x m` are held.
        let m = kernel.landmarks.count(n as usize) as f64;
        let whitened = if whiten { n * m } else { 0.0 };
        Self { held: n * m, passing: n * d + m * d + m * m + n * m + whitened, width: m }
    }
}

/// Elements of both sides' features at most: one side is mapped after the other.
pub(super) fn features(x: Side, y: Side) -> f64 {
    x.held + y.held + x.passing.max(y.passing)
}

/// Elements of embeddings of dimension `r` and, with gradients, those of the loss in them.
pub(super) fn embeddings((n_x, n_y): (f64, f64), r: f64, gradients: bool) -> f64 {
    (n_x + n_y) * r * if gradients { 2.0 } else { 1.0 }
}

/// Validation rows of one side: raw, mapped, kernel values and embeddings.
fn validation(m: f64, d: f64, width: f64, r: f64) -> f64 {
    m * d + 2.0 * m * width + m * r
}

/// Bytes of sample-sized matrices that a fit holds at most, with elements of `element` bytes.
pub(crate) fn of_fit(o: &FitOptions, sizes: Sizes, element: u64) -> u64 {
    let ((n_x, n_y), (d1, d2), (m_x, m_y)) = (wide(sizes.rows), wide(sizes.widths), wide(sizes.validation));
    let r = o.dim as f64;
    // Batches are at most twice their nominal size: what does not fill one is spread over the others.
    let batch = o.batches.map(|b| 2.0 * b.size as f64);
    let cut = |n: f64| batch.map_or(n, |b| n.min(b));
    // A batched kernel fit maps one batch at a time.
    let rows = if o.kernel.is_some() { (cut(n_x), cut(n_y)) } else { (n_x, n_y) };
    let side = |n, d| Side::of(o.kernel.as_ref(), o.whiten.is_some(), n, d);
    let (x, y) = (side(rows.0, d1), side(rows.1, d2));
    // The features of a batch, and features with scaled rows.
    let copies = f64::from(batch.is_some() && o.kernel.is_none()) + f64::from(o.scale_inputs);
    let copies = copies * (cut(rows.0) * x.width + cut(rows.1) * y.width);
    // A line search holds the embeddings of two points, refinement those of one and their gradients.
    let embeddings = embeddings(rows, r, o.damping.is_some() || o.refine.is_some());
    let similarity = match o.init {
        Init::Similarity(_) => n_x * n_y,
        Init::Gaussian => cut(n_x) * cut(n_y),
        _ => 0.0,
    };
    let validation = match o.batches.is_some() || o.refine.is_some() {
        true => validation(m_x, d1, x.width, r) + validation(m_y, d2, y.width, r),
        false => 0.0,
    };
    bytes(features(x, y) + copies + embeddings + similarity + validation, element)
}

/// Bytes of sample-sized matrices that the preset `best` holds at most, with elements of `element` bytes.
pub(crate) fn of_best(o: &BestOptions, sizes: Sizes, element: u64) -> u64 {
    let ((n_x, n_y), (d1, d2), (m_x, m_y)) = (wide(sizes.rows), wide(sizes.widths), wide(sizes.validation));
    let side = |n, d| Side::of(o.kernel.as_ref(), false, n, d);
    let (x, y) = (side(n_x, d1), side(n_y, d2));
    let r = match o.dim {
        Dim::Fixed(r) => r as f64,
        _ => x.width.min(y.width),
    };
    // Without validation rows some, or all where there are few, of the others are scored on. For kernels they are
    // then mapped.
    let (m_x, m_y) = if m_x + m_y == 0.0 { (n_x, n_y) } else { (m_x, m_y) };
    let validation = validation(m_x, d1, x.width, r) + validation(m_y, d2, y.width, r);
    // Whether to centre is chosen on these rows beside a column of ones.
    let centring = match o.center == Center::Auto && o.kernel.is_none() && o.start.is_none() {
        true => 2.0 * (m_x * (x.width + 1.0) + m_y * (y.width + 1.0)) + n_x + n_y,
        false => 0.0,
    };
    bytes(features(x, y) + embeddings((n_x, n_y), r, true).max(centring) + validation, element)
}

/// Bytes of the exact kernel solver on `n` rows, a side: K, its shifted copy, eigenvectors, workspace, two powers and two
/// backend copies, in float64.
pub(crate) fn exact_kernel(n: f64) -> f64 {
    8.0 * 8.0 * n * n
}

/// Bytes of the two copies of embeddings and of the gradients in `unicon_weights_create` and `unicon_contrastive_grad`.
pub(crate) fn of_weights(rows: (usize, usize), r: usize, element: u64) -> u64 {
    bytes(embeddings(wide(rows), r as f64, true), element)
}

/// Bytes that a rank holds for every row of all ranks: the relation, one-to-one. Sampled negatives need shuffled orders,
/// log-sums and coefficients of all rows; so do hosts of devices, with lists of what tiles leave out. Measured, as are those
/// below.
const ROW: f64 = 3.0;
const ROW_SAMPLED: f64 = 50.0;
const ROW_DEVICE: f64 = 100.0;
/// Bytes for every row of a side while its rows are compared, before the fit: the digests of a rank's own rows; those of
/// all, what sorts them, and which rows are equal, of both sides.
const DIGEST: f64 = 16.0;
const COMPARED: f64 = 16.0 + 12.0 + 2.0 * 4.0;
/// Bytes that a rank holds for every row of its own beside features and embeddings: coefficients, log-sums and norms, and
/// what is put together to make them. After an update from zeros alone, and with embeddings.
const OWN_ZEROS: f64 = 30.0;
const OWN: f64 = 45.0;
/// The program itself, with its stacks and buffers.
const PROGRAM: f64 = 16e6;

/// Bytes of memory of a rank.
pub(super) struct RankMemory {
    /// For its share of the rows.
    pub(super) own: f64,
    /// For the rows of all ranks.
    pub(super) replicated: f64,
    /// Pages of its rows of the input files.
    pub(super) mapped: f64,
}

/// What a rank of a job holds.
pub(super) fn of_rank(job: &Job, rates: &Rates) -> RankMemory {
    let shares = |n: f64| Shares::new(n, TILE as f64, job.ranks);
    let (x, y) = (shares(job.n_x), shares(job.n_y));
    let (m_x, m_y) = (x.most(), y.most());
    let own = rates.bytes * (m_x * job.d.0 + m_y * job.d.1);
    // Given back before the fit needs its own: what it will not need itself counts.
    let compared = DIGEST * m_x.max(m_y) + COMPARED * job.n_x.max(job.n_y);
    let (held, beyond) = match rates.overlap {
        true => (devices::memory(job, rates.bytes), 0.0),
        false => {
            let host = host(job, rates.bytes, (&x, &y));
            (host, (compared - host).max(0.0))
        }
    };
    let row = match job.sample() {
        _ if rates.overlap => ROW_DEVICE,
        Some(_) if job.passes() > 0.0 => ROW_SAMPLED,
        _ => ROW,
    };
    RankMemory { own: PROGRAM + held, replicated: row * (job.n_x + job.n_y) + beyond, mapped: own }
}

/// Bytes of memory of a CPU rank's share of the rows.
fn host(job: &Job, bytes: f64, (x, y): (&Shares, &Shares)) -> f64 {
    let (r, ranks) = (job.dim, job.ranks);
    let (d1, d2) = job.d;
    let (wide, narrow) = (d1.max(d2), d1.min(d2));
    let (m_x, m_y) = (x.most(), y.most());
    let rows = if d1 < d2 { m_y } else { m_x };
    let features = features(Side::linear(job.whiten, m_x, d1), Side::linear(job.whiten, m_y, d2));
    // Gradients are lists before they are matrices.
    let lists = if job.gradients > 0.0 { (m_x + m_y) * r } else { 0.0 };
    let embeddings = embeddings((m_x, m_y), r, job.gradients > 0.0) + lists;
    let product = rows.min(STAGE_ROWS as f64) * narrow;
    // Two pieces of the columns that come past.
    let streams = if ranks > 1.0 { 2.0 * (PIECE as f64).min(job.n_y) * (r + narrow) } else { 0.0 };
    let windows = match job.sample() {
        // Shuffled rows of both sides, fetched.
        Some(m) if ranks > 1.0 => rows * (2.0 * r + wide + narrow) + (rows + m) * (r + narrow),
        _ => 0.0,
    };
    // Sums of `d1 x d2` on the way up the tree, as parts to and from other ranks, and as the result.
    let parts = x.most_parts().max(y.most_parts());
    let sums = 8.0 * d1 * d2 * (2.0 * parts + 6.0);
    let numbers = if job.passes() > 0.0 { OWN } else { OWN_ZEROS } * (m_x + m_y);
    bytes * (features + embeddings + product + streams + windows) + numbers + sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::cpu::Cpu;
    use crate::error::{Error, Result};
    use crate::fit::{Batches, DampingOptions, Data, MinibatchOptions, RefineOptions, fit, fit_best};
    use crate::io::HostMatrix;
    use crate::kernel::{Kernel, KernelKind};
    use crate::positives::Positives;
    use crate::spectral::SvdMethod;
    use rand::{Rng, SeedableRng};
    use std::sync::Arc;

    fn random(n: usize, d: usize, seed: u64) -> HostMatrix {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        HostMatrix::from_f64("m", n, d, (0..n * d).map(|_| rng.random_range(-1.0..1.0)).collect()).unwrap()
    }

    /// A fit under exactly the limit that the query answers succeeds, its peak is within it, and under a limit below the
    /// peak it fails.
    #[test]
    fn the_answer_is_enough_and_the_limit_is_kept() {
        let plain = FitOptions { svd: SvdMethod::Full, ..FitOptions::new(3) };
        let kernel = |landmarks| Some(KernelOptions::new(Kernel::new(KernelKind::Rbf), landmarks));
        let batches = |size| Some(Batches::new(size));
        let all = [
            plain.clone(),
            FitOptions { whiten: Some(0.1), scale_inputs: true, ..plain.clone() },
            FitOptions { batches: batches(30), scale_inputs: true, ..plain.clone() },
            FitOptions { batches: batches(41), whiten: Some(0.1), ..plain.clone() },
            FitOptions { kernel: kernel(Landmarks::Exact), ..plain.clone() },
            FitOptions { kernel: kernel(Landmarks::Exact), batches: batches(30), ..plain.clone() },
            FitOptions { kernel: kernel(Landmarks::Count(17)), whiten: Some(0.1), ..plain.clone() },
            FitOptions {
                kernel: kernel(Landmarks::Rows(vec![1, 5, 9, 2])),
                scale_inputs: true,
                ..plain.clone()
            },
            FitOptions { init: Init::Similarity(faer::Mat::zeros(80, 80)), ..plain.clone() },
            FitOptions { damping: Some(DampingOptions::default()), scale_inputs: true, ..plain.clone() },
            FitOptions { refine: Some(RefineOptions::default()), whiten: Some(0.1), ..plain.clone() },
            FitOptions {
                refine: Some(RefineOptions::default()),
                kernel: kernel(Landmarks::Count(9)),
                ..plain
            },
        ];
        for o in &all {
            enough(of_fit(o, SIZES, 4), &format!("{o:?}"), |cpu, data, held| {
                fit(cpu, data, held, o).map(|_| ())
            });
        }
    }

    const SIZES: Sizes = Sizes { rows: (80, 80), widths: (7, 5), validation: (20, 20) };

    /// Runs a fit under a limit of `answer` and under one that its peak shows to be too small.
    fn enough(answer: u64, what: &str, fit: impl Fn(&Cpu<f32>, Data<'_>, Option<Data<'_>>) -> Result<()>) {
        let (x, y, p) = (random(80, 7, 1), random(80, 5, 2), Positives::diagonal(80));
        let (vx, vy, vp) = (random(20, 7, 3), random(20, 5, 4), Positives::diagonal(20));
        let data = Data { x: &x, y: &y, positives: &p };
        let held = Data { x: &vx, y: &vy, positives: &vp };
        let run = |limit| {
            let cpu = Cpu::<f32>::with(1, Some(limit), Arc::default()).unwrap();
            fit(&cpu, data, Some(held)).map(|()| cpu.memory().1)
        };
        let peak = run(answer).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(peak <= answer && 4 * peak >= answer, "peak {peak}, answered {answer}: {what}");
        assert!(matches!(run(peak - 1), Err(Error::OutOfMemory { .. })), "{what}");
    }

    #[test]
    fn the_answer_is_enough_for_the_preset() {
        let kernel = Some(KernelOptions::new(Kernel::new(KernelKind::Rbf), Landmarks::Count(17)));
        let plain = BestOptions::new(Dim::Fixed(3));
        for o in [
            plain.clone(),
            BestOptions { dim: Dim::Auto, tau_auto: true, ..plain.clone() },
            BestOptions { sample: None, final_loss: true, ..plain.clone() },
            BestOptions {
                minibatch: Some(MinibatchOptions { batch: 8, min_steps: 5, ..MinibatchOptions::default() }),
                sample: Some(8),
                ..plain.clone()
            },
            BestOptions { kernel, ..plain },
        ] {
            let what = format!("{o:?}");
            enough(of_best(&o, SIZES, 4), &what, |cpu, data, held| fit_best(cpu, data, held, &o).map(|_| ()));
            // Without validation rows training rows are used.
            let none = Sizes { validation: (0, 0), ..SIZES };
            enough(of_best(&o, none, 4), &what, |cpu, data, _| fit_best(cpu, data, None, &o).map(|_| ()));
        }
    }

    #[test]
    fn absurd_sizes_saturate() {
        let huge = usize::MAX;
        let sizes = Sizes { rows: (huge, huge), widths: (huge, huge), validation: (huge, huge) };
        assert_eq!(of_fit(&FitOptions::new(3), sizes, 4), u64::MAX);
        assert_eq!(of_best(&BestOptions::new(Dim::Auto), sizes, 4), u64::MAX);
        assert_eq!(of_weights((huge, huge), huge, 8), u64::MAX);
    }
}
