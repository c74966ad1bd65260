//! Device memory: stream-ordered allocations that are accounted for, and transfers through two pinned buffers.

use super::driver::{Driver, Handle};
use super::params::Ptr;
use super::stream::{Event, Stream};
use crate::error::{Error, Result};
use bytemuck::Pod;
use cudarc::driver::sys::{
    CUmemAllocationHandleType_enum as HandleType, CUmemAllocationType_enum as AllocationType, CUmemLocation,
    CUmemLocationType_enum as LocationType, CUmemPool_attribute_enum as PoolAttribute, CUmemPoolProps,
    CUmemoryPool,
};
use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What `cuMemAllocFromPoolAsync` and `cuMemHostAlloc` say when there is no memory.
const OUT_OF_MEMORY: c_int = 2;
/// Size of each pinned buffer: PCIe reaches its rate from about 1 MiB on.
const PINNED: usize = 4 << 20;

/// Bytes held on the device, the most ever held, and the most that may be.
pub(super) struct Account {
    now: AtomicU64,
    peak: AtomicU64,
    limit: u64,
}

impl Account {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { now: AtomicU64::new(0), peak: AtomicU64::new(0), limit: limit.unwrap_or(u64::MAX) }
    }

    /// Bytes now and at most.
    pub(super) fn read(&self) -> (u64, u64) {
        (self.now.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed))
    }

    pub(super) fn forget_peak(&self) {
        self.peak.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Bytes that the limit leaves.
    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.now.load(Ordering::Relaxed))
    }

    fn take(&self, bytes: u64, what: &str) -> Result<()> {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if now > self.limit {
            self.give(bytes);
            return Err(Error::OutOfMemory { what: what.to_string(), needed: now, limit: self.limit });
        }
        self.peak.fetch_max(now, Ordering::Relaxed);
        Ok(())
    }

    fn give(&self, bytes: u64) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Our own pool: freed memory stays in it, so that allocating costs no synchronisation.
struct Pool(Handle<CUmemoryPool>);

impl Pool {
    fn new(driver: &Driver, ordinal: u32) -> Result<Self> {
        let properties = CUmemPoolProps {
            allocType: AllocationType::CU_MEM_ALLOCATION_TYPE_PINNED,
            handleTypes: HandleType::CU_MEM_HANDLE_TYPE_NONE,
            location: CUmemLocation {
                type_: LocationType::CU_MEM_LOCATION_TYPE_DEVICE,
                id: ordinal as c_int,
            },
            win32SecurityAttributes: std::ptr::null_mut(),
            maxSize: 0,
            usage: 0,
            reserved: [0; 54],
        };
        let mut pool = std::ptr::null_mut();
        // SAFETY: reads the properties, writes one handle.
        driver.check("cuMemPoolCreate", unsafe { (driver.cuMemPoolCreate)(&mut pool, &properties) })?;
        let mut keep = u64::MAX;
        let attribute = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD as c_int;
        // SAFETY: the attribute is a 64-bit integer, read during the call.
        let status = unsafe { (driver.cuMemPoolSetAttribute)(pool, attribute, (&raw mut keep).cast()) };
        let pool = Self(Handle(pool));
        driver.check("cuMemPoolSetAttribute", status).inspect_err(|_| pool.release(driver))?;
        Ok(pool)
    }

    /// Bytes that the pool has but nobody uses.
    fn idle(&self, driver: &Driver) -> u64 {
        let read = |attribute: PoolAttribute| -> Option<u64> {
            let mut value = 0u64;
            // SAFETY: both attributes are 64-bit integers, written during the call.
            let status = unsafe {
                (driver.cuMemPoolGetAttribute)(self.0.0, attribute as c_int, (&raw mut value).cast())
            };
            (status == 0).then_some(value)
        };
        let reserved = read(PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).unwrap_or(0);
        reserved.saturating_sub(read(PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT).unwrap_or(reserved))
    }

    fn release(&self, driver: &Driver) {
        // SAFETY: ours; what is still allocated from it stays valid.
        unsafe { (driver.cuMemPoolDestroy)(self.0.0) };
    }
}

/// The memory of a device, in the order of a stream.
pub(super) struct Memory {
    pub(super) stream: Arc<Stream>,
    pub(super) account: Account,
    pool: Pool,
    /// Made when something is first sent.
    pinned: Mutex<Option<Pinned>>,
}

