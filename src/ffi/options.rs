//! The options of fits, from the header's structs into the crate's.

use super::bindings::*;
use super::context::Context;
use super::matrix::{input, values};
use super::structs::{Versioned, boolean, count, init, path_of, read, read_or_default, reserved, write};
use super::{entry, model, problem};
use crate::error::{Error, Result};
use crate::fit::{
    BatchScore, Batches, BestOptions, Center, DampingOptions, Dim, Factorization, FitOptions, Init,
    KernelOptions, Landmarks, MinibatchOptions, Preset, RefineOptions, host,
};
use crate::similarity::NegativeSampling;
use crate::spectral::SvdMethod;
use std::path::PathBuf;
use std::time::Duration;

/// The crate's defaults.
pub(super) fn default_fit(raw: &mut unicon_fit_options) {
    let o = FitOptions::new(0);
    raw.kernel_ridge = KernelOptions::new(Default::default(), Landmarks::Exact).ridge;
    raw.svd = UNICON_SVD_FULL as i32;
    raw.final_loss = i32::from(o.final_loss);
    raw.seed = o.seed;
    (raw.growth, raw.exact_last) = (o.growth, i32::from(o.exact_last));
    schedule(raw, Preset::Global);
}

/// The fields that a preset is about, beside the dimension, the loss and the kernel.
fn schedule(raw: &mut unicon_fit_options, preset: Preset) {
    let o = preset.options(0);
    (raw.tol, raw.rho, raw.ridge) = (o.tol, o.rho, o.ridge);
    raw.factorization = match o.factorization {
        Factorization::Orthonormal => UNICON_FACTORIZATION_ORTHONORMAL as i32,
        Factorization::Power(_) => UNICON_FACTORIZATION_POWER as i32,
        Factorization::Sqrt => UNICON_FACTORIZATION_SQRT as i32,
    };
    raw.power = o.factorization.power();
    raw.scale_inputs = i32::from(o.scale_inputs);
    raw.n_iters = updates(o.n_iters);
    let exact = o.kernel.is_some_and(|k| k.landmarks == Landmarks::Exact);
    raw.n_landmarks = if exact { UNICON_LANDMARKS_ALL.into() } else { 0 };
    raw.init = match o.init {
        Init::Random => UNICON_INIT_RANDOM as i32,
        _ => UNICON_INIT_ZEROS as i32,
    };
    raw.center = match o.center {
        Center::Auto => UNICON_CENTER_AUTO as i32,
        Center::On => UNICON_CENTER_ON as i32,
        Center::Off => UNICON_CENTER_OFF as i32,
    };
    raw.whiten = o.whiten.unwrap_or(UNICON_WHITEN_NONE);
    raw.batch_size = o.batches.map_or(0, |b| size(b.size));
    raw.n_batches = o.batches.and_then(|b| b.count).map_or(0, size);
    raw.drop_trailing = i32::from(o.batches.is_some_and(|b| b.drop_trailing));
    raw.batch_score = match o.batches.map_or_else(BatchScore::default, |b| b.score) {
        BatchScore::Accuracy => UNICON_BATCH_SCORE_ACCURACY as i32,
        BatchScore::Equal => UNICON_BATCH_SCORE_EQUAL as i32,
        BatchScore::Recall => UNICON_BATCH_SCORE_RECALL as i32,
        BatchScore::ReciprocalRank => UNICON_BATCH_SCORE_RECIPROCAL_RANK as i32,
        BatchScore::Loss => UNICON_BATCH_SCORE_LOSS as i32,
    };
    raw.cos_clamp = preset.cos_clamp();
}

/// The crate's defaults.
pub(super) fn default_damping(raw: &mut unicon_damping) {
    let o = DampingOptions::default();
    (raw.first, raw.halvings, raw.tol) = (o.first, size(o.halvings), o.tol);
}

/// The crate's defaults.
pub(super) fn default_refine(raw: &mut unicon_refine) {
    let o = RefineOptions::default();
    (raw.max_steps, raw.memory, raw.patience) = (size(o.max_steps), size(o.memory), size(o.patience));
    (raw.tol, raw.first_step) = (o.tol, o.first_step);
}

/// The crate's defaults.
pub(super) fn default_minibatch(raw: &mut unicon_minibatch) {
    let o = MinibatchOptions::default();
    (raw.batch, raw.epochs, raw.min_steps) = (size(o.batch), size(o.epochs), size(o.min_steps));
    (raw.rate, raw.momentum, raw.patience) = (o.rate, o.momentum, size(o.patience));
}

