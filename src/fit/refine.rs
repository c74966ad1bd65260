//! L-BFGS on both encoders from the spectral start: the exact minimisation that the paper's fixed point is not.

use super::checkpoint::{Checkpoint, Saved};
use super::info::{FitInfo, FitStatus, TracePoint};
use super::judge::{Best, Verdict};
use super::linear::Encoders;
use super::objective::Alignment;
use crate::backend::{Backend, Similarity, Standing, Ties};
use crate::control::{Phase, Progress};
use crate::distributed::Group;
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::optim::{Lbfgs, Pair, Step};
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use faer::Mat;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Options of the refinement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefineOptions {
    /// L-BFGS steps at most. Default 30.
    pub max_steps: usize,
    /// A stage ends when a step lowers the loss by less than this share. Default 1e-4.
    pub tol: f64,
    /// Steps that L-BFGS remembers. Default 10.
    pub memory: usize,
    /// Steps without a better validation score (mean reciprocal rank) before a stage ends; needs validation rows.
    /// Default 3.
    pub patience: usize,
    /// Length of the very first step as a share of the encoders' norm. Default 0.07.
    pub first_step: f64,
    /// Negatives of each stage in turn: a fixed sample within a stage. Default: one stage with all.
    pub stages: Vec<NegativeSampling>,
}

impl Default for RefineOptions {
    fn default() -> Self {
        let stages = vec![NegativeSampling::All];
        Self { max_steps: 30, tol: 1e-4, memory: 10, patience: 3, first_step: 0.07, stages }
    }
}

impl RefineOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        for (name, value) in [("refine tol", self.tol), ("refine first_step", self.first_step)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::invalid(name, "a finite number >= 0", value));
            }
        }
        if self.stages.is_empty() {
            return Err(Error::invalid("refine stages", "at least one", 0));
        }
        for stage in &self.stages {
            if let NegativeSampling::Sampled { per_anchor: 0, .. } = stage {
                return Err(Error::invalid("refine stages", "at least 1 negative per anchor", 0));
            }
        }
        Ok(())
    }
}

/// Rows that judge a fit, as the solver sees features.
pub(crate) struct Held<'a, M> {
    pub(crate) x: &'a M,
    pub(crate) y: &'a M,
    pub(crate) positives: &'a Positives,
    /// What decides between encoders that rank every pair first.
    pub(crate) loss: &'a Loss,
}

impl<M> Held<'_, M> {
    /// Mean reciprocal rank of the best positive, mean of both directions: smoother than Recall@1 and of the same mind.
    /// Where all are first it is above 1, the more the lower their loss: few rows are soon all found.
    pub(crate) fn score<B: Backend<Matrix = M>>(&self, backend: &B, e: &Encoders) -> Result<f64> {
        let (zx, zy) = self.embed(backend, e)?;
        let score = self.rank(backend, &zx, &zy)?;
        if score < 1.0 {
            return Ok(score);
        }
        Ok(1.0 + 1.0 / (1.0 + self.loss_of(backend, &zx, &zy)?.exp()))
    }

    /// Score and loss, as iterates of a descent are judged.
    pub(crate) fn verdict<B: Backend<Matrix = M>>(&self, backend: &B, e: &Encoders) -> Result<Verdict> {
        let (zx, zy) = self.embed(backend, e)?;
        Ok(Verdict { score: self.rank(backend, &zx, &zy)?, loss: self.loss_of(backend, &zx, &zy)? })
    }

    fn embed<B: Backend<Matrix = M>>(&self, backend: &B, e: &Encoders) -> Result<(M, M)> {
        Ok((backend.encode(self.x, e.f1.as_ref())?.0, backend.encode(self.y, e.f2.as_ref())?.0))
    }

    fn loss_of<B: Backend<Matrix = M>>(&self, backend: &B, zx: &M, zy: &M) -> Result<f64> {
        let s = Similarity::Embeddings(zx, zy);
        Ok(backend.weights(s, self.loss, self.positives, NegativeSampling::All)?.value())
    }

    /// Mean reciprocal rank, mean of both directions.
    fn rank<B: Backend<Matrix = M>>(&self, backend: &B, zx: &M, zy: &M) -> Result<f64> {
        let there = backend.standings(Similarity::Embeddings(zx, zy), self.positives, false)?;
        let back = backend.standings(Similarity::Embeddings(zy, zx), &self.positives.transposed(), false)?;
        Ok(0.5 * (mean_reciprocal(&there) + mean_reciprocal(&back)))
    }
}

