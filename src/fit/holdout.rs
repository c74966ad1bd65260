//! Rows held out of the training data for validation, where no validation rows are given.

use crate::io::Duplicates;
use crate::positives::Positives;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use serde::Serialize;
use std::collections::HashSet;

/// Rows held out where no others are given: this share, at most [`HOLDOUT_MOST`].
const HOLDOUT_SHARE: f64 = 0.1;
const HOLDOUT_MOST: usize = 1000;
/// Fewer rows than this are not split.
const HOLDOUT_LEAST: usize = 20;

/// Of the rows held out at most this share of all rows, or these few, may belong together: in larger sets validation would
/// see few different things.
const LARGEST_SHARE: f64 = 0.02;
const LARGEST_FEW: usize = 10;

/// What no held-out row has in common with a row that trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Apart {
    /// A match, or what is connected by matches: a group, the captions of a picture.
    pub matches: bool,
    /// An exact copy among the rows of x.
    pub duplicates_x: bool,
    /// An exact copy among the rows of y.
    pub duplicates_y: bool,
}

/// Which rows train and which are for validation, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    pub(crate) train: (Vec<usize>, Vec<usize>),
    pub(crate) validation: (Vec<usize>, Vec<usize>),
    pub(crate) apart: Apart,
}

/// What belongs together: the relation, and for every row of both sides the first row that equals it; none where that is
/// not known.
#[derive(Clone, Copy)]
pub(crate) struct Together<'a> {
    positives: &'a Positives,
    first_x: Option<&'a [u32]>,
    first_y: Option<&'a [u32]>,
}

impl<'a> Together<'a> {
    pub(crate) fn new(
        positives: &'a Positives,
        x: Option<&'a Duplicates>,
        y: Option<&'a Duplicates>,
    ) -> Self {
        Self { positives, first_x: x.map(Duplicates::groups), first_y: y.map(Duplicates::groups) }
    }
}

/// Holds out the usual part: a tenth of the rows of x, at most 1,000. None of few rows, or where too few match anything.
pub(crate) fn hold_out(together: Together<'_>, seed: u64) -> Option<Split> {
    let n = together.positives.n_x();
    let count = ((n as f64 * HOLDOUT_SHARE) as usize).min(HOLDOUT_MOST);
    (n >= HOLDOUT_LEAST && count >= 2).then(|| split(together, count, seed)).flatten()
}

/// Holds out about `count` rows of x and the columns that match them; none where too few rows match anything.
///
/// Rows and columns that are connected by matches or are exact copies stay together, so that no held-out row has lost a
/// positive to the training rows, and none is known from them. Sets that are too large for validation stay with the training
/// rows. Where what is left is not enough, less is kept apart: copies of one side (a constant side, a class's name),
/// then of both; where matches connect everything (few large groups) rows and columns are drawn independently.
pub(crate) fn split(together: Together<'_>, count: usize, seed: u64) -> Option<Split> {
    let positives = together.positives;
    let matching = (0..positives.n_x()).filter(|&i| !positives.row(i).is_empty()).count();
    let count = count.min(matching / 2);
    if count == 0 {
        return None;
    }
    let sides = [(true, true), (true, false), (false, true), (false, false)];
    let connected = sides.iter().find_map(|&(duplicates_x, duplicates_y)| {
        let duplicates_x = duplicates_x && together.first_x.is_some();
        let duplicates_y = duplicates_y && together.first_y.is_some();
        whole_sets(together, Apart { matches: true, duplicates_x, duplicates_y }, count, matching, seed)
    });
    let split = connected.unwrap_or_else(|| independent(together, count, seed));
    let matches = |(x, y): &(Vec<usize>, Vec<usize>)| {
        let mut there = vec![false; positives.n_y()];
        y.iter().for_each(|&j| there[j] = true);
        x.iter().any(|&i| positives.row(i).iter().any(|&j| there[j as usize]))
    };
    (matches(&split.train) && matches(&split.validation)).then_some(split)
}

