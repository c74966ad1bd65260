//! One device as this backend holds it: context, stream, memory pool, loaded kernels, cuBLAS and cuSOLVER handles.

use super::blas::Products;
use super::driver::{self, Driver};
use super::hopper::KernelSet;
use super::kernels::Kernels;
use super::memory::{Account, Pinned, Pool};
use super::probe::{DeviceInfo, device_info, probe};
use super::solver::Eigen;
use crate::distributed::patience;
use crate::error::{Error, Result};
use crate::threads::forks;
use cudarc::driver::sys::{CUcontext, CUevent, CUstream};
use std::ffi::c_void;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the driver answers while work is under way.
const NOT_READY: i32 = 600;

/// A stream that belongs to the caller: work goes there in order, and it is never destroyed here.
#[derive(Clone, Copy, Debug)]
pub struct BorrowedStream(pub(super) CUstream);

// SAFETY: a handle, which the driver accepts from any thread.
unsafe impl Send for BorrowedStream {}
// SAFETY: as above.
unsafe impl Sync for BorrowedStream {}

impl BorrowedStream {
    /// Takes a `CUstream` (or `cudaStream_t`); NULL is the legacy default stream.
    ///
    /// # Safety
    /// It must belong to the primary context of the device it is used with, and outlive the backend and its matrices.
    pub unsafe fn from_raw(stream: *mut c_void) -> Self {
        Self(stream.cast())
    }
}

/// An opened device. Everything allocated on it keeps it alive.
pub(super) struct Device {
    pub(super) driver: &'static Driver,
    pub(super) info: DeviceInfo,
    pub(super) account: Account,
    pub(super) kernels: Kernels,
    pub(super) pool: Pool,
    pub(super) pinned: Mutex<Option<Pinned>>,
    pub(super) products: Products,
    pub(super) eigen: Eigen,
    /// Whether the clip loss takes the kernels of `hopper.rs`.
    pub(super) hopper: bool,
    pub(super) stream: CUstream,
    own_stream: bool,
    context: CUcontext,
    /// Of which process: in its children there is no device.
    born: u32,
}

