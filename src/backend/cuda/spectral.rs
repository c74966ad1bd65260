//! The leading singular triplets of a small matrix: products on the device in float64, and cuSOLVER for eigenvalues.

use super::Cuda;
use super::blas::Operand;
use super::features::row_major_f64;
use super::memory::Buffer;
use crate::error::{Error, Result};
use crate::spectral::{self, SvdMethod, TopR};
use faer::{Mat, MatRef, Side};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// Below this size the host is done before the device has started.
const SMALL: usize = 96;
/// Singular values below this share of the largest lose half their digits in the Gram matrix.
const GRAM_FLOOR: f64 = 1e-5;

impl Cuda {
    /// As [`spectral::top_r`]. What this way cannot do well (a rank-deficient matrix) goes that way.
    pub(super) fn leading_triplets(&self, c: MatRef<'_, f64>, r: usize, method: SvdMethod) -> Result<TopR> {
        let bound = c.nrows().min(c.ncols());
        if bound <= SMALL || r == 0 || r > bound || !c.norm_l2().is_finite() {
            return spectral::top_r(c, r, method);
        }
        let found = match method {
            SvdMethod::Randomized { oversample, power_iterations, seed } if 2 * (r + oversample) <= bound => {
                self.by_subspace(c, r, r + oversample, power_iterations, seed)?
            }
            SvdMethod::Full | SvdMethod::Randomized { .. } => self.by_gram(c, r)?,
        };
        found.map_or_else(|| spectral::top_r(c, r, method), Ok)
    }

    /// Through the eigenvectors of the smaller Gram matrix.
    fn by_gram(&self, c: MatRef<'_, f64>, r: usize) -> Result<Option<TopR>> {
        if c.nrows() < c.ncols() {
            let t = self.by_gram(c.transpose(), r)?;
            return Ok(t.map(|t| TopR { u: t.v, v: t.u, ..t }));
        }
        let (m, n) = (c.nrows(), c.ncols());
        let on_device = self.device.upload(&row_major_f64(c), "a matrix to decompose")?;
        let gram = self.device.alloc::<f64>(n * n, "its Gram matrix")?;
        let c64 = Operand::f64(on_device.view(), n);
        self.device.blas.multiply((n, n, m), c64.t(), c64, false, Operand::f64(gram.view(), n))?;
        let (q, values) = self.device.eigen.symmetric(&self.device, &gram, n)?;
        let all: Vec<f64> = values.iter().rev().map(|w| w.max(0.0).sqrt()).collect();
        // Written so that NaN goes to the host too.
        if all[r - 1].is_nan() || all[r - 1] <= GRAM_FLOOR * all[0] {
            return Ok(None);
        }
        let v = Mat::from_fn(n, r, |i, j| q[(i, n - 1 - j)]);
        let cv = c * &v;
        let u = Mat::from_fn(m, r, |i, j| cv[(i, j)] / all[j]);
        Ok(Some(TopR { u, s: all[..r].to_vec(), v, all }))
    }

    /// Randomized subspace iteration: products on the device, bases orthonormalised by CholeskyQR2.
    fn by_subspace(
        &self,
        c: MatRef<'_, f64>,
        r: usize,
        width: usize,
        power_iterations: usize,
        seed: u64,
    ) -> Result<Option<TopR>> {
        let (m, n) = (c.nrows(), c.ncols());
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let sketch = Mat::<f64>::from_fn(n, width, |_, _| StandardNormal.sample(&mut rng));
        let on_device = self.device.upload(&row_major_f64(c), "a matrix to decompose")?;
        let mut right = self.device.upload(&row_major_f64(sketch.as_ref()), "a sketch")?;
        let left = self.device.alloc::<f64>(m * width, "a basis")?;
        let c64 = Operand::f64(on_device.view(), n);
        for step in 0..=power_iterations {
            let from = Operand::f64(right.view(), width);
            self.device.blas.multiply((m, width, n), c64, from, false, Operand::f64(left.view(), width))?;
            if !self.orthonormalise(&left, m, width)? {
                return Ok(None);
            }
            if step < power_iterations {
                if step == 0 {
                    right = self.device.alloc(n * width, "a basis")?;
                }
                let from = Operand::f64(left.view(), width);
                self.device.blas.multiply(
                    (n, width, m),
                    c64.t(),
                    from,
                    false,
                    Operand::f64(right.view(), width),
                )?;
                if !self.orthonormalise(&right, n, width)? {
                    return Ok(None);
                }
            }
        }
        // The matrix within the basis, decomposed on the host: `width x n`.
        let small = self.device.alloc::<f64>(width * n, "a projected matrix")?;
        let q = Operand::f64(left.view(), width);
        self.device.blas.multiply((width, n, m), q.t(), c64, false, Operand::f64(small.view(), n))?;
        let small = self.device.download(small.view())?;
        let small = Mat::from_fn(width, n, |i, j| small[i * n + j]);
        let top = spectral::top_r(small.as_ref(), r, SvdMethod::Full)?;
        let q = self.device.download(left.view())?;
        let q = Mat::from_fn(m, width, |i, j| q[i * width + j]);
        Ok(Some(TopR { u: &q * &top.u, ..top }))
    }

    /// Makes the columns of a row-major `rows x width` matrix orthonormal, in place: `A <- A R^-1` with `R^T R = A^T A`,
    /// twice. `false` when they are too nearly dependent for that.
    fn orthonormalise(&self, a: &Buffer<f64>, rows: usize, width: usize) -> Result<bool> {
        let gram = self.device.alloc::<f64>(width * width, "a Gram matrix")?;
        let product = self.device.alloc::<f64>(rows * width, "a basis")?;
        for _ in 0..2 {
            let operand = Operand::f64(a.view(), width);
            let to = Operand::f64(gram.view(), width);
            self.device.blas.multiply((width, width, rows), operand.t(), operand, false, to)?;
            let host = self.device.download(gram.view())?;
            let host = Mat::from_fn(width, width, |i, j| 0.5 * (host[i * width + j] + host[j * width + i]));
            if !host.norm_l2().is_finite() {
                return Err(Error::Numerical("a basis is not finite".into()));
            }
            let Ok(llt) = host.llt(Side::Lower) else { return Ok(false) };
            // R^-1 = (L^-1)^T.
            let mut inverse = Mat::<f64>::identity(width, width);
            llt.L().solve_lower_triangular_in_place(inverse.as_mut());
            // A condition number near 1e8 leaves the second pass nothing to work with.
            let condition = inverse.norm_max() * host.norm_max().sqrt();
            if condition.is_nan() || condition >= 1e7 {
                return Ok(false);
            }
            let inverse = self.device.upload(&row_major_f64(inverse.transpose()), "a triangular factor")?;
            let (left, right) = (Operand::f64(a.view(), width), Operand::f64(inverse.view(), width));
            self.device.blas.multiply(
                (rows, width, width),
                left,
                right,
                false,
                Operand::f64(product.view(), width),
            )?;
            self.device.copy(product.view(), a.view())?;
        }
        Ok(true)
    }
}
