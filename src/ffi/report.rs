//! What a fit or an evaluation tells: values by their key.

use super::bindings::*;
use super::matrix::{check_out, check_values};
use super::structs::count;
use super::{guard, same_signature};
use crate::error::{Error, Result};
use crate::fit::{Apart, Chosen, FitInfo, FitStatus};
use crate::retrieval::Recall;
use std::ptr::{NonNull, copy_nonoverlapping};

/// What a `unicon_report_t` points to.
pub(super) enum Report {
    Fit(Box<Fitted>),
    /// A fit that was cancelled.
    Cancelled {
        seconds: f64,
        peak_bytes: u64,
        workspace: u64,
    },
    Evaluation(Box<Recall>),
}

/// A fit that ended well.
pub(super) struct Fitted {
    pub(super) info: FitInfo,
    pub(super) known: Known,
}

/// What the options, not the fit, decide.
pub(super) struct Known {
    /// Shrinkage, power, temperature and dimension, where the fit did not choose them.
    pub(super) chosen: Chosen,
    /// The answer of the workspace query.
    pub(super) workspace: u64,
}

/// First keys of integers and of series.
const INTEGERS: i32 = 1000;
const SERIES: i32 = 2000;

/// Hands a report over. `out` has been checked.
///
/// # Safety
/// `out` can be written through.
pub(super) unsafe fn give(report: Report, out: *mut *mut unicon_report_t) {
    // SAFETY: passed on.
    unsafe { out.write(Box::into_raw(Box::new(report)).cast()) };
}

/// # Safety
/// `handle` is NULL or a live report.
unsafe fn report_of<'a>(handle: *const unicon_report_t) -> Result<&'a Report> {
    // SAFETY: passed on.
    unsafe { handle.cast::<Report>().as_ref() }.ok_or_else(|| Error::invalid("report", "a report", "NULL"))
}

