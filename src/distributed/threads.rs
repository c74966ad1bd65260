//! Ranks that are threads of one process.

use super::{Comm, Group, Trouble, patience};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// `size` connected ranks, for one thread each. A rank that is dropped while its thread panics makes the calls of all
/// others fail; one that is dropped otherwise, the calls that wait for it.
pub fn ranks(size: usize) -> Vec<ThreadRank> {
    let size = size.max(1);
    let mail = (0..size * size).map(|_| VecDeque::new()).collect();
    let hub = Arc::new(Hub {
        size,
        state: Mutex::new(State { mail, left: vec![false; size], gone: None, failing: None }),
        news: Condvar::new(),
    });
    (0..size).map(|rank| ThreadRank { rank, hub: hub.clone() }).collect()
}

/// The stack of a rank's thread.
const STACK: usize = 8 << 20;

/// Runs `f` with each of the inputs, which are those of one rank each: the first on this thread, each of the others on one of
/// its own.
///
/// # Errors
/// In the place of a result: [`Error::Comm`] where the system grants no thread. The input is dropped then, and with it the
/// [`ThreadRank`] that others wait for.
///
/// # Panics
/// If `f` does, after all have ended.
pub(crate) fn on_each<I: Send, R: Send>(
    inputs: impl IntoIterator<Item = I>,
    f: impl Fn(I) -> R + Sync,
) -> Vec<Result<R>> {
    let mut inputs = inputs.into_iter();
    let Some(first) = inputs.next() else { return Vec::new() };
    std::thread::scope(|scope| {
        let f = &f;
        let spawn =
            |input| std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || f(input));
        let others: Vec<_> = inputs.map(spawn).collect();
        let mut out = vec![Ok(f(first))];
        out.extend(others.into_iter().map(|other| match other {
            Ok(thread) => Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
            Err(e) => {
                let text = format!("the system grants no thread: {e} (see ulimit -u and ulimit -v)");
                Err(Error::Comm(text))
            }
        }));
        out
    })
}

/// Runs `f` as `size` ranks and returns what each of them returned.
///
/// # Panics
/// If a rank panics, or the system grants no thread.
pub fn run<R: Send>(size: usize, f: impl Fn(Group) -> R + Sync) -> Vec<R> {
    let groups = ranks(size).into_iter().map(|rank| Group::new(Arc::new(rank)));
    on_each(groups, f).into_iter().map(|r| r.expect("a thread")).collect()
}

#[derive(Debug)]
struct State {
    /// Messages from rank `k / size` to rank `k % size`, in order.
    mail: Vec<VecDeque<Vec<u8>>>,
    /// Ranks that have been dropped.
    left: Vec<bool>,
    /// A rank whose thread has panicked.
    gone: Option<usize>,
    /// A rank that is about to say that it has failed.
    failing: Option<usize>,
}

#[derive(Debug)]
struct Hub {
    size: usize,
    state: Mutex<State>,
    news: Condvar,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the [`ranks`].
#[derive(Debug)]
pub struct ThreadRank {
    rank: usize,
    hub: Arc<Hub>,
}

impl Drop for ThreadRank {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.left[self.rank] = true;
        if std::thread::panicking() {
            state.gone.get_or_insert(self.rank);
        }
        drop(state);
        self.hub.news.notify_all();
    }
}

impl ThreadRank {
    fn send(&self, sent: &[u8], to: usize) {
        let slot = self.rank * self.hub.size + to;
        let message = sent.to_vec();
        self.hub.lock().mail[slot].push_back(message);
        self.hub.news.notify_all();
    }

