//! Samples of an alignment to look at: similarities, weights, and a plane in which both modalities lie.

use faer::{Mat, MatRef};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeSet;
use unicon::backend::{Backend, Similarity};
use unicon::error::{Error, Result};
use unicon::fit::download;
use unicon::loss::Loss;
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;
use unicon::spectral::{SvdMethod, top_r};

/// Rows of x whose similarities to their own and to others' positives are looked at.
const SAMPLE: usize = 2048;
/// Rows of x in the picture of `S`.
const CELLS: usize = 40;
/// Rows of x in the plane.
const DOTS: usize = 120;
/// Pairs joined in the plane.
const LINKS: usize = 400;
/// Bars of the histograms.
const BARS: usize = 48;
/// Share of the pairs that may lie below the first bar.
const TAIL: f64 = 5e-4;
/// Fine bins, in which medians and overlaps are found: similarities to within 0.001.
const FINE: usize = 2000;

/// What is looked at: everything comes from one sample of matched rows.
#[derive(Clone, Debug, Serialize)]
pub struct Look {
    /// Rows of x in the sample.
    pub rows: usize,
    /// Similarities.
    pub histogram: Histogram,
    /// Weights.
    pub weights: WeightSample,
    /// The plane.
    pub map: Map,
}

/// Similarities of positive pairs and of all other pairs of the sample.
#[derive(Clone, Debug, Serialize)]
pub struct Histogram {
    /// Lower edge of the first bar, which also holds the few pairs below it; the last one ends at 1.
    pub low: f64,
    /// Share of the positives in each bar.
    pub positives: Vec<f64>,
    /// Share of the negatives in each bar.
    pub negatives: Vec<f64>,
    /// How many there were.
    pub counts: (u64, u64),
    /// Medians, to within 0.001.
    pub medians: (f64, f64),
    /// How often a positive pair is more similar than a negative one (ties count half).
    pub above: f64,
}

/// `S(gamma)` of some rows among themselves, rows and columns in a common order.
#[derive(Clone, Debug, Serialize)]
pub struct WeightSample {
    /// When all similarities are 0: what the first spectral update sees.
    pub before: Vec<Vec<f64>>,
    /// Of the model's embeddings.
    pub after: Vec<Vec<f64>>,
}

impl WeightSample {
    /// `sum |S|` after, as a share of that before.
    pub fn left(&self) -> f64 {
        let sum = |s: &[Vec<f64>]| s.iter().flatten().map(|v| v.abs()).sum::<f64>();
        sum(&self.after) / sum(&self.before).max(f64::MIN_POSITIVE)
    }
}

/// The plane in which the embeddings of both sides vary most.
#[derive(Clone, Debug, Serialize)]
pub struct Map {
    /// `(row of x, position)`.
    pub x: Vec<(usize, [f64; 2])>,
    /// `(row of y, position)`.
    pub y: Vec<(usize, [f64; 2])>,
    /// Positive pairs, as places in the two lists.
    pub links: Vec<(usize, usize)>,
    /// Share of the variance along each axis.
    pub explained: [f64; 2],
}

/// Looks at a sample of matched rows of embeddings `zx` (`n_x x r`) and `zy` (`n_y x r`). Equal seeds give equal samples.
///
/// # Errors
/// [`Error::InvalidArgument`] when there are no positives; those of the backend.
pub fn look<B: Backend>(
    backend: &B,
    loss: &Loss,
    (zx, zy): (&B::Matrix, &B::Matrix),
    positives: &Positives,
    seed: u64,
) -> Result<Look> {
    let (xs, ys) = sample(positives, seed)?;
    let relation = positives.subset(&xs, &ys)?;
    let (sx, sy) = (backend.select(zx, &ids(&xs))?, backend.select(zy, &ids(&ys))?);
    let (hx, hy) = (download(backend, &sx)?, download(backend, &sy)?);
    let similarity = &hx * hy.transpose();
    let (px, py, explained) = plane(&hx, &hy)?;
    Ok(Look {
        rows: xs.len(),
        histogram: histogram(similarity.as_ref(), &relation),
        weights: weights(backend, loss, (&sx, &sy), &relation, &px)?,
        map: map((&xs, &px), (&ys, &py), &relation, explained)?,
    })
}

