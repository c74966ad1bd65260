//! Pass 1: sums over negatives of every row and column, the loss and the coefficients of `S(gamma)`.

use super::Cpu;
use super::negated::additive_kind;
use super::panels::add;
use super::ranks::{PIECE, TileSums};
use super::tiles::{Scratch, Source, Tiles, product};
use crate::backend::anchors::{Factors, additive_side, clip_numbers};
use crate::backend::plan::TILE;
use crate::control::Phase;
use crate::distributed::Fold;
use crate::error::Result;
use crate::loss::{EpsBy, LossKind, log_add_exp};
use crate::real::Real;
use crate::weights::{Negatives, Side, Weights, exceptions_of_row};
use rayon::prelude::*;
use std::ops::Range;

/// Rows whose partners are fetched from other ranks at once.
const ANCHORS: usize = 65_536;

/// Sums of `e^{(s - 1)/tau}` below this exponent have lost too much of the number type's range: the pass is
/// repeated with running maxima.
pub(super) fn safe_exponent<T: Real>() -> f64 {
    if size_of::<T>() == 4 { 40.0 } else { 300.0 }
}

impl<T: Real> Cpu<T> {
    pub(super) fn statistics(&self, tiles: &Tiles<'_, T>, negatives: Negatives) -> Result<Weights> {
        let (loss, p) = (tiles.loss, &tiles.positives);
        let zeros = matches!(tiles.source, Source::Zeros);
        let factors = self.install(|| Factors::new(&tiles.plan, loss, p, zeros));
        let share = loss.kind == LossKind::Clip && !self.group.is_single() && !tiles.plan.is_sampled();
        let (rows, cols, loss_rows, loss_cols) = if loss.kind == LossKind::Clip {
            let (log_x, log_y) = self.clip_sums(tiles, &factors)?;
            let (rows, lx) = self.clip_side(tiles, log_x)?;
            let (cols, ly) = self.clip_side(&tiles.transposed(), log_y)?;
            (rows, cols, lx, ly)
        } else {
            self.additive_sides(tiles, &factors)?
        };
        let rows = Side { factor: factors.x, ..rows };
        let cols = Side { factor: factors.y, ..cols };
        let (loss, positives) = (*loss, p.clone());
        Weights { loss, positives, negatives, loss_rows, loss_cols, share, rows, cols }.checked()
    }

    /// The first anchor whose sums a rank has: of all negatives those of its own rows or columns, `n` in all.
    fn first(&self, tiles: &Tiles<'_, T>, n: usize) -> usize {
        if tiles.plan.is_sampled() { 0 } else { self.layout(n, TILE).own().start }
    }

    /// `log sum_neg eps_neg e^{s/tau}` of rows and columns (by sample), exceptions left out: of this rank's, or of all where
    /// negatives are sampled.
    fn clip_sums(&self, tiles: &Tiles<'_, T>, factors: &Factors<'_>) -> Result<(Vec<f64>, Vec<f64>)> {
        let (n_x, n_y) = (tiles.positives.n_x(), tiles.positives.n_y());
        let (first_x, first_y) = (self.first(tiles, n_x), self.first(tiles, n_y));
        let (seen_x, seen_y) =
            (|k: usize| factors.seen_x(first_x + k), |k: usize| factors.seen_y(first_y + k));
        let logs = |sums: &mut [f64], seen: &dyn Fn(usize) -> f64, shift: f64| {
            for (k, sum) in sums.iter_mut().enumerate() {
                *sum = if seen(k) > 0.0 { sum.ln() + shift } else { f64::NEG_INFINITY };
            }
        };
        let (mut log_x, mut log_y);
        if matches!(tiles.source, Source::Zeros) {
            log_x = self.layout(n_x, TILE).own().map(|i| factors.seen_x(i)).collect::<Vec<_>>();
            log_y = self.layout(n_y, TILE).own().map(|j| factors.seen_y(j)).collect::<Vec<_>>();
            logs(&mut log_x, &seen_x, 0.0);
            logs(&mut log_y, &seen_y, 0.0);
        } else {
            let shift = 1.0 / tiles.loss.tau;
            let floor = (-safe_exponent::<T>()).exp();
            (log_x, log_y) = self.clip_sums_shifted(tiles, shift)?;
            let lost = |sums: &[f64], seen: &dyn Fn(usize) -> f64| {
                sums.iter().enumerate().any(|(k, s)| *s < floor && seen(k) > 0.0)
            };
            if self.group.any(lost(&log_x, &seen_x) || lost(&log_y, &seen_y))? {
                (log_x, log_y) = self.clip_sums_robust(tiles)?;
            } else {
                logs(&mut log_x, &seen_x, shift);
                logs(&mut log_y, &seen_y, shift);
            }
        }
        let log_eps = tiles.loss.eps_neg.ln();
        for (log, factor) in [(&mut log_x, &factors.x), (&mut log_y, &factors.y)] {
            for (i, log) in log.iter_mut().enumerate() {
                *log += log_eps + factor.get(i).map_or(0.0, |f| f.ln());
            }
        }
        Ok((log_x, log_y))
    }

