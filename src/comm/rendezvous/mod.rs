//! Where ranks that nothing connects yet meet: files beside one another, one a rank.
//!
//! Every rank posts a card `PLACE.RANK` and reads those of the others. Rank 0 names on its own the cards it has seen, by
//! numbers that were drawn for this meeting; a rank that finds its number there has found the right rank 0, and says so.
//! When all have said so, the meeting is complete. Cards that an earlier job left behind know no number of this one.
//!
//! A rank holds a lock on its card as long as it lives. The kernel drops the lock at the end of the process, however
//! it comes, so that the others see who is gone. A rank that leaves in order empties its card first and removes it.
//!
//! Of `PLACE` see `place.rs`. Where a live rank of the same number is there already, or a rank 0 of a job of
//! another size, two jobs have one place: the later one ends with an error. On file systems without locks that does not
//! show.

mod card;
#[cfg(test)]
mod tests;
mod watch;

use super::launch::Launch;
use super::patience;
use super::place::place;
use crate::error::{Error, Result};
use card::{Card, card, drawn, is_held, machine, open, path};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use watch::Watch;

/// How long after rank 0 the others give up, and how long rank 0 waits for them to read why it does.
const LATER: Duration = Duration::from_secs(2);

/// How long a rank of an earlier job may take to leave the place.
const LEAVING: Duration = Duration::from_secs(3);

/// The card of another rank, and its length when the meeting was complete.
#[derive(Debug)]
struct Watched {
    file: File,
    length: u64,
}

/// Ranks that have met. The files are there until it is dropped.
#[derive(Debug)]
pub struct Meeting {
    place: PathBuf,
    rank: usize,
    size: usize,
    card: Card,
    /// All versions of this rank's card, locked, the last one last. Others may just be looking at an older one.
    held: Vec<File>,
    /// The cards of the others, once complete.
    others: Vec<Option<Watched>>,
    machines: Vec<String>,
    bytes: Vec<u8>,
    /// Whether what this rank's card says is for others to read when it has left.
    stays: AtomicBool,
}

impl Meeting {
    /// Meets the other ranks of `launch`. All get the `bytes` of rank 0, which only rank 0 makes.
    ///
    /// # Errors
    /// [`Error::Comm`] naming a rank that has not come within [`patience`], or has died on the way; what `bytes` says;
    /// [`Error::Io`] where no card can be posted; [`Error::Unsupported`] for ranks on several machines without a place.
    pub fn join(launch: &Launch, bytes: impl FnOnce() -> Result<Vec<u8>>) -> Result<Self> {
        Self::join_with(launch, &|_| (), bytes)
    }

    /// The same; where it takes long, `notice` is told for whom this rank waits, once.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub fn join_with(
        launch: &Launch,
        notice: &dyn Fn(&str),
        bytes: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Self> {
        Self::at(&place(launch)?, (launch.rank, launch.size), notice, bytes)
    }

    pub(super) fn at(
        place: &Path,
        (rank, size): (usize, usize),
        notice: &dyn Fn(&str),
        bytes: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let card = Card { number: drawn(), size, machine: machine(), ..Card::default() };
        let others = (0..size).map(|_| None).collect();
        let (held, machines) = (Vec::new(), Vec::new());
        let mut meeting = Self {
            place: place.to_path_buf(),
            rank,
            size,
            card,
            held,
            others,
            machines,
            bytes: Vec::new(),
            stays: AtomicBool::new(false),
        };
        meeting.take_place()?;
        if rank > 0 {
            meeting.follow(notice)?;
        } else {
            meeting.lead(notice, bytes).inspect_err(|e| meeting.fail(e))?;
        }
        // One that is not there any more has left. Without locks there is nothing to watch.
        for k in (0..size).filter(|&k| k != rank) {
            let watched = |(_, _, file): (Card, bool, File)| {
                file.metadata().map(|m| Watched { length: m.len(), file }).ok()
            };
            meeting.others[k] = meeting.read(k).filter(|(card, ..)| card.locked).and_then(watched);
        }
        Ok(meeting)
    }

    /// This rank, and the number of ranks.
    pub fn rank(&self) -> (usize, usize) {
        (self.rank, self.size)
    }

    /// What rank 0 had to tell.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// This rank's place among those of its machine, and their number.
    pub fn local(&self) -> (usize, usize) {
        let own = &self.card.machine;
        let here = |machines: &[String]| machines.iter().filter(|m| *m == own).count();
        (here(&self.machines[..self.rank]), here(&self.machines))
    }

