//! What the fuzz targets share: the C ABI as its header has it, a file in memory, bytes before a wall.

#![allow(dead_code)] // No target uses all of it.

// The functions are the library's own, linked in.
use unicon_under_test as _;

#[path = "../../src/ffi/bindings.rs"]
#[rustfmt::skip]
pub mod bindings;

use bindings::*;
use std::ffi::{CStr, CString, c_void};
use std::sync::OnceLock;

struct Shared(*mut unicon_context_t);
// SAFETY: contexts may be used from any thread, one call at a time; libFuzzer has one.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// A context of one thread whose matrices stay small.
pub fn context() -> *mut unicon_context_t {
    static CONTEXT: OnceLock<Shared> = OnceLock::new();
    let make = || {
        let mut context = std::ptr::null_mut();
        // SAFETY: structs and outputs as the header asks.
        unsafe {
            let mut o: unicon_context_options = std::mem::zeroed();
            assert_eq!(unicon_context_options_init(&mut o, size_of_val(&o)), 0);
            (o.n_threads, o.workspace_limit) = (1, 1 << 20);
            assert_eq!(unicon_context_create(&o, &mut context), 0);
        }
        Shared(context)
    };
    CONTEXT.get_or_init(make).0
}

/// A row-major float64 matrix.
pub fn matrix(values: &mut [f64], rows: i64, cols: i64) -> unicon_matrix {
    assert!(values.len() as i64 >= rows * cols);
    unicon_matrix {
        data: values.as_mut_ptr().cast(),
        rows,
        cols,
        row_stride: cols,
        col_stride: 1,
        dtype: UNICON_F64 as i32,
        device_type: UNICON_DEVICE_CPU as i32,
        device_id: 0,
        reserved: 0,
    }
}

/// A file that is never on a disk; one per target.
pub struct File(OnceLock<(i32, CString)>);

impl Default for File {
    fn default() -> Self {
        Self::new()
    }
}

impl File {
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Its path, once it holds `bytes`.
    pub fn with(&self, bytes: &[u8]) -> &CStr {
        let (fd, path) = self.0.get_or_init(|| {
            // SAFETY: a name, no flags.
            let fd = unsafe { libc::memfd_create(c"fuzz".as_ptr(), 0) };
            assert!(fd >= 0, "memfd_create");
            (fd, CString::new(format!("/proc/self/fd/{fd}")).expect("no NUL"))
        });
        // SAFETY: our own descriptor; `bytes` is as long as said.
        unsafe {
            assert_eq!(libc::ftruncate(*fd, 0), 0);
            assert_eq!(libc::pwrite(*fd, bytes.as_ptr().cast(), bytes.len(), 0), bytes.len() as isize);
        }
        path
    }
}

/// Room for a struct that ends where memory ends: a byte read or written beyond it ends the program.
pub struct Walled {
    page: *mut u8,
    len: usize,
}

const PAGE: usize = 1 << 14;

impl Walled {
    pub fn new() -> Self {
        // SAFETY: fresh memory of our own, of which the second half is closed.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let page =
                libc::mmap(std::ptr::null_mut(), 2 * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(page, libc::MAP_FAILED);
            assert_eq!(
                libc::mprotect(page.cast::<u8>().add(PAGE).cast::<c_void>(), PAGE, libc::PROT_NONE),
                0
            );
            Self { page: page.cast(), len: 0 }
        }
    }

    /// Holds `bytes`, rounded up to whole words so that they begin aligned; the length they were rounded to.
    pub fn fill(&mut self, bytes: &[u8]) -> usize {
        self.len = bytes.len().next_multiple_of(8).clamp(8, PAGE);
        let bytes = &bytes[..bytes.len().min(PAGE)];
        // SAFETY: within the open half.
        unsafe {
            let start = self.page.add(PAGE - self.len);
            start.write_bytes(0, self.len);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, bytes.len());
        }
        self.len
    }

    pub fn pointer<T>(&self) -> *mut T {
        // SAFETY: within the open half.
        unsafe { self.page.add(PAGE - self.len).cast() }
    }

    /// The struct as a whole, if it is as long as the library's.
    pub fn get<T>(&mut self) -> Option<&mut T> {
        // SAFETY: aligned to 8, long enough, and any bytes are a value of the header's structs.
        (self.len >= size_of::<T>()).then(|| unsafe { &mut *self.pointer::<T>() })
    }
}

impl Default for Walled {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Walled {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped.
        unsafe { libc::munmap(self.page.cast(), 2 * PAGE) };
    }
}
