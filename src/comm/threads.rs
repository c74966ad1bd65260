//! Ranks that are threads of one process.

use super::{Comm, Group, patience};
use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// `size` connected ranks, for one thread each. A rank that is dropped while its thread panics makes the calls of all
/// others fail.
pub fn ranks(size: usize) -> Vec<ThreadRank> {
    let size = size.max(1);
    let mail = (0..size * size).map(|_| VecDeque::new()).collect();
    let hub = Arc::new(Hub { size, state: Mutex::new(State { mail, gone: None }), news: Condvar::new() });
    (0..size).map(|rank| ThreadRank { rank, hub: hub.clone() }).collect()
}

/// Runs `f` as `size` ranks and returns what each of them returned.
///
/// # Panics
/// If a rank panics.
pub fn run<R: Send>(size: usize, f: impl Fn(Group) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let f = &f;
        let spawn = |rank: ThreadRank| scope.spawn(move || f(Group::new(Arc::new(rank))));
        let handles: Vec<_> = ranks(size).into_iter().map(spawn).collect();
        let joined = handles.into_iter().map(|h| h.join());
        joined.map(|r| r.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[derive(Debug)]
struct State {
    /// Messages from rank `k / size` to rank `k % size`, in order.
    mail: Vec<VecDeque<Vec<u8>>>,
    /// A rank that is no more.
    gone: Option<usize>,
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
        if std::thread::panicking() {
            self.hub.lock().gone.get_or_insert(self.rank);
            self.hub.news.notify_all();
        }
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
            if let Some(rank) = state.gone {
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