/// `len` elements of device memory, given back in stream order when dropped.
pub(super) struct Buffer<T> {
    memory: Arc<Memory>,
    ptr: Ptr,
    len: usize,
    element: PhantomData<T>,
}

/// Part of a [`Buffer`]: what kernels and products are given.
pub(super) struct View<'a, T> {
    pub(super) ptr: Ptr,
    pub(super) len: usize,
    buffer: PhantomData<&'a T>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<T> View<'_, T> {
    /// Elements `range`.
    ///
    /// # Errors
    /// [`Error::Cuda`] beyond the end: a mistake of this backend, which must not become a stray write.
    pub(super) fn part(self, range: Range<usize>) -> Result<Self> {
        if range.start > range.end || range.end > self.len {
            return Err(Error::Cuda(format!("internal: elements {range:?} of a buffer of {}", self.len)));
        }
        let ptr = self.ptr + (range.start * size_of::<T>()) as u64;
        Ok(Self { ptr, len: range.len(), buffer: PhantomData })
    }

    /// All from element `start` on.
    pub(super) fn from(self, start: usize) -> Result<Self> {
        self.part(start..self.len)
    }

    /// Checks that `len` elements are there.
    pub(super) fn holds(&self, len: usize) -> Result<()> {
        if len <= self.len {
            return Ok(());
        }
        Err(Error::Cuda(format!("internal: {len} elements in a buffer of {}", self.len)))
    }

    /// Memory that is not ours, as its lender describes it.
    pub(super) fn foreign(ptr: Ptr, len: usize) -> Self {
        Self { ptr, len, buffer: PhantomData }
    }

    /// No memory: a kernel argument that may be NULL.
    pub(super) fn null() -> Self {
        Self { ptr: 0, len: 0, buffer: PhantomData }
    }
}

impl<'a> View<'a, f32> {
    /// The same memory as 16-bit words.
    pub(super) fn words(self) -> View<'a, u16> {
        View { ptr: self.ptr, len: 2 * self.len, buffer: PhantomData }
    }
}

impl Buffer<u16> {
    /// 16-bit words as the fp32 that they are halves of.
    pub(super) fn into_wide(mut self) -> Buffer<f32> {
        debug_assert!(self.len.is_multiple_of(2));
        let (ptr, len) = (std::mem::take(&mut self.ptr), std::mem::take(&mut self.len) / 2);
        Buffer { memory: self.memory.clone(), ptr, len, element: PhantomData }
    }
}

impl<T> Buffer<T> {
    pub(super) fn view(&self) -> View<'_, T> {
        View { ptr: self.ptr, len: self.len, buffer: PhantomData }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> u64 {
        (self.len * size_of::<T>()) as u64
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.ptr != 0 {
            let stream = &self.memory.stream;
            // A failure here cannot be reported; the memory then stays with the pool.
            let _ = stream.enter();
            // SAFETY: allocated from the pool, freed once, after all work enqueued so far.
            unsafe { (stream.driver.cuMemFreeAsync)(self.ptr, stream.raw()) };
        }
        self.memory.account.give(self.bytes());
    }
}

impl Memory {
    pub(super) fn new(stream: &Arc<Stream>, ordinal: u32, limit: Option<u64>) -> Result<Self> {
        let pool = Pool::new(stream.driver, ordinal)?;
        Ok(Self { stream: stream.clone(), account: Account::new(limit), pool, pinned: Mutex::new(None) })
    }

    /// Bytes that can still be allocated: by the limit and by what is free on the device.
    pub(super) fn available(&self) -> u64 {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: writes two integers.
        let status = unsafe { (self.stream.driver.cuMemGetInfo_v2)(&mut free, &mut total) };
        let free = if status == 0 { free as u64 + self.pool.idle(self.stream.driver) } else { 0 };
        free.min(self.account.left())
    }

    /// Memory for `len` elements, not initialised.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] saying how much was needed for `what` and what is available.
    pub(super) fn alloc<T>(self: &Arc<Self>, len: usize, what: &str) -> Result<Buffer<T>> {
        let bytes = len.checked_mul(size_of::<T>()).filter(|&b| b <= isize::MAX as usize);
        let Some(bytes) = bytes else {
            let limit = self.available();
            return Err(Error::OutOfMemory { what: what.to_string(), needed: u64::MAX, limit });
        };
        self.account.take(bytes as u64, what)?;
        // From here on dropping the buffer gives the bytes back to the account.
        let mut buffer = Buffer { memory: self.clone(), ptr: 0, len, element: PhantomData };
        if bytes > 0 {
            let mut ptr = 0;
            // SAFETY: writes one address, valid in stream order from here on.
            let status = unsafe {
                (self.stream.driver.cuMemAllocFromPoolAsync)(
                    &mut ptr,
                    bytes,
                    self.pool.0.0,
                    self.stream.raw(),
                )
            };
            if status == OUT_OF_MEMORY {
                drop(buffer);
                let (what, needed) = (what.to_string(), bytes as u64);
                return Err(Error::OutOfMemory { what, needed, limit: self.available() });
            }
            self.stream.driver.check("cuMemAllocFromPoolAsync", status)?;
            buffer.ptr = ptr;
        }
        Ok(buffer)
    }

