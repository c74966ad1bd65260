//! What moves data between the ranks' devices without the host: NCCL, on a stream of its own.
//!
//! The ranks decide together whether it is used. Every transfer is agreed on through the group's own transport first, so
//! that a rank that cannot go on is heard; then it is enqueued behind the work that makes its data, and runs beside what is
//! computed until someone [waits](Transfer::wait) for it. A wait looks after the other ranks: when one dies or fails, or
//! none answers within [`patience`], what is under way is aborted.

use super::device::{Device, Event, create_stream};
use super::memory::View;
use super::nccl::{self, Handle, ID, Nccl, UniqueId, Wish};
use crate::comm::{Group, patience};
use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::CUstream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most time that starting NCCL may take: where it cannot, data passes through the host.
const START: Duration = Duration::from_secs(120);
/// Most time to leave in order.
const LEAVE: Duration = Duration::from_secs(5);
/// How often a rank that waits looks after the others.
const ROUND: Duration = Duration::from_millis(50);

/// The connection of this rank's device to those of the others.
pub(super) struct Link {
    nccl: &'static Nccl,
    device: Arc<Device>,
    group: Group,
    rank: usize,
    stream: CUstream,
    /// None once it is broken.
    comm: Mutex<Option<Comm>>,
}

struct Comm(Handle);

// SAFETY: the handle is used by one thread at a time, under the lock.
unsafe impl Send for Comm {}
// SAFETY: the stream is a handle, which the driver accepts from any thread; the rest is behind a lock.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NCCL {}", self.nccl.version_text())
    }
}

/// What a rank says before it is decided whether NCCL is used.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Vote {
    /// The device's own number, whatever the order in which a process sees it.
    device: [u8; 16],
    /// The family of its NCCL; 0 without one.
    family: u32,
    require: u32,
    /// Of rank 0: what the communicator is made of.
    id: [u8; ID],
}

/// One part of a transfer. Addresses are of device memory that stays until the transfer has been waited for.
#[derive(Clone, Copy)]
pub(super) enum Move {
    Send {
        from: u64,
        bytes: usize,
        to: usize,
    },
    Receive {
        to: u64,
        bytes: usize,
        from: usize,
    },
    /// From rank `root`, where it lies at `from`, to all, its own `to` included.
    Broadcast {
        from: u64,
        to: u64,
        bytes: usize,
        root: usize,
    },
}

impl Move {
    pub(super) fn send<T>(from: View<'_, T>, to: usize) -> Self {
        Self::Send { from: from.ptr, bytes: from.len * size_of::<T>(), to }
    }

    pub(super) fn receive<T>(to: View<'_, T>, from: usize) -> Self {
        Self::Receive { to: to.ptr, bytes: to.len * size_of::<T>(), from }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Send { bytes, .. } | Self::Receive { bytes, .. } | Self::Broadcast { bytes, .. } => bytes,
        }
    }
}

/// Whether the ranks' devices are connected: the connection, or why data passes through the host. All ranks come to the
/// same decision.
///
/// # Errors
/// [`Error::Unsupported`] where a rank has `UNICON_NCCL=require` and they are not; [`Error::Comm`].
pub(super) fn connect(device: &Arc<Device>, group: &Group) -> Result<std::result::Result<Arc<Link>, String>> {
    device.enter()?;
    let wish = Wish::read()?;
    let own = match (&wish, nccl::nccl()) {
        (Wish::Off, _) => Err("UNICON_NCCL=off".to_string()),
        (_, Ok(nccl)) => Ok(nccl),
        (_, Err(why)) => Err(why.to_string()),
    };
    let id = match &own {
        Ok(nccl) if group.is_first() => nccl.unique_id().map_err(|e| e.to_string()),
        _ => Ok(UniqueId([0; ID])),
    };
    let own = own.and_then(|nccl| id.map(|id| (nccl, id)));
    let vote = Vote {
        device: device.uuid()?,
        family: own.as_ref().map_or(0, |(nccl, _)| nccl.family() as u32),
        require: u32::from(wish == Wish::Require),
        id: own.as_ref().map_or([0; ID], |(_, id)| id.0),
    };
    let votes = group.concat(vec![vote])?;
    let reasons = group.allgather(own.as_ref().err().map_or("", String::as_str).as_bytes())?;
    let refused = |why: String| match votes.iter().position(|v| v.require != 0) {
        Some(k) => Err(Error::Unsupported(format!("{why}, and rank {k} has UNICON_NCCL=require"))),
        None => Ok(Err(why)),
    };
    if let Some(k) = votes.iter().position(|v| v.family == 0) {
        return refused(format!("rank {k}: {}", String::from_utf8_lossy(&reasons[k])));
    }
    if let Some(k) = votes.iter().position(|v| v.family != votes[0].family) {
        let text = |k: usize| format!("{}.{}", votes[k].family / 100, votes[k].family % 100);
        return refused(format!("rank 0 has NCCL {} and rank {k} has {}", text(0), text(k)));
    }
    for (k, vote) in votes.iter().enumerate() {
        if let Some(j) = votes[..k].iter().position(|v| v.device == vote.device) {
            return refused(format!("ranks {j} and {k} share a device"));
        }
    }
    let Ok((nccl, _)) = own else { return refused("NCCL is missing".into()) };
    let begun = Link::start(nccl, device, group, UniqueId(votes[0].id));
    // Nobody goes on alone.
    let why = begun.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let whys = group.allgather(why.as_bytes())?;
    match (begun, whys.iter().position(|why| !why.is_empty())) {
        (Ok(link), None) => Ok(Ok(Arc::new(link))),
        (_, k) => {
            let k = k.unwrap_or(0);
            refused(format!("rank {k}: {}", String::from_utf8_lossy(&whys[k])))
        }
    }
}

