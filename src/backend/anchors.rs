//! What pass 1 does for every anchor once the sums over its negatives are known, and which entries dense tiles leave out:
//! shared by the backends.

use super::plan::Plan;
use crate::loss::{Loss, log_add_exp};
use crate::positives::Positives;
use crate::weights::{Side, additive_anchor, clip_anchor, diagonal_apart};
use rayon::prelude::*;
use std::ops::Range;

/// One clip anchor from the log-sum of its negatives and the similarities `s` of what tiles leave out (its positives, then
/// its diagonal where that is [apart](diagonal_apart)): the complete log-sum, the coefficient and the term of the loss.
pub(super) fn clip_numbers(
    loss: &Loss,
    positives: &Positives,
    i: usize,
    log_neg: f64,
    s: &[f64],
) -> [f64; 3] {
    let row = positives.row(i);
    let log_neg = match s.get(row.len()) {
        Some(diagonal) => log_add_exp(log_neg, loss.eps_pos.ln() + diagonal / loss.tau),
        None => log_neg,
    };
    let pairs = row.iter().zip(s).map(|(&j, &s)| (s, loss.eps(i, j as usize, true)));
    let (coeff, term) = clip_anchor(loss, positives.n_x(), log_neg, pairs);
    [log_neg, coeff, term]
}

/// Applies eps and the sampling `factor` to the sums of psi and psi' of every pair of one direction, adds diagonal
/// negatives, and sums the half loss. `diagonal(i)` is `s_ii`, asked for in order where it is [apart](diagonal_apart).
pub(super) fn additive_side(
    loss: &Loss,
    positives: &Positives,
    s_pos: Vec<f64>,
    [mut psi, mut dpsi]: [Vec<f64>; 2],
    factor: &[f64],
    mut diagonal: impl FnMut(usize) -> f64,
) -> (Side, f64) {
    let mut value = 0.0;
    for i in 0..positives.n_x() {
        let scale = loss.eps_neg * factor.get(i).copied().unwrap_or(1.0);
        let apart = diagonal_apart(loss, positives, i).then(|| (loss.eps_pos, diagonal(i)));
        let pairs = positives.row_offset(i)..positives.row_offset(i + 1);
        for e in pairs.clone() {
            psi[e] *= scale;
            dpsi[e] *= scale;
            if let Some((eps, s)) = apart {
                psi[e] += eps * loss.psi(s - loss.nu * s_pos[e]);
                dpsi[e] += eps * loss.dpsi(s - loss.nu * s_pos[e]);
            }
        }
        let eps = positives.row(i).iter().map(|&j| loss.eps(i, j as usize, true));
        let pairs = pairs.zip(eps).map(|(e, eps)| (s_pos[e], eps, psi[e]));
        value += additive_anchor(loss, positives.n_x(), pairs);
    }
    (Side { s_pos, dpsi, ..Side::default() }, value)
}

/// Calls `f` with the column position (counted from `cols.start`) of every entry of sample `i` that dense tiles leave out
/// among the column positions `cols`.
pub(super) fn for_exceptions_in(
    plan: &Plan,
    loss: &Loss,
    positives: &Positives,
    i: usize,
    cols: &Range<usize>,
    mut f: impl FnMut(usize),
) {
    let listed = if plan.is_sampled() { positives.row(i) } else { positives.row_in(i, cols) };
    for &j in listed {
        let j = plan.col_position(j as usize);
        if cols.contains(&j) {
            f(j - cols.start);
        }
    }
    if diagonal_apart(loss, positives, i) {
        let j = plan.col_position(i);
        if cols.contains(&j) {
            f(j - cols.start);
        }
    }
}

/// How many negatives every anchor sees in dense tiles, and how many times they stand for all of them.
pub(super) struct Factors<'a> {
    loss: &'a Loss,
    positives: Positives,
    back: Positives,
    /// Negatives that each row and each column sees, where a sample of them is.
    counted: Option<[Vec<f64>; 2]>,
    /// All negatives / seen ones of each row; empty: 1.
    pub(super) x: Vec<f64>,
    /// The same of each column.
    pub(super) y: Vec<f64>,
}

/// Negatives of row `i`.
fn negatives(loss: &Loss, p: &Positives, i: usize) -> f64 {
    (p.n_y() - p.row(i).len() - usize::from(diagonal_apart(loss, p, i))) as f64
}

impl<'a> Factors<'a> {
    /// With `zeros` (all similarities 0) nothing is sampled.
    pub(super) fn new(plan: &Plan, loss: &'a Loss, positives: &Positives, zeros: bool) -> Self {
        let (positives, back) = (positives.clone(), positives.transposed());
        let mut out = Self { loss, positives, back, counted: None, x: Vec::new(), y: Vec::new() };
        if plan.is_sampled() && !zeros {
            let (x, y) = (seen(plan, loss, &out.positives), seen(&plan.transposed(), loss, &out.back));
            let ratio = |p: &Positives, seen: &[f64]| -> Vec<f64> {
                let of = |(i, s): (usize, &f64)| if *s > 0.0 { negatives(loss, p, i) / s } else { 1.0 };
                seen.iter().enumerate().map(of).collect()
            };
            (out.x, out.y) = (ratio(&out.positives, &x), ratio(&out.back, &y));
            out.counted = Some([x, y]);
        }
        out
    }

    /// Negatives that row `i` sees.
    pub(super) fn seen_x(&self, i: usize) -> f64 {
        self.counted.as_ref().map_or_else(|| negatives(self.loss, &self.positives, i), |[x, _]| x[i])
    }

    /// Negatives that column `j` sees.
    pub(super) fn seen_y(&self, j: usize) -> f64 {
        self.counted.as_ref().map_or_else(|| negatives(self.loss, &self.back, j), |[_, y]| y[j])
    }
}

/// Negatives that each row of a sampled plan sees.
fn seen(plan: &Plan, loss: &Loss, positives: &Positives) -> Vec<f64> {
    let of_panel = |p: usize| -> Vec<f64> {
        let ranges: Vec<_> = plan.tiles(p).collect();
        let width: usize = ranges.iter().map(|r| r.len()).sum();
        let of_row = |position: usize| {
            let i = plan.row_id(position);
            let mut hits = 0;
            ranges.iter().for_each(|r| for_exceptions_in(plan, loss, positives, i, r, |_| hits += 1));
            (width - hits) as f64
        };
        plan.panel(p).map(of_row).collect()
    };
    let counts: Vec<_> = crate::threads::run(|| (0..plan.panels()).into_par_iter().map(of_panel).collect());
    let mut out = vec![0.0; positives.n_x()];
    for (position, count) in counts.into_iter().flatten().enumerate() {
        out[plan.row_id(position)] = count;
    }
    out
}
