//! Bytes between ranks: what every collective of a fit moves, counted as the CPU backend calls them.
//!
//! Figures are bytes received, of all ranks together. A broadcast of `N` bytes costs `(R - 1) N`, and so does a gathering
//! of `N` bytes on all ranks. A sum over rows is exchanged as the partial sums of the ranks (see [`Shares`]). One-to-one
//! positives are with their anchors; others may have to be fetched, which is not counted, nor are lengths and names of
//! messages: they add less than a hundredth where a rank has some thousand rows.

use super::Job;
use crate::backend::cpu::{PIECE, STAGE_ROWS};
use crate::distributed::Layout;
use crate::similarity::schedule::TILE;

/// How the rows of one side are shared out.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    /// Rows of every rank.
    pub(super) rows: Vec<f64>,
    /// Partial sums that every rank sends of a sum over rows: the nodes of the tree over blocks that its blocks make up.
    pub(super) parts: Vec<f64>,
}

impl Shares {
    pub(super) fn new(n: f64, panel: f64, ranks: f64) -> Self {
        let (n, panel, ranks) = (n as usize, panel as usize, ranks as usize);
        let layout = Layout::new(n, panel, 0, ranks);
        let parts = |k: usize| {
            let own = layout.blocks_of(k);
            nodes(own.start, if own.end == layout.blocks() { usize::MAX } else { own.end }, layout.blocks())
        };
        Self {
            rows: (0..ranks).map(|k| layout.of(k).len() as f64).collect(),
            parts: (0..ranks).map(|k| if layout.of(k).is_empty() { 0.0 } else { parts(k) as f64 }).collect(),
        }
    }

    /// Most rows of a rank.
    pub(super) fn most(&self) -> f64 {
        self.rows.iter().copied().fold(0.0, f64::max)
    }

    /// Most partial sums of a rank.
    pub(super) fn most_parts(&self) -> f64 {
        self.parts.iter().copied().fold(0.0, f64::max)
    }

    /// A sum over these rows of float64 vectors of `width`, on all ranks: every rank adds up its share of the width, then
    /// all gather the shares.
    fn sum(&self, width: f64) -> f64 {
        let ranks = self.rows.len() as f64;
        8.0 * width * (self.parts.iter().sum::<f64>() * (ranks - 1.0) / ranks + ranks - 1.0)
    }

    /// Sums over these rows for every column of `columns`, which end where the column is: `bytes` a column and part.
    fn column_sums(&self, columns: &Self, bytes: f64) -> f64 {
        let n: f64 = columns.rows.iter().sum();
        self.parts.iter().zip(&columns.rows).map(|(parts, own)| bytes * parts * (n - own)).sum()
    }
}

/// Nodes of the binary tree over blocks that cover `start..end` and nothing else; blocks from `blocks` on do not exist.
fn nodes(mut start: usize, end: usize, blocks: usize) -> usize {
    let mut count = 0;
    while start < end.min(blocks) {
        let mut width = if start == 0 { usize::MAX / 2 + 1 } else { 1 << start.trailing_zeros() };
        while width > end - start {
            width /= 2;
        }
        start = start.saturating_add(width);
        count += 1;
    }
    count
}

/// Bytes that all ranks receive in the parts of a fit, and messages that a rank waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Steps {
    /// What the ranks tell each other about the rows as they check them: a digest of each.
    pub(super) screen: f64,
    /// Whitening of both sides.
    pub(super) whiten: f64,
    /// The update from zeros.
    pub(super) zeros: f64,
    /// Encoding of both sides.
    pub(super) encode: f64,
    /// Pass 1: what streams past, and what is exchanged after.
    pub(super) pass1: (f64, f64),
    /// Both passes of an update, likewise; with sampled negatives also of the two half samples that show the error.
    pub(super) update: (f64, f64),
    /// Pass 2 of a gradient, likewise, with the way back to the encoders.
    pub(super) gradient: (f64, f64),
    /// Collectives of a stream of the columns.
    pub(super) pieces: f64,
}