    /// `sum e^{(s - 1)/tau}`: |s| <= 1, so one shift serves all.
    fn clip_sums_shifted(&self, tiles: &Tiles<'_, T>, shift: f64) -> Result<(Vec<f64>, Vec<f64>)> {
        let scale = T::of(1.0 / tiles.loss.tau);
        self.row_and_column_sums(
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
        )
    }

    /// `log sum e^{s/tau}` with running maxima: any temperature.
    fn clip_sums_robust(&self, tiles: &Tiles<'_, T>) -> Result<(Vec<f64>, Vec<f64>)> {
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
    /// different tiles are added by `add`. `finish` makes the result of a row. Results are by sample: those of columns
    /// of different length (pairs) are put together by [`by_sample`].
    #[allow(clippy::type_complexity)]
    fn row_and_column_sums<A: Clone + Send + Sync>(
        &self,
        tiles: &Tiles<'_, T>,
        row: impl Fn(usize) -> A + Sync,
        cols: impl Fn(&Range<usize>) -> Vec<f64> + Sync + Send,
        add: impl Fn(f64, f64) -> f64 + Copy + Sync + Send,
        visit: impl Fn(&[T], &Range<usize>, &Range<usize>, &mut [A], &mut [f64]) + Sync + Send,
        finish: impl Fn(A) -> f64,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let plan = &tiles.plan;
        let rows = |p: usize| plan.panel(p).map(|i| row(plan.row_id(i))).collect::<Vec<A>>();
        let (states, y) = self.visit_sums(tiles, rows, cols, add, visit)?;
        let x: Vec<f64> = states.into_iter().flatten().map(finish).collect();
        if !plan.is_sampled() {
            return Ok((x, y));
        }
        let by_sample = |values: Vec<f64>, id: &dyn Fn(usize) -> usize| -> Result<Vec<f64>> {
            let values = self.group.concat(values)?;
            let mut out = vec![0.0; values.len()];
            values.into_iter().enumerate().for_each(|(position, v)| out[id(position)] = v);
            Ok(out)
        };
        Ok((by_sample(x, &|i| plan.row_id(i))?, by_sample(y, &|j| plan.col_id(j))?))
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
        let plan = &tiles.plan;
        let (layout, panels) = (self.rows_of(plan), self.own_panels(plan));
        let blocks = self.own_blocks(&layout);
        let (zx, items) = match tiles.source.embeddings() {
            Some((zx, zy)) => (Some(self.row_window(plan, zx)?), vec![zy]),
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
                    if !plan.meets(p, &columns.range) {
                        return Ok((p, parts));
                    }
                    let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
                    let panel = tiles.panel(p, zx, &mut rows_z)?;
                    for range in plan.tiles_in(p, &columns.range) {
                        tiles.fill_negatives(&panel, columns.z(), &range, &mut scratch)?;
                        let mut part = cols(&range);
                        visit(&scratch.tile, &panel.rows, &range, row, &mut part);
                        parts.push((range, part));
                    }
                    Ok((p, parts))
                };
                self.for_panels(meter, panels.clone(), states, work, |(p, parts)| {
                    let block = p * plan.tile() / layout.block();
                    parts.into_iter().for_each(|(range, part)| sums.add(block, range, part, add));
                    Ok(())
                })
            },
            |(_, sums, y), _| {
                let done = std::mem::replace(sums, TileSums::new(blocks.clone()));
                y.extend(self.finish_tiles(plan, done, add)?);
                Ok(())
            },
        )?;
        // Every tile of a rank's columns, in order; those that nobody visited hold nothing.
        let owned = self.layout(plan.n_y(), plan.tile()).own();
        let mut found = y.into_iter().peekable();
        let mut own = Vec::new();
        for start in owned.clone().step_by(plan.tile()) {
            let range = start..(start + plan.tile()).min(plan.n_y());
            match found.next_if(|(r, _)| r.start == start) {
                Some((_, part)) => own.extend(part),
                None => own.extend(cols(&range)),
            }
        }
        Ok((states, own))
    }

    /// Coefficients and half loss of the anchors of one direction from the log-sums of their negatives.
    fn clip_side(&self, tiles: &Tiles<'_, T>, mut log_neg: Vec<f64>) -> Result<(Side, f64)> {
        let (loss, positives) = (tiles.loss, &tiles.positives);
        let (layout, first) = (self.layout(positives.n_x(), TILE), self.first(tiles, positives.n_x()));
        let own = layout.own();
        let anchors = self.anchors(tiles, |i, s| clip_numbers(loss, positives, i, log_neg[i - first], s))?;
        let mut value = Fold::new(self.own_blocks(&layout));
        for (i, [_, _, term]) in own.clone().zip(&anchors) {
            value.block(i / layout.block(), || vec![0.0], add)[0] += term;
        }
        let value = self.group.sum(value, 1)?[0];
        let mut coeff: Vec<f64> = anchors.iter().map(|a| a[1]).collect();
        // Their logarithms change where the diagonal is apart.
        let at = own.start - first;
        log_neg[at..at + own.len()].iter_mut().zip(&anchors).for_each(|(log, a)| *log = a[0]);
        drop(anchors);
        if tiles.plan.is_sampled() {
            coeff = self.group.concat(coeff)?;
            if loss.eps_by == EpsBy::Diagonal {
                log_neg = self.group.concat(log_neg[own].to_vec())?;
            }
        }
        Ok((Side { first, log_neg, coeff, ..Side::default() }, value))
    }

    /// `f(i, similarities of i's exceptions)` for every row sample that this rank holds, in order: the positives', then
    /// the diagonal's where it is apart.
    fn anchors<R: Send>(
        &self,
        tiles: &Tiles<'_, T>,
        f: impl Fn(usize, &[f64]) -> R + Sync,
    ) -> Result<Vec<R>> {
        let (loss, p) = (tiles.loss, &tiles.positives);
        let layout = self.layout(p.n_x(), TILE);
        let own = layout.own();
        let mut out = Vec::with_capacity(own.len());
        // One stage where nothing is to be fetched; few rows at a time where much may be.
        let step = if self.group.is_single() { layout.most().max(1) } else { ANCHORS };
        for stage in 0..layout.most().div_ceil(step) {
            let first = (own.start + stage * step).min(own.end);
            let rows = first..(first + step).min(own.end);
            let wanted = rows.clone().flat_map(|i| exceptions_of_row(loss, p, i));
            let z = match tiles.source.embeddings() {
                Some((zx, zy)) => Some((zx, self.lookup(zy, wanted)?)),
                None => None,
            };
            let part: Result<Vec<R>> = self.install(|| {
                rows.into_par_iter()
                    .map_init(Vec::new, |s: &mut Vec<f64>, i| {
                        let (mut x_row, mut y_row) = (Vec::new(), Vec::new());
                        s.clear();
                        for j in exceptions_of_row(loss, p, i) {
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

    /// Both sides of an additive member: sums of psi and psi' over negatives for every pair.
    fn additive_sides(&self, tiles: &Tiles<'_, T>, factors: &Factors<'_>) -> Result<(Side, Side, f64, f64)> {
        let (p, back) = (&tiles.positives, tiles.transposed());
        let (s_rows, s_cols) = (self.pair_similarities(tiles, false)?, self.pair_similarities(&back, false)?);
        let ([psi_x, dpsi_x], [psi_y, dpsi_y]) = self.additive_sums(tiles, factors, &s_rows, &s_cols)?;
        let mut diagonal = self.diagonals(tiles)?.into_iter();
        let next = |_| diagonal.next().unwrap_or(0.0);
        let (rows, lx) = additive_side(tiles.loss, p, s_rows, [psi_x, dpsi_x], &factors.x, next);
        let mut diagonal = self.diagonals(&back)?.into_iter();
        let next = |_| diagonal.next().unwrap_or(0.0);
        let (cols, ly) =
            additive_side(tiles.loss, &back.positives, s_cols, [psi_y, dpsi_y], &factors.y, next);
        Ok((rows, cols, lx, ly))
    }

    /// `sum_neg psi(s_ij - nu s_ik)` and of psi', for every pair of rows and of columns; eps not yet applied.
    fn additive_sums(
        &self,
        tiles: &Tiles<'_, T>,
        factors: &Factors<'_>,
        s_rows: &[f64],
        s_cols: &[f64],
    ) -> Result<(PairSums, PairSums)> {
        let (p, plan, loss) = (&tiles.positives, &tiles.plan, tiles.loss);
        let mut x = [vec![0.0; s_rows.len()], vec![0.0; s_rows.len()]];
        let mut y = [vec![0.0; s_cols.len()], vec![0.0; s_cols.len()]];
        if matches!(tiles.source, Source::Zeros) {
            let at_zero = [loss.psi(0.0), loss.dpsi(0.0)];
            for (out, value) in x.iter_mut().zip(at_zero) {
                for i in 0..p.n_x() {
                    out[p.row_offset(i)..p.row_offset(i + 1)].fill(value * factors.seen_x(i));
                }
            }
            for (out, value) in y.iter_mut().zip(at_zero) {
                for j in 0..p.n_y() {
                    out[p.col_offset(j)..p.col_offset(j + 1)].fill(value * factors.seen_y(j));
                }
            }
            return Ok((x, y));
        }
        let kind = additive_kind(loss);
        let pairs = |i: usize| p.row_offset(i)..p.row_offset(i + 1);
        let pairs_of =
            |range: &Range<usize>| range.clone().map(|j| p.col(plan.col_id(j)).len()).sum::<usize>();
        let (rows, by_position) = self.visit_sums(
            tiles,
            |panel| plan.panel(panel).map(|i| vec![(0.0, 0.0); pairs(plan.row_id(i)).len()]).collect(),
            |range| vec![0.0; 2 * pairs_of(range)],
            |a, b| a + b,
            |tile, positions, range, row: &mut [Vec<(f64, f64)>], cols| {
                let (m, n) = (positions.len(), range.len());
                for (li, position) in positions.clone().enumerate() {
                    let s_row = &tile[li * n..(li + 1) * n];
                    for (out, e) in row[li].iter_mut().zip(pairs(plan.row_id(position))) {
                        let (psi, dpsi) = T::additive_sums(kind, s_row, T::of(-loss.nu * s_rows[e]));
                        *out = (out.0 + psi.as_f64(), out.1 + dpsi.as_f64());
                    }
                }
                for (layer, offsets) in ColumnLayers::new(tiles, range, s_cols) {
                    let (mut psi, mut dpsi) = (vec![T::default(); n], vec![T::default(); n]);
                    T::additive_col_sums(kind, tile, n, m, n, &offsets, &mut psi, &mut dpsi);
                    let mut first = 0;
                    for (local, position) in range.clone().enumerate() {
                        let pairs = p.col(plan.col_id(position)).len();
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
        spread(&rows, &|position| pairs(plan.row_id(position)), p.n_x(), &mut x);
        let of_col = |j: usize| p.col_offset(j)..p.col_offset(j + 1);
        spread(&by_position, &|position| of_col(plan.col_id(position)), p.n_y(), &mut y);
        Ok((x, y))
    }

    /// `s_ik` of all pairs, anchor by anchor, on every rank; on request with the diagonal's where it is apart.
    pub(super) fn pair_similarities(&self, tiles: &Tiles<'_, T>, diagonal: bool) -> Result<Vec<f64>> {
        let pairs = |i: usize| if diagonal { usize::MAX } else { tiles.positives.row(i).len() };
        let own = self.anchors(tiles, |i, s| s[..pairs(i).min(s.len())].to_vec())?;
        self.group.concat(own.concat())
    }

    /// `s_ii` of the samples whose diagonal is apart, in order, on every rank.
    fn diagonals(&self, tiles: &Tiles<'_, T>) -> Result<Vec<f64>> {
        if tiles.loss.eps_by != EpsBy::Diagonal {
            return Ok(Vec::new());
        }
        let own = self.anchors(tiles, |i, s| s.get(tiles.positives.row(i).len()).copied())?;
        self.group.concat(own.into_iter().flatten().collect())
    }
}

/// Sums of psi and of psi' over the negatives of every pair.
type PairSums = [Vec<f64>; 2];

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
        let layers = range.clone().map(|j| p.col(tiles.plan.col_id(j)).len()).max().unwrap_or(0);
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
            let j = self.tiles.plan.col_id(position);
            let has = layer < p.col(j).len();
            T::of(if has { -nu * self.s_cols[p.col_offset(j) + layer] } else { 0.0 })
        };
        Some((layer, self.range.clone().map(offset).collect()))
    }
}
