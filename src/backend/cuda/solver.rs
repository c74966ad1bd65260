//! Symmetric eigenvalues through cuSOLVER.

use super::device::Device;
use super::driver::Solver;
use crate::error::{Error, Result};
use cudarc::cusolver::sys::cusolverDnHandle_t;
use cudarc::driver::sys::CUstream;
use faer::Mat;
use std::ffi::c_int;
use std::sync::{Arc, Mutex, PoisonError};

/// A cuSOLVER handle on one stream.
pub(super) struct Eigen {
    solver: &'static Solver,
    handle: Mutex<cusolverDnHandle_t>,
}

fn check(call: &str, status: c_int) -> Result<()> {
    if status == 0 { Ok(()) } else { Err(Error::Cuda(format!("{call}: status {status}"))) }
}

impl Eigen {
    pub(super) fn new(solver: &'static Solver, stream: CUstream) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        check("cusolverDnCreate", unsafe { (solver.cusolverDnCreate)(&mut handle) })?;
        let eigen = Self { solver, handle: Mutex::new(handle) };
        // SAFETY: the handle was just made.
        let set = check("cusolverDnSetStream", unsafe { (solver.cusolverDnSetStream)(handle, stream) });
        if let Err(e) = set {
            eigen.release();
            return Err(e);
        }
        Ok(eigen)
    }

    pub(super) fn release(&self) {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: ours, and not used again.
        unsafe { (self.solver.cusolverDnDestroy)(*handle) };
    }
}

impl Device {
    /// Eigenvectors (columns) and eigenvalues, ascending, of a symmetric `n x n` matrix on the device, which is
    /// overwritten.
    pub(super) fn symmetric_eigen(
        self: &Arc<Self>,
        matrix: &super::memory::Buffer<f64>,
        n: usize,
    ) -> Result<(Mat<f64>, Vec<f64>)> {
        const VECTORS: c_int = 1;
        const LOWER: c_int = 0;
        matrix.view().holds(n * n)?;
        let order =
            c_int::try_from(n).map_err(|_| Error::Cuda(format!("internal: eigenvalues of order {n}")))?;
        let values = self.alloc::<f64>(n, "eigenvalues")?;
        let info = self.alloc::<i32>(1, "a status")?;
        let handle = self.eigen.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let (a, w) = (matrix.view().ptr, values.view().ptr);
        let mut size = 0;
        // SAFETY: reads only the shape, writes one integer.
        let status = unsafe {
            (self.eigen.solver.cusolverDnDsyevd_bufferSize)(
                *handle,
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
        let work = self.alloc::<f64>(usize::try_from(size).unwrap_or(0), "cuSOLVER's workspace")?;
        // SAFETY: device buffers of the sizes asked for, alive until the download below has waited for the stream.
        let status = unsafe {
            (self.eigen.solver.cusolverDnDsyevd)(
                *handle,
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
        let info = self.download(info.view())?;
        if info[0] != 0 {
            return Err(Error::Numerical(format!("cusolverDnDsyevd did not converge ({})", info[0])));
        }
        let vectors = self.download(matrix.view().part(0..n * n)?)?;
        // Column-major, as cuSOLVER leaves them.
        Ok((Mat::from_fn(n, n, |i, j| vectors[j * n + i]), self.download(values.view())?))
    }
}
