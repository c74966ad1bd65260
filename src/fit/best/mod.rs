//! The preset `best`: whitening, one spectral step from zeros, descent from there, with everything that is not given
//! chosen on validation rows.
//!
//! Gram matrices and the cross-covariance are computed once and rotated into the Gram matrices' eigenbases; each
//! candidate shrinkage is then one small SVD. Large data descends on mini-batches whose negatives stand for all, small
//! data by L-BFGS on the exact loss; on request L-BFGS follows on larger samples and on all negatives. All of it works in
//! whitened coordinates without a whitened copy of the data.

mod center;
mod options;
mod solver;
mod start;

pub(super) use center::Sums;
pub use options::{BestOptions, Rank, WIDTHS};

use super::checkpoint::Checkpoint;
use super::features;
use super::held::{Together, split};
use super::info::{Chosen, FitInfo, FitStatus};
use super::linear::Encoders;
use super::moments::Choice;
use super::options::{Factorization, FitOptions};
use super::refine::{Clock, Held, Iterate, Watch};
use super::whole::Whole;
use super::{Data, Sides, Wanted, check_data, check_result, screened};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::io::Rows;
use crate::memory::resident_peak;
use crate::model::{Component, Model};
use crate::similarity::NegativeSampling;
use solver::Solver;
use start::{Spectral, spectral, width};
use std::time::Instant;

/// Rows held back where no validation rows are given: this share, at most [`HELD_MOST`].
const HELD_SHARE: f64 = 0.1;
const HELD_MOST: usize = 1000;
/// Fewer rows than this are not split: everything is chosen on the training rows.
const HELD_LEAST: usize = 20;

/// Fits the best encoders there are time for; `validation` rows choose shrinkage, power, rank, temperature and when to
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
    fit_best_watched(backend, data, validation, options, &mut |_| Ok(()))
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
    let clock = Clock::new(Instant::now(), options.budget);
    options.validate()?;
    check_data(data, validation)?;
    let kernel = options.kernel.as_ref().map(|k| k.kernel);
    let start = options.start.as_ref().and_then(|m| m.components.first());
    let wanted = Wanted { center: options.center, kernel, start };
    let (mut info, sides, duplicates) = screened(backend, data, validation, &wanted)?;
    let n = data.x.rows();
    let count = ((n as f64 * HELD_SHARE) as usize).min(HELD_MOST);
    let held = match validation {
        None if n >= HELD_LEAST && count >= 2 => {
            let [x, y] = duplicates.each_ref().map(Option::as_ref);
            split(Together::new(data.positives, x, y), count, options.seed)
        }
        _ => None,
    };
    let model = match held {
        Some(s) => {
            let (tx, ty) = (Rows::new(data.x, s.train.0.clone())?, Rows::new(data.y, s.train.1.clone())?);
            let (hx, hy) = (Rows::new(data.x, s.held.0.clone())?, Rows::new(data.y, s.held.1.clone())?);
            let train = data.positives.subset(&s.train.0, &s.train.1)?;
            let held = data.positives.subset(&s.held.0, &s.held.1)?;
            let options = &options.on_rows(data, s.train.0.len().min(s.train.1.len()))?;
            let held_back = (s.held.0.len(), s.held.1.len());
            let chosen = Chosen { held_back, apart: Some(s.apart), ..Chosen::default() };
            info.chosen = Some(chosen);
            let train = Data { x: &tx, y: &ty, positives: &train };
            let held = Data { x: &hx, y: &hy, positives: &held };
            run(backend, (train, Some(held)), sides, options, clock, &mut info, watch)?
        }
        None => run(backend, (data, validation), sides, options, clock, &mut info, watch)?,
    };
    info.peak_bytes = backend.memory().1;
    info.resident_bytes = resident_peak();
    info.seconds.total = clock.begin.elapsed().as_secs_f64();
    Ok((model, info))
}

