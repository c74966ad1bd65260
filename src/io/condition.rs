//! Features brought into range on the way in: rows and matrices times powers of two, which is exact, and a common
//! offset taken out in float64.
//!
//! Encoders are scale-free: an embedding is `F (x - m)` divided by its length. What a solver sees may therefore be
//! `2^k (x - m)`, so that features of 1e-25, 1e30 or (in float64) 1e300, and rows of very different lengths, never meet
//! the limits of float32 in products and squares. Ordinary features pass unchanged, to the bit.

use super::source::check_request;
use super::{HostFloat, Part, RowSource, Survey, exponent};
use crate::error::Result;
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;

/// Exponents of the largest values of ordinary rows: nothing is scaled within.
const ORDINARY: Range<i32> = -20..20;
/// The same for kernels of products, to which a ridge of fixed size is added.
const UNIT: Range<i32> = -4..12;
/// Rows that differ by more than this are each scaled in a fit, if half of all do ...
const SPREAD: i32 = 10;
/// ... or if one stands out from the middle one by more than this.
const OUTLIER: i32 = 20;
/// Rows below the middle one by more than this are brought up to it: their products would vanish in float32.
const DUST: i32 = 60;

/// Whether a row whose largest |value| has this exponent passes as it is.
pub(crate) fn is_ordinary(exponent: i32) -> bool {
    ORDINARY.contains(&exponent)
}

/// Which rows are brought to `[1, 2)` (largest |value|), each by a power of two of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowScale {
    /// None.
    #[default]
    None,
    /// Those outside of `2^-60 .. 2^20`.
    Dust,
    /// Those outside of `2^-20 .. 2^20`.
    Extreme,
    /// All.
    All,
    /// Those beyond `2^60`, to `2^60`: so far from everything that distances from them are as good as infinite.
    Huge,
}

/// What is done to rows: `x <- 2^e_i (2^exponent x - 2^exponent offset)`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditioning {
    /// Taken out of every row; none: 0.
    pub offset: Option<Arc<[f64]>>,
    /// All rows are multiplied by two to this power.
    pub exponent: i32,
    /// Rows that are scaled further.
    pub rows: RowScale,
}

impl Conditioning {
    /// Whether rows pass as they are.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// For a linear fit: one power of two for all rows, or where their lengths differ widely one for each.
    pub(crate) fn for_fit(seen: &Survey) -> Self {
        Self::within(seen, ORDINARY)
    }

    /// For a fit on the kernel `<a, b>`, whose ridge is meant for products of about 1.
    pub(crate) fn for_products(seen: &Survey) -> Self {
        Self::within(seen, UNIT)
    }

    fn within(seen: &Survey, ordinary: Range<i32>) -> Self {
        let quantile = |share| seen.quantile(share).unwrap_or(0);
        let (middle, (least, most)) = (quantile(0.5), seen.range().unwrap_or((0, 0)));
        if quantile(0.75) - quantile(0.25) > SPREAD || most - middle > OUTLIER {
            return Self { rows: RowScale::All, ..Self::default() };
        }
        let exponent = if middle >= ordinary.start && most < ordinary.end { 0 } else { -middle };
        let rows = if least + exponent < -DUST { RowScale::Dust } else { RowScale::None };
        Self { exponent, rows, ..Self::default() }
    }

    /// The same for more rows, of which some may be out of range.
    pub(crate) fn with_later(&self, seen: &Survey) -> Self {
        let within = |e: i32| (-DUST..ORDINARY.end).contains(&(e + self.exponent));
        let ordinary = self.offset.is_none() && seen.range().is_none_or(|(a, b)| within(a) && within(b));
        let rows = if self.rows == RowScale::None && !ordinary { RowScale::Dust } else { self.rows };
        Self { rows, ..self.clone() }
    }

    /// For a fit that depends on distances between rows: a common power of two.
    pub(crate) fn for_distances(seen: &Survey) -> Self {
        let most = seen.range().map_or(0, |(_, most)| most);
        Self { exponent: if ORDINARY.contains(&most) { 0 } else { -most }, ..Self::default() }
    }

