//! Recall, ranks and their intervals.

use super::bindings::*;
use super::context::{context_of, on_backend};
use super::matrix::{Input, Precision, check_values, values};
use super::structs::{Versioned, boolean, count, init, read_or_default, write};
use super::weights::embeddings;
use super::{entry, problem};
use crate::backend::{Backend, Ties};
use crate::error::{Error, Result};
use crate::positives::Positives;
use crate::retrieval::{Bootstrap, Recall, RecallOptions, evaluate};

/// The header's defaults.
pub(super) fn defaults(e: &mut unicon_evaluation) {
    let b = Bootstrap::default();
    (e.resamples, e.level, e.seed) = (b.resamples as i64, b.level, b.seed);
}

fn ties_of(ties: i32) -> Result<Ties> {
    match u32::try_from(ties) {
        Ok(UNICON_TIES_EXPECTED) => Ok(Ties::Expected),
        Ok(UNICON_TIES_LOWER_INDEX) => Ok(Ties::LowerIndex),
        Ok(UNICON_TIES_OPTIMISTIC) => Ok(Ties::Optimistic),
        Ok(UNICON_TIES_PESSIMISTIC) => Ok(Ties::Pessimistic),
        _ => Err(Error::invalid("evaluation.ties", "a value of unicon_ties", ties)),
    }
}

fn options_of(e: &unicon_evaluation, ks: Vec<usize>) -> Result<RecallOptions> {
    let bootstrap = match count("evaluation.resamples", e.resamples, 0)? {
        0 => None,
        resamples => {
            let b = Bootstrap { resamples, level: e.level, seed: e.seed };
            b.validate()?;
            Some(b)
        }
    };
    let exclude_self = boolean("evaluation.exclude_self", e.exclude_self)?;
    Ok(RecallOptions { ks, ties: ties_of(e.ties)?, exclude_self, bootstrap })
}

/// The struct with what was found.
fn filled(e: unicon_evaluation, r: &Recall) -> unicon_evaluation {
    let number = |v: Option<f64>| v.unwrap_or(f64::NAN);
    let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let nothing = [[f64::NAN; 2]; 2];
    let [[x_low, x_high], [y_low, y_high]] = r.intervals.as_ref().map_or(nothing, |i| i.mrr);
    unicon_evaluation {
        matching_accuracy: r.matching_accuracy,
        mrr_x2y: r.mrr[0],
        mrr_y2x: r.mrr[1],
        mrr_x2y_low: x_low,
        mrr_x2y_high: x_high,
        mrr_y2x_low: y_low,
        mrr_y2x_high: y_high,
        median_rank_x2y: number(r.median_rank[0]),
        median_rank_y2x: number(r.median_rank[1]),
        mean_rank_x2y: number(r.mean_rank[0]),
        mean_rank_y2x: number(r.mean_rank[1]),
        tied_x2y: size(r.tied[0]),
        tied_y2x: size(r.tied[1]),
        ..e
    }
}

entry!(
    fn unicon_evaluation_init(evaluation: *mut unicon_evaluation_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(evaluation, struct_size, &unicon_evaluation::defaults()) }
    }
);

entry!(
    on context_of(context);
    fn unicon_evaluate(
        context: *mut unicon_context_t,
        zx: *const unicon_matrix_t,
        zy: *const unicon_matrix_t,
        truth: *const unicon_positives_t,
        ks: *const i64,
        n_ks: i64,
        evaluation: *mut unicon_evaluation_t,
        recall: *mut f64,
        intervals: *mut f64,
    ) |context| {
        let n_ks = count("n_ks", n_ks, 1)?;
        // SAFETY: as the header requires.
        let ((zx, zy), ks, given) = unsafe {
            (embeddings(context, zx, zy)?, values("ks", ks, n_ks)?, read_or_default(evaluation)?)
        };
        let ks = ks.iter().map(|&k| count("ks", k, 1)).collect::<Result<Vec<_>>>()?;
        check_values("recall", recall, 2 * n_ks)?;
        if !intervals.is_null() {
            check_values("intervals", intervals, 4 * n_ks)?;
        }
        let options = options_of(&given, ks)?;
        // SAFETY: as the header requires.
        let truth = unsafe { problem::positives(truth, zx.rows, zy.rows)? };
        let found = on_backend!(context.device(), Precision::of(&[&zx, &zy]), |backend| {
            of(backend, (&zx, &zy), &truth, &options)?
        });
        // SAFETY: checked above, and the caller's to write.
        let out = unsafe { std::slice::from_raw_parts_mut(recall, 2 * n_ks) };
        out.iter_mut().zip(found.x_to_y.iter().chain(&found.y_to_x)).for_each(|(o, &v)| *o = v);
        if !intervals.is_null() {
            // SAFETY: checked above, and the caller's to write.
            let out = unsafe { std::slice::from_raw_parts_mut(intervals, 4 * n_ks) };
            out.fill(f64::NAN);
            if let Some(i) = &found.intervals {
                let ends = i.x_to_y.iter().chain(&i.y_to_x).flatten();
                out.iter_mut().zip(ends).for_each(|(o, &v)| *o = v);
            }
        }
        if !evaluation.is_null() {
            // SAFETY: read above, and the caller's to write.
            unsafe { write(evaluation, &filled(given, &found)) };
        }
        Ok(())
    }
);

fn of<B: Backend>(
    backend: &B,
    (zx, zy): (&Input<'_>, &Input<'_>),
    truth: &Positives,
    options: &RecallOptions,
) -> Result<Recall> {
    evaluate(backend, &backend.load(zx.source())?, &backend.load(zy.source())?, truth, options)
}
