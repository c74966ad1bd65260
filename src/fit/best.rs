//! The preset `best`: whitening, one spectral step from zeros, descent from there, with everything that is not given
//! chosen on validation rows.
//!
//! Gram matrices and the cross-covariance are computed once and rotated into the Gram matrices' eigenbases; each
//! candidate shrinkage is then one small SVD. Large data descends on mini-batches whose negatives stand for all, small
//! data by L-BFGS on the exact loss; on request L-BFGS follows on larger samples and on all negatives. All of it works in
//! whitened coordinates without a whitened copy of the data.

use super::checkpoint::Checkpoint;
use super::features;
use super::held::split;
use super::info::{Chosen, FitInfo};
use super::minibatch::{self, Descent, MinibatchOptions};
use super::moments::{Choice, Moments, choose, leading};
use super::objective::Alignment;
use super::options::{Factorization, FitOptions, KernelOptions, Landmarks};
use super::refine::{Clock, Held, Iterate, RefineOptions, Run, Watch, refine};
use super::solve::Encoders;
use super::{Data, check_data, timed};
use crate::backend::{Backend, Similarity};
use crate::error::{Error, Result};
use crate::io::{RowSource, Rows};
use crate::loss::{EpsBy, Loss};
use crate::model::{Component, Model};
use crate::positives::Positives;
use crate::weights::Negatives;
use faer::Mat;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Rows held back where no validation rows are given: this share, at most [`HELD_MOST`].
const HELD_SHARE: f64 = 0.1;
const HELD_MOST: usize = 1000;
/// Fewer rows than this are not split: everything is chosen on the training rows.
const HELD_LEAST: usize = 20;
/// Ranks and temperatures that `auto` tries.
const TAUS: [f64; 5] = [0.03, 0.05, 0.07, 0.1, 0.2];
/// Steps that judge a temperature: of L-BFGS, and of mini-batches.
const TAU_STEPS: (usize, usize) = (3, 32);
/// Rank at which shrinkages are compared.
const TRIAL_RANK: usize = 128;
/// A smaller rank is preferred when its score is within this of the best.
const RANK_TOLERANCE: f64 = 0.005;

/// The dimension of the shared space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rank {
    /// This one.
    Fixed(usize),
    /// The smallest whose squared singular values of the whitened cross-covariance make up this share of all.
    Energy(f64),
    /// The smallest power of two that scores within 0.005 of the best on the validation rows.
    Auto,
}

/// Options of [`fit_best`]. The defaults need no tuning.
#[derive(Clone, Debug)]
pub struct BestOptions {
    /// The rank.
    pub rank: Rank,
    /// The loss; its temperature is replaced where `tau_auto` is set.
    pub loss: Loss,
    /// Choose the temperature on validation rows.
    pub tau_auto: bool,
    /// Candidate shrinkages of the whitening.
    pub whiten: Vec<f64>,
    /// Candidate powers of the singular values in each encoder.
    pub powers: Vec<f64>,
    /// L-BFGS; its stages are replaced by those of `sample` and `exact`. `max_steps` 0: the spectral step alone, without
    /// mini-batches.
    pub refine: RefineOptions,
    /// Nystrom encoders. Default none: linear.
    pub kernel: Option<KernelOptions>,
    /// Descent on mini-batches, where data has at least four batches of rows. Default some; none leaves it out.
    pub minibatch: Option<MinibatchOptions>,
    /// L-BFGS on this many sampled negatives per row, then on four times as many. Default none.
    pub sample: Option<usize>,
    /// End in L-BFGS on all negatives. Small data, where nothing is sampled, always does. Default false.
    pub exact: bool,
    /// Start the refinement from this model (linear, of the same rank) where it scores better than the spectral step.
    pub start: Option<Model>,
    /// Save the refinement's state here after every step, and continue from it where it exists.
    pub checkpoint: Option<PathBuf>,
    /// Wall time after which no step is begun.
    pub budget: Option<Duration>,
    /// Seed of everything random.
    pub seed: u64,
    /// Evaluate the exact loss of the returned encoders. Default false.
    pub final_loss: bool,
}

