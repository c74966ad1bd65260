//! The register abstraction: what a kernel may do with a vector, and the portable vector.

// Polynomial coefficients stand as they were computed, in more digits than the type holds.
#![allow(clippy::excessive_precision)]

use std::ops::{Add, Div, Mul, Sub};

use super::SimdLevel;

/// Floating-point type with the constants of its elementary functions.
pub trait Element: Copy + PartialOrd + Send + Sync + std::fmt::Debug + 'static {
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    /// The most negative finite number: only `-inf` is below it.
    const LOWEST: Self;
    const LOG2_E: Self;
    /// High part of ln 2, with enough trailing zero bits that its product with any exponent of this
    /// type is exact without FMA.
    const LN_2_HI: Self;
    const LN_2_LO: Self;
    /// Arguments from here on overflow; the exponential clamps to it.
    const EXP_MAX: Self;
    /// ln of the smallest normal number: results of smaller arguments are flushed to 0.
    const EXP_MIN: Self;
    /// 1.5 * 2^(mantissa bits): adding it rounds to an integer held in the low mantissa bits.
    const ROUNDER: Self;
    /// Exponent of the smallest normal number.
    const EXP2_MIN: Self;
    /// The smallest power of two that is not a finite number.
    const EXP2_MAX: Self;
    /// Coefficients `c_1, c_2, ..` of `2^r = 1 + r (c_1 + c_2 r + ..)`: those of `e^r` below in powers of ln 2.
    const EXP2_POLY: &'static [Self];
    /// Coefficients `c_2, c_3, ..` of `e^r = 1 + r + r^2 (c_2 + c_3 r + ..)`, minimax in relative
    /// error on |r| <= ln(2)/2.
    const EXP_POLY: &'static [Self];
    /// Coefficients of `2 atanh(w) = 2 w + w z (p_0 + p_1 z + ..)`, `z = w^2`, minimax in relative
    /// error on 0 <= w <= 1/3.
    const ATANH_POLY: &'static [Self];
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
    fn neg(self) -> Self;
    fn plus(self, other: Self) -> Self;
    /// `2^t` for integral `t` in the range of normal exponents.
    fn pow2(t: Self) -> Self;
}

impl Element for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;
    const LOWEST: f32 = f32::MIN;
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN_2_HI: f32 = 0.693_359_4; // 355/512, 9 bits
    const LN_2_LO: f32 = -2.121_944_4e-4;
    const EXP_MAX: f32 = 89.0;
    const EXP_MIN: f32 = -87.336_54;
    const ROUNDER: f32 = 12_582_912.0;
    const EXP2_MIN: f32 = -126.0;
    const EXP2_MAX: f32 = 128.0;
    const EXP2_POLY: &'static [f32] = &[
        std::f32::consts::LN_2,
        0.240_226_475_412_732_73,
        0.055_503_621_557_147_01,
        0.009_618_526_947_830_819,
        0.001_339_021_806_783_345,
        0.000_153_211_182_650_274_7,
    ];
    // Relative error 3.1e-9, a twentieth of an ulp.
    const EXP_POLY: &'static [f32] = &[
        0.499_999_934_340_368_2,
        0.166_665_203_989_139_17,
        0.041_668_390_148_948_105,
        0.008_368_745_187_132_83,
        0.001_381_458_041_124_929,
    ];
    // Relative error 4.6e-9.
    const ATANH_POLY: &'static [f32] = &[
        0.666_664_130_191_956_4,
        0.400_217_066_292_091_74,
        0.279_990_043_785_484_6,
        0.280_251_858_318_888_9,
    ];
    #[inline(always)]
    fn from_f64(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn neg(self) -> f32 {
        -self
    }
    #[inline(always)]
    fn plus(self, other: f32) -> f32 {
        self + other
    }
    #[inline(always)]
    fn pow2(t: f32) -> f32 {
        f32::from_bits((t + (Self::ROUNDER + 127.0)).to_bits() << 23)
    }
}

