//! Tiles of similarities: made from embeddings by a matrix product, or copied from a given matrix.

use super::gemm::gemm_nt;
use super::matrix::Matrix;
use super::ranks::Window;
use super::simd::bf16::{self, LEFT, Packed, RIGHT};
use crate::backend::Similarity;
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::real::Real;
use crate::similarity::masked::for_masked_in;
use crate::similarity::schedule::TileSchedule;
use std::ops::Range;

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
    /// Whether similarities are products of embeddings rounded to bfloat16.
    pub(super) bf16: bool,
}

/// The rows of one panel, ready for products.
pub(super) struct Panel<'a, T> {
    pub(super) rows: Range<usize>,
    pub(super) z: &'a [T],
    rounded: Packed<LEFT>,
}

/// Buffers of one worker.
#[derive(Default)]
pub(super) struct Scratch<T> {
    pub(super) tile: Vec<T>,
    pub(super) masked: Vec<Masked<T>>,
    cols: Vec<T>,
    rounded: Packed<RIGHT>,
}

impl<'a, T: Real> Tiles<'a, T> {
    pub(super) fn transposed(&self) -> Tiles<'a, T> {
        Tiles {
            source: self.source.transposed(),
            loss: self.loss,
            positives: self.positives.transposed(),
            schedule: self.schedule.transposed(),
            bf16: self.bf16,
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
        let mut rounded = Packed::default();
        if self.bf16 {
            round_into(&mut rounded, z, rows.len());
        }
        Ok(Panel { rows, z, rounded })
    }

    /// Fills `scratch.tile` (`rows x cols`, row-major) with similarities; the columns' embeddings are found in `zy`.
    pub(super) fn fill(
        &self,
        panel: &Panel<'_, T>,
        zy: Option<&Window<'_, T>>,
        cols: &Range<usize>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (m, n) = (panel.rows.len(), cols.len());
        scratch.tile.resize(m * n, T::default());
        match (&self.source, zy) {
            (Source::Embeddings(..), Some(zy)) => {
                let z = zy.get(cols, &mut scratch.cols)?;
                let r = z.len() / n.max(1);
                if self.bf16
                    && let Some(tile) = T::as_f32_mut(&mut scratch.tile)
                {
                    round_into(&mut scratch.rounded, z, n);
                    if bf16::gemm_nt(false, tile, n, &panel.rounded, &scratch.rounded) {
                        return Ok(());
                    }
                }
                gemm_nt(m, n, r, T::of(0.0), &mut scratch.tile, n, T::of(1.0), panel.z, r, z, r);
            }
            (&Source::Dense { s, transposed }, _) => {
                let mut row = Vec::new();
                if transposed {
                    for (lj, j) in cols.clone().enumerate() {
                        let row = s.row(self.schedule.col_id(j), &mut row)?;
                        for (li, i) in panel.rows.clone().enumerate() {
                            scratch.tile[li * n + lj] = row[self.schedule.row_id(i)];
                        }
                    }
                } else {
                    for (li, i) in panel.rows.clone().enumerate() {
                        let row = s.row(self.schedule.row_id(i), &mut row)?;
                        for (out, j) in scratch.tile[li * n..(li + 1) * n].iter_mut().zip(cols.clone()) {
                            *out = row[self.schedule.col_id(j)];
                        }
                    }
                }
            }
            _ => scratch.tile.fill(T::default()),
        }
        Ok(())
    }

    /// Fills the tile and takes the masked entries out: they become -inf and go to `scratch.masked`.
    pub(super) fn fill_negatives(
        &self,
        panel: &Panel<'_, T>,
        zy: Option<&Window<'_, T>>,
        cols: &Range<usize>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        self.fill(panel, zy, cols, scratch)?;
        scratch.masked.clear();
        let n = cols.len();
        for (li, position) in panel.rows.clone().enumerate() {
            let i = self.schedule.row_id(position);
            for_masked_in(&self.schedule, self.loss, &self.positives, i, cols, |lj| {
                let entry = &mut scratch.tile[li * n + lj];
                scratch.masked.push((li, lj, *entry));
                *entry = T::of(f64::NEG_INFINITY);
            });
        }
        Ok(())
    }
}

/// Rounds `rows` contiguous rows to bfloat16 and packs them for products.
fn round_into<T: Real, const W: usize>(packed: &mut Packed<W>, z: &[T], rows: usize) {
    let width = z.len() / rows.max(1);
    let rounded: Vec<half::bf16> = z.iter().map(|v| half::bf16::from_f64(v.as_f64())).collect();
    packed.pack(&rounded, width, rows, width);
}
