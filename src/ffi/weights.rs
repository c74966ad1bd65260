//! The similarity weights of a batch: the primitive, and the loss layer.

use super::bindings::*;
use super::context::{Context, context_of, on_backend};
use super::matrix::{Allowed, Input, Output, Precision, check_out, input, output};
use super::structs::{Versioned, count, init, read, read_or_default};
use super::{entry, guard, problem, same_signature};
use crate::backend::{Backend, Similarity};
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::{NegativeSampling, Weights};
use std::ptr::NonNull;
use std::sync::Arc;

/// Where the similarities of an operator come from.
enum Source<M> {
    Embeddings(M, M),
    Dense(M),
}

/// The operator on one backend.
struct Operator<B: Backend> {
    backend: B,
    source: Source<B::Matrix>,
    weights: Weights,
}

impl<B: Backend> Operator<B> {
    fn new(
        backend: B,
        source: Source<B::Matrix>,
        (loss, negatives): &(Loss, NegativeSampling),
        positives: &Positives,
    ) -> Result<Self> {
        let weights = backend.weights(similarity(&source), loss, positives, *negatives)?;
        if !weights.value().is_finite() {
            return Err(Error::Numerical("the loss is not finite".into()));
        }
        Ok(Self { backend, source, weights })
    }

    fn s(&self) -> Similarity<'_, B::Matrix> {
        similarity(&self.source)
    }
}

fn similarity<M>(source: &Source<M>) -> Similarity<'_, M> {
    match source {
        Source::Embeddings(zx, zy) => Similarity::Embeddings(zx, zy),
        Source::Dense(s) => Similarity::Dense(s),
    }
}

/// What the handle does, whatever the backend.
trait Apply: Send + Sync {
    fn weights(&self) -> &Weights;
    fn dense(&self, out: &Output<'_>) -> Result<()>;
    fn apply(&self, v: &Input<'_>, out: &Output<'_>) -> Result<()>;
    fn apply_transpose(&self, u: &Input<'_>, out: &Output<'_>) -> Result<()>;
    fn cross(&self, x: &Input<'_>, y: &Input<'_>, out: &Output<'_>) -> Result<()>;
}

impl<B: Backend> Apply for Operator<B>
where
    B::Matrix: 'static,
{
    fn weights(&self) -> &Weights {
        &self.weights
    }

    fn dense(&self, out: &Output<'_>) -> Result<()> {
        out.store_host(&self.backend.dense(self.s(), &self.weights)?)
    }

    fn apply(&self, v: &Input<'_>, out: &Output<'_>) -> Result<()> {
        let v = self.backend.load(v.source())?;
        out.store(&self.backend, &self.backend.apply(self.s(), &self.weights, &v)?)
    }

    fn apply_transpose(&self, u: &Input<'_>, out: &Output<'_>) -> Result<()> {
        let u = self.backend.load(u.source())?;
        out.store(&self.backend, &self.backend.apply_transpose(self.s(), &self.weights, &u)?)
    }

    fn cross(&self, x: &Input<'_>, y: &Input<'_>, out: &Output<'_>) -> Result<()> {
        let (x, y) = (self.backend.load(x.source())?, self.backend.load(y.source())?);
        out.store_host(&self.backend.cross(self.s(), &self.weights, &x, &y)?)
    }
}

/// What a `unicon_weights_t` points to.
struct Handle {
    context: Arc<Context>,
    operator: Box<dyn Apply>,
    n_x: usize,
    n_y: usize,
}

/// # Safety
/// `handle` is NULL or live weights.
unsafe fn handle_of<'a>(handle: *const unicon_weights_t) -> Result<&'a Handle> {
    // SAFETY: passed on.
    unsafe { handle.cast::<Handle>().as_ref() }.ok_or_else(|| Error::invalid("weights", "weights", "NULL"))
}

/// # Safety
/// As [`handle_of`].
unsafe fn context_of_weights(handle: *const unicon_weights_t) -> Result<Arc<Context>> {
    // SAFETY: passed on.
    Ok(unsafe { handle_of(handle)? }.context.clone())
}

/// Fails unless `m` has that many rows (or, with `cols`, columns).
pub(super) fn expect(m: &Input<'_>, what: &str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(Error::invalid(m.name(), format!("{expected} {what}"), got))
}

/// Embeddings that belong together, and their positives.
///
/// # Safety
/// `pairs` is NULL or as the header requires.
pub(super) unsafe fn embeddings<'a>(
    context: &Context,
    pairs: *const unicon_pairs_t,
) -> Result<(Input<'a>, Input<'a>, Positives)> {
    // SAFETY: passed on.
    let (zx, zy, positives) = unsafe {
        let raw = read(pairs)?;
        (input(context, "zx", raw.x)?, input(context, "zy", raw.y)?, raw.positives)
    };
    expect(&zy, "columns, as zx has", zx.cols, zy.cols)?;
    // SAFETY: passed on.
    let positives = unsafe { problem::positives(positives, zx.rows, zy.rows)? };
    Ok((zx, zy, positives))
}

/// The loss and the sampling that are asked for; NULL is the default.
///
/// # Safety
/// `pointer` is NULL or a caller's struct.
unsafe fn options_of(pointer: *const unicon_weights_options_t) -> Result<(Loss, NegativeSampling)> {
    // SAFETY: passed on.
    let raw = unsafe { read_or_default(pointer)? };
    let negatives = match count("options.n_negatives", raw.n_negatives, 0)? {
        0 => NegativeSampling::All,
        per_anchor => NegativeSampling::Sampled { per_anchor, seed: raw.seed },
    };
    // SAFETY: passed on.
    Ok((unsafe { problem::loss(raw.loss)? }, negatives))
}

entry!(
    fn unicon_weights_options_init(options: *mut unicon_weights_options_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(options, struct_size, &unicon_weights_options::defaults()) }
    }
);

