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
