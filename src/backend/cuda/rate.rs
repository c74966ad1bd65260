//! What cuBLAS reaches on this device: the yardstick of the passes.

use super::blas::{Operand, Stored};
use super::{Cuda, Mode};
use crate::error::{Error, Result};
use std::time::Instant;

/// Products of at least this long are timed; smaller ones measure launches.
const LONG: f64 = 5e-3;
/// Edge of the largest product tried.
const LARGEST: usize = 8192;

impl Cuda {
    /// Operations a second of cuBLAS's square product in this mode's operands: the fastest of five of the first size that
    /// takes long enough, or of the largest that fits.
    pub(super) fn gemm_rate(&self) -> Result<f64> {
        let mut best = 0.0;
        let mut n = 512;
        loop {
            let seconds = match self.square(n) {
                Err(Error::OutOfMemory { .. }) if best > 0.0 => return Ok(best),
                other => other?,
            };
            best = 2.0 * (n as f64).powi(3) / seconds;
            if seconds > LONG || n == LARGEST {
                return Ok(best);
            }
            n *= 2;
        }
    }

    /// Seconds of an `n x n x n` product of random numbers.
    fn square(&self, n: usize) -> Result<f64> {
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
        let mut best = f64::INFINITY;
        for _ in 0..6 {
            // The first run also loads cuBLAS's kernels and is never the fastest.
            self.synchronize()?;
            let begin = Instant::now();
            device.multiply((n, n, n), operand, operand.t(), false, to)?;
            self.synchronize()?;
            best = best.min(begin.elapsed().as_secs_f64());
        }
        Ok(best)
    }
}
