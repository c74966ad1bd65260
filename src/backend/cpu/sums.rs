//! Pass 1's sums over negatives of every row and column, and the similarities of masked entries.

use super::Cpu;
use super::family::OfFamily;
use super::ranks::PIECE;
use super::simd::AdditiveKind;
use super::tile_sums::TileSums;
use super::tiles::{Scratch, Tiles, cuts, product};
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

/// What a visit of tiles does: sums over the rows of tiles and over their columns.
pub(super) trait Sums<T>: Sync {
    /// The sum of a row on its way.
    type Row: Send;
    /// The sums of the columns of a tile on their way.
    type Columns;

    /// Rows of a tile that are visited together, at most; `unit` of them where it does not matter.
    fn strip(&self, unit: usize) -> usize {
        unit
    }
    /// Columns that are visited together, at most: so few that a strip's similarities stay in the nearest cache.
    fn part(&self, unit: usize) -> usize {
        unit.max(256)
    }
    /// The row position's sum before any tile.
    fn row(&self, position: usize) -> Self::Row;
    /// The sums of the column positions before any row.
    fn columns(&self, positions: &Range<usize>) -> Self::Columns;
    /// Adds the tile of these row positions and the columns.
    fn visit(
        &self,
        tile: &[T],
        rows: Range<usize>,
        sums: &mut [Self::Row],
        columns: &mut Self::Columns,
    ) -> Result<()>;
    /// What the columns have come to.
    fn finish(&self, positions: &Range<usize>, columns: Self::Columns) -> Vec<f64>;
    /// Adds what two visits of the same column have come to.
    fn add(a: f64, b: f64) -> f64;
}

/// Sums of the rows of every panel, and those of columns.
type Visited<R> = (Vec<Vec<R>>, Vec<f64>);

/// `sum e^{(s - 1)/tau}`: one shift for all, since |s| <= 1.
struct Shifted<T> {
    scale: T,
}

impl<T: Real> Sums<T> for Shifted<T> {
    type Row = f64;
    type Columns = Vec<T>;

    fn row(&self, _: usize) -> f64 {
        0.0
    }

    fn columns(&self, positions: &Range<usize>) -> Vec<T> {
        vec![T::default(); positions.len()]
    }

    fn visit(&self, tile: &[T], rows: Range<usize>, sums: &mut [f64], columns: &mut Vec<T>) -> Result<()> {
        let (m, n) = (rows.len(), columns.len());
        let mut row = vec![T::default(); m];
        T::exp_sums(tile, n, m, n, self.scale, self.scale, &mut row, columns);
        sums.iter_mut().zip(&row).for_each(|(sum, t)| *sum += t.as_f64());
        Ok(())
    }

    fn finish(&self, _: &Range<usize>, columns: Vec<T>) -> Vec<f64> {
        columns.into_iter().map(T::as_f64).collect()
    }

    fn add(a: f64, b: f64) -> f64 {
        a + b
    }
}

/// `log sum e^{s/tau}` with running maxima: any temperature.
struct ByMaxima<T> {
    scale: T,
}

/// The logarithm of `sum e^max`.
fn log_of<T: Real>(max: T, sum: f64) -> f64 {
    if sum > 0.0 { max.as_f64() + sum.ln() } else { f64::NEG_INFINITY }
}

impl<T: Real> Sums<T> for ByMaxima<T> {
    type Row = (T, f64);
    type Columns = (Vec<T>, Vec<f64>);

    /// Maxima of columns are raised strip by strip, at some cost each.
    fn strip(&self, _: usize) -> usize {
        TILE
    }

    /// As for the maxima of rows.
    fn part(&self, _: usize) -> usize {
        TILE
    }

    fn row(&self, _: usize) -> (T, f64) {
        (T::of(f64::NEG_INFINITY), 0.0)
    }

    fn columns(&self, positions: &Range<usize>) -> (Vec<T>, Vec<f64>) {
        (vec![T::of(f64::NEG_INFINITY); positions.len()], vec![0.0; positions.len()])
    }

    fn visit(
        &self,
        tile: &[T],
        rows: Range<usize>,
        sums: &mut [(T, f64)],
        (max, sum): &mut (Vec<T>, Vec<f64>),
    ) -> Result<()> {
        let (m, n) = (rows.len(), max.len());
        let (mut row_max, mut row_sum): (Vec<T>, Vec<f64>) = sums.iter().copied().unzip();
        T::log_sums(tile, n, m, n, self.scale, &mut row_max, &mut row_sum, max, sum);
        sums.iter_mut().zip(row_max.into_iter().zip(row_sum)).for_each(|(r, new)| *r = new);
        Ok(())
    }

    fn finish(&self, _: &Range<usize>, (max, sum): (Vec<T>, Vec<f64>)) -> Vec<f64> {
        max.into_iter().zip(sum).map(|(max, sum)| log_of(max, sum)).collect()
    }

    fn add(a: f64, b: f64) -> f64 {
        log_add_exp(a, b)
    }
}

