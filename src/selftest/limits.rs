//! How much a device may differ from float64.
//!
//! All limits are relative Frobenius errors unless said otherwise, for one operation on inputs that the device itself
//! stored. They follow from the unit roundoffs `e` of the accumulation and `u` of stored 16-bit values:
//!
//! * a similarity of unit rows is off by a few `e` in absolute terms, which the exponential turns into `e/tau` relative;
//! * 16-bit modes round each weight and each element of the matrix it multiplies, `u` each.

use crate::backend::Arithmetic;

impl Arithmetic {
    /// Unit roundoff of sums.
    pub(super) fn sums(self) -> f64 {
        match self {
            Self::F64 => f64::EPSILON / 2.0,
            _ => f64::from(f32::EPSILON) / 2.0,
        }
    }

    /// Unit roundoff of what the mode stores in 16 bits; 0 if nothing.
    pub(super) fn stored(self) -> f64 {
        match self {
            Self::F64 | Self::F32 => 0.0,
            // What is left of a product of two numbers in halves.
            Self::Bf16Halves => 2f64.powi(-16),
            Self::F16 => 2f64.powi(-11),
            Self::Bf16 => 2f64.powi(-9),
        }
    }

    /// Absolute error of a similarity of stored embeddings. The CPU's bfloat16 mode stores f32 and rounds tiles only, so
    /// there the rounding of both factors counts too.
    pub(super) fn similarity(self) -> f64 {
        let rounds = matches!(self, Self::Bf16 | Self::Bf16Halves);
        8.0 * self.sums() + if rounds { 2.0 * self.stored() } else { 0.0 }
    }

    /// The loss and its per-anchor sums, relative.
    pub(super) fn loss(self, tau: f64) -> f64 {
        8.0 * self.sums() + self.similarity() / tau.min(1.0)
    }

    /// Products with `S`, sums of `n` terms.
    pub(super) fn product(self, tau: f64, n: usize) -> f64 {
        self.similarity() / tau.min(1.0) + self.sum(n) + 2.0 * self.stored()
    }

    /// Sums of `terms` products of stored values: one rounding a term at random, added one after another.
    pub(super) fn rows(self, terms: usize) -> f64 {
        self.sum(terms) + self.stored()
    }

    fn sum(self, terms: usize) -> f64 {
        (4.0 + (terms as f64).sqrt()) * self.sums()
    }

    /// `C` from the features on, one-to-one pairs with structure, `tau = 0.07`: what users see of a mode.
    pub(super) fn whole(self) -> f64 {
        match self {
            Self::F64 => 1e-13,
            Self::F32 => 2e-6,
            Self::Bf16Halves => 2e-5,
            Self::F16 => 1e-4,
            Self::Bf16 => 1e-2,
        }
    }
}
