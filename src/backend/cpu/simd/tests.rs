//! Every kernel at every level of this processor, against `f64` (and for `f64` against the standard
//! library), on ragged tiles with absent entries.

use super::elementary;
use super::lanes::{Dispatch, Element, Kernel, Lanes};
use super::{AdditiveKind, SimdLevel, additive, clip, rows};

fn levels() -> Vec<SimdLevel> {
    [SimdLevel::Scalar, SimdLevel::Avx2, SimdLevel::Avx512]
        .into_iter()
        .filter(|&level| level <= SimdLevel::detect())
        .collect()
}

/// Unit in the last place of the result near `x` in the type of `eps`.
fn ulp(x: f64, eps: f64, smallest: f64) -> f64 {
    2f64.powi(x.abs().max(smallest).log2().floor() as i32) * eps
}

struct Map<'a, T> {
    values: &'a mut [T],
    function: Function,
}

#[derive(Clone, Copy)]
enum Function {
    Exp,
    Exp2,
    Softplus,
    Sigmoid,
}

impl<T: Element> Kernel<T> for Map<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = T>>(self) {
        for block in self.values.chunks_mut(V::N) {
            // SAFETY: the block holds block.len() elements.
            unsafe {
                let x: V = clip::load(block.as_ptr(), block.len(), T::ZERO);
                let y = match self.function {
                    Function::Exp => elementary::exp(x),
                    Function::Exp2 => elementary::exp2(x),
                    Function::Softplus => elementary::softplus_and_sigmoid(x).0,
                    Function::Sigmoid => elementary::sigmoid(x),
                };
                clip::store(y, block.as_mut_ptr(), block.len());
            }
        }
    }
}

fn map<T: Dispatch>(level: SimdLevel, function: Function, values: &[T]) -> Vec<T> {
    let mut out = values.to_vec();
    T::dispatch(level, Map { values: &mut out, function });
    out
}

/// Largest error in ulp over `values`, of results that are normal numbers; smaller ones must come
/// out as 0 or within the smallest normal number.
fn worst_ulp<T: Dispatch>(
    function: Function,
    values: &[T],
    reference: impl Fn(f64) -> f64,
    eps: f64,
    smallest: f64,
) -> f64 {
    let mut worst = 0.0f64;
    for level in levels() {
        for (x, got) in values.iter().zip(map(level, function, values)) {
            let want = reference(x.to_f64());
            let got = got.to_f64();
            if want < smallest * (1.0 + 8.0 * eps) {
                assert!(got >= 0.0 && got <= smallest * (1.0 + 8.0 * eps), "{level}: {x:?} -> {got}");
            } else {
                worst = worst.max((got - want).abs() / ulp(want, eps, smallest));
            }
        }
    }
    worst
}

const TINY_32: f64 = f32::MIN_POSITIVE as f64;
const EPS_32: f64 = f32::EPSILON as f64;

fn grid<T: Element>(from: f64, to: f64, count: usize) -> Vec<T> {
    (0..=count).map(|i| T::from_f64(from + (to - from) * i as f64 / count as f64)).collect()
}

#[test]
fn exp_is_within_two_ulp() {
    let mut near = grid::<f32>(-1.0, 1.0, 400_000);
    near.extend(grid::<f32>(-104.0, 88.72, 1_000_000));
    let worst = worst_ulp(Function::Exp, &near, f64::exp, EPS_32, TINY_32);
    assert!(worst <= 1.5, "f32: {worst} ulp");
    // The standard library's own error is below 1 ulp.
    let mut near = grid::<f64>(-1.0, 1.0, 400_000);
    near.extend(grid::<f64>(-745.0, 709.78, 1_000_000));
    let worst = worst_ulp(Function::Exp, &near, f64::exp, f64::EPSILON, f64::MIN_POSITIVE);
    assert!(worst <= 2.0, "f64: {worst} ulp");
}

