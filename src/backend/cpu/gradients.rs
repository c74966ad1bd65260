//! Both gradients from one visit of every tile, and `S` itself.

use super::Cpu;
use super::matrix::Matrix;
use super::ranks::{PIECE, Passing};
use super::tile_sums::TileSums;
use super::tiles::Tiles;
use super::unit::Factor;
use super::weight_tiles::{MaskedRows, WeightScratch, WeightTiles};
use super::window::Block;
use crate::control::Phase;
use crate::error::Result;
use crate::real::Real;
use crate::similarity::Weights;
use crate::similarity::blocks::{BothSides, NewVisit, Visit};
use crate::similarity::masked::masked_of_row;
use faer::Mat;
use rayon::prelude::*;
use std::ops::Range;

/// `-S Z_y` and `-S^T Z_x` on their way, by position.
struct BothProducts<'a, T: Real> {
    cpu: &'a Cpu<T>,
    weights: &'a WeightTiles<'a, T>,
    zx: &'a Matrix<T>,
    zy: &'a Matrix<T>,
    /// Of every panel.
    of_x: Vec<Vec<T>>,
    /// Sums over rows for the columns that are here.
    open: TileSums<T>,
    /// Of this rank's columns, as far as they are finished.
    of_y: Vec<T>,
}

/// The sum of two entries of a product.
fn sum<T: Real>(a: T, b: T) -> T {
    T::of(a.as_f64() + b.as_f64())
}

