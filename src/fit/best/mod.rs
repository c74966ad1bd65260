//! The preset `best`: whitening, one spectral step from zeros, descent from there, with everything that is not given
//! chosen on validation rows.
//!
//! Gram matrices and the cross-covariance are computed once; each candidate shrinkage is then two triangular factors and one small
//! SVD. Large data descends on mini-batches whose negatives stand for all, small
//! data by L-BFGS on the exact loss; on request L-BFGS follows on larger samples and on all negatives. All of it works in
//! whitened coordinates without a whitened copy of the data.

mod center;
mod options;
mod solver;
mod start;

pub(super) use center::Sums;
pub use options::{BestOptions, Dim, WIDTHS};

use super::checkpoint::Checkpoint;
use super::features;
use super::holdout::{Together, hold_out};
use super::info::{Chosen, FitInfo};
use super::linear::Encoders;
use super::moments::Choice;
use super::monitor::{Clock, Monitor, Watch};
use super::options::{Factorization, FitOptions};
use super::validation::Validation;
use super::whole::Whole;
use super::{Data, Sides, Wanted, check_data, check_result, screened};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::io::Rows;
use crate::model::{Component, Model};
use crate::similarity::NegativeSampling;
use solver::Solver;
use start::{Spectral, spectral, width};
use std::time::Instant;

/// Fits the best encoders there are time for; `validation` rows choose shrinkage, power, dimension, temperature and when to
/// stop. Without them a tenth of the rows (at most 1,000) is held back.
///
/// # Errors
/// As [`fit`](super::fit).
pub fn fit_best<B: Backend>(
    backend: &B,
    data: Data<'_>,
    validation: Option<Data<'_>>,
    options: &BestOptions,
) -> Result<(Model, FitInfo)> {
    choose_and_descend(backend, data, validation, options, None)
}

/// As [`fit_best`], showing every iterate.
///
/// # Errors
/// As [`fit_best`], and those of `watch`.
pub fn fit_best_watched<B: Backend>(
    backend: &B,
    data: Data<'_>,
    validation: Option<Data<'_>>,
    options: &BestOptions,
    watch: Watch<'_>,
) -> Result<(Model, FitInfo)> {
    choose_and_descend(backend, data, validation, options, Some(watch))
}

fn choose_and_descend<B: Backend>(
    backend: &B,
    data: Data<'_>,
    validation: Option<Data<'_>>,
    options: &BestOptions,
    watch: Option<Watch<'_>>,
) -> Result<(Model, FitInfo)> {
    let clock = Clock::new(Instant::now(), options.budget);
    options.validate()?;
    check_data(data, validation)?;
    let kernel = options.kernel.as_ref().map(|k| k.kernel);
    let start = options.start.as_ref().and_then(|m| m.components.first());
    let wanted = Wanted { center: options.center, kernel, start, values: false };
    let (mut info, sides, duplicates) = screened(backend, data, validation, &wanted)?;
    // Of few rows none are held out: everything is chosen on those that train.
    let holdout = match validation {
        None => {
            let [x, y] = duplicates.each_ref().map(Option::as_ref);
            hold_out(Together::new(data.positives, x, y), options.seed)
        }
        Some(_) => None,
    };
    if let Some(s) = &holdout {
        let held_back = (s.validation.0.len(), s.validation.1.len());
        info.chosen = Some(Chosen { held_back, apart: Some(s.apart), ..Chosen::default() });
    }
    let mut watch = watch;
    let watch: Option<Watch<'_>> = match &mut watch {
        Some(watch) => Some(&mut **watch),
        None => None,
    };
    let mut monitor = Monitor::new(backend, clock, &mut info, watch);
    let model = match holdout {
        Some(s) => {
            let ((tx, ty), (vx, vy)) = (&s.train, &s.validation);
            let options = &options.on_rows(data, tx.len().min(ty.len()))?;
            let positives = (data.positives.subset(tx, ty)?, data.positives.subset(vx, vy)?);
            let (tx, ty) = (Rows::new(data.x, s.train.0)?, Rows::new(data.y, s.train.1)?);
            let (vx, vy) = (Rows::new(data.x, s.validation.0)?, Rows::new(data.y, s.validation.1)?);
            let train = Data { x: &tx, y: &ty, positives: &positives.0 };
            let validation = Data { x: &vx, y: &vy, positives: &positives.1 };
            run(backend, (train, Some(validation)), sides, options, &mut monitor)?
        }
        None => run(backend, (data, validation), sides, options, &mut monitor)?,
    };
    monitor.close(backend);
    Ok((model, info))
}