/// Whole connected sets, drawn among those that are small enough; none where these are too few.
fn whole_sets(
    together: Together<'_>,
    apart: Apart,
    count: usize,
    matching: usize,
    seed: u64,
) -> Option<Split> {
    let positives = together.positives;
    let (n_x, n_y) = (positives.n_x(), positives.n_y());
    let component = components(together, apart);
    let (mut size, mut size_y) = (vec![0usize; n_x + n_y], vec![0usize; n_x + n_y]);
    component[..n_x].iter().for_each(|&c| size[c] += 1);
    component[n_x..].iter().for_each(|&c| size_y[c] += 1);
    // Rows without a match validate nothing.
    let mut matched = vec![false; n_x + n_y];
    (0..n_x).filter(|&i| !positives.row(i).is_empty()).for_each(|i| matched[component[i]] = true);
    let largest = largest(n_x, count);
    let largest_y = ((2 * largest * n_y).div_ceil(n_x)).max(1);
    let fits = |c: &usize| matched[*c] && size[*c] <= largest && size_y[*c] <= largest_y;
    let mut order: Vec<usize> = (0..n_x + n_y).filter(fits).collect();
    let there: usize = order.iter().map(|&c| size[c]).sum();
    if there < count || matching < 2 * count {
        return None;
    }
    order.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(seed));
    let (mut taken, mut chosen) = (0, vec![false; n_x + n_y]);
    for c in order {
        if taken >= count {
            break;
        }
        chosen[c] = true;
        taken += size[c];
    }
    let held_x = component[..n_x].iter().map(|&c| chosen[c]).collect::<Vec<_>>();
    let held_y = component[n_x..].iter().map(|&c| chosen[c]).collect::<Vec<_>>();
    Some(Split::new(&held_x, &held_y, apart))
}

/// The most rows that may belong together where `count` of `n` are held back.
fn largest(n: usize, count: usize) -> usize {
    let half = (count / 2).max(1);
    half.min(((n as f64 * LARGEST_SHARE) as usize).max(LARGEST_FEW.min(half)))
}

/// Rows and columns drawn independently, copies together where there are not too many of them.
fn independent(together: Together<'_>, count: usize, seed: u64) -> Split {
    let (n_x, n_y) = (together.positives.n_x(), together.positives.n_y());
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let share = count as f64 / n_x as f64;
    let mut side = |n: usize, known: Option<&[u32]>| {
        let own: Vec<u32> = if known.is_some() { Vec::new() } else { (0..n as u32).collect() };
        let first = known.unwrap_or(&own);
        let take = ((share * n as f64).round() as usize).clamp(1, n.saturating_sub(1).max(1));
        let mut size = vec![0usize; n];
        first.iter().for_each(|&f| size[f as usize] += 1);
        let largest = largest(n, take);
        let mut order: Vec<usize> = (0..n).filter(|&f| (1..=largest).contains(&size[f])).collect();
        let mut held = vec![false; n];
        if order.iter().map(|&f| size[f]).sum::<usize>() < take {
            rand::seq::index::sample(&mut rng, n, take).into_iter().for_each(|i| held[i] = true);
            return (held, known.is_some() && size.iter().all(|&s| s <= 1));
        }
        order.shuffle(&mut rng);
        let (mut taken, mut chosen) = (0, vec![false; n]);
        for f in order {
            if taken >= take {
                break;
            }
            chosen[f] = true;
            taken += size[f];
        }
        (first.iter().map(|&f| chosen[f as usize]).collect(), known.is_some())
    };
    let (held_x, duplicates_x) = side(n_x, together.first_x);
    let (held_y, duplicates_y) = side(n_y, together.first_y);
    Split::new(&held_x, &held_y, Apart { matches: false, duplicates_x, duplicates_y })
}

impl Split {
    fn new(held_x: &[bool], held_y: &[bool], apart: Apart) -> Self {
        let pick = |flags: &[bool], held: bool| {
            flags.iter().enumerate().filter(|(_, f)| **f == held).map(|(i, _)| i).collect::<Vec<_>>()
        };
        Self {
            train: (pick(held_x, false), pick(held_y, false)),
            validation: (pick(held_x, true), pick(held_y, true)),
            apart,
        }
    }
}

