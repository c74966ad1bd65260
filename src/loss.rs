//! The generalised contrastive loss: which member of the family, and its parameters.
//!
//! A member is fixed by `(psi, phi, nu, eps)`. For an anchor `i` and one of its positives `k`
//!
//! ```text
//! u_ik = eps_pos psi((1 - nu) s_ik) + sum_{j not positive} eps_neg psi(s_ij - nu s_ik)
//! L_x  = 1/(2 n_x) sum_i 1/|P(i)| sum_{k in P(i)} phi(u_ik),     L = L_x + L_y
//! ```
//!
//! with `L_y` the same on columns (arXiv 2604.16678, the unified loss).

mod family;

pub(crate) use family::Values;
pub use family::{Answer, BLOCK, Custom, Family};

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// No parameter is larger: beyond it the loss is a number only by chance.
const LARGEST: f64 = 1e6;

/// The members of the family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossKind {
    /// InfoNCE / CLIP, SupCon when many-to-many: `psi = exp(t/tau)`, `phi = tau log(u + log_eps)`. With `nu = 1` and both eps 1
    /// the loss and its gradients by embeddings are `tau` times those of open_clip, the mean of two cross-entropies of `s / tau`.
    Clip,
    /// Pairwise sigmoid (SigLIP style): `psi = softplus(t/tau)`, `phi = u`.
    Sigmoid,
    /// Hinge triplet: `psi = max(t + margin, 0)`, `phi = u`.
    TripletHard,
    /// The authors' smooth triplet: `psi = -tau^2 softplus((margin - t)/tau)`, `phi = u`.
    TripletSmooth,
    /// A psi and a phi of one's own: [`Loss::family`].
    Custom,
}

/// Where `eps_pos` applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EpsBy {
    /// On every positive pair.
    #[default]
    Positives,
    /// On the literal diagonal `i == j` whatever the positives: the authors' code, for comparison only.
    Diagonal,
}

/// A member of the loss family with its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// Which member.
    pub kind: LossKind,
    /// Temperature, between 0.001 and 1e6. Unused by [`LossKind::TripletHard`] and by
    /// [`LossKind::Custom`], whose functions have their own.
    pub tau: f64,
    /// Weight of the positive inside the loss, at most 1e6 in magnitude, like everything below; 1 is the textbook loss, more up-weights positives.
    pub nu: f64,
    /// Margin of the triplet members, finite.
    pub margin: f64,
    /// Weight of a positive's own term, >= 0; 0 is the decoupled loss.
    pub eps_pos: f64,
    /// Weight of the negatives' terms, >= 0.
    pub eps_neg: f64,
    /// Added inside clip's logarithm, >= 0. The authors use 1e-8, which destroys S at small tau: compatibility only.
    pub log_eps: f64,
    /// Where `eps_pos` applies. With [`LossKind::Custom`] on the positives.
    pub eps_by: EpsBy,
    /// psi and phi of [`LossKind::Custom`], else none. The CPU backends take them; files record the name alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Custom>,
}

impl Default for Loss {
    fn default() -> Self {
        Self::new(LossKind::Clip, 0.07)
    }
}

impl Loss {
    /// A member with its usual `nu` (clip 1, sigmoid 1.5, triplets 1) and margin 0.5.
    pub fn new(kind: LossKind, tau: f64) -> Self {
        let nu = if kind == LossKind::Sigmoid { 1.5 } else { 1.0 };
        let eps_by = EpsBy::Positives;
        Self { kind, tau, nu, margin: 0.5, eps_pos: 1.0, eps_neg: 1.0, log_eps: 0.0, eps_by, family: None }
    }

    /// A loss of any psi and phi, with `nu = 1` and both eps 1.
    pub fn custom(family: Custom) -> Self {
        Self { family: Some(family), ..Self::new(LossKind::Custom, 1.0) }
    }

    /// Clip with temperature `tau` and `nu = 1`.
    pub fn clip(tau: f64) -> Self {
        Self::new(LossKind::Clip, tau)
    }

    /// The same loss with another `nu`.
    pub fn with_nu(self, nu: f64) -> Self {
        Self { nu, ..self }
    }

    /// Checks every parameter's range, and that functions are here where the loss needs any.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming the first parameter outside its range.
    pub fn validate(&self) -> Result<()> {
        self.check_numbers()?;
        self.own().map(|_| ())
    }

