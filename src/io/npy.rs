//! `.npy` files: mapped reading, whole and incremental writing.

use std::io::Write;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use bytemuck::cast_slice;

use super::bytes::FileBytes;
use super::{AtomicFile, Element, MappedArray, MatView, npy_header};
use crate::error::{Error, Result};

/// Maps a `.npy` file (C or Fortran order, little-endian, real or boolean).
///
/// # Errors
/// [`Error::Io`] if it cannot be opened, [`Error::BadFile`] if it is not a `.npy` file of a numeric array or its length
/// is not what its header implies.
pub fn open_npy(path: impl AsRef<Path>) -> Result<MappedArray> {
    let path = path.as_ref();
    npy_of(path, FileBytes::open(path)?, false)
}

/// The array in the bytes of the `.npy` file at `path`; `bf16` as [`npy_header::parse`] has it.
pub(super) fn npy_of(path: &Path, bytes: Arc<FileBytes>, bf16: bool) -> Result<MappedArray> {
    let h = npy_header::parse(&bytes, bf16).map_err(|reason| Error::bad_file(path, reason))?;
    let name = path.display().to_string();
    Ok(MappedArray::new(bytes, h.offset..h.offset + h.len, h.dtype, h.shape, h.fortran, name, path))
}

/// Views a matrix in the bytes of a whole `.npy` file, of which `name` tells errors.
///
/// # Errors
/// [`Error::BadFile`] as [`open_npy`], and if the array is not a matrix.
pub fn parse_npy<'a>(name: &'a str, file: &'a [u8]) -> Result<MatView<'a>> {
    let h = npy_header::parse(file, false).map_err(|reason| Error::bad_file(name, reason))?;
    let [rows, cols] = *h.shape.as_slice() else {
        return Err(Error::bad_file(name, format!("expected a matrix (2 extents), got shape {:?}", h.shape)));
    };
    let data = file.get(h.offset..h.offset + h.len).unwrap_or_default();
    let view = if h.fortran {
        MatView::col_major(data, rows, cols, h.dtype)
    } else {
        MatView::row_major(data, rows, cols, h.dtype)
    }?;
    Ok(view.named(name))
}

/// The header for an array of `T`, and its number of elements.
pub(super) fn header_for<T: Element>(name: &str, shape: &[usize]) -> Result<(Vec<u8>, usize)> {
    let descr = T::DTYPE
        .npy_descr()
        .ok_or_else(|| Error::Unsupported(format!("{name}: .npy has no {}; write float32", T::DTYPE)))?;
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let count =
        count.ok_or_else(|| Error::invalid("shape", "extents whose product fits", format!("{shape:?}")))?;
    Ok((npy_header::format(descr, shape), count))
}

/// Writes a C-order array of any shape, aside and renamed when complete.
///
/// # Errors
/// [`Error::InvalidArgument`] if `data` does not match `shape`, [`Error::Unsupported`] for bfloat16, [`Error::Io`] if
/// the file cannot be written.
pub fn write_npy<T: Element>(path: impl AsRef<Path>, shape: &[usize], data: &[T]) -> Result<()> {
    let mut writer = NpyWriter::create(path, shape)?;
    writer.write(data)?;
    writer.finish()
}

/// Writes a `.npy` file piece by piece, for outputs larger than memory.
///
/// Dropped before [`finish`](Self::finish), it leaves nothing behind.
#[derive(Debug)]
pub struct NpyWriter<T> {
    file: AtomicFile,
    shape: Vec<usize>,
    remaining: usize,
    element: PhantomData<T>,
}

impl<T: Element> NpyWriter<T> {
    /// Begins an array of `shape`, for instance `[rows, cols]`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for bfloat16, [`Error::Io`] if the directory cannot be written.
    pub fn create(path: impl AsRef<Path>, shape: &[usize]) -> Result<Self> {
        let path = path.as_ref();
        let (header, remaining) = header_for::<T>(&path.display().to_string(), shape)?;
        let mut file = AtomicFile::create(path)?;
        file.put(&header)?;
        Ok(Self { file, shape: shape.to_vec(), remaining, element: PhantomData })
    }