fn size(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn bytes(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// As the header adds it up.
fn held_apart(apart: Apart) -> i64 {
    i64::from(apart.matches) + 2 * i64::from(apart.duplicates_x) + 4 * i64::from(apart.duplicates_y)
}

impl Fitted {
    fn chosen(&self) -> &Chosen {
        self.info.chosen.as_ref().filter(|c| c.dim > 0).unwrap_or(&self.known.chosen)
    }

    /// None: no key; some none: no value.
    fn real(&self, key: u32) -> Option<Option<f64>> {
        let (info, chosen, seconds) = (&self.info, self.chosen(), self.info.seconds);
        Some(match key {
            UNICON_REPORT_FINAL_LOSS => info.final_loss,
            UNICON_REPORT_SAMPLING_ERROR => info.sampling_error.last().copied(),
            UNICON_REPORT_WHITEN => Some(chosen.whiten).filter(|&w| w >= 0.0),
            UNICON_REPORT_POWER => Some(chosen.power),
            UNICON_REPORT_TAU => Some(chosen.tau),
            UNICON_REPORT_SECONDS => Some(seconds.total),
            UNICON_REPORT_SECONDS_LOAD => Some(seconds.load),
            UNICON_REPORT_SECONDS_FEATURES => Some(seconds.features),
            UNICON_REPORT_SECONDS_ENCODE => Some(seconds.encode),
            UNICON_REPORT_SECONDS_STATISTICS => Some(seconds.statistics),
            UNICON_REPORT_SECONDS_WEIGHTS => Some(seconds.weights),
            UNICON_REPORT_SECONDS_SPECTRAL => Some(seconds.spectral),
            UNICON_REPORT_SECONDS_VALIDATION => Some(seconds.validation),
            _ => return None,
        })
    }

    fn integer(&self, key: u32) -> Option<Option<i64>> {
        let (info, chosen) = (&self.info, self.chosen());
        Some(match key {
            UNICON_REPORT_OUTCOME => Some(match info.status {
                FitStatus::Completed => UNICON_OUTCOME_COMPLETED.into(),
                FitStatus::Converged => UNICON_OUTCOME_CONVERGED.into(),
                FitStatus::OutOfTime => UNICON_OUTCOME_OUT_OF_TIME.into(),
            }),
            UNICON_REPORT_N_ITERS => Some(size(info.iterations)),
            UNICON_REPORT_REJECTED_UPDATE => Some(info.rejected.is_some().into()),
            UNICON_REPORT_ROWS_WITHOUT_POSITIVES => Some(size(info.unmatched.0)),
            UNICON_REPORT_COLS_WITHOUT_POSITIVES => Some(size(info.unmatched.1)),
            UNICON_REPORT_ZERO_ROWS_X => Some(size(info.zero_rows.0)),
            UNICON_REPORT_ZERO_ROWS_Y => Some(size(info.zero_rows.1)),
            UNICON_REPORT_ROWS_DROPPED => Some(size(info.rows_dropped)),
            UNICON_REPORT_WORKSPACE_BYTES => Some(bytes(self.known.workspace)),
            UNICON_REPORT_PEAK_BYTES => Some(bytes(info.peak_bytes)),
            UNICON_REPORT_EVALUATIONS => Some(size(info.evaluations)),
            UNICON_REPORT_R => Some(size(chosen.dim)),
            UNICON_REPORT_ROWS_HELD_BACK => Some(size(chosen.held_back.0)),
            UNICON_REPORT_COLS_HELD_BACK => Some(size(chosen.held_back.1)),
            UNICON_REPORT_HELD_APART => chosen.apart.map(held_apart),
            UNICON_REPORT_DISTINCT_X => info.distinct.0.map(size),
            UNICON_REPORT_DISTINCT_Y => info.distinct.1.map(size),
            UNICON_REPORT_CENTRED_X => Some(info.prepared.0.centred.into()),
            UNICON_REPORT_CENTRED_Y => Some(info.prepared.1.centred.into()),
            UNICON_REPORT_RETURNED => info.returned.map(size),
            _ => return None,
        })
    }

    fn series(&self, key: u32) -> Option<Vec<f64>> {
        let info = &self.info;
        Some(match key {
            UNICON_REPORT_LOSS => info.loss.clone(),
            UNICON_REPORT_CHANGE => info.change.clone(),
            UNICON_REPORT_SINGULAR_VALUES => info.singular_values.clone(),
            UNICON_REPORT_TRACE_SECONDS => info.trace.iter().map(|t| t.seconds).collect(),
            UNICON_REPORT_TRACE_LOSS => info.trace.iter().map(|t| t.loss).collect(),
            UNICON_REPORT_TRACE_SCORE => info.trace.iter().map(|t| t.score.unwrap_or(f64::NAN)).collect(),
            UNICON_REPORT_TRACE_NEGATIVES => {
                info.trace.iter().map(|t| t.negatives.unwrap_or(0) as f64).collect()
            }
            UNICON_REPORT_TRACE_EVALUATIONS => info.trace.iter().map(|t| t.evaluations as f64).collect(),
            UNICON_REPORT_TRACE_SAMPLING_ERROR => {
                info.trace.iter().map(|t| t.sampling_error.unwrap_or(f64::NAN)).collect()
            }
            _ => return None,
        })
    }
}

/// The real numbers of an evaluation.
fn real_of(found: &Recall, key: u32) -> Option<Option<f64>> {
    let mrr = |side: usize, end: usize| found.intervals.as_ref().map(|i| i.mrr[side][end]);
    Some(match key {
        UNICON_REPORT_MATCHING_ACCURACY => Some(found.matching_accuracy),
        UNICON_REPORT_MRR_X2Y => Some(found.mrr[0]),
        UNICON_REPORT_MRR_Y2X => Some(found.mrr[1]),
        UNICON_REPORT_MRR_X2Y_LOW => mrr(0, 0),
        UNICON_REPORT_MRR_X2Y_HIGH => mrr(0, 1),
        UNICON_REPORT_MRR_Y2X_LOW => mrr(1, 0),
        UNICON_REPORT_MRR_Y2X_HIGH => mrr(1, 1),
        UNICON_REPORT_MEDIAN_RANK_X2Y => found.median_rank[0],
        UNICON_REPORT_MEDIAN_RANK_Y2X => found.median_rank[1],
        UNICON_REPORT_MEAN_RANK_X2Y => found.mean_rank[0],
        UNICON_REPORT_MEAN_RANK_Y2X => found.mean_rank[1],
        _ => return None,
    })
}

fn integer_of(found: &Recall, key: u32) -> Option<Option<i64>> {
    Some(match key {
        UNICON_REPORT_TIED_X2Y => Some(size(found.tied[0])),
        UNICON_REPORT_TIED_Y2X => Some(size(found.tied[1])),
        _ => return None,
    })
}

fn series_of(found: &Recall, key: u32) -> Option<Option<Vec<f64>>> {
    let ends = |y: bool, end: usize| {
        let intervals = found.intervals.as_ref()?;
        let ends = if y { &intervals.y_to_x } else { &intervals.x_to_y };
        Some(ends.iter().map(|e| e[end]).collect())
    };
    Some(match key {
        UNICON_REPORT_RECALL_X2Y => Some(found.x_to_y.clone()),
        UNICON_REPORT_RECALL_Y2X => Some(found.y_to_x.clone()),
        UNICON_REPORT_RECALL_X2Y_LOW => ends(false, 0),
        UNICON_REPORT_RECALL_X2Y_HIGH => ends(false, 1),
        UNICON_REPORT_RECALL_Y2X_LOW => ends(true, 0),
        UNICON_REPORT_RECALL_Y2X_HIGH => ends(true, 1),
        _ => return None,
    })
}

/// The value of a key of one kind, `from` its first; none where this report has none.
fn value<T>(key: i32, (what, from): (&str, i32), found: Option<Option<T>>, known: bool) -> Result<Option<T>> {
    match found {
        Some(value) => Ok(value),
        None if known => Ok(None),
        None => {
            let expected = format!("a value of unicon_report_key from {from} on, which are {what}");
            Err(Error::invalid("key", expected, key))
        }
    }
}

/// Whether a key of the other kind of report, or of a fit that ended, exists: the tables above answer for an empty one.
fn exists(key: i32) -> bool {
    let Ok(key) = u32::try_from(key) else { return false };
    let none = Fitted { info: FitInfo::default(), known: Known { chosen: Chosen::default(), workspace: 0 } };
    let found = Recall::default();
    none.real(key).is_some()
        || none.integer(key).is_some()
        || none.series(key).is_some()
        || real_of(&found, key).is_some()
        || integer_of(&found, key).is_some()
        || series_of(&found, key).is_some()
}

/// A key in the range of its kind that exists.
fn known(key: i32, range: std::ops::Range<i32>) -> bool {
    range.contains(&key) && exists(key)
}

impl Report {
    fn real(&self, key: i32) -> Result<Option<f64>> {
        let kind = ("reals", 0);
        let Ok(number) = u32::try_from(key) else { return value(key, kind, None, false) };
        let found = match self {
            Self::Fit(fit) => fit.real(number),
            Self::Cancelled { seconds, .. } => (number == UNICON_REPORT_SECONDS).then_some(Some(*seconds)),
            Self::Evaluation(found) => real_of(found, number),
        };
        value(key, kind, found, known(key, 0..INTEGERS))
    }

    fn integer(&self, key: i32) -> Result<Option<i64>> {
        let kind = ("integers", INTEGERS);
        let Ok(number) = u32::try_from(key) else { return value(key, kind, None, false) };
        let found = match self {
            Self::Fit(fit) => fit.integer(number),
            Self::Cancelled { peak_bytes, workspace, .. } => match number {
                UNICON_REPORT_OUTCOME => Some(Some(UNICON_OUTCOME_CANCELLED.into())),
                UNICON_REPORT_PEAK_BYTES => Some(Some(bytes(*peak_bytes))),
                UNICON_REPORT_WORKSPACE_BYTES => Some(Some(bytes(*workspace))),
                _ => None,
            },
            Self::Evaluation(found) => integer_of(found, number),
        };
        value(key, kind, found, known(key, INTEGERS..SERIES))
    }

    fn series(&self, key: i32) -> Result<Option<Vec<f64>>> {
        let kind = ("series", SERIES);
        let Ok(number) = u32::try_from(key) else { return value(key, kind, None, false) };
        let found = match self {
            Self::Fit(fit) => fit.series(number).map(Some),
            Self::Cancelled { .. } => None,
            Self::Evaluation(found) => series_of(found, number),
        };
        value(key, kind, found, known(key, SERIES..i32::MAX))
    }

    /// What a message calls it.
    fn name(&self) -> &'static str {
        match self {
            Self::Fit(_) => "this fit",
            Self::Cancelled { .. } => "a fit that was cancelled",
            Self::Evaluation(_) => "an evaluation",
        }
    }
}

/// Looks a value up and hands it to `put`.
///
/// # Safety
/// `handle` is NULL or a live report.
unsafe fn get<T>(
    handle: *const unicon_report_t,
    key: i32,
    find: impl FnOnce(&Report) -> Result<Option<T>>,
    put: impl FnOnce(T),
) -> unicon_status_t {
    let mut absent = None;
    let status = guard::without_context(|| {
        // SAFETY: passed on.
        let report = unsafe { report_of(handle)? };
        match find(report)? {
            Some(value) => put(value),
            None => absent = Some(report.name()),
        }
        Ok(())
    });
    match absent {
        None => status,
        Some(name) => guard::no_value(format!("key: {name} has no value of number {key}")),
    }
}

/// A real number of a report.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_report_real(
    report: *const unicon_report_t,
    key: i32,
    value: *mut f64,
) -> unicon_status_t {
    let find = |r: &Report| check_out("value", value).and_then(|()| r.real(key));
    // SAFETY: as the header requires; the address is checked before.
    unsafe { get(report, key, find, |found| value.write(found)) }
}
same_signature!(unicon_report_real);