    /// All bits 0: zero in every type.
    pub(super) fn zero<T>(&self, to: View<'_, T>) -> Result<()> {
        let bytes = to.len * size_of::<T>();
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: within the view's memory.
        let status = unsafe { (self.stream.driver.cuMemsetD8Async)(to.ptr, 0, bytes, self.stream.raw()) };
        self.stream.driver.check("cuMemsetD8Async", status)
    }

    /// Copies the elements of `from` to the beginning of `to`.
    pub(super) fn copy<T>(&self, from: View<'_, T>, to: View<'_, T>) -> Result<()> {
        to.holds(from.len)?;
        let bytes = from.len * size_of::<T>();
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: both within their views.
        let status =
            unsafe { (self.stream.driver.cuMemcpyDtoDAsync_v2)(to.ptr, from.ptr, bytes, self.stream.raw()) };
        self.stream.driver.check("cuMemcpyDtoDAsync", status)
    }

    /// A copy of `values` on the device.
    pub(super) fn upload<T: Pod>(self: &Arc<Self>, values: &[T], what: &str) -> Result<Buffer<T>> {
        let buffer = self.alloc(values.len(), what)?;
        self.upload_to(values, buffer.view())?;
        Ok(buffer)
    }

    /// Copies `values` to the beginning of `to`.
    pub(super) fn upload_to<T: Pod>(&self, values: &[T], to: View<'_, T>) -> Result<()> {
        to.holds(values.len())?;
        self.fill(to.part(0..values.len())?, 1, &mut |first, out: &mut [T]| {
            out.copy_from_slice(&values[first..first + out.len()]);
            Ok(())
        })
    }

    /// Fills `to` with what `read(first element, out)` writes, a pinned buffer of whole `row`s at a time: one is
    /// written while the other is on its way. Does not wait for the device, except for a buffer to come free.
    pub(super) fn fill<T: Pod>(
        &self,
        to: View<'_, T>,
        row: usize,
        read: &mut dyn FnMut(usize, &mut [T]) -> Result<()>,
    ) -> Result<()> {
        if to.len == 0 {
            return Ok(());
        }
        let mut guard = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = match &mut *guard {
            Some(pinned) => pinned,
            none => none.insert(Pinned::new(&self.stream)?),
        };
        let (row, fits) = (row.max(1), PINNED / size_of::<T>());
        // A row larger than a buffer is read on the side and sent in pieces.
        let mut wide: Vec<T> = if row > fits { vec![T::zeroed(); row] } else { Vec::new() };
        let step = if row > fits { row } else { fits / row * row };
        for first in (0..to.len).step_by(step) {
            let len = step.min(to.len - first);
            if row > fits {
                read(first, &mut wide[..len])?;
                for piece in (0..len).step_by(fits) {
                    let count = fits.min(len - piece);
                    pinned.send(to.part(first + piece..first + piece + count)?, &mut |out: &mut [T]| {
                        out.copy_from_slice(&wide[piece..piece + count]);
                        Ok(())
                    })?;
                }
            } else {
                pinned.send(to.part(first..first + len)?, &mut |out: &mut [T]| read(first, out))?;
            }
        }
        Ok(())
    }

    /// The elements of `from` on the host. Waits for the stream.
    pub(super) fn download<T: Pod>(&self, from: View<'_, T>) -> Result<Vec<T>> {
        let mut out = Vec::new();
        if out.try_reserve_exact(from.len).is_err() {
            let needed = (from.len * size_of::<T>()) as u64;
            return Err(Error::OutOfMemory { what: "a copy on the host".into(), needed, limit: 0 });
        }
        out.resize(from.len, T::zeroed());
        self.download_to(from, &mut out)?;
        Ok(out)
    }

