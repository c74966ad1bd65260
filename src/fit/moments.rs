//! Second moments of both sides, from which every whitened spectral step follows by one small SVD.

use super::best::Sums;
use super::info::FitInfo;
use super::linear::Encoders;
use super::monitor::Monitor;
use super::options::Factorization;
use super::timed;
use super::validation::Validation;
use crate::backend::{Backend, Similarity};
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use crate::spectral::{self, TopR};
use faer::Mat;

/// The rotated second moments: `G = Q diag(e) Q^T` on both sides and `M = Q_x^T C Q_y` with `C` of the first update. Where
/// means are taken out, `G = Q (diag(e) - m m^T) Q^T` in the same bases: another decomposition would cost as much as the fit.
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
    /// The mean `m` of the features in the eigenbasis, where it is taken out.
    without: Option<Vec<f64>>,
}

/// How a side is whitened: `W = T^{-1/2} diag(scales) Q^T`, so that `W (G + lambda mean(e)) W^T = I`.
struct Whitening {
    /// `(e + lambda mean(e))^{-1/2}`; directions without variance stay out.
    scales: Vec<f64>,
    /// `T = I - u u^T` with `u = diag(scales) m`, and `1 - |u|^2`, its eigenvalue along `u`.
    turn: Option<(Vec<f64>, f64)>,
}

impl Whitening {
    /// `F T^p`; where `T` is singular, a negative power leaves its kernel out.
    fn turned(&self, f: &Mat<f64>, p: f64) -> Mat<f64> {
        let Some((u, along)) = &self.turn else { return f.clone() };
        let square: f64 = u.iter().map(|v| v * v).sum();
        if square == 0.0 {
            return f.clone();
        }
        let power = if *along > 0.0 { along.powf(p) } else { 0.0 };
        let factor = (power - 1.0) / square;
        let part: Vec<f64> =
            (0..f.nrows()).map(|i| factor * (0..u.len()).map(|j| f[(i, j)] * u[j]).sum::<f64>()).collect();
        Mat::from_fn(f.nrows(), f.ncols(), |i, j| f[(i, j)] + part[i] * u[j])
    }
}

/// Share of the mean eigenvalue below which there is no variance.
const NOTHING: f64 = 1e-10;

impl Spectrum {
    /// Of `X^T X`, of `n` rows and `width` features.
    fn new(xtx: &Mat<f64>, n: usize, width: usize) -> Result<Self> {
        let (q, values) = spectral::eigen((xtx * faer::Scale(1.0 / n as f64)).as_ref())?;
        let mean = values.iter().map(|v| v.max(0.0)).sum::<f64>() / width.max(1) as f64;
        Ok(Self { q, values, width, mean, without: None })
    }

    /// The same without the mean `m`.
    fn centred(&self, m: Vec<f64>) -> Self {
        let left = self.mean - m.iter().map(|v| v * v).sum::<f64>() / self.width.max(1) as f64;
        let (q, values) = (self.q.clone(), self.values.clone());
        Self { q, values, width: self.width, mean: left.max(0.0), without: Some(m) }
    }

    fn whitening(&self, lambda: f64) -> Whitening {
        let shrunk = |v: f64| v.max(0.0) + lambda * self.mean;
        let scale = |&v: &f64| {
            let v = shrunk(v);
            if v > NOTHING * self.mean && v > 0.0 { 1.0 / v.sqrt() } else { 0.0 }
        };
        let scales: Vec<f64> = self.values.iter().map(scale).collect();
        let turn = self.without.as_ref().map(|m| {
            // What is left of the variance along the mean, 1 - m^T diag(1/e) m, is not negative but for rounding, and what
            // shrinkage adds to it is a sum of positive terms: small differences keep their digits.
            let there = |k: usize| self.values[k] > NOTHING * self.mean && scales[k] > 0.0;
            let of = |f: &dyn Fn(f64) -> f64| -> f64 {
                (0..m.len()).filter(|&k| there(k)).map(|k| m[k] * m[k] * f(self.values[k])).sum()
            };
            let all = of(&|e| 1.0 / e);
            let fits = all.max(1.0);
            let added = of(&|e| (shrunk(e) - e) / (e * shrunk(e)));
            let u = (0..m.len()).map(|k| if there(k) { m[k] * scales[k] / fits.sqrt() } else { 0.0 });
            (u.collect(), (1.0 - all / fits) + added / fits)
        });
        Whitening { scales, turn }
    }