impl BestOptions {
    /// Defaults for a rank: clip at tau 0.07.
    pub fn new(rank: Rank) -> Self {
        Self {
            rank,
            loss: Loss::default(),
            tau_auto: false,
            whiten: vec![1.0, 0.3, 0.1, 0.03, 0.01, 0.001],
            powers: vec![0.0, 0.5, 1.0, 2.0],
            refine: RefineOptions::default(),
            kernel: None,
            minibatch: Some(MinibatchOptions::default()),
            sample: None,
            exact: false,
            start: None,
            checkpoint: None,
            budget: None,
            seed: 0,
            final_loss: false,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        self.loss.validate()?;
        self.refine.validate()?;
        if let Some(minibatch) = &self.minibatch {
            minibatch.validate()?;
        }
        if self.rank == Rank::Fixed(0) {
            return Err(Error::invalid("rank", "at least 1", 0));
        }
        if let Rank::Energy(share) = self.rank
            && !(share > 0.0 && share <= 1.0)
        {
            return Err(Error::invalid("rank energy", "a share in (0, 1]", share));
        }
        for (name, list) in [("whiten", &self.whiten), ("powers", &self.powers)] {
            if list.is_empty() {
                return Err(Error::invalid(name, "at least one candidate", "none"));
            }
            if let Some(bad) = list.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
                return Err(Error::invalid(name, "finite numbers >= 0", bad));
            }
        }
        if self.sample == Some(0) {
            return Err(Error::invalid("negatives", "at least 1 per row", 0));
        }
        if let Some(kernel) = &self.kernel {
            kernel.validate()?;
        }
        if self.kernel.as_ref().is_some_and(|k| k.landmarks == Landmarks::Exact) {
            return Err(Error::Unsupported("the preset `best` on the exact kernel: use landmarks".into()));
        }
        Ok(())
    }

    /// The same on the rows that are not held back: at most as many landmarks as there are of them.
    fn on_rows(&self, data: Data<'_>, left: usize) -> Result<Self> {
        let mut options = self.clone();
        match options.kernel.as_mut().map(|k| &mut k.landmarks) {
            Some(Landmarks::Count(m)) => {
                let n = data.x.rows().min(data.y.rows());
                if *m > n {
                    return Err(Error::invalid("landmarks", format!("at most the number of rows, {n}"), m));
                }
                *m = left.min(*m);
            }
            Some(Landmarks::Rows(_)) => {
                let what = "landmarks by row while rows are held back: give validation rows";
                return Err(Error::Unsupported(what.into()));
            }
            _ => {}
        }
        Ok(options)
    }

    /// Stages of L-BFGS: a sample, another of four times its size, and all on request, or where there is nothing else.
    fn stages(&self, minibatch: bool) -> Vec<Negatives> {
        let mut stages = Vec::new();
        if let Some(m) = self.sample {
            stages.push(Negatives::Sampled { per_anchor: m, seed: self.seed });
            let per_anchor = m.saturating_mul(4);
            stages.push(Negatives::Sampled { per_anchor, seed: self.seed.wrapping_add(1) });
        }
        if self.exact || (stages.is_empty() && !minibatch) {
            stages.push(Negatives::All);
        }
        stages
    }