    /// The first rank that has ended without leaving in order. It costs a system call a rank.
    pub fn dead(&self) -> Option<usize> {
        let died =
            |Watched { file, .. }: &Watched| !is_held(file) && file.metadata().is_ok_and(|m| m.len() > 0);
        (0..self.size).find(|&k| self.others[k].as_ref().is_some_and(died))
    }

    /// The first rank that has left in order.
    pub fn left(&self) -> Option<usize> {
        let left =
            |Watched { file, .. }: &Watched| !is_held(file) && file.metadata().is_ok_and(|m| m.len() == 0);
        (0..self.size).find(|&k| self.others[k].as_ref().is_some_and(left))
    }

    /// Adds to this rank's card why it fails, for those who ask [`warned`](Self::warned), also when this rank has left.
    pub fn warn(&self, reason: &str) {
        // Where it cannot be written, the others wait for the agreement, or for this rank's end.
        if let Some(mut own) = self.held.last() {
            let _ = own.write_all(format!("\n{reason}").as_bytes());
            self.stays.store(true, Ordering::Relaxed);
        }
    }

    /// Leaves for a reason that stays behind.
    pub fn leave(self, reason: &str) {
        self.warn(reason);
    }

    /// The first rank that says why it fails, and what it says.
    pub fn warned(&self) -> Option<(usize, String)> {
        (0..self.size).find_map(|k| {
            let Watched { file, length } = self.others[k].as_ref()?;
            if file.metadata().ok()?.len() <= *length {
                return None;
            }
            let mut text = vec![0; 512];
            let read = file.read_at(&mut text, length + 1).ok()?;
            Some((k, String::from_utf8_lossy(&text[..read]).into_owned()))
        })
    }