fn run<B: Backend>(
    backend: &B,
    (data, validation): (Data<'_>, Option<Data<'_>>),
    sides: Sides,
    options: &BestOptions,
    monitor: &mut Monitor<'_>,
) -> Result<Model> {
    let in_range = (sides.of(data), validation.map(|v| sides.of(v)));
    let raw = (in_range.0.data(), in_range.1.as_ref().map(|v| v.data()));
    let width = width(backend, raw.0, raw.1, (options, &sides), monitor)?;
    let found = spectral(backend, raw.0, raw.1, (options, width, &sides), monitor)?;
    // Where centring scored better, its means are taken out of the rows themselves.
    let sides = match &found.means {
        Some(means) => sides.with_means(means, &mut monitor.info.prepared),
        None => sides,
    };
    let in_range = (sides.of(data), validation.map(|v| sides.of(v)));
    let (data, validation) = (in_range.0.data(), in_range.1.as_ref().map(|v| v.data()));
    let found = match found.means {
        Some(_) => found.reloaded(backend, data, validation, monitor.info)?,
        None => found,
    };
    let Spectral {
        x,
        y,
        choice: Choice { lambda, power, top, whitenings, candidates, .. },
        dim,
        encoders: mut start,
        ..
    } = found;
    monitor.info.singular_values.clone_from(&top.all);
    let (mx, my) = (&x.mapped.cross, &y.mapped.cross);
    let given = validation.is_some();
    let positives = validation.map_or(data.positives, |v| v.positives);
    let validation = Validation { x: x.validation(), y: y.validation(), positives, loss: &options.loss };
    let maps = whitenings.maps(backend)?;
    let solver = Solver { backend, x: mx, y: my, data, options, whitenings: &whitenings, maps: &maps, dim };
    let mut encoders = solver.folded(&start)?;
    monitor.shows((&x.mapped.map, &y.mapped.map), &sides);
    monitor.show(&encoders, f64::NAN)?;
    if let Some(warm) = &options.start {
        let warm = warm_start(warm, &x.mapped, &y.mapped, dim)?;
        if validation.score(backend, &warm)? > validation.score(backend, &encoders)? {
            start = whitenings.unfolded(&warm);
            encoders = warm;
        }
    }
    let loss = match options.tau_auto {
        true => solver.temperature(&start, &validation, monitor)?,
        false => options.loss.clone(),
    };
    let whole = Whole {
        backend,
        x: mx,
        y: my,
        positives: data.positives,
        loss: &loss,
        negatives: NegativeSampling::All,
    };
    if options.final_loss && monitor.is_timed() && monitor.allows(0.0)? {
        monitor.reserve(whole.seconds(&encoders)?);
    }
    if options.refine.max_steps > 0 && monitor.goes_on(0.0)? {
        let (descent, sides) = (solver.fingerprint(), sides.fingerprint());
        let fingerprint = format!("best {dim} {loss:?} {lambda} {power} {descent:?}{sides}");
        let variables = solver.alignment(&loss).variables(&start);
        monitor.checkpoint =
            options.checkpoint.as_ref().map(|path| Checkpoint::new(path, &fingerprint, &variables));
        encoders = solver.descend(start, &loss, given.then_some(&validation), monitor)?;
    }
    if options.final_loss {
        whole.record(&encoders, monitor)?;
    }
    let info = &mut *monitor.info;
    let chosen = info.chosen.get_or_insert_default();
    (chosen.whiten, chosen.power, chosen.tau, chosen.dim) = (lambda, power, loss.tau, dim);
    chosen.width = width;
    chosen.candidates = candidates;
    let component = Component {
        weight: 1.0,
        x: x.mapped.map.fold(encoders.f1.as_ref()),
        y: y.mapped.map.fold(encoders.f2.as_ref()),
    };
    let kernel = options.kernel.as_ref().filter(|_| width.is_none()).map(|k| k.kernel);
    let component = sides.finish(component, kernel);
    let record = FitOptions {
        loss,
        n_iters: 1,
        factorization: Factorization::Power(power),
        whiten: Some(lambda),
        seed: options.seed,
        ..FitOptions::new(dim)
    };
    let mut model = Model::new(vec![component], &record);
    check_result(&model, info)?;
    model.notes.insert("preset".into(), "best".into());
    info.record(&mut model);
    model.notes.insert("refine_steps".into(), info.trace.len().saturating_sub(1).to_string());
    Ok(model)
}

/// The encoders of a model as they apply to the solver's features.
fn warm_start<M>(
    model: &Model,
    x: &features::Mapped<M>,
    y: &features::Mapped<M>,
    dim: usize,
) -> Result<Encoders> {
    let [c] = &model.components[..] else {
        return Err(Error::invalid("start", "a model of one component", model.components.len()));
    };
    if model.compression.is_some() {
        return Err(Error::invalid("start", "a model that is not compressed", "a compressed one"));
    }
    if c.x.map.is_some() || c.y.map.is_some() || x.map.folds() || y.map.folds() {
        return Err(Error::Unsupported("a warm start of kernel encoders".into()));
    }
    if c.x.matrix.nrows() != dim {
        return Err(Error::invalid("start", format!("a model of dimension {dim}"), c.x.matrix.nrows()));
    }
    Ok(Encoders { f1: c.x.matrix.clone(), f2: c.y.matrix.clone() })
}
