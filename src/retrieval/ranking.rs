//! Where the right items stand, and the figures that follow from it.

use super::bootstrap::Bootstrap;
use super::check_ks;
use crate::backend::{Backend, Similarity, Standing, Ties};
use crate::error::{Error, Result};
use crate::positives::Positives;
use serde::Serialize;

/// How retrieval is evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct RecallOptions {
    /// The values of k, each at least 1.
    pub ks: Vec<usize>,
    /// What items of equal score do.
    pub ties: Ties,
    /// Query `i` never finds item `i`: for a set against itself.
    pub exclude_self: bool,
    /// Also confidence intervals.
    pub bootstrap: Option<Bootstrap>,
}

impl RecallOptions {
    /// Expected ranks of ties, no intervals.
    pub fn new(ks: &[usize]) -> Self {
        Self { ks: ks.to_vec(), ties: Ties::default(), exclude_self: false, bootstrap: None }
    }
}

/// Recall@k and ranks in both directions. Pairs hold x to y and y to x.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Recall {
    /// The values of k.
    pub ks: Vec<usize>,
    /// What items of equal score did.
    pub ties: Ties,
    /// Share of rows with a positive among their k best columns. A row without positives is a miss.
    pub x_to_y: Vec<f64>,
    /// The same of columns.
    pub y_to_x: Vec<f64>,
    /// Share of rows whose best column is a positive.
    pub matching_accuracy: f64,
    /// Mean reciprocal rank of the best positive; a query without positives adds 0.
    pub mrr: [f64; 2],
    /// Median rank, from 1, of the queries that have a positive.
    pub median_rank: [Option<f64>; 2],
    /// Mean rank of the queries that have a positive.
    pub mean_rank: [Option<f64>; 2],
    /// Queries whose best positive is exactly as similar as some wrong item: how these stand is up to `ties`.
    pub tied: [usize; 2],
    /// Confidence intervals, where they were asked for.
    pub intervals: Option<Intervals>,
}

/// Confidence intervals of the figures of a [`Recall`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Intervals {
    /// How they were made.
    pub bootstrap: Bootstrap,
    /// Of each k.
    pub x_to_y: Vec<[f64; 2]>,
    /// Of each k.
    pub y_to_x: Vec<[f64; 2]>,
    /// Of the mean reciprocal rank.
    pub mrr: [[f64; 2]; 2],
}

/// Where the best positive of every query stands among its wrong items.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// Of the rows, among the columns.
    pub x_to_y: Vec<Standing>,
    /// Of the columns, among the rows.
    pub y_to_x: Vec<Standing>,
}

impl Ranking {
    /// Of embeddings `zx` (`n_x x r`) and `zy` (`n_y x r`).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when shapes do not fit, or with `exclude_self` no query has another positive;
    /// [`Error::Numerical`] when the similarities of a query's positives are not numbers; those of the backend.
    pub fn new<B: Backend>(
        backend: &B,
        zx: &B::Matrix,
        zy: &B::Matrix,
        positives: &Positives,
        exclude_self: bool,
    ) -> Result<Self> {
        let ((n_x, rx), (n_y, ry)) = (backend.shape(zx), backend.shape(zy));
        if rx != ry {
            return Err(Error::invalid("embeddings of y", format!("{rx} columns, as x"), ry));
        }
        positives.check_shape(n_x, n_y)?;
        if exclude_self && n_x != n_y {
            let expected = format!("{n_x} rows, as x: the same set, to leave out the query itself");
            return Err(Error::invalid("embeddings of y", expected, n_y));
        }
        let others = |i: usize| {
            let row = positives.row(i);
            row.len() - usize::from(exclude_self && row.binary_search(&(i as u32)).is_ok())
        };
        if exclude_self && (0..n_x).all(|i| others(i) == 0) {
            let expected = "a match other than the row itself (groups or pairs), for these are left out";
            return Err(Error::invalid("positives", expected, "none"));
        }
        let of = |s, positives: &Positives, side: &str| {
            let standings = backend.standings(s, positives, exclude_self)?;
            let lost = standings.iter().enumerate().find(|(i, s)| {
                let row = positives.row(*i);
                let own = usize::from(exclude_self && row.binary_search(&(*i as u32)).is_ok());
                !s.is_found() && row.len() > own
            });
            match lost {
                None => Ok(standings),
                Some((i, _)) => Err(Error::Numerical(format!(
                    "the similarities of row {i} of {side} to its matches are not numbers: check the embeddings"
                ))),
            }
        };
        Ok(Self {
            x_to_y: of(Similarity::Embeddings(zx, zy), positives, "x")?,
            y_to_x: of(Similarity::Embeddings(zy, zx), &positives.transposed(), "y")?,
        })
    }

