//! The solvers.

use super::bindings::*;
use super::context::{Context, Device, context_of, on_backend};
use super::matrix::{Input, Precision, check_out, unchecked_input};
use super::report::{Fitted, Known, Report};
use super::structs::read;
use super::{entry, model, options, problem, report};
use crate::backend::cuda::Cuda;
use crate::distributed::{Group, share_rows, threads};
use crate::error::{Error, Result};
use crate::fit::{Chosen, Data, Dim, FitInfo};
use crate::io::RowSource;
use crate::model::Model;
use crate::plan::memory::{self, Sizes};
use crate::positives::Positives;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Pairs of features with the positives built.
pub(super) struct Pairs<'a> {
    pub(super) x: Input<'a>,
    pub(super) y: Input<'a>,
    pub(super) positives: Positives,
}

impl Pairs<'_> {
    pub(super) fn data(&self) -> Data<'_> {
        Data { x: self.x.source(), y: self.y.source(), positives: &self.positives }
    }

    fn rows(&self) -> (usize, usize) {
        (self.x.rows, self.y.rows)
    }
}

/// # Safety
/// `pointer` is NULL or pairs by the header's contract.
pub(super) unsafe fn validation_of<'a>(
    context: &Context,
    pointer: *const unicon_pairs_t,
) -> Result<Option<Pairs<'a>>> {
    if pointer.is_null() {
        return Ok(None);
    }
    let of_validation = |e: Error| match e {
        Error::InvalidArgument { name, expected, got } => {
            let name = name.strip_prefix("pairs").map_or(format!(".{name}"), str::to_string);
            Error::InvalidArgument { name: format!("validation{name}"), expected, got }
        }
        other => other,
    };
    // SAFETY: as the header requires.
    unsafe {
        let raw = read(pointer).map_err(of_validation)?;
        let x = unchecked_input(context, "validation.x", raw.x)?;
        let y = unchecked_input(context, "validation.y", raw.y)?;
        let positives = problem::positives(raw.positives, x.rows, y.rows).map_err(of_validation)?;
        Ok(Some(Pairs { x, y, positives }))
    }
}

/// The rows of x and y of all ranks, and whether they match by their numbers.
type Seen = ((usize, usize), bool);

/// What both fits are given besides their options, and where their results go.
struct Call<'a> {
    begin: Instant,
    x: Input<'a>,
    y: Input<'a>,
    positives: *const unicon_positives_t,
    validation: Option<Pairs<'a>>,
    precision: Precision,
    model: *mut *mut unicon_model_t,
    report: *mut *mut unicon_report_t,
}

/// The arguments of both fits as they come.
struct Arguments {
    pairs: *const unicon_pairs_t,
    validation: *const unicon_pairs_t,
    model: *mut *mut unicon_model_t,
    report: *mut *mut unicon_report_t,
}

