//! The mean of a matrix's rows, and how it compares with their spread.

use super::condition::{power, times_power};
use super::{Conditioned, Conditioning, RowSource};
use crate::error::Result;
use rayon::prelude::*;
use std::ops::Range;

/// Rows whose sums 64-bit integers hold.
const BLOCK: usize = 256;
/// Bits of a value below the largest one.
const BITS: i32 = 53;

/// The mean of all rows, and how far it lies from 0 as a multiple of their spread about it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Center {
    pub(crate) mean: Vec<f64>,
    /// `|mean| / sqrt(mean |x - mean|^2)`; infinite where all rows are equal, 0 where they are 0.
    pub(crate) ratio: f64,
}

/// Sums over rows `2^-top x_i` of every column, then that of their squares, as integers of 128 bits in pairs of words:
/// exact, so that they depend neither on the number of threads nor on that of ranks. `top` is the exponent of the
/// largest value.
pub(crate) fn column_sums(source: &dyn RowSource, rows: Range<usize>, top: i32) -> Result<Vec<u64>> {
    let cols = source.cols();
    let how = Conditioning { exponent: -(top + 1), ..Conditioning::default() };
    let source = Conditioned::new(source, how);
    let unit = power(BITS);
    let add = |mut a: Vec<i128>, b: Vec<i128>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    let panels =
        (0..rows.len().div_ceil(BLOCK)).into_par_iter().map_init(Vec::new, |panel: &mut Vec<f64>, p| {
            let start = rows.start + p * BLOCK;
            panel.resize(BLOCK.min(rows.end - start) * cols, 0.0);
            source.read_rows_f64(start, panel)?;
            let mut sums = vec![0i64; cols];
            let mut squares = 0i128;
            for row in panel.chunks_exact(cols.max(1)) {
                let mut square = 0.0;
                for (sum, v) in sums.iter_mut().zip(row) {
                    *sum += (v * unit) as i64;
                    square += v * v;
                }
                squares += (square * unit) as i128;
            }
            Ok(sums.into_iter().map(i128::from).chain([squares]).collect())
        });
    let sums = crate::threads::run(|| panels.try_reduce(|| vec![0i128; cols + 1], |a, b| Ok(add(a, b))))?;
    Ok(sums.into_iter().flat_map(|v| [v as u64, (v >> 64) as u64]).collect())
}

impl Center {
    /// From the [`column_sums`] of all `rows` by several ranks.
    pub(crate) fn new(parts: &[Vec<u64>], cols: usize, rows: usize, top: i32) -> Self {
        let mut sums = vec![0i128; cols + 1];
        for part in parts {
            for (sum, words) in sums.iter_mut().zip(part.chunks_exact(2)) {
                *sum += i128::from(words[1] as i64) << 64 | i128::from(words[0]);
            }
        }
        // Quotient and remainder apart, so that the mean of equal values is that value exactly.
        let n = rows.max(1) as i128;
        let mean = |sum: i128| ((sum / n) as f64 + (sum % n) as f64 / n as f64) * power(-BITS);
        let (columns, square) = (&sums[..cols], mean(sums[cols]));
        let means: Vec<f64> = columns.iter().map(|s| mean(*s)).collect();
        let length: f64 = means.iter().map(|m| m * m).sum();
        let spread = (square - length).max(0.0);
        let ratio = if length > 0.0 { (length / spread).sqrt() } else { 0.0 };
        Self { mean: means.into_iter().map(|m| times_power(m, top + 1)).collect(), ratio }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HostMatrix, survey};
    use super::*;

    fn center(values: &[f64], cols: usize, cuts: &[usize]) -> Center {
        let rows = values.len() / cols;
        let m = HostMatrix::from_f64("x", rows, cols, values.to_vec()).unwrap();
        let top = survey(&m).unwrap().range().map_or(0, |r| r.1);
        let mut ends = vec![0];
        ends.extend(cuts);
        ends.push(rows);
        let parts: Vec<_> = ends.windows(2).map(|w| column_sums(&m, w[0]..w[1], top).unwrap()).collect();
        Center::new(&parts, cols, rows, top)
    }

    #[test]
    fn means_are_those_of_float64_at_any_scale_and_cut() {
        let base: Vec<f64> =
            (0..3 * 700).map(|i| ((i * i) as f64 * 0.37).sin() + 3.0 * (i % 3) as f64).collect();
        for scale in [1.0, 1e-300, 1e300, -1e-30] {
            let values: Vec<f64> = base.iter().map(|v| v * scale).collect();
            let whole = center(&values, 3, &[]);
            assert_eq!(center(&values, 3, &[1, 1, 300, 513]), whole);
            for j in 0..3 {
                let want: f64 = base.iter().skip(j).step_by(3).sum::<f64>() / 700.0;
                assert!((whole.mean[j] / scale - want).abs() < 1e-13, "{scale} {j}");
            }
            let mean: Vec<f64> = whole.mean.iter().map(|m| m / scale).collect();
            let square = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>();
            let spread: f64 = base
                .chunks_exact(3)
                .map(|r| r.iter().zip(&mean).map(|(a, b)| (a - b).powi(2)).sum::<f64>())
                .sum::<f64>()
                / 700.0;
            assert!((whole.ratio / (square(&mean) / spread).sqrt() - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn equal_rows_are_their_mean() {
        for v in [0.1f32, 3e38, 1e-38, 30000.7] {
            let c = center(&vec![f64::from(v); 999], 1, &[4]);
            assert_eq!((c.mean, c.ratio), (vec![f64::from(v)], f64::INFINITY));
        }
        let c = center(&[0.0; 10], 2, &[]);
        assert_eq!((c.mean, c.ratio), (vec![0.0; 2], 0.0));
    }
}
