//! Search and Gram matrices.

use super::bindings::*;
use super::context::{Context, context_of, on_backend};
use super::matrix::{Allowed, Input, Output, Precision, check_values, input, no_rows, output};
use super::structs::count;
use super::weights::expect;
use super::{entry, problem};
use crate::backend::{Backend, TopK};
use crate::error::{Error, Result};
use crate::fit::host;
use crate::kernel::Kernel;
use crate::retrieval::search;

entry!(
    on context_of(context);
    fn unicon_search(
        context: *mut unicon_context_t,
        queries: *const unicon_matrix_t,
        items: *const unicon_matrix_t,
        k: i64,
        scores: *const unicon_matrix_t,
        indices: *mut i64,
    ) |context| {
        // SAFETY: as the header requires.
        let items = unsafe { input(context, "items", items)? };
        // SAFETY: as above.
        if unsafe { no_queries(context, queries, items.cols, k, scores)? } {
            return Ok(());
        }
        // SAFETY: as above.
        let queries = unsafe { input(context, "queries", queries)? };
        expect(&items, "columns, as the queries have", queries.cols, items.cols)?;
        // SAFETY: as the header requires.
        let found_to = unsafe { Found::new(context, (queries.rows, k), scores, indices)? };
        found_to.apart_from(&[&queries, &items])?;
        let k = found_to.k.min(items.rows);
        let found = on_backend!(context.device(), Precision::of(&[&queries, &items]), |backend| {
            let (q, i) = (backend.load(queries.source())?, backend.load(items.source())?);
            search(backend, &q, &i, k)?
        });
        found_to.put(&found)
    }
);

/// Whether there are no queries, and so no results; checks what can be.
///
/// # Safety
/// The matrices are NULL or as the header requires.
pub(super) unsafe fn no_queries(
    context: &Context,
    queries: *const unicon_matrix_t,
    cols: usize,
    k: i64,
    scores: *const unicon_matrix_t,
) -> Result<bool> {
    let k = count("k", k, 1)?;
    let out = (!scores.is_null()).then_some(("scores", scores, k));
    // SAFETY: passed on.
    unsafe { no_rows(context, ("queries", queries, cols), out) }
}

/// Scores that are widened at once.
const PLACES: usize = 1 << 15;

/// Where the results of a search go.
pub(super) struct Found<'a> {
    pub(super) k: usize,
    scores: Option<Output<'a>>,
    indices: &'a mut [i64],
}

impl<'a> Found<'a> {
    /// Of `n` queries.
    ///
    /// # Safety
    /// `scores` is NULL or an output; `indices` is NULL or can be written, `n * k` values.
    pub(super) unsafe fn new(
        context: &Context,
        (n, k): (usize, i64),
        scores: *const unicon_matrix_t,
        indices: *mut i64,
    ) -> Result<Self> {
        let k = count("k", k, 1)?;
        let Some(len) = n.checked_mul(k) else {
            return Err(Error::invalid("k", "a number of results that fits into memory", k));
        };
        check_values("indices", indices, len)?;
        let scores = if scores.is_null() {
            None
        } else {
            // SAFETY: passed on.
            let scores = unsafe { output(context, "scores", scores, (n, k), Allowed::Wide)? };
            scores.apart_from_values("indices", indices, len)?;
            Some(scores)
        };
        // SAFETY: checked above, and the caller's to write.
        Ok(Self { k, scores, indices: unsafe { std::slice::from_raw_parts_mut(indices, len) } })
    }

    pub(super) fn apart_from(&self, inputs: &[&Input<'_>]) -> Result<()> {
        self.scores.as_ref().map_or(Ok(()), |scores| scores.apart_from(inputs))
    }

    /// Writes what was found; places without an item are -1 and -infinity.
    pub(super) fn put(self, found: &TopK) -> Result<()> {
        let Self { k, scores, indices } = self;
        let (n, own) = (indices.len() / k, found.k);
        for (q, row) in indices.chunks_exact_mut(k).enumerate() {
            row.iter_mut().zip(&found.indices[q * own..][..own]).for_each(|(to, &item)| *to = item.into());
            row[own..].fill(-1);
        }
        let Some(scores) = scores else { return Ok(()) };
        let step = (PLACES / k).clamp(1, n.max(1));
        let mut rows = vec![f64::NEG_INFINITY; step * k];
        for first in (0..n).step_by(step) {
            let count = step.min(n - first);
            for (q, row) in rows.chunks_exact_mut(k).take(count).enumerate() {
                let of = &found.scores[(first + q) * own..][..own];
                row.iter_mut().zip(of).for_each(|(to, &score)| *to = score.into());
            }
            scores.put_rows(first, &rows[..count * k])?;
        }
        Ok(())
    }
}

entry!(
    on context_of(context);
    fn unicon_gram(
        context: *mut unicon_context_t,
        kernel: *const unicon_kernel_t,
        a: *const unicon_matrix_t,
        b: *const unicon_matrix_t,
        out: *const unicon_matrix_t,
    ) |context| {
        // SAFETY: as the header requires.
        let (kernel, b) = unsafe { (problem::kernel(kernel)?, input(context, "b", b)?) };
        // SAFETY: as above.
        if unsafe { no_rows(context, ("a", a, b.cols), Some(("out", out, b.rows)))? } {
            return Ok(());
        }
        // SAFETY: as above.
        let a = unsafe { input(context, "a", a)? };
        expect(&b, "columns, as a has", a.cols, b.cols)?;
        // SAFETY: as the header requires.
        let out = unsafe { output(context, "out", out, (a.rows, b.rows), Allowed::Wide)? };
        out.apart_from(&[&a, &b])?;
        on_backend!(context.device(), Precision::of(&[&a, &b]), |backend| {
            out.store(backend, &gram(backend, &kernel, &a, &b)?)
        })
    }
);

fn gram<B: Backend>(backend: &B, kernel: &Kernel, a: &Input<'_>, b: &Input<'_>) -> Result<B::Matrix> {
    backend.kernel(kernel, &backend.load(a.source())?, host(b.source())?.as_ref())
}