/// `sum psi(s_ij - nu s_ik)` and of psi' for every pair of rows and of columns.
struct OfPairs<'a, T: Real> {
    tiles: &'a Tiles<'a, T>,
    s: BothSums<&'a [f64]>,
    kind: AdditiveKind,
}

impl<T: Real> OfPairs<'_, T> {
    fn pairs_of_row(&self, position: usize) -> Range<usize> {
        let (p, i) = (&self.tiles.positives, self.tiles.schedule.row_id(position));
        p.row_offset(i)..p.row_offset(i + 1)
    }
}

/// The `t`-th positives of a tile's columns, and the sums of psi and psi' against them.
struct Layer<T> {
    offsets: Vec<T>,
    psi: Vec<T>,
    dpsi: Vec<T>,
}

impl<T: Real> Sums<T> for OfPairs<'_, T> {
    type Row = Vec<(f64, f64)>;
    type Columns = Vec<Layer<T>>;

    fn row(&self, position: usize) -> Vec<(f64, f64)> {
        vec![(0.0, 0.0); self.pairs_of_row(position).len()]
    }

    fn columns(&self, positions: &Range<usize>) -> Vec<Layer<T>> {
        let zeros = || vec![T::default(); positions.len()];
        column_layers(self.tiles, positions, self.s[1], T::default())
            .map(|offsets| Layer { offsets, psi: zeros(), dpsi: zeros() })
            .collect()
    }

    fn visit(
        &self,
        tile: &[T],
        rows: Range<usize>,
        sums: &mut [Self::Row],
        columns: &mut Vec<Layer<T>>,
    ) -> Result<()> {
        let (m, n) = (rows.len(), tile.len() / rows.len().max(1));
        for ((position, sums), s_row) in rows.zip(sums).zip(tile.chunks_exact(n.max(1))) {
            for (out, e) in sums.iter_mut().zip(self.pairs_of_row(position)) {
                let offset = T::of(-self.tiles.loss.nu * self.s[0][e]);
                let (psi, dpsi) = T::additive_sums(self.kind, s_row, offset);
                *out = (out.0 + psi.as_f64(), out.1 + dpsi.as_f64());
            }
        }
        for Layer { offsets, psi, dpsi } in columns {
            T::additive_col_sums(self.kind, tile, n, m, n, offsets, psi, dpsi);
        }
        Ok(())
    }

    /// Of every pair of the columns in turn: psi, psi'.
    fn finish(&self, positions: &Range<usize>, columns: Vec<Layer<T>>) -> Vec<f64> {
        let pairs = |j: usize| self.tiles.positives.col(self.tiles.schedule.col_id(j)).len();
        let of_column = |(local, j): (usize, usize)| {
            let of_pair = move |layer: &Layer<T>| [layer.psi[local].as_f64(), layer.dpsi[local].as_f64()];
            columns.iter().take(pairs(j)).flat_map(of_pair)
        };
        positions.clone().enumerate().flat_map(of_column).collect()
    }

    fn add(a: f64, b: f64) -> f64 {
        a + b
    }
}

/// The positives of a tile's columns, one layer after the other: layer `t` holds `-nu s` of every column's `t`-th positive,
/// `none` where a column has fewer.
pub(super) fn column_layers<'a, T: Real, U: Real>(
    tiles: &'a Tiles<'_, T>,
    positions: &Range<usize>,
    s_cols: &'a [f64],
    none: U,
) -> impl Iterator<Item = Vec<U>> + 'a {
    let (p, nu, positions) = (&tiles.positives, tiles.loss.nu, positions.clone());
    let ids = move || positions.clone().map(|j| tiles.schedule.col_id(j));
    let layers = ids().map(|j| p.col(j).len()).max().unwrap_or(0);
    (0..layers).map(move |layer| {
        let offset = |j: usize| match layer < p.col(j).len() {
            true => U::of(-nu * s_cols[p.col_offset(j) + layer]),
            false => none,
        };
        ids().map(offset).collect()
    })
}

impl<T: Real> Cpu<T> {
    /// `log sum e^{s/tau}` with one shift for all: |s| <= 1.
    pub(super) fn log_sums_shifted(&self, tiles: &Tiles<'_, T>) -> Result<BothSums<Vec<f64>>> {
        let shift = 1.0 / tiles.loss.tau;
        let sums = self.row_and_column_sums(tiles, &Shifted { scale: T::of(shift) }, |row| row)?;
        Ok(sums.map(|sums| sums.into_iter().map(|sum| sum.ln() + shift).collect()))
    }

    /// `log sum e^{s/tau}` with running maxima: any temperature.
    pub(super) fn log_sums_by_maxima(&self, tiles: &Tiles<'_, T>) -> Result<BothSums<Vec<f64>>> {
        let sums = ByMaxima { scale: T::of(1.0 / tiles.loss.tau) };
        self.row_and_column_sums(tiles, &sums, |(max, sum)| log_of(max, sum))
    }

