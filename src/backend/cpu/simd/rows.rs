//! Row normalisation and widening of half-precision features.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

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
            let length = sum_of_squares(row).sqrt();
            let inverse = 1.0 / length.max(1e-12);
            for x in row {
                *x = T::from_f64(x.to_f64() * inverse);
            }
            *norm = T::from_f64(length);
        }
    }
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
