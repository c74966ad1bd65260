//! Pass 1's sums over negatives of every row and column, and the similarities of masked entries.

use super::Cpu;
use super::ranks::{PIECE, Passing};
use super::simd::AdditiveKind;
use super::tile_sums::TileSums;
use super::tiles::{Scratch, Tiles, cuts, product};
use super::window::{Block, Window};
use crate::control::Phase;
use crate::error::Result;
use crate::loss::log_add_exp;
use crate::real::Real;
use crate::similarity::blocks::{BothSides, NewVisit, Visit};
use crate::similarity::masked::masked_of_row;
use crate::similarity::schedule::TILE;
use rayon::prelude::*;
use std::ops::Range;

/// What a visit of tiles does: sums over the rows of tiles and over their columns.
pub(super) trait Sums<T>: Send + Sync {
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
    /// What a row has come to.
    fn finish_row(&self, row: Self::Row) -> impl Iterator<Item = f64>;
    /// What the columns have come to.
    fn finish(&self, positions: &Range<usize>, columns: Self::Columns) -> Vec<f64>;
    /// Adds what two visits of the same column have come to.
    fn add(a: f64, b: f64) -> f64 {
        a + b
    }
    /// The result that belongs to a sum over all.
    fn result(&self, sum: f64) -> f64 {
        sum
    }
}

/// `sum e^{(s - 1)/tau}`: one shift for all, since |s| <= 1.
pub(super) struct Shifted<T> {
    pub(super) scale: T,
    /// `1/tau`.
    pub(super) shift: f64,
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

    fn finish_row(&self, row: f64) -> impl Iterator<Item = f64> {
        std::iter::once(row)
    }

    fn finish(&self, _: &Range<usize>, columns: Vec<T>) -> Vec<f64> {
        columns.into_iter().map(T::as_f64).collect()
    }

    fn result(&self, sum: f64) -> f64 {
        sum.ln() + self.shift
    }
}

/// `log sum e^{s/tau}` with running maxima: any temperature.
pub(super) struct ByMaxima<T> {
    pub(super) scale: T,
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

    fn finish_row(&self, (max, sum): (T, f64)) -> impl Iterator<Item = f64> {
        std::iter::once(log_of(max, sum))
    }

    fn finish(&self, _: &Range<usize>, (max, sum): (Vec<T>, Vec<f64>)) -> Vec<f64> {
        max.into_iter().zip(sum).map(|(max, sum)| log_of(max, sum)).collect()
    }

    fn add(a: f64, b: f64) -> f64 {
        log_add_exp(a, b)
    }
}

/// `sum psi(s_ij - nu s_ik)` and of psi' for every pair of rows and of columns.
pub(super) struct OfPairs<'a, T: Real> {
    pub(super) tiles: &'a Tiles<'a, T>,
    pub(super) s: BothSides<&'a [f64]>,
    pub(super) kind: AdditiveKind,
}

impl<T: Real> OfPairs<'_, T> {
    fn pairs_of_row(&self, position: usize) -> Range<usize> {
        let (p, i) = (&self.tiles.positives, self.tiles.schedule.row_id(position));
        p.row_offset(i)..p.row_offset(i + 1)
    }
}

/// The `t`-th positives of a tile's columns, and the sums of psi and psi' against them.
pub(super) struct Layer<T> {
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
        self.tiles
            .column_layers(positions, self.s[1], T::default())
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

    /// Of every pair of the row in turn: psi, psi'.
    fn finish_row(&self, row: Self::Row) -> impl Iterator<Item = f64> {
        row.into_iter().flat_map(|(psi, dpsi)| [psi, dpsi])
    }

    /// The same of the columns.
    fn finish(&self, positions: &Range<usize>, columns: Vec<Layer<T>>) -> Vec<f64> {
        let pairs = |j: usize| self.tiles.positives.col(self.tiles.schedule.col_id(j)).len();
        let of_column = |(local, j): (usize, usize)| {
            let of_pair = move |layer: &Layer<T>| [layer.psi[local].as_f64(), layer.dpsi[local].as_f64()];
            columns.iter().take(pairs(j)).flat_map(of_pair)
        };
        positions.clone().enumerate().flat_map(of_column).collect()
    }
}

