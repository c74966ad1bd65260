//! Matrices in memory: borrowed strided views and owned row-major ones.

use std::borrow::Cow;

use bytemuck::cast_slice;

use super::source::check_request;
use super::{Dtype, Element, HostFloat, RowSource};
use crate::error::{Error, Result};

/// A borrowed matrix of any dtype and any non-negative strides.
///
/// Element (i, j) lies at byte `(i * row_stride + j * col_stride) * dtype.size()`; `col_stride` 1 is C order,
/// `row_stride` 1 Fortran order (a Julia d x n array read as our n x d). No alignment is required.
#[derive(Debug, Clone)]
pub struct MatView<'a> {
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    dtype: Dtype,
    name: Cow<'a, str>,
}

impl<'a> MatView<'a> {
    /// A view of `rows` x `cols` elements of `bytes` with strides in elements.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if an element would lie outside `bytes`.
    pub fn strided(
        bytes: &'a [u8],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
        dtype: Dtype,
    ) -> Result<Self> {
        let view = Self { bytes, rows, cols, row_stride, col_stride, dtype, name: Cow::Borrowed("matrix") };
        if view.extent().is_none_or(|end| end > bytes.len()) {
            return Err(Error::invalid(
                "matrix",
                format!(
                    "{rows} x {cols} {dtype} elements with strides ({row_stride}, {col_stride}) within the buffer"
                ),
                format!("a buffer of {} bytes", bytes.len()),
            ));
        }
        Ok(view)
    }

    /// A C-order view: rows one after the other.
    ///
    /// # Errors
    /// As [`strided`](Self::strided).
    pub fn row_major(bytes: &'a [u8], rows: usize, cols: usize, dtype: Dtype) -> Result<Self> {
        Self::strided(bytes, rows, cols, cols, 1, dtype)
    }

    /// A Fortran-order view: columns one after the other.
    ///
    /// # Errors
    /// As [`strided`](Self::strided).
    pub fn col_major(bytes: &'a [u8], rows: usize, cols: usize, dtype: Dtype) -> Result<Self> {
        Self::strided(bytes, rows, cols, 1, rows, dtype)
    }

    /// A C-order view of a slice.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `data` does not hold `rows * cols` elements.
    pub fn from_slice<T: Element>(data: &'a [T], rows: usize, cols: usize) -> Result<Self> {
        Self::row_major(cast_slice(data), rows, cols, T::DTYPE)
    }

    /// The same view under the name that error messages shall use.
    pub fn named(self, name: impl Into<Cow<'a, str>>) -> Self {
        Self { name: name.into(), ..self }
    }

    /// Byte one past the last element, or `None` if that overflows.
    fn extent(&self) -> Option<usize> {
        if self.rows == 0 || self.cols == 0 {
            return Some(0);
        }
        let last_row = (self.rows - 1).checked_mul(self.row_stride)?;
        let last_col = (self.cols - 1).checked_mul(self.col_stride)?;
        last_row.checked_add(last_col)?.checked_add(1)?.checked_mul(self.dtype.size())
    }

    /// The bytes the view was made of; element (0, 0) is first.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Elements from one row to the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Elements from one column to the next.
    pub fn col_stride(&self) -> usize {
        self.col_stride
    }

    /// The elements as a row-major slice, if they are of type `T`, contiguous in C order and aligned.
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        let contiguous = self.col_stride == 1 && (self.row_stride == self.cols || self.rows <= 1);
        if T::DTYPE != self.dtype || !contiguous {
            return None;
        }
        bytemuck::try_cast_slice(self.run(0, self.rows.checked_mul(self.cols)?)?).ok()
    }

    /// The bytes of `len` consecutive elements from element `first`.
    fn run(&self, first: usize, len: usize) -> Option<&'a [u8]> {
        let size = self.dtype.size();
        self.bytes.get(first * size..(first + len) * size)
    }

    fn read<T: HostFloat>(&self, start: usize, out: &mut [T]) -> Result<()> {
        let count = check_request(self, start, out.len())?;
        let outside = || Error::invalid(self.name.as_ref(), "elements within the buffer", "a view beyond it");
        let convert = |first: usize, out: &mut [T]| {
            let bytes = self.run(first, out.len()).ok_or_else(outside)?;
            T::convert(self.dtype, bytes, out);
            Ok(())
        };
        if self.col_stride == 1 && self.row_stride == self.cols {
            return convert(start * self.cols, out);
        }
        if self.col_stride == 1 {
            let mut rows = out.chunks_exact_mut(self.cols).enumerate();
            return rows.try_for_each(|(i, row)| convert((start + i) * self.row_stride, row));
        }
        // Otherwise transpose through a tile that stays in cache: runs along the rows (contiguous in Fortran order) go in,
        // pieces of rows come out, a cache line at a time. Runs of a general stride are gathered element by element.
        const HEIGHT: usize = 64;
        const WIDTH: usize = 16;
        let mut tile = [[T::default(); HEIGHT]; WIDTH];
        for (i0, panel) in (start..start + count).step_by(HEIGHT).zip(out.chunks_mut(HEIGHT * self.cols)) {
            let height = HEIGHT.min(start + count - i0);
            for j0 in (0..self.cols).step_by(WIDTH) {
                for (j, run) in (j0..self.cols).zip(&mut tile) {
                    let (run, _) = run.split_at_mut(height);
                    let first = i0 * self.row_stride + j * self.col_stride;
                    if self.row_stride == 1 {
                        convert(first, run)?;
                        continue;
                    }
                    for (i, v) in run.iter_mut().enumerate() {
                        convert(first + i * self.row_stride, std::slice::from_mut(v))?;
                    }
                }
                for (i, row) in panel.chunks_exact_mut(self.cols).enumerate() {
                    let piece = row.iter_mut().skip(j0).zip(&tile);
                    piece.for_each(|(o, run)| *o = run.get(i).copied().unwrap_or_default());
                }
            }
        }
        Ok(())
    }
}