fn ids(rows: &[usize]) -> Vec<u32> {
    rows.iter().map(|&i| i as u32).collect()
}

/// Some rows of x that have positives, and one of each one's positives; both ascending.
fn sample(positives: &Positives, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    let matched: Vec<usize> = (0..positives.n_x()).filter(|&i| !positives.row(i).is_empty()).collect();
    if matched.is_empty() {
        return Err(Error::invalid("positives", "at least one pair", 0));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut chosen = rand::seq::index::sample(&mut rng, matched.len(), matched.len().min(SAMPLE)).into_vec();
    chosen.sort_unstable();
    let xs: Vec<usize> = chosen.iter().map(|&k| matched[k]).collect();
    let partner = |&i: &usize| {
        let row = positives.row(i);
        row[rng.random_range(0..row.len())] as usize
    };
    let ys: BTreeSet<usize> = xs.iter().map(partner).collect();
    Ok((xs, ys.into_iter().collect()))
}

/// At most `most` of `n` places, evenly spread.
fn spread(n: usize, most: usize) -> Vec<usize> {
    let count = n.min(most);
    (0..count).map(|k| k * n / count).collect()
}

/// A column for each of the rows `xs` of a relation, ascending: another one for each row where there are enough.
fn partners(relation: &Positives, xs: &[usize]) -> Vec<usize> {
    let mut ys = BTreeSet::new();
    for &i in xs {
        let new = relation.row(i).iter().map(|&j| j as usize).find(|j| !ys.contains(j));
        ys.extend(new);
    }
    ys.into_iter().collect()
}

fn histogram(similarity: MatRef<'_, f64>, relation: &Positives) -> Histogram {
    let mut counts = [vec![0u64; FINE], vec![0u64; FINE]];
    for i in 0..similarity.nrows() {
        let mut own = relation.row(i).iter().peekable();
        for j in 0..similarity.ncols() {
            let positive = own.next_if(|&&k| k as usize == j).is_some();
            let s = similarity[(i, j)].clamp(-1.0, 1.0);
            let bin = ((0.5 * (s + 1.0) * FINE as f64) as usize).min(FINE - 1);
            counts[usize::from(!positive)][bin] += 1;
        }
    }
    let [positive, negative] = &counts;
    let middle = |bin: usize| 2.0 * (bin as f64 + 0.5) / FINE as f64 - 1.0;
    let total = |fine: &[u64]| fine.iter().sum::<u64>();
    let quantile = |fine: &[u64], share: f64| {
        let (mut seen, wanted) = (0, share * total(fine) as f64);
        let reached = |&count: &u64| {
            seen += count;
            seen as f64 >= wanted && seen > 0
        };
        fine.iter().position(reached).map_or(0.0, middle)
    };
    let lowest = quantile(positive, TAIL).min(quantile(negative, TAIL));
    let low = ((10.0 * lowest).floor() / 10.0).clamp(-1.0, 0.8);
    let bars = |fine: &[u64]| {
        let (mut bars, total) = (vec![0.0; BARS], fine.iter().sum::<u64>().max(1) as f64);
        for (bin, &count) in fine.iter().enumerate() {
            let bar = ((middle(bin) - low) / (1.0 - low) * BARS as f64).max(0.0) as usize;
            bars[bar.min(BARS - 1)] += count as f64 / total;
        }
        bars
    };
    let (mut above, mut lower) = (0.0, 0.0);
    for (&p, &n) in positive.iter().zip(negative) {
        above += p as f64 * (lower + 0.5 * n as f64);
        lower += n as f64;
    }
    let pairs = (total(positive) as f64 * total(negative) as f64).max(1.0);
    Histogram {
        low,
        positives: bars(positive),
        negatives: bars(negative),
        counts: (total(positive), total(negative)),
        medians: (quantile(positive, 0.5), quantile(negative, 0.5)),
        above: above / pairs,
    }
}

/// The plane of both modalities' largest variance, from their joint covariance: positions of x and y, explained shares.
fn plane(hx: &Mat<f64>, hy: &Mat<f64>) -> Result<(Mat<f64>, Mat<f64>, [f64; 2])> {
    let (n, r) = ((hx.nrows() + hy.nrows()) as f64, hx.ncols());
    let mean: Vec<f64> = (0..r).map(|k| (hx.col(k).sum() + hy.col(k).sum()) / n).collect();
    let centred = |h: &Mat<f64>| Mat::from_fn(h.nrows(), r, |i, k| h[(i, k)] - mean[k]);
    let (cx, cy) = (centred(hx), centred(hy));
    let covariance = cx.transpose() * &cx + cy.transpose() * &cy;
    let top = top_r(covariance.as_ref(), r.min(2), SvdMethod::Full)?;
    // A direction's sign is arbitrary: the largest entry is made positive.
    let sign = |k: usize| {
        let largest =
            top.u.col(k).iter().copied().fold(0.0, |m: f64, v| if v.abs() > m.abs() { v } else { m });
        if largest < 0.0 { -1.0 } else { 1.0 }
    };
    let signs: Vec<f64> = (0..top.u.ncols()).map(sign).collect();
    let place = |c: &Mat<f64>| {
        let p = c * &top.u;
        Mat::from_fn(c.nrows(), 2, |i, k| if k < p.ncols() { signs[k] * p[(i, k)] } else { 0.0 })
    };
    let total: f64 = (0..r).map(|k| covariance[(k, k)]).sum::<f64>().max(f64::MIN_POSITIVE);
    let share = |k: usize| top.s.get(k).map_or(0.0, |s| s / total);
    Ok((place(&cx), place(&cy), [share(0), share(1)]))
}

/// `S` of a few rows among themselves, ordered along the first axis of the plane so that like stands beside like.
fn weights<B: Backend>(
    backend: &B,
    loss: &Loss,
    (sx, sy): (&B::Matrix, &B::Matrix),
    relation: &Positives,
    places: &Mat<f64>,
) -> Result<WeightSample> {
    let xs = spread(relation.n_x(), CELLS);
    let ys = partners(relation, &xs);
    let part = relation.subset(&xs, &ys)?;
    let (zx, zy) = (backend.select(sx, &ids(&xs))?, backend.select(sy, &ids(&ys))?);
    let mut rows: Vec<usize> = (0..xs.len()).collect();
    rows.sort_by(|&a, &b| places[(xs[a], 0)].total_cmp(&places[(xs[b], 0)]));
    // A column stands where its first row does.
    let mut cols: Vec<usize> = Vec::new();
    let mut placed = vec![false; ys.len()];
    for &j in rows.iter().flat_map(|&i| part.row(i)) {
        if !std::mem::replace(&mut placed[j as usize], true) {
            cols.push(j as usize);
        }
    }
    let dense = |s: Similarity<'_, B::Matrix>| {
        let w = backend.weights(s, loss, &part, NegativeSampling::All)?;
        let s = backend.dense(s, &w)?;
        Ok::<_, Error>(rows.iter().map(|&i| cols.iter().map(|&j| s[(i, j)]).collect()).collect())
    };
    Ok(WeightSample {
        before: dense(Similarity::Zeros(xs.len(), ys.len()))?,
        after: dense(Similarity::Embeddings(&zx, &zy))?,
    })
}

