//! The number types that n-sized data is computed in.

use crate::backend::cpu::TileOps;
use crate::io::HostFloat;

/// `f32` (the default) or `f64` (the oracle).
pub trait Real: TileOps + HostFloat + Copy + Default + PartialOrd + std::fmt::Debug {
    /// "f32" or "f64".
    const NAME: &'static str;
    /// Unit roundoff times two.
    const EPSILON: f64;
    /// Rounds to this type.
    fn of(value: f64) -> Self;
    /// Widens to float64.
    fn as_f64(self) -> f64;
    /// The slice as `f32`, where that is what it is: the target of bfloat16 products.
    fn as_f32_mut(slice: &mut [Self]) -> Option<&mut [f32]>;
}

impl Real for f32 {
    const NAME: &'static str = "f32";
    const EPSILON: f64 = f32::EPSILON as f64;
    #[inline]
    fn of(value: f64) -> Self {
        value as f32
    }
    #[inline]
    fn as_f64(self) -> f64 {
        f64::from(self)
    }
    fn as_f32_mut(slice: &mut [Self]) -> Option<&mut [f32]> {
        Some(slice)
    }
}

impl Real for f64 {
    const NAME: &'static str = "f64";
    const EPSILON: f64 = f64::EPSILON;
    #[inline]
    fn of(value: f64) -> Self {
        value
    }
    #[inline]
    fn as_f64(self) -> f64 {
        self
    }
    fn as_f32_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
}