/// The crate's defaults.
pub(super) fn default_best(raw: &mut unicon_best_options) {
    let o = BestOptions::new(Dim::Fixed(0));
    raw.energy = Dim::ENERGY;
    raw.kernel_ridge = KernelOptions::new(Default::default(), Landmarks::Exact).ridge;
    raw.n_negatives = size(o.sample.unwrap_or(0));
    (raw.tau_auto, raw.exact) = (i32::from(o.tau_auto), i32::from(o.exact));
    (raw.final_loss, raw.seed) = (i32::from(o.final_loss), o.seed);
}

/// The preset of the header's number; the paper's depends on whether there is a kernel.
fn preset_of(preset: i32, kernel: bool) -> Result<Preset> {
    Ok(match u32::try_from(preset) {
        Ok(UNICON_PRESET_DEFAULT) => Preset::Global,
        Ok(UNICON_PRESET_PAPER) => Preset::paper(kernel),
        Ok(UNICON_PRESET_PAPER_LINEAR) => Preset::PaperLinear,
        Ok(UNICON_PRESET_PAPER_KERNEL) => Preset::PaperKernel,
        Ok(UNICON_PRESET_PAPER_FLICKR) => Preset::PaperFlickr,
        Ok(UNICON_PRESET_PAPER_COCO_CLIP) => Preset::PaperCocoClip,
        Ok(UNICON_PRESET_PAPER_COCO_RESNET) => Preset::PaperCocoResnet,
        _ => return Err(Error::invalid("preset", "a value of unicon_preset", preset)),
    })
}

fn batch_score(score: i32) -> Result<BatchScore> {
    Ok(match u32::try_from(score) {
        Ok(UNICON_BATCH_SCORE_ACCURACY) => BatchScore::Accuracy,
        Ok(UNICON_BATCH_SCORE_EQUAL) => BatchScore::Equal,
        Ok(UNICON_BATCH_SCORE_RECALL) => BatchScore::Recall,
        Ok(UNICON_BATCH_SCORE_RECIPROCAL_RANK) => BatchScore::ReciprocalRank,
        Ok(UNICON_BATCH_SCORE_LOSS) => BatchScore::Loss,
        _ => return Err(Error::invalid("options.batch_score", "a value of unicon_batch_score", score)),
    })
}

/// A number of updates, of which -1 says that the others decide.
fn updates(n: usize) -> i64 {
    if n == FitOptions::AUTO { -1 } else { size(n) }
}

fn size(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A count of which 0 means none.
fn some(name: &str, value: i64) -> Result<Option<usize>> {
    Ok(Some(count(name, value, 0)?).filter(|&n| n > 0))
}

/// Seconds of which 0 means no limit.
fn budget(value: f64) -> Result<Option<Duration>> {
    let seconds = Duration::try_from_secs_f64(value)
        .map_err(|_| Error::invalid("options.budget", "seconds >= 0", value))?;
    Ok(Some(seconds).filter(|s| !s.is_zero()))
}

/// # Safety
/// `path` is NULL or a NUL-terminated string.
unsafe fn checkpoint(path: *const std::ffi::c_char) -> Result<Option<PathBuf>> {
    if path.is_null() {
        return Ok(None);
    }
    // SAFETY: passed on.
    Ok(Some(unsafe { path_of("options.checkpoint", path)? }.into()))
}

/// An array of which NULL with length 0 means none.
///
/// # Safety
/// `pointer` is NULL or holds `len` values.
pub(super) unsafe fn list<'a, T>(name: &str, pointer: *const T, len: i64) -> Result<Option<&'a [T]>> {
    let len = count(&format!("{name}'s length"), len, 0)?;
    match (pointer.is_null(), len) {
        (true, 0) => Ok(None),
        (false, 0) => Err(Error::invalid(name, "a length of at least 1, or NULL", 0)),
        // SAFETY: passed on.
        (_, len) => unsafe { values(name, pointer, len).map(Some) },
    }
}

/// Damping; NULL is none.
///
/// # Safety
/// `pointer` is NULL or a caller's struct.
unsafe fn damping(pointer: *const unicon_damping_t) -> Result<Option<DampingOptions>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: passed on.
    let unicon_damping { first, halvings, tol, .. } = unsafe { read(pointer)? };
    Ok(Some(DampingOptions { first, halvings: count("damping.halvings", halvings, 0)?, tol }))
}

