//! Products of matrices in bfloat16, or in float32 as sums of two bfloat16 halves, with float32 sums.
//!
//! A float32 number is the sum of a high and a low half up to 2^-17 of itself. Of the four products of halves three are
//! computed (the fourth is below that error), which matrix units do faster than vectors do the one of float32 numbers.
//!
//! Both factors are packed as squares of 16 by 16 words, each the pair of two neighbours along the inner dimension: what the
//! tiles of AMX hold, and what AVX512-BF16 multiplies. A left factor's square has a row of `C` in each of its rows, a right
//! factor's square a column of `C` in each of its columns.

use super::clip::check_tile;
use super::lanes::{Dispatch, Kernel, Lanes};
use super::{amx, level};
use std::sync::OnceLock;

/// Rows or columns of `C` of a square, and its pairs along the inner dimension.
pub(super) const SIDE: usize = 16;
/// Rows and columns of `C` of a block: two squares each way.
pub const BLOCK: usize = 2 * SIDE;

/// What multiplies squares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// The tile registers of AMX-BF16.
    Amx,
    /// Dot products of pairs in vector registers.
    Avx512Bf16,
    /// Loops that do what the tile registers do, on any processor.
    Software,
}

impl Engine {
    /// The name that `UNICON_SIMD` takes and `unicon info` prints.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Software => "software",
        }
    }

    /// Whether it finds what the loops find, on a product with edges and both halves. Nobody is to rely on a unit that does not.
    fn agrees(self) -> bool {
        let (m, n, k) = (BLOCK + 1, BLOCK + 3, 71);
        let values =
            |count: usize, step: f32| (0..count).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
        let (mut a, mut b) = (Packed::default(), Packed::default());
        a.left(&values(m * k, 0.37), k, Order::OuterFirst, m, k, Products::Three);
        b.right(&values(k * n, 0.23), n, Order::InnerFirst, n, k, Products::Three);
        let [found, wanted] = [self, Self::Software].map(|engine| {
            let mut c = vec![0.5; m * n];
            product(engine, true, &mut c, n, (0, m), &a, &b);
            c
        });
        // Sums of 213 terms of at most 1 in some order.
        found.iter().zip(&wanted).all(|(found, wanted)| (found - wanted).abs() <= 1e-4)
    }

    /// Whether one product of it is faster than that of `f32` vectors. AMD's processors do AVX512-BF16 at twice the rate,
    /// Intel's at half of it.
    pub fn outdoes_vectors(self) -> bool {
        match self {
            Self::Amx => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                // SAFETY: every x86-64 processor has CPUID. Newer compilers know that the call is safe.
                #[allow(unused_unsafe)]
                let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
                [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512Bf16 => false,
            Self::Software => false,
        }
    }

    /// Whether this processor (and system) has it.
    pub fn is_here(self) -> bool {
        match self {
            Self::Amx => {
                static HERE: OnceLock<bool> = OnceLock::new();
                *HERE.get_or_init(|| amx::is_granted() && self.agrees())
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => level() == super::SimdLevel::Avx512 && is_x86_feature_detected!("avx512bf16"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512Bf16 => false,
            Self::Software => true,
        }
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How many products of halves make one of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Products {
    /// High halves only: numbers rounded to bfloat16.
    One,
    /// High by high, high by low and low by high: relative error of a product at most 2^-15, of numbers above 1e-35.
    Three,
}

impl Products {
    /// Halves that are kept of a number.
    fn halves(self) -> usize {
        match self {
            Self::One => 1,
            Self::Three => 2,
        }
    }
}

/// One square: 16 rows of 16 pairs.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Square(pub(super) [[u32; SIDE]; SIDE]);

const ZERO: Square = Square([[0; SIDE]; SIDE]);

/// A factor of a product, packed.
///
/// Squares lie one after the other along the inner dimension, the two halves of a square side by side.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    squares: Vec<Square>,
    /// Rows of a left factor, columns of a right one.
    outer: usize,
    k: usize,
    halves: usize,
}

/// Where an element of a factor stands in a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `values[outer * ld + inner]`.
    OuterFirst,
    /// `values[inner * ld + outer]`.
    InnerFirst,
}

impl Packed {
    /// Packs the left factor of a product, `rows x k`.
    pub fn left(
        &mut self,
        values: &[f32],
        ld: usize,
        order: Order,
        rows: usize,
        k: usize,
        products: Products,
    ) {
        self.pack(values, ld, order, rows, k, products, Order::OuterFirst);
    }

    /// Packs the right factor of a product, `k x cols`.
    pub fn right(
        &mut self,
        values: &[f32],
        ld: usize,
        order: Order,
        cols: usize,
        k: usize,
        products: Products,
    ) {
        self.pack(values, ld, order, cols, k, products, Order::InnerFirst);
    }

    #[allow(clippy::too_many_arguments)]
    fn pack(
        &mut self,
        values: &[f32],
        ld: usize,
        from: Order,
        outer: usize,
        k: usize,
        products: Products,
        to: Order,
    ) {
        match from {
            Order::OuterFirst => check_tile(values.len(), ld, outer, k),
            Order::InnerFirst => check_tile(values.len(), ld, k, outer),
        }
        (self.outer, self.k, self.halves) = (outer, k, products.halves());
        // Whole blocks, filled up with zeros.
        let squares = outer.div_ceil(BLOCK) * 2 * self.depth() * self.halves;
        self.squares.clear();
        self.squares.reserve_exact(squares);
        f32::dispatch(level(), Pack { out: self, values, ld, from, to });
    }

    /// The inner dimension.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Squares along the inner dimension.
    fn depth(&self) -> usize {
        self.k.div_ceil(2 * SIDE)
    }

    /// The squares of the `index`-th 16 rows or columns.
    fn row(&self, index: usize) -> &[Square] {
        let length = self.depth() * self.halves;
        &self.squares[index * length..(index + 1) * length]
    }
}

struct Pack<'a> {
    out: &'a mut Packed,
    values: &'a [f32],
    ld: usize,
    from: Order,
    to: Order,
}

/// The bits of the nearest bfloat16 number, ties to even, in the upper half of a word. Numbers too large for any are cut, not
/// rounded to infinity; NaN stays NaN.
#[inline(always)]
fn high(x: f32) -> u32 {
    let bits = x.to_bits();
    let size = bits & 0x7fff_ffff;
    let quiet = if size > 0x7f80_0000 { 0x0040_0000 } else { 0 };
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    (if size >= 0x7f7f_8000 { bits | quiet } else { rounded }) & 0xffff_0000
}

/// What the high half leaves.
#[inline(always)]
fn low(x: f32) -> u32 {
    high(x - f32::from_bits(high(x)))
}

/// The high or low halves of neighbours, which lie as pairs of words do.
#[inline(always)]
fn round(out: &mut [u16], row: &[f32], half: usize) {
    if half == 0 {
        out.iter_mut().zip(row).for_each(|(o, &x)| *o = (high(x) >> 16) as u16);
    } else {
        out.iter_mut().zip(row).for_each(|(o, &x)| *o = (low(x) >> 16) as u16);
    }
}

impl Kernel<f32> for Pack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = f32>>(self) {
        let Self { out, values, ld, from, to } = self;
        let (depth, halves, k, outer) = (out.depth(), out.halves, out.k, out.outer);
        #[cfg(target_arch = "x86_64")]
        let by_instruction = level() == super::SimdLevel::Avx512 && super::avx512bf16::rounds();
        let count = outer.div_ceil(BLOCK) * 2 * depth * halves;
        let room = &mut out.squares.spare_capacity_mut()[..count];
        for (index, squares) in room.chunks_exact_mut((depth * halves).max(1)).enumerate() {
            let first = index * SIDE;
            let n = outer.saturating_sub(first).min(SIDE);
            #[cfg(target_arch = "x86_64")]
            if halves == 1 && by_instruction {
                let values = match from {
                    Order::OuterFirst => &values[(first * ld).min(values.len())..],
                    Order::InnerFirst => &values[first.min(values.len())..],
                };
                // SAFETY: the features are there, and the factor lies in `values` (`pack` has checked it).
                unsafe { super::avx512bf16::squares(squares, values, ld, (n, k), from, to) };
                continue;
            }
            for (p, squares) in squares.chunks_exact_mut(halves).enumerate() {
                let p = 2 * SIDE * p;
                for (half, square) in squares.iter_mut().enumerate() {
                    let mut words = ZERO;
                    let part = |x: f32| if half == 0 { high(x) } else { low(x) };
                    match from {
                        Order::OuterFirst => {
                            let width = k.saturating_sub(p).min(2 * SIDE);
                            for (r, words) in words.0.iter_mut().enumerate().take(n) {
                                let row = &values[(first + r) * ld + p..][..width];
                                let words: &mut [u16; 2 * SIDE] = bytemuck::cast_mut(words);
                                round(&mut words[..width], row, half);
                            }
                        }
                        Order::InnerFirst => {
                            for (r, words) in words.0.iter_mut().enumerate() {
                                let row = |p: usize| match p < k && n > 0 {
                                    true => &values[p * ld + first..][..n],
                                    false => &[],
                                };
                                let (even, odd) = (row(p + 2 * r), row(p + 2 * r + 1));
                                words.iter_mut().zip(even).for_each(|(w, &x)| *w = part(x) >> 16);
                                words.iter_mut().zip(odd).for_each(|(w, &x)| *w |= part(x));
                            }
                        }
                    }
                    square.write(if from == to { words } else { transposed::<V>(&words) });
                }
            }
        }
        // SAFETY: all of them have been written.
        unsafe { out.squares.set_len(count) };
    }
}

