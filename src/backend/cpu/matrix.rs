//! n-sized data of the CPU backend: row-major, in the backend's number type.

use super::memory::{Account, Values};
use crate::error::Result;
use crate::real::Real;
use std::ops::Range;
use std::sync::Arc;

/// `rows x cols`, row-major.
#[derive(Debug)]
pub struct Matrix<T> {
    rows: usize,
    cols: usize,
    data: Values<T>,
}

impl<T: Real> Matrix<T> {
    /// Zeros; refused, not aborted, when memory is short.
    pub(super) fn zeros(rows: usize, cols: usize, account: &Arc<Account>) -> Result<Self> {
        Ok(Self { rows, cols, data: Values::zeros(rows, cols, account)? })
    }

    /// Number of rows (samples).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All values, row-major.
    pub fn as_slice(&self) -> &[T] {
        self.data.as_slice()
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[T] {
        &self.data.as_slice()[i * self.cols..(i + 1) * self.cols]
    }

    /// Rows `range`, row-major.
    pub(super) fn panel(&self, range: &Range<usize>) -> &[T] {
        &self.data.as_slice()[range.start * self.cols..range.end * self.cols]
    }

    pub(super) fn data_mut(&mut self) -> &mut [T] {
        self.data.as_mut_slice()
    }

    /// The rows at positions `range` of an order: borrowed when there is none, gathered into `scratch` otherwise.
    pub(super) fn gather<'a>(
        &'a self,
        ids: Option<&[u32]>,
        range: &Range<usize>,
        scratch: &'a mut Vec<T>,
    ) -> &'a [T] {
        let Some(ids) = ids else { return self.panel(range) };
        scratch.clear();
        for &id in &ids[range.clone()] {
            scratch.extend_from_slice(self.row(id as usize));
        }
        scratch
    }
}
