//! The figures of an evaluation: exact, over all pairs, streaming.

use serde::Serialize;
use unicon::backend::{Backend, Similarity};
use unicon::error::Result;
use unicon::loss::Loss;
use unicon::positives::Positives;
use unicon::retrieval::{Ranking, Recall, RecallOptions};
use unicon::similarity::NegativeSampling;

/// The longest list that the recall curves look at.
const LONGEST: usize = 100;

/// Recall at many values of k.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Curve {
    /// The values of k.
    pub ks: Vec<usize>,
    /// Of the rows of x.
    pub x_to_y: Vec<f64>,
    /// Of the rows of y.
    pub y_to_x: Vec<f64>,
}

/// What is known of one set of rows.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Rows of x.
    pub n_x: usize,
    /// Rows of y.
    pub n_y: usize,
    /// Pairs of positives.
    pub pairs: usize,
    /// Recall at the values of k asked for, ranks, intervals.
    pub recall: Recall,
    /// The loss on these rows.
    pub loss: f64,
    /// Zero rows of x and y.
    pub zero_rows: (usize, usize),
    /// Rows of x and y without a positive.
    pub unmatched: (usize, usize),
    /// Recall at many values of k.
    pub curve: Curve,
    /// What [`curve`](Self::curve) would be of a random order.
    pub chance: Curve,
}

/// Recall both ways as asked for and along a curve, and the loss, of embeddings `zx` (`n_x x r`) and `zy` (`n_y x r`);
/// and where every query's right item stands.
///
/// # Errors
/// As [`evaluate`](unicon::retrieval::evaluate).
pub fn measure<B: Backend>(
    backend: &B,
    loss: &Loss,
    (zx, zy): (&B::Matrix, &B::Matrix),
    positives: &Positives,
    options: &RecallOptions,
    zero_rows: (usize, usize),
) -> Result<(Measured, Ranking)> {
    let (n_x, n_y) = (positives.n_x(), positives.n_y());
    let curve_ks = curve_ks(n_x.max(n_y));
    let ranking = Ranking::new(backend, zx, zy, positives, options.exclude_self)?;
    let mut recall = ranking.recall(&options.ks, options.ties)?;
    if let Some(bootstrap) = &options.bootstrap {
        recall.intervals = Some(ranking.intervals(backend, &options.ks, options.ties, bootstrap)?);
    }
    let curve = ranking.recall(&curve_ks, options.ties)?;
    let w = backend.weights(Similarity::Embeddings(zx, zy), loss, positives, NegativeSampling::All)?;
    // Without the query itself there is one item less, and one positive less where it is its own.
    let less = usize::from(options.exclude_self);
    let own = |i: usize| usize::from(options.exclude_self && positives.contains(i, i));
    let rows: Vec<usize> = (0..n_x).map(|i| positives.row(i).len() - own(i)).collect();
    let cols: Vec<usize> = (0..n_y).map(|j| positives.col(j).len() - own(j)).collect();
    let chance = Curve {
        x_to_y: chance(&rows, n_y - less, &curve_ks),
        y_to_x: chance(&cols, n_x - less, &curve_ks),
        ks: curve_ks,
    };
    let measured = Measured {
        n_x,
        n_y,
        pairs: positives.nnz(),
        recall,
        loss: w.value(),
        zero_rows,
        unmatched: positives.unmatched(),
        curve: Curve { ks: curve.ks, x_to_y: curve.x_to_y, y_to_x: curve.y_to_x },
        chance,
    };
    Ok((measured, ranking))
}

/// Values of k that are dense enough for a curve on a logarithmic axis.
fn curve_ks(most: usize) -> Vec<usize> {
    let (mut ks, mut k) = (Vec::new(), 1usize);
    while k <= most.min(LONGEST) {
        ks.push(k);
        k += 1 + k / 6;
    }
    ks
}

/// Recall of a random order: of a query with p positives among n items, `1 - C(n - p, k) / C(n, k)`.
fn chance(positives: &[usize], n: usize, ks: &[usize]) -> Vec<f64> {
    let mut counts = std::collections::BTreeMap::<usize, usize>::new();
    positives.iter().for_each(|&p| *counts.entry(p).or_default() += 1);
    let hit = |p: usize, k: usize| {
        let misses = (0..k.min(n)).map(|t| (n as f64 - (p + t) as f64).max(0.0) / (n - t) as f64);
        1.0 - misses.product::<f64>()
    };
    let mean = |k: usize| {
        let sum: f64 = counts.iter().map(|(&p, &c)| c as f64 * hit(p, k)).sum();
        sum / positives.len().max(1) as f64
    };
    ks.iter().map(|&k| mean(k)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_the_hypergeometric_share() {
        // One positive among n: k/n. Two among four, k = 2: 1 - 1/6. None: 0.
        let one = chance(&[1, 1], 10, &[1, 3, 10, 20]);
        let expected = [0.1, 0.3, 1.0, 1.0];
        // A few roundings of numbers at most 1.
        assert!(one.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-14), "{one:?}");
        assert!((chance(&[2, 0], 4, &[2])[0] - 0.5 * (1.0 - 1.0 / 6.0)).abs() < 1e-14);
    }

    #[test]
    fn curves_stay_within_the_items() {
        assert_eq!(curve_ks(3), [1, 2, 3]);
        let ks = curve_ks(1_000_000);
        assert!(ks.len() < 40 && ks.windows(2).all(|w| w[0] < w[1]) && ks.last() > Some(&85), "{ks:?}");
    }
}
