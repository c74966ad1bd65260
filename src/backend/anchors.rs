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
pub(super) struct Factors {
    /// Negatives that each row sees.
    pub(super) seen_x: Vec<f64>,
    /// Negatives that each column sees.
    pub(super) seen_y: Vec<f64>,
    /// All negatives / seen ones of each row; empty: 1.
    pub(super) x: Vec<f64>,
    /// The same of each column.
    pub(super) y: Vec<f64>,
}

impl Factors {
    /// With `zeros` (all similarities 0) nothing is sampled.
    pub(super) fn new(plan: &Plan, loss: &Loss, positives: &Positives, zeros: bool) -> Self {
        let p = positives;
        let exceptions = |p: &Positives, i: usize| p.row(i).len() + usize::from(diagonal_apart(loss, p, i));
        let back = p.transposed();
        let all_x: Vec<f64> = (0..p.n_x()).map(|i| (p.n_y() - exceptions(p, i)) as f64).collect();
        let all_y: Vec<f64> = (0..p.n_y()).map(|j| (p.n_x() - exceptions(&back, j)) as f64).collect();
        if !plan.is_sampled() || zeros {
            return Self { seen_x: all_x, seen_y: all_y, x: Vec::new(), y: Vec::new() };
        }
        let (seen_x, seen_y) = (seen(plan, loss, p), seen(&plan.transposed(), loss, &back));
        let ratio = |all: &[f64], seen: &[f64]| -> Vec<f64> {
            all.iter().zip(seen).map(|(a, s)| if *s > 0.0 { a / s } else { 1.0 }).collect()
        };
        let (x, y) = (ratio(&all_x, &seen_x), ratio(&all_y, &seen_y));
        Self { seen_x, seen_y, x, y }
    }
}

/// Negatives that each row of a sampled plan sees.
fn seen(plan: &Plan, loss: &Loss, positives: &Positives) -> Vec<f64> {
    let of_panel = |p: usize| -> Vec<(usize, f64)> {
        let ranges: Vec<_> = plan.tiles(p).collect();
        let width: usize = ranges.iter().map(|r| r.len()).sum();
        let of_row = |position: usize| {
            let i = plan.row_id(position);
            let mut hits = 0;
            ranges.iter().for_each(|r| for_exceptions_in(plan, loss, positives, i, r, |_| hits += 1));
            (i, (width - hits) as f64)
        };
        plan.panel(p).map(of_row).collect()
    };
    let counts: Vec<_> = (0..plan.panels()).into_par_iter().map(of_panel).collect();
    let mut out = vec![0.0; positives.n_x()];
    for (i, count) in counts.into_iter().flatten() {
        out[i] = count;
    }
    out
}
