//! Screening of features before any work is spent on them.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use super::source::panel_rows;
use super::{Digest, HostFloat, RowSource};
use crate::error::{Error, Result};
use crate::memory::filled;
use bytemuck::Zeroable;

/// The shape of a checked matrix, and its zero rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureReport {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Rows that are all zero; they have no direction, so that nothing can be aligned with them.
    pub zero_rows: usize,
}

/// What errors about features that are not finite say was expected.
pub(crate) const FINITE: &str = "finite values";

/// What one reading of a matrix finds: its zero rows, and how large the others are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Rows that are all zero.
    pub zero_rows: usize,
    /// How many rows have their largest |value| in `[2^e, 2^(e+1))`, by `e`.
    magnitudes: BTreeMap<i32, u64>,
}

impl Survey {
    /// Of a matrix none of whose rows have been seen yet.
    pub(crate) fn of_shape(rows: usize, cols: usize) -> Self {
        Self { rows, cols, ..Self::default() }
    }

    /// Counts a row whose largest |value|, which is finite, is this.
    pub(crate) fn count(&mut self, largest: f64) {
        match exponent(largest) {
            Some(e) => *self.magnitudes.entry(e).or_default() += 1,
            None => self.zero_rows += 1,
        }
    }

    /// Adds what was seen of other rows.
    fn merge(mut self, other: &Self) -> Self {
        self.zero_rows += other.zero_rows;
        for (e, count) in &other.magnitudes {
            *self.magnitudes.entry(*e).or_default() += count;
        }
        self
    }

    /// Exponents of the smallest and the largest row; none where all are zero.
    pub fn range(&self) -> Option<(i32, i32)> {
        Some((*self.magnitudes.first_key_value()?.0, *self.magnitudes.last_key_value()?.0))
    }

    /// The exponent that this share of the rows, zero rows apart, does not exceed; none where all are zero.
    pub fn quantile(&self, share: f64) -> Option<i32> {
        let total: u64 = self.magnitudes.values().sum();
        let wanted = (share * total as f64) as u64;
        let mut below = 0;
        let mut found = self.magnitudes.iter().find(|(_, count)| {
            below += **count;
            below > wanted
        });
        found = found.or(self.magnitudes.iter().next_back());
        found.map(|(e, _)| *e)
    }

    /// As numbers that ranks exchange.
    pub(crate) fn words(&self) -> Vec<u64> {
        let magnitudes = self.magnitudes.iter().flat_map(|(e, count)| [i64::from(*e) as u64, *count]);
        std::iter::once(self.zero_rows as u64).chain(magnitudes).collect()
    }

    /// Adds what a rank saw.
    pub(crate) fn with_words(self, words: &[u64]) -> Self {
        let [zero_rows, magnitudes @ ..] = words else { return self };
        let magnitudes = magnitudes.chunks_exact(2).map(|m| (m[0] as i64 as i32, m[1])).collect();
        let zero_rows = *zero_rows as usize;
        self.merge(&Self { zero_rows, magnitudes, ..Self::default() })
    }
}

/// `e` of `|v|` in `[2^e, 2^(e+1))`; none for 0.
pub(crate) fn exponent(v: f64) -> Option<i32> {
    let biased = |v: f64| ((v.to_bits() >> 52) & 0x7ff) as i32;
    match (v == 0.0, biased(v)) {
        (true, _) => None,
        // Subnormal: exactly representable after a shift.
        (false, 0) => Some(biased(v * 2f64.powi(64)) - 1023 - 64),
        (false, e) => Some(e - 1023),
    }
}

/// Checks that every value of the matrix is finite as it is stored (a float64 value may be beyond float32: what is
/// fitted or encoded is brought into range) and counts its zero rows. Reads everything once, in parallel.
///
/// # Errors
/// [`Error::InvalidArgument`] naming the matrix, row and column of the first value that is NaN or infinite, with the
/// file that holds the row where the matrix is of several; errors of reading.
pub fn check_finite(source: &dyn RowSource) -> Result<FeatureReport> {
    survey(source).map(FeatureReport::from)
}

/// As [`check_finite`], for values that will be used as `T` as they are.
///
/// # Errors
/// As [`check_finite`], also for values beyond the range of `T`.
pub fn check_finite_as<T: HostFloat>(source: &dyn RowSource) -> Result<FeatureReport> {
    check_range::<T>(source, 0..source.rows(), Allowed::InType, None).map(FeatureReport::from)
}

/// As [`check_finite`], and how large the rows are.
///
/// # Errors
/// As [`check_finite`].
pub fn survey(source: &dyn RowSource) -> Result<Survey> {
    survey_rows(source, 0..source.rows())
}