    /// The functions of [`LossKind::Custom`]; none for the other kinds.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the kind and the functions do not go together.
    pub(crate) fn own(&self) -> Result<Option<&Custom>> {
        match (self.kind, &self.family) {
            (LossKind::Custom, None) => Err(self.without_family()),
            (LossKind::Custom, Some(custom)) if !custom.has_functions() => Err(custom.absent()),
            (LossKind::Custom, Some(custom)) => Ok(Some(custom)),
            _ => Ok(None),
        }
    }

    /// The kind is the custom one, but no functions came with it.
    pub(crate) fn without_family(&self) -> Error {
        Error::invalid("loss", "a family with the custom kind", "none")
    }

    /// What files record: everything but the functions of one's own.
    pub(crate) fn recorded(&self) -> Self {
        Self { family: self.family.as_ref().map(Custom::recorded), ..self.clone() }
    }

    /// Refuses a loss of one's own where only the built-in ones can be computed.
    pub(crate) fn check_built_in(&self, place: &str) -> Result<()> {
        match self.kind {
            LossKind::Custom => Err(Error::Unsupported(format!(
                "psi and phi of one's own on {place}: they run on the CPU (the device cpu), or take a built-in loss"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks every parameter's range, as of a loss in a file.
    pub(crate) fn check_numbers(&self) -> Result<()> {
        match (self.kind, &self.family) {
            (LossKind::Custom, None) => return Err(self.without_family()),
            (LossKind::Custom, Some(_)) | (_, None) => {}
            (kind, Some(_)) => {
                return Err(Error::invalid(
                    "loss",
                    "a family only with the custom kind",
                    format!("{kind:?}"),
                ));
            }
        }
        if !(self.tau.is_finite() && self.tau > 0.0) {
            return Err(Error::invalid("tau", "a finite temperature > 0", self.tau));
        }
        // Below this e^{1/tau} leaves double precision's range even after the shift.
        if self.tau < 1e-3 {
            return Err(Error::invalid("tau", "at least 0.001", self.tau));
        }
        if self.tau > LARGEST {
            return Err(Error::invalid("tau", format!("at most {LARGEST:e}"), self.tau));
        }
        for (name, value) in [("nu", self.nu), ("margin", self.margin)] {
            if !(-LARGEST..=LARGEST).contains(&value) {
                return Err(Error::invalid(
                    name,
                    format!("a finite number of magnitude at most {LARGEST:e}"),
                    value,
                ));
            }
        }
        for (name, value) in [("eps_pos", self.eps_pos), ("eps_neg", self.eps_neg), ("log_eps", self.log_eps)]
        {
            if !(0.0..=LARGEST).contains(&value) {
                return Err(Error::invalid(
                    name,
                    format!("a finite number >= 0, at most {LARGEST:e}"),
                    value,
                ));
            }
        }
        if self.log_eps > 0.0 && self.kind != LossKind::Clip {
            return Err(Error::invalid("log_eps", "0 unless the loss is clip", self.log_eps));
        }
        if self.kind == LossKind::Custom && self.eps_by != EpsBy::Positives {
            return Err(Error::invalid(
                "eps_by",
                "the positives with a psi and phi of one's own",
                "the diagonal",
            ));
        }
        Ok(())
    }

    /// `psi(t)`; NaN where a psi of one's own has no finite answer.
    pub fn psi(&self, t: f64) -> f64 {
        match self.kind {
            LossKind::Custom => self.family.as_ref().map_or(f64::NAN, |f| f.psi_of_one(t)[0]),
            LossKind::Clip => (t / self.tau).exp(),
            LossKind::Sigmoid => softplus(t / self.tau),
            LossKind::TripletHard => (t + self.margin).max(0.0),
            LossKind::TripletSmooth => -self.tau * self.tau * softplus((self.margin - t) / self.tau),
        }
    }

    /// `psi'(t)`; the hinge's derivative at its kink is 0.
    pub fn dpsi(&self, t: f64) -> f64 {
        match self.kind {
            LossKind::Custom => self.family.as_ref().map_or(f64::NAN, |f| f.psi_of_one(t)[1]),
            LossKind::Clip => (t / self.tau).exp() / self.tau,
            LossKind::Sigmoid => logistic(t / self.tau) / self.tau,
            LossKind::TripletHard => f64::from(t + self.margin > 0.0),
            LossKind::TripletSmooth => self.tau * logistic((self.margin - t) / self.tau),
        }
    }

    /// `phi(u)`: `tau log(u + log_eps)` for clip, `u` for the other built-in members.
    pub fn phi(&self, u: f64) -> f64 {
        match self.kind {
            LossKind::Clip => self.tau * (u + self.log_eps).ln(),
            LossKind::Custom => self.family.as_ref().map_or(f64::NAN, |f| f.phi_of_one(u)[0]),
            LossKind::Sigmoid | LossKind::TripletHard | LossKind::TripletSmooth => u,
        }
    }

    /// `phi'(u)`.
    pub fn dphi(&self, u: f64) -> f64 {
        match self.kind {
            LossKind::Clip => self.tau / (u + self.log_eps),
            LossKind::Custom => self.family.as_ref().map_or(f64::NAN, |f| f.phi_of_one(u)[1]),
            LossKind::Sigmoid | LossKind::TripletHard | LossKind::TripletSmooth => 1.0,
        }
    }

    /// `psi(0)` and `psi'(0)`.
    ///
    /// # Errors
    /// Those of a psi of one's own.
    pub(crate) fn at_zero(&self) -> Result<[f64; 2]> {
        let Some(custom) = self.own()? else { return Ok([self.psi(0.0), self.dpsi(0.0)]) };
        let mut out = Values::default();
        custom.psi(&[0.0], &mut out)?;
        Ok([out.value[0], out.derivative[0]])
    }

    /// The weight of the pair `(i, j)`: eps of method section 1.
    pub(crate) fn eps(&self, i: usize, j: usize, positive: bool) -> f64 {
        let own = match self.eps_by {
            EpsBy::Positives => positive,
            EpsBy::Diagonal => i == j,
        };
        if own { self.eps_pos } else { self.eps_neg }
    }
}

/// `log(1 + e^t)` without overflow or cancellation.
pub(crate) fn softplus(t: f64) -> f64 {
    t.max(0.0) + (-t.abs()).exp().ln_1p()
}

/// `1/(1 + e^-t)` without overflow.
pub(crate) fn logistic(t: f64) -> f64 {
    let e = (-t.abs()).exp();
    if t >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// `log(e^a + e^b)`, -inf allowed.
pub(crate) fn log_add_exp(a: f64, b: f64) -> f64 {
    let (hi, lo) = if a >= b { (a, b) } else { (b, a) };
    if lo == f64::NEG_INFINITY { hi } else { hi + (lo - hi).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpsi_is_the_derivative_of_psi() {
        for kind in [LossKind::Sigmoid, LossKind::TripletHard, LossKind::TripletSmooth] {
            for tau in [1.0, 0.07, 0.01] {
                let loss = Loss::new(kind, tau);
                for k in -40..=40 {
                    let t = f64::from(k) * 0.049 + 1e-3;
                    let h = 1e-6;
                    let fd = (loss.psi(t + h) - loss.psi(t - h)) / (2.0 * h);
                    assert!((fd - loss.dpsi(t)).abs() < 1e-4 * (1.0 + fd.abs()), "{kind:?} {tau} {t}");
                }
            }
        }
        assert_eq!(Loss::new(LossKind::TripletHard, 1.0).dpsi(-0.5), 0.0);
    }

    #[test]
    fn log_add_exp_handles_nothing() {
        assert_eq!(log_add_exp(f64::NEG_INFINITY, f64::NEG_INFINITY), f64::NEG_INFINITY);
        assert_eq!(log_add_exp(3.0, f64::NEG_INFINITY), 3.0);
        assert!((log_add_exp(1000.0, 1000.0) - 1000.0 - 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn bad_parameters_are_named() {
        let bad = |l: Loss| l.validate().unwrap_err().to_string();
        assert!(bad(Loss::clip(0.0)).starts_with("tau"));
        assert!(bad(Loss::clip(f64::NAN)).starts_with("tau"));
        assert!(bad(Loss { eps_neg: -1.0, ..Loss::clip(0.1) }).starts_with("eps_neg"));
        assert!(bad(Loss::clip(0.1).with_nu(f64::INFINITY)).starts_with("nu"));
        assert!(bad(Loss { log_eps: 1e-8, ..Loss::new(LossKind::Sigmoid, 1.0) }).starts_with("log_eps"));
    }
}
