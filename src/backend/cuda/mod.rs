//! The CUDA backend: hand-written kernels (`cuda/*.cu`) for everything about S(gamma), cuBLAS for dense products,
//! cuSOLVER for eigenvalues.
//!
//! No CUDA library is linked; [`probe`] says which devices can be used, or why none can. Work is enqueued on one stream;
//! only what returns numbers to the host waits for it. Partial results are merged in a fixed order, so results are the
//! same to the bit from run to run on the same device.

#![allow(dead_code)] // Until every operation is there.

mod blas;
mod device;
mod driver;
mod kernels;
mod memory;
mod params;
mod probe;
mod solver;

pub use device::BorrowedStream;
pub use probe::{DeviceInfo, probe};

use crate::backend::{Arithmetic, Backend, Similarity, Ties, TopK};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::io::RowSource;
use crate::kernel::Kernel;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::weights::{Negatives, Weights};
use device::Device;
use faer::{Mat, MatRef};
use std::ops::Range;
use std::sync::Arc;

/// How similarities and weights are computed. Sums are always at least fp32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Embeddings and weights in fp16.
    #[default]
    Fp16,
    /// The same in bfloat16: about 8 times less exact, for values beyond fp16's range.
    Bf16,
    /// fp32 accuracy: similarities from three products of split embeddings, weights in fp32.
    Fp32,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Fp32 => "fp32",
        }
    }
}

/// How a device is opened.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Arithmetic of similarities and weights.
    pub mode: Mode,
    /// The caller's stream; `None`: one of our own.
    pub stream: Option<BorrowedStream>,
    /// Most bytes of device memory to hold at a time; `None`: what the device has.
    pub memory_limit: Option<u64>,
    /// Progress and cancellation.
    pub control: Arc<Control>,
}

/// The CUDA backend on one device. Clones share it.
#[derive(Clone)]
pub struct Cuda {
    device: Arc<Device>,
    mode: Mode,
    control: Arc<Control>,
}

/// n-sized data on the device, or on the host where the device has no room for it.
pub struct Matrix {
    rows: usize,
    cols: usize,
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

impl Cuda {
    /// Opens a device.
    ///
    /// # Errors
    /// As [`probe`], and [`Error::NoDevice`] when there is no such device or it is older than compute capability 8.0.
    pub fn open(device: u32, options: Options) -> Result<Self> {
        let Options { mode, stream, memory_limit, control } = options;
        Ok(Self { device: Device::open(device, stream, memory_limit)?, mode, control })
    }

    /// What was opened.
    pub fn device(&self) -> &DeviceInfo {
        &self.device.info
    }

    /// Arithmetic of similarities and weights.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Makes the peak of [`Backend::memory`] what is held now.
    pub fn forget_peak(&self) {
        self.device.account.forget_peak();
    }

    /// Waits until everything enqueued so far has been done.
    ///
    /// # Errors
    /// [`Error::Cuda`] when some of it failed.
    pub fn synchronize(&self) -> Result<()> {
        self.device.enter()?;
        self.device.synchronize()
    }
}

fn not_yet<T>(what: &str) -> Result<T> {
    Err(Error::Unsupported(format!("{what} on CUDA in this build")))
}

impl Backend for Cuda {
    type Matrix = Matrix;

    fn describe(&self) -> String {
        let DeviceInfo { ordinal, name, capability: (major, minor), .. } = &self.device.info;
        format!("cuda:{ordinal}, {name} (compute capability {major}.{minor}), {}", self.mode.name())
    }

    fn control(&self) -> &Control {
        &self.control
    }

    fn memory(&self) -> (u64, u64) {
        self.device.account.read()
    }

    fn arithmetic(&self) -> Arithmetic {
        match self.mode {
            Mode::Fp16 => Arithmetic::F16,
            Mode::Bf16 => Arithmetic::Bf16,
            Mode::Fp32 => Arithmetic::F32,
        }
    }

    fn load(&self, _source: &dyn RowSource) -> Result<Matrix> {
        not_yet("loading")
    }

    fn store(&self, _x: &Matrix, _sink: &mut dyn FnMut(usize, &[f64]) -> Result<()>) -> Result<()> {
        not_yet("storing")
    }

    fn shape(&self, x: &Matrix) -> (usize, usize) {
        (x.rows, x.cols)
    }

    fn rows(&self, _x: &Matrix, _range: Range<usize>) -> Result<Matrix> {
        not_yet("rows")
    }

    fn linear(&self, _x: &Matrix, _w: MatRef<'_, f64>) -> Result<Matrix> {
        not_yet("linear maps")
    }

    fn encode(&self, _x: &Matrix, _f: MatRef<'_, f64>) -> Result<(Matrix, Vec<f64>)> {
        not_yet("encoding")
    }

    fn scale_rows(&self, _x: &Matrix, _scale: &[f64]) -> Result<Matrix> {
        not_yet("scaling")
    }

    fn kernel(&self, _kernel: &Kernel, _x: &Matrix, _landmarks: MatRef<'_, f64>) -> Result<Matrix> {
        not_yet("kernels")
    }

    fn gram(&self, _x: &Matrix) -> Result<Mat<f64>> {
        not_yet("Gram matrices")
    }

    fn weights(
        &self,
        _s: Similarity<'_, Matrix>,
        _loss: &Loss,
        _positives: &Positives,
        _negatives: Negatives,
    ) -> Result<Weights> {
        not_yet("weights")
    }

    fn cross(&self, _s: Similarity<'_, Matrix>, _w: &Weights, _x: &Matrix, _y: &Matrix) -> Result<Mat<f64>> {
        not_yet("X^T S Y")
    }

    fn apply(&self, _s: Similarity<'_, Matrix>, _w: &Weights, _v: &Matrix) -> Result<Matrix> {
        not_yet("S V")
    }

    fn apply_t(&self, _s: Similarity<'_, Matrix>, _w: &Weights, _u: &Matrix) -> Result<Matrix> {
        not_yet("S^T U")
    }

    fn gradients(&self, _zx: &Matrix, _zy: &Matrix, _w: &Weights) -> Result<(Matrix, Matrix)> {
        not_yet("gradients")
    }

    fn encode_backward(&self, _x: &Matrix, _z: &Matrix, _norms: &[f64], _g: &Matrix) -> Result<Mat<f64>> {
        not_yet("gradients of encoders")
    }

    fn select(&self, _x: &Matrix, _ids: &[u32]) -> Result<Matrix> {
        not_yet("selecting rows")
    }

    fn dense(&self, _s: Similarity<'_, Matrix>, _w: &Weights) -> Result<Mat<f64>> {
        not_yet("S itself")
    }

    fn hstack(&self, _blocks: &[(f64, &Matrix)]) -> Result<Matrix> {
        not_yet("stacking")
    }

    fn top_k(&self, _queries: &Matrix, _items: &Matrix, _k: usize) -> Result<TopK> {
        not_yet("search")
    }

    fn ranks(&self, _s: Similarity<'_, Matrix>, _positives: &Positives, _ties: Ties) -> Result<Vec<u32>> {
        not_yet("ranks")
    }

    fn positive_similarities(&self, _s: Similarity<'_, Matrix>, _positives: &Positives) -> Result<Vec<f64>> {
        not_yet("similarities of positives")
    }
}