/// Mean reciprocal rank of the queries that have a positive; equal items in any order.
fn mean_reciprocal(standings: &[Standing]) -> f64 {
    let found = standings.iter().filter(|s| s.is_found());
    let (sum, count) = found.fold((0.0, 0usize), |(s, c), q| (s + q.reciprocal(Ties::Expected), c + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// Where a fit stands after an iteration.
pub struct Iterate<'a> {
    /// Encoder of x (of kernel features, with kernels), `r x d1`.
    pub x: &'a Mat<f64>,
    /// Encoder of y, `r x d2`.
    pub y: &'a Mat<f64>,
    /// Since the call, wall time.
    pub seconds: f64,
    /// The loss (an estimate with sampled negatives); NaN before the first evaluation.
    pub loss: f64,
}

/// Called with every iterate of a fit; an error ends it.
pub type Watch<'a> = &'a mut dyn FnMut(Iterate<'_>) -> Result<()>;

/// The clock of a fit.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) begin: Instant,
    pub(crate) budget: Option<Duration>,
    /// Seconds at the end that what comes last is expected to take.
    pub(crate) reserve: f64,
}

impl Clock {
    pub(crate) fn new(begin: Instant, budget: Option<Duration>) -> Self {
        Self { begin, budget, reserve: 0.0 }
    }

    /// Seconds since the call.
    pub(crate) fn elapsed(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }

    /// Whether the budget is used up.
    pub(super) fn spent(&self, group: &Group) -> Result<bool> {
        Ok(!self.allows(group, 0.0)?)
    }

    /// The share of the budget that is used up since `began` (seconds), by the clock of rank 0; 0 without one.
    pub(super) fn share(&self, group: &Group, began: f64) -> Result<f64> {
        let Some(budget) = self.budget else { return Ok(0.0) };
        let left = budget.as_secs_f64() - self.reserve - began;
        let used = self.begin.elapsed().as_secs_f64() - began;
        group.same(if left > 0.0 { (used / left).min(1.0) } else { 1.0 })
    }

    /// Whether another step as long as `step` seconds fits into the budget beside what comes last, by the clock of rank 0.
    pub(super) fn allows(&self, group: &Group, step: f64) -> Result<bool> {
        let Some(budget) = self.budget else { return Ok(true) };
        let fits = self.elapsed() + step + self.reserve <= budget.as_secs_f64();
        Ok(group.same(u8::from(fits))? == 1)
    }
}

/// The state between steps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    pub(crate) lbfgs: Lbfgs,
    pub(crate) stage: usize,
    pub(crate) steps: usize,
    /// Steps since the best score.
    pub(crate) stale: usize,
    /// The best variables on the validation rows.
    pub(crate) best: Option<Best<Vec<f64>>>,
    /// No step is left to do.
    pub(crate) done: bool,
}

/// How a refinement runs.
pub(crate) struct Run<'a, M> {
    pub(crate) held: Option<&'a Held<'a, M>>,
    pub(crate) options: &'a RefineOptions,
    pub(crate) clock: Clock,
    pub(crate) checkpoint: Option<&'a Checkpoint>,
}

/// Refines encoders `F = A W` from the variables of `A`; returns the best `F` by validation score where there is one,
/// else the last.
pub(crate) fn refine<B: Backend>(
    mut f: Alignment<'_, B>,
    start: Vec<f64>,
    run: Run<'_, B::Matrix>,
    info: &mut FitInfo,
    watch: Watch<'_>,
) -> Result<Encoders> {
    let Run { held, options, clock, checkpoint } = run;
    let saved = match checkpoint {
        Some(c) => c.load(f.backend.group(), "refine")?,
        None => None,
    };
    // How long the next step will take: as long as the evaluation it takes at least, or as the last one did.
    let begun = Instant::now();
    let mut state = match saved {
        Some(saved) => {
            let state = State::read(&saved, start.len())?;
            info.returned = saved.header::<Header>()?.returned;
            saved.resume(info);
            f.negatives = options.stages[state.stage.min(options.stages.len() - 1)];
            state
        }
        None => {
            f.negatives = options.stages[0];
            let lbfgs = Lbfgs::new(start, options.memory, options.first_step, &mut f)?;
            let mut state = State { lbfgs, stage: 0, steps: 0, stale: 0, best: None, done: false };
            observe(&mut f, &mut state, held, &clock, info, watch)?;
            state
        }
    };
    let mut expected = begun.elapsed().as_secs_f64();
    info.status = if state.done { FitStatus::Converged } else { FitStatus::Completed };
    while state.steps < options.max_steps && !state.done {
        if !clock.allows(f.backend.group(), expected)? {
            info.status = FitStatus::OutOfTime;
            break;
        }
        let begin = Instant::now();
        let before = state.lbfgs.value;
        let step = state.lbfgs.step(&mut f)?;
        state.steps += 1;
        let flat = before - state.lbfgs.value <= options.tol * before.abs();
        expected = begin.elapsed().as_secs_f64();
        if step == Step::Descended {
            observe(&mut f, &mut state, held, &clock, info, watch)?;
        }
        if step == Step::Stalled || flat || state.stale >= options.patience.max(1) {
            let next = options.stages.get(state.stage + 1).copied();
            // A stage of more negatives takes longer a step.
            expected *= next.map_or(1.0, |next| more(f.negatives, next, f.positives));
            if let Some(negatives) = next {
                if !clock.allows(f.backend.group(), 2.0 * expected)? {
                    info.status = FitStatus::OutOfTime;
                    break;
                }
                state.stage += 1;
                // The next stage starts where the last one was best, and keeps what it learnt of the curvature.
                if let Some(best) = &state.best {
                    state.lbfgs.x.clone_from(&best.iterate);
                }
                f.negatives = negatives;
                state.stale = 0;
                state.lbfgs.restart(&mut f)?;
            } else {
                state.done = true;
                info.status = FitStatus::Converged;
            }
        }
        if let Some(checkpoint) = checkpoint {
            state.save(checkpoint, f.backend.group(), info)?;
        }
        let (done, total) = (state.steps as u64, options.max_steps as u64);
        let progress = Progress { phase: Phase::Iteration, done, total, loss: state.lbfgs.value };
        f.backend.control().report(progress)?;
    }
    info.evaluations += state.lbfgs.evaluations;
    info.seconds.add(&f.seconds);
    Ok(f.encoders(state.best.as_ref().map_or(&state.lbfgs.x, |best| &best.iterate)))
}

