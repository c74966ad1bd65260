//! The solvers.

use super::bindings::*;
use super::context::{Context, context_of, on_backend};
use super::matrix::{Input, Precision, check_out, unchecked_input};
use super::report::{Asked, Report};
use super::structs::read;
use super::workspace::{self, Sizes};
use super::{asked, entry, model, options};
use crate::error::{Error, Result};
use crate::fit::{Chosen, Data, FitInfo, Rank};
use crate::io::RowSource;
use crate::model::Model;
use crate::positives::Positives;
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
        (self.x.view.rows(), self.y.view.rows())
    }
}

/// # Safety
/// `pointer` is NULL or a struct by the header's contract.
pub(super) unsafe fn held_out<'a>(
    context: &Context,
    pointer: *const unicon_validation_t,
) -> Result<Option<Pairs<'a>>> {
    if pointer.is_null() {
        return Ok(None);
    }
    if !pointer.is_aligned() {
        return Err(Error::invalid("validation", "an aligned struct", "a misaligned pointer"));
    }
    // SAFETY: not NULL, aligned, and as the header requires.
    unsafe {
        let raw = pointer.read();
        let x = unchecked_input(context, "validation.x", raw.x)?;
        let y = unchecked_input(context, "validation.y", raw.y)?;
        let positives = asked::positives(raw.positives, x.view.rows(), y.view.rows())?;
        Ok(Some(Pairs { x, y, positives }))
    }
}

/// What both fits are given besides their options, and where their results go.
struct Call<'a> {
    begin: Instant,
    pairs: Pairs<'a>,
    held: Option<Pairs<'a>>,
    precision: Precision,
    report: Option<Report>,
    model: *mut *mut unicon_model_t,
}

/// The arguments of both fits as they come.
struct Arguments {
    x: *const unicon_matrix_t,
    y: *const unicon_matrix_t,
    positives: *const unicon_positives_t,
    validation: *const unicon_validation_t,
    model: *mut *mut unicon_model_t,
    info: *mut unicon_fit_info_t,
}

impl<'a> Call<'a> {
    /// # Safety
    /// Everything as the header requires.
    unsafe fn new(context: &Context, a: Arguments) -> Result<Self> {
        let begin = Instant::now();
        check_out("model", a.model)?;
        context.single_rank()?;
        // SAFETY: passed on.
        unsafe {
            let (x, y) = (unchecked_input(context, "x", a.x)?, unchecked_input(context, "y", a.y)?);
            let held = held_out(context, a.validation)?;
            let report = Report::new(a.info)?;
            let positives = asked::positives(a.positives, x.view.rows(), y.view.rows())?;
            let precision = Precision::of(&[&x, &y]);
            Ok(Self { begin, pairs: Pairs { x, y, positives }, held, precision, report, model: a.model })
        }
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            rows: self.pairs.rows(),
            widths: (self.pairs.x.view.cols(), self.pairs.y.view.cols()),
            held_out: self.held.as_ref().map_or((0, 0), Pairs::rows),
        }
    }

    /// Hands over what a fit gave.
    ///
    /// # Safety
    /// As [`new`](Self::new).
    unsafe fn end(self, context: &Context, fitted: Result<(Model, FitInfo)>, asked: &Asked) -> Result<()> {
        match fitted {
            Ok((made, info)) => {
                check_model(&made)?;
                // SAFETY: passed on; `new` checked the pointers.
                unsafe {
                    if let Some(report) = self.report {
                        report.write(&info, asked);
                    }
                    model::give(made, self.model);
                }
                Ok(())
            }
            Err(Error::Cancelled) => {
                if let Some(report) = self.report {
                    let seconds = self.begin.elapsed().as_secs_f64();
                    // SAFETY: passed on.
                    unsafe { report.write_cancelled(seconds, context.peak_bytes(), asked) };
                }
                Err(Error::Cancelled)
            }
            Err(error) => Err(error),
        }
    }
}

/// A model with NaN in it is a failure, not a result.
fn check_model(model: &Model) -> Result<()> {
    let finite = |m: &faer::Mat<f64>| m.norm_max().is_finite();
    if model.components.iter().all(|c| finite(&c.x.matrix) && finite(&c.y.matrix)) {
        return Ok(());
    }
    Err(Error::Numerical("the encoders are not finite: tau, rho or the features' scale is extreme".into()))
}

entry!(
    on context_of(context);
    fn unicon_fit(
        context: *mut unicon_context_t,
        options: *const unicon_fit_options_t,
        x: *const unicon_matrix_t,
        y: *const unicon_matrix_t,
        positives: *const unicon_positives_t,
        validation: *const unicon_validation_t,
        warm_start: *const unicon_model_t,
        model: *mut *mut unicon_model_t,
        info: *mut unicon_fit_info_t,
    ) |context| {
        // SAFETY: everything as the header requires.
        let (raw, call, o) = unsafe {
            let raw = read(options)?;
            let call = Call::new(context, Arguments { x, y, positives, validation, model, info })?;
            (raw, call, options::fit(context, &raw, warm_start)?)
        };
        if !warm_start.is_null() && (o.kernel.is_some() || o.whiten.is_some()) {
            return Err(Error::Unsupported("warm_start: of a fit with a kernel or whitening".into()));
        }
        let asked = Asked {
            chosen: Chosen {
                whiten: o.whiten.unwrap_or(-1.0),
                power: o.factorization.power(),
                tau: o.loss.tau,
                rank: o.rank,
                ..Chosen::default()
            },
            workspace: workspace::of_fit(&o, call.sizes(), call.precision.size()),
        };
        context.watch(raw.progress, raw.progress_user);
        let held = call.held.as_ref().map(Pairs::data);
        let fitted = on_backend!(context, call.precision, |backend| {
            crate::fit::fit(backend, call.pairs.data(), held, &o)
        });
        // SAFETY: everything as the header requires.
        unsafe { call.end(context, fitted, &asked) }
    }
);

entry!(
    on context_of(context);
    fn unicon_fit_best(
        context: *mut unicon_context_t,
        options: *const unicon_best_options_t,
        x: *const unicon_matrix_t,
        y: *const unicon_matrix_t,
        positives: *const unicon_positives_t,
        validation: *const unicon_validation_t,
        warm_start: *const unicon_model_t,
        model: *mut *mut unicon_model_t,
        info: *mut unicon_fit_info_t,
    ) |context| {
        // SAFETY: everything as the header requires.
        let (raw, call, o) = unsafe {
            let raw = read(options)?;
            let call = Call::new(context, Arguments { x, y, positives, validation, model, info })?;
            (raw, call, options::best(&raw, warm_start)?)
        };
        let rank = if let Rank::Fixed(r) = o.rank { r } else { 0 };
        let asked = Asked {
            chosen: Chosen { tau: o.loss.tau, rank, ..Chosen::default() },
            workspace: workspace::of_best(&o, call.sizes(), call.precision.size()),
        };
        context.watch(raw.progress, raw.progress_user);
        let held = call.held.as_ref().map(Pairs::data);
        let fitted = on_backend!(context, call.precision, |backend| {
            crate::fit::fit_best(backend, call.pairs.data(), held, &o)
        });
        // SAFETY: everything as the header requires.
        unsafe { call.end(context, fitted, &asked) }
    }
);
