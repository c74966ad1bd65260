//! Models: made from matrices, described, applied, saved and loaded.

use super::bindings::*;
use super::context::{context_of, on_backend};
use super::few::Ready;
use super::matrix::{Allowed, Input, Precision, check_out, input, no_rows, output, unchecked_input, values};
use super::problem::kernel_number;
use super::structs::{Versioned, count, path_of, read, write};
use super::weights::expect;
use super::{entry, guard, same_signature};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::fit::host;
use crate::model::{Component, Encoder, Model, Side};
use faer::Mat;
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

/// One side's encoder of a linear model.
fn linear(model: &Model, side: Side) -> Result<&Encoder> {
    let [only] = &model.components[..] else {
        return Err(Error::Unsupported("model: an encoder matrix of a model with several members".into()));
    };
    if model.compression.is_some() {
        return Err(Error::Unsupported("model: an encoder matrix of a compressed model".into()));
    }
    let encoder = if side == Side::X { &only.x } else { &only.y };
    match encoder.map {
        None => Ok(encoder),
        Some(_) => Err(Error::Unsupported("model: an encoder matrix of a kernel model".into())),
    }
}

/// What a `unicon_model_t` points to.
struct Held {
    model: Model,
    /// Of x and of y.
    ready: [Ready; 2],
}

/// # Safety
/// `handle` is NULL or a live model.
unsafe fn held_of<'a>(handle: *const unicon_model_t) -> Result<&'a Held> {
    // SAFETY: passed on.
    unsafe { handle.cast::<Held>().as_ref() }.ok_or_else(|| Error::invalid("model", "a model", "NULL"))
}

/// # Safety
/// `handle` is NULL or a live model.
pub(super) unsafe fn model_of<'a>(handle: *const unicon_model_t) -> Result<&'a Model> {
    // SAFETY: passed on.
    unsafe { held_of(handle) }.map(|held| &held.model)
}

/// Hands a model over. `out` has been checked.
///
/// # Safety
/// `out` can be written through.
pub(super) unsafe fn give(model: Model, out: *mut *mut unicon_model_t) {
    let held = Held { model, ready: Default::default() };
    // SAFETY: passed on.
    unsafe { out.write(Box::into_raw(Box::new(held)).cast()) };
}

fn side_of(side: i32) -> Result<Side> {
    match u32::try_from(side) {
        Ok(UNICON_SIDE_X) => Ok(Side::X),
        Ok(UNICON_SIDE_Y) => Ok(Side::Y),
        _ => Err(Error::invalid("side", "UNICON_SIDE_X or UNICON_SIDE_Y", side)),
    }
}

entry!(
    on context_of(context);
    fn unicon_model_create_linear(
        context: *mut unicon_context_t,
        f1: *const unicon_matrix_t,
        f2: *const unicon_matrix_t,
        model: *mut *mut unicon_model_t,
    ) |context| {
        check_out("model", model)?;
        // SAFETY: as the header requires.
        let (f1, f2) = unsafe { (input(context, "f1", f1)?, input(context, "f2", f2)?) };
        expect(&f2, "rows, as f1 has", f1.rows, f2.rows)?;
        let encoder = |m: &Input<'_>| Ok::<_, Error>(Encoder::linear(host(m.source())?));
        let component = Component { weight: 1.0, x: encoder(&f1)?, y: encoder(&f2)? };
        let made = Model {
            components: vec![component],
            compression: None,
            loss: Default::default(),
            notes: Default::default(),
        };
        // SAFETY: checked above.
        unsafe { give(made, model) };
        Ok(())
    }
);

/// Frees a model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_model_destroy(model: *mut unicon_model_t) {
    if let Some(model) = NonNull::new(model.cast::<Held>()) {
        // SAFETY: what `Box::into_raw` gave, given back once.
        guard::silent((), || drop(unsafe { Box::from_raw(model.as_ptr()) }));
    }
}
same_signature!(unicon_model_destroy);

