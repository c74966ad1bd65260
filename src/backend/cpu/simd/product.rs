//! Dense products `C = A B` and `C += A B` with the right factor packed.
//!
//! A block of `C` of a few rows and three registers of columns is held in registers while the inner dimension goes by: at every
//! step one row of the packed right factor is loaded, and the left factor's entries are spread over registers. A packed factor
//! is used again by many rows, so packing costs little. Sums run over the inner dimension in order, so an entry of `C` does
//! not depend on where its block begins.

use super::clip::{check_tile, load, store};
use super::lanes::{Dispatch, Element, Kernel, Lanes};
use super::level;

/// Registers of columns in a block.
const WIDTH: usize = 3;
/// Rows in a block, with 32 registers and with 16: with the row of the right factor all stay in registers.
const ROWS: usize = 8;
const FEW_ROWS: usize = 4;

/// Memory of whole cache lines: vectors are loaded from it without straddling two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: bytes, which may have any values, as many as the alignment asks for: no padding.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// The right factor of a product, `k x cols`, as the kernels read it: columns in groups of three registers (the last one
/// narrower and filled up with zeros), in each of them row after row.
#[derive(Clone)]
pub struct Right<T> {
    lines: Vec<Line>,
    k: usize,
    cols: usize,
    element: std::marker::PhantomData<T>,
}

impl<T> Default for Right<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), k: 0, cols: 0, element: std::marker::PhantomData }
    }
}

impl<T: Dispatch> Right<T> {
    /// Rows: the inner dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Packs a row-major `k x cols` matrix with leading dimension `ld`, reusing this value's memory.
    pub fn pack(&mut self, b: &[T], ld: usize, k: usize, cols: usize) {
        check_tile(b.len(), ld, k, cols);
        T::dispatch(level(), Pack { out: self, b, ld, k, cols, transposed: false });
    }

    /// Packs the transpose of a row-major `cols x k` matrix with leading dimension `ld`.
    pub fn pack_transposed(&mut self, b: &[T], ld: usize, cols: usize, k: usize) {
        check_tile(b.len(), ld, cols, k);
        T::dispatch(level(), Pack { out: self, b, ld, k, cols, transposed: true });
    }

    /// Makes room for so much, forgets what was there and returns the number of lines: zeros would be written over at once.
    fn make_room(&mut self, k: usize, cols: usize, lanes: usize) -> usize {
        let elements = k * cols.div_ceil(lanes) * lanes;
        let lines = (elements * size_of::<T>()).div_ceil(64);
        (self.k, self.cols) = (k, cols);
        self.lines.clear();
        self.lines.reserve_exact(lines);
        lines
    }
}

impl<T> std::fmt::Debug for Right<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "packed {} x {}", self.k, self.cols)
    }
}

/// The left factor of a product, `rows x k`.
#[derive(Clone, Copy, Debug)]
pub struct Left<'a, T> {
    values: &'a [T],
    ld: usize,
    transposed: bool,
}

impl<'a, T> Left<'a, T> {
    /// A row-major `rows x k` matrix with leading dimension `ld`.
    pub fn rows(values: &'a [T], ld: usize) -> Self {
        Self { values, ld, transposed: false }
    }

    /// The transpose of a row-major `k x rows` matrix with leading dimension `ld`.
    pub fn transposed(values: &'a [T], ld: usize) -> Self {
        Self { values, ld, transposed: true }
    }
}

/// `C <- A B`, or `C <- C + A B` with `add`; `C` is row-major, as wide as `b`, with leading dimension `ldc`.
pub fn multiply<T: Dispatch>(add: bool, c: &mut [T], ldc: usize, rows: usize, a: Left<'_, T>, b: &Right<T>) {
    check_tile(c.len(), ldc, rows, b.cols);
    match a.transposed {
        false => check_tile(a.values.len(), a.ld, rows, b.k),
        true => check_tile(a.values.len(), a.ld, b.k, rows),
    }
    if rows == 0 || b.cols == 0 {
        return;
    }
    match a.transposed {
        false => T::dispatch(level(), Multiply::<T, false> { add, c, ldc, rows, a, b }),
        true => T::dispatch(level(), Multiply::<T, true> { add, c, ldc, rows, a, b }),
    }
}

/// Asks for the cache line at an address, which may be any.
#[inline(always)]
pub(super) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which reads nothing that the program could see.
    #[allow(unused_unsafe)]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

struct Pack<'a, T> {
    out: &'a mut Right<T>,
    b: &'a [T],
    ld: usize,
    k: usize,
    cols: usize,
    transposed: bool,
}

