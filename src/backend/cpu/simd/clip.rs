//! Clip: sums and weights of exponentials over a tile of similarities.

use super::SimdLevel;
use super::elementary::{exp, exp2};
use super::lanes::{Dispatch, Element, Kernel, Lanes};

/// Rows handled together: column sums and column coefficients are then loaded once for all of them.
const ROWS: usize = 4;

/// Panics unless a `rows x cols` tile with leading dimension `ld` fits in `len` elements.
pub fn check_tile(len: usize, ld: usize, rows: usize, cols: usize) {
    let extent = rows.checked_sub(1).and_then(|last| last.checked_mul(ld)?.checked_add(cols));
    assert!(
        rows == 0 || cols == 0 || (ld >= cols && extent.is_some_and(|extent| extent <= len)),
        "tile of {rows} x {cols} with leading dimension {ld} does not fit in {len} elements"
    );
}

/// Calls `$body` for every vector of a row of `$cols` elements: with `$n = V::N` for full vectors,
/// then once with the number of elements left.
macro_rules! for_vectors {
    ($V:ident, $cols:expr, |$j:ident, $n:ident| $body:block) => {
        let mut $j = 0;
        {
            let $n = $V::N;
            while $j + $n <= $cols {
                $body
                $j += $n;
            }
        }
        if $j < $cols {
            let $n = $cols - $j;
            $body
        }
    };
}
pub(super) use for_vectors;

/// `n` elements from `p`, the rest of the register `fill`.
/// # Safety
/// `p` must be readable for `n <= N` elements.
#[inline(always)]
pub unsafe fn load<V: Lanes>(p: *const V::T, n: usize, fill: V::T) -> V {
    // SAFETY: by contract; in the loops above n is the constant N or less than N.
    unsafe { if n == V::N { V::load(p) } else { V::load_first(p, n, fill) } }
}

/// Stores the first `n` lanes.
/// # Safety
/// `p` must be writable for `n <= N` elements.
#[inline(always)]
pub unsafe fn store<V: Lanes>(v: V, p: *mut V::T, n: usize) {
    // SAFETY: by contract.
    unsafe { if n == V::N { v.store(p) } else { v.store_first(p, n) } }
}

/// An exponent of e as one of 2.
#[inline(always)]
fn in_powers_of_two<T: Element>(exponent: T) -> T {
    T::from_f64(exponent.to_f64() * std::f64::consts::LOG2_E)
}

#[allow(clippy::too_many_arguments)]
pub fn exp_sums<T: Dispatch>(
    level: SimdLevel,
    s: &[T],
    ld: usize,
    rows: usize,
    cols: usize,
    scale: T,
    shift: T,
    row: &mut [T],
    col: &mut [T],
) {
    check_tile(s.len(), ld, rows, cols);
    let (row, col) = (&mut row[..rows], &mut col[..cols]);
    T::dispatch(level, ExpSums { s, ld, scale, shift, row, col });
}

struct ExpSums<'a, T> {
    s: &'a [T],
    ld: usize,
    scale: T,
    shift: T,
    row: &'a mut [T],
    col: &'a mut [T],
}

impl<T: Element> Kernel<T> for ExpSums<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = T>>(mut self) {
        let rows = self.row.len();
        let mut i = 0;
        while i + ROWS <= rows {
            self.rows::<V, ROWS>(i);
            i += ROWS;
        }
        while i < rows {
            self.rows::<V, 1>(i);
            i += 1;
        }
    }
}

