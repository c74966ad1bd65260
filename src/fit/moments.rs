//! Second moments of both sides, from which every whitened spectral step follows by one small SVD.

use super::best::Sums;
use super::info::FitInfo;
use super::linear::Encoders;
use super::monitor::Monitor;
use super::options::Factorization;
use super::timed;
use super::validation::Validation;
use crate::backend::{Backend, Similarity};
use crate::dense;
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use crate::spectral::{self, TopR};
use faer::{Mat, MatRef};

/// The second moments `G = X^T X / n` of both sides and `C` of the first update, of features or, after
/// [`centred`](Self::centred), of the same features without their means.
pub(super) struct Moments {
    x: Gram,
    y: Gram,
    c: Mat<f64>,
}

/// `G` of one side.
struct Gram {
    g: Mat<f64>,
    /// Features that there are.
    width: usize,
    /// The mean eigenvalue of all features: they may be held in fewer coordinates, outside of which there is nothing.
    mean: f64,
    /// The mean of the features, where it is taken out.
    without: Option<Vec<f64>>,
}

/// Share of the mean eigenvalue below which there is no variance.
const NOTHING: f64 = 1e-10;

impl Gram {
    /// Of `X^T X`, of `n` rows and `width` features.
    fn new(xtx: &Mat<f64>, n: usize, width: usize) -> Self {
        let g = xtx * faer::Scale(1.0 / n as f64);
        let mean = trace(&g) / width.max(1) as f64;
        Self { g, width, mean, without: None }
    }

    /// The same without the mean `m`.
    fn centred(&self, m: &[f64]) -> Self {
        let g = Mat::from_fn(m.len(), m.len(), |i, j| self.g[(i, j)] - m[i] * m[j]);
        let mean = (trace(&g) / self.width.max(1) as f64).max(0.0);
        Self { g, width: self.width, mean, without: Some(m.to_vec()) }
    }

    fn whitening(&self, lambda: f64) -> Result<Whitening> {
        let (d, shift) = (self.g.nrows(), lambda * self.mean);
        let shrunk = Mat::from_fn(d, d, |i, j| self.g[(i, j)] + if i == j { shift } else { 0.0 });
        let factor = match dense::cholesky(shrunk.as_ref())? {
            Some(l) if (0..d).all(|i| l[(i, i)].powi(2) > NOTHING * self.mean) => Factor::Triangular(l),
            _ => {
                let (q, values) = spectral::eigen(self.g.as_ref())?;
                let scale = |v: f64| {
                    let v = v.max(0.0) + shift;
                    if v > NOTHING * self.mean && v > 0.0 { 1.0 / v.sqrt() } else { 0.0 }
                };
                Factor::Spectral { scales: values.into_iter().map(scale).collect(), q }
            }
        };
        Ok(Whitening { factor, without: self.without.clone() })
    }
}

fn trace(g: &Mat<f64>) -> f64 {
    (0..g.nrows()).map(|i| g[(i, i)]).sum()
}

/// How a side is whitened: a map `W` with `W (G + lambda mean(e)) W^T = I`.
struct Whitening {
    factor: Factor,
    without: Option<Vec<f64>>,
}

/// What `W` is made of. Any `W` serves: two of them differ by a rotation, which the singular value decomposition and what descends
/// from it do not see.
enum Factor {
    /// `W = L^{-1}` with `L L^T = G + lambda mean(e)`: no eigenvalue is needed.
    Triangular(Mat<f64>),
    /// `W = diag(scales) Q^T` of the eigenvectors, where `G + lambda mean(e)` is singular: directions without variance stay out.
    Spectral { q: Mat<f64>, scales: Vec<f64> },
}

impl Whitening {
    /// `W B`.
    fn of_columns(&self, b: MatRef<'_, f64>) -> Result<Mat<f64>> {
        match &self.factor {
            Factor::Triangular(l) => dense::solve_lower(l.as_ref(), b),
            Factor::Spectral { q, scales } => {
                let turned = dense::product(q.transpose(), b);
                Ok(Mat::from_fn(turned.nrows(), turned.ncols(), |i, j| scales[i] * turned[(i, j)]))
            }
        }
    }

    /// `F = A W`: encoders of whitened features as they apply to the features.
    fn folded(&self, a: &Mat<f64>) -> Result<Mat<f64>> {
        match &self.factor {
            Factor::Triangular(l) => {
                Ok(dense::solve_lower_transposed(l.as_ref(), a.transpose())?.transpose().to_owned())
            }
            Factor::Spectral { q, scales } => Ok(dense::product(scaled(a, scales).as_ref(), q.transpose())),
        }
    }

