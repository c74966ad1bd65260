//! Which tiles of the similarity matrix are visited: all of them, or a seeded sample in shuffled order.

use super::sampling::NegativeSampling;
use crate::backend::Similarity;
use crate::positives::Positives;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use std::ops::Range;
use std::sync::Arc;

/// Columns of a tile, and rows that are shared out together. So many columns repay what packing them costs; their embeddings stay
/// in the second cache while a panel's rows go by.
pub(crate) const TILE: usize = 512;

/// Rows of a panel of `n`: where all rows are few, four panels share them, for as many threads. Each packs the columns anew, so
/// more panels would cost more than they gain.
fn panel_of(n: usize) -> usize {
    (n / 4).next_power_of_two().clamp(64, TILE)
}

/// A shuffled order of samples.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// Sample at each position.
    pub(crate) ids: Vec<u32>,
    /// Position of each sample.
    pub(crate) positions: Vec<u32>,
}

impl Order {
    fn shuffled(n: usize, rng: &mut rand_chacha::ChaCha8Rng) -> Self {
        let mut ids: Vec<u32> = (0..n as u32).collect();
        ids.shuffle(rng);
        let mut positions = vec![0; n];
        for (position, &id) in ids.iter().enumerate() {
            positions[id as usize] = position as u32;
        }
        Self { ids, positions }
    }
}

/// The tiles to visit, row panel by row panel.
#[derive(Clone, Debug)]
pub(crate) struct TileSchedule {
    n_x: usize,
    n_y: usize,
    tile: usize,
    panel: usize,
    /// `None`: natural order.
    pub(crate) order_x: Option<Arc<Order>>,
    pub(crate) order_y: Option<Arc<Order>>,
    /// Column tiles of each row panel; `None`: all.
    visits: Option<Vec<Vec<u32>>>,
}

impl TileSchedule {
    pub(crate) fn new(n_x: usize, n_y: usize, negatives: NegativeSampling) -> Self {
        let panel = panel_of(n_x);
        let all = Self { n_x, n_y, tile: TILE, panel, order_x: None, order_y: None, visits: None };
        let NegativeSampling::Sampled { per_anchor, seed } = negatives else { return all };
        let tile = per_anchor.clamp(1, TILE);
        let (panels, tiles) = (n_x.div_ceil(tile), n_y.div_ceil(tile));
        let rounds = per_anchor.div_ceil(tile);
        if rounds >= tiles {
            return all;
        }
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let order_x = Some(Arc::new(Order::shuffled(n_x, &mut rng)));
        let order_y = Some(Arc::new(Order::shuffled(n_y, &mut rng)));
        // Walking the diagonals of the grid of tiles visits every panel and every column tile equally often.
        let cycle = panels / gcd(panels, tiles) * tiles;
        let mut visits = vec![Vec::new(); panels];
        for step in 0..(rounds * panels.max(tiles)).min(panels * tiles) {
            visits[step % panels].push(((step + step / cycle) % tiles) as u32);
        }
        for list in &mut visits {
            list.sort_unstable();
        }
        Self { n_x, n_y, tile, panel: tile, order_x, order_y, visits: Some(visits) }
    }

    /// The tiles of similarities `s`. At zero all negatives are alike: there is nothing to sample.
    pub(crate) fn of<M>(s: &Similarity<'_, M>, positives: &Positives, negatives: NegativeSampling) -> Self {
        let negatives = if matches!(s, Similarity::Zeros(..)) { NegativeSampling::All } else { negatives };
        Self::new(positives.n_x(), positives.n_y(), negatives)
    }

    pub(crate) fn is_sampled(&self) -> bool {
        self.visits.is_some()
    }

    /// The schedule of the transposed matrix.
    pub(crate) fn transposed(&self) -> Self {
        let visits = self.visits.as_ref().map(|visits| {
            let mut swapped = vec![Vec::new(); self.n_y.div_ceil(self.tile)];
            for (panel, tiles) in visits.iter().enumerate() {
                for &tile in tiles {
                    swapped[tile as usize].push(panel as u32);
                }
            }
            swapped
        });
        let (order_x, order_y) = (self.order_y.clone(), self.order_x.clone());
        let panel = if self.is_sampled() { self.tile } else { panel_of(self.n_y) };
        Self { n_x: self.n_y, n_y: self.n_x, tile: self.tile, panel, order_x, order_y, visits }
    }

