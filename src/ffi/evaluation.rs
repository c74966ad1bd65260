//! Recall, ranks and their intervals.

use super::bindings::*;
use super::context::{context_of, on_backend};
use super::matrix::{Input, Precision, check_out, check_values, values};
use super::report::{self, Report};
use super::structs::{Versioned, boolean, count, init, read_or_default};
use super::weights::embeddings;
use super::{entry, options};
use crate::backend::{Backend, Ties};
use crate::error::{Error, Result};
use crate::positives::Positives;
use crate::retrieval::{Bootstrap, Recall, RecallOptions, evaluate, recall_at_k};

/// The k of Recall@k where none are given.
const KS: [usize; 3] = [1, 5, 10];

/// The header's defaults.
pub(super) fn defaults(e: &mut unicon_evaluation_options) {
    let b = Bootstrap::default();
    (e.resamples, e.level, e.seed) = (b.resamples as i64, b.level, b.seed);
}

fn ties_of(name: &str, ties: i32) -> Result<Ties> {
    match u32::try_from(ties) {
        Ok(UNICON_TIES_EXPECTED) => Ok(Ties::Expected),
        Ok(UNICON_TIES_LOWER_INDEX) => Ok(Ties::LowerIndex),
        Ok(UNICON_TIES_OPTIMISTIC) => Ok(Ties::Optimistic),
        Ok(UNICON_TIES_PESSIMISTIC) => Ok(Ties::Pessimistic),
        _ => Err(Error::invalid(name, "a value of unicon_ties", ties)),
    }
}

fn each(ks: &[i64]) -> Result<Vec<usize>> {
    ks.iter().map(|&k| count("ks", k, 1)).collect()
}

/// # Safety
/// A caller's struct whose array is as long as it says.
unsafe fn options_of(e: &unicon_evaluation_options) -> Result<RecallOptions> {
    // SAFETY: passed on.
    let ks = match unsafe { options::list("options.ks", e.ks, e.n_ks)? } {
        Some(ks) => each(ks)?,
        None => KS.to_vec(),
    };
    let bootstrap = match count("options.resamples", e.resamples, 0)? {
        0 => None,
        resamples => {
            let b = Bootstrap { resamples, level: e.level, seed: e.seed };
            b.validate()?;
            Some(b)
        }
    };
    let exclude_self = boolean("options.exclude_self", e.exclude_self)?;
    Ok(RecallOptions { ks, ties: ties_of("options.ties", e.ties)?, exclude_self, bootstrap })
}

entry!(
    fn unicon_evaluation_options_init(options: *mut unicon_evaluation_options_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(options, struct_size, &unicon_evaluation_options::defaults()) }
    }
);

entry!(
    on context_of(context);
    fn unicon_evaluate(
        context: *mut unicon_context_t,
        options: *const unicon_evaluation_options_t,
        pairs: *const unicon_pairs_t,
        report: *mut *mut unicon_report_t,
    ) |context| {
        check_out("report", report)?;
        // SAFETY: as the header requires.
        let ((zx, zy, truth), options) = unsafe {
            (embeddings(context, pairs)?, options_of(&read_or_default(options)?)?)
        };
        let found = on_backend!(context.device(), Precision::of(&[&zx, &zy]), |backend| {
            of(backend, (&zx, &zy), &truth, &options)?
        });
        // SAFETY: checked above.
        unsafe { report::give(Report::Evaluation(Box::new(found)), report) };
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

entry!(
    on context_of(context);
    fn unicon_recall(
        context: *mut unicon_context_t,
        pairs: *const unicon_pairs_t,
        ties: i32,
        ks: *const i64,
        n_ks: i64,
        recall: *mut f64,
    ) |context| {
        let (n_ks, ties) = (count("n_ks", n_ks, 1)?, ties_of("ties", ties)?);
        // SAFETY: as the header requires.
        let ((zx, zy, truth), ks) = unsafe { (embeddings(context, pairs)?, each(values("ks", ks, n_ks)?)?) };
        check_values("recall", recall, 2 * n_ks)?;
        let found = on_backend!(context.device(), Precision::of(&[&zx, &zy]), |backend| {
            recall_of(backend, (&zx, &zy), &truth, &ks, ties)?
        });
        // SAFETY: checked above, and the caller's to write.
        let out = unsafe { std::slice::from_raw_parts_mut(recall, 2 * n_ks) };
        out.iter_mut().zip(found.x_to_y.iter().chain(&found.y_to_x)).for_each(|(o, &v)| *o = v);
        Ok(())
    }
);

fn recall_of<B: Backend>(
    backend: &B,
    (zx, zy): (&Input<'_>, &Input<'_>),
    truth: &Positives,
    ks: &[usize],
    ties: Ties,
) -> Result<Recall> {
    recall_at_k(backend, &backend.load(zx.source())?, &backend.load(zy.source())?, truth, ks, ties)
}
