//! Errors beside their limits, by operation.

use crate::backend::Arithmetic;
use crate::error::{Error, Result};
use faer::Mat;
use serde::Serialize;

/// One operation over all its cases.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// The operation.
    pub operation: &'static str,
    /// Cases run.
    pub cases: usize,
    /// The error closest to (or farthest beyond) its limit. Infinite, `null` in JSON, for NaN and for failures.
    pub error: f64,
    /// That case's limit.
    pub limit: f64,
    /// That case.
    pub case: String,
    /// Whether every case kept its limit and there was at least one.
    pub ok: bool,
    /// What the device refused as unsupported, and the first failure's message.
    pub notes: Vec<String>,
}

/// All checks of a device.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The device's mode, which decides the limits.
    pub arithmetic: Arithmetic,
    /// In the order in which they ran.
    pub checks: Vec<Check>,
}

impl Outcome {
    /// Whether all checks hold.
    pub fn ok(&self) -> bool {
        self.checks.iter().all(|c| c.ok)
    }
}

#[derive(Default)]
pub(super) struct Record {
    checks: Vec<Check>,
}

impl Record {
    fn of(&mut self, operation: &'static str) -> &mut Check {
        let at = self.checks.iter().position(|c| c.operation == operation).unwrap_or_else(|| {
            let (case, notes) = (String::new(), Vec::new());
            self.checks.push(Check { operation, cases: 0, error: 0.0, limit: 0.0, case, ok: true, notes });
            self.checks.len() - 1
        });
        &mut self.checks[at]
    }

    /// An error beside its limit.
    pub(super) fn error(&mut self, operation: &'static str, case: &str, error: f64, limit: f64) {
        let error = if error.is_nan() { f64::INFINITY } else { error };
        let check = self.of(operation);
        check.cases += 1;
        check.ok &= error <= limit;
        // Of exact comparisons (limit 0) any error is the worst.
        let excess = |error: f64, limit: f64| if error == 0.0 { 0.0 } else { error / limit };
        if check.case.is_empty() || excess(error, limit) > excess(check.error, check.limit) {
            (check.error, check.limit, check.case) = (error, limit, case.to_string());
        }
    }

    /// Relative Frobenius error of a matrix.
    pub(super) fn matrix(
        &mut self,
        operation: &'static str,
        case: &str,
        got: &Mat<f64>,
        want: &Mat<f64>,
        limit: f64,
    ) {
        self.error(operation, case, relative(got, want), limit);
    }

    /// The value of a step of the device; `None`, recorded, when it failed.
    pub(super) fn value<T>(
        &mut self,
        operation: &'static str,
        case: &str,
        value: Result<T>,
    ) -> Result<Option<T>> {
        match value {
            Ok(value) => Ok(Some(value)),
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(Error::Unsupported(what)) => {
                let check = self.of(operation);
                if !check.notes.contains(&what) {
                    check.notes.push(what);
                }
                Ok(None)
            }
            Err(e) => {
                let message = format!("{case}: {e}");
                self.error(operation, case, f64::INFINITY, 0.0);
                let check = self.of(operation);
                if check.notes.len() < 3 {
                    check.notes.push(message);
                }
                Ok(None)
            }
        }
    }

    pub(super) fn finish(mut self, arithmetic: Arithmetic) -> Outcome {
        // A device that supports no case of an operation has not passed it.
        self.checks.iter_mut().for_each(|c| c.ok &= c.cases > 0);
        Outcome { arithmetic, checks: self.checks }
    }
}

/// `|got - want| / |want|`, of the plain norm where `want` is 0; infinite for NaN and for other shapes.
pub(super) fn relative(got: &Mat<f64>, want: &Mat<f64>) -> f64 {
    if got.shape() != want.shape() || got.has_nan() {
        return f64::INFINITY;
    }
    let size = want.norm_l2();
    (got - want).norm_l2() / if size > 0.0 { size } else { 1.0 }
}

/// The same of lists.
pub(super) fn relative_list(got: &[f64], want: &[f64]) -> f64 {
    let column = |v: &[f64]| Mat::from_fn(v.len(), 1, |i, _| v[i]);
    relative(&column(got), &column(want))
}
