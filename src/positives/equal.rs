//! Matches of rows that repeat: equal rows have each other's.

use super::lists::{Lists, matches};
use super::{Positives, check_count};
use crate::error::{Error, Result};
use crate::io::Duplicates;
use crate::memory::reserve;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Entries of the lists that equal rows may make: 4 GiB.
const MOST_MATCHES: usize = 1 << 30;

impl Positives {
    /// Pairs by row number of rows that repeat: row `i` matches column `j` where some row `k` of x is equal to row `i` and
    /// row `k` of y to row `j`. Five captions of one image match it and each of its copies; a caption that two images share
    /// matches both, and does not make the images' other captions match each other's image.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for different numbers of rows, and where the lists would be beyond all use.
    pub fn of_equal_rows(x: &Duplicates, y: &Duplicates) -> Result<Self> {
        let n = x.rows();
        if y.rows() != n {
            return Err(Error::invalid("y", format!("as many rows as x has, {n}"), y.rows()));
        }
        check_count("x", n)?;
        if x.repeats() + y.repeats() == 0 {
            return Ok(Self::diagonal(n));
        }
        let rows = Arc::new(equal_lists(x.groups(), y.groups())?);
        let cols = Arc::new(equal_lists(y.groups(), x.groups())?);
        Ok(Self { n_x: n, n_y: n, diagonal: false, rows, cols })
    }
}

/// For each row of one side the rows of the other that match it by [`Positives::of_equal_rows`]; rows with the same matches
/// share their list.
fn equal_lists(own: &[u32], other: &[u32]) -> Result<Lists> {
    // Groups are named by their first rows.
    let mut members = vec![Vec::new(); other.len()];
    let mut partners = vec![BTreeSet::new(); own.len()];
    for (row, (&a, &b)) in own.iter().zip(other).enumerate() {
        members[b as usize].push(row as u32);
        partners[a as usize].insert(b);
    }
    let mut lists: HashMap<&BTreeSet<u32>, u32> = HashMap::new();
    let (mut indptr, mut indices): (Vec<usize>, Vec<u32>) = (vec![0], Vec::new());
    let mut of = Vec::with_capacity(own.len());
    for &group in own {
        let set = &partners[group as usize];
        let list = match lists.get(set) {
            Some(&list) => list,
            None => {
                let start = indices.len();
                let more: usize = set.iter().map(|&b| members[b as usize].len()).sum();
                if start.saturating_add(more) > MOST_MATCHES {
                    let expected =
                        format!("at most {MOST_MATCHES} matches of equal rows; give groups instead");
                    return Err(Error::invalid("groups", expected, "more"));
                }
                reserve(&mut indices, more, matches)?;
                set.iter().for_each(|&b| indices.extend(&members[b as usize]));
                indices[start..].sort_unstable();
                indptr.push(indices.len());
                let list = lists.len() as u32;
                lists.insert(set, list);
                list
            }
        };
        of.push(list);
    }
    Lists::shared(of, indptr, indices)
}
