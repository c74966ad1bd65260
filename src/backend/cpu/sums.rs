//! Pass 1's sums over negatives of every row and column, and the similarities of masked entries.

use super::Cpu;
use super::ranks::PIECE;
use super::tile_sums::TileSums;
use super::tiles::{Scratch, Tiles, product};
use super::weight_tiles::additive_kind;
use crate::control::Phase;
use crate::error::Result;
use crate::loss::log_add_exp;
use crate::real::Real;
use crate::similarity::blocks::{BothSums, PairSums};
use crate::similarity::masked::masked_of_row;
use crate::similarity::schedule::TILE;
use rayon::prelude::*;
use std::ops::Range;

impl<T: Real> Cpu<T> {
    /// `log sum e^{s/tau}` with one shift for all: |s| <= 1.
    pub(super) fn log_sums_shifted(&self, tiles: &Tiles<'_, T>) -> Result<BothSums<Vec<f64>>> {
        let (scale, shift) = (T::of(1.0 / tiles.loss.tau), 1.0 / tiles.loss.tau);
        let sums = self.row_and_column_sums(
            tiles,
            |_| 0.0,
            |range| vec![0.0; range.len()],
            |a, b| a + b,
            |tile, _, range, row, cols| {
                let (m, n) = (row.len(), range.len());
                let (mut row_tile, mut col) = (vec![T::default(); m], vec![T::default(); n]);
                T::exp_sums(tile, n, m, n, scale, T::of(shift), &mut row_tile, &mut col);
                row.iter_mut().zip(&row_tile).for_each(|(sum, t)| *sum += t.as_f64());
                cols.iter_mut().zip(&col).for_each(|(sum, t)| *sum = t.as_f64());
            },
            |row| row,
        )?;
        Ok(sums.map(|sums| sums.into_iter().map(|sum| sum.ln() + shift).collect()))
    }

    /// `log sum e^{s/tau}` with running maxima: any temperature.
    pub(super) fn log_sums_by_maxima(&self, tiles: &Tiles<'_, T>) -> Result<BothSums<Vec<f64>>> {
        let scale = T::of(1.0 / tiles.loss.tau);
        let none = T::of(f64::NEG_INFINITY);
        let log = |max: T, sum: f64| if sum > 0.0 { max.as_f64() + sum.ln() } else { f64::NEG_INFINITY };
        self.row_and_column_sums(
            tiles,
            |_| (none, 0.0),
            |range| vec![f64::NEG_INFINITY; range.len()],
            log_add_exp,
            |tile, _, range, row, cols| {
                let (m, n) = (row.len(), range.len());
                let (mut row_max, mut row_sum): (Vec<T>, Vec<f64>) = row.iter().copied().unzip();
                let (mut max, mut sum) = (vec![none; n], vec![0.0; n]);
                T::log_sums(tile, n, m, n, scale, &mut row_max, &mut row_sum, &mut max, &mut sum);
                row.iter_mut().zip(row_max.into_iter().zip(row_sum)).for_each(|(r, new)| *r = new);
                cols.iter_mut().zip(max.into_iter().zip(sum)).for_each(|(c, (max, sum))| *c = log(max, sum));
            },
            |(max, sum)| log(max, sum),
        )
    }

    /// Sums over the negatives of every row and of every column, from one visit of every tile: of this rank's rows and
    /// columns, or of all where negatives are sampled.
    ///
    /// A row starts with `row(sample)`; a tile's columns start with `cols(positions)`; `visit(tile, row positions, column
    /// positions, row sums, column sums)` adds a tile to its rows' sums and sets those of its columns; column sums of
    /// different tiles are added by `add`. `finish` makes the result of a row. Results are by sample.
    #[allow(clippy::type_complexity)]
    fn row_and_column_sums<A: Clone + Send + Sync>(
        &self,
        tiles: &Tiles<'_, T>,
        row: impl Fn(usize) -> A + Sync,
        cols: impl Fn(&Range<usize>) -> Vec<f64> + Sync + Send,
        add: impl Fn(f64, f64) -> f64 + Copy + Sync + Send,
        visit: impl Fn(&[T], &Range<usize>, &Range<usize>, &mut [A], &mut [f64]) + Sync + Send,
        finish: impl Fn(A) -> f64,
    ) -> Result<BothSums<Vec<f64>>> {
        let schedule = &tiles.schedule;
        let rows = |p: usize| schedule.panel(p).map(|i| row(schedule.row_id(i))).collect::<Vec<A>>();
        let (states, y) = self.visit_sums(tiles, rows, cols, add, visit)?;
        let x: Vec<f64> = states.into_iter().flatten().map(finish).collect();
        if !schedule.is_sampled() {
            return Ok([x, y]);
        }
        let by_sample = |values: Vec<f64>, id: &dyn Fn(usize) -> usize| -> Result<Vec<f64>> {
            let values = self.group.concat(values)?;
            let mut out = vec![0.0; values.len()];
            values.into_iter().enumerate().for_each(|(position, v)| out[id(position)] = v);
            Ok(out)
        };
        Ok([by_sample(x, &|i| schedule.row_id(i))?, by_sample(y, &|j| schedule.col_id(j))?])
    }