/// Refinement; NULL gives the defaults. Sampled stages draw with `seed` and the numbers after it.
///
/// # Safety
/// `pointer` is NULL or a caller's struct whose array is as long as it says.
unsafe fn refine(pointer: *const unicon_refine_t, seed: u64) -> Result<RefineOptions> {
    // SAFETY: passed on.
    let (raw, stages) = unsafe {
        let raw = read_or_default(pointer)?;
        (raw, list("refine.stages", raw.stages, raw.n_stages)?)
    };
    let stage = |(k, &n): (usize, &i64)| {
        Ok(match some("refine.stages", n)? {
            Some(per_anchor) => NegativeSampling::Sampled { per_anchor, seed: seed.wrapping_add(k as u64) },
            None => NegativeSampling::All,
        })
    };
    let stages = match stages {
        Some(stages) => stages.iter().enumerate().map(stage).collect::<Result<_>>()?,
        None => vec![NegativeSampling::All],
    };
    Ok(RefineOptions {
        max_steps: count("refine.max_steps", raw.max_steps, 0)?,
        tol: raw.tol,
        memory: count("refine.memory", raw.memory, 1)?,
        patience: count("refine.patience", raw.patience, 1)?,
        first_step: raw.first_step,
        stages,
    })
}

/// Mini-batches; NULL gives the defaults, a batch of 0 none.
///
/// # Safety
/// `pointer` is NULL or a caller's struct.
unsafe fn minibatch(pointer: *const unicon_minibatch_t) -> Result<Option<MinibatchOptions>> {
    // SAFETY: passed on.
    let raw = unsafe { read_or_default(pointer)? };
    let Some(batch) = some("minibatch.batch", raw.batch)? else { return Ok(None) };
    Ok(Some(MinibatchOptions {
        batch,
        epochs: count("minibatch.epochs", raw.epochs, 1)?,
        min_steps: count("minibatch.min_steps", raw.min_steps, 0)?,
        max_steps: some("minibatch.max_steps", raw.max_steps)?.unwrap_or(usize::MAX),
        rate: raw.rate,
        momentum: raw.momentum,
        patience: count("minibatch.patience", raw.patience, 0)?,
    }))
}

/// The kernel's part of both structs.
struct RawKernel {
    kernel: *const unicon_kernel_t,
    landmarks: *const i64,
    n_landmarks: i64,
    ridge: f64,
}

/// # Safety
/// The kernel is NULL or a caller's struct; the landmarks are NULL or as many as said.
unsafe fn kernel_options(raw: RawKernel, usual: Landmarks) -> Result<Option<KernelOptions>> {
    let all = raw.n_landmarks == i64::from(UNICON_LANDMARKS_ALL);
    let m = if all { 0 } else { count("options.n_landmarks", raw.n_landmarks, 0)? };
    if raw.kernel.is_null() && all {
        return Err(Error::invalid("options.n_landmarks", "0 without a kernel", raw.n_landmarks));
    }
    if raw.kernel.is_null() {
        if m > 0 || !raw.landmarks.is_null() {
            return Err(Error::invalid("options.n_landmarks", "0 without a kernel", m));
        }
        return Ok(None);
    }
    let landmarks = match (m, raw.landmarks.is_null()) {
        (0, true) if all => Landmarks::Exact,
        (0, true) => usual,
        (0, false) => return Err(Error::invalid("options.n_landmarks", "the number of landmarks", 0)),
        (m, true) => Landmarks::Count(m),
        (m, false) => {
            // SAFETY: that many values by the header's contract.
            let rows = unsafe { values("options.landmarks", raw.landmarks, m)? };
            Landmarks::Rows(rows.iter().map(|&i| count("options.landmarks", i, 0)).collect::<Result<_>>()?)
        }
    };
    // SAFETY: structs by the header's contract.
    let kernel = unsafe {
        match problem::is_precomputed(raw.kernel)? {
            true => KernelOptions::of_values(landmarks),
            false => KernelOptions::new(problem::kernel(raw.kernel)?, landmarks),
        }
    };
    Ok(Some(KernelOptions { ridge: raw.ridge, ..kernel }))
}

fn factorization(raw: &unicon_fit_options) -> Result<Factorization> {
    match u32::try_from(raw.factorization) {
        Ok(UNICON_FACTORIZATION_SQRT) => Ok(Factorization::Sqrt),
        Ok(UNICON_FACTORIZATION_ORTHONORMAL) => Ok(Factorization::Orthonormal),
        Ok(UNICON_FACTORIZATION_POWER) => Ok(Factorization::Power(raw.power)),
        _ => {
            Err(Error::invalid("options.factorization", "a value of unicon_factorization", raw.factorization))
        }
    }
}