entry!(
    fn unicon_model_describe(model: *const unicon_model_t, description: *mut unicon_model_description_t) {
        // SAFETY: as the header requires.
        let model = unsafe { model_of(model)? };
        // SAFETY: as the header requires.
        unsafe { read(description)? };
        let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let kernel = |side: Side| {
            let encoder = model.components.first().map(|c| if side == Side::X { &c.x } else { &c.y });
            encoder.and_then(|e| e.map.as_ref()).map_or(UNICON_KERNEL_NONE, |m| kernel_number(m.kernel.kind))
        };
        let filled = unicon_model_description {
            d1: size(model.input_dim(Side::X)),
            d2: size(model.input_dim(Side::Y)),
            r: size(model.embedding_dim()),
            kernel_x: kernel(Side::X),
            kernel_y: kernel(Side::Y),
            members: size(model.components.len()),
            ..unicon_model_description::defaults()
        };
        // SAFETY: read above.
        unsafe { write(description, &filled) };
        Ok(())
    }
);

entry!(
    on context_of(context);
    fn unicon_model_encoder(
        context: *mut unicon_context_t,
        model: *const unicon_model_t,
        side: i32,
        f: *const unicon_matrix_t,
    ) |context| {
        // SAFETY: as the header requires.
        let (model, side) = (unsafe { model_of(model)? }, side_of(side)?);
        let encoder = linear(model, side)?;
        let shape = (encoder.matrix.nrows(), encoder.matrix.ncols());
        // SAFETY: as the header requires.
        unsafe { output(context, "f", f, shape, Allowed::Wide)? }.store_host(&encoder.matrix)
    }
);

entry!(
    on context_of(context);
    fn unicon_model_bias(
        context: *mut unicon_context_t,
        model: *const unicon_model_t,
        side: i32,
        b: *const unicon_matrix_t,
    ) |context| {
        // SAFETY: as the header requires.
        let (model, side) = (unsafe { model_of(model)? }, side_of(side)?);
        let encoder = linear(model, side)?;
        let (r, bias) = (encoder.matrix.nrows(), encoder.bias());
        let bias = Mat::from_fn(r, 1, |i, _| bias.as_ref().map_or(0.0, |b| b[i]));
        // SAFETY: as the header requires.
        unsafe { output(context, "b", b, (r, 1), Allowed::Wide)? }.store_host(&bias)
    }
);

entry!(
    on context_of(context);
    fn unicon_model_encode(
        context: *mut unicon_context_t,
        model: *const unicon_model_t,
        side: i32,
        in_: *const unicon_matrix_t,
        out: *const unicon_matrix_t,
    ) |context| {
        // SAFETY: as the header requires.
        let (held, side) = (unsafe { held_of(model)? }, side_of(side)?);
        let model = &held.model;
        // SAFETY: as the header requires.
        let (d, r) = (model.input_dim(side), model.embedding_dim());
        if unsafe { no_rows(context, ("in", in_, d), Some(("out", out, r)))? } {
            return Ok(());
        }
        // SAFETY: as the header requires. Encoding checks the values.
        let features = unsafe { unchecked_input(context, "in", in_)? };
        expect(&features, "columns, as the model", model.input_dim(side), features.cols)?;
        let shape = (features.rows, model.embedding_dim());
        // SAFETY: as the header requires.
        let out = unsafe { output(context, "out", out, shape, Allowed::Any)? };
        out.apart_from(&[&features])?;
        let ready = &held.ready[usize::from(side == Side::Y)];
        if ready.encode(context, model, side, &features, &out)? {
            return Ok(());
        }
        on_backend!(context.device(), Precision::of(&[&features]), |backend| {
            out.store(backend, &model.encode(backend, side, features.source())?)
        })
    }
);

entry!(
    on context_of(context);
    fn unicon_model_compress(
        context: *mut unicon_context_t,
        model: *const unicon_model_t,
        x: *const unicon_matrix_t,
        y: *const unicon_matrix_t,
        r: i64,
        error: *mut f64,
        compressed: *mut *mut unicon_model_t,
    ) |context| {
        check_out("compressed", compressed)?;
        if !error.is_null() {
            check_out("error", error)?;
        }
        // SAFETY: as the header requires.
        let model = unsafe { model_of(model)? };
        let columns = count("r", r, 1)?;
        if columns > model.embedding_dim() {
            return Err(Error::invalid("r", format!("at most the model's columns, {}", model.embedding_dim()), r));
        }
        // SAFETY: as the header requires. Encoding checks the values.
        let (x, y) = unsafe { (unchecked_input(context, "x", x)?, unchecked_input(context, "y", y)?) };
        expect(&x, "columns, as the model", model.input_dim(Side::X), x.cols)?;
        expect(&y, "columns, as the model", model.input_dim(Side::Y), y.cols)?;
        let (made, told) = on_backend!(context.device(), Precision::of(&[&x, &y]), |backend| {
            model.compressed(backend, x.source(), y.source(), columns)
        })?;
        context.settle()?;
        // SAFETY: checked above.
        unsafe {
            if !error.is_null() {
                error.write(told.error);
            }
            give(made, compressed);
        }
        Ok(())
    }
);

