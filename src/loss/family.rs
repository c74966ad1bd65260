//! A loss of one's own: any psi and phi of the unified loss (arXiv 2604.16678, Eq. 2), as functions of arrays.

use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::sync::Arc;

/// What a function of a [`Family`] answers: nothing, or why it could not.
pub type Answer = std::result::Result<(), String>;

/// The functions psi and phi of a loss, with their derivatives, on arrays.
///
/// Both are given at most [`BLOCK`] arguments a call, and fill as many values and derivatives in the same order. Calls come from
/// the threads of a backend, several at once. All values and derivatives must be finite wherever the loss is evaluated:
/// psi within `[-1 - |nu|, 1 + |nu|]` for similarities in `[-1, 1]`, phi at sums of eps psi.
pub trait Family: Send + Sync {
    /// `psi(t)` and `psi'(t)` of every `t`.
    ///
    /// # Errors
    /// A text that says why the function has no answer; it ends the call that the loss was given to.
    fn psi(&self, t: &[f64], value: &mut [f64], derivative: &mut [f64]) -> Answer;

    /// `phi(u)` and `phi'(u)` of every `u`.
    ///
    /// # Errors
    /// As [`psi`](Self::psi).
    fn phi(&self, u: &[f64], value: &mut [f64], derivative: &mut [f64]) -> Answer;
}

/// Arguments of one call, at most: many, so that what a call costs is shared, and few, so that they stay in a near cache.
pub const BLOCK: usize = 1 << 15;

/// A [`Family`] and its name, which is what models record of it.
#[derive(Clone)]
pub struct Custom {
    name: String,
    /// None: read from a file, which holds the name alone.
    family: Option<Arc<dyn Family>>,
}

/// Two closures as a family.
struct Closures<P, F>(P, F);

impl<P, F> Family for Closures<P, F>
where
    P: Fn(&[f64], &mut [f64], &mut [f64]) + Send + Sync,
    F: Fn(&[f64], &mut [f64], &mut [f64]) + Send + Sync,
{
    fn psi(&self, t: &[f64], value: &mut [f64], derivative: &mut [f64]) -> Answer {
        self.0(t, value, derivative);
        Ok(())
    }

    fn phi(&self, u: &[f64], value: &mut [f64], derivative: &mut [f64]) -> Answer {
        self.1(u, value, derivative);
        Ok(())
    }
}

/// What a function gave.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    pub(crate) value: Vec<f64>,
    pub(crate) derivative: Vec<f64>,
}

/// Which function of a family, and what its argument is called.
#[derive(Clone, Copy)]
enum Function {
    Psi,
    Phi,
}

impl Function {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Psi => ("psi", "t"),
            Self::Phi => ("phi", "u"),
        }
    }
}

impl Custom {
    /// A family under a name.
    pub fn new(name: impl Into<String>, family: impl Family + 'static) -> Self {
        Self { name: name.into(), family: Some(Arc::new(family)) }
    }

