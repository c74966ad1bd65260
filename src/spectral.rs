//! Small dense spectral steps in float64: top-r SVD, powers of symmetric matrices, low-rank differences.

use crate::dense::{self, orthonormal, product};
use crate::error::{Error, Result};
use faer::{Mat, MatRef};
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// How the top singular triplets are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SvdMethod {
    /// The full decomposition.
    #[default]
    Full,
    /// Randomized range finder with power iterations (Halko, Martinsson, Tropp 2011).
    Randomized {
        /// Extra directions beyond the rank.
        oversample: usize,
        /// Power iterations.
        power_iterations: usize,
        /// Seed of the Gaussian sketch.
        seed: u64,
    },
}

impl SvdMethod {
    /// Randomized with 10 extra directions and 4 power iterations.
    pub fn randomized(seed: u64) -> Self {
        Self::Randomized { oversample: 10, power_iterations: 4, seed }
    }
}

/// The leading singular triplets `C ~ U diag(s) V^T`.
#[derive(Clone, Debug)]
pub struct TopR {
    /// `d1 x r`, orthonormal columns.
    pub u: Mat<f64>,
    /// The `r` leading singular values, descending.
    pub s: Vec<f64>,
    /// `d2 x r`, orthonormal columns.
    pub v: Mat<f64>,
    /// All singular values that were computed (beyond `r` where the method gives them).
    pub all: Vec<f64>,
}

impl TopR {
    /// With triplets of zeros up to `r`, where there are fewer.
    pub(crate) fn widened(self, r: usize) -> Self {
        let k = self.s.len();
        if k >= r {
            return self;
        }
        let wide = |m: &Mat<f64>| Mat::from_fn(m.nrows(), r, |i, j| if j < k { m[(i, j)] } else { 0.0 });
        let mut s = self.s;
        s.resize(r, 0.0);
        Self { u: wide(&self.u), v: wide(&self.v), s, all: self.all }
    }

    /// The triplets of `Q_x C Q_y^T` for bases with orthonormal columns; none: the identity.
    pub(crate) fn lifted(self, x: Option<&Mat<f64>>, y: Option<&Mat<f64>>) -> Self {
        let lift = |q: Option<&Mat<f64>>, u: Mat<f64>| match q {
            Some(q) => q * u,
            None => u,
        };
        Self { u: lift(x, self.u), v: lift(y, self.v), ..self }
    }
}

/// The leading `r` singular triplets of `c`.
///
/// # Errors
/// [`Error::InvalidArgument`] when `r` is 0 or above either dimension, [`Error::Numerical`] when `c` is not finite or
/// the decomposition does not converge.
pub fn top_r(c: MatRef<'_, f64>, r: usize, method: SvdMethod) -> Result<TopR> {
    let bound = c.nrows().min(c.ncols());
    if r == 0 || r > bound {
        return Err(Error::invalid("rank", format!("between 1 and min(d1, d2) = {bound}"), r));
    }
    if !c.norm_l2().is_finite() {
        return Err(Error::Numerical("the matrix to decompose is not finite".into()));
    }
    match method {
        SvdMethod::Full => full(c, r),
        SvdMethod::Randomized { oversample, power_iterations, seed } => {
            let width = (r + oversample).min(bound);
            // A sketch nearly as wide as the matrix costs more than the decomposition it avoids.
            if width * 2 > bound { full(c, r) } else { randomized(c, r, width, power_iterations, seed) }
        }
    }
}

fn full(c: MatRef<'_, f64>, r: usize) -> Result<TopR> {
    let (u, all, v) = dense::thin_svd(c)?;
    let (u, v) = (u.subcols(0, r).to_owned(), v.subcols(0, r).to_owned());
    Ok(TopR { u, s: all[..r].to_vec(), v, all })
}

