//! Streaming retrieval: best items per query and ranks of the best positive, without an `n x m` matrix.

use super::Cpu;
use super::matrix::Matrix;
use super::tiles::{Panel, Scratch, Source, Tiles};
use crate::backend::plan::Plan;
use crate::backend::{Ties, TopK};
use crate::control::Phase;
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::real::Real;
use crate::weights::Negatives;

impl<T: Real> Cpu<T> {
    pub(super) fn search(&self, queries: &Matrix<T>, items: &Matrix<T>, k: usize) -> Result<TopK> {
        let (n, m) = (queries.rows(), items.rows());
        let k = k.min(m);
        let loss = Loss::default();
        // Only the tiles' similarities are used; the relation is a formality of the grid.
        let positives = Positives::none(n, m);
        let plan = Plan::new(n, m, Negatives::All);
        let tiles =
            Tiles { source: Source::Embeddings(queries, items), loss: &loss, positives, plan, bf16: false };
        let mut out = TopK { k, scores: vec![0.0; n * k], indices: vec![0; n * k] };
        self.for_panels(
            Phase::Retrieval,
            tiles.plan.panels(),
            |p| {
                let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
                let panel = tiles.panel(p, &mut rows_z);
                let mut best: Vec<Vec<(T, u32)>> = vec![Vec::with_capacity(k + 1); panel.rows.len()];
                for range in tiles.plan.tiles(p) {
                    tiles.fill(&panel, &range, &mut scratch);
                    for (best, row) in best.iter_mut().zip(scratch.tile.chunks_exact(range.len())) {
                        offer(best, k, range.start, row);
                    }
                }
                Ok((panel.rows.clone(), best))
            },
            |(rows, best)| {
                for (i, best) in rows.zip(best) {
                    for (slot, (score, j)) in best.into_iter().enumerate() {
                        out.scores[i * k + slot] = score.as_f64() as f32;
                        out.indices[i * k + slot] = j;
                    }
                }
                Ok(())
            },
        )?;
        Ok(out)
    }

    pub(super) fn rank_positives(
        &self,
        source: Source<'_, T>,
        positives: &Positives,
        ties: Ties,
    ) -> Result<Vec<u32>> {
        let loss = Loss::default();
        let plan = Plan::new(positives.n_x(), positives.n_y(), Negatives::All);
        let tiles = Tiles { source, loss: &loss, positives: positives.clone(), plan, bf16: false };
        let mut ranks = vec![u32::MAX; positives.n_x()];
        self.for_panels(
            Phase::Retrieval,
            tiles.plan.panels(),
            |p| {
                let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
                let panel = tiles.panel(p, &mut rows_z);
                let best = best_positives(&tiles, p, &panel, &mut scratch);
                let mut ahead = vec![0u32; panel.rows.len()];
                for range in tiles.plan.tiles(p) {
                    // Positives are masked to -inf: only wrong items count.
                    tiles.fill_negatives(&panel, &range, &mut scratch);
                    for (li, row) in scratch.tile.chunks_exact(range.len()).enumerate() {
                        if let Some((score, j)) = best[li] {
                            // Items before the positive also win ties.
                            let before = match ties {
                                Ties::LowerIndex => j.saturating_sub(range.start).min(row.len()),
                                Ties::Shared => 0,
                            };
                            ahead[li] += count_ahead(row, before, score);
                        }
                    }
                }
                let ranks: Vec<u32> =
                    best.iter().zip(ahead).map(|(b, a)| if b.is_some() { a } else { u32::MAX }).collect();
                Ok((panel.rows.clone(), ranks))
            },
            |(rows, part)| {
                ranks[rows].copy_from_slice(&part);
                Ok(())
            },
        )?;
        Ok(ranks)
    }
}

/// The best positive of every row of a panel: its similarity (from the same product that its rivals' come from, so
/// that equal items tie exactly) and, among equals, the lowest column.
fn best_positives<T: Real>(
    tiles: &Tiles<'_, T>,
    p: usize,
    panel: &Panel<'_, T>,
    scratch: &mut Scratch<T>,
) -> Vec<Option<(T, usize)>> {
    let mut best: Vec<Option<(T, usize)>> = vec![None; panel.rows.len()];
    for range in tiles.plan.tiles(p) {
        if panel.rows.clone().all(|i| tiles.positives.row_in(i, &range).is_empty()) {
            continue;
        }
        tiles.fill_negatives(panel, &range, scratch);
        for &(li, lj, s) in &scratch.masked {
            let better = match best[li] {
                Some((held, _)) => s > held,
                None => true,
            };
            if better {
                best[li] = Some((s, range.start + lj));
            }
        }
    }
    best
}

/// Entries of `row` that stand before a positive of this score; the first `before` of them win ties.
fn count_ahead<T: Real>(row: &[T], before: usize, score: T) -> u32 {
    let (lower, higher) = row.split_at(before);
    let count = lower.iter().map(|s| u32::from(*s >= score)).sum::<u32>();
    count + higher.iter().map(|s| u32::from(*s > score)).sum::<u32>()
}

/// Keeps the `k` best of what was offered so far, best first; equal scores keep the order of their columns.
fn offer<T: Real>(best: &mut Vec<(T, u32)>, k: usize, first: usize, row: &[T]) {
    if k == 0 {
        return;
    }
    for (lj, &score) in row.iter().enumerate() {
        if best.len() == k && score <= best[k - 1].0 {
            continue;
        }
        let at = best.partition_point(|held| held.0 >= score);
        best.insert(at, (score, (first + lj) as u32));
        best.truncate(k);
    }
}
