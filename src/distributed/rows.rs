//! Rows of which every rank brings its own.

use super::Group;
use crate::error::{Error, Result};
use crate::io::{HostFloat, Part, RowSource};
use std::ops::Range;

/// One rank's rows of a matrix that all ranks bring together, in rank order. Its [`RowSource::rows`] are those of all
/// ranks; only the [`held`](RowSource::held) ones can be read here.
#[derive(Clone, Debug)]
pub struct LocalRows<S> {
    inner: S,
    held: Range<usize>,
    rows: usize,
}

/// Puts the ranks' own rows together as one matrix.
///
/// # Errors
/// [`Error::InvalidArgument`] when the ranks' numbers of columns differ; [`Error::Comm`](crate::Error::Comm). A rank
/// without rows may have any number of columns.
pub fn share_rows<S: RowSource>(group: &Group, inner: S) -> Result<LocalRows<S>> {
    let shapes = group.concat(vec![inner.rows() as u64, inner.cols() as u64])?;
    let (mut rows, mut start) = (0usize, 0);
    for (rank, shape) in shapes.chunks_exact(2).enumerate() {
        if shape[0] > 0 && inner.rows() > 0 && shape[1] != inner.cols() as u64 {
            let expected = format!("{} columns, as on rank {rank}", shape[1]);
            return Err(Error::invalid(inner.name(), expected, inner.cols()));
        }
        if rank == group.rank() {
            start = rows;
        }
        rows += shape[0] as usize;
    }
    let held = start..start + inner.rows();
    Ok(LocalRows { inner, held, rows })
}

impl<S: RowSource> LocalRows<S> {
    fn read<T: HostFloat>(&self, start: usize, out: &mut [T]) -> Result<()> {
        let end = start.saturating_add(out.len() / self.cols().max(1));
        if start < self.held.start || end > self.held.end {
            let expected = format!("this rank's rows, {:?}", self.held);
            return Err(Error::invalid(self.name(), expected, format!("{start}..{end}")));
        }
        T::read_rows(&self.inner, start - self.held.start, out)
    }
}

impl<S: RowSource> RowSource for LocalRows<S> {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.inner.cols()
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        self.read(start, out)
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.read(start, out)
    }
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn held(&self) -> Range<usize> {
        self.held.clone()
    }
    fn part(&self, row: usize) -> Option<Part<'_>> {
        self.inner.part(row.checked_sub(self.held.start)?)
    }
}
