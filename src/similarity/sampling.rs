//! Which negatives an anchor sees, and what a sample of them stands for.

use super::masked::{diagonal_apart, for_masked_in};
use super::schedule::TileSchedule;
use crate::loss::Loss;
use crate::positives::Positives;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Which negatives an anchor sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NegativeSampling {
    /// All of them: the exact loss.
    #[default]
    All,
    /// About `per_anchor` of them, drawn for a seed in shuffled tiles; sums are scaled up to all negatives
    /// and positives stay exact.
    Sampled {
        /// Negatives per row; rounded up to whole tiles.
        per_anchor: usize,
        /// Equal seeds give equal samples.
        seed: u64,
    },
}

impl NegativeSampling {
    /// The size of the sample of an anchor; none: all.
    pub fn per_anchor(self) -> Option<usize> {
        match self {
            Self::All => None,
            Self::Sampled { per_anchor, .. } => Some(per_anchor),
        }
    }

    /// Two samples of half the size, independent of each other and of this one, which show the error that sampling
    /// leaves. None where nothing is sampled, or too little to halve.
    pub fn halves(self) -> Option<[Self; 2]> {
        let Self::Sampled { per_anchor: m @ 2.., seed } = self else { return None };
        let per_anchor = m.div_ceil(2);
        // Seeds that nobody picks by counting.
        let apart = |k: u64| seed ^ k.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Some([1, 2].map(|k| Self::Sampled { per_anchor, seed: apart(k) }))
    }
}

/// How many negatives every anchor of one direction sees in dense tiles, and how many times they stand for all of them.
pub(crate) struct Seen {
    loss: Loss,
    positives: Positives,
    /// Negatives that each anchor sees, where a sample of them is.
    counted: Option<Vec<f64>>,
    /// All negatives / seen ones of each anchor; empty: 1.
    pub(crate) weight: Vec<f64>,
}

impl Seen {
    /// Of the rows of a schedule.
    pub(crate) fn new(schedule: &TileSchedule, loss: &Loss, positives: &Positives) -> Self {
        let mut out =
            Self { loss: loss.clone(), positives: positives.clone(), counted: None, weight: Vec::new() };
        if schedule.is_sampled() {
            let seen = count(schedule, loss, positives);
            let of = |(i, s): (usize, &f64)| if *s > 0.0 { out.negatives(i) / s } else { 1.0 };
            out.weight = seen.iter().enumerate().map(of).collect();
            out.counted = Some(seen);
        }
        out
    }

    /// Negatives of anchor `i`.
    fn negatives(&self, i: usize) -> f64 {
        let (loss, p) = (&self.loss, &self.positives);
        (p.n_y() - p.row(i).len() - usize::from(diagonal_apart(loss, p, i))) as f64
    }

    /// Negatives that anchor `i` sees.
    pub(crate) fn of(&self, i: usize) -> f64 {
        self.counted.as_ref().map_or_else(|| self.negatives(i), |seen| seen[i])
    }
}

/// Negatives that each row of a sampled schedule sees.
fn count(schedule: &TileSchedule, loss: &Loss, positives: &Positives) -> Vec<f64> {
    let of_panel = |p: usize| -> Vec<f64> {
        let ranges: Vec<_> = schedule.tiles(p).collect();
        let width: usize = ranges.iter().map(|r| r.len()).sum();
        let of_row = |position: usize| {
            let i = schedule.row_id(position);
            let mut hits = 0;
            ranges.iter().for_each(|r| for_masked_in(schedule, loss, positives, i, r, |_| hits += 1));
            (width - hits) as f64
        };
        schedule.panel(p).map(of_row).collect()
    };
    let counts: Vec<_> =
        crate::threads::run(|| (0..schedule.panels()).into_par_iter().map(of_panel).collect());
    let mut out = vec![0.0; positives.n_x()];
    for (position, count) in counts.into_iter().flatten().enumerate() {
        out[schedule.row_id(position)] = count;
    }
    out
}
