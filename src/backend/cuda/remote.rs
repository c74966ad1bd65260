//! Ranks that nothing but NCCL connects: GPUs of several machines, under a launcher that starts no MPI.
//!
//! They meet through files on a disk that all see ([`Meeting`]), which hands NCCL's id around; from then on the words of the
//! ranks go through the devices too. The files tell who has died or failed.

use super::Cuda;
use super::channel::{Channel, Move};
use super::device::Event;
use super::link::Link;
use super::memory::{Buffer, View};
use super::nccl::{self, ID, UniqueId, Wish};
use crate::comm::rendezvous::Meeting;
use crate::comm::{Comm, Group, Trouble, patience};
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of a message that are moved at once, to all ranks together or to one.
const STEP: usize = 4 << 20;
/// How long after a rank has left what it sent may still be on its way.
const GRACE: Duration = Duration::from_secs(2);

/// The id that rank 0 has to tell at the meeting.
///
/// # Errors
/// [`Error::Unsupported`] without NCCL, [`Error::Cuda`] where it cannot start.
pub fn nccl_id() -> Result<Vec<u8>> {
    if Wish::read()? == Wish::Off {
        return Err(Error::Unsupported("UNICON_NCCL=off, and nothing else connects the ranks".into()));
    }
    let nccl = nccl::nccl().map_err(|why| Error::Unsupported(why.to_string()))?;
    Ok(nccl.unique_id()?.0.to_vec())
}

impl Cuda {
    /// This rank of those that have met, whose only connection is that of their devices. Rank 0 has told the others its
    /// [`nccl_id`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] without NCCL; [`Error::Cuda`] and [`Error::Comm`] when the ranks do not find each other.
    pub fn meet(self, meeting: Meeting) -> Result<Self> {
        let (rank, size) = meeting.rank();
        let nccl = nccl::nccl().map_err(|why| Error::Unsupported(why.to_string()));
        let id = <[u8; ID]>::try_from(meeting.bytes());
        let watch = Watch { rank, meeting, left: Mutex::new(None) };
        let join = || -> Result<Remote> {
            let id = id.map_err(|_| Error::Comm("rank 0 has told no id of NCCL".into()))?;
            let look = || watch.look(false);
            let channel = Channel::join(nccl?, &self.device, UniqueId(id), (rank, size), patience(), &look)?;
            Remote::new(Arc::new(channel), size)
        };
        let (remote, watch) = match join() {
            Ok(remote) => (remote, watch),
            Err(e) => {
                // Whoever waits for this rank need not wait longer.
                watch.meeting.leave(&e.to_string());
                return Err(e);
            }
        };
        let channel = remote.channel.clone();
        let group = Group::new(Arc::new(Ranks { watch, size, remote: Mutex::new(remote) }));
        let link = Some(Arc::new(Link::new(channel, group.clone())));
        Ok(Self { group, link, ..self })
    }

    /// The same device with other arithmetic, progress and cancellation.
    pub fn with(self, mode: super::Mode, control: Arc<crate::control::Control>) -> Self {
        Self { mode, control, ..self }
    }
}

/// The other ranks, as the files at which they met show them.
struct Watch {
    rank: usize,
    meeting: Meeting,
    /// Since when one has left.
    left: Mutex<Option<Instant>>,
}

impl Watch {
    /// An error when another rank has died, failed or left, or when it is `late`.
    fn look(&self, late: bool) -> Result<()> {
        let text = match self.trouble() {
            Some(Trouble::Died(k)) => format!("rank {k} has died"),
            Some(Trouble::Failed(k, reason)) => format!("rank {k}: {reason}"),
            _ if late => "the other ranks have not answered".to_string(),
            _ => {
                let Some(k) = self.meeting.left() else { return Ok(()) };
                let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
                if left.get_or_insert_with(Instant::now).elapsed() < GRACE {
                    return Ok(());
                }
                format!("rank {k} has left")
            }
        };
        Err(Error::Comm(text))
    }

    fn trouble(&self) -> Option<Trouble> {
        let warned = self.meeting.warned().map(|(k, reason)| Trouble::Failed(k, reason));
        warned.or_else(|| self.meeting.dead().map(Trouble::Died))
    }
}

/// Page-locked memory.
struct Locked {
    memory: NonNull<u8>,
    channel: Arc<Channel>,
}

// SAFETY: plain memory that belongs to this.
unsafe impl Send for Locked {}

impl Locked {
    fn new(channel: &Arc<Channel>, bytes: usize) -> Result<Self> {
        let driver = channel.device.driver;
        let mut memory: *mut c_void = std::ptr::null_mut();
        // SAFETY: writes one address.
        driver.check("cuMemHostAlloc", unsafe { (driver.cuMemHostAlloc)(&mut memory, bytes, 0) })?;
        let Some(memory) = NonNull::new(memory.cast::<u8>()) else {
            return Err(Error::Cuda("cuMemHostAlloc: no memory".into()));
        };
        // SAFETY: that many bytes, just allocated: all are initialised before anyone reads them.
        unsafe { memory.as_ptr().write_bytes(0, bytes) };
        Ok(Self { memory, channel: channel.clone() })
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.channel.device.enter();
        // SAFETY: allocated in `new`; no copy uses it, for each was waited for or aborted.
        unsafe { (self.channel.device.driver.cuMemFreeHost)(self.memory.as_ptr().cast()) };
    }
}