impl Link {
    fn start(nccl: &'static Nccl, device: &Arc<Device>, group: &Group, id: UniqueId) -> Result<Self> {
        let (rank, size) = (group.rank(), group.size());
        let stream = create_stream(device.driver)?;
        let (device, group) = (device.clone(), group.clone());
        let link = Self { nccl, device, group, rank, stream, comm: Mutex::new(None) };
        let comm = nccl.join(id, rank, size)?;
        *link.lock() = Some(Comm(comm));
        link.wait_for(START.min(patience()), "NCCL has not started", || nccl.state(comm))?;
        Ok(link)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Comm>> {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn version(&self) -> String {
        self.nccl.version_text()
    }

    /// Ends the connection: what is under way ends too.
    fn abort(&self) {
        if let Some(Comm(comm)) = self.lock().take() {
            // SAFETY: taken out, so nobody uses it again.
            unsafe { self.nccl.abort(comm) };
        }
    }

    /// Polls until `done`, first eagerly, then sleeping, and looks after the other ranks. An error ends the connection.
    fn wait_for(&self, patience: Duration, late: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let (begin, mut nap, mut round) = (Instant::now(), Duration::from_micros(5), ROUND);
        let mut step = || loop {
            if done()? {
                return Ok(());
            }
            let waited = begin.elapsed();
            if waited < Duration::from_micros(50) {
                std::hint::spin_loop();
                continue;
            }
            if waited > round {
                round = waited + ROUND;
                self.group.look()?;
            }
            if waited > patience {
                // Through the ranks' own transport the one that is late has a name.
                if late == LATE {
                    self.group.enter_beside()?;
                }
                return Err(Error::Comm(format!("{late} in {:.1} s", waited.as_secs_f64())));
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_micros(200));
        };
        step().inspect_err(|_| self.abort())
    }

    /// Begins a transfer behind all that is enqueued on the device now. All ranks begin the same transfers in the same order;
    /// what one sends to another, that one receives.
    ///
    /// # Errors
    /// [`Error::Comm`] when another rank has failed; [`Error::Cuda`] when NCCL has.
    pub(super) fn begin(&self, moves: &[Move]) -> Result<Transfer<'_>> {
        self.group.enter_beside()?;
        let driver = self.device.driver;
        let mut transfer = Transfer {
            link: self,
            events: [Event::new(driver, true)?, Event::new(driver, true)?],
            asked: Instant::now(),
            sent: 0,
            received: 0,
            waited: false,
        };
        let [ready, end] = &transfer.events;
        ready.record(driver, self.device.stream)?;
        ready.hold_back(driver, self.stream)?;
        // From here on it is when the transfer itself could begin.
        ready.record(driver, self.stream)?;
        let comm = match &*self.lock() {
            Some(Comm(comm)) => *comm,
            None => return Err(Error::Comm("the connection of the devices has ended".into())),
        };
        let ask = || -> Result<()> {
            self.nccl.begin()?;
            let asked = moves.iter().filter(|m| m.bytes() > 0).try_for_each(|m| {
                // SAFETY: by what `Move` asks for.
                unsafe {
                    match *m {
                        Move::Send { from, bytes, to } => self.nccl.send(comm, from, bytes, to, self.stream),
                        Move::Receive { to, bytes, from } => {
                            self.nccl.receive(comm, to, bytes, from, self.stream)
                        }
                        Move::Broadcast { from, to, bytes, root } => {
                            self.nccl.broadcast(comm, (from, to), bytes, root, self.stream)
                        }
                    }
                }
            });
            // The group is closed whatever happened in it.
            let closed = self.nccl.end(comm);
            asked.and(closed)
        };
        ask().inspect_err(|_| self.abort())?;
        self.wait_for(patience(), LATE, || self.nccl.state(comm))?;
        end.record(driver, self.stream)?;
        let others = (self.group.size() - 1) as u64;
        for m in moves {
            let bytes = m.bytes() as u64;
            match *m {
                Move::Send { .. } => transfer.sent += bytes,
                Move::Receive { .. } => transfer.received += bytes,
                // Every byte is received once by each of the others, and sent once for each.
                Move::Broadcast { root, .. } if root == self.rank => transfer.sent += others * bytes,
                Move::Broadcast { .. } => transfer.received += bytes,
            }
        }
        Ok(transfer)
    }
}

const LATE: &str = "the other ranks' devices have not answered";

impl Drop for Link {
    fn drop(&mut self) {
        // Nothing can be reported from here; what fails to be released goes with the process.
        let _ = self.device.enter();
        let comm = self.lock().take();
        if let Some(Comm(comm)) = comm {
            let begin = Instant::now();
            let finished = || loop {
                match self.nccl.state(comm) {
                    Ok(false) if begin.elapsed() < LEAVE => std::thread::sleep(Duration::from_micros(100)),
                    Ok(done) => return done,
                    Err(_) => return false,
                }
            };
            // SAFETY: the last use.
            unsafe {
                if self.nccl.finalize(comm).is_ok() && finished() {
                    self.nccl.destroy(comm);
                } else {
                    self.nccl.abort(comm);
                }
            }
        }
        // SAFETY: ours, and nothing runs on it: its transfers are done or aborted.
        unsafe { (self.device.driver.cuStreamDestroy_v2)(self.stream) };
    }
}

/// Data on its way. One that is dropped without having been waited for is aborted, with the connection.
#[must_use]
pub(super) struct Transfer<'a> {
    link: &'a Link,
    /// When it could begin, and when it has ended.
    events: [Event; 2],
    asked: Instant,
    sent: u64,
    received: u64,
    waited: bool,
}

