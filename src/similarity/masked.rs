//! Entries of `S` that dense tiles leave out, because the loss weighs them apart: positives, and diagonal negatives where
//! [`EpsBy::Diagonal`] singles them out. They are few, so each is weighed on its own in float64.

use super::schedule::TileSchedule;
use crate::loss::{EpsBy, Loss};
use crate::positives::Positives;
use std::ops::Range;

/// `1/(2 n |P|)`: the average's weight of one pair of an anchor with so many `positives`; 0 without any.
pub(crate) fn pair_scale(anchors: usize, positives: usize) -> f64 {
    if positives == 0 { 0.0 } else { 0.5 / (anchors as f64 * positives as f64) }
}

/// Whether the loss weighs the diagonal entry of row `i` apart although it is a negative.
pub(crate) fn diagonal_apart(loss: &Loss, positives: &Positives, i: usize) -> bool {
    loss.eps_by == EpsBy::Diagonal && i < positives.n_y() && !positives.contains(i, i)
}

/// The masked columns of row `i`: its positives, ascending, then the diagonal where it is apart.
pub(crate) fn masked_of_row(loss: &Loss, positives: &Positives, i: usize) -> impl Iterator<Item = usize> {
    let extra = diagonal_apart(loss, positives, i).then_some(i);
    positives.row(i).iter().map(|&j| j as usize).chain(extra)
}

/// Calls `f` with the column position, counted from `cols.start`, of every masked entry of sample `i` among the column
/// positions `cols`.
pub(crate) fn for_masked_in(
    schedule: &TileSchedule,
    loss: &Loss,
    positives: &Positives,
    i: usize,
    cols: &Range<usize>,
    mut f: impl FnMut(usize),
) {
    let listed = if schedule.is_sampled() { positives.row(i) } else { positives.row_in(i, cols) };
    for &j in listed {
        let j = schedule.col_position(j as usize);
        if cols.contains(&j) {
            f(j - cols.start);
        }
    }
    if diagonal_apart(loss, positives, i) {
        let j = schedule.col_position(i);
        if cols.contains(&j) {
            f(j - cols.start);
        }
    }
}
