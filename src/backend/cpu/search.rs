//! Streaming search: the best items of every query, without an `n x m` matrix.

use super::Cpu;
use super::best::Best;
use super::gemm::gemm_nt;
use super::matrix::Matrix;
use super::ranks::Passing;
use super::tiles::{Source, Tiles};
use super::unit::Unit;
use crate::backend::TopK;
use crate::control::Phase;
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::real::Real;
use crate::similarity::NegativeSampling;
use crate::similarity::schedule::{TILE, TileSchedule};
use rayon::prelude::*;

/// Queries up to which items are streamed past once with inner products: a matrix product would copy them first.
const FEW: usize = 8;
/// Multiplications between two looks at whether to stop, of one thread.
const WAVE: usize = 1 << 28;
/// Multiplications that are not worth a second thread.
const LITTLE: usize = 1 << 17;

/// `tile[i * n + j] <- <query i, item j>` of `n` items. Which of the two products it is depends on the number `all` of
/// queries only, so that panels, threads and ranks do not show.
fn scores<T: Real>(all: usize, queries: &[T], items: &[T], r: usize, n: usize, tile: &mut Vec<T>) {
    let m = queries.len() / r.max(1);
    tile.resize(m * n, T::default());
    if all <= FEW {
        for (query, out) in queries.chunks_exact(r.max(1)).zip(tile.chunks_exact_mut(n)) {
            T::dots(query, items, out);
        }
    } else {
        gemm_nt(m, n, r, false, tile, n, queries, r, items, r);
    }
}

impl<T: Real> Cpu<T> {
    pub(super) fn search(&self, queries: &Matrix<T>, items: &Matrix<T>, k: usize) -> Result<TopK> {
        let k = k.min(items.rows());
        let mut top = TopK::room(queries.rows(), k)?;
        // One panel of queries is shared out over the threads by items.
        let few = self.all_here(&[items]) && queries.rows() <= TILE;
        let best = match few {
            true => self.search_by_items(queries, items, k)?,
            false => self.search_by_queries(queries, items, k)?,
        };
        let sorted: Vec<_> = match best.len() {
            1 => best.into_iter().map(Best::sorted).collect(),
            _ => self.install(|| best.into_par_iter().map(Best::sorted).collect()),
        };
        for list in sorted {
            top.push(list.iter().map(|&(score, j)| (score.as_f64() as f32, j)));
        }
        Ok(TopK { k, scores: self.group.concat(top.scores)?, indices: self.group.concat(top.indices)? })
    }

    /// At most one panel of queries, all here: every thread has some of the items.
    fn search_by_items(&self, queries: &Matrix<T>, items: &Matrix<T>, k: usize) -> Result<Vec<Best<T>>> {
        let (n, m, r) = (queries.rows(), items.rows(), items.cols());
        let mut scratch = Vec::new();
        let zq = queries.panel(&(0..n), &mut scratch)?;
        let (tiles, work) = (m.div_ceil(TILE), n.max(1) * r.max(1));
        let threads = if work * m <= LITTLE { 1 } else { self.threads().min(tiles) };
        let wave = (WAVE / (work * TILE)).clamp(1, tiles.div_ceil(threads).max(1));
        let mut parts = vec![(vec![Best::new(k); n], Vec::new()); threads];
        let search = |first: usize, (best, tile): &mut (Vec<Best<T>>, Vec<T>)| {
            for start in (first..(first + wave).min(tiles)).map(|t| t * TILE) {
                let range = start..(start + TILE).min(m);
                let mut scratch = Vec::new();
                scores(n, zq, items.panel(&range, &mut scratch)?, r, range.len(), tile);
                for (best, row) in best.iter_mut().zip(tile.chunks_exact(range.len())) {
                    best.offer(range.start, row)?;
                }
            }
            Ok(())
        };
        for first in (0..tiles).step_by(wave * threads) {
            match &mut parts[..] {
                [only] => search(first, only)?,
                parts => self.install(|| {
                    parts.par_iter_mut().enumerate().try_for_each(|(p, part)| search(first + p * wave, part))
                })?,
            }
            self.report(Phase::Retrieval, (first + wave * threads).min(tiles), tiles)?;
        }
        let mut parts = parts.into_iter().map(|(best, _)| best);
        let mut best = parts.next().unwrap_or_default();
        for part in parts {
            best.iter_mut().zip(part).try_for_each(|(best, part)| best.merge(part))?;
        }
        Ok(best)
    }

    /// Every thread has some panels of queries, past which the items stream, wherever they are.
    fn search_by_queries(&self, queries: &Matrix<T>, items: &Matrix<T>, k: usize) -> Result<Vec<Best<T>>> {
        let (n, m, r) = (queries.rows(), items.rows(), items.cols());
        let loss = Loss::default();
        // Only the grid of tiles is used; the relation is a formality.
        let positives = Positives::none(n, m)?;
        let schedule = TileSchedule::new(n, m, NegativeSampling::All);
        let tiles = Tiles {
            source: Source::Embeddings(queries, items),
            loss: &loss,
            positives,
            schedule,
            unit: Unit::Vectors,
        };
        let panels = self.own_panels(&tiles.schedule);
        let zx = self.row_window(&tiles.schedule, queries)?;
        let mut best: Vec<Vec<Best<T>>> =
            panels.clone().map(|p| vec![Best::new(k); tiles.schedule.panel(p).len()]).collect();
        self.columns(
            &Passing::new(Phase::Retrieval, &tiles, None),
            (0, 1),
            panels.clone(),
            &mut best,
            |best, columns, meter| {
                let work = |p: usize, best: &mut Vec<Best<T>>| {
                    let (mut rows_z, mut cols_z, mut tile) = (Vec::new(), Vec::new(), Vec::new());
                    let panel = tiles.panel(p, Some(&zx), &mut rows_z)?;
                    let Some(zy) = columns.z() else { return Ok(()) };
                    for range in tiles.schedule.tiles_in(p, &columns.range) {
                        scores(n, panel.z, zy.get(&range, &mut cols_z)?, r, range.len(), &mut tile);
                        for (best, row) in best.iter_mut().zip(tile.chunks_exact(range.len())) {
                            best.offer(range.start, row)?;
                        }
                    }
                    Ok(())
                };
                self.for_panels(meter, panels.clone(), best, work, Ok)
            },
            |_| Ok(()),
        )?;
        Ok(best.into_iter().flatten().collect())
    }
}
