//! Where the right item stands among the others, and what items of equal score do to it.

use bytemuck::{Pod, Zeroable};

/// Which of several equal scores stands first in a rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ties {
    /// The lower index: what a search returns.
    LowerIndex,
    /// The positive: only strictly better items stand before it. Equal items look perfect: for data whose duplicates are
    /// all right answers.
    #[serde(alias = "shared")]
    Optimistic,
    /// The wrong items: every item as good as the positive stands before it.
    Pessimistic,
    /// Any, with equal probability: the expectation over random orders of the equal items. Items that are all equal
    /// give chance.
    #[default]
    Expected,
}

/// Where a query's best positive stands among its wrong items.
///
/// NaN is more similar than nothing: a wrong item whose similarity is NaN stands behind, a positive whose similarity is
/// NaN is not found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Standing {
    /// Wrong items that are strictly more similar.
    pub ahead: u32,
    /// Wrong items that are exactly as similar.
    pub tied: u32,
    /// Those of them whose index is lower than that of every best positive.
    pub tied_before: u32,
    /// Positives that are as similar as the best one, which is one of them. 0: the query has no positive to find.
    pub positives: u32,
}

/// Terms up to which a harmonic sum is added up; behind them its asymptotic series has float64's digits.
const TERMS: u64 = 256;

impl Standing {
    /// Whether the query has a positive whose similarity is a number.
    pub fn is_found(&self) -> bool {
        self.positives > 0
    }

    /// The probability that one of the `k` first items is a positive: 0 or 1 but for [`Ties::Expected`].
    ///
    /// There `p` best positives and `t` wrong items are equal behind `a` better wrong ones, in any order. None of the
    /// first `q = k - a` of the `t + p` is a positive with probability `C(t, q) / C(t + p, q)`.
    pub fn hit(&self, k: usize, ties: Ties) -> f64 {
        let (k, rank) = (k as u64, u64::from(self.ahead));
        if !self.is_found() || k <= rank {
            return 0.0;
        }
        let certain = |rank: u64| if k > rank { 1.0 } else { 0.0 };
        match ties {
            Ties::Optimistic => 1.0,
            Ties::LowerIndex => certain(rank + u64::from(self.tied_before)),
            Ties::Pessimistic => certain(rank + u64::from(self.tied)),
            Ties::Expected => {
                let (t, p, q) = (u64::from(self.tied), u64::from(self.positives), k - rank);
                if q > t {
                    return 1.0;
                }
                if p == 1 {
                    return q as f64 / (t + 1) as f64;
                }
                // Both are the same quotient of binomials; the one of fewer factors.
                let (of, over) = ((t + p) as f64, t as f64);
                let misses: f64 = if q <= p {
                    (0..q).map(|i| (over - i as f64) / (of - i as f64)).product()
                } else {
                    (1..=p).map(|i| (over - q as f64 + i as f64) / (over + i as f64)).product()
                };
                1.0 - misses
            }
        }
    }

    /// The rank of the first positive, from 1, or its expectation; none where nothing is to be found.
    pub fn rank(&self, ties: Ties) -> Option<f64> {
        if !self.is_found() {
            return None;
        }
        let (t, p) = (f64::from(self.tied), f64::from(self.positives));
        let behind = match ties {
            Ties::LowerIndex => f64::from(self.tied_before),
            Ties::Optimistic => 0.0,
            Ties::Pessimistic => t,
            // Each of the t equal wrong items is before all p positives once in p + 1.
            Ties::Expected => t / (p + 1.0),
        };
        Some(1.0 + f64::from(self.ahead) + behind)
    }

    /// The reciprocal of the rank of the first positive, or its expectation; 0 where nothing is to be found.
    pub fn reciprocal(&self, ties: Ties) -> f64 {
        let (a, t, p) = (u64::from(self.ahead), u64::from(self.tied), u64::from(self.positives));
        if p == 0 {
            return 0.0;
        }
        if ties != Ties::Expected || t == 0 {
            return self.rank(ties).map_or(0.0, f64::recip);
        }
        if p == 1 {
            return harmonic(a, a + t + 1) / (t + 1) as f64;
        }
        // The first positive is the j-th of the t + p equal ones.
        let (mut probability, mut left, mut sum) = (p as f64 / (t + p) as f64, 1.0, 0.0);
        for j in 1..=t + 1 {
            sum += probability / (a + j) as f64;
            left -= probability;
            if left < 1e-18 || j == t + 1 {
                break;
            }
            probability *= (t + 1 - j) as f64 / (t + p - j) as f64;
        }
        sum
    }
}

/// `1/(a + 1) + ... + 1/b`.
fn harmonic(a: u64, b: u64) -> f64 {
    let middle = if b - a > TERMS { b.min(a.max(TERMS)) } else { b };
    let sum: f64 = (a + 1..=middle).map(|i| 1.0 / i as f64).sum();
    // H(n) = ln n + gamma + 1/2n - 1/12n^2 + 1/120n^4 - ...
    let tail = |n: f64| 0.5 / n - 1.0 / (12.0 * n * n) + 1.0 / (120.0 * n * n * n * n);
    let (m, b) = (middle as f64, b as f64);
    sum + if m < b { (b / m).ln() + tail(b) - tail(m) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmonic_sums_are_those_added_up() {
        for (a, b) in [(0, 1), (0, 256), (0, 257), (3, 5000), (700, 100_000), (255, 1000)] {
            let sum: f64 = (a + 1..=b).rev().map(|i| 1.0 / i as f64).sum();
            assert!((harmonic(a, b) - sum).abs() < 1e-14 * sum.max(1.0), "{a} {b}");
        }
    }

    #[test]
    fn what_is_not_found_is_never_a_hit() {
        let none = Standing::default();
        for ties in [Ties::LowerIndex, Ties::Optimistic, Ties::Pessimistic, Ties::Expected] {
            assert_eq!((none.hit(10, ties), none.rank(ties), none.reciprocal(ties)), (0.0, None, 0.0));
        }
    }

    #[test]
    fn both_forms_of_the_binomials_agree() {
        for (t, p) in [(9u32, 2u32), (5, 7), (30, 11)] {
            let s = Standing { ahead: 0, tied: t, tied_before: 0, positives: p };
            for q in 1..=t {
                let direct: f64 = (0..q).map(|i| f64::from(t - i) / f64::from(t + p - i)).product();
                assert!((s.hit(q as usize, Ties::Expected) - (1.0 - direct)).abs() < 1e-14, "{t} {p} {q}");
            }
        }
    }
}
