//! Descent on mini-batches in whitened coordinates: the fast part of the preset `best` on large data.
//!
//! ```text
//! V <- m V + (1 - m) dL/dF of the batch,     F <- F - eta V W^T W,     |eta V W^T|_F = rate |F W^-1|_F
//! ```
//!
//! Every step is a share of the encoders' norm along the averaged gradient, both measured in whitened coordinates: no
//! learning rate to tune. Negatives of a batch are weighed to stand for all (`eps_neg` times all over seen), so that a
//! batch's gradient is that of the global loss but for sampling noise. What is scored on the validation rows is the mean of
//! the latest iterates, which has most of that noise averaged out.

use super::checkpoint::Saved;
use super::info::{FitInfo, FitStatus, TracePoint};
use super::linear::Encoders;
use super::metric::Metric;
use super::monitor::Monitor;
use super::options::MinibatchOptions;
use super::timed;
use super::validation::{Best, Selection, Validation};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use faer::Mat;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Iterates whose mean is scored: half an epoch, within these bounds.
const WINDOW: (usize, usize) = (8, 64);

/// One encoder `F = A W` (`r x d`) with its averaged gradient, and `|A|^2`.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    f: Mat<f64>,
    velocity: Mat<f64>,
    size: f64,
}

impl Part {
    fn new(f: &Mat<f64>, size: f64) -> Self {
        Self { f: f.clone(), velocity: Mat::zeros(f.nrows(), f.ncols()), size }
    }
}

/// What a run remembers between validations.
#[derive(Clone, Debug, PartialEq)]
struct State {
    x: Part,
    y: Part,
    steps: usize,
    selection: Selection<Encoders>,
    /// Length of the steps as a share of the schedule's.
    slower: f64,
    done: bool,
}

/// What is not a tensor of a saved state.
#[derive(Serialize, Deserialize)]
struct Header {
    steps: usize,
    stale: usize,
    best: bool,
    done: bool,
    #[serde(default)]
    returned: Option<usize>,
}

/// The problem, in solver features.
pub(crate) struct Descent<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) x: &'a B::Matrix,
    pub(crate) y: &'a B::Matrix,
    pub(crate) positives: &'a Positives,
    pub(crate) loss: Loss,
    /// `W^T W` of the whitening maps: what turns a gradient of `F` into the change of `F` that a step along the
    /// gradient of `A` makes.
    pub(crate) metric: (&'a Metric, &'a Metric),
    pub(crate) options: MinibatchOptions,
    pub(crate) seed: u64,
}

