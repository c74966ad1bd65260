//! Checks an installed device: every operation against the float64 CPU backend on small, ragged problems, two runs
//! against each other, and the memory that passes hold.
//!
//! A problem is given to the device once; the oracle then works on what the device stored (its embeddings and features
//! read back), so that errors are those of the operation and not of its inputs. What rounding the inputs costs is measured
//! apart, from the features on (`C from features`).

mod limits;
mod operator;
mod problem;
mod record;
mod retrieval;
mod rows;
mod whole;

pub use record::{Check, Outcome};

use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::error::Result;
use record::Record;

/// What is tested.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Small problems only: seconds on a CPU, a minute on an emulated device.
    pub quick: bool,
}

/// Runs all checks of `device`. A difference beyond its limit, or an operation that fails, is a failed check in the outcome.
///
/// # Errors
/// [`Error::Cancelled`](crate::Error::Cancelled); [`Error::InvalidArgument`](crate::Error::InvalidArgument) when the
/// oracle's threads cannot be started.
pub fn run<B: Backend>(device: &B, options: Options) -> Result<Outcome> {
    let oracle = Cpu::<f64>::new(0)?;
    let mut record = Record::default();
    // First, because a peak can only be told on a device that has done nothing larger.
    whole::memory(device, options, &mut record)?;
    for problem in problem::all(options) {
        rows::check(device, &oracle, &problem, &mut record)?;
        operator::check(device, &oracle, &problem, &mut record)?;
        retrieval::check(device, &oracle, &problem, &mut record)?;
    }
    operator::zeros_and_given(device, &oracle, &mut record)?;
    whole::svd(device, &oracle, &mut record)?;
    whole::accuracy(device, &oracle, options, &mut record)?;
    whole::determinism(device, options, &mut record)?;
    Ok(record.finish(device.arithmetic()))
}

#[cfg(test)]
mod tests;