    /// The `A` of `F = A W`.
    fn unfolded(&self, f: &Mat<f64>) -> Mat<f64> {
        match &self.factor {
            Factor::Triangular(l) => dense::product(f.as_ref(), l.as_ref()),
            Factor::Spectral { q, scales } => {
                let inverse: Vec<f64> = scales.iter().map(|s| if *s > 0.0 { 1.0 / s } else { 0.0 }).collect();
                scaled(&dense::product(f.as_ref(), q.as_ref()), &inverse)
            }
        }
    }

    /// `W`.
    fn map(&self) -> Result<Mat<f64>> {
        match &self.factor {
            Factor::Triangular(l) => dense::inverse_lower(l.as_ref()),
            Factor::Spectral { q, scales } => Ok(scaled(q, scales).transpose().to_owned()),
        }
    }

    /// [`folded`](Self::folded) encoders; where means are taken out, with what they are worth in a last column, that of a feature
    /// which is 1 everywhere.
    fn with_bias(&self, a: &Mat<f64>) -> Result<Mat<f64>> {
        let f = self.folded(a)?;
        let Some(m) = &self.without else { return Ok(f) };
        let bias = |i: usize| -(0..m.len()).map(|j| f[(i, j)] * m[j]).sum::<f64>();
        Ok(Mat::from_fn(f.nrows(), m.len() + 1, |i, j| if j < m.len() { f[(i, j)] } else { bias(i) }))
    }
}

/// Both sides whitened with one shrinkage.
pub(super) struct Whitenings {
    x: Whitening,
    y: Whitening,
}

impl Whitenings {
    /// The maps `W` of both sides.
    pub(super) fn maps<B: Backend>(&self, backend: &B) -> Result<(Mat<f64>, Mat<f64>)> {
        let (x, y) = both(backend, [&self.x, &self.y], |w| w.map());
        Ok((x?, y?))
    }

    /// `W^T W`.
    pub(super) fn metric<B: Backend>(&self, backend: &B) -> Result<(Mat<f64>, Mat<f64>)> {
        let (x, y) = both(backend, [&self.x, &self.y], |w| match &w.factor {
            Factor::Triangular(_) => dense::square_of_lower(w.map()?.as_ref()),
            Factor::Spectral { q, scales } => {
                let w = scaled(q, scales);
                Ok(dense::product(w.as_ref(), w.transpose()))
            }
        });
        Ok((x?, y?))
    }

    /// `F = A W`.
    pub(super) fn folded(&self, a: &Encoders) -> Result<Encoders> {
        Ok(Encoders { f1: self.x.folded(&a.f1)?, f2: self.y.folded(&a.f2)? })
    }

    /// Encoders `A` of whitened features with `F = A W`.
    pub(super) fn unfolded(&self, f: &Encoders) -> Encoders {
        Encoders { f1: self.x.unfolded(&f.f1), f2: self.y.unfolded(&f.f2) }
    }

    /// `F = A W`; where means are taken out, beside a column of biases for features that are 1 everywhere.
    pub(super) fn with_bias(&self, a: &Encoders) -> Result<Encoders> {
        Ok(Encoders { f1: self.x.with_bias(&a.f1)?, f2: self.y.with_bias(&a.f2)? })
    }
}

/// What `f` makes of either side, side by side.
fn both<B: Backend, A: Sync, R: Send>(
    backend: &B,
    sides: [A; 2],
    f: impl Fn(&A) -> R + Sync + Send,
) -> (R, R) {
    let [x, y] = &sides;
    let mut made = backend.parallel(&[0, 1], |side| f(if *side == 0 { x } else { y }));
    match (made.pop(), made.pop()) {
        (Some(of_y), Some(of_x)) => (of_x, of_y),
        _ => (f(x), f(y)),
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
        for g in [&gx, &gy] {
            if !g.norm_l2().is_finite() {
                return Err(Error::Numerical("the Gram matrix is not finite".into()));
            }
        }
        let (x, y) = (Gram::new(&gx, positives.n_x(), widths.0), Gram::new(&gy, positives.n_y(), widths.1));
        Ok(Self { x, y, c })
    }

    /// Those of the same features without their means: `G - m m^T`, and `C` less what the means have in it.
    pub(super) fn centred(&self, (mx, my): (&[f64], &[f64]), sums: &Sums) -> Self {
        let c = Mat::from_fn(self.c.nrows(), self.c.ncols(), |i, j| {
            let with_one = mx[i] * sums.rows[(0, j)] + sums.cols[(i, 0)] * my[j];
            self.c[(i, j)] - with_one + sums.all * mx[i] * my[j]
        });
        Self { x: self.x.centred(mx), y: self.y.centred(my), c }
    }

    pub(super) fn whitenings<B: Backend>(&self, backend: &B, lambda: f64) -> Result<Whitenings> {
        let (x, y) = both(backend, [&self.x, &self.y], |side| side.whitening(lambda));
        Ok(Whitenings { x: x?, y: y? })
    }

    /// The leading singular triplets of the whitened `C`, in whitened coordinates; zeros for those that it is too small to
    /// have.
    fn solve(&self, w: &Whitenings, dim: usize) -> Result<TopR> {
        let c = w.x.of_columns(self.c.as_ref())?;
        let c = w.y.of_columns(c.transpose())?.transpose().to_owned();
        let some = dim.min(c.nrows()).min(c.ncols());
        Ok(spectral::top_r_by_gram(c.as_ref(), some)?.widened(dim))
    }
}