impl<B: Backend> Descent<'_, B> {
    /// Pairs of the longer side's rows with one of their positives each, in the order of an epoch.
    fn pairs(&self, epoch: usize) -> Vec<(u32, u32)> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch as u64 + 1);
        let p = self.positives;
        let mut one = |list: &[u32]| match list {
            [] => None,
            [only] => Some(*only),
            _ => Some(list[rng.random_range(0..list.len())]),
        };
        let mut pairs: Vec<(u32, u32)> = if p.n_x() >= p.n_y() {
            (0..p.n_x()).filter_map(|i| Some((i as u32, one(p.row(i))?))).collect()
        } else {
            (0..p.n_y()).filter_map(|j| Some((one(p.col(j))?, j as u32))).collect()
        };
        pairs.shuffle(&mut rng);
        pairs
    }

    /// How many pairs [`pairs`](Self::pairs) gives.
    fn pair_count(&self) -> usize {
        let p = self.positives;
        if p.n_x() >= p.n_y() {
            (0..p.n_x()).filter(|&i| !p.row(i).is_empty()).count()
        } else {
            (0..p.n_y()).filter(|&j| !p.col(j).is_empty()).count()
        }
    }

    /// The loss with a batch's negatives standing for all.
    fn weighed(&self, batch: &Positives) -> Loss {
        let negatives = |p: &Positives| p.n_x() as f64 * p.n_y() as f64 - p.nnz() as f64;
        let (all, seen) = (negatives(self.positives), negatives(batch));
        if !(all > 0.0 && seen > 0.0) {
            return self.loss.clone();
        }
        let rows = batch.n_x() as f64 / self.positives.n_x() as f64;
        let cols = batch.n_y() as f64 / self.positives.n_y() as f64;
        // Rows and columns may want a different factor: the mean of both.
        let factor = all / seen * (rows * cols).sqrt();
        Loss { eps_neg: self.loss.eps_neg * factor, ..self.loss.clone() }
    }

    /// One step of `rate` times the encoders' norm; the batch's loss, or none at a stationary point.
    fn step(
        &self,
        pairs: &[(u32, u32)],
        state: &mut State,
        rate: f64,
        info: &mut FitInfo,
    ) -> Result<Option<f64>> {
        let backend = self.backend;
        let (ids_x, ids_y, positives) = self.positives.among(pairs)?;
        let loss = self.weighed(&positives);
        let seconds = &mut info.seconds;
        let (x, y, (zx, nx), (zy, ny)) = timed(&mut seconds.encode, || {
            let (x, y) = (backend.select(self.x, &ids_x)?, backend.select(self.y, &ids_y)?);
            let (zx, zy) = (backend.encode(&x, state.x.f.as_ref())?, backend.encode(&y, state.y.f.as_ref())?);
            Ok::<_, Error>((x, y, zx, zy))
        })?;
        let (value, gx, gy) = timed(&mut seconds.weights, || {
            backend.loss_gradients(&zx, &zy, &loss, &positives, NegativeSampling::All)
        })?;
        let (g1, g2) = timed(&mut seconds.encode, || {
            let g1 = backend.encode_backward(&x, &zx, &nx, &gx)?;
            Ok::<_, Error>((g1, backend.encode_backward(&y, &zy, &ny, &gy)?))
        })?;
        let momentum = self.options.momentum;
        let sides = [(&state.x, g1, self.metric.0), (&state.y, g2, self.metric.1)];
        let moves = backend.parallel(&sides, |(part, g, metric)| {
            let velocity = &part.velocity * faer::Scale(momentum) + g * faer::Scale(1.0 - momentum);
            let direction = metric.turned(&velocity);
            let (square, along) = (product(&velocity, &direction), product(&part.f, &velocity));
            (velocity, direction, square, along)
        });
        let square: f64 = moves.iter().map(|m| m.2).sum();
        // Written so that NaN ends it too.
        if !(square > 0.0 && square.is_finite() && value.is_finite()) {
            return Ok(None);
        }
        let eta = rate * ((state.x.size + state.y.size) / square).sqrt();
        for (part, (velocity, direction, square, along)) in
            [&mut state.x, &mut state.y].into_iter().zip(moves)
        {
            part.f -= direction * faer::Scale(eta);
            part.size += eta * (eta * square - 2.0 * along);
            part.velocity = velocity;
        }
        state.steps += 1;
        Ok(Some(value))
    }

    /// Descends from encoders `F = A W` with `|A_1|^2`, `|A_2|^2` in `sizes`; returns the best mean of iterates by
    /// validation score where there is one, else the last iterate.
    pub(crate) fn run(
        &self,
        start: &Encoders,
        sizes: (f64, f64),
        validation: Option<&Validation<'_, B::Matrix>>,
        monitor: &mut Monitor<'_>,
    ) -> Result<Encoders> {
        let o = &self.options;
        // How long a validation takes; the start's tells, and counts as that of the first iterate.
        let mut look = 0.0;
        let mut state = self.first(start, sizes, validation, &mut look, monitor)?;
        let count = self.pair_count();
        let batch = o.batch.min(count).max(1);
        let per = (count / batch).max(1);
        let total = o.epochs.saturating_mul(per).max(o.min_steps).min(o.max_steps);
        let every = (per / 2).clamp(WINDOW.0, WINDOW.1);
        // The first steps gain most: they are validated sooner.
        let first_look = every / 3;
        let began = monitor.clock.elapsed();
        let (mut epoch, mut pairs, mut window) = (usize::MAX, Vec::new(), Window::default());
        while !state.done {
            if state.steps / per != epoch {
                epoch = state.steps / per;
                pairs = self.pairs(epoch);
            }
            // How much is done, in steps or in time, whichever is further.
            let share = (state.steps as f64 / total as f64).max(monitor.share(began)?);
            let rate = 0.5 * o.rate * state.slower * (1.0 + (std::f64::consts::PI * share.min(1.0)).cos());
            let first = state.steps % per * batch;
            let chunk = &pairs[first.min(pairs.len())..(first + batch).min(pairs.len())];
            let begin = Instant::now();
            let value = match chunk {
                [] => None,
                chunk => self.step(chunk, &mut state, rate, monitor.info)?,
            };
            if let Some(value) = value {
                window.add(&state, value);
                monitor.info.evaluations += 1;
            }
            let due = state.steps == first_look || state.steps.is_multiple_of(every);
            // Another step, the validation that is due, and the last one, of two iterates.
            let expected = begin.elapsed().as_secs_f64() + if due { 3.0 } else { 2.0 } * look;
            let late = state.steps < total && !monitor.goes_on(expected)?;
            state.done = value.is_none() || late || state.steps >= total;
            if window.count > 0 && (state.done || due) {
                let falling = self.observe(&mut state, &window, validation, monitor)?;
                window = Window::default();
                let stale = state.selection.stale;
                let patience = if state.slower < 1.0 { o.patience / 2 } else { o.patience };
                if !state.done && validation.is_some() && stale >= patience.max(1) {
                    (state.done, monitor.info.status) = (true, FitStatus::Converged);
                } else if stale > 0 && stale == o.patience / 2 && !falling {
                    state.go_back();
                }
                state.save(monitor)?;
                let loss = monitor.info.trace.last().map_or(f64::NAN, |t| t.loss);
                monitor.progress(state.steps, total, loss)?;
            }
        }
        let State { x, y, selection, .. } = state;
        Ok(selection.best.map_or(Encoders { f1: x.f, f2: y.f }, |best| best.iterate))
    }

    /// The state that an earlier run left on disk, or that of the start, validated in `look` seconds.
    fn first(
        &self,
        start: &Encoders,
        sizes: (f64, f64),
        validation: Option<&Validation<'_, B::Matrix>>,
        look: &mut f64,
        monitor: &mut Monitor<'_>,
    ) -> Result<State> {
        let (x, y) = (Part::new(&start.f1, sizes.0), Part::new(&start.f2, sizes.1));
        let selection = Selection::new(None);
        let mut state = State { x, y, steps: 0, selection, slower: 1.0, done: false };
        if let Some(saved) = monitor.saved(PHASE)? {
            state = State::read(&saved, state)?;
            monitor.info.returned = saved.header::<Header>()?.returned;
            saved.resume(monitor.info);
        } else if let Some(validation) = validation {
            let scores = timed(look, || validation.scores(self.backend, start))?;
            monitor.seconds().validation += *look;
            state.selection = Selection::new(Some(Best::new(scores, start.clone())));
        }
        Ok(state)
    }

    /// Validates the mean of the latest iterates, and at the end the last one too, and records the better. Whether the loss
    /// on the validation rows is the lowest so far.
    fn observe(
        &self,
        state: &mut State,
        window: &Window,
        validation: Option<&Validation<'_, B::Matrix>>,
        monitor: &mut Monitor<'_>,
    ) -> Result<bool> {
        let mut encoders = window.mean().unwrap_or_else(|| state.last());
        let (mut score, mut best, mut falling) = (None, true, false);
        if let Some(validation) = validation {
            let begin = Instant::now();
            let mut scores = validation.scores(self.backend, &encoders)?;
            if state.done {
                let last = state.last();
                let of_last = validation.scores(self.backend, &last)?;
                if Best::new(scores, ()).meet(of_last, || ()).better {
                    (scores, encoders) = (of_last, last);
                }
            }
            monitor.seconds().validation += begin.elapsed().as_secs_f64();
            score = Some(scores.score);
            let met = state.selection.meet(scores, || encoders.clone());
            (best, falling) = (met.better, met.falling);
        }
        let loss = window.loss / window.count as f64;
        let (negatives, evaluations) = (Some(self.options.batch - 1), monitor.info.evaluations);
        let point = TracePoint { loss, negatives, evaluations, score, ..TracePoint::default() };
        monitor.iterate(&encoders, point, best)?;
        Ok(falling)
    }
}

