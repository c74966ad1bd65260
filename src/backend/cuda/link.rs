//! What moves data between the ranks' devices without the host: NCCL, on a stream of its own.
//!
//! The ranks decide together whether it is used. Every transfer is agreed on through the group's transport first, so that
//! a rank that cannot go on is heard; then it is enqueued behind the work that makes its data, and runs beside what is
//! computed until someone [waits](Transfer::wait) for it. A wait looks after the other ranks: when one dies or fails, or
//! none answers within [`patience`], what is under way is aborted.

use super::channel::{Channel, Move};
use super::nccl::{self, ID, UniqueId, Wish};
use super::stream::{Event, Stream};
use crate::distributed::{Group, patience};
use crate::error::{Error, Result};
use bytemuck::{Pod, Zeroable};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most time that starting NCCL may take: where it cannot, data passes through the host.
const START: Duration = Duration::from_secs(120);

/// The connection of this rank's device to those of the others.
pub(super) struct Link {
    channel: Channel,
    group: Group,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NCCL {}", self.version())
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

/// Whether the ranks' devices are connected: the connection, or why data passes through the host. All ranks come to the
/// same decision.
///
/// # Errors
/// [`Error::Unsupported`] where a rank has `UNICON_NCCL=require` and they are not; [`Error::Comm`].
pub(super) fn connect(stream: &Arc<Stream>, group: &Group) -> Result<std::result::Result<Arc<Link>, String>> {
    stream.enter()?;
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
        device: stream.uuid()?,
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
    let look = || group.look();
    // Shorter than the others wait for this rank at the agreement that follows.
    let within = START.min(patience() / 2);
    let place = (group.rank(), group.size());
    let begun = Channel::join(nccl, stream, UniqueId(votes[0].id), place, within, &look);
    // Nobody goes on alone.
    let why = begun.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let whys = group.allgather(why.as_bytes())?;
    match (begun, whys.iter().position(|why| !why.is_empty())) {
        (Ok(channel), None) => Ok(Ok(Arc::new(Link { channel, group: group.clone() }))),
        (_, k) => {
            // What NCCL says explains more than that somebody has not come.
            let said = whys.iter().position(|why| why.starts_with(b"CUDA: "));
            let k = said.or(k).unwrap_or(0);
            refused(format!("rank {k}: {}", String::from_utf8_lossy(&whys[k])))
        }
    }
}

impl Link {
    pub(super) fn version(&self) -> String {
        self.channel.nccl.version_text()
    }

    /// Looks after the other ranks; `late`: none has answered.
    fn look(&self, late: bool) -> Result<()> {
        self.group.look()?;
        // Through the group's transport the one that is late has a name.
        if late { self.group.enter_beside() } else { Ok(()) }
    }

    /// Begins a transfer behind all that is enqueued on the device now. All ranks begin the same transfers in the same order;
    /// what one sends to another, that one receives.
    ///
    /// # Errors
    /// [`Error::Comm`] when another rank has failed; [`Error::Cuda`] when NCCL has.
    pub(super) fn begin(&self, moves: &[Move]) -> Result<Transfer<'_>> {
        self.group.enter_beside()?;
        let channel = &self.channel;
        let mut transfer = Transfer {
            link: self,
            events: [Event::new(&channel.work, true)?, Event::new(&channel.work, true)?],
            asked: Instant::now(),
            sent: 0,
            received: 0,
            waited: false,
        };
        let [ready, end] = &transfer.events;
        ready.record(&channel.work)?;
        ready.hold_back(&channel.stream)?;
        // From here on it is when the transfer itself could begin.
        ready.record(&channel.stream)?;
        channel.enqueue(moves, &|late| self.look(late))?;
        end.record(&channel.stream)?;
        let (rank, others) = (self.group.rank(), (self.group.size() - 1) as u64);
        for m in moves {
            let bytes = m.bytes() as u64;
            match *m {
                Move::Send { .. } => transfer.sent += bytes,
                Move::Receive { .. } => transfer.received += bytes,
                // Every byte is received once by each of the others, and sent once for each.
                Move::Broadcast { root, .. } if root == rank => transfer.sent += others * bytes,
                Move::Broadcast { .. } => transfer.received += bytes,
            }
        }
        Ok(transfer)
    }
}

/// Data on its way. One that is dropped, for this rank has failed meanwhile, is waited for: the others have asked for it, too, and
/// hear of the failure when they have it.
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
        let (link, begin) = (self.link, Instant::now());
        let hidden = begin - self.asked;
        link.channel.wait(&self.events[1], &|late| link.look(late))?;
        self.waited = true;
        let took = Duration::from_secs_f32(self.events[1].since(&self.events[0])?.max(0.0) * 1e-3);
        let exposed = begin.elapsed();
        // What the host has not seen of it passed beside the computation.
        let hidden = hidden.min(took.saturating_sub(exposed));
        link.group.moved_beside(self.sent, self.received, exposed + hidden, hidden);
        Ok(())
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        if !self.waited {
            // Its memory is about to be given back. A wait that fails has ended the connection.
            let _ = self.link.channel.wait(&self.events[1], &|late| self.link.look(late));
        }
    }
}