/// What the rounding of a dtype may leave above 1.
fn rounding_of(z: &Input<'_>) -> f64 {
    // Half precisions round components by 2^-9 of their size at most.
    if z.dtype.size() == 2 { 0.01 } else { 1e-4 }
}

/// Calls `check` with every row and its number.
fn each_row(z: &Input<'_>, mut check: impl FnMut(usize, &[f32]) -> Result<()>) -> Result<()> {
    const PANEL: usize = 256;
    let (rows, cols) = (z.rows, z.cols);
    let mut values = vec![0f32; PANEL.min(rows) * cols];
    for start in (0..rows).step_by(PANEL) {
        let panel = &mut values[..PANEL.min(rows - start) * cols];
        z.source().read_rows(start, panel)?;
        panel.chunks_exact(cols).enumerate().try_for_each(|(i, row)| check(start + i, row))?;
    }
    Ok(())
}

/// Fails unless every row has norm at most 1.
fn check_unit(z: &Input<'_>) -> Result<()> {
    let limit = 1.0 + rounding_of(z);
    each_row(z, |i, row| {
        let norm = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        if norm > limit {
            let got = format!("norm {norm:.6} in row {i}");
            return Err(Error::invalid(z.name(), "rows of norm at most 1", got));
        }
        Ok(())
    })
}

/// Fails unless every value is a cosine.
fn check_cosines(s: &Input<'_>) -> Result<()> {
    let limit = 1.0 + rounding_of(s);
    each_row(s, |i, row| match row.iter().position(|&v| f64::from(v).abs() > limit) {
        Some(j) => {
            let got = format!("{} in row {i}, column {j}", row[j]);
            Err(Error::invalid(s.name(), "cosines in [-1, 1]", got))
        }
        None => Ok(()),
    })
}

entry!(
    on context_of(context);
    fn unicon_weights_create(
        context: *mut unicon_context_t,
        options: *const unicon_weights_options_t,
        pairs: *const unicon_pairs_t,
        weights: *mut *mut unicon_weights_t,
    ) |context| {
        check_out("weights", weights)?;
        // SAFETY: NULL or as the header requires.
        let (asked, (zx, zy, positives)) = unsafe { (options_of(options)?, embeddings(context, pairs)?) };
        let (n_x, n_y) = (zx.rows, zy.rows);
        check_unit(&zx)?;
        check_unit(&zy)?;
        let operator: Box<dyn Apply> = on_backend!(context.device(), Precision::of(&[&zx, &zy]), |backend| {
            let source = Source::Embeddings(backend.load(zx.source())?, backend.load(zy.source())?);
            Box::new(Operator::new(backend.clone(), source, &asked, &positives)?)
        });
        let made = Box::new(Handle { context: context.clone(), operator, n_x, n_y });
        // SAFETY: checked above.
        unsafe { weights.write(Box::into_raw(made).cast()) };
        Ok(())
    }
);

