//! The linear solver (Algorithm 1 of arXiv 2604.16678), globally or in mini-batches. One update from encoders `F1`, `F2`:
//!
//! ```text
//! s_ij = <F1 x_i / |F1 x_i|, F2 y_j / |F2 y_j|>                 the similarities
//! C    = X^T S(gamma) Y / rho                                   S(gamma) = -dL/ds at s
//! C   ~= U_r Sigma_r V_r^T                                      the leading r singular triplets
//! F1   = Sigma_r^p U_r^T,   F2 = Sigma_r^p V_r^T                p = 1/2: F1^T F2 maximises tr(F1 C F2^T) - |F1^T F2|^2/2
//! ```

use super::features::{Mapped, upload};
use super::info::{FitInfo, FitStatus};
use super::monitor::Monitor;
use super::options::{BatchScore, Batches, Factorization, FitOptions, Init};
use super::sampling::sampled_cross;
use super::validation::{BatchWeights, batch_score};
use super::whole::Whole;
use super::{thin, timed};
use crate::backend::{Backend, Similarity, inverse_lengths};
use crate::error::{Error, Result};
use crate::memory::room;
use crate::plan::update_per_loss;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use crate::spectral::{self, SvdMethod, TopR, low_rank_distance};
use faer::{Mat, MatRef};
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use std::ops::Range;
use std::time::Instant;

/// Singular values below this share of the largest are rounding errors.
const NOTHING: f64 = 1e-13;

/// Encoders of solver features: `F1` (`r x p1`) and `F2` (`r x p2`).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Encoders {
    pub(crate) f1: Mat<f64>,
    pub(crate) f2: Mat<f64>,
}

impl Encoders {
    /// `F1 = s^p U^T`, `F2 = s^p V^T`.
    pub(crate) fn split(top: &TopR, factorization: Factorization) -> Self {
        let p = factorization.power();
        // Directions that only rounding sees are left out, whatever the power.
        let least = top.s.first().map_or(0.0, |s| s * NOTHING);
        let scale = |&s: &f64| match p {
            _ if s <= least => 0.0,
            0.0 => 1.0,
            p => s.powf(p),
        };
        let scale: Vec<f64> = top.s.iter().map(scale).collect();
        let rows = |m: &Mat<f64>| Mat::from_fn(m.ncols(), m.nrows(), |k, i| scale[k] * m[(i, k)]);
        Self { f1: rows(&top.u), f2: rows(&top.v) }
    }
}

/// No given similarity is larger: beyond it float32 ends.
const LARGEST_SIMILARITY: f64 = 1e30;

/// The seed of what is drawn for a batch of these rows: the fit's own where they begin with the first.
pub(super) fn batch_seed(seed: u64, rows: &Range<usize>) -> u64 {
    seed.wrapping_add(rows.start as u64)
}

/// Independent standard normal similarities.
fn normal<B: Backend>(backend: &B, (n_x, n_y): (usize, usize), seed: u64) -> Result<B::Matrix> {
    drop(room::<f64>(n_x.saturating_mul(n_y), || "the similarities of init gaussian".into())?);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut s = Mat::zeros(n_x, n_y);
    // Row by row: a batch of the first rows has the first numbers.
    for i in 0..n_x {
        (0..n_y).for_each(|j| s[(i, j)] = StandardNormal.sample(&mut rng));
    }
    upload(backend, s.as_ref())
}

/// Where similarities come from at the start of an update.
pub(crate) enum Start<M> {
    Zeros,
    Similarity(M),
    /// Standard normal, for a seed.
    Gaussian(u64),
    Encoders(Encoders),
}

/// What is aligned: both sides' features, the relation, and validation features for weighing batches.
pub(crate) struct Problem<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) x: &'a Mapped<B::Matrix>,
    pub(crate) y: &'a Mapped<B::Matrix>,
    pub(crate) positives: &'a Positives,
    /// Validation features of both sides, mapped, and their relation.
    pub(crate) validation: Option<(&'a B::Matrix, &'a B::Matrix, &'a Positives)>,
    pub(crate) options: &'a FitOptions,
    /// Those of this update: samples may grow from one to the next.
    pub(crate) negatives: NegativeSampling,
}

/// One spectral update of (a batch of) the data.
pub(super) struct Update {
    pub(super) encoders: Encoders,
    pub(super) loss: f64,
    singular_values: Vec<f64>,
}

/// One side's rows: what `C` is built from, and what is encoded.
pub(super) struct Side<'a, M> {
    pub(super) cross: &'a M,
    pub(super) embed: &'a M,
}

