//! Some of the rows of another source.

use std::ops::Range;
use std::sync::Arc;

use super::source::{check_request, panel_rows};
use super::{HostFloat, MatView, Part, RowSource};
use crate::error::{Error, Result};

/// A contiguous range of rows.
#[derive(Debug, Clone)]
pub struct RowRange<S> {
    inner: S,
    range: Range<usize>,
    name: String,
}

impl<S: RowSource> RowRange<S> {
    /// Rows `range` of `inner`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if they are not all there.
    pub fn new(inner: S, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > inner.rows() {
            let expected = format!("a row range within 0..{}", inner.rows());
            return Err(Error::invalid(inner.name(), expected, format!("{range:?}")));
        }
        let name = format!("{}[{}..{}]", inner.name(), range.start, range.end);
        Ok(Self { inner, range, name })
    }

    fn read<T: HostFloat>(&self, start: usize, out: &mut [T]) -> Result<()> {
        check_request(self, start, out.len())?;
        T::read_rows(&self.inner, self.range.start + start, out)
    }
}

impl<S: RowSource> RowSource for RowRange<S> {
    fn rows(&self) -> usize {
        self.range.len()
    }
    fn cols(&self) -> usize {
        self.inner.cols()
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        self.read(start, out)
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.read(start, out)
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn view(&self) -> Option<MatView<'_>> {
        let all = self.inner.view()?;
        let first = self.range.start.checked_mul(all.row_stride())?.checked_mul(all.dtype().size())?;
        let bytes = if self.range.is_empty() { &[] } else { all.bytes().get(first..)? };
        let (rows, cols) = (self.range.len(), self.cols());
        let view =
            MatView::strided(bytes, rows, cols, all.row_stride(), all.col_stride(), all.dtype()).ok()?;
        Some(view.named(self.name.as_str()))
    }
    fn paged(&self) -> Option<Arc<dyn RowSource>> {
        let inner = self.inner.paged()?;
        Some(Arc::new(RowRange { inner, range: self.range.clone(), name: self.name.clone() }))
    }
    fn is_wide(&self) -> bool {
        self.inner.is_wide()
    }
    fn part(&self, row: usize) -> Option<Part<'_>> {
        self.inner.part(self.range.start + row)
    }
    fn held(&self) -> Range<usize> {
        let inner = self.inner.held();
        let place = |i: usize| i.clamp(self.range.start, self.range.end) - self.range.start;
        place(inner.start)..place(inner.end)
    }
}

/// Chosen rows in a chosen order, repetitions allowed: a mini-batch, a validation split, landmarks.
#[derive(Debug, Clone)]
pub struct Rows<S> {
    inner: S,
    indices: Vec<usize>,
}

impl<S: RowSource> Rows<S> {
    /// Rows `indices` of `inner`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if one of them does not exist.
    pub fn new(inner: S, indices: Vec<usize>) -> Result<Self> {
        if let Some((k, i)) = indices.iter().enumerate().find(|&(_, &i)| i >= inner.rows()) {
            let expected = format!("row indices within 0..{}", inner.rows());
            return Err(Error::invalid(inner.name(), expected, format!("{i} at position {k}")));
        }
        Ok(Self { inner, indices })
    }

    /// The chosen rows.
    pub fn indices(&self) -> &[usize] {
        &self.indices
    }

    fn read<T: HostFloat>(&self, start: usize, out: &mut [T]) -> Result<()> {
        let count = check_request(self, start, out.len())?;
        let (cols, longest) = (self.cols(), panel_rows::<T>(self.cols()));
        let mut wanted = self.indices.get(start..start + count).unwrap_or_default();
        let mut out = out;
        while let [first, ..] = *wanted {
            // Consecutive rows are one request: sorted and nearly sorted subsets read like ranges.
            let run =
                wanted.iter().take(longest).zip(first..).take_while(|&(&i, expected)| i == expected).count();
            let (head, tail) = out.split_at_mut(run * cols);
            T::read_rows(&self.inner, first, head)?;
            (wanted, out) = (wanted.get(run..).unwrap_or_default(), tail);
        }
        Ok(())
    }
}

impl<S: RowSource> RowSource for Rows<S> {
    fn rows(&self) -> usize {
        self.indices.len()
    }
    fn cols(&self) -> usize {
        self.inner.cols()
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        self.read(start, out)
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.read(start, out)
    }
    fn is_wide(&self) -> bool {
        self.inner.is_wide()
    }
    fn part(&self, row: usize) -> Option<Part<'_>> {
        self.inner.part(*self.indices.get(row)?)
    }
    /// Indices of a split ascend, so that the rows that this process can read are a contiguous range of them.
    fn held(&self) -> Range<usize> {
        let inner = self.inner.held();
        if inner == (0..self.inner.rows()) {
            return 0..self.rows();
        }
        let place = |row: usize| self.indices.partition_point(|&i| i < row);
        place(inner.start)..place(inner.end)
    }
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn paged(&self) -> Option<Arc<dyn RowSource>> {
        Some(Arc::new(Rows { inner: self.inner.paged()?, indices: self.indices.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{HostMatrix, read_all};
    use super::*;

    fn numbered(rows: usize) -> HostMatrix {
        HostMatrix::from_f32("x", rows, 2, (0..2 * rows).map(|v| v as f32).collect()).unwrap()
    }

    #[test]
    fn ranges_shift() {
        let x = numbered(10);
        let part = RowRange::new(&x, 3..6).unwrap();
        assert_eq!((part.rows(), part.name()), (3, "x[3..6]"));
        assert_eq!(read_all::<f32>(&part).unwrap(), [6., 7., 8., 9., 10., 11.]);
        assert_eq!(part.view().unwrap().as_slice::<f32>().unwrap(), [6., 7., 8., 9., 10., 11.]);
        assert!(part.read_rows(2, &mut [0.; 4]).is_err());
        assert!(RowRange::new(&x, 3..11).is_err());
        let backwards = Range { start: 5, end: 4 };
        assert!(RowRange::new(&x, backwards).is_err());
        let empty = RowRange::new(&x, 10..10).unwrap();
        assert!(read_all::<f64>(&empty).unwrap().is_empty());
    }

    #[test]
    fn subsets_keep_their_order() {
        let x = numbered(10);
        let chosen = vec![7, 8, 9, 0, 0, 1, 5];
        let some = Rows::new(&x, chosen.clone()).unwrap();
        let expected: Vec<f64> =
            chosen.iter().flat_map(|&i| [2.0 * i as f64, 2.0 * i as f64 + 1.0]).collect();
        assert_eq!(read_all::<f64>(&some).unwrap(), expected);
        let mut middle = [0f32; 6];
        some.read_rows(2, &mut middle).unwrap();
        assert_eq!(middle, [18., 19., 0., 1., 0., 1.]);
        let text = Rows::new(&x, vec![1, 10]).unwrap_err().to_string();
        assert_eq!(text, "x: expected row indices within 0..10, got 10 at position 1");
    }
}
