//! The paper's update with a line search: `F1^T F2 <- [F1^T F2 + eta C]_r`, which never raises the loss.
//!
//! `C` is the gradient in the similarities; it ignores how the embeddings' norms change with the encoders. Where it
//! does not point downhill the iteration ends, and refinement, which follows the exact gradient, goes on.

use super::info::{FitInfo, FitStatus, TracePoint};
use super::linear::{Encoders, Problem, leading_triplets};
use super::refine::Clock;
use super::sampling::sampling_error;
use super::timed;
use crate::backend::{Backend, Similarity, inverse_lengths};
use crate::control::{Phase, Progress};
use crate::error::{Error, Result};
use crate::similarity::{NegativeSampling, Weights};
use crate::spectral::{self, TopR};
use faer::Mat;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Options of the damped iteration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DampingOptions {
    /// First step tried, as `|eta C| / |F1^T F2|`. Later searches begin where the last one ended. Default 1.
    pub first: f64,
    /// Halvings of a step before the iteration counts as converged. Default 12.
    pub halvings: usize,
    /// Stop when a step lowers the loss by less than this share. Default 1e-4.
    pub tol: f64,
}

impl Default for DampingOptions {
    fn default() -> Self {
        Self { first: 1.0, halvings: 12, tol: 1e-4 }
    }
}

impl DampingOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        if !(self.first.is_finite() && self.first > 0.0) {
            return Err(Error::invalid("damping first", "a finite number > 0", self.first));
        }
        if !(self.tol.is_finite() && self.tol >= 0.0) {
            return Err(Error::invalid("damping tol", "a finite number >= 0", self.tol));
        }
        Ok(())
    }
}

/// `G = U diag(s) V^T` and `C_r = U' diag(s') V'^T` in a common pair of bases, so that every `[G + eta C_r]_r` is one
/// SVD of at most `2r x 2r`.
struct Sum {
    left: Mat<f64>,
    right: Mat<f64>,
    g: Mat<f64>,
    c: Mat<f64>,
}

impl Sum {
    fn new(g: &TopR, c: &TopR) -> Self {
        let beside = |a: &Mat<f64>, b: &Mat<f64>| {
            let k = a.ncols();
            Mat::from_fn(a.nrows(), k + b.ncols(), |i, j| if j < k { a[(i, j)] } else { b[(i, j - k)] })
        };
        let (left, right) = (beside(&g.u, &c.u).qr(), beside(&g.v, &c.v).qr());
        let (ru, rv) = (left.thin_R().to_owned(), right.thin_R().to_owned());
        let core = |s: &[f64], from: usize| {
            let side = |r: &Mat<f64>| r.subcols(from, s.len()).to_owned();
            let (u, v) = (side(&ru), side(&rv));
            Mat::from_fn(u.nrows(), s.len(), |i, j| u[(i, j)] * s[j]) * v.transpose()
        };
        let (g, c) = (core(&g.s, 0), core(&c.s, g.s.len()));
        Self { left: left.compute_thin_Q(), right: right.compute_thin_Q(), g, c }
    }

    /// The leading `r` triplets of `G + eta C_r`.
    fn top(&self, eta: f64, r: usize) -> Result<TopR> {
        let core = &self.g + &self.c * faer::Scale(eta);
        let some = r.min(core.nrows()).min(core.ncols());
        let top = spectral::top_r(core.as_ref(), some, spectral::SvdMethod::Full)?.widened(r);
        Ok(TopR { u: &self.left * &top.u, v: &self.right * &top.v, ..top })
    }
}

fn size(s: &[f64]) -> f64 {
    s.iter().map(|s| s * s).sum::<f64>().sqrt()
}

/// Embeddings of both sides with their norms, and what pass 1 said of them.
struct At<M> {
    zx: (M, Vec<f64>),
    zy: (M, Vec<f64>),
    w: Weights,
}

impl<M> At<M> {
    fn value(&self) -> f64 {
        self.w.value()
    }
}