    /// For encoding with an encoder that takes `offset` out and does not depend on the length of rows.
    pub(crate) fn for_encoding(seen: &Survey, offset: Option<&Arc<[f64]>>) -> Self {
        let ordinary = seen.range().is_none_or(|(a, b)| ORDINARY.contains(&a) && ORDINARY.contains(&b));
        let rows = if ordinary && offset.is_none() { RowScale::None } else { RowScale::Extreme };
        Self { offset: offset.cloned(), exponent: 0, rows }
    }

    /// One row, in float64.
    fn apply(&self, row: &mut [f64]) {
        match (&self.offset, self.exponent) {
            (None, 0) => {}
            (None, e) => row.iter_mut().for_each(|v| *v = times_power(*v, e)),
            // Halved first, so that the difference of two large values of opposite signs does not overflow.
            (Some(m), e) => row.iter_mut().zip(m.iter()).for_each(|(v, m)| {
                *v = times_power(0.5 * *v - 0.5 * m, e + 1);
            }),
        }
        if self.rows == RowScale::None {
            return;
        }
        let top = row.iter().fold(0.0, |top: f64, v| top.max(v.abs()));
        let Some(e) = exponent(top) else { return };
        let to = match self.rows {
            RowScale::Dust if !(-DUST..ORDINARY.end).contains(&e) => 0,
            RowScale::Extreme if !ORDINARY.contains(&e) => 0,
            RowScale::All => 0,
            RowScale::Huge if e > DUST => DUST,
            _ => return,
        };
        row.iter_mut().for_each(|v| *v = times_power(*v, to - e));
    }
}

/// `v 2^e` without leaving float64's range on the way.
pub(crate) fn times_power(v: f64, e: i32) -> f64 {
    // In two steps: either half of the exponent is one that a float64 power of two can have.
    let half = e.clamp(-2040, 2040) / 2;
    v * power(half) * power(e.clamp(-2040, 2040) - half)
}

/// `2^e`, for `e` in float64's normal range.
pub(crate) fn power(e: i32) -> f64 {
    f64::from_bits(((e.clamp(-1022, 1023) + 1023) as u64) << 52)
}

/// Rows of another source, brought into range.
#[derive(Debug, Clone)]
pub struct Conditioned<S> {
    inner: S,
    how: Conditioning,
}

impl<S: RowSource> Conditioned<S> {
    /// The rows of `inner` after `how`, whose offset has as many values as they have.
    pub fn new(inner: S, how: Conditioning) -> Self {
        Self { inner, how }
    }

    /// What is done to them.
    pub fn conditioning(&self) -> &Conditioning {
        &self.how
    }

    fn read(&self, start: usize, out: &mut [f64]) -> Result<()> {
        check_request(self, start, out.len())?;
        self.inner.read_rows_f64(start, out)?;
        out.chunks_exact_mut(self.cols().max(1)).for_each(|row| self.how.apply(row));
        Ok(())
    }
}