    /// The elements of `from` into `to`. Waits for the stream.
    pub(super) fn download_to<T: Pod>(&self, from: View<'_, T>, to: &mut [T]) -> Result<()> {
        let bytes = size_of_val(to);
        from.holds(to.len())?;
        if bytes == 0 {
            return self.stream.synchronize();
        }
        // SAFETY: `to` has that many bytes of a type without invalid values, and is not touched before the wait.
        let status = unsafe {
            (self.stream.driver.cuMemcpyDtoHAsync_v2)(
                to.as_mut_ptr().cast::<c_void>(),
                from.ptr,
                bytes,
                self.stream.raw(),
            )
        };
        self.stream.driver.check("cuMemcpyDtoHAsync", status)?;
        self.stream.synchronize()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.stream.is_left_idle() {
            self.pool.release(self.stream.driver);
        }
    }
}

/// Two page-locked buffers, used in turn.
struct Pinned {
    slots: [Slot; 2],
    next: usize,
}

struct Slot {
    stream: Arc<Stream>,
    memory: NonNull<c_void>,
    sent: Event,
}

// SAFETY: the memory belongs to the slot and is used under the lock.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(stream: &Arc<Stream>) -> Result<Self> {
        Ok(Self { slots: [Slot::new(stream)?, Slot::new(stream)?], next: 0 })
    }

    /// Writes the elements of `to` into the buffer whose turn it is and sends them off.
    fn send<T: Pod>(&mut self, to: View<'_, T>, write: &mut dyn FnMut(&mut [T]) -> Result<()>) -> Result<()> {
        let Slot { stream, memory, sent } = &self.slots[self.next];
        self.next = 1 - self.next;
        sent.wait()?;
        let bytes = to.len * size_of::<T>();
        assert!(bytes <= PINNED, "callers send at most a buffer at a time");
        // SAFETY: page-aligned memory of at least that size that nobody else uses: the previous transfer has ended.
        let out = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr().cast::<T>(), to.len) };
        write(out)?;
        // SAFETY: the source stays untouched until the event that the next user of the slot waits for.
        let status =
            unsafe { (stream.driver.cuMemcpyHtoDAsync_v2)(to.ptr, memory.as_ptr(), bytes, stream.raw()) };
        stream.driver.check("cuMemcpyHtoDAsync", status)?;
        sent.record(stream)
    }
}

impl Slot {
    fn new(stream: &Arc<Stream>) -> Result<Self> {
        let (driver, mut memory, sent) = (stream.driver, std::ptr::null_mut(), Event::new(stream, false)?);
        // SAFETY: writes one address.
        let status = unsafe { (driver.cuMemHostAlloc)(&mut memory, PINNED, 0) };
        let memory = match (status, NonNull::new(memory)) {
            (0, Some(memory)) => memory,
            (0 | OUT_OF_MEMORY, _) => {
                let what = "a page-locked buffer".to_string();
                return Err(Error::OutOfMemory { what, needed: PINNED as u64, limit: 0 });
            }
            _ => return Err(Error::Cuda(format!("cuMemHostAlloc: {}", driver.reason(status)))),
        };
        // SAFETY: ours, and large enough: every element is initialised before anyone reads it.
        unsafe { memory.as_ptr().cast::<u8>().write_bytes(0, PINNED) };
        Ok(Self { stream: stream.clone(), memory, sent })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.stream.is_left() {
            // The transfer from this memory may still run.
            let _ = self.sent.wait();
            // SAFETY: allocated in `new`, freed once.
            unsafe { (self.stream.driver.cuMemFreeHost)(self.memory.as_ptr()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_keeps_its_limit_and_its_peak() {
        let account = Account::new(Some(100));
        account.take(60, "a").unwrap();
        let refused = account.take(50, "b").unwrap_err();
        assert!(matches!(refused, Error::OutOfMemory { needed: 110, limit: 100, .. }), "{refused}");
        assert_eq!((account.read(), account.left()), ((60, 60), 40));
        account.give(60);
        account.take(10, "c").unwrap();
        assert_eq!(account.read(), (10, 60));
        account.forget_peak();
        assert_eq!(account.read(), (10, 10));
    }

    #[test]
    fn views_do_not_leave_their_buffer() {
        let view = View::<f32> { ptr: 1024, len: 10, buffer: PhantomData };
        let part = view.part(2..5).unwrap();
        assert_eq!((part.ptr, part.len), (1032, 3));
        assert!(view.part(8..11).is_err() && part.from(4).is_err() && part.holds(4).is_err());
    }
}