    /// The options of the descent on mini-batches, where there is one.
    fn descent(&self, positives: &Positives) -> Option<MinibatchOptions> {
        // "On the diagonal" means nothing within a batch of many-to-many pairs.
        let apart = self.loss.eps_by == EpsBy::Diagonal && !positives.is_diagonal();
        self.minibatch.filter(|m| self.refine.max_steps > 0 && m.suits(positives) && !apart)
    }
}

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
    let clock = Clock { begin: Instant::now(), budget: options.budget };
    options.validate()?;
    check_data(data, validation)?;
    let mut info = FitInfo { unmatched: data.positives.unmatched(), ..FitInfo::default() };
    timed(&mut info.seconds.load, || {
        info.zero_rows = (backend.screen(data.x)?, backend.screen(data.y)?);
        if let Some(v) = validation {
            backend.screen(v.x)?;
            backend.screen(v.y)?;
        }
        Ok::<_, Error>(())
    })?;
    let n = data.x.rows();
    let count = ((n as f64 * HELD_SHARE) as usize).min(HELD_MOST);
    let model = match validation {
        None if n >= HELD_LEAST && count >= 2 => {
            let s = split(data.positives, count, options.seed);
            let (tx, ty) = (Rows::new(data.x, s.train.0.clone())?, Rows::new(data.y, s.train.1.clone())?);
            let (hx, hy) = (Rows::new(data.x, s.held.0.clone())?, Rows::new(data.y, s.held.1.clone())?);
            let train = data.positives.subset(&s.train.0, &s.train.1);
            let held = data.positives.subset(&s.held.0, &s.held.1);
            let options = &options.on_rows(data, s.train.0.len().min(s.train.1.len()))?;
            let chosen = Chosen { held_back: (s.held.0.len(), s.held.1.len()), ..Chosen::default() };
            info.chosen = Some(chosen);
            let train = Data { x: &tx, y: &ty, positives: &train };
            let held = Data { x: &hx, y: &hy, positives: &held };
            run(backend, train, Some(held), options, clock, &mut info, watch)?
        }
        _ => run(backend, data, validation, options, clock, &mut info, watch)?,
    };
    info.peak_bytes = backend.memory().1;
    info.seconds.total = clock.begin.elapsed().as_secs_f64();
    Ok((model, info))
}

/// One side's features, held features, and the eigenbasis of its Gram matrix.
struct SideData<M> {
    mapped: features::Mapped<M>,
    held: Option<M>,
}

fn load_side<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    held: Option<&dyn RowSource>,
    options: &BestOptions,
    info: &mut FitInfo,
) -> Result<SideData<B::Matrix>> {
    let x = timed(&mut info.seconds.load, || backend.load(source))?;
    let mapped = timed(&mut info.seconds.features, || match &options.kernel {
        Some(k) => features::nystrom(backend, source, &x, k, options.seed, None),
        None => features::linear(backend, x, None),
    })?;
    let held = match held {
        Some(h) => {
            let raw = timed(&mut info.seconds.load, || backend.load(h))?;
            Some(mapped.map.apply(backend, &raw)?.unwrap_or(raw))
        }
        None => None,
    };
    Ok(SideData { mapped, held })
}

