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
    /// A score and the item it is of as one integer: ascending integers are falling scores, of equal ones ascending items.
    type Place: Ord + Copy + Send + Sync + std::fmt::Debug;
    /// The place of a number (not NaN).
    fn place(self, item: u32) -> Self::Place;
    /// The score and the item of a place; a zero has lost its sign.
    fn of_place(place: Self::Place) -> (Self, u32);
    /// The slice as `f32`, where that is what it is: matrix units multiply nothing else.
    fn as_f32(slice: &[Self]) -> Option<&[f32]>;
    /// The same, to be written.
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
    type Place = u64;
    #[inline]
    fn place(self, item: u32) -> u64 {
        // Adding 0 makes both zeros one. Bits of positive numbers ascend with them, those of negative ones descend.
        let bits = (self + 0.0).to_bits();
        let falling = if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits };
        u64::from(falling) << 32 | u64::from(item)
    }
    #[inline]
    fn of_place(place: u64) -> (Self, u32) {
        let falling = (place >> 32) as u32;
        let bits = if falling >> 31 == 0 { !falling & !(1 << 31) } else { falling };
        (Self::from_bits(bits), place as u32)
    }
    fn as_f32(slice: &[Self]) -> Option<&[f32]> {
        Some(slice)
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
    type Place = u128;
    #[inline]
    fn place(self, item: u32) -> u128 {
        // As that of f32.
        let bits = (self + 0.0).to_bits();
        let falling = if bits >> 63 == 0 { !(bits | 1 << 63) } else { bits };
        u128::from(falling) << 32 | u128::from(item)
    }
    #[inline]
    fn of_place(place: u128) -> (Self, u32) {
        let falling = (place >> 32) as u64;
        let bits = if falling >> 63 == 0 { !falling & !(1 << 63) } else { falling };
        (Self::from_bits(bits), place as u32)
    }
    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }
    fn as_f32_mut(_: &mut [Self]) -> Option<&mut [f32]> {
        None
    }
}
