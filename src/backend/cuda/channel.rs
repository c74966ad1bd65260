//! A communicator of NCCL on a device, with a stream of its own: what it is asked for, and the waits, which have an end.

use super::memory::View;
use super::nccl::{Handle, Nccl, UniqueId};
use super::stream::{Event, Stream};
use crate::distributed::patience;
use crate::error::{Error, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Most time to leave in order.
const LEAVE: Duration = Duration::from_secs(5);
/// How often a rank that waits looks after the others.
const ROUND: Duration = Duration::from_millis(50);

/// Looks after the other ranks; an error ends the wait. `true`: none has answered within [`patience`].
pub(super) type Look<'a> = &'a dyn Fn(bool) -> Result<()>;

/// This rank's end of a communicator.
pub(super) struct Channel {
    pub(super) nccl: &'static Nccl,
    /// What is computed on the device.
    pub(super) work: Arc<Stream>,
    pub(super) stream: Arc<Stream>,
    /// None once it is broken.
    comm: Mutex<Option<Comm>>,
}

struct Comm(Handle);

// SAFETY: the handle is used by one thread at a time, under the lock.
unsafe impl Send for Comm {}

/// One part of a transfer. Addresses are of device memory that stays until the transfer is done.
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

    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Send { bytes, .. } | Self::Receive { bytes, .. } | Self::Broadcast { bytes, .. } => bytes,
        }
    }
}

impl Channel {
    /// Joins the communicator of `id` as `rank` of `size`.
    ///
    /// # Errors
    /// [`Error::Cuda`] with NCCL's reason; [`Error::Comm`] when the others have not come `within` this time; that of
    /// `look`.
    pub(super) fn join(
        nccl: &'static Nccl,
        work: &Arc<Stream>,
        id: UniqueId,
        (rank, size): (usize, usize),
        within: Duration,
        look: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        let channel = Self { nccl, work: work.clone(), stream: work.beside()?, comm: Mutex::new(None) };
        let comm = nccl.join(id, rank, size)?;
        *channel.lock() = Some(Comm(comm));
        let look = |late| match late {
            true => Err(Error::Comm(format!("NCCL has not started in {:.1} s", within.as_secs_f64()))),
            false => look(),
        };
        channel.poll(within, &look, || nccl.state(comm))?;
        Ok(channel)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Comm>> {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self) -> Result<Handle> {
        match &*self.lock() {
            Some(Comm(comm)) => Ok(*comm),
            None => Err(Error::Comm("the connection of the devices has ended".into())),
        }
    }

    /// Ends the connection, and what is under way.
    pub(super) fn abort(&self) {
        if let Some(Comm(comm)) = self.lock().take() {
            // SAFETY: taken out, so nobody uses it again.
            unsafe { self.nccl.abort(comm) };
            let _ = self.stream.synchronize();
        }
    }

    /// Polls until `done`, first eagerly, then sleeping, and looks after the other ranks. An error ends the connection.
    fn poll(&self, within: Duration, look: Look<'_>, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
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
            if waited > within {
                look(true)?;
                let seconds = waited.as_secs_f64();
                return Err(Error::Comm(format!(
                    "the other ranks' devices have not answered in {seconds:.1} s"
                )));
            }
            if waited > round {
                round = waited + ROUND;
                look(false)?;
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_micros(200));
        };
        step().inspect_err(|_| self.abort())
    }

    /// Enqueues a transfer.
    ///
    /// # Errors
    /// [`Error::Cuda`] with NCCL's reason; [`Error::Comm`] when other ranks are needed for that and do not come; that of
    /// `look`.
    pub(super) fn enqueue(&self, moves: &[Move], look: Look<'_>) -> Result<()> {
        let (nccl, comm, stream) = (self.nccl, self.handle()?, self.stream.raw());
        let ask = || -> Result<()> {
            nccl.begin()?;
            let asked = moves.iter().filter(|m| m.bytes() > 0).try_for_each(|m| {
                // SAFETY: by what `Move` asks for.
                unsafe {
                    match *m {
                        Move::Send { from, bytes, to } => nccl.send(comm, from, bytes, to, stream),
                        Move::Receive { to, bytes, from } => nccl.receive(comm, to, bytes, from, stream),
                        Move::Broadcast { from, to, bytes, root } => {
                            nccl.broadcast(comm, (from, to), bytes, root, stream)
                        }
                    }
                }
            });
            // The group is closed whatever happened in it.
            let closed = nccl.end(comm);
            asked.and(closed)
        };
        ask().inspect_err(|_| self.abort())?;
        self.poll(patience(), look, || nccl.state(comm))
    }

    /// Waits until the stream has passed an event.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub(super) fn wait(&self, event: &Event, look: Look<'_>) -> Result<()> {
        // An error of NCCL leaves its kernels waiting.
        let done = || -> Result<bool> {
            let passed = event.passed()?;
            if !passed {
                self.nccl.state(self.handle()?)?;
            }
            Ok(passed)
        };
        self.poll(patience(), look, done)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // Nothing can be reported from here; what fails to be released goes with the process.
        let _ = self.work.enter();
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
    }
}