/// The transpose of a square.
#[inline(always)]
fn transposed<V: Lanes<T = f32>>(words: &Square) -> Square {
    let mut out = ZERO;
    let (from, to) = (words.0.as_ptr().cast::<f32>(), out.0.as_mut_ptr().cast::<f32>());
    for i in (0..SIDE).step_by(V::N) {
        for j in (0..SIDE).step_by(V::N) {
            // SAFETY: a square of the vector's length at (i, j) of one square goes to (j, i) of the other; any bits are words.
            unsafe { V::transpose(from.add(i * SIDE + j), SIDE, to.add(j * SIDE + i), SIDE) };
        }
    }
    out
}

/// `C <- A B`, or `C <- C + A B` with `add`, on the `rows` rows of `C` whose left factor begins at row `first` (a multiple of
/// [`BLOCK`]) of `a`; `C` is row-major with leading dimension `ldc`.
///
/// The instructions take subnormal halves and sums for zero; the loops do not.
#[allow(clippy::too_many_arguments)]
pub fn multiply(
    engine: Engine,
    add: bool,
    c: &mut [f32],
    ldc: usize,
    (first, rows): (usize, usize),
    a: &Packed,
    b: &Packed,
) {
    assert!(a.k == b.k && a.halves == b.halves, "both factors of a product need the same inner dimension");
    assert!(first % BLOCK == 0 && first + rows <= a.outer && engine.is_here(), "rows of another factor");
    product(engine, add, c, ldc, (first, rows), a, b);
}