impl<T: Real> Visit<Cpu<T>, BothSides<Matrix<T>>> for BothProducts<'_, T> {
    fn add(&mut self, &Block { columns, meter }: &Block<'_, T>) -> Result<()> {
        let Self { cpu, weights, zx, of_x, open, .. } = self;
        let (tiles, r) = (weights.tiles, zx.cols());
        let (schedule, unit) = (&tiles.schedule, tiles.unit);
        let layout = cpu.rows_of(schedule);
        let work = |p: usize, out: &mut Vec<T>| {
            let (mut rows_z, mut scratch) = (Vec::new(), WeightScratch::default());
            let mut cols = Vec::new();
            if !schedule.meets(p, &columns.range) {
                return Ok((p, cols));
            }
            let panel = tiles.panel(p, weights.zx.as_ref(), &mut rows_z)?;
            let m = panel.rows.len();
            let (mut x_values, mut panel_weights) = (Factor::default(), Vec::new());
            unit.pack(&mut x_values, panel.z, m, r);
            for range in schedule.tiles_in(p, &columns.range) {
                let mut part = vec![T::default(); range.len() * r];
                for cut in weights.parts(range.clone()) {
                    panel_weights.clear();
                    weights.add_part(&panel, columns, &cut, &mut scratch, out, |strip| {
                        panel_weights.extend_from_slice(strip);
                    })?;
                    unit.pack_rows_transposed(&mut scratch.weights, &panel_weights, cut.len(), m);
                    let rows = scratch.weights.transposed(&panel_weights, cut.len());
                    let part = &mut part[(cut.start - range.start) * r..];
                    unit.multiply(false, part, r, rows, &x_values);
                }
                cols.push((range, part));
            }
            Ok((p, cols))
        };
        cpu.for_panels(meter, cpu.own_panels(schedule), of_x, work, |(p, cols)| {
            let block = schedule.panel(p).start / layout.block();
            cols.into_iter().for_each(|(range, part)| open.add(block, range, part, sum));
            Ok(())
        })
    }

    fn share(&mut self) -> Result<()> {
        let (schedule, r, sums) = (&self.weights.tiles.schedule, self.zx.cols(), self.open.take());
        let first = self.cpu.layout(schedule.n_y(), schedule.tile()).own().start;
        for (range, part) in self.cpu.finish_tiles(schedule, sums, sum)? {
            self.of_y[(range.start - first) * r..(range.end - first) * r].copy_from_slice(&part);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<BothSides<Matrix<T>>> {
        let Self { cpu, weights, zx, zy, of_x, mut of_y, .. } = *self;
        let (tiles, w, r) = (weights.tiles, weights.w, zx.cols());
        let (schedule, mut of_x) = (&tiles.schedule, of_x.concat());
        let own = cpu.rows_of(schedule).own();
        let owned = cpu.layout(schedule.n_y(), schedule.tile()).own();
        if !weights.masked_inline() {
            cpu.add_masked(tiles, w, zx, zy, own.clone(), &mut of_x)?;
            let (tiles, w) = (tiles.transposed(), w.transposed());
            cpu.add_masked(&tiles, &w, zy, zx, owned.clone(), &mut of_y)?;
        }
        Ok([
            cpu.by_sample(schedule.n_x(), r, schedule.x_ids(), own, of_x)?,
            cpu.by_sample(schedule.n_y(), r, schedule.y_ids(), owned, of_y)?,
        ])
    }
}

impl<T: Real> Cpu<T> {
    /// A visit that has not begun.
    pub(super) fn multiplying_both<'a>(
        &'a self,
        weights: &'a WeightTiles<'a, T>,
        zx: &'a Matrix<T>,
        zy: &'a Matrix<T>,
    ) -> Result<NewVisit<'a, Self, BothSides<Matrix<T>>>> {
        let (tiles, schedule, r) = (weights.tiles, &weights.tiles.schedule, zx.cols());
        let layout = self.rows_of(schedule);
        let zeros = |rows: Range<usize>| vec![T::default(); rows.len() * r];
        let sums = Box::new(BothProducts {
            cpu: self,
            weights,
            zx,
            zy,
            of_x: self.own_panels(schedule).map(|p| zeros(schedule.panel(p))).collect(),
            open: TileSums::new(layout.own_blocks()),
            of_y: zeros(self.layout(schedule.n_y(), schedule.tile()).own()),
        });
        let passing = Passing {
            coefficients: weights.passing.as_ref(),
            width: PIECE,
            ..Passing::new(Phase::Weights, tiles, None).packed(self, Some(zy), tiles.unit.part())?
        };
        Ok(NewVisit { rows: layout.own(), passing, sums })
    }

    /// Adds the masked entries' share of `-S Z_y` to the row positions `own`.
    fn add_masked(
        &self,
        tiles: &Tiles<'_, T>,
        w: &Weights,
        zx: &Matrix<T>,
        zy: &Matrix<T>,
        own: Range<usize>,
        out: &mut [T],
    ) -> Result<()> {
        let (schedule, r) = (&tiles.schedule, zx.cols());
        let masked = MaskedRows::new(self, tiles, w, zy, own.clone())?;
        let window = self.row_window(schedule, zx)?;
        let step = schedule.tile();
        self.install(|| {
            out.par_chunks_mut((step * r).max(1)).enumerate().try_for_each(|(p, out)| {
                let start = own.start + p * step;
                let rows = start..(start + step).min(own.end);
                let mut scratch = Vec::new();
                masked.add(tiles, rows.clone(), window.get(&rows, &mut scratch)?, out)
            })
        })
    }

    /// The matrix of rows given by position in an order.
    fn by_sample(
        &self,
        n: usize,
        r: usize,
        ids: Option<&[u32]>,
        own: Range<usize>,
        rows: Vec<T>,
    ) -> Result<Matrix<T>> {
        match ids {
            Some(ids) => self.place(n, r, &ids[own], rows),
            None => {
                let mut out = self.zeros(n, r)?;
                out.data_mut().copy_from_slice(&rows);
                Ok(out)
            }
        }
    }

    /// `S` itself, on every rank.
    pub(super) fn dense_weights(&self, weights: &WeightTiles<'_, T>) -> Result<Mat<f64>> {
        let (tiles, w) = (weights.tiles, weights.w);
        let (schedule, n_y) = (&tiles.schedule, tiles.positives.n_y());
        let panels = self.own_panels(schedule);
        let passing =
            Passing { coefficients: weights.passing.as_ref(), ..Passing::new(Phase::Weights, tiles, None) };
        let mut states: Vec<Vec<f64>> =
            panels.clone().map(|p| vec![0.0; schedule.panel(p).len() * n_y]).collect();
        self.columns(
            &passing,
            (0, 1),
            panels.clone(),
            &mut states,
            |states, columns, meter| {
                let work = |p: usize, out: &mut Vec<f64>| {
                    let (mut rows_z, mut scratch) = (Vec::new(), WeightScratch::default());
                    let panel = tiles.panel(p, weights.zx.as_ref(), &mut rows_z)?;
                    for range in schedule.tiles_in(p, &columns.range) {
                        weights.take_columns(columns, &range, &mut scratch)?;
                        for strip in panel.strips(weights.strip()) {
                            weights.fill(&panel, &strip, &range, &mut scratch)?;
                            let tile = scratch.tiles.tile.chunks_exact(range.len());
                            for (out, tile) in out.chunks_exact_mut(n_y).skip(strip.start).zip(tile) {
                                for (j, value) in range.clone().zip(tile) {
                                    out[schedule.col_id(j)] = -value.as_f64();
                                }
                            }
                        }
                    }
                    Ok(())
                };
                self.for_panels(meter, panels.clone(), states, work, Ok)
            },
            |_| Ok(()),
        )?;
        let rows = self.group.concat(states.concat())?;
        let mut out = Mat::<f64>::zeros(schedule.n_x(), n_y);
        for (position, row) in rows.chunks_exact(n_y.max(1)).enumerate() {
            let i = schedule.row_id(position);
            row.iter().enumerate().for_each(|(j, &v)| out[(i, j)] = v);
        }
        if !weights.masked_inline() {
            let own = self.masked_similarities(tiles, |_, s| s.to_vec())?;
            let mut masked = self.group.concat(own.concat())?.into_iter();
            for i in 0..schedule.n_x() {
                for (j, s) in masked_of_row(tiles.loss, &tiles.positives, i).zip(&mut masked) {
                    out[(i, j)] = T::of(w.masked_entry(i, j, s)).as_f64();
                }
            }
        }
        Ok(out)
    }
}
