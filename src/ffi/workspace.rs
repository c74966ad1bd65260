//! How many bytes of sample-sized matrices a call holds at most, before it is made.

use super::bindings::*;
use super::context::context_of;
use super::matrix::{Precision, check_out};
use super::structs::{count, read};
use super::{entry, options};
use crate::fit::{BestOptions, Center, FitOptions, Init, KernelOptions, Landmarks, Rank};

/// A product of sizes in elements; saturates, since a query may be about anything.
fn elements(rows: usize, cols: usize) -> u64 {
    (rows as u64).saturating_mul(cols as u64)
}

fn sum(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |a, &b| a.saturating_add(b))
}

/// The two copies of embeddings and the gradients, of `unicon_weights_create` and `unicon_contrastive_grad`.
fn of_weights(n_x: usize, n_y: usize, r: usize, element: u64) -> u64 {
    sum(&[elements(n_x, r), elements(n_y, r)]).saturating_mul(2).saturating_mul(element)
}

/// The sizes of a fit, of x and of y.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) rows: (usize, usize),
    pub(super) widths: (usize, usize),
    /// Validation rows.
    pub(super) held_out: (usize, usize),
}

/// One side's solver features: elements held from mapping on, elements needed only while mapping, and their width.
struct Side {
    held: u64,
    passing: u64,
    width: usize,
}

fn side(kernel: Option<&KernelOptions>, whiten: bool, n: usize, d: usize) -> Side {
    let Some(kernel) = kernel else {
        let x = elements(n, d);
        return Side { held: x, passing: if whiten { x } else { 0 }, width: d };
    };
    match &kernel.landmarks {
        // The Gram matrix and its points pass; both of its roots are held.
        Landmarks::Exact => {
            let k = elements(n, n);
            Side { held: k.saturating_mul(2), passing: sum(&[k, elements(n, d)]), width: n }
        }
        some => nystrom(whiten, n, d, some.count(n)),
    }
}

/// The raw features, the landmarks and their Gram matrix, and kernel values pass; features `n x m` are held.
fn nystrom(whiten: bool, n: usize, d: usize, m: usize) -> Side {
    let phi = elements(n, m);
    let whitened = if whiten { phi } else { 0 };
    let passing = sum(&[elements(n, d), elements(m, d), elements(m, m), phi, whitened]);
    Side { held: phi, passing, width: m }
}

/// Validation rows of one side: raw, mapped, kernel values and embeddings.
fn judged(m: usize, d: usize, width: usize, r: usize) -> u64 {
    sum(&[elements(m, d), elements(m, width).saturating_mul(2), elements(m, r)])
}

/// Bytes of sample-sized matrices that a fit holds at most.
pub(super) fn of_fit(o: &FitOptions, sizes: Sizes, element: u64) -> u64 {
    let Sizes { rows: (n_x, n_y), widths: (d1, d2), held_out } = sizes;
    // Batches are at most twice their nominal size: what does not fill one is spread over the others.
    let batch = o.batches.map(|b| b.size.saturating_mul(2));
    let cut = |n: usize| batch.map_or(n, |b| n.min(b));
    // A batched kernel fit maps one batch at a time.
    let (rows_x, rows_y) = if o.kernel.is_some() { (cut(n_x), cut(n_y)) } else { (n_x, n_y) };
    let of_side = |n, d| side(o.kernel.as_ref(), o.whiten.is_some(), n, d);
    let (x, y) = (of_side(rows_x, d1), of_side(rows_y, d2));
    let features = sum(&[elements(cut(rows_x), x.width), elements(cut(rows_y), y.width)]);
    let copies = match (batch.is_some() && o.kernel.is_none(), o.scale_inputs) {
        (true, true) => features.saturating_mul(2),
        (false, false) => 0,
        _ => features,
    };
    // A line search holds the embeddings of two points, refinement those of one and their gradients.
    let points = if o.damping.is_some() || o.refine.is_some() { 2 } else { 1 };
    let embeddings = sum(&[elements(rows_x, o.rank), elements(rows_y, o.rank)]).saturating_mul(points);
    let similarity = if matches!(o.init, Init::Similarity(_)) { elements(n_x, n_y) } else { 0 };
    let validation = match o.batches.is_some() || o.refine.is_some() {
        true => sum(&[judged(held_out.0, d1, x.width, o.rank), judged(held_out.1, d2, y.width, o.rank)]),
        false => 0,
    };
    let parts = [x.held, y.held, x.passing.max(y.passing), copies, embeddings, similarity, validation];
    sum(&parts).saturating_mul(element)
}

