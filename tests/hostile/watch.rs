//! What no input may bring about: a panic, a long time, a large allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of one allocation, of files of a few kilobytes.
const MOST: usize = 64 << 20;
/// Seconds of processor time: those of the clock say how busy the machine is.
const LONGEST: f64 = 2.0;

/// The system's allocator; it keeps the largest size that was ever asked for.
pub struct Counting;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Processor time of this thread in seconds.
fn spent() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a clock of this thread and room for its time.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) }, 0);
    t.tv_sec as f64 + 1e-9 * t.tv_nsec as f64
}

/// Runs one case. A panic, a long time or a large allocation fails the test, and says of which case.
pub fn watched<R>(case: impl Fn() -> String, run: impl FnOnce() -> R) -> R {
    let begin = spent();
    let out = catch_unwind(AssertUnwindSafe(run));
    let took = spent() - begin;
    let largest = LARGEST.load(Ordering::Relaxed);
    assert!(took < LONGEST, "{took} s: {}", case());
    assert!(largest <= MOST, "an allocation of {largest} bytes: {}", case());
    out.unwrap_or_else(|_| panic!("the panic above came of: {}", case()))
}

/// How many cases to run: what the environment asks for, or few.
pub fn cases(variable: &str, usual: u32) -> u32 {
    std::env::var(variable).ok().map_or(usual, |n| n.parse().expect("a number of cases"))
}
