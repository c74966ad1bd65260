//! The solver.

use super::bindings::*;
use super::context::{Context, context_of, on_backend};
use super::matrix::{Input, Precision, check_out, input, unchecked_input, values};
use super::structs::{Versioned, boolean, count, init, read, write};
use super::workspace::{self, Sizes};
use super::{asked, entry, model};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::fit::{
    Batches, Data, Factorization, FitInfo, FitOptions, FitStatus, Init, KernelOptions, Landmarks, host,
};
use crate::io::RowSource;
use crate::model::Model;
use crate::positives::Positives;
use crate::spectral::SvdMethod;
use crate::weights::Negatives;
use std::time::Instant;

/// The crate's defaults.
pub(super) fn default_options(raw: &mut unicon_fit_options) {
    let o = FitOptions::new(0);
    raw.kernel_ridge = KernelOptions::new(Default::default(), Landmarks::Exact).ridge;
    raw.n_iters = i64::try_from(o.n_iters).unwrap_or(i64::MAX);
    (raw.tol, raw.rho, raw.ridge) = (o.tol, o.rho, o.ridge);
    (raw.factorization, raw.power) = (UNICON_FACTORIZATION_SQRT as i32, o.factorization.power());
    (raw.svd, raw.init) = (UNICON_SVD_FULL as i32, UNICON_INIT_ZEROS as i32);
    (raw.scale_inputs, raw.final_loss) = (i32::from(o.scale_inputs), i32::from(o.final_loss));
    (raw.whiten, raw.seed) = (-1.0, o.seed);
}

/// The options that are asked for, without the start. `context` reads the similarity.
///
/// # Safety
/// A struct that came through [`read`] and whose pointers are as the header requires.
pub(super) unsafe fn options(context: &Context, raw: &unicon_fit_options) -> Result<FitOptions> {
    let rank = count("options.r", raw.r, 1)?;
    // SAFETY: NULL or a struct by the header's contract.
    let loss = unsafe { asked::loss(raw.loss)? };
    let factorization = match u32::try_from(raw.factorization) {
        Ok(UNICON_FACTORIZATION_SQRT) => Factorization::Sqrt,
        Ok(UNICON_FACTORIZATION_ORTHONORMAL) => Factorization::Orthonormal,
        Ok(UNICON_FACTORIZATION_POWER) => Factorization::Power(raw.power),
        _ => {
            return Err(Error::invalid(
                "options.factorization",
                "a value of unicon_factorization",
                raw.factorization,
            ));
        }
    };
    let svd = match u32::try_from(raw.svd) {
        Ok(UNICON_SVD_FULL) => SvdMethod::Full,
        Ok(UNICON_SVD_RANDOMIZED) => SvdMethod::randomized(raw.seed),
        _ => return Err(Error::invalid("options.svd", "a value of unicon_svd", raw.svd)),
    };
    let init = match u32::try_from(raw.init) {
        Ok(UNICON_INIT_ZEROS) => Init::Zeros,
        Ok(UNICON_INIT_RANDOM) => Init::Random,
        Ok(UNICON_INIT_SIMILARITY) => {
            // SAFETY: NULL or a matrix by the header's contract.
            Init::Similarity(host(&unsafe { input(context, "options.similarity", raw.similarity)? }.view)?)
        }
        _ => return Err(Error::invalid("options.init", "a value of unicon_init", raw.init)),
    };
    if !raw.similarity.is_null() && !matches!(init, Init::Similarity(_)) {
        return Err(Error::invalid(
            "options.similarity",
            "NULL unless init is UNICON_INIT_SIMILARITY",
            "a matrix",
        ));
    }
    // -1 is the header's "none"; every other negative value is out of range, as NaN is.
    let whiten = if raw.whiten == -1.0 { None } else { Some(raw.whiten) };
    let some = |name, value| Ok::<_, Error>(Some(count(name, value, 0)?).filter(|&n| n > 0));
    let n_batches = some("options.n_batches", raw.n_batches)?;
    let drop_trailing = boolean("options.drop_trailing", raw.drop_trailing)?;
    let batches = some("options.batch_size", raw.batch_size)?.map(|size| Batches {
        size,
        count: n_batches,
        drop_trailing,
    });
    if batches.is_none() && n_batches.is_some() {
        return Err(Error::invalid("options.n_batches", "0 without a batch_size", raw.n_batches));
    }
    let negatives = match some("options.n_negatives", raw.n_negatives)? {
        Some(per_anchor) => Negatives::Sampled { per_anchor, seed: raw.seed },
        None => Negatives::All,
    };
    let out = FitOptions {
        rank,
        loss,
        n_iters: count("options.n_iters", raw.n_iters, 1)?,
        rho: raw.rho,
        factorization,
        ridge: raw.ridge,
        scale_inputs: boolean("options.scale_inputs", raw.scale_inputs)?,
        svd,
        init,
        tol: raw.tol,
        batches,
        whiten,
        // SAFETY: pointers by the header's contract.
        kernel: unsafe { kernel_options(raw)? },
        negatives,
        seed: raw.seed,
        final_loss: boolean("options.final_loss", raw.final_loss)?,
        ..FitOptions::new(rank)
    };
    out.validate()?;
    Ok(out)
}

