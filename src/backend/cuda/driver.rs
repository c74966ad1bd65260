//! The functions of NVIDIA's libraries that this backend calls, found at run time.
//!
//! Nothing is linked: each library is opened by name, or beside a Python (`places`), when the first device is looked for, and every function
//! is resolved then, so that whatever is missing is an error and never a panic. Types and numbers come from `cudarc`; statuses stay
//! plain integers, because a newer driver may return one that an enumeration does not have.

use super::places;
use crate::error::{Error, Result};
use crate::threads::forks;
use cudarc::cublas::sys::cublasHandle_t;
use cudarc::cusolver::sys::cusolverDnHandle_t;
use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUmemPoolProps, CUmemoryPool, CUmodule, CUstream,
};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::OnceLock;

/// The oldest driver interface that the kernels and the libraries work with.
const CUDA_VERSION: i32 = 13000;
/// Major version of cuBLAS in CUDA 13.
const CUBLAS_MAJOR: c_int = 13;
/// Major version of cuSOLVER in CUDA 13.
const CUSOLVER_MAJOR: c_int = 12;

/// Declares a table of functions and how to fill it from the first of `files` that opens.
macro_rules! library {
    ($(#[$doc:meta])* $name:ident, $files:expr, { $(fn $f:ident($($t:ty),* $(,)?);)+ }) => {
        $(#[$doc])*
        #[allow(non_snake_case)]
        pub(super) struct $name {
            $(pub(super) $f: unsafe extern "C" fn($($t),*) -> c_int,)+
        }

        impl $name {
            /// The table; `Err` holds what is missing.
            fn open() -> std::result::Result<Self, String> {
                let library = open_first($files)?;
                // The functions are used until the process ends, so the library stays open.
                let library: &'static libloading::Library = Box::leak(Box::new(library));
                Ok(Self {
                    $($f: {
                        let name = concat!(stringify!($f), "\0").as_bytes();
                        // SAFETY: the signature is the one of NVIDIA's header for this symbol.
                        let symbol = unsafe { library.get::<unsafe extern "C" fn($($t),*) -> c_int>(name) };
                        *symbol.map_err(|_| format!("{} has no {}", $files[0], stringify!($f)))?
                    },)+
                })
            }
        }
    };
}

/// The first of `files` that the system's loader opens, else the first that a Python package has.
pub(super) fn open_first(files: &[&str]) -> std::result::Result<libloading::Library, String> {
    let of_packages = files.iter().flat_map(|file| places::paths(file));
    for file in files.iter().map(PathBuf::from).chain(of_packages) {
        // SAFETY: NVIDIA's libraries may be initialised at any time, on any thread.
        if let Ok(library) = unsafe { libloading::Library::new(file) } {
            return Ok(library);
        }
    }
    Err(format!("{} was not found", files[0]))
}

library!(
    /// The driver, `libcuda`.
    Driver, &["libcuda.so.1", "libcuda.so"], {
    fn cuInit(c_uint);
    fn cuDriverGetVersion(*mut c_int);
    fn cuGetErrorString(c_int, *mut *const c_char);
    fn cuDeviceGetCount(*mut c_int);
    fn cuDeviceGet(*mut CUdevice, c_int);
    fn cuDeviceGetName(*mut c_char, c_int, CUdevice);
    fn cuDeviceGetUuid_v2(*mut u8, CUdevice);
    fn cuDeviceTotalMem_v2(*mut usize, CUdevice);
    fn cuDeviceGetAttribute(*mut c_int, c_int, CUdevice);
    fn cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice);
    fn cuDevicePrimaryCtxRelease_v2(CUdevice);
    fn cuCtxSetCurrent(CUcontext);
    fn cuStreamCreate(*mut CUstream, c_uint);
    fn cuStreamDestroy_v2(CUstream);
    fn cuStreamSynchronize(CUstream);
    fn cuStreamQuery(CUstream);
    fn cuStreamWaitEvent(CUstream, CUevent, c_uint);
    fn cuEventCreate(*mut CUevent, c_uint);
    fn cuEventDestroy_v2(CUevent);
    fn cuEventRecord(CUevent, CUstream);
    fn cuEventQuery(CUevent);
    fn cuEventSynchronize(CUevent);
    fn cuEventElapsedTime_v2(*mut f32, CUevent, CUevent);
    fn cuMemPoolCreate(*mut CUmemoryPool, *const CUmemPoolProps);
    fn cuMemPoolDestroy(CUmemoryPool);
    fn cuMemPoolSetAttribute(CUmemoryPool, c_int, *mut c_void);
    fn cuMemPoolGetAttribute(CUmemoryPool, c_int, *mut c_void);
    fn cuMemAllocFromPoolAsync(*mut CUdeviceptr, usize, CUmemoryPool, CUstream);
    fn cuMemFreeAsync(CUdeviceptr, CUstream);
    fn cuMemGetInfo_v2(*mut usize, *mut usize);
    fn cuMemHostAlloc(*mut *mut c_void, usize, c_uint);
    fn cuMemFreeHost(*mut c_void);
    fn cuMemcpyHtoDAsync_v2(CUdeviceptr, *const c_void, usize, CUstream);
    fn cuMemcpyDtoHAsync_v2(*mut c_void, CUdeviceptr, usize, CUstream);
    fn cuMemcpyDtoDAsync_v2(CUdeviceptr, CUdeviceptr, usize, CUstream);
    fn cuMemsetD8Async(CUdeviceptr, u8, usize, CUstream);
    fn cuModuleLoadData(*mut CUmodule, *const c_void);
    fn cuModuleUnload(CUmodule);
    fn cuModuleGetFunction(*mut CUfunction, CUmodule, *const c_char);
    fn cuFuncSetAttribute(CUfunction, c_int, c_int);
    fn cuLaunchKernel(
        CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, CUstream, *mut *mut c_void,
        *mut *mut c_void,
    );
});

library!(
    /// Dense products, `libcublas`.
    Blas, &["libcublas.so.13", "libcublas.so"], {
    fn cublasGetProperty(c_int, *mut c_int);
    fn cublasCreate_v2(*mut cublasHandle_t);
    fn cublasDestroy_v2(cublasHandle_t);
    fn cublasSetStream_v2(cublasHandle_t, CUstream);
    fn cublasSetMathMode(cublasHandle_t, c_int);
    fn cublasGemmEx(
        cublasHandle_t, c_int, c_int, c_int, c_int, c_int, *const c_void, *const c_void, c_int, c_int,
        *const c_void, c_int, c_int, *const c_void, *mut c_void, c_int, c_int, c_int, c_int,
    );
});

library!(
    /// Eigenvalues, `libcusolver`.
    Solver, &["libcusolver.so.12", "libcusolver.so"], {
    fn cusolverGetProperty(c_int, *mut c_int);
    fn cusolverDnCreate(*mut cusolverDnHandle_t);
    fn cusolverDnDestroy(cusolverDnHandle_t);
    fn cusolverDnSetStream(cusolverDnHandle_t, CUstream);
    fn cusolverDnDsyevd_bufferSize(
        cusolverDnHandle_t, c_int, c_int, c_int, *const f64, c_int, *const f64, *mut c_int,
    );
    fn cusolverDnDsyevd(
        cusolverDnHandle_t, c_int, c_int, c_int, *mut f64, c_int, *mut f64, *mut f64, c_int, *mut c_int,
    );
});

/// A handle of one of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle<T>(pub(super) T);

// SAFETY: the libraries take their handles from any thread on which the device's context is current; what they do not do at once
// is behind locks.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// Where CUDA's libraries may hide.
const HINT: &str = "install CUDA 13 or set LD_LIBRARY_PATH to its libraries";

/// The initialised driver.
///
/// # Errors
/// [`Error::NoDevice`] when there is none, it is too old or sees no device; [`Error::Unsupported`] in a child of `fork()`
/// of a process that had started it.
pub(super) fn driver() -> Result<&'static Driver> {
    static DRIVER: OnceLock<std::result::Result<(Driver, u32), String>> = OnceLock::new();
    let start = || {
        let driver = Driver::open().map_err(|what| format!("no NVIDIA driver: {what}"))?;
        // SAFETY: no precondition.
        let status = unsafe { (driver.cuInit)(0) };
        let mut version = 0;
        // SAFETY: writes one integer; does not need an initialised driver.
        let known = unsafe { (driver.cuDriverGetVersion)(&mut version) } == 0;
        if !known {
            return Err("the NVIDIA driver does not tell its version".into());
        }
        if version < CUDA_VERSION {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            return Err(format!("the NVIDIA driver is for CUDA {major}.{minor}, 13.0 or newer is needed"));
        }
        match status {
            0 => Ok((driver, forks())),
            _ => Err(format!("the NVIDIA driver does not start: {}", driver.reason(status))),
        }
    };
    let (driver, born) = DRIVER.get_or_init(start).as_ref().map_err(|what| Error::NoDevice(what.clone()))?;
    not_forked(*born)?;
    Ok(driver)
}

