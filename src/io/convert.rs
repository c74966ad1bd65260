//! Widening stored elements to the float type the solver works in.

use bytemuck::{Pod, cast_slice_mut, pod_read_unaligned, try_cast_slice};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::{Dtype, RowSource};
use crate::error::Result;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// The float types rows can be read as: `f32` and `f64`.
///
/// Integers convert exactly as long as the float has the digits (24 bits in `f32`, 53 in `f64`), otherwise to the
/// nearest float; booleans become 0 and 1; float64 read as `f32` rounds to nearest and overflows to infinity.
pub trait HostFloat: Pod + Default + PartialOrd + Send + Sync + sealed::Sealed {
    /// This type, stored.
    const DTYPE: Dtype;

    /// Reads `out.len() / source.cols()` rows from row `start`, row-major, in this type.
    fn read_rows(source: &dyn RowSource, start: usize, out: &mut [Self]) -> Result<()>;

    /// Widens `out.len()` consecutive elements of type `dtype`; `bytes` holds exactly those.
    fn convert(dtype: Dtype, bytes: &[u8], out: &mut [Self]);

    /// Whether the value is neither NaN nor infinite.
    fn is_finite(self) -> bool;

    /// The value; 0 where it is -0.
    fn without_sign_of_zero(self) -> Self;

    /// The largest |value|, as this type; not finite where one is not.
    fn largest(values: &[Self]) -> Self;

    /// Whether the value is neither 0, subnormal, infinite nor NaN.
    fn is_normal(self) -> bool;

    /// Widens exactly.
    fn wide(self) -> f64;
}

/// Applies `f` to each (possibly unaligned) element of `bytes`.
fn map<S: Pod, T>(bytes: &[u8], out: &mut [T], f: impl Fn(S) -> T) {
    for (o, b) in out.iter_mut().zip(bytes.chunks_exact(size_of::<S>())) {
        *o = f(pod_read_unaligned(b));
    }
}

/// Hands `bytes` to `f` as aligned float16 runs: the slice itself where it is aligned, copies of 512 elements where not.
fn for_f16_runs<T>(bytes: &[u8], out: &mut [T], f: impl Fn(&[f16], &mut [T])) {
    if let Ok(halves) = try_cast_slice::<u8, f16>(bytes)
        && halves.len() == out.len()
    {
        return f(halves, out);
    }
    let mut run = [f16::ZERO; 512];
    for (b, o) in bytes.chunks(2 * run.len()).zip(out.chunks_mut(512)) {
        if let Some(run) = run.get_mut(..o.len()) {
            map(b, run, |h: f16| h);
            f(run, o);
        }
    }
}

macro_rules! host_float {
    ($t:ty, $same:ident, $read:ident, $from_f16:ident) => {
        impl HostFloat for $t {
            const DTYPE: Dtype = Dtype::$same;

            fn read_rows(source: &dyn RowSource, start: usize, out: &mut [Self]) -> Result<()> {
                source.$read(start, out)
            }

            fn convert(dtype: Dtype, bytes: &[u8], out: &mut [Self]) {
                match dtype {
                    Dtype::$same if bytes.len() == size_of_val(out) => {
                        cast_slice_mut::<Self, u8>(out).copy_from_slice(bytes);
                    }
                    Dtype::F64 => map(bytes, out, |v: f64| v as $t),
                    Dtype::F32 => map(bytes, out, |v: f32| v as $t),
                    Dtype::F16 => for_f16_runs(bytes, out, |h, o| h.$from_f16(o)),
                    // A bfloat16 is the upper half of a binary32, so that the shift is exact (NaN stays NaN).
                    Dtype::BF16 => {
                        map(bytes, out, |v: bf16| f32::from_bits(u32::from(v.to_bits()) << 16) as $t)
                    }
                    Dtype::U8 => map(bytes, out, |v: u8| v as $t),
                    Dtype::I8 => map(bytes, out, |v: i8| v as $t),
                    Dtype::U16 => map(bytes, out, |v: u16| v as $t),
                    Dtype::I16 => map(bytes, out, |v: i16| v as $t),
                    Dtype::U32 => map(bytes, out, |v: u32| v as $t),
                    Dtype::I32 => map(bytes, out, |v: i32| v as $t),
                    Dtype::U64 => map(bytes, out, |v: u64| v as $t),
                    Dtype::I64 => map(bytes, out, |v: i64| v as $t),
                    Dtype::Bool => map(bytes, out, |v: u8| <$t>::from(u8::from(v != 0))),
                }
            }

            fn is_finite(self) -> bool {
                <$t>::is_finite(self)
            }

            fn without_sign_of_zero(self) -> Self {
                self + 0.0
            }

            fn largest(values: &[Self]) -> Self {
                // The bits of floats without their signs are ordered as the floats are, with NaN last.
                Self::from_bits(values.iter().fold(0, |top, v| top.max(v.abs().to_bits())))
            }

            fn is_normal(self) -> bool {
                <$t>::is_normal(self)
            }

            fn wide(self) -> f64 {
                self.into()
            }
        }
    };
}

