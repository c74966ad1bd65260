//! Dense products through cuBLAS, on row-major operands.

use super::driver::{Blas, Handle};
use super::memory::View;
use super::stream::Stream;
use crate::error::{Error, Result};
use cudarc::cublas::sys::{
    cublasComputeType_t as Compute, cublasHandle_t, cublasMath_t, cudaDataType_t as DataType,
};
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

/// A cuBLAS handle on one stream.
pub(super) struct Products {
    blas: &'static Blas,
    handle: Mutex<Handle<cublasHandle_t>>,
    stream: Arc<Stream>,
}

impl Products {
    pub(super) fn new(blas: &'static Blas, stream: &Arc<Stream>) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        check("cublasCreate", unsafe { (blas.cublasCreate_v2)(&mut handle) })?;
        let products = Self { blas, handle: Mutex::new(Handle(handle)), stream: stream.clone() };
        // Sums stay in fp32, and fp32 products are not done in TF32.
        let math = cublasMath_t::CUBLAS_DEFAULT_MATH as c_int
            | cublasMath_t::CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION as c_int;
        // SAFETY: the handle was just made.
        let set = unsafe {
            check("cublasSetStream", (blas.cublasSetStream_v2)(handle, stream.raw()))
                .and_then(|()| check("cublasSetMathMode", (blas.cublasSetMathMode)(handle, math)))
        };
        set.map(|()| products)
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        if self.stream.is_left_idle() {
            let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: ours, and not used again.
            unsafe { (self.blas.cublasDestroy_v2)(handle.0) };
        }
    }
}

fn check(call: &str, status: c_int) -> Result<()> {
    match status {
        0 => Ok(()),
        1 => Err(Error::Cuda(format!("{call}: not initialised (is the device usable?)"))),
        3 => Err(Error::Cuda(format!("{call}: no memory for its workspace"))),
        8 => Err(Error::Cuda(format!("{call}: the device is too old for this cuBLAS"))),
        _ => Err(Error::Cuda(format!("{call}: status {status}"))),
    }
}

/// How the elements of an operand are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    F16,
    Bf16,
    F32,
    F64,
}

impl Stored {
    fn code(self) -> c_int {
        (match self {
            Self::F16 => DataType::CUDA_R_16F,
            Self::Bf16 => DataType::CUDA_R_16BF,
            Self::F32 => DataType::CUDA_R_32F,
            Self::F64 => DataType::CUDA_R_64F,
        }) as c_int
    }
}

/// A row-major operand, perhaps to be transposed: element (i, k) lies at `i ld + k`.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    ptr: u64,
    len: usize,
    ld: usize,
    stored: Stored,
    transposed: bool,
    memory: std::marker::PhantomData<&'a ()>,
}

impl<'a> Operand<'a> {
    pub(super) fn f32(view: View<'a, f32>, ld: usize) -> Self {
        Self::new(view, ld, Stored::F32)
    }

    pub(super) fn f64(view: View<'a, f64>, ld: usize) -> Self {
        Self::new(view, ld, Stored::F64)
    }

    /// 16-bit elements: `stored` says which.
    pub(super) fn narrow(view: View<'a, u16>, ld: usize, stored: Stored) -> Self {
        Self::new(view, ld, stored)
    }

    fn new<T>(view: View<'a, T>, ld: usize, stored: Stored) -> Self {
        let memory = std::marker::PhantomData;
        Self { ptr: view.ptr, len: view.len, ld, stored, transposed: false, memory }
    }

    pub(super) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Checks that a `rows x cols` operand (as the product sees it) lies within its memory.
    fn check(&self, rows: usize, cols: usize) -> Result<()> {
        let (rows, cols) = if self.transposed { (cols, rows) } else { (rows, cols) };
        let last = if rows == 0 || cols == 0 { 0 } else { (rows - 1) * self.ld + cols };
        if cols > self.ld || last > self.len || self.ld > i32::MAX as usize {
            let got = format!("{rows} x {cols}, ld {}, of {} elements", self.ld, self.len);
            return Err(Error::Cuda(format!("internal: product operand {got}")));
        }
        Ok(())
    }
}

impl Products {
    /// `C <- A B + keep C` with A `m x k`, B `k x n`, C `m x n`, all row-major; `keep` is 0 (C is not read) or 1. The
    /// operands are alike; C is f32 for 16-bit and f32 operands, f64 for f64.
    pub(super) fn multiply(
        &self,
        (m, n, k): (usize, usize, usize),
        a: Operand<'_>,
        b: Operand<'_>,
        keep: bool,
        c: Operand<'_>,
    ) -> Result<()> {
        a.check(m, k)?;
        b.check(k, n)?;
        c.check(m, n)?;
        let double = a.stored == Stored::F64;
        let result = if double { Stored::F64 } else { Stored::F32 };
        if a.stored != b.stored || c.stored != result || c.transposed || m.max(n).max(k) > i32::MAX as usize {
            return Err(Error::Cuda(format!("internal: product {m} x {n} x {k} of unlike operands")));
        }
        if m == 0 || n == 0 {
            return Ok(());
        }
        let compute = if double { Compute::CUBLAS_COMPUTE_64F } else { Compute::CUBLAS_COMPUTE_32F };
        let (alpha64, beta64) = (1.0f64, f64::from(u8::from(keep)));
        let (alpha32, beta32) = (1.0f32, f32::from(u8::from(keep)));
        let (alpha, beta): (*const c_void, *const c_void) = if double {
            ((&raw const alpha64).cast(), (&raw const beta64).cast())
        } else {
            ((&raw const alpha32).cast(), (&raw const beta32).cast())
        };
        let op = |o: &Operand<'_>| c_int::from(o.transposed);
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        // cuBLAS is column-major: it is asked for C^T = B^T A^T, whose operands are ours as they lie.
        // SAFETY: operands checked above; the factors are read during the call (host pointer mode).
        let status = unsafe {
            (self.blas.cublasGemmEx)(
                handle.0,
                op(&b),
                op(&a),
                n as c_int,
                m as c_int,
                k as c_int,
                alpha,
                b.ptr as *const c_void,
                b.stored.code(),
                b.ld as c_int,
                a.ptr as *const c_void,
                a.stored.code(),
                a.ld as c_int,
                beta,
                c.ptr as *mut c_void,
                c.stored.code(),
                c.ld as c_int,
                compute as c_int,
                -1, // CUBLAS_GEMM_DEFAULT
            )
        };
        check("cublasGemmEx", status)
    }
}
