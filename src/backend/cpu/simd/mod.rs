//! Vectorised micro-kernels of the CPU backend, chosen at run time.
//!
//! The dense part of S(gamma) is elementwise work on a tile of similarities that a matrix product
//! has just written, so its cost shows only if it is far below the product's. Every kernel here is
//! written once over an abstract vector register and compiled three times: for AVX-512, for AVX2 with FMA and
//! for whatever the compiler's baseline offers. [`level`] picks among them.
//!
//! Conventions shared by all kernels:
//! * a tile is row-major with leading dimension `ld >= cols`, any `rows` and `cols`;
//! * a similarity of `-inf` means "this pair is not there" (a positive, masked out of the dense
//!   tile) and contributes exactly 0 to every sum and weight;
//! * the exponential is within 2 ulp, and results below the smallest normal number are 0;
//! * slices that are too short for the stated shape are a caller's bug and panic.

mod additive;
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
pub(crate) mod clip;
mod dots;
mod elementary;
pub mod halves;
mod lanes;
pub mod product;
mod rows;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::sync::OnceLock;

pub use additive::AdditiveKind;
use halves::Engine;
use lanes::Dispatch;
pub use rows::{widen_bf16, widen_f16};

/// Instruction sets the kernels are compiled for, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimdLevel {
    /// The compiler's baseline for the target (SSE2 on x86-64, NEON on AArch64).
    Scalar,
    /// AVX2 and FMA: 256-bit registers.
    Avx2,
    /// AVX-512F: 512-bit registers and masks.
    Avx512,
}

impl SimdLevel {
    /// The name that `UNICON_SIMD` takes and `unicon info` prints.
    pub fn name(self) -> &'static str {
        match self {
            SimdLevel::Scalar => "scalar",
            SimdLevel::Avx2 => "avx2",
            SimdLevel::Avx512 => "avx512",
        }
    }

    /// The strongest level this processor supports.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") {
                return SimdLevel::Avx512;
            }
            if avx2 {
                return SimdLevel::Avx2;
            }
        }
        SimdLevel::Scalar
    }
}

impl fmt::Display for SimdLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The level in use: the strongest one the processor supports, or the one named by the environment
/// variable `UNICON_SIMD` (`scalar`, `avx2`, `avx512`) if that is lower. Other values of the variable
/// are ignored here. Read once.
pub fn level() -> SimdLevel {
    static LEVEL: OnceLock<SimdLevel> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let detected = SimdLevel::detect();
        named_level().map_or(detected, |level| level.min(detected))
    })
}

/// The level that `UNICON_SIMD` names, if it does: vectors are wanted then, whatever matrix units there are.
pub fn named_level() -> Option<SimdLevel> {
    let wanted = wanted();
    [SimdLevel::Scalar, SimdLevel::Avx2, SimdLevel::Avx512]
        .into_iter()
        .find(|level| wanted.eq_ignore_ascii_case(level.name()))
}

/// The unit for products of bfloat16 halves that `UNICON_SIMD` names (`amx`, `avx512bf16`, `software`), if it does. Read once.
pub fn asked_for() -> Option<Engine> {
    static ENGINE: OnceLock<Option<Engine>> = OnceLock::new();
    *ENGINE.get_or_init(|| {
        let wanted = wanted();
        [Engine::Amx, Engine::Avx512Bf16, Engine::Software]
            .into_iter()
            .find(|engine| wanted.eq_ignore_ascii_case(engine.name()))
    })
}

fn wanted() -> String {
    std::env::var("UNICON_SIMD").unwrap_or_default()
}

/// Elementwise kernels on tiles of similarities, for `f32` and `f64`.
pub trait TileOps: Dispatch {
    /// Pass 1 of clip: with `e_ij = exp(scale * s_ij - shift)`, adds `sum_j e_ij` to `row[i]` and
    /// `sum_i e_ij` to `col[j]`. The tile itself is only read.
    ///
    /// Sums are formed in `Self`: add tiles up in `f64`.
    #[allow(clippy::too_many_arguments)]
    fn exp_sums(
        s: &[Self],
        ld: usize,
        rows: usize,
        cols: usize,
        scale: Self,
        shift: Self,
        row: &mut [Self],
        col: &mut [Self],
    ) {
        clip::exp_sums(level(), s, ld, rows, cols, scale, shift, row, col);
    }

