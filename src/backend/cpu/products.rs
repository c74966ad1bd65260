//! The block operations of the passes: tiles of similarities are turned into weights and multiplied at once.
//!
//! Tiles hold `-S`, whose negatives are >= 0; the sign returns when rows are finished.

use super::Cpu;
use super::family::OfFamily;
use super::matrix::Matrix;
use super::panels::{Meter, add};
use super::ranks::Passing;
use super::simd::AdditiveKind;
use super::spill::bytes;
use super::sums::{ByMaxima, OfPairs, Shifted};
use super::tiles::{Source, Tiles};
use super::weight_tiles::{Coefficients as Narrow, MaskedRows, WeightTiles};
use super::window::{Block, Columns};
use crate::backend::Similarity;
use crate::control::Phase;
use crate::distributed::Fold;
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::real::Real;
use crate::similarity::Weights;
use crate::similarity::blocks::{Blocks, BothSides, NewVisit, Sign, Stage, SumsOf};
use crate::similarity::coefficients::Coefficients;
use crate::similarity::masked::masked_of_row;
use crate::similarity::schedule::{TILE, TileSchedule};
use faer::Mat;
use std::ops::Range;

/// Rows whose products with all columns are held at once where the columns do not stay.
pub(crate) const HELD: usize = 65_536;
/// Columns from which on a panel of rows takes so long that progress is reported after one a thread.
const MANY: usize = 32_768;

impl<T: Real> Cpu<T> {
    /// `sum_j v_j` and `sum_j beta_j v_j`, when all similarities are 0.
    fn flat_sums(&self, weights: &WeightTiles<'_, T>, v: &Matrix<T>) -> Result<Option<Vec<f64>>> {
        let Narrow::Flat { beta, .. } = &weights.coefficients else { return Ok(None) };
        let (layout, d) = (self.layout(v.rows(), TILE), v.cols());
        let own = layout.own();
        let mut fold = Fold::new(layout.own_blocks());
        self.for_panels(
            &Meter::quiet(Phase::Weights),
            own.start / TILE..own.end.div_ceil(TILE),
            &mut vec![(); own.len().div_ceil(TILE)],
            |p, ()| {
                let rows = p * TILE..((p + 1) * TILE).min(own.end);
                let mut scratch = Vec::new();
                let values = v.panel(&rows, &mut scratch)?;
                let mut sums = vec![0.0; 2 * d];
                let beta = &beta[rows.start - weights.first.1..rows.end - weights.first.1];
                for (row, beta) in values.chunks_exact(d.max(1)).zip(beta) {
                    for (k, value) in row.iter().enumerate() {
                        sums[k] += value.as_f64();
                        sums[d + k] += beta.as_f64() * value.as_f64();
                    }
                }
                Ok((p * TILE / layout.block(), sums))
            },
            |(block, part)| {
                let sums = fold.block(block, || vec![0.0; 2 * d], add);
                sums.iter_mut().zip(part).for_each(|(a, b)| *a += b);
                Ok(())
            },
        )?;
        self.group.sum(fold, 2 * d).map(Some)
    }

    /// The stages of a product of `d` columns: where all columns are here, some panels of rows see them all at once; where they
    /// stream past, many rows must share a stream.
    pub(super) fn stages(
        &self,
        weights: &WeightTiles<'_, T>,
        values: &Values<'_, T>,
    ) -> impl Iterator<Item = Stage> {
        let schedule = &weights.tiles.schedule;
        let tile = schedule.tile();
        let held = if self.columns_stay(schedule, &values.passing.matrices) {
            // Several panels a thread, so that none waits long for the last one; few where a panel takes long.
            let panels = if schedule.n_y() > MANY { self.threads() } else { self.together() };
            panels * tile
        } else {
            self.held_rows(values.v.cols()).div_ceil(tile) * tile
        };
        let layout = self.rows_of(schedule);
        Stage::all(layout.own(), held, layout.most())
    }

    /// Rows of `d` products that are held at once where the columns stream past: all together a quarter of the memory limit
    /// at most, but no fewer than there are threads to work on them. Ranks, whose limits may differ, take equal steps.
    fn held_rows(&self, d: usize) -> usize {
        match self.own_limit() {
            Some(limit) => {
                let rows = limit / 4 / bytes::<T>(1, d.max(1));
                (rows.min(HELD as u64) as usize).max(self.threads() * TILE)
            }
            _ => HELD,
        }
    }

    /// Runs `work` on the panels of a stage.
    fn for_rows<A: Send>(
        &self,
        meter: &Meter,
        rows: &mut Rows<T>,
        work: impl Fn(usize, &mut Vec<T>) -> Result<A> + Sync,
        fold: impl FnMut(A) -> Result<()>,
    ) -> Result<()> {
        self.for_panels(meter, rows.panels.clone(), &mut rows.sums, work, fold)
    }
}

