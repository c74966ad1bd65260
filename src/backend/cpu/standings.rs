//! Where the best positive of every row stands, streaming, without an `n x m` matrix.

use super::Cpu;
use super::ranks::Passing;
use super::tiles::{Panel, Scratch, Source, Tiles};
use super::unit::Unit;
use super::window::Columns;
use crate::backend::Standing;
use crate::control::Phase;
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::real::Real;
use crate::similarity::NegativeSampling;
use crate::similarity::schedule::TileSchedule;

/// A row's best positive, its similarity and column, and where it stands.
type State<T> = (Option<(T, usize)>, Standing);

impl<T: Real> Cpu<T> {
    pub(super) fn stand(
        &self,
        source: Source<'_, T>,
        positives: &Positives,
        exclude_self: bool,
    ) -> Result<Vec<Standing>> {
        let loss = Loss::default();
        let schedule = TileSchedule::new(positives.n_x(), positives.n_y(), NegativeSampling::All);
        // What tiles leave out is no wrong item.
        let left_out = if exclude_self { positives.with_self()? } else { positives.clone() };
        let tiles = Tiles { source, loss: &loss, positives: left_out, schedule, unit: Unit::Vectors };
        let (schedule, panels) = (&tiles.schedule, self.own_panels(&tiles.schedule));
        let zx = self.row_embeddings(&tiles)?;
        let zx = zx.as_ref();
        let passing = Passing::new(Phase::Retrieval, &tiles, None);
        // The best positive of every row and the wrong items before it.
        let mut states: Vec<Vec<State<T>>> =
            panels.clone().map(|p| vec![(None, Standing::default()); schedule.panel(p).len()]).collect();
        // Where all columns are here, one visit does both.
        let at_once = self.all_here(&passing.matrices);
        for stage in 0..if at_once { 1 } else { 2 } {
            self.columns(
                &passing,
                (stage, if at_once { 1 } else { 2 }),
                panels.clone(),
                &mut states,
                |states, columns, meter| {
                    let work = |p: usize, state: &mut Vec<State<T>>| {
                        let (mut rows_z, mut scratch) = (Vec::new(), Scratch::default());
                        let panel = tiles.panel(p, zx, &mut rows_z)?;
                        if stage == 0 {
                            best_positives(&tiles, p, columns, &panel, &mut scratch, state, exclude_self)?;
                        }
                        if at_once || stage == 1 {
                            count_before(&tiles, p, columns, &panel, &mut scratch, state)?;
                        }
                        Ok(())
                    };
                    self.for_panels(meter, panels.clone(), states, work, Ok)
                },
                |_| Ok(()),
            )?;
        }
        self.group.concat(states.into_iter().flatten().map(|(_, standing)| standing).collect())
    }
}

/// The best positive of every row of a panel: its similarity (from the same product that its rivals' come from, so
/// that equal items tie exactly) and, among equals, the lowest column.
fn best_positives<T: Real>(
    tiles: &Tiles<'_, T>,
    p: usize,
    columns: &Columns<'_, T>,
    panel: &Panel<'_, T>,
    scratch: &mut Scratch<T>,
    state: &mut [State<T>],
    exclude_self: bool,
) -> Result<()> {
    for range in tiles.schedule.tiles_in(p, &columns.range) {
        if panel.rows.clone().all(|i| tiles.positives.row_in(i, &range).is_empty()) {
            continue;
        }
        tiles.take_columns(columns, &range, scratch)?;
        for strip in panel.strips(tiles.unit.strip()) {
            tiles.fill_negatives(panel, &strip, &range, scratch)?;
            for &(li, lj, s) in &scratch.masked {
                let (row, j) = (strip.start + li, range.start + lj);
                let (best, standing) = &mut state[row];
                let is_self = exclude_self && panel.rows.start + row == j;
                match best {
                    // Not a number: nothing to find here.
                    _ if is_self || s.partial_cmp(&s).is_none() => {}
                    Some((held, _)) if s < *held => {}
                    Some((held, _)) if s == *held => standing.positives += 1,
                    _ => {
                        *best = Some((s, j));
                        standing.positives = 1;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Counts the wrong items among some columns that stand before the best positive of every row of a panel.
fn count_before<T: Real>(
    tiles: &Tiles<'_, T>,
    p: usize,
    columns: &Columns<'_, T>,
    panel: &Panel<'_, T>,
    scratch: &mut Scratch<T>,
    state: &mut [State<T>],
) -> Result<()> {
    for range in tiles.schedule.tiles_in(p, &columns.range) {
        tiles.take_columns(columns, &range, scratch)?;
        for strip in panel.strips(tiles.unit.strip()) {
            // Positives are masked to -inf: only wrong items count.
            tiles.fill_negatives(panel, &strip, &range, scratch)?;
            let rows = scratch.tile.chunks_exact(range.len());
            for ((best, standing), row) in state[strip].iter_mut().zip(rows) {
                if let Some((score, j)) = *best {
                    let before = j.saturating_sub(range.start).min(row.len());
                    let (lower, higher) = row.split_at(before);
                    let ((ahead, tied_before), (more, tied)) = (count(lower, score), count(higher, score));
                    standing.ahead += ahead + more;
                    standing.tied_before += tied_before;
                    standing.tied += tied_before + tied;
                }
            }
        }
    }
    Ok(())
}

/// Entries above a score, and those equal to it. NaN is neither.
fn count<T: Real>(row: &[T], score: T) -> (u32, u32) {
    row.iter()
        .fold((0, 0), |(above, equal), s| (above + u32::from(*s > score), equal + u32::from(*s == score)))
}
