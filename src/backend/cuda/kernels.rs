//! The compiled kernels of `cuda/*.cu`: loaded family by family on first use, launched by name.

use super::driver::{Driver, Handle};
use super::params::Argument;
use super::stream::Stream;
use crate::error::{Error, Result};
use cudarc::driver::sys::{CUfunction, CUfunction_attribute_enum as Attribute, CUmodule};
use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

/// Keeps an image aligned as the driver wants it.
#[repr(C, align(64))]
#[allow(dead_code)] // Not used by a build without images.
struct Aligned<T: ?Sized>(T);

/// The images that the build made, by family (the name of the `.cu` file). Empty without a CUDA compiler.
static IMAGES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/cuda_images.rs"));

/// Threads of a block, but for those of `hopper.rs`.
pub(super) const THREADS: u32 = 256;
/// Dynamic shared memory that a kernel may have without asking.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// Whether this build has kernels.
///
/// # Errors
/// [`Error::Unsupported`] when it was built without a CUDA compiler.
pub(super) fn built() -> Result<()> {
    if IMAGES.is_empty() {
        return Err(Error::Unsupported(
            "CUDA: this build has no CUDA kernels (no nvcc when it was built)".into(),
        ));
    }
    Ok(())
}

/// Whether this build has the kernels of a file.
pub(super) fn has(family: &str) -> bool {
    IMAGES.iter().any(|(name, _)| *name == family)
}

/// A kernel's name and the file it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) family: &'static str,
    pub(super) kernel: &'static str,
}

/// The kernels of a device, and the stream that they are enqueued on.
pub(super) struct Kernels {
    stream: Arc<Stream>,
    /// The device's name.
    device: String,
    loaded: Mutex<Loaded>,
}

/// Loaded modules and functions.
#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Handle<CUmodule>>,
    functions: HashMap<Name, Function>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: Handle<CUfunction>,
    /// Dynamic shared memory granted so far.
    shared: u32,
}

impl Kernels {
    pub(super) fn new(stream: &Arc<Stream>, device: &str) -> Self {
        Self { stream: stream.clone(), device: device.into(), loaded: Mutex::default() }
    }

    fn function(&self, name: Name, shared: u32) -> Result<CUfunction> {
        let driver = self.stream.driver;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut function = match loaded.functions.get(&name) {
            Some(function) => *function,
            None => {
                let module = match loaded.modules.get(name.family) {
                    Some(module) => module.0,
                    None => {
                        let module = load(driver, name.family, &self.device)?;
                        loaded.modules.insert(name.family, Handle(module));
                        module
                    }
                };
                let symbol = CString::new(name.kernel).map_err(|_| internal(name, "a NUL in its name"))?;
                let mut handle = std::ptr::null_mut();
                // SAFETY: writes one handle; the name is NUL-terminated.
                let status = unsafe { (driver.cuModuleGetFunction)(&mut handle, module, symbol.as_ptr()) };
                if status != 0 {
                    return Err(internal(name, &driver.reason(status)));
                }
                Function { handle: Handle(handle), shared: SHARED_WITHOUT_ASKING }
            }
        };
        if shared > function.shared {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as c_int;
            // SAFETY: the function is loaded.
            let status =
                unsafe { (driver.cuFuncSetAttribute)(function.handle.0, attribute, shared as c_int) };
            if status != 0 {
                let why = format!("{shared} bytes of shared memory: {}", driver.reason(status));
                return Err(internal(name, &why));
            }
            function.shared = shared;
        }
        loaded.functions.insert(name, function);
        Ok(function.handle.0)
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if !self.stream.is_left_idle() {
            return;
        }
        let loaded = self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (_, module) in loaded.modules.drain() {
            // SAFETY: loaded by us, and the stream is idle.
            unsafe { (self.stream.driver.cuModuleUnload)(module.0) };
        }
    }
}

fn internal(name: Name, why: &str) -> Error {
    Error::Cuda(format!("kernel {} of cuda/{}.cu: {why}", name.kernel, name.family))
}

fn load(driver: &Driver, family: &'static str, device: &str) -> Result<CUmodule> {
    let image = IMAGES.iter().find(|(name, _)| *name == family).map(|(_, image)| *image);
    let Some(image) = image else {
        return Err(Error::Cuda(format!("internal: no image of cuda/{family}.cu")));
    };
    let mut module = std::ptr::null_mut();
    // SAFETY: a complete, aligned image of the CUDA compiler; writes one handle.
    let status = unsafe { (driver.cuModuleLoadData)(&mut module, image.as_ptr().cast()) };
    match status {
        0 => Ok(module),
        // CUDA_ERROR_NO_BINARY_FOR_GPU
        209 => Err(Error::Unsupported(format!("CUDA: this build has no kernels for {device}"))),
        _ => Err(Error::Cuda(format!("loading cuda/{family}.cu: {}", driver.reason(status)))),
    }
}

/// The address of a kernel argument.
pub(super) fn argument<T: Argument>(value: &T) -> *mut c_void {
    std::ptr::from_ref(value).cast_mut().cast()
}

impl Kernels {
    /// Enqueues a kernel on `grid` blocks of [`THREADS`] threads with `shared` bytes of shared memory. A grid without
    /// blocks is nothing to do.
    ///
    /// # Safety
    /// `arguments` are the kernel's, in order, with their types, and what they point to holds what the kernel reads and
    /// writes.
    pub(super) unsafe fn launch(
        &self,
        name: Name,
        grid: (usize, usize),
        shared: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        // SAFETY: by this function's contract.
        unsafe { self.launch_blocks(name, grid, THREADS, shared, arguments) }
    }

    /// The same with blocks of so many threads.
    ///
    /// # Safety
    /// As [`launch`](Self::launch).
    pub(super) unsafe fn launch_blocks(
        &self,
        name: Name,
        (x, y): (usize, usize),
        threads: u32,
        shared: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<()> {
        if x == 0 || y == 0 {
            return Ok(());
        }
        if x > i32::MAX as usize || y > 65_535 {
            return Err(internal(name, &format!("a grid of {x} x {y} blocks")));
        }
        let function = self.function(name, shared)?;
        // SAFETY: the arguments by this function's contract; the driver copies them before it returns.
        let status = unsafe {
            (self.stream.driver.cuLaunchKernel)(
                function,
                x as u32,
                y as u32,
                1,
                threads,
                1,
                1,
                shared,
                self.stream.raw(),
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        if status == 0 { Ok(()) } else { Err(internal(name, &self.stream.driver.reason(status))) }
    }
}
