//! Rows scaled to unit length as they are read.

use super::RowSource;
use super::source::check_request;
use crate::error::Result;
use std::ops::Range;

/// The rows of another source, each divided by its length: embeddings from elsewhere, for cosine similarities. A row
/// of zeros stays zero. Lengths are found in float64, of rows brought into range first, so that any finite row has one.
#[derive(Debug)]
pub struct UnitRows<S> {
    source: S,
}

impl<S: RowSource> UnitRows<S> {
    /// The rows of `source` at unit length.
    pub fn new(source: S) -> Self {
        Self { source }
    }
}

/// Scales a row to unit length.
fn normalize(row: &mut [f64]) {
    let largest = row.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
    if largest == 0.0 {
        return;
    }
    // Scaled by the largest entry first: no square overflows, and those that underflow do not matter.
    row.iter_mut().for_each(|v| *v /= largest);
    let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
    row.iter_mut().for_each(|v| *v /= length);
}

impl<S: RowSource> RowSource for UnitRows<S> {
    fn rows(&self) -> usize {
        self.source.rows()
    }

    fn cols(&self) -> usize {
        self.source.cols()
    }

    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        let mut wide = vec![0.0; out.len()];
        self.read_rows_f64(start, &mut wide)?;
        out.iter_mut().zip(wide).for_each(|(o, v)| *o = v as f32);
        Ok(())
    }

    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        check_request(self, start, out.len())?;
        self.source.read_rows_f64(start, out)?;
        out.chunks_exact_mut(self.cols()).for_each(normalize);
        Ok(())
    }

    fn name(&self) -> &str {
        self.source.name()
    }

    fn held(&self) -> Range<usize> {
        self.source.held()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HostMatrix, read_all};
    use super::*;

    #[test]
    fn rows_of_any_size_become_unit() {
        let rows = [[3.0, -4.0], [3e-300, -4e-300], [0.0, 0.0], [3e300, -4e300], [5e-324, 0.0]];
        let source = HostMatrix::from_f64("z", 5, 2, rows.concat()).unwrap();
        let got = read_all::<f64>(&UnitRows::new(&source)).unwrap();
        let want = [0.6, -0.8, 0.6, -0.8, 0.0, 0.0, 0.6, -0.8, 1.0, 0.0];
        assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-15), "{got:?}");
        let got = read_all::<f32>(&UnitRows::new(&source)).unwrap();
        assert!(got.iter().zip(want).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-7), "{got:?}");
    }
}
