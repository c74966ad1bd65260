//! Ranks that are processes of one machine, connected by Unix-domain sockets.
//!
//! Every pair has a socket of its own, in a folder that only the user can enter and that is gone once all are connected.
//! A message is its length, then its bytes. Whoever waits sleeps in the kernel, so that the cores are left to threads that
//! compute, and wakes to see whether a rank has died: its sockets are closed then, and the lock on its card is free (see
//! [`rendezvous`](super::rendezvous)), which says that it did not leave in order.

use super::launch::Launch;
use super::rendezvous::Meeting;
use super::{Comm, Trouble, patience};
use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::ffi::OsStr;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Bytes of a message's length.
const HEADER: usize = 8;
/// How often a rank that waits looks after the others.
const ROUND: Duration = Duration::from_millis(200);
/// How long after a rank's sockets have been closed its death may show.
const GRACE: Duration = Duration::from_millis(500);
/// A socket's address holds no longer path than this.
const ADDRESS: usize = 100;

/// One of the processes of a job on this machine.
#[derive(Debug)]
pub struct Local {
    rank: usize,
    size: usize,
    /// The sockets to the others; none to this rank itself.
    peers: Vec<Option<UnixStream>>,
    meeting: Meeting,
}

/// A message that is being sent.
struct Outgoing<'a> {
    to: usize,
    header: [u8; HEADER],
    bytes: &'a [u8],
    done: usize,
}

/// A message that is being received.
struct Incoming<'a> {
    from: usize,
    header: [u8; HEADER],
    bytes: &'a mut [u8],
    done: usize,
}

impl Local {
    /// Connects the ranks of `launch`. Where it takes long, `notice` is told for whom this rank waits.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when they are not all on this machine; [`Error::Comm`] naming a rank that has not come
    /// within [`patience`] or has died; [`Error::Io`].
    pub fn join(launch: &Launch, notice: &dyn Fn(&str)) -> Result<Self> {
        let mut folder = None;
        let meeting = Meeting::join_with(launch, notice, || {
            let made = private_folder()?;
            let path = made.path().as_os_str().as_bytes().to_vec();
            folder = Some(made);
            Ok(path)
        })?;
        Self::with(meeting, folder)
    }

    /// Connects ranks that have met; the `folder` is that of rank 0, which all were told.
    fn with(meeting: Meeting, folder: Option<TempDir>) -> Result<Self> {
        let (rank, size) = meeting.rank();
        let (_, here) = meeting.local();
        if here < size {
            let what = format!("{size} ranks of which {here} are on the machine of rank {rank}");
            return Err(Error::Unsupported(format!("{what}: only ranks on one machine connect without MPI")));
        }
        let path = PathBuf::from(OsStr::from_bytes(meeting.bytes()));
        let mut local = Self { rank, size, peers: (0..size).map(|_| None).collect(), meeting };
        // Not all may have seen yet that the meeting is complete: they are told.
        local.connect(&path).inspect_err(|e| local.meeting.fail(e))?;
        // All are connected when this is done: nobody needs the folder any more.
        local.allgather(&[1], &mut vec![0; size]).inspect_err(|e| local.meeting.fail(e))?;
        drop(folder);
        Ok(local)
    }

    /// This rank's place among those of its machine, and their number.
    pub fn place(&self) -> (usize, usize) {
        self.meeting.local()
    }

