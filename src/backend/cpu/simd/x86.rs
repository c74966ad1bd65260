//! AVX2 and AVX-512 registers.
//!
//! Safety of the intrinsics: a value of these types exists only inside a kernel entered through one
//! of the `run_*` functions below, whose callers have checked that the processor has the features.
//! Each `unsafe` block that only computes on registers rests on that; blocks that touch memory add
//! what they need from their caller.

use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Sub};

use super::lanes::{Element, Kernel, Lanes};

/// # Safety
/// The processor must have AVX-512F, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx2,fma")]
pub fn run_avx512_f32<K: Kernel<f32>>(kernel: K) -> K::Output {
    kernel.run::<F32x16>()
}

/// # Safety
/// The processor must have AVX-512F, AVX2 and FMA.
#[target_feature(enable = "avx512f,avx2,fma")]
pub fn run_avx512_f64<K: Kernel<f64>>(kernel: K) -> K::Output {
    kernel.run::<F64x8>()
}

/// # Safety
/// The processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub fn run_avx2_f32<K: Kernel<f32>>(kernel: K) -> K::Output {
    kernel.run::<F32x8>()
}

/// # Safety
/// The processor must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub fn run_avx2_f64<K: Kernel<f64>>(kernel: K) -> K::Output {
    kernel.run::<F64x4>()
}

macro_rules! operator {
    ($name:ident, $trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for $name {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                // SAFETY: the value exists, so the features do (module documentation).
                Self(unsafe { $intrinsic(self.0, other.0) })
            }
        }
    };
}

macro_rules! register {
    (
        $name:ident, $t:ty, $register:ty, $n:literal, $registers:literal,
        $set1:ident, $loadu:ident, $storeu:ident, $add:ident, $sub:ident, $mul:ident, $div:ident,
        $fmadd:ident, $fnmadd:ident, $max:ident, $min:ident, $round:ident;
        $($rest:item)*
    ) => {
        #[derive(Clone, Copy)]
        pub struct $name($register);
        operator!($name, Add, add, $add);
        operator!($name, Sub, sub, $sub);
        operator!($name, Mul, mul, $mul);
        operator!($name, Div, div, $div);

        impl Lanes for $name {
            type T = $t;
            const N: usize = $n;
            const REGISTERS: usize = $registers;
            #[inline(always)]
            fn splat(x: $t) -> Self {
                // SAFETY: called in a kernel of this level only (module documentation).
                Self(unsafe { $set1(x) })
            }
            #[inline(always)]
            unsafe fn load(p: *const $t) -> Self {
                // SAFETY: as above; readable for N elements by contract.
                Self(unsafe { $loadu(p) })
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $t) {
                // SAFETY: as above; writable for N elements by contract.
                unsafe { $storeu(p, self.0) }
            }
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $fmadd(self.0, b.0, c.0) })
            }
            #[inline(always)]
            fn neg_mul_add(self, b: Self, c: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $fnmadd(self.0, b.0, c.0) })
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $max(self.0, other.0) })
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                // SAFETY: as above.
                Self(unsafe { $min(self.0, other.0) })
            }
            #[inline(always)]
            fn round(self) -> Self {
                const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
                // SAFETY: as above.
                Self(unsafe { $round::<NEAREST>(self.0) })
            }
            $(
                #[inline(always)]
                $rest
            )*
        }
    };
}

register! {
    F32x16, f32, __m512, 16, 32,
    _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps,
    _mm512_div_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_max_ps, _mm512_min_ps,
    _mm512_roundscale_ps;
    unsafe fn load_first(p: *const f32, n: usize, fill: f32) -> Self {
        // SAFETY: only the n lanes in the mask are read, readable by contract.
        Self(unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), (1u16 << n) - 1, p) })
    }
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: only the n lanes in the mask are written, writable by contract.
        unsafe { _mm512_mask_storeu_ps(p, (1u16 << n) - 1, self.0) }
    }
    fn abs(self) -> Self {
        // SAFETY: registers only (module documentation).
        Self(unsafe { _mm512_abs_ps(self.0) })
    }
    fn select_lt(a: Self, b: Self, x: Self, y: Self) -> Self {
        // SAFETY: registers only.
        Self(unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a.0, b.0), y.0, x.0) })
    }
    fn exp_scale(p: Self, t: Self, y: Self) -> Self {
        // SAFETY: registers only.
        Self(unsafe {
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(y.0, _mm512_set1_ps(f32::EXP_MIN));
            _mm512_maskz_scalef_ps(kept, p.0, t.0)
        })
    }
    fn exp2_scale(p: Self, t: Self) -> Self {
        // SAFETY: registers only.
        Self(unsafe {
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(t.0, _mm512_set1_ps(f32::EXP2_MIN));
            _mm512_maskz_scalef_ps(kept, p.0, t.0)
        })
    }
    fn sum(self) -> f32 {
        // SAFETY: registers only.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }
    fn max_lane(self) -> f32 {
        // SAFETY: registers only.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }
    unsafe fn transpose(from: *const f32, ld: usize, to: *mut f32, ld_to: usize) {
        // SAFETY: sixteen rows of sixteen elements are readable and writable by contract.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(from.add(i * ld));
            }
            for (i, row) in transposed_ps(rows).into_iter().enumerate() {
                _mm512_storeu_ps(to.add(i * ld_to), row);
            }
        }
    }
}