/// `F diag(scales)`.
fn scaled(f: &Mat<f64>, scales: &[f64]) -> Mat<f64> {
    Mat::from_fn(f.nrows(), f.ncols(), |i, j| f[(i, j)] * scales[j])
}

/// The leading `dim` rows of both encoders.
pub(super) fn leading(e: &Encoders, dim: usize) -> Encoders {
    Encoders { f1: e.f1.subrows(0, dim).to_owned(), f2: e.f2.subrows(0, dim).to_owned() }
}

/// What was chosen: the shrinkage, the power, the leading triplets, and every `(shrinkage, power, score)` tried.
pub(super) struct Choice {
    pub(super) lambda: f64,
    pub(super) power: f64,
    pub(super) score: f64,
    pub(super) top: TopR,
    pub(super) whitenings: Whitenings,
    pub(super) candidates: Vec<(f64, f64, f64)>,
}

/// A shrinkage that was tried.
struct Tried {
    score: f64,
    /// What gave the score: of the best so far alone, since these are matrices as large as Gram matrices.
    found: Option<(TopR, Whitenings)>,
}

/// Chooses shrinkage and power on the validation rows (beside a column of ones, where means are taken out). The shrinkage is searched
/// uphill from neighbour to neighbour, from two starts, for the balanced split of the singular values; then the other splits are
/// tried. `trial` is the dimension that they are compared at, `widest` the number of triplets that may be used. `first` is shown
/// the better of the first two.
pub(super) fn choose<B: Backend>(
    backend: &B,
    moments: &Moments,
    validation: &Validation<'_, B::Matrix>,
    (whiten, powers): (&[f64], &[f64]),
    (trial, widest): (usize, usize),
    monitor: &mut Monitor<'_>,
    first: Option<First<'_>>,
) -> Result<Choice> {
    let (mut candidates, mut first) = (Vec::new(), first);
    let mut score = |lambda: f64, power: f64, (top, w): (&TopR, &Whitenings), info: &mut FitInfo| {
        let e = leading(&Encoders::split(top, Factorization::Power(power)), trial);
        let score = timed(&mut info.seconds.validation, || validation.score(backend, &w.with_bias(&e)?))?;
        candidates.push((lambda, power, score.min(1.0)));
        Ok::<_, Error>(score)
    };
    let usual = powers.iter().copied().find(|p| *p == 0.5).unwrap_or(powers[0]);
    let mut lambdas = whiten.to_vec();
    lambdas.sort_by(|a, b| b.total_cmp(a));
    lambdas.dedup();
    let mut tried: Vec<Option<Tried>> = lambdas.iter().map(|_| None).collect();
    let mut next = vec![lambdas.len() / 4, 3 * lambdas.len() / 4];
    next.dedup();
    let best = loop {
        let begun = std::time::Instant::now();
        let solved = timed(&mut monitor.info.seconds.spectral, || {
            backend.parallel(&next, |&k| {
                let w = moments.whitenings(backend, lambdas[k])?;
                Ok::<_, Error>((moments.solve(&w, widest)?, w))
            })
        });
        for (&k, solved) in next.iter().zip(solved) {
            let (top, whitenings) = solved?;
            let score = score(lambdas[k], usual, (&top, &whitenings), monitor.info)?;
            tried[k] = Some(Tried { score, found: Some((top, whitenings)) });
        }
        let value = |k: &usize| tried[*k].as_ref().map_or(f64::NEG_INFINITY, |t| t.score);
        let best = (0..lambdas.len()).max_by(|a, b| value(a).total_cmp(&value(b))).unwrap_or(0);
        let others = tried.iter_mut().enumerate().filter(|(k, _)| *k != best);
        others.filter_map(|(_, t)| t.as_mut()).for_each(|t| t.found = None);
        let found = tried[best].as_ref().and_then(|t| t.found.as_ref());
        if let (Some(show), Some((top, w))) = (first.take(), found) {
            show(w.folded(&Encoders::split(top, Factorization::Power(usual)))?, monitor)?;
        }
        let neighbours = [best.checked_sub(1), Some(best + 1)].into_iter().flatten();
        next = neighbours.filter(|&k| k < lambdas.len() && tried[k].is_none()).collect();
        if next.is_empty() || !monitor.allows(begun.elapsed().as_secs_f64())? {
            break best;
        }
    };
    let Some(Tried { score: mut highest, found: Some((top, whitenings)) }) = tried.swap_remove(best) else {
        return Err(Error::invalid("whiten", "at least one candidate", "none"));
    };
    let (lambda, mut power) = (lambdas[best], usual);
    for &p in powers.iter().filter(|&&p| p != usual) {
        if !monitor.allows(0.0)? {
            break;
        }
        let value = score(lambda, p, (&top, &whitenings), monitor.info)?;
        if value > highest {
            (highest, power) = (value, p);
        }
    }
    Ok(Choice { lambda, power, score: highest, top, whitenings, candidates })
}

