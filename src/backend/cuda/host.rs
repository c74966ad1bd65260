//! What is done on the host, in float64: explicitly given similarities and explicit results. Both are `n x n`, so sizes are
//! small, and a product of such a size is over before a device has begun.

use super::{Cuda, Matrix};
use crate::backend::cpu::{self, Cpu};
use crate::backend::{Backend, Similarity};
use crate::error::Result;
use crate::io::HostMatrix;

/// A matrix on the host.
type Host = cpu::Matrix<f64>;

impl Cuda {
    /// The CPU backend that stands in.
    pub(super) fn host(&self) -> Result<Cpu<f64>> {
        Ok(Cpu::with(0, None, self.control.clone())?.with_group(self.group.clone()))
    }

    /// A matrix on the host.
    pub(super) fn to_host(&self, host: &Cpu<f64>, x: &Matrix) -> Result<Host> {
        let rows = x.all_rows();
        let mut values = Vec::with_capacity(rows * x.cols());
        self.store(x, &mut |_, rows| {
            values.extend_from_slice(rows);
            Ok(())
        })?;
        host.load(&HostMatrix::from_f64("matrix", rows, x.cols(), values)?)
    }

    /// A matrix from the host.
    pub(super) fn load_host(&self, host: &Cpu<f64>, x: &Host) -> Result<Matrix> {
        let mut values = Vec::with_capacity(x.rows() * x.cols());
        host.store(x, &mut |_, rows| {
            values.extend_from_slice(rows);
            Ok(())
        })?;
        self.load_share(&HostMatrix::from_f64("matrix", x.rows(), x.cols(), values)?)
    }

    /// Runs `f` with a similarity on the host.
    pub(super) fn on_host<R>(
        &self,
        s: Similarity<'_, Matrix>,
        f: impl FnOnce(&Cpu<f64>, Similarity<'_, Host>) -> Result<R>,
    ) -> Result<R> {
        let host = self.host()?;
        match s {
            Similarity::Zeros(n_x, n_y) => f(&host, Similarity::Zeros(n_x, n_y)),
            Similarity::Embeddings(zx, zy) => {
                let (zx, zy) = (self.to_host(&host, zx)?, self.to_host(&host, zy)?);
                f(&host, Similarity::Embeddings(&zx, &zy))
            }
            Similarity::Dense(given) => f(&host, Similarity::Dense(&self.to_host(&host, given)?)),
        }
    }
}
