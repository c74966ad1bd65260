//! A communicator as the solver uses it: agreed, typed, counted.

use super::layout::Layout;
use super::sums::{Fold, Part};
use super::{Comm, Single, Trouble};
use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of an error's text that travel to other ranks.
const TEXT: usize = 512;
/// Bytes that a broadcast passes on at once.
const SEGMENT: usize = 1 << 18;

/// What a rank says before every collective.
const GO_ON: u64 = 0;
const DONE: u64 = 1;
const FAILED: u64 = 2;

/// How the ranks ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The transport itself failed: nothing can be said any more.
    Broken,
    /// Agreed: `speaker` is the first rank that failed, and `alike` says whether all did, for the same reason.
    Failed { speaker: usize, alike: bool },
}

/// What was moved, and how long it took this rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable, serde::Serialize)]
#[repr(C)]
pub struct Traffic {
    /// Bytes sent to other ranks.
    pub sent: u64,
    /// Bytes received from other ranks.
    pub received: u64,
    /// Collectives.
    pub operations: u64,
    /// Seconds until all ranks had come to a collective.
    pub waiting: f64,
    /// Seconds of moving data.
    pub moving: f64,
    /// Seconds of [`waiting`](Self::waiting) and [`moving`](Self::moving) that passed while this rank computed.
    pub hidden: f64,
}

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    operations: AtomicU64,
    waiting: AtomicU64,
    moving: AtomicU64,
    hidden: AtomicU64,
    /// Whether something else moves data too.
    beside: AtomicBool,
}

/// The ranks of a computation. Cheap to clone; clones are the same group.
///
/// Collectives are called by all ranks in the same order, from the thread that runs the computation.
#[derive(Clone, Debug)]
pub struct Group {
    comm: Arc<dyn Comm>,
    counters: Arc<Counters>,
    end: Arc<Mutex<Option<End>>>,
}

impl Default for Group {
    fn default() -> Self {
        Self::new(Arc::new(Single))
    }
}

impl Group {
    /// The ranks that `comm` connects.
    pub fn new(comm: Arc<dyn Comm>) -> Self {
        Self { comm, counters: Arc::default(), end: Arc::default() }
    }

