//! What cuBLAS reaches on this device: the yardstick of the passes.

use super::blas::{Operand, Stored};
use super::{Cuda, Mode};
use crate::error::{Error, Result};
use std::time::Instant;

/// Products of at least this long are timed; smaller ones measure launches.
const LONG: f64 = 5e-3;
/// Seconds that the device multiplies without a pause: what it sustains, not what it reaches before its clock falls.
const SUSTAINED: f64 = 0.5;
/// Edge of the largest product tried.
const LARGEST: usize = 8192;

impl Cuda {
    /// Operations a second that cuBLAS sustains on square products in this mode's operands, of the first size that takes long
    /// enough, or of the largest that fits.
    pub(super) fn gemm_rate(&self) -> Result<f64> {
        let (mut n, mut fits) = (512, 0);
        while fits < n {
            match self.square(n, 0.0) {
                Err(Error::OutOfMemory { .. }) if fits > 0 => n = fits,
                seconds => {
                    fits = n;
                    if seconds? <= LONG && n < LARGEST {
                        n *= 2;
                    }
                }
            }
        }
        Ok(2.0 * (n as f64).powi(3) / self.square(n, SUSTAINED)?)
    }

    /// Seconds of an `n x n x n` product of random numbers, of as many in a row as take `least` seconds.
    fn square(&self, n: usize, least: f64) -> Result<f64> {
        let device = &self.device;
        let what = format!("a product of {n} cubed");
        let c = device.alloc::<f32>(n * n, &what)?;
        let to = Operand::f32(c.view(), n);
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        let values: Vec<f32> = (0..n * n).map(|_| next()).collect();
        let (wide, narrow);
        let operand = match self.mode {
            Mode::Fp32 => {
                wide = device.upload(&values, &what)?;
                Operand::f32(wide.view(), n)
            }
            mode => {
                let f16 = mode == Mode::Fp16;
                let bits = |v: &f32| {
                    if f16 { half::f16::from_f32(*v).to_bits() } else { half::bf16::from_f32(*v).to_bits() }
                };
                let bits: Vec<u16> = values.iter().map(bits).collect();
                narrow = device.upload(&bits, &what)?;
                Operand::narrow(narrow.view(), n, if f16 { Stored::F16 } else { Stored::Bf16 })
            }
        };
        let time = |count: usize| -> Result<f64> {
            self.synchronize()?;
            let begin = Instant::now();
            for _ in 0..count {
                device.blas.multiply((n, n, n), operand, operand.t(), false, to)?;
            }
            self.synchronize()?;
            Ok(begin.elapsed().as_secs_f64() / count as f64)
        };
        // The first run also loads cuBLAS's kernels.
        time(1)?;
        let once = time(1)?;
        if once >= least { Ok(once) } else { time((least / once) as usize + 1) }
    }
}