/// The phase of a checkpoint.
const PHASE: &str = "minibatch";

/// Sums over the latest iterates.
#[derive(Default)]
struct Window {
    sum: Option<Encoders>,
    loss: f64,
    count: usize,
}

impl Window {
    fn add(&mut self, state: &State, loss: f64) {
        match &mut self.sum {
            Some(sum) => {
                sum.f1 += &state.x.f;
                sum.f2 += &state.y.f;
            }
            None => self.sum = Some(state.last()),
        }
        self.loss += loss;
        self.count += 1;
    }

    fn mean(&self) -> Option<Encoders> {
        let scale = faer::Scale(1.0 / self.count as f64);
        self.sum.as_ref().map(|s| Encoders { f1: &s.f1 * scale, f2: &s.f2 * scale })
    }
}

impl State {
    /// Back to the best iterate, with steps a quarter as long: long ones lead away from it.
    fn go_back(&mut self) {
        let Some(best) = &self.selection.best else { return };
        for (part, f) in [(&mut self.x, &best.iterate.f1), (&mut self.y, &best.iterate.f2)] {
            *part = Part::new(f, part.size);
        }
        (self.slower, self.selection.stale) = (0.25, 0);
    }

    fn last(&self) -> Encoders {
        Encoders { f1: self.x.f.clone(), f2: self.y.f.clone() }
    }