/// How many times as long a step over `next` takes as one over `now`.
fn more(now: NegativeSampling, next: NegativeSampling, positives: &Positives) -> f64 {
    let all = positives.n_x().min(positives.n_y());
    let count = |n: NegativeSampling| n.per_anchor().map_or(all, |m| m.min(all)).max(1) as f64;
    count(next) / count(now)
}

/// Scores the current variables and records them.
fn observe<B: Backend>(
    f: &mut Alignment<'_, B>,
    state: &mut State,
    held: Option<&Held<'_, B::Matrix>>,
    clock: &Clock,
    info: &mut FitInfo,
    watch: Watch<'_>,
) -> Result<()> {
    let encoders = f.encoders(&state.lbfgs.x);
    // It doubles the cost of an iterate: the first of a sample stands for all.
    let first = info.trace.last().is_none_or(|t| t.negatives != f.negatives.per_anchor());
    let sampling_error = if first { f.sampling_error(&state.lbfgs.x, &state.lbfgs.gradient)? } else { None };
    let mut score = None;
    if let Some(held) = held {
        let verdict = held.verdict(f.backend, &encoders)?;
        score = Some(verdict.score);
        let x = &state.lbfgs.x;
        let first = state.best.is_none();
        let best = state.best.get_or_insert_with(|| Best::new(verdict, x.clone()));
        let met = best.meet(verdict, || x.clone());
        if first || met.better {
            info.returned = Some(info.trace.len());
        }
        state.stale = if first || met.gain { 0 } else { state.stale + 1 };
    } else {
        info.returned = Some(info.trace.len());
    }
    let seconds = clock.begin.elapsed().as_secs_f64();
    info.iterations += 1;
    info.trace.push(TracePoint {
        seconds,
        loss: state.lbfgs.value,
        negatives: f.negatives.per_anchor(),
        evaluations: state.lbfgs.evaluations,
        score,
        sampling_error,
    });
    info.loss.push(state.lbfgs.value);
    watch(Iterate { x: &encoders.f1, y: &encoders.f2, seconds, loss: state.lbfgs.value })
}

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
    fn save(&self, checkpoint: &Checkpoint, group: &Group, info: &FitInfo) -> Result<()> {
        let l = &self.lbfgs;
        let header = Header {
            stage: self.stage,
            steps: self.steps,
            stale: self.stale,
            done: self.done,
            memory: l.memory,
            evaluations: l.evaluations,
            pairs: l.pairs.len(),
            best: self.best.is_some(),
            returned: info.returned,
        };
        let scalars = [&[l.value, l.first_step][..], &Best::numbers(self.best.as_ref())].concat();
        let mut tensors: Vec<(String, &[f64])> =
            vec![("x".into(), &l.x), ("gradient".into(), &l.gradient), ("scalars".into(), &scalars)];
        for (k, pair) in l.pairs.iter().enumerate() {
            tensors.push((format!("s.{k}"), &pair.s));
            tensors.push((format!("y.{k}"), &pair.y));
        }
        if let Some(best) = &self.best {
            tensors.push(("best".into(), &best.iterate));
        }
        checkpoint.save(group, "refine", &header, tensors, &info.trace)
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
            true => Some(Best::read(&scalars[2..], saved.tensor("best", variables)?)),
            false => None,
        };
        let Header { stage, steps, stale, done, .. } = header;
        Ok(Self { lbfgs, stage, steps, stale, best, done })
    }
}
