//! Screening of features before any work is spent on them.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::source::panel_rows;
use super::{Digest, HostFloat, RowSource};
use crate::error::{Error, Result};
use bytemuck::Zeroable;

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
    Ok(FeatureReport { rows, cols, zero_rows: check_range::<T>(source, 0..rows, None)? })
}

/// The rows with a value that is NaN, infinite or beyond the range of `f32`, ascending: those that
/// [`check_finite`] objects to. Reads everything once, in parallel.
///
/// # Errors
/// Errors of reading.
pub fn bad_rows(source: &dyn RowSource) -> Result<Vec<usize>> {
    bad_rows_of::<f32>(source, 0..source.rows())
}

/// What [`check_rows`] and [`check_digests`] find.
pub(crate) struct Screened {
    pub(crate) zero_rows: usize,
    /// Of every row, in order.
    pub(crate) digests: Vec<Digest>,
}

/// As [`check_finite`], of some rows; returns how many of them are zero.
pub(crate) fn check_rows(source: &dyn RowSource, rows: Range<usize>) -> Result<usize> {
    check_range::<f32>(source, rows, None)
}

/// As [`check_rows`], with a digest of every row from the same pass.
pub(crate) fn check_digests(source: &dyn RowSource, rows: Range<usize>) -> Result<Screened> {
    let mut digests = vec![Digest::zeroed(); rows.len()];
    let zero_rows = check_range::<f32>(source, rows, Some(&mut digests))?;
    Ok(Screened { zero_rows, digests })
}

fn check_range<T: HostFloat>(
    source: &dyn RowSource,
    rows: Range<usize>,
    digests: Option<&mut [Digest]>,
) -> Result<usize> {
    let cols = source.cols();
    if cols == 0 || rows.is_empty() {
        return Ok(rows.len());
    }
    let step = panel_rows::<T>(cols);
    // Without digests a place of length 0 for each panel.
    let (wanted, places) = match digests {
        Some(digests) => (true, digests),
        None => (false, &mut [][..]),
    };
    let mut places: Vec<&mut [Digest]> = places.chunks_mut(step).collect();
    places.resize_with(rows.len().div_ceil(step), Default::default);
    let zero_rows = AtomicU64::new(0);
    let panels = places.into_par_iter().enumerate();
    let first_fault = panels.map_init(Vec::new, |panel, (p, place)| {
        let start = rows.start + p * step;
        panel.resize(step.min(rows.end - start) * cols, T::default());
        T::read_rows(source, start, panel)?;
        let mut zeros = 0;
        for (i, row) in panel.chunks_exact(cols).enumerate() {
            if !row.iter().fold(true, |ok, v| ok & v.is_finite()) {
                return Err((start + i, row.iter().position(|v| !v.is_finite()).unwrap_or(0)).into());
            }
            zeros += u64::from(row.iter().all(|v| *v == T::default()));
        }
        if wanted {
            panel.iter_mut().for_each(|v| *v = v.without_sign_of_zero());
            place.iter_mut().zip(panel.chunks_exact(cols)).for_each(|(d, row)| *d = Digest::of(row));
        }
        zero_rows.fetch_add(zeros, Ordering::Relaxed);
        Ok(())
    });
    match first_fault.find_first(|panel| panel.is_err()) {
        Some(Err(Fault::At(row, column))) => Err(fault::<T>(source, rows, row, column)),
        Some(Err(Fault::Unread(e))) => Err(e),
        _ => Ok(zero_rows.into_inner() as usize),
    }
}

/// Why a panel did not pass.
enum Fault {
    /// A value that is not finite, at this row and column.
    At(usize, usize),
    Unread(Error),
}

impl From<(usize, usize)> for Fault {
    fn from((row, column): (usize, usize)) -> Self {
        Self::At(row, column)
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Self::Unread(e)
    }
}

fn bad_rows_of<T: HostFloat>(source: &dyn RowSource, rows: Range<usize>) -> Result<Vec<usize>> {
    let cols = source.cols();
    if cols == 0 || rows.is_empty() {
        return Ok(Vec::new());
    }
    let step = panel_rows::<T>(cols);
    let panels = (0..rows.len().div_ceil(step)).into_par_iter().map_init(Vec::new, |panel, p| {
        let start = rows.start + p * step;
        panel.resize(step.min(rows.end - start) * cols, T::default());
        T::read_rows(source, start, panel)?;
        let bad = panel.chunks_exact(cols).enumerate().filter(|(_, row)| !row.iter().all(|v| v.is_finite()));
        Ok(bad.map(|(i, _)| start + i).collect::<Vec<usize>>())
    });
    Ok(panels.collect::<Result<Vec<_>>>()?.concat())
}

/// The error about a value that is not finite, the first of a source's `rows`: where it is, in the matrix and in its file,
/// how many others there are, and what can be done.
fn fault<T: HostFloat>(source: &dyn RowSource, rows: Range<usize>, i: usize, j: usize) -> Error {
    let mut stored = vec![0f64; source.cols()];
    // Reading the row again as f64 tells a stored infinity from a value that only the narrower type cannot hold.
    let stored = match source.read_rows_f64(i, &mut stored) {
        Ok(()) => stored.get(j).copied().unwrap_or(f64::NAN),
        Err(e) => return e,
    };
    let bad = match bad_rows_of::<T>(source, rows.clone()) {
        Ok(bad) => bad,
        Err(e) => return e,
    };
    let range = if stored.is_finite() { " (beyond the range of float32)" } else { "" };
    let mut got = format!("{stored:e}{range} at row {i}, column {j}");
    let mut many = match bad.len() {
        1 => format!("1 row of {} is not finite", rows.len()),
        n => format!("{n} rows of {} are not finite", rows.len()),
    };
    if let Some(part) = source.part(i) {
        got += &format!(" (row {} of {})", part.row, part.name);
        let mut parts: Vec<usize> = bad.iter().filter_map(|&i| source.part(i)).map(|p| p.index).collect();
        parts.dedup();
        many += &format!(", in {} of {} files", parts.len(), part.of);
    }
    Error::invalid(
        source.name(),
        "finite values",
        format!("{got}; {many}: mend or drop them (--drop-bad-rows)"),
    )
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
            let expected = "x: expected finite values, got NaN at row 3000, column 5; 3 rows of 5000 are not finite: \
                            mend or drop them (--drop-bad-rows)";
            assert_eq!(text, expected);
        }
        assert_eq!(bad_rows(&bad).unwrap(), [3000, 3001, 4998]);
        assert!(bad_rows(&good).unwrap().is_empty());
    }

    #[test]
    fn range_depends_on_the_type_used() {
        let wide = HostMatrix::from_f64("y", 2, 2, vec![1.0, 2.0, -1e300, 0.0]).unwrap();
        assert!(check_finite_as::<f64>(&wide).is_ok());
        let text = check_finite(&wide).unwrap_err().to_string();
        let expected =
            "y: expected finite values, got -1e300 (beyond the range of float32) at row 1, column 0; ";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn empty_matrices_pass() {
        let none = HostMatrix::from_f32("x", 0, 3, vec![]).unwrap();
        assert_eq!(check_finite(&none).unwrap(), FeatureReport { rows: 0, cols: 3, zero_rows: 0 });
    }
}