    /// The figures at some `ks`, without intervals.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an empty list of k or a k of 0.
    pub fn recall(&self, ks: &[usize], ties: Ties) -> Result<Recall> {
        check_ks(ks)?;
        let [x, y] = [&self.x_to_y, &self.y_to_x].map(|s| Classes::new(s));
        let shares = |c: &Classes| ks.iter().map(|&k| c.mean(|s| s.hit(k, ties))).collect();
        let ranks = [x.ranks(ties), y.ranks(ties)];
        Ok(Recall {
            ks: ks.to_vec(),
            ties,
            x_to_y: shares(&x),
            y_to_x: shares(&y),
            matching_accuracy: x.mean(|s| s.hit(1, ties)),
            mrr: [&x, &y].map(|c| c.mean(|s| s.reciprocal(ties))),
            median_rank: ranks.map(|r| r.0),
            mean_rank: ranks.map(|r| r.1),
            tied: [&x, &y].map(|c| c.count(|s| s.is_found() && s.tied > 0)),
            intervals: None,
        })
    }

    /// Intervals of the same figures.
    ///
    /// # Errors
    /// As [`recall`](Self::recall); [`Error::InvalidArgument`] for a bootstrap out of range.
    pub fn intervals<B: Backend>(
        &self,
        backend: &B,
        ks: &[usize],
        ties: Ties,
        bootstrap: &Bootstrap,
    ) -> Result<Intervals> {
        check_ks(ks)?;
        let of = |standings: &[Standing]| {
            let classes = Classes::new(standings);
            let mut values: Vec<Vec<f64>> = ks.iter().map(|&k| classes.values(|s| s.hit(k, ties))).collect();
            values.push(classes.values(|s| s.reciprocal(ties)));
            let mut all = bootstrap.means(backend, &classes.of, &values)?;
            let mrr = all.pop().unwrap_or_default();
            Ok::<_, Error>((all, mrr))
        };
        let ((x_to_y, mrr_x), (y_to_x, mrr_y)) = (of(&self.x_to_y)?, of(&self.y_to_x)?);
        Ok(Intervals { bootstrap: *bootstrap, x_to_y, y_to_x, mrr: [mrr_x, mrr_y] })
    }
}

/// How much better one ranking is than another of the same queries and items.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gain {
    /// Difference of the mean Recall@k of both directions.
    pub mean: f64,
    /// Its interval, paired by query.
    pub interval: [f64; 2],
}

impl Ranking {
    /// What this ranking has over `other` in mean Recall@k of both directions.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the rankings are of different numbers of queries, or for a bootstrap out of range.
    pub fn gain<B: Backend>(
        &self,
        backend: &B,
        other: &Self,
        k: usize,
        ties: Ties,
        bootstrap: &Bootstrap,
    ) -> Result<Gain> {
        check_ks(&[k])?;
        let sizes = |r: &Self| (r.x_to_y.len(), r.y_to_x.len());
        if sizes(self) != sizes(other) {
            let expected = format!("a ranking of {:?} queries", sizes(self));
            return Err(Error::invalid("other", expected, format!("{:?}", sizes(other))));
        }
        let of = |a: &[Standing], b: &[Standing]| {
            let each: Vec<u32> = (0..a.len() as u32).collect();
            let values = a.iter().zip(b).map(|(a, b)| a.hit(k, ties) - b.hit(k, ties)).collect::<Vec<_>>();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let means = bootstrap.resampled(backend, &each, &[values])?;
            Ok::<_, Error>((mean, means.into_iter().flatten().collect::<Vec<_>>()))
        };
        let ((x, xs), (y, ys)) = (of(&self.x_to_y, &other.x_to_y)?, of(&self.y_to_x, &other.y_to_x)?);
        let both = xs.iter().zip(&ys).map(|(a, b)| 0.5 * (a + b)).collect();
        Ok(Gain { mean: 0.5 * (x + y), interval: bootstrap.interval(both) })
    }
}

/// Queries that stand alike: few, where most are found first.
pub(super) struct Classes {
    kinds: Vec<(Standing, usize)>,
    /// The kind of each query.
    pub(super) of: Vec<u32>,
}

impl Classes {
    pub(super) fn new(standings: &[Standing]) -> Self {
        let mut sorted = standings.to_vec();
        sorted.sort_unstable();
        let mut kinds: Vec<(Standing, usize)> = Vec::new();
        for s in sorted {
            match kinds.last_mut() {
                Some((held, count)) if *held == s => *count += 1,
                _ => kinds.push((s, 1)),
            }
        }
        let place = |s: &Standing| kinds.partition_point(|(held, _)| held < s) as u32;
        let of = standings.iter().map(place).collect();
        Self { kinds, of }
    }

