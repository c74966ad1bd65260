//! Ranks: processes or threads that solve one problem together, each holding some of the rows.
//!
//! [`Comm`] is what a transport must do: move bytes between two ranks, and gather equal blocks. Everything else is
//! built from that once, in [`Group`]: collectives with a fixed order of additions, so that results do not depend on
//! the number of ranks, and an agreement before every one of them, so that a rank that fails takes all others along
//! with its name and its reason instead of leaving them waiting.
//!
//! | transport | for |
//! |---|---|
//! | [`Single`] | one rank |
//! | [`threads`] | ranks that are threads of one process: a thread for each CUDA device, tests, benches |
//! | MPI, in the program (cargo feature `mpi`) | processes on one or many machines |
//! | the caller's callbacks, through the C ABI | any other: `torch.distributed` from Python, an MPI or NCCL of the caller's own |
//!
//! Between CUDA devices data moves by NCCL, whose id whatever connects the ranks hands around
//! ([`Cuda::connected`](crate::backend::cuda::Cuda::connected)).

mod group;
mod layout;
mod rows;
mod sums;
pub mod threads;

pub use group::{Group, Traffic};
pub(crate) use layout::Layout;
pub use rows::{LocalRows, share_rows};
pub(crate) use sums::{Fold, Part};

use crate::error::Result;
use std::fmt::Debug;
use std::time::Duration;

/// A transport between the ranks `0..size`. Calls come from one thread at a time, in the same order on every rank.
///
/// A call must not wait for ever: a transport whose peer is gone, or has not answered within [`patience`], returns
/// [`Error::Comm`](crate::Error::Comm), after which it is not called again.
pub trait Comm: Debug + Send + Sync {
    /// This rank.
    fn rank(&self) -> usize;
    /// Number of ranks, at least 1.
    fn size(&self) -> usize;
    /// What it is, in a word: "mpi".
    fn name(&self) -> &str;
    /// Sends `sent` to rank `to` while receiving exactly `received.len()` bytes from rank `from`. Either may be empty:
    /// then nothing is moved in that direction, and the peer asks for nothing.
    ///
    /// # Errors
    /// [`Error::Comm`](crate::Error::Comm).
    fn send_recv(&self, sent: &[u8], to: usize, received: &mut [u8], from: usize) -> Result<()>;
    /// Gathers the `sent` of every rank, all of one length, in rank order into `received`.
    ///
    /// # Errors
    /// [`Error::Comm`](crate::Error::Comm).
    fn allgather(&self, sent: &[u8], received: &mut [u8]) -> Result<()>;
    /// Whether another rank is in trouble, as far as this transport can tell while none of its calls runs: asked by a rank
    /// that waits for something else to move its data.
    fn trouble(&self) -> Option<Trouble> {
        None
    }
    /// Makes the others' [`trouble`](Self::trouble) say that this rank fails.
    fn warn(&self) {}
}

/// What has happened to another rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It has ended without leaving in order.
    Died(usize),
    /// It is about to say, at the next agreement, that it has failed.
    Fails(usize),
}

/// How long a rank waits for another: `UNICON_COMM_TIMEOUT` seconds, half an hour without it.
pub fn patience() -> Duration {
    let seconds = std::env::var("UNICON_COMM_TIMEOUT").ok().and_then(|s| s.parse::<f64>().ok());
    let seconds = seconds.filter(|s| s.is_finite() && *s > 0.0).unwrap_or(1800.0);
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(1800))
}

/// One rank: nothing is moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Single;

impl Comm for Single {
    fn rank(&self) -> usize {
        0
    }
    fn size(&self) -> usize {
        1
    }
    fn name(&self) -> &str {
        "single"
    }
    fn send_recv(&self, sent: &[u8], _: usize, received: &mut [u8], _: usize) -> Result<()> {
        received.copy_from_slice(sent);
        Ok(())
    }
    fn allgather(&self, sent: &[u8], received: &mut [u8]) -> Result<()> {
        received.copy_from_slice(sent);
        Ok(())
    }
}
