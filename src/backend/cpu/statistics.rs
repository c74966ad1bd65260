//! Pass 1: sums over negatives of every row and column, the loss and the coefficients of `S(gamma)`.

use super::Cpu;
use super::contract::additive_kind;
use super::tiles::{Scratch, Source, Tiles};
use crate::backend::anchors::{Factors, additive_side, clip_side};
use crate::control::Phase;
use crate::error::Result;
use crate::loss::{LossKind, log_add_exp};
use crate::positives::Positives;
use crate::real::Real;
use crate::weights::{Negatives, Side, Weights};
use rayon::prelude::*;

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
        let (rows, cols, loss_rows, loss_cols) = if loss.kind == LossKind::Clip {
            let (log_x, log_y) = self.clip_sums(tiles, &factors)?;
            let back = tiles.transposed();
            self.install(|| {
                let (rows, lx) = clip_side(loss, p, log_x, |i, j| tiles.source.pair(i, j));
                let (cols, ly) = clip_side(loss, &back.positives, log_y, |j, i| back.source.pair(j, i));
                (rows, cols, lx, ly)
            })
        } else {
            self.additive_sides(tiles, &factors)?
        };
        let rows = Side { factor: factors.x, ..rows };
        let cols = Side { factor: factors.y, ..cols };
        let (loss, positives) = (*loss, p.clone());
        Ok(Weights { loss, positives, negatives, loss_rows, loss_cols, rows, cols })
    }

    /// `log sum_neg eps_neg e^{s/tau}` of every row and column (by sample), exceptions left out.
    fn clip_sums(&self, tiles: &Tiles<'_, T>, factors: &Factors) -> Result<(Vec<f64>, Vec<f64>)> {
        let log_eps = tiles.loss.eps_neg.ln();
        let logs = |sums: &[f64], counts: &[f64], shift: f64| -> Vec<f64> {
            sums.iter()
                .zip(counts)
                .map(|(s, c)| if *c > 0.0 { s.ln() + shift } else { f64::NEG_INFINITY })
                .collect()
        };
        let (mut log_x, mut log_y) = if matches!(tiles.source, Source::Zeros) {
            (logs(&factors.seen_x, &factors.seen_x, 0.0), logs(&factors.seen_y, &factors.seen_y, 0.0))
        } else {
            let shift = 1.0 / tiles.loss.tau;
            let floor = (-safe_exponent::<T>()).exp();
            let (x, y) = self.clip_sums_shifted(tiles, shift)?;
            let lost =
                |sums: &[f64], counts: &[f64]| sums.iter().zip(counts).any(|(s, c)| *c > 0.0 && *s < floor);
            if lost(&x, &factors.seen_x) || lost(&y, &factors.seen_y) {
                self.clip_sums_robust(tiles)?
            } else {
                (logs(&x, &factors.seen_x, shift), logs(&y, &factors.seen_y, shift))
            }
        };
        for (log, factor) in [(&mut log_x, &factors.x), (&mut log_y, &factors.y)] {
            for (i, log) in log.iter_mut().enumerate() {
                *log += log_eps + factor.get(i).map_or(0.0, |f| f.ln());
            }
        }
        Ok((log_x, log_y))
    }

    /// `sum e^{(s - 1)/tau}`: |s| <= 1, so one shift serves all.
    fn clip_sums_shifted(&self, tiles: &Tiles<'_, T>, shift: f64) -> Result<(Vec<f64>, Vec<f64>)> {
        let (plan, scale) = (&tiles.plan, T::of(1.0 / tiles.loss.tau));
        let mut x = vec![0.0; tiles.positives.n_x()];
        let mut y = vec![0.0; tiles.positives.n_y()];
        self.for_panels(
            Phase::Statistics,
            plan.panels(),
            |p| {
                let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
                let panel = tiles.panel(p, &mut rows_z);
                let mut row = vec![0.0; panel.rows.len()];
                let mut row_tile = vec![T::default(); panel.rows.len()];
                let mut cols = Vec::new();
                for range in plan.tiles(p) {
                    tiles.fill_negatives(&panel, &range, &mut scratch);
                    let (m, n) = (panel.rows.len(), range.len());
                    row_tile.fill(T::default());
                    let mut col = vec![T::default(); n];
                    T::exp_sums(&scratch.tile, n, m, n, scale, T::of(shift), &mut row_tile, &mut col);
                    row.iter_mut().zip(&row_tile).for_each(|(sum, t)| *sum += t.as_f64());
                    cols.push((range, col));
                }
                Ok((panel.rows.clone(), row, cols))
            },
            |(rows, row, cols)| {
                for (position, sum) in rows.zip(row) {
                    x[plan.row_id(position)] = sum;
                }
                for (range, col) in cols {
                    for (position, sum) in range.zip(col) {
                        y[plan.col_id(position)] += sum.as_f64();
                    }
                }
                Ok(())
            },
        )?;
        Ok((x, y))
    }

    /// `log sum e^{s/tau}` with running maxima: any temperature.
    fn clip_sums_robust(&self, tiles: &Tiles<'_, T>) -> Result<(Vec<f64>, Vec<f64>)> {
        let (plan, scale) = (&tiles.plan, T::of(1.0 / tiles.loss.tau));
        let mut x = vec![f64::NEG_INFINITY; tiles.positives.n_x()];
        let mut y = vec![f64::NEG_INFINITY; tiles.positives.n_y()];
        let none = T::of(f64::NEG_INFINITY);
        let log = |max: T, sum: f64| if sum > 0.0 { max.as_f64() + sum.ln() } else { f64::NEG_INFINITY };
        self.for_panels(
            Phase::Statistics,
            plan.panels(),
            |p| {
                let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
                let panel = tiles.panel(p, &mut rows_z);
                let m = panel.rows.len();
                let (mut row_max, mut row_sum) = (vec![none; m], vec![0.0; m]);
                let mut cols = Vec::new();
                for range in plan.tiles(p) {
                    tiles.fill_negatives(&panel, &range, &mut scratch);
                    let n = range.len();
                    let (mut max, mut sum) = (vec![none; n], vec![0.0; n]);
                    T::log_sums(
                        &scratch.tile,
                        n,
                        m,
                        n,
                        scale,
                        &mut row_max,
                        &mut row_sum,
                        &mut max,
                        &mut sum,
                    );
                    cols.push((range, max, sum));
                }
                let row: Vec<f64> = row_max.iter().zip(&row_sum).map(|(&m, &s)| log(m, s)).collect();
                Ok((panel.rows.clone(), row, cols))
            },
            |(rows, row, cols)| {
                for (position, sum) in rows.zip(row) {
                    x[plan.row_id(position)] = sum;
                }
                for (range, max, sum) in cols {
                    for (position, (max, sum)) in range.zip(max.into_iter().zip(sum)) {
                        let y = &mut y[plan.col_id(position)];
                        *y = log_add_exp(*y, log(max, sum));
                    }
                }
                Ok(())
            },
        )?;
        Ok((x, y))
    }

    /// Both sides of an additive member: sums of psi and psi' over negatives for every pair.
    fn additive_sides(&self, tiles: &Tiles<'_, T>, factors: &Factors) -> Result<(Side, Side, f64, f64)> {
        let (p, back) = (&tiles.positives, tiles.transposed());
        let s_rows = self.pair_similarities(&tiles.source, p);
        let s_cols = self.pair_similarities(&back.source, &back.positives);
        let ([psi_x, dpsi_x], [psi_y, dpsi_y]) = self.additive_sums(tiles, factors, &s_rows, &s_cols)?;
        let pair = |i, j| tiles.source.pair(i, j);
        let (rows, lx) = additive_side(tiles.loss, p, s_rows, [psi_x, dpsi_x], &factors.x, pair);
        let pair = |j, i| back.source.pair(j, i);
        let (cols, ly) =
            additive_side(tiles.loss, &back.positives, s_cols, [psi_y, dpsi_y], &factors.y, pair);
        Ok((rows, cols, lx, ly))
    }

    /// `sum_neg psi(s_ij - nu s_ik)` and of psi', for every pair of rows and of columns; eps not yet applied.
    fn additive_sums(
        &self,
        tiles: &Tiles<'_, T>,
        factors: &Factors,
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
                    out[p.row_offset(i)..p.row_offset(i + 1)].fill(value * factors.seen_x[i]);
                }
            }
            for (out, value) in y.iter_mut().zip(at_zero) {
                for j in 0..p.n_y() {
                    out[p.col_offset(j)..p.col_offset(j + 1)].fill(value * factors.seen_y[j]);
                }
            }
            return Ok((x, y));
        }
        let kind = additive_kind(loss);
        self.for_panels(
            Phase::Statistics,
            plan.panels(),
            |panel_index| {
                let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
                let panel = tiles.panel(panel_index, &mut rows_z);
                let pairs = |position: usize| {
                    let i = plan.row_id(position);
                    p.row_offset(i)..p.row_offset(i + 1)
                };
                let mut row: Vec<Vec<(f64, f64)>> =
                    panel.rows.clone().map(|i| vec![(0.0, 0.0); pairs(i).len()]).collect();
                let mut cols = Vec::new();
                for range in plan.tiles(panel_index) {
                    tiles.fill_negatives(&panel, &range, &mut scratch);
                    let (m, n) = (panel.rows.len(), range.len());
                    for (li, position) in panel.rows.clone().enumerate() {
                        let s_row = &scratch.tile[li * n..(li + 1) * n];
                        for (out, e) in row[li].iter_mut().zip(pairs(position)) {
                            let (psi, dpsi) = T::additive_sums(kind, s_row, T::of(-loss.nu * s_rows[e]));
                            *out = (out.0 + psi.as_f64(), out.1 + dpsi.as_f64());
                        }
                    }
                    for (layer, offsets) in ColumnLayers::new(tiles, &range, s_cols) {
                        let (mut psi, mut dpsi) = (vec![T::default(); n], vec![T::default(); n]);
                        T::additive_col_sums(kind, &scratch.tile, n, m, n, &offsets, &mut psi, &mut dpsi);
                        cols.push((range.clone(), layer, psi, dpsi));
                    }
                }
                Ok((panel.rows.clone(), row, cols))
            },
            |(rows, row, cols)| {
                for (position, sums) in rows.zip(row) {
                    let first = p.row_offset(plan.row_id(position));
                    for (e, (psi, dpsi)) in sums.into_iter().enumerate() {
                        x[0][first + e] = psi;
                        x[1][first + e] = dpsi;
                    }
                }
                for (range, layer, psi, dpsi) in cols {
                    for (local, position) in range.enumerate() {
                        let j = plan.col_id(position);
                        if layer < p.col(j).len() {
                            y[0][p.col_offset(j) + layer] += psi[local].as_f64();
                            y[1][p.col_offset(j) + layer] += dpsi[local].as_f64();
                        }
                    }
                }
                Ok(())
            },
        )?;
        Ok((x, y))
    }

    /// `s_ik` of all pairs, anchor by anchor.
    pub(super) fn pair_similarities(&self, source: &Source<'_, T>, positives: &Positives) -> Vec<f64> {
        self.install(|| {
            (0..positives.n_x())
                .into_par_iter()
                .flat_map_iter(|i| positives.row(i).iter().map(move |&j| source.pair(i, j as usize)))
                .collect()
        })
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