/// The product, by an engine that is here.
fn product(
    engine: Engine,
    add: bool,
    c: &mut [f32],
    ldc: usize,
    (first, rows): (usize, usize),
    a: &Packed,
    b: &Packed,
) {
    check_tile(c.len(), ldc, rows, b.outer);
    let unit = amx::Tiles::configured(engine);
    for i in (0..rows).step_by(BLOCK) {
        let left = [0, 1].map(|k| a.row((first + i) / SIDE + k));
        for j in (0..b.outer).step_by(BLOCK) {
            let right = [0, 1].map(|k| b.row(j / SIDE + k));
            let (m, n) = (BLOCK.min(rows - i), BLOCK.min(b.outer - j));
            let out = &mut c[i * ldc + j..];
            if m == BLOCK && n == BLOCK {
                block(engine, &unit, add, out, ldc, left, right, a.halves);
                continue;
            }
            let mut edge = [0.0; BLOCK * BLOCK];
            block(engine, &unit, false, &mut edge, BLOCK, left, right, a.halves);
            for (out, edge) in out.chunks_mut(ldc).zip(edge.chunks_exact(BLOCK)).take(m) {
                for (out, edge) in out.iter_mut().zip(edge).take(n) {
                    *out = edge + if add { *out } else { 0.0 };
                }
            }
        }
    }
}

/// A whole block of `C`.
#[allow(clippy::too_many_arguments)]
fn block(
    engine: Engine,
    unit: &amx::Tiles,
    add: bool,
    c: &mut [f32],
    ldc: usize,
    left: [&[Square]; 2],
    right: [&[Square]; 2],
    halves: usize,
) {
    check_tile(c.len(), ldc, BLOCK, BLOCK);
    match engine {
        Engine::Amx => unit.block(add, c, ldc, left, right, halves),
        Engine::Software => software(add, c, ldc, left, right, halves),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `multiply` has seen that the engine is here; the block fits.
        Engine::Avx512Bf16 => unsafe { super::avx512bf16::block(add, c, ldc, left, right, halves) },
        #[cfg(not(target_arch = "x86_64"))]
        Engine::Avx512Bf16 => {}
    }
}

