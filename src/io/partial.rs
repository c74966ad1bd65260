//! Partial files: who owns them, and how those of a killed process are removed.
//!
//! A file in the making, `.NAME??????.partial`, is locked by its writer for as long as the writer lives. One that nobody
//! holds was left by a process that was killed: whoever next writes NAME removes it. Several processes may write NAME at a
//! time; the last one to finish wins, and none takes another's file away.

use std::collections::HashSet;
use std::ffi::{CString, OsStr, OsString, c_char};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};
use tempfile::NamedTempFile;

const SUFFIX: &str = ".partial";
/// Random characters between a name and the suffix.
const RANDOM: usize = 6;

/// Paths of this process's partial files, as a signal handler can read them.
static PATHS: [AtomicPtr<c_char>; 32] = [const { AtomicPtr::new(null_mut()) }; 32];

/// Removes this process's partial files, for a signal handler that is about to end the process: only atomics and
/// `unlink(2)` are used.
pub fn remove_partial_files() {
    for place in &PATHS {
        let path = place.swap(null_mut(), Ordering::AcqRel);
        if !path.is_null() {
            // SAFETY: a string from `CString::into_raw` that nobody else has any more; it is not freed, for a signal
            // handler must not.
            unsafe { libc::unlink(path) };
        }
    }
}

/// A partial file, locked, and removed when it is dropped or the process is ended by a signal that is handled.
#[derive(Debug)]
pub(super) struct PartialFile {
    file: NamedTempFile,
    place: Place,
}

/// Where its path is remembered.
#[derive(Debug)]
struct Place(Option<usize>);

impl Drop for Place {
    fn drop(&mut self) {
        let Some(place) = self.0.and_then(|k| PATHS.get(k)) else { return };
        let path = place.swap(null_mut(), Ordering::AcqRel);
        if !path.is_null() {
            // SAFETY: from `into_raw`, and whoever swaps it out of its place has it alone.
            drop(unsafe { CString::from_raw(path) });
        }
    }
}

impl PartialFile {
    /// Begins a file in `dir` that is to become `name`, after removing what dead processes left of earlier ones.
    pub(super) fn create(dir: &Path, name: &OsStr) -> io::Result<Self> {
        if first_time(&dir.join(name)) {
            sweep(dir, name);
        }
        let mut prefix = OsString::from(".");
        prefix.push(name);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX).rand_bytes(RANDOM);
        // The umask still applies: an output gets the permissions of any file the user creates.
        builder.permissions(<fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666));
        loop {
            let file = builder.tempfile_in(dir)?;
            let ours = match file.as_file().try_lock() {
                // Before it was locked, another process may have removed it as left behind.
                Ok(()) => file.path().exists(),
                Err(TryLockError::WouldBlock) => false,
                // This file system has no locks: nobody removes the file now, nor after this process is killed.
                Err(TryLockError::Error(_)) => true,
            };
            if ours {
                let place = remember(file.path());
                return Ok(Self { file, place });
            }
        }
    }

    pub(super) fn as_file(&self) -> &File {
        self.file.as_file()
    }

    /// Gives the file its name.
    pub(super) fn persist(self, path: &Path) -> io::Result<File> {
        let Self { file, place: _place } = self;
        file.persist(path).map_err(|e| e.error)
    }
}

/// Whether this process writes that file for the first time: leftovers of others need to be looked for once.
fn first_time(path: &Path) -> bool {
    static SEEN: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    seen.get_or_insert_default().insert(path.to_path_buf())
}

/// Whether `file` is a partial file of `name`.
fn is_partial_of(file: &OsStr, name: &OsStr) -> bool {
    let middle = file.as_bytes().strip_prefix(b".").and_then(|f| f.strip_prefix(name.as_bytes()));
    middle
        .and_then(|m| m.strip_suffix(SUFFIX.as_bytes()))
        .is_some_and(|m| m.len() == RANDOM && m.iter().all(u8::is_ascii_alphanumeric))
}

/// Removes the partial files of `name` that nobody has locked. Those that cannot be opened or removed stay.
fn sweep(dir: &Path, name: &OsStr) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !is_partial_of(&entry.file_name(), name) {
            continue;
        }
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let Ok(file) = options.open(entry.path()) else { continue };
        if file.metadata().is_ok_and(|m| m.is_file()) && file.try_lock().is_ok() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn remember(path: &Path) -> Place {
    let path = std::path::absolute(path).ok().and_then(|p| CString::new(p.as_os_str().as_bytes()).ok());
    let Some(path) = path.map(CString::into_raw) else { return Place(None) };
    let taken = PATHS.iter().position(|place| {
        place.compare_exchange(null_mut(), path, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    });
    if taken.is_none() {
        // SAFETY: from `into_raw` above, and in no place.
        drop(unsafe { CString::from_raw(path) });
    }
    Place(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_the_dead_left_goes_and_what_is_held_stays() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsStr::new("out.npy");
        let strangers = [
            ".out.npyabc.partial",
            ".out.npyabcdefg.partial",
            ".out.npyab-def.partial",
            "out.npyabcdef.partial",
        ];
        for name in strangers.iter().chain(&[".out.npyabcdef.partial", ".out.npyZ09xyz.partial"]) {
            fs::write(dir.path().join(name), "half").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", dir.path().join(".out.npyaaaaaa.partial")).unwrap();
        let living = dir.path().join(".out.npyaaaaab.partial");
        fs::write(&living, "half").unwrap();
        let held = File::open(&living).unwrap();
        held.try_lock().unwrap();
        let mut expected = [&strangers[..], &[".out.npyaaaaaa.partial", ".out.npyaaaaab.partial"]].concat();
        expected.sort_unstable();
        sweep(dir.path(), name);
        assert_eq!(names(dir.path()), expected);
        drop(held);
        sweep(dir.path(), name);
        assert!(!living.exists());
    }

    #[test]
    fn writers_of_one_file_do_not_take_each_others_away() {
        let dir = tempfile::tempdir().unwrap();
        let name = OsStr::new("out");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        sweep(dir.path(), name);
                        let file = PartialFile::create(dir.path(), name).unwrap();
                        sweep(dir.path(), name);
                        assert!(file.file.path().exists());
                        file.persist(&dir.path().join(name)).unwrap();
                    }
                });
            }
        });
        assert_eq!(names(dir.path()), ["out"]);
    }
}