    /// The group of a process on its own.
    pub fn single() -> &'static Self {
        static SINGLE: OnceLock<Group> = OnceLock::new();
        SINGLE.get_or_init(Self::default)
    }

    /// This rank.
    pub fn rank(&self) -> usize {
        self.comm.rank()
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.comm.size()
    }

    /// Whether there are no other ranks.
    pub fn is_single(&self) -> bool {
        self.size() == 1
    }

    /// Whether this rank writes what one rank writes.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The transport's name.
    pub fn transport(&self) -> &str {
        self.comm.name()
    }

    /// What a backend says of itself as one of these ranks; nothing where there are no others.
    pub(crate) fn describe(&self, how: &str) -> String {
        match self.size() {
            1 => String::new(),
            size => format!(", one of {size} ranks ({}{how})", self.transport()),
        }
    }

    /// What was moved since the group was made.
    pub fn traffic(&self) -> Traffic {
        let c = &self.counters;
        let seconds = |a: &AtomicU64| a.load(Ordering::Relaxed) as f64 * 1e-9;
        Traffic {
            sent: c.sent.load(Ordering::Relaxed),
            received: c.received.load(Ordering::Relaxed),
            operations: c.operations.load(Ordering::Relaxed),
            waiting: seconds(&c.waiting),
            moving: seconds(&c.moving),
            hidden: seconds(&c.hidden),
        }
    }

    /// Counts time of collectives that passed beside computation.
    pub(crate) fn hid(&self, seconds: f64) {
        self.counters.hidden.fetch_add((seconds * 1e9) as u64, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, Option<End>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, end: End, text: String) -> Error {
        self.state().get_or_insert(end);
        Error::Comm(text)
    }

    /// A step of the transport, whose failure ends the group.
    fn moved(&self, step: Result<()>) -> Result<()> {
        step.inspect_err(|_| {
            self.state().get_or_insert(End::Broken);
        })
    }

    /// All ranks say what they are about to do, and learn whether one of them cannot go on.
    fn agree(&self, word: u64, operation: u64, text: &str) -> Result<()> {
        if self.state().is_some() {
            return Err(Error::Comm("the ranks have ended".into()));
        }
        // A rank that waits for data between devices looks for this warning, and then comes to this agreement.
        if word == FAILED && self.counters.beside.load(Ordering::Relaxed) {
            self.comm.warn();
        }
        let (begin, size) = (Instant::now(), self.size());
        let mut all = vec![0u64; 2 * size];
        let own = [word, operation];
        self.moved(self.comm.allgather(cast_slice(&own), cast_slice_mut(&mut all)))?;
        self.counters.waiting.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        self.counters.operations.fetch_add(1, Ordering::Relaxed);
        let failed: Vec<usize> = (0..size).filter(|&k| all[2 * k] == FAILED).collect();
        if let Some(&speaker) = failed.first() {
            let mut texts = vec![0u8; TEXT * size];
            let mut own = [0u8; TEXT];
            let length = (0..=text.len().min(TEXT)).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(0);
            own[..length].copy_from_slice(&text.as_bytes()[..length]);
            self.moved(self.comm.allgather(&own, &mut texts))?;
            let said = |k: usize| &texts[k * TEXT..(k + 1) * TEXT];
            let alike = failed.len() == size && (0..size).all(|k| said(k) == said(0));
            let reason = String::from_utf8_lossy(said(speaker));
            let reason = reason.trim_end_matches('\0');
            return Err(self.ended(End::Failed { speaker, alike }, format!("rank {speaker}: {reason}")));
        }
        if let Some(k) = (0..size).find(|&k| all[2 * k..2 * k + 2] != own) {
            let doing = |k: usize| match all[2 * k] {
                DONE => "has finished".to_string(),
                _ => format!("is at operation {:#x}", all[2 * k + 1]),
            };
            let me = self.rank();
            let text = format!("the ranks disagree: rank {k} {}, rank {me} {}", doing(k), doing(me));
            return Err(self.ended(End::Failed { speaker: 0, alike: false }, text));
        }
        Ok(())
    }

    /// Agreement before a collective, named by its kind and something that all ranks know.
    fn enter(&self, kind: u64, known: usize) -> Result<()> {
        self.agree(GO_ON, (kind << 56) | (known as u64 & ((1 << 56) - 1)), "")
    }

    /// Agreement before something else than this group's transport moves data between the ranks.
    pub(crate) fn enter_beside(&self) -> Result<()> {
        self.counters.beside.store(true, Ordering::Relaxed);
        self.enter(5, 0)
    }

    /// Counts what was moved so: bytes, how long it took, and how much of that passed while this rank computed.
    pub(crate) fn moved_beside(&self, sent: u64, received: u64, moving: Duration, hidden: Duration) {
        let c = &self.counters;
        c.sent.fetch_add(sent, Ordering::Relaxed);
        c.received.fetch_add(received, Ordering::Relaxed);
        c.moving.fetch_add(moving.as_nanos() as u64, Ordering::Relaxed);
        c.hidden.fetch_add(hidden.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Looks after the other ranks while this one waits for such data.
    ///
    /// # Errors
    /// [`Error::Comm`] naming a rank that has died, or has failed and why.
    pub(crate) fn look(&self) -> Result<()> {
        match self.comm.trouble() {
            None => Ok(()),
            Some(Trouble::Died(k)) => Err(self.ended(End::Broken, format!("rank {k} has died"))),
            // It waits for the others to hear of it.
            Some(Trouble::Fails(_)) => self.agree(GO_ON, 0, ""),
        }
    }

    /// Ends the computation on all ranks: an error of one of them becomes an error of all, with the rank and the cause
    /// in its text.
    ///
    /// # Errors
    /// This rank's own, or [`Error::Comm`] naming the rank that failed.
    pub fn conclude<R>(&self, result: Result<R>) -> Result<R> {
        match result {
            Ok(value) => self.finish(None).map(|()| value),
            Err(error) => {
                // The others are told; this rank keeps its own error.
                let _ = self.finish(Some(&error.to_string()));
                Err(error)
            }
        }
    }

    /// As [`conclude`](Self::conclude), for errors of other kinds: `failure` is this rank's, if it has failed.
    ///
    /// # Errors
    /// [`Error::Comm`] when this or another rank has failed.
    pub fn finish(&self, failure: Option<&str>) -> Result<()> {
        if self.is_single() {
            return Ok(());
        }
        match failure {
            None => self.agree(DONE, 0, ""),
            Some(text) => self.agree(FAILED, 0, text),
        }
    }

    /// After a failure: whether this rank is the one to speak of it, and whether it should name itself.
    pub fn speaks(&self) -> (bool, bool) {
        match *self.state() {
            None | Some(End::Broken) => (true, !self.is_single()),
            Some(End::Failed { speaker, alike }) => (speaker == self.rank(), !alike),
        }
    }

    /// Moves data from rank to rank, and counts.
    fn shift(&self, sent: &[u8], to: usize, received: &mut [u8], from: usize) -> Result<()> {
        let (begin, came) = (Instant::now(), received.len());
        let done = self.moved(self.comm.send_recv(sent, to, received, from));
        let c = &self.counters;
        c.moving.fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        c.sent.fetch_add(sent.len() as u64, Ordering::Relaxed);
        c.received.fetch_add(came as u64, Ordering::Relaxed);
        done
    }

    /// How `n` rows are shared out, in panels of `panel` rows.
    pub(crate) fn layout(&self, n: usize, panel: usize) -> Layout {
        Layout::new(n, panel, self.rank(), self.size())
    }

    /// All ranks come here before any goes on.
    ///
    /// # Errors
    /// [`Error::Comm`], as of every collective.
    pub fn barrier(&self) -> Result<()> {
        if self.is_single() { Ok(()) } else { self.enter(1, 0) }
    }

    /// The `own` of every rank, in rank order; lengths may differ.
    ///
    /// # Errors
    /// [`Error::Comm`], as of every collective.
    pub fn allgather<T: Pod>(&self, own: &[T]) -> Result<Vec<Vec<T>>> {
        let (all, ends) = self.gather(own)?;
        let begin = |k: usize| if k == 0 { 0 } else { ends[k - 1] };
        Ok((0..ends.len()).map(|k| all[begin(k)..ends[k]].to_vec()).collect())
    }

    /// The `own` of every rank, one after the other.
    ///
    /// # Errors
    /// [`Error::Comm`], as of every collective.
    pub fn concat<T: Pod>(&self, own: Vec<T>) -> Result<Vec<T>> {
        if self.is_single() { Ok(own) } else { Ok(self.gather(&own)?.0) }
    }

    /// As [`concat`](Self::concat), of what is borrowed: the same thing where there is one rank.
    pub(crate) fn whole<'a, T: Pod>(&self, own: &'a [T]) -> Result<Cow<'a, [T]>> {
        Ok(if self.is_single() { Cow::Borrowed(own) } else { Cow::Owned(self.gather(own)?.0) })
    }

    /// The `own` of every rank, one after the other, and where each ends.
    fn gather<T: Pod>(&self, own: &[T]) -> Result<(Vec<T>, Vec<usize>)> {
        let (size, rank) = (self.size(), self.rank());
        if size == 1 {
            return Ok((own.to_vec(), vec![own.len()]));
        }
        self.enter(2, size_of::<T>())?;
        let mut lengths = vec![0u64; size];
        let length = [own.len() as u64];
        self.moved(self.comm.allgather(cast_slice(&length), cast_slice_mut(&mut lengths)))?;
        let mut total = 0;
        let ends: Vec<usize> = lengths
            .iter()
            .map(|n| {
                total += *n as usize;
                total
            })
            .collect();
        let part = |k: usize| ends[k] - lengths[k] as usize..ends[k];
        let mut all = vec![T::zeroed(); total];
        all[part(rank)].copy_from_slice(own);
        let (to, from) = ((rank + 1) % size, (rank + size - 1) % size);
        for step in 0..size - 1 {
            let (here, next) = (part((rank + size - step) % size), part((rank + size - step - 1) % size));
            // They do not overlap: one of them comes first.
            let (low, high) = all.split_at_mut(here.start.max(next.start));
            let (sent, coming) = if here.start < next.start || here.end <= next.start {
                (&low[here], &mut high[..next.len()])
            } else {
                (&high[..here.len()], &mut low[next])
            };
            self.shift(cast_slice(sent), to, cast_slice_mut(coming), from)?;
        }
        Ok((all, ends))
    }

    /// Hands `data` of rank `root` to all ranks, along a chain in segments: every rank forwards one while it receives the
    /// next.
    ///
    /// # Errors
    /// [`Error::Comm`], as of every collective.
    pub fn broadcast<T: Pod>(&self, root: usize, data: &mut [T]) -> Result<()> {
        let size = self.size();
        if size == 1 {
            return Ok(());
        }
        if self.rank() == root {
            return self.send(data);
        }
        let data: &mut [u8] = cast_slice_mut(data);
        self.enter(3, (data.len() << 8) | (root & 255))?;
        let place = (self.rank() + size - root) % size;
        let (to, from) = ((self.rank() + 1) % size, (self.rank() + size - 1) % size);
        let (bytes, segments) = (data.len(), data.len().div_ceil(SEGMENT));
        let part = |s: usize| s * SEGMENT..((s + 1) * SEGMENT).min(bytes);
        for s in 0..=segments {
            let sent = if s > 0 && place + 1 < size { part(s - 1) } else { 0..0 };
            let coming = if s < segments { part(s) } else { 0..0 };
            if sent.is_empty() && coming.is_empty() {
                continue;
            }
            let (before, after) = data.split_at_mut(coming.start.max(sent.end));
            self.shift(&before[sent], to, &mut after[..coming.len()], from)?;
        }
        Ok(())
    }

    /// The root's side of [`broadcast`](Self::broadcast), from data that is only borrowed.
    pub(crate) fn send<T: Pod>(&self, data: &[T]) -> Result<()> {
        let (size, rank) = (self.size(), self.rank());
        if size == 1 {
            return Ok(());
        }
        let bytes: &[u8] = cast_slice(data);
        self.enter(3, (bytes.len() << 8) | (rank & 255))?;
        let (to, from) = ((rank + 1) % size, (rank + size - 1) % size);
        bytes.chunks(SEGMENT).try_for_each(|segment| self.shift(segment, to, &mut [], from))
    }

    /// Sends `outgoing[k]` to rank `k`; returns what every rank sent here.
    ///
    /// # Errors
    /// [`Error::Comm`], as of every collective.
    pub fn exchange<T: Pod>(&self, mut outgoing: Vec<Vec<T>>) -> Result<Vec<Vec<T>>> {
        let (size, rank) = (self.size(), self.rank());
        if size == 1 {
            return Ok(outgoing);
        }
        self.enter(4, size_of::<T>())?;
        let mut incoming: Vec<Vec<T>> = (0..size).map(|_| Vec::new()).collect();
        incoming[rank] = std::mem::take(&mut outgoing[rank]);
        for step in 1..size {
            let (to, from) = ((rank + step) % size, (rank + size - step) % size);
            let sent = std::mem::take(&mut outgoing[to]);
            let (length, mut coming) = ([sent.len() as u64], [0u64]);
            self.shift(cast_slice(&length), to, cast_slice_mut(&mut coming), from)?;
            incoming[from].resize(coming[0] as usize, T::zeroed());
            self.shift(cast_slice(&sent), to, cast_slice_mut(&mut incoming[from]), from)?;
        }
        Ok(incoming)
    }

    /// Rank 0's value, on all ranks: for decisions that hang on a clock.
    ///
    /// # Errors
    /// [`Error::Comm`], as of every collective.
    pub fn same<T: Pod>(&self, value: T) -> Result<T> {
        let mut value = [value];
        self.broadcast(0, &mut value)?;
        Ok(value[0])
    }

    /// Whether it is so on any rank.
    ///
    /// # Errors
    /// [`Error::Comm`], as of every collective.
    pub fn any(&self, own: bool) -> Result<bool> {
        Ok(self.concat(vec![u8::from(own)])?.contains(&1))
    }

    /// Finishes a sum over blocks: every rank gives its parts, all of one width, and gets the elements `shares[rank]` of
    /// the sum; `none` where no rank has a part.
    pub(crate) fn scatter_sum<S: Pod>(
        &self,
        parts: &[Part<Vec<S>>],
        shares: &[Range<usize>],
        none: S,
        add: impl Fn(&mut [S], &[S]),
    ) -> Result<Vec<S>> {
        let slice = |share: &Range<usize>| -> Vec<S> {
            parts.iter().flat_map(|p| p.value[share.clone()].iter().copied()).collect()
        };
        let names: Vec<u64> = parts.iter().flat_map(|p| [p.first as u64, p.last as u64]).collect();
        let names = self.allgather(&names)?;
        let values = self.exchange(shares.iter().map(slice).collect())?;
        let width = shares[self.rank()].len();
        let mut fold = Fold::new(0..usize::MAX);
        let add = |a: &mut Vec<S>, b: Vec<S>| add(a, &b);
        for (names, values) in names.iter().zip(values) {
            for (k, name) in names.chunks_exact(2).enumerate() {
                let value = values[k * width..(k + 1) * width].to_vec();
                fold.push(Part { first: name[0] as usize, last: name[1] as usize, value }, add);
            }
        }
        Ok(fold.total(add).unwrap_or_else(|| vec![none; width]))
    }

    /// Finishes a sum over blocks of `width` values, for all ranks.
    pub(crate) fn sum(&self, fold: Fold<Vec<f64>>, width: usize) -> Result<Vec<f64>> {
        let add = |a: &mut [f64], b: &[f64]| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        if self.is_single() {
            let total = fold.total(|a: &mut Vec<f64>, b| add(a, &b));
            return Ok(total.unwrap_or_else(|| vec![0.0; width]));
        }
        let size = self.size();
        let shares: Vec<_> = (0..size).map(|k| k * width / size..(k + 1) * width / size).collect();
        let parts = fold.parts(|a: &mut Vec<f64>, b| add(a, &b));
        let own = self.scatter_sum(&parts, &shares, 0.0, add)?;
        self.concat(own)
    }
}
