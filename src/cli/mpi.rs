//! Ranks that are processes of an MPI job.
//!
//! Every call is made of non-blocking operations that are polled, so that a rank that waits leaves its core to the
//! threads that compute, and does not wait for ever: after [`patience`] it ends the job. A process
//! that dies takes the job down through MPI itself.

use mpi::environment::{Threading, Universe};
use mpi::request::{Request, StaticScope, scope};
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;
use std::time::{Duration, Instant};
use unicon::distributed::{Comm, Trouble, patience};
use unicon::{Error, Result};

/// MPI counts are 32-bit: longer messages go in parts.
const PART: usize = 1 << 30;
/// All messages of a pair of ranks follow one another in order.
const TAG: i32 = 77;
/// A rank fails.
const WARNING: i32 = 78;
/// What is sent then.
static FAILS: [u8; 1] = [1];

/// The processes of `MPI_COMM_WORLD`. MPI is finalised when this is dropped.
#[derive(Debug)]
pub struct Mpi {
    rank: usize,
    size: usize,
    /// This rank's place among those of this machine.
    pub local_rank: usize,
    /// Ranks on this machine.
    pub local_size: usize,
    _universe: Held,
}

struct Held(Universe);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MPI, up to {} bytes attached", self.0.buffer_size())
    }
}

impl Mpi {
    /// Starts MPI. All calls must come from this thread.
    ///
    /// # Errors
    /// [`Error::Comm`] if the process has started MPI before.
    pub fn start() -> Result<Self> {
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| Error::Comm("MPI has been started already".into()))?;
        let world = universe.world();
        let (rank, size) = (world.rank(), world.size());
        let here = world.split_shared(rank);
        let count = |n: i32| usize::try_from(n).unwrap_or(1);
        Ok(Self {
            rank: count(rank),
            size: count(size),
            local_rank: count(here.rank()),
            local_size: count(here.size()).max(1),
            _universe: Held(universe),
        })
    }
}

/// Polls until `done`, first eagerly, then sleeping ever longer, to the benefit of threads that compute.
fn poll(mut done: impl FnMut() -> bool, rank: usize, what: &dyn std::fmt::Display) {
    let begin = Instant::now();
    let mut nap = Duration::from_micros(5);
    while !done() {
        let waited = begin.elapsed();
        if waited < Duration::from_micros(50) {
            std::thread::yield_now();
            continue;
        }
        if waited > patience() {
            // Requests that are under way cannot be taken back: the job ends here, on all ranks.
            eprintln!("unicon: rank {rank}: {what} in {:.0} s", waited.as_secs_f64());
            SimpleCommunicator::world().abort(1);
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_micros(200));
    }
}

/// Whether a request is finished; it is taken out when it is.
fn finished<'a, D: ?Sized, S: mpi::request::Scope<'a>>(request: &mut Option<Request<'a, D, S>>) -> bool {
    match request.take().map(Request::test) {
        Some(Err(pending)) => {
            *request = Some(pending);
            false
        }
        _ => true,
    }
}

impl Comm for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn name(&self) -> &str {
        "mpi"
    }

    fn send_recv(&self, sent: &[u8], to: usize, received: &mut [u8], from: usize) -> Result<()> {
        let world = SimpleCommunicator::world();
        let (mut out, mut back) = (sent.chunks(PART), received.chunks_mut(PART));
        loop {
            let (out, back) = (out.next(), back.next());
            if out.is_none() && back.is_none() {
                return Ok(());
            }
            scope(|scope| {
                let source = world.process_at_rank(from as i32);
                let target = world.process_at_rank(to as i32);
                let mut back = back.map(|b| source.immediate_receive_into_with_tag(scope, b, TAG));
                let mut out = out.map(|b| target.immediate_send_with_tag(scope, b, TAG));
                let what = format!("rank {from} or rank {to} has not answered");
                // Both are driven: neither may wait for the other.
                poll(|| finished(&mut out) & finished(&mut back), self.rank, &what);
            });
        }
    }

    fn allgather(&self, sent: &[u8], received: &mut [u8]) -> Result<()> {
        let world = SimpleCommunicator::world();
        scope(|scope| {
            let mut request = Some(world.immediate_all_gather_into(scope, sent, received));
            poll(|| finished(&mut request), self.rank, &"not all ranks have come");
        });
        Ok(())
    }

    fn trouble(&self) -> Option<Trouble> {
        // One that has died takes the job down.
        let status = SimpleCommunicator::world().any_process().immediate_probe_with_tag(WARNING)?;
        Some(Trouble::Fails(usize::try_from(status.source_rank()).unwrap_or(0)))
    }

    fn warn(&self) {
        let world = SimpleCommunicator::world();
        for k in (0..self.size).filter(|&k| k != self.rank) {
            let target = world.process_at_rank(k as i32);
            // A byte that is never asked for takes no part in anything: nobody waits for it.
            std::mem::forget(target.immediate_send_with_tag(StaticScope, &FAILS[..], WARNING));
        }
    }
}
