//! Pass 1: sums over negatives of every row and column, the loss and the coefficients of `S(gamma)`.

use super::grid::{Grid, Pairs, Sides};
use super::matrix::{Matrix, panels_of};
use super::memory::{Buffer, View};
use super::params::{AdditiveSums, ClipStats};
use super::{Cuda, Phase};
use crate::backend::anchors::{Factors, additive_side, clip_numbers};
use crate::backend::plan::Plan;
use crate::error::Result;
use crate::loss::{Loss, LossKind};
use crate::positives::Positives;
use crate::threads;
use crate::weights::{Negatives, Side, Weights, diagonal_apart};
use rayon::prelude::*;

/// Below this temperature a constant shift cannot keep `e^{s/tau}` in the range of fp32.
const ROBUST_BELOW: f64 = 0.015;
/// Sums of `e^{(s - 1)/tau}` below `e^-40` have lost too much of fp32's range: the pass is repeated with running maxima.
pub(super) const SAFE_EXPONENT: f64 = 40.0;
/// Blocks of a launch that sums: a few for each multiprocessor of the largest cards.
const BLOCKS: usize = 1024;
/// Partial column sums of a launch, which bound its rows.
pub(super) const COLUMN_PARTS: usize = 1 << 24;
/// Rows of a launch of additive sums.
const PAIR_PANEL: usize = 1 << 16;

impl Cuda {
    pub(super) fn statistics(
        &self,
        (zx, zy): (&Matrix, &Matrix),
        loss: &Loss,
        positives: &Positives,
        negatives: Negatives,
    ) -> Result<Weights> {
        let plan = Plan::new(positives.n_x(), positives.n_y(), negatives);
        let factors = Factors::new(&plan, loss, positives, false);
        let sides = Sides::new(self, zx, zy)?;
        let pairs = Pairs::new(&sides, loss, positives)?;
        let grid = Grid::new(self, (zx, zy), loss, positives, plan)?;
        let back = positives.transposed();
        let (rows, cols, loss_rows, loss_cols) = if loss.kind == LossKind::Clip {
            let (log_x, log_y) = self.clip_sums(&grid, &factors)?;
            let (rows, lx) = clip_side(loss, positives, &log_x, |i, j| pairs.at(i, j));
            let (cols, ly) = clip_side(loss, &back, &log_y, |j, i| pairs.at(i, j));
            (rows, cols, lx, ly)
        } else {
            let s_cols = pairs.by_column();
            let sums_x = self.additive_sums(&grid, &pairs.s)?;
            let sums_y = self.additive_sums(&grid.transposed()?, &s_cols)?;
            let s_rows = pairs.s.clone();
            let diagonal = |i| pairs.at(i, i);
            let (rows, lx) = additive_side(loss, positives, s_rows, sums_x, &factors.x, diagonal);
            let (cols, ly) = additive_side(loss, &back, s_cols, sums_y, &factors.y, diagonal);
            (rows, cols, lx, ly)
        };
        let rows = Side { factor: factors.x, ..rows };
        let cols = Side { factor: factors.y, ..cols };
        let (loss, positives) = (*loss, positives.clone());
        Weights { loss, positives, negatives, loss_rows, loss_cols, share: false, rows, cols }.checked()
    }

    /// `log sum_neg eps_neg e^{s/tau}` of every row and column, by sample.
    fn clip_sums(&self, grid: &Grid<'_>, factors: &Factors<'_>) -> Result<(Vec<f64>, Vec<f64>)> {
        let tau = grid.loss.tau;
        let lost = |logs: &[f64], plan_ids: &dyn Fn(usize) -> usize, seen: &dyn Fn(usize) -> f64| {
            let low = |(position, log): (usize, &f64)| {
                log - 1.0 / tau < -SAFE_EXPONENT && seen(plan_ids(position)) > 0.0
            };
            logs.iter().enumerate().any(low)
        };
        let plan = &grid.plan;
        let (x_id, y_id) = (|p: usize| plan.row_id(p), |p: usize| plan.col_id(p));
        let mut robust = tau < ROBUST_BELOW;
        let (x, y) = loop {
            let (x, y) = self.clip_log_sums(grid, robust)?;
            let again = lost(&x, &x_id, &|i| factors.seen_x(i)) || lost(&y, &y_id, &|j| factors.seen_y(j));
            if robust || !again {
                break (x, y);
            }
            robust = true;
        };
        let log_eps = grid.loss.eps_neg.ln();
        let by_sample = |logs: Vec<f64>, id: &dyn Fn(usize) -> usize, factor: &[f64]| {
            let mut out = vec![0.0; logs.len()];
            for (position, log) in logs.into_iter().enumerate() {
                let i = id(position);
                out[i] = log + log_eps + factor.get(i).map_or(0.0, |f| f.ln());
            }
            out
        };
        Ok((by_sample(x, &x_id, &factors.x), by_sample(y, &y_id, &factors.y)))
    }