#[allow(clippy::too_many_arguments)]
fn run<B: Backend>(
    backend: &B,
    data: Data<'_>,
    validation: Option<Data<'_>>,
    options: &BestOptions,
    clock: Clock,
    info: &mut FitInfo,
    watch: Watch<'_>,
) -> Result<Model> {
    let x = load_side(backend, data.x, validation.map(|v| v.x), options, info)?;
    let y = load_side(backend, data.y, validation.map(|v| v.y), options, info)?;
    let (mx, my) = (&x.mapped.cross, &y.mapped.cross);
    let bound = backend.shape(mx).1.min(backend.shape(my).1);
    let widest = match options.rank {
        Rank::Fixed(r) if r > bound => {
            let what = if options.kernel.is_some() { "the number of features," } else { "min(d1, d2) =" };
            return Err(Error::invalid("rank", format!("at most {what} {bound}"), r));
        }
        Rank::Fixed(r) => r,
        _ => bound,
    };
    let moments = Moments::new(backend, mx, my, &options.loss, data.positives, info)?;
    // Judged on validation rows, or on the training rows where there are none.
    let positives = validation.map_or(data.positives, |v| v.positives);
    let (hx, hy) = (x.held.as_ref().unwrap_or(mx), y.held.as_ref().unwrap_or(my));
    let held = Held { x: hx, y: hy, positives };
    let rotated = timed(&mut info.seconds.validation, || {
        let on = |h: &B::Matrix, q: &Mat<f64>| backend.linear(h, q.transpose());
        Ok::<_, Error>((on(hx, &moments.x.0)?, on(hy, &moments.y.0)?))
    })?;
    let judge = Held { x: &rotated.0, y: &rotated.1, positives };
    // Choices of shrinkage hardly depend on the rank.
    let lists = (&options.whiten[..], &options.powers[..]);
    let choice = choose(backend, &moments, &judge, lists, (widest.min(TRIAL_RANK), widest), &clock, info)?;
    let Choice { lambda, power, top, candidates } = choice;
    let all = Encoders::split(&top, Factorization::Power(power));
    let begin = Instant::now();
    let rank = match options.rank {
        Rank::Fixed(r) => r,
        Rank::Energy(share) => by_energy(&top.all, share),
        Rank::Auto => {
            let mut ranks: Vec<usize> = (2..).map(|k| 1 << k).take_while(|&r| r < bound).collect();
            ranks.push(bound);
            let score = |&r: &usize| judge.score(backend, &moments.on_rotated(lambda, &leading(&all, r)));
            let scores: Vec<f64> = ranks.iter().map(score).collect::<Result<_>>()?;
            let limit = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max) - RANK_TOLERANCE;
            ranks.iter().zip(&scores).find(|(_, s)| **s >= limit).map_or(bound, |(&r, _)| r)
        }
    };
    info.seconds.validation += begin.elapsed().as_secs_f64();
    info.singular_values.clone_from(&top.all);
    let maps = moments.maps(lambda);
    let solver =
        Solver { backend, x: mx, y: my, data, options, lambda, moments: &moments, maps: &maps, rank };
    let mut start = leading(&all, rank);
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
    if !clock.spent(backend.group())? {
        let print = format!("best {rank} {loss:?} {lambda} {power} {:?}", solver.print());
        let variables = solver.alignment(loss).variables(&start);
        let checkpoint = options.checkpoint.as_ref().map(|path| Checkpoint::new(path, &print, &variables));
        encoders = solver.descend(start, loss, judge, clock, checkpoint.as_ref(), info, watch)?;
    }
    if options.final_loss {
        let zx = backend.encode(mx, encoders.f1.as_ref())?.0;
        let zy = backend.encode(my, encoders.f2.as_ref())?.0;
        let s = Similarity::Embeddings(&zx, &zy);
        info.final_loss = Some(backend.weights(s, &loss, data.positives, Negatives::All)?.value());
    }
    let chosen = info.chosen.get_or_insert_default();
    (chosen.whiten, chosen.power, chosen.tau, chosen.rank) = (lambda, power, loss.tau, rank);
    chosen.candidates = candidates;
    let component = Component {
        weight: 1.0,
        x: x.mapped.map.fold(encoders.f1.as_ref()),
        y: y.mapped.map.fold(encoders.f2.as_ref()),
    };
    let record = FitOptions {
        loss,
        n_iters: 1,
        factorization: Factorization::Power(power),
        whiten: Some(lambda),
        seed: options.seed,
        ..FitOptions::new(rank)
    };
    let mut model = Model::new(vec![component], &record);
    model.notes.insert("preset".into(), "best".into());
    info.record(&mut model);
    model.notes.insert("refine_steps".into(), info.trace.len().saturating_sub(1).to_string());
    Ok(model)
}

/// What descends: the data in solver features and everything chosen for it.
struct Solver<'a, B: Backend> {
    backend: &'a B,
    x: &'a B::Matrix,
    y: &'a B::Matrix,
    data: Data<'a>,
    options: &'a BestOptions,
    lambda: f64,
    moments: &'a Moments,
    maps: &'a (Mat<f64>, Mat<f64>),
    rank: usize,
}