entry!(
    on context_of(context);
    fn unicon_weights_create_similarity(
        context: *mut unicon_context_t,
        options: *const unicon_weights_options_t,
        similarity: *const unicon_matrix_t,
        positives: *const unicon_positives_t,
        weights: *mut *mut unicon_weights_t,
    ) |context| {
        check_out("weights", weights)?;
        // SAFETY: NULL or as the header requires.
        let (asked, s) = unsafe { (options_of(options)?, input(context, "similarity", similarity)?) };
        let (n_x, n_y) = (s.rows, s.cols);
        // SAFETY: as above.
        let positives = unsafe { problem::positives(positives, n_x, n_y)? };
        check_cosines(&s)?;
        let operator: Box<dyn Apply> = on_backend!(context.device(), Precision::of(&[&s]), |backend| {
            let source = Source::Dense(backend.load(s.source())?);
            Box::new(Operator::new(backend.clone(), source, &asked, &positives)?)
        });
        let made = Box::new(Handle { context: context.clone(), operator, n_x, n_y });
        // SAFETY: checked above.
        unsafe { weights.write(Box::into_raw(made).cast()) };
        Ok(())
    }
);

/// Frees the operator.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_weights_destroy(weights: *mut unicon_weights_t) {
    if let Some(handle) = NonNull::new(weights.cast::<Handle>()) {
        // SAFETY: what `Box::into_raw` gave, given back once.
        guard::silent((), || drop(unsafe { Box::from_raw(handle.as_ptr()) }));
    }
}
same_signature!(unicon_weights_destroy);

entry!(
    on context_of_weights(weights);
    fn unicon_weights_loss(
        weights: *const unicon_weights_t,
        value: *mut f64,
        rows: *mut f64,
        cols: *mut f64,
    ) |_context| {
        // SAFETY: live weights by the header's contract.
        let w = unsafe { handle_of(weights)? }.operator.weights();
        let outputs = [("value", value, w.value()), ("rows", rows, w.loss_rows), ("cols", cols, w.loss_cols)];
        // SAFETY: NULL or the caller's to write.
        unsafe { put_all(outputs) }
    }
);

/// Writes the outputs that are asked for, once all are checked.
///
/// # Safety
/// Every pointer is NULL or can be written through.
unsafe fn put_all<T, const N: usize>(outputs: [(&str, *mut T, T); N]) -> Result<()> {
    let asked = || outputs.iter().filter(|(_, pointer, _)| !pointer.is_null());
    asked().try_for_each(|(name, pointer, _)| check_out(name, *pointer))?;
    for (_, pointer, value) in outputs {
        if !pointer.is_null() {
            // SAFETY: checked above.
            unsafe { pointer.write(value) };
        }
    }
    Ok(())
}

entry!(
    on context_of_weights(weights);
    fn unicon_weights_unmatched(weights: *const unicon_weights_t, rows: *mut i64, cols: *mut i64) |_context| {
        // SAFETY: live weights by the header's contract.
        let (x, y) = unsafe { handle_of(weights)? }.operator.weights().positives.unmatched();
        let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        // SAFETY: NULL or the caller's to write.
        unsafe { put_all([("rows", rows, size(x)), ("cols", cols, size(y))]) }
    }
);

entry!(
    on context_of_weights(weights);
    fn unicon_weights_dense(weights: *mut unicon_weights_t, s: *const unicon_matrix_t) |context| {
        // SAFETY: as the header requires.
        unsafe {
            let handle = handle_of(weights)?;
            let s = output(context, "s", s, (handle.n_x, handle.n_y), Allowed::Wide)?;
            handle.operator.dense(&s)
        }
    }
);

entry!(
    on context_of_weights(weights);
    fn unicon_weights_apply(
        weights: *mut unicon_weights_t,
        v: *const unicon_matrix_t,
        sv: *const unicon_matrix_t,
    ) |context| {
        // SAFETY: as the header requires.
        unsafe {
            let handle = handle_of(weights)?;
            let v = input(context, "v", v)?;
            expect(&v, "rows", handle.n_y, v.rows)?;
            let out = output(context, "sv", sv, (handle.n_x, v.cols), Allowed::Wide)?;
            out.apart_from(&[&v])?;
            handle.operator.apply(&v, &out)
        }
    }
);

