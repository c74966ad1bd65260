//! The best of many scored items: a bounded buffer that is cut by selection, not by insertion.

use crate::error::Result;
use crate::memory::reserve;
use crate::real::Real;

/// Entries that may be kept beyond the `k` best, so that cutting pays for small `k` too.
const SLACK: usize = 64;
/// Scores that are looked at together: most runs hold nothing that is good enough.
const RUN: usize = 16;

/// The `k` best items offered so far, and some others.
#[derive(Clone, Debug)]
pub(super) struct Best<T: Real> {
    k: usize,
    held: Vec<T::Place>,
    /// Only a higher score can be among the `k` best. Items are offered in ascending order, so that of equal ones the
    /// lower are here already.
    floor: T,
}

impl<T: Real> Best<T> {
    pub(super) fn new(k: usize) -> Self {
        Self { k, held: Vec::new(), floor: T::of(f64::NEG_INFINITY) }
    }

    /// Offers the items `first..`, of these scores, behind all that were offered before. NaN is never taken.
    ///
    /// # Errors
    /// [`OutOfMemory`](crate::Error::OutOfMemory).
    pub(super) fn offer(&mut self, first: usize, scores: &[T]) -> Result<()> {
        if self.k == 0 {
            return Ok(());
        }
        let limit = self.k + self.k.max(SLACK);
        let more = scores.len().min(limit - self.held.len());
        reserve(&mut self.held, more, || "the best items of a query".into())?;
        for (run, scores) in scores.chunks(RUN).enumerate() {
            let floor = self.floor;
            if !scores.iter().fold(false, |any, s| any | (*s > floor)) {
                continue;
            }
            for (l, &score) in scores.iter().enumerate() {
                if score > self.floor {
                    self.held.push(score.place((first + run * RUN + l) as u32));
                    if self.held.len() == limit {
                        self.cut();
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds what another one holds of other items.
    ///
    /// # Errors
    /// As [`offer`](Self::offer).
    pub(super) fn merge(&mut self, other: Self) -> Result<()> {
        reserve(&mut self.held, other.held.len(), || "the best items of a query".into())?;
        self.held.extend(other.held);
        Ok(())
    }

    /// The `k` best, in order; fewer where there were not as many numbers.
    pub(super) fn sorted(mut self) -> Vec<(T, u32)> {
        self.cut();
        self.held.sort_unstable();
        self.held.into_iter().map(T::of_place).collect()
    }

    fn cut(&mut self) {
        if self.k == 0 || self.held.len() <= self.k {
            return;
        }
        self.held.select_nth_unstable(self.k - 1);
        self.held.truncate(self.k);
        self.floor = T::of_place(self.held[self.k - 1]).0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_those_of_a_full_sort() {
        // Few distinct scores: ties everywhere. Every seventh is not a number.
        let score = |i: usize| if i % 7 == 3 { f64::NAN } else { ((i * 7919) % 23) as f64 };
        let scores: Vec<f64> = (0..1000).map(score).collect();
        let mut all: Vec<(f64, u32)> = scores.iter().copied().zip(0..).filter(|(s, _)| !s.is_nan()).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for k in [0, 1, 2, 10, 63, 64, 400, 857, 1000] {
            for piece in [1, 5, 16, 300, 1000] {
                let mut best = Best::new(k);
                scores.chunks(piece).enumerate().for_each(|(p, part)| best.offer(p * piece, part).unwrap());
                assert_eq!(best.sorted(), all[..k.min(all.len())], "k {k}, {piece} at once");
            }
            // Alternating pieces in two lists.
            let mut parts = [Best::new(k), Best::new(k)];
            scores.chunks(50).enumerate().for_each(|(p, part)| parts[p % 2].offer(p * 50, part).unwrap());
            let [mut best, other] = parts;
            best.merge(other).unwrap();
            assert_eq!(best.sorted(), all[..k.min(all.len())], "k {k}, merged");
        }
    }

    #[test]
    fn places_ascend_as_scores_fall() {
        let scores = [f64::MAX, 1.5, 1.0, 5e-324, 0.0, -5e-324, -1.0, f64::MIN];
        for pair in scores.windows(2) {
            assert!(pair[0].place(u32::MAX) < pair[1].place(0), "{pair:?}");
            let (a, b) = (pair[0] as f32, pair[1] as f32);
            assert!(a == b || a.place(u32::MAX) < b.place(0), "{pair:?}");
        }
        for (item, score) in (7..).zip(scores) {
            assert_eq!(f64::of_place(score.place(item)), (score, item));
            let narrow = score as f32;
            assert_eq!(f32::of_place(narrow.place(item)), (narrow, item));
            assert!(score.place(item) < score.place(item + 1) && narrow.place(item) < narrow.place(item + 1));
        }
        assert_eq!((-0.0f32).place(3), 0.0f32.place(3));
        assert_eq!((-0.0f64).place(3), 0.0f64.place(3));
    }
}
