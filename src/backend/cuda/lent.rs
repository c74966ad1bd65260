//! A caller's matrix in device memory: read where it lies, and written to.

use super::Cuda;
use super::device::Device;
use super::matrix::{Data, Matrix, PANEL, panels_of};
use super::memory::View;
use super::precision::Narrow;
use super::rows::Rows;
use crate::error::{Error, Result};
use crate::io::{Dtype, RowSource, Survey};
use bytemuck::Pod;
use half::{bf16, f16};
use std::any::Any;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::Arc;

/// Where a caller's elements lie; strides count elements, and one of them is 1.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Address of the first element on the device.
    pub data: *mut c_void,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub col_stride: usize,
    /// float32, float16 or bfloat16.
    pub dtype: Dtype,
}

/// A caller's matrix in device memory. [`Backend::load`](crate::backend::Backend::load) of the same device copies it without
/// passing through the host; to everything else it is a source of rows that are fetched.
pub struct LentMatrix {
    cuda: Cuda,
    place: Place,
    name: String,
}

// SAFETY: an address on a device, which any thread may use once the context is current there.
unsafe impl Send for LentMatrix {}
// SAFETY: as above; the lender promises that nothing writes while it is read.
unsafe impl Sync for LentMatrix {}

impl Cuda {
    /// Takes a caller's matrix on this device.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another dtype.
    ///
    /// # Safety
    /// The elements described lie in memory of this device, stay there as long as the result lives, and work that
    /// produced them was enqueued on this backend's stream or has ended.
    pub unsafe fn lent(&self, place: Place, name: &str) -> Result<LentMatrix> {
        if !matches!(place.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(Error::Unsupported(format!("{name}: {} in device memory", place.dtype.name())));
        }
        Ok(LentMatrix { cuda: self.clone(), place, name: name.into() })
    }

    /// A copy of a lent matrix on the device; `None` where it must pass through the host: columns that are contiguous, no
    /// room, another device.
    pub(super) fn load_lent(&self, x: &LentMatrix) -> Result<Option<Matrix>> {
        let Place { rows, cols, col_stride, dtype, .. } = x.place;
        let len = rows * cols;
        let bytes = (len * dtype.size()) as u64;
        if (cols > 1 && col_stride != 1) || !self.fits(bytes) || !Arc::ptr_eq(&self.device, &x.cuda.device) {
            return Ok(None);
        }
        let what = format!("{} ({rows} x {cols})", x.name);
        let data = match narrow_of(dtype) {
            None => {
                let buffer = self.device.alloc::<f32>(len, &what)?;
                x.copy_rows(0..rows, buffer.view())?;
                Data::Wide(buffer)
            }
            Some(narrow) => {
                let buffer = self.device.alloc::<u16>(len, &what)?;
                x.copy_rows(0..rows, buffer.view())?;
                Data::Narrow(narrow, buffer)
            }
        };
        Ok(Some(Matrix::new(rows, cols, data)))
    }
}

fn narrow_of(dtype: Dtype) -> Option<Narrow> {
    match dtype {
        Dtype::F16 => Some(Narrow::F16),
        Dtype::BF16 => Some(Narrow::Bf16),
        _ => None,
    }
}

impl LentMatrix {
    fn device(&self) -> &Arc<Device> {
        &self.cuda.device
    }

