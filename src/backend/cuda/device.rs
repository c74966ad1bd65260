//! One device as this backend holds it: its memory, and what computes on its stream.

use super::blas::Products;
use super::driver;
use super::kernel_set::KernelSet;
use super::kernels::Kernels;
use super::memory::Memory;
use super::probe::{DeviceInfo, device_info, probe};
use super::solver::Eigen;
use super::stream::{BorrowedStream, Stream};
use crate::error::{Error, Result};
use std::ops::Deref;
use std::sync::Arc;

/// An opened device. Everything allocated on it keeps its memory and its stream alive.
pub(super) struct Device {
    pub(super) info: DeviceInfo,
    pub(super) kernels: Kernels,
    pub(super) blas: Products,
    pub(super) eigen: Eigen,
    /// Whether the clip loss takes the kernels of `hopper.rs`.
    pub(super) hopper: bool,
    memory: Arc<Memory>,
}

/// Allocations and transfers.
impl Deref for Device {
    type Target = Arc<Memory>;

    fn deref(&self) -> &Arc<Memory> {
        &self.memory
    }
}

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
        let stream = Stream::open(driver, ordinal, stream)?;
        Ok(Arc::new(Self {
            memory: Arc::new(Memory::new(&stream, ordinal, memory_limit)?),
            blas: Products::new(driver::blas()?, &stream)?,
            eigen: Eigen::new(driver::solver()?, &stream)?,
            kernels: Kernels::new(&stream, &info.name),
            info,
            hopper,
        }))
    }

    /// Makes the device current on this thread: see [`Stream::enter`].
    pub(super) fn enter(&self) -> Result<()> {
        self.stream.enter()
    }

    /// Waits for everything on the stream, and reports what went wrong in it.
    pub(super) fn synchronize(&self) -> Result<()> {
        self.stream.synchronize()
    }
}
