//! From gradients of embeddings to the gradient of their encoder.

use super::Cpu;
use super::gemm::gemm_tn;
use super::matrix::Matrix;
use crate::backend::plan::TILE;
use crate::control::Phase;
use crate::error::Result;
use crate::real::Real;
use faer::Mat;

/// Rows per panel: products of `r x d` are large, so of many rows fewer are added up.
fn panel_rows(rows: usize) -> usize {
    if rows > 16 * TILE { 4 * TILE } else { TILE }
}

/// Norms up to this belong to rows that `encode` does not scale to unit length.
const NORM_CUT: f64 = 1e-12;

impl<T: Real> Cpu<T> {
    /// `sum_i (I - z_i z_i^T) g_i / |F x_i| x_i^T`: panels' products are added in float64 in panel order.
    pub(super) fn project_back(
        &self,
        x: &Matrix<T>,
        z: &Matrix<T>,
        norms: &[f64],
        g: &Matrix<T>,
    ) -> Result<Mat<f64>> {
        let (r, d, step) = (z.cols(), x.cols(), panel_rows(x.rows()));
        let mut out = vec![0.0; r * d];
        self.for_panels(
            Phase::Weights,
            x.rows().div_ceil(step),
            |p| {
                let rows = p * step..((p + 1) * step).min(x.rows());
                let mut tangent = vec![T::default(); rows.len() * r];
                for (i, out) in rows.clone().zip(tangent.chunks_exact_mut(r.max(1))) {
                    if norms[i] <= NORM_CUT {
                        continue;
                    }
                    let (z, g) = (z.row(i), g.row(i));
                    let along: f64 = z.iter().zip(g).map(|(z, g)| z.as_f64() * g.as_f64()).sum();
                    let scale = 1.0 / norms[i];
                    for ((out, z), g) in out.iter_mut().zip(z).zip(g) {
                        *out = T::of((g.as_f64() - along * z.as_f64()) * scale);
                    }
                }
                let mut part = vec![T::default(); r * d];
                let (x, m) = (x.panel(&rows), rows.len());
                gemm_tn(r, d, m, T::of(0.0), &mut part, d, T::of(1.0), &tangent, r, x, d);
                Ok(part)
            },
            |part| {
                out.iter_mut().zip(&part).for_each(|(o, v)| *o += v.as_f64());
                Ok(())
            },
        )?;
        Ok(Mat::from_fn(r, d, |k, j| out[k * d + j]))
    }
}
