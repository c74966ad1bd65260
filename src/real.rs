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
}

impl Real for f32 {
    const NAME: &'static str = "f32";
    const EPSILON: f64 = f32::EPSILON as f64;
    fn of(value: f64) -> Self {
        value as f32
    }
    fn as_f64(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    const NAME: &'static str = "f64";
    const EPSILON: f64 = f64::EPSILON;
    fn of(value: f64) -> Self {
        value
    }
    fn as_f64(self) -> f64 {
        self
    }
}