/// As [`survey`], of some rows.
pub(crate) fn survey_rows(source: &dyn RowSource, rows: Range<usize>) -> Result<Survey> {
    if rows == (0..source.rows())
        && let Some(known) = source.examine()
    {
        return known;
    }
    check_range::<f32>(source, rows, Allowed::Stored, None)
}

impl From<Survey> for FeatureReport {
    fn from(seen: Survey) -> Self {
        Self { rows: seen.rows, cols: seen.cols, zero_rows: seen.zero_rows }
    }
}

/// The rows with a value that is NaN or infinite, ascending: those that [`check_finite`] objects to. Reads everything
/// once, in parallel.
///
/// # Errors
/// Errors of reading.
pub fn bad_rows(source: &dyn RowSource) -> Result<Vec<usize>> {
    bad_rows_of::<f32>(source, 0..source.rows(), Allowed::Stored)
}

/// What [`check_digests`] finds.
pub(crate) struct Screened {
    pub(crate) seen: Survey,
    /// Of every row, in order.
    pub(crate) digests: Vec<Digest>,
}

/// As [`survey_rows`], with a digest of every row from the same pass.
pub(crate) fn check_digests(source: &dyn RowSource, rows: Range<usize>) -> Result<Screened> {
    let what = || format!("the digests of the rows of {}", source.name());
    let mut digests = filled(rows.len(), Digest::zeroed(), what)?;
    // Float64 rows are compared as float64: those with a large offset may be equal in float32 and differ by less.
    let seen = match source.is_wide() {
        true => check_range::<f64>(source, rows, Allowed::Stored, Some(&mut digests))?,
        false => check_range::<f32>(source, rows, Allowed::Stored, Some(&mut digests))?,
    };
    Ok(Screened { seen, digests })
}

/// Which values pass.
#[derive(Clone, Copy, PartialEq)]
enum Allowed {
    /// Those that are finite in the type that they are read in.
    InType,
    /// Those that are finite as they are stored: what the type cannot hold is looked at as float64.
    Stored,
}