impl Element for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
    const LOWEST: f64 = f64::MIN;
    const LOG2_E: f64 = std::f64::consts::LOG2_E;
    // ln 2 with the low 21 bits of its mantissa cleared, and the rest.
    const LN_2_HI: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
    const LN_2_LO: f64 = 1.908_214_929_270_587_7e-10;
    const EXP_MAX: f64 = 710.0;
    const EXP_MIN: f64 = -708.396_418_532_264_1;
    const ROUNDER: f64 = 6_755_399_441_055_744.0;
    const EXP2_MIN: f64 = -1022.0;
    const EXP2_MAX: f64 = 1024.0;
    const EXP2_POLY: &'static [f64] = &[
        std::f64::consts::LN_2,
        0.240_226_506_959_101_245_74,
        0.055_504_108_664_820_726_489,
        0.009_618_129_107_596_866_284_1,
        0.001_333_355_814_668_709_348_2,
        1.540_353_045_423_687_698_6e-4,
        1.525_273_354_613_371_718e-5,
        1.321_543_651_476_369_033e-6,
        1.017_818_484_617_429_535_5e-7,
        7.073_596_940_463_073_714_3e-9,
        4.436_293_541_165_622_443e-10,
    ];
    // Relative error 3.7e-18, a thirtieth of an ulp.
    const EXP_POLY: &'static [f64] = &[
        0.500_000_000_000_001_066_91,
        0.166_666_666_666_664_114_99,
        0.041_666_666_666_529_726_76,
        0.008_333_333_333_494_986_217,
        0.001_388_888_894_376_021_046_2,
        1.984_126_950_575_085_371_5e-4,
        2.480_149_294_946_381_594_4e-5,
        2.755_758_682_645_606_926_9e-6,
        2.763_030_629_262_731_342e-7,
        2.500_001_120_812_439_277_8e-8,
    ];
    // Relative error 1.3e-18.
    const ATANH_POLY: &'static [f64] = &[
        0.666_666_666_666_663_034_2,
        0.400_000_000_001_573_940_05,
        0.285_714_285_478_334_608_9,
        0.222_222_239_710_723_602_57,
        0.181_817_438_754_189_655_59,
        0.153_865_610_209_783_013_8,
        0.133_009_586_516_399_632_34,
        0.121_062_082_058_681_864_37,
        0.083_395_530_152_349_812_683,
        0.170_196_193_806_628_758_46,
    ];
    #[inline(always)]
    fn from_f64(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn neg(self) -> f64 {
        -self
    }
    #[inline(always)]
    fn plus(self, other: f64) -> f64 {
        self + other
    }
    #[inline(always)]
    fn pow2(t: f64) -> f64 {
        f64::from_bits((t + (Self::ROUNDER + 1023.0)).to_bits() << 52)
    }
}

/// One vector register.
///
/// The operations of the x86 types are instructions that exist only once the processor was asked
/// for them, although the methods are safe to call: these types are private to this module and come
/// into being only inside [`Kernel::run`], which [`Dispatch::dispatch`] enters after the check.
pub trait Lanes:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Div<Output = Self>
{
    type T: Element;
    /// Number of lanes.
    const N: usize;
    /// Registers that the instruction set has.
    const REGISTERS: usize;