/// Where the encoders start, without a warm start.
///
/// # Safety
/// The similarity is NULL or a matrix by the header's contract.
unsafe fn first(context: &Context, raw: &unicon_fit_options) -> Result<Init> {
    let given = u32::try_from(raw.init) == Ok(UNICON_INIT_SIMILARITY);
    if !raw.similarity.is_null() && !given {
        let expected = "NULL unless init is UNICON_INIT_SIMILARITY";
        return Err(Error::invalid("options.similarity", expected, "a matrix"));
    }
    match u32::try_from(raw.init) {
        Ok(UNICON_INIT_ZEROS) => Ok(Init::Zeros),
        Ok(UNICON_INIT_RANDOM) => Ok(Init::Random),
        Ok(UNICON_INIT_GAUSSIAN) => Ok(Init::Gaussian),
        Ok(UNICON_INIT_SIMILARITY) => {
            // SAFETY: passed on.
            let s = unsafe { input(context, "options.similarity", raw.similarity)? };
            Ok(Init::Similarity(host(s.source())?))
        }
        _ => Err(Error::invalid("options.init", "a value of unicon_init", raw.init)),
    }
}

/// Of a ::unicon_center.
fn center(value: i32) -> Result<Center> {
    match u32::try_from(value) {
        Ok(UNICON_CENTER_AUTO) => Ok(Center::Auto),
        Ok(UNICON_CENTER_ON) => Ok(Center::On),
        Ok(UNICON_CENTER_OFF) => Ok(Center::Off),
        _ => Err(Error::invalid("options.center", "a value of unicon_center", value)),
    }
}

/// Validates with a model in place of the start, where one is given.
///
/// # Safety
/// A struct that came through [`read`] and whose pointers are as the header requires.
pub(super) unsafe fn fit(context: &Context, raw: &unicon_fit_options) -> Result<FitOptions> {
    reserved("options", raw.reserved)?;
    let dim = count("options.r", raw.r, 1)?;
    let svd = match u32::try_from(raw.svd) {
        Ok(UNICON_SVD_FULL) => SvdMethod::Full,
        Ok(UNICON_SVD_RANDOMIZED) => SvdMethod::randomized(raw.seed),
        _ => return Err(Error::invalid("options.svd", "a value of unicon_svd", raw.svd)),
    };
    let n_batches = some("options.n_batches", raw.n_batches)?;
    let drop_trailing = boolean("options.drop_trailing", raw.drop_trailing)?;
    let batches = some("options.batch_size", raw.batch_size)?;
    let score = batch_score(raw.batch_score)?;
    if batches.is_none() && n_batches.is_some() {
        return Err(Error::invalid("options.n_batches", "0 without a batch_size", raw.n_batches));
    }
    let negatives = match some("options.n_negatives", raw.n_negatives)? {
        Some(per_anchor) => NegativeSampling::Sampled { per_anchor, seed: raw.seed },
        None => NegativeSampling::All,
    };
    let unicon_fit_options { kernel, landmarks, n_landmarks, kernel_ridge: ridge, cos_clamp, .. } = *raw;
    if !(0.0..1.0).contains(&cos_clamp) {
        return Err(Error::invalid("options.cos_clamp", "at least 0 and below 1", cos_clamp));
    }
    // Each batch solves its own kernel exactly.
    let usual = if batches.is_some() { Landmarks::Exact } else { Landmarks::Auto };
    // SAFETY: pointers by the header's contract.
    let out = unsafe {
        FitOptions {
            dim,
            loss: problem::loss(raw.loss)?,
            n_iters: match raw.n_iters {
                n if n == i64::from(UNICON_UPDATES_AUTO) => FitOptions::AUTO,
                n => count("options.n_iters", n, 0)?,
            },
            rho: raw.rho,
            factorization: factorization(raw)?,
            ridge: raw.ridge,
            scale_inputs: boolean("options.scale_inputs", raw.scale_inputs)?,
            svd,
            init: start(first(context, raw)?, raw.warm_start)?,
            tol: raw.tol,
            batches: batches.map(|size| Batches { size, count: n_batches, drop_trailing, score }),
            // Every other negative value is out of range, as NaN is.
            whiten: Some(raw.whiten).filter(|&w| w != UNICON_WHITEN_NONE),
            center: center(raw.center)?,
            kernel: kernel_options(RawKernel { kernel, landmarks, n_landmarks, ridge }, usual)?
                .map(|k| k.with_clamp(cos_clamp)),
            negatives,
            seed: raw.seed,
            damping: damping(raw.damping)?,
            refine: if raw.refine.is_null() { None } else { Some(refine(raw.refine, raw.seed)?) },
            checkpoint: checkpoint(raw.checkpoint)?,
            budget: budget(raw.budget)?,
            final_loss: boolean("options.final_loss", raw.final_loss)?,
            growth: raw.growth,
            exact_last: boolean("options.exact_last", raw.exact_last)?,
            compress: None,
        }
    };
    out.validate()?;
    Ok(out)
}

