//! Rows held back from the training data to judge a fit, where no validation rows are given.

use crate::positives::Positives;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use std::collections::HashSet;

/// A connected set of matching rows and columns larger than this share of all rows is not kept together.
const LARGEST_COMPONENT: f64 = 0.02;

/// Which rows train and which judge, ascending.
pub(crate) struct Split {
    pub(crate) train: (Vec<usize>, Vec<usize>),
    pub(crate) held: (Vec<usize>, Vec<usize>),
}

/// Holds back about `count` rows of x and the columns that match them. Rows and columns that are connected by
/// matches stay together, so that no held row has lost a positive to the training rows; where everything is
/// connected (few large groups) rows and columns are drawn independently.
pub(crate) fn split(positives: &Positives, count: usize, seed: u64) -> Split {
    let (n_x, n_y) = (positives.n_x(), positives.n_y());
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (mut held_x, mut held_y) = (vec![false; n_x], vec![false; n_y]);
    let component = components(positives);
    let mut size = vec![0usize; n_x + n_y];
    component[..n_x].iter().for_each(|&c| size[c] += 1);
    let largest = size.iter().copied().max().unwrap_or(0);
    if largest as f64 <= (LARGEST_COMPONENT * n_x as f64).max(1.0) {
        let mut order: Vec<usize> = (0..n_x + n_y).filter(|&c| size[c] > 0).collect();
        order.shuffle(&mut rng);
        let (mut taken, mut chosen) = (0, vec![false; n_x + n_y]);
        for c in order {
            if taken >= count {
                break;
            }
            // Unmatched rows judge nothing.
            chosen[c] = true;
            taken += size[c];
        }
        (0..n_x).for_each(|i| held_x[i] = chosen[component[i]]);
        (0..n_y).for_each(|j| held_y[j] = chosen[component[n_x + j]]);
    } else {
        let share = count as f64 / n_x as f64;
        for flags in [&mut held_x, &mut held_y] {
            let n = flags.len();
            let take = ((share * n as f64).round() as usize).clamp(1, n.saturating_sub(1).max(1));
            rand::seq::index::sample(&mut rng, n, take).into_iter().for_each(|i| flags[i] = true);
        }
    }
    let pick = |flags: &[bool], held: bool| {
        flags.iter().enumerate().filter(|(_, f)| **f == held).map(|(i, _)| i).collect::<Vec<_>>()
    };
    Split {
        train: (pick(&held_x, false), pick(&held_y, false)),
        held: (pick(&held_x, true), pick(&held_y, true)),
    }
}

/// The connected component of every row (`0..n_x`) and column (`n_x..`), named by one of its members.
fn components(positives: &Positives) -> Vec<usize> {
    let n_x = positives.n_x();
    let mut parent: Vec<usize> = (0..n_x + positives.n_y()).collect();
    fn root(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    // Rows of one group share their list: its columns are joined once.
    let mut seen = HashSet::new();
    for i in 0..n_x {
        let row = positives.row(i);
        let new = if seen.insert(row.as_ptr()) { row.len() } else { row.len().min(1) };
        for &j in &row[..new] {
            let (a, b) = (root(&mut parent, i), root(&mut parent, n_x + j as usize));
            parent[b] = a;
        }
    }
    (0..parent.len()).map(|i| root(&mut parent, i)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching_rows_stay_together() {
        // Row i matches columns 2i and 2i + 1.
        let indptr: Vec<i64> = (0..=300).map(|i| 2 * i).collect();
        let indices: Vec<i64> = (0..600).collect();
        let p = Positives::from_csr(&indptr, &indices, 600).unwrap();
        let s = split(&p, 30, 1);
        assert_eq!((s.held.0.len(), s.held.1.len()), (30, 60));
        assert_eq!((s.train.0.len(), s.train.1.len()), (270, 540));
        let held = p.subset(&s.held.0, &s.held.1);
        assert_eq!((held.nnz(), held.unmatched()), (60, (0, 0)));
        assert_eq!(p.subset(&s.train.0, &s.train.1).unmatched(), (0, 0));
    }

    #[test]
    fn large_groups_are_cut_through() {
        let groups: Vec<i64> = (0..100).map(|i| i % 5).collect();
        let p = Positives::from_groups(&groups, &groups).unwrap();
        let s = split(&p, 20, 1);
        assert_eq!((s.held.0.len(), s.held.1.len(), s.train.0.len()), (20, 20, 80));
        assert!(p.subset(&s.held.0, &s.held.1).nnz() > 20);
    }
}
