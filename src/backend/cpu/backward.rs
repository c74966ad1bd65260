//! From gradients of embeddings to the gradient of their encoder.

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

/// Rows per panel at most: products of `r x d` are large, so of many rows fewer are added up.
const MOST: usize = 4 * TILE;

/// Rows up to this length are taken for 0: float32 has no room for the inverse.
const NORM_CUT: f64 = 1e-30;

impl<T: Real> Cpu<T> {
    /// `sum_i (I - z_i z_i^T) g_i / |F x_i| x_i^T`: panels' products are added in float64 in panel order.
    pub(super) fn project_back(
        &self,
        x: &Matrix<T>,
        z: &Matrix<T>,
        norms: &[f64],
        g: &Matrix<T>,
    ) -> Result<Mat<f64>> {
        let (r, d) = (z.cols(), x.cols());
        let layout = self.layout(x.rows(), TILE);
        let step = layout.block().min(MOST);
        let own = layout.own();
        let mut fold = Fold::new(layout.own_blocks());
        let mut states = vec![(); own.len().div_ceil(step)];
        self.for_panels(
            &Meter::whole(Phase::Weights),
            own.start / step..own.end.div_ceil(step),
            &mut states,
            |p, ()| {
                let rows = p * step..((p + 1) * step).min(own.end);
                let (mut x_rows, mut z_rows, mut g_rows) = (Vec::new(), Vec::new(), Vec::new());
                let (z, g) = (z.panel(&rows, &mut z_rows)?, g.panel(&rows, &mut g_rows)?);
                let mut tangent = vec![T::default(); rows.len() * r];
                let each = z.chunks_exact(r.max(1)).zip(g.chunks_exact(r.max(1)));
                for ((i, out), (z, g)) in rows.clone().zip(tangent.chunks_exact_mut(r.max(1))).zip(each) {
                    let norm = norms[i - own.start];
                    if norm <= NORM_CUT {
                        continue;
                    }
                    let along: f64 = z.iter().zip(g).map(|(z, g)| z.as_f64() * g.as_f64()).sum();
                    let scale = 1.0 / norm;
                    for ((out, z), g) in out.iter_mut().zip(z).zip(g) {
                        *out = T::of((g.as_f64() - along * z.as_f64()) * scale);
                    }
                }
                let mut part = vec![T::default(); r * d];
                let (x, m) = (x.panel(&rows, &mut x_rows)?, rows.len());
                gemm_tn(r, d, m, false, &mut part, d, &tangent, r, x, d);
                Ok((p * step / layout.block(), part))
            },
            |(block, part)| {
                let sum = fold.block(block, || vec![0.0; r * d], add);
                sum.iter_mut().zip(&part).for_each(|(o, v)| *o += v.as_f64());
                Ok(())
            },
        )?;
        let out = self.group.sum(fold, r * d)?;
        Ok(Mat::from_fn(r, d, |k, j| out[k * d + j]))
    }
}