/// Bytes of sample-sized matrices that the preset `best` holds at most.
pub(super) fn of_best(o: &BestOptions, sizes: Sizes, element: u64) -> u64 {
    let Sizes { rows: (n_x, n_y), widths: (d1, d2), held_out } = sizes;
    let of_side = |n, d| side(o.kernel.as_ref(), false, n, d);
    let (x, y) = (of_side(n_x, d1), of_side(n_y, d2));
    let rank = match o.rank {
        Rank::Fixed(r) => r,
        _ => x.width.min(y.width),
    };
    // Embeddings and gradients of the refinement; twice the embeddings of the validation rows while candidates are judged.
    let embeddings = sum(&[elements(n_x, rank), elements(n_y, rank)]).saturating_mul(2);
    // Without validation rows some, or all where there are few, of the others are judged on. They are then not copied but
    // rotated, and for kernels mapped.
    let judges = match held_out {
        (0, 0) => (n_x, n_y),
        some => some,
    };
    let validation = sum(&[judged(judges.0, d1, x.width, rank), judged(judges.1, d2, y.width, rank)]);
    // Whether to centre is judged on these rows beside a column of ones, and rotated into the eigenbases of centred moments.
    let twice = |m: usize, width: usize| elements(m, width.saturating_add(1)).saturating_mul(2);
    let centring = match o.center == Center::Auto && o.kernel.is_none() && o.start.is_none() {
        true => {
            sum(&[twice(judges.0, x.width), twice(judges.1, y.width), elements(n_x, 1), elements(n_y, 1)])
        }
        false => 0,
    };
    let parts = [x.held, y.held, x.passing.max(y.passing), embeddings.max(centring), validation];
    sum(&parts).saturating_mul(element)
}

entry!(
    on context_of(context);
    fn unicon_fit_workspace(
        context: *mut unicon_context_t,
        options: *const unicon_fit_options_t,
        n_x: i64,
        n_y: i64,
        d1: i64,
        d2: i64,
        dtype: i32,
        bytes: *mut u64,
    ) |context| {
        check_out("bytes", bytes)?;
        // SAFETY: as the header requires.
        let o = unsafe { options::fit(context, &read(options)?, std::ptr::null())? };
        let sizes = Sizes {
            rows: (count("n_x", n_x, 1)?, count("n_y", n_y, 1)?),
            widths: (count("d1", d1, 1)?, count("d2", d2, 1)?),
            held_out: (0, 0),
        };
        let answer = of_fit(&o, sizes, Precision::of_dtype("dtype", dtype)?.size());
        // SAFETY: checked above.
        unsafe { bytes.write(answer) };
        Ok(())
    }
);

entry!(
    on context_of(context);
    fn unicon_fit_best_workspace(
        context: *mut unicon_context_t,
        options: *const unicon_best_options_t,
        n_x: i64,
        n_y: i64,
        m_x: i64,
        m_y: i64,
        d1: i64,
        d2: i64,
        dtype: i32,
        bytes: *mut u64,
    ) |_context| {
        check_out("bytes", bytes)?;
        // SAFETY: as the header requires.
        let o = unsafe { options::best(&read(options)?, std::ptr::null())? };
        let sizes = Sizes {
            rows: (count("n_x", n_x, 1)?, count("n_y", n_y, 1)?),
            widths: (count("d1", d1, 1)?, count("d2", d2, 1)?),
            held_out: (count("m_x", m_x, 0)?, count("m_y", m_y, 0)?),
        };
        let answer = of_best(&o, sizes, Precision::of_dtype("dtype", dtype)?.size());
        // SAFETY: checked above.
        unsafe { bytes.write(answer) };
        Ok(())
    }
);

entry!(
    on context_of(context);
    fn unicon_weights_workspace(
        context: *mut unicon_context_t,
        n_x: i64,
        n_y: i64,
        r: i64,
        dtype: i32,
        bytes: *mut u64,
    ) |_context| {
        check_out("bytes", bytes)?;
        let (n_x, n_y, r) = (count("n_x", n_x, 1)?, count("n_y", n_y, 1)?, count("r", r, 1)?);
        let answer = of_weights(n_x, n_y, r, Precision::of_dtype("dtype", dtype)?.size());
        // SAFETY: checked above.
        unsafe { bytes.write(answer) };
        Ok(())
    }
);

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
        let batches = |size| Some(Batches { size, count: None, drop_trailing: false });
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

    const SIZES: Sizes = Sizes { rows: (80, 80), widths: (7, 5), held_out: (20, 20) };

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
        let plain = BestOptions::new(Rank::Fixed(3));
        for o in [
            plain.clone(),
            BestOptions { rank: Rank::Auto, tau_auto: true, ..plain.clone() },
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
            // Without validation rows the training rows are judged on.
            let none = Sizes { held_out: (0, 0), ..SIZES };
            enough(of_best(&o, none, 4), &what, |cpu, data, _| fit_best(cpu, data, None, &o).map(|_| ()));
        }
    }

    #[test]
    fn absurd_sizes_saturate() {
        let huge = usize::MAX;
        let sizes = Sizes { rows: (huge, huge), widths: (huge, huge), held_out: (huge, huge) };
        assert_eq!(of_fit(&FitOptions::new(3), sizes, 4), u64::MAX);
        assert_eq!(of_best(&BestOptions::new(Rank::Auto), sizes, 4), u64::MAX);
        assert_eq!(of_weights(huge, huge, huge, 8), u64::MAX);
    }
}
