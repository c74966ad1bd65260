//! L-BFGS on both encoders from the spectral start: the exact minimisation that the paper's fixed point is not.
//!
//! ```text
//! min over A1, A2 of L(s),   s_ij = <F1 x_i / |F1 x_i|, F2 y_j / |F2 y_j|>,   F = A W
//! ```
//!
//! over the negatives of each stage in turn: growing samples, then all.

use super::checkpoint::Saved;
use super::info::{FitStatus, TracePoint};
use super::linear::Encoders;
use super::monitor::Monitor;
use super::objective::Alignment;
use super::options::RefineOptions;
use super::validation::{Selection, Validation};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::optim::{Lbfgs, Pair, Step};
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// The state between steps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    lbfgs: Lbfgs,
    stage: usize,
    steps: usize,
    /// The best variables on the validation rows.
    selection: Selection<Vec<f64>>,
    /// No step is left to do.
    done: bool,
}

/// Refines encoders `F = A W` from the variables of `A`; returns the best `F` by validation score where there is one,
/// else the last.
pub(crate) fn refine<B: Backend>(
    mut f: Alignment<'_, B>,
    start: Vec<f64>,
    options: &RefineOptions,
    validation: Option<&Validation<'_, B::Matrix>>,
    monitor: &mut Monitor<'_>,
) -> Result<Encoders> {
    // How long the next step will take: as long as the evaluation it takes at least, or as the last one did.
    let begun = Instant::now();
    let mut state = match monitor.saved(PHASE)? {
        Some(saved) => {
            let state = State::read(&saved, start.len())?;
            monitor.info.returned = saved.header::<Header>()?.returned;
            saved.resume(monitor.info);
            f.negatives = options.stages[state.stage.min(options.stages.len() - 1)];
            state
        }
        None => {
            f.negatives = options.stages[0];
            let lbfgs = Lbfgs::new(start, options.memory, options.first_step, &mut f)?;
            let mut state = State { lbfgs, stage: 0, steps: 0, selection: Selection::new(None), done: false };
            state.observe(&mut f, validation, monitor)?;
            state
        }
    };
    let mut expected = begun.elapsed().as_secs_f64();
    monitor.info.status = if state.done { FitStatus::Converged } else { FitStatus::Completed };
    while state.steps < options.max_steps && !state.done && monitor.goes_on(expected)? {
        let begin = Instant::now();
        let before = state.lbfgs.value;
        let step = state.lbfgs.step(&mut f)?;
        state.steps += 1;
        let flat = before - state.lbfgs.value <= options.tol * before.abs();
        expected = begin.elapsed().as_secs_f64();
        if step == Step::Descended {
            state.observe(&mut f, validation, monitor)?;
        }
        if step == Step::Stalled || flat || state.selection.stale >= options.patience.max(1) {
            match options.stages.get(state.stage + 1).copied() {
                Some(negatives) => {
                    expected *= more(f.negatives, negatives, f.positives);
                    if !monitor.goes_on(2.0 * expected)? {
                        break;
                    }
                    state.next_stage(&mut f, negatives)?;
                }
                None => {
                    state.done = true;
                    monitor.info.status = FitStatus::Converged;
                }
            }
        }
        state.save(monitor)?;
        monitor.progress(state.steps, options.max_steps, state.lbfgs.value)?;
    }
    monitor.info.evaluations += state.lbfgs.evaluations;
    monitor.seconds().add(&f.seconds);
    Ok(f.encoders(state.selection.best.as_ref().map_or(&state.lbfgs.x, |best| &best.iterate)))
}

/// How many times as long a step over `next` takes as one over `now`.
fn more(now: NegativeSampling, next: NegativeSampling, positives: &Positives) -> f64 {
    let all = positives.n_x().min(positives.n_y());
    let count = |n: NegativeSampling| n.per_anchor().map_or(all, |m| m.min(all)).max(1) as f64;
    count(next) / count(now)
}

/// The phase of a checkpoint.
pub(super) const PHASE: &str = "refine";

