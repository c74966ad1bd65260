//! Tiles of similarities: made from embeddings by a matrix product, or copied from a given matrix.

use super::gemm::gemm_nt;
use super::matrix::Matrix;
use super::simd::bf16::{self, LEFT, Packed, RIGHT};
use crate::backend::Similarity;
use crate::backend::anchors::for_exceptions_in;
use crate::backend::plan::Plan;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::real::Real;
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

    /// One similarity, of samples `i` and `j`.
    pub(super) fn pair(&self, i: usize, j: usize) -> f64 {
        match *self {
            Self::Zeros => 0.0,
            Self::Embeddings(zx, zy) => {
                zx.row(i).iter().zip(zy.row(j)).map(|(&a, &b)| a.as_f64() * b.as_f64()).sum()
            }
            Self::Dense { s, transposed: false } => s.row(i)[j].as_f64(),
            Self::Dense { s, transposed: true } => s.row(j)[i].as_f64(),
        }
    }
}

/// An entry that a dense tile leaves out (it holds -inf there): local row, local column, its similarity.
pub(super) type Masked<T> = (usize, usize, T);

/// The similarity matrix as a grid of tiles, with everything needed to leave the exceptions out.
pub(super) struct Tiles<'a, T: Real> {
    pub(super) source: Source<'a, T>,
    pub(super) loss: &'a Loss,
    pub(super) positives: Positives,
    pub(super) plan: Plan,
    /// Whether similarities are products of embeddings rounded to bfloat16.
    pub(super) bf16: bool,
}

/// The rows of one panel, ready for products.
pub(super) struct Panel<'a, T> {
    pub(super) rows: Range<usize>,
    z: &'a [T],
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
            plan: self.plan.transposed(),
            bf16: self.bf16,
        }
    }

    pub(super) fn panel<'b>(&'b self, p: usize, scratch: &'b mut Vec<T>) -> Panel<'b, T> {
        let rows = self.plan.panel(p);
        let z = match self.source {
            Source::Embeddings(zx, _) => zx.gather(self.plan.x_ids(), &rows, scratch),
            _ => &[],
        };
        let mut rounded = Packed::default();
        if self.bf16 {
            round_into(&mut rounded, z, rows.len());
        }
        Panel { rows, z, rounded }
    }

    /// Fills `scratch.tile` (`rows x cols`, row-major) with similarities.
    pub(super) fn fill(&self, panel: &Panel<'_, T>, cols: &Range<usize>, scratch: &mut Scratch<T>) {
        let (m, n) = (panel.rows.len(), cols.len());
        scratch.tile.resize(m * n, T::default());
        match self.source {
            Source::Zeros => scratch.tile.fill(T::default()),
            Source::Embeddings(_, zy) => {
                let r = zy.cols();
                let z = zy.gather(self.plan.y_ids(), cols, &mut scratch.cols);
                if self.bf16
                    && let Some(tile) = T::as_f32_mut(&mut scratch.tile)
                {
                    round_into(&mut scratch.rounded, z, n);
                    if bf16::gemm_nt(false, tile, n, &panel.rounded, &scratch.rounded) {
                        return;
                    }
                }
                gemm_nt(m, n, r, T::of(0.0), &mut scratch.tile, n, T::of(1.0), panel.z, r, z, r);
            }
            Source::Dense { s, transposed } => {
                for (li, i) in panel.rows.clone().enumerate() {
                    let i = self.plan.row_id(i);
                    for (out, j) in scratch.tile[li * n..(li + 1) * n].iter_mut().zip(cols.clone()) {
                        let j = self.plan.col_id(j);
                        *out = if transposed { s.row(j)[i] } else { s.row(i)[j] };
                    }
                }
            }
        }
    }

    /// Fills the tile and takes the exceptions out: they become -inf and go to `scratch.masked`.
    pub(super) fn fill_negatives(&self, panel: &Panel<'_, T>, cols: &Range<usize>, scratch: &mut Scratch<T>) {
        self.fill(panel, cols, scratch);
        scratch.masked.clear();
        let n = cols.len();
        for (li, position) in panel.rows.clone().enumerate() {
            let i = self.plan.row_id(position);
            for_exceptions_in(&self.plan, self.loss, &self.positives, i, cols, |lj| {
                let entry = &mut scratch.tile[li * n + lj];
                scratch.masked.push((li, lj, *entry));
                *entry = T::of(f64::NEG_INFINITY);
            });
        }
    }
}

/// Rounds `rows` contiguous rows to bfloat16 and packs them for products.
fn round_into<T: Real, const W: usize>(packed: &mut Packed<W>, z: &[T], rows: usize) {
    let width = z.len() / rows.max(1);
    let rounded: Vec<half::bf16> = z.iter().map(|v| half::bf16::from_f64(v.as_f64())).collect();
    packed.pack(&rounded, width, rows, width);
}