// SAFETY: the driver's handles may be used from any thread once the context is current there, which `enter` sees to;
// what changes on the host side is behind locks.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    pub(super) fn open(
        ordinal: u32,
        stream: Option<BorrowedStream>,
        memory_limit: Option<u64>,
        kernels: KernelSet,
    ) -> Result<Arc<Self>> {
        let devices = probe()?;
        let driver = driver::driver()?;
        if ordinal as usize >= devices.len() {
            let there = match devices.len() {
                1 => "there is only cuda:0".to_string(),
                n => format!("there are cuda:0 to cuda:{}", n - 1),
            };
            return Err(Error::NoDevice(format!("cuda:{ordinal}: {there}")));
        }
        let info = device_info(driver, ordinal)?;
        if let Some(why) = info.too_old() {
            return Err(why);
        }
        let hopper = kernels.is_hopper(&info)?;
        let mut device = 0;
        // SAFETY: writes one integer.
        driver.check("cuDeviceGet", unsafe { (driver.cuDeviceGet)(&mut device, ordinal as i32) })?;
        let context = Context::retain(driver, device)?;
        let (stream, own_stream) = match stream {
            Some(BorrowedStream(stream)) => (stream, false),
            None => (create_stream(driver)?, true),
        };
        // From here on dropping the parts releases what they hold.
        let parts = || -> Result<_> {
            let pool = Pool::new(driver, ordinal)?;
            let products = Products::new(driver::blas()?, stream).inspect_err(|_| pool.release(driver))?;
            let eigen = Eigen::new(driver::solver()?, stream).inspect_err(|_| {
                products.release();
                pool.release(driver);
            })?;
            Ok((pool, products, eigen))
        };
        let (pool, products, eigen) = match parts() {
            Ok(parts) => parts,
            Err(e) => {
                if own_stream {
                    // SAFETY: created above, used by nothing.
                    unsafe { (driver.cuStreamDestroy_v2)(stream) };
                }
                return Err(e);
            }
        };
        Ok(Arc::new(Self {
            driver,
            info,
            account: Account::new(memory_limit),
            kernels: Kernels::default(),
            pool,
            pinned: Mutex::new(None),
            products,
            eigen,
            hopper,
            stream,
            own_stream,
            context: context.keep(),
            born: forks(),
        }))
    }

    /// Makes the device current on this thread. Every operation begins with it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] in a child of `fork()`, [`Error::Cuda`].
    pub(super) fn enter(&self) -> Result<()> {
        driver::not_forked(self.born)?;
        // SAFETY: the context is retained until `drop`.
        self.driver.check("cuCtxSetCurrent", unsafe { (self.driver.cuCtxSetCurrent)(self.context) })
    }

    /// The device's own number, the same in every process.
    pub(super) fn uuid(&self) -> Result<[u8; 16]> {
        let (mut device, mut uuid) = (0, [0; 16]);
        let ordinal = self.info.ordinal as i32;
        // SAFETY: writes one integer.
        self.driver.check("cuDeviceGet", unsafe { (self.driver.cuDeviceGet)(&mut device, ordinal) })?;
        // SAFETY: writes 16 bytes.
        let status = unsafe { (self.driver.cuDeviceGetUuid_v2)(uuid.as_mut_ptr(), device) };
        self.driver.check("cuDeviceGetUuid", status)?;
        Ok(uuid)
    }

    /// Whether something that was enqueued has not been done yet.
    pub(super) fn is_busy(&self) -> bool {
        // SAFETY: the stream lives as long as the device.
        unsafe { (self.driver.cuStreamQuery)(self.stream) == NOT_READY }
    }

    /// As [`synchronize`](Self::synchronize) where other ranks' devices take part: no longer than [`patience`].
    pub(super) fn synchronize_within_patience(&self) -> Result<()> {
        let (begin, mut nap) = (Instant::now(), Duration::from_micros(5));
        loop {
            // SAFETY: the stream lives as long as the device.
            let status = unsafe { (self.driver.cuStreamQuery)(self.stream) };
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
        // SAFETY: the stream lives as long as the device.
        self.driver.check("cuStreamSynchronize", unsafe { (self.driver.cuStreamSynchronize)(self.stream) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Nothing can be reported from here; what fails to be released goes with the process. In a child of `fork()`
        // everything is the parent's.
        if self.born != forks() {
            return;
        }
        let _ = self.enter();
        let _ = self.synchronize();
        let driver = self.driver;
        self.products.release();
        self.eigen.release();
        self.kernels.release(driver);
        let pinned = self.pinned.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(pinned) = pinned.take() {
            pinned.release(driver);
        }
        self.pool.release(driver);
        // SAFETY: the stream is ours and idle; the context was retained once in `open`, by this number.
        unsafe {
            if self.own_stream {
                (driver.cuStreamDestroy_v2)(self.stream);
            }
            (driver.cuDevicePrimaryCtxRelease_v2)(self.info.ordinal as i32);
        }
    }
}

/// A retained primary context, released unless it is kept.
struct Context {
    driver: &'static Driver,
    device: i32,
    context: CUcontext,
}

impl Context {
    fn retain(driver: &'static Driver, device: i32) -> Result<Self> {
        let mut context = std::ptr::null_mut();
        // SAFETY: writes one handle, for a device that exists.
        let status = unsafe { (driver.cuDevicePrimaryCtxRetain)(&mut context, device) };
        driver.check("cuDevicePrimaryCtxRetain", status)?;
        let held = Self { driver, device, context };
        // SAFETY: just retained.
        driver.check("cuCtxSetCurrent", unsafe { (driver.cuCtxSetCurrent)(context) })?;
        Ok(held)
    }

    fn keep(self) -> CUcontext {
        let context = self.context;
        std::mem::forget(self);
        context
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `retain`.
        unsafe { (self.driver.cuDevicePrimaryCtxRelease_v2)(self.device) };
    }
}

pub(super) fn create_stream(driver: &Driver) -> Result<CUstream> {
    const NON_BLOCKING: u32 = 1;
    let mut stream = std::ptr::null_mut();
    // SAFETY: writes one handle.
    driver.check("cuStreamCreate", unsafe { (driver.cuStreamCreate)(&mut stream, NON_BLOCKING) })?;
    Ok(stream)
}

/// A point in the stream's work.
pub(super) struct Event(pub(super) CUevent);

// SAFETY: a handle, which the driver accepts from any thread.
unsafe impl Send for Event {}

impl Event {
    /// One that can be waited for; with `timed`, one whose distance to another can be asked.
    pub(super) fn new(driver: &Driver, timed: bool) -> Result<Self> {
        const DISABLE_TIMING: u32 = 2;
        let mut event = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let status = unsafe { (driver.cuEventCreate)(&mut event, if timed { 0 } else { DISABLE_TIMING }) };
        driver.check("cuEventCreate", status)?;
        Ok(Self(event))
    }

    pub(super) fn record(&self, driver: &Driver, stream: CUstream) -> Result<()> {
        // SAFETY: both handles are alive.
        driver.check("cuEventRecord", unsafe { (driver.cuEventRecord)(self.0, stream) })
    }

    /// Waits until the stream has passed the event; at once if it was never recorded.
    pub(super) fn wait(&self, driver: &Driver) -> Result<()> {
        // SAFETY: the handle is alive.
        driver.check("cuEventSynchronize", unsafe { (driver.cuEventSynchronize)(self.0) })
    }

    /// What is enqueued on `stream` from here on waits until the event has passed.
    pub(super) fn hold_back(&self, driver: &Driver, stream: CUstream) -> Result<()> {
        // SAFETY: both handles are alive.
        driver.check("cuStreamWaitEvent", unsafe { (driver.cuStreamWaitEvent)(stream, self.0, 0) })
    }

    /// Whether its stream has passed the event.
    pub(super) fn passed(&self, driver: &Driver) -> Result<bool> {
        // SAFETY: the handle is alive.
        match unsafe { (driver.cuEventQuery)(self.0) } {
            NOT_READY => Ok(false),
            status => driver.check("cuEventQuery", status).map(|()| true),
        }
    }

    /// Milliseconds from `earlier` to this event, both passed.
    pub(super) fn since(&self, driver: &Driver, earlier: &Self) -> Result<f32> {
        let mut milliseconds = 0.0;
        // SAFETY: both handles are alive; writes one number.
        let status = unsafe { (driver.cuEventElapsedTime_v2)(&mut milliseconds, earlier.0, self.0) };
        driver.check("cuEventElapsedTime", status)?;
        Ok(milliseconds)
    }

    pub(super) fn release(self, driver: &Driver) {
        self.destroy(driver);
    }

    /// The same for who holds it in something that is being dropped, and does not use it again.
    pub(super) fn destroy(&self, driver: &Driver) {
        // SAFETY: ours, and not used again.
        unsafe { (driver.cuEventDestroy_v2)(self.0) };
    }
}