    /// Appends elements in C order: any number of rows of a matrix.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if that is more than the shape holds, [`Error::Io`] if writing fails.
    pub fn write(&mut self, data: &[T]) -> Result<()> {
        let remaining = self.remaining.checked_sub(data.len());
        self.remaining = remaining.ok_or_else(|| self.mismatch(format!("{} more", data.len())))?;
        self.file.put(cast_slice(data))
    }

    /// Completes the file and moves it to its place.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if elements are missing, [`Error::Io`] if writing fails.
    pub fn finish(self) -> Result<()> {
        if self.remaining > 0 {
            return Err(self.mismatch(format!("{} too few", self.remaining)));
        }
        self.file.commit()
    }

    fn mismatch(&self, got: String) -> Error {
        Error::invalid(
            self.file.path().display().to_string(),
            format!("the elements of shape {:?}", self.shape),
            got,
        )
    }
}

impl AtomicFile {
    /// `write_all` with the path in the error.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes).map_err(|e| Error::io(self.path(), e))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RowSource, read_all};
    use super::*;

    #[test]
    fn round_trip_of_every_written_type() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let values: Vec<f64> = (0..15).map(|v| f64::from(v) - 7.0).collect();
        write_npy(&path, &[5, 3], &values).unwrap();
        let m = open_npy(&path).unwrap().into_matrix().unwrap();
        assert_eq!((m.rows(), m.cols()), (5, 3));
        assert_eq!(read_all::<f64>(&m).unwrap(), values);
        let narrow: Vec<f32> = values.iter().map(|&v| v as f32).collect();
        write_npy(&path, &[5, 3], &narrow).unwrap();
        assert_eq!(read_all::<f32>(&open_npy(&path).unwrap().into_matrix().unwrap()).unwrap(), narrow);
        let whole: Vec<i64> = values.iter().map(|&v| v as i64).collect();
        write_npy(&path, &[15], &whole).unwrap();
        let vector = open_npy(&path).unwrap();
        assert_eq!(vector.shape(), [15]);
        assert!(vector.into_matrix().unwrap_err().to_string().contains("expected a matrix"));
        assert_eq!(super::super::read_index_vector(&path).unwrap(), whole);
        // The old mapping stays valid: the file was replaced, not rewritten.
        assert_eq!(read_all::<f64>(&m).unwrap(), values);
    }

    #[test]
    fn panels_make_one_file_and_counts_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let mut w = NpyWriter::<f32>::create(&path, &[4, 2]).unwrap();
        w.write(&[0., 1., 2., 3.]).unwrap();
        assert!(!path.exists());
        w.write(&[4., 5., 6., 7.]).unwrap();
        assert!(w.write(&[8.]).is_err());
        w.finish().unwrap();
        let m = open_npy(&path).unwrap().into_matrix().unwrap();
        assert_eq!(read_all::<f32>(&m).unwrap(), [0., 1., 2., 3., 4., 5., 6., 7.]);

        let short = NpyWriter::<f32>::create(dir.path().join("b.npy"), &[4, 2]).unwrap();
        assert!(short.finish().unwrap_err().to_string().contains("8 too few"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "an unfinished file was left behind");
    }

    #[test]
    fn bytes_of_a_file_are_viewed() {
        let mut file = npy_header::format("|u1", &[2, 3]);
        file.extend([1, 2, 3, 4, 5, 6]);
        let view = parse_npy("m.npy", &file).unwrap();
        assert_eq!(read_all::<f32>(&view).unwrap(), [1., 2., 3., 4., 5., 6.]);
        let text = parse_npy("m.npy", &file[..file.len() - 1]).unwrap_err().to_string();
        assert!(text.starts_with("m.npy: is truncated"), "{text}");
    }
}
