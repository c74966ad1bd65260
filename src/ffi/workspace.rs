//! How many bytes of sample-sized matrices a call holds at most, before it is made.

use crate::fit::{FitOptions, Init, Landmarks};

/// A product of sizes in elements; saturates, since a query may be about anything.
fn elements(rows: usize, cols: usize) -> u64 {
    (rows as u64).saturating_mul(cols as u64)
}

fn sum(parts: &[u64]) -> u64 {
    parts.iter().fold(0, |a, &b| a.saturating_add(b))
}

/// The two copies of embeddings and the gradients, of `unicon_weights_create` and `unicon_contrastive_grad`.
pub(super) fn of_weights(n_x: usize, n_y: usize, r: usize, element: u64) -> u64 {
    sum(&[elements(n_x, r), elements(n_y, r)]).saturating_mul(2).saturating_mul(element)
}

/// The sizes of a fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) n_x: usize,
    pub(super) n_y: usize,
    pub(super) d1: usize,
    pub(super) d2: usize,
    /// Validation rows.
    pub(super) held_out: (usize, usize),
}

/// One side's solver features: elements held from mapping on, elements needed only while mapping, and their width.
struct Side {
    held: u64,
    passing: u64,
    width: usize,
}

fn side(o: &FitOptions, n: usize, d: usize) -> Side {
    let Some(kernel) = &o.kernel else {
        let x = elements(n, d);
        return Side { held: x, passing: if o.whiten.is_some() { x } else { 0 }, width: d };
    };
    match &kernel.landmarks {
        // The Gram matrix and its points pass; both of its roots are held.
        Landmarks::Exact => {
            let k = elements(n, n);
            Side { held: k.saturating_mul(2), passing: sum(&[k, elements(n, d)]), width: n }
        }
        Landmarks::Count(m) => nystrom(o, n, d, *m),
        Landmarks::Rows(rows) => nystrom(o, n, d, rows.len()),
    }
}

/// The raw features, the landmarks and their Gram matrix, and kernel values pass; features `n x m` are held.
fn nystrom(o: &FitOptions, n: usize, d: usize, m: usize) -> Side {
    let phi = elements(n, m);
    let whitened = if o.whiten.is_some() { phi } else { 0 };
    let passing = sum(&[elements(n, d), elements(m, d), elements(m, m), phi, whitened]);
    Side { held: phi, passing, width: m }
}

/// Bytes of sample-sized matrices that a fit holds at most.
pub(super) fn of_fit(o: &FitOptions, sizes: Sizes, element: u64) -> u64 {
    let Sizes { n_x, n_y, d1, d2, held_out } = sizes;
    // Batches are at most twice their nominal size: what does not fill one is spread over the others.
    let batch = o.batches.map(|b| b.size.saturating_mul(2));
    let cut = |n: usize| batch.map_or(n, |b| n.min(b));
    // A batched kernel fit maps one batch at a time.
    let (rows_x, rows_y) = if o.kernel.is_some() { (cut(n_x), cut(n_y)) } else { (n_x, n_y) };
    let (x, y) = (side(o, rows_x, d1), side(o, rows_y, d2));
    let features = sum(&[elements(cut(rows_x), x.width), elements(cut(rows_y), y.width)]);
    let copies = match (batch.is_some() && o.kernel.is_none(), o.scale_inputs) {
        (true, true) => features.saturating_mul(2),
        (false, false) => 0,
        _ => features,
    };
    let embeddings = sum(&[elements(rows_x, o.rank), elements(rows_y, o.rank)]);
    let similarity = if matches!(o.init, Init::Similarity(_)) { elements(n_x, n_y) } else { 0 };
    let validation = match o.batches {
        // Raw, mapped, kernel values and embeddings.
        Some(_) => {
            [(held_out.0, d1, x.width), (held_out.1, d2, y.width)].iter().fold(0, |a: u64, &(m, d, p)| {
                sum(&[a, elements(m, d), elements(m, p).saturating_mul(2), elements(m, o.rank)])
            })
        }
        None => 0,
    };
    let parts = [x.held, y.held, x.passing.max(y.passing), copies, embeddings, similarity, validation];
    sum(&parts).saturating_mul(element)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::backend::cpu::Cpu;
    use crate::error::Error;
    use crate::fit::{Batches, Data, KernelOptions, fit};
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
            FitOptions { init: Init::Similarity(faer::Mat::zeros(80, 80)), ..plain },
        ];
        let (x, y, p) = (random(80, 7, 1), random(80, 5, 2), Positives::diagonal(80));
        let (vx, vy, vp) = (random(20, 7, 3), random(20, 5, 4), Positives::diagonal(20));
        let data = Data { x: &x, y: &y, positives: &p };
        let held = Data { x: &vx, y: &vy, positives: &vp };
        let sizes = Sizes { n_x: 80, n_y: 80, d1: 7, d2: 5, held_out: (20, 20) };
        for o in &all {
            let enough = of_fit(o, sizes, 4);
            let run = |limit| {
                let cpu = Cpu::<f32>::with(1, Some(limit), Arc::default()).unwrap();
                fit(&cpu, data, Some(held), o).map(|_| cpu.memory().1)
            };
            let peak = run(enough).unwrap_or_else(|e| panic!("{o:?}: {e}"));
            assert!(peak <= enough && 4 * peak >= enough, "peak {peak}, answered {enough}: {o:?}");
            assert!(matches!(run(peak - 1), Err(Error::OutOfMemory { .. })), "{o:?}");
        }
    }

    #[test]
    fn absurd_sizes_saturate() {
        let huge = usize::MAX;
        let sizes = Sizes { n_x: huge, n_y: huge, d1: huge, d2: huge, held_out: (0, 0) };
        assert_eq!(of_fit(&FitOptions::new(3), sizes, 4), u64::MAX);
        assert_eq!(of_weights(huge, huge, huge, 8), u64::MAX);
    }
}