/// What messages pass through.
struct Remote {
    channel: Arc<Channel>,
    out: (Locked, Buffer<u8>),
    back: (Locked, Buffer<u8>),
    done: Option<Event>,
    /// Bytes of one rank that are gathered at once.
    share: usize,
}

impl Remote {
    fn new(channel: Arc<Channel>, size: usize) -> Result<Self> {
        let device = &channel.device;
        let share = (STEP / size).max(4096);
        let room = |bytes: usize| -> Result<(Locked, Buffer<u8>)> {
            Ok((Locked::new(&channel, bytes)?, device.alloc::<u8>(bytes, "messages of ranks")?))
        };
        let (out, back) = (room(STEP)?, room(STEP.max(share * size))?);
        // The memory is there for the channel's stream too once it is there for the device's.
        device.synchronize()?;
        let done = Some(Event::new(device.driver, false)?);
        Ok(Self { channel, out, back, done, share })
    }

    /// Sends some bytes up to the device, moves them, and takes what has come to `received`.
    fn step(
        &self,
        sent: &[u8],
        received: &mut [u8],
        moves: impl FnOnce(View<'_, u8>, View<'_, u8>) -> Vec<Move>,
        watch: &Watch,
    ) -> Result<()> {
        let (channel, driver) = (&*self.channel, self.channel.device.driver);
        let (out, back) =
            (self.out.1.view().part(0..sent.len())?, self.back.1.view().part(0..received.len())?);
        let [from, to] = [&self.out.0, &self.back.0].map(|locked| locked.memory.as_ptr());
        if !sent.is_empty() {
            // SAFETY: the page-locked memory is as long as the device's, and nothing uses it: every step waits for its end.
            let status = unsafe {
                std::ptr::copy_nonoverlapping(sent.as_ptr(), from, sent.len());
                (driver.cuMemcpyHtoDAsync_v2)(out.ptr, from.cast(), sent.len(), channel.stream)
            };
            driver.check("cuMemcpyHtoDAsync", status)?;
        }
        let look = |late: bool| watch.look(late);
        channel.enqueue(&moves(out, back), &look)?;
        if !received.is_empty() {
            // SAFETY: as above.
            let status =
                unsafe { (driver.cuMemcpyDtoHAsync_v2)(to.cast(), back.ptr, received.len(), channel.stream) };
            driver.check("cuMemcpyDtoHAsync", status)?;
        }
        let Some(done) = &self.done else { return Err(Error::Comm("the ranks have ended".into())) };
        done.record(driver, channel.stream)?;
        channel.wait(done, &look)?;
        // SAFETY: the copy has ended, and filled as many bytes.
        received.copy_from_slice(unsafe { std::slice::from_raw_parts(to, received.len()) });
        Ok(())
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        let _ = self.channel.device.enter();
        if let Some(done) = self.done.take() {
            done.release(self.channel.device.driver);
        }
    }
}

/// The transport.
struct Ranks {
    // Left last: the others see this rank as long as it may still send.
    remote: Mutex<Remote>,
    size: usize,
    watch: Watch,
}

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {} through NCCL", self.watch.rank, self.size)
    }
}

impl Ranks {
    fn remote(&self) -> Result<MutexGuard<'_, Remote>> {
        let remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        remote.channel.device.enter()?;
        Ok(remote)
    }
}

impl Comm for Ranks {
    fn rank(&self) -> usize {
        self.watch.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn name(&self) -> &str {
        "nccl"
    }

    fn send_recv(&self, sent: &[u8], to: usize, received: &mut [u8], from: usize) -> Result<()> {
        let remote = self.remote()?;
        let (mut out, mut back) = (sent.chunks(STEP), received.chunks_mut(STEP));
        loop {
            let (out, back) = (out.next(), back.next());
            if out.is_none() && back.is_none() {
                return Ok(());
            }
            let (out, back) = (out.unwrap_or_default(), back.unwrap_or_default());
            let moves =
                |out: View<'_, u8>, back: View<'_, u8>| vec![Move::send(out, to), Move::receive(back, from)];
            remote.step(out, back, moves, &self.watch)?;
        }
    }

    fn allgather(&self, sent: &[u8], received: &mut [u8]) -> Result<()> {
        let remote = self.remote()?;
        let mut all = vec![0; remote.share.min(sent.len()) * self.size];
        for (k, own) in sent.chunks(remote.share).enumerate() {
            let all = &mut all[..own.len() * self.size];
            let moves = |out: View<'_, u8>, back: View<'_, u8>| {
                vec![Move::Gather { from: out.ptr, to: back.ptr, bytes: out.len }]
            };
            remote.step(own, all, moves, &self.watch)?;
            for (part, from) in received.chunks_exact_mut(sent.len()).zip(all.chunks_exact(own.len())) {
                part[k * remote.share..][..own.len()].copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn trouble(&self) -> Option<Trouble> {
        self.watch.trouble()
    }

    fn warn(&self, reason: &str) {
        self.watch.meeting.warn(reason);
    }
}