entry!(
    on context_of(context);
    fn unicon_model_similarity(
        context: *mut unicon_context_t,
        model: *const unicon_model_t,
        x: *const unicon_matrix_t,
        y: *const unicon_matrix_t,
        out: *const unicon_matrix_t,
    ) |context| {
        // SAFETY: as the header requires.
        let model = unsafe { model_of(model)? };
        // SAFETY: as the header requires. Encoding checks the values.
        let y = unsafe { unchecked_input(context, "y", y)? };
        // SAFETY: as above.
        if unsafe { no_rows(context, ("x", x, model.input_dim(Side::X)), Some(("out", out, y.rows)))? } {
            return Ok(());
        }
        // SAFETY: as above.
        let x = unsafe { unchecked_input(context, "x", x)? };
        expect(&x, "columns, as the model", model.input_dim(Side::X), x.cols)?;
        expect(&y, "columns, as the model", model.input_dim(Side::Y), y.cols)?;
        // SAFETY: as the header requires.
        let out = unsafe { output(context, "out", out, (x.rows, y.rows), Allowed::Wide)? };
        out.apart_from(&[&x, &y])?;
        on_backend!(context.device(), Precision::of(&[&x, &y]), |backend| {
            let zx = model.encode(backend, Side::X, x.source())?;
            let zy = crate::fit::download(backend, &model.encode(backend, Side::Y, y.source())?)?;
            out.store(backend, &backend.linear(&zx, zy.as_ref())?)
        })
    }
);

entry!(
    on context_of(context);
    fn unicon_model_save(
        context: *mut unicon_context_t,
        model: *const unicon_model_t,
        path: *const c_char,
    ) |_context| {
        // SAFETY: as the header requires.
        unsafe { model_of(model)?.save(path_of("path", path)?) }
    }
);

entry!(
    on context_of(context);
    fn unicon_model_load(
        context: *mut unicon_context_t,
        path: *const c_char,
        model: *mut *mut unicon_model_t,
    ) |_context| {
        check_out("model", model)?;
        // SAFETY: as the header requires; the pointer is checked.
        unsafe { give(Model::load(path_of("path", path)?)?, model) };
        Ok(())
    }
);

entry!(
    fn unicon_model_to_bytes(
        model: *const unicon_model_t,
        buffer: *mut c_void,
        capacity: i64,
        size: *mut i64,
    ) {
        check_out("size", size)?;
        let room = count("capacity", capacity, 0)?;
        // SAFETY: as the header requires.
        let bytes = unsafe { model_of(model)? }.to_bytes()?;
        if room > 0 {
            check_out("buffer", buffer.cast::<u8>())?;
            if room < bytes.len() {
                return Err(Error::invalid("capacity", format!("{} bytes", bytes.len()), room));
            }
            // SAFETY: the buffer holds `capacity` bytes by the header's contract, which suffice.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast(), bytes.len()) };
        }
        // SAFETY: checked above.
        unsafe { size.write(bytes.len() as i64) };
        Ok(())
    }
);

entry!(
    fn unicon_model_from_bytes(data: *const c_void, size: i64, model: *mut *mut unicon_model_t) {
        check_out("model", model)?;
        let size = count("size", size, 1)?;
        // SAFETY: that many readable bytes by the header's contract.
        let bytes = unsafe { values("data", data.cast::<u8>(), size)? };
        let made = Model::from_bytes(bytes).map_err(|reason| Error::bad_file("data", reason))?;
        // SAFETY: checked above.
        unsafe { give(made, model) };
        Ok(())
    }
);