fn run<B: Backend>(
    backend: &B,
    (data, validation): (Data<'_>, Option<Data<'_>>),
    sides: Sides,
    options: &BestOptions,
    mut clock: Clock,
    info: &mut FitInfo,
    watch: Watch<'_>,
) -> Result<Model> {
    let in_range = (sides.of(data), validation.map(|v| sides.of(v)));
    let raw = (in_range.0.data(), in_range.1.as_ref().map(|v| v.data()));
    let width = width(backend, raw.0, raw.1, options, (&sides, &clock), info)?;
    let found = spectral(backend, raw.0, raw.1, (options, width, Some(&sides)), &clock, info)?;
    // Where centring judged better, its means are taken out of the rows themselves.
    let sides = match &found.means {
        Some(means) => sides.with_means(means, &mut info.prepared),
        None => sides,
    };
    let in_range = (sides.of(data), validation.map(|v| sides.of(v)));
    let (data, validation) = (in_range.0.data(), in_range.1.as_ref().map(|v| v.data()));
    let found = match found.means {
        Some(_) => found.reloaded(backend, data, validation, info)?,
        None => found,
    };
    let Spectral {
        x,
        y,
        moments,
        choice: Choice { lambda, power, top, candidates, .. },
        rank,
        encoders: mut start,
        ..
    } = found;
    info.singular_values.clone_from(&top.all);
    let (mx, my) = (&x.mapped.cross, &y.mapped.cross);
    // Judged on validation rows, or on the training rows where there are none.
    let positives = validation.map_or(data.positives, |v| v.positives);
    let held = Held { x: x.judging(), y: y.judging(), positives, loss: &options.loss };
    let maps = moments.maps(lambda);
    let solver =
        Solver { backend, x: mx, y: my, data, options, lambda, moments: &moments, maps: &maps, rank };
    let mut encoders = solver.folded(&start);
    let seconds = clock.begin.elapsed().as_secs_f64();
    watch(Iterate { x: &encoders.f1, y: &encoders.f2, seconds, loss: f64::NAN })?;
    if let Some(warm) = &options.start {
        let given = warm_start(warm, &x.mapped, &y.mapped, rank)?;
        if held.score(backend, &given)? > held.score(backend, &encoders)? {
            start = moments.unwhiten(&given, lambda);
            encoders = given;
        }
    }
    let judge = validation.is_some().then_some(&held);
    let loss = match options.tau_auto {
        true => solver.temperature(&start, &held, clock, info)?,
        false => options.loss,
    };
    let whole = Whole {
        backend,
        x: mx,
        y: my,
        positives: data.positives,
        loss: &loss,
        negatives: NegativeSampling::All,
    };
    if options.final_loss && options.budget.is_some() && !clock.spent(backend.group())? {
        clock.reserve = whole.seconds(&encoders)?;
    }
    let descends = options.refine.max_steps > 0;
    if descends && clock.spent(backend.group())? {
        info.status = FitStatus::OutOfTime;
    } else if descends {
        let print = format!("best {rank} {loss:?} {lambda} {power} {:?}{}", solver.print(), sides.print());
        let variables = solver.alignment(loss).variables(&start);
        let checkpoint = options.checkpoint.as_ref().map(|path| Checkpoint::new(path, &print, &variables));
        encoders = solver.descend(start, loss, judge, clock, checkpoint.as_ref(), info, watch)?;
    }
    // A budget that the last step has overrun leaves the loss out.
    match options.final_loss {
        true if clock.allows(backend.group(), 0.0)? => {
            info.final_loss = Some(whole.value(&encoders, &mut info.seconds)?);
        }
        true => info.status = FitStatus::OutOfTime,
        false => {}
    }
    let chosen = info.chosen.get_or_insert_default();
    (chosen.whiten, chosen.power, chosen.tau, chosen.rank) = (lambda, power, loss.tau, rank);
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
        ..FitOptions::new(rank)
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
    rank: usize,
) -> Result<Encoders> {
    let [c] = &model.components[..] else {
        return Err(Error::invalid("start", "a model of one component", model.components.len()));
    };
    if c.x.map.is_some() || c.y.map.is_some() || x.map.folds() || y.map.folds() {
        return Err(Error::Unsupported("a warm start of kernel encoders".into()));
    }
    if c.x.matrix.nrows() != rank {
        return Err(Error::invalid("start", format!("a model of rank {rank}"), c.x.matrix.nrows()));
    }
    Ok(Encoders { f1: c.x.matrix.clone(), f2: c.y.matrix.clone() })
}
