//! Screening of features before any work is spent on them.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::source::panel_rows;
use super::{HostFloat, RowSource};
use crate::error::{Error, Result};

/// What a matrix is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureReport {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Rows that are all zero; they have no direction, so that nothing can be aligned with them.
    pub zero_rows: usize,
}

/// Checks that every value of the matrix is finite as `f32` and counts its zero rows. Reads everything once, in parallel.
///
/// # Errors
/// [`Error::InvalidArgument`] naming the matrix, row and column of the first value that is NaN, infinite or beyond the
/// range of `f32`; errors of reading.
pub fn check_finite(source: &dyn RowSource) -> Result<FeatureReport> {
    match source.examine() {
        Some(report) => report,
        None => check_finite_as::<f32>(source),
    }
}

/// As [`check_finite`], for values that will be used as `T`.
///
/// # Errors
/// As [`check_finite`].
pub fn check_finite_as<T: HostFloat>(source: &dyn RowSource) -> Result<FeatureReport> {
    let (rows, cols) = (source.rows(), source.cols());
    Ok(FeatureReport { rows, cols, zero_rows: check_range::<T>(source, 0..rows)? })
}

/// As [`check_finite`], of some rows; returns how many of them are zero.
pub(crate) fn check_rows(source: &dyn RowSource, rows: Range<usize>) -> Result<usize> {
    check_range::<f32>(source, rows)
}

fn check_range<T: HostFloat>(source: &dyn RowSource, rows: Range<usize>) -> Result<usize> {
    let cols = source.cols();
    if cols == 0 {
        return Ok(rows.len());
    }
    let step = panel_rows::<T>(cols);
    let zero_rows = AtomicU64::new(0);
    let first_fault = (0..rows.len().div_ceil(step)).into_par_iter().map_init(Vec::new, |panel, p| {
        let start = rows.start + p * step;
        panel.resize(step.min(rows.end - start) * cols, T::default());
        T::read_rows(source, start, panel)?;
        let mut zeros = 0;
        for (i, row) in panel.chunks_exact(cols).enumerate() {
            if !row.iter().fold(true, |ok, v| ok & v.is_finite()) {
                return Err(fault(source, start + i, row));
            }
            zeros += u64::from(row.iter().all(|v| *v == T::default()));
        }
        zero_rows.fetch_add(zeros, Ordering::Relaxed);
        Ok(())
    });
    match first_fault.find_first(|panel| panel.is_err()) {
        Some(Err(e)) => Err(e),
        _ => Ok(zero_rows.into_inner() as usize),
    }
}

/// The error about a row that has a non-finite value.
fn fault<T: HostFloat>(source: &dyn RowSource, i: usize, row: &[T]) -> Error {
    let j = row.iter().position(|v| !v.is_finite()).unwrap_or(0);
    let mut stored = vec![0f64; row.len()];
    // Reading the row again as f64 tells a stored infinity from a value that only the narrower type cannot hold.
    let stored = match source.read_rows_f64(i, &mut stored) {
        Ok(()) => stored.get(j).copied().unwrap_or(f64::NAN),
        Err(e) => return e,
    };
    let range = if stored.is_finite() { " (beyond the range of float32)" } else { "" };
    Error::invalid(source.name(), "finite values", format!("{stored:e}{range} at row {i}, column {j}"))
}

#[cfg(test)]
mod tests {
    use super::super::HostMatrix;
    use super::*;

    #[test]
    fn the_first_fault_is_named_and_zero_rows_are_counted() {
        let (rows, cols) = (5000, 301);
        let mut values = vec![1f32; rows * cols];
        for i in [0, 17, 4999] {
            values[i * cols..(i + 1) * cols].fill(0.0);
        }
        values[18 * cols] = 0.0;
        let good = HostMatrix::from_f32("x", rows, cols, values.clone()).unwrap();
        assert_eq!(check_finite(&good).unwrap(), FeatureReport { rows, cols, zero_rows: 3 });
        for i in [4998, 3001, 3000] {
            values[i * cols + 5] = f32::NAN;
        }
        values[3000 * cols + 300] = f32::INFINITY;
        let bad = HostMatrix::from_f32("x", rows, cols, values).unwrap();
        for _ in 0..5 {
            let text = check_finite(&bad).unwrap_err().to_string();
            assert_eq!(text, "x: expected finite values, got NaN at row 3000, column 5");
        }
    }

    #[test]
    fn range_depends_on_the_type_used() {
        let wide = HostMatrix::from_f64("y", 2, 2, vec![1.0, 2.0, -1e300, 0.0]).unwrap();
        assert!(check_finite_as::<f64>(&wide).is_ok());
        let text = check_finite(&wide).unwrap_err().to_string();
        assert_eq!(
            text,
            "y: expected finite values, got -1e300 (beyond the range of float32) at row 1, column 0"
        );
    }

    #[test]
    fn empty_matrices_pass() {
        let none = HostMatrix::from_f32("x", 0, 3, vec![]).unwrap();
        assert_eq!(check_finite(&none).unwrap(), FeatureReport { rows: 0, cols: 3, zero_rows: 0 });
    }
}
