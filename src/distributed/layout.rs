//! Which rows belong to which rank.

use std::ops::Range;

/// Rows of the largest block.
const MOST: usize = 65_536;
/// Blocks wanted at least, where the rows suffice: enough to share out evenly among many ranks.
const BLOCKS: usize = 1024;

/// `n` rows as blocks of consecutive rows, blocks shared out evenly among ranks in order.
///
/// The blocks depend on `n` and on the panel alone. Sums run over the rows of a block in order and over blocks in a
/// fixed tree ([`Fold`](super::Fold)), so they do not depend on the number of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    n: usize,
    block: usize,
    rank: usize,
    ranks: usize,
}

impl Layout {
    /// The rows of `rank` of `ranks`; blocks are 2^k panels of `panel` rows.
    pub(crate) fn new(n: usize, panel: usize, rank: usize, ranks: usize) -> Self {
        let mut block = panel.max(1);
        while n.div_ceil(block) > BLOCKS && block < MOST {
            block *= 2;
        }
        Self { n, block, rank, ranks }
    }

    /// Rows of a block.
    pub(crate) fn block(&self) -> usize {
        self.block
    }

    /// Number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.n.div_ceil(self.block)
    }

    /// Blocks of a rank.
    pub(crate) fn blocks_of(&self, rank: usize) -> Range<usize> {
        // Wide enough: blocks * ranks could overflow 64 bits only beyond 2^48 ranks.
        let cut = |k: usize| k * self.blocks() / self.ranks;
        cut(rank)..cut(rank + 1)
    }

    /// Blocks of this rank, the last rank's open-ended: what its [`Fold`](super::Fold) sees.
    pub(crate) fn own_blocks(&self) -> Range<usize> {
        let blocks = self.blocks_of(self.rank);
        blocks.start..if blocks.end == self.blocks() { usize::MAX } else { blocks.end }
    }

    /// Rows of a rank.
    pub(crate) fn of(&self, rank: usize) -> Range<usize> {
        let blocks = self.blocks_of(rank);
        (blocks.start * self.block).min(self.n)..(blocks.end * self.block).min(self.n)
    }

    /// Rows of every rank.
    pub(crate) fn all(&self) -> Vec<Range<usize>> {
        (0..self.ranks).map(|k| self.of(k)).collect()
    }

    /// Rows of this rank.
    pub(crate) fn own(&self) -> Range<usize> {
        self.of(self.rank)
    }

    /// Most rows of any rank.
    pub(crate) fn most(&self) -> usize {
        (0..self.ranks).map(|k| self.of(k).len()).max().unwrap_or(0)
    }

    /// The rank that holds row `i < n`.
    pub(crate) fn owner(&self, i: usize) -> usize {
        let block = i / self.block;
        let (mut low, mut high) = (0, self.ranks - 1);
        while low < high {
            let middle = (low + high) / 2;
            if self.blocks_of(middle).end <= block { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// All rows in order, in pieces of at most about `rows` rows (whole blocks or whole panels of `panel`) that each lie
    /// with one rank: `(rank, rows)`.
    pub(crate) fn pieces(&self, rows: usize) -> Vec<(usize, Range<usize>)> {
        let mut out = Vec::new();
        for rank in 0..self.ranks {
            let own = self.of(rank);
            let mut start = own.start;
            while start < own.end {
                let end = start.saturating_add(rows.max(1)).min(own.end);
                out.push((rank, start..end));
                start = end;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_one_owner_whatever_the_number_of_ranks() {
        for n in [0, 1, 511, 512, 513, 5000, 600_000, 3_000_001] {
            for ranks in [1, 2, 3, 4, 7, 64] {
                let layout = Layout::new(n, 512, 0, ranks);
                assert_eq!(layout.block(), Layout::new(n, 512, 0, 1).block());
                let mut next = 0;
                for rank in 0..ranks {
                    let rows = layout.of(rank);
                    assert_eq!(rows.start, next);
                    assert!(rows.is_empty() || rows.start.is_multiple_of(layout.block()));
                    for i in [rows.start, rows.end.saturating_sub(1)] {
                        assert!(!rows.contains(&i) || layout.owner(i) == rank);
                    }
                    next = rows.end;
                }
                assert_eq!(next, n);
                let pieces = layout.pieces(1536);
                assert_eq!(pieces.iter().map(|(_, r)| r.len()).sum::<usize>(), n);
                assert!(pieces.iter().all(|(k, r)| layout.of(*k).start <= r.start && r.len() <= 1536));
            }
        }
    }

    #[test]
    fn blocks_are_shared_evenly() {
        let layout = Layout::new(1_000_000_000, 512, 0, 64);
        assert_eq!(layout.block(), 65_536);
        let sizes: Vec<usize> = (0..64).map(|k| layout.of(k).len()).collect();
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        assert!(most - least <= 2 * 65_536);
        assert_eq!(layout.most(), *most);
    }
}