/// `V` and what goes with it.
pub(crate) struct Values<'a, T: Real> {
    v: &'a Matrix<T>,
    /// The embeddings of the columns, where similarities come from any, and `v`.
    passing: Passing<'a, T>,
    /// `sum_j v_j` and `sum_j beta_j v_j`, where all similarities are 0.
    flat: Option<Vec<f64>>,
}

impl<T: Real> Values<'_, T> {
    /// Columns of `V`.
    pub(super) fn cols(&self) -> usize {
        self.v.cols()
    }
}

impl<'a, T: Real> AsRef<Passing<'a, T>> for Values<'a, T> {
    fn as_ref(&self) -> &Passing<'a, T> {
        &self.passing
    }
}

/// Products on some panels of rows.
pub(crate) struct Rows<T> {
    pub(super) panels: Range<usize>,
    /// `rows x d` of each panel.
    pub(super) sums: Vec<Vec<T>>,
}

impl<T: Real> Rows<T> {
    pub(super) fn zeros(schedule: &TileSchedule, stage: &Stage, d: usize) -> Self {
        let panels = schedule.panels_of(&stage.rows);
        let sums = panels.clone().map(|p| vec![T::default(); schedule.panel(p).len() * d]).collect();
        Self { panels, sums }
    }
}

impl<T: Real> Blocks for Cpu<T> {
    type Problem<'a> = Tiles<'a, T>;
    type WeightTiles<'a> = WeightTiles<'a, T>;
    type Passing<'a> = Passing<'a, T>;
    type Values<'a> = Values<'a, T>;
    type Columns<'a> = Block<'a, T>;
    type Rows<'a> = Rows<T>;

    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        Self::install(self, f)
    }

    fn exponent_limit(&self) -> f64 {
        if size_of::<T>() == 4 { 40.0 } else { 300.0 }
    }

    fn problem<'a>(
        &'a self,
        s: Similarity<'a, Matrix<T>>,
        transposed: bool,
        loss: &'a Loss,
        positives: &Positives,
        schedule: TileSchedule,
    ) -> Result<Tiles<'a, T>> {
        let source = Source::new(s);
        let source = if transposed { source.transposed() } else { source };
        Ok(Tiles { source, loss, positives: positives.clone(), schedule, unit: self.unit })
    }

    fn with_masked<R: Send>(
        &self,
        tiles: &Tiles<'_, T>,
        columns: bool,
        f: impl Fn(usize, &[f64]) -> R + Sync,
    ) -> Result<Vec<R>> {
        match columns {
            false => self.masked_similarities(tiles, f),
            true => self.masked_similarities(&tiles.transposed(), f),
        }
    }

    fn sums<'a, 'p: 'a>(
        &'a self,
        tiles: &'a Tiles<'p, T>,
        of: SumsOf<'a>,
    ) -> Result<NewVisit<'a, Self, BothSides<Vec<f64>>>> {
        let shift = 1.0 / tiles.loss.tau;
        let scale = T::of(shift);
        match (of, tiles.loss.own()?) {
            (SumsOf::Exponentials { by_maxima: false }, _) => self.visiting(tiles, Shifted { scale, shift }),
            (SumsOf::Exponentials { by_maxima: true }, _) => self.visiting(tiles, ByMaxima { scale }),
            (SumsOf::Pairs(s), Some(custom)) => self.visiting(tiles, OfFamily { tiles, s, custom }),
            (SumsOf::Pairs(s), None) => {
                self.visiting(tiles, OfPairs { tiles, s, kind: AdditiveKind::of(tiles.loss) })
            }
        }
    }

    fn anchors_held(&self, w: &Weights) -> (Range<usize>, Range<usize>) {
        let held = |n: usize| if w.share { self.layout(n, TILE).own() } else { 0..n };
        (held(w.positives.n_x()), held(w.positives.n_y()))
    }

    fn weight_tiles<'a, 'p: 'a>(
        &'a self,
        tiles: &'a Tiles<'p, T>,
        w: &'a Weights,
        coefficients: Coefficients,
    ) -> Result<WeightTiles<'a, T>> {
        WeightTiles::new(self, tiles, w, coefficients, self.anchors_held(w))
    }

    fn values<'a, 't: 'a>(
        &'a self,
        weights: &'a WeightTiles<'t, T>,
        v: &'a Matrix<T>,
    ) -> Result<Values<'a, T>> {
        let (tiles, flat) = (weights.tiles, self.flat_sums(weights, v)?);
        let coefficients = weights.passing.as_ref();
        let passing = Passing { coefficients, ..Passing::new(Phase::Weights, tiles, Some(v)) };
        let passing = match flat {
            Some(_) => passing,
            None => passing.packed(self, Some(v), tiles.unit.part())?,
        };
        Ok(Values { v, passing, flat })
    }

    fn both_products<'a, 't: 'a>(
        &'a self,
        weights: &'a WeightTiles<'t, T>,
        zx: &'a Matrix<T>,
        zy: &'a Matrix<T>,
    ) -> Result<NewVisit<'a, Self, BothSides<Matrix<T>>>> {
        self.multiplying_both(weights, zx, zy)
    }

    fn for_columns<S: Send>(
        &self,
        passing: &Passing<'_, T>,
        stage: &Stage,
        state: &mut S,
        visit: impl Fn(&mut S, &Block<'_, T>) -> Result<()> + Sync + Send,
        then: impl FnMut(&mut S) -> Result<()>,
    ) -> Result<()> {
        let (stages, panels) = ((stage.index, stage.of), passing.tiles.schedule.panels_of(&stage.rows));
        let visit =
            |state: &mut S, columns: &Columns<'_, T>, meter: &Meter| visit(state, &Block { columns, meter });
        self.columns(passing, stages, panels, state, visit, then)
    }

    fn add_product(
        &self,
        weights: &WeightTiles<'_, T>,
        block: &Block<'_, T>,
        _: &Stage,
        out: &mut Rows<T>,
    ) -> Result<()> {
        self.for_rows(block.meter, out, |p, out| weights.add_tiles(p, block.columns, out), Ok)
    }

    fn add_flat_product(
        &self,
        weights: &WeightTiles<'_, T>,
        values: &Values<'_, T>,
        stage: &Stage,
        out: &mut Rows<T>,
    ) -> Result<()> {
        let Some(sums) = &values.flat else { return Ok(()) };
        let tiles = weights.tiles;
        let wanted = stage.rows.clone().flat_map(|i| masked_of_row(tiles.loss, &tiles.positives, i));
        let v = self.lookup(values.v, wanted)?;
        let meter = Meter { phase: Phase::Weights, done: stage.index, of: stage.of, quiet: false };
        self.for_rows(&meter, out, |p, out| weights.add_flat(tiles.schedule.panel(p), &v, sums, out), Ok)
    }

    fn finish_rows(
        &self,
        weights: &WeightTiles<'_, T>,
        values: &Values<'_, T>,
        stage: &Stage,
        sign: Sign,
        out: &mut Rows<T>,
    ) -> Result<()> {
        let schedule = &weights.tiles.schedule;
        let masked = match weights.masked_inline() {
            true => None,
            false => Some(MaskedRows::new(self, weights.tiles, weights.w, values.v, stage.rows.clone())?),
        };
        self.for_rows(
            &Meter::quiet(Phase::Weights),
            out,
            |p, out| {
                if let Some(masked) = &masked {
                    let mut scratch = Vec::new();
                    let zx = weights.zx.as_ref();
                    let z = zx.map_or(Ok(&[][..]), |zx| zx.get(&schedule.panel(p), &mut scratch))?;
                    masked.add(weights.tiles, schedule.panel(p), z, out)?;
                }
                if sign == Sign::Plus {
                    out.iter_mut().for_each(|v| *v = T::of(-v.as_f64()));
                }
                Ok(())
            },
            Ok,
        )
    }

    fn collect_rows(
        &self,
        weights: &WeightTiles<'_, T>,
        values: &Values<'_, T>,
        mut fill: impl FnMut(&Stage, &mut Rows<T>) -> Result<()>,
    ) -> Result<Matrix<T>> {
        let (schedule, d) = (&weights.tiles.schedule, values.v.cols());
        let own = self.rows_of(schedule).own();
        // Rows of a sample in its order: their samples may be another rank's.
        let ids = self.order_to_place(schedule);
        let mut placed = vec![T::default(); if ids.is_some() { own.len() * d } else { 0 }];
        let mut out = match ids {
            Some(_) => None,
            None => Some(self.zeros(schedule.n_x(), d)?),
        };
        for stage in self.stages(weights, values) {
            let mut rows = Rows::zeros(schedule, &stage, d);
            fill(&stage, &mut rows)?;
            for (p, part) in rows.panels.zip(rows.sums) {
                for (position, row) in schedule.panel(p).zip(part.chunks_exact(d.max(1))) {
                    let (to, i) = match &mut out {
                        None => (&mut placed[..], position - own.start),
                        Some(out) => {
                            let i = schedule.row_id(position) - out.own().start;
                            (out.data_mut(), i)
                        }
                    };
                    to[i * d..(i + 1) * d].copy_from_slice(row);
                }
            }
        }
        match (out, ids) {
            (Some(out), _) => Ok(out),
            (None, ids) => self.place(schedule.n_x(), d, &ids.unwrap_or_default()[own], placed),
        }
    }

    fn cross_rows(
        &self,
        weights: &WeightTiles<'_, T>,
        values: &Values<'_, T>,
        x: &Matrix<T>,
        fill: impl FnMut(&Stage, &mut Rows<T>) -> Result<()>,
    ) -> Result<Mat<f64>> {
        self.cross_product(weights, values, x, fill)
    }
}
