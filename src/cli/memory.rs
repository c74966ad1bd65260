//! Out of memory is one line and an exit code, wherever the memory was wanted.

use super::signals;
use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, of which a refusal ends the program with a line that says so, instead of an abort.
pub struct Allocator;

// SAFETY: what the system's allocator does, but for refusals, which do not return.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        had(unsafe { System.alloc(layout) }, layout.size())
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on.
        had(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }
    unsafe fn realloc(&self, data: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: passed on.
        had(unsafe { System.realloc(data, layout, size) }, size)
    }
    unsafe fn dealloc(&self, data: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(data, layout) }
    }
}

#[inline]
fn had(data: *mut u8, size: usize) -> *mut u8 {
    if data.is_null() {
        refused(size);
    }
    data
}

/// Says how many bytes were not to be had, without any.
#[cold]
fn refused(size: usize) -> ! {
    let (mut digits, mut at, mut rest) = ([0u8; 20], 20, size);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    signals::say(&[
        b"unicon: out of memory: ",
        &digits[at..],
        b" more bytes are not to be had; free memory, raise the limit (ulimit -v), or give --memory-limit or less data",
    ]);
    signals::end(1)
}
