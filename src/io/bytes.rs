//! The bytes of an input file: mapped where the file system can, copied where it cannot, and a pipe's until its writer
//! closes it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memmap2::{Mmap, MmapOptions};
use rustix::event::{PollFd, PollFlags, poll};

use super::{convert_hint, npy_header, safetensors};
use crate::error::{Error, Result};

/// How long a pipe may have no writer.
const NO_WRITER: Duration = Duration::from_secs(10);
/// What a pipe must hold for its kind and length to be known, unless it ends before.
const HEAD: u64 = 1 << 17;
/// Up to here a copy is held in memory, beyond it in a temporary file without a name.
const HELD: u64 = 1 << 24;

/// The bytes of an input.
#[derive(Debug)]
pub(super) struct FileBytes {
    data: Data,
    path: PathBuf,
}

#[derive(Debug)]
enum Data {
    /// The file itself.
    Mapped(Mmap),
    /// A temporary copy, which has no name.
    Copied(Mmap, File),
    Held(Vec<u8>),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.data {
            Data::Mapped(map) | Data::Copied(map, _) => map,
            Data::Held(bytes) => bytes,
        }
    }
}

impl FileBytes {
    /// The bytes of a regular file or of a pipe, at least one. Pages of a file are read on demand.
    ///
    /// The operating system offers no protection against another process that shortens the file while it is mapped: reading
    /// a page that is gone ends the process with a bus error. Files that are in use must be replaced by renaming, as every
    /// writer of this crate does, not rewritten in place.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>> {
        let fail = |e| Error::io(path, e);
        // Before opening it: opening a pipe blocks until there is a writer.
        let meta = std::fs::metadata(path).map_err(fail)?;
        let bytes = if meta.is_file() {
            let file = File::open(path).map_err(fail)?;
            let opened = file.metadata().map_err(fail)?;
            if opened.len() == 0 {
                return Err(Error::bad_file(path, "is empty"));
            }
            Self::of_file(path, file, map)?
        } else if meta.file_type().is_fifo() {
            Self::of_pipe(path, NO_WRITER)?
        } else {
            return Err(Error::bad_file(path, "is not a regular file or a pipe"));
        };
        Ok(Arc::new(bytes))
    }

    /// Mapped, or where the file system has no mappings (some network and FUSE file systems) copied.
    fn of_file(path: &Path, mut file: File, map: fn(&File) -> io::Result<Mmap>) -> Result<Self> {
        match map(&file) {
            Ok(map) => Ok(Self { data: Data::Mapped(map), path: path.to_path_buf() }),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::EACCES)) => {
                Self::copy(path, &mut file)
            }
            Err(e) => Err(Error::io(path, e)),
        }
    }

    fn of_pipe(path: &Path, patience: Duration) -> Result<Self> {
        let fail = |e| Error::io(path, e);
        // Opened without blocking: a writer may never come.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(fail)?;
        let mut pipe = Pipe { file, until: Instant::now() + patience, written: false };
        let mut head = Vec::new();
        pipe.by_ref().take(HEAD).read_to_end(&mut head).map_err(fail)?;
        if head.is_empty() {
            return Err(Error::bad_file(path, "is a pipe that nothing was written to"));
        }
        // A header that states the length ends the reading there, even if the writer goes on.
        let bad = |reason| Error::bad_file(path, reason);
        let most = match &head[..] {
            [0x93, b'N', b'U', b'M', ..] => {
                let start = npy_header::parse_start(&head, false);
                // Either reading of two-byte values (float16 or bfloat16) gives the length.
                start.or_else(|e| npy_header::parse_start(&head, true).map_err(|_| e)).map_err(bad)?.end()
            }
            [b'P', b'K', ..] => None,
            _ => {
                safetensors::whole_length(&head).map_err(|reason| match convert_hint::hint(path, &head) {
                    Some(hint) => bad(hint),
                    None => bad(format!("is no .npy, .npz or .safetensors file ({reason})")),
                })?
            }
        };
        let limit = most.map_or(u64::MAX, |n| n as u64 + 1);
        Self::copy(path, &mut head.chain(pipe).take(limit))
    }

    /// A copy of what a reader gives, of which `path` tells errors.
    pub(super) fn copy(path: &Path, from: &mut dyn Read) -> Result<Self> {
        let fail = |e| Error::io(path, e);
        let mut held = Vec::new();
        from.take(HELD).read_to_end(&mut held).map_err(fail)?;
        if (held.len() as u64) < HELD {
            held.shrink_to_fit();
            return Ok(Self { data: Data::Held(held), path: path.to_path_buf() });
        }
        let place = std::env::temp_dir();
        let full = |e: io::Error| {
            let text = format!("its copy in {} (TMPDIR): {e}", place.display());
            Error::io(path, io::Error::new(e.kind(), text))
        };
        let mut copy = tempfile::tempfile_in(&place).map_err(full)?;
        copy.write_all(&held).map_err(full)?;
        drop(held);
        let mut block = vec![0; 1 << 20];
        loop {
            match from.read(&mut block) {
                Ok(0) => break,
                Ok(n) => copy.write_all(&block[..n]).map_err(full)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fail(e)),
            }
        }
        let map = map(&copy).map_err(full)?;
        Ok(Self { data: Data::Copied(map, copy), path: path.to_path_buf() })
    }

    /// The file, to read from without the mapping; none where there is no file or its path now names another.
    pub(super) fn reopen(&self) -> Option<File> {
        match &self.data {
            Data::Mapped(map) => {
                let file = File::open(&self.path).ok()?;
                (file.metadata().ok()?.len() == map.len() as u64).then_some(file)
            }
            Data::Copied(_, file) => file.try_clone().ok(),
            Data::Held(_) => None,
        }
    }
}