    /// `log sum e^{s/tau}` over the visited negatives of all ranks, by position.
    fn clip_log_sums(&self, grid: &Grid<'_>, robust: bool) -> Result<(Vec<f64>, Vec<f64>)> {
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
        let (x, y) = (device.download(log_x.view().part(grid.own.clone())?)?, device.download(log_y.view())?);
        Ok((self.group.concat(x)?, self.merge_logs(y)?))
    }

    /// `sum_neg psi(s_ij - nu s_ik)` and of psi' for every pair of the grid's rows, row by row; eps not yet applied.
    fn additive_sums(&self, grid: &Grid<'_>, s_pos: &[f64]) -> Result<[Vec<f64>; 2]> {
        let (device, p, loss) = (&self.device, &grid.positives, grid.loss);
        let pairs = PairRows::new(self, grid, s_pos)?;
        let nnz = pairs.of.len();
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
        let mut found =
            [device.download(psi.view().part(own.clone())?)?, device.download(dpsi.view().part(own)?)?];
        for sums in &mut found {
            *sums = self.group.concat(std::mem::take(sums))?;
        }
        Ok(found.map(|sums| {
            let mut out = vec![0.0; p.nnz()];
            pairs.of.iter().zip(sums).for_each(|(&e, sum)| out[e] = sum);
            out
        }))
    }
}

/// Coefficients and half loss of the anchors of one direction. `pair(i, j)` is the similarity of a pair that tiles leave
/// out.
fn clip_side(
    loss: &Loss,
    positives: &Positives,
    log_neg: &[f64],
    pair: impl Fn(usize, usize) -> f64 + Sync,
) -> (Side, f64) {
    let of_anchor = |s: &mut Vec<f64>, i: usize| {
        s.clear();
        s.extend(positives.row(i).iter().map(|&j| pair(i, j as usize)));
        s.extend(diagonal_apart(loss, positives, i).then(|| pair(i, i)));
        clip_numbers(loss, positives, i, log_neg[i], s)
    };
    let anchors: Vec<[f64; 3]> =
        threads::run(|| (0..positives.n_x()).into_par_iter().map_init(Vec::new, of_anchor).collect());
    let value = anchors.iter().map(|[_, _, term]| term).sum();
    let log_neg = anchors.iter().map(|a| a[0]).collect();
    (Side { log_neg, coeff: anchors.iter().map(|a| a[1]).collect(), ..Side::default() }, value)
}

/// The positive pairs of a grid's rows by position: the rows of an additive sweep.
struct PairRows {
    /// Pair (row by row, by sample) of each row of the sweep.
    of: Vec<usize>,
    /// Where the pairs of each position begin; one longer than the positions.
    first: Vec<usize>,
    row_of: Buffer<i32>,
    threshold: Buffer<f32>,
}

impl PairRows {
    fn new(cuda: &Cuda, grid: &Grid<'_>, s_pos: &[f64]) -> Result<Self> {
        let p = &grid.positives;
        let (mut of, mut first, mut row_of) =
            (Vec::with_capacity(p.nnz()), vec![0], Vec::with_capacity(p.nnz()));
        for position in 0..p.n_x() {
            let i = grid.plan.row_id(position);
            of.extend(p.row_offset(i)..p.row_offset(i + 1));
            row_of.resize(of.len(), position as i32);
            first.push(of.len());
        }
        let threshold: Vec<f32> = of.iter().map(|&e| (grid.loss.nu * s_pos[e]) as f32).collect();
        let row_of = cuda.device.upload(&row_of, "rows of pairs")?;
        Ok(Self { of, first, row_of, threshold: cuda.device.upload(&threshold, "thresholds of pairs")? })
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