    /// Two closures under a name, each called as `f(arguments, values, derivatives)` with slices of equal length:
    ///
    /// ```
    /// use unicon::loss::{Custom, Loss};
    ///
    /// // Squared hinge of margin 0.2, and phi = log(1 + u).
    /// let psi = |t: &[f64], value: &mut [f64], derivative: &mut [f64]| {
    ///     for (k, t) in t.iter().enumerate() {
    ///         let hinge = (t + 0.2).max(0.0);
    ///         (value[k], derivative[k]) = (hinge * hinge, 2.0 * hinge);
    ///     }
    /// };
    /// let phi = |u: &[f64], value: &mut [f64], derivative: &mut [f64]| {
    ///     for (k, u) in u.iter().enumerate() {
    ///         (value[k], derivative[k]) = (u.ln_1p(), 1.0 / (1.0 + u));
    ///     }
    /// };
    /// let loss = Loss::custom(Custom::of_functions("squared hinge", psi, phi));
    /// assert_eq!(loss.psi(0.3), 0.25);
    /// ```
    pub fn of_functions<P, F>(name: impl Into<String>, psi: P, phi: F) -> Self
    where
        P: Fn(&[f64], &mut [f64], &mut [f64]) + Send + Sync + 'static,
        F: Fn(&[f64], &mut [f64], &mut [f64]) + Send + Sync + 'static,
    {
        Self::new(name, Closures(psi, phi))
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its functions are here: files hold the name alone.
    pub fn has_functions(&self) -> bool {
        self.family.is_some()
    }

    /// The name alone, as files have it.
    pub(crate) fn recorded(&self) -> Self {
        Self { name: self.name.clone(), family: None }
    }

    /// `psi` and `psi'` of every `t`, all finite.
    pub(crate) fn psi(&self, t: &[f64], out: &mut Values) -> Result<()> {
        self.evaluate(Function::Psi, t, out)
    }

    /// `phi` and `phi'` of every `u`, all finite.
    pub(crate) fn phi(&self, u: &[f64], out: &mut Values) -> Result<()> {
        self.evaluate(Function::Phi, u, out)
    }

    fn evaluate(&self, function: Function, at: &[f64], out: &mut Values) -> Result<()> {
        let family = self.family.as_ref().ok_or_else(|| self.absent())?;
        // What a function leaves unwritten is not mistaken for an answer.
        for list in [&mut out.value, &mut out.derivative] {
            list.clear();
            list.resize(at.len(), f64::NAN);
        }
        let (values, derivatives) = (out.value.chunks_mut(BLOCK), out.derivative.chunks_mut(BLOCK));
        for ((at, value), derivative) in at.chunks(BLOCK).zip(values).zip(derivatives) {
            let answer = match function {
                Function::Psi => family.psi(at, value, derivative),
                Function::Phi => family.phi(at, value, derivative),
            };
            let (f, x) = function.names();
            answer.map_err(|why| {
                Error::Numerical(format!("{f} of the loss \"{}\" failed: {why}", self.name))
            })?;
            for (k, at) in at.iter().enumerate() {
                for (what, got) in [("", value[k]), ("the derivative of ", derivative[k])] {
                    if !got.is_finite() {
                        let text = format!("{what}{f} of the loss \"{}\" is {got} at {x} = {at}", self.name);
                        return Err(Error::Numerical(format!("{text}: it must be finite there")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Value and derivative at one argument, NaN where there are none.
    fn one(&self, function: Function, at: f64) -> [f64; 2] {
        let mut out = Values::default();
        match self.evaluate(function, &[at], &mut out) {
            Ok(()) => [out.value[0], out.derivative[0]],
            Err(_) => [f64::NAN; 2],
        }
    }

    pub(super) fn psi_of_one(&self, t: f64) -> [f64; 2] {
        self.one(Function::Psi, t)
    }

    pub(super) fn phi_of_one(&self, u: f64) -> [f64; 2] {
        self.one(Function::Phi, u)
    }

    pub(super) fn absent(&self) -> Error {
        let expected =
            "psi and phi of a loss of one's own, which files do not hold: give the functions again";
        Error::invalid("loss", expected, format!("the name \"{}\" alone", self.name))
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Custom").field(&self.name).finish()
    }
}

/// Equal names, and the same functions or none.
impl PartialEq for Custom {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.family, &other.family) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same && self.name == other.name
    }
}

impl Serialize for Custom {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.name.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Custom {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Ok(Self { name: String::deserialize(deserializer)?, family: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(t: &[f64], value: &mut [f64], derivative: &mut [f64]) {
        assert!(t.len() <= BLOCK);
        for (k, t) in t.iter().enumerate() {
            (value[k], derivative[k]) = (t * t, 2.0 * t);
        }
    }

    #[test]
    fn long_arrays_come_in_blocks() {
        let custom = Custom::of_functions("square", square, square);
        let t: Vec<f64> = (0..2 * BLOCK + 5).map(|k| k as f64).collect();
        let mut out = Values::default();
        custom.psi(&t, &mut out).unwrap();
        assert!(t.iter().zip(&out.value).all(|(t, v)| t * t == *v));
        assert!(t.iter().zip(&out.derivative).all(|(t, v)| 2.0 * t == *v));
    }

    #[test]
    fn what_is_not_finite_names_the_function_and_the_argument() {
        let log = |u: &[f64], value: &mut [f64], derivative: &mut [f64]| {
            for (k, u) in u.iter().enumerate() {
                (value[k], derivative[k]) = (u.ln(), 1.0 / u);
            }
        };
        let nothing = |_: &[f64], _: &mut [f64], _: &mut [f64]| ();
        let custom = Custom::of_functions("mine", nothing, log);
        let mut out = Values::default();
        let text = |r: Result<()>| r.unwrap_err().to_string();
        let psi = text(custom.psi(&[0.25], &mut out));
        assert!(psi.contains("psi of the loss \"mine\" is NaN at t = 0.25"), "{psi}");
        let phi = text(custom.phi(&[1.0, -2.0], &mut out));
        assert!(phi.contains("phi of the loss \"mine\" is NaN at u = -2"), "{phi}");
        let root = |u: &[f64], value: &mut [f64], derivative: &mut [f64]| {
            for (k, u) in u.iter().enumerate() {
                (value[k], derivative[k]) = (u.sqrt(), 0.5 / u.sqrt());
            }
        };
        let phi = text(Custom::of_functions("root", nothing, root).phi(&[0.0], &mut out));
        assert!(phi.contains("the derivative of phi of the loss \"root\" is inf at u = 0"), "{phi}");
    }

    #[test]
    fn a_failure_is_passed_on() {
        struct Fails;
        impl Family for Fails {
            fn psi(&self, _: &[f64], _: &mut [f64], _: &mut [f64]) -> Answer {
                Err("no table for it".into())
            }
            fn phi(&self, _: &[f64], _: &mut [f64], _: &mut [f64]) -> Answer {
                Ok(())
            }
        }
        let error = Custom::new("mine", Fails).psi(&[0.0], &mut Values::default()).unwrap_err();
        assert!(error.to_string().contains("psi of the loss \"mine\" failed: no table for it"), "{error}");
    }

    #[test]
    fn files_hold_the_name() {
        let custom = Custom::of_functions("square", square, square);
        let text = serde_json::to_string(&custom).unwrap();
        assert_eq!(text, "\"square\"");
        let back: Custom = serde_json::from_str(&text).unwrap();
        assert!(!back.has_functions());
        assert_eq!(back, custom.recorded());
        assert_ne!(back, custom);
        assert_eq!(custom, custom.clone());
        let error = back.psi(&[0.0], &mut Values::default()).unwrap_err().to_string();
        assert!(error.starts_with("loss: expected psi and phi") && error.contains("\"square\""), "{error}");
    }
}