    /// Posts the first card, where no other process is this rank. One that is about to leave is waited for.
    fn take_place(&mut self) -> Result<()> {
        let begin = Instant::now();
        while let Some(other) = self.occupant() {
            if begin.elapsed() > LEAVING {
                return Err(self.taken(&format!("another rank {} of {}", self.rank, other.size)));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.post()
    }

    /// The card in this rank's place, if another process that lives has put it there.
    fn occupant(&self) -> Option<Card> {
        let file = open(&path(&self.place, self.rank))?;
        let card = card(&file).filter(|card| card.locked && card.number != self.card.number)?;
        is_held(&file).then_some(card)
    }

    fn taken(&self, by: &str) -> Error {
        Error::Comm(format!(
            "{by} is at {}, where rank {} of {} was to be: jobs at the same time need places of their own, each its \
             UNICON_RENDEZVOUS",
            self.place.display(),
            self.rank,
            self.size
        ))
    }

    /// Writes this rank's card beside its place, locked, and puts it there.
    fn post(&mut self) -> Result<()> {
        let path = path(&self.place, self.rank);
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let bad = |e| Error::io(&path, e);
        // 0600: the user's own.
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(bad)?;
        self.card.locked = file.as_file().try_lock().is_ok();
        let text = serde_json::to_vec(&self.card).map_err(|e| bad(e.into()))?;
        file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(bad)?;
        self.held.push(file.persist(&path).map_err(|e| bad(e.error))?);
        Ok(())
    }

    /// The card of a rank, and whether the rank lives; none where there is none of a meeting like this.
    fn read(&self, rank: usize) -> Option<(Card, bool, File)> {
        let file = open(&path(&self.place, rank))?;
        let owner = self.held.last().and_then(|own| own.metadata().ok()).map(|m| m.uid());
        if owner != Some(file.metadata().ok()?.uid()) {
            return None;
        }
        let card = card(&file).filter(|card| card.size == self.size)?;
        let lives = !card.locked || is_held(&file);
        Some((card, lives, file))
    }

    /// Rank 0's side.
    fn lead(&mut self, notice: &dyn Fn(&str), bytes: impl FnOnce() -> Result<Vec<u8>>) -> Result<()> {
        let mut watch = Watch::new(self.size, patience(), notice);
        let mut bytes = Some(bytes);
        loop {
            let mut cards = Vec::new();
            for k in 1..self.size {
                cards.push(watch.see(k, self.read(k))?);
            }
            let there: Vec<&Card> = cards.iter().flatten().collect();
            if there.len() + 1 == self.size {
                let own = std::iter::once(self.card.number);
                let seen: Vec<u64> = own.chain(there.iter().map(|card| card.number)).collect();
                if seen != self.card.seen {
                    // Made when all are there: a failure is one that all hear of.
                    if let Some(bytes) = bytes.take() {
                        self.card.bytes = bytes()?;
                    }
                    self.card.seen = seen;
                    self.post()?;
                } else if there.iter().all(|card| card.found == Some(self.card.number)) {
                    let own = std::iter::once(self.card.machine.clone());
                    self.machines = own.chain(there.iter().map(|card| card.machine.clone())).collect();
                    self.card.machines = self.machines.clone();
                    self.bytes = self.card.bytes.clone();
                    return self.post();
                }
            }
            let missing = (1..self.size).find(|&k| cards[k - 1].is_none()).unwrap_or(0);
            self.still_here()?;
            watch.wait(missing, missing > 0, &self.place)?;
        }
    }

    /// Whether this rank's card is where it was put: two that came at once see it only now.
    fn still_here(&self) -> Result<()> {
        match self.occupant() {
            Some(other) => Err(self.taken(&format!("another rank {} of {}", self.rank, other.size))),
            None => Ok(()),
        }
    }

    /// The size of the job whose rank 0 is in this place, if it is another.
    fn other_size(&self) -> Option<usize> {
        let file = open(&path(&self.place, 0))?;
        let card = card(&file).filter(|card| card.locked && card.size != self.size)?;
        is_held(&file).then_some(card.size)
    }

    /// The side of the other ranks.
    fn follow(&mut self, notice: &dyn Fn(&str)) -> Result<()> {
        // Rank 0 is the one that gives up, and says why.
        let mut watch = Watch::new(self.size, patience() + LATER, notice);
        loop {
            let first = self.read(0);
            if let Some((Card { failure: Some(text), number, seen, .. }, lives, _)) = &first
                && (*lives || watch.has_seen(0, *number) || seen.contains(&self.card.number))
            {
                return Err(Error::Comm(text.clone()));
            }
            let first =
                watch.see(0, first)?.filter(|card| card.seen.get(self.rank) == Some(&self.card.number));
            match first {
                Some(card) if card.machines.len() == self.size => {
                    self.machines = card.machines;
                    self.bytes = card.bytes;
                    return Ok(());
                }
                Some(card) if self.card.found != Some(card.number) => {
                    self.card.found = Some(card.number);
                    self.post()?;
                }
                _ => {
                    self.still_here()?;
                    match self.other_size() {
                        Some(size) if watch.begin.elapsed() > LEAVING => {
                            return Err(self.taken(&format!("rank 0 of {size}")));
                        }
                        _ => watch.wait(0, watch.seen[0].is_none(), &self.place)?,
                    }
                }
            }
        }
    }

    /// Rank 0 tells the others why it does not go on, and leaves them some time to read it: of use while some may not have
    /// seen yet that the meeting is complete. What other ranks meet, rank 0 sees too.
    pub fn fail(&mut self, error: &Error) {
        if self.rank > 0 {
            return;
        }
        self.card.failure = Some(match error {
            Error::Comm(text) => text.clone(),
            e => format!("rank 0: {e}"),
        });
        // Where nothing can be posted, they see this rank leave.
        if self.post().is_err() {
            return;
        }
        let until = Instant::now() + LATER;
        let mut came: Vec<bool> = (0..self.size).map(|k| self.card.seen.len() > k).collect();
        loop {
            let mut waits = false;
            for (k, came) in came.iter_mut().enumerate().skip(1) {
                let lives = self.read(k).is_some_and(|(_, lives, _)| lives);
                *came |= lives;
                waits |= lives || !*came;
            }
            if !waits || Instant::now() > until {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let path = path(&self.place, self.rank);
        // Somebody else's card in this place stays.
        let inode = |m: std::fs::Metadata| (m.dev(), m.ino());
        let own = self.held.last().and_then(|own| own.metadata().ok()).map(inode);
        let mine = own.is_some() && std::fs::symlink_metadata(&path).ok().map(inode) == own;
        // What cannot be told or removed now can only stay as it is.
        if let Some(own) = self.held.last().filter(|_| !self.stays.load(Ordering::Relaxed)) {
            let _ = own.set_len(0);
        }
        if mine {
            let _ = std::fs::remove_file(&path);
        }
    }
}