#[test]
fn exp2_is_within_two_ulp() {
    let mut near = grid::<f32>(-1.0, 1.0, 400_000);
    near.extend(grid::<f32>(-150.0, 100.0, 1_000_000));
    let worst = worst_ulp(Function::Exp2, &near, f64::exp2, EPS_32, TINY_32);
    assert!(worst <= 1.5, "f32: {worst} ulp");
    let mut near = grid::<f64>(-1.0, 1.0, 400_000);
    near.extend(grid::<f64>(-1075.0, 100.0, 1_000_000));
    let worst = worst_ulp(Function::Exp2, &near, f64::exp2, f64::EPSILON, f64::MIN_POSITIVE);
    assert!(worst <= 2.0, "f64: {worst} ulp");
    for level in levels() {
        let (huge, none) = (f32::INFINITY, f32::NEG_INFINITY);
        let x = [none, -1e6, -127.0, -126.0, 0.0, 3.0, 129.0, 200.0, 1e4, huge];
        let want = [0.0, 0.0, 0.0, f32::MIN_POSITIVE, 1.0, 8.0, huge, huge, huge, huge];
        assert_eq!(map(level, Function::Exp2, &x), want, "{level}");
        let (huge, none) = (f64::INFINITY, f64::NEG_INFINITY);
        let x = [none, -1e6, -1023.0, -1022.0, 0.0, 3.0, 1025.0, 1600.0, 1e5, huge];
        let want = [0.0, 0.0, 0.0, f64::MIN_POSITIVE, 1.0, 8.0, huge, huge, huge, huge];
        assert_eq!(map(level, Function::Exp2, &x), want, "{level}");
        assert!(map(level, Function::Exp2, &[f32::NAN])[0].is_nan(), "{level}");
        assert!(map(level, Function::Exp2, &[f64::NAN])[0].is_nan(), "{level}");
    }
}

#[test]
fn exp_at_the_edges() {
    for level in levels() {
        let x = [f32::NEG_INFINITY, -1e30, -104.0, 0.0, 88.8, 1e30, f32::INFINITY];
        let want = [0.0, 0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY];
        assert_eq!(map(level, Function::Exp, &x), want, "{level}");
        let x = [f64::NEG_INFINITY, -1e300, -746.0, 0.0, 709.9, 1e300, f64::INFINITY];
        let want = want.map(f64::from);
        assert_eq!(map(level, Function::Exp, &x), want, "{level}");
        assert!(map(level, Function::Exp, &[f32::NAN])[0].is_nan(), "{level}");
        assert!(map(level, Function::Exp, &[f64::NAN])[0].is_nan(), "{level}");
    }
}

#[test]
fn softplus_and_sigmoid_keep_relative_accuracy() {
    let softplus = |t: f64| t.max(0.0) + (-t.abs()).exp().ln_1p();
    let sigmoid = |t: f64| if t < 0.0 { t.exp() / (1.0 + t.exp()) } else { 1.0 / (1.0 + (-t).exp()) };
    let mut t = grid::<f32>(-110.0, 110.0, 500_000);
    t.extend(grid::<f32>(-2.0, 2.0, 200_000));
    t.extend([-1e30, 1e30]);
    let worst = worst_ulp(Function::Softplus, &t, softplus, EPS_32, TINY_32);
    assert!(worst <= 4.0, "softplus f32: {worst} ulp");
    let worst = worst_ulp(Function::Sigmoid, &t, sigmoid, EPS_32, TINY_32);
    assert!(worst <= 4.0, "sigmoid f32: {worst} ulp");
    let mut t = grid::<f64>(-750.0, 750.0, 500_000);
    t.extend(grid::<f64>(-2.0, 2.0, 200_000));
    t.extend([-1e300, 1e300]);
    let worst = worst_ulp(Function::Softplus, &t, softplus, f64::EPSILON, f64::MIN_POSITIVE);
    assert!(worst <= 5.0, "softplus f64: {worst} ulp");
    let worst = worst_ulp(Function::Sigmoid, &t, sigmoid, f64::EPSILON, f64::MIN_POSITIVE);
    assert!(worst <= 5.0, "sigmoid f64: {worst} ulp");
}

/// A tile of cosines in [-1, 1] from a fixed generator; every seventh entry or so is absent.
/// Beyond the columns it holds NaN, which must not be read.
struct Tile<T> {
    s: Vec<T>,
    ld: usize,
    rows: usize,
    cols: usize,
}