    /// Connects to the ranks below, and waits for those above.
    fn connect(&mut self, folder: &Path) -> Result<()> {
        let at = |rank: usize| folder.join(rank.to_string());
        let bad = |path: PathBuf| move |e| Error::io(path, e);
        let own = at(self.rank);
        let listener = UnixListener::bind(&own).map_err(bad(own.clone()))?;
        listener.set_nonblocking(true).map_err(bad(own.clone()))?;
        let begin = Instant::now();
        for k in 0..self.rank {
            let mut stream = loop {
                match UnixStream::connect(at(k)) {
                    Ok(stream) => break stream,
                    // It is not there yet.
                    Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                        self.look_early(begin, k)?;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(e) => return Err(Error::io(at(k), e)),
                }
            };
            stream.write_all(&(self.rank as u64).to_le_bytes()).map_err(bad(at(k)))?;
            self.peers[k] = Some(stream);
        }
        for missing in self.rank + 1..self.size {
            let mut stream = loop {
                match listener.accept() {
                    Ok((stream, _)) => break stream,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {
                        self.look_early(begin, missing)?;
                        let mut fds = [PollFd::new(&listener, PollFlags::IN)];
                        wait(&mut fds, ROUND)?;
                    }
                    Err(e) => return Err(Error::io(&own, e)),
                }
            };
            let mut header = [0; HEADER];
            stream.set_nonblocking(false).map_err(bad(own.clone()))?;
            stream.set_read_timeout(Some(patience())).map_err(bad(own.clone()))?;
            stream.read_exact(&mut header).map_err(bad(own.clone()))?;
            let k = usize::try_from(u64::from_le_bytes(header)).unwrap_or(usize::MAX);
            match self.peers.get_mut(k).filter(|_| k > self.rank) {
                Some(peer @ None) => *peer = Some(stream),
                _ => return Err(Error::Comm(format!("{} was called by rank {k}", own.display()))),
            }
        }
        self.peers.iter().flatten().try_for_each(|s| s.set_nonblocking(true)).map_err(bad(own))
    }

    fn peer(&self, rank: usize) -> Result<&UnixStream> {
        let peer = self.peers.get(rank).and_then(Option::as_ref);
        peer.ok_or_else(|| Error::Comm(format!("rank {} has no connection to rank {rank}", self.rank)))
    }

    /// Looks after the others while waiting for `rank`.
    fn look(&self, begin: Instant, rank: usize) -> Result<()> {
        if let Some(dead) = self.meeting.dead() {
            return Err(Error::Comm(format!("rank {dead} has died")));
        }
        let waited = begin.elapsed();
        if waited > patience() {
            let seconds = waited.as_secs_f64();
            return Err(Error::Comm(format!("rank {rank} has not answered in {seconds:.1} s")));
        }
        Ok(())
    }

    /// The same before all are connected, when nobody may leave.
    fn look_early(&self, begin: Instant, rank: usize) -> Result<()> {
        self.look(begin, rank)?;
        match self.meeting.left() {
            Some(rank) => Err(self.closed(rank)),
            None => Ok(()),
        }
    }

