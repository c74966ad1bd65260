//! Both gradients from one visit of every tile, and `S` itself.

use super::Cpu;
use super::matrix::Matrix;
use super::ranks::PIECE;
use super::tile_sums::TileSums;
use super::tiles::Tiles;
use super::unit::Factor;
use super::weight_tiles::{MaskedRows, WeightScratch, WeightTiles};
use crate::control::Phase;
use crate::error::Result;
use crate::real::Real;
use crate::similarity::Weights;
use crate::similarity::masked::masked_of_row;
use faer::Mat;
use rayon::prelude::*;
use std::ops::Range;

impl<T: Real> Cpu<T> {
    /// `-S Z_y` and `-S^T Z_x` from one visit of every tile.
    pub(super) fn both_gradients(
        &self,
        weights: &WeightTiles<'_, T>,
        zx: &Matrix<T>,
        zy: &Matrix<T>,
    ) -> Result<(Matrix<T>, Matrix<T>)> {
        let (tiles, w) = (weights.tiles, weights.w);
        let (schedule, r, unit) = (&tiles.schedule, zx.cols(), tiles.unit);
        let (layout, panels) = (self.rows_of(schedule), self.own_panels(schedule));
        let (own, blocks) = (layout.own(), layout.own_blocks());
        let sum = |a: T, b: T| T::of(a.as_f64() + b.as_f64());
        // By position; sums over rows of S^T Z_x are finished piece by piece of the columns.
        let mut gx: Vec<Vec<T>> =
            panels.clone().map(|p| vec![T::default(); schedule.panel(p).len() * r]).collect();
        let owned = self.layout(schedule.n_y(), schedule.tile()).own();
        let mut gy = vec![T::default(); owned.len() * r];
        let state = &mut (&mut gx, TileSums::new(blocks.clone()), &mut gy);
        let ready = self.ready(tiles, Some(zy), unit.part())?;
        self.columns(
            Phase::Weights,
            (0, 1),
            tiles,
            panels.clone(),
            (&[zy], weights.passing.as_ref(), ready.as_ref()),
            PIECE,
            state,
            |(gx, sums, _), columns, meter| {
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
                self.for_panels(meter, panels.clone(), gx, work, |(p, cols)| {
                    let block = schedule.panel(p).start / layout.block();
                    cols.into_iter().for_each(|(range, part)| sums.add(block, range, part, sum));
                    Ok(())
                })
            },
            |(_, sums, gy), _| {
                let done = std::mem::replace(sums, TileSums::new(blocks.clone()));
                for (range, part) in self.finish_tiles(schedule, done, sum)? {
                    gy[(range.start - owned.start) * r..(range.end - owned.start) * r].copy_from_slice(&part);
                }
                Ok(())
            },
        )?;
        let mut gx = gx.concat();
        if !weights.masked_inline() {
            self.add_masked(tiles, w, zx, zy, own.clone(), &mut gx)?;
            let (tiles, w) = (tiles.transposed(), w.transposed());
            self.add_masked(&tiles, &w, zy, zx, owned.clone(), &mut gy)?;
        }
        Ok((
            self.by_sample(schedule.n_x(), r, schedule.x_ids(), own, gx)?,
            self.by_sample(schedule.n_y(), r, schedule.y_ids(), owned, gy)?,
        ))
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
        let items: Vec<_> = tiles.source.embeddings().map(|(_, zy)| zy).into_iter().collect();
        let mut states: Vec<Vec<f64>> =
            panels.clone().map(|p| vec![0.0; schedule.panel(p).len() * n_y]).collect();
        self.columns(
            Phase::Weights,
            (0, 1),
            tiles,
            panels.clone(),
            (&items, weights.passing.as_ref(), None),
            usize::MAX,
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
            |_, _| Ok(()),
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
