//! Top-k search.

use super::check_ks;
use crate::backend::{Backend, TopK};
use crate::error::{Error, Result};
use crate::io::RowSource;

/// The `k` best items of every query, best first; equal scores by lower index. With fewer items than `k` there are as
/// many as items.
///
/// # Errors
/// [`Error::InvalidArgument`] when the embeddings' widths differ or `k` is 0; [`Error::Numerical`] for a query with a
/// score that is not finite; those of the backend.
pub fn search<B: Backend>(backend: &B, queries: &B::Matrix, items: &B::Matrix, k: usize) -> Result<TopK> {
    check_widths(backend, queries, items)?;
    check_ks(&[k])?;
    finite(backend.top_k(queries, items, k)?)
}

/// As [`search`] of items in their own set: query `i` is item `first + i`, which is not among its results.
///
/// # Errors
/// As [`search`]; [`Error::InvalidArgument`] unless there are that many items, and at least two.
pub fn search_others<B: Backend>(
    backend: &B,
    queries: &B::Matrix,
    items: &B::Matrix,
    k: usize,
    first: usize,
) -> Result<TopK> {
    check_widths(backend, queries, items)?;
    check_ks(&[k])?;
    let (n, m) = (backend.shape(queries).0, backend.shape(items).0);
    if first.checked_add(n).is_none_or(|end| end > m) || m < 2 {
        let expected =
            format!("at least {} rows, as the queries are left out", first.saturating_add(n).max(2));
        return Err(Error::invalid("items", expected, m));
    }
    let k = k.min(m - 1);
    let all = finite(backend.top_k(queries, items, k + 1)?)?;
    let mut top = TopK::room(n, k)?;
    let lists = all.scores.chunks_exact(k + 1).zip(all.indices.chunks_exact(k + 1));
    for (i, (scores, indices)) in lists.enumerate() {
        // Itself, or the last where it is not among the best.
        let left_out = indices.iter().position(|&j| j as usize == first + i).unwrap_or(k);
        for at in (0..=k).filter(|&at| at != left_out) {
            top.scores.push(scores[at]);
            top.indices.push(indices[at]);
        }
    }
    Ok(top)
}

fn check_widths<B: Backend>(backend: &B, queries: &B::Matrix, items: &B::Matrix) -> Result<()> {
    let (rq, ri) = (backend.shape(queries).1, backend.shape(items).1);
    if rq != ri {
        return Err(Error::invalid("items", format!("{rq} columns, as the queries"), ri));
    }
    Ok(())
}

/// Scores that are not finite name their query.
fn finite(top: TopK) -> Result<TopK> {
    match top.scores.iter().position(|s| !s.is_finite()) {
        None => Ok(top),
        Some(at) => {
            let (query, score) = (at / top.k.max(1), top.scores[at]);
            Err(Error::Numerical(format!(
                "a score of query {query} is {score}: scale queries and items to unit rows"
            )))
        }
    }
}

/// Items that stay in a backend: checked and loaded once, searched many times. A few queries then cost one pass over the
/// items' memory.
#[derive(Debug)]
pub struct Items<B: Backend> {
    backend: B,
    matrix: B::Matrix,
}

impl<B: Backend> Items<B> {
    /// Takes items, `m x r`; scores are inner products, so unit rows give cosines.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming row and column of a value that is not finite; those of the backend.
    pub fn new(backend: B, items: &dyn RowSource) -> Result<Self> {
        backend.screen(items)?;
        let matrix = backend.load(items)?;
        Ok(Self { backend, matrix })
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.backend.shape(&self.matrix).0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their dimension.
    pub fn dim(&self) -> usize {
        self.backend.shape(&self.matrix).1
    }

    /// The `k` best items of every query (`n x r`); see [`search`].
    ///
    /// # Errors
    /// As [`search`]; [`Error::InvalidArgument`] naming row and column of a value that is not finite.
    pub fn search(&self, queries: &dyn RowSource, k: usize) -> Result<TopK> {
        if queries.cols() != self.dim() {
            let expected = format!("{} columns, as the items", self.dim());
            return Err(Error::invalid(queries.name(), expected, queries.cols()));
        }
        self.backend.screen(queries)?;
        search(&self.backend, &self.backend.load(queries)?, &self.matrix, k)
    }
}
