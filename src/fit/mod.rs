//! Fitting encoders: the linear solver (Algorithm 1) and the kernel solver (Theorem 9, Algorithm 2), which is the
//! linear solver on kernel features.

mod best;
mod checkpoint;
mod condition;
mod damping;
pub(crate) mod features;
mod holdout;
mod info;
mod kernel;
mod linear;
mod metric;
mod minibatch;
mod moments;
mod monitor;
mod notes;
mod objective;
mod options;
mod partial;
mod refine;
mod sampling;
#[cfg(feature = "cli")]
mod sweep;
#[cfg(test)]
mod tests;
mod thin;
mod validation;
mod whole;

pub use best::{BestOptions, Dim, WIDTHS, fit_best, fit_best_watched};
#[cfg(feature = "cli")]
pub(crate) use condition::in_range;
pub use condition::{Center, Prepared};
pub(crate) use condition::{Sides, Wanted, prepare};
pub(crate) use features::{download, host, upload};
pub use holdout::Apart;
#[cfg(feature = "cli")]
pub(crate) use holdout::{Together, hold_out};
pub use info::{Chosen, FitInfo, FitStatus, Seconds, TracePoint};
pub use monitor::{Iterate, Offsets, Watch};
pub use options::{
    BatchScore, Batches, DampingOptions, Factorization, FitOptions, Init, KernelOptions, Landmarks,
    MinibatchOptions, Preset, RefineOptions,
};
pub use partial::{Accumulate, PartialFit};
pub use sampling::{SampledCross, sampled_cross};
#[cfg(feature = "cli")]
pub(crate) use sweep::{Step, Sweep, Whitened};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::io::{Duplicates, RowSource};
use crate::model::{Component, Model};
use crate::positives::Positives;
use checkpoint::Checkpoint;
use features::Mapped;
use linear::{Encoders, Problem};
use monitor::{Clock, Monitor};
use objective::Alignment;
use std::time::Instant;
use validation::Validation;

/// Paired data: rows are samples.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    /// `n_x x d1`.
    pub x: &'a dyn RowSource,
    /// `n_y x d2`.
    pub y: &'a dyn RowSource,
    /// Which rows match.
    pub positives: &'a Positives,
}

impl Data<'_> {
    fn check(&self, name: &str) -> Result<()> {
        for (side, source) in [("x", self.x), ("y", self.y)] {
            if source.rows() == 0 || source.cols() == 0 {
                let got = format!("{} x {}", source.rows(), source.cols());
                return Err(Error::invalid(format!("{name}{side}"), "at least one row and one column", got));
            }
        }
        if self.positives.is_diagonal() && self.x.rows() != self.y.rows() {
            let expected = format!("as many rows as {name}x has, {}", self.x.rows());
            return Err(Error::invalid(format!("{name}y"), expected, self.y.rows()));
        }
        self.positives.check_shape(self.x.rows(), self.y.rows())
    }
}

/// Fits encoders to `data`; `validation` rows weigh mini-batches.
///
/// # Errors
/// [`Error::InvalidArgument`] for options or shapes out of range and for NaN or infinite features (the row is named);
/// [`Error::Numerical`] where a loss or an encoder would not be finite; those of the backend, and [`Error::Cancelled`].
pub fn fit<B: Backend>(
    backend: &B,
    data: Data<'_>,
    validation: Option<Data<'_>>,
    options: &FitOptions,
) -> Result<(Model, FitInfo)> {
    let begin = Instant::now();
    check_fit(data, validation, options)?;
    backend.check_loss(&options.loss)?;
    let kernel = options.kernel.as_ref().map(|k| k.kernel);
    let (mut info, sides, _) = screened(
        backend,
        data,
        validation,
        &Wanted::new(options.center, options.kernel.as_ref(), &options.init),
    )?;
    let in_range = (sides.of(data), validation.map(|v| sides.of(v)));
    let (raw, data, validation) = (data, in_range.0.data(), in_range.1.as_ref().map(|v| v.data()));
    let mut monitor = Monitor::new(backend, Clock::new(begin, options.budget), &mut info, None);
    let components = match (&options.kernel, options.batches) {
        (Some(kernel), Some(batches)) => {
            let parts = (options, kernel, batches);
            kernel::fit_batches(backend, (data, validation, &sides), parts, &mut monitor)?
        }
        _ => vec![fit_one(backend, (data, validation, &sides), options, &mut monitor)?],
    };
    let components = components.into_iter().map(|c| sides.finish(c, kernel)).collect();
    let mut model = Model::new(components, options);
    if let Some(columns) = options.compress {
        check_result(&model, monitor.info)?;
        // Solutions of weight 0, and those that there was no time for, are not there.
        let columns = columns.min(model.embedding_dim());
        let begin = Instant::now();
        let (compressed, told) = model.compressed(backend, raw.x, raw.y, columns)?;
        model = compressed;
        monitor.info.seconds.spectral += begin.elapsed().as_secs_f64();
        monitor.info.compressed = Some(told);
        // It is the loss of unit rows, which the returned encoders do not give.
        monitor.info.final_loss = None;
    }
    monitor.close(backend);
    check_result(&model, &info)?;
    info.record(&mut model);
    Ok((model, info))
}