/// # Safety
/// As [`options`].
unsafe fn kernel_options(raw: &unicon_fit_options) -> Result<Option<KernelOptions>> {
    let m = count("options.n_landmarks", raw.n_landmarks, 0)?;
    if raw.kernel.is_null() {
        if m > 0 || !raw.landmarks.is_null() {
            return Err(Error::invalid("options.n_landmarks", "0 without a kernel", m));
        }
        return Ok(None);
    }
    let landmarks = match (m, raw.landmarks.is_null()) {
        (0, true) => Landmarks::Exact,
        (0, false) => return Err(Error::invalid("options.n_landmarks", "the number of landmarks", 0)),
        (m, true) => Landmarks::Count(m),
        (m, false) => {
            // SAFETY: that many values by the header's contract.
            let rows = unsafe { values("options.landmarks", raw.landmarks, m)? };
            Landmarks::Rows(rows.iter().map(|&i| count("options.landmarks", i, 0)).collect::<Result<_>>()?)
        }
    };
    // SAFETY: a struct by the header's contract.
    let kernel = unsafe { asked::kernel(raw.kernel)? };
    Ok(Some(KernelOptions { kernel, landmarks, ridge: raw.kernel_ridge }))
}

/// The start that a model gives.
///
/// # Safety
/// `warm_start` is NULL or a live model.
pub(super) unsafe fn start(o: &mut FitOptions, warm_start: *const unicon_model_t) -> Result<()> {
    if warm_start.is_null() {
        return Ok(());
    }
    if !matches!(o.init, Init::Zeros) {
        return Err(Error::invalid("options.init", "UNICON_INIT_ZEROS with a warm start", "another"));
    }
    // SAFETY: passed on.
    let model = unsafe { model::model_of(warm_start)? };
    if o.kernel.is_some() || o.whiten.is_some() {
        return Err(Error::Unsupported("warm_start: of a fit with a kernel or whitening".into()));
    }
    match &model.components[..] {
        [only] if only.x.map.is_none() && only.y.map.is_none() => {
            o.init = Init::Given(only.x.matrix.clone(), only.y.matrix.clone());
            Ok(())
        }
        _ => Err(Error::Unsupported("warm_start: expected a linear model, got a kernel model".into())),
    }
}

/// Validation pairs with the positives built.
pub(super) struct HeldOut<'a> {
    pub(super) x: Input<'a>,
    pub(super) y: Input<'a>,
    pub(super) positives: Positives,
}

/// # Safety
/// `pointer` is NULL or a struct by the header's contract.
pub(super) unsafe fn held_out<'a>(
    context: &Context,
    pointer: *const unicon_validation_t,
) -> Result<Option<HeldOut<'a>>> {
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
        Ok(Some(HeldOut { x, y, positives }))
    }
}

/// What a fit reports, checked before it runs.
struct Report {
    raw: unicon_fit_info,
    pointer: *mut unicon_fit_info_t,
}

impl Report {
    /// # Safety
    /// `pointer` is NULL or a struct by the header's contract.
    unsafe fn new(pointer: *mut unicon_fit_info_t) -> Result<Option<Self>> {
        if pointer.is_null() {
            return Ok(None);
        }
        // SAFETY: passed on.
        let raw = unsafe { read(pointer.cast_const())? };
        let history = count("info.history_capacity", raw.history_capacity, 0)?;
        let singular = count("info.singular_capacity", raw.singular_capacity, 0)?;
        for (name, array, capacity) in [
            ("info.loss", raw.loss, history),
            ("info.change", raw.change, history),
            ("info.singular_values", raw.singular_values, singular),
        ] {
            if !array.is_null() {
                super::matrix::check_values(name, array, capacity)?;
            }
        }
        Ok(Some(Self { raw, pointer }))
    }

    /// # Safety
    /// The arrays hold the capacities that the caller gave.
    unsafe fn write(self, info: &FitInfo, outcome: unicon_outcome, workspace: u64) {
        let size = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let seconds = info.seconds;
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
            workspace_bytes: workspace,
            peak_bytes: info.peak_bytes,
            ..self.raw
        };
        for (array, capacity, values) in [
            (self.raw.loss, self.raw.history_capacity, &info.loss),
            (self.raw.change, self.raw.history_capacity, &info.change),
            (self.raw.singular_values, self.raw.singular_capacity, &info.singular_values),
        ] {
            let capacity = usize::try_from(capacity).unwrap_or(0);
            if !array.is_null() {
                // SAFETY: the caller gave `capacity` elements.
                unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), array, values.len().min(capacity)) };
            }
        }
        // SAFETY: `new` read it.
        unsafe { write(self.pointer, &filled) };
    }
}

entry!(
    fn unicon_fit_options_init(options: *mut unicon_fit_options_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(options, struct_size, &unicon_fit_options::defaults()) }
    }
);

