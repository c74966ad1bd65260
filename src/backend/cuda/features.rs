//! Work on features: linear maps, encoders and their gradients, Gram matrices and kernels, all panel by panel.

use super::blas::Operand;
use super::matrix::{Data, Matrix, PANEL, Panels, depth_of, panels_of};
use super::memory::View;
use super::rows::Rows;
use super::{Cuda, Phase};
use crate::error::Result;
use crate::kernel::{Kernel, KernelKind};
use faer::{Mat, MatRef};

/// A small host matrix as row-major fp32.
pub(super) fn row_major(w: MatRef<'_, f64>) -> Vec<f32> {
    (0..w.nrows()).flat_map(|i| (0..w.ncols()).map(move |j| w[(i, j)] as f32)).collect()
}

/// The same in fp64.
pub(super) fn row_major_f64(w: MatRef<'_, f64>) -> Vec<f64> {
    (0..w.nrows()).flat_map(|i| (0..w.ncols()).map(move |j| w[(i, j)])).collect()
}

/// Doubles in a panel of kernel values.
const KERNEL_PANEL: usize = 1 << 22;

impl Cuda {
    /// `X W^T`.
    pub(super) fn map_rows(&self, x: &Matrix, w: MatRef<'_, f64>) -> Result<Matrix> {
        let (d, p) = (x.cols(), w.nrows());
        let w = self.device.upload(&row_major(w), "a linear map")?;
        let mut panels = Panels::new(self, x, None)?;
        self.build(x.rows(), p, PANEL, "mapped features", &mut |rows, out| {
            let from = Operand::f32(panels.get(rows.clone())?, d);
            let to = Operand::f32(out, p);
            self.device.blas.multiply((rows.len(), p, d), from, Operand::f32(w.view(), d).t(), false, to)?;
            self.report(Phase::Features, rows.end, x.rows())
        })
    }

    /// Unit rows of `X F^T` as embeddings, and their lengths before.
    pub(super) fn encode_rows(&self, x: &Matrix, f: MatRef<'_, f64>) -> Result<(Matrix, Vec<f64>)> {
        let (n, d, r) = (x.rows(), x.cols(), f.nrows());
        let depth = depth_of(r);
        let z = self.device.alloc::<u16>(n * 2 * depth, &format!("embeddings ({n} x {r})"))?;
        let norms = self.device.alloc::<f32>(n, "lengths of embeddings")?;
        let f = self.device.upload(&row_major(f), "an encoder")?;
        let h = self.device.alloc::<f32>(PANEL.min(n) * r, "a panel of embeddings")?;
        let mut panels = Panels::new(self, x, None)?;
        for rows in panels_of(0..n, PANEL) {
            let h = h.view().part(0..rows.len() * r)?;
            let from = Operand::f32(panels.get(rows.clone())?, d);
            let product = (rows.len(), r, d);
            self.device.blas.multiply(
                product,
                from,
                Operand::f32(f.view(), d).t(),
                false,
                Operand::f32(h, r),
            )?;
            let to = z.view().part(rows.start * 2 * depth..rows.end * 2 * depth)?;
            let length = norms.view().part(rows.clone())?;
            let h = Rows::dense(h, rows.len(), r)?;
            self.device.normalise_rows(self.mode.narrow(), h, depth, to, length)?;
            self.report(Phase::Features, rows.end, n)?;
        }
        let norms = self.device.download(norms.view())?.into_iter().map(f64::from).collect();
        Ok((Matrix::new(n, r, Data::Embedded(depth, z)).beside(x), norms))
    }

    /// `sum_i (I - z_i z_i^T) g_i / |F x_i| x_i^T`: panels' products are added in float64 in panel order.
    pub(super) fn project_back(&self, x: &Matrix, z: &Matrix, norms: &[f64], g: &Matrix) -> Result<Mat<f64>> {
        let (n, d, r) = (x.rows(), x.cols(), z.cols());
        let norms: Vec<f32> = norms.iter().map(|&v| v as f32).collect();
        let norms = self.device.upload(&norms, "lengths of embeddings")?;
        let tangent = self.device.alloc::<f32>(PANEL.min(n) * r, "a panel of gradients")?;
        let (mut x_rows, mut z_rows, mut g_rows) =
            (Panels::new(self, x, None)?, Panels::new(self, z, None)?, Panels::new(self, g, None)?);
        self.sum_products((r, d), panels_of(0..n, PANEL), n, |rows, sum| {
            let m = rows.len();
            let tangent = tangent.view().part(0..m * r)?;
            let z = Rows::dense(z_rows.get(rows.clone())?, m, r)?;
            let g = g_rows.get(rows.clone())?;
            self.device.tangent_rows(z, norms.view().part(rows.clone())?, g, tangent)?;
            let right = Operand::f32(x_rows.get(rows)?, d);
            self.device.blas.multiply(
                (r, d, m),
                Operand::f32(tangent, r).t(),
                right,
                false,
                Operand::f32(sum, d),
            )
        })
    }