/// An integer of a report.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_report_integer(
    report: *const unicon_report_t,
    key: i32,
    value: *mut i64,
) -> unicon_status_t {
    let find = |r: &Report| check_out("value", value).and_then(|()| r.integer(key));
    // SAFETY: as the header requires; the address is checked before.
    unsafe { get(report, key, find, |found| value.write(found)) }
}
same_signature!(unicon_report_integer);

/// A series of a report.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_report_series(
    report: *const unicon_report_t,
    key: i32,
    values: *mut f64,
    capacity: i64,
    count_: *mut i64,
) -> unicon_status_t {
    let room = usize::try_from(capacity).unwrap_or(0);
    let find = |r: &Report| {
        check_out("count", count_)?;
        if count("capacity", capacity, 0)? > 0 {
            check_values("values", values, room)?;
        }
        r.series(key)
    };
    // SAFETY: as the header requires; the addresses are checked before.
    unsafe {
        get(report, key, find, |found| {
            if room > 0 {
                copy_nonoverlapping(found.as_ptr(), values, found.len().min(room));
            }
            count_.write(size(found.len()));
        })
    }
}
same_signature!(unicon_report_series);

/// Frees a report.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_report_destroy(report: *mut unicon_report_t) {
    if let Some(report) = NonNull::new(report.cast::<Report>()) {
        // SAFETY: what `Box::into_raw` gave, given back once.
        guard::silent((), || drop(unsafe { Box::from_raw(report.as_ptr()) }));
    }
}
same_signature!(unicon_report_destroy);

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of evaluations, in each range.
    const OF_EVALUATIONS: std::ops::Range<i32> = 100..200;

    /// Every key of the header is in one table, of its own range.
    #[test]
    fn every_key_is_known() {
        let header = include_str!("../../include/unicon.h");
        let keys = header.lines().filter_map(|line| {
            let (name, rest) = line.trim().split_once(" = ")?;
            let number: i32 = rest.split([',', ' ']).next()?.parse().ok()?;
            name.starts_with("UNICON_REPORT_").then_some((name, number))
        });
        let keys: Vec<_> = keys.collect();
        assert!(keys.len() > 50, "{keys:?}");
        let fit = Report::Fit(Box::new(Fitted {
            info: FitInfo::default(),
            known: Known { chosen: Chosen::default(), workspace: 0 },
        }));
        let evaluation = Report::Evaluation(Box::default());
        for (name, key) in keys {
            for report in [&fit, &evaluation] {
                let kinds =
                    [report.real(key).is_ok(), report.integer(key).is_ok(), report.series(key).is_ok()];
                let expected = [key < INTEGERS, (INTEGERS..SERIES).contains(&key), key >= SERIES];
                assert_eq!(kinds, expected, "{name}");
            }
            let other = if OF_EVALUATIONS.contains(&(key % INTEGERS)) { &fit } else { &evaluation };
            let nothing = [
                other.real(key).ok().is_none_or(|v| v.is_none()),
                other.integer(key).ok().is_none_or(|v| v.is_none()),
                other.series(key).ok().is_none_or(|v| v.is_none()),
            ];
            assert_eq!(nothing, [true; 3], "{name}");
        }
        for key in [i32::MIN, -1, 0, 14, 999, 1000, 1021, 2000, 2010, i32::MAX] {
            assert!(fit.real(key).is_err() && fit.integer(key).is_err() && fit.series(key).is_err(), "{key}");
        }
    }
}
