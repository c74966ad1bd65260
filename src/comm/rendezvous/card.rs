//! Cards: what a rank says of itself in its file, and whether the rank lives.

use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The longest card that is read: that of rank 0 names all others.
const LONGEST: u64 = 1 << 24;

/// What a rank says of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Card {
    /// Drawn for this meeting.
    pub number: u64,
    /// Ranks that are to meet.
    pub size: usize,
    /// The machine, as its kernel knows itself.
    pub machine: String,
    /// Whether the rank holds a lock as long as it lives: not every file system has locks.
    pub locked: bool,
    /// Of others: the number of the rank 0 that they have found.
    pub found: Option<u64>,
    /// Of rank 0: the numbers of all ranks, in order, once it has seen them.
    pub seen: Vec<u64>,
    /// Of rank 0, when complete: the machines of all ranks, in order.
    pub machines: Vec<String>,
    /// Of rank 0: what it has to tell the others.
    pub bytes: Vec<u8>,
    /// Of rank 0: why there will be no meeting.
    pub failure: Option<String>,
}

/// A card's file, without following a link.
pub(super) fn open(path: &Path) -> Option<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()
}

/// What a file says, if it is a card.
pub(super) fn card(mut file: &File) -> Option<Card> {
    file.metadata().ok().filter(|m| m.is_file() && m.len() <= LONGEST)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Whether somebody holds a lock on the file; also where that cannot be told.
pub(super) fn is_held(file: &File) -> bool {
    match file.try_lock_shared() {
        Ok(()) => {
            // What follows does not depend on it: the lock goes with the file at the latest.
            let _ = file.unlock();
            false
        }
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => true,
    }
}

/// Where a rank's card is.
pub(super) fn path(place: &Path, rank: usize) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(format!(".{rank}"));
    PathBuf::from(name)
}

/// A number that no other process draws.
pub(super) fn drawn() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_u128(std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos()));
    hasher.finish()
}

/// This machine's name for as long as it runs.
pub(super) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).ok().map(|s| s.trim().to_string());
    read("/proc/sys/kernel/random/boot_id").or_else(|| read("/etc/hostname")).unwrap_or_default()
}
