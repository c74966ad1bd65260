//! Sums whose order of additions depends on the data's blocks alone, not on who holds them.

/// A sum over some of the blocks: those between `first` and `last`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part<A> {
    pub(crate) first: usize,
    pub(crate) last: usize,
    pub(crate) value: A,
}

/// Adds what blocks contribute, in ascending order, along the binary tree over block numbers: the sums over blocks
/// `2k` and `2k + 1` are added, then those of `4k..4k + 4`, and so on. Blocks may be missing. A rank that has seen only
/// the blocks `own` adds only what no other block comes between; the rest follows when the [`Part`]s of all ranks
/// meet.
#[derive(Clone, Debug)]
pub(crate) struct Fold<A> {
    own: std::ops::Range<usize>,
    stack: Vec<Part<A>>,
}

/// The level of the lowest node of the tree above two different blocks.
fn meeting(a: usize, b: usize) -> u32 {
    usize::BITS - (a ^ b).leading_zeros()
}

impl<A> Fold<A> {
    /// A sum that sees the blocks `own`. The last rank's blocks may end at `usize::MAX`.
    pub(crate) fn new(own: std::ops::Range<usize>) -> Self {
        Self { own, stack: Vec::new() }
    }

    /// The value of `block`, which is the last one asked for or a later one; `init` makes it where it is new, and `add`
    /// adds the second value to the first.
    pub(crate) fn block(
        &mut self,
        block: usize,
        init: impl FnOnce() -> A,
        add: impl FnMut(&mut A, A),
    ) -> &mut A {
        if self.stack.last().is_none_or(|top| top.last != block) {
            self.settle(Some(block), add);
            self.stack.push(Part { first: block, last: block, value: init() });
        }
        let top = self.stack.len() - 1;
        &mut self.stack[top].value
    }

    /// Adds sums over later blocks, as another rank left them.
    pub(crate) fn push(&mut self, part: Part<A>, add: impl FnMut(&mut A, A)) {
        self.settle(Some(part.first), add);
        self.stack.push(part);
    }

    fn settle(&mut self, next: Option<usize>, mut add: impl FnMut(&mut A, A)) {
        while let [.., a, b] = &self.stack[..] {
            let level = meeting(a.last, b.first);
            if next.is_some_and(|next| meeting(b.last, next) < level) {
                break;
            }
            // The node's blocks are all ours, or somebody else may still add to it.
            let start = (b.first >> level) << level;
            let end = start.saturating_add(1usize.checked_shl(level).unwrap_or(usize::MAX));
            if start < self.own.start || end > self.own.end {
                break;
            }
            let Some(b) = self.stack.pop() else { break };
            if let Some(a) = self.stack.last_mut() {
                a.last = b.last;
                add(&mut a.value, b.value);
            }
        }
    }

    /// Sums that have seen the same blocks as one, their values one after the other.
    pub(crate) fn side_by_side<V>(folds: Vec<Self>) -> Self
    where
        A: Extend<V> + IntoIterator<Item = V>,
    {
        let mut folds = folds.into_iter();
        let mut all = folds.next().unwrap_or_else(|| Self::new(0..usize::MAX));
        for fold in folds {
            all.stack.iter_mut().zip(fold.stack).for_each(|(part, other)| part.value.extend(other.value));
        }
        all
    }

    /// What is left to be added to other ranks' parts, in order of blocks.
    pub(crate) fn parts(mut self, add: impl FnMut(&mut A, A)) -> Vec<Part<A>> {
        self.settle(None, add);
        self.stack
    }

    /// The sum, if all parts are there; none where nothing was added.
    pub(crate) fn total(mut self, add: impl FnMut(&mut A, A)) -> Option<A> {
        self.own = 0..usize::MAX;
        self.settle(None, add);
        self.stack.pop().map(|part| part.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn add(a: &mut f64, b: f64) {
        *a += b;
    }

    proptest! {
        #[test]
        fn sums_are_bitwise_equal_for_every_partition(
            values in prop::collection::vec(prop::option::of(-1.0f64..1.0), 1..70),
            cuts in prop::collection::vec(0usize..70, 0..6),
        ) {
            let n = values.len();
            let sum = |own: std::ops::Range<usize>| {
                let end = if own.end == n { usize::MAX } else { own.end };
                let mut fold = Fold::new(own.start..end);
                for block in own {
                    if let Some(v) = values[block] {
                        // Two contributions of one block are added in order.
                        *fold.block(block, || 0.0, add) += v;
                        *fold.block(block, || 0.0, add) += 1e-3 * v;
                    }
                }
                fold
            };
            let alone = sum(0..n).total(add);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(n)).collect();
            cuts.extend([0, n]);
            cuts.sort_unstable();
            let mut together = Fold::new(0..usize::MAX);
            for w in cuts.windows(2) {
                for part in sum(w[0]..w[1]).parts(add) {
                    together.push(part, add);
                }
            }
            prop_assert_eq!(together.total(add).map(f64::to_bits), alone.map(f64::to_bits));
            let plain: f64 = values.iter().flatten().map(|v| v + 1e-3 * v).sum();
            // 70 terms below 1, each sum rounded once.
            prop_assert!((alone.unwrap_or(0.0) - plain).abs() < 70.0 * 70.0 * f64::EPSILON);
        }
    }

    #[test]
    fn sums_side_by_side_are_those_of_longer_values() {
        let add = |a: &mut Vec<f64>, b: Vec<f64>| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        let of = |values: std::ops::Range<usize>| {
            let mut fold = Fold::new(3..9);
            for block in [3, 4, 7, 8] {
                let term: Vec<f64> = values.clone().map(|v| (block * 10 + v) as f64).collect();
                *fold.block(block, Vec::new, add) = term;
            }
            fold
        };
        let apart = vec![of(0..2), of(2..5)];
        assert_eq!(Fold::side_by_side(apart).parts(add), of(0..5).parts(add));
    }

    #[test]
    fn few_parts_remain() {
        let mut fold = Fold::new(1000..3000);
        for block in 1000..3000 {
            *fold.block(block, || 0.0, add) += 1.0;
        }
        assert!(fold.parts(add).len() <= 2 * 12);
    }
}