    /// Sums over the negatives of every row and of every column, from one visit of every tile: of this rank's rows and
    /// columns, or of all where negatives are sampled. `finish` makes the result of a row. Results are by sample.
    fn row_and_column_sums<S: Sums<T>>(
        &self,
        tiles: &Tiles<'_, T>,
        sums: &S,
        finish: impl Fn(S::Row) -> f64,
    ) -> Result<BothSums<Vec<f64>>> {
        let schedule = &tiles.schedule;
        let (states, y) = self.visit_sums(tiles, sums)?;
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

    /// The sums of this rank's panels, and those of its columns, by position.
    fn visit_sums<S: Sums<T>>(&self, tiles: &Tiles<'_, T>, sums: &S) -> Result<Visited<S::Row>> {
        let schedule = &tiles.schedule;
        let (layout, panels) = (self.rows_of(schedule), self.own_panels(schedule));
        let blocks = layout.own_blocks();
        let (zx, items) = match tiles.source.embeddings() {
            Some((zx, zy)) => (Some(self.row_window(schedule, zx)?), vec![zy]),
            None => (None, Vec::new()),
        };
        let zx = zx.as_ref();
        let mut states: Vec<Vec<S::Row>> =
            panels.clone().map(|p| schedule.panel(p).map(|i| sums.row(i)).collect()).collect();
        let width = sums.part(tiles.unit.part());
        let ready = self.ready(tiles, None, width)?;
        let mut y = Vec::new();
        let state = &mut (&mut states, TileSums::new(blocks.clone()), &mut y);
        self.columns(
            Phase::Statistics,
            (0, 1),
            tiles,
            panels.clone(),
            (&items, None, ready.as_ref()),
            PIECE,
            state,
            |(states, totals, _), columns, meter| {
                let work = |p: usize, row: &mut Vec<S::Row>| {
                    let mut parts = Vec::new();
                    if !schedule.meets(p, &columns.range) {
                        return Ok((p, parts));
                    }
                    let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
                    let panel = tiles.panel(p, zx, &mut rows_z)?;
                    for range in schedule.tiles_in(p, &columns.range) {
                        let mut finished = Vec::new();
                        for cut in cuts(range.clone(), width) {
                            tiles.take_columns(columns, &cut, &mut scratch)?;
                            let mut part = sums.columns(&cut);
                            for strip in panel.strips(sums.strip(tiles.unit.strip())) {
                                tiles.fill_negatives(&panel, &strip, &cut, &mut scratch)?;
                                let rows = panel.rows.start + strip.start..panel.rows.start + strip.end;
                                sums.visit(&scratch.tile, rows, &mut row[strip], &mut part)?;
                            }
                            finished.extend(sums.finish(&cut, part));
                        }
                        parts.push((range, finished));
                    }
                    Ok((p, parts))
                };
                self.for_panels(meter, panels.clone(), states, work, |(p, parts)| {
                    let block = schedule.panel(p).start / layout.block();
                    parts.into_iter().for_each(|(range, part)| totals.add(block, range, part, S::add));
                    Ok(())
                })
            },
            |(_, totals, y), _| {
                let done = std::mem::replace(totals, TileSums::new(blocks.clone()));
                y.extend(self.finish_tiles(schedule, done, S::add)?);
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
                None => own.extend(sums.finish(&range, sums.columns(&range))),
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
        s: BothSums<&[f64]>,
    ) -> Result<BothSums<PairSums>> {
        match tiles.loss.own()? {
            Some(custom) => self.spread_sums(tiles, s, &OfFamily { tiles, s, custom }),
            None => self.spread_sums(tiles, s, &OfPairs { tiles, s, kind: additive_kind(tiles.loss) }),
        }
    }

    /// The sums of a visit from positions to samples.
    fn spread_sums<S: Sums<T, Row = Vec<(f64, f64)>>>(
        &self,
        tiles: &Tiles<'_, T>,
        s: BothSums<&[f64]>,
        sums: &S,
    ) -> Result<BothSums<PairSums>> {
        let (p, schedule) = (&tiles.positives, &tiles.schedule);
        let mut x = [vec![0.0; s[0].len()], vec![0.0; s[0].len()]];
        let mut y = [vec![0.0; s[1].len()], vec![0.0; s[1].len()]];
        let (rows, by_position) = self.visit_sums(tiles, sums)?;
        let rows = rows.into_iter().flatten().flatten().flat_map(|(psi, dpsi)| [psi, dpsi]).collect();
        let (rows, by_position) = (self.group.concat(rows)?, self.group.concat(by_position)?);
        let spread = |values: &[f64], ids: &dyn Fn(usize) -> Range<usize>, n: usize, out: &mut PairSums| {
            let mut values = values.chunks_exact(2);
            for (e, v) in (0..n).flat_map(ids).zip(&mut values) {
                (out[0][e], out[1][e]) = (v[0], v[1]);
            }
        };
        let of_row = |i: usize| p.row_offset(i)..p.row_offset(i + 1);
        spread(&rows, &|position| of_row(schedule.row_id(position)), p.n_x(), &mut x);
        let of_col = |j: usize| p.col_offset(j)..p.col_offset(j + 1);
        spread(&by_position, &|position| of_col(schedule.col_id(position)), p.n_y(), &mut y);
        Ok([x, y])
    }
}
