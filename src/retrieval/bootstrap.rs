//! Confidence intervals of means by resampling queries.

use crate::backend::Backend;
use crate::error::{Error, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Resamples that are drawn between two looks at whether to stop.
const WAVE: usize = 64;

/// Percentile intervals of resampled means. Queries are drawn with replacement; one draw serves all figures of a set
/// (and, with equal seeds, of every other set of as many queries), so that differences are paired by query.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// How many times all queries are drawn; at least 40.
    pub resamples: usize,
    /// Probability that an interval covers, in (0, 1).
    pub level: f64,
    /// Equal seeds give equal intervals, whatever the threads.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, level: 0.95, seed: 0 }
    }
}

impl Bootstrap {
    /// # Errors
    /// [`Error::InvalidArgument`] for values out of range.
    pub fn validate(&self) -> Result<()> {
        if self.resamples < 40 {
            return Err(Error::invalid("resamples", "at least 40", self.resamples));
        }
        if !(self.level > 0.0 && self.level < 1.0) {
            return Err(Error::invalid("level", "a probability in (0, 1)", self.level));
        }
        Ok(())
    }

    /// The interval of the mean of each of `values` over queries: query `i` has `values[..][of[i]]`.
    pub(super) fn means<B: Backend>(
        &self,
        backend: &B,
        of: &[u32],
        values: &[Vec<f64>],
    ) -> Result<Vec<[f64; 2]>> {
        let means = self.resampled(backend, of, values)?;
        Ok(means.into_iter().map(|all| self.interval(all)).collect())
    }

    /// The same means of every resample.
    pub(super) fn resampled<B: Backend>(
        &self,
        backend: &B,
        of: &[u32],
        values: &[Vec<f64>],
    ) -> Result<Vec<Vec<f64>>> {
        self.validate()?;
        let (n, kinds) = (of.len() as u32, values.first().map_or(0, Vec::len));
        let resample = |stream: &u64| -> Vec<f64> {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(*stream);
            let mut counts = vec![0u32; kinds];
            (0..n).for_each(|_| counts[of[rng.random_range(0..n) as usize] as usize] += 1);
            let mean = |values: &Vec<f64>| {
                let sum: f64 = values.iter().zip(&counts).map(|(v, &c)| v * f64::from(c)).sum();
                sum / f64::from(n)
            };
            values.iter().map(mean).collect()
        };
        let streams: Vec<u64> = (0..self.resamples as u64).collect();
        let mut means: Vec<Vec<f64>> = vec![Vec::with_capacity(self.resamples); values.len()];
        for streams in streams.chunks(WAVE) {
            if backend.control().is_cancelled() {
                return Err(Error::Cancelled);
            }
            for resampled in backend.parallel(streams, resample) {
                means.iter_mut().zip(resampled).for_each(|(all, mean)| all.push(mean));
            }
        }
        Ok(means)
    }

    /// Where the middle of the values lies.
    pub(super) fn interval(&self, mut values: Vec<f64>) -> [f64; 2] {
        values.sort_unstable_by(f64::total_cmp);
        let last = values.len() - 1;
        let tail = (0.5 * (1.0 - self.level) * last as f64).round() as usize;
        [values[tail], values[last - tail]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    #[test]
    fn intervals_are_those_of_a_proportion_and_repeat() {
        let (one, two) = (Cpu::<f32>::new(1).unwrap(), Cpu::<f32>::new(2).unwrap());
        // 300 of 1,000 queries are hits: the mean's standard deviation is sqrt(.3 * .7 / 1000) = .0145.
        let of: Vec<u32> = (0..1000).map(|i| u32::from(i % 10 < 3)).collect();
        let values = [vec![0.0, 1.0], vec![0.0, 2.0], vec![1.0, 1.0]];
        let b = Bootstrap { seed: 3, ..Bootstrap::default() };
        let got = b.means(&one, &of, &values).unwrap();
        assert_eq!(got, b.means(&two, &of, &values).unwrap());
        assert_ne!(got, Bootstrap { seed: 4, ..b }.means(&one, &of, &values).unwrap());
        let half = 1.96 * (0.3f64 * 0.7 / 1000.0).sqrt();
        // Of 1,000 resamples the ends are uncertain by some 5 % of the width.
        let [low, high] = got[0];
        assert!(
            (low - (0.3 - half)).abs() < 0.2 * half && (high - (0.3 + half)).abs() < 0.2 * half,
            "{got:?}"
        );
        // One draw for all figures.
        assert_eq!(got[1], [2.0 * low, 2.0 * high]);
        assert_eq!(got[2], [1.0, 1.0]);
        for bad in [
            Bootstrap { resamples: 3, ..b },
            Bootstrap { level: 1.0, ..b },
            Bootstrap { level: f64::NAN, ..b },
        ] {
            assert!(matches!(bad.means(&one, &of, &values), Err(Error::InvalidArgument { .. })));
        }
    }
}