fn check_range<T: HostFloat>(
    source: &dyn RowSource,
    rows: Range<usize>,
    allowed: Allowed,
    digests: Option<&mut [Digest]>,
) -> Result<Survey> {
    let cols = source.cols();
    let nothing = || Survey::of_shape(source.rows(), cols);
    if cols == 0 || rows.is_empty() {
        return Ok(Survey { zero_rows: rows.len(), ..nothing() });
    }
    let step = panel_rows::<T>(cols);
    // Without digests, an empty slice for each panel.
    let (wanted, places) = match digests {
        Some(digests) => (true, digests),
        None => (false, &mut [][..]),
    };
    let mut places: Vec<&mut [Digest]> = places.chunks_mut(step).collect();
    places.resize_with(rows.len().div_ceil(step), Default::default);
    let panels = places.into_par_iter().enumerate().map_init(Vec::new, |panel, (p, place)| {
        let start = rows.start + p * step;
        panel.resize(step.min(rows.end - start) * cols, T::default());
        T::read_rows(source, start, panel)?;
        let mut seen = nothing();
        // Rows with values that the type cannot hold, by their number in the panel.
        let mut wide = Vec::new();
        for (i, row) in panel.chunks_exact(cols).enumerate() {
            let largest = T::largest(row);
            if largest.is_normal() || (allowed == Allowed::InType && largest.is_finite()) {
                seen.count(largest.wide());
                continue;
            }
            let mut stored = vec![0f64; cols];
            if allowed == Allowed::Stored {
                source.read_rows_f64(start + i, &mut stored)?;
            }
            let finite = |ok: bool, v: &f64| ok & v.is_finite();
            if allowed == Allowed::InType || !stored.iter().fold(true, finite) {
                return Err((start + i, row.iter().position(|v| !v.is_finite()).unwrap_or(0)).into());
            }
            seen.count(stored.iter().fold(0.0, |top, v| v.abs().max(top)));
            if stored.iter().any(|v| *v != 0.0) {
                wide.push((i, stored));
            }
        }
        if wanted {
            panel.iter_mut().for_each(|v| *v = v.without_sign_of_zero());
            place.iter_mut().zip(panel.chunks_exact(cols)).for_each(|(d, row)| *d = Digest::of(row));
            for (i, row) in &mut wide {
                row.iter_mut().for_each(|v| *v = v.without_sign_of_zero());
                place[*i] = Digest::of(row);
            }
        }
        Ok(seen)
    });
    let seen: Vec<std::result::Result<Survey, Fault>> = crate::threads::run(|| panels.collect());
    let mut whole = nothing();
    for part in seen {
        match part {
            Ok(seen) => whole = whole.merge(&seen),
            Err(Fault::At(row, column)) => return Err(fault::<T>(source, rows, allowed, (row, column))),
            Err(Fault::Unread(e)) => return Err(e),
        }
    }
    Ok(whole)
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

fn bad_rows_of<T: HostFloat>(
    source: &dyn RowSource,
    rows: Range<usize>,
    allowed: Allowed,
) -> Result<Vec<usize>> {
    let cols = source.cols();
    if cols == 0 || rows.is_empty() {
        return Ok(Vec::new());
    }
    let step = panel_rows::<T>(cols);
    let panels = (0..rows.len().div_ceil(step)).into_par_iter().map_init(Vec::new, |panel, p| {
        let start = rows.start + p * step;
        panel.resize(step.min(rows.end - start) * cols, T::default());
        T::read_rows(source, start, panel)?;
        let suspects =
            panel.chunks_exact(cols).enumerate().filter(|(_, row)| !row.iter().all(|v| v.is_finite()));
        let mut bad = Vec::new();
        for i in suspects.map(|(i, _)| start + i) {
            let mut stored = vec![f64::NAN; cols];
            if allowed == Allowed::Stored {
                source.read_rows_f64(i, &mut stored)?;
            }
            if !stored.iter().all(|v| v.is_finite()) {
                bad.push(i);
            }
        }
        Ok(bad)
    });
    Ok(crate::threads::run(|| panels.collect::<Result<Vec<_>>>())?.concat())
}

/// The error about a value that is not finite, the first of a source's `rows`: where it is, in the matrix and in its file,
/// how many others there are, and what can be done.
fn fault<T: HostFloat>(
    source: &dyn RowSource,
    rows: Range<usize>,
    allowed: Allowed,
    (i, j): (usize, usize),
) -> Error {
    let mut row = vec![0f64; source.cols()];
    // Reading the row again as f64 tells a stored infinity from a value that only the narrower type cannot hold.
    if let Err(e) = source.read_rows_f64(i, &mut row) {
        return e;
    }
    let infinite = row.iter().position(|v| !v.is_finite());
    let j = infinite.filter(|_| allowed == Allowed::Stored).unwrap_or(j);
    let stored = row.get(j).copied().unwrap_or(f64::NAN);
    let bad = match bad_rows_of::<T>(source, rows.clone(), allowed) {
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
    let remedy = "mend them, or leave them out with their matches";
    Error::invalid(source.name(), FINITE, format!("{got}; {many}: {remedy}"))
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
                            mend them, or leave them out with their matches";
            assert_eq!(text, expected);
        }
        assert_eq!(bad_rows(&bad).unwrap(), [3000, 3001, 4998]);
        assert!(bad_rows(&good).unwrap().is_empty());
    }

    #[test]
    fn range_depends_on_the_type_used() {
        let wide = HostMatrix::from_f64("y", 3, 2, vec![1.0, 2.0, -1e300, 0.0, 0.0, 5e-324]).unwrap();
        assert!(check_finite_as::<f64>(&wide).is_ok());
        let text = check_finite_as::<f32>(&wide).unwrap_err().to_string();
        assert!(text.contains("got -1e300 (beyond the range of float32) at row 1, column 0"), "{text}");
        let seen = survey(&wide).unwrap();
        assert_eq!((seen.zero_rows, seen.range()), (0, Some((-1074, 996))));
        assert_eq!([0.0, 0.5, 0.9].map(|q| seen.quantile(q)), [-1074, 1, 996].map(Some));
        let infinite = HostMatrix::from_f64("y", 1, 2, vec![1.0, f64::NEG_INFINITY]).unwrap();
        let text = survey(&infinite).unwrap_err().to_string();
        assert!(text.contains("got -inf at row 0, column 1"), "{text}");
    }

    #[test]
    fn surveys_of_parts_are_those_of_the_whole() {
        let values: Vec<f64> = (0..600).map(|i| if i % 7 == 0 { 0.0 } else { 2f64.powi(i - 300) }).collect();
        let m = HostMatrix::from_f64("x", 600, 1, values).unwrap();
        let whole = survey(&m).unwrap();
        let parts = [0..100, 100..599, 599..600].map(|rows| survey_rows(&m, rows).unwrap().words());
        let sum = parts.iter().fold(Survey::of_shape(600, 1), |sum, words| sum.with_words(words));
        assert_eq!(sum, whole);
        assert_eq!(exponent(1.5), Some(0));
        assert_eq!(exponent(-0.49), Some(-2));
        assert_eq!(exponent(0.0), None);
    }

    #[test]
    fn empty_matrices_pass() {
        let none = HostMatrix::from_f32("x", 0, 3, vec![]).unwrap();
        assert_eq!(check_finite(&none).unwrap(), FeatureReport { rows: 0, cols: 3, zero_rows: 0 });
    }
}