register! {
    F64x8, f64, __m512d, 8, 32,
    _mm512_set1_pd, _mm512_loadu_pd, _mm512_storeu_pd, _mm512_add_pd, _mm512_sub_pd, _mm512_mul_pd,
    _mm512_div_pd, _mm512_fmadd_pd, _mm512_fnmadd_pd, _mm512_max_pd, _mm512_min_pd,
    _mm512_roundscale_pd;
    unsafe fn load_first(p: *const f64, n: usize, fill: f64) -> Self {
        // SAFETY: only the n lanes in the mask are read, readable by contract.
        Self(unsafe { _mm512_mask_loadu_pd(_mm512_set1_pd(fill), (1u8 << n) - 1, p) })
    }
    unsafe fn store_first(self, p: *mut f64, n: usize) {
        // SAFETY: only the n lanes in the mask are written, writable by contract.
        unsafe { _mm512_mask_storeu_pd(p, (1u8 << n) - 1, self.0) }
    }
    fn abs(self) -> Self {
        // SAFETY: registers only (module documentation).
        Self(unsafe { _mm512_abs_pd(self.0) })
    }
    fn select_lt(a: Self, b: Self, x: Self, y: Self) -> Self {
        // SAFETY: registers only.
        Self(unsafe { _mm512_mask_blend_pd(_mm512_cmp_pd_mask::<_CMP_LT_OQ>(a.0, b.0), y.0, x.0) })
    }
    fn exp_scale(p: Self, t: Self, y: Self) -> Self {
        // SAFETY: registers only.
        Self(unsafe {
            let kept = _mm512_cmp_pd_mask::<_CMP_NLT_UQ>(y.0, _mm512_set1_pd(f64::EXP_MIN));
            _mm512_maskz_scalef_pd(kept, p.0, t.0)
        })
    }
    fn exp2_scale(p: Self, t: Self) -> Self {
        // SAFETY: registers only.
        Self(unsafe {
            let kept = _mm512_cmp_pd_mask::<_CMP_NLT_UQ>(t.0, _mm512_set1_pd(f64::EXP2_MIN));
            _mm512_maskz_scalef_pd(kept, p.0, t.0)
        })
    }
    fn sum(self) -> f64 {
        // SAFETY: registers only.
        unsafe { _mm512_reduce_add_pd(self.0) }
    }
    fn max_lane(self) -> f64 {
        // SAFETY: registers only.
        unsafe { _mm512_reduce_max_pd(self.0) }
    }
}

/// The transpose of sixteen rows of sixteen elements.
/// # Safety
/// AVX-512F must be there.
#[inline(always)]
pub(super) unsafe fn transposed_ps(rows: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: registers only.
    unsafe {
        // Pairs of neighbouring rows, then fours, within quarters of 128 bits; then the quarters change places.
        let mut pairs = rows;
        for i in (0..16).step_by(2) {
            pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
        }
        let mut fours = pairs;
        for i in (0..16).step_by(4) {
            for k in 0..2 {
                fours[i + 2 * k] = _mm512_shuffle_ps::<0x44>(pairs[i + k], pairs[i + k + 2]);
                fours[i + 2 * k + 1] = _mm512_shuffle_ps::<0xee>(pairs[i + k], pairs[i + k + 2]);
            }
        }
        let mut eights = fours;
        for i in 0..4 {
            for k in [i, i + 8] {
                eights[k] = _mm512_shuffle_f32x4::<0x88>(fours[k], fours[k + 4]);
                eights[k + 4] = _mm512_shuffle_f32x4::<0xdd>(fours[k], fours[k + 4]);
            }
        }
        let mut out = eights;
        for i in 0..4 {
            // Columns i, i + 4, i + 8 and i + 12 of all rows.
            out[i] = _mm512_shuffle_f32x4::<0x88>(eights[i], eights[i + 8]);
            out[i + 8] = _mm512_shuffle_f32x4::<0xdd>(eights[i], eights[i + 8]);
            out[i + 4] = _mm512_shuffle_f32x4::<0x88>(eights[i + 4], eights[i + 12]);
            out[i + 12] = _mm512_shuffle_f32x4::<0xdd>(eights[i + 4], eights[i + 12]);
        }
        out
    }
}

