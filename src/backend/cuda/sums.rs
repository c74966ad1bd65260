//! Pass 1's sums over the negatives of every row and column.

use super::grid::Grid;
use super::matrix::panels_of;
use super::memory::{Buffer, View};
use super::params::{AdditiveSums, ClipStats};
use super::problem::Columns;
use super::{Cuda, Phase};
use crate::distributed::{Layout, Part};
use crate::error::Result;
use crate::loss::log_add_exp;
use crate::similarity::blocks::{BothSides, SumsOf, Visit};

/// Below this temperature a constant shift cannot keep `e^{s/tau}` in the range of fp32.
pub(super) const ROBUST_BELOW: f64 = 0.015;
/// Exponents that fp32 keeps exact in sums.
pub(super) const SAFE_EXPONENT: f64 = 40.0;
/// Blocks of a launch that sums: a few for each multiprocessor of the largest cards.
const BLOCKS: usize = 1024;
/// Partial column sums of a launch, which bound its rows.
pub(super) const COLUMN_PARTS: usize = 1 << 24;
/// Rows of a launch of additive sums.
const PAIR_PANEL: usize = 1 << 16;

/// Sums over the negatives of this rank's rows and of all columns, which are one block: every device has their embeddings.
pub(super) struct Sums<'a> {
    grid: &'a Grid<'a>,
    of: SumsOf<'a>,
    found: BothSides<Vec<f64>>,
}

impl<'a> Sums<'a> {
    pub(super) fn new(grid: &'a Grid<'a>, of: SumsOf<'a>) -> Self {
        Self { grid, of, found: BothSides::default() }
    }
}

impl Visit<Cuda, BothSides<Vec<f64>>> for Sums<'_> {
    fn add(&mut self, _: &Columns<'_>) -> Result<()> {
        let (cuda, grid) = (self.grid.cuda, self.grid);
        self.found = match self.of {
            SumsOf::Exponentials { by_maxima } => cuda.log_sums(grid, by_maxima)?,
            // Pairs are the rows of a sweep of their own, which sums no columns.
            SumsOf::Pairs([x, y]) => {
                [cuda.sums_of_pairs(grid, x)?, cuda.sums_of_pairs(&grid.transposed()?, y)?]
            }
        };
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<BothSides<Vec<f64>>> {
        let [rows, columns] = self.found;
        match self.of {
            SumsOf::Exponentials { .. } => {
                Ok([rows, self.grid.cuda.merge_logs(columns, &self.grid.columns_of_ranks())?])
            }
            SumsOf::Pairs(_) => Ok([rows, columns]),
        }
    }
}

impl Cuda {
    /// `log sum e^{s/tau}` over the visited negatives of this rank's rows, and of all columns against them, by position.
    /// `robust`: by running maxima.
    fn log_sums(&self, grid: &Grid<'_>, robust: bool) -> Result<BothSides<Vec<f64>>> {
        let (device, (n_x, n_y)) = (&self.device, (grid.positives.n_x(), grid.positives.n_y()));
        let scale = std::f64::consts::LOG2_E / grid.loss.tau;
        let shift = if robust { 0.0 } else { scale };
        let nothing = |n: usize| device.upload(&vec![f64::NEG_INFINITY; n], "sums over negatives");
        let (log_x, log_y) = (nothing(n_x)?, nothing(n_y)?);
        let (mut partial, strip) = (Partial::default(), grid.strip()?);
        for (rows, cols) in grid.visits() {
            for cols in cols {
                let strips = (COLUMN_PARTS / 2 / cols.len().max(1)).clamp(1, 4096);
                for rows in panels_of(rows.clone(), strips * strip) {
                    let l = grid.launch_clip(rows.clone(), cols.clone(), BLOCKS)?;
                    let [row_sum, row_max, col_sum, col_max] =
                        partial.room(self, [l.row_parts() * l.rows(), l.col_parts() * l.cols()], robust)?;
                    let p = ClipStats {
                        sweep: l.sweep,
                        scale: scale as f32,
                        shift: shift as f32,
                        row_sum: row_sum.ptr,
                        row_max: row_max.ptr,
                        col_sum: col_sum.ptr,
                        col_max: col_max.ptr,
                    };
                    // SAFETY: the grid's sweep; partial results of the sizes that the launch has.
                    unsafe { device.clip_stats(self.mode.narrow(), robust, &l, &p) }?;
                    let max = |view| robust.then_some(view);
                    let (row_out, col_out) =
                        (log_x.view().part(rows.clone())?, log_y.view().part(cols.clone())?);
                    device.merge_log_sums(row_sum, max(row_max), l.row_parts(), shift as f32, row_out)?;
                    device.merge_log_sums(col_sum, max(col_max), l.col_parts(), shift as f32, col_out)?;
                    self.report(Phase::Statistics, rows.end, n_x)?;
                }
            }
        }
        Ok([device.download(log_x.view().part(grid.own.clone())?)?, device.download(log_y.view())?])
    }

