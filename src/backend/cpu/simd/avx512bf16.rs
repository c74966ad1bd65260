//! Products of pairs of bfloat16 numbers in vector registers.

use super::halves::{SIDE, Square, pairs_of};
use std::arch::x86_64::*;

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