impl<'a> Call<'a> {
    /// # Safety
    /// Everything as the header requires.
    unsafe fn new(context: &Context, a: Arguments) -> Result<Self> {
        let begin = Instant::now();
        let Arguments { model, report, .. } = a;
        check_out("model", model)?;
        if !report.is_null() {
            check_out("report", report)?;
        }
        // SAFETY: passed on.
        unsafe {
            let unicon_pairs { x, y, positives, .. } = read(a.pairs)?;
            let (x, y) = (unchecked_input(context, "x", x)?, unchecked_input(context, "y", y)?);
            let validation = validation_of(context, a.validation)?;
            let precision = Precision::of(&[&x, &y]);
            Ok(Self { begin, x, y, positives, validation, precision, model, report })
        }
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            rows: (self.x.rows, self.y.rows),
            widths: (self.x.cols, self.y.cols),
            validation: self.validation.as_ref().map_or((0, 0), Pairs::rows),
        }
    }

    /// Runs a fit on the rows of all ranks; every rank gets the model, or learns why there is none.
    ///
    /// # Safety
    /// As [`new`](Self::new).
    unsafe fn over_ranks(
        &self,
        group: &Group,
        fit: impl FnOnce(Data<'_>, Option<Data<'_>>) -> Result<(Model, FitInfo)>,
    ) -> Result<(Model, FitInfo)> {
        let own = (self.x.rows, self.y.rows);
        let validation = self.validation.as_ref().map(Pairs::data);
        if group.is_single() {
            // SAFETY: passed on.
            let positives = unsafe { problem::positives(self.positives, own.0, own.1)? };
            return fit(Data { x: self.x.source(), y: self.y.source(), positives: &positives }, validation);
        }
        let x = share_rows(group, self.x.source())?;
        let y = share_rows(group, self.y.source())?;
        // SAFETY: passed on.
        let positives = unsafe { problem::positives_over(group, self.positives, own, (x.rows(), y.rows()))? };
        fit(Data { x: &x, y: &y, positives: &positives }, validation)
    }

    /// Runs a fit on several devices of this process, a thread each: this one works on the first.
    ///
    /// # Safety
    /// As [`new`](Self::new).
    unsafe fn over_devices(
        &self,
        devices: Vec<Cuda>,
        fit: impl Fn(Cuda, Data<'_>, Option<Data<'_>>) -> Result<(Model, FitInfo)> + Sync,
    ) -> Result<(Model, FitInfo)> {
        // SAFETY: passed on.
        let positives = unsafe { problem::positives(self.positives, self.x.rows, self.y.rows)? };
        let data = Data { x: self.x.source(), y: self.y.source(), positives: &positives };
        let validation = self.validation.as_ref().map(Pairs::data);
        let numbers: Vec<u32> = devices.iter().map(|d| d.device().ordinal).collect();
        let ranks = threads::ranks(devices.len()).into_iter().map(|rank| Group::new(Arc::new(rank)));
        let all = threads::on_each(ranks.zip(devices), |(group, cuda)| {
            let run = || {
                let (cuda, _) = cuda.connected(group.clone())?;
                fit(cuda, data, validation)
            };
            group.conclude(run())
        });
        // Of several errors the one that made the others counts.
        let mut failure = None;
        let mut fitted = None;
        for (number, result) in numbers.into_iter().zip(all) {
            match result.and_then(|r| r) {
                Ok(made) => fitted = fitted.or(Some(made)),
                Err(e) if matches!(failure, None | Some(Error::Comm(_))) && !matches!(e, Error::Comm(_)) => {
                    failure = Some(on_device(e, number));
                }
                Err(e) => failure = failure.or(Some(e)),
            }
        }
        match (failure, fitted) {
            (None, Some(fitted)) => Ok(fitted),
            (failure, _) => Err(failure.unwrap_or_else(|| Error::Comm("no device has ended".into()))),
        }
    }

    /// Hands over what a fit gave.
    ///
    /// # Safety
    /// As [`new`](Self::new).
    unsafe fn end(
        self,
        context: &Context,
        fitted: Result<(Model, FitInfo)>,
        known: Known,
        seen: Seen,
    ) -> Result<()> {
        let (report, error) = match fitted {
            Ok((made, info)) => {
                // Before anything is handed over: what this finds ends the call.
                context.settle()?;
                let (rows, by_row) = seen;
                info.notes(rows, by_row).iter().for_each(|note| context.warn(note));
                // SAFETY: passed on; `new` checked the pointer.
                unsafe { model::give(made, self.model) };
                (Report::Fit(Box::new(Fitted { info, known })), None)
            }
            Err(Error::Cancelled) => {
                let (seconds, peak_bytes) = (self.begin.elapsed().as_secs_f64(), context.peak_bytes());
                (
                    Report::Cancelled { seconds, peak_bytes, workspace: known.workspace },
                    Some(Error::Cancelled),
                )
            }
            Err(error) => return Err(error),
        };
        if !self.report.is_null() {
            // SAFETY: passed on; `new` checked the pointer.
            unsafe { report::give(report, self.report) };
        }
        error.map_or(Ok(()), Err)
    }
}

/// An error of one of several devices, with its number where the error is the device's.
fn on_device(error: Error, number: u32) -> Error {
    match error {
        Error::Cuda(text) => Error::Cuda(format!("cuda:{number}: {text}")),
        Error::OutOfMemory { needed, limit, what } => {
            Error::OutOfMemory { needed, limit, what: format!("cuda:{number}: {what}") }
        }
        other => other,
    }
}