/// As [`top_r`] with the full decomposition, in half its time: through the eigenvectors of the smaller Gram matrix.
/// Singular values below `1e-5` of the largest would lose half their digits there; with those among the leading `r` the
/// full decomposition is taken.
///
/// # Errors
/// As [`top_r`].
pub fn top_r_by_gram(c: MatRef<'_, f64>, r: usize) -> Result<TopR> {
    if c.nrows() < c.ncols() {
        let t = top_r_by_gram(c.transpose(), r)?;
        return Ok(TopR { u: t.v, v: t.u, ..t });
    }
    let bound = c.ncols();
    if r == 0 || r > bound {
        return Err(Error::invalid("rank", format!("between 1 and min(d1, d2) = {bound}"), r));
    }
    let (q, values) = eigen(product(c.transpose(), c).as_ref())?;
    let all: Vec<f64> = values.iter().rev().map(|w| w.max(0.0).sqrt()).collect();
    // Written so that NaN takes the full decomposition too.
    if all[r - 1].is_nan() || all[r - 1] <= 1e-5 * all[0] {
        return top_r(c, r, SvdMethod::Full);
    }
    let v = Mat::from_fn(bound, r, |i, j| q[(i, bound - 1 - j)]);
    let cv = product(c, v.as_ref());
    let u = Mat::from_fn(c.nrows(), r, |i, j| cv[(i, j)] / all[j]);
    Ok(TopR { u, s: all[..r].to_vec(), v, all })
}

/// The leading `r` singular triplets of `F1^T F2 + ridge E` for `r x d1` and `r x d2` factors, `E` with ones on its leading
/// diagonal, without the `d1 x d2` matrix where `r` is small.
///
/// With `d1 >= d2` the span of the rows of `F2` and of the first `d2` columns of `F1` is invariant; on its complement the
/// matrix is `ridge E`, whose singular values all equal the ridge.
///
/// # Errors
/// As [`top_r`].
pub(crate) fn top_of_ridged(f1: MatRef<'_, f64>, f2: MatRef<'_, f64>, ridge: f64) -> Result<TopR> {
    let (r, d1, d2) = (f1.nrows(), f1.ncols(), f2.ncols());
    if d1 < d2 {
        let t = top_of_ridged(f2, f1, ridge)?;
        return Ok(TopR { u: t.v, v: t.u, ..t });
    }
    let beside = Mat::from_fn(d2, 2 * r, |i, k| if k < r { f2[(k, i)] } else { f1[(k - r, i)] });
    let q = orthonormal(beside.as_ref())?;
    let k = q.ncols();
    let diagonal = |v: &Mat<f64>| Mat::from_fn(d1, v.ncols(), |i, j| if i < d2 { v[(i, j)] } else { 0.0 });
    let on_span = f1.transpose() * (f2 * &q) + diagonal(&q) * faer::Scale(ridge);
    let top = full(on_span.as_ref(), k)?;
    let own = top.s.iter().take(r).filter(|s| **s >= ridge || k == d2).count();
    let (u, v) = (top.u.subcols(0, own).to_owned(), &q * top.v.subcols(0, own));
    // Any directions of the complement, with the ridge for a singular value, make up what is missing.
    let missing = r - own;
    let rest = match missing {
        0 => Mat::zeros(d2, 0),
        _ => {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
            let any = Mat::<f64>::from_fn(d2, missing, |_, _| StandardNormal.sample(&mut rng));
            let both = Mat::from_fn(d2, k + missing, |i, j| if j < k { q[(i, j)] } else { any[(i, j - k)] });
            orthonormal(both.as_ref())?.subcols(k, missing.min(d2 - k)).to_owned()
        }
    };
    let beside = |a: &Mat<f64>, b: &Mat<f64>| {
        Mat::from_fn(a.nrows(), own + b.ncols(), |i, j| if j < own { a[(i, j)] } else { b[(i, j - own)] })
    };
    let mut s = top.s[..own].to_vec();
    s.resize(own + rest.ncols(), ridge);
    let (u, v) = (beside(&u, &diagonal(&rest)), beside(&v, &rest));
    Ok(TopR { u, v, all: s.clone(), s }.widened(r))
}

fn randomized(
    c: MatRef<'_, f64>,
    r: usize,
    width: usize,
    power_iterations: usize,
    seed: u64,
) -> Result<TopR> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let sketch = Mat::<f64>::from_fn(c.ncols(), width, |_, _| StandardNormal.sample(&mut rng));
    let mut q = orthonormal(product(c, sketch.as_ref()).as_ref())?;
    for _ in 0..power_iterations {
        let back = orthonormal(product(c.transpose(), q.as_ref()).as_ref())?;
        q = orthonormal(product(c, back.as_ref()).as_ref())?;
    }
    let small = full(product(q.transpose(), c).as_ref(), r)?;
    Ok(TopR { u: product(q.as_ref(), small.u.as_ref()), ..small })
}

