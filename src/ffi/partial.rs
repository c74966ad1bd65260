//! The solver for batches that arrive one by one.

use super::bindings::*;
use super::context::{Context, context_of};
use super::matrix::{Precision, check_out, unchecked_input};
use super::structs::{count, read};
use super::{asked, entry, fit, guard, model, same_signature};
use crate::backend::cpu::Cpu;
use crate::error::{Error, Result};
use crate::fit::{Data, PartialFit};
use crate::io::RowSource;
use std::cell::UnsafeCell;
use std::ptr::NonNull;
use std::sync::Arc;

enum Stream {
    F32(PartialFit<Cpu<f32>>),
    F64(PartialFit<Cpu<f64>>),
}

/// What a `unicon_partial_fit_t` points to.
struct Handle {
    context: Arc<Context>,
    /// Only touched while the context is held.
    stream: UnsafeCell<Stream>,
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

/// The stream of a handle whose context the calling function holds.
///
/// # Safety
/// As [`handle_of`], and the guard holds the handle's context, so that no other call has this reference.
#[allow(clippy::mut_from_ref)]
unsafe fn stream_of<'a>(handle: *const unicon_partial_fit_t) -> Result<&'a mut Stream> {
    // SAFETY: passed on.
    unsafe { Ok(&mut *handle_of(handle)?.stream.get()) }
}

entry!(
    on context_of(context);
    fn unicon_partial_fit_create(
        context: *mut unicon_context_t,
        options: *const unicon_fit_options_t,
        d1: i64,
        d2: i64,
        dtype: i32,
        validation: *const unicon_validation_t,
        warm_start: *const unicon_model_t,
        partial: *mut *mut unicon_partial_fit_t,
    ) |context| {
        check_out("partial", partial)?;
        let (d1, d2) = (count("d1", d1, 1)?, count("d2", d2, 1)?);
        let precision = Precision::of_dtype("dtype", dtype)?;
        // SAFETY: everything as the header requires.
        let (raw, o, held) = unsafe {
            let raw = read(options)?;
            let mut o = fit::options(context, &raw)?;
            fit::start(&mut o, warm_start)?;
            (raw, o, fit::held_out(context, validation)?)
        };
        if raw.progress.is_some() {
            return Err(Error::Unsupported("options.progress: of batches that arrive one by one".into()));
        }
        context.single_rank()?;
        let held = held.as_ref().map(|h| Data { x: &h.x.view, y: &h.y.view, positives: &h.positives });
        let cpu = context.cpu();
        let stream = match precision {
            Precision::F32 => Stream::F32(PartialFit::new(cpu.clone(), (d1, d2), held, o)?),
            Precision::F64 => Stream::F64(PartialFit::new(cpu.in_precision(), (d1, d2), held, o)?),
        };
        let made = Box::new(Handle { context: context.clone(), stream: UnsafeCell::new(stream) });
        // SAFETY: checked above.
        unsafe { partial.write(Box::into_raw(made).cast()) };
        Ok(())
    }
);

entry!(
    on context_of_stream(partial);
    fn unicon_partial_fit_add(
        partial: *mut unicon_partial_fit_t,
        x: *const unicon_matrix_t,
        y: *const unicon_matrix_t,
        positives: *const unicon_positives_t,
        loss: *mut f64,
    ) |context| {
        if !loss.is_null() {
            check_out("loss", loss)?;
        }
        // SAFETY: everything as the header requires; the guard holds the context.
        let (stream, x, y) = unsafe {
            let (x, y) = (unchecked_input(context, "x", x)?, unchecked_input(context, "y", y)?);
            (stream_of(partial)?, x, y)
        };
        // SAFETY: as above.
        let positives = unsafe { asked::positives(positives, x.view.rows(), y.view.rows())? };
        let batch = Data { x: &x.view, y: &y.view, positives: &positives };
        let value = match stream {
            Stream::F32(stream) => stream.add(batch)?,
            Stream::F64(stream) => stream.add(batch)?,
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
    fn unicon_partial_fit_finish(
        partial: *mut unicon_partial_fit_t,
        model: *mut *mut unicon_model_t,
    ) |_context| {
        check_out("model", model)?;
        // SAFETY: as the header requires; the guard holds the context.
        let made = match unsafe { stream_of(partial)? } {
            Stream::F32(stream) => stream.finish()?,
            Stream::F64(stream) => stream.finish()?,
        };
        // SAFETY: checked above.
        unsafe { model::give(made, model) };
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