    /// `W^T = Q diag(scales) T^{-1/2}`.
    fn whitening_transposed(&self, lambda: f64) -> Mat<f64> {
        let w = self.whitening(lambda);
        w.turned(&scaled(&self.q, &w.scales), -0.5)
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
        let w = timed(&mut info.seconds.statistics, || {
            backend.weights(s, loss, positives, NegativeSampling::All)
        })?;
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
    pub(super) fn centred(&self, (mean_x, mean_y): (&[f64], &[f64]), sums: &Sums) -> Self {
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
        Self { x: self.x.centred(mx), y: self.y.centred(my), m }
    }

    /// The leading singular triplets of the whitened `C`, in whitened coordinates; zeros for those that it is too small to
    /// have.
    fn solve(&self, lambda: f64, rank: usize) -> Result<TopR> {
        let (wx, wy) = (self.x.whitening(lambda), self.y.whitening(lambda));
        let (dx, dy) = (&wx.scales, &wy.scales);
        let c = Mat::from_fn(dy.len(), dx.len(), |j, i| dx[i] * self.m[(i, j)] * dy[j]);
        let c = wy.turned(&wx.turned(&c, -0.5).transpose().to_owned(), -0.5);
        let some = rank.min(dx.len()).min(dy.len());
        Ok(spectral::top_r_by_gram(c.as_ref(), some)?.widened(rank))
    }

    /// The whitening maps `W` of both sides.
    pub(super) fn maps(&self, lambda: f64) -> (Mat<f64>, Mat<f64>) {
        let map = |s: &Spectrum| s.whitening_transposed(lambda).transpose().to_owned();
        (map(&self.x), map(&self.y))
    }

    /// Encoders of whitened features as they apply to features rotated into the eigenbases; where means are taken out, with
    /// what they are worth in a last column, that of a feature which is 1 everywhere.
    pub(super) fn on_rotated(&self, lambda: f64, e: &Encoders) -> Encoders {
        let side = |f: &Mat<f64>, s: &Spectrum| {
            let w = s.whitening(lambda);
            let f = scaled(&w.turned(f, -0.5), &w.scales);
            let Some(m) = &s.without else { return f };
            let bias = |i: usize| -(0..m.len()).map(|j| f[(i, j)] * m[j]).sum::<f64>();
            Mat::from_fn(f.nrows(), m.len() + 1, |i, j| if j < m.len() { f[(i, j)] } else { bias(i) })
        };
        Encoders { f1: side(&e.f1, &self.x), f2: side(&e.f2, &self.y) }
    }

    /// Encoders `A` of whitened features with `F = A W`.
    pub(super) fn unwhiten(&self, f: &Encoders, lambda: f64) -> Encoders {
        let side = |f: &Mat<f64>, spectrum: &Spectrum| {
            let w = spectrum.whitening(lambda);
            let inverse = |s: &f64| if *s > 0.0 { 1.0 / s } else { 0.0 };
            let inverse: Vec<f64> = w.scales.iter().map(inverse).collect();
            w.turned(&scaled(&(f * &spectrum.q), &inverse), 0.5)
        };
        Encoders { f1: side(&f.f1, &self.x), f2: side(&f.f2, &self.y) }
    }

    /// `W^T W` of the whitening maps.
    pub(super) fn metric(&self, lambda: f64) -> (Mat<f64>, Mat<f64>) {
        let side = |s: &Spectrum| {
            let w = s.whitening_transposed(lambda);
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
/// is the rank that they are compared at, `widest` the number of triplets that may be used.
pub(super) fn choose<B: Backend>(
    backend: &B,
    moments: &Moments,
    validation: &Validation<'_, B::Matrix>,
    (whiten, powers): (&[f64], &[f64]),
    (trial, widest): (usize, usize),
    monitor: &mut Monitor<'_>,
) -> Result<Choice> {
    let mut candidates = Vec::new();
    let mut score = |lambda: f64, power: f64, top: &TopR, info: &mut FitInfo| {
        let e = leading(&Encoders::split(top, Factorization::Power(power)), trial);
        let e = moments.on_rotated(lambda, &e);
        let score = timed(&mut info.seconds.validation, || validation.score(backend, &e))?;
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
        let solved = timed(&mut monitor.info.seconds.spectral, || {
            backend.parallel(&next, |&k| moments.solve(lambdas[k], widest))
        });
        for (&k, top) in next.iter().zip(solved) {
            let top = top?;
            tried[k] = Some((score(lambdas[k], usual, &top, monitor.info)?, top));
        }
        let value = |k: &usize| tried[*k].as_ref().map_or(f64::NEG_INFINITY, |t| t.0);
        let best = (0..lambdas.len()).max_by(|a, b| value(a).total_cmp(&value(b))).unwrap_or(0);
        let neighbours = [best.checked_sub(1), Some(best + 1)].into_iter().flatten();
        next = neighbours.filter(|&k| k < lambdas.len() && tried[k].is_none()).collect();
        if next.is_empty() || !monitor.allows(begun.elapsed().as_secs_f64())? {
            break best;
        }
    };
    let Some((mut highest, top)) = tried.swap_remove(best) else {
        return Err(Error::invalid("whiten", "at least one candidate", "none"));
    };
    let (lambda, mut power) = (lambdas[best], usual);
    for &p in powers.iter().filter(|&&p| p != usual) {
        if !monitor.allows(0.0)? {
            break;
        }
        let value = score(lambda, p, &top, monitor.info)?;
        if value > highest {
            (highest, power) = (value, p);
        }
    }
    Ok(Choice { lambda, power, score: highest, top, candidates })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::io::HostMatrix;
    use rand::{Rng, SeedableRng};

    /// Rows with a mean, of which one column is constant.
    fn rows(n: usize, d: usize, offset: f64, seed: u64) -> Mat<f64> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let noise = Mat::from_fn(n, d, |_, _| rng.random_range(-1.0..1.0));
        Mat::from_fn(n, d, |i, j| {
            let shared = ((i * 7 + j) as f64 * 0.3).sin();
            if j == 2 { offset } else { noise[(i, j)] + shared + offset * (j as f64 - 1.5) }
        })
    }

    fn means(x: &Mat<f64>) -> Vec<f64> {
        (0..x.ncols()).map(|j| x.col(j).iter().sum::<f64>() / x.nrows() as f64).collect()
    }

    #[test]
    fn moments_without_means_are_those_of_rows_without_means() {
        let (n, dx, dy) = (200, 7, 5);
        let (backend, loss, positives) =
            (Cpu::<f64>::new(1).unwrap(), Loss::default(), Positives::diagonal(n));
        let load = |m: &Mat<f64>| {
            let values = (0..n).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect();
            backend.load(&HostMatrix::from_f64("rows", n, m.ncols(), values).unwrap()).unwrap()
        };
        let of = |x: &Mat<f64>, y: &Mat<f64>| {
            let (x, y) = (load(x), load(y));
            let mut info = FitInfo::default();
            let m = Moments::new(&backend, (&x, &y), (dx, dy), &loss, &positives, &mut info).unwrap();
            (m, Sums::new(&backend, (&x, &y), &loss, &positives).unwrap())
        };
        let near = |a: &Mat<f64>, b: &Mat<f64>, limit: f64| {
            let off = (a - b).norm_max() / b.norm_max();
            assert!(off < limit, "{off}");
        };
        for (offset, limit) in [(0.1, 1e-11), (3.0, 1e-9), (1000.0, 1e-5)] {
            let (x, y) = (rows(n, dx, offset, 1), rows(n, dy, -2.0 * offset, 2));
            let (mx, my) = (means(&x), means(&y));
            let cx = Mat::from_fn(n, dx, |i, j| x[(i, j)] - mx[j]);
            let cy = Mat::from_fn(n, dy, |i, j| y[(i, j)] - my[j]);
            let (raw, sums) = of(&x, &y);
            let (got, (want, _)) = (raw.centred((&mx, &my), &sums), of(&cx, &cy));
            for lambda in [1e-3, 0.1, 3.0] {
                let (a, b) = (got.solve(lambda, dy).unwrap(), want.solve(lambda, dy).unwrap());
                a.s.iter().zip(&b.s).for_each(|(s, t)| assert!((s - t).abs() < limit * b.s[0], "{s} {t}"));
                let ((ax, ay), (bx, by)) = (got.metric(lambda), want.metric(lambda));
                near(&ax, &bx, limit);
                near(&ay, &by, limit);
                // Encoders of whitened features fold, apply to rotated rows, and come back.
                let f = Encoders {
                    f1: Mat::from_fn(3, dx, |i, j| ((i * dx + j) as f64).cos()),
                    f2: Mat::from_fn(3, dy, |i, j| ((i * dy + j) as f64).sin()),
                };
                let (wx, wy) = got.maps(lambda);
                let folded = Encoders { f1: &f.f1 * &wx, f2: &f.f2 * &wy };
                let back = got.unwhiten(&folded, lambda);
                near(&back.f1, &f.f1, limit);
                near(&back.f2, &f.f2, limit);
                let rotated = &x * &got.x.q;
                let beside = Mat::from_fn(n, dx + 1, |i, j| if j < dx { rotated[(i, j)] } else { 1.0 });
                let on = got.on_rotated(lambda, &f);
                near(&(&beside * on.f1.transpose()), &(&cx * folded.f1.transpose()), limit);
            }
        }
    }
}