impl<T: Element> Tile<T> {
    fn new(rows: usize, cols: usize, seed: u64) -> Self {
        let ld = cols + 3;
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 31)
        };
        let s = (0..rows * ld)
            .map(|k| match (k % ld < cols, next()) {
                (false, _) => T::from_f64(f64::NAN),
                (true, u) if u < 0.15 => T::NEG_INFINITY,
                _ => T::from_f64(2.0 * next() - 1.0),
            })
            .collect();
        Tile { s, ld, rows, cols }
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        self.s[i * self.ld + j].to_f64()
    }
}

const SHAPES: [(usize, usize); 8] =
    [(1, 1), (3, 5), (4, 16), (5, 17), (9, 31), (13, 65), (6, 530), (33, 129)];

fn series<T: Element>(len: usize, f: impl Fn(f64) -> f64) -> Vec<T> {
    (0..len).map(|i| T::from_f64(f(i as f64))).collect()
}

fn assert_close<T: Element>(what: &str, level: SimdLevel, got: &[T], want: &[f64], tolerance: f64) {
    for (k, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got.to_f64() - want).abs();
        // Exponentials below the smallest normal number are flushed to 0; no factor exceeds 1000.
        let flushed = if T::EXP_MIN.to_f64() < -700.0 { 0.0 } else { 1e3 * TINY_32 };
        assert!(
            error <= tolerance * want.abs() + flushed,
            "{what} at {k}, {level}: got {got:?}, want {want}, tolerance {tolerance}"
        );
    }
}

/// Relative error of `exp(scale * s - shift)`: the argument is rounded (twice without FMA), then
/// 2 ulp; a sum of `n` such terms adds at most `n` roundings, in practice far fewer.
fn exp_tolerance(eps: f64, argument: f64, n: usize) -> f64 {
    eps * (argument + 3.0 + n as f64 / 4.0)
}

fn clip_kernels<T: Dispatch>(eps: f64) {
    for (index, (rows, cols)) in SHAPES.into_iter().enumerate() {
        for tau in [1.0, 0.07, 0.02] {
            let tile = Tile::<T>::new(rows, cols, index as u64 + 1);
            let scale = T::from_f64(1.0 / tau);
            let (scale64, argument) = (scale.to_f64(), 2.0 / tau);
            let e = |i: usize, j: usize| (scale64 * tile.at(i, j) - scale64).exp();
            let tolerance = exp_tolerance(eps, argument, rows.max(cols));
            for level in levels() {
                let mut row = series::<T>(rows, |i| i);
                let mut col = series::<T>(cols, |j| j);
                clip::exp_sums(level, &tile.s, tile.ld, rows, cols, scale, scale, &mut row, &mut col);
                let want: Vec<f64> =
                    (0..rows).map(|i| i as f64 + (0..cols).map(|j| e(i, j)).sum::<f64>()).collect();
                assert_close("row sums", level, &row, &want, tolerance);
                let want: Vec<f64> =
                    (0..cols).map(|j| j as f64 + (0..rows).map(|i| e(i, j)).sum::<f64>()).collect();
                assert_close("column sums", level, &col, &want, tolerance);

                let alpha = series::<T>(rows, |i| 0.5 + i);
                let beta = series::<T>(cols, |j| 0.25 * j);
                let mut s = tile.s.clone();
                clip::exp_weights(level, &mut s, tile.ld, rows, cols, scale, scale, &alpha, &beta);
                check_weights("weights", level, &tile, &s, tolerance, |i, j| {
                    e(i, j) * (alpha[i].to_f64() + beta[j].to_f64())
                });

                let mut a = series::<T>(rows, |i| -1.0 / tau + (i % 3.0));
                a[rows / 2] = T::NEG_INFINITY;
                let mut b = series::<T>(cols, |j| -1.0 / tau + (j % 5.0));
                b[cols / 2] = T::NEG_INFINITY;
                let mut s = tile.s.clone();
                clip::exp_weights_log(level, &mut s, tile.ld, rows, cols, scale, &a, &b);
                check_weights("log weights", level, &tile, &s, tolerance, |i, j| {
                    let x = scale64 * tile.at(i, j);
                    (x + a[i].to_f64()).exp() + (x + b[j].to_f64()).exp()
                });
            }
        }
    }
}