impl<S: RowSource> RowSource for Conditioned<S> {
    fn rows(&self) -> usize {
        self.inner.rows()
    }
    fn cols(&self) -> usize {
        self.inner.cols()
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        if self.how.is_plain() {
            return self.inner.read_rows(start, out);
        }
        // A few rows at a time: they stay in cache.
        let step = (1 << 14) / self.cols().max(1) + 1;
        let mut wide = vec![0f64; step * self.cols()];
        let len = wide.len().max(1);
        for (p, out) in out.chunks_mut(len).enumerate() {
            let wide = &mut wide[..out.len()];
            self.read(start + p * step, wide)?;
            f32::convert(super::Dtype::F64, bytemuck::cast_slice(wide), out);
        }
        Ok(())
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.read(start, out)
    }
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn view(&self) -> Option<super::MatView<'_>> {
        self.how.is_plain().then(|| self.inner.view()).flatten()
    }
    fn paged(&self) -> Option<Arc<dyn RowSource>> {
        let inner = self.inner.paged()?;
        Some(Arc::new(Conditioned { inner, how: self.how.clone() }))
    }
    fn as_any(&self) -> Option<&dyn std::any::Any> {
        self.how.is_plain().then(|| self.inner.as_any()).flatten()
    }
    fn held(&self) -> Range<usize> {
        self.inner.held()
    }
    fn part(&self, row: usize) -> Option<Part<'_>> {
        self.inner.part(row)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HostMatrix, read_all, survey};
    use super::*;

    #[test]
    fn powers_of_two_are_exact_everywhere() {
        for e in [-1074, -1022, -600, -1, 0, 1, 600, 1023] {
            let v = times_power(1.0, e);
            assert_eq!(exponent(v), Some(e), "{e}");
            assert_eq!(times_power(v, -e), 1.0, "{e}");
        }
    }

    #[test]
    fn ordinary_rows_pass_and_extreme_ones_are_unit() {
        let rows = [[1.0, -3.0], [1e-300, 3e-300], [0.0, 0.0], [-1e300, 1.0], [2e-45, 0.0]];
        let m = HostMatrix::from_f64("x", 5, 2, rows.concat()).unwrap();
        let seen = survey(&m).unwrap();
        let how = Conditioning::for_encoding(&seen, None);
        let out = read_all::<f32>(&Conditioned::new(&m, how)).unwrap();
        assert_eq!(out[..2], [1.0, -3.0]);
        assert_eq!(out[4..6], [0.0, 0.0]);
        assert!((out[2] / out[3] - 1.0 / 3.0).abs() < 1e-7);
        for row in [&out[2..4], &out[6..8], &out[8..10]] {
            let top = row.iter().fold(0f32, |t, v| t.max(v.abs()));
            assert!((1.0..2.0).contains(&top), "{row:?}");
        }
        let plain = HostMatrix::from_f64("x", 1, 2, vec![1e-6, 1e6]).unwrap();
        assert!(Conditioning::for_encoding(&survey(&plain).unwrap(), None).is_plain());
        assert!(Conditioning::for_fit(&survey(&plain).unwrap()).is_plain());
    }

    #[test]
    fn fits_scale_the_matrix_or_its_rows() {
        let of = |values: Vec<f64>| {
            let m = HostMatrix::from_f64("x", values.len(), 1, values).unwrap();
            Conditioning::for_fit(&survey(&m).unwrap())
        };
        let scaled = |how: Conditioning| (how.exponent, how.rows);
        assert_eq!(scaled(of(vec![1e30; 9])), (-99, RowScale::None));
        assert_eq!(scaled(of(vec![1e-25; 9])), (84, RowScale::None));
        assert_eq!(scaled(of((0..15).map(|i| 10f64.powi(i - 7)).collect())), (0, RowScale::All));
        let mut outlier = vec![1.0; 20];
        outlier[3] = 1e12;
        assert_eq!(scaled(of(outlier)), (0, RowScale::All));
        let mut dust = vec![1.0; 20];
        dust[3] = 1e-12;
        assert_eq!(scaled(of(dust.clone())), (0, RowScale::None));
        dust[4] = 1e-30;
        assert_eq!(scaled(of(dust)), (0, RowScale::Dust));
        assert!(of(vec![0.0; 4]).is_plain());
    }

    #[test]
    fn an_offset_leaves_the_digits_of_the_rest() {
        let (m, v) = (30000.0, [0.125, -0.25, 0.5]);
        let x = HostMatrix::from_f64("x", 3, 1, v.iter().map(|v| v + m).collect()).unwrap();
        let how = Conditioning { offset: Some(vec![m].into()), ..Default::default() };
        assert_eq!(read_all::<f64>(&Conditioned::new(&x, how.clone())).unwrap(), v);
        assert_eq!(read_all::<f32>(&Conditioned::new(&x, how)).unwrap(), v.map(|v| v as f32));
        let far = HostMatrix::from_f64("x", 2, 1, vec![1.7e308, -1.7e308]).unwrap();
        let how = Conditioning { offset: Some(vec![-1.7e308].into()), exponent: -1020, ..Default::default() };
        let out = read_all::<f64>(&Conditioned::new(&far, how)).unwrap();
        assert!(out[0].is_finite() && out[0] > 20.0 && out[1] == 0.0, "{out:?}");
    }
}