    /// This rank's share of the logarithms of what every rank has summed, whose logarithms are `own`.
    fn merge_logs(&self, own: Vec<f64>, layout: &Layout) -> Result<Vec<f64>> {
        let (rank, shares) = (self.group.rank(), layout.all());
        let parts = [Part { first: rank, last: rank, value: own }];
        let add = |a: &mut [f64], b: &[f64]| a.iter_mut().zip(b).for_each(|(a, b)| *a = log_add_exp(*a, *b));
        self.group.scatter_sum(&parts, &shares, f64::NEG_INFINITY, add)
    }

    /// `sum_neg psi(s_ij - nu s_ik)` and of psi' in turn for every pair of this rank's rows by position; eps not yet applied.
    fn sums_of_pairs(&self, grid: &Grid<'_>, s_pos: &[f64]) -> Result<Vec<f64>> {
        let (device, loss) = (&self.device, grid.loss);
        let pairs = PairRows::new(self, grid, s_pos)?;
        let nnz = pairs.threshold.len();
        let (psi, dpsi) =
            (device.alloc::<f64>(nnz, "sums of psi")?, device.alloc::<f64>(nnz, "sums of psi'")?);
        device.zero(psi.view())?;
        device.zero(dpsi.view())?;
        let mut partial = Partial::default();
        for (rows, cols) in grid.visits() {
            let visited = pairs.first[rows.start]..pairs.first[rows.end];
            for cols in cols {
                for panel in panels_of(visited.clone(), PAIR_PANEL) {
                    let l = grid.launch_mapped(&pairs.row_of, panel.clone(), cols.clone(), BLOCKS)?;
                    let len = l.row_parts() * l.rows();
                    let [psi_parts, _, dpsi_parts, _] = partial.room(self, [len, len], false)?;
                    let args = AdditiveSums {
                        sweep: l.sweep,
                        tau: loss.tau as f32,
                        margin: loss.margin as f32,
                        threshold: pairs.threshold.view().ptr,
                        psi: psi_parts.ptr,
                        dpsi: dpsi_parts.ptr,
                    };
                    // SAFETY: the grid's sweep, a threshold for each of its rows, and partial results of the launch's size.
                    unsafe { device.additive_sums(self.mode.narrow(), loss.kind, &l, &args) }?;
                    device.merge_sums(psi_parts, l.row_parts(), psi.view().part(panel.clone())?)?;
                    device.merge_sums(dpsi_parts, l.row_parts(), dpsi.view().part(panel.clone())?)?;
                    self.report(Phase::Statistics, panel.end, nnz)?;
                }
            }
        }
        let own = pairs.first[grid.own.start]..pairs.first[grid.own.end];
        let psi = device.download(psi.view().part(own.clone())?)?;
        let dpsi = device.download(dpsi.view().part(own)?)?;
        Ok(psi.into_iter().zip(dpsi).flat_map(|(psi, dpsi)| [psi, dpsi]).collect())
    }
}

/// The positive pairs of a grid's rows by position: the rows of an additive sweep.
struct PairRows {
    /// Where the pairs of each position begin; one longer than the positions.
    first: Vec<usize>,
    row_of: Buffer<i32>,
    threshold: Buffer<f32>,
}

impl PairRows {
    fn new(cuda: &Cuda, grid: &Grid<'_>, s_pos: &[f64]) -> Result<Self> {
        let p = &grid.positives;
        let (mut first, mut row_of, mut threshold) =
            (vec![0], Vec::with_capacity(p.nnz()), Vec::with_capacity(p.nnz()));
        for position in 0..p.n_x() {
            let i = grid.schedule.row_id(position);
            let pairs = &s_pos[p.row_offset(i)..p.row_offset(i + 1)];
            threshold.extend(pairs.iter().map(|s| (grid.loss.nu * s) as f32));
            row_of.resize(threshold.len(), position as i32);
            first.push(threshold.len());
        }
        let row_of = cuda.device.upload(&row_of, "rows of pairs")?;
        Ok(Self { first, row_of, threshold: cuda.device.upload(&threshold, "thresholds of pairs")? })
    }
}

/// Buffers of partial results, which grow to the largest launch.
#[derive(Default)]
struct Partial {
    buffers: [Option<Buffer<f32>>; 4],
}

impl Partial {
    /// Sums and maxima of rows, sums and maxima of columns; no maxima unless `with_max`.
    fn room(&mut self, cuda: &Cuda, sizes: [usize; 2], with_max: bool) -> Result<[View<'_, f32>; 4]> {
        let mut views = [View::null(); 4];
        for (k, (buffer, view)) in self.buffers.iter_mut().zip(&mut views).enumerate() {
            if k % 2 == 0 || with_max {
                *view = super::matrix::room(buffer, sizes[k / 2], cuda, "partial sums")?;
            }
        }
        Ok(views)
    }
}
