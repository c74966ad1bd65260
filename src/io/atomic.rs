//! Files that appear complete or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::partial::PartialFile;
use crate::error::{Error, Result};

/// A file written aside, in the directory of its destination, and renamed there by [`commit`](Self::commit).
///
/// Dropped without `commit` (an error, a cancelled run) it is removed and what was at the destination stays untouched. One
/// that a killed process left is removed by the next that writes the same file.
/// Readers that mapped an older file keep its contents. A destination that is a symbolic link is followed. A file that is
/// replaced hands on its permissions and, where the process may set them, its owner and group. Where the destination is a
/// pipe, a terminal or another stream, such as `/dev/stdout`, the complete file is copied into it.
#[derive(Debug)]
pub struct AtomicFile {
    file: BufWriter<Aside>,
    path: PathBuf,
}

/// Where the bytes are until they are complete.
#[derive(Debug)]
enum Aside {
    /// Beside its destination, whose place it takes.
    Beside(PartialFile),
    /// In a temporary file without a name, for a stream.
    Apart(File),
}

impl Aside {
    fn file(&self) -> &File {
        match self {
            Self::Beside(file) => file.as_file(),
            Self::Apart(file) => file,
        }
    }
}

impl Write for Aside {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file().write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl Seek for Aside {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.file().seek(pos)
    }
}

impl AtomicFile {
    /// Begins a file that will replace `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory does not exist or cannot be written, or if `path` is a directory, a disk, or a file
    /// that may not be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let asked = path.as_ref();
        let fail =
            |e: io::Error| Error::io(asked, io::Error::new(e.kind(), format!("cannot be written: {e}")));
        match fs::metadata(asked).map(|m| m.file_type()) {
            Ok(kind) if kind.is_file() => {
                // Its own permissions count, not only those of its directory.
                accessat(CWD, asked, Access::WRITE_OK, AtFlags::EACCESS)
                    .map_err(|e| fail(io::Error::from(e).kind().into()))?;
            }
            Ok(kind) if kind.is_fifo() || kind.is_char_device() => {
                let apart = Aside::Apart(tempfile::tempfile().map_err(fail)?);
                let path = asked.to_path_buf();
                return Ok(Self { file: BufWriter::with_capacity(1 << 20, apart), path });
            }
            Ok(_) => return Err(fail(io::Error::other("it exists and is neither a file nor a stream"))),
            Err(_) => {}
        }
        let path =
            if asked.is_symlink() { fs::canonicalize(asked).map_err(fail)? } else { asked.to_path_buf() };
        let name = path.file_name().ok_or_else(|| fail(io::Error::other("it names no file")))?;
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = PartialFile::create(dir, name).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound if !dir.is_dir() => {
                fail(io::Error::new(e.kind(), format!("no directory {}", dir.display())))
            }
            _ => fail(io::Error::from(e.kind())),
        })?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, Aside::Beside(file)), path })
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
        match self.file.into_inner().map_err(|e| fail(e.into_error()))? {
            Aside::Beside(file) => {
                if let Ok(old) = fs::metadata(&self.path) {
                    hand_on(&old, file.as_file()).map_err(fail)?;
                }
                file.as_file().sync_all().map_err(fail)?;
                file.persist(&self.path).map_err(fail)?;
            }
            Aside::Apart(mut file) => {
                let mut stream = OpenOptions::new().write(true).open(&self.path).map_err(fail)?;
                file.rewind().map_err(fail)?;
                io::copy(&mut file, &mut stream).and_then(|_| stream.flush()).map_err(fail)?;
            }
        }
        Ok(())
    }

    /// The underlying file, for writers that need one (a memory map for instance). Buffered bytes are flushed first.
    ///
    /// # Errors
    /// [`Error::Io`] if the flush fails.
    pub fn as_file(&mut self) -> Result<&File> {
        self.file.flush().map_err(|e| Error::io(&self.path, e))?;
        Ok(self.file.get_ref().file())
    }
}

/// Gives a new file the permissions of the one that it replaces, and its owner and group where that is allowed.
fn hand_on(old: &fs::Metadata, new: &File) -> io::Result<()> {
    let own = new.metadata()?;
    let (uid, gid) = (old.uid() != own.uid(), old.gid() != own.gid());
    // Where the old file is another user's, the group can be set if we belong to it; the owner usually cannot.
    let group = !gid || fchown(new, None, Some(old.gid())).is_ok();
    let owner = !uid || fchown(new, Some(old.uid()), None).is_ok();
    // Without the same owner and group the set-user-id and set-group-id bits would give our contents others' rights.
    let mode = if group && owner { old.mode() & 0o7777 } else { old.mode() & 0o777 };
    match new.metadata()?.mode() & 0o7777 == mode {
        true => Ok(()),
        false => new.set_permissions(fs::Permissions::from_mode(mode)),
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

    #[test]
    fn outputs_have_ordinary_permissions_and_links_are_followed() {
        use std::os::unix::fs::symlink;
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
    fn a_replaced_file_hands_on_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        for mode in [0o600, 0o640, 0o664, 0o755] {
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let mut f = AtomicFile::create(&path).unwrap();
            f.write_all(b"new").unwrap();
            f.commit().unwrap();
            let meta = fs::metadata(&path).unwrap();
            assert_eq!((meta.mode() & 0o7777, fs::read(&path).unwrap()), (mode, b"new".to_vec()));
        }
    }

    #[test]
    fn streams_get_the_complete_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let reader = {
            let path = path.clone();
            std::thread::spawn(move || fs::read(path).unwrap())
        };
        let mut f = AtomicFile::create(&path).unwrap();
        f.write_all(b"0123").unwrap();
        f.seek(SeekFrom::Start(1)).unwrap();
        f.write_all(b"x").unwrap();
        f.commit().unwrap();
        assert_eq!(reader.join().unwrap(), b"0x23");
        // A writer that is dropped without commit writes nothing.
        drop(AtomicFile::create("/dev/full").unwrap());
        let mut full = AtomicFile::create("/dev/full").unwrap();
        full.write_all(b"0123").unwrap();
        assert!(full.commit().unwrap_err().to_string().contains("/dev/full"));
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
        assert!(text.contains("neither a file nor a stream"), "{text}");
        assert!(AtomicFile::create("").is_err());
        assert!(AtomicFile::create(dir.path().join("..")).is_err());
    }
}