/// The set of every row (`0..n_x`) and column (`n_x..`), named by one of its members.
fn components(together: Together<'_>, apart: Apart) -> Vec<usize> {
    let positives = together.positives;
    let n_x = positives.n_x();
    let mut parent: Vec<usize> = (0..n_x + positives.n_y()).collect();
    fn root(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    // Rows of one group share their list: its columns are joined once. Empty lists lie where another begins.
    let mut seen = HashSet::new();
    for (i, row) in (0..n_x).map(|i| (i, positives.row(i))).filter(|(_, row)| !row.is_empty()) {
        let new = if seen.insert(row.as_ptr()) { row.len() } else { 1 };
        for &j in &row[..new] {
            let (a, b) = (root(&mut parent, i), root(&mut parent, n_x + j as usize));
            parent[b] = a;
        }
    }
    for (keep, first, offset) in
        [(apart.duplicates_x, together.first_x, 0), (apart.duplicates_y, together.first_y, n_x)]
    {
        let first = first.unwrap_or_default();
        for (i, f) in first.iter().map(|&f| f as usize).enumerate().filter(|(i, f)| keep && i != f) {
            let (a, b) = (root(&mut parent, offset + f), root(&mut parent, offset + i));
            parent[b] = a;
        }
    }
    (0..parent.len()).map(|i| root(&mut parent, i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    /// A split of rows without copies.
    fn of(positives: &Positives, count: usize) -> Split {
        let own = |n: usize| (0..n as u32).collect::<Vec<_>>();
        let (x, y) = (own(positives.n_x()), own(positives.n_y()));
        split(Together { positives, first_x: Some(&x), first_y: Some(&y) }, count, 1).unwrap()
    }

    #[test]
    fn matching_rows_stay_together() {
        // Row i matches columns 2i and 2i + 1.
        let indptr: Vec<i64> = (0..=300).map(|i| 2 * i).collect();
        let indices: Vec<i64> = (0..600).collect();
        let p = Positives::from_csr(&indptr, &indices, 600).unwrap();
        let s = of(&p, 30);
        assert_eq!((s.validation.0.len(), s.validation.1.len()), (30, 60));
        assert_eq!((s.train.0.len(), s.train.1.len()), (270, 540));
        let held = p.subset(&s.validation.0, &s.validation.1).unwrap();
        assert_eq!((held.nnz(), held.unmatched()), (60, (0, 0)));
        assert_eq!(p.subset(&s.train.0, &s.train.1).unwrap().unmatched(), (0, 0));
        assert_eq!(s.apart, Apart { matches: true, duplicates_x: true, duplicates_y: true });
    }

    #[test]
    fn large_groups_are_cut_through() {
        let groups: Vec<i64> = (0..100).map(|i| i % 5).collect();
        let p = Positives::from_groups(&groups, &groups).unwrap();
        let s = of(&p, 20);
        assert_eq!((s.validation.0.len(), s.validation.1.len(), s.train.0.len()), (20, 20, 80));
        assert!(p.subset(&s.validation.0, &s.validation.1).unwrap().nnz() > 20);
        assert_eq!(s.apart, Apart { matches: false, duplicates_x: true, duplicates_y: true });
    }

    /// For every row the first of those that have its value.
    fn first(values: &[usize]) -> Vec<u32> {
        values.iter().map(|v| values.iter().position(|w| w == v).unwrap() as u32).collect()
    }

    /// Checks what `apart` says on every pair of a held-out and a training row.
    fn check(p: &Positives, x: &[usize], y: &[usize], s: &Split, what: &str) {
        let all = |mut a: Vec<usize>, b: &[usize], n: usize| {
            a.extend(b);
            a.sort_unstable();
            assert_eq!(a, (0..n).collect::<Vec<_>>(), "{what}");
        };
        all(s.train.0.clone(), &s.validation.0, x.len());
        all(s.train.1.clone(), &s.validation.1, y.len());
        let shared = |values: &[usize], a: &[usize], b: &[usize]| {
            a.iter().any(|&i| b.iter().any(|&j| values[i] == values[j]))
        };
        assert!(!(s.apart.duplicates_x && shared(x, &s.validation.0, &s.train.0)), "{what}: x");
        assert!(!(s.apart.duplicates_y && shared(y, &s.validation.1, &s.train.1)), "{what}: y");
        if s.apart.matches {
            let crossing = |a: &[usize], b: &[usize]| a.iter().any(|&i| b.iter().any(|&j| p.contains(i, j)));
            assert!(
                !crossing(&s.validation.0, &s.train.1) && !crossing(&s.train.0, &s.validation.1),
                "{what}: matches"
            );
        }
        assert!(
            p.subset(&s.validation.0, &s.validation.1).unwrap().nnz() > 0
                && p.subset(&s.train.0, &s.train.1).unwrap().nnz() > 0
        );
    }

    #[test]
    fn nothing_crosses_a_split_that_says_so() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let (mut whole, mut tried) = (0, 0);
        for case in 0..400 {
            let (n_x, n_y) = (rng.random_range(20..120), rng.random_range(20..120));
            // From all rows different to a constant side.
            let mut kinds = |n: usize| [1, 3, n / 4, n, 100 * n][rng.random_range(0..5)].max(1);
            let (kx, ky) = (kinds(n_x), kinds(n_y));
            let x: Vec<usize> = (0..n_x).map(|_| rng.random_range(0..kx)).collect();
            let groups = rng.random_range(1..n_x);
            let paired = rng.random_bool(0.5);
            let p = if paired {
                Positives::diagonal(n_x)
            } else {
                let mut ids =
                    |n: usize| (0..n).map(|_| rng.random_range(0..groups) as i64).collect::<Vec<_>>();
                match Positives::from_groups(&ids(n_x), &ids(n_y)) {
                    Ok(p) => p,
                    Err(_) => continue,
                }
            };
            let y: Vec<usize> = (0..p.n_y()).map(|_| rng.random_range(0..ky)).collect();
            let count = n_x / 10;
            let together = Together { positives: &p, first_x: Some(&first(&x)), first_y: Some(&first(&y)) };
            let Some(s) = split(together, count, case) else { continue };
            let what = format!("case {case}: {kx} and {ky} kinds, {groups} groups, {paired}, {:?}", s.apart);
            check(&p, &x, &y, &s, &what);
            assert!(s.validation.0.len() <= 2 * count.max(1), "{what}: {}", s.validation.0.len());
            tried += 1;
            whole += usize::from(s.apart == Apart { matches: true, duplicates_x: true, duplicates_y: true });
        }
        assert!(tried > 300 && whole > 50 && whole < tried - 50, "{whole} of {tried}");
    }

    #[test]
    fn a_constant_side_and_a_large_set_do_not_end_it() {
        let n = 200;
        let p = Positives::diagonal(n);
        let (own, constant): (Vec<u32>, Vec<u32>) = ((0..n as u32).collect(), vec![0; n]);
        let s =
            split(Together { positives: &p, first_x: Some(&own), first_y: Some(&constant) }, 20, 1).unwrap();
        assert_eq!(s.apart, Apart { matches: true, duplicates_x: true, duplicates_y: false });
        assert_eq!(s.validation.0, s.validation.1);
        // Half of the rows are equal: they train, and the others are enough for validation.
        let half: Vec<u32> = (0..n as u32).map(|i| if i < n as u32 / 2 { 0 } else { i }).collect();
        let s = split(Together { positives: &p, first_x: Some(&own), first_y: Some(&half) }, 20, 1).unwrap();
        assert_eq!(s.apart, Apart { matches: true, duplicates_x: true, duplicates_y: true });
        assert!(s.validation.0.len() == 20 && s.validation.0.iter().all(|&i| i >= n / 2));
        // With one match there is nothing to hold out.
        let one = Positives::from_csr(&[0, 1, 1, 1], &[2], 3).unwrap();
        assert!(
            split(Together { positives: &one, first_x: Some(&[0, 1, 2]), first_y: None }, 1, 1).is_none()
        );
    }
}
