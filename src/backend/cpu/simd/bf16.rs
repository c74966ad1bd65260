//! Products of bfloat16 panels with `f32` sums, on processors with AVX512-BF16.
//!
//! One instruction multiplies and adds two products a lane, so similarities of bfloat16 embeddings
//! come at about twice the rate of `f32` ones. Both factors are packed first: pairs of neighbouring
//! features of a group of rows lie side by side, in the order in which the product reads them. A side that is
//! used again (all columns, by every row panel) is packed once.

use half::bf16;

use super::clip::check_tile;

/// Rows per group of the left factor: with two registers of columns, 16 sums are in flight, enough
/// to hide the latency of the instruction.
pub const LEFT: usize = 8;
/// Rows per group of the right factor: two registers.
pub const RIGHT: usize = 32;

/// Whether [`gemm_nt`] can run here: the processor has AVX512-BF16 and `UNICON_SIMD` does not
/// forbid AVX-512.
pub fn bf16_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        super::level() == super::SimdLevel::Avx512 && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// A row-major bfloat16 matrix, packed in groups of `W` rows (the last one filled up with zeros).
///
/// Element `(group, pair, row)` holds features `2 pair` and `2 pair + 1` of row `group * W + row`.
#[derive(Clone, Debug, Default)]
pub struct Packed<const W: usize> {
    pairs: Vec<[u32; W]>,
    rows: usize,
    k: usize,
}

impl<const W: usize> Packed<W> {
    /// Packs a `rows x k` matrix with leading dimension `ld`, reusing this value's memory.
    pub fn pack(&mut self, z: &[bf16], ld: usize, rows: usize, k: usize) {
        check_tile(z.len(), ld, rows, k);
        let pairs = k.div_ceil(2);
        self.pairs.clear();
        self.pairs.resize(rows.div_ceil(W) * pairs, [0; W]);
        (self.rows, self.k) = (rows, k);
        if k == 0 {
            return;
        }
        for (group, packed) in self.pairs.chunks_exact_mut(pairs).enumerate() {
            for lane in 0..W.min(rows - group * W) {
                let row = &z[(group * W + lane) * ld..][..k];
                for (pair, features) in packed.iter_mut().zip(row.chunks(2)) {
                    let high = features.get(1).map_or(0, |x| x.to_bits());
                    pair[lane] = u32::from(features[0].to_bits()) | u32::from(high) << 16;
                }
            }
        }
    }
}

/// `C <- A B^T`, or `C <- C + A B^T` with `add`; `C` is row-major `m x n` in `f32` with
/// leading dimension `ldc`.
///
/// Sums are `f32`; as the instruction prescribes, subnormal inputs and sums count as zero. Returns
/// false, without touching `C`, where [`bf16_available`] is false.
pub fn gemm_nt(add: bool, c: &mut [f32], ldc: usize, a: &Packed<LEFT>, b: &Packed<RIGHT>) -> bool {
    assert_eq!(a.k, b.k, "both factors of a product need the same number of features");
    check_tile(c.len(), ldc, a.rows, b.rows);
    if !bf16_available() {
        return false;
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the features were just checked, and so were the shapes.
    unsafe {
        x86::product(add, c, ldc, a, b);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = add;
    true
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{LEFT, Packed, RIGHT};

    /// # Safety
    /// The processor must have AVX-512F and AVX512-BF16; `c` must hold `a.rows x b.rows` elements with
    /// leading dimension `ldc`.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub unsafe fn product(add: bool, c: &mut [f32], ldc: usize, a: &Packed<LEFT>, b: &Packed<RIGHT>) {
        let pairs = a.k.div_ceil(2);
        // A group of the right factor stays in the first-level cache while the left one streams by.
        for j in (0..b.rows).step_by(RIGHT) {
            let right = &b.pairs[j / RIGHT * pairs..][..pairs];
            let cols = RIGHT.min(b.rows - j);
            for i in (0..a.rows).step_by(LEFT) {
                let left = &a.pairs[i / LEFT * pairs..][..pairs];
                let sums = block(left, right);
                for (k, sums) in sums.iter().enumerate().take(a.rows - i) {
                    for (half, &sum) in sums.iter().enumerate() {
                        let lanes = cols.saturating_sub(16 * half).min(16);
                        let mask = ((1u32 << lanes) - 1) as __mmask16;
                        // SAFETY: row i + k < a.rows; only the lanes below b.rows are touched, and
                        // with none of them the address is only computed.
                        unsafe {
                            let p = c.as_mut_ptr().wrapping_add((i + k) * ldc + j + 16 * half);
                            let sum =
                                if add { _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, p)) } else { sum };
                            _mm512_mask_storeu_ps(p, mask, sum);
                        }
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn block(left: &[[u32; LEFT]], right: &[[u32; RIGHT]]) -> [[__m512; 2]; LEFT] {
        let mut sums = [[_mm512_setzero_ps(); 2]; LEFT];
        for (l, r) in left.iter().zip(right) {
            // SAFETY: r holds two registers. The types are both 512 plain bits.
            let r: [__m512bh; 2] = unsafe {
                [
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(r.as_ptr().cast())),
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(r.as_ptr().add(16).cast())),
                ]
            };
            for (sums, &l) in sums.iter_mut().zip(l) {
                // SAFETY: the types are both 512 plain bits.
                let l = unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(l as i32)) };
                sums[0] = _mm512_dpbf16_ps(sums[0], l, r[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], l, r[1]);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On ragged shapes with padding; products of bfloat16 numbers are exact in `f32`.
    #[test]
    fn matches_the_triple_loop() {
        let value = |i: usize, step: f32| bf16::from_f32((i as f32 * step).sin());
        for (m, n, k) in
            [(1, 1, 1), (8, 32, 2), (9, 33, 7), (21, 50, 128), (16, 15, 65), (3, 4, 0), (0, 5, 2)]
        {
            let (ld, ldc) = (k + 3, n + 2);
            let a: Vec<bf16> = (0..m * ld).map(|i| value(i, 0.37)).collect();
            let b: Vec<bf16> = (0..n * ld).map(|i| value(i, 0.23)).collect();
            let (mut left, mut right) = (Packed::default(), Packed::default());
            left.pack(&a, ld, m, k);
            right.pack(&b, ld, n, k);
            for add in [false, true] {
                let mut c = vec![0.5f32; m * ldc];
                if !gemm_nt(add, &mut c, ldc, &left, &right) {
                    println!("skipped: this processor has no AVX512-BF16");
                    return;
                }
                for (index, &got) in c.iter().enumerate() {
                    let (i, j) = (index / ldc, index % ldc);
                    let dot: f64 = (0..k)
                        .take_while(|_| j < n)
                        .map(|l| f64::from(a[i * ld + l]) * f64::from(b[j * ld + l]))
                        .sum();
                    let want = if add || j >= n { dot + 0.5 } else { dot };
                    // k sums of terms of at most 1, each rounded.
                    let tolerance = f64::from(f32::EPSILON) * (k as f64 + 1.0);
                    assert!((f64::from(got) - want).abs() <= tolerance, "{m} {n} {k} at {i} {j}");
                }
            }
        }
    }
}
