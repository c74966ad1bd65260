//! What the library is and what it can do here.

use super::bindings::*;
use super::matrix::check_out;
use super::{entry, guard, same_signature};
use crate::backend::cuda;
use crate::error::{Error, Result};
use std::ffi::c_char;

/// The name of a status.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_status_string(status: unicon_status_t) -> *const c_char {
    guard::status_name(status).as_ptr()
}
same_signature!(unicon_status_string);

/// "major.minor.patch".
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
same_signature!(unicon_version);

/// As the header counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_version_number() -> i32 {
    UNICON_VERSION_MAJOR * 1_000_000 + UNICON_VERSION_MINOR * 1000 + UNICON_VERSION_PATCH
}
same_signature!(unicon_version_number);

/// The header's number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_abi_version() -> i32 {
    UNICON_ABI_VERSION
}
same_signature!(unicon_abi_version);

/// What this build can do on this machine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_capabilities() -> u64 {
    let mut bits = UNICON_CAP_CPU;
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            bits |= UNICON_CAP_AVX2;
        }
        if is_x86_feature_detected!("avx512f") {
            bits |= UNICON_CAP_AVX512;
        }
    }
    if cfg!(unicon_cuda) {
        bits |= UNICON_CAP_CUDA;
    }
    if cfg!(feature = "mpi") {
        bits |= UNICON_CAP_MPI;
    }
    u64::from(bits)
}
same_signature!(unicon_capabilities);

fn devices(device_type: i32) -> Result<i32> {
    match u32::try_from(device_type) {
        Ok(UNICON_DEVICE_CPU) => Ok(1),
        Ok(UNICON_DEVICE_CUDA) => {
            Ok(cuda::probe().map_or(0, |devices| i32::try_from(devices.len()).unwrap_or(i32::MAX)))
        }
        _ => Err(Error::invalid("device_type", "UNICON_DEVICE_CPU or UNICON_DEVICE_CUDA", device_type)),
    }
}

entry!(
    fn unicon_device_count(device_type: i32, count: *mut i32) {
        check_out("count", count)?;
        let devices = devices(device_type)?;
        // SAFETY: checked above.
        unsafe { count.write(devices) };
        Ok(())
    }
);