/// The rows an update works on.
pub(super) struct Rows<'a, M> {
    pub(super) x: Side<'a, M>,
    pub(super) y: Side<'a, M>,
    pub(super) positives: &'a Positives,
}

impl<B: Backend> Problem<'_, B> {
    /// Algorithm 1 from the options' start.
    pub(crate) fn solve(&self, monitor: &mut Monitor<'_>) -> Result<Encoders> {
        self.solve_from(self.start()?, monitor)
    }

    /// Algorithm 1 from a start of any kind.
    pub(super) fn solve_from(
        &self,
        mut start: Start<B::Matrix>,
        monitor: &mut Monitor<'_>,
    ) -> Result<Encoders> {
        if let (0, Start::Encoders(given)) = (self.options.n_iters, &start) {
            return Ok(given.clone());
        }
        let updates = self.options.updates();
        let mut previous: Option<Encoders> = None;
        // What came before the first update.
        let (begin, before) = (Instant::now(), monitor.info.seconds.load + monitor.info.seconds.features);
        for iteration in 1..=updates {
            monitor.info.loss_seconds.push(before + begin.elapsed().as_secs_f64());
            let begun = Instant::now();
            let now = Problem { negatives: self.options.negatives_of(iteration), ..*self };
            let update = match self.options.batches {
                None => Some(now.global(&start, monitor.info)?),
                Some(batches) => now.batched(batches, &start, previous.is_some(), monitor)?,
            };
            let Some(update) = update else { break };
            if self.chooses(iteration, monitor)? && now.rejects(&update, monitor)? {
                break;
            }
            let change = previous.as_ref().map(|p| self.change(&update.encoders, p));
            let info = &mut *monitor.info;
            info.iterations = iteration;
            info.loss.push(update.loss);
            info.singular_values = update.singular_values;
            info.change.extend(change);
            let seconds = begun.elapsed().as_secs_f64();
            let late = self.late(&update.encoders, (iteration, seconds), monitor)? && iteration < updates;
            start = Start::Encoders(update.encoders.clone());
            previous = Some(update.encoders);
            monitor.progress(iteration, updates, update.loss)?;
            if change.is_some_and(|c| c < self.options.tol) {
                monitor.info.status = FitStatus::Converged;
                break;
            }
            if late || monitor.info.status == FitStatus::OutOfTime {
                monitor.info.status = FitStatus::OutOfTime;
                break;
            }
        }
        previous.ok_or_else(|| Error::invalid("n_iters", "at least 1", 0))
    }

    /// Whether this update, the second, is only kept where it lowers the loss: as where their number is not given.
    fn chooses(&self, iteration: usize, monitor: &mut Monitor<'_>) -> Result<bool> {
        let o = self.options;
        Ok(iteration > 1 && o.n_iters == FitOptions::AUTO && o.batches.is_none() && monitor.allows(0.0)?)
    }

    /// Whether an update raised the loss over the negatives that it saw. The undamped iteration is no descent method.
    fn rejects(&self, update: &Update, monitor: &mut Monitor<'_>) -> Result<bool> {
        let over = Whole { negatives: self.negatives, ..self.whole() };
        let after = over.value(&update.encoders, monitor.seconds())?;
        let rejected = after > update.loss;
        let info = &mut *monitor.info;
        if rejected {
            info.loss.push(update.loss);
            info.rejected = Some(after);
        }
        // What a fit without refinement ends with.
        if self.negatives == self.options.negatives {
            info.final_loss = Some(if rejected { update.loss } else { after });
        }
        Ok(rejected)
    }

    /// The loss on all the training data.
    pub(crate) fn whole(&self) -> Whole<'_, B> {
        Whole {
            backend: self.backend,
            x: self.x.embed(),
            y: self.y.embed(),
            positives: self.positives,
            loss: &self.options.loss,
            negatives: self.options.negatives,
        }
    }

    /// Whether the budget has no room for another update after one that took `seconds`. The first update,
    /// from zeros, computes no similarities: the time of later ones is predicted from that of the loss.
    fn late(&self, e: &Encoders, (done, seconds): (usize, f64), monitor: &mut Monitor<'_>) -> Result<bool> {
        let o = self.options;
        if !monitor.is_timed() {
            return Ok(false);
        }
        let mut next = seconds;
        if done == 1 {
            let loss = self.whole().seconds(e)?;
            monitor.reserve(if o.final_loss { loss } else { 0.0 });
            let narrow = self.backend.shape(&self.x.cross).1.min(self.backend.shape(&self.y.cross).1);
            next = next.max(loss * update_per_loss(o.dim, narrow));
        }
        Ok(!monitor.allows(next)?)
    }

    /// `|F1^T F2 - previous|_F` of the encoders as they apply to raw (or kernel) features.
    fn change(&self, now: &Encoders, before: &Encoders) -> f64 {
        let fold = |f: &Mat<f64>, side: &Mapped<B::Matrix>| side.map.fold(f.as_ref()).matrix;
        let (a, b) = (fold(&now.f1, self.x), fold(&now.f2, self.y));
        let (c, d) = (fold(&before.f1, self.x), fold(&before.f2, self.y));
        low_rank_distance(a.transpose(), b.transpose(), c.transpose(), d.transpose())
    }

    pub(super) fn start(&self) -> Result<Start<B::Matrix>> {
        let r = self.options.dim;
        let (p1, p2) = (self.x.width(self.backend), self.y.width(self.backend));
        Ok(match &self.options.init {
            Init::Zeros => Start::Zeros,
            Init::Random => {
                let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(self.options.seed);
                let mut uniform = |p: usize| {
                    let bound = 1.0 / (p as f64).sqrt();
                    Mat::from_fn(r, p, |_, _| rng.random_range(-bound..bound))
                };
                let (f1, f2) = (uniform(p1), uniform(p2));
                Start::Encoders(Encoders { f1: self.x.in_basis(f1), f2: self.y.in_basis(f2) })
            }
            Init::Given(..) | Init::Model(_) => {
                let Some((f1, f2)) = self.options.init.encoders() else { return Ok(Start::Zeros) };
                for (name, f, p) in [("F1", f1, p1), ("F2", f2, p2)] {
                    if (f.nrows(), f.ncols()) != (r, p) {
                        let got = format!("{} x {}", f.nrows(), f.ncols());
                        return Err(Error::invalid(format!("init {name}"), format!("{r} x {p}"), got));
                    }
                    if !f.norm_l2().is_finite() {
                        return Err(Error::invalid(
                            format!("init {name}"),
                            "finite values",
                            "NaN or infinity",
                        ));
                    }
                }
                let (f1, f2) = (self.x.in_basis(f1.clone()), self.y.in_basis(f2.clone()));
                Start::Encoders(Encoders { f1, f2 })
            }
            Init::Gaussian => Start::Gaussian(self.options.seed),
            Init::Similarity(s) => {
                let (n_x, n_y) = (self.positives.n_x(), self.positives.n_y());
                if (s.nrows(), s.ncols()) != (n_x, n_y) {
                    let got = format!("{} x {}", s.nrows(), s.ncols());
                    return Err(Error::invalid("init similarity", format!("{n_x} x {n_y}"), got));
                }
                // Written so that NaN fails too.
                if !s.is_all_finite() || s.norm_max() > LARGEST_SIMILARITY {
                    let expected = format!("finite numbers of magnitude at most {LARGEST_SIMILARITY:e}");
                    return Err(Error::invalid("init similarity", expected, s.norm_max()));
                }
                Start::Similarity(upload(self.backend, s.as_ref())?)
            }
        })
    }

    /// Similarity -> S(gamma) -> C(gamma) of the given rows, and the loss.
    pub(super) fn contrast(
        &self,
        Rows { x, y, positives }: &Rows<'_, B::Matrix>,
        start: &Start<B::Matrix>,
        info: &mut FitInfo,
    ) -> Result<(Mat<f64>, f64)> {
        let (backend, o) = (self.backend, self.options);
        let embedded = match start {
            Start::Encoders(e) => Some(timed(&mut info.seconds.encode, || {
                let zx = backend.encode(x.embed, e.f1.as_ref())?;
                Ok::<_, Error>((zx, backend.encode(y.embed, e.f2.as_ref())?))
            })?),
            _ => None,
        };
        let drawn = match start {
            Start::Gaussian(seed) => Some(normal(backend, (positives.n_x(), positives.n_y()), *seed)?),
            _ => None,
        };
        let s = match (start, &embedded, &drawn) {
            (_, Some(((zx, _), (zy, _))), _) => Similarity::Embeddings(zx, zy),
            (Start::Similarity(s), ..) | (_, _, Some(s)) => Similarity::Dense(s),
            _ => Similarity::Zeros(positives.n_x(), positives.n_y()),
        };
        let inverse = |lengths: &[f64]| inverse_lengths(backend.group(), lengths);
        let scaled = match &embedded {
            Some(((_, norms_x), (_, norms_y))) if o.scale_inputs => Some((
                backend.scale_rows(x.cross, &inverse(norms_x)?)?,
                backend.scale_rows(y.cross, &inverse(norms_y)?)?,
            )),
            _ => None,
        };
        let (cx, cy) = scaled.as_ref().map_or((x.cross, y.cross), |(x, y)| (x, y));
        let found = sampled_cross(backend, s, (cx, cy), &o.loss, positives, self.negatives)?;
        info.sampling_error.extend(found.error);
        info.seconds.statistics += found.seconds.0;
        info.seconds.weights += found.seconds.1;
        let (c, loss) = (found.cross * faer::Scale(1.0 / o.rho), found.loss);
        if !c.norm_max().is_finite() {
            let text = "C = X^T S Y / rho is not finite: is rho of ordinary size?";
            return Err(Error::Numerical(text.into()));
        }
        Ok((c, loss))
    }

    /// C(gamma) of the given rows -> top-r SVD.
    pub(super) fn update(
        &self,
        Rows { x, y, positives }: &Rows<'_, B::Matrix>,
        start: &Start<B::Matrix>,
        info: &mut FitInfo,
    ) -> Result<Update> {
        let (backend, o) = (self.backend, self.options);
        // A batch often has fewer rows than features: C is then decomposed in the span of its rows.
        let (tx, ty) = timed(&mut info.seconds.spectral, || {
            Ok::<_, Error>((thin::of_matrix(backend, x.cross)?, thin::of_matrix(backend, y.cross)?))
        })?;
        let x = Side { cross: tx.as_ref().map_or(x.cross, |t| &t.rows), embed: x.embed };
        let y = Side { cross: ty.as_ref().map_or(y.cross, |t| &t.rows), embed: y.embed };
        let (c, loss) = self.contrast(&Rows { x, y, positives }, start, info)?;
        let top = timed(&mut info.seconds.spectral, || leading_triplets(backend, c.as_ref(), o.dim, o.svd))?;
        let top = top.lifted(tx.as_ref().map(|t| &t.basis), ty.as_ref().map(|t| &t.basis));
        let encoders = Encoders::split(&top, o.factorization);
        Ok(Update { encoders, loss, singular_values: top.all })
    }

    /// One exact update over all rows.
    fn global(&self, start: &Start<B::Matrix>, info: &mut FitInfo) -> Result<Update> {
        let x = Side { cross: &self.x.cross, embed: self.x.embed() };
        let y = Side { cross: &self.y.cross, embed: self.y.embed() };
        let update = self.update(&Rows { x, y, positives: self.positives }, start, info)?;
        if self.options.ridge == 0.0 {
            return Ok(update);
        }
        let (o, e) = (self.options, &update.encoders);
        let narrow = e.f1.ncols().min(e.f2.ncols());
        // The product has rank r, and the ridge acts alone outside what the factors span.
        if o.svd == SvdMethod::Full && 4 * o.dim <= narrow {
            let top = timed(&mut info.seconds.spectral, || {
                spectral::top_of_ridged(e.f1.as_ref(), e.f2.as_ref(), o.ridge)
            })?;
            let encoders = Encoders::split(&top, o.factorization);
            return Ok(Update { encoders, loss: update.loss, singular_values: top.all });
        }
        self.refactored(e.f1.transpose() * &e.f2, update.loss, info)
    }

    /// One iteration of the paper's mini-batches: every batch is solved from the same encoders, and the solutions are
    /// averaged as `F1^T F2` with weights `max(score, 0)` on the validation rows ([`BatchScore`](super::BatchScore)): as many as the budget has room for, at least one.
    /// None where it has no room for all and an average over all is there (`refines`).
    fn batched(
        &self,
        batches: Batches,
        start: &Start<B::Matrix>,
        refines: bool,
        monitor: &mut Monitor<'_>,
    ) -> Result<Option<Update>> {
        let ranges = batch_ranges(self.positives.n_x(), batches, monitor.info);
        let weighed = ranges.len() > 1;
        let (mut sum, mut plain, mut weights, mut loss): (Option<Mat<f64>>, _, Vec<f64>, _) =
            (None, None, Vec::new(), 0.0);
        let mut of_scores = BatchWeights::new(batches.score);
        let mut longest = 0f64;
        for range in &ranges {
            // The average is solved like a batch.
            if !weights.is_empty() && !monitor.allows(2.0 * longest)? {
                break;
            }
            let begun = Instant::now();
            let part = |m: &B::Matrix| self.backend.rows(m, range.clone());
            let (x, y) = (part(&self.x.cross)?, part(&self.y.cross)?);
            let positives = self.positives.restricted(range.clone(), range.clone())?;
            let side = |m| Side { cross: m, embed: m };
            let rows = Rows { x: side(&x), y: side(&y), positives: &positives };
            let own = match start {
                Start::Gaussian(seed) => Some(Start::Gaussian(batch_seed(*seed, range))),
                _ => None,
            };
            let update = self.update(&rows, own.as_ref().unwrap_or(start), monitor.info)?;
            let weight = if weighed { self.batch_weight(&update.encoders, monitor.info)? } else { 1.0 };
            let (weight, before) = if weighed { of_scores.next(weight) } else { (weight, 1.0) };
            if before != 1.0 {
                sum = sum.map(|sum| sum * faer::Scale(before));
                weights.iter_mut().for_each(|w| *w *= before);
            }
            let g = update.encoders.f1.transpose() * &update.encoders.f2;
            add(&mut sum, weight, &g);
            add(&mut plain, 1.0, &g);
            weights.push(weight);
            loss += update.loss;
            longest = longest.max(begun.elapsed().as_secs_f64());
        }
        let (total, count): (f64, usize) = (weights.iter().sum(), weights.len());
        monitor.info.batch_weights.push(weights);
        if count < ranges.len() {
            monitor.info.status = FitStatus::OutOfTime;
            if refines {
                return Ok(None);
            }
        }
        // Where all weights are 0 the batches are averaged equally.
        let (g, total) = if total > 0.0 { (sum, total) } else { (plain, count as f64) };
        let g = g.ok_or_else(|| Error::invalid("batch_size", "at most the number of rows", batches.size))?;
        self.refactored(g * faer::Scale(1.0 / total), loss / count as f64, monitor.info).map(Some)
    }

    fn refactored(&self, g: Mat<f64>, loss: f64, info: &mut FitInfo) -> Result<Update> {
        let (encoders, singular_values) = refactor(self.backend, g, self.options, info)?;
        Ok(Update { encoders, loss, singular_values })
    }

    /// The weight of a batch's encoders: their score on the validation rows, 1 where there are none.
    pub(crate) fn batch_weight(&self, encoders: &Encoders, info: &mut FitInfo) -> Result<f64> {
        let score = self.options.batches.map_or_else(BatchScore::default, |b| b.score);
        let judged = self.validation.filter(|_| score != BatchScore::Equal);
        let Some((x, y, positives)) = judged else { return Ok(1.0) };
        timed(&mut info.seconds.validation, || {
            let zx = self.backend.encode(x, encoders.f1.as_ref())?.0;
            let zy = self.backend.encode(y, encoders.f2.as_ref())?.0;
            batch_score(self.backend, score, (&zx, &zy), positives, &self.options.loss)
        })
    }
}