/// The in-place result against `want`; absent entries must be exactly 0 and padding untouched.
fn check_weights<T: Element>(
    what: &str,
    level: SimdLevel,
    tile: &Tile<T>,
    got: &[T],
    tolerance: f64,
    want: impl Fn(usize, usize) -> f64,
) {
    for i in 0..tile.rows {
        for j in 0..tile.ld {
            let got = got[i * tile.ld + j];
            if j >= tile.cols {
                assert!(got.to_f64().is_nan(), "{what}, {level}: padding written");
            } else if tile.at(i, j) == f64::NEG_INFINITY {
                assert_eq!(got.to_f64(), 0.0, "{what}, {level}: absent entry");
            } else {
                assert_close(what, level, &[got], &[want(i, j)], tolerance);
            }
        }
    }
}

#[test]
fn clip_kernels_match_f64() {
    clip_kernels::<f32>(EPS_32);
    clip_kernels::<f64>(f64::EPSILON);
}

/// Several tiles stacked in both directions give one log-sum-exp, at a temperature whose plain
/// exponentials leave the range of f32; rows and columns with nothing in them stay at -inf and 0.
fn log_sums<T: Dispatch>(eps: f64) {
    let (rows, cols) = (37, 1100);
    for tau in [0.1, 0.01, 0.005] {
        let mut tile = Tile::<T>::new(rows, cols, 5);
        for j in 0..cols {
            tile.s[7 * tile.ld + j] = T::NEG_INFINITY;
        }
        for i in 0..rows {
            tile.s[i * tile.ld + 40] = T::NEG_INFINITY;
        }
        let scale = T::from_f64(1.0 / tau);
        for level in levels() {
            let mut row_max = vec![T::NEG_INFINITY; rows];
            let mut col_max = vec![T::NEG_INFINITY; cols];
            let (mut row_sum, mut col_sum) = (vec![0.0; rows], vec![0.0; cols]);
            for (i, m) in [(0, 20), (20, 17)] {
                for (j, n) in [(0, 19), (19, 560), (579, 521)] {
                    clip::log_sums(
                        level,
                        &tile.s[i * tile.ld + j..],
                        tile.ld,
                        m,
                        n,
                        scale,
                        &mut row_max[i..],
                        &mut row_sum[i..],
                        &mut col_max[j..],
                        &mut col_sum[j..],
                    );
                }
            }
            let check = |what: &str, max: T, sum: f64, terms: Vec<f64>| {
                let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                if largest == f64::NEG_INFINITY {
                    assert_eq!((max.to_f64(), sum), (largest, 0.0), "{what}, {level}");
                    return;
                }
                assert_eq!(max, T::from_f64(largest), "{what}, {level}");
                let want: f64 = terms.iter().map(|x| (x - max.to_f64()).exp()).sum();
                let tolerance = exp_tolerance(eps, 2.0 / tau, terms.len());
                assert!((sum - want).abs() <= tolerance * want, "{what}, {level}: {sum} {want}");
            };
            let scaled = |i, j| scale.to_f64() * tile.at(i, j);
            for i in 0..rows {
                let terms = (0..cols).map(|j| scaled(i, j)).collect();
                check("row", row_max[i], row_sum[i], terms);
            }
            for j in 0..cols {
                let terms = (0..rows).map(|i| scaled(i, j)).collect();
                check("column", col_max[j], col_sum[j], terms);
            }
        }
    }
}

#[test]
fn log_sums_match_f64() {
    log_sums::<f32>(EPS_32);
    log_sums::<f64>(f64::EPSILON);
}

fn psi_and_slope(kind: AdditiveKind, t: f64) -> (f64, f64) {
    let softplus = |u: f64| u.max(0.0) + (-u.abs()).exp().ln_1p();
    let sigmoid = |u: f64| 1.0 / (1.0 + (-u).exp());
    if t == f64::NEG_INFINITY {
        return (0.0, 0.0);
    }
    match kind {
        AdditiveKind::Sigmoid { tau } => (softplus(t / tau), sigmoid(t / tau) / tau),
        AdditiveKind::TripletHard { margin } => {
            ((t + margin).max(0.0), if t + margin > 0.0 { 1.0 } else { 0.0 })
        }
        AdditiveKind::TripletSmooth { tau, margin } => {
            let u = (margin - t) / tau;
            (-tau * tau * softplus(u), tau * sigmoid(u))
        }
    }
}