    fn save(&self, monitor: &Monitor<'_>) -> Result<()> {
        let (steps, done, selection) = (self.steps, self.done, &self.selection);
        let (stale, best, returned) = (selection.stale, selection.best.is_some(), monitor.info.returned);
        let header = Header { steps, stale, best, done, returned };
        let sizes = [self.x.size, self.y.size, self.slower];
        let scalars = [&sizes[..], &selection.numbers()].concat();
        let parts = [&self.x.f, &self.x.velocity, &self.y.f, &self.y.velocity].map(columns);
        let best = selection.best.as_ref().map(|b| [columns(&b.iterate.f1), columns(&b.iterate.f2)]);
        let mut tensors: Vec<(String, &[f64])> = vec![("scalars".into(), &scalars)];
        for (name, values) in ["x.f", "x.velocity", "y.f", "y.velocity"].iter().zip(&parts) {
            tensors.push(((*name).into(), values));
        }
        for (name, values) in ["best.x", "best.y"].iter().zip(best.iter().flatten()) {
            tensors.push(((*name).into(), values));
        }
        monitor.save(PHASE, &header, tensors)
    }

    /// A saved state, of the shapes of `like`.
    fn read(saved: &Saved, like: Self) -> Result<Self> {
        let header: Header = saved.header()?;
        let scalars = saved.tensor("scalars", 7)?;
        let matrix = |name: &str, like: &Mat<f64>| {
            let (r, d) = (like.nrows(), like.ncols());
            let values = saved.tensor(name, r * d)?;
            Ok::<_, Error>(Mat::from_fn(r, d, |i, j| values[j * r + i]))
        };
        let part = |side: &str, like: &Part, size: f64| {
            let f = matrix(&format!("{side}.f"), &like.f)?;
            Ok::<_, Error>(Part { f, velocity: matrix(&format!("{side}.velocity"), &like.f)?, size })
        };
        let best = match header.best {
            true => {
                let (f1, f2) = (matrix("best.x", &like.x.f)?, matrix("best.y", &like.y.f)?);
                Some(Encoders { f1, f2 })
            }
            false => None,
        };
        let (x, y) = (part("x", &like.x, scalars[0])?, part("y", &like.y, scalars[1])?);
        let Header { steps, stale, done, .. } = header;
        let selection = Selection::read(&scalars[3..], stale, best);
        Ok(Self { x, y, steps, selection, slower: scalars[2], done })
    }
}

fn columns(m: &Mat<f64>) -> Vec<f64> {
    (0..m.ncols()).flat_map(|j| m.col(j).iter().copied()).collect()
}

/// `sum_ij a_ij b_ij`.
fn product(a: &Mat<f64>, b: &Mat<f64>) -> f64 {
    (0..a.ncols()).map(|j| a.col(j).iter().zip(b.col(j).iter()).map(|(a, b)| a * b).sum::<f64>()).sum()
}
