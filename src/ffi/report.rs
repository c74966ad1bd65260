//! What a fit reports: the caller's struct, checked before the fit and filled after it.

use super::bindings::*;
use super::entry;
use super::matrix::check_values;
use super::structs::{Versioned, count, init, read, write};
use crate::error::Result;
use crate::fit::{Apart, Chosen, FitInfo, FitStatus};
use std::ptr::copy_nonoverlapping;

/// A caller's `unicon_fit_info_t`.
pub(super) struct Report {
    raw: unicon_fit_info,
    pointer: *mut unicon_fit_info_t,
}

/// What the options, not the fit, decide.
pub(super) struct Known {
    /// Shrinkage, power, temperature and rank, where the fit did not choose them.
    pub(super) chosen: Chosen,
    /// The answer of the workspace query.
    pub(super) workspace: u64,
}

fn size(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// As the header adds it up.
fn held_apart(apart: Apart) -> i64 {
    i64::from(apart.matches) + 2 * i64::from(apart.duplicates_x) + 4 * i64::from(apart.duplicates_y)
}

impl Report {
    /// # Safety
    /// `pointer` is NULL or a struct by the header's contract.
    pub(super) unsafe fn new(pointer: *mut unicon_fit_info_t) -> Result<Option<Self>> {
        if pointer.is_null() {
            return Ok(None);
        }
        // SAFETY: passed on.
        let raw = unsafe { read(pointer.cast_const())? };
        let history = count("info.history_capacity", raw.history_capacity, 0)?;
        let singular = count("info.singular_capacity", raw.singular_capacity, 0)?;
        let trace = count("info.trace_capacity", raw.trace_capacity, 0)?;
        for (name, array, capacity) in [
            ("info.loss", raw.loss, history),
            ("info.change", raw.change, history),
            ("info.singular_values", raw.singular_values, singular),
        ] {
            if !array.is_null() {
                check_values(name, array, capacity)?;
            }
        }
        if !raw.trace.is_null() {
            check_values("info.trace", raw.trace, trace)?;
        }
        Ok(Some(Self { raw, pointer }))
    }

    /// Fills the struct of a fit that ended well.
    ///
    /// # Safety
    /// The arrays hold the capacities that the caller gave.
    pub(super) unsafe fn write(self, info: &FitInfo, known: &Known) {
        let outcome = match info.status {
            FitStatus::Completed => UNICON_OUTCOME_COMPLETED,
            FitStatus::Converged => UNICON_OUTCOME_CONVERGED,
            FitStatus::OutOfTime => UNICON_OUTCOME_OUT_OF_TIME,
        };
        // SAFETY: passed on.
        unsafe { self.fill(info, known, outcome) };
    }

    /// Fills the struct of a fit that was cancelled after `seconds`.
    ///
    /// # Safety
    /// As [`write`](Self::write).
    pub(super) unsafe fn write_cancelled(self, seconds: f64, peak_bytes: u64, known: &Known) {
        let mut info = FitInfo { peak_bytes, ..FitInfo::default() };
        info.seconds.total = seconds;
        // SAFETY: passed on.
        unsafe { self.fill(&info, known, UNICON_OUTCOME_CANCELLED) };
    }

    /// # Safety
    /// As [`write`](Self::write).
    unsafe fn fill(self, info: &FitInfo, known: &Known, outcome: unicon_outcome) {
        let seconds = info.seconds;
        let chosen = info.chosen.as_ref().filter(|c| c.rank > 0).unwrap_or(&known.chosen);
        let filled = unicon_fit_info {
            outcome: outcome as i32,
            n_iters: size(info.iterations),
            n_loss: size(info.loss.len()),
            n_change: size(info.change.len()),
            n_singular_values: size(info.singular_values.len()),
            final_loss: info.final_loss.unwrap_or(f64::NAN),
            rows_without_positives: size(info.unmatched.0),
            cols_without_positives: size(info.unmatched.1),
            zero_rows_x: size(info.zero_rows.0),
            zero_rows_y: size(info.zero_rows.1),
            rows_dropped: size(info.rows_dropped),
            seconds: seconds.total,
            seconds_load: seconds.load,
            seconds_features: seconds.features,
            seconds_encode: seconds.encode,
            seconds_statistics: seconds.statistics,
            seconds_weights: seconds.weights,
            seconds_spectral: seconds.spectral,
            seconds_validation: seconds.validation,
            workspace_bytes: known.workspace,
            peak_bytes: info.peak_bytes,
            n_trace: size(info.trace.len()),
            evaluations: size(info.evaluations),
            sampling_error: info.sampling_error.last().copied().unwrap_or(f64::NAN),
            whiten: chosen.whiten,
            power: chosen.power,
            tau: chosen.tau,
            r: size(chosen.rank),
            rows_held_back: size(chosen.held_back.0),
            cols_held_back: size(chosen.held_back.1),
            distinct_x: size(info.distinct.0.unwrap_or(0)),
            distinct_y: size(info.distinct.1.unwrap_or(0)),
            centred_x: i32::from(info.prepared.0.centred),
            centred_y: i32::from(info.prepared.1.centred),
            returned: info.returned.map_or(-1, size),
            held_apart: chosen.apart.map_or(0, held_apart),
            ..self.raw
        };
        let trace = info.trace.iter().map(|t| unicon_trace_point {
            seconds: t.seconds,
            loss: t.loss,
            score: t.score.unwrap_or(f64::NAN),
            negatives: size(t.negatives.unwrap_or(0)),
            evaluations: size(t.evaluations),
            sampling_error: t.sampling_error.unwrap_or(f64::NAN),
        });
        // SAFETY: the caller gave as many elements as the capacities say, and `new` read the struct.
        unsafe {
            put(self.raw.loss, self.raw.history_capacity, &info.loss);
            put(self.raw.change, self.raw.history_capacity, &info.change);
            put(self.raw.singular_values, self.raw.singular_capacity, &info.singular_values);
            put(self.raw.trace, self.raw.trace_capacity, &trace.collect::<Vec<_>>());
            write(self.pointer, &filled);
        }
    }
}

/// Copies what fits.
///
/// # Safety
/// `array` is NULL or holds `capacity` elements.
unsafe fn put<T: Copy>(array: *mut T, capacity: i64, values: &[T]) {
    let count = values.len().min(usize::try_from(capacity).unwrap_or(0));
    if !array.is_null() {
        // SAFETY: passed on.
        unsafe { copy_nonoverlapping(values.as_ptr(), array, count) };
    }
}

entry!(
    fn unicon_fit_info_init(info: *mut unicon_fit_info_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(info, struct_size, &unicon_fit_info::defaults()) }
    }
);