    /// Pass 2 of clip: `s_ij <- exp(scale * s_ij - shift) * (alpha_i + beta_j)` in place.
    #[allow(clippy::too_many_arguments)]
    fn exp_weights(
        s: &mut [Self],
        ld: usize,
        rows: usize,
        cols: usize,
        scale: Self,
        shift: Self,
        alpha: &[Self],
        beta: &[Self],
    ) {
        clip::exp_weights(level(), s, ld, rows, cols, scale, shift, alpha, beta);
    }

    /// Pass 2 of clip for small temperatures, where no common shift keeps the exponential in range:
    /// `s_ij <- exp(scale * s_ij + a_i) + exp(scale * s_ij + b_j)` in place. `a_i` or `b_j` may be
    /// `-inf`: that term is then 0.
    fn exp_weights_log(
        s: &mut [Self],
        ld: usize,
        rows: usize,
        cols: usize,
        scale: Self,
        a: &[Self],
        b: &[Self],
    ) {
        clip::exp_weights_log(level(), s, ld, rows, cols, scale, a, b);
    }

    /// Pass 1 of clip for small temperatures: running maxima and rescaled sums per row and column.
    ///
    /// After any number of tiles `row_max[i] = max_j scale * s_ij` and
    /// `row_sum[i] = sum_j exp(scale * s_ij - row_max[i])`, likewise for columns, so that the
    /// logarithm of the plain sum is `row_max + ln(row_sum)`. Start from maxima of `-inf` and sums of
    /// 0. `scale` must be positive.
    #[allow(clippy::too_many_arguments)]
    fn log_sums(
        s: &[Self],
        ld: usize,
        rows: usize,
        cols: usize,
        scale: Self,
        row_max: &mut [Self],
        row_sum: &mut [f64],
        col_max: &mut [Self],
        col_sum: &mut [f64],
    ) {
        clip::log_sums(level(), s, ld, rows, cols, scale, row_max, row_sum, col_max, col_sum);
    }

    /// `(sum_j psi(s_j + offset), sum_j psi'(s_j + offset))` over one row of similarities.
    fn additive_sums(kind: AdditiveKind, s_row: &[Self], offset: Self) -> (Self, Self) {
        additive::sums(level(), kind, s_row, offset)
    }

    /// `out_j += coeff * psi'(s_j + offset)` over one row of similarities.
    fn additive_weights(kind: AdditiveKind, s_row: &[Self], offset: Self, coeff: Self, out_row: &mut [Self]) {
        additive::weights(level(), kind, s_row, offset, coeff, out_row);
    }

    /// The transposed form of [`TileOps::additive_sums`]: adds `sum_i psi(s_ij + offsets[j])` to
    /// `psi_col[j]` and `sum_i psi'(s_ij + offsets[j])` to `dpsi_col[j]`.
    #[allow(clippy::too_many_arguments)]
    fn additive_col_sums(
        kind: AdditiveKind,
        s: &[Self],
        ld: usize,
        rows: usize,
        cols: usize,
        offsets: &[Self],
        psi_col: &mut [Self],
        dpsi_col: &mut [Self],
    ) {
        additive::col_sums(level(), kind, s, ld, rows, cols, offsets, psi_col, dpsi_col);
    }

    /// The transposed form of [`TileOps::additive_weights`]:
    /// `out_ij += coeff[j] * psi'(s_ij + offsets[j])`; `out` has leading dimension `ld_out`.
    #[allow(clippy::too_many_arguments)]
    fn additive_col_weights(
        kind: AdditiveKind,
        s: &[Self],
        ld: usize,
        rows: usize,
        cols: usize,
        offsets: &[Self],
        coeff: &[Self],
        out: &mut [Self],
        ld_out: usize,
    ) {
        additive::col_weights(level(), kind, s, ld, rows, cols, offsets, coeff, out, ld_out);
    }

    /// Scales every row of the contiguous `n x r` matrix `z` to unit length, `x / |x|`,
    /// and writes `|x|` to `norms` (`n` entries). Lengths are accumulated in `f64`; a row of zeros
    /// stays zero.
    fn normalize_rows(z: &mut [Self], r: usize, norms: &mut [Self]) {
        rows::normalize_rows(level(), z, r, norms);
    }

    /// `out[j] <- <query, row j>` of contiguous rows as long as `query`. Equal rows give equal results wherever they
    /// stand.
    fn dots(query: &[Self], rows: &[Self], out: &mut [Self]) {
        dots::dots(level(), query, rows, out);
    }
}

impl TileOps for f32 {}
impl TileOps for f64 {}
