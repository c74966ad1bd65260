//! `.npz` outputs: several arrays in one file.

use std::io::Write;
use std::path::Path;

use bytemuck::cast_slice;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::npy::header_for;
use super::{AtomicFile, Element};
use crate::error::{Error, Result};

/// Writes a `.npz` file (uncompressed, as `numpy.savez` does), aside and renamed when complete.
pub struct NpzWriter {
    zip: ZipWriter<AtomicFile>,
    path: std::path::PathBuf,
}

impl NpzWriter {
    /// Begins a file that will replace `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let file = AtomicFile::create(&path)?;
        Ok(Self { zip: ZipWriter::new(file), path: path.as_ref().to_path_buf() })
    }

    /// Adds a C-order array under `name` (without `.npy`).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `data` does not match `shape` or `name` is empty or taken, [`Error::Unsupported`]
    /// for bfloat16, [`Error::Io`] if writing fails.
    pub fn add<T: Element>(&mut self, name: &str, shape: &[usize], data: &[T]) -> Result<()> {
        let (header, count) = header_for::<T>(name, shape)?;
        if count != data.len() {
            return Err(Error::invalid(name, format!("the elements of shape {shape:?}"), data.len()));
        }
        if name.is_empty() {
            return Err(Error::invalid("array name", "a name", "an empty one"));
        }
        let bytes: &[u8] = cast_slice(data);
        // Entries of 4 GiB and more need the larger size fields, which must be asked for in advance.
        let large = bytes.len() as u64 + header.len() as u64 >= u64::from(u32::MAX);
        let options =
            SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(large);
        self.zip.start_file(format!("{name}.npy"), options).map_err(|e| match e {
            zip::result::ZipError::InvalidArchive(what) => Error::invalid(name, "a new array name", what),
            other => Error::io(&self.path, other.into()),
        })?;
        self.zip.write_all(&header).map_err(|e| Error::io(&self.path, e))?;
        self.zip.write_all(bytes).map_err(|e| Error::io(&self.path, e))
    }

    /// Completes the file and moves it to its place.
    ///
    /// # Errors
    /// [`Error::Io`] if writing fails.
    pub fn finish(self) -> Result<()> {
        let file = self.zip.finish().map_err(|e| Error::io(&self.path, e.into()))?;
        file.commit()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn entries_are_npy_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.npz");
        let mut w = NpzWriter::create(&path).unwrap();
        w.add("scores", &[2, 2], &[1f32, 2., 3., 4.]).unwrap();
        w.add("indices", &[3], &[7i64, 8, 9]).unwrap();
        assert!(w.add("short", &[3], &[7i64]).is_err());
        assert!(w.add("", &[1], &[7i64]).is_err());
        assert!(w.add("scores", &[1], &[7i64]).is_err());
        w.finish().unwrap();
        let mut zip = zip::ZipArchive::new(std::fs::File::open(&path).unwrap()).unwrap();
        assert_eq!(zip.len(), 2);
        let mut bytes = Vec::new();
        zip.by_name("scores.npy").unwrap().read_to_end(&mut bytes).unwrap();
        let view = super::super::parse_npy("scores", &bytes).unwrap();
        assert_eq!(super::super::read_all::<f32>(&view).unwrap(), [1., 2., 3., 4.]);
    }

    #[test]
    fn an_abandoned_archive_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = NpzWriter::create(dir.path().join("out.npz")).unwrap();
        w.add("a", &[1], &[1f64]).unwrap();
        drop(w);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