    pub(crate) fn n_x(&self) -> usize {
        self.n_x
    }

    pub(crate) fn n_y(&self) -> usize {
        self.n_y
    }

    /// Columns of a tile, and rows that are shared out together.
    pub(crate) fn tile(&self) -> usize {
        self.tile
    }

    pub(crate) fn panels(&self) -> usize {
        self.n_x.div_ceil(self.panel)
    }

    /// Positions of panel `p`'s rows: a tile's, or where rows are few a part of them.
    pub(crate) fn panel(&self, p: usize) -> Range<usize> {
        p * self.panel..((p + 1) * self.panel).min(self.n_x)
    }

    /// The panels of `rows`, which begin and end with panels.
    pub(crate) fn panels_of(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start.div_ceil(self.panel)..rows.end.div_ceil(self.panel)
    }

    /// Column ranges (positions) that panel `p` visits, ascending.
    pub(crate) fn tiles(&self, p: usize) -> impl Iterator<Item = Range<usize>> + '_ {
        let count = self.visits.as_ref().map_or(self.n_y.div_ceil(self.tile), |v| v[p].len());
        (0..count).map(move |t| {
            let t = self.visits.as_ref().map_or(t, |v| v[p][t] as usize);
            t * self.tile..((t + 1) * self.tile).min(self.n_y)
        })
    }

    /// The tiles of panel `p` that begin within `columns`, which begins and ends with tiles.
    pub(crate) fn tiles_in(
        &self,
        p: usize,
        columns: &Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + '_ {
        let tiles = columns.start / self.tile..columns.end.div_ceil(self.tile);
        let places = match &self.visits {
            None => tiles.clone(),
            Some(v) => {
                let at = |t: usize| v[p].partition_point(|&u| (u as usize) < t);
                at(tiles.start)..at(tiles.end)
            }
        };
        places.map(move |t| {
            let t = self.visits.as_ref().map_or(t, |v| v[p][t] as usize);
            t * self.tile..((t + 1) * self.tile).min(self.n_y)
        })
    }

    /// Whether panel `p` visits any of the `columns`.
    pub(crate) fn meets(&self, p: usize, columns: &Range<usize>) -> bool {
        self.tiles_in(p, columns).next().is_some()
    }

    pub(crate) fn x_ids(&self) -> Option<&[u32]> {
        self.order_x.as_ref().map(|o| &o.ids[..])
    }

    pub(crate) fn y_ids(&self) -> Option<&[u32]> {
        self.order_y.as_ref().map(|o| &o.ids[..])
    }

    /// The sample at row position `i`.
    pub(crate) fn row_id(&self, i: usize) -> usize {
        self.order_x.as_ref().map_or(i, |o| o.ids[i] as usize)
    }

    /// The sample at column position `j`.
    pub(crate) fn col_id(&self, j: usize) -> usize {
        self.order_y.as_ref().map_or(j, |o| o.ids[j] as usize)
    }

    /// The position of column sample `j`.
    pub(crate) fn col_position(&self, j: usize) -> usize {
        self.order_y.as_ref().map_or(j, |o| o.positions[j] as usize)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampled_plans_visit_every_panel_and_tile_once_or_more_and_never_twice() {
        for (n_x, n_y, m) in [(3000, 3000, 512), (1000, 4000, 100), (4000, 1000, 100), (999, 1001, 300)] {
            let schedule = TileSchedule::new(n_x, n_y, NegativeSampling::Sampled { per_anchor: m, seed: 1 });
            let mut seen = vec![0; n_y];
            for p in 0..schedule.panels() {
                let tiles: Vec<_> = schedule.tiles(p).collect();
                assert!(!tiles.is_empty());
                assert!(tiles.windows(2).all(|w| w[0].end <= w[1].start), "{tiles:?}");
                tiles.iter().flat_map(|t| t.clone()).for_each(|j| seen[j] += 1);
            }
            assert!(seen.iter().all(|&c| c > 0));
            assert!(seen.iter().max().unwrap() - seen.iter().min().unwrap() <= 1);
            let back = schedule.transposed().transposed();
            assert_eq!(back.visits, schedule.visits);
        }
    }

    #[test]
    fn a_sample_of_everything_is_the_exact_plan() {
        assert!(
            !TileSchedule::new(100, 100, NegativeSampling::Sampled { per_anchor: 100, seed: 0 }).is_sampled()
        );
    }
}