/// Checks options, shapes, and what the options ask of the data.
fn check_fit(data: Data<'_>, validation: Option<Data<'_>>, options: &FitOptions) -> Result<()> {
    options.validate()?;
    check_data(data, validation)?;
    if options.kernel.is_none() {
        let bound = data.x.cols().min(data.y.cols());
        if options.dim > bound {
            return Err(Error::invalid("rank", format!("at most min(d1, d2) = {bound}"), options.dim));
        }
    }
    let values = options.kernel.as_ref().is_some_and(|k| k.precomputed);
    let uneven = [("x", data.x), ("y", data.y)].into_iter().find(|(_, s)| values && s.rows() != s.cols());
    if let Some((side, source)) = uneven {
        let expected = format!("a Gram matrix of the rows of {side}, {} columns", source.rows());
        return Err(Error::invalid(source.name(), expected, source.cols()));
    }
    let fused = options.batches.filter(|_| options.kernel.is_some());
    // Mini-batches larger than the data are refused below.
    let batches = fused.map_or(1, |b| (data.x.rows() / b.size).min(b.count.unwrap_or(usize::MAX)).max(1));
    let width = options.dim.saturating_mul(batches);
    if let Some(columns) = options.compress.filter(|&c| c > width) {
        let expected = format!("at most the {width} columns of a model of rank {} and", options.dim);
        let expected = match fused {
            Some(_) => format!("{expected} {batches} mini-batches"),
            None => format!("at most the rank, {}, of a model that is not fused", options.dim),
        };
        return Err(Error::invalid("compress", expected, columns));
    }
    if let Some(batches) = options.batches {
        if data.x.rows() != data.y.rows() {
            return Err(Error::Unsupported("mini-batches of sides with different numbers of rows".into()));
        }
        if batches.size > data.x.rows() {
            let expected = format!("at most the number of rows, {}", data.x.rows());
            return Err(Error::invalid("batch_size", expected, batches.size));
        }
    }
    Ok(())
}

/// A model or a loss that is not finite is a failure, not a result.
fn check_result(model: &Model, info: &FitInfo) -> Result<()> {
    let fails = |what: &str| {
        let advice = "are tau, nu, eps, rho and the start of ordinary size?";
        Err(Error::Numerical(format!("{what} not finite: {advice}")))
    };
    if model.components.is_empty() {
        return fails("no batch has a solution whose score on the validation rows is");
    }
    for c in &model.components {
        for (name, e) in [("x", &c.x), ("y", &c.y)] {
            if !e.matrix.norm_max().is_finite() {
                return fails(&format!("the encoder of {name} is"));
            }
            // Chosen widths are in the units of the features, which may be too large or too small for their squares.
            if let Some(Err(why)) = e.map.as_ref().map(|m| m.kernel.validate()) {
                let text = format!("the kernel of {name} cannot be kept ({why}): rescale the features");
                return Err(Error::Numerical(text));
            }
        }
    }
    let traced = info.trace.iter().map(|t| t.loss);
    if info.loss.iter().copied().chain(info.final_loss).chain(traced).any(|l| !l.is_finite()) {
        return fails("the loss is");
    }
    if info.singular_values.iter().any(|s| !s.is_finite()) {
        return fails("the singular values of C are");
    }
    Ok(())
}

/// The information of a fit that begins: what is unmatched, zero rows, what brings the features into range, and which rows
/// of each side are equal (none where rows do not pass through the host). All features are finite.
fn screened<B: Backend>(
    backend: &B,
    data: Data<'_>,
    validation: Option<Data<'_>>,
    wanted: &Wanted<'_>,
) -> Result<(FitInfo, Sides, [Option<Duplicates>; 2])> {
    let begin = Instant::now();
    let mut info = FitInfo { unmatched: data.positives.unmatched(), ..FitInfo::default() };
    let (x, y) = (backend.screen_duplicates(data.x)?, backend.screen_duplicates(data.y)?);
    if let Some(v) = validation {
        backend.survey(v.x)?;
        backend.survey(v.y)?;
    }
    let sides = prepare(backend, data, (&x.0, &y.0), wanted, &mut info)?;
    let duplicates = [x.1, y.1];
    let [x, y] = duplicates.each_ref().map(|d| d.as_ref().map(Duplicates::distinct));
    info.distinct = (x, y);
    info.seconds.load += begin.elapsed().as_secs_f64();
    Ok((info, sides, duplicates))
}

/// Checks shapes of training and validation data.
fn check_data(data: Data<'_>, validation: Option<Data<'_>>) -> Result<()> {
    data.check("")?;
    if let Some(v) = validation {
        v.check("validation ")?;
        for (name, a, b) in [("validation x", v.x, data.x), ("validation y", v.y, data.y)] {
            if a.cols() != b.cols() {
                return Err(Error::invalid(name, format!("{} columns", b.cols()), a.cols()));
            }
        }
    }
    Ok(())
}