entry!(
    fn unicon_fit_options_preset(options: *mut unicon_fit_options_t, preset: i32) {
        // SAFETY: as the header requires.
        let mut raw = unsafe { read(options.cast_const())? };
        let defaults = unicon_fit_options::defaults();
        let unicon_fit_options { n_iters, init, factorization, whiten, drop_trailing, .. } =
            match u32::try_from(preset) {
                Ok(UNICON_PRESET_DEFAULT) => defaults,
                Ok(UNICON_PRESET_PAPER) => unicon_fit_options {
                    n_iters: 5,
                    init: UNICON_INIT_RANDOM as i32,
                    drop_trailing: 1,
                    ..defaults
                },
                _ => return Err(Error::invalid("preset", "a value of unicon_preset", preset)),
            };
        raw = unicon_fit_options { n_iters, init, factorization, whiten, drop_trailing, ..raw };
        // SAFETY: read above.
        unsafe { write(options, &raw) };
        Ok(())
    }
);

entry!(
    fn unicon_fit_info_init(info: *mut unicon_fit_info_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(info, struct_size, &unicon_fit_info::defaults()) }
    }
);

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
        let begin = Instant::now();
        check_out("model", model)?;
        // SAFETY: everything as the header requires.
        let (raw, x, y, held, report) = unsafe {
            let raw = read(options)?;
            let (x, y) = (unchecked_input(context, "x", x)?, unchecked_input(context, "y", y)?);
            (raw, x, y, held_out(context, validation)?, Report::new(info)?)
        };
        // SAFETY: as above.
        let (o, positives) = unsafe {
            let mut o = self::options(context, &raw)?;
            start(&mut o, warm_start)?;
            (o, asked::positives(positives, x.view.rows(), y.view.rows())?)
        };
        context.single_rank()?;
        let precision = Precision::of(&[&x, &y]);
        let sizes = Sizes {
            n_x: x.view.rows(),
            n_y: y.view.rows(),
            d1: x.view.cols(),
            d2: y.view.cols(),
            held_out: held.as_ref().map_or((0, 0), |h| (h.x.view.rows(), h.y.view.rows())),
        };
        let workspace = workspace::of_fit(&o, sizes, precision.size());
        context.watch(raw.progress, raw.progress_user);
        context.cpu().forget_peak();
        let data = Data { x: &x.view, y: &y.view, positives: &positives };
        let held = held.as_ref().map(|h| Data { x: &h.x.view, y: &h.y.view, positives: &h.positives });
        let fitted = on_backend!(context, precision, |backend| crate::fit::fit(backend, data, held, &o));
        match fitted {
            Ok((made, info)) => {
                check_model(&made)?;
                if let Some(report) = report {
                    let outcome = match info.status {
                        // The C options set no time budget.
                        FitStatus::Completed | FitStatus::OutOfTime => UNICON_OUTCOME_COMPLETED,
                        FitStatus::Converged => UNICON_OUTCOME_CONVERGED,
                    };
                    // SAFETY: as the header requires.
                    unsafe { report.write(&info, outcome, workspace) };
                }
                // SAFETY: checked above.
                unsafe { model::give(made, model) };
                Ok(())
            }
            Err(Error::Cancelled) => {
                if let Some(report) = report {
                    let mut info = FitInfo { peak_bytes: context.cpu().memory().1, ..FitInfo::default() };
                    info.seconds.total = begin.elapsed().as_secs_f64();
                    // SAFETY: as the header requires.
                    unsafe { report.write(&info, UNICON_OUTCOME_CANCELLED, workspace) };
                }
                Err(Error::Cancelled)
            }
            Err(error) => Err(error),
        }
    }
);

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
    fn unicon_fit_workspace(
        context: *mut unicon_context_t,
        options: *const unicon_fit_options_t,
        n_x: i64,
        n_y: i64,
        d1: i64,
        d2: i64,
        dtype: i32,
        bytes: *mut u64,
    ) |context| {
        check_out("bytes", bytes)?;
        // SAFETY: as the header requires.
        let o = unsafe { self::options(context, &read(options)?)? };
        let sizes = Sizes {
            n_x: count("n_x", n_x, 1)?,
            n_y: count("n_y", n_y, 1)?,
            d1: count("d1", d1, 1)?,
            d2: count("d2", d2, 1)?,
            held_out: (0, 0),
        };
        let answer = workspace::of_fit(&o, sizes, Precision::of_dtype("dtype", dtype)?.size());
        // SAFETY: checked above.
        unsafe { bytes.write(answer) };
        Ok(())
    }
);

entry!(
    on context_of(context);
    fn unicon_weights_workspace(
        context: *mut unicon_context_t,
        n_x: i64,
        n_y: i64,
        r: i64,
        dtype: i32,
        bytes: *mut u64,
    ) |_context| {
        check_out("bytes", bytes)?;
        let (n_x, n_y, r) = (count("n_x", n_x, 1)?, count("n_y", n_y, 1)?, count("r", r, 1)?);
        let answer = workspace::of_weights(n_x, n_y, r, Precision::of_dtype("dtype", dtype)?.size());
        // SAFETY: checked above.
        unsafe { bytes.write(answer) };
        Ok(())
    }
);