/// Eight ones and eight zeros in the sign bits: the mask of the first n lanes starts at `8 - n`.
static FIRST_32: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
static FIRST_64: [i64; 8] = [-1, -1, -1, -1, 0, 0, 0, 0];

/// # Safety
/// AVX must be there.
#[inline(always)]
unsafe fn first_lanes_32(n: usize) -> __m256i {
    // SAFETY: the slice holds eight elements, or indexing would have panicked.
    unsafe { _mm256_loadu_si256(FIRST_32[8 - n..][..8].as_ptr().cast()) }
}

/// # Safety
/// AVX must be there.
#[inline(always)]
unsafe fn first_lanes_64(n: usize) -> __m256i {
    // SAFETY: the slice holds four elements, or indexing would have panicked.
    unsafe { _mm256_loadu_si256(FIRST_64[4 - n..][..4].as_ptr().cast()) }
}

/// `2^t` for integral `t` in the range of normal exponents.
/// # Safety
/// AVX2 must be there.
#[inline(always)]
unsafe fn pow2_ps(t: __m256) -> __m256 {
    // SAFETY: registers only.
    unsafe {
        let biased = _mm256_add_ps(t, _mm256_set1_ps(f32::ROUNDER + 127.0));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(biased)))
    }
}

/// As [`pow2_ps`].
/// # Safety
/// AVX2 must be there.
#[inline(always)]
unsafe fn pow2_pd(t: __m256d) -> __m256d {
    // SAFETY: registers only.
    unsafe {
        let biased = _mm256_add_pd(t, _mm256_set1_pd(f64::ROUNDER + 1023.0));
        _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_castpd_si256(biased)))
    }
}

register! {
    F32x8, f32, __m256, 8, 16,
    _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps,
    _mm256_div_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_max_ps, _mm256_min_ps,
    _mm256_round_ps;
    unsafe fn load_first(p: *const f32, n: usize, fill: f32) -> Self {
        // SAFETY: only the n lanes in the mask are read, readable by contract.
        Self(unsafe {
            let mask = first_lanes_32(n);
            let loaded = _mm256_maskload_ps(p, mask);
            _mm256_blendv_ps(_mm256_set1_ps(fill), loaded, _mm256_castsi256_ps(mask))
        })
    }
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: only the n lanes in the mask are written, writable by contract.
        unsafe { _mm256_maskstore_ps(p, first_lanes_32(n), self.0) }
    }
    fn abs(self) -> Self {
        // SAFETY: registers only (module documentation).
        Self(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
    }
    fn select_lt(a: Self, b: Self, x: Self, y: Self) -> Self {
        // SAFETY: registers only.
        Self(unsafe { _mm256_blendv_ps(y.0, x.0, _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0)) })
    }
    fn exp_scale(p: Self, t: Self, y: Self) -> Self {
        // SAFETY: registers only. In two steps: 2^t itself may be out of range where the result
        // is not.
        Self(unsafe {
            let half = (t * Self::splat(0.5)).round();
            let scaled = _mm256_mul_ps(p.0, pow2_ps(half.0));
            let scaled = _mm256_mul_ps(scaled, pow2_ps((t - half).0));
            let kept = _mm256_cmp_ps::<_CMP_NLT_UQ>(y.0, _mm256_set1_ps(f32::EXP_MIN));
            _mm256_and_ps(kept, scaled)
        })
    }
    fn exp2_scale(p: Self, t: Self) -> Self {
        // SAFETY: registers only.
        Self(unsafe {
            let smallest = _mm256_set1_ps(f32::EXP2_MIN);
            let kept = _mm256_cmp_ps::<_CMP_NLT_UQ>(t.0, smallest);
            _mm256_and_ps(kept, _mm256_mul_ps(p.0, pow2_ps(_mm256_max_ps(t.0, smallest))))
        })
    }
    fn sum(self) -> f32 {
        // SAFETY: registers only.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    fn max_lane(self) -> f32 {
        // SAFETY: registers only.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    unsafe fn transpose(from: *const f32, ld: usize, to: *mut f32, ld_to: usize) {
        // SAFETY: eight rows of eight elements are readable and writable by contract.
        unsafe {
            let mut rows = [_mm256_setzero_ps(); 8];
            for (i, row) in rows.iter_mut().enumerate() {
                *row = _mm256_loadu_ps(from.add(i * ld));
            }
            // Pairs, then fours, then halves.
            let mut pairs = rows;
            for i in (0..8).step_by(2) {
                pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
                pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
            }
            let mut fours = pairs;
            for i in (0..8).step_by(4) {
                for k in 0..2 {
                    fours[i + 2 * k] = _mm256_shuffle_ps::<0x44>(pairs[i + k], pairs[i + k + 2]);
                    fours[i + 2 * k + 1] = _mm256_shuffle_ps::<0xee>(pairs[i + k], pairs[i + k + 2]);
                }
            }
            for i in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
                let high = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
                _mm256_storeu_ps(to.add(i * ld_to), low);
                _mm256_storeu_ps(to.add((i + 4) * ld_to), high);
            }
        }
    }
}

