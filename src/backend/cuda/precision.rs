//! Number formats: what a mode stores and how many products it takes.

use super::blas::Stored;

/// How similarities and weights are computed. Sums are always at least fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Embeddings and weights in fp16.
    #[default]
    Fp16,
    /// The same in bfloat16: about 8 times less exact, for values beyond fp16's range.
    Bf16,
    /// fp32 accuracy: similarities from three products of split embeddings, weights in fp32.
    Fp32,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Fp32 => "fp32",
        }
    }

    /// The 16-bit type of embeddings, and of weights where they are 16-bit.
    pub(super) fn narrow(self) -> Narrow {
        if self == Self::Bf16 { Narrow::Bf16 } else { Narrow::F16 }
    }

    /// Products of halves of embeddings that make a similarity, for embeddings of this depth. Rounding them moves a
    /// similarity by about `2^-11 / sqrt(r)`, most for small `r`, where three products cost little: exponentials are then
    /// what takes the time.
    pub(super) fn products(self, depth: usize) -> usize {
        if self == Self::Fp32 || depth <= 48 { 3 } else { 1 }
    }
}

/// A 16-bit number type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Narrow {
    F16,
    Bf16,
}

impl Narrow {
    /// The kernel of this type.
    pub(super) fn pick(self, f16: &'static str, bf16: &'static str) -> &'static str {
        if self == Self::F16 { f16 } else { bf16 }
    }

    pub(super) fn stored(self) -> Stored {
        if self == Self::F16 { Stored::F16 } else { Stored::Bf16 }
    }

    pub(super) fn of(self, value: f32) -> u16 {
        match self {
            Self::F16 => half::f16::from_f32(value).to_bits(),
            Self::Bf16 => half::bf16::from_f32(value).to_bits(),
        }
    }

    pub(super) fn to_f32(self, bits: u16) -> f32 {
        match self {
            Self::F16 => half::f16::from_bits(bits).to_f32(),
            Self::Bf16 => half::bf16::from_bits(bits).to_f32(),
        }
    }
}
