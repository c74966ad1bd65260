//! Rows that are here, whether they have come from a file or another rank or have been here before.

use super::matrix::Matrix;
use super::panels::Meter;
use super::ready::Ready;
use crate::error::Result;
use crate::real::Real;
use std::collections::BTreeMap;
use std::ops::Range;

/// Rows by position in a schedule's order, wherever they are.
pub(super) enum Window<'a, T: Real> {
    /// Of a matrix that is here, through an order.
    Matrix(&'a Matrix<T>, Option<&'a [u32]>),
    /// A range of positions.
    Piece { start: usize, cols: usize, data: std::borrow::Cow<'a, [T]> },
    /// Tiles of positions, by their first: where a tile ends, and where its rows begin in `data`.
    Tiles { cols: usize, places: BTreeMap<usize, (usize, usize)>, data: Vec<T> },
}

impl<T: Real> Window<'_, T> {
    /// The rows at positions `range`; of [`Window::Tiles`], of one tile.
    pub(super) fn get<'b>(&'b self, range: &Range<usize>, scratch: &'b mut Vec<T>) -> Result<&'b [T]> {
        match self {
            Self::Matrix(matrix, ids) => matrix.gather(*ids, range, scratch),
            Self::Piece { start, cols, data } => {
                Ok(&data[(range.start - start) * cols..(range.end - start) * cols])
            }
            Self::Tiles { cols, places, data } => {
                let tile = places.range(..=range.start).next_back().filter(|(_, (end, _))| range.end <= *end);
                let rows = tile.map(|(start, (_, place))| {
                    let place = place + (range.start - start) * cols;
                    &data[place..place + range.len() * cols]
                });
                rows.ok_or_else(|| {
                    crate::Error::Comm(format!("columns {range:?} were not brought to this rank"))
                })
            }
        }
    }
}

/// Columns that are here now.
pub(super) struct Columns<'a, T: Real> {
    /// Their positions.
    pub(super) range: Range<usize>,
    /// All columns packed, where that pays.
    pub(super) ready: Option<&'a Ready<T>>,
    pub(super) windows: Vec<Window<'a, T>>,
    /// Whether the first are embeddings.
    pub(super) embedded: bool,
    /// Whether the last are coefficients.
    pub(super) passing: bool,
}

impl<'a, T: Real> Columns<'a, T> {
    /// The embeddings of the columns: the first matrix, where similarities come from embeddings.
    pub(super) fn z(&self) -> Option<&Window<'a, T>> {
        self.windows.first().filter(|_| self.embedded)
    }

    /// Rows of the last matrix at positions `range`.
    pub(super) fn values<'b>(&'b self, range: &Range<usize>, scratch: &'b mut Vec<T>) -> Result<&'b [T]> {
        let values = &self.windows[..self.windows.len() - usize::from(self.passing)];
        values.last().map_or(Ok(&[]), |w| w.get(range, scratch))
    }

    /// The coefficients that came with the columns.
    pub(super) fn coefficients<'b>(
        &'b self,
        range: &Range<usize>,
        scratch: &'b mut Vec<T>,
    ) -> Result<&'b [T]> {
        self.windows.last().filter(|_| self.passing).map_or(Ok(&[]), |w| w.get(range, scratch))
    }
}

/// Rows by sample: those held here and some that were fetched.
pub(super) struct Lookup<'a, T> {
    pub(super) matrix: &'a Matrix<T>,
    /// Samples of other ranks, ascending, and their rows.
    pub(super) ids: Vec<u32>,
    pub(super) data: Vec<T>,
}

impl<T: Real> Lookup<'_, T> {
    pub(super) fn row<'b>(&'b self, id: usize, scratch: &'b mut Vec<T>) -> Result<&'b [T]> {
        if self.matrix.own().contains(&id) {
            return self.matrix.row(id, scratch);
        }
        let missing = || crate::Error::Comm(format!("row {id} was not brought to this rank"));
        let k = self.ids.binary_search(&(id as u32)).map_err(|_| missing())?;
        let cols = self.matrix.cols();
        Ok(&self.data[k * cols..(k + 1) * cols])
    }
}

/// A block of columns that is here, and where it stands in the whole.
pub(crate) struct Block<'a, T: Real> {
    pub(super) columns: &'a Columns<'a, T>,
    pub(super) meter: &'a Meter,
}