/// The start that a model gives, where there is one.
///
/// # Safety
/// `warm_start` is NULL or a live model.
unsafe fn start(init: Init, warm_start: *const unicon_model_t) -> Result<Init> {
    if warm_start.is_null() {
        return Ok(init);
    }
    if !matches!(init, Init::Zeros) {
        return Err(Error::invalid("options.init", "UNICON_INIT_ZEROS with a warm start", "another"));
    }
    // SAFETY: passed on.
    Init::from_model(unsafe { model::model_of(warm_start)? }).map_err(|_| {
        Error::Unsupported("options.warm_start: expected a linear model, got a kernel model".into())
    })
}

/// # Safety
/// As [`fit`].
pub(super) unsafe fn best(raw: &unicon_best_options) -> Result<BestOptions> {
    let unicon_best_options { kernel, landmarks, n_landmarks, kernel_ridge: ridge, .. } = *raw;
    let dim = match u32::try_from(raw.dimension) {
        Ok(UNICON_DIMENSION_FIXED) => Dim::Fixed(count("options.r", raw.r, 1)?),
        Ok(_) if raw.r != 0 => {
            return Err(Error::invalid("options.r", "0 unless dimension is UNICON_DIMENSION_FIXED", raw.r));
        }
        Ok(UNICON_DIMENSION_ENERGY) => Dim::Energy(raw.energy),
        Ok(UNICON_DIMENSION_AUTO) => Dim::Auto,
        _ => return Err(Error::invalid("options.dimension", "a value of unicon_dimension", raw.dimension)),
    };
    reserved("options", raw.reserved)?;
    let defaults = BestOptions::new(dim);
    // SAFETY: pointers by the header's contract.
    unsafe {
        // Its stages are made from n_negatives and exact.
        if !raw.refine.is_null() && !read(raw.refine)?.stages.is_null() {
            return Err(Error::invalid("refine.stages", "NULL in unicon_fit_best()", "an array"));
        }
        let given = |name, pointer, len, default| {
            Ok::<_, Error>(list(name, pointer, len)?.map_or(default, <[f64]>::to_vec))
        };
        let out = BestOptions {
            dim,
            loss: problem::loss(raw.loss)?,
            tau_auto: boolean("options.tau_auto", raw.tau_auto)?,
            whiten: given("options.whiten", raw.whiten, raw.n_whiten, defaults.whiten)?,
            powers: given("options.powers", raw.powers, raw.n_powers, defaults.powers)?,
            center: center(raw.center)?,
            refine: refine(raw.refine, raw.seed)?,
            kernel: kernel_options(RawKernel { kernel, landmarks, n_landmarks, ridge }, Landmarks::Auto)?,
            widths: given("options.widths", raw.widths, raw.n_widths, defaults.widths)?,
            minibatch: minibatch(raw.minibatch)?,
            sample: some("options.n_negatives", raw.n_negatives)?,
            exact: boolean("options.exact", raw.exact)?,
            start: match raw.warm_start.is_null() {
                true => None,
                false => Some(model::model_of(raw.warm_start)?.clone()),
            },
            checkpoint: checkpoint(raw.checkpoint)?,
            budget: budget(raw.budget)?,
            seed: raw.seed,
            final_loss: boolean("options.final_loss", raw.final_loss)?,
        };
        out.validate()?;
        Ok(out)
    }
}

entry!(
    fn unicon_damping_init(damping: *mut unicon_damping_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(damping, struct_size, &unicon_damping::defaults()) }
    }
);

entry!(
    fn unicon_refine_init(refine: *mut unicon_refine_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(refine, struct_size, &unicon_refine::defaults()) }
    }
);

entry!(
    fn unicon_minibatch_init(minibatch: *mut unicon_minibatch_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(minibatch, struct_size, &unicon_minibatch::defaults()) }
    }
);

entry!(
    fn unicon_best_options_init(options: *mut unicon_best_options_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(options, struct_size, &unicon_best_options::defaults()) }
    }
);

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
        let preset = preset_of(preset, !raw.kernel.is_null())?;
        schedule(&mut raw, preset);
        if let (0, Some(dim)) = (raw.r, preset.dim()) {
            raw.r = size(dim);
        }
        if raw.loss.is_null() && preset != Preset::Global {
            raw.loss = problem::lasting_loss(preset);
        }
        if raw.kernel.is_null() && preset.options(0).kernel.is_some() {
            raw.kernel = problem::lasting_kernel(preset);
        }
        // SAFETY: read above.
        unsafe { write(options, &raw) };
        Ok(())
    }
);