/// Counts a job with numbers of `bytes` in n-sized matrices.
pub(super) fn steps(job: &Job, bytes: f64) -> Steps {
    let (ranks, r) = (job.ranks, job.dim);
    let all = ranks - 1.0;
    if all < 1.0 {
        return Steps::default();
    }
    let n = job.n_x + job.n_y;
    let narrow = job.d.0.min(job.d.1);
    let cells = job.d.0 * job.d.1;
    let (x, y) = (Shares::new(job.n_x, TILE as f64, ranks), Shares::new(job.n_y, TILE as f64, ranks));
    // The narrower side is contracted: its rows are the columns of pass 2.
    let (rows, columns) = if job.d.0 < job.d.1 { (&y, &x) } else { (&x, &y) };
    // A rank has the coefficients of its own rows and columns; of a sample, the log-sums and coefficients of all.
    let anchors = all * (8.0 + 8.0) * n;
    let mut steps = Steps {
        screen: all * 16.0 * n,
        whiten: 0.0,
        zeros: columns.sum(2.0 * narrow) + rows.sum(cells),
        encode: all * bytes * r * (job.d.0 + job.d.1),
        pass1: (0.0, 0.0),
        update: (0.0, rows.sum(cells)),
        gradient: (0.0, x.sum(r * job.d.0) + y.sum(r * job.d.1)),
        pieces: columns.rows.iter().map(|n| (n / PIECE as f64).ceil()).sum(),
    };
    if job.whiten {
        let side = |shares: &Shares, d: f64| shares.sum(d * d) + all * bytes * d * d;
        steps.whiten = side(&x, job.d.0) + side(&y, job.d.1);
    }
    match job.sample() {
        None => {
            let stages = (rows.most() / STAGE_ROWS as f64).ceil();
            // The columns' coefficients come with their values.
            let columns: f64 = columns.rows.iter().sum();
            steps.pass1.0 = all * bytes * job.n_y * r;
            steps.pass1.1 += x.column_sums(&y, 8.0);
            steps.update.0 = steps.pass1.0 + all * bytes * columns * (r + narrow + 1.0) * stages;
            steps.update.1 += steps.pass1.1;
            steps.gradient.0 = all * bytes * job.n_y * (r + 1.0);
            steps.gradient.1 += x.column_sums(&y, bytes * r);
        }
        Some(m) => {
            let mut all_samples = (0.0, 0.0);
            for (m, count) in [(m, 1.0), ((m / 2.0).ceil(), if m < 2.0 { 0.0 } else { 2.0 })] {
                let s = sample(job, bytes, m);
                all_samples.0 += count * (s.pass1.0 + s.pass2);
                all_samples.1 += count * (anchors + s.pass1.1 + steps.update.1);
            }
            let whole = sample(job, bytes, m);
            steps.update = all_samples;
            steps.pass1 = (whole.pass1.0, anchors + whole.pass1.1);
            steps.gradient.0 = whole.gradient;
        }
    }
    steps
}

/// What one sample of negatives has fetched: in pass 1, with the sums exchanged after it, and in either pass 2.
struct Sample {
    pass1: (f64, f64),
    pass2: f64,
    gradient: f64,
}

/// Counts a sample of `m` negatives a row. Rows are shuffled: all but one in R are elsewhere, and are asked for by number.
fn sample(job: &Job, bytes: f64, m: f64) -> Sample {
    let (ranks, r) = (job.ranks, job.dim);
    let tile = m.min(TILE as f64);
    let rounds = (m / tile).ceil();
    let (wide, narrow) = (job.d.0.max(job.d.1), job.d.0.min(job.d.1));
    let row = |width: f64| (ranks - 1.0) / ranks * (4.0 + bytes * width);
    let (x, y) = (Shares::new(job.n_x, tile, ranks), Shares::new(job.n_y, tile, ranks));
    let (rows, columns) = if job.d.0 < job.d.1 { (&y, &x) } else { (&x, &y) };
    let pass1 = halo(&x, &y, tile, rounds, f64::INFINITY);
    let pass2 = halo(rows, columns, tile, rounds, STAGE_ROWS as f64);
    let n_rows: f64 = rows.rows.iter().sum();
    // Columns that a rank visits beyond its own.
    let beyond = (pass1 - job.n_y).max(0.0);
    // The rows of panels, and the partners of masked entries, which are fetched by themselves.
    let (windows, apart) = (row(r) + row(wide), row(r) + row(narrow));
    // Of a gradient both sides' rows are fetched, the partners of masked entries, and the gradients brought back.
    let n = job.n_x + job.n_y;
    let back = bytes * r * beyond + n * row(r);
    Sample {
        pass1: (row(r) * (job.n_x + pass1), 8.0 * beyond),
        pass2: n_rows * (windows + apart) + pass2 * (row(r) + row(narrow)),
        gradient: row(r) * (job.n_x + pass1 + 2.0 * n) + back,
    }
}

/// Columns that all ranks together fetch where panels of `tile` rows visit `rounds` tiles each along the diagonals of the
/// grid, `stage` rows at a time.
fn halo(rows: &Shares, columns: &Shares, tile: f64, rounds: f64, stage: f64) -> f64 {
    let (n_rows, n): (f64, f64) = (rows.rows.iter().sum(), columns.rows.iter().sum());
    let (panels, tiles) = ((n_rows / tile).ceil(), (n / tile).ceil());
    let step = (tiles / panels).max(1.0);
    let of_rank = |own: &f64| {
        let stages = (own / stage).ceil().max(1.0);
        let panels = (own / tile).ceil() / stages;
        stages * (tile * (panels * step + rounds - 1.0).min(tiles)).min(n)
    };
    rows.rows.iter().filter(|own| **own > 0.0).map(of_rank).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distributed::Fold;

    #[test]
    fn parts_are_those_that_a_fold_leaves() {
        for n in [1000, 5000, 24_000, 200_000, 1_000_000] {
            for ranks in [1, 2, 3, 5, 8, 64] {
                let shares = Shares::new(n as f64, TILE as f64, ranks as f64);
                for k in 0..ranks {
                    let layout = Layout::new(n, TILE, k, ranks);
                    let own = layout.blocks_of(k);
                    let end = if own.end == layout.blocks() { usize::MAX } else { own.end };
                    let mut fold = Fold::new(own.start..end);
                    for block in own {
                        *fold.block(block, || 0.0, |a, b| *a += b) += 1.0;
                    }
                    let parts = fold.parts(|a, b| *a += b).len();
                    assert_eq!(parts as f64, shares.parts[k], "rank {k} of {ranks}, n = {n}");
                }
            }
        }
    }
}
