//! Second moments of both sides, from which every whitened spectral step follows by one small SVD.

use super::best::Sums;
use super::info::FitInfo;
use super::linear::Encoders;
use super::options::Factorization;
use super::refine::{Clock, Held};
use super::timed;
use crate::backend::{Backend, Similarity};
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::Negatives;
use crate::spectral::{self, TopR};
use faer::Mat;

/// The rotated second moments: `G = Q diag(e) Q^T` on both sides and `M = Q_x^T C Q_y` with `C` of the first update.
pub(super) struct Moments {
    pub(super) x: Spectrum,
    pub(super) y: Spectrum,
    m: Mat<f64>,
}

/// `G = Q diag(e) Q^T` of one side.
pub(super) struct Spectrum {
    pub(super) q: Mat<f64>,
    values: Vec<f64>,
    /// Features that there are.
    width: usize,
    /// The mean eigenvalue of all features: they may be held in fewer coordinates, outside of which there is nothing.
    mean: f64,
}

impl Spectrum {
    /// Of `X^T X`, of `n` rows and `width` features.
    fn new(xtx: &Mat<f64>, n: usize, width: usize) -> Result<Self> {
        let (q, values) = spectral::eigen((xtx * faer::Scale(1.0 / n as f64)).as_ref())?;
        Ok(Self::of(q, values, width))
    }

    fn of(q: Mat<f64>, values: Vec<f64>, width: usize) -> Self {
        let mean = values.iter().map(|v| v.max(0.0)).sum::<f64>() / width.max(1) as f64;
        Self { q, values, width, mean }
    }

    /// `(e + lambda mean(e))^{-1/2}`; directions without variance stay out.
    pub(super) fn scales(&self, lambda: f64) -> Vec<f64> {
        let scale = |&v: &f64| {
            let v = v.max(0.0) + lambda * self.mean;
            if v > 1e-10 * self.mean && v > 0.0 { 1.0 / v.sqrt() } else { 0.0 }
        };
        self.values.iter().map(scale).collect()
    }
}

impl Moments {
    pub(super) fn new<B: Backend>(
        backend: &B,
        (x, y): (&B::Matrix, &B::Matrix),
        widths: (usize, usize),
        loss: &Loss,
        positives: &Positives,
        info: &mut FitInfo,
    ) -> Result<Self> {
        let (gx, gy) =
            timed(&mut info.seconds.features, || Ok::<_, Error>((backend.gram(x)?, backend.gram(y)?)))?;
        let s = Similarity::Zeros(positives.n_x(), positives.n_y());
        let w = timed(&mut info.seconds.statistics, || backend.weights(s, loss, positives, Negatives::All))?;
        let c = timed(&mut info.seconds.weights, || backend.cross(s, &w, x, y))?;
        let grams = [(gx, positives.n_x(), widths.0), (gy, positives.n_y(), widths.1)];
        let [x, y] = timed(&mut info.seconds.spectral, || {
            let eigen = backend.parallel(&grams, |(g, n, width)| Spectrum::new(g, *n, *width));
            let mut eigen = eigen.into_iter();
            match (eigen.next(), eigen.next()) {
                (Some(x), Some(y)) => Ok([x?, y?]),
                _ => Err(Error::Numerical("an eigendecomposition is missing".into())),
            }
        })?;
        let m = x.q.transpose() * &c * &y.q;
        Ok(Self { x, y, m })
    }

    /// Those of the same features without their means.
    pub(super) fn centred<B: Backend>(
        &self,
        backend: &B,
        (mean_x, mean_y): (&[f64], &[f64]),
        sums: &Sums,
    ) -> Result<Self> {
        // In the eigenbases: `diag(e) - m m^T`, and `C` less what the means have in it.
        let turned = |q: &Mat<f64>, v: &dyn Fn(usize) -> f64| -> Vec<f64> {
            (0..q.ncols()).map(|k| (0..q.nrows()).map(|j| q[(j, k)] * v(j)).sum()).collect()
        };
        let (mx, my) = (turned(&self.x.q, &|j| mean_x[j]), turned(&self.y.q, &|j| mean_y[j]));
        let (cols, rows) =
            (turned(&self.x.q, &|j| sums.cols[(j, 0)]), turned(&self.y.q, &|j| sums.rows[(0, j)]));
        let m = Mat::from_fn(self.m.nrows(), self.m.ncols(), |i, j| {
            self.m[(i, j)] - mx[i] * rows[j] - cols[i] * my[j] + sums.all * mx[i] * my[j]
        });
        let sides = [(&self.x, &mx), (&self.y, &my)];
        let eigen = backend.parallel(&sides, |(side, m)| {
            let e = &side.values;
            let g = Mat::from_fn(e.len(), e.len(), |i, j| if i == j { e[i] } else { 0.0 } - m[i] * m[j]);
            let (v, values) = spectral::eigen(g.as_ref())?;
            Ok::<_, Error>((Spectrum::of(&side.q * &v, values, side.width), v))
        });
        let mut eigen = eigen.into_iter();
        let (Some(x), Some(y)) = (eigen.next(), eigen.next()) else {
            return Err(Error::Numerical("an eigendecomposition is missing".into()));
        };
        let ((x, vx), (y, vy)) = (x?, y?);
        Ok(Self { x, y, m: vx.transpose() * &m * &vy })
    }

    /// The leading singular triplets of the whitened `C`, in whitened coordinates; zeros for those that it is too small to
    /// have.
    fn solve(&self, lambda: f64, rank: usize) -> Result<TopR> {
        let (dx, dy) = (self.x.scales(lambda), self.y.scales(lambda));
        let c = Mat::from_fn(dx.len(), dy.len(), |i, j| dx[i] * self.m[(i, j)] * dy[j]);
        let some = rank.min(dx.len()).min(dy.len());
        Ok(spectral::top_r_by_gram(c.as_ref(), some)?.widened(rank))
    }

