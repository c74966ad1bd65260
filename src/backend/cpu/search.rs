//! Streaming retrieval: best items per query and ranks of the best positive, without an `n x m` matrix.

use super::Cpu;
use super::matrix::Matrix;
use super::ranks::Columns;
use super::tiles::{Panel, Scratch, Source, Tiles};
use crate::backend::plan::Plan;
use crate::backend::{Ties, TopK};
use crate::control::Phase;
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::real::Real;
use crate::weights::Negatives;

/// A row's best positive, its similarity and column, and how many wrong items stand before it.
type Standing<T> = (Option<(T, usize)>, u32);
/// The items of a query, best first.
type Best<T> = Vec<(T, u32)>;

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
        let layout = self.rows_of(&tiles.plan);
        let (own, panels) = (layout.own(), self.own_panels(&tiles.plan));
        let zx = self.row_window(&tiles.plan, queries)?;
        let mut best: Vec<Vec<Best<T>>> =
            panels.clone().map(|p| vec![Best::new(); tiles.plan.panel(p).len()]).collect();
        self.columns(
            Phase::Retrieval,
            (0, 1),
            &tiles,
            panels.clone(),
            (&[items], None),
            usize::MAX,
            &mut best,
            |best, columns, meter| {
                let work = |p: usize, best: &mut Vec<Best<T>>| {
                    let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
                    let panel = tiles.panel(p, Some(&zx), &mut rows_z)?;
                    for range in tiles.plan.tiles_in(p, &columns.range) {
                        tiles.fill(&panel, columns.z(), &range, &mut scratch)?;
                        for (best, row) in best.iter_mut().zip(scratch.tile.chunks_exact(range.len())) {
                            offer(best, k, range.start, row);
                        }
                    }
                    Ok(())
                };
                self.for_panels(meter, panels.clone(), best, work, Ok)
            },
            |_, _| Ok(()),
        )?;
        let mut scores = Vec::with_capacity(own.len() * k);
        let mut indices = Vec::with_capacity(own.len() * k);
        for (score, j) in best.into_iter().flatten().flatten() {
            scores.push(score.as_f64() as f32);
            indices.push(j);
        }
        Ok(TopK { k, scores: self.group.concat(scores)?, indices: self.group.concat(indices)? })
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
        let (plan, panels) = (&tiles.plan, self.own_panels(&tiles.plan));
        let (zx, items) = match tiles.source.embeddings() {
            Some((zx, zy)) => (Some(self.row_window(plan, zx)?), vec![zy]),
            None => (None, Vec::new()),
        };
        let zx = zx.as_ref();
        // The best positive of every row and the wrong items before it.
        let mut states: Vec<Vec<Standing<T>>> =
            panels.clone().map(|p| vec![(None, 0); plan.panel(p).len()]).collect();
        // Where all columns are here, one visit does both.
        let at_once = self.group.is_single() && items.iter().all(|m| m.is_resident());
        for stage in 0..if at_once { 1 } else { 2 } {
            self.columns(
                Phase::Retrieval,
                (stage, if at_once { 1 } else { 2 }),
                &tiles,
                panels.clone(),
                (&items, None),
                usize::MAX,
                &mut states,
                |states, columns, meter| {
                    let work = |p: usize, state: &mut Vec<Standing<T>>| {
                        let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
                        let panel = tiles.panel(p, zx, &mut rows_z)?;
                        if stage == 0 {
                            best_positives(&tiles, p, columns, &panel, &mut scratch, state)?;
                        }
                        if at_once || stage == 1 {
                            count_before(&tiles, p, columns, &panel, &mut scratch, state, ties)?;
                        }
                        Ok(())
                    };
                    self.for_panels(meter, panels.clone(), states, work, Ok)
                },
                |_, _| Ok(()),
            )?;
        }
        let rank = |(best, ahead): (Option<_>, u32)| if best.is_some() { ahead } else { u32::MAX };
        self.group.concat(states.into_iter().flatten().map(rank).collect())
    }
}

/// Counts the wrong items among some columns that stand before the best positive of every row of a panel.
fn count_before<T: Real>(
    tiles: &Tiles<'_, T>,
    p: usize,
    columns: &Columns<'_, T>,
    panel: &Panel<'_, T>,
    scratch: &mut Scratch<T>,
    state: &mut [Standing<T>],
    ties: Ties,
) -> Result<()> {
    for range in tiles.plan.tiles_in(p, &columns.range) {
        // Positives are masked to -inf: only wrong items count.
        tiles.fill_negatives(panel, columns.z(), &range, scratch)?;
        for ((best, ahead), row) in state.iter_mut().zip(scratch.tile.chunks_exact(range.len())) {
            if let Some((score, j)) = *best {
                // Items before the positive also win ties.
                let before = match ties {
                    Ties::LowerIndex => j.saturating_sub(range.start).min(row.len()),
                    Ties::Shared => 0,
                };
                *ahead += count_ahead(row, before, score);
            }
        }
    }
    Ok(())
}

/// The best positive of every row of a panel: its similarity (from the same product that its rivals' come from, so
/// that equal items tie exactly) and, among equals, the lowest column.
fn best_positives<T: Real>(
    tiles: &Tiles<'_, T>,
    p: usize,
    columns: &Columns<'_, T>,
    panel: &Panel<'_, T>,
    scratch: &mut Scratch<T>,
    state: &mut [Standing<T>],
) -> Result<()> {
    for range in tiles.plan.tiles_in(p, &columns.range) {
        if panel.rows.clone().all(|i| tiles.positives.row_in(i, &range).is_empty()) {
            continue;
        }
        tiles.fill_negatives(panel, columns.z(), &range, scratch)?;
        for &(li, lj, s) in &scratch.masked {
            let better = match state[li].0 {
                Some((held, _)) => s > held,
                None => true,
            };
            if better {
                state[li].0 = Some((s, range.start + lj));
            }
        }
    }
    Ok(())
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
