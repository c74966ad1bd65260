//! Threads: how many there are, what stacks they have, and what becomes of them in a child of `fork()`.
//!
//! All parallel work of this crate runs on threads of its own, never on rayon's global ones, which cannot be made anew:
//! in a child of `fork()` only the forking thread lives on, and whoever waits for another waits for ever. A `Threads`
//! notices that it is in such a child and starts its threads again there.

use crate::error::{Error, Result};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Once, OnceLock, Weak};

/// The most threads that can be asked for.
pub const MOST: usize = 1024;

/// Bytes of stack of each thread, whatever `RUST_MIN_STACK` and `ulimit -s` say.
const STACK: usize = 2 << 20;

/// What is read for the number of threads where nobody says one, the first that is a number from 1 to [`MOST`]; after
/// them the cores that this process may use (its affinity and the CPU quota of its control group).
pub const VARIABLES: [&str; 4] =
    ["UNICON_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"];

/// A number of threads, and why this many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The number.
    pub threads: usize,
    /// The variable that says so; none: the cores there are.
    pub variable: Option<&'static str>,
    /// Variables whose values are no numbers of threads, as `NAME=value`.
    pub ignored: Vec<String>,
}

/// The number of threads where nobody says one: the first of [`VARIABLES`] that is set, else one a core.
///
/// `OMP_NUM_THREADS` may be a list, of which the first entry counts. `SLURM_CPUS_PER_TASK` counts up to the cores that
/// this process may use, for it stays in the environment of whatever a job starts.
pub fn default_count(variable: impl Fn(&str) -> Option<String>) -> Count {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MOST);
    let mut ignored = Vec::new();
    for name in VARIABLES {
        let Some(text) = variable(name).filter(|text| !text.trim().is_empty()) else { continue };
        let first = if name.starts_with("OMP") { text.split(',').next().unwrap_or("") } else { &text };
        match first.trim().parse::<usize>() {
            // Rayon's spelling of "as many as there are cores".
            Ok(0) if name.starts_with("RAYON") => {}
            Ok(n) if (1..=MOST).contains(&n) => {
                let threads = if name.starts_with("SLURM") { n.min(cores) } else { n };
                return Count { threads, variable: Some(name), ignored };
            }
            _ => ignored.push(format!("{name}={text}")),
        }
    }
    Count { threads: cores, variable: None, ignored }
}

/// What [`set_default`] said; 0: nothing.
static DEFAULT: AtomicUsize = AtomicUsize::new(0);

/// Sets the number of threads of whatever has no backend of its own (reading files, drawing pages), from the first such
/// work on, and of backends that are asked for 0 threads. 0: as [`default_count`] reads the environment.
///
/// The operators of faer's matrices become sequential in this process, as the first backend makes them.
pub fn set_default(threads: usize) {
    crate::dense::settle();
    DEFAULT.store(threads.min(MOST), Ordering::Relaxed);
}

fn default_threads() -> usize {
    match DEFAULT.load(Ordering::Relaxed) {
        0 => default_count(|name| std::env::var(name).ok()).threads,
        n => n,
    }
}

static FORKS: AtomicU32 = AtomicU32::new(0);

/// How many times this process and its ancestors have forked into what it is now.
pub(crate) fn forks() -> u32 {
    extern "C" fn in_child() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        // SAFETY: the handler only adds to an atomic, which is all that a child of a process with threads may do.
        // It can fail for want of memory only; a fork then goes unnoticed.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
    FORKS.load(Ordering::Relaxed)
}

thread_local! {
    /// Whether this thread is one of a [`Threads`].
    static OURS: Cell<bool> = const { Cell::new(false) };
    /// The threads that this one has last handed work to.
    static LAST: RefCell<Weak<Threads>> = const { RefCell::new(Weak::new()) };
}

/// A pool of threads that outlives `fork()`: in the child it starts its threads anew when they are first needed.
#[derive(Debug)]
pub(crate) struct Threads {
    count: usize,
    first: OnceLock<Box<Pool>>,
}

/// The threads of one process, and those that a child of it started.
#[derive(Debug)]
struct Pool {
    born: u32,
    pool: Option<rayon::ThreadPool>,
    next: OnceLock<Box<Pool>>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Threads of the parent do not answer here, and what they had locked stays locked.
        if self.born != forks() {
            std::mem::forget(self.pool.take());
        }
    }
}

fn start(count: usize) -> Result<Box<Pool>> {
    let born = forks();
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .stack_size(STACK)
        .thread_name(|i| format!("unicon-{i}"))
        .start_handler(|_| OURS.set(true))
        .build()
        .map_err(|e| {
            let expected = "a number of threads that the system grants (see ulimit -u and ulimit -v)";
            Error::invalid("threads", expected, format!("{count}: {e}"))
        })?;
    Ok(Box::new(Pool { born, pool: Some(pool), next: OnceLock::new() }))
}

impl Threads {
    /// `count` threads, started now; 0: as many as [`default_count`] says.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more than [`MOST`], and when the system does not grant them.
    pub(crate) fn new(count: usize) -> Result<Self> {
        if count > MOST {
            return Err(Error::invalid("threads", format!("0 to {MOST}"), count));
        }
        let threads = Self::lazy(if count == 0 { default_threads() } else { count });
        threads.revive()?;
        Ok(threads)
    }

