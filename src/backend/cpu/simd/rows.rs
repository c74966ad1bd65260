//! Row normalisation and widening of half-precision features.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::io::{exponent, times_power};

use super::SimdLevel;
use super::lanes::{Dispatch, Element, Kernel, Lanes};

pub fn normalize_rows<T: Dispatch>(level: SimdLevel, z: &mut [T], r: usize, norms: &mut [T]) {
    assert_eq!(z.len(), norms.len() * r, "norms must have one entry per row of {r} elements");
    if r == 0 {
        norms.fill(T::ZERO);
        return;
    }
    T::dispatch(level, Normalize { z, r, norms });
}

struct Normalize<'a, T> {
    z: &'a mut [T],
    r: usize,
    norms: &'a mut [T],
}

impl<T: Element> Kernel<T> for Normalize<'_, T> {
    type Output = ();
    // Plain loops: they only have to be compiled for the level, the compiler vectorises them.
    #[inline(always)]
    fn run<V: Lanes<T = T>>(self) {
        for (row, norm) in self.z.chunks_exact_mut(self.r).zip(self.norms) {
            let mut length = sum_of_squares(row).sqrt();
            // Squares of float64 values may leave its range where the values do not.
            let mut shift = 0;
            if !(1e-140..1e140).contains(&length) {
                shift = bring_into_range(row);
                length = sum_of_squares(row).sqrt();
            }
            let inverse = if length > 0.0 { 1.0 / length } else { length };
            for x in row {
                *x = T::from_f64(x.to_f64() * inverse);
            }
            *norm = T::from_f64(times_power(length, shift));
        }
    }
}

/// Divides a row by the power of two of its largest element, and returns that power.
#[cold]
fn bring_into_range<T: Element>(row: &mut [T]) -> i32 {
    let top = row.iter().fold(0.0, |top: f64, x| top.max(x.to_f64().abs()));
    let Some(e) = exponent(top).filter(|_| top.is_finite()) else { return 0 };
    row.iter_mut().for_each(|x| *x = T::from_f64(times_power(x.to_f64(), -e)));
    e
}

/// In `f64`, with partial sums so that the additions do not wait for each other.
#[inline(always)]
fn sum_of_squares<T: Element>(row: &[T]) -> f64 {
    let mut partial = [0.0f64; 16];
    let blocks = row.chunks_exact(16);
    let mut sum: f64 = blocks.remainder().iter().map(|x| x.to_f64() * x.to_f64()).sum();
    for block in blocks {
        for (p, x) in partial.iter_mut().zip(block) {
            *p += x.to_f64() * x.to_f64();
        }
    }
    sum += partial.iter().sum::<f64>();
    sum
}

/// Converts IEEE half precision to `f32`, exactly. Slices must have equal lengths.
pub fn widen_f16(from: &[f16], to: &mut [f32]) {
    from.convert_to_f32_slice(to);
}

/// Converts bfloat16 to `f32`, exactly. Slices must have equal lengths.
pub fn widen_bf16(from: &[bf16], to: &mut [f32]) {
    from.convert_to_f32_slice(to);
}