impl<B: Backend> Problem<'_, B> {
    fn at(&self, e: &Encoders, negatives: NegativeSampling, info: &mut FitInfo) -> Result<At<B::Matrix>> {
        let (zx, zy) = timed(&mut info.seconds.encode, || {
            let zx = self.backend.encode(self.x.embed(), e.f1.as_ref())?;
            Ok::<_, Error>((zx, self.backend.encode(self.y.embed(), e.f2.as_ref())?))
        })?;
        let s = Similarity::Embeddings(&zx.0, &zy.0);
        let w = timed(&mut info.seconds.statistics, || {
            self.backend.weights(s, &self.options.loss, self.positives, negatives)
        })?;
        info.evaluations += 1;
        Ok(At { zx, zy, w })
    }

    /// `C` at embeddings; of sampled negatives with its estimated relative error.
    fn gradient(&self, at: &At<B::Matrix>) -> Result<(Mat<f64>, Option<f64>)> {
        let (backend, s) = (self.backend, Similarity::Embeddings(&at.zx.0, &at.zy.0));
        let inverse = |lengths: &[f64]| inverse_lengths(backend.group(), lengths);
        let scaled = match self.options.scale_inputs {
            true => Some((
                backend.scale_rows(&self.x.cross, &inverse(&at.zx.1)?)?,
                backend.scale_rows(&self.y.cross, &inverse(&at.zy.1)?)?,
            )),
            false => None,
        };
        let (x, y) = scaled.as_ref().map_or((&self.x.cross, &self.y.cross), |(x, y)| (x, y));
        let c = backend.cross(s, &at.w, x, y)?;
        let w = &at.w;
        let asked = (&w.loss, &w.positives, w.negatives);
        let error = sampling_error(backend, s, (x, y), asked, &c)?;
        Ok((c, error))
    }

    /// The damped iteration from encoders, at most `n_iters` steps. A sample of negatives is fixed until its loss is as
    /// low as it gets; then it grows, and becomes all, where that is asked for.
    pub(crate) fn damped(
        &self,
        start: &Encoders,
        options: &DampingOptions,
        clock: Clock,
        info: &mut FitInfo,
    ) -> Result<Encoders> {
        let o = self.options;
        let split = |g: &TopR| Encoders::split(g, o.factorization);
        let mut stages = vec![o.negatives];
        if let NegativeSampling::Sampled { .. } = o.negatives {
            stages.extend((o.growth > 1.0).then(|| o.negatives_of(2)));
            stages.extend(o.exact_last.then_some(NegativeSampling::All));
        }
        let mut stages = stages.into_iter();
        let mut negatives = stages.next().unwrap_or_default();
        let mut g = factors(start, o.rank)?;
        // The split decides the norms that the loss divides by, so the start is split as all later points are.
        let mut encoders = split(&g);
        let begun = Instant::now();
        let mut now = self.at(&encoders, negatives, info)?;
        self.record(&now, negatives, clock, info);
        let mut relative = options.first;
        info.status = FitStatus::Completed;
        // Until a step has been timed: its gradient and a trial or two.
        let mut expected = 3.0 * begun.elapsed().as_secs_f64();
        let updates = o.updates();
        for step in 1..=updates {
            if !clock.allows(self.backend.group(), expected)? {
                info.status = FitStatus::OutOfTime;
                break;
            }
            let begun = Instant::now();
            if step == updates && o.exact_last && negatives != NegativeSampling::All {
                negatives = NegativeSampling::All;
                now = self.at(&encoders, negatives, info)?;
                self.record(&now, negatives, clock, info);
            }
            let (c, error) = timed(&mut info.seconds.weights, || self.gradient(&now))?;
            if let Some(point) = info.trace.last_mut() {
                point.sampling_error = error;
            }
            let (sum, unit) = timed(&mut info.seconds.spectral, || {
                let top = leading_triplets(self.backend, c.as_ref(), o.rank, o.svd)?;
                info.singular_values.clone_from(&top.all);
                let unit = size(&g.s) / size(&top.s).max(f64::MIN_POSITIVE);
                Ok::<_, Error>((Sum::new(&g, &top), unit))
            })?;
            let before = now.value();
            let mut found = false;
            // Where C is 0 (no hinge is active) there is no direction to step in.
            let trials = if unit.is_finite() { options.halvings + 1 } else { 0 };
            for _ in 0..trials {
                let trial = timed(&mut info.seconds.spectral, || sum.top(relative * unit, o.rank))?;
                let candidate = split(&trial);
                let at = self.at(&candidate, negatives, info)?;
                if at.value() < before {
                    (g, encoders, now, found) = (trial, candidate, at, true);
                    break;
                }
                relative *= 0.5;
            }
            let loss = now.value();
            if found {
                info.iterations += 1;
                self.record(&now, negatives, clock, info);
                let (done, total) = (step as u64, updates as u64);
                self.backend.control().report(Progress { phase: Phase::Iteration, done, total, loss })?;
            }
            expected = begun.elapsed().as_secs_f64();
            if !found || before - loss <= options.tol * before.abs() {
                let Some(next) = stages.next() else {
                    info.status = FitStatus::Converged;
                    break;
                };
                negatives = next;
                now = self.at(&encoders, negatives, info)?;
                self.record(&now, negatives, clock, info);
                relative = options.first;
                continue;
            }
            // A step that held may be short: the next search tries a longer one.
            relative = (2.0 * relative).min(1e3 * options.first);
        }
        Ok(encoders)
    }

    fn record(&self, at: &At<B::Matrix>, negatives: NegativeSampling, clock: Clock, info: &mut FitInfo) {
        info.returned = Some(info.trace.len());
        info.loss.push(at.value());
        info.trace.push(TracePoint {
            seconds: clock.begin.elapsed().as_secs_f64(),
            loss: at.value(),
            negatives: negatives.per_anchor(),
            evaluations: info.evaluations,
            ..TracePoint::default()
        });
    }
}

/// `F1^T F2 = U diag(s) V^T` through QR of both factors.
fn factors(e: &Encoders, r: usize) -> Result<TopR> {
    let (left, right) = (e.f1.transpose().qr(), e.f2.transpose().qr());
    let core = left.thin_R() * right.thin_R().transpose();
    let some = r.min(core.nrows()).min(core.ncols());
    let top = spectral::top_r(core.as_ref(), some, spectral::SvdMethod::Full)?.widened(r);
    Ok(TopR { u: left.compute_thin_Q() * &top.u, v: right.compute_thin_Q() * &top.v, ..top })
}
