//! Matrices that do not fit in memory: written to nameless files, read back a panel at a time.

use super::Cpu;
use crate::error::{Error, Result};
use crate::io::{PagedMatrix, RowSource};
use crate::real::Real;
use crate::similarity::schedule::TILE;
use rayon::prelude::*;
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// How much memory there is, and where the rest goes.
#[derive(Debug)]
pub(super) struct Spill {
    pub(super) limit: u64,
    pub(super) folder: PathBuf,
}

impl Spill {
    /// Bytes of matrices in memory at once: what samples need beside them (statistics, relations, panels) has the other
    /// half.
    pub(super) fn resident(&self) -> u64 {
        self.limit / 2
    }
}

/// Bytes of a matrix.
pub(super) fn bytes<T>(rows: usize, cols: usize) -> u64 {
    (rows as u64).saturating_mul(cols as u64).saturating_mul(size_of::<T>() as u64)
}

impl<T: Real> Cpu<T> {
    /// The rows `own` of a matrix, filled panel by panel into a file that nobody else sees and that goes with its last
    /// user.
    pub(super) fn fill_file(
        &self,
        spill: &Spill,
        own: Range<usize>,
        cols: usize,
        fill: impl Fn(Range<usize>, &mut [T]) -> Result<()> + Sync,
    ) -> Result<Arc<dyn RowSource>> {
        let failed = |e| Error::io(&spill.folder, e);
        let mut file = tempfile::tempfile_in(&spill.folder).map_err(failed)?;
        let wave = TILE * self.threads();
        let mut buffer = vec![T::default(); wave.min(own.len()) * cols];
        for start in own.clone().step_by(wave) {
            let rows = start..(start + wave).min(own.end);
            let buffer = &mut buffer[..rows.len() * cols];
            self.install(|| {
                buffer.par_chunks_mut((TILE * cols).max(1)).enumerate().try_for_each(|(p, panel)| {
                    let first = start + p * TILE;
                    panel.fill(T::default());
                    fill(first..first + panel.len() / cols, panel)
                })
            })?;
            file.write_all(bytemuck::cast_slice(buffer)).map_err(failed)?;
        }
        let shape = (own.len(), cols);
        Ok(Arc::new(PagedMatrix::new(file, 0, T::DTYPE, shape, "a matrix on disk", &spill.folder)))
    }
}
