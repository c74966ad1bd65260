//! Gram matrices of features.

use super::Cpu;
use super::gemm::gemm_tn;
use super::matrix::Matrix;
use super::panels::{Meter, add};
use crate::control::Phase;
use crate::distributed::Fold;
use crate::error::Result;
use crate::real::Real;
use crate::similarity::schedule::TILE;
use faer::Mat;

/// Rows of a Gram matrix that are computed at once.
const BLOCK: usize = 128;

impl<T: Real> Cpu<T> {
    /// `X^T X`, panels' products added in float64 in panel order.
    pub(super) fn gram_matrix(&self, x: &Matrix<T>) -> Result<Mat<f64>> {
        let (d, layout) = (x.cols(), self.layout(x.rows(), TILE));
        // Products of `d x d` are large, so of many rows fewer are added up.
        let step = layout.block().min(4 * TILE);
        let own = layout.own();
        let mut fold = Fold::new(layout.own_blocks());
        self.for_panels(
            &Meter::whole(Phase::Features),
            own.start / step..own.end.div_ceil(step),
            &mut vec![(); own.len().div_ceil(step)],
            |p, ()| {
                let rows = p * step..((p + 1) * step).min(own.end);
                let mut scratch = Vec::new();
                let (panel, mut part) = (x.panel(&rows, &mut scratch)?, vec![T::default(); d * d]);
                // Symmetric up to rounding: blocks of rows up to the diagonal.
                for first in (0..d).step_by(BLOCK) {
                    let m = BLOCK.min(d - first);
                    let (left, out) = (&panel[first.min(panel.len())..], &mut part[first * d..]);
                    gemm_tn(m, first + m, rows.len(), false, out, d, left, d, panel, d);
                }
                Ok((p * step / layout.block(), part))
            },
            |(block, part)| {
                let sum = fold.block(block, || vec![0.0; d * d], add);
                sum.iter_mut().zip(&part).for_each(|(s, v)| *s += v.as_f64());
                Ok(())
            },
        )?;
        let sum = self.group.sum(fold, d * d)?;
        Ok(Mat::from_fn(d, d, |i, j| sum[i.max(j) * d + i.min(j)]))
    }
}
