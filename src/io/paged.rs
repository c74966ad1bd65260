//! Matrices that are read from their file a panel at a time and never mapped: what is read does not count as memory of the
//! process beyond the panel.

use super::source::check_request;
use super::{Dtype, HostFloat, RowSource};
use crate::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A row-major matrix in a file.
#[derive(Debug)]
pub(crate) struct PagedMatrix {
    file: File,
    offset: u64,
    dtype: Dtype,
    rows: usize,
    cols: usize,
    name: String,
    path: PathBuf,
}

impl PagedMatrix {
    /// The `rows x cols` elements from byte `offset` of `file`; the caller has checked that it is long enough.
    pub(crate) fn new(
        file: File,
        offset: u64,
        dtype: Dtype,
        (rows, cols): (usize, usize),
        name: &str,
        path: &Path,
    ) -> Self {
        Self { file, offset, dtype, rows, cols, name: name.into(), path: path.into() }
    }

    fn read<T: HostFloat>(&self, start: usize, out: &mut [T]) -> Result<()> {
        check_request(self, start, out.len())?;
        let width = self.dtype.size();
        let first = self.offset + (start as u64 * self.cols as u64) * width as u64;
        let failed = |e| Error::io(&self.path, e);
        if T::DTYPE == self.dtype {
            return self.file.read_exact_at(bytemuck::cast_slice_mut(out), first).map_err(failed);
        }
        let mut bytes = vec![0u8; out.len() * width];
        self.file.read_exact_at(&mut bytes, first).map_err(failed)?;
        T::convert(self.dtype, &bytes, out);
        Ok(())
    }
}

impl RowSource for PagedMatrix {
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
    fn is_wide(&self) -> bool {
        self.dtype.is_wide()
    }
    fn name(&self) -> &str {
        &self.name
    }
}