    fn lazy(count: usize) -> Self {
        Self { count, first: OnceLock::new() }
    }

    /// Number of threads.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Starts the threads where this process has none yet.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the system does not grant them.
    pub(crate) fn revive(&self) -> Result<()> {
        self.pool(&|| start(self.count)).map(|_| ())
    }

    fn pool(&self, make: &dyn Fn() -> Result<Box<Pool>>) -> Result<&rayon::ThreadPool> {
        let now = forks();
        let mut place = &self.first;
        loop {
            if place.get().is_none() {
                // Somebody else may have been faster: then that pool is used and this one ends.
                let _ = place.set(make()?);
            }
            match place.get().map(|pool| &**pool) {
                Some(Pool { born, pool: Some(pool), .. }) if *born == now => return Ok(pool),
                Some(other) => place = &other.next,
                None => {}
            }
        }
    }

    /// Runs `f` on these threads, and from now on what this thread hands to [`run`].
    pub(crate) fn install<R: Send>(self: &Arc<Self>, f: impl FnOnce() -> R + Send) -> R {
        if !OURS.get() {
            LAST.with_borrow_mut(|last| {
                if !std::ptr::eq(last.as_ptr(), Arc::as_ptr(self)) {
                    *last = Arc::downgrade(self);
                }
            });
        }
        self.any().install(f)
    }

    /// Runs `f` here, and what it spawns on these threads, until all is done.
    pub(crate) fn in_place_scope<'scope, R>(&self, f: impl FnOnce(&rayon::Scope<'scope>) -> R) -> R {
        self.any().in_place_scope(f)
    }

    /// The threads of this process, fewer than were asked for if it must be: they do the same work. With none at all there
    /// is nothing to go on with.
    fn any(&self) -> &rayon::ThreadPool {
        let fewer = || {
            let halves = std::iter::successors(Some(self.count), |n| (*n > 1).then_some(n / 2));
            let mut last = Error::invalid("threads", "at least 1", 0);
            for count in halves {
                match start(count) {
                    Ok(pool) => return Ok(pool),
                    Err(e) => last = e,
                }
            }
            Err(last)
        };
        match self.pool(&fewer) {
            Ok(pool) => pool,
            Err(e) => panic!("{e}"),
        }
    }
}

/// Runs `f` on this crate's threads: here if this is one of them, else on those of the backend that this thread used last,
/// else on those that all of the process share.
pub(crate) fn run<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    if OURS.get() {
        return f();
    }
    static SHARED: OnceLock<Arc<Threads>> = OnceLock::new();
    let threads = LAST.with_borrow(Weak::upgrade);
    threads
        .unwrap_or_else(|| SHARED.get_or_init(|| Arc::new(Threads::lazy(default_threads()))).clone())
        .install(f)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    fn count(variables: &[(&str, &str)]) -> Count {
        default_count(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn the_environment_says_how_many_threads() {
        let cores = std::thread::available_parallelism().unwrap().get();
        assert_eq!(count(&[]), Count { threads: cores, variable: None, ignored: vec![] });
        let omp = count(&[("OMP_NUM_THREADS", "3,2"), ("SLURM_CPUS_PER_TASK", "1")]);
        assert_eq!((omp.threads, omp.variable), (3, Some("OMP_NUM_THREADS")));
        let own = count(&[("OMP_NUM_THREADS", "3"), ("UNICON_THREADS", " 5 ")]);
        assert_eq!((own.threads, own.variable), (5, Some("UNICON_THREADS")));
        assert_eq!(count(&[("SLURM_CPUS_PER_TASK", "1000")]).threads, cores);
        assert_eq!(count(&[("SLURM_CPUS_PER_TASK", "1")]).threads, 1);
        for nonsense in ["many", "-1", "0", "1025", "1e3", "99999999999999999999"] {
            let read =
                count(&[("UNICON_THREADS", nonsense), ("RAYON_NUM_THREADS", "0"), ("OMP_NUM_THREADS", "")]);
            let ignored = vec![format!("UNICON_THREADS={nonsense}")];
            assert_eq!(read, Count { threads: cores, variable: None, ignored });
        }
    }

    #[test]
    fn numbers_that_no_system_grants_are_refused() {
        let text = Threads::new(1_000_000).unwrap_err().to_string();
        assert_eq!(text, "threads: expected 0 to 1024, got 1000000");
        assert_eq!(Threads::new(3).unwrap().count(), 3);
    }

    #[test]
    fn work_runs_on_the_threads_used_last_and_nested_work_on_its_own() {
        let (two, three) = (Arc::new(Threads::new(2).unwrap()), Arc::new(Threads::new(3).unwrap()));
        let seen = rayon::current_num_threads;
        assert_eq!(three.install(|| run(seen)), 3);
        assert_eq!(run(seen), 3);
        assert_eq!(two.install(|| run(seen)), 2);
        assert_eq!(run(|| run(seen)), 2);
        drop(two);
        assert_eq!(run(seen), default_threads());
        assert_eq!(three.install(|| (0..100u64).into_par_iter().sum::<u64>()), 4950);
    }
}
