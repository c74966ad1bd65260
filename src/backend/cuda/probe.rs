//! Which devices there are, without starting any.

use super::driver::{self, Driver};
use super::kernels;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use std::ffi::{CStr, c_int};

/// A CUDA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number, the N of `cuda:N`.
    pub ordinal: u32,
    /// The vendor's name for it.
    pub name: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Compute capability, (major, minor).
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub processors: u32,
    /// Bytes of shared memory that a block may have.
    pub shared_memory: u32,
    /// CUDA version of the driver, such as 13000.
    pub driver: u32,
}

/// The devices of this machine, at least one of them [usable](DeviceInfo::usable). Never panics, whatever is installed.
///
/// # Errors
/// One line that says what is missing: [`Error::Unsupported`] when this build has no kernels, [`Error::NoDevice`]
/// without a driver, with too old a driver, without a device that is new enough, and without cuBLAS or cuSOLVER of
/// CUDA 13.
pub fn probe() -> Result<Vec<DeviceInfo>> {
    kernels::built()?;
    let driver = driver::driver()?;
    let mut count = 0;
    // SAFETY: writes one integer.
    driver.check("cuDeviceGetCount", unsafe { (driver.cuDeviceGetCount)(&mut count) })?;
    if count <= 0 {
        return Err(Error::NoDevice("the NVIDIA driver sees no CUDA device".into()));
    }
    driver::blas()?;
    driver::solver()?;
    let devices =
        (0..count as u32).map(|ordinal| device_info(driver, ordinal)).collect::<Result<Vec<DeviceInfo>>>()?;
    match devices.first().and_then(DeviceInfo::too_old) {
        Some(why) if devices.iter().all(|d| d.too_old().is_some()) => Err(why),
        _ => Ok(devices),
    }
}

impl DeviceInfo {
    /// Why the kernels do not run on it, if they do not.
    pub(crate) fn too_old(&self) -> Option<Error> {
        let (major, minor) = self.capability;
        let what = || {
            format!("cuda:{}, {}: compute capability {major}.{minor}, 8.0 is needed", self.ordinal, self.name)
        };
        (self.capability < (8, 0)).then(|| Error::NoDevice(what()))
    }

    /// Whether the kernels run on it.
    pub fn usable(&self) -> bool {
        self.too_old().is_none()
    }
}

/// One device, which must be new enough.
pub(super) fn device_info(driver: &Driver, ordinal: u32) -> Result<DeviceInfo> {
    let mut device = 0;
    // SAFETY: writes one integer.
    driver.check("cuDeviceGet", unsafe { (driver.cuDeviceGet)(&mut device, ordinal as c_int) })?;
    let mut name = [0; 256];
    // SAFETY: writes at most that many bytes, NUL-terminated.
    driver.check("cuDeviceGetName", unsafe { (driver.cuDeviceGetName)(name.as_mut_ptr(), 255, device) })?;
    // SAFETY: terminated within the array, whose last byte the call left alone.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let mut memory = 0;
    // SAFETY: writes one integer.
    driver.check("cuDeviceTotalMem", unsafe { (driver.cuDeviceTotalMem_v2)(&mut memory, device) })?;
    let attribute = |attribute: Attribute| -> Result<u32> {
        let mut value = 0;
        // SAFETY: writes one integer.
        let status = unsafe { (driver.cuDeviceGetAttribute)(&mut value, attribute as c_int, device) };
        driver.check("cuDeviceGetAttribute", status)?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    let mut version = 0;
    // SAFETY: writes one integer.
    driver.check("cuDriverGetVersion", unsafe { (driver.cuDriverGetVersion)(&mut version) })?;
    Ok(DeviceInfo {
        ordinal,
        name,
        memory: memory as u64,
        capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        processors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_memory: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        driver: u32::try_from(version).unwrap_or(0),
    })
}
