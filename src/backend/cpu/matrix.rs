//! n-sized data of the CPU backend: row-major, in the backend's number type, in memory or in a file.

use super::memory::{Account, Values};
use crate::error::{Error, Result};
use crate::io::RowSource;
use crate::real::Real;
use std::ops::Range;
use std::sync::Arc;

/// `rows x cols`, row-major. With several ranks, the rows that this one holds.
#[derive(Debug)]
pub struct Matrix<T> {
    rows: usize,
    cols: usize,
    own: Range<usize>,
    store: Store<T>,
}

enum Store<T> {
    Memory(Values<T>),
    /// Row `i` is row `i - base` of the source.
    File {
        source: Arc<dyn RowSource>,
        base: usize,
    },
}

impl<T> std::fmt::Debug for Store<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(_) => f.write_str("Memory"),
            Self::File { source, .. } => write!(f, "File({})", source.name()),
        }
    }
}

impl<T: Real> Matrix<T> {
    /// Zeros; refused, not aborted, when memory is short. Of the `rows`, `own` are held here.
    pub(super) fn zeros(rows: usize, cols: usize, own: Range<usize>, account: &Arc<Account>) -> Result<Self> {
        let store = Store::Memory(Values::zeros(own.len(), cols, account)?);
        Ok(Self { rows, cols, own, store })
    }

    /// Rows that stay in a file: row `i` of `own` is row `i - base` of the source.
    pub(super) fn in_file(rows: usize, own: Range<usize>, source: Arc<dyn RowSource>, base: usize) -> Self {
        Self { rows, cols: source.cols(), own, store: Store::File { source, base } }
    }

    /// Number of rows (samples), of all ranks.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The rows held here.
    pub fn own(&self) -> Range<usize> {
        self.own.clone()
    }

    /// Whether the values are in memory.
    pub(super) fn is_resident(&self) -> bool {
        matches!(self.store, Store::Memory(_))
    }

    /// Rows `range`, row-major: borrowed where they are in memory, read into `scratch` otherwise.
    pub(super) fn panel<'a>(&'a self, range: &Range<usize>, scratch: &'a mut Vec<T>) -> Result<&'a [T]> {
        if range.is_empty() {
            return Ok(&[]);
        }
        if range.start < self.own.start || range.end > self.own.end {
            let text = format!("rows {range:?} were asked of a rank that holds {:?}", self.own);
            return Err(Error::Comm(text));
        }
        match &self.store {
            Store::Memory(values) => {
                let first = range.start - self.own.start;
                Ok(&values.as_slice()[first * self.cols..(first + range.len()) * self.cols])
            }
            Store::File { source, base } => {
                scratch.resize(range.len() * self.cols, T::default());
                if self.cols > 0 {
                    T::read_rows(source.as_ref(), range.start - base, scratch)?;
                }
                Ok(scratch)
            }
        }
    }

    /// Row `i`.
    pub(super) fn row<'a>(&'a self, i: usize, scratch: &'a mut Vec<T>) -> Result<&'a [T]> {
        self.panel(&(i..i + 1), scratch)
    }

    /// The values held here, to be filled. Empty for a matrix in a file.
    pub(super) fn data_mut(&mut self) -> &mut [T] {
        match &mut self.store {
            Store::Memory(values) => values.as_mut_slice(),
            Store::File { .. } => &mut [],
        }
    }

    /// The rows at positions `range` of an order: borrowed when there is none, gathered into `scratch` otherwise.
    pub(super) fn gather<'a>(
        &'a self,
        ids: Option<&[u32]>,
        range: &Range<usize>,
        scratch: &'a mut Vec<T>,
    ) -> Result<&'a [T]> {
        let Some(ids) = ids else { return self.panel(range, scratch) };
        scratch.clear();
        let mut one = Vec::new();
        for &id in &ids[range.clone()] {
            scratch.extend_from_slice(self.row(id as usize, &mut one)?);
        }
        Ok(scratch)
    }
}