impl<T: Dispatch> Kernel<T> for Pack<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = T>>(self) {
        let Self { out, b, ld, k, cols, transposed } = self;
        let lines = out.make_room(k, cols, V::N);
        let (to, from) = (out.lines.as_mut_ptr().cast::<T>(), b.as_ptr());
        for first in (0..cols).step_by(WIDTH * V::N) {
            let width = (cols - first).min(WIDTH * V::N);
            let padded = width.div_ceil(V::N) * V::N;
            // SAFETY: groups lie one after the other in the memory that was just reserved, `padded` elements a row; what is read
            // lies in the checked matrix.
            unsafe {
                let group = to.add(first * k);
                for j in (0..width).step_by(V::N) {
                    let n = (width - j).min(V::N);
                    if transposed {
                        pack_rows::<V>(from.wrapping_add((first + j) * ld), ld, n, k, group.add(j), padded);
                    } else {
                        for p in 0..k {
                            let row = load::<V>(from.wrapping_add(p * ld + first + j), n, T::ZERO);
                            row.store(group.add(p * padded + j));
                        }
                    }
                }
            }
        }
        // What is left of the last line, which nobody reads.
        let written = k * cols.div_ceil(V::N) * V::N * size_of::<T>();
        // SAFETY: the lines have been reserved, and up to here written: rows of all groups, registers at a time.
        unsafe {
            to.cast::<u8>().add(written).write_bytes(0, lines * 64 - written);
            out.lines.set_len(lines);
        }
    }
}

/// Writes `n` rows of `k` elements as columns of a packed group whose rows are `padded` apart; zeros where rows are missing.
/// # Safety
/// The rows must be readable and the columns writable.
#[inline(always)]
unsafe fn pack_rows<V: Lanes>(
    rows: *const V::T,
    ld: usize,
    n: usize,
    k: usize,
    to: *mut V::T,
    padded: usize,
) {
    let mut p = 0;
    // SAFETY: by contract; whole squares of the matrix only.
    unsafe {
        if n == V::N {
            while p + V::N <= k {
                V::transpose(rows.add(p), ld, to.add(p * padded), padded);
                p += V::N;
            }
        }
        for p in p..k {
            for j in 0..V::N {
                *to.add(p * padded + j) = if j < n { *rows.add(j * ld + p) } else { V::T::ZERO };
            }
        }
    }
}

struct Multiply<'a, T, const TRANSPOSED: bool> {
    add: bool,
    c: &'a mut [T],
    ldc: usize,
    rows: usize,
    a: Left<'a, T>,
    b: &'a Right<T>,
}

impl<T: Dispatch, const TRANSPOSED: bool> Kernel<T> for Multiply<'_, T, TRANSPOSED> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = T>>(mut self) {
        if V::REGISTERS >= 32 { self.blocks::<V, ROWS>() } else { self.blocks::<V, FEW_ROWS>() }
    }
}