impl<B: Backend> Solver<'_, B> {
    /// `F = A W`.
    fn folded(&self, a: &Encoders) -> Encoders {
        Encoders { f1: &a.f1 * &self.maps.0, f2: &a.f2 * &self.maps.1 }
    }

    /// What a checkpoint must agree on.
    fn print(&self) -> String {
        let (o, p) = (self.options, self.data.positives);
        let (minibatch, refine, stages) = (o.descent(p), &o.refine, (o.sample, o.exact));
        format!("{minibatch:?} {refine:?} {stages:?} {} {} {} {}", p.n_x(), p.n_y(), p.nnz(), o.seed)
    }

    fn alignment(&self, loss: Loss) -> Alignment<'_, B> {
        Alignment {
            backend: self.backend,
            x: self.x,
            y: self.y,
            positives: self.data.positives,
            loss,
            negatives: Negatives::All,
            maps: Some((&self.maps.0, &self.maps.1)),
            rank: self.rank,
            seconds: Default::default(),
        }
    }

    /// The loss with the temperature that judges best after a few steps from `start`.
    fn temperature(
        &self,
        start: &Encoders,
        held: &Held<'_, B::Matrix>,
        clock: Clock,
        info: &mut FitInfo,
    ) -> Result<Loss> {
        let (mut best, mut chosen) = (f64::NEG_INFINITY, self.options.loss);
        let minibatch = self.options.minibatch.map(|m| MinibatchOptions {
            epochs: 1,
            min_steps: 0,
            max_steps: TAU_STEPS.1,
            ..m
        });
        let refine = RefineOptions { max_steps: TAU_STEPS.0, ..self.options.refine.clone() };
        let options = BestOptions { minibatch, refine, sample: None, exact: false, ..self.options.clone() };
        let short = Solver { options: &options, ..*self };
        for tau in TAUS {
            let loss = Loss { tau, ..self.options.loss };
            let mut part = FitInfo::default();
            let e = short.descend(start.clone(), loss, None, clock, None, &mut part, &mut |_| Ok(()))?;
            let score = held.score(self.backend, &e)?;
            info.evaluations += part.evaluations;
            if score > best {
                (best, chosen) = (score, loss);
            }
            if clock.spent(self.backend.group())? {
                break;
            }
        }
        Ok(chosen)
    }

    /// Descends from encoders `A` of whitened features: on mini-batches where there are enough rows, then by L-BFGS
    /// where that is asked for or nothing was done yet.
    #[allow(clippy::too_many_arguments)]
    fn descend(
        &self,
        start: Encoders,
        loss: Loss,
        judge: Option<&Held<'_, B::Matrix>>,
        clock: Clock,
        checkpoint: Option<&Checkpoint>,
        info: &mut FitInfo,
        watch: Watch<'_>,
    ) -> Result<Encoders> {
        let (o, positives) = (self.options, self.data.positives);
        let minibatch = o.descent(positives);
        let refining = match checkpoint {
            Some(c) => c.load(self.backend.group(), "refine")?.is_some(),
            None => false,
        };
        let mut start = start;
        let mut encoders = None;
        if let Some(options) = minibatch
            && !refining
        {
            let metric = self.moments.metric(self.lambda);
            let descent = Descent {
                backend: self.backend,
                x: self.x,
                y: self.y,
                positives,
                loss,
                metric: (&metric.0, &metric.1),
                options,
                seed: o.seed,
            };
            let size = |a: &Mat<f64>| a.norm_l2().powi(2);
            let sizes = (size(&start.f1), size(&start.f2));
            let run = minibatch::Run { held: judge, clock, checkpoint };
            let e = descent.run(&self.folded(&start), sizes, run, info, watch)?;
            start = self.moments.unwhiten(&e, self.lambda);
            encoders = Some(e);
        }
        let refinement = RefineOptions { stages: o.stages(minibatch.is_some()), ..o.refine.clone() };
        let wanted = !refinement.stages.is_empty() && refinement.max_steps > 0;
        if wanted && (encoders.is_none() || !clock.spent(self.backend.group())?) {
            let f = self.alignment(loss);
            let variables = f.variables(&start);
            let run = Run { held: judge, options: &refinement, clock, checkpoint };
            return refine(f, variables, run, info, watch);
        }
        Ok(encoders.unwrap_or_else(|| self.folded(&start)))
    }
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

/// The smallest rank whose squared singular values make up `share` of all.
fn by_energy(values: &[f64], share: f64) -> usize {
    let total: f64 = values.iter().map(|v| v * v).sum();
    let mut sum = 0.0;
    for (k, v) in values.iter().enumerate() {
        sum += v * v;
        if sum >= share * total {
            return k + 1;
        }
    }
    values.len().max(1)
}
