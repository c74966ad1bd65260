//! The caller's allocator as the memory of a backend's matrices.

use super::bindings::unicon_allocator;
use crate::backend::cpu::{HostBlock, HostMemory};
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::ptr::NonNull;

/// Cache lines and the widest vectors.
const ALIGNMENT: usize = 64;

type Allocate = unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void;
type Deallocate = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, usize);

/// The caller's two functions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allocator {
    allocate: Allocate,
    deallocate: Deallocate,
    user: *mut c_void,
}

// SAFETY: the header requires both functions to be callable from any thread and from several at once; `user` is only
// passed back to them.
unsafe impl Send for Allocator {}
// SAFETY: as above.
unsafe impl Sync for Allocator {}

impl Allocator {
    pub(super) fn new(raw: &unicon_allocator) -> Result<Self> {
        match (raw.allocate, raw.deallocate) {
            (Some(allocate), Some(deallocate)) => Ok(Self { allocate, deallocate, user: raw.user }),
            _ => Err(Error::invalid("allocator", "both functions", "NULL")),
        }
    }
}

impl HostMemory for Allocator {
    fn zeroed(&self, bytes: usize) -> Option<Box<dyn HostBlock>> {
        let bytes = bytes.max(1);
        // SAFETY: the caller's function by its contract: at least one byte, a power of two.
        let data = NonNull::new(unsafe { (self.allocate)(self.user, bytes, ALIGNMENT) }.cast::<u8>())?;
        let block = Block { data, bytes, allocator: *self };
        if !data.addr().get().is_multiple_of(ALIGNMENT) {
            return None;
        }
        // SAFETY: `allocate` gave that many bytes, which are ours alone.
        unsafe { data.as_ptr().write_bytes(0, bytes) };
        Some(Box::new(block))
    }
}

/// Bytes from the caller's allocator, initialised, given back when dropped.
#[derive(Debug)]
struct Block {
    data: NonNull<u8>,
    bytes: usize,
    allocator: Allocator,
}

// SAFETY: the block owns its bytes.
unsafe impl Send for Block {}
// SAFETY: shared access only reads.
unsafe impl Sync for Block {}

impl HostBlock for Block {
    fn bytes(&self) -> &[u8] {
        // SAFETY: initialised by `zeroed`, owned, and as long as said.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.bytes) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: what `allocate` gave, with the same size and alignment, once.
        unsafe {
            (self.allocator.deallocate)(
                self.allocator.user,
                self.data.as_ptr().cast(),
                self.bytes,
                ALIGNMENT,
            );
        }
    }
}
