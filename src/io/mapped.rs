//! Arrays that stay in their file: memory-mapped `.npy` arrays and safetensors tensors.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::paged::PagedMatrix;
use super::{Dtype, MatView, RowSource};
use crate::error::{Error, Result};

/// Maps a regular file of at least one byte.
///
/// The pages are read on demand. The operating system offers no protection against another process that shortens the
/// file while it is mapped: reading a page that is gone ends the process with a bus error. Files that are in use must
/// be replaced by renaming, as every writer of this crate does, not rewritten in place.
pub(super) fn map_file(path: &Path) -> Result<Arc<Mmap>> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let meta = file.metadata().map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        return Err(Error::bad_file(path, "is not a regular file"));
    }
    if meta.len() == 0 {
        return Err(Error::bad_file(path, "is empty"));
    }
    // SAFETY: the mapping is read-only and private to this crate, which reads it only through `&[u8]` within its length.
    // The bytes have no validity requirement, so that a concurrent writer can change values but not break an invariant.
    // A concurrent truncation raises SIGBUS, which ends the process without undefined behaviour (documented above).
    let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
    Ok(Arc::new(map))
}

/// The bytes of a regular file.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let fail = |e| Error::io(path, e);
    // Asked before it is opened: opening a pipe waits for its writer.
    let meta = std::fs::metadata(path).map_err(fail)?;
    if !meta.is_file() {
        return Err(Error::bad_file(path, "is not a regular file"));
    }
    let mut file = File::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    let needed = meta.len();
    // The allocator does not say how much it has, only that this is more.
    let reserved = usize::try_from(needed).map(|n| bytes.try_reserve_exact(n).is_ok());
    if reserved != Ok(true) {
        return Err(Error::OutOfMemory { needed, limit: 0, what: path.display().to_string() });
    }
    std::io::Read::read_to_end(&mut file, &mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// A mapped array of any shape, validated against the length of its file.
#[derive(Debug, Clone)]
pub struct MappedArray {
    map: Arc<Mmap>,
    data: Range<usize>,
    dtype: Dtype,
    shape: Vec<usize>,
    fortran: bool,
    name: String,
    path: PathBuf,
}

impl MappedArray {
    /// The array of `shape` whose elements are bytes `data` of `map`; the caller has checked that both fit.
    pub(super) fn new(
        map: Arc<Mmap>,
        data: Range<usize>,
        dtype: Dtype,
        shape: Vec<usize>,
        fortran: bool,
        name: String,
        path: &Path,
    ) -> Self {
        Self { map, data, dtype, shape, fortran, name, path: path.to_path_buf() }
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

    /// The stored bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.map.get(self.data.clone()).unwrap_or_default()
    }

    /// An error about this array.
    pub(super) fn bad(&self, reason: impl Into<String>) -> Error {
        let path = self.path.display().to_string();
        match self.name.strip_prefix(&path).and_then(|rest| rest.strip_prefix(':')) {
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
}

impl RowSource for MappedMatrix {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        self.as_view()?.read_rows(start, out)
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.as_view()?.read_rows_f64(start, out)
    }
    fn name(&self) -> &str {
        self.array.name()
    }
    fn view(&self) -> Option<MatView<'_>> {
        self.as_view().ok()
    }
    fn paged(&self) -> Option<Arc<dyn RowSource>> {
        let array = &self.array;
        // The file may have been replaced since it was mapped; then the mapping stays what is read.
        let file = File::open(&array.path).ok().filter(|_| !array.fortran)?;
        if file.metadata().ok()?.len() != array.map.len() as u64 {
            return None;
        }
        let offset = array.data.start as u64;
        let shape = (self.rows, self.cols);
        Some(Arc::new(PagedMatrix::new(file, offset, array.dtype, shape, &array.name, &array.path)))
    }
}