    /// The visit behind [`row_and_column_sums`](Self::row_and_column_sums): states of this rank's panels, and the sums of
    /// its columns, by position.
    fn visit_sums<A: Send>(
        &self,
        tiles: &Tiles<'_, T>,
        rows: impl Fn(usize) -> Vec<A>,
        cols: impl Fn(&Range<usize>) -> Vec<f64> + Sync + Send,
        add: impl Fn(f64, f64) -> f64 + Copy + Sync + Send,
        visit: impl Fn(&[T], &Range<usize>, &Range<usize>, &mut [A], &mut [f64]) + Sync + Send,
    ) -> Result<(Vec<Vec<A>>, Vec<f64>)> {
        let schedule = &tiles.schedule;
        let (layout, panels) = (self.rows_of(schedule), self.own_panels(schedule));
        let blocks = layout.own_blocks();
        let (zx, items) = match tiles.source.embeddings() {
            Some((zx, zy)) => (Some(self.row_window(schedule, zx)?), vec![zy]),
            None => (None, Vec::new()),
        };
        let zx = zx.as_ref();
        let mut states: Vec<Vec<A>> = panels.clone().map(rows).collect();
        let mut y = Vec::new();
        let state = &mut (&mut states, TileSums::new(blocks.clone()), &mut y);
        self.columns(
            Phase::Statistics,
            (0, 1),
            tiles,
            panels.clone(),
            (&items, None),
            PIECE,
            state,
            |(states, sums, _), columns, meter| {
                let work = |p: usize, row: &mut Vec<A>| {
                    let mut parts = Vec::new();
                    if !schedule.meets(p, &columns.range) {
                        return Ok((p, parts));
                    }
                    let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
                    let panel = tiles.panel(p, zx, &mut rows_z)?;
                    for range in schedule.tiles_in(p, &columns.range) {
                        tiles.fill_negatives(&panel, columns.z(), &range, &mut scratch)?;
                        let mut part = cols(&range);
                        visit(&scratch.tile, &panel.rows, &range, row, &mut part);
                        parts.push((range, part));
                    }
                    Ok((p, parts))
                };
                self.for_panels(meter, panels.clone(), states, work, |(p, parts)| {
                    let block = p * schedule.tile() / layout.block();
                    parts.into_iter().for_each(|(range, part)| sums.add(block, range, part, add));
                    Ok(())
                })
            },
            |(_, sums, y), _| {
                let done = std::mem::replace(sums, TileSums::new(blocks.clone()));
                y.extend(self.finish_tiles(schedule, done, add)?);
                Ok(())
            },
        )?;
        // Every tile of a rank's columns, in order; those that nobody visited hold nothing.
        let owned = self.layout(schedule.n_y(), schedule.tile()).own();
        let mut found = y.into_iter().peekable();
        let mut own = Vec::new();
        for start in owned.clone().step_by(schedule.tile()) {
            let range = start..(start + schedule.tile()).min(schedule.n_y());
            match found.next_if(|(r, _)| r.start == start) {
                Some((_, part)) => own.extend(part),
                None => own.extend(cols(&range)),
            }
        }
        Ok((states, own))
    }

    /// `f(i, similarities of i's masked entries)` for every row sample that this rank holds, in order.
    pub(super) fn masked_similarities<R: Send>(
        &self,
        tiles: &Tiles<'_, T>,
        f: impl Fn(usize, &[f64]) -> R + Sync,
    ) -> Result<Vec<R>> {
        let (loss, p) = (tiles.loss, &tiles.positives);
        let layout = self.layout(p.n_x(), TILE);
        let own = layout.own();
        let mut out = Vec::with_capacity(own.len());
        let step = self.lookup_step(layout.most());
        for stage in 0..layout.most().div_ceil(step) {
            let first = (own.start + stage * step).min(own.end);
            let rows = first..(first + step).min(own.end);
            let wanted = rows.clone().flat_map(|i| masked_of_row(loss, p, i));
            let z = match tiles.source.embeddings() {
                Some((zx, zy)) => Some((zx, self.lookup(zy, wanted)?)),
                None => None,
            };
            let part: Result<Vec<R>> = self.install(|| {
                rows.into_par_iter()
                    .map_init(Vec::new, |s: &mut Vec<f64>, i| {
                        let (mut x_row, mut y_row) = (Vec::new(), Vec::new());
                        s.clear();
                        for j in masked_of_row(loss, p, i) {
                            s.push(match &z {
                                Some((zx, zy)) => product(zx.row(i, &mut x_row)?, zy.row(j, &mut y_row)?),
                                None => tiles.source.entry(i, j)?,
                            });
                        }
                        Ok(f(i, s))
                    })
                    .collect()
            });
            out.extend(part?);
        }
        Ok(out)
    }