/// What is not a tensor of a saved state.
#[derive(Serialize, Deserialize)]
struct Header {
    stage: usize,
    steps: usize,
    stale: usize,
    done: bool,
    memory: usize,
    evaluations: usize,
    pairs: usize,
    best: bool,
    #[serde(default)]
    returned: Option<usize>,
}

impl State {
    /// Scores the current variables and records them.
    fn observe<B: Backend>(
        &mut self,
        f: &mut Alignment<'_, B>,
        validation: Option<&Validation<'_, B::Matrix>>,
        monitor: &mut Monitor<'_>,
    ) -> Result<()> {
        let (x, loss) = (&self.lbfgs.x, self.lbfgs.value);
        let encoders = f.encoders(x);
        let negatives = f.negatives.per_anchor();
        // The estimate doubles the cost of an iterate: it is made once for each sample.
        let first = monitor.info.trace.last().is_none_or(|t| t.negatives != negatives);
        let sampling_error = if first { f.sampling_error(x, &self.lbfgs.gradient)? } else { None };
        let (mut score, mut best) = (None, true);
        if let Some(validation) = validation {
            let scores = validation.scores(f.backend, &encoders)?;
            score = Some(scores.score);
            best = self.selection.meet(scores, || x.clone()).better;
        }
        let evaluations = self.lbfgs.evaluations;
        let point =
            TracePoint { loss, negatives, evaluations, score, sampling_error, ..TracePoint::default() };
        monitor.iterate(&encoders, point, best)
    }

    /// The next stage starts where the last one was best, and keeps what it learnt of the curvature.
    fn next_stage<B: Backend>(
        &mut self,
        f: &mut Alignment<'_, B>,
        negatives: NegativeSampling,
    ) -> Result<()> {
        self.stage += 1;
        if let Some(best) = &self.selection.best {
            self.lbfgs.x.clone_from(&best.iterate);
        }
        f.negatives = negatives;
        self.selection.stale = 0;
        self.lbfgs.restart(f)
    }

    fn save(&self, monitor: &Monitor<'_>) -> Result<()> {
        let l = &self.lbfgs;
        let header = Header {
            stage: self.stage,
            steps: self.steps,
            stale: self.selection.stale,
            done: self.done,
            memory: l.memory,
            evaluations: l.evaluations,
            pairs: l.pairs.len(),
            best: self.selection.best.is_some(),
            returned: monitor.info.returned,
        };
        let scalars = [&[l.value, l.first_step][..], &self.selection.numbers()].concat();
        let mut tensors: Vec<(String, &[f64])> =
            vec![("x".into(), &l.x), ("gradient".into(), &l.gradient), ("scalars".into(), &scalars)];
        for (k, pair) in l.pairs.iter().enumerate() {
            tensors.push((format!("s.{k}"), &pair.s));
            tensors.push((format!("y.{k}"), &pair.y));
        }
        if let Some(best) = &self.selection.best {
            tensors.push(("best".into(), &best.iterate));
        }
        monitor.save(PHASE, &header, tensors)
    }

    /// A saved state over `variables` variables.
    fn read(saved: &Saved, variables: usize) -> Result<Self> {
        let header: Header = saved.header()?;
        let scalars = saved.tensor("scalars", 6)?;
        let pair = |k: usize| {
            let (s, y) =
                (saved.tensor(&format!("s.{k}"), variables)?, saved.tensor(&format!("y.{k}"), variables)?);
            Ok::<_, Error>(Pair { s, y })
        };
        let lbfgs = Lbfgs {
            x: saved.tensor("x", variables)?,
            value: scalars[0],
            gradient: saved.tensor("gradient", variables)?,
            pairs: (0..header.pairs).map(pair).collect::<Result<_>>()?,
            memory: header.memory,
            first_step: scalars[1],
            evaluations: header.evaluations,
        };
        let best = match header.best {
            true => Some(saved.tensor("best", variables)?),
            false => None,
        };
        let Header { stage, steps, stale, done, .. } = header;
        Ok(Self { lbfgs, stage, steps, selection: Selection::read(&scalars[2..], stale, best), done })
    }
}
