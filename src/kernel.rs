//! The kernels of the kernel solver.

use crate::error::{Error, Result};
use crate::io::{HostMatrix, RowSource, read_all, times_power};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;

/// `exp` of more overflows float32, in which kernel features may be held.
const LARGEST_BETA: f64 = 80.0;
/// Widths whose squares and products with squared float32 distances float64 holds.
const WIDTHS: RangeInclusive<f64> = 1e-100..=1e100;

/// Which kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelKind {
    /// `<a, b>`.
    Linear,
    /// `cos(a, b)`.
    Cosine,
    /// `1 - theta/pi`, `theta` the angle between `a` and `b`.
    #[default]
    Angular,
    /// First-order arc-cosine of normalised inputs: `(sin theta + (pi - theta) cos theta)/pi`.
    Arccos,
    /// `exp(beta cos(a, b))`.
    ExpCosine,
    /// `exp(-gamma |a - b|^2)`.
    Rbf,
    /// Matern 3/2: `(1 + sqrt3 r) exp(-sqrt3 r)`, `r = |a - b|/lengthscale`.
    Matern,
}

/// A kernel of one's own: `k(a, b)` of two rows, symmetric and positive semi-definite.
pub type KernelFunction<'a> = dyn Fn(&[f64], &[f64]) -> f64 + Sync + 'a;

/// The values `k(a_i, z_j)` of a kernel of one's own, `n x m`, for [`KernelOptions::of_values`](crate::fit::KernelOptions::of_values): of
/// a fit `a` and `z` are the same rows, and of rows to encode `z` are the rows of the fit.
///
/// # Errors
/// [`Error::InvalidArgument`] where the widths differ; [`Error::Numerical`] naming the first pair whose value is not finite; those
/// of the sources.
pub fn kernel_values(k: &KernelFunction<'_>, a: &dyn RowSource, z: &dyn RowSource) -> Result<HostMatrix> {
    if a.cols() != z.cols() {
        return Err(Error::invalid(z.name(), format!("{} columns, as {} has", a.cols(), a.name()), z.cols()));
    }
    let (n, m, d) = (a.rows(), z.rows(), a.cols().max(1));
    let (a_rows, z_rows) = (read_all::<f64>(a)?, read_all::<f64>(z)?);
    let row = |a: &[f64]| z_rows.chunks_exact(d).map(|z| k(a, z)).collect::<Vec<f64>>();
    let values = crate::threads::run(|| a_rows.par_chunks_exact(d).flat_map_iter(row).collect::<Vec<f64>>());
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        let (i, j, value) = (at / m, at % m, values[at]);
        let text = format!("the kernel of row {i} of {} and row {j} of {} is {value}", a.name(), z.name());
        return Err(Error::Numerical(text));
    }
    HostMatrix::from_f64(a.name(), n, m, values)
}

/// A kernel with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Which kernel.
    pub kind: KernelKind,
    /// Of [`KernelKind::ExpCosine`], between -80 and 80: `exp(beta)` and its inverse are float32 numbers.
    pub beta: f64,
    /// Of [`KernelKind::Rbf`], between 1e-100 and 1e100.
    pub gamma: f64,
    /// Of [`KernelKind::Matern`], between 1e-100 and 1e100.
    pub lengthscale: f64,
    /// Cosines are clamped to `[-1 + c, 1 - c]`, `0 <= c < 1`. The authors use 1e-5 (so that angular k(x, x) is
    /// 0.99858); 0, the default, is the textbook kernel.
    pub cos_clamp: f64,
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new(KernelKind::default())
    }
}

impl Kernel {
    /// A kernel with parameters 1 and no clamp.
    pub fn new(kind: KernelKind) -> Self {
        Self { kind, beta: 1.0, gamma: 1.0, lengthscale: 1.0, cos_clamp: 0.0 }
    }

    /// Whether it depends on distances as multiples of a width.
    pub fn has_width(&self) -> bool {
        matches!(self.kind, KernelKind::Rbf | KernelKind::Matern)
    }