/// The leading `r` singular triplets; zeros for those that the matrix is too small to have.
pub(super) fn leading_triplets<B: Backend>(
    backend: &B,
    c: MatRef<'_, f64>,
    r: usize,
    method: SvdMethod,
) -> Result<TopR> {
    let some = r.min(c.nrows()).min(c.ncols());
    Ok(backend.top_r(c, some, method)?.widened(r))
}

/// Adds the ridge to the leading diagonal of `G = F1^T F2` and factorises it once more: encoders and singular values.
pub(super) fn refactor<B: Backend>(
    backend: &B,
    mut g: Mat<f64>,
    o: &FitOptions,
    info: &mut FitInfo,
) -> Result<(Encoders, Vec<f64>)> {
    for k in 0..g.nrows().min(g.ncols()) {
        g[(k, k)] += o.ridge;
    }
    let top = timed(&mut info.seconds.spectral, || leading_triplets(backend, g.as_ref(), o.dim, o.svd))?;
    Ok((Encoders::split(&top, o.factorization), top.all))
}

pub(super) fn add(sum: &mut Option<Mat<f64>>, weight: f64, g: &Mat<f64>) {
    let term = g * faer::Scale(weight);
    *sum = Some(match sum.take() {
        Some(sum) => sum + term,
        None => term,
    });
}

/// Contiguous batches of `size` rows; what remains is dropped on request, else spread over the batches.
pub(crate) fn batch_ranges(n: usize, batches: Batches, info: &mut FitInfo) -> Vec<Range<usize>> {
    let whole = n / batches.size;
    let count = whole.min(batches.count.unwrap_or(usize::MAX));
    if batches.drop_trailing || batches.count.is_some() {
        info.rows_dropped = n - count * batches.size;
        return (0..count).map(|b| b * batches.size..(b + 1) * batches.size).collect();
    }
    (0..count).map(|b| b * n / count..(b + 1) * n / count).collect()
}
