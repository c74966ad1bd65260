//! The paper's update with a line search, which never raises the loss:
//!
//! ```text
//! F1^T F2 <- [F1^T F2 + eta C]_r
//! ```
//!
//! `C` is the gradient in the similarities; it ignores how the embeddings' norms change with the encoders. Where it
//! does not point downhill the iteration ends, and refinement, which follows the exact gradient, goes on.

use super::info::{FitInfo, FitStatus, TracePoint};
use super::linear::{Encoders, Problem, leading_triplets};
use super::monitor::Monitor;
use super::options::DampingOptions;
use super::sampling::sampling_error;
use super::timed;
use crate::backend::{Backend, Similarity, inverse_lengths};
use crate::error::{Error, Result};
use crate::similarity::{NegativeSampling, Weights};
use crate::spectral::{self, TopR};
use faer::Mat;
use std::time::Instant;

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

/// A point of the iteration: encoders, embeddings of both sides with their norms, and what pass 1 said of them.
struct Point<M> {
    encoders: Encoders,
    zx: (M, Vec<f64>),
    zy: (M, Vec<f64>),
    w: Weights,
}

impl<M> Point<M> {
    fn loss(&self) -> f64 {
        self.w.value()
    }

    fn traced(&self, negatives: NegativeSampling, info: &FitInfo) -> TracePoint {
        let (negatives, evaluations) = (negatives.per_anchor(), info.evaluations);
        TracePoint { loss: self.loss(), negatives, evaluations, ..TracePoint::default() }
    }
}

impl<B: Backend> Problem<'_, B> {
    fn at(
        &self,
        encoders: Encoders,
        negatives: NegativeSampling,
        info: &mut FitInfo,
    ) -> Result<Point<B::Matrix>> {
        let (zx, zy) = timed(&mut info.seconds.encode, || {
            let zx = self.backend.encode(self.x.embed(), encoders.f1.as_ref())?;
            Ok::<_, Error>((zx, self.backend.encode(self.y.embed(), encoders.f2.as_ref())?))
        })?;
        let s = Similarity::Embeddings(&zx.0, &zy.0);
        let w = timed(&mut info.seconds.statistics, || {
            self.backend.weights(s, &self.options.loss, self.positives, negatives)
        })?;
        info.evaluations += 1;
        Ok(Point { encoders, zx, zy, w })
    }

    /// `C` at embeddings; of sampled negatives with its estimated relative error.
    fn gradient(&self, at: &Point<B::Matrix>) -> Result<(Mat<f64>, Option<f64>)> {
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
        let problem = (&w.loss, &w.positives, w.negatives);
        let error = sampling_error(backend, s, (x, y), problem, &c)?;
        Ok((c, error))
    }

    /// The damped iteration from encoders, at most `n_iters` steps. A sample of negatives is fixed until its loss is as
    /// low as it gets; then it grows, and becomes all, where that is asked for.
    pub(crate) fn damped(
        &self,
        start: &Encoders,
        options: &DampingOptions,
        monitor: &mut Monitor<'_>,
    ) -> Result<Encoders> {
        let o = self.options;
        let mut stages = self.stages().into_iter();
        let mut negatives = stages.next().unwrap_or_default();
        let mut g = factors(start, o.dim)?;
        // The split decides the norms that the loss divides by, so the start is split as all later points are.
        let begun = Instant::now();
        let mut now = self.at(Encoders::split(&g, o.factorization), negatives, monitor.info)?;
        monitor.record(now.traced(negatives, monitor.info), true);
        let mut relative = options.first;
        monitor.info.status = FitStatus::Completed;
        // Until a step has been timed: its gradient and a trial or two.
        let mut expected = 3.0 * begun.elapsed().as_secs_f64();
        let updates = o.updates();
        for step in 1..=updates {
            if !monitor.goes_on(expected)? {
                break;
            }
            let begun = Instant::now();
            if step == updates && o.exact_last && negatives != NegativeSampling::All {
                negatives = NegativeSampling::All;
                now = self.seen_anew(now, negatives, monitor)?;
            }
            let (sum, unit) = self.direction(&g, &now, monitor.info)?;
            let before = now.loss();
            let mut found = false;
            // Where C is 0 (no hinge is active) there is no direction to step in.
            let trials = if unit.is_finite() { options.halvings + 1 } else { 0 };
            for _ in 0..trials {
                // F1^T F2 = [G + eta C_r]_r, with eta halved until the loss falls.
                let trial = timed(&mut monitor.seconds().spectral, || sum.top(relative * unit, o.dim))?;
                let at = self.at(Encoders::split(&trial, o.factorization), negatives, monitor.info)?;
                if at.loss() < before {
                    (g, now, found) = (trial, at, true);
                    break;
                }
                relative *= 0.5;
            }
            let loss = now.loss();
            if found {
                monitor.info.iterations += 1;
                monitor.record(now.traced(negatives, monitor.info), true);
                monitor.progress(step, updates, loss)?;
            }
            expected = begun.elapsed().as_secs_f64();
            if found && before - loss > options.tol * before.abs() {
                // The next search begins with a step twice as long as the accepted one.
                relative = (2.0 * relative).min(1e3 * options.first);
            } else if let Some(next) = stages.next() {
                negatives = next;
                now = self.seen_anew(now, negatives, monitor)?;
                relative = options.first;
            } else {
                monitor.info.status = FitStatus::Converged;
                break;
            }
        }
        Ok(now.encoders)
    }

    /// Negatives of each part of the iteration in turn.
    fn stages(&self) -> Vec<NegativeSampling> {
        let o = self.options;
        let mut stages = vec![o.negatives];
        if let NegativeSampling::Sampled { .. } = o.negatives {
            stages.extend((o.growth > 1.0).then(|| o.negatives_of(2)));
            stages.extend(o.exact_last.then_some(NegativeSampling::All));
        }
        stages
    }

    /// The same point under other negatives, recorded.
    fn seen_anew(
        &self,
        point: Point<B::Matrix>,
        negatives: NegativeSampling,
        monitor: &mut Monitor<'_>,
    ) -> Result<Point<B::Matrix>> {
        let now = self.at(point.encoders, negatives, monitor.info)?;
        monitor.record(now.traced(negatives, monitor.info), true);
        Ok(now)
    }

    /// The leading `C_r` at a point, beside `G` there, and the `eta` with `|eta C_r| = |G|`.
    fn direction(&self, g: &TopR, now: &Point<B::Matrix>, info: &mut FitInfo) -> Result<(Sum, f64)> {
        let (c, error) = timed(&mut info.seconds.weights, || self.gradient(now))?;
        if let Some(point) = info.trace.last_mut() {
            point.sampling_error = error;
        }
        timed(&mut info.seconds.spectral, || {
            let top = leading_triplets(self.backend, c.as_ref(), self.options.dim, self.options.svd)?;
            info.singular_values.clone_from(&top.all);
            Ok((Sum::new(g, &top), size(&g.s) / size(&top.s).max(f64::MIN_POSITIVE)))
        })
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