impl<T: Element> ExpSums<'_, T> {
    #[inline(always)]
    fn rows<V: Lanes<T = T>, const R: usize>(&mut self, i: usize) {
        let [scale, shift] = [self.scale, self.shift.neg()].map(|v| V::splat(in_powers_of_two(v)));
        let s = self.s.as_ptr().wrapping_add(i * self.ld);
        let (col, cols) = (self.col.as_mut_ptr(), self.col.len());
        let mut sums = [V::splat(T::ZERO); R];
        for_vectors!(V, cols, |j, n| {
            // SAFETY: i + R <= rows and j + n <= cols, inside the checked tile and `col`.
            unsafe {
                let mut down = load::<V>(col.add(j), n, T::ZERO);
                for (k, sum) in sums.iter_mut().enumerate() {
                    let x = load::<V>(s.add(k * self.ld + j), n, T::NEG_INFINITY);
                    let e = exp2(x.mul_add(scale, shift));
                    *sum = *sum + e;
                    down = down + e;
                }
                store(down, col.add(j), n);
            }
        });
        for (out, sum) in self.row[i..i + R].iter_mut().zip(sums) {
            *out = out.plus(sum.sum());
        }
    }
}

#[allow(clippy::too_many_arguments)]
pub fn exp_weights<T: Dispatch>(
    level: SimdLevel,
    s: &mut [T],
    ld: usize,
    rows: usize,
    cols: usize,
    scale: T,
    shift: T,
    alpha: &[T],
    beta: &[T],
) {
    check_tile(s.len(), ld, rows, cols);
    let (alpha, beta) = (&alpha[..rows], &beta[..cols]);
    T::dispatch(level, ExpWeights { s, ld, scale, shift, alpha, beta });
}

struct ExpWeights<'a, T> {
    s: &'a mut [T],
    ld: usize,
    scale: T,
    shift: T,
    alpha: &'a [T],
    beta: &'a [T],
}

impl<T: Element> Kernel<T> for ExpWeights<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = T>>(self) {
        let [scale, shift] = [self.scale, self.shift.neg()].map(|v| V::splat(in_powers_of_two(v)));
        let cols = self.beta.len();
        for (i, &alpha) in self.alpha.iter().enumerate() {
            let alpha = V::splat(alpha);
            let s = self.s.as_mut_ptr().wrapping_add(i * self.ld);
            for_vectors!(V, cols, |j, n| {
                // SAFETY: i < rows and j + n <= cols, inside the checked tile and `beta`.
                unsafe {
                    let x = load::<V>(s.add(j), n, T::NEG_INFINITY);
                    let beta = load::<V>(self.beta.as_ptr().add(j), n, T::ZERO);
                    store(exp2(x.mul_add(scale, shift)) * (alpha + beta), s.add(j), n);
                }
            });
        }
    }
}

#[allow(clippy::too_many_arguments)]
pub fn exp_weights_log<T: Dispatch>(
    level: SimdLevel,
    s: &mut [T],
    ld: usize,
    rows: usize,
    cols: usize,
    scale: T,
    a: &[T],
    b: &[T],
) {
    check_tile(s.len(), ld, rows, cols);
    let (a, b) = (&a[..rows], &b[..cols]);
    T::dispatch(level, ExpWeightsLog { s, ld, scale, a, b });
}

struct ExpWeightsLog<'a, T> {
    s: &'a mut [T],
    ld: usize,
    scale: T,
    a: &'a [T],
    b: &'a [T],
}

impl<T: Element> Kernel<T> for ExpWeightsLog<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = T>>(self) {
        let scale = V::splat(self.scale);
        let cols = self.b.len();
        for (i, &a) in self.a.iter().enumerate() {
            let a = V::splat(a);
            let s = self.s.as_mut_ptr().wrapping_add(i * self.ld);
            for_vectors!(V, cols, |j, n| {
                // SAFETY: i < rows and j + n <= cols, inside the checked tile and `b`.
                unsafe {
                    let x = load::<V>(s.add(j), n, T::NEG_INFINITY);
                    let b = load::<V>(self.b.as_ptr().add(j), n, T::NEG_INFINITY);
                    store(exp(x.mul_add(scale, a)) + exp(x.mul_add(scale, b)), s.add(j), n);
                }
            });
        }
    }
}

/// Columns whose maxima and sums [`log_sums`] holds on the stack at a time.
const LOG_COLUMNS: usize = 512;

