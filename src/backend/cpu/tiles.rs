//! Tiles of similarities: made from embeddings by a matrix product, or copied from a given matrix.

use super::matrix::Matrix;
use super::unit::{Factor, Rows, Unit};
use super::window::{Columns, Window};
use crate::backend::Similarity;
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::real::Real;
use crate::similarity::masked::for_masked_in;
use crate::similarity::schedule::TileSchedule;
use std::ops::Range;
use std::sync::Arc;

/// Where the tiles' values come from, with its orientation.
pub(super) enum Source<'a, T: Real> {
    Zeros,
    Embeddings(&'a Matrix<T>, &'a Matrix<T>),
    Dense { s: &'a Matrix<T>, transposed: bool },
}

impl<'a, T: Real> Source<'a, T> {
    pub(super) fn new(s: Similarity<'a, Matrix<T>>) -> Self {
        match s {
            Similarity::Zeros(..) => Self::Zeros,
            Similarity::Embeddings(zx, zy) => Self::Embeddings(zx, zy),
            Similarity::Dense(s) => Self::Dense { s, transposed: false },
        }
    }

    pub(super) fn transposed(&self) -> Self {
        match *self {
            Self::Zeros => Self::Zeros,
            Self::Embeddings(zx, zy) => Self::Embeddings(zy, zx),
            Self::Dense { s, transposed } => Self::Dense { s, transposed: !transposed },
        }
    }

    /// The similarity of samples `i` and `j`, where it does not come from embeddings.
    pub(super) fn entry(&self, i: usize, j: usize) -> Result<f64> {
        let Self::Dense { s, transposed } = *self else { return Ok(0.0) };
        let (i, j) = if transposed { (j, i) } else { (i, j) };
        Ok(s.row(i, &mut Vec::new())?[j].as_f64())
    }

    /// The embeddings of rows and columns, where similarities come from any.
    pub(super) fn embeddings(&self) -> Option<(&'a Matrix<T>, &'a Matrix<T>)> {
        match *self {
            Self::Embeddings(zx, zy) => Some((zx, zy)),
            _ => None,
        }
    }
}

/// `<z_i, z_j>` in float64, in eight sums side by side: one would wait for itself at every step.
pub(super) fn product<T: Real>(zx: &[T], zy: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    let ((a, a_rest), (b, b_rest)) = (zx.as_chunks::<8>(), zy.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(s, (a, b))| *s += a.as_f64() * b.as_f64());
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a.as_f64() * b.as_f64()).sum::<f64>();
    sums.iter().sum::<f64>() + rest
}

/// An entry that a dense tile leaves out (it holds -inf there): local row, local column, its similarity.
pub(super) type Masked<T> = (usize, usize, T);

/// The similarity matrix as a grid of tiles, with everything needed to leave the masked entries out.
pub(crate) struct Tiles<'a, T: Real> {
    pub(super) source: Source<'a, T>,
    pub(super) loss: &'a Loss,
    pub(super) positives: Positives,
    pub(super) schedule: TileSchedule,
    /// What multiplies.
    pub(super) unit: Unit,
}

/// The rows of one panel, ready for products.
pub(super) struct Panel<'a, T> {
    pub(super) rows: Range<usize>,
    pub(super) z: &'a [T],
    packed: Rows,
}

impl<T> Panel<'_, T> {
    /// The rows, counted from the first, in strips of at most `most`: so few that their similarities stay in a near cache
    /// between the product that makes them and the exponentials that read them.
    pub(super) fn strips(&self, most: usize) -> impl Iterator<Item = Range<usize>> + use<T> {
        let rows = self.rows.len();
        (0..rows).step_by(most.max(1)).map(move |start| start..(start + most).min(rows))
    }
}

/// A range, cut into parts of at most `width`.
pub(super) fn cuts(range: Range<usize>, width: usize) -> impl Iterator<Item = Range<usize>> {
    let Range { start, end } = range;
    (start..end).step_by(width.max(1)).map(move |start| start..(start + width).min(end))
}

/// Packs a factor anew, in its own memory if nobody shares it.
pub(super) fn packed_anew<T>(factor: &mut Arc<Factor<T>>, pack: impl FnOnce(&mut Factor<T>)) {
    if let Some(own) = Arc::get_mut(factor) {
        return pack(own);
    }
    let mut new = Factor::default();
    pack(&mut new);
    *factor = Arc::new(new);
}

/// Buffers of one worker.
pub(super) struct Scratch<T> {
    /// The tile's similarities or weights, `rows x cols`, row-major.
    pub(super) tile: Vec<T>,
    pub(super) masked: Vec<Masked<T>>,
    gathered: Vec<T>,
    columns: Arc<Factor<T>>,
}

impl<T> Default for Scratch<T> {
    fn default() -> Self {
        let (tile, masked, gathered) = (Vec::new(), Vec::new(), Vec::new());
        Self { tile, masked, gathered, columns: Arc::default() }
    }
}