host_float!(f32, F32, read_rows, convert_to_f32_slice);
host_float!(f64, F64, read_rows_f64, convert_to_f64_slice);

#[cfg(test)]
mod tests {
    use super::*;

    fn both(dtype: Dtype, bytes: &[u8], expected: &[f64]) {
        let mut shifted = vec![0u8];
        shifted.extend_from_slice(bytes);
        for bytes in [bytes, &shifted[1..]] {
            let mut narrow = vec![0f32; expected.len()];
            let mut wide = vec![0f64; expected.len()];
            f32::convert(dtype, bytes, &mut narrow);
            f64::convert(dtype, bytes, &mut wide);
            assert_eq!(wide, expected, "{dtype}");
            let rounded: Vec<f32> = expected.iter().map(|&v| v as f32).collect();
            assert_eq!(narrow, rounded, "{dtype}");
        }
    }

    #[test]
    fn every_dtype_widens_exactly() {
        let f: Vec<f64> = (0..1201).map(|i| f64::from(i) * 0.25 - 100.0).collect();
        both(Dtype::F64, bytemuck::cast_slice(&f), &f);
        let v: Vec<f32> = f.iter().map(|&v| v as f32).collect();
        both(Dtype::F32, bytemuck::cast_slice(&v), &f);
        let v: Vec<f16> = f.iter().map(|&v| f16::from_f64(v)).collect();
        let w: Vec<f64> = v.iter().map(|v| v.to_f64()).collect();
        both(Dtype::F16, bytemuck::cast_slice(&v), &w);
        let v: Vec<bf16> = f.iter().map(|&v| bf16::from_f64(v)).collect();
        let w: Vec<f64> = v.iter().map(|v| v.to_f64()).collect();
        both(Dtype::BF16, bytemuck::cast_slice(&v), &w);
        both(Dtype::U8, &[0, 1, 255], &[0., 1., 255.]);
        both(Dtype::I8, &[0, 1, 255], &[0., 1., -1.]);
        both(Dtype::U16, bytemuck::cast_slice(&[0u16, 65535]), &[0., 65535.]);
        both(Dtype::I16, bytemuck::cast_slice(&[-3i16, i16::MIN]), &[-3., -32768.]);
        both(Dtype::U32, bytemuck::cast_slice(&[u32::MAX]), &[4294967295.]);
        both(Dtype::I32, bytemuck::cast_slice(&[i32::MIN]), &[-2147483648.]);
        both(Dtype::U64, bytemuck::cast_slice(&[1u64 << 40]), &[1099511627776.]);
        both(Dtype::I64, bytemuck::cast_slice(&[-(1i64 << 40)]), &[-1099511627776.]);
        both(Dtype::Bool, &[0, 1, 2], &[0., 1., 1.]);
    }

    #[test]
    fn nan_and_infinity_survive() {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let (nan, inf) = match dtype {
                Dtype::F16 => (f16::NAN.to_bits(), f16::NEG_INFINITY.to_bits()),
                _ => (bf16::NAN.to_bits(), bf16::NEG_INFINITY.to_bits()),
            };
            let mut out = [0f32; 2];
            f32::convert(dtype, bytemuck::cast_slice(&[nan, inf]), &mut out);
            assert!(out[0].is_nan() && out[1] == f32::NEG_INFINITY, "{dtype}: {out:?}");
        }
    }
}