fn additive_kernels<T: Dispatch>(eps: f64) {
    let kinds = [
        AdditiveKind::Sigmoid { tau: 1.0 },
        AdditiveKind::Sigmoid { tau: 0.03 },
        // A kink that no grid value of this test sits on.
        AdditiveKind::TripletHard { margin: 0.203_125 },
        AdditiveKind::TripletSmooth { tau: 0.5, margin: 0.25 },
        AdditiveKind::TripletSmooth { tau: 0.05, margin: 0.5 },
    ];
    for (index, (rows, cols)) in SHAPES.into_iter().enumerate() {
        let tile = Tile::<T>::new(rows, cols, 100 + index as u64);
        for kind in kinds {
            let tau = match kind {
                AdditiveKind::Sigmoid { tau } | AdditiveKind::TripletSmooth { tau, .. } => tau,
                AdditiveKind::TripletHard { .. } => 1.0,
            };
            // Arguments up to 3 / tau, rounded; t + offset and t + margin cancel, so errors are
            // relative to the largest term, 3 (or 3 / tau), and not to the result.
            let tolerance = eps * (8.0 / tau + (rows.max(cols)) as f64);
            let close = |what: &str, level: SimdLevel, got: T, want: f64, size: f64| {
                let error = (got.to_f64() - want).abs();
                let bound = tolerance * (want.abs() + size);
                assert!(error <= bound, "{what} of {kind:?}, {level}: {got:?} against {want}");
            };
            let offset = series::<T>(rows, |i| -0.5 + 0.125 * (i % 8.0));
            let offsets = series::<T>(cols, |j| -0.75 + 0.125 * (j % 8.0));
            let coeff = series::<T>(cols, |j| 1.0 + 0.5 * (j % 3.0));
            for level in levels() {
                for (i, &offset) in offset.iter().enumerate() {
                    let s = &tile.s[i * tile.ld..][..cols];
                    let o = offset.to_f64();
                    let terms: Vec<_> = (0..cols).map(|j| psi_and_slope(kind, tile.at(i, j) + o)).collect();
                    let (psi, slope) = additive::sums(level, kind, s, offset);
                    close("psi", level, psi, terms.iter().map(|t| t.0).sum(), 1.0);
                    close("slope", level, slope, terms.iter().map(|t| t.1).sum(), 0.0);
                    let mut out = series::<T>(cols, |j| j);
                    additive::weights(level, kind, s, offset, coeff[0], &mut out);
                    for (j, term) in terms.iter().enumerate() {
                        let want = j as f64 + coeff[0].to_f64() * term.1;
                        close("weight", level, out[j], want, 0.0);
                        if tile.at(i, j) == f64::NEG_INFINITY {
                            assert_eq!(out[j].to_f64(), j as f64);
                        }
                    }
                }
                let (mut psi, mut slope) = (series::<T>(cols, |j| j), series::<T>(cols, |j| -j));
                additive::col_sums(level, kind, &tile.s, tile.ld, rows, cols, &offsets, &mut psi, &mut slope);
                let ld_out = cols + 2;
                let mut out = vec![T::ONE; rows * ld_out];
                additive::col_weights(
                    level, kind, &tile.s, tile.ld, rows, cols, &offsets, &coeff, &mut out, ld_out,
                );
                for j in 0..cols {
                    let terms: Vec<_> =
                        (0..rows).map(|i| psi_and_slope(kind, tile.at(i, j) + offsets[j].to_f64())).collect();
                    let start = j as f64;
                    let sum: f64 = terms.iter().map(|t| t.0).sum();
                    close("column psi", level, psi[j], start + sum, 1.0 + start);
                    let sum: f64 = terms.iter().map(|t| t.1).sum();
                    close("column slope", level, slope[j], sum - start, start);
                    for (i, term) in terms.iter().enumerate() {
                        let want = 1.0 + coeff[j].to_f64() * term.1;
                        close("column weight", level, out[i * ld_out + j], want, 0.0);
                    }
                }
                for i in 0..rows {
                    assert_eq!(out[i * ld_out + cols..][..2], [T::ONE; 2], "padding written");
                }
            }
        }
    }
}

