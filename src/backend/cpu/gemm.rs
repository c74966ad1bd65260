//! Dense products of row-major panels, single-threaded: the callers spread panels over threads.
//!
//! A thin wrapper over the `gemm` crate that checks the shapes before it hands out pointers. In each
//! function `C` is `m x n` with leading dimension `ldc`, and the result is
//! `C <- alpha * C + beta * (product)`; with `alpha = 0` the old contents of `C` are not read.

use gemm::Parallelism;

use super::simd::TileOps;

/// `C <- alpha C + beta A B^T` with `A` `m x k` and `B` `n x k`.
#[allow(clippy::too_many_arguments)]
pub fn gemm_nt<T: TileOps>(
    m: usize,
    n: usize,
    k: usize,
    alpha: T,
    c: &mut [T],
    ldc: usize,
    beta: T,
    a: &[T],
    lda: usize,
    b: &[T],
    ldb: usize,
) {
    let a = Operand::rows(a, lda, m, k);
    let b = Operand::rows(b, ldb, n, k).transposed();
    product(m, n, k, alpha, c, ldc, beta, a, b);
}

/// `C <- alpha C + beta A B` with `A` `m x k` and `B` `k x n`.
#[allow(clippy::too_many_arguments)]
pub fn gemm_nn<T: TileOps>(
    m: usize,
    n: usize,
    k: usize,
    alpha: T,
    c: &mut [T],
    ldc: usize,
    beta: T,
    a: &[T],
    lda: usize,
    b: &[T],
    ldb: usize,
) {
    let a = Operand::rows(a, lda, m, k);
    let b = Operand::rows(b, ldb, k, n);
    product(m, n, k, alpha, c, ldc, beta, a, b);
}

/// `C <- alpha C + beta A^T B` with `A` `k x m` and `B` `k x n`.
#[allow(clippy::too_many_arguments)]
pub fn gemm_tn<T: TileOps>(
    m: usize,
    n: usize,
    k: usize,
    alpha: T,
    c: &mut [T],
    ldc: usize,
    beta: T,
    a: &[T],
    lda: usize,
    b: &[T],
    ldb: usize,
) {
    let a = Operand::rows(a, lda, k, m).transposed();
    let b = Operand::rows(b, ldb, k, n);
    product(m, n, k, alpha, c, ldc, beta, a, b);
}

/// A matrix whose extent was checked against its slice.
struct Operand<'a, T> {
    data: &'a [T],
    row_stride: isize,
    col_stride: isize,
}

impl<'a, T> Operand<'a, T> {
    fn rows(data: &'a [T], ld: usize, rows: usize, cols: usize) -> Self {
        check(data.len(), ld, rows, cols);
        Operand { data, row_stride: ld as isize, col_stride: 1 }
    }

    fn transposed(self) -> Self {
        Operand { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }
}

/// Panics unless a row-major `rows x cols` matrix with leading dimension `ld` fits in `len` elements.
fn check(len: usize, ld: usize, rows: usize, cols: usize) {
    let extent = rows.checked_sub(1).and_then(|last| last.checked_mul(ld)?.checked_add(cols));
    assert!(
        rows == 0 || cols == 0 || (ld >= cols && extent.is_some_and(|extent| extent <= len)),
        "matrix of {rows} x {cols} with leading dimension {ld} does not fit in {len} elements"
    );
}

#[allow(clippy::too_many_arguments)]
fn product<T: TileOps>(
    m: usize,
    n: usize,
    k: usize,
    alpha: T,
    c: &mut [T],
    ldc: usize,
    beta: T,
    a: Operand<'_, T>,
    b: Operand<'_, T>,
) {
    check(c.len(), ldc, m, n);
    // SAFETY: `check` and `Operand::rows` have shown every element that the strides and extents
    // reach to lie in its slice; `c` is borrowed exclusively, so nothing aliases it. `T` is f32 or
    // f64, which the crate supports.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            ldc as isize,
            alpha != T::ZERO,
            a.data.as_ptr(),
            a.col_stride,
            a.row_stride,
            b.data.as_ptr(),
            b.col_stride,
            b.row_stride,
            alpha,
            beta,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(len: usize, step: f64) -> Vec<f64> {
        (0..len).map(|i| (i as f64 * step).sin()).collect()
    }

    /// All three products against the triple loop, on padded ragged panels, in both types. Padding
    /// must survive.
    fn check_products<T: TileOps>(tolerance: f64) {
        let cast = |v: &[f64]| v.iter().map(|&x| T::from_f64(x)).collect::<Vec<T>>();
        for (m, n, k) in [(1, 1, 1), (5, 7, 3), (33, 18, 65), (70, 97, 128), (4, 5, 0), (0, 3, 2)] {
            let (lda, ldb, ldc) = (m.max(k) + 3, n.max(k) + 1, n + 5);
            let side = m.max(n).max(k) + 1;
            let (a, b) = (cast(&ramp(side * lda, 0.37)), cast(&ramp(side * ldb, 0.23)));
            let c = cast(&ramp((m + 1) * ldc, 0.11));
            for (alpha, beta) in [(0.0, 1.0), (1.0, -0.5), (0.25, 2.0)] {
                for form in 0..3 {
                    let mut got = c.clone();
                    let (x, y) = (T::from_f64(alpha), T::from_f64(beta));
                    match form {
                        0 => gemm_nt(m, n, k, x, &mut got, ldc, y, &a, lda, &b, ldb),
                        1 => gemm_nn(m, n, k, x, &mut got, ldc, y, &a, lda, &b, ldb),
                        _ => gemm_tn(m, n, k, x, &mut got, ldc, y, &a, lda, &b, ldb),
                    }
                    for (index, got) in got.iter().enumerate() {
                        let (i, j) = (index / ldc, index % ldc);
                        let old = c[index].to_f64();
                        let want = if i < m && j < n {
                            let dot: f64 = (0..k)
                                .map(|l| {
                                    let a = if form == 2 { a[l * lda + i] } else { a[i * lda + l] };
                                    let b = if form == 0 { b[j * ldb + l] } else { b[l * ldb + j] };
                                    a.to_f64() * b.to_f64()
                                })
                                .sum();
                            alpha * old + beta * dot
                        } else {
                            old
                        };
                        let error = (got.to_f64() - want).abs();
                        assert!(error <= tolerance * (k as f64 + 2.0), "{m} {n} {k}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn products_match_the_triple_loop() {
        // |a b| <= 1 and |beta| <= 2: k products and sums, each rounded to eps/2 of at most 2 k.
        check_products::<f32>(4.0 * f64::from(f32::EPSILON));
        check_products::<f64>(4.0 * f64::EPSILON);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn short_slices_are_refused() {
        let mut c = [0.0f32; 5];
        gemm_nt(2, 3, 1, 0.0, &mut c, 3, 1.0, &[1.0, 1.0], 1, &[1.0; 3], 1);
    }
}