/// Shown encoders of the features.
pub(super) type First<'a> = &'a mut dyn FnMut(Encoders, &mut Monitor<'_>) -> Result<()>;

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
                let (w, v) =
                    (got.whitenings(&backend, lambda).unwrap(), want.whitenings(&backend, lambda).unwrap());
                let (a, b) = (got.solve(&w, dy).unwrap(), want.solve(&v, dy).unwrap());
                a.s.iter().zip(&b.s).for_each(|(s, t)| assert!((s - t).abs() < limit * b.s[0], "{s} {t}"));
                let ((ax, ay), (bx, by)) = (w.metric(&backend).unwrap(), v.metric(&backend).unwrap());
                near(&ax, &bx, limit);
                near(&ay, &by, limit);
                // Encoders of whitened features fold, apply to rows, and come back.
                let f = Encoders {
                    f1: Mat::from_fn(3, dx, |i, j| ((i * dx + j) as f64).cos()),
                    f2: Mat::from_fn(3, dy, |i, j| ((i * dy + j) as f64).sin()),
                };
                let (wx, wy) = w.maps(&backend).unwrap();
                let folded = w.folded(&f).unwrap();
                near(&folded.f1, &(&f.f1 * &wx), limit);
                near(&folded.f2, &(&f.f2 * &wy), limit);
                let back = w.unfolded(&folded);
                near(&back.f1, &f.f1, limit);
                near(&back.f2, &f.f2, limit);
                let beside = Mat::from_fn(n, dx + 1, |i, j| if j < dx { x[(i, j)] } else { 1.0 });
                let on = w.with_bias(&f).unwrap();
                near(&(&beside * on.f1.transpose()), &(&cx * folded.f1.transpose()), limit);
            }
        }
    }

    #[test]
    fn directions_without_variance_stay_out() {
        // Three directions in five features, not shrunk: no triangular factor.
        let (n, backend) = (60, Cpu::<f64>::new(1).unwrap());
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        let basis = Mat::from_fn(3, 5, |_, _| rng.random_range(-1.0..1.0));
        let x = Mat::from_fn(n, 3, |_, _| rng.random_range(-1.0..1.0)) * basis;
        let g = Gram::new(&(x.transpose() * &x), n, 5);
        let both = Whitenings { x: g.whitening(0.0).unwrap(), y: g.whitening(0.1).unwrap() };
        assert!(matches!(both.x.factor, Factor::Spectral { .. }));
        assert!(matches!(both.y.factor, Factor::Triangular(_)));
        let shrunk = Mat::from_fn(5, 5, |i, j| g.g[(i, j)] + if i == j { 0.1 * g.mean } else { 0.0 });
        let (wx, wy) = both.maps(&backend).unwrap();
        // A projection onto three directions, and the identity.
        let (of_x, of_y) = (&wx * &g.g * wx.transpose(), &wy * shrunk * wy.transpose());
        assert!((trace(&of_x) - 3.0).abs() < 1e-10 && (&of_x * &of_x - &of_x).norm_max() < 1e-10);
        assert!((of_y - Mat::<f64>::identity(5, 5)).norm_max() < 1e-12);
        let a = Encoders { f1: Mat::from_fn(2, 5, |i, j| (i + j) as f64), f2: Mat::zeros(2, 5) };
        let back = both.unfolded(&both.folded(&a).unwrap()).f1;
        assert!(
            (both.folded(&Encoders { f1: back, f2: a.f2.clone() }).unwrap().f1 - both.folded(&a).unwrap().f1)
                .norm_max()
                < 1e-9
        );
    }
}