    /// All elements from the first to the last.
    fn all<T>(&self) -> View<'_, T> {
        let Place { data, rows, cols, row_stride, col_stride, .. } = self.place;
        let len = rows.saturating_sub(1) * row_stride + cols.saturating_sub(1) * col_stride + 1;
        View::foreign(data as u64, len)
    }

    /// Whether rows follow each other without gaps.
    fn is_dense(&self) -> bool {
        let Place { rows, cols, row_stride, col_stride, .. } = self.place;
        (cols == 1 || col_stride == 1) && (rows == 1 || row_stride == cols)
    }

    /// Enqueues a copy of rows whose columns are contiguous.
    fn copy_rows<T: Pod>(&self, rows: Range<usize>, to: View<'_, T>) -> Result<()> {
        let Place { cols, row_stride, .. } = self.place;
        if self.is_dense() {
            return self.device().copy(self.all::<T>().part(rows.start * cols..rows.end * cols)?, to);
        }
        for (k, row) in rows.enumerate() {
            let from = self.all::<T>().part(row * row_stride..row * row_stride + cols)?;
            self.device().copy(from, to.part(k * cols..(k + 1) * cols)?)?;
        }
        Ok(())
    }

    /// Fetches rows, row-major.
    fn fetch<T: Pod>(&self, rows: Range<usize>) -> Result<Vec<T>> {
        let Place { cols, row_stride, col_stride, .. } = self.place;
        self.device().enter()?;
        if self.is_dense() {
            return self.device().download(self.all().part(rows.start * cols..rows.end * cols)?);
        }
        let mut out = vec![T::zeroed(); rows.len() * cols];
        if cols == 1 || col_stride == 1 {
            for (row, out) in rows.zip(out.chunks_exact_mut(cols.max(1))) {
                self.device()
                    .download_to(self.all().part(row * row_stride..row * row_stride + cols)?, out)?;
            }
            return Ok(out);
        }
        for j in 0..cols {
            let first = j * col_stride + rows.start;
            let column = self.device().download::<T>(self.all().part(first..first + rows.len())?)?;
            column.into_iter().enumerate().for_each(|(i, v)| out[i * cols + j] = v);
        }
        Ok(out)
    }

    /// Rows from `first` on, as numbers.
    fn read<O: Copy>(&self, first: usize, out: &mut [O], convert: impl Fn(f32) -> O) -> Result<()> {
        let count = crate::io::check_request(self, first, out.len())?;
        let rows = first..first + count;
        let mut put = |values: &mut dyn Iterator<Item = f32>| {
            out.iter_mut().zip(values).for_each(|(o, v)| *o = convert(v));
        };
        match self.place.dtype {
            Dtype::F16 => put(&mut self.fetch::<u16>(rows)?.into_iter().map(|v| f16::from_bits(v).to_f32())),
            Dtype::BF16 => {
                put(&mut self.fetch::<u16>(rows)?.into_iter().map(|v| bf16::from_bits(v).to_f32()))
            }
            _ => put(&mut self.fetch::<f32>(rows)?.into_iter()),
        }
        Ok(())
    }

    /// Writes whole rows from row `first` on, rounding once. Waits for the stream.
    ///
    /// # Errors
    /// [`Error::Cuda`]; rows beyond the matrix.
    pub fn write_rows(&self, first: usize, values: &[f64]) -> Result<()> {
        self.device().enter()?;
        match self.place.dtype {
            Dtype::F16 => self.put(first, values, |v| f16::from_f64(v).to_bits()),
            Dtype::BF16 => self.put(first, values, |v| bf16::from_f64(v).to_bits()),
            _ => self.put(first, values, |v| v as f32),
        }?;
        self.device().synchronize()
    }

    fn put<T: Pod>(&self, first: usize, values: &[f64], convert: impl Fn(f64) -> T) -> Result<()> {
        let Place { cols, row_stride, col_stride, .. } = self.place;
        let count = crate::io::check_request(self, first, values.len())?;
        let values: Vec<T> = values.iter().map(|&v| convert(v)).collect();
        if self.is_dense() {
            return self.device().upload_to(&values, self.all().part(first * cols..(first + count) * cols)?);
        }
        if cols == 1 || col_stride == 1 {
            for (k, row) in values.chunks_exact(cols.max(1)).enumerate() {
                let at = (first + k) * row_stride;
                self.device().upload_to(row, self.all().part(at..at + cols)?)?;
            }
            return Ok(());
        }
        for j in 0..cols {
            let column: Vec<T> = (0..count).map(|i| values[i * cols + j]).collect();
            let at = j * col_stride + first;
            self.device().upload_to(&column, self.all().part(at..at + count)?)?;
        }
        Ok(())
    }

    /// Enqueues a copy of a matrix of this shape into it; `false` where its values must be converted on the way, or lie on the
    /// host.
    ///
    /// # Errors
    /// [`Error::Cuda`].
    pub fn take(&self, from: &Matrix) -> Result<bool> {
        let Data::Wide(buffer) = from.data() else { return Ok(false) };
        let same = (from.rows(), from.cols()) == (self.place.rows, self.place.cols);
        // A rank's rows are handed out by all ranks together.
        if !same || from.is_share() || self.place.dtype != Dtype::F32 || !self.is_dense() {
            return Ok(false);
        }
        self.device().enter()?;
        self.device().copy(buffer.view(), self.all())?;
        Ok(true)
    }

    /// Largest |element| of every row, on the device: NaN where one is not finite, 0 for a zero row.
    fn row_tops(&self) -> Result<Option<Vec<f32>>> {
        let Place { rows, cols, row_stride, col_stride, dtype, .. } = self.place;
        if cols > 1 && col_stride != 1 {
            return Ok(None);
        }
        let device = self.device();
        device.enter()?;
        let tops = device.alloc::<f32>(rows, "row maxima")?;
        let ld = if rows == 1 { cols } else { row_stride };
        let mut wide = None;
        for part in panels_of(0..rows, PANEL) {
            let out = tops.view().part(part.clone())?;
            let span = part.start * ld..(part.end - 1) * ld + cols;
            let panel = match narrow_of(dtype) {
                None => Rows::new(self.all().part(span)?, part.len(), cols, ld)?,
                Some(narrow) => {
                    let from = Rows::new(self.all().part(span)?, part.len(), cols, ld)?;
                    let wide =
                        super::matrix::room(&mut wide, part.len() * cols, &self.cuda, "a panel of rows")?;
                    device.widen_rows(narrow, from, 0, wide)?;
                    Rows::dense(wide, part.len(), cols)?
                }
            };
            device.row_max_abs(panel, out)?;
        }
        device.download(tops.view()).map(Some)
    }
}

impl RowSource for LentMatrix {
    fn rows(&self) -> usize {
        self.place.rows
    }
    fn cols(&self) -> usize {
        self.place.cols
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        self.read(start, out, |v| v)
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.read(start, out, f64::from)
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
    fn examine(&self) -> Option<Result<Survey>> {
        let Place { rows, cols, .. } = self.place;
        match self.row_tops() {
            // The first fault is named by whoever reads the rows.
            Ok(Some(tops)) if tops.iter().all(|v| v.is_finite()) => {
                let mut seen = Survey::of_shape(rows, cols);
                tops.iter().for_each(|&v| seen.count(f64::from(v)));
                Some(Ok(seen))
            }
            Ok(_) => None,
            Err(e) => Some(Err(e)),
        }
    }
}