/// Eigenvectors (columns) and eigenvalues, ascending, of a symmetric matrix.
///
/// # Errors
/// [`Error::Numerical`] when it is not finite or the decomposition does not converge.
pub fn eigen(k: MatRef<'_, f64>) -> Result<(Mat<f64>, Vec<f64>)> {
    if !k.norm_l2().is_finite() {
        return Err(Error::Numerical("the Gram matrix is not finite".into()));
    }
    dense::symmetric_eigen(k)
}

/// `(K + ridge I)^{1/2}` and `(K + ridge I)^{-1/2}` of a symmetric `K`; eigenvalues at most `cut` count as 0 in the
/// inverse.
///
/// # Errors
/// [`Error::Numerical`] when the decomposition does not converge.
pub fn psd_half_powers(k: MatRef<'_, f64>, ridge: f64, cut: f64) -> Result<(Mat<f64>, Mat<f64>)> {
    let n = k.nrows();
    let shifted = Mat::from_fn(n, n, |i, j| 0.5 * (k[(i, j)] + k[(j, i)]) + if i == j { ridge } else { 0.0 });
    if !shifted.norm_l2().is_finite() {
        return Err(Error::Numerical("the Gram matrix is not finite".into()));
    }
    let (q, values) = dense::symmetric_eigen(shifted.as_ref())?;
    let power = |f: &dyn Fn(f64) -> f64| {
        let scaled = Mat::from_fn(n, n, |i, j| q[(i, j)] * f(values[j]));
        product(scaled.as_ref(), q.transpose())
    };
    let half = power(&|w| w.max(0.0).sqrt());
    let inverse = power(&|w| if w > cut { 1.0 / w.sqrt() } else { 0.0 });
    Ok((half, inverse))
}

/// `|A B^T - C D^T|_F` for `n x r`, `m x r` factors, without the `n x m` matrices and without cancellation.
pub fn low_rank_distance(
    a: MatRef<'_, f64>,
    b: MatRef<'_, f64>,
    c: MatRef<'_, f64>,
    d: MatRef<'_, f64>,
) -> f64 {
    let left = stack(a, c, -1.0);
    let right = stack(b, d, 1.0);
    let (left, right) = (left.qr(), right.qr());
    (left.thin_R() * right.thin_R().transpose()).norm_l2()
}