    /// The same with this width, > 0: `gamma = 1/width^2`, or the lengthscale.
    pub fn of_width(self, width: f64) -> Self {
        match self.kind {
            KernelKind::Rbf => Self { gamma: width.powi(-2), ..self },
            KernelKind::Matern => Self { lengthscale: width, ..self },
            _ => self,
        }
    }

    /// Whether it depends on the directions of rows alone, or on their lengths through common factors of `k(x)`: embeddings
    /// are the same for rows times any positive numbers.
    pub(crate) fn is_scale_free(&self) -> bool {
        !self.has_width()
    }

    /// The same kernel of rows times `2^e`.
    pub(crate) fn of_scaled_rows(self, e: i32) -> Self {
        let finite = |v: f64| v.clamp(f64::MIN_POSITIVE, f64::MAX);
        match self.kind {
            KernelKind::Rbf => Self { gamma: finite(times_power(self.gamma, -2 * e)), ..self },
            KernelKind::Matern => Self { lengthscale: finite(times_power(self.lengthscale, e)), ..self },
            _ => self,
        }
    }

    /// Checks the parameters.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming the first one outside its range.
    pub fn validate(&self) -> Result<()> {
        if !(-LARGEST_BETA..=LARGEST_BETA).contains(&self.beta) {
            let expected = format!("a number between -{LARGEST_BETA} and {LARGEST_BETA}");
            return Err(Error::invalid("beta", expected, self.beta));
        }
        for (name, value) in [("gamma", self.gamma), ("lengthscale", self.lengthscale)] {
            if !WIDTHS.contains(&value) {
                let (least, most) = (WIDTHS.start(), WIDTHS.end());
                let expected = format!("a number > 0, between {least:e} and {most:e}");
                return Err(Error::invalid(name, expected, value));
            }
        }
        if !(0.0..1.0).contains(&self.cos_clamp) {
            return Err(Error::invalid("cos_clamp", "at least 0 and below 1", self.cos_clamp));
        }
        Ok(())
    }

    /// What of each row the kernel needs beside products: its length, or its square for distances.
    pub fn norm(&self, row: impl Iterator<Item = f64>) -> f64 {
        let square: f64 = row.map(|v| v * v).sum();
        match self.kind {
            KernelKind::Rbf | KernelKind::Matern => square,
            _ => square.sqrt(),
        }
    }

    /// `k(a, b)` from the product `<a, b>` and both rows' [`norm`](Self::norm).
    pub fn of_product(&self, product: f64, norm_a: f64, norm_b: f64) -> f64 {
        let cosine = || {
            let lengths = norm_a * norm_b;
            let c = if lengths == 0.0 { 0.0 } else { product / lengths };
            c.clamp(-1.0 + self.cos_clamp, 1.0 - self.cos_clamp)
        };
        // A product beyond the range of float32 is one of rows of which one is far longer than the other.
        let product2 = if product.is_finite() { 2.0 * product } else { 0.0 };
        let distance2 = || (norm_a - product2 + norm_b).max(0.0);
        match self.kind {
            KernelKind::Linear => product,
            KernelKind::Cosine => cosine(),
            KernelKind::Angular => 1.0 - cosine().acos() / std::f64::consts::PI,
            KernelKind::Arccos => {
                let c = cosine();
                let theta = c.acos();
                (theta.sin() + (std::f64::consts::PI - theta) * c) / std::f64::consts::PI
            }
            KernelKind::ExpCosine => (self.beta * cosine()).exp(),
            KernelKind::Rbf => (-self.gamma * distance2()).exp(),
            KernelKind::Matern => {
                // The offset keeps the authors' derivative finite at distance 0; it moves k by 1e-12.
                let r = 3f64.sqrt() * (distance2() + 1e-12).sqrt() / self.lengthscale;
                if r < 1e3 { (1.0 + r) * (-r).exp() } else { 0.0 }
            }
        }
    }
}
