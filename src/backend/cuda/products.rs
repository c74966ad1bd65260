//! The block operations of the passes: panels of weights times values, some rows at a time, never an `n x n` matrix.
//!
//! Rows begin as the negatives' product, scaled by powers of two so that 16-bit numbers keep their digits; they are scaled
//! back when the masked entries are added.

use super::blas::Operand;
use super::gradients::BothProducts;
use super::grid::{Grid, Pairs, Sides, WEIGHT_COLS, WEIGHT_ROWS};
use super::masked::Masked;
use super::matrix::{Matrix, PANEL, Panels, panels_of};
use super::memory::Buffer;
use super::pieces::Pieces;
use super::problem::{Columns, Passing, Problem, Values, WeightTiles};
use super::rows::Rows as DeviceRows;
use super::sums::{ROBUST_BELOW, SAFE_EXPONENT, Sums};
use super::values::Values as Operands;
use super::weight_panels::{PanelRoom, WeightPanels};
use super::{Cuda, Phase, swapped};
use crate::backend::Similarity;
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::Weights;
use crate::similarity::blocks::{Blocks, BothSides, NewVisit, Sign, Stage, SumsOf};
use crate::similarity::coefficients::Coefficients;
use crate::similarity::masked::masked_of_row;
use crate::similarity::schedule::TileSchedule;
use crate::threads;
use faer::Mat;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a stage: long enough for the panels, and 100 MiB of fp32 at 768 columns.
const BLOCK: usize = 8 * WEIGHT_ROWS;
/// Partial column sums of a panel.
const SUM_PARTS: usize = 64;

/// Products on some rows.
pub(crate) struct Rows<'a> {
    out: DeviceRows<'a, f32>,
    /// What one unit of the sums is worth.
    unit: f64,
    panel: PanelRoom,
}

impl<'a> Rows<'a> {
    fn new(out: DeviceRows<'a, f32>, panel: PanelRoom) -> Self {
        Self { out, unit: 1.0, panel }
    }
}

impl Cuda {
    /// The stages of a product: rows see all columns at once where these stay on the device. Where every stage would send all of
    /// `V` to the device again there are few; of several ranks one, past which the others' values come.
    fn stages(&self, tiles: &WeightTiles<'_>, values: &Values<'_>) -> impl Iterator<Item = Stage> {
        let own = tiles.own.clone();
        let (block, most) = if self.group.size() > 1 {
            (own.len().max(1), own.len().max(1))
        } else if values.stay() || tiles.flat.is_some() {
            (BLOCK, own.len())
        } else {
            let fits = self.device.available() / 4 / (4 * values.v.cols().max(1)) as u64;
            let most = own.len().div_ceil(PANEL).max(1) * PANEL;
            (((fits as usize) / PANEL * PANEL).clamp(PANEL, most), own.len())
        };
        Stage::all(own, block, most)
    }

    /// The column sums of `V`, and those weighted by beta, of all ranks.
    fn flat_sums(&self, beta: &[f64], v: &Matrix) -> Result<Buffer<f64>> {
        let (device, d) = (&self.device, v.cols());
        let beta = device.upload(&beta[v.held()], "coefficients")?;
        let sums = device.alloc::<f64>(2 * d, "column sums")?;
        let scratch = device.alloc::<f64>(SUM_PARTS * d, "partial column sums")?;
        device.zero(sums.view())?;
        let mut panels = Panels::new(self, v, None)?;
        for rows in panels_of(0..v.rows(), PANEL) {
            let x = DeviceRows::dense(panels.get(rows.clone())?, rows.len(), d)?;
            let weight = beta.view().part(rows)?;
            device.column_sums(x, None, SUM_PARTS, scratch.view(), sums.view())?;
            device.column_sums(x, Some(weight), SUM_PARTS, scratch.view(), sums.view().from(d)?)?;
        }
        match self.group.size() {
            1 => Ok(sums),
            _ => device.upload(&self.sum_on_device(sums.view())?, "column sums"),
        }
    }
}