    /// Adds up `rows x cols` products of panels in float64, in panel order, then those of the ranks: `product(rows, out)`
    /// enqueues one.
    pub(super) fn sum_products(
        &self,
        (rows, cols): (usize, usize),
        panels: impl Iterator<Item = std::ops::Range<usize>>,
        total: usize,
        mut product: impl FnMut(std::ops::Range<usize>, View<'_, f32>) -> Result<()>,
    ) -> Result<Mat<f64>> {
        let sum = self.device.alloc::<f64>(rows * cols, "a sum of products")?;
        let part = self.device.alloc::<f32>(rows * cols, "a product")?;
        self.device.zero(sum.view())?;
        for panel in panels {
            let end = panel.end;
            product(panel, part.view())?;
            self.device.merge_sums(part.view(), 1, sum.view())?;
            self.report(Phase::Features, end, total)?;
        }
        let sum = self.sum_on_device(sum.view())?;
        Ok(Mat::from_fn(rows, cols, |i, j| sum[i * cols + j]))
    }

    /// `X^T X`.
    pub(super) fn gram_of(&self, x: &Matrix) -> Result<Mat<f64>> {
        let d = x.cols();
        let mut panels = Panels::new(self, x, None)?;
        let mut gram = self.sum_products((d, d), panels_of(0..x.rows(), PANEL), x.rows(), |rows, sum| {
            let m = rows.len();
            let panel = Operand::f32(panels.get(rows)?, d);
            self.device.blas.multiply((d, d, m), panel.t(), panel, false, Operand::f32(sum, d))
        })?;
        // Symmetric up to rounding; its lower half is mirrored.
        for j in 0..d {
            for i in 0..j {
                gram[(i, j)] = gram[(j, i)];
            }
        }
        Ok(gram)
    }

    /// `k(x_i, z_j)`, computed in double.
    pub(super) fn kernel_rows(
        &self,
        kernel: &Kernel,
        x: &Matrix,
        landmarks: MatRef<'_, f64>,
    ) -> Result<Matrix> {
        let (d, m) = (x.cols(), landmarks.nrows());
        // As Kind in gram.cu counts.
        let (kind, parameter) = match kernel.kind {
            KernelKind::Linear => (0, 0.0),
            KernelKind::Cosine => (1, 0.0),
            KernelKind::Angular => (2, 0.0),
            KernelKind::Arccos => (3, 0.0),
            KernelKind::ExpCosine => (4, kernel.beta),
            KernelKind::Rbf => (5, kernel.gamma),
            KernelKind::Matern => (6, kernel.lengthscale),
        };
        let points = self.device.upload(&row_major_f64(landmarks), "landmarks")?;
        let point_squares = self.device.alloc::<f64>(m, "squares of landmarks")?;
        self.device.row_squares(Rows::dense(points.view(), m, d)?, point_squares.view())?;
        let panel = (KERNEL_PANEL / m.max(d).max(1)).clamp(1, PANEL);
        let held = panel.min(x.rows());
        let x64 = self.device.alloc::<f64>(held * d, "a panel of rows in double")?;
        let squares = self.device.alloc::<f64>(held, "squares of rows")?;
        let values = self.device.alloc::<f64>(held * m, "a panel of kernel values")?;
        let mut panels = Panels::new(self, x, None)?;
        self.build(x.rows(), m, panel, "kernel values", &mut |rows, out| {
            let n = rows.len();
            let wide = Rows::dense(panels.get(rows.clone())?, n, d)?;
            self.device.rows_to_double(wide, x64.view())?;
            self.device.row_squares(Rows::dense(x64.view(), n, d)?, squares.view())?;
            let product = Operand::f64(values.view(), m);
            let (left, right) = (Operand::f64(x64.view(), d), Operand::f64(points.view(), d).t());
            self.device.blas.multiply((n, m, d), left, right, false, product)?;
            let k = Rows::dense(values.view(), n, m)?;
            let squares = (squares.view(), point_squares.view());
            self.device.kernel_values(kind, k, squares, (parameter, 1.0 - kernel.cos_clamp))?;
            self.device.rows_to_float(k, out)?;
            self.report(Phase::Features, rows.end, x.rows())
        })
    }

    /// Row `i` times `scale[i]`.
    pub(super) fn scaled_rows(&self, x: &Matrix, scale: &[f64]) -> Result<Matrix> {
        let d = x.cols();
        let scale: Vec<f32> = scale.iter().map(|&v| v as f32).collect();
        let scale = self.device.upload(&scale, "factors of rows")?;
        let mut panels = Panels::new(self, x, None)?;
        self.build(x.rows(), d, PANEL, "scaled rows", &mut |rows, out| {
            let (m, out) = (rows.len(), Rows::dense(out, rows.len(), d)?);
            let from = Rows::dense(panels.get(rows.clone())?, m, d)?;
            self.device.scale_rows(from, 1.0, Some(scale.view().part(rows)?), out)
        })
    }

    /// Column blocks `scale_b x_b` side by side.
    pub(super) fn side_by_side(&self, blocks: &[(f64, &Matrix)]) -> Result<Matrix> {
        let rows = blocks.first().map_or(0, |(_, b)| b.rows());
        let cols: usize = blocks.iter().map(|(_, b)| b.cols()).sum();
        let mut panels = Vec::new();
        for (_, block) in blocks {
            panels.push(Panels::new(self, block, None)?);
        }
        self.build(rows, cols, PANEL, "stacked columns", &mut |rows, out| {
            let mut first = 0;
            for ((scale, block), panels) in blocks.iter().zip(&mut panels) {
                let from = Rows::dense(panels.get(rows.clone())?, rows.len(), block.cols())?;
                let to = Rows::new(out.from(first)?, rows.len(), block.cols(), cols)?;
                self.device.scale_rows(from, *scale as f32, None, to)?;
                first += block.cols();
            }
            Ok(())
        })
    }
}
