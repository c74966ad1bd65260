//! Evaluation: matching accuracy, Recall@k, top-k search, zero-shot classification. All streaming.

use crate::backend::{Backend, Similarity, Ties, TopK};
use crate::error::{Error, Result};
use crate::positives::Positives;
use serde::Serialize;

/// Recall@k in both directions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Recall {
    /// The values of k.
    pub ks: Vec<usize>,
    /// Share of rows with a positive among their k best columns. A row without positives is a miss.
    pub x_to_y: Vec<f64>,
    /// The same of columns.
    pub y_to_x: Vec<f64>,
    /// Share of rows whose best column is a positive.
    pub matching_accuracy: f64,
}

/// Recall@k both ways. Items may be fewer than k.
///
/// # Errors
/// [`Error::InvalidArgument`] for an empty list of k, a k of 0, or a relation of another shape; those of the backend.
pub fn recall_at_k<B: Backend>(
    backend: &B,
    zx: &B::Matrix,
    zy: &B::Matrix,
    positives: &Positives,
    ks: &[usize],
    ties: Ties,
) -> Result<Recall> {
    let ((n_x, rx), (n_y, ry)) = (backend.shape(zx), backend.shape(zy));
    if rx != ry {
        return Err(Error::invalid("embeddings of y", format!("{rx} columns, as x"), ry));
    }
    positives.check_shape(n_x, n_y)?;
    check_ks(ks)?;
    let x_ranks = backend.ranks(Similarity::Embeddings(zx, zy), positives, ties)?;
    let y_ranks = backend.ranks(Similarity::Embeddings(zy, zx), &positives.transposed(), ties)?;
    Ok(from_ranks(&x_ranks, &y_ranks, ks))
}

/// Recall from ranks: how many wrong items stand before each query's best positive.
pub(crate) fn from_ranks(x_ranks: &[u32], y_ranks: &[u32], ks: &[usize]) -> Recall {
    let share = |ranks: &[u32], k: usize| {
        let hits = ranks.iter().filter(|&&r| r != u32::MAX && (r as usize) < k).count();
        hits as f64 / ranks.len() as f64
    };
    Recall {
        ks: ks.to_vec(),
        x_to_y: ks.iter().map(|&k| share(x_ranks, k)).collect(),
        y_to_x: ks.iter().map(|&k| share(y_ranks, k)).collect(),
        matching_accuracy: share(x_ranks, 1),
    }
}

fn check_ks(ks: &[usize]) -> Result<()> {
    if ks.is_empty() || ks.contains(&0) {
        return Err(Error::invalid("k", "one or more numbers >= 1", format!("{ks:?}")));
    }
    Ok(())
}

/// Share of rows whose best column is a positive.
///
/// # Errors
/// Those of the backend.
pub fn matching_accuracy<B: Backend>(
    backend: &B,
    s: Similarity<'_, B::Matrix>,
    positives: &Positives,
) -> Result<f64> {
    let ranks = backend.ranks(s, positives, Ties::LowerIndex)?;
    Ok(ranks.iter().filter(|&&r| r == 0).count() as f64 / ranks.len() as f64)
}

/// The `k` best items of every query.
///
/// # Errors
/// [`Error::InvalidArgument`] when the embeddings' widths differ or `k` is 0; those of the backend.
pub fn search<B: Backend>(backend: &B, queries: &B::Matrix, items: &B::Matrix, k: usize) -> Result<TopK> {
    let (rq, ri) = (backend.shape(queries).1, backend.shape(items).1);
    if rq != ri {
        return Err(Error::invalid("items", format!("{rq} columns, as the queries"), ri));
    }
    check_ks(&[k])?;
    backend.top_k(queries, items, k)
}

/// Zero-shot classification: each sample's class is the class embedding most similar to it.
///
/// # Errors
/// As [`search`].
pub fn zero_shot<B: Backend>(backend: &B, samples: &B::Matrix, classes: &B::Matrix) -> Result<Vec<u32>> {
    Ok(search(backend, samples, classes, 1)?.indices)
}

