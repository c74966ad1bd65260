//! The ground of a device: its context, the stream that work is enqueued on in order, and points in that work.

use super::driver::{self, Driver, Handle};
use crate::distributed::patience;
use crate::error::{Error, Result};
use crate::threads::forks;
use cudarc::driver::sys::{CUcontext, CUdevice, CUevent, CUstream};
use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the driver answers while work is under way.
const NOT_READY: i32 = 600;

/// A stream that belongs to the caller: work goes there in order, and it is never destroyed here.
#[derive(Clone, Copy, Debug)]
pub struct BorrowedStream(Handle<CUstream>);

impl BorrowedStream {
    /// Takes a `CUstream` (or `cudaStream_t`); NULL is the legacy default stream.
    ///
    /// # Safety
    /// It must belong to the primary context of the device it is used with, and outlive the backend and its matrices.
    pub unsafe fn from_raw(stream: *mut c_void) -> Self {
        Self(Handle(stream.cast()))
    }
}

/// A stream of a device, in its primary context.
pub(super) struct Stream {
    pub(super) driver: &'static Driver,
    handle: Handle<CUstream>,
    own: bool,
    context: Context,
}

impl Stream {
    /// The caller's stream, or one of our own, on device `ordinal`, whose context is current from here on.
    pub(super) fn open(
        driver: &'static Driver,
        ordinal: u32,
        borrowed: Option<BorrowedStream>,
    ) -> Result<Arc<Self>> {
        let context = Context::retain(driver, ordinal)?;
        let (handle, own) = match borrowed {
            Some(BorrowedStream(Handle(handle))) => (handle, false),
            None => {
                const NON_BLOCKING: u32 = 1;
                let mut handle = std::ptr::null_mut();
                // SAFETY: writes one handle.
                let status = unsafe { (driver.cuStreamCreate)(&mut handle, NON_BLOCKING) };
                driver.check("cuStreamCreate", status)?;
                (handle, true)
            }
        };
        Ok(Arc::new(Self { driver, handle: Handle(handle), own, context }))
    }

    /// What the driver and the libraries know it by.
    pub(super) fn raw(&self) -> CUstream {
        self.handle.0
    }

    /// Another stream on the same device.
    pub(super) fn beside(&self) -> Result<Arc<Self>> {
        Self::open(self.driver, self.context.ordinal, None)
    }

    /// Makes the device current on this thread. Every operation begins with it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] in a child of `fork()`, [`Error::Cuda`].
    pub(super) fn enter(&self) -> Result<()> {
        driver::not_forked(self.context.born)?;
        // SAFETY: the context is retained until `drop`.
        let status = unsafe { (self.driver.cuCtxSetCurrent)(self.context.handle.0) };
        self.driver.check("cuCtxSetCurrent", status)
    }

    /// Whether what was made on the stream can be released: never in a child of `fork()`, where everything is the parent's.
    /// Nothing can be reported from there; what fails to be released goes with the process.
    pub(super) fn is_left(&self) -> bool {
        self.enter().is_ok()
    }

    /// The same, when all that was enqueued has been done.
    pub(super) fn is_left_idle(&self) -> bool {
        let left = self.is_left();
        if left {
            let _ = self.synchronize();
        }
        left
    }

    /// The device's own number, the same in every process.
    pub(super) fn uuid(&self) -> Result<[u8; 16]> {
        let mut uuid = [0; 16];
        // SAFETY: writes 16 bytes.
        let status = unsafe { (self.driver.cuDeviceGetUuid_v2)(uuid.as_mut_ptr(), self.context.device) };
        self.driver.check("cuDeviceGetUuid", status)?;
        Ok(uuid)
    }

    /// Whether something that was enqueued has not been done yet.
    pub(super) fn is_busy(&self) -> bool {
        // SAFETY: the stream lives as long as this.
        unsafe { (self.driver.cuStreamQuery)(self.raw()) == NOT_READY }
    }

    /// As [`synchronize`](Self::synchronize) where other ranks' devices take part: no longer than [`patience`].
    pub(super) fn synchronize_within_patience(&self) -> Result<()> {
        let (begin, mut nap) = (Instant::now(), Duration::from_micros(5));
        loop {
            // SAFETY: the stream lives as long as this.
            let status = unsafe { (self.driver.cuStreamQuery)(self.raw()) };
            if status != NOT_READY {
                return self.driver.check("cuStreamQuery", status);
            }
            if begin.elapsed() > patience() {
                let waited = begin.elapsed().as_secs_f64();
                return Err(Error::Comm(format!(
                    "the other ranks' devices have not answered in {waited:.0} s"
                )));
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_micros(200));
        }
    }