impl<'a, T: Real> Tiles<'a, T> {
    pub(super) fn transposed(&self) -> Tiles<'a, T> {
        Tiles {
            source: self.source.transposed(),
            loss: self.loss,
            positives: self.positives.transposed(),
            schedule: self.schedule.transposed(),
            unit: self.unit,
        }
    }

    /// Panel `p`, its embeddings found in `zx`.
    pub(super) fn panel<'b>(
        &self,
        p: usize,
        zx: Option<&'b Window<'_, T>>,
        scratch: &'b mut Vec<T>,
    ) -> Result<Panel<'b, T>> {
        let rows = self.schedule.panel(p);
        let z = match zx {
            Some(zx) => zx.get(&rows, scratch)?,
            None => &[],
        };
        let width = z.len() / rows.len().max(1);
        let mut packed = Rows::default();
        self.unit.pack_rows(&mut packed, z, rows.len(), width);
        Ok(Panel { rows, z, packed })
    }

    /// Makes `cols` the columns that [`fill`](Self::fill) makes tiles of.
    pub(super) fn take_columns(
        &self,
        columns: &Columns<'_, T>,
        cols: &Range<usize>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        if let Some(ready) = columns.ready.and_then(|ready| ready.z(cols)) {
            scratch.columns = ready;
        } else if let Some(zy) = columns.z() {
            let z = zy.get(cols, &mut scratch.gathered)?;
            let r = z.len() / cols.len().max(1);
            packed_anew(&mut scratch.columns, |out| self.unit.pack_transposed(out, z, cols.len(), r));
        }
        Ok(())
    }

    /// Fills `scratch.tile` with the similarities of a strip of a panel's rows and the [columns](Self::take_columns) `cols`.
    pub(super) fn fill(
        &self,
        panel: &Panel<'_, T>,
        strip: &Range<usize>,
        cols: &Range<usize>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (m, n) = (strip.len(), cols.len());
        scratch.tile.resize(m * n, T::default());
        let ids = || strip.clone().map(|li| self.schedule.row_id(panel.rows.start + li));
        match &self.source {
            Source::Embeddings(..) => {
                let r = panel.z.len() / panel.rows.len().max(1);
                let rows = panel.packed.of(panel.z, r, strip.clone());
                self.unit.multiply(false, &mut scratch.tile, n, rows, &scratch.columns);
            }
            &Source::Dense { s, transposed } => {
                let mut row = Vec::new();
                if transposed {
                    for (lj, j) in cols.clone().enumerate() {
                        let row = s.row(self.schedule.col_id(j), &mut row)?;
                        for (li, i) in ids().enumerate() {
                            scratch.tile[li * n + lj] = row[i];
                        }
                    }
                } else {
                    for (li, i) in ids().enumerate() {
                        let row = s.row(i, &mut row)?;
                        for (out, j) in scratch.tile[li * n..(li + 1) * n].iter_mut().zip(cols.clone()) {
                            *out = row[self.schedule.col_id(j)];
                        }
                    }
                }
            }
            Source::Zeros => scratch.tile.fill(T::default()),
        }
        Ok(())
    }

    /// Fills the tile and takes the masked entries out: they become -inf and go to `scratch.masked`.
    pub(super) fn fill_negatives(
        &self,
        panel: &Panel<'_, T>,
        strip: &Range<usize>,
        cols: &Range<usize>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        self.fill(panel, strip, cols, scratch)?;
        scratch.masked.clear();
        let n = cols.len();
        for (li, row) in strip.clone().enumerate() {
            let i = self.schedule.row_id(panel.rows.start + row);
            for_masked_in(&self.schedule, self.loss, &self.positives, i, cols, |lj| {
                let entry = &mut scratch.tile[li * n + lj];
                scratch.masked.push((li, lj, *entry));
                *entry = T::of(f64::NEG_INFINITY);
            });
        }
        Ok(())
    }

    /// The positives of a tile's columns, one layer after the other: layer `t` holds `-nu s` of every column's `t`-th positive,
    /// `none` where a column has fewer.
    pub(super) fn column_layers<'b, U: Real>(
        &'b self,
        positions: &Range<usize>,
        s_cols: &'b [f64],
        none: U,
    ) -> impl Iterator<Item = Vec<U>> + 'b {
        let (p, nu, positions) = (&self.positives, self.loss.nu, positions.clone());
        let ids = move || positions.clone().map(|j| self.schedule.col_id(j));
        let layers = ids().map(|j| p.col(j).len()).max().unwrap_or(0);
        (0..layers).map(move |layer| {
            let offset = |j: usize| match layer < p.col(j).len() {
                true => U::of(-nu * s_cols[p.col_offset(j) + layer]),
                false => none,
            };
            ids().map(offset).collect()
        })
    }
}
