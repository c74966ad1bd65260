//! Files that appear complete or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// A file written aside, in the directory of its destination, and renamed there by [`commit`](Self::commit).
///
/// Dropped without `commit` (an error, a cancelled run) it is removed and what was at the destination stays untouched.
/// Readers that mapped an older file keep its contents. A destination that is a symbolic link is followed.
#[derive(Debug)]
pub struct AtomicFile {
    file: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl AtomicFile {
    /// Begins a file that will replace `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory does not exist or cannot be written, or if `path` is not a regular file.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let asked = path.as_ref();
        let fail =
            |e: io::Error| Error::io(asked, io::Error::new(e.kind(), format!("cannot be written: {e}")));
        let path =
            if asked.is_symlink() { fs::canonicalize(asked).map_err(fail)? } else { asked.to_path_buf() };
        if fs::metadata(&path).is_ok_and(|m| !m.is_file()) {
            return Err(fail(io::Error::other("it exists and is not a regular file")));
        }
        let name = path.file_name().ok_or_else(|| fail(io::Error::other("it names no file")))?;
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(".partial");
        #[cfg(unix)]
        let permissions = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
        // The umask still applies: an output gets the permissions of any file the user creates.
        #[cfg(unix)]
        builder.permissions(permissions);
        let file = builder.tempfile_in(dir).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound if !dir.is_dir() => {
                fail(io::Error::new(e.kind(), format!("no directory {}", dir.display())))
            }
            _ => fail(io::Error::from(e.kind())),
        })?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), path })
    }

    /// The destination.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes the file to the disk and moves it to its destination.
    ///
    /// # Errors
    /// [`Error::Io`]; the partial file is then gone and the destination untouched.
    pub fn commit(self) -> Result<()> {
        let fail = |e| Error::io(&self.path, e);
        let file = self.file.into_inner().map_err(|e| fail(e.into_error()))?;
        file.as_file().sync_all().map_err(fail)?;
        file.persist(&self.path).map_err(|e| fail(e.error))?;
        Ok(())
    }

    /// The underlying file, for writers that need one (a memory map for instance). Buffered bytes are flushed first.
    ///
    /// # Errors
    /// [`Error::Io`] if the flush fails.
    pub fn as_file(&mut self) -> Result<&File> {
        self.file.flush().map_err(|e| Error::io(&self.path, e))?;
        Ok(self.file.get_ref().as_file())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.file.seek(pos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_seen_before_commit_and_nothing_stays_after_a_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.bin");
        fs::write(&path, "old").unwrap();
        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(b"half").unwrap();
        drop(f);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        f.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn outputs_have_ordinary_permissions_and_links_are_followed() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (plain, path, link) = (dir.path().join("plain"), dir.path().join("out"), dir.path().join("link"));
        fs::write(&plain, "x").unwrap();
        AtomicFile::create(&path).unwrap().commit().unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode();
        assert_eq!(mode(&path), mode(&plain));
        symlink(&path, &link).unwrap();
        let mut f = AtomicFile::create(&link).unwrap();
        f.write_all(b"through").unwrap();
        f.commit().unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"through");
    }

    #[test]
    fn unwritable_places_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("out.npy");
        let text = AtomicFile::create(&path).unwrap_err().to_string();
        assert!(
            text.contains("out.npy: cannot be written: no directory") && !text.contains(".partial"),
            "{text}"
        );
        let text = AtomicFile::create(dir.path()).unwrap_err().to_string();
        assert!(text.contains("not a regular file"), "{text}");
        assert!(AtomicFile::create("").is_err());
        assert!(AtomicFile::create(dir.path().join("..")).is_err());
    }
}