    /// Why a rank's socket is closed: it has died, or another has, or it has left.
    fn closed(&self, rank: usize) -> Error {
        let begin = Instant::now();
        while begin.elapsed() < GRACE {
            if let Some(dead) = self.meeting.dead() {
                return Error::Comm(format!("rank {dead} has died"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Error::Comm(format!("rank {rank} has left"))
    }

    /// Moves all messages, whichever can be.
    fn drive(&self, outgoing: &mut [Outgoing], incoming: &mut [Incoming]) -> Result<()> {
        let mut since = Instant::now();
        loop {
            let mut moved = false;
            for m in outgoing.iter_mut().filter(|m| m.left() > 0) {
                moved |= m.advance(self.peer(m.to)?).map_err(|()| self.closed(m.to))?;
            }
            for m in incoming.iter_mut().filter(|m| m.left() > 0) {
                moved |= m.advance(self.peer(m.from)?).map_err(|()| self.closed(m.from))?;
                m.check()?;
            }
            if moved {
                since = Instant::now();
                continue;
            }
            let mut fds = Vec::new();
            for m in outgoing.iter().filter(|m| m.left() > 0) {
                fds.push(PollFd::new(self.peer(m.to)?, PollFlags::OUT));
            }
            for m in incoming.iter().filter(|m| m.left() > 0) {
                fds.push(PollFd::new(self.peer(m.from)?, PollFlags::IN));
            }
            if fds.is_empty() {
                return Ok(());
            }
            if !wait(&mut fds, ROUND)? {
                let late = incoming.iter().find(|m| m.left() > 0).map(|m| m.from);
                let full = outgoing.iter().find(|m| m.left() > 0).map(|m| m.to);
                self.look(since, late.or(full).unwrap_or(self.rank))?;
            }
        }
    }
}

impl<'a> Outgoing<'a> {
    fn new(to: usize, bytes: &'a [u8]) -> Self {
        Self { to, header: (bytes.len() as u64).to_le_bytes(), bytes, done: 0 }
    }

    fn left(&self) -> usize {
        HEADER + self.bytes.len() - self.done
    }

    /// Sends what the socket takes; whether that was anything. An error: it is closed.
    fn advance(&mut self, mut socket: &UnixStream) -> std::result::Result<bool, ()> {
        let header = &self.header[self.done.min(HEADER)..];
        let bytes = &self.bytes[self.done.saturating_sub(HEADER)..];
        let sent = again(socket.write_vectored(&[IoSlice::new(header), IoSlice::new(bytes)]))?;
        self.done += sent;
        Ok(sent > 0)
    }
}

impl<'a> Incoming<'a> {
    fn new(from: usize, bytes: &'a mut [u8]) -> Self {
        Self { from, header: [0; HEADER], bytes, done: 0 }
    }

    fn left(&self) -> usize {
        HEADER + self.bytes.len() - self.done
    }

    /// Takes what has come; whether that was anything. An error: the socket is closed.
    fn advance(&mut self, mut socket: &UnixStream) -> std::result::Result<bool, ()> {
        let header = &mut self.header[self.done.min(HEADER)..];
        let bytes = &mut self.bytes[self.done.saturating_sub(HEADER)..];
        let came = match socket.read_vectored(&mut [IoSliceMut::new(header), IoSliceMut::new(bytes)]) {
            Ok(0) => return Err(()),
            came => again(came)?,
        };
        self.done += came;
        Ok(came > 0)
    }

    /// Whether the length is the one that was expected, once it is known.
    fn check(&self) -> Result<()> {
        let got = u64::from_le_bytes(self.header);
        if self.done >= HEADER && got != self.bytes.len() as u64 {
            let (expected, from) = (self.bytes.len(), self.from);
            return Err(Error::Comm(format!("expected {expected} bytes from rank {from}, got {got}")));
        }
        Ok(())
    }
}

/// Bytes moved, none where the socket was not ready.
fn again(moved: std::io::Result<usize>) -> std::result::Result<usize, ()> {
    match moved {
        Ok(bytes) => Ok(bytes),
        Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        Err(_) => Err(()),
    }
}

/// Sleeps until one of them is ready, or the time is over; whether one is.
fn wait(fds: &mut [PollFd], time: Duration) -> Result<bool> {
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    match poll(fds, Some(&time)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(e) => Err(Error::Comm(format!("poll: {e}"))),
    }
}

/// A folder that only the user can enter, with a path short enough for the addresses of sockets.
fn private_folder() -> Result<TempDir> {
    let temp = std::env::temp_dir();
    let parent = if temp.as_os_str().len() + 30 < ADDRESS { temp.as_path() } else { Path::new("/tmp") };
    // 0700.
    tempfile::Builder::new().prefix("unicon-").tempdir_in(parent).map_err(|e| Error::io(parent, e))
}

impl Comm for Local {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn name(&self) -> &str {
        "local"
    }

    fn send_recv(&self, sent: &[u8], to: usize, received: &mut [u8], from: usize) -> Result<()> {
        let mut outgoing = (!sent.is_empty()).then(|| Outgoing::new(to, sent));
        let mut incoming = (!received.is_empty()).then(|| Incoming::new(from, received));
        self.drive(outgoing.as_mut_slice(), incoming.as_mut_slice())
    }

    fn allgather(&self, sent: &[u8], received: &mut [u8]) -> Result<()> {
        if sent.is_empty() {
            return Ok(());
        }
        let others = (0..self.size).filter(|&k| k != self.rank);
        let mut outgoing: Vec<_> = others.map(|k| Outgoing::new(k, sent)).collect();
        let mut incoming = Vec::new();
        for (k, part) in received.chunks_exact_mut(sent.len()).enumerate() {
            if k == self.rank {
                part.copy_from_slice(sent);
            } else {
                incoming.push(Incoming::new(k, part));
            }
        }
        self.drive(&mut outgoing, &mut incoming)
    }

    fn trouble(&self) -> Option<Trouble> {
        let failing = || self.meeting.warned().map(|(rank, _)| Trouble::Fails(rank));
        self.meeting.dead().map(Trouble::Died).or_else(failing)
    }

    fn warn(&self, reason: &str) {
        self.meeting.warn(reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Group;
    use std::sync::Arc;

    /// Runs `f` as so many ranks, each a thread with its own sockets.
    fn run<R: Send>(size: usize, f: impl Fn(Local) -> R + Sync) -> Vec<R> {
        let dir = tempfile::tempdir().unwrap();
        let place = &dir.path().join("job");
        let out = std::thread::scope(|scope| {
            let f = &f;
            let start = |rank: usize| {
                scope.spawn(move || {
                    let mut folder = None;
                    let meeting = Meeting::at(place, (rank, size), &|_| (), || {
                        let made = private_folder()?;
                        let path = made.path().as_os_str().as_bytes().to_vec();
                        folder = Some(made);
                        Ok(path)
                    });
                    f(Local::with(meeting.unwrap(), folder).unwrap())
                })
            };
            let handles: Vec<_> = (0..size).map(start).collect();
            handles.into_iter().map(|h| h.join().unwrap()).collect()
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        out
    }

    #[test]
    fn messages_larger_than_any_buffer_pass_each_other() {
        // Far more than a socket holds: all send before anybody has read.
        let bytes = |k: usize| (0..(5 << 20) + k).map(|i| (i * 7 + k) as u8).collect::<Vec<u8>>();
        let ok = run(3, |local| {
            let (me, to, from) = (local.rank(), (local.rank() + 1) % 3, (local.rank() + 2) % 3);
            let mut got = vec![0; bytes(from).len()];
            local.send_recv(&bytes(me), to, &mut got, from).unwrap();
            assert_eq!(got, bytes(from));
            // One direction only, and all to all.
            match me {
                0 => local.send_recv(&bytes(0), 1, &mut [], 2).unwrap(),
                1 => {
                    let mut got = vec![0; bytes(0).len()];
                    local.send_recv(&[], 0, &mut got, 0).unwrap();
                    assert_eq!(got, bytes(0));
                }
                _ => {}
            }
            let mut all = vec![0; 3 << 20];
            local.allgather(&vec![me as u8; 1 << 20], &mut all).unwrap();
            (0..3).all(|k| all[k << 20..(k + 1) << 20].iter().all(|&v| v == k as u8))
        });
        assert_eq!(ok, [true; 3]);
    }

    #[test]
    fn groups_work_over_it() {
        let out = run(4, |local| {
            let g = Group::new(Arc::new(local));
            let all = g.allgather(&vec![g.rank() as u32; g.rank()]).unwrap();
            let same = g.same(g.rank() as f64 + 0.5).unwrap();
            let out = (0..4).map(|k| vec![(10 * g.rank() + k) as u64; k]).collect();
            let back = g.exchange(out).unwrap();
            assert!((0..4).all(|k| back[k] == vec![(10 * k + g.rank()) as u64; g.rank()]));
            g.conclude(Ok((all, same))).unwrap()
        });
        let expected = (0..4).map(|k| vec![k as u32; k]).collect::<Vec<_>>();
        assert!(out.iter().all(|(all, same)| *all == expected && *same == 0.5));
    }

    #[test]
    fn a_message_of_another_length_is_an_error() {
        let said = run(2, |local| match local.rank() {
            0 => local.send_recv(&[1, 2, 3], 1, &mut [], 1).map_err(|e| e.to_string()),
            _ => local.send_recv(&[], 0, &mut [0; 2], 0).map_err(|e| e.to_string()),
        });
        assert_eq!(said[1], Err("communicator: expected 2 bytes from rank 0, got 3".into()));
    }

    #[test]
    fn who_has_left_is_named() {
        let said = run(3, |local| match local.rank() {
            2 => String::new(),
            me => local.send_recv(&[me as u8], 1 - me, &mut [0], 2).unwrap_err().to_string(),
        });
        assert!(said[..2].iter().all(|s| s == "communicator: rank 2 has left"), "{said:?}");
    }
}