    pub(super) fn values(&self, f: impl Fn(&Standing) -> f64) -> Vec<f64> {
        self.kinds.iter().map(|(s, _)| f(s)).collect()
    }

    pub(super) fn mean(&self, f: impl Fn(&Standing) -> f64) -> f64 {
        self.kinds.iter().map(|(s, count)| *count as f64 * f(s)).sum::<f64>() / self.of.len() as f64
    }

    pub(super) fn count(&self, f: impl Fn(&Standing) -> bool) -> usize {
        self.kinds.iter().filter(|(s, _)| f(s)).map(|(_, count)| count).sum()
    }

    /// Median and mean rank of those that are found.
    fn ranks(&self, ties: Ties) -> (Option<f64>, Option<f64>) {
        let mut ranks: Vec<(f64, usize)> =
            self.kinds.iter().filter_map(|(s, count)| Some((s.rank(ties)?, *count))).collect();
        ranks.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let found: usize = ranks.iter().map(|(_, count)| count).sum();
        if found == 0 {
            return (None, None);
        }
        // The two middle ones, which of an odd number are the same.
        let at = |place: usize| {
            let mut before = 0;
            let holds = |&&(_, count): &&(f64, usize)| {
                before += count;
                before > place
            };
            ranks.iter().find(holds).map_or(f64::NAN, |(rank, _)| *rank)
        };
        let median = 0.5 * (at((found - 1) / 2) + at(found / 2));
        let sum: f64 = ranks.iter().map(|(rank, count)| rank * *count as f64).sum();
        (Some(median), Some(sum / found as f64))
    }
}

/// Recall and ranks both ways of embeddings `zx` (`n_x x r`) and `zy` (`n_y x r`). Items may be fewer than k.
///
/// # Errors
/// As [`Ranking::new`] and [`Ranking::recall`]; [`Error::InvalidArgument`] for a bootstrap out of range.
pub fn evaluate<B: Backend>(
    backend: &B,
    zx: &B::Matrix,
    zy: &B::Matrix,
    positives: &Positives,
    options: &RecallOptions,
) -> Result<Recall> {
    check_ks(&options.ks)?;
    options.bootstrap.as_ref().map_or(Ok(()), Bootstrap::validate)?;
    let ranking = Ranking::new(backend, zx, zy, positives, options.exclude_self)?;
    let recall = ranking.recall(&options.ks, options.ties)?;
    let of = |b: &Bootstrap| ranking.intervals(backend, &options.ks, options.ties, b);
    Ok(Recall { intervals: options.bootstrap.as_ref().map(of).transpose()?, ..recall })
}

/// Recall@k both ways: [`evaluate`] of some k and one rule for ties.
///
/// # Errors
/// As [`evaluate`].
pub fn recall_at_k<B: Backend>(
    backend: &B,
    zx: &B::Matrix,
    zy: &B::Matrix,
    positives: &Positives,
    ks: &[usize],
    ties: Ties,
) -> Result<Recall> {
    evaluate(backend, zx, zy, positives, &RecallOptions { ties, ..RecallOptions::new(ks) })
}

/// Share of rows whose best column is a positive; of equally good columns any may be the best ([`Ties::Expected`]).
///
/// # Errors
/// Those of the backend.
pub fn matching_accuracy<B: Backend>(
    backend: &B,
    s: Similarity<'_, B::Matrix>,
    positives: &Positives,
) -> Result<f64> {
    let standings = backend.standings(s, positives, false)?;
    Ok(Classes::new(&standings).mean(|s| s.hit(1, Ties::Expected)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_queries_that_are_found() {
        let at = |ahead: u32| Standing { ahead, positives: 1, ..Standing::default() };
        let none = Standing::default();
        let ranks = |s: &[Standing]| Classes::new(s).ranks(Ties::Expected);
        assert_eq!(ranks(&[at(0), at(9), at(0), none]), (Some(1.0), Some(4.0)));
        assert_eq!(ranks(&[at(3), at(0)]), (Some(2.5), Some(2.5)));
        assert_eq!(ranks(&[none]), (None, None));
        let tied = Standing { ahead: 1, tied: 3, tied_before: 2, positives: 1 };
        assert_eq!(Classes::new(&[tied]).ranks(Ties::LowerIndex), (Some(4.0), Some(4.0)));
        assert_eq!(ranks(&[tied]), (Some(3.5), Some(3.5)));
    }
}
