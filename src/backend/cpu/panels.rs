//! How the backend walks over rows: panels in parallel, results in panel order, matrices made panel by panel.

use super::Cpu;
use super::matrix::Matrix;
use super::spill::bytes;
use crate::control::{Phase, Progress};
use crate::error::Result;
use crate::real::Real;
use crate::similarity::schedule::TILE;
use faer::MatRef;
use rayon::prelude::*;
use std::ops::Range;

/// Where the panels of a visit stand in the whole, for progress: part `done` of `of`.
pub(super) struct Meter {
    pub(super) phase: Phase,
    pub(super) done: usize,
    pub(super) of: usize,
    /// Whoever calls reports.
    pub(super) quiet: bool,
}

impl Meter {
    /// The panels are the whole.
    pub(super) fn whole(phase: Phase) -> Self {
        Self { phase, done: 0, of: 1, quiet: false }
    }

    pub(super) fn quiet(phase: Phase) -> Self {
        Self { phase, done: 0, of: 1, quiet: true }
    }
}

/// Panels that few threads share.
const PANELS: usize = 8;

/// Adds the second sum to the first.
// A `Fold` adds values of one type, here vectors.
#[allow(clippy::ptr_arg)]
pub(super) fn add(a: &mut Vec<f64>, b: Vec<f64>) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
}

impl<T: Real> Cpu<T> {
    /// Zeros in the rows that this rank holds of `rows`.
    pub(super) fn zeros(&self, rows: usize, cols: usize) -> Result<Matrix<T>> {
        Matrix::zeros(rows, cols, self.layout(rows, TILE).own(), &self.account)
    }

    pub(super) fn report(&self, phase: Phase, done: usize, total: usize) -> Result<()> {
        let progress = Progress { phase, done: done as u64, total: total as u64, loss: f64::NAN };
        self.control.report(progress)
    }

    /// Panels that are shared out together: one a thread, several where threads are few, so that none waits long for the last.
    pub(super) fn together(&self) -> usize {
        if self.threads() == 1 { 1 } else { self.threads().max(PANELS) }
    }

    /// Runs `work` on every panel and its state in parallel, a wave of some panels a thread at a time, and `fold`s the
    /// results in panel order on the calling thread. Reports progress and checks for cancellation between waves.
    pub(super) fn for_panels<S: Send, A: Send>(
        &self,
        meter: &Meter,
        panels: Range<usize>,
        states: &mut [S],
        work: impl Fn(usize, &mut S) -> Result<A> + Sync,
        mut fold: impl FnMut(A) -> Result<()>,
    ) -> Result<()> {
        let wave = self.together();
        let total = panels.len();
        for (k, states) in states.chunks_mut(wave).enumerate() {
            let first = panels.start + k * wave;
            let parts: Vec<Result<A>> = if states.len() == 1 {
                states.iter_mut().map(|state| work(first, state)).collect()
            } else {
                self.install(|| {
                    let each = states.par_iter_mut().enumerate().with_max_len(1);
                    each.map(|(i, state)| work(first + i, state)).collect()
                })
            };
            for part in parts {
                fold(part?)?;
            }
            if !meter.quiet {
                let done = meter.done * total + ((k + 1) * wave).min(total);
                self.report(meter.phase, done, meter.of * total)?;
            }
        }
        Ok(())
    }

    /// A new matrix of `rows x cols` made panel by panel: `fill(rows, panel)`.
    pub(super) fn build(
        &self,
        rows: usize,
        cols: usize,
        fill: impl Fn(Range<usize>, &mut [T]) -> Result<()> + Sync,
    ) -> Result<Matrix<T>> {
        let own = self.layout(rows, TILE).own();
        if let Some(spill) = &self.spill
            && self.account.read().0 + bytes::<T>(own.len(), cols) > spill.resident()
        {
            let file = self.fill_file(spill, own.clone(), cols, fill)?;
            return Ok(Matrix::in_file(rows, own.clone(), file, own.start));
        }
        let mut out = self.zeros(rows, cols)?;
        let first = own.start;
        if cols > 0 {
            self.install(|| {
                out.data_mut().par_chunks_mut(TILE * cols).enumerate().try_for_each(|(p, panel)| {
                    let start = first + p * TILE;
                    fill(start..start + panel.len() / cols, panel)
                })
            })?;
        }
        Ok(out)
    }

    /// A small host matrix as row-major `T`: that of rank 0, should the ranks' processors have rounded differently.
    pub(super) fn agreed(&self, w: MatRef<'_, f64>) -> Result<Vec<T>> {
        let mut out = row_major(w);
        self.group.broadcast(0, &mut out)?;
        Ok(out)
    }
}

/// The entries row by row. Both orders are kept to a few lines of the cache at a time.
fn row_major<T: Real>(w: MatRef<'_, f64>) -> Vec<T> {
    const SQUARE: usize = 16;
    let (rows, cols) = w.shape();
    let mut out = vec![T::default(); rows * cols];
    for (top, band) in (0..rows).step_by(SQUARE).zip(out.chunks_mut((SQUARE * cols).max(1))) {
        for left in (0..cols).step_by(SQUARE) {
            for j in left..(left + SQUARE).min(cols) {
                let column = band.iter_mut().skip(j).step_by(cols);
                for (out, i) in column.zip(top..rows) {
                    *out = T::of(w[(i, j)]);
                }
            }
        }
    }
    out
}