    fn splat(x: Self::T) -> Self;
    /// # Safety
    /// `p` must be readable for `N` elements.
    unsafe fn load(p: *const Self::T) -> Self;
    /// # Safety
    /// `p` must be writable for `N` elements.
    unsafe fn store(self, p: *mut Self::T);
    /// The first `n < N` elements from memory, `fill` in the other lanes.
    /// # Safety
    /// `p` must be readable for `n` elements.
    unsafe fn load_first(p: *const Self::T, n: usize, fill: Self::T) -> Self;
    /// Stores the first `n < N` lanes.
    /// # Safety
    /// `p` must be writable for `n` elements.
    unsafe fn store_first(self, p: *mut Self::T, n: usize);
    /// `self * b + c`.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// `c - self * b`.
    fn neg_mul_add(self, b: Self, c: Self) -> Self;
    /// The larger; `other` where either is NaN.
    fn max(self, other: Self) -> Self;
    /// The smaller; `other` where either is NaN.
    fn min(self, other: Self) -> Self;
    fn abs(self) -> Self;
    /// Nearest integer, ties to even, for magnitudes below 2^22.
    fn round(self) -> Self;
    /// `x` where `a < b`, else `y`.
    fn select_lt(a: Self, b: Self, x: Self, y: Self) -> Self;
    /// `p * 2^t` (integral `t`, overflowing to infinity), 0 where `y < EXP_MIN`.
    fn exp_scale(p: Self, t: Self, y: Self) -> Self;
    /// `p * 2^t` (integral `t` at most that of the largest number), 0 where `t < EXP2_MIN`.
    fn exp2_scale(p: Self, t: Self) -> Self;
    /// Sum of the lanes.
    fn sum(self) -> Self::T;
    /// Largest lane.
    fn max_lane(self) -> Self::T;
    /// Writes the transpose of an `N x N` square whose rows are `ld` apart to one whose rows are `ld_to` apart.
    /// # Safety
    /// `from` must be readable and `to` writable for `N` rows of `N` elements.
    #[inline(always)]
    unsafe fn transpose(from: *const Self::T, ld: usize, to: *mut Self::T, ld_to: usize) {
        for i in 0..Self::N {
            for j in 0..Self::N {
                // SAFETY: by contract.
                unsafe { *to.add(i * ld_to + j) = *from.add(j * ld + i) };
            }
        }
    }
}

/// Work that is compiled once per instruction set.
pub trait Kernel<T: Element> {
    type Output;
    /// Must be `#[inline(always)]`, so that it takes on the target features of its caller.
    fn run<V: Lanes<T = T>>(self) -> Self::Output;
}

/// Runs a kernel with the registers of a level.
pub trait Dispatch: Element {
    fn dispatch<K: Kernel<Self>>(level: SimdLevel, kernel: K) -> K::Output;
}

macro_rules! dispatch {
    ($t:ty, $portable:ty, $avx2:ident, $avx512:ident) => {
        impl Dispatch for $t {
            #[inline]
            fn dispatch<K: Kernel<$t>>(level: SimdLevel, kernel: K) -> K::Output {
                #[cfg(target_arch = "x86_64")]
                {
                    use super::x86;
                    // A level above what the processor has would be undefined behaviour, so it is
                    // capped here and not by trust in the caller (the query is a cached load).
                    match level.min(SimdLevel::detect()) {
                        // SAFETY: the processor has AVX-512F, AVX2 and FMA.
                        SimdLevel::Avx512 => return unsafe { x86::$avx512(kernel) },
                        // SAFETY: the processor has AVX2 and FMA.
                        SimdLevel::Avx2 => return unsafe { x86::$avx2(kernel) },
                        SimdLevel::Scalar => {}
                    }
                }
                #[cfg(not(target_arch = "x86_64"))]
                let _ = level;
                kernel.run::<$portable>()
            }
        }
    };
}
dispatch!(f32, Portable<f32, 8>, run_avx2_f32, run_avx512_f32);
dispatch!(f64, Portable<f64, 4>, run_avx2_f64, run_avx512_f64);

/// A vector the compiler may map to the registers of its baseline.
#[derive(Clone, Copy)]
pub struct Portable<T, const N: usize>([T; N]);