/// Fails in a child of the process that got `born` from [`forks`]: nothing of CUDA lives on there, and calls may hang.
pub(super) fn not_forked(born: u32) -> Result<()> {
    if born == forks() {
        return Ok(());
    }
    let what = "CUDA after fork(), where nothing of the parent's devices lives on";
    Err(Error::Unsupported(format!(
        "{what}: start a new process instead (spawn, exec), or fork before CUDA is used"
    )))
}

/// cuBLAS of CUDA 13.
///
/// # Errors
/// [`Error::NoDevice`] when it is missing or of another version.
pub(super) fn blas() -> Result<&'static Blas> {
    static BLAS: OnceLock<std::result::Result<Blas, String>> = OnceLock::new();
    let open = || {
        let blas = Blas::open().map_err(|what| format!("no cuBLAS: {what}; {HINT}"))?;
        let mut major = 0;
        // SAFETY: writes one integer.
        let status = unsafe { (blas.cublasGetProperty)(0, &mut major) };
        check_major("cuBLAS", status, major, CUBLAS_MAJOR)?;
        Ok(blas)
    };
    BLAS.get_or_init(open).as_ref().map_err(|what: &String| Error::NoDevice(what.clone()))
}

/// cuSOLVER of CUDA 13.
///
/// # Errors
/// As [`blas`].
pub(super) fn solver() -> Result<&'static Solver> {
    static SOLVER: OnceLock<std::result::Result<Solver, String>> = OnceLock::new();
    let open = || {
        let solver = Solver::open().map_err(|what| format!("no cuSOLVER: {what}; {HINT}"))?;
        let mut major = 0;
        // SAFETY: writes one integer.
        let status = unsafe { (solver.cusolverGetProperty)(0, &mut major) };
        check_major("cuSOLVER", status, major, CUSOLVER_MAJOR)?;
        Ok(solver)
    };
    SOLVER.get_or_init(open).as_ref().map_err(|what: &String| Error::NoDevice(what.clone()))
}

fn check_major(name: &str, status: c_int, major: c_int, wanted: c_int) -> std::result::Result<(), String> {
    if status == 0 && major == wanted {
        return Ok(());
    }
    Err(format!("{name} {major} was found, CUDA 13's {name} {wanted} is needed; {HINT}"))
}

impl Driver {
    /// What a status means, in the driver's words.
    pub(super) fn reason(&self, status: c_int) -> String {
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: writes a pointer to a constant string, or leaves NULL for an unknown status.
        let found = unsafe { (self.cuGetErrorString)(status, &mut text) } == 0 && !text.is_null();
        if !found {
            return format!("error {status}");
        }
        // SAFETY: a NUL-terminated constant of the driver.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        format!("{text} ({status})")
    }

    /// `Ok` for status 0; otherwise the call's name and the driver's reason.
    pub(super) fn check(&self, call: &str, status: c_int) -> Result<()> {
        if status == 0 { Ok(()) } else { Err(Error::Cuda(format!("{call}: {}", self.reason(status)))) }
    }
}
