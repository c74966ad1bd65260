//! The preset `best`: whitening, one spectral step from zeros, refinement on sampled negatives, with everything that is
//! not given chosen on validation rows.
//!
//! Gram matrices and the cross-covariance are computed once and rotated into the Gram matrices' eigenbases; each
//! candidate shrinkage is then one small SVD. The refinement works in whitened coordinates without a whitened copy of
//! the data.

use super::checkpoint::Checkpoint;
use super::features;
use super::held::split;
use super::info::{Chosen, FitInfo};
use super::objective::Alignment;
use super::options::{Factorization, FitOptions, KernelOptions};
use super::refine::{Clock, Held, Iterate, RefineOptions, Run, Watch, refine};
use super::solve::Encoders;
use super::{Data, check_data, timed};
use crate::backend::{Backend, Similarity};
use crate::error::{Error, Result};
use crate::io::{RowSource, Rows};
use crate::loss::Loss;
use crate::model::{Component, Model};
use crate::positives::Positives;
use crate::spectral::{self, TopR};
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
/// Steps of refinement that judge a temperature.
const TAU_STEPS: usize = 3;
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
    /// The refinement; its stages are replaced by those of `sample` and `exact`.
    pub refine: RefineOptions,
    /// Nystrom encoders. Default none: linear.
    pub kernel: Option<KernelOptions>,
    /// Sampled negatives per row in the first stage; none: all. Default 512.
    pub sample: Option<usize>,
    /// End in a stage with all negatives. Default false.
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
            sample: Some(512),
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
            return Err(Error::invalid("sample", "at least 1 negative per row", 0));
        }
        if self.kernel.as_ref().is_some_and(|k| k.landmarks == super::Landmarks::Exact) {
            return Err(Error::Unsupported("the preset `best` on the exact kernel: use landmarks".into()));
        }
        Ok(())
    }

    /// Stages of sampled negatives: a first sample, another of four times its size, and all on request.
    fn stages(&self) -> Vec<Negatives> {
        let mut stages = Vec::new();
        if let Some(m) = self.sample {
            stages.push(Negatives::Sampled { per_anchor: m, seed: self.seed });
            stages.push(Negatives::Sampled { per_anchor: m, seed: self.seed.wrapping_add(1) });
        }
        if self.exact || stages.is_empty() {
            stages.push(Negatives::All);
        }
        stages
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

/// The rotated second moments: `G = Q diag(e) Q^T` on both sides and `M = Q_x^T C Q_y` with `C` of the first update.
struct Moments {
    x: (Mat<f64>, Vec<f64>),
    y: (Mat<f64>, Vec<f64>),
    m: Mat<f64>,
}

impl Moments {
    fn new<B: Backend>(
        backend: &B,
        x: &B::Matrix,
        y: &B::Matrix,
        loss: &Loss,
        positives: &Positives,
        info: &mut FitInfo,
    ) -> Result<Self> {
        let (gx, gy) =
            timed(&mut info.seconds.features, || Ok::<_, Error>((backend.gram(x)?, backend.gram(y)?)))?;
        let s = Similarity::Zeros(positives.n_x(), positives.n_y());
        let w = timed(&mut info.seconds.statistics, || backend.weights(s, loss, positives, Negatives::All))?;
        let c = timed(&mut info.seconds.weights, || backend.cross(s, &w, x, y))?;
        let grams = [(gx, positives.n_x()), (gy, positives.n_y())];
        let [x, y] = timed(&mut info.seconds.spectral, || {
            let eigen = backend
                .parallel(&grams, |(g, n)| spectral::eigen((g * faer::Scale(1.0 / *n as f64)).as_ref()));
            let mut eigen = eigen.into_iter();
            match (eigen.next(), eigen.next()) {
                (Some(x), Some(y)) => Ok([x?, y?]),
                _ => Err(Error::Numerical("an eigendecomposition is missing".into())),
            }
        })?;
        let m = x.0.transpose() * &c * &y.0;
        Ok(Self { x, y, m })
    }

    /// `(e + lambda mean(e))^{-1/2}`; directions without variance stay out.
    fn scales(values: &[f64], lambda: f64) -> Vec<f64> {
        let mean = values.iter().map(|v| v.max(0.0)).sum::<f64>() / values.len().max(1) as f64;
        let scale = |&v: &f64| {
            let v = v.max(0.0) + lambda * mean;
            if v > 1e-10 * mean && v > 0.0 { 1.0 / v.sqrt() } else { 0.0 }
        };
        values.iter().map(scale).collect()
    }

    /// The leading singular triplets of the whitened `C`, in whitened coordinates.
    fn solve(&self, lambda: f64, rank: usize) -> Result<TopR> {
        let (dx, dy) = (Self::scales(&self.x.1, lambda), Self::scales(&self.y.1, lambda));
        let c = Mat::from_fn(dx.len(), dy.len(), |i, j| dx[i] * self.m[(i, j)] * dy[j]);
        spectral::top_r_by_gram(c.as_ref(), rank)
    }

    /// The whitening maps `diag(scales) Q^T` of both sides.
    fn maps(&self, lambda: f64) -> (Mat<f64>, Mat<f64>) {
        let map = |(q, e): &(Mat<f64>, Vec<f64>)| {
            let d = Self::scales(e, lambda);
            Mat::from_fn(d.len(), q.nrows(), |i, j| d[i] * q[(j, i)])
        };
        (map(&self.x), map(&self.y))
    }
}

/// `F diag(scales)`.
fn scaled(f: &Mat<f64>, scales: &[f64]) -> Mat<f64> {
    Mat::from_fn(f.nrows(), f.ncols(), |i, j| f[(i, j)] * scales[j])
}

/// The leading `rank` rows of both encoders.
fn leading(e: &Encoders, rank: usize) -> Encoders {
    Encoders { f1: e.f1.subrows(0, rank).to_owned(), f2: e.f2.subrows(0, rank).to_owned() }
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
            return Err(Error::invalid("rank", format!("at most the number of features, {bound}"), r));
        }
        Rank::Fixed(r) => r,
        _ => bound,
    };
    let moments = Moments::new(backend, mx, my, &options.loss, data.positives, info)?;
    // Judged on validation rows, or on (some of) the training rows where there are none.
    let positives = validation.map_or(data.positives, |v| v.positives);
    let (hx, hy) = (x.held.as_ref().unwrap_or(mx), y.held.as_ref().unwrap_or(my));
    let held = Held { x: hx, y: hy, positives };
    let rotated = timed(&mut info.seconds.validation, || {
        Ok::<_, Error>((
            backend.linear(hx, moments.x.0.transpose())?,
            backend.linear(hy, moments.y.0.transpose())?,
        ))
    })?;
    let judge = Held { x: &rotated.0, y: &rotated.1, positives };
    let on_rotated = |lambda: f64, e: &Encoders| Encoders {
        f1: scaled(&e.f1, &Moments::scales(&moments.x.1, lambda)),
        f2: scaled(&e.f2, &Moments::scales(&moments.y.1, lambda)),
    };
    // A first look at the rank: choices of shrinkage hardly depend on it.
    let trial = widest.min(128);
    let mut candidates = Vec::new();
    let mut score = |lambda: f64, power: f64, top: &TopR, info: &mut FitInfo| {
        let e = leading(&Encoders::split(top, Factorization::Power(power)), trial);
        let score = timed(&mut info.seconds.validation, || judge.score(backend, &on_rotated(lambda, &e)))?;
        candidates.push((lambda, power, score));
        Ok::<_, Error>(score)
    };
    // The balanced split, if it is among the powers, stands for all while the shrinkage is chosen.
    let usual = options.powers.iter().copied().find(|p| *p == 0.5).unwrap_or(options.powers[0]);
    let mut lambdas = options.whiten.clone();
    lambdas.sort_by(|a, b| b.total_cmp(a));
    lambdas.dedup();
    let mut tried: Vec<Option<(f64, TopR)>> = lambdas.iter().map(|_| None).collect();
    let mut next = vec![lambdas.len() / 3, 2 * lambdas.len() / 3];
    next.dedup();
    let best = loop {
        let solved = timed(&mut info.seconds.spectral, || {
            backend.parallel(&next, |&k| moments.solve(lambdas[k], widest))
        });
        for (&k, top) in next.iter().zip(solved) {
            let top = top?;
            tried[k] = Some((score(lambdas[k], usual, &top, info)?, top));
        }
        // Uphill from neighbour to neighbour.
        let value = |k: &usize| tried[*k].as_ref().map_or(f64::NEG_INFINITY, |t| t.0);
        let best = (0..lambdas.len()).max_by(|a, b| value(a).total_cmp(&value(b))).unwrap_or(0);
        let neighbours = [best.checked_sub(1), Some(best + 1)].into_iter().flatten();
        next = neighbours.filter(|&k| k < lambdas.len() && tried[k].is_none()).collect();
        if next.is_empty() || clock.spent(backend.group())? {
            break best;
        }
    };
    let (lambda, (mut highest, top)) = match tried.swap_remove(best) {
        Some(tried) => (lambdas[best], tried),
        None => return Err(Error::invalid("whiten", "at least one candidate", "none")),
    };
    drop(tried);
    let mut power = usual;
    for &p in options.powers.iter().filter(|&&p| p != usual) {
        let value = score(lambda, p, &top, info)?;
        if value > highest {
            (highest, power) = (value, p);
        }
    }
    let all = Encoders::split(&top, Factorization::Power(power));
    let begin = Instant::now();
    let rank = match options.rank {
        Rank::Fixed(r) => r,
        Rank::Energy(share) => by_energy(&top.all, share),
        Rank::Auto => {
            let mut ranks: Vec<usize> = (2..).map(|k| 1 << k).take_while(|&r| r < bound).collect();
            ranks.push(bound);
            let scores: Vec<f64> = ranks
                .iter()
                .map(|&r| judge.score(backend, &on_rotated(lambda, &leading(&all, r))))
                .collect::<Result<_>>()?;
            let limit = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max) - RANK_TOLERANCE;
            ranks.iter().zip(&scores).find(|(_, s)| **s >= limit).map_or(bound, |(&r, _)| r)
        }
    };
    info.seconds.validation += begin.elapsed().as_secs_f64();
    info.singular_values.clone_from(&top.all);
    let start = leading(&all, rank);
    let (wx, wy) = moments.maps(lambda);
    let spectral_seconds = clock.begin.elapsed().as_secs_f64();
    let first = Encoders { f1: &start.f1 * &wx, f2: &start.f2 * &wy };
    watch(Iterate { x: &first.f1, y: &first.f2, seconds: spectral_seconds, loss: f64::NAN })?;

    let alignment = |loss: Loss| Alignment {
        backend,
        x: mx,
        y: my,
        positives: data.positives,
        loss,
        negatives: Negatives::All,
        maps: Some((&wx, &wy)),
        rank,
        seconds: Default::default(),
    };
    let refinement = RefineOptions { stages: options.stages(), ..options.refine.clone() };
    let mut loss = options.loss;
    if options.tau_auto {
        let short = RefineOptions { max_steps: TAU_STEPS, ..refinement.clone() };
        let mut best_score = f64::NEG_INFINITY;
        for tau in TAUS {
            let candidate = Loss { tau, ..options.loss };
            let mut part = FitInfo::default();
            let f = alignment(candidate);
            let variables = f.variables(&start);
            let run = Run { held: Some(&held), options: &short, clock, checkpoint: None };
            let e = refine(f, variables, run, &mut part, &mut |_| Ok(()))?;
            let score = held.score(backend, &e)?;
            info.evaluations += part.evaluations;
            if score > best_score {
                (best_score, loss) = (score, candidate);
            }
        }
    }
    let judge_start = &held;
    let held = validation.is_some().then_some(&held);
    let mut encoders = first;
    let mut variables = alignment(loss).variables(&start);
    if let Some(warm) = &options.start {
        let given = warm_start(warm, &x.mapped, &y.mapped, rank)?;
        let better = judge_start.score(backend, &given)? > judge_start.score(backend, &encoders)?;
        if better {
            let a = Encoders {
                f1: unwhiten(&given.f1, &moments.x, lambda),
                f2: unwhiten(&given.f2, &moments.y, lambda),
            };
            variables = alignment(loss).variables(&a);
            encoders = given;
        }
    }
    if refinement.max_steps > 0 && !clock.spent(backend.group())? {
        let shape = (data.positives.n_x(), data.positives.n_y(), data.positives.nnz());
        let print =
            format!("best {rank} {loss:?} {lambda} {power} {refinement:?} {shape:?} {}", options.seed);
        let checkpoint = options.checkpoint.as_ref().map(|path| Checkpoint::new(path, &print));
        let run = Run { held, options: &refinement, clock, checkpoint: checkpoint.as_ref() };
        encoders = refine(alignment(loss), variables, run, info, watch)?;
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

/// `A` with `F = A diag(scales) Q^T`.
fn unwhiten(f: &Mat<f64>, (q, values): &(Mat<f64>, Vec<f64>), lambda: f64) -> Mat<f64> {
    let inverse: Vec<f64> =
        Moments::scales(values, lambda).iter().map(|s| if *s > 0.0 { 1.0 / s } else { 0.0 }).collect();
    scaled(&(f * q), &inverse)
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