#[allow(clippy::too_many_arguments)]
pub fn log_sums<T: Dispatch>(
    level: SimdLevel,
    s: &[T],
    ld: usize,
    rows: usize,
    cols: usize,
    scale: T,
    row_max: &mut [T],
    row_sum: &mut [f64],
    col_max: &mut [T],
    col_sum: &mut [f64],
) {
    check_tile(s.len(), ld, rows, cols);
    let (row_max, row_sum) = (&mut row_max[..rows], &mut row_sum[..rows]);
    let (col_max, col_sum) = (&mut col_max[..cols], &mut col_sum[..cols]);
    if rows == 0 {
        return;
    }
    for (block, (col_max, col_sum)) in
        col_max.chunks_mut(LOG_COLUMNS).zip(col_sum.chunks_mut(LOG_COLUMNS)).enumerate()
    {
        let s = &s[block * LOG_COLUMNS..];
        T::dispatch(level, LogSums { s, ld, scale, row_max, row_sum, col_max, col_sum });
    }
}

struct LogSums<'a, T> {
    s: &'a [T],
    ld: usize,
    scale: T,
    row_max: &'a mut [T],
    row_sum: &'a mut [f64],
    col_max: &'a mut [T],
    col_sum: &'a mut [f64],
}

/// Moves a running sum from its maximum to `largest` if that is larger.
///
/// Kept out of the vectorised code: it runs once per row and column of a tile.
fn raise<T: Element>(max: &mut T, sum: &mut f64, largest: T) {
    if largest > *max {
        // From -inf the factor is 0, and so is the sum.
        *sum *= (max.to_f64() - largest.to_f64()).exp();
        *max = largest;
    }
}

/// What to subtract before the exponential: the maximum, or 0 where nothing is there (the
/// exponential of `-inf - 0` is 0, that of `-inf + inf` NaN).
#[inline(always)]
fn finite_or_zero<T: Element>(max: T) -> T {
    if max == T::NEG_INFINITY { T::ZERO } else { max }
}

impl<T: Element> Kernel<T> for LogSums<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = T>>(self) {
        let scale = V::splat(self.scale);
        let (rows, cols) = (self.row_max.len(), self.col_max.len());
        let s = self.s.as_ptr();
        // Maxima of the tile.
        let mut column = [T::NEG_INFINITY; LOG_COLUMNS];
        for i in 0..rows {
            let mut largest = V::splat(T::NEG_INFINITY);
            for_vectors!(V, cols, |j, n| {
                // SAFETY: i < rows and j + n <= cols <= LOG_COLUMNS, inside the checked tile.
                unsafe {
                    let x = scale * load::<V>(s.add(i * self.ld + j), n, T::NEG_INFINITY);
                    largest = largest.max(x);
                    let p = column.as_mut_ptr().add(j);
                    store(load::<V>(p, n, T::NEG_INFINITY).max(x), p, n);
                }
            });
            raise(&mut self.row_max[i], &mut self.row_sum[i], largest.max_lane());
        }
        for ((max, sum), largest) in self.col_max.iter_mut().zip(self.col_sum.iter_mut()).zip(&mut column) {
            raise(max, sum, *largest);
            *largest = finite_or_zero(*max).neg();
        }
        // Sums below the raised maxima; `column` now holds what to add to a column.
        let mut down = [T::ZERO; LOG_COLUMNS];
        for i in 0..rows {
            let across = V::splat(finite_or_zero(self.row_max[i]).neg());
            let mut sum = V::splat(T::ZERO);
            for_vectors!(V, cols, |j, n| {
                // SAFETY: as above.
                unsafe {
                    let x = load::<V>(s.add(i * self.ld + j), n, T::NEG_INFINITY);
                    let shift = load::<V>(column.as_ptr().add(j), n, T::ZERO);
                    sum = sum + exp(x.mul_add(scale, across));
                    let p = down.as_mut_ptr().add(j);
                    store(load::<V>(p, n, T::ZERO) + exp(x.mul_add(scale, shift)), p, n);
                }
            });
            self.row_sum[i] += sum.sum().to_f64();
        }
        for (sum, down) in self.col_sum.iter_mut().zip(down) {
            *sum += down.to_f64();
        }
    }
}