impl Blocks for Cuda {
    type Problem<'a> = Problem<'a>;
    type WeightTiles<'a> = WeightTiles<'a>;
    type Passing<'a> = Passing<'a>;
    type Values<'a> = Values<'a>;
    type Columns<'a> = Columns<'a>;
    type Rows<'a> = Rows<'a>;

    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        threads::run(f)
    }

    fn exponent_limit(&self) -> f64 {
        SAFE_EXPONENT
    }

    fn always_by_maxima(&self, tau: f64) -> bool {
        tau < ROBUST_BELOW
    }

    fn problem<'a>(
        &'a self,
        s: Similarity<'a, Matrix>,
        transposed: bool,
        loss: &'a Loss,
        positives: &Positives,
        schedule: TileSchedule,
    ) -> Result<Problem<'a>> {
        let s = if transposed { swapped(s) } else { s };
        let of_embeddings = match s {
            Similarity::Embeddings(zx, zy) => {
                let (zx, zy) = (self.complete(zx)?, self.complete(zy)?);
                let pairs = Pairs::new(&Sides::new(self, zx, zy)?, loss, positives)?;
                Some((Grid::new(self, (zx, zy), loss, positives, schedule.clone())?, pairs))
            }
            // Given similarities are the host's, which `Cuda` has seen to.
            Similarity::Zeros(..) | Similarity::Dense(_) => None,
        };
        Ok(Problem { loss, positives: positives.clone(), schedule, of_embeddings })
    }

    fn with_masked<R: Send>(
        &self,
        problem: &Problem<'_>,
        columns: bool,
        f: impl Fn(usize, &[f64]) -> R + Sync,
    ) -> Result<Vec<R>> {
        let (_, pairs) = problem.grid()?;
        let p = if columns { problem.positives.transposed() } else { problem.positives.clone() };
        let of_anchor = |s: &mut Vec<f64>, i: usize| {
            s.clear();
            let entries = masked_of_row(problem.loss, &p, i);
            s.extend(entries.map(|j| if columns { pairs.at(j, i) } else { pairs.at(i, j) }));
            f(i, s)
        };
        let own = self.layout(p.n_x()).own();
        Ok(threads::run(|| own.into_par_iter().map_init(Vec::new, of_anchor).collect()))
    }

    fn sums<'a, 'p: 'a>(
        &'a self,
        problem: &'a Problem<'p>,
        of: SumsOf<'a>,
    ) -> Result<NewVisit<'a, Self, BothSides<Vec<f64>>>> {
        let (grid, _) = problem.grid()?;
        let passing = Passing { problem, values: None };
        Ok(NewVisit { rows: grid.own.clone(), passing, sums: Box::new(Sums::new(grid, of)) })
    }

    fn anchors_held(&self, w: &Weights) -> (Range<usize>, Range<usize>) {
        (0..w.positives.n_x(), 0..w.positives.n_y())
    }

    fn weight_tiles<'a, 'p: 'a>(
        &'a self,
        problem: &'a Problem<'p>,
        w: &'a Weights,
        coefficients: Coefficients,
    ) -> Result<WeightTiles<'a>> {
        let schedule = &problem.schedule;
        let own = self.positions_of(schedule).own();
        if let Coefficients::Flat { alpha, beta } = coefficients {
            let added = |i: usize, j: usize| w.masked_entry(i, j, 0.0) + alpha[i] + beta[j];
            let masked = Masked::new(self, w, schedule, own.clone(), added)?;
            let alpha = self.device.upload(&alpha, "coefficients")?;
            return Ok(WeightTiles { panels: None, masked, problem, w, flat: Some((alpha, beta)), own });
        }
        let (grid, pairs) = problem.grid()?;
        let added = |i: usize, j: usize| w.masked_entry(i, j, pairs.at(i, j));
        let masked = Masked::new(self, w, schedule, own.clone(), added)?;
        let panels = WeightPanels::new(grid, w, coefficients)?;
        Ok(WeightTiles { panels, masked, problem, w, flat: None, own })
    }

    fn values<'a, 't: 'a>(&'a self, tiles: &'a WeightTiles<'t>, v: &'a Matrix) -> Result<Values<'a>> {
        let flat = tiles.flat.as_ref().map(|(_, beta)| self.flat_sums(beta, v)).transpose()?;
        let stays = flat.is_none() && v.on_device() && self.group.size() == 1;
        let resident = stays.then(|| Operands::new(self, v, tiles.problem.order_y(), 0..v.rows()));
        let passing = Passing { problem: tiles.problem, values: Some((v, resident.transpose()?)) };
        Ok(Values { v, passing, flat })
    }

    /// Of several ranks each has its rows of both, so that each orientation is multiplied.
    fn has_both_products(&self) -> bool {
        self.group.size() == 1
    }

    fn both_products<'a, 't: 'a>(
        &'a self,
        tiles: &'a WeightTiles<'t>,
        zx: &'a Matrix,
        zy: &'a Matrix,
    ) -> Result<NewVisit<'a, Self, BothSides<Matrix>>> {
        let passing = Passing { problem: tiles.problem, values: None };
        let sums = Box::new(BothProducts::new(self, tiles, [zx, zy])?);
        Ok(NewVisit { rows: tiles.own.clone(), passing, sums })
    }

    fn for_columns<S: Send>(
        &self,
        &Passing { problem, ref values }: &Passing<'_>,
        stage: &Stage,
        state: &mut S,
        visit: impl Fn(&mut S, &Columns<'_>) -> Result<()> + Sync + Send,
        mut then: impl FnMut(&mut S) -> Result<()>,
    ) -> Result<()> {
        let (n, order) = (problem.positives.n_y(), problem.order_y());
        let of = self.positions_of(&problem.schedule).own().end;
        let Some((v, resident)) = values else {
            visit(state, &Columns { range: 0..n, values: None })?;
            return then(state);
        };
        if resident.is_some() {
            visit(state, &Columns { range: 0..n, values: resident.as_ref() })?;
            self.report(Phase::Weights, stage.rows.end, of)?;
            return then(state);
        }
        if self.group.size() == 1 {
            for range in panels_of(0..n, WEIGHT_COLS) {
                let values = Operands::new(self, v, order, range.clone())?;
                visit(state, &Columns { range, values: Some(&values) })?;
                then(state)?;
            }
            return self.report(Phase::Weights, stage.rows.end, of);
        }
        // One power of two for the pieces of all ranks.
        let tops = self.group.concat(vec![self.max_abs(v)?])?;
        let larger = |a: f32, b: f32| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) };
        let top = tops.into_iter().fold(0.0, larger);
        let mut pieces = Pieces::new(self, v, order.map(|order| &order.ids[..]), n)?;
        while let Some((range, piece)) = pieces.next()? {
            let piece = piece.bounded(top);
            let values = Operands::new(self, &piece, None, 0..range.len())?;
            let end = range.end;
            visit(state, &Columns { range, values: Some(&values) })?;
            then(state)?;
            self.report(Phase::Weights, end, n)?;
        }
        Ok(())
    }

    fn add_product(
        &self,
        tiles: &WeightTiles<'_>,
        columns: &Columns<'_>,
        stage: &Stage,
        Rows { out, unit, panel }: &mut Rows<'_>,
    ) -> Result<()> {
        let (Some(panels), Some(values)) = (&tiles.panels, columns.values) else { return Ok(()) };
        *unit = panels.unit() * values.unit;
        for rows in panels_of(stage.rows.clone(), BLOCK) {
            let to = out.view.from((rows.start - stage.rows.start) * out.ld)?;
            let to = DeviceRows::new(to, rows.len(), out.cols, out.ld)?;
            panels.add(rows, columns.range.clone(), values, panel, to)?;
        }
        Ok(())
    }

    fn add_flat_product(
        &self,
        tiles: &WeightTiles<'_>,
        values: &Values<'_>,
        stage: &Stage,
        rows: &mut Rows<'_>,
    ) -> Result<()> {
        if let (Some((alpha, _)), Some(sums)) = (&tiles.flat, &values.flat) {
            let (alpha, shape) = (alpha.view().part(stage.rows.clone())?, (stage.rows.len(), rows.out.cols));
            self.device.flat_rows(alpha, sums.view(), shape, rows.out.view)?;
        }
        self.report(Phase::Weights, stage.rows.end, tiles.own.end)
    }

    fn finish_rows(
        &self,
        tiles: &WeightTiles<'_>,
        values: &Values<'_>,
        stage: &Stage,
        sign: Sign,
        rows: &mut Rows<'_>,
    ) -> Result<()> {
        let factor = if sign == Sign::Plus { 1.0 } else { -1.0 };
        let factors = [-factor * rows.unit as f32, factor];
        tiles.masked.add(self, stage.rows.clone(), values.v, factors, rows.out)
    }

    fn collect_rows(
        &self,
        tiles: &WeightTiles<'_>,
        values: &Values<'_>,
        mut fill: impl FnMut(&Stage, &mut Rows<'_>) -> Result<()>,
    ) -> Result<Matrix> {
        let (own, d, schedule) = (tiles.own.clone(), values.v.cols(), &tiles.problem.schedule);
        let stages: Vec<Stage> = self.stages(tiles, values).collect();
        let block = stages.iter().map(|stage| stage.rows.len()).max().unwrap_or(0);
        let ranges = stages.iter().map(|s| s.rows.start - own.start..s.rows.end - own.start);
        let mut stages = stages.iter();
        let mut panel = PanelRoom::default();
        let by_position = self.build_in(ranges, own.len(), d, block, "S V", &mut |rows, out| {
            let Some(stage) = stages.next() else { return Ok(()) };
            self.device.zero(out)?;
            let mut made = Rows::new(DeviceRows::dense(out, rows.len(), d)?, std::mem::take(&mut panel));
            fill(stage, &mut made)?;
            panel = made.panel;
            Ok(())
        })?;
        let Some(order) = &schedule.order_x else {
            return Ok(self.as_share(by_position, schedule.n_x()));
        };
        // From the order of the sample to this rank's samples.
        let wanted = self.layout(schedule.n_x()).own();
        let layout = self.positions_of(schedule);
        let by_position = by_position.held_as(own, schedule.n_x());
        let found = self.fetch(&by_position, &order.positions[wanted], &|position| layout.owner(position))?;
        Ok(self.as_share(found, schedule.n_x()))
    }

    fn cross_rows(
        &self,
        tiles: &WeightTiles<'_>,
        values: &Values<'_>,
        x: &Matrix,
        mut fill: impl FnMut(&Stage, &mut Rows<'_>) -> Result<()>,
    ) -> Result<Mat<f64>> {
        let (own, d1, d2) = (tiles.own.clone(), x.cols(), values.v.cols());
        let fetched;
        let x = match tiles.problem.order_x() {
            None => x,
            Some(order) => {
                let layout = self.layout(x.all_rows());
                fetched = self.fetch(x, &order.ids[own.clone()], &|i| layout.owner(i))?;
                &fetched
            }
        };
        let mut x_rows = Panels::new(self, x, None)?;
        let (mut panel, device) = (PanelRoom::default(), &self.device);
        let c = device.alloc::<f64>(d1 * d2, "X^T S Y")?;
        let part = device.alloc::<f32>(d1 * d2, "a panel's X^T S Y")?;
        device.zero(c.view())?;
        let mut room: Option<Buffer<f32>> = None;
        for stage in self.stages(tiles, values) {
            let len = stage.rows.len() * d2;
            let sy = super::matrix::room(&mut room, len, self, "rows of S Y")?.part(0..len)?;
            device.zero(sy)?;
            let mut made =
                Rows::new(DeviceRows::dense(sy, stage.rows.len(), d2)?, std::mem::take(&mut panel));
            fill(&stage, &mut made)?;
            panel = made.panel;
            for rows in panels_of(stage.rows.clone(), PANEL) {
                let right = Operand::f32(sy.from((rows.start - stage.rows.start) * d2)?, d2);
                let m = rows.len();
                let left = Operand::f32(x_rows.get(rows.start - own.start..rows.end - own.start)?, d1).t();
                device.blas.multiply((d1, d2, m), left, right, false, Operand::f32(part.view(), d2))?;
                device.merge_sums(part.view(), 1, c.view())?;
            }
        }
        let c = self.sum_on_device(c.view())?;
        Ok(Mat::from_fn(d1, d2, |i, j| c[i * d2 + j]))
    }
}