fn map(
    (xs, px): (&[usize], &Mat<f64>),
    (ys, py): (&[usize], &Mat<f64>),
    relation: &Positives,
    explained: [f64; 2],
) -> Result<Map> {
    let rows = spread(xs.len(), DOTS);
    let cols = partners(relation, &rows);
    let part = relation.subset(&rows, &cols)?;
    let all = (0..rows.len()).flat_map(|i| part.row(i).iter().map(move |&j| (i, j as usize)));
    let links = all.take(LINKS).collect();
    let dots = |places: &[usize], ids: &[usize], p: &Mat<f64>| {
        places.iter().map(|&k| (ids[k], [p[(k, 0)], p[(k, 1)]])).collect()
    };
    Ok(Map { x: dots(&rows, xs, px), y: dots(&cols, ys, py), links, explained })
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicon::backend::cpu::Cpu;
    use unicon::io::HostMatrix;

    fn unit(n: usize, r: usize, seed: u64) -> HostMatrix {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut values = Vec::new();
        for _ in 0..n {
            let row: Vec<f64> = (0..r).map(|_| rng.random_range(-1.0..1.0)).collect();
            let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
            values.extend(row.iter().map(|v| v / norm));
        }
        HostMatrix::from_f64("z", n, r, values).unwrap()
    }

    #[test]
    fn a_perfect_alignment_looks_perfect() {
        let backend = Cpu::<f64>::new(1).unwrap();
        let z = backend.load(&unit(90, 5, 1)).unwrap();
        let positives = Positives::diagonal(90);
        let look = look(&backend, &Loss::clip(0.07), (&z, &z), &positives, 0).unwrap();
        let h = &look.histogram;
        assert_eq!(h.counts, (90, 90 * 89));
        for bars in [&h.positives, &h.negatives] {
            assert!((bars.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        // All positives have similarity 1; a negative of 0.999 and more shares their fine bin.
        assert_eq!(h.positives.last(), Some(&1.0));
        assert!(h.above > 0.999 && h.medians.0 > 0.998 && h.medians.1.abs() < 0.2, "{h:?}");
        // x and y lie on each other in the plane, which holds a share of the variance.
        for &(i, j) in &look.map.links {
            assert_eq!(look.map.x[i], look.map.y[j]);
        }
        assert_eq!(look.map.links.len(), 90);
        let [first, second] = look.map.explained;
        assert!(first >= second && second > 0.0 && first + second < 1.0);
        // Before, S is (I - 11^T/n)/n; after, less is left to do, and every row still sums to 0 with its column.
        let n = look.weights.before.len() as f64;
        for (i, row) in look.weights.before.iter().enumerate() {
            for (j, &s) in row.iter().enumerate() {
                let expected = (f64::from(u8::from(i == j)) - 1.0 / n) / n;
                assert!((s - expected).abs() < 1e-15, "{i} {j}: {s}, expected {expected}");
            }
        }
        assert!(look.weights.left() < 0.9, "{}", look.weights.left());
    }

    #[test]
    fn many_to_many_and_unmatched_rows() {
        let backend = Cpu::<f64>::new(1).unwrap();
        let (zx, zy) = (backend.load(&unit(7, 1, 2)).unwrap(), backend.load(&unit(4, 1, 3)).unwrap());
        // Row 5 matches nothing, row 0 two columns; a single dimension leaves the second axis empty.
        let positives = Positives::from_csr(&[0, 2, 3, 4, 5, 6, 6, 7], &[0, 2, 2, 2, 3, 3, 0], 4).unwrap();
        let look = look(&backend, &Loss::clip(0.5), (&zx, &zy), &positives, 3).unwrap();
        assert_eq!(look.rows, 6);
        assert!(look.map.x.iter().all(|(i, p)| *i != 5 && p[1] == 0.0));
        assert!(look.map.y.iter().all(|(j, _)| *j != 1));
        let (x, y) = (&look.map.x, &look.map.y);
        assert!(look.map.links.iter().all(|&(i, j)| positives.contains(x[i].0, y[j].0)));
        assert!(look.weights.after.iter().all(|row| row.len() == look.weights.after[0].len()));
    }
}
