//! The trait every feature matrix is read through.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::{HostFloat, MatView, Survey};
use crate::error::{Error, Result};
use crate::threads;

/// A row's place in a matrix of several files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The file.
    pub name: &'a str,
    /// Which of the files it is, from 0.
    pub index: usize,
    /// How many files there are.
    pub of: usize,
    /// The row's number in its file.
    pub row: usize,
}

/// A matrix whose rows (samples) can be read in any order, from any thread.
pub trait RowSource: Send + Sync {
    /// Number of rows.
    fn rows(&self) -> usize;

    /// Number of columns (features).
    fn cols(&self) -> usize;

    /// Fills `out` (row-major) with the `out.len() / cols` rows from row `start`, as `f32`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `out` is not a whole number of rows or the rows are not all there.
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()>;

    /// As [`read_rows`](Self::read_rows), as `f64`.
    ///
    /// # Errors
    /// As [`read_rows`](Self::read_rows).
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()>;

    /// What error messages call this matrix.
    fn name(&self) -> &str;

    /// The stored elements, where they lie in one piece of memory: a device can then take them in their own dtype
    /// instead of a widened copy.
    fn view(&self) -> Option<MatView<'_>> {
        None
    }

    /// The same rows for reading panel by panel from the file, without holding what was read: for a source in files.
    fn paged(&self) -> Option<Arc<dyn RowSource>> {
        None
    }

    /// What a backend that knows the kind of this source may take a shorter way with.
    fn as_any(&self) -> Option<&dyn std::any::Any> {
        None
    }

    /// What [`survey`](super::survey()) finds, by a shorter way than reading all rows; none where there is no such way or
    /// where something is wrong, which reading then locates.
    fn examine(&self) -> Option<Result<Survey>> {
        None
    }

    /// Whether values are stored with more digits than float32 has.
    fn is_wide(&self) -> bool {
        self.view().is_some_and(|v| v.dtype().is_wide())
    }

    /// Where a row is, of a matrix that lies in several files.
    fn part(&self, _row: usize) -> Option<Part<'_>> {
        None
    }

    /// The rows that this process can read, where others hold the rest: all of them by default.
    fn held(&self) -> Range<usize> {
        0..self.rows()
    }
}

/// A source behind a pointer: every method is that of the source.
macro_rules! forward {
    ($pointer:ty) => {
        impl<S: RowSource + ?Sized> RowSource for $pointer {
            fn rows(&self) -> usize {
                (**self).rows()
            }
            fn cols(&self) -> usize {
                (**self).cols()
            }
            fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
                (**self).read_rows(start, out)
            }
            fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
                (**self).read_rows_f64(start, out)
            }
            fn name(&self) -> &str {
                (**self).name()
            }
            fn view(&self) -> Option<MatView<'_>> {
                (**self).view()
            }
            fn paged(&self) -> Option<Arc<dyn RowSource>> {
                (**self).paged()
            }
            fn as_any(&self) -> Option<&dyn std::any::Any> {
                (**self).as_any()
            }
            fn examine(&self) -> Option<Result<Survey>> {
                (**self).examine()
            }
            fn is_wide(&self) -> bool {
                (**self).is_wide()
            }
            fn part(&self, row: usize) -> Option<Part<'_>> {
                (**self).part(row)
            }
            fn held(&self) -> Range<usize> {
                (**self).held()
            }
        }
    };
}
forward!(&S);
forward!(Box<S>);
forward!(Arc<S>);

/// Checks a request for `len` values from row `start` against a source's shape; returns the number of rows asked for.
pub(crate) fn check_request(source: &(impl RowSource + ?Sized), start: usize, len: usize) -> Result<usize> {
    let (rows, cols) = (source.rows(), source.cols());
    if cols == 0 || !len.is_multiple_of(cols) {
        return Err(Error::invalid(source.name(), format!("room for whole rows of {cols} values"), len));
    }
    let count = len / cols;
    if start.checked_add(count).is_none_or(|end| end > rows) {
        return Err(Error::invalid(
            source.name(),
            format!("a row range within 0..{rows}"),
            format!("{count} rows from row {start}"),
        ));
    }
    Ok(count)
}

/// Rows in a panel of about one MiB of `T`: long enough to amortise a call, short enough to stay in cache.
pub(super) fn panel_rows<T>(cols: usize) -> usize {
    ((1 << 20) / cols.max(1).saturating_mul(size_of::<T>())).max(1)
}

/// Reads rows `start..start + out.len() / cols` into `out`, in parallel.
///
/// # Errors
/// Those of the source.
pub fn read_panel<T: HostFloat>(source: &dyn RowSource, start: usize, out: &mut [T]) -> Result<()> {
    check_request(source, start, out.len())?;
    let (cols, step) = (source.cols(), panel_rows::<T>(source.cols()));
    threads::run(|| {
        out.par_chunks_mut(step * cols)
            .enumerate()
            .try_for_each(|(p, chunk)| T::read_rows(source, start + p * step, chunk))
    })
}

/// Reads the whole matrix, row-major, in parallel.
///
/// # Errors
/// Those of the source; [`Error::OutOfMemory`] if the copy cannot be allocated.
pub fn read_all<T: HostFloat>(source: &dyn RowSource) -> Result<Vec<T>> {
    let len = source.rows().saturating_mul(source.cols());
    let mut out = crate::memory::filled(len, T::default(), || format!("a copy of {}", source.name()))?;
    if len > 0 {
        read_panel(source, 0, &mut out)?;
    }
    Ok(out)
}