impl<T: Dispatch, const TRANSPOSED: bool> Multiply<'_, T, TRANSPOSED> {
    #[inline(always)]
    fn blocks<V: Lanes<T = T>, const R: usize>(&mut self) {
        let mut i = 0;
        while i + R <= self.rows {
            self.row::<V, R>(i);
            i += R;
        }
        // Fewer rows than a block, as sums of powers of two.
        let left = self.rows - i;
        if R > 4 && left & 4 != 0 {
            self.row::<V, 4>(i);
            i += 4;
        }
        if left & 2 != 0 {
            self.row::<V, 2>(i);
            i += 2;
        }
        if left & 1 != 0 {
            self.row::<V, 1>(i);
        }
    }

    /// All blocks of `R` rows from row `i` on.
    #[inline(always)]
    fn row<V: Lanes<T = T>, const R: usize>(&mut self, i: usize) {
        let group = WIDTH * V::N;
        let mut j = 0;
        while j + group <= self.b.cols {
            self.block::<V, R, WIDTH>(i, j, V::N);
            j += group;
        }
        let left = self.b.cols - j;
        let last = (left + V::N - 1) % V::N + 1;
        match left.div_ceil(V::N) {
            3 => self.block::<V, R, 3>(i, j, last),
            2 => self.block::<V, R, 2>(i, j, last),
            1 => self.block::<V, R, 1>(i, j, last),
            _ => {}
        }
    }

    /// The block of `R` rows and `W` registers of columns at `(i, j)`, of the last of which `last` lanes are there.
    #[inline(always)]
    fn block<V: Lanes<T = T>, const R: usize, const W: usize>(&mut self, i: usize, j: usize, last: usize) {
        let (k, lda) = (self.b.k, self.a.ld);
        let b = self.b.lines.as_ptr().cast::<T>().wrapping_add(j * k);
        let a = self.a.values.as_ptr().wrapping_add(if TRANSPOSED { i } else { i * lda });
        // What the sums are added to comes while they are made.
        for r in 0..R {
            for w in 0..W {
                prefetch(self.c.as_ptr().wrapping_add((i + r) * self.ldc + j + w * V::N));
            }
        }
        let mut sums = [[V::splat(T::ZERO); W]; R];
        for p in 0..k {
            // SAFETY: p < k and i + R <= rows: inside the checked left factor; a packed group has `k` rows of `W` registers.
            unsafe {
                let mut row = [V::splat(T::ZERO); W];
                for (w, row) in row.iter_mut().enumerate() {
                    *row = V::load(b.add((p * W + w) * V::N));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let at = if TRANSPOSED { p * lda + r } else { r * lda + p };
                    let entry = V::splat(*a.add(at));
                    for (sum, row) in sums.iter_mut().zip(row) {
                        *sum = entry.mul_add(row, *sum);
                    }
                }
            }
        }
        let c = self.c.as_mut_ptr();
        for (r, sums) in sums.into_iter().enumerate() {
            for (w, sum) in sums.into_iter().enumerate() {
                let n = if w + 1 == W { last } else { V::N };
                // SAFETY: i + r < rows, and the lanes end with the columns: inside the checked product.
                unsafe {
                    let p = c.add((i + r) * self.ldc + j + w * V::N);
                    let sum = if self.add { load::<V>(p, n, T::ZERO) + sum } else { sum };
                    store(sum, p, n);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::TileOps;

    fn ramp<T: TileOps>(len: usize, step: f64) -> Vec<T> {
        (0..len).map(|i| T::from_f64((i as f64 * step).sin())).collect()
    }

    /// Both forms of both factors on ragged, padded shapes against the triple loop; padding survives.
    fn check<T: TileOps>(tolerance: f64) {
        let mut packed = Right::default();
        for (m, n, k) in [
            (1, 1, 1),
            (5, 7, 3),
            (33, 18, 65),
            (70, 97, 128),
            (4, 5, 0),
            (0, 3, 2),
            (15, 48, 31),
            (8, 161, 17),
        ] {
            let (lda, ldb, ldc) = (m.max(k) + 3, n.max(k) + 1, n + 5);
            let side = m.max(n).max(k) + 1;
            let (a, b): (Vec<T>, Vec<T>) = (ramp(side * lda, 0.37), ramp(side * ldb, 0.23));
            let c: Vec<T> = ramp((m + 1) * ldc, 0.11);
            for (form, add) in [(0, false), (1, true), (2, false), (3, true)] {
                let left = if form & 1 == 0 { Left::rows(&a, lda) } else { Left::transposed(&a, lda) };
                match form & 2 {
                    0 => packed.pack(&b, ldb, k, n),
                    _ => packed.pack_transposed(&b, ldb, n, k),
                }
                let mut got = c.clone();
                multiply(add, &mut got, ldc, m, left, &packed);
                for (index, got) in got.iter().enumerate() {
                    let (i, j, old) = (index / ldc, index % ldc, c[index].to_f64());
                    let mut want = old;
                    if i < m && j < n {
                        let dot: f64 = (0..k)
                            .map(|l| {
                                let a = if form & 1 == 0 { a[i * lda + l] } else { a[l * lda + i] };
                                let b = if form & 2 == 0 { b[l * ldb + j] } else { b[j * ldb + l] };
                                a.to_f64() * b.to_f64()
                            })
                            .sum();
                        want = dot + if add { old } else { 0.0 };
                    }
                    let error = (got.to_f64() - want).abs();
                    assert!(error <= tolerance * (k as f64 + 2.0), "{m} {n} {k}, form {form}: {error}");
                }
            }
        }
    }

    #[test]
    fn products_match_the_triple_loop() {
        // |a b| <= 1: k products and sums, each rounded to eps/2 of at most k.
        check::<f32>(2.0 * f64::from(f32::EPSILON));
        check::<f64>(2.0 * f64::EPSILON);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn short_slices_are_refused() {
        let mut b = Right::default();
        b.pack_transposed(&[1.0f32; 3], 1, 3, 1);
        multiply(false, &mut [0.0f32; 5], 3, 2, Left::rows(&[1.0, 1.0], 1), &b);
    }
}
