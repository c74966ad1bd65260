//! Matrices that are read from their file a panel at a time and never mapped: what is read does not count as memory of the
//! process beyond the panel.

use super::source::check_request;
use super::{Dtype, HostFloat, Part, RowSource};
use crate::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// The `rows x cols` elements from byte `offset` of `file`, whose length the caller knows to suffice.
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

/// Matrices stacked by rows.
pub(crate) struct Stacked {
    parts: Vec<Arc<dyn RowSource>>,
    /// First row of each part, then the total.
    starts: Vec<usize>,
    name: String,
}

impl Stacked {
    /// At least one part; all have as many columns as the first.
    pub(crate) fn new(parts: Vec<Arc<dyn RowSource>>, name: &str) -> Self {
        let mut starts = vec![0];
        for part in &parts {
            starts.push(starts[starts.len() - 1] + part.rows());
        }
        Self { parts, starts, name: name.into() }
    }

    fn read<T: HostFloat>(&self, start: usize, out: &mut [T]) -> Result<()> {
        check_request(self, start, out.len())?;
        let (mut row, mut out) = (start, out);
        let first = self.starts.partition_point(|&s| s <= start).saturating_sub(1);
        for (part, &begin) in self.parts.iter().zip(&self.starts).skip(first) {
            let here = (begin + part.rows()).saturating_sub(row).min(out.len() / self.cols());
            let (head, tail) = out.split_at_mut(here * self.cols());
            if here > 0 {
                T::read_rows(part.as_ref(), row - begin, head)?;
            }
            (row, out) = (row + here, tail);
        }
        Ok(())
    }
}

impl RowSource for Stacked {
    fn rows(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }
    fn cols(&self) -> usize {
        self.parts.first().map_or(0, |p| p.cols())
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
    fn is_wide(&self) -> bool {
        self.parts.iter().any(|p| p.is_wide())
    }
    fn part(&self, row: usize) -> Option<Part<'_>> {
        let index = self.starts.partition_point(|&s| s <= row).checked_sub(1)?;
        let name = self.parts.get(index)?.name();
        Some(Part { name, index, of: self.parts.len(), row: row - self.starts[index] })
    }
}