fn stack(a: MatRef<'_, f64>, b: MatRef<'_, f64>, sign: f64) -> Mat<f64> {
    let r = a.ncols();
    Mat::from_fn(a.nrows(), r + b.ncols(), |i, j| if j < r { a[(i, j)] } else { sign * b[(i, j - r)] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rows: usize, cols: usize, seed: u64) -> Mat<f64> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        Mat::<f64>::from_fn(rows, cols, |_, _| StandardNormal.sample(&mut rng))
    }

    #[test]
    fn randomized_finds_the_leading_triplets_of_a_decaying_spectrum() {
        let (u, v) = (
            orthonormal(sample(90, 80, 1).as_ref()).unwrap(),
            orthonormal(sample(120, 80, 2).as_ref()).unwrap(),
        );
        let scaled = Mat::from_fn(90, 80, |i, j| u[(i, j)] * 0.8f64.powi(j as i32));
        let c = &scaled * v.transpose();
        let exact = top_r(c.as_ref(), 8, SvdMethod::Full).unwrap();
        let fast = top_r(c.as_ref(), 8, SvdMethod::randomized(3)).unwrap();
        assert_eq!(fast.all.len(), 18);
        for k in 0..8 {
            assert!((exact.s[k] - fast.s[k]).abs() < 1e-10, "{k}");
        }
        let distance = low_rank_distance(
            (&exact.u * faer::Scale(1.0)).as_ref(),
            exact.v.as_ref(),
            fast.u.as_ref(),
            fast.v.as_ref(),
        );
        assert!(distance < 1e-7, "{distance}");
    }

    #[test]
    fn the_gram_matrix_gives_the_same_triplets() {
        for (m, n) in [(30, 20), (20, 30)] {
            let c = sample(m, n, 7);
            let (a, b) =
                (top_r(c.as_ref(), 6, SvdMethod::Full).unwrap(), top_r_by_gram(c.as_ref(), 6).unwrap());
            let scaled = |t: &TopR| Mat::from_fn(m, 6, |i, j| t.u[(i, j)] * t.s[j]);
            let (x, y) = (scaled(&a), scaled(&b));
            assert!(low_rank_distance(x.as_ref(), a.v.as_ref(), y.as_ref(), b.v.as_ref()) < 1e-12 * a.s[0]);
        }
        // A matrix of rank 2 has no sixth triplet worth dividing by.
        let low = sample(12, 2, 8) * sample(2, 9, 9);
        let top = top_r_by_gram(low.as_ref(), 6).unwrap();
        assert!((top.u.transpose() * &top.u - Mat::<f64>::identity(6, 6)).norm_l2() < 1e-10);
    }

    #[test]
    fn half_powers_multiply_to_the_projector() {
        let a = sample(12, 7, 5);
        let k = &a * a.transpose();
        let (half, inverse) = psd_half_powers(k.as_ref(), 0.0, 1e-10).unwrap();
        assert!((&half * &half - &k).norm_l2() < 1e-12 * k.norm_l2());
        let projector = &half * &inverse;
        assert!((&projector * &projector - &projector).norm_l2() < 1e-10);
        let trace: f64 = (0..12).map(|i| projector[(i, i)]).sum();
        assert!((trace - 7.0).abs() < 1e-10);
    }

    #[test]
    fn distance_equals_the_dense_one() {
        let (a, b, c, d) = (sample(9, 3, 1), sample(8, 3, 2), sample(9, 3, 3), sample(8, 3, 4));
        let dense = (&a * b.transpose() - &c * d.transpose()).norm_l2();
        let low = low_rank_distance(a.as_ref(), b.as_ref(), c.as_ref(), d.as_ref());
        assert!((dense - low).abs() < 1e-12 * dense);
        assert!(low_rank_distance(a.as_ref(), b.as_ref(), a.as_ref(), b.as_ref()) < 1e-12 * dense);
    }

    #[test]
    fn a_ridge_on_the_diagonal_of_a_product_needs_no_large_matrix() {
        for (d1, d2, r, ridge) in
            [(30, 24, 4, 0.5), (24, 30, 4, 3.0), (20, 20, 3, 0.01), (9, 8, 8, 1.0), (7, 30, 5, 2.0)]
        {
            let (f1, f2) = (sample(r, d1, 11), sample(r, d2, 12));
            let mut dense = f1.transpose() * &f2;
            (0..d1.min(d2)).for_each(|k| dense[(k, k)] += ridge);
            let (got, want) =
                (top_of_ridged(f1.as_ref(), f2.as_ref(), ridge).unwrap(), full(dense.as_ref(), r).unwrap());
            for k in 0..r {
                assert!(
                    (got.s[k] - want.s[k]).abs() < 1e-10 * want.s[0],
                    "{d1} {d2} {k}: {:?} {:?}",
                    got.s,
                    want.s
                );
            }
            // Each is a triplet of the matrix.
            let scaled = Mat::from_fn(d1, r, |i, j| got.u[(i, j)] * got.s[j]);
            assert!((&dense * &got.v - scaled).norm_l2() < 1e-10 * want.s[0]);
            assert!((got.v.transpose() * &got.v - Mat::<f64>::identity(r, r)).norm_l2() < 1e-10);
        }
    }

    #[test]
    fn bad_ranks_and_infinities_are_errors() {
        let c = sample(4, 5, 1);
        assert!(top_r(c.as_ref(), 5, SvdMethod::Full).unwrap_err().to_string().starts_with("rank"));
        assert!(top_r(c.as_ref(), 0, SvdMethod::Full).is_err());
        let mut bad = c.clone();
        bad[(1, 1)] = f64::NAN;
        assert!(matches!(top_r(bad.as_ref(), 2, SvdMethod::Full), Err(Error::Numerical(_))));
    }
}
