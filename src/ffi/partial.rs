//! The solver for batches that arrive one by one.

use super::bindings::*;
use super::context::{Context, context_of, on_backend};
use super::fit::Pairs;
use super::matrix::{Precision, check_out, unchecked_input};
use super::structs::{count, read};
use super::{entry, fit, guard, model, options, problem, same_signature};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::fit::{Accumulate, Data, PartialFit};
use crate::model::Model;
use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;

/// What the handle does, whatever the backend.
trait Streamed: Send {
    fn add(&mut self, batch: Data<'_>) -> Result<f64>;
    fn model(&self) -> Result<Model>;
    fn finish(&mut self) -> Result<Model>;
}

impl<B: Backend> Streamed for PartialFit<B> {
    fn add(&mut self, batch: Data<'_>) -> Result<f64> {
        PartialFit::add(self, batch)
    }

    fn model(&self) -> Result<Model> {
        PartialFit::model(self)
    }

    fn finish(&mut self) -> Result<Model> {
        PartialFit::finish(self)
    }
}

/// What a `unicon_partial_fit_t` points to.
struct Handle {
    context: Arc<Context>,
    /// Only touched while the context is held.
    fit: UnsafeCell<Box<dyn Streamed>>,
}

/// # Safety
/// `handle` is NULL or a live stream.
unsafe fn handle_of<'a>(handle: *const unicon_partial_fit_t) -> Result<&'a Handle> {
    // SAFETY: passed on.
    unsafe { handle.cast::<Handle>().as_ref() }
        .ok_or_else(|| Error::invalid("partial", "a partial fit", "NULL"))
}

/// # Safety
/// As [`handle_of`].
unsafe fn context_of_stream(handle: *const unicon_partial_fit_t) -> Result<Arc<Context>> {
    // SAFETY: passed on.
    Ok(unsafe { handle_of(handle)? }.context.clone())
}

/// The fit of a handle whose context the calling function holds.
///
/// # Safety
/// As [`handle_of`], and the guard holds the handle's context, so that no other call has this reference.
#[allow(clippy::mut_from_ref)]
unsafe fn fit_of<'a>(handle: *const unicon_partial_fit_t) -> Result<&'a mut dyn Streamed> {
    // SAFETY: passed on.
    unsafe { Ok((*handle_of(handle)?.fit.get()).as_mut()) }
}

fn accumulate_of(accumulate: i32) -> Result<Accumulate> {
    match u32::try_from(accumulate) {
        Ok(UNICON_ACCUMULATE_MOMENTS) => Ok(Accumulate::Moments),
        Ok(UNICON_ACCUMULATE_SOLUTIONS) => Ok(Accumulate::Solutions),
        _ => Err(Error::invalid("accumulate", "a value of unicon_accumulate", accumulate)),
    }
}

entry!(
    on context_of(context);
    fn unicon_partial_fit_create(
        context: *mut unicon_context_t,
        options: *const unicon_fit_options_t,
        accumulate: i32,
        d1: i64,
        d2: i64,
        dtype: i32,
        partial: *mut *mut unicon_partial_fit_t,
    ) |context| {
        check_out("partial", partial)?;
        let (accumulate, dims) = (accumulate_of(accumulate)?, (count("d1", d1, 1)?, count("d2", d2, 1)?));
        let precision = Precision::of_dtype("dtype", dtype)?;
        // SAFETY: everything as the header requires.
        let (raw, o, validation) = unsafe {
            let raw = read(options)?;
            (raw, options::fit(context, &raw)?, fit::validation_of(context, raw.validation)?)
        };
        if raw.progress.is_some() {
            return Err(Error::Unsupported("options.progress: of batches that arrive one by one".into()));
        }
        context.single_rank()?;
        let validation = validation.as_ref().map(Pairs::data);
        let fit: Box<dyn Streamed> = on_backend!(context.device(), precision, |backend| {
            Box::new(PartialFit::new(backend.clone(), dims, accumulate, validation, o)?)
        });
        let made = Box::new(Handle { context: context.clone(), fit: UnsafeCell::new(fit) });
        // SAFETY: checked above.
        unsafe { partial.write(Box::into_raw(made).cast()) };
        Ok(())
    }
);

entry!(
    on context_of_stream(partial);
    fn unicon_partial_fit_add(
        partial: *mut unicon_partial_fit_t,
        pairs: *const unicon_pairs_t,
        loss: *mut f64,
    ) |context| {
        if !loss.is_null() {
            check_out("loss", loss)?;
        }
        // SAFETY: everything as the header requires; the guard holds the context.
        let value = unsafe {
            let unicon_pairs { x, y, positives, .. } = read(pairs)?;
            let (x, y) = (unchecked_input(context, "x", x)?, unchecked_input(context, "y", y)?);
            let positives = problem::positives(positives, x.rows, y.rows)?;
            fit_of(partial)?.add(Data { x: x.source(), y: y.source(), positives: &positives })?
        };
        if !loss.is_null() {
            // SAFETY: checked above.
            unsafe { loss.write(value) };
        }
        Ok(())
    }
);

entry!(
    on context_of_stream(partial);
    fn unicon_partial_fit_model(
        partial: *mut unicon_partial_fit_t,
        model: *mut *mut unicon_model_t,
    ) |_context| {
        check_out("model", model)?;
        // SAFETY: as the header requires; the guard holds the context; the pointer is checked.
        unsafe { model::give(fit_of(partial)?.model()?, model) };
        Ok(())
    }
);

entry!(
    on context_of_stream(partial);
    fn unicon_partial_fit_finish(
        partial: *mut unicon_partial_fit_t,
        model: *mut *mut unicon_model_t,
    ) |_context| {
        check_out("model", model)?;
        // SAFETY: as the header requires; the guard holds the context; the pointer is checked.
        unsafe { model::give(fit_of(partial)?.finish()?, model) };
        Ok(())
    }
);

/// Frees the stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_partial_fit_destroy(partial: *mut unicon_partial_fit_t) {
    if let Some(handle) = NonNull::new(partial.cast::<Handle>()) {
        // SAFETY: what `Box::into_raw` gave, given back once.
        guard::silent((), || drop(unsafe { Box::from_raw(handle.as_ptr()) }));
    }
}
same_signature!(unicon_partial_fit_destroy);