    /// `sum psi(s_ij - nu s_ik)` and of psi' over negatives, for every pair of rows and of columns.
    pub(super) fn sums_of_pairs(
        &self,
        tiles: &Tiles<'_, T>,
        [s_rows, s_cols]: BothSums<&[f64]>,
    ) -> Result<BothSums<PairSums>> {
        let (p, schedule, loss) = (&tiles.positives, &tiles.schedule, tiles.loss);
        let mut x = [vec![0.0; s_rows.len()], vec![0.0; s_rows.len()]];
        let mut y = [vec![0.0; s_cols.len()], vec![0.0; s_cols.len()]];
        let kind = additive_kind(loss);
        let pairs = |i: usize| p.row_offset(i)..p.row_offset(i + 1);
        let pairs_of =
            |range: &Range<usize>| range.clone().map(|j| p.col(schedule.col_id(j)).len()).sum::<usize>();
        let (rows, by_position) = self.visit_sums(
            tiles,
            |panel| {
                schedule.panel(panel).map(|i| vec![(0.0, 0.0); pairs(schedule.row_id(i)).len()]).collect()
            },
            |range| vec![0.0; 2 * pairs_of(range)],
            |a, b| a + b,
            |tile, positions, range, row: &mut [Vec<(f64, f64)>], cols| {
                let (m, n) = (positions.len(), range.len());
                for (li, position) in positions.clone().enumerate() {
                    let s_row = &tile[li * n..(li + 1) * n];
                    for (out, e) in row[li].iter_mut().zip(pairs(schedule.row_id(position))) {
                        let (psi, dpsi) = T::additive_sums(kind, s_row, T::of(-loss.nu * s_rows[e]));
                        *out = (out.0 + psi.as_f64(), out.1 + dpsi.as_f64());
                    }
                }
                for (layer, offsets) in ColumnLayers::new(tiles, range, s_cols) {
                    let (mut psi, mut dpsi) = (vec![T::default(); n], vec![T::default(); n]);
                    T::additive_col_sums(kind, tile, n, m, n, &offsets, &mut psi, &mut dpsi);
                    let mut first = 0;
                    for (local, position) in range.clone().enumerate() {
                        let pairs = p.col(schedule.col_id(position)).len();
                        if layer < pairs {
                            cols[2 * (first + layer)] = psi[local].as_f64();
                            cols[2 * (first + layer) + 1] = dpsi[local].as_f64();
                        }
                        first += pairs;
                    }
                }
            },
        )?;
        let rows = rows.into_iter().flatten().flatten().flat_map(|(psi, dpsi)| [psi, dpsi]).collect();
        let (rows, by_position) = (self.group.concat(rows)?, self.group.concat(by_position)?);
        // From positions to samples.
        let spread = |values: &[f64], ids: &dyn Fn(usize) -> Range<usize>, n: usize, out: &mut PairSums| {
            let mut values = values.chunks_exact(2);
            for (e, v) in (0..n).flat_map(ids).zip(&mut values) {
                (out[0][e], out[1][e]) = (v[0], v[1]);
            }
        };
        spread(&rows, &|position| pairs(schedule.row_id(position)), p.n_x(), &mut x);
        let of_col = |j: usize| p.col_offset(j)..p.col_offset(j + 1);
        spread(&by_position, &|position| of_col(schedule.col_id(position)), p.n_y(), &mut y);
        Ok([x, y])
    }
}

/// The positives of a tile's columns, one layer at a time: layer `t` holds `-nu s` of every column's `t`-th
/// positive (0 where a column has fewer; the caller skips those).
pub(super) struct ColumnLayers<'a, T: Real> {
    tiles: &'a Tiles<'a, T>,
    range: std::ops::Range<usize>,
    s_cols: &'a [f64],
    layer: usize,
    layers: usize,
}

impl<'a, T: Real> ColumnLayers<'a, T> {
    pub(super) fn new(tiles: &'a Tiles<'a, T>, range: &std::ops::Range<usize>, s_cols: &'a [f64]) -> Self {
        let p = &tiles.positives;
        let layers = range.clone().map(|j| p.col(tiles.schedule.col_id(j)).len()).max().unwrap_or(0);
        Self { tiles, range: range.clone(), s_cols, layer: 0, layers }
    }
}

impl<T: Real> Iterator for ColumnLayers<'_, T> {
    type Item = (usize, Vec<T>);

    fn next(&mut self) -> Option<Self::Item> {
        let layer = self.layer;
        if layer == self.layers {
            return None;
        }
        self.layer += 1;
        let (p, nu) = (&self.tiles.positives, self.tiles.loss.nu);
        let offset = |position: usize| {
            let j = self.tiles.schedule.col_id(position);
            let has = layer < p.col(j).len();
            T::of(if has { -nu * self.s_cols[p.col_offset(j) + layer] } else { 0.0 })
        };
        Some((layer, self.range.clone().map(offset).collect()))
    }
}