impl RowSource for MatView<'_> {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
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
        Some(self.clone())
    }
}

#[derive(Debug, Clone)]
enum Values {
    F32(Vec<f32>),
    F64(Vec<f64>),
}

/// An owned row-major matrix of `f32` or `f64`.
#[derive(Debug, Clone)]
pub struct HostMatrix {
    values: Values,
    rows: usize,
    cols: usize,
    name: String,
}

impl HostMatrix {
    /// `rows` x `cols` values in row-major order.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `values` does not hold `rows * cols` elements.
    pub fn from_f32(name: impl Into<String>, rows: usize, cols: usize, values: Vec<f32>) -> Result<Self> {
        let len = values.len();
        Self { values: Values::F32(values), rows, cols, name: name.into() }.checked(len)
    }

    /// As [`from_f32`](Self::from_f32), in `f64`.
    ///
    /// # Errors
    /// As [`from_f32`](Self::from_f32).
    pub fn from_f64(name: impl Into<String>, rows: usize, cols: usize, values: Vec<f64>) -> Result<Self> {
        let len = values.len();
        Self { values: Values::F64(values), rows, cols, name: name.into() }.checked(len)
    }

    fn checked(self, len: usize) -> Result<Self> {
        if self.rows.checked_mul(self.cols) != Some(len) {
            let expected = format!("{} x {} values", self.rows, self.cols);
            return Err(Error::invalid(self.name, expected, len));
        }
        Ok(self)
    }

    fn as_view(&self) -> MatView<'_> {
        let (bytes, dtype) = match &self.values {
            Values::F32(v) => (cast_slice(v), Dtype::F32),
            Values::F64(v) => (cast_slice(v), Dtype::F64),
        };
        MatView {
            bytes,
            rows: self.rows,
            cols: self.cols,
            row_stride: self.cols,
            col_stride: 1,
            dtype,
            name: Cow::Borrowed(&self.name),
        }
    }
}

impl RowSource for HostMatrix {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        self.as_view().read(start, out)
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.as_view().read(start, out)
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn view(&self) -> Option<MatView<'_>> {
        Some(self.as_view())
    }
}

#[cfg(test)]
mod tests {
    use super::super::read_all;
    use super::*;

    fn at(i: usize, j: usize) -> f64 {
        (i * 1000 + j) as f64
    }

    #[test]
    fn every_stride_reads_the_same_rows() {
        for (rows, cols) in [(1, 1), (3, 5), (64, 64), (65, 7), (200, 3), (130, 129)] {
            let expected: Vec<f64> = (0..rows * cols).map(|k| at(k / cols, k % cols)).collect();
            for (rs, cs) in
                [(cols, 1), (cols + 3, 1), (1, rows), (1, rows + 5), (2 * cols, 2), (3, 3 * rows + 1)]
            {
                let mut stored = vec![f64::NAN; (rows - 1) * rs + (cols - 1) * cs + 1];
                for i in 0..rows {
                    for j in 0..cols {
                        stored[i * rs + j * cs] = at(i, j);
                    }
                }
                let view = MatView::strided(cast_slice(&stored), rows, cols, rs, cs, Dtype::F64).unwrap();
                assert_eq!(read_all::<f64>(&view).unwrap(), expected, "{rows} x {cols}, strides {rs}, {cs}");
                let (first, count) = (rows / 3, rows - rows / 3);
                let mut part = vec![0f32; count * cols];
                view.read_rows(first, &mut part).unwrap();
                assert!(part.iter().zip(&expected[first * cols..]).all(|(a, b)| f64::from(*a) == *b));
                assert_eq!(view.as_slice::<f64>().is_some(), cs == 1 && (rs == cols || rows == 1));
                assert!(view.as_slice::<f32>().is_none());
            }
        }
    }

    #[test]
    fn requests_outside_are_refused() {
        let data = [0f32; 12];
        let view = MatView::from_slice(&data, 4, 3).unwrap().named("x");
        let mut out = [0f32; 6];
        assert!(view.read_rows(2, &mut out).is_ok());
        let text = view.read_rows(3, &mut out).unwrap_err().to_string();
        assert_eq!(text, "x: expected a row range within 0..4, got 2 rows from row 3");
        assert!(view.read_rows(usize::MAX, &mut out).is_err());
        assert!(view.read_rows(0, &mut out[..5]).is_err());
    }

    #[test]
    fn views_beyond_the_buffer_are_refused() {
        let data = [0f32; 12];
        assert!(MatView::from_slice(&data, 5, 3).is_err());
        let bytes: &[u8] = cast_slice(&data);
        assert!(MatView::strided(bytes, 4, 3, 4, 1, Dtype::F32).is_err());
        assert!(MatView::strided(bytes, usize::MAX, 3, usize::MAX, 1, Dtype::F32).is_err());
        assert!(MatView::strided(bytes, 2, 3, 9, 1, Dtype::F32).is_ok());
        assert!(MatView::strided(bytes, 2, 0, usize::MAX, 1, Dtype::F32).is_ok());
    }

    #[test]
    fn owned_matrices_check_their_length() {
        assert!(HostMatrix::from_f32("x", 2, 3, vec![0.; 5]).is_err());
        let m = HostMatrix::from_f64("x", 2, 2, vec![1., 2., 3., 4.]).unwrap();
        assert_eq!(read_all::<f32>(&m).unwrap(), [1., 2., 3., 4.]);
        assert_eq!(m.view().unwrap().as_slice::<f64>().unwrap(), [1., 2., 3., 4.]);
    }
}