/// One pair of encoders over all the data.
fn fit_one<B: Backend>(
    backend: &B,
    (data, validation, sides): (Data<'_>, Option<Data<'_>>, &Sides),
    options: &FitOptions,
    monitor: &mut Monitor<'_>,
) -> Result<Component> {
    let x = map_side(backend, data.x, sides.x.exponent, options, monitor.info)?;
    let y = map_side(backend, data.y, sides.y.exponent, options, monitor.info)?;
    let p = x.width(backend).min(y.width(backend));
    if options.dim > p {
        return Err(Error::invalid("rank", format!("at most the number of features, {p}"), options.dim));
    }
    // Validation rows weigh mini-batches and end a refinement.
    let used = options.batches.is_some() || options.refine.is_some();
    let mapped = match validation.filter(|_| used) {
        Some(v) => {
            let map = |source: &dyn RowSource, side: &Mapped<B::Matrix>| {
                let raw = backend.load(source)?;
                let mapped = side.map.apply(backend, &raw)?;
                Ok::<_, Error>(mapped.unwrap_or(raw))
            };
            Some((map(v.x, &x)?, map(v.y, &y)?, v.positives))
        }
        None => None,
    };
    let validation = mapped.as_ref().map(|(x, y, p)| (x, y, *p));
    let (positives, negatives) = (data.positives, options.negatives);
    let problem = Problem { backend, x: &x, y: &y, positives, validation, options, negatives };
    let mut encoders = match &options.damping {
        None => problem.solve(monitor)?,
        Some(damping) => {
            let plain = FitOptions { n_iters: 1, ..options.clone() };
            let start = Problem { options: &plain, ..problem }.solve(monitor)?;
            problem.damped(&start, damping, monitor)?
        }
    };
    if let Some(refinement) = &options.refine
        && monitor.goes_on(0.0)?
    {
        monitor.info.final_loss = None;
        let alignment = Alignment {
            backend,
            x: x.embed(),
            y: y.embed(),
            positives,
            loss: options.loss.clone(),
            negatives,
            maps: None,
            dim: options.dim,
            seconds: Seconds::default(),
        };
        let validation =
            validation.map(|(x, y, positives)| Validation { x, y, positives, loss: &options.loss });
        let start = alignment.variables(&encoders);
        let shape = (backend.shape(x.embed()), backend.shape(y.embed()), positives.nnz());
        let (dim, loss, seed, sides) = (options.dim, &options.loss, options.seed, sides.fingerprint());
        let fingerprint = format!("fit {dim} {loss:?} {refinement:?} {shape:?} {seed}{sides}");
        monitor.checkpoint =
            options.checkpoint.as_ref().map(|path| Checkpoint::new(path, &fingerprint, &start));
        encoders = refine::refine(alignment, start, refinement, validation.as_ref(), monitor)?;
    }
    if !options.final_loss {
        monitor.info.final_loss = None;
    } else if monitor.info.final_loss.is_none() {
        problem.whole().record(&encoders, monitor)?;
    }
    Ok(component(&x, &y, &encoders, 1.0))
}

fn component<M>(x: &Mapped<M>, y: &Mapped<M>, encoders: &Encoders, weight: f64) -> Component {
    Component { weight, x: x.map.fold(encoders.f1.as_ref()), y: y.map.fold(encoders.f2.as_ref()) }
}

fn map_side<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    exponent: i32,
    options: &FitOptions,
    info: &mut FitInfo,
) -> Result<Mapped<B::Matrix>> {
    let kernel = options.kernel.as_ref();
    let kernel = kernel.map(|k| KernelOptions { kernel: k.kernel.of_scaled_rows(exponent), ..k.clone() });
    match &kernel {
        Some(k) if k.precomputed => {
            timed(&mut info.seconds.features, || kernel::value_features(backend, source, k, options))
        }
        Some(k) if k.landmarks == Landmarks::Exact => {
            timed(&mut info.seconds.features, || kernel::exact_features(backend, source, k))
        }
        Some(k) => {
            let x = timed(&mut info.seconds.load, || backend.load(source))?;
            timed(&mut info.seconds.features, || {
                kernel::nystrom_features(backend, source, &x, k, options.seed, options.whiten)
            })
        }
        None => {
            // A ridge on F1^T F2 refers to columns of the features, and given encoders may lie outside the span of the rows.
            let span = options.ridge == 0.0 && options.updates() > 0;
            features::linear(backend, source, options.whiten, span, &mut info.seconds)
        }
    }
}

/// Runs `f` and adds its wall time to `seconds`.
pub(crate) fn timed<R>(seconds: &mut f64, f: impl FnOnce() -> R) -> R {
    let begin = Instant::now();
    let out = f();
    *seconds += begin.elapsed().as_secs_f64();
    out
}