/// Maps a file, shared or, where only that is possible, private: nobody writes through it.
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is read-only and private to this crate, which reads it only through `&[u8]` within its length.
    // The bytes have no validity requirement, so that a concurrent writer can change values but not break an invariant.
    // A concurrent truncation raises SIGBUS, which ends the process without undefined behaviour (documented above).
    match unsafe { Mmap::map(file) } {
        // SAFETY: as above.
        Err(e) if e.raw_os_error() == Some(libc::ENODEV) => unsafe {
            MmapOptions::new().map_copy_read_only(file)
        },
        other => other,
    }
}

/// A pipe that is read without blocking, so that a missing writer is noticed.
struct Pipe {
    file: File,
    /// When a writer must have come.
    until: Instant,
    /// Whether there was a writer.
    written: bool,
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(buf) {
                Ok(0) if !self.written && Instant::now() < self.until => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(n) => {
                    self.written |= n > 0;
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.written = true;
                    // Waits without a limit: a writer is there, however slow.
                    match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], None) {
                        Err(e) if e != rustix::io::Errno::INTR => return Err(e.into()),
                        _ => {}
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }
}

/// All bytes of a regular file or of a pipe.
pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let fail = |e| Error::io(path, e);
    let meta = std::fs::metadata(path).map_err(fail)?;
    if !meta.is_file() {
        return FileBytes::open(path).map(|bytes| bytes.to_vec());
    }
    let mut file = File::open(path).map_err(fail)?;
    let needed = meta.len();
    let mut bytes = Vec::new();
    let reserved = usize::try_from(needed).map(|n| bytes.try_reserve_exact(n).is_ok());
    if reserved != Ok(true) {
        // The allocator does not tell how much it has: the limit is not known.
        return Err(Error::OutOfMemory { needed, limit: 0, what: path.display().to_string() });
    }
    file.read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::write_npy;
    use super::*;

    #[test]
    fn a_file_system_without_mappings_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        write_npy(&path, &[3, 2], &[1f32, 2., 3., 4., 5., 6.]).unwrap();
        let none = |_: &File| Err(io::Error::from_raw_os_error(libc::ENODEV));
        let read = FileBytes::of_file(&path, File::open(&path).unwrap(), none).unwrap();
        assert_eq!(&read[..], std::fs::read(&path).unwrap());
        assert!(read.reopen().is_none());
        let failed = |_: &File| Err(io::Error::from_raw_os_error(libc::ENOMEM));
        assert!(FileBytes::of_file(&path, File::open(&path).unwrap(), failed).is_err());
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let text = FileBytes::of_pipe(&path, Duration::from_millis(30)).unwrap_err().to_string();
        assert!(text.contains("nothing was written to"), "{text}");
        // A writer that takes its time, and writes in pieces.
        let other = path.clone();
        let writer = std::thread::spawn(move || {
            let mut pipe = OpenOptions::new().write(true).open(other).unwrap();
            let mut file = npy_header::format("|u1", &[400_000]);
            file.resize(file.len() + 400_000, 7);
            for piece in file.chunks(150_000) {
                std::thread::sleep(Duration::from_millis(20));
                pipe.write_all(piece).unwrap();
            }
        });
        let read = FileBytes::of_pipe(&path, NO_WRITER).unwrap();
        writer.join().unwrap();
        assert_eq!(npy_header::parse(&read, false).unwrap().len, 400_000);
    }

    #[test]
    fn large_copies_have_a_file() {
        let path = Path::new("pipe");
        let bytes: Vec<u8> = (0..HELD + 12345).map(|v| (v % 251) as u8).collect();
        let copy = FileBytes::copy(path, &mut &bytes[..]).unwrap();
        assert_eq!(&copy[..], bytes);
        assert_eq!(copy.reopen().unwrap().metadata().unwrap().len(), bytes.len() as u64);
    }
}