entry!(
    on context_of_weights(weights);
    fn unicon_weights_apply_transpose(
        weights: *mut unicon_weights_t,
        u: *const unicon_matrix_t,
        stu: *const unicon_matrix_t,
    ) |context| {
        // SAFETY: as the header requires.
        unsafe {
            let handle = handle_of(weights)?;
            let u = input(context, "u", u)?;
            expect(&u, "rows", handle.n_x, u.rows)?;
            let out = output(context, "stu", stu, (handle.n_y, u.cols), Allowed::Wide)?;
            out.apart_from(&[&u])?;
            handle.operator.apply_transpose(&u, &out)
        }
    }
);

entry!(
    on context_of_weights(weights);
    fn unicon_weights_cross(
        weights: *mut unicon_weights_t,
        x: *const unicon_matrix_t,
        y: *const unicon_matrix_t,
        c: *const unicon_matrix_t,
    ) |context| {
        // SAFETY: as the header requires.
        unsafe {
            let handle = handle_of(weights)?;
            let (x, y) = (input(context, "x", x)?, input(context, "y", y)?);
            expect(&x, "rows", handle.n_x, x.rows)?;
            expect(&y, "rows", handle.n_y, y.rows)?;
            let out = output(context, "c", c, (x.cols, y.cols), Allowed::Wide)?;
            out.apart_from(&[&x, &y])?;
            handle.operator.cross(&x, &y, &out)
        }
    }
);

entry!(
    on context_of(context);
    fn unicon_contrastive_grad(
        context: *mut unicon_context_t,
        options: *const unicon_weights_options_t,
        pairs: *const unicon_pairs_t,
        value: *mut f64,
        dzx: *const unicon_matrix_t,
        dzy: *const unicon_matrix_t,
    ) |context| {
        // SAFETY: NULL or as the header requires.
        let (asked, (zx, zy, positives)) = unsafe { (options_of(options)?, embeddings(context, pairs)?) };
        let (n_x, n_y, r) = (zx.rows, zy.rows, zx.cols);
        let out = |name, pointer: *const unicon_matrix_t, shape| -> Result<Option<Output<'_>>> {
            if pointer.is_null() {
                return Ok(None);
            }
            // SAFETY: as the header requires.
            let out = unsafe { output(context, name, pointer, shape, Allowed::Any)? };
            out.apart_from(&[&zx, &zy])?;
            Ok(Some(out))
        };
        let (dzx, dzy) = (out("dzx", dzx, (n_x, r))?, out("dzy", dzy, (n_y, r))?);
        if let (Some(dzx), Some(dzy)) = (&dzx, &dzy) {
            dzy.apart_from_output(dzx)?;
        }
        if !value.is_null() {
            check_out("value", value)?;
        }
        check_unit(&zx)?;
        check_unit(&zy)?;
        let loss = on_backend!(context.device(), Precision::of(&[&zx, &zy]), |backend| {
            gradients(backend, (&zx, &zy), &asked, &positives, (dzx.as_ref(), dzy.as_ref()))?
        });
        if !value.is_null() {
            // SAFETY: checked above.
            unsafe { value.write(loss) };
        }
        Ok(())
    }
);

/// The loss; the gradients go to the outputs once both are known.
fn gradients<B: Backend>(
    backend: &B,
    (zx, zy): (&Input<'_>, &Input<'_>),
    (loss, negatives): &(Loss, NegativeSampling),
    positives: &Positives,
    (dzx, dzy): (Option<&Output<'_>>, Option<&Output<'_>>),
) -> Result<f64>
where
    B::Matrix: 'static,
{
    let (zx, zy) = (backend.load(zx.source())?, backend.load(zy.source())?);
    let s = Similarity::Embeddings(&zx, &zy);
    let weights = backend.weights(s, loss, positives, *negatives)?;
    let value = weights.value();
    if !value.is_finite() {
        return Err(Error::Numerical("the loss is not finite".into()));
    }
    if dzx.is_some() || dzy.is_some() {
        let (gx, gy) = backend.gradients(&zx, &zy, &weights)?;
        for (out, g) in [(dzx, &gx), (dzy, &gy)] {
            if let Some(out) = out {
                out.store(backend, g)?;
            }
        }
    }
    Ok(value)
}