/// A visit of every tile.
struct Summing<'a, T: Real, S: Sums<T>> {
    cpu: &'a Cpu<T>,
    tiles: &'a Tiles<'a, T>,
    sums: S,
    /// The embeddings of the rows.
    zx: Option<Window<'a, T>>,
    /// Columns that are visited together, at most.
    width: usize,
    /// Of every panel.
    rows: Vec<Vec<S::Row>>,
    /// Of the columns that are here, and of this rank's before them.
    open: TileSums<f64>,
    done: Vec<(Range<usize>, Vec<f64>)>,
}

impl<T: Real, S: Sums<T>> Visit<Cpu<T>, BothSides<Vec<f64>>> for Summing<'_, T, S> {
    fn add(&mut self, &Block { columns, meter }: &Block<'_, T>) -> Result<()> {
        let Self { cpu, tiles, sums, zx, width, rows, open, .. } = self;
        let (schedule, sums, zx) = (&tiles.schedule, &*sums, zx.as_ref());
        let layout = cpu.rows_of(schedule);
        let work = |p: usize, row: &mut Vec<S::Row>| {
            let mut parts = Vec::new();
            if !schedule.meets(p, &columns.range) {
                return Ok((p, parts));
            }
            let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
            let panel = tiles.panel(p, zx, &mut rows_z)?;
            for range in schedule.tiles_in(p, &columns.range) {
                let mut finished = Vec::new();
                for cut in cuts(range.clone(), *width) {
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
        cpu.for_panels(meter, cpu.own_panels(schedule), rows, work, |(p, parts)| {
            let block = schedule.panel(p).start / layout.block();
            parts.into_iter().for_each(|(range, part)| open.add(block, range, part, S::add));
            Ok(())
        })
    }

    fn share(&mut self) -> Result<()> {
        let sums = self.open.take();
        self.done.extend(self.cpu.finish_tiles(&self.tiles.schedule, sums, S::add)?);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<BothSides<Vec<f64>>> {
        let Self { cpu, tiles, sums, rows, done, .. } = *self;
        let schedule = &tiles.schedule;
        let rows = rows.into_iter().flatten().flat_map(|row| sums.finish_row(row));
        let rows = rows.map(|sum| sums.result(sum)).collect();
        // Every tile of a rank's columns, in order; those that nobody visited hold nothing.
        let owned = cpu.layout(schedule.n_y(), schedule.tile()).own();
        let (mut found, mut columns) = (done.into_iter().peekable(), Vec::new());
        for start in owned.clone().step_by(schedule.tile()) {
            let range = start..(start + schedule.tile()).min(schedule.n_y());
            match found.next_if(|(r, _)| r.start == start) {
                Some((_, part)) => columns.extend(part),
                None => columns.extend(sums.finish(&range, sums.columns(&range))),
            }
        }
        columns.iter_mut().for_each(|sum| *sum = sums.result(*sum));
        Ok([rows, columns])
    }
}

impl<T: Real> Cpu<T> {
    /// A visit that has not begun.
    pub(super) fn visiting<'a, S: Sums<T> + 'a>(
        &'a self,
        tiles: &'a Tiles<'a, T>,
        sums: S,
    ) -> Result<NewVisit<'a, Self, BothSides<Vec<f64>>>> {
        let (schedule, width) = (&tiles.schedule, sums.part(tiles.unit.part()));
        let layout = self.rows_of(schedule);
        let of_panel = |p: usize| schedule.panel(p).map(|i| sums.row(i)).collect();
        let rows = self.own_panels(schedule).map(of_panel).collect();
        let passing = Passing {
            width: PIECE,
            ..Passing::new(Phase::Statistics, tiles, None).packed(self, None, width)?
        };
        let (zx, open) = (self.row_embeddings(tiles)?, TileSums::new(layout.own_blocks()));
        let sums = Box::new(Summing { cpu: self, tiles, sums, zx, width, rows, open, done: Vec::new() });
        Ok(NewVisit { rows: layout.own(), passing, sums })
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
}