    /// The whitening maps `diag(scales) Q^T` of both sides.
    pub(super) fn maps(&self, lambda: f64) -> (Mat<f64>, Mat<f64>) {
        let map = |s: &Spectrum| {
            let d = s.scales(lambda);
            Mat::from_fn(d.len(), s.q.nrows(), |i, j| d[i] * s.q[(j, i)])
        };
        (map(&self.x), map(&self.y))
    }

    /// Encoders of whitened features as they apply to features rotated into the eigenbases.
    pub(super) fn on_rotated(&self, lambda: f64, e: &Encoders) -> Encoders {
        Encoders { f1: scaled(&e.f1, &self.x.scales(lambda)), f2: scaled(&e.f2, &self.y.scales(lambda)) }
    }

    /// Encoders `A` of whitened features with `F = A W`.
    pub(super) fn unwhiten(&self, f: &Encoders, lambda: f64) -> Encoders {
        let side = |f: &Mat<f64>, spectrum: &Spectrum| {
            let inverse = |s: &f64| if *s > 0.0 { 1.0 / s } else { 0.0 };
            let inverse: Vec<f64> = spectrum.scales(lambda).iter().map(inverse).collect();
            scaled(&(f * &spectrum.q), &inverse)
        };
        Encoders { f1: side(&f.f1, &self.x), f2: side(&f.f2, &self.y) }
    }

    /// `W^T W` of the whitening maps.
    pub(super) fn metric(&self, lambda: f64) -> (Mat<f64>, Mat<f64>) {
        let side = |s: &Spectrum| {
            let w = scaled(&s.q, &s.scales(lambda));
            &w * w.transpose()
        };
        (side(&self.x), side(&self.y))
    }
}

/// `F diag(scales)`.
fn scaled(f: &Mat<f64>, scales: &[f64]) -> Mat<f64> {
    Mat::from_fn(f.nrows(), f.ncols(), |i, j| f[(i, j)] * scales[j])
}

/// The leading `rank` rows of both encoders.
pub(super) fn leading(e: &Encoders, rank: usize) -> Encoders {
    Encoders { f1: e.f1.subrows(0, rank).to_owned(), f2: e.f2.subrows(0, rank).to_owned() }
}

/// What was chosen: the shrinkage, the power, the leading triplets, and every `(shrinkage, power, score)` tried.
pub(super) struct Choice {
    pub(super) lambda: f64,
    pub(super) power: f64,
    pub(super) score: f64,
    pub(super) top: TopR,
    pub(super) candidates: Vec<(f64, f64, f64)>,
}

/// Chooses shrinkage and power on rows rotated into the eigenbases. The shrinkage is searched uphill from neighbour to
/// neighbour, from two starts, for the balanced split of the singular values; then the other splits are tried. `trial`
/// is the rank that they are judged at, `widest` the number of triplets that may be used.
pub(super) fn choose<B: Backend>(
    backend: &B,
    moments: &Moments,
    judge: &Held<'_, B::Matrix>,
    (whiten, powers): (&[f64], &[f64]),
    (trial, widest): (usize, usize),
    clock: &Clock,
    info: &mut FitInfo,
) -> Result<Choice> {
    let mut candidates = Vec::new();
    let mut score = |lambda: f64, power: f64, top: &TopR, info: &mut FitInfo| {
        let e = leading(&Encoders::split(top, Factorization::Power(power)), trial);
        let e = moments.on_rotated(lambda, &e);
        let score = timed(&mut info.seconds.validation, || judge.score(backend, &e))?;
        candidates.push((lambda, power, score.min(1.0)));
        Ok::<_, Error>(score)
    };
    let usual = powers.iter().copied().find(|p| *p == 0.5).unwrap_or(powers[0]);
    let mut lambdas = whiten.to_vec();
    lambdas.sort_by(|a, b| b.total_cmp(a));
    lambdas.dedup();
    let mut tried: Vec<Option<(f64, TopR)>> = lambdas.iter().map(|_| None).collect();
    let mut next = vec![lambdas.len() / 4, 3 * lambdas.len() / 4];
    next.dedup();
    let best = loop {
        let begun = std::time::Instant::now();
        let solved = timed(&mut info.seconds.spectral, || {
            backend.parallel(&next, |&k| moments.solve(lambdas[k], widest))
        });
        for (&k, top) in next.iter().zip(solved) {
            let top = top?;
            tried[k] = Some((score(lambdas[k], usual, &top, info)?, top));
        }
        let value = |k: &usize| tried[*k].as_ref().map_or(f64::NEG_INFINITY, |t| t.0);
        let best = (0..lambdas.len()).max_by(|a, b| value(a).total_cmp(&value(b))).unwrap_or(0);
        let neighbours = [best.checked_sub(1), Some(best + 1)].into_iter().flatten();
        next = neighbours.filter(|&k| k < lambdas.len() && tried[k].is_none()).collect();
        if next.is_empty() || !clock.allows(backend.group(), begun.elapsed().as_secs_f64())? {
            break best;
        }
    };
    let Some((mut highest, top)) = tried.swap_remove(best) else {
        return Err(Error::invalid("whiten", "at least one candidate", "none"));
    };
    let (lambda, mut power) = (lambdas[best], usual);
    for &p in powers.iter().filter(|&&p| p != usual) {
        if clock.spent(backend.group())? {
            break;
        }
        let value = score(lambda, p, &top, info)?;
        if value > highest {
            (highest, power) = (value, p);
        }
    }
    Ok(Choice { lambda, power, score: highest, top, candidates })
}