#[test]
fn additive_kernels_match_f64() {
    additive_kernels::<f32>(EPS_32);
    additive_kernels::<f64>(f64::EPSILON);
}

#[test]
fn triplet_hard_has_slope_zero_at_the_kink() {
    let kind = AdditiveKind::TripletHard { margin: 0.25 };
    for level in levels() {
        assert_eq!(additive::sums::<f32>(level, kind, &[-0.5], 0.25), (0.0, 0.0), "{level}");
    }
}

#[test]
fn rows_are_normalised() {
    for level in levels() {
        for r in [1, 3, 16, 37, 128] {
            let n = 5;
            let mut z: Vec<f32> = (0..n * r).map(|k| ((k * k) as f32 * 0.1).sin() * 1e3).collect();
            z[2 * r..3 * r].fill(0.0);
            let before = z.clone();
            let mut norms = vec![f32::NAN; n];
            rows::normalize_rows(level, &mut z, r, &mut norms);
            for i in 0..n {
                let x = &before[i * r..][..r];
                let length = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                assert!((f64::from(norms[i]) - length).abs() <= EPS_32 * length, "{level}");
                for (got, x) in z[i * r..][..r].iter().zip(x) {
                    let want = if length > 0.0 { f64::from(*x) / length } else { 0.0 };
                    assert!((f64::from(*got) - want).abs() <= EPS_32 * want.abs(), "{level}");
                }
            }
            assert!(z[2 * r..3 * r].iter().all(|&x| x == 0.0));
        }
        rows::normalize_rows::<f64>(level, &mut [], 0, &mut []);
    }
}

/// Rows whose squares float64 cannot hold, and rows that are not finite.
#[test]
fn extreme_rows_are_unit_or_not_a_number() {
    for level in levels() {
        for size in [5e-324, 1e-310, 1e-200, 1e-13, 1e200, 1e308] {
            let mut z = [size, 0.0, -size, 0.5 * size, f64::NAN, 0.0, f64::INFINITY, 1.0];
            let mut norms = [0.0; 4];
            rows::normalize_rows(level, &mut z, 2, &mut norms);
            assert!((z[0] - 1.0).abs() < 1e-15 && (norms[0] / size - 1.0).abs() < 1e-12, "{size:e}: {z:?}");
            assert!((z[2].hypot(z[3]) - 1.0).abs() < 1e-15, "{size:e}: {z:?}");
            assert!(norms[2].is_nan() && !norms[3].is_finite());
        }
        let mut z = [1e-45f32, 0.0, 1e-20, -1e-20];
        rows::normalize_rows(level, &mut z, 2, &mut [0.0; 2]);
        assert!(z[0] == 1.0 && (z[2] - 0.5f32.sqrt()).abs() < 1e-7 && z[3] == -z[2], "{z:?}");
    }
}

#[test]
fn half_precision_widens_exactly() {
    let (mut wide, mut wide_b) = (vec![0.0; 67], vec![0.0; 67]);
    let values: Vec<f32> = (0..67).map(|i| (i as f32 - 33.0) * 0.375).collect();
    let narrow: Vec<half::f16> = values.iter().map(|&x| half::f16::from_f32(x)).collect();
    super::widen_f16(&narrow, &mut wide);
    let narrow: Vec<half::bf16> = values.iter().map(|&x| half::bf16::from_f32(x)).collect();
    super::widen_bf16(&narrow, &mut wide_b);
    assert_eq!(wide, values);
    assert_eq!(wide_b, values);
}

#[test]
#[should_panic(expected = "does not fit")]
fn a_tile_beyond_its_slice_is_refused() {
    let (mut row, mut col) = ([0.0f32; 2], [0.0f32; 3]);
    clip::exp_sums(SimdLevel::Scalar, &[0.0; 5], 3, 2, 3, 1.0, 1.0, &mut row, &mut col);
}
