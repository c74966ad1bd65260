//! Pass 2: the similarity tile is made again, turned into weights, and multiplied at once: `S V`, `X^T S Y` and
//! gradients, never an `n x n` matrix.
//!
//! Tiles hold `-S`, whose negatives are >= 0; the sign returns at the end.

use super::Cpu;
use super::gemm::{gemm_nn, gemm_tn};
use super::matrix::Matrix;
use super::negated::{Apart, Coefficients, Negated};
use super::panels::{Meter, add};
use super::ranks::{PIECE, TileSums};
use super::spill::bytes;
use super::tiles::{Scratch, Tiles};
use crate::backend::plan::TILE;
use crate::control::Phase;
use crate::distributed::Fold;
use crate::error::Result;
use crate::real::Real;
use crate::weights::{Weights, exceptions_of_row};
use faer::Mat;
use rayon::prelude::*;
use std::ops::Range;

/// Rows whose products with all columns are held at once where the columns do not stay.
const HELD: usize = 65_536;

impl<T: Real> Cpu<T> {
    /// `sum_j v_j` and `sum_j beta_j v_j`, when all similarities are 0.
    fn flat_sums(&self, negated: &Negated<'_, T>, v: &Matrix<T>) -> Result<Option<Vec<f64>>> {
        let Coefficients::Flat { beta, .. } = &negated.coefficients else { return Ok(None) };
        let (layout, d) = (self.layout(v.rows(), TILE), v.cols());
        let own = layout.own();
        let mut fold = Fold::new(self.own_blocks(&layout));
        self.for_panels(
            &Meter::quiet(Phase::Weights),
            own.start / TILE..own.end.div_ceil(TILE),
            &mut vec![(); own.len().div_ceil(TILE)],
            |p, ()| {
                let rows = p * TILE..((p + 1) * TILE).min(own.end);
                let mut scratch = Vec::new();
                let values = v.panel(&rows, &mut scratch)?;
                let mut sums = vec![0.0; 2 * d];
                let beta = &beta[rows.start - negated.first.1..rows.end - negated.first.1];
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

    /// `-S V` on all rows of this rank, panel by panel: `finish(panel, rows, -S V there)` runs in parallel, `fold` in order
    /// of panels.
    fn contract_rows<B: Send>(
        &self,
        tiles: &Tiles<'_, T>,
        w: &Weights,
        v: &Matrix<T>,
        finish: impl Fn(Range<usize>, &mut Vec<T>) -> Result<B> + Sync + Send,
        mut fold: impl FnMut(usize, B) -> Result<()> + Send,
    ) -> Result<()> {
        let negated = Negated::new(self, tiles, w)?;
        let (plan, d) = (&tiles.plan, v.cols());
        let flat = self.flat_sums(&negated, v)?;
        let panels = self.own_panels(plan);
        // Where all columns are here, a wave of panels sees them all at once; where they stream past, many rows must
        // share a stream.
        let mut matrices: Vec<&Matrix<T>> = tiles.source.embeddings().map(|(_, zy)| zy).into_iter().collect();
        matrices.push(v);
        let here = self.group.is_single() && matrices.iter().all(|m| m.is_resident());
        let held = if here || (self.group.is_single() && plan.is_sampled()) {
            self.threads()
        } else {
            self.held_rows(d).div_ceil(plan.tile())
        };
        let most = self.rows_of(plan).most().div_ceil(plan.tile());
        let stages = most.div_ceil(held);
        let zx = match tiles.source.embeddings() {
            Some((zx, _)) => Some(self.row_window(plan, zx)?),
            None => None,
        };
        let zx = zx.as_ref();
        for stage in 0..stages {
            let first = (panels.start + stage * held).min(panels.end);
            let panels = first..(first + held).min(panels.end);
            let rows = panels.start * plan.tile()..(panels.end * plan.tile()).min(plan.n_x());
            let mut states: Vec<Vec<T>> =
                panels.clone().map(|p| vec![T::default(); plan.panel(p).len() * d]).collect();
            if let Some(sums) = &flat {
                let wanted = rows.flat_map(|i| exceptions_of_row(tiles.loss, &tiles.positives, i));
                let v = self.lookup(v, wanted)?;
                let work = |p: usize, out: &mut Vec<T>| {
                    negated.contract_flat(plan.panel(p), &v, sums, out)?;
                    Ok((p, finish(plan.panel(p), out)?))
                };
                let meter = Meter { phase: Phase::Weights, done: stage, of: stages, quiet: false };
                self.for_panels(&meter, panels, &mut states, work, |(p, part)| fold(p, part))?;
                continue;
            }
            let apart = match negated.positives_inline() {
                true => None,
                false => Some(Apart::new(self, tiles, w, v, rows)?),
            };
            let state = &mut (&mut states, &mut fold);
            self.columns(
                Phase::Weights,
                (stage, stages),
                tiles,
                panels.clone(),
                (&matrices, negated.passing.as_ref()),
                usize::MAX,
                state,
                |(states, fold), columns, meter| {
                    let work = |p: usize, out: &mut Vec<T>| {
                        negated.contract_tiles(p, zx, columns, out)?;
                        if !columns.last {
                            return Ok(None);
                        }
                        if let Some(apart) = &apart {
                            let mut scratch = Vec::new();
                            let z = zx.map_or(Ok(&[][..]), |zx| zx.get(&plan.panel(p), &mut scratch))?;
                            apart.add(tiles, plan.panel(p), z, out)?;
                        }
                        let part = finish(plan.panel(p), out)?;
                        // Done with: what follows holds its own.
                        *out = Vec::new();
                        Ok(Some((p, part)))
                    };
                    self.for_panels(meter, panels.clone(), states, work, |part| match part {
                        Some((p, part)) => fold(p, part),
                        None => Ok(()),
                    })
                },
                |_, _| Ok(()),
            )?;
        }
        Ok(())
    }

    /// Rows of `d` products that are held at once where the columns stream past: all together a quarter of the memory limit
    /// at most, but no fewer than there are threads to work on them. Ranks, whose limits may differ, take equal steps.
    fn held_rows(&self, d: usize) -> usize {
        match &self.spill {
            Some(spill) if self.group.is_single() => {
                let rows = spill.limit / 4 / bytes::<T>(1, d.max(1));
                (rows.min(HELD as u64) as usize).max(self.threads() * TILE)
            }
            _ => HELD,
        }
    }

    /// `S V`.
    pub(super) fn contract(&self, tiles: &Tiles<'_, T>, w: &Weights, v: &Matrix<T>) -> Result<Matrix<T>> {
        let (plan, d) = (&tiles.plan, v.cols());
        let own = self.rows_of(plan).own();
        let negate = |part: &[T], out: &mut [T]| {
            out.iter_mut().zip(part).for_each(|(o, &v)| *o = T::of(-v.as_f64()));
        };
        let finish = |_: Range<usize>, out: &mut Vec<T>| Ok(std::mem::take(out));
        if plan.is_sampled() && !self.group.is_single() {
            let mut rows = vec![T::default(); own.len() * d];
            self.contract_rows(tiles, w, v, finish, |p, part| {
                let first = (plan.panel(p).start - own.start) * d;
                negate(&part, &mut rows[first..first + part.len()]);
                Ok(())
            })?;
            let ids = plan.x_ids().unwrap_or_default();
            return self.place(plan.n_x(), d, &ids[own], rows);
        }
        let mut out = self.zeros(plan.n_x(), d)?;
        let first = out.own().start;
        self.contract_rows(tiles, w, v, finish, |p, part| {
            for (position, row) in plan.panel(p).zip(part.chunks_exact(d.max(1))) {
                let i = plan.row_id(position) - first;
                negate(row, &mut out.data_mut()[i * d..(i + 1) * d]);
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// `X^T S Y`, contracting `Y` first: panels' products are added in float64 in a fixed order.
    pub(super) fn contract_both(
        &self,
        tiles: &Tiles<'_, T>,
        w: &Weights,
        x: &Matrix<T>,
        y: &Matrix<T>,
    ) -> Result<Mat<f64>> {
        let (plan, d1, d2) = (&tiles.plan, x.cols(), y.cols());
        let layout = self.rows_of(plan);
        let window = self.row_window(plan, x)?;
        let mut c = Fold::new(self.own_blocks(&layout));
        self.contract_rows(
            tiles,
            w,
            y,
            |rows, sy| {
                let mut gathered = Vec::new();
                let x = window.get(&rows, &mut gathered)?;
                let mut part = vec![T::default(); d1 * d2];
                gemm_tn(d1, d2, rows.len(), T::of(0.0), &mut part, d2, T::of(1.0), x, d1, sy, d2);
                Ok(part)
            },
            |p, part| {
                let sum = c.block(p * plan.tile() / layout.block(), || vec![0.0; d1 * d2], add);
                sum.iter_mut().zip(&part).for_each(|(c, v)| *c -= v.as_f64());
                Ok(())
            },
        )?;
        let c = self.group.sum(c, d1 * d2)?;
        Ok(Mat::from_fn(d1, d2, |i, j| c[i * d2 + j]))
    }

    /// `-S Z_y` and `-S^T Z_x` from one visit of every tile.
    pub(super) fn contract_gradients(
        &self,
        tiles: &Tiles<'_, T>,
        w: &Weights,
        zx: &Matrix<T>,
        zy: &Matrix<T>,
    ) -> Result<(Matrix<T>, Matrix<T>)> {
        let negated = Negated::new(self, tiles, w)?;
        let (plan, r) = (&tiles.plan, zx.cols());
        let (layout, panels) = (self.rows_of(plan), self.own_panels(plan));
        let own = layout.own();
        let (window, blocks) = (self.row_window(plan, zx)?, self.own_blocks(&layout));
        let sum = |a: T, b: T| T::of(a.as_f64() + b.as_f64());
        // By position; sums over rows of S^T Z_x are finished piece by piece of the columns.
        let mut gx: Vec<Vec<T>> =
            panels.clone().map(|p| vec![T::default(); plan.panel(p).len() * r]).collect();
        let owned = self.layout(plan.n_y(), plan.tile()).own();
        let mut gy = vec![T::default(); owned.len() * r];
        let state = &mut (&mut gx, TileSums::new(blocks.clone()), &mut gy);
        self.columns(
            Phase::Weights,
            (0, 1),
            tiles,
            panels.clone(),
            (&[zy], negated.passing.as_ref()),
            PIECE,
            state,
            |(gx, sums, _), columns, meter| {
                let work = |p: usize, out: &mut Vec<T>| {
                    let (mut rows_z, mut scratch, mut pushes) = (Vec::new(), Scratch::default(), Vec::new());
                    let mut cols = Vec::new();
                    if !plan.meets(p, &columns.range) {
                        return Ok((p, cols));
                    }
                    let panel = tiles.panel(p, Some(&window), &mut rows_z)?;
                    let (m, mut y_rows) = (panel.rows.len(), Vec::new());
                    for range in plan.tiles_in(p, &columns.range) {
                        negated.fill(&panel, columns, &range, &mut scratch, &mut pushes)?;
                        let n = range.len();
                        let y = columns.values(&range, &mut y_rows)?;
                        gemm_nn(m, r, n, T::of(1.0), out, r, T::of(1.0), &scratch.tile, n, y, r);
                        let mut part = vec![T::default(); n * r];
                        gemm_tn(n, r, m, T::of(0.0), &mut part, r, T::of(1.0), &scratch.tile, n, panel.z, r);
                        cols.push((range, part));
                    }
                    Ok((p, cols))
                };
                self.for_panels(meter, panels.clone(), gx, work, |(p, cols)| {
                    let block = p * plan.tile() / layout.block();
                    cols.into_iter().for_each(|(range, part)| sums.add(block, range, part, sum));
                    Ok(())
                })
            },
            |(_, sums, gy), _| {
                let done = std::mem::replace(sums, TileSums::new(blocks.clone()));
                for (range, part) in self.finish_tiles(plan, done, sum)? {
                    gy[(range.start - owned.start) * r..(range.end - owned.start) * r].copy_from_slice(&part);
                }
                Ok(())
            },
        )?;
        let mut gx = gx.concat();
        if !negated.positives_inline() {
            self.add_apart(tiles, w, zx, zy, own.clone(), &mut gx)?;
            let (tiles, w) = (tiles.transposed(), w.transposed());
            self.add_apart(&tiles, &w, zy, zx, owned.clone(), &mut gy)?;
        }
        Ok((
            self.by_sample(plan.n_x(), r, plan.x_ids(), own, gx)?,
            self.by_sample(plan.n_y(), r, plan.y_ids(), owned, gy)?,
        ))
    }

    /// Adds the exceptions' share of `-S Z_y` to the row positions `own`.
    fn add_apart(
        &self,
        tiles: &Tiles<'_, T>,
        w: &Weights,
        zx: &Matrix<T>,
        zy: &Matrix<T>,
        own: Range<usize>,
        out: &mut [T],
    ) -> Result<()> {
        let (plan, r) = (&tiles.plan, zx.cols());
        let apart = Apart::new(self, tiles, w, zy, own.clone())?;
        let window = self.row_window(plan, zx)?;
        let step = plan.tile();
        self.install(|| {
            out.par_chunks_mut((step * r).max(1)).enumerate().try_for_each(|(p, out)| {
                let start = own.start + p * step;
                let rows = start..(start + step).min(own.end);
                let mut scratch = Vec::new();
                apart.add(tiles, rows.clone(), window.get(&rows, &mut scratch)?, out)
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
    pub(super) fn contract_dense(&self, tiles: &Tiles<'_, T>, w: &Weights) -> Result<Mat<f64>> {
        let negated = Negated::new(self, tiles, w)?;
        let (plan, n_y) = (&tiles.plan, tiles.positives.n_y());
        let panels = self.own_panels(plan);
        let (zx, items) = match tiles.source.embeddings() {
            Some((zx, zy)) => (Some(self.row_window(plan, zx)?), vec![zy]),
            None => (None, Vec::new()),
        };
        let mut states: Vec<Vec<f64>> =
            panels.clone().map(|p| vec![0.0; plan.panel(p).len() * n_y]).collect();
        self.columns(
            Phase::Weights,
            (0, 1),
            tiles,
            panels.clone(),
            (&items, negated.passing.as_ref()),
            usize::MAX,
            &mut states,
            |states, columns, meter| {
                let work = |p: usize, out: &mut Vec<f64>| {
                    let (mut rows_z, mut scratch, mut pushes) = (Vec::new(), Scratch::default(), Vec::new());
                    let panel = tiles.panel(p, zx.as_ref(), &mut rows_z)?;
                    for range in plan.tiles_in(p, &columns.range) {
                        negated.fill(&panel, columns, &range, &mut scratch, &mut pushes)?;
                        for (out, tile) in
                            out.chunks_exact_mut(n_y).zip(scratch.tile.chunks_exact(range.len()))
                        {
                            for (j, value) in range.clone().zip(tile) {
                                out[plan.col_id(j)] = -value.as_f64();
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
        let mut out = Mat::<f64>::zeros(plan.n_x(), n_y);
        for (position, row) in rows.chunks_exact(n_y.max(1)).enumerate() {
            let i = plan.row_id(position);
            row.iter().enumerate().for_each(|(j, &v)| out[(i, j)] = v);
        }
        if !negated.positives_inline() {
            let pairs = self.pair_similarities(tiles, true)?;
            let mut pairs = pairs.into_iter();
            for i in 0..plan.n_x() {
                for (j, s) in exceptions_of_row(tiles.loss, &tiles.positives, i).zip(&mut pairs) {
                    out[(i, j)] = T::of(w.exception(i, j, s)).as_f64();
                }
            }
        }
        Ok(out)
    }
}
