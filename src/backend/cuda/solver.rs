//! Symmetric eigenvalues through cuSOLVER.

use super::driver::{Handle, Solver};
use super::memory::{Buffer, Memory};
use super::stream::Stream;
use crate::error::{Error, Result};
use cudarc::cusolver::sys::cusolverDnHandle_t;
use faer::Mat;
use std::ffi::c_int;
use std::sync::{Arc, Mutex, PoisonError};

/// A cuSOLVER handle on one stream.
pub(super) struct Eigen {
    solver: &'static Solver,
    handle: Mutex<Handle<cusolverDnHandle_t>>,
    stream: Arc<Stream>,
}

fn check(call: &str, status: c_int) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::Cuda(format!("{call}: status {status}"))) }
}

impl Eigen {
    pub(super) fn new(solver: &'static Solver, stream: &Arc<Stream>) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        check("cusolverDnCreate", unsafe { (solver.cusolverDnCreate)(&mut handle) })?;
        let eigen = Self { solver, handle: Mutex::new(Handle(handle)), stream: stream.clone() };
        // SAFETY: the handle was just made.
        let set = check("cusolverDnSetStream", unsafe { (solver.cusolverDnSetStream)(handle, stream.raw()) });
        set.map(|()| eigen)
    }

    /// Eigenvectors (columns) and eigenvalues, ascending, of a symmetric `n x n` matrix on the device, which is
    /// overwritten.
    pub(super) fn symmetric(
        &self,
        memory: &Arc<Memory>,
        matrix: &Buffer<f64>,
        n: usize,
    ) -> Result<(Mat<f64>, Vec<f64>)> {
        const VECTORS: c_int = 1;
        const LOWER: c_int = 0;
        matrix.view().holds(n * n)?;
        let order =
            c_int::try_from(n).map_err(|_| Error::Cuda(format!("internal: eigenvalues of order {n}")))?;
        let values = memory.alloc::<f64>(n, "eigenvalues")?;
        let info = memory.alloc::<i32>(1, "a status")?;
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let (a, w) = (matrix.view().ptr, values.view().ptr);
        let mut size = 0;
        // SAFETY: reads only the shape, writes one integer.
        let status = unsafe {
            (self.solver.cusolverDnDsyevd_bufferSize)(
                handle.0,
                VECTORS,
                LOWER,
                order,
                a as *const f64,
                order,
                w as *const f64,
                &mut size,
            )
        };
        check("cusolverDnDsyevd_bufferSize", status)?;
        let work = memory.alloc::<f64>(usize::try_from(size).unwrap_or(0), "cuSOLVER's workspace")?;
        // SAFETY: device buffers of the sizes asked for, alive until the download below has waited for the stream.
        let status = unsafe {
            (self.solver.cusolverDnDsyevd)(
                handle.0,
                VECTORS,
                LOWER,
                order,
                a as *mut f64,
                order,
                w as *mut f64,
                work.view().ptr as *mut f64,
                size,
                info.view().ptr as *mut c_int,
            )
        };
        check("cusolverDnDsyevd", status)?;
        let info = memory.download(info.view())?;
        if info[0] != 0 {
            return Err(Error::Numerical(format!("cusolverDnDsyevd did not converge ({})", info[0])));
        }
        let vectors = memory.download(matrix.view().part(0..n * n)?)?;
        // Column-major, as cuSOLVER leaves them.
        Ok((Mat::from_fn(n, n, |i, j| vectors[j * n + i]), memory.download(values.view())?))
    }
}

impl Drop for Eigen {
    fn drop(&mut self) {
        if self.stream.is_left_idle() {
            let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: ours, and not used again.
            unsafe { (self.solver.cusolverDnDestroy)(handle.0) };
        }
    }
}
