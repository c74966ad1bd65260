//! Products of pairs of bfloat16 numbers in vector registers.

use super::halves::{Order, SIDE, Square, pairs_of};
use super::product::prefetch;
use super::x86::transposed_ps;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

/// Rows whose sums, two registers each, are in flight: enough to hide the latency of the instruction.
const ROWS: usize = 8;

/// # Safety
/// The processor must have AVX-512F and AVX512-BF16; `c` must hold 32 rows of 32 elements, `ldc` apart.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn block(
    add: bool,
    c: &mut [f32],
    ldc: usize,
    left: [&[Square]; 2],
    right: [&[Square]; 2],
    halves: usize,
) {
    for (i, left) in left.into_iter().enumerate() {
        for first in (0..SIDE).step_by(ROWS) {
            let c = c.as_mut_ptr().wrapping_add((i * SIDE + first) * ldc);
            // What the sums are added to comes while they are made.
            for r in 0..ROWS {
                prefetch(c.wrapping_add(r * ldc));
                prefetch(c.wrapping_add(r * ldc + SIDE));
            }
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            let squares = left.chunks_exact(halves);
            for (left, (r0, r1)) in
                squares.zip(right[0].chunks_exact(halves).zip(right[1].chunks_exact(halves)))
            {
                for &(a, b) in pairs_of(halves) {
                    for p in 0..SIDE {
                        // SAFETY: a row of a square is one register of plain bits.
                        let row = |square: &Square| unsafe {
                            std::mem::transmute::<__m512i, __m512bh>(_mm512_load_si512(
                                square.0[p].as_ptr().cast(),
                            ))
                        };
                        let row = [row(&r0[b]), row(&r1[b])];
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let word = _mm512_set1_epi32(left[a].0[first + r][p] as i32);
                            // SAFETY: the types are both 512 plain bits.
                            let word = unsafe { std::mem::transmute::<__m512i, __m512bh>(word) };
                            sums[0] = _mm512_dpbf16_ps(sums[0], word, row[0]);
                            sums[1] = _mm512_dpbf16_ps(sums[1], word, row[1]);
                        }
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (w, sum) in sums.into_iter().enumerate() {
                    // SAFETY: inside the block, by contract.
                    unsafe {
                        let p = c.add(r * ldc + w * SIDE);
                        let sum = if add { _mm512_add_ps(_mm512_loadu_ps(p), sum) } else { sum };
                        _mm512_storeu_ps(p, sum);
                    }
                }
            }
        }
    }
}

/// Whether [`squares`] may be called.
pub fn rounds() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// Packs 16 rows or columns of a factor, of which `n` are there, and `k` along the inner dimension: `out` become the squares of their
/// high halves, all of them written. `values` begins with the first of them; the other arguments are those of
/// [`Packed`](super::halves::Packed)'s packing. Numbers are rounded by the processor's instruction, which takes subnormal ones for
/// zero; numbers too large for any bfloat16 are cut as everywhere.
/// # Safety
/// The processor must have AVX-512F, AVX-512BW and AVX512-BF16; the `n` by `k` elements must lie in `values`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn squares(
    out: &mut [MaybeUninit<Square>],
    values: &[f32],
    ld: usize,
    (n, k): (usize, usize),
    from: Order,
    to: Order,
) {
    let values = values.as_ptr();
    for (q, square) in out.iter_mut().enumerate() {
        let p = 2 * SIDE * q;
        let left = k.saturating_sub(p);
        let rows = square.as_mut_ptr().cast::<__m512i>();
        let here = match from {
            Order::OuterFirst => {
                let (lower, upper) = (first(left), first(left.saturating_sub(SIDE)));
                for r in 0..n {
                    let from = values.wrapping_add(r * ld + p);
                    // SAFETY: `left` elements of the row follow, by contract, and what is masked out is not read; rows of a square
                    // are 16 registers.
                    unsafe {
                        let odd = _mm512_maskz_loadu_ps(upper, from.wrapping_add(SIDE));
                        let even = _mm512_maskz_loadu_ps(lower, from);
                        _mm512_store_si512(rows.add(r), rounded(odd, even));
                    }
                }
                n
            }
            Order::InnerFirst => {
                let there = left.min(2 * SIDE);
                for r in 0..there.div_ceil(2) {
                    let from = values.wrapping_add((p + 2 * r) * ld);
                    let odd = first(if 2 * r + 1 < there { n } else { 0 });
                    // SAFETY: as above: `n` elements follow at every inner index below k.
                    unsafe {
                        let odd = _mm512_maskz_loadu_ps(odd, from.wrapping_add(ld));
                        let even = _mm512_maskz_loadu_ps(first(n), from);
                        _mm512_store_si512(rows.add(r), interleaved(rounded(odd, even)));
                    }
                }
                there.div_ceil(2)
            }
        };
        for r in here..SIDE {
            // SAFETY: rows of a square are 16 registers.
            unsafe { _mm512_store_si512(rows.add(r), _mm512_setzero_si512()) };
        }
        if from != to {
            let mut numbers = [_mm512_setzero_ps(); SIDE];
            // SAFETY: as above, and AVX-512F is there by contract; any bits are numbers.
            unsafe {
                for (r, number) in numbers.iter_mut().enumerate() {
                    *number = _mm512_castsi512_ps(_mm512_load_si512(rows.add(r)));
                }
                for (r, number) in transposed_ps(numbers).into_iter().enumerate() {
                    _mm512_store_si512(rows.add(r), _mm512_castps_si512(number));
                }
            }
        }
    }
}

/// The mask of the first `n` of 16 lanes, or of all.
fn first(n: usize) -> u16 {
    if n >= SIDE { u16::MAX } else { (1 << n) - 1 }
}

/// The upper and the lower 16 numbers rounded to bfloat16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn rounded(upper: __m512, lower: __m512) -> __m512i {
    let both = _mm512_cvtne2ps_pbh(cut(upper), cut(lower));
    // SAFETY: the types are both 512 plain bits.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(both) }
}

/// Numbers that would be rounded to infinity, with the bits cut that bfloat16 has no room for.
#[target_feature(enable = "avx512f")]
fn cut(x: __m512) -> __m512 {
    let bits = _mm512_castps_si512(x);
    let size = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fff_ffff));
    let above = _mm512_sub_epi32(size, _mm512_set1_epi32(0x7f7f_8000));
    let large = _mm512_cmplt_epu32_mask(above, _mm512_set1_epi32(0x8000));
    _mm512_castsi512_ps(_mm512_mask_and_epi32(bits, large, bits, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
}

/// Words whose lower halves are the lower 16 numbers and whose upper halves the upper 16.
#[target_feature(enable = "avx512f,avx512bw")]
fn interleaved(numbers: __m512i) -> __m512i {
    const PLACES: [u16; 32] = {
        let mut places = [0; 32];
        let mut i = 0;
        while i < 32 {
            places[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        places
    };
    // SAFETY: 64 bytes of constants.
    let places = unsafe { _mm512_loadu_si512(PLACES.as_ptr().cast()) };
    _mm512_permutexvar_epi16(places, numbers)
}