    /// Waits for everything on the stream, and reports what went wrong in it.
    pub(super) fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives as long as this.
        self.driver.check("cuStreamSynchronize", unsafe { (self.driver.cuStreamSynchronize)(self.raw()) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.own && self.is_left() {
            // SAFETY: ours; what is under way on it is done first.
            unsafe { (self.driver.cuStreamDestroy_v2)(self.raw()) };
        }
    }
}

/// A retained primary context.
struct Context {
    driver: &'static Driver,
    ordinal: u32,
    device: CUdevice,
    handle: Handle<CUcontext>,
    /// Of which process: in its children there is no device.
    born: u32,
}

impl Context {
    fn retain(driver: &'static Driver, ordinal: u32) -> Result<Self> {
        let (mut device, mut handle) = (0, std::ptr::null_mut());
        // SAFETY: writes one integer.
        driver.check("cuDeviceGet", unsafe { (driver.cuDeviceGet)(&mut device, ordinal as i32) })?;
        // SAFETY: writes one handle, for a device that exists.
        let status = unsafe { (driver.cuDevicePrimaryCtxRetain)(&mut handle, device) };
        driver.check("cuDevicePrimaryCtxRetain", status)?;
        let held = Self { driver, ordinal, device, handle: Handle(handle), born: forks() };
        // SAFETY: just retained.
        driver.check("cuCtxSetCurrent", unsafe { (driver.cuCtxSetCurrent)(handle) })?;
        Ok(held)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.born == forks() {
            // SAFETY: retained once in `retain`.
            unsafe { (self.driver.cuDevicePrimaryCtxRelease_v2)(self.device) };
        }
    }
}

/// A point in a stream's work.
pub(super) struct Event {
    stream: Arc<Stream>,
    handle: Handle<CUevent>,
}

impl Event {
    /// One that can be waited for, on the device of `stream`; with `timed`, one whose distance to another can be asked.
    pub(super) fn new(stream: &Arc<Stream>, timed: bool) -> Result<Self> {
        const DISABLE_TIMING: u32 = 2;
        let (driver, mut handle) = (stream.driver, std::ptr::null_mut());
        // SAFETY: writes one handle.
        let status = unsafe { (driver.cuEventCreate)(&mut handle, if timed { 0 } else { DISABLE_TIMING }) };
        driver.check("cuEventCreate", status)?;
        Ok(Self { stream: stream.clone(), handle: Handle(handle) })
    }

    pub(super) fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both handles are alive.
        let status = unsafe { (stream.driver.cuEventRecord)(self.handle.0, stream.raw()) };
        stream.driver.check("cuEventRecord", status)
    }

    /// Waits until the stream has passed the event; at once if it was never recorded.
    pub(super) fn wait(&self) -> Result<()> {
        let driver = self.stream.driver;
        // SAFETY: the handle is alive.
        driver.check("cuEventSynchronize", unsafe { (driver.cuEventSynchronize)(self.handle.0) })
    }

    /// What is enqueued on `stream` from here on waits until the event has passed.
    pub(super) fn hold_back(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both handles are alive.
        let status = unsafe { (stream.driver.cuStreamWaitEvent)(stream.raw(), self.handle.0, 0) };
        stream.driver.check("cuStreamWaitEvent", status)
    }

    /// Whether its stream has passed the event.
    pub(super) fn passed(&self) -> Result<bool> {
        let driver = self.stream.driver;
        // SAFETY: the handle is alive.
        match unsafe { (driver.cuEventQuery)(self.handle.0) } {
            NOT_READY => Ok(false),
            status => driver.check("cuEventQuery", status).map(|()| true),
        }
    }

    /// Milliseconds from `earlier` to this event, both passed.
    pub(super) fn since(&self, earlier: &Self) -> Result<f32> {
        let (driver, mut milliseconds) = (self.stream.driver, 0.0);
        // SAFETY: both handles are alive; writes one number.
        let status =
            unsafe { (driver.cuEventElapsedTime_v2)(&mut milliseconds, earlier.handle.0, self.handle.0) };
        driver.check("cuEventElapsedTime", status)?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.stream.is_left() {
            // SAFETY: ours, and not used again.
            unsafe { (self.stream.driver.cuEventDestroy_v2)(self.handle.0) };
        }
    }
}