register! {
    F64x4, f64, __m256d, 4, 16,
    _mm256_set1_pd, _mm256_loadu_pd, _mm256_storeu_pd, _mm256_add_pd, _mm256_sub_pd, _mm256_mul_pd,
    _mm256_div_pd, _mm256_fmadd_pd, _mm256_fnmadd_pd, _mm256_max_pd, _mm256_min_pd,
    _mm256_round_pd;
    unsafe fn load_first(p: *const f64, n: usize, fill: f64) -> Self {
        // SAFETY: only the n lanes in the mask are read, readable by contract.
        Self(unsafe {
            let mask = first_lanes_64(n);
            let loaded = _mm256_maskload_pd(p, mask);
            _mm256_blendv_pd(_mm256_set1_pd(fill), loaded, _mm256_castsi256_pd(mask))
        })
    }
    unsafe fn store_first(self, p: *mut f64, n: usize) {
        // SAFETY: only the n lanes in the mask are written, writable by contract.
        unsafe { _mm256_maskstore_pd(p, first_lanes_64(n), self.0) }
    }
    fn abs(self) -> Self {
        // SAFETY: registers only (module documentation).
        Self(unsafe { _mm256_andnot_pd(_mm256_set1_pd(-0.0), self.0) })
    }
    fn select_lt(a: Self, b: Self, x: Self, y: Self) -> Self {
        // SAFETY: registers only.
        Self(unsafe { _mm256_blendv_pd(y.0, x.0, _mm256_cmp_pd::<_CMP_LT_OQ>(a.0, b.0)) })
    }
    fn exp_scale(p: Self, t: Self, y: Self) -> Self {
        // SAFETY: registers only. In two steps, as for f32.
        Self(unsafe {
            let half = (t * Self::splat(0.5)).round();
            let scaled = _mm256_mul_pd(p.0, pow2_pd(half.0));
            let scaled = _mm256_mul_pd(scaled, pow2_pd((t - half).0));
            let kept = _mm256_cmp_pd::<_CMP_NLT_UQ>(y.0, _mm256_set1_pd(f64::EXP_MIN));
            _mm256_and_pd(kept, scaled)
        })
    }
    fn exp2_scale(p: Self, t: Self) -> Self {
        // SAFETY: registers only.
        Self(unsafe {
            let smallest = _mm256_set1_pd(f64::EXP2_MIN);
            let kept = _mm256_cmp_pd::<_CMP_NLT_UQ>(t.0, smallest);
            _mm256_and_pd(kept, _mm256_mul_pd(p.0, pow2_pd(_mm256_max_pd(t.0, smallest))))
        })
    }
    fn sum(self) -> f64 {
        // SAFETY: registers only.
        unsafe {
            let two = _mm_add_pd(_mm256_castpd256_pd128(self.0), _mm256_extractf128_pd::<1>(self.0));
            _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)))
        }
    }
    fn max_lane(self) -> f64 {
        // SAFETY: registers only.
        unsafe {
            let two = _mm_max_pd(_mm256_castpd256_pd128(self.0), _mm256_extractf128_pd::<1>(self.0));
            _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)))
        }
    }
}