/// The pairs of halves that are multiplied, as indices into the halves of a square.
pub(super) fn pairs_of(halves: usize) -> &'static [(usize, usize)] {
    if halves == 1 { &[(0, 0)] } else { &[(0, 0), (0, 1), (1, 0)] }
}

fn software(
    add: bool,
    c: &mut [f32],
    ldc: usize,
    left: [&[Square]; 2],
    right: [&[Square]; 2],
    halves: usize,
) {
    let number =
        |word: u32, part: u32| f32::from_bits(if part == 0 { word << 16 } else { word & 0xffff_0000 });
    for (i, left) in left.into_iter().enumerate() {
        for (j, right) in right.into_iter().enumerate() {
            for r in 0..SIDE {
                for s in 0..SIDE {
                    let out = &mut c[(i * SIDE + r) * ldc + j * SIDE + s];
                    let mut sum = if add { *out } else { 0.0 };
                    for (left, right) in left.chunks_exact(halves).zip(right.chunks_exact(halves)) {
                        for &(a, b) in pairs_of(halves) {
                            for p in 0..SIDE {
                                let (x, y) = (left[a].0[r][p], right[b].0[p][s]);
                                sum += number(x, 0) * number(y, 0) + number(x, 1) * number(y, 1);
                            }
                        }
                    }
                    *out = sum;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against float64 on ragged shapes with padding, in both orders of both factors.
    fn check(engine: Engine) {
        if !engine.is_here() {
            println!("skipped: this processor has no {engine:?}");
            return;
        }
        let value = |i: usize, step: f64| (i as f64 * step).sin() as f32;
        for (products, error) in [(Products::One, 2f64.powi(-7)), (Products::Three, 2f64.powi(-15))] {
            for (m, n, k) in [(1, 1, 1), (32, 32, 32), (33, 70, 65), (16, 15, 128), (64, 31, 7), (3, 4, 0)] {
                let ldc = n + 2;
                for (left, right) in
                    [(Order::OuterFirst, Order::InnerFirst), (Order::InnerFirst, Order::OuterFirst)]
                {
                    // Of the left factor nothing follows the last element, of the right one rows are padded.
                    let extent = |order: Order, outer: usize, pad: usize| match order {
                        Order::OuterFirst => (k + pad, outer * (k + pad)),
                        Order::InnerFirst => (outer + pad, k * (outer + pad)),
                    };
                    let ((lda, size_a), (ldb, size_b)) = (extent(left, m, 0), extent(right, n, 3));
                    let a: Vec<f32> = (0..size_a).map(|i| value(i, 0.37)).collect();
                    let b: Vec<f32> = (0..size_b).map(|i| value(i, 0.23)).collect();
                    let (mut packed_a, mut packed_b) = (Packed::default(), Packed::default());
                    packed_a.left(&a, lda, left, m, k, products);
                    packed_b.right(&b, ldb, right, n, k, products);
                    let at = |v: &[f32], ld: usize, order: Order, outer: usize, inner: usize| match order {
                        Order::OuterFirst => f64::from(v[outer * ld + inner]),
                        Order::InnerFirst => f64::from(v[inner * ld + outer]),
                    };
                    for (add, first) in [(false, 0), (true, 0), (false, BLOCK)] {
                        let Some(rows) = m.checked_sub(first) else { continue };
                        let mut c = vec![0.5f32; rows.max(1) * ldc];
                        multiply(engine, add, &mut c, ldc, (first, rows), &packed_a, &packed_b);
                        for (index, &got) in c.iter().enumerate() {
                            let (i, j) = (index / ldc, index % ldc);
                            let mut want = 0.5;
                            let mut size = 1.0;
                            if i < rows && j < n {
                                let term = |l| at(&a, lda, left, first + i, l) * at(&b, ldb, right, j, l);
                                size += (0..k).map(|l| term(l).abs()).sum::<f64>();
                                want = (0..k).map(term).sum::<f64>() + if add { 0.5 } else { 0.0 };
                            }
                            let difference = (f64::from(got) - want).abs();
                            assert!(difference <= error * size, "{m} {n} {k} at {i} {j}: {difference}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn rounding_at_the_edges() {
        let halves = |x: f32| (f32::from_bits(high(x)), f32::from_bits(low(x)));
        assert_eq!(halves(1.0 + 2f32.powi(-8)), (1.0, 2f32.powi(-8)));
        assert_eq!(halves(1.0 + 3.0 * 2f32.powi(-8)), (1.0 + 2f32.powi(-6), -(2f32.powi(-8))));
        assert_eq!(high(-0.0), 1 << 31);
        for x in [f32::MAX, -f32::MAX, f32::from_bits(0x7f7f_8000)] {
            let (high, low) = halves(x);
            let sum = f64::from(high) + f64::from(low);
            assert!(high.is_finite() && (sum / f64::from(x) - 1.0).abs() <= 2f64.powi(-15), "{x}");
        }
        assert_eq!(f32::from_bits(high(f32::INFINITY)), f32::INFINITY);
        for bits in [0x7fff_ffff, 0xffff_ffff, 0x7f80_0001, 0xffc0_0000] {
            assert!(f32::from_bits(high(f32::from_bits(bits))).is_nan(), "{bits:x}");
        }
    }

    /// High halves by the processor's instruction are those of the loops, edges and numbers too large for any included.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_instruction_rounds_as_the_loops_do() {
        use super::super::avx512bf16;
        use std::mem::MaybeUninit;
        if level() != super::super::SimdLevel::Avx512 || !avx512bf16::rounds() {
            println!("skipped: this processor has no AVX512-BF16");
            return;
        }
        let special = [
            f32::MAX,
            -f32::MAX,
            f32::from_bits(0x7f7f_8000),
            f32::from_bits(0x7f7f_7fff),
            f32::INFINITY,
            f32::NEG_INFINITY,
            -0.0,
            f32::MIN_POSITIVE,
            1.0 + 2f32.powi(-8),
            1.0 + 3.0 * 2f32.powi(-8),
        ];
        let value = |i: usize| match i % 7 {
            0 => special[i / 7 % special.len()],
            _ => (i as f32 * 0.37).sin() * 2f32.powi((i % 61) as i32 - 30),
        };
        for (outer, k) in [(16, 32), (16, 64), (5, 31), (1, 1), (15, 33), (16, 7)] {
            for from in [Order::OuterFirst, Order::InnerFirst] {
                for to in [Order::OuterFirst, Order::InnerFirst] {
                    let ld = if from == Order::OuterFirst { k + 3 } else { outer + 1 };
                    let values: Vec<f32> =
                        (0..ld * if from == Order::OuterFirst { outer } else { k }).map(value).collect();
                    // What was there before does not show.
                    let before = MaybeUninit::new(Square([[0x1234_5678; SIDE]; SIDE]));
                    let mut out = vec![before; k.div_ceil(2 * SIDE)];
                    // SAFETY: the features are there; the factor fills `values`.
                    unsafe { avx512bf16::squares(&mut out, &values, ld, (outer, k), from, to) };
                    // SAFETY: they were squares before.
                    let out: Vec<Square> = out.iter().map(|square| unsafe { square.assume_init() }).collect();
                    for r in 0..SIDE {
                        for p in 0..2 * SIDE * out.len() {
                            let word = match to {
                                Order::OuterFirst => out[p / 32].0[r][p % 32 / 2],
                                Order::InnerFirst => out[p / 32].0[p % 32 / 2][r],
                            };
                            let found = if p % 2 == 0 { word << 16 } else { word & 0xffff_0000 };
                            let wanted = match r < outer && p < k {
                                true if from == Order::OuterFirst => high(values[r * ld + p]),
                                true => high(values[p * ld + r]),
                                false => 0,
                            };
                            assert_eq!(found, wanted, "{outer} x {k}, {from:?} to {to:?}, at {r} {p}");
                        }
                    }
                }
            }
        }
        // NaN stays NaN; subnormal numbers become zeros.
        let (mut out, order) = ([MaybeUninit::new(ZERO)], Order::OuterFirst);
        // SAFETY: as above.
        let words = unsafe {
            avx512bf16::squares(&mut out, &[f32::NAN, 1e-40], 2, (1, 2), order, order);
            out[0].assume_init().0
        };
        assert!(f32::from_bits(words[0][0] << 16).is_nan());
        assert_eq!(words[0][0] >> 16, 0);
    }

    #[test]
    fn software_matches_the_triple_loop() {
        check(Engine::Software);
    }

    #[test]
    fn pairs_in_vectors_match_the_triple_loop() {
        check(Engine::Avx512Bf16);
    }

    #[test]
    fn tile_registers_match_the_triple_loop() {
        check(Engine::Amx);
    }
}