/// Runs what both fits do once their options are read: `prepare` reads and checks the arguments, `fit` computes. What goes
/// wrong on one rank is told to all.
///
/// # Safety
/// The arguments are as the header requires.
unsafe fn run<'a, O: Sync>(
    context: &Context,
    prepare: impl FnOnce() -> Result<(Call<'a>, O, Known)>,
    fit: impl Fn(&Device, &O, Precision, Data<'_>, Option<Data<'_>>) -> Result<(Model, FitInfo)> + Sync,
) -> Result<()> {
    let seen = Mutex::new(((0, 0), false));
    let fit = |device: &Device, options: &O, precision, data: Data<'_>, validation: Option<Data<'_>>| {
        let all = ((data.x.rows(), data.y.rows()), data.positives.is_diagonal());
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = all;
        fit(device, options, precision, data, validation)
    };
    let seen = || *seen.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(devices) = context.devices() {
        let (call, options, known) = prepare()?;
        let precision = call.precision;
        // SAFETY: passed on.
        unsafe {
            let fitted = call.over_devices(devices, |cuda, data, validation| {
                fit(&Device::Cuda(cuda), &options, precision, data, validation)
            });
            return call.end(context, fitted, known, seen());
        }
    }
    let group = context.group();
    let prepared = context.device_of(&group).and_then(|device| Ok((device, prepare()?)));
    let (device, (call, options, known)) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return group.conclude(Err(error)),
    };
    // SAFETY: passed on.
    unsafe {
        let fitted = call
            .over_ranks(&group, |data, validation| fit(&device, &options, call.precision, data, validation));
        call.end(context, group.conclude(fitted), known, seen())
    }
}

entry!(
    over ranks on context_of(context);
    fn unicon_fit(
        context: *mut unicon_context_t,
        options: *const unicon_fit_options_t,
        pairs: *const unicon_pairs_t,
        model: *mut *mut unicon_model_t,
        report: *mut *mut unicon_report_t,
    ) |context| {
        // SAFETY: everything as the header requires.
        let prepare = || unsafe {
            let raw = read(options)?;
            let call = Call::new(context, Arguments { pairs, validation: raw.validation, model, report })?;
            let o = options::fit(context, &raw)?;
            if !raw.warm_start.is_null() && (o.kernel.is_some() || o.whiten.is_some()) {
                return Err(Error::Unsupported("options.warm_start: of a fit with a kernel or whitening".into()));
            }
            let (whiten, power) = (o.whiten.unwrap_or(-1.0), o.factorization.power());
            let known = Known {
                chosen: Chosen { whiten, power, tau: o.loss.tau, dim: o.dim, ..Chosen::default() },
                workspace: memory::of_fit(&o, call.sizes(), call.precision.size()),
            };
            context.watch(raw.progress, raw.progress_user);
            Ok((call, o, known))
        };
        // SAFETY: as above.
        unsafe {
            run(context, prepare, |device, o, precision, data, validation| {
                on_backend!(device, precision, |backend| crate::fit::fit(backend, data, validation, o))
            })
        }
    }
);

entry!(
    over ranks on context_of(context);
    fn unicon_fit_best(
        context: *mut unicon_context_t,
        options: *const unicon_best_options_t,
        pairs: *const unicon_pairs_t,
        model: *mut *mut unicon_model_t,
        report: *mut *mut unicon_report_t,
    ) |context| {
        // SAFETY: everything as the header requires.
        let prepare = || unsafe {
            let raw = read(options)?;
            let call = Call::new(context, Arguments { pairs, validation: raw.validation, model, report })?;
            let o = options::best(&raw)?;
            let dim = if let Dim::Fixed(r) = o.dim { r } else { 0 };
            let known = Known {
                chosen: Chosen { tau: o.loss.tau, dim, ..Chosen::default() },
                workspace: memory::of_best(&o, call.sizes(), call.precision.size()),
            };
            context.watch(raw.progress, raw.progress_user);
            Ok((call, o, known))
        };
        // SAFETY: as above.
        unsafe {
            run(context, prepare, |device, o, precision, data, validation| {
                on_backend!(device, precision, |backend| crate::fit::fit_best(backend, data, validation, o))
            })
        }
    }
);