    fn receive(&self, out: &mut [u8], from: usize) -> Result<()> {
        let slot = from * self.hub.size + self.rank;
        let until = Instant::now() + patience();
        let mut state = self.hub.lock();
        loop {
            if let Some(message) = state.mail[slot].pop_front() {
                drop(state);
                if message.len() != out.len() {
                    let text =
                        format!("expected {} bytes from rank {from}, got {}", out.len(), message.len());
                    return Err(Error::Comm(text));
                }
                out.copy_from_slice(&message);
                return Ok(());
            }
            if let Some(rank) = state.gone.or(state.left[from].then_some(from)) {
                return Err(Error::Comm(format!("rank {rank} is gone")));
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return Err(Error::Comm(format!("rank {from} has not answered in time")));
            };
            state = self.hub.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Comm for ThreadRank {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.hub.size
    }
    fn name(&self) -> &str {
        "threads"
    }
    fn send_recv(&self, sent: &[u8], to: usize, received: &mut [u8], from: usize) -> Result<()> {
        if !sent.is_empty() {
            self.send(sent, to);
        }
        if received.is_empty() { Ok(()) } else { self.receive(received, from) }
    }
    fn allgather(&self, sent: &[u8], received: &mut [u8]) -> Result<()> {
        if sent.is_empty() {
            return Ok(());
        }
        (0..self.size()).filter(|&k| k != self.rank).for_each(|k| self.send(sent, k));
        for (k, out) in received.chunks_exact_mut(sent.len()).enumerate() {
            if k == self.rank { out.copy_from_slice(sent) } else { self.receive(out, k)? }
        }
        Ok(())
    }
    fn trouble(&self) -> Option<Trouble> {
        let state = self.hub.lock();
        state.gone.map(Trouble::Died).or(state.failing.map(Trouble::Fails))
    }
    fn warn(&self) {
        self.hub.lock().failing.get_or_insert(self.rank);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collectives_do_what_their_names_say() {
        for size in 1..=5 {
            let out = run(size, |g: Group| {
                let me = g.rank();
                let all = g.allgather(&vec![me as u32; me]).unwrap();
                let mut data = vec![0u32; 200_003];
                if me == size - 1 {
                    data.iter_mut().enumerate().for_each(|(i, v)| *v = i as u32);
                }
                g.broadcast(size - 1, &mut data).unwrap();
                assert!(data.iter().enumerate().all(|(i, v)| *v == i as u32));
                let out = (0..size).map(|k| vec![(10 * me + k) as u64; k + me]).collect();
                let back = g.exchange(out).unwrap();
                for (k, got) in back.iter().enumerate() {
                    assert_eq!(got, &vec![(10 * k + me) as u64; k + me]);
                }
                assert_eq!(g.same(me as f64 + 0.5).unwrap(), 0.5);
                assert_eq!(g.any(me == 2).unwrap(), size > 2);
                g.conclude(Ok(all)).unwrap()
            });
            for all in out {
                assert_eq!(all, (0..size).map(|k| vec![k as u32; k]).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_rank_that_fails_takes_the_others_along_with_its_reason() {
        let out = run(3, |g: Group| {
            let work = || {
                g.barrier()?;
                if g.rank() == 1 {
                    return Err(Error::bad_file("part-1.npy", "is empty"));
                }
                g.same(1.0f64)?;
                g.barrier()
            };
            let result = g.conclude(work()).unwrap_err().to_string();
            (result, g.speaks())
        });
        assert_eq!(out[0].0, "communicator: rank 1: part-1.npy: is empty");
        assert_eq!(out[1].0, "part-1.npy: is empty");
        assert_eq!(out[2].0, out[0].0);
        assert_eq!(out.iter().map(|o| o.1.0).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn one_that_finishes_early_or_does_something_else_is_noticed() {
        let out = run(2, |g: Group| {
            let work = || if g.rank() == 0 { Ok(()) } else { g.barrier() };
            g.conclude(work()).unwrap_err().to_string()
        });
        assert!(out.iter().all(|text| text.contains("the ranks disagree")), "{out:?}");
        let out = run(2, |g: Group| {
            let mut data = vec![0u8; 8 + g.rank()];
            g.broadcast(0, &mut data).unwrap_err().to_string()
        });
        assert!(out.iter().all(|text| text.contains("the ranks disagree")), "{out:?}");
    }

    #[test]
    fn a_rank_that_dies_is_named() {
        let out: Vec<_> = std::thread::scope(|scope| {
            let spawn = |rank: ThreadRank| {
                scope.spawn(move || {
                    let g = Group::new(Arc::new(rank));
                    g.barrier().unwrap();
                    assert!(g.rank() != 2, "killed");
                    g.conclude(g.barrier()).unwrap_err().to_string()
                })
            };
            let handles: Vec<_> = ranks(3).into_iter().map(spawn).collect();
            handles.into_iter().map(|h| h.join()).collect()
        });
        assert!(out[2].is_err());
        for text in out.into_iter().take(2) {
            assert_eq!(text.unwrap(), "communicator: rank 2 is gone");
        }
    }
}
