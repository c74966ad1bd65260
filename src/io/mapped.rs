//! Arrays that stay in their file: memory-mapped `.npy` arrays and safetensors tensors.

use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bytes::FileBytes;
use super::paged::PagedMatrix;
use super::{Dtype, HostFloat, MatView, RowSource};
use crate::error::{Error, Result};

/// A mapped array of any shape, validated against the length of its file.
#[derive(Debug, Clone)]
pub struct MappedArray {
    map: Arc<FileBytes>,
    data: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
    fortran: bool,
    name: String,
    path: PathBuf,
    /// Device and number of the file, by which one that was replaced is told from one that was cut.
    file: Option<(u64, u64)>,
}

impl MappedArray {
    /// The array of `shape` whose elements are bytes `data` of `map`; the caller has checked that both fit.
    pub(super) fn new(
        map: Arc<FileBytes>,
        data: Range<usize>,
        dtype: Dtype,
        shape: Vec<usize>,
        fortran: bool,
        name: String,
        path: &Path,
    ) -> Self {
        // Unpacked arrays and pipes have no file of their own to compare with.
        let own = std::fs::metadata(path).ok().filter(|m| m.is_file() && m.len() >= map.len() as u64);
        let file = own.map(|m| (m.dev(), m.ino()));
        Self { map, data, dtype, shape, fortran, name, path: path.to_path_buf(), file }
    }

    /// The array's extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The file, and the tensor where the file may hold several.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of the array or tensor in its file, where it has one.
    pub(super) fn member(&self) -> Option<&str> {
        self.name.strip_prefix(&*self.path.display().to_string())?.strip_prefix(':')
    }

    /// The stored bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.map.get(self.data.clone()).unwrap_or_default()
    }

    /// Whether it has no rows: an empty part of a larger matrix, whatever its other extents.
    pub(super) fn is_empty(&self) -> bool {
        self.shape.first() == Some(&0)
    }

    /// Fails if the file has become shorter since it was mapped: up to a page beyond its new end is then read as zeros,
    /// without a bus error.
    fn check_length(&self) -> Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(m) if Some((m.dev(), m.ino())) == self.file && m.len() < self.map.len() as u64 => {
                Err(self.bad("the file became shorter while it was read"))
            }
            _ => Ok(()),
        }
    }

    /// An error about this array.
    pub(super) fn bad(&self, reason: impl Into<String>) -> Error {
        match self.member() {
            Some(tensor) => Error::bad_file(&self.path, format!("tensor {tensor}: {}", reason.into())),
            None => Error::bad_file(&self.path, reason),
        }
    }

    /// The array as a matrix.
    ///
    /// # Errors
    /// [`Error::BadFile`] unless it has two extents, the second not zero.
    pub fn into_matrix(self) -> Result<MappedMatrix> {
        match *self.shape.as_slice() {
            [rows, cols] if cols > 0 => Ok(MappedMatrix { rows, cols, array: self }),
            [_, _] => Err(self.bad("the matrix has no columns")),
            _ => Err(self.bad(format!("expected a matrix (2 extents), got shape {:?}", self.shape))),
        }
    }
}

/// A mapped matrix. Only the pages of the rows that are read are touched.
#[derive(Debug, Clone)]
pub struct MappedMatrix {
    array: MappedArray,
    rows: usize,
    cols: usize,
}

impl MappedMatrix {
    /// The stored elements, borrowed from the mapping.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the elements do not fit the mapping, which opening the file has excluded.
    pub fn as_view(&self) -> Result<MatView<'_>> {
        let (bytes, dtype) = (self.array.bytes(), self.array.dtype);
        let view = if self.array.fortran {
            MatView::col_major(bytes, self.rows, self.cols, dtype)
        } else {
            MatView::row_major(bytes, self.rows, self.cols, dtype)
        }?;
        Ok(view.named(self.array.name()))
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.array.dtype
    }

    fn read<T: HostFloat>(&self, start: usize, out: &mut [T]) -> Result<()> {
        T::read_rows(&self.as_view()?, start, out)?;
        // Single rows are read by the thousand: checking each would cost a system call.
        if out.len() > self.cols { self.array.check_length() } else { Ok(()) }
    }
}

impl RowSource for MappedMatrix {
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
        self.array.name()
    }
    fn view(&self) -> Option<MatView<'_>> {
        self.as_view().ok()
    }
    fn paged(&self) -> Option<Arc<dyn RowSource>> {
        let array = &self.array;
        // Where the path names another file by now, the mapping of the old one is read on.
        let file = array.map.reopen().filter(|_| !array.fortran)?;
        let offset = array.data.start as u64;
        let shape = (self.rows, self.cols);
        Some(Arc::new(PagedMatrix::new(file, offset, array.dtype, shape, &array.name, &array.path)))
    }
}