impl Transfer<'_> {
    /// Waits until this rank's part of it has been done; what is enqueued on the device's stream then finds it done.
    ///
    /// # Errors
    /// [`Error::Comm`] when another rank has died or failed, or does not answer within [`patience`]; [`Error::Cuda`] of
    /// NCCL.
    pub(super) fn wait(mut self) -> Result<()> {
        let (link, driver, begin) = (self.link, self.link.device.driver, Instant::now());
        let hidden = begin - self.asked;
        let done = || -> Result<bool> {
            if self.events[1].passed(driver)? {
                return Ok(true);
            }
            match &*link.lock() {
                // An error of NCCL leaves its kernels waiting.
                Some(Comm(comm)) => link.nccl.state(*comm).map(|_| false),
                None => Err(Error::Comm("the connection of the devices has ended".into())),
            }
        };
        link.wait_for(patience(), LATE, done)?;
        self.waited = true;
        let took = Duration::from_secs_f32(self.events[1].since(driver, &self.events[0])?.max(0.0) * 1e-3);
        let exposed = begin.elapsed();
        // What the host has not seen of it passed beside the computation.
        let hidden = hidden.min(took.saturating_sub(exposed));
        link.group.moved_beside(self.sent, self.received, exposed + hidden, hidden);
        Ok(())
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        let driver = self.link.device.driver;
        if !self.waited {
            // Its memory is about to be given back.
            self.link.abort();
            // SAFETY: the stream lives as long as the link.
            unsafe { (driver.cuStreamSynchronize)(self.link.stream) };
        }
        for event in &self.events {
            event.destroy(driver);
        }
    }
}