macro_rules! portable {
    ($t:ty) => {
        impl<const N: usize> Portable<$t, N> {
            #[inline(always)]
            fn zip(self, other: Self, f: impl Fn($t, $t) -> $t) -> Self {
                let mut out = self;
                for i in 0..N {
                    out.0[i] = f(self.0[i], other.0[i]);
                }
                out
            }
        }
        portable!(@op $t, Add, add, +);
        portable!(@op $t, Sub, sub, -);
        portable!(@op $t, Mul, mul, *);
        portable!(@op $t, Div, div, /);

        impl<const N: usize> Lanes for Portable<$t, N> {
            type T = $t;
            const N: usize = N;
            // Each takes several of the baseline's registers.
            const REGISTERS: usize = 16;
            #[inline(always)]
            fn splat(x: $t) -> Self {
                Self([x; N])
            }
            #[inline(always)]
            unsafe fn load(p: *const $t) -> Self {
                // SAFETY: readable for N elements by contract; arrays have their element's alignment.
                Self(unsafe { p.cast::<[$t; N]>().read() })
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $t) {
                // SAFETY: writable for N elements by contract.
                unsafe { p.cast::<[$t; N]>().write(self.0) }
            }
            #[inline(always)]
            unsafe fn load_first(p: *const $t, n: usize, fill: $t) -> Self {
                let mut out = [fill; N];
                for (i, o) in out.iter_mut().enumerate().take(n) {
                    // SAFETY: i < n, readable by contract.
                    *o = unsafe { *p.add(i) };
                }
                Self(out)
            }
            #[inline(always)]
            unsafe fn store_first(self, p: *mut $t, n: usize) {
                for (i, &x) in self.0.iter().enumerate().take(n) {
                    // SAFETY: i < n, writable by contract.
                    unsafe { *p.add(i) = x };
                }
            }
            #[inline(always)]
            fn mul_add(self, b: Self, c: Self) -> Self {
                // Without FMA hardware the fused form is a slow library call.
                if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
                    let mut out = c;
                    for i in 0..N {
                        out.0[i] = self.0[i].mul_add(b.0[i], c.0[i]);
                    }
                    out
                } else {
                    self * b + c
                }
            }
            #[inline(always)]
            fn neg_mul_add(self, b: Self, c: Self) -> Self {
                (Self::splat(0.0) - self).mul_add(b, c)
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                self.zip(other, |a, b| if a > b { a } else { b })
            }
            #[inline(always)]
            fn min(self, other: Self) -> Self {
                self.zip(other, |a, b| if a < b { a } else { b })
            }
            #[inline(always)]
            fn abs(self) -> Self {
                self.zip(self, |a, _| a.abs())
            }
            #[inline(always)]
            fn round(self) -> Self {
                self.zip(self, |a, _| (a + <$t>::ROUNDER) - <$t>::ROUNDER)
            }
            #[inline(always)]
            fn select_lt(a: Self, b: Self, x: Self, y: Self) -> Self {
                let mut out = y;
                for i in 0..N {
                    out.0[i] = if a.0[i] < b.0[i] { x.0[i] } else { y.0[i] };
                }
                out
            }
            #[inline(always)]
            fn exp_scale(p: Self, t: Self, y: Self) -> Self {
                // In two steps: 2^t itself may be out of range where the result is not.
                let half = (t * Self::splat(0.5)).round();
                let rest = t - half;
                let low = half.zip(half, |t, _| <$t>::pow2(t));
                let high = rest.zip(rest, |t, _| <$t>::pow2(t));
                let scaled = (p * low) * high;
                Self::select_lt(y, Self::splat(<$t>::EXP_MIN), Self::splat(0.0), scaled)
            }
            #[inline(always)]
            fn exp2_scale(p: Self, t: Self) -> Self {
                let smallest = Self::splat(<$t>::EXP2_MIN);
                // The larger of two where one is NaN is the other: masked entries scale by a normal power, and vanish below.
                let power = t.max(smallest).zip(t, |t, _| <$t>::pow2(t));
                Self::select_lt(t, smallest, Self::splat(0.0), p * power)
            }
            #[inline(always)]
            fn sum(self) -> $t {
                self.0.iter().sum()
            }
            #[inline(always)]
            fn max_lane(self) -> $t {
                self.0.iter().fold(<$t>::NEG_INFINITY, |m, &x| if x > m { x } else { m })
            }
        }
    };
    (@op $t:ty, $trait:ident, $method:ident, $op:tt) => {
        impl<const N: usize> $trait for Portable<$t, N> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                self.zip(other, |a, b| a $op b)
            }
        }
    };
}
portable!(f32);
portable!(f64);
