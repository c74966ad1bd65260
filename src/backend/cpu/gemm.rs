//! Dense products of row-major panels, single-threaded: the callers spread panels over threads.
//!
//! In each function `C` is `m x n` with leading dimension `ldc`, and the result is `C <- (product)`, or with `add`
//! `C <- C + (product)`. Blocks of the right factor that stay in the second cache are packed and meet all rows; slices that are
//! too short for the stated shape are a caller's bug and panic.

use super::simd::TileOps;
use super::simd::clip::check_tile;
use super::simd::product::{Left, Right, multiply};

/// Inner dimension and columns of a block of the right factor: half a megabyte of float32, half of the second cache of Zen 4.
const DEPTH: usize = 384;
const COLUMNS: usize = 336;
/// Rows of a transposed left factor that are copied side by side.
const SLICE: usize = 16;

/// `C <- A B^T` with `A` `m x k` and `B` `n x k`.
#[allow(clippy::too_many_arguments)]
pub fn gemm_nt<T: TileOps>(
    m: usize,
    n: usize,
    k: usize,
    add: bool,
    c: &mut [T],
    ldc: usize,
    a: &[T],
    lda: usize,
    b: &[T],
    ldb: usize,
) {
    check_tile(b.len(), ldb, n, k);
    let pack = |packed: &mut Right<T>, p: usize, depth: usize, j: usize, width: usize| {
        packed.pack_transposed(&b[j * ldb + p..], ldb, width, depth);
    };
    by_rows((m, n, k), add, c, ldc, (a, lda), pack);
}

/// `C <- A B` with `A` `m x k` and `B` `k x n`.
#[allow(clippy::too_many_arguments)]
pub fn gemm_nn<T: TileOps>(
    m: usize,
    n: usize,
    k: usize,
    add: bool,
    c: &mut [T],
    ldc: usize,
    a: &[T],
    lda: usize,
    b: &[T],
    ldb: usize,
) {
    check_tile(b.len(), ldb, k, n);
    let pack = |packed: &mut Right<T>, p: usize, depth: usize, j: usize, width: usize| {
        packed.pack(&b[p * ldb + j..], ldb, depth, width);
    };
    by_rows((m, n, k), add, c, ldc, (a, lda), pack);
}

/// `C <- A^T B` with `A` `k x m` and `B` `k x n`.
#[allow(clippy::too_many_arguments)]
pub fn gemm_tn<T: TileOps>(
    m: usize,
    n: usize,
    k: usize,
    add: bool,
    c: &mut [T],
    ldc: usize,
    a: &[T],
    lda: usize,
    b: &[T],
    ldb: usize,
) {
    check_tile(a.len(), lda, k, m);
    check_tile(b.len(), ldb, k, n);
    let mut slices = Vec::new();
    let pack = |packed: &mut Right<T>, p: usize, depth: usize, j: usize, width: usize| {
        packed.pack(&b[p * ldb + j..], ldb, depth, width);
    };
    blocks((m, n, k), add, c, ldc, pack, |c, p, packed, add| {
        multiply_tn(add, c, ldc, m, (&a[p * lda..], lda), std::slice::from_ref(packed), &mut slices);
    });
}

/// `C <- A^T B`, or `C <- C + A^T B` with `add`, with `B` packed in blocks of columns side by side: `A` is as long as `B`, `C` has
/// `m` rows. `slices` are reused memory.
pub(super) fn multiply_tn<T: TileOps>(
    add: bool,
    c: &mut [T],
    ldc: usize,
    m: usize,
    (a, lda): (&[T], usize),
    b: &[Right<T>],
    slices: &mut Vec<T>,
) {
    slices.resize(b.first().map_or(0, Right::k) * SLICE, T::ZERO);
    for i in (0..m).step_by(SLICE) {
        let rows = SLICE.min(m - i);
        for (l, slice) in slices.as_chunks_mut::<SLICE>().0.iter_mut().enumerate() {
            // A whole slice is a copy of known length, no call.
            match a[l * lda + i..].first_chunk::<SLICE>().filter(|_| rows == SLICE) {
                Some(row) => *slice = *row,
                None => slice[..rows].copy_from_slice(&a[l * lda + i..][..rows]),
            }
        }
        let mut j = 0;
        for b in b {
            multiply(add, &mut c[i * ldc + j..], ldc, rows, Left::transposed(slices, SLICE), b);
            j += b.cols();
        }
    }
}

/// The products whose left factor is read by rows. `pack(packed, p, depth, j, width)` packs a block of the right factor.
fn by_rows<T: TileOps>(
    (m, n, k): (usize, usize, usize),
    add: bool,
    c: &mut [T],
    ldc: usize,
    (a, lda): (&[T], usize),
    pack: impl FnMut(&mut Right<T>, usize, usize, usize, usize),
) {
    check_tile(a.len(), lda, m, k);
    blocks((m, n, k), add, c, ldc, pack, |c, p, packed, add| {
        multiply(add, c, ldc, m, Left::rows(&a[p..], lda), packed);
    });
}

/// Packs one block of the right factor after the other, and has `product(columns of C, p, packed, add)` multiply it.
fn blocks<T: TileOps>(
    (m, n, k): (usize, usize, usize),
    add: bool,
    c: &mut [T],
    ldc: usize,
    mut pack: impl FnMut(&mut Right<T>, usize, usize, usize, usize),
    mut product: impl FnMut(&mut [T], usize, &Right<T>, bool),
) {
    check_tile(c.len(), ldc, m, n);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 && !add {
        c.chunks_mut(ldc).take(m).for_each(|row| row[..n].fill(T::ZERO));
    }
    let mut packed = Right::default();
    for p in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - p);
        for j in (0..n).step_by(COLUMNS) {
            pack(&mut packed, p, depth, j, COLUMNS.min(n - j));
            product(&mut c[j..], p, &packed, add || p > 0);
        }
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
        for (m, n, k) in
            [(1, 1, 1), (5, 7, 3), (33, 18, 65), (20, 501, 17), (9, 7, 1030), (4, 5, 0), (0, 3, 2)]
        {
            let (lda, ldb, ldc) = (m.max(k) + 3, n.max(k) + 1, n + 5);
            let side = m.max(n).max(k) + 1;
            let (a, b) = (cast(&ramp(side * lda, 0.37)), cast(&ramp(side * ldb, 0.23)));
            let c = cast(&ramp((m + 1) * ldc, 0.11));
            for add in [false, true] {
                for form in 0..3 {
                    let mut got = c.clone();
                    match form {
                        0 => gemm_nt(m, n, k, add, &mut got, ldc, &a, lda, &b, ldb),
                        1 => gemm_nn(m, n, k, add, &mut got, ldc, &a, lda, &b, ldb),
                        _ => gemm_tn(m, n, k, add, &mut got, ldc, &a, lda, &b, ldb),
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
                            dot + if add { old } else { 0.0 }
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
        // |a b| <= 1: k products and sums, each rounded to eps/2 of at most k.
        check_products::<f32>(2.0 * f64::from(f32::EPSILON));
        check_products::<f64>(2.0 * f64::EPSILON);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn short_slices_are_refused() {
        let mut c = [0.0f32; 5];
        gemm_nt(2, 3, 1, false, &mut c, 3, &[1.0, 1.0], 1, &[1.0; 3], 1);
    }
}