/// How well samples were classified.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ZeroShot {
    /// The values of k.
    pub ks: Vec<usize>,
    /// Share of samples whose class is among the k most similar ones.
    pub accuracy: Vec<f64>,
    /// Share of each class's samples that were classified right; none for a class without samples.
    pub class_accuracy: Vec<Option<f64>>,
    /// Mean of those: what [`accuracy`](Self::accuracy) at 1 would be if all classes were equally frequent.
    pub balanced_accuracy: f64,
    /// The class of each sample.
    pub predictions: Vec<u32>,
}

/// Classifies samples (`n x r`) by class embeddings (`c x r`) and compares with their classes, `labels`.
///
/// # Errors
/// [`Error::InvalidArgument`] when there are not as many labels as samples, a label is no class, or for an empty list of
/// k or a k of 0; as [`search`].
pub fn zero_shot_accuracy<B: Backend>(
    backend: &B,
    samples: &B::Matrix,
    classes: &B::Matrix,
    labels: &[u32],
    ks: &[usize],
) -> Result<ZeroShot> {
    check_ks(ks)?;
    let (n, class_count) = (backend.shape(samples).0, backend.shape(classes).0);
    if labels.len() != n {
        return Err(Error::invalid("labels", format!("{n} classes, one a sample"), labels.len()));
    }
    if let Some(l) = labels.iter().find(|&&l| l as usize >= class_count) {
        return Err(Error::invalid("labels", format!("classes in 0..{class_count}"), l));
    }
    let top = search(backend, samples, classes, ks.iter().copied().fold(1, usize::max))?;
    // How many classes stand before the right one.
    let rank = |(best, label): (&[u32], &u32)| best.iter().position(|c| c == label).unwrap_or(usize::MAX);
    let ranks: Vec<usize> = top.indices.chunks_exact(top.k).zip(labels).map(rank).collect();
    let share = |k: usize| ranks.iter().filter(|&&r| r < k).count() as f64 / n as f64;
    let mut of_class = vec![(0usize, 0usize); class_count];
    for (&label, &rank) in labels.iter().zip(&ranks) {
        let (hits, all) = &mut of_class[label as usize];
        (*hits, *all) = (*hits + usize::from(rank == 0), *all + 1);
    }
    let class_accuracy: Vec<Option<f64>> =
        of_class.iter().map(|&(hits, all)| (all > 0).then(|| hits as f64 / all as f64)).collect();
    let seen: Vec<f64> = class_accuracy.iter().copied().flatten().collect();
    Ok(ZeroShot {
        ks: ks.to_vec(),
        accuracy: ks.iter().map(|&k| share(k)).collect(),
        balanced_accuracy: seen.iter().sum::<f64>() / seen.len() as f64,
        class_accuracy,
        predictions: top.indices.chunks_exact(top.k).map(|best| best[0]).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::io::HostMatrix;

    #[test]
    fn samples_take_the_class_most_similar_to_them() {
        let cpu = Cpu::<f64>::new(1).unwrap();
        let load = |rows: &[[f64; 2]]| {
            cpu.load(&HostMatrix::from_f64("z", rows.len(), 2, rows.concat()).unwrap()).unwrap()
        };
        // Class 1 and 3 are the same; the lower index is taken.
        let classes = load(&[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 1.0]]);
        let samples = load(&[[0.8, 0.6], [0.6, 0.8], [-0.6, 0.8], [0.0, 1.0]]);
        assert_eq!(zero_shot(&cpu, &samples, &classes).unwrap(), [0, 1, 1, 1]);
        let shot = zero_shot_accuracy(&cpu, &samples, &classes, &[0, 0, 2, 3], &[1, 2, 3, 9]).unwrap();
        assert_eq!(shot.predictions, [0, 1, 1, 1]);
        assert_eq!(shot.accuracy, [0.25, 0.5, 1.0, 1.0]);
        assert_eq!(shot.class_accuracy, [Some(0.5), None, Some(0.0), Some(0.0)]);
        // (1/2 + 0 + 0) / 3, one rounding.
        assert!((shot.balanced_accuracy - 1.0 / 6.0).abs() < 1e-15);
        for (labels, ks) in [(&[0u32, 0, 2][..], &[1usize][..]), (&[0, 0, 2, 4], &[1]), (&[0, 0, 2, 3], &[0])]
        {
            let e = zero_shot_accuracy(&cpu, &samples, &classes, labels, ks);
            assert!(matches!(e, Err(Error::InvalidArgument { .. })), "{labels:?} {ks:?}");
        }
    }
}
