//! Which pairs match: one-to-one, by group, or any relation as CSR.

use crate::error::{Error, Result};
use crate::io::Duplicates;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// Entries of the lists that equal rows may make: 4 GiB.
const MOST_MATCHES: usize = 1 << 30;

/// The relation "column `j` is a positive of row `i`" between `n_x` rows and `n_y` columns.
///
/// Held from both sides as sorted lists. Rows of one group share a list, so groups cost `O(n)` memory
/// however many pairs they imply.
#[derive(Clone, Debug)]
pub struct Positives {
    n_x: usize,
    n_y: usize,
    diagonal: bool,
    rows: Arc<Lists>,
    cols: Arc<Lists>,
}

/// For each anchor a sorted list of partners; anchors may share lists.
#[derive(Clone, Debug, Default)]
struct Lists {
    /// The list of each anchor; empty: anchor `i` has list `i`.
    of: Vec<u32>,
    /// Where each list begins, and where the last ends; empty: list `i` is the one entry `indices[i]`.
    indptr: Vec<usize>,
    indices: Vec<u32>,
    /// Running number of pairs before each anchor, one longer than the anchors; empty: `indptr` says it.
    offset: Vec<usize>,
}

impl Lists {
    fn own(indptr: Vec<usize>, indices: Vec<u32>) -> Self {
        Self { of: Vec::new(), offset: Vec::new(), indptr, indices }
    }

    fn shared(of: Vec<u32>, indptr: Vec<usize>, indices: Vec<u32>) -> Self {
        let mut offset = Vec::with_capacity(of.len() + 1);
        let mut total = 0;
        offset.push(0);
        for &list in &of {
            total += indptr[list as usize + 1] - indptr[list as usize];
            offset.push(total);
        }
        Self { of, indptr, indices, offset }
    }

    /// The lists of some anchors, cut to the (ascending) `partners` and renumbered. Shared lists stay shared.
    fn subset(&self, anchors: &[usize], partners: &[usize], n_partners: usize) -> Self {
        let mut place = vec![u32::MAX; n_partners];
        for (new, &old) in partners.iter().enumerate() {
            place[old] = new as u32;
        }
        let (mut indptr, mut indices) = (vec![0], Vec::new());
        let mut cut = |list: &[u32]| {
            indices.extend(list.iter().map(|&p| place[p as usize]).filter(|&p| p != u32::MAX));
            indptr.push(indices.len());
        };
        if self.of.is_empty() {
            anchors.iter().for_each(|&a| cut(self.get(a)));
            return Self::own(indptr, indices);
        }
        for list in 0..self.indptr.len() - 1 {
            cut(&self.indices[self.indptr[list]..self.indptr[list + 1]]);
        }
        Self::shared(anchors.iter().map(|&a| self.of[a]).collect(), indptr, indices)
    }

    fn get(&self, anchor: usize) -> &[u32] {
        if self.indptr.is_empty() {
            return &self.indices[anchor..=anchor];
        }
        let list = self.of.get(anchor).map_or(anchor, |&l| l as usize);
        &self.indices[self.indptr[list]..self.indptr[list + 1]]
    }

    /// Pairs before an anchor.
    fn offset(&self, anchor: usize) -> usize {
        match (self.offset.is_empty(), self.indptr.is_empty()) {
            (true, true) => anchor,
            (true, false) => self.indptr[anchor],
            (false, _) => self.offset[anchor],
        }
    }
}

impl Positives {
    /// One-to-one: row `i` matches column `i`.
    pub fn diagonal(n: usize) -> Self {
        let lists = Arc::new(Lists::own(Vec::new(), (0..n as u32).collect()));
        Self { n_x: n, n_y: n, diagonal: true, rows: lists.clone(), cols: lists }
    }

    /// The distinct rows and columns of some pairs of this relation, and every match among them.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when nothing matches.
    pub fn among(&self, pairs: &[(u32, u32)]) -> Result<(Vec<u32>, Vec<u32>, Self)> {
        if self.diagonal {
            let ids: Vec<u32> = pairs.iter().map(|p| p.0).collect();
            return Ok((ids.clone(), ids, Self::diagonal(pairs.len())));
        }
        let distinct = |mut ids: Vec<u32>| {
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let x = distinct(pairs.iter().map(|p| p.0).collect());
        let y = distinct(pairs.iter().map(|p| p.1).collect());
        let (mut indptr, mut indices) = (vec![0i64], Vec::new());
        for &i in &x {
            // Both lists ascend: one walk finds what they share.
            let (row, mut at) = (self.row(i as usize), 0);
            for &j in row {
                at += y[at..].partition_point(|&c| c < j);
                if y.get(at) == Some(&j) {
                    indices.push(at as i64);
                }
            }
            indptr.push(indices.len() as i64);
        }
        let positives = Self::from_csr(&indptr, &indices, y.len())?;
        Ok((x, y, positives))
    }

    /// No positives at all: a grid for retrieval without ground truth.
    pub(crate) fn none(n_x: usize, n_y: usize) -> Self {
        Self::from_sorted(vec![0; n_x + 1], Vec::new(), n_y)
    }

    /// Equal group id = positive. Ids are arbitrary integers; a group may be missing on either side.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when no pair matches at all.
    pub fn from_groups(groups_x: &[i64], groups_y: &[i64]) -> Result<Self> {
        check_count("groups_x", groups_x.len())?;
        check_count("groups_y", groups_y.len())?;
        let mut ids: HashMap<i64, u32> = HashMap::new();
        for &g in groups_x.iter().chain(groups_y) {
            let next = ids.len() as u32;
            ids.entry(g).or_insert(next);
        }
        let members = |groups: &[i64]| {
            let mut lists = vec![Vec::new(); ids.len()];
            for (i, g) in groups.iter().enumerate() {
                lists[ids[g] as usize].push(i as u32);
            }
            let mut indptr = vec![0];
            for list in &lists {
                indptr.push(indptr[indptr.len() - 1] + list.len());
            }
            (indptr, lists.concat())
        };
        let of = |groups: &[i64]| groups.iter().map(|g| ids[g]).collect::<Vec<u32>>();
        let (ptr_y, idx_y) = members(groups_y);
        let (ptr_x, idx_x) = members(groups_x);
        let rows = Arc::new(Lists::shared(of(groups_x), ptr_y, idx_y));
        let cols = Arc::new(Lists::shared(of(groups_y), ptr_x, idx_x));
        let out = Self { n_x: groups_x.len(), n_y: groups_y.len(), diagonal: false, rows, cols };
        if out.nnz() == 0 {
            return Err(Error::invalid("groups", "at least one group id on both sides", "none in common"));
        }
        Ok(out)
    }

    /// Any relation by rows: the positives of row `i` are `indices[indptr[i]..indptr[i + 1]]`, in any order.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when `indptr` is not a running count over `indices`, an index is out of range,
    /// a row repeats a column, or there is no pair at all. The row is named.
    pub fn from_csr(indptr: &[i64], indices: &[i64], n_y: usize) -> Result<Self> {
        check_count("pos_indices' columns", n_y)?;
        let Some(n_x) = indptr.len().checked_sub(1).filter(|&n| n > 0) else {
            return Err(Error::invalid("pos_indptr", "n_x + 1 entries, n_x >= 1", indptr.len()));
        };
        check_count("pos_indptr", n_x)?;
        if indptr[0] != 0 || indptr[n_x] != indices.len() as i64 {
            let got = format!("{} .. {}", indptr[0], indptr[n_x]);
            return Err(Error::invalid("pos_indptr", format!("to run from 0 to {}", indices.len()), got));
        }
        let mut ptr = Vec::with_capacity(n_x + 1);
        let mut idx = Vec::with_capacity(indices.len());
        ptr.push(0usize);
        for i in 0..n_x {
            if indptr[i + 1] < indptr[i] || indptr[i + 1] > indices.len() as i64 {
                let got = format!("{} after {} at row {i}", indptr[i + 1], indptr[i]);
                return Err(Error::invalid("pos_indptr", "a non-decreasing sequence", got));
            }
            let row = &indices[indptr[i] as usize..indptr[i + 1] as usize];
            let start = idx.len();
            for &j in row {
                if j < 0 || j >= n_y as i64 {
                    let got = format!("{j} in row {i}");
                    return Err(Error::invalid("pos_indices", format!("columns in 0..{n_y}"), got));
                }
                idx.push(j as u32);
            }
            idx[start..].sort_unstable();
            if let Some(w) = idx[start..].windows(2).find(|w| w[0] == w[1]) {
                let got = format!("{} twice in row {i}", w[0]);
                return Err(Error::invalid("pos_indices", "each column once a row", got));
            }
            ptr.push(idx.len());
        }
        if idx.is_empty() {
            return Err(Error::invalid("positives", "at least one matching pair", "none"));
        }
        Ok(Self::from_sorted(ptr, idx, n_y))
    }

    /// From a valid, sorted CSR: builds the other side.
    fn from_sorted(indptr: Vec<usize>, indices: Vec<u32>, n_y: usize) -> Self {
        let n_x = indptr.len() - 1;
        let own = |(i, &j): (usize, &u32)| i == j as usize && indptr[i] == i;
        if n_x == n_y && indices.len() == n_x && indices.iter().enumerate().all(own) {
            return Self::diagonal(n_x);
        }
        let mut ptr = vec![0usize; n_y + 1];
        for &j in &indices {
            ptr[j as usize + 1] += 1;
        }
        for j in 0..n_y {
            ptr[j + 1] += ptr[j];
        }
        let mut next = ptr.clone();
        let mut idx = vec![0u32; indices.len()];
        for i in 0..n_x {
            for &j in &indices[indptr[i]..indptr[i + 1]] {
                idx[next[j as usize]] = i as u32;
                next[j as usize] += 1;
            }
        }
        let (rows, cols) = (Arc::new(Lists::own(indptr, indices)), Arc::new(Lists::own(ptr, idx)));
        Self { n_x, n_y, diagonal: false, rows, cols }
    }

    /// Rows (samples of x).
    pub fn n_x(&self) -> usize {
        self.n_x
    }

    /// Columns (samples of y).
    pub fn n_y(&self) -> usize {
        self.n_y
    }

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

    /// The relation without some rows and columns (ascending), and the rows and columns that are left. Of pairs by row
    /// number the whole pair goes.
    pub fn without(&self, x: &[usize], y: &[usize]) -> (Vec<usize>, Vec<usize>, Self) {
        let left = |n: usize, gone: &[&[usize]]| {
            let mut keep = vec![true; n];
            gone.iter().copied().flatten().for_each(|&i| keep[i] = false);
            (0..n).filter(|&i| keep[i]).collect::<Vec<usize>>()
        };
        let (x, y) = match self.diagonal {
            true => (left(self.n_x, &[x, y]), left(self.n_y, &[x, y])),
            false => (left(self.n_x, &[x]), left(self.n_y, &[y])),
        };
        let relation = self.subset(&x, &y);
        (x, y, relation)
    }

    /// Number of matching pairs.
    pub fn nnz(&self) -> usize {
        self.rows.offset(self.n_x)
    }

    /// Whether this is exactly "row `i` matches column `i`".
    pub fn is_diagonal(&self) -> bool {
        self.diagonal
    }

    /// The sorted positives of row `i`.
    pub fn row(&self, i: usize) -> &[u32] {
        self.rows.get(i)
    }

    /// The sorted positives of column `j`.
    pub fn col(&self, j: usize) -> &[u32] {
        self.cols.get(j)
    }

    /// Pairs before row `i`, in row order: where row `i`'s per-pair values start.
    pub fn row_offset(&self, i: usize) -> usize {
        self.rows.offset(i)
    }

    /// Pairs before column `j`, in column order.
    pub fn col_offset(&self, j: usize) -> usize {
        self.cols.offset(j)
    }

    /// Whether `(i, j)` match.
    pub fn contains(&self, i: usize, j: usize) -> bool {
        self.row(i).binary_search(&(j as u32)).is_ok()
    }

    /// The positives of row `i` among the columns `cols`.
    pub fn row_in(&self, i: usize, cols: &Range<usize>) -> &[u32] {
        let row = self.row(i);
        let start = row.partition_point(|&j| (j as usize) < cols.start);
        let end = start + row[start..].partition_point(|&j| (j as usize) < cols.end);
        &row[start..end]
    }

    /// The relation seen from the other side.
    pub fn transposed(&self) -> Self {
        Self {
            n_x: self.n_y,
            n_y: self.n_x,
            diagonal: self.diagonal,
            rows: self.cols.clone(),
            cols: self.rows.clone(),
        }
    }

    /// The relation among the rows `x` and columns `y` only, renumbered from 0. It may be empty.
    pub fn restricted(&self, x: Range<usize>, y: Range<usize>) -> Self {
        if self.diagonal && x == y {
            return Self::diagonal(x.len());
        }
        let mut ptr = vec![0];
        let mut idx = Vec::new();
        for i in x {
            idx.extend(self.row_in(i, &y).iter().map(|&j| j - y.start as u32));
            ptr.push(idx.len());
        }
        Self::from_sorted(ptr, idx, y.len())
    }

    /// The relation among some rows and columns only, given in ascending order, renumbered by their places in the lists.
    /// It may be empty.
    ///
    /// # Panics
    /// When a row or column does not exist.
    pub fn subset(&self, x: &[usize], y: &[usize]) -> Self {
        if self.diagonal && x == y {
            return Self::diagonal(x.len());
        }
        let (rows, cols) = (self.rows.subset(x, y, self.n_y), self.cols.subset(y, x, self.n_x));
        Self { n_x: x.len(), n_y: y.len(), diagonal: false, rows: Arc::new(rows), cols: Arc::new(cols) }
    }

    /// The relation and every pair `(i, i)`; as many columns as rows.
    pub(crate) fn with_self(&self) -> Self {
        if (0..self.n_x).all(|i| self.contains(i, i)) {
            return self.clone();
        }
        let (mut ptr, mut idx) = (vec![0], Vec::with_capacity(self.nnz() + self.n_x));
        for i in 0..self.n_x {
            let (row, own) = (self.row(i), i as u32);
            let at = row.partition_point(|&j| j < own);
            idx.extend_from_slice(&row[..at]);
            idx.push(own);
            idx.extend_from_slice(&row[at + usize::from(row.get(at) == Some(&own))..]);
            ptr.push(idx.len());
        }
        Self::from_sorted(ptr, idx, self.n_y)
    }

    /// Rows and columns that match nothing: they add nothing to the loss but count in its averages.
    pub fn unmatched(&self) -> (usize, usize) {
        let count = |n: usize, lists: &Lists| (0..n).filter(|&i| lists.get(i).is_empty()).count();
        (count(self.n_x, &self.rows), count(self.n_y, &self.cols))
    }

    /// Checks that the relation is between `n_x` rows and `n_y` columns.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming both shapes.
    pub fn check_shape(&self, n_x: usize, n_y: usize) -> Result<()> {
        if (self.n_x, self.n_y) == (n_x, n_y) {
            return Ok(());
        }
        let got = format!("{} x {}", self.n_x, self.n_y);
        Err(Error::invalid("positives", format!("a relation between {n_x} rows and {n_y} columns"), got))
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
    Ok(Lists::shared(of, indptr, indices))
}

fn check_count(name: &str, n: usize) -> Result<()> {
    if n == 0 || n > u32::MAX as usize {
        return Err(Error::invalid(name, format!("between 1 and {} samples", u32::MAX), n));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_equal_their_csr() {
        let (gx, gy) = ([3, 7, 3, 9], [7, 3, 3, 1, 7]);
        let groups = Positives::from_groups(&gx, &gy).unwrap();
        let csr = Positives::from_csr(&[0, 2, 4, 6, 6], &[1, 2, 4, 0, 2, 1], 5).unwrap();
        for i in 0..4 {
            assert_eq!(groups.row(i), csr.row(i));
            assert_eq!(groups.row_offset(i), csr.row_offset(i));
        }
        for j in 0..5 {
            assert_eq!(groups.col(j), csr.col(j));
        }
        assert_eq!(groups.nnz(), 6);
        assert_eq!(groups.unmatched(), (1, 1));
        let cut = groups.restricted(1..3, 1..5);
        assert_eq!((cut.row(0), cut.row(1)), (&[3u32][..], &[0u32, 1][..]));
    }

    #[test]
    fn subsets_of_shared_and_own_lists_agree() {
        let groups = Positives::from_groups(&[3, 7, 3, 9, 7], &[7, 3, 3, 1, 7]).unwrap();
        let csr = Positives::from_csr(&[0, 2, 4, 6, 6, 8], &[1, 2, 0, 4, 1, 2, 0, 4], 5).unwrap();
        let (x, y) = ([0, 1, 4], [0, 2, 3]);
        let (a, b) = (groups.subset(&x, &y), csr.subset(&x, &y));
        assert_eq!((a.n_x(), a.n_y(), a.nnz()), (3, 3, 3));
        for i in 0..3 {
            assert_eq!(a.row(i), b.row(i));
            assert_eq!(a.col(i), b.col(i));
            assert_eq!(a.row_offset(i), b.row_offset(i));
        }
        assert_eq!((a.row(0), a.row(1)), (&[1u32][..], &[0u32][..]));
        assert!(Positives::diagonal(9).subset(&[1, 5], &[1, 5]).is_diagonal());
    }

    #[test]
    fn equal_rows_have_each_others_matches() {
        use crate::io::{HostMatrix, duplicate_groups};
        let of = |ids: &[f32]| {
            let m = HostMatrix::from_f32("m", ids.len(), 1, ids.to_vec()).unwrap();
            duplicate_groups(&m).unwrap()
        };
        // Images a a b b c, captions p q q r s: q is a caption of a and of b.
        let (x, y) = (of(&[1., 1., 2., 2., 3.]), of(&[1., 2., 2., 3., 4.]));
        let p = Positives::of_equal_rows(&x, &y).unwrap();
        let rows: Vec<&[u32]> = (0..5).map(|i| p.row(i)).collect();
        assert_eq!(rows, [&[0, 1, 2][..], &[0, 1, 2], &[1, 2, 3], &[1, 2, 3], &[4]]);
        let cols: Vec<&[u32]> = (0..5).map(|j| p.col(j)).collect();
        assert_eq!(cols, [&[0, 1][..], &[0, 1, 2, 3], &[0, 1, 2, 3], &[2, 3], &[4]]);
        assert!((0..5).all(|i| (0..5).all(|j| p.contains(i, j) == p.col(j).contains(&(i as u32)))));
        // Repeats on one side are groups.
        let p = Positives::of_equal_rows(&of(&[7., 7., 8.]), &of(&[1., 2., 3.])).unwrap();
        let groups = Positives::from_groups(&[7, 7, 8], &[7, 7, 8]).unwrap();
        assert!((0..3).all(|i| p.row(i) == groups.row(i) && p.col(i) == groups.col(i)));
        assert!(Positives::of_equal_rows(&of(&[1., 2.]), &of(&[3., 4.])).unwrap().is_diagonal());
        assert!(Positives::of_equal_rows(&of(&[1., 2.]), &of(&[3.])).is_err());
    }

    #[test]
    fn dropped_rows_take_their_pairs_along() {
        let (x, y, p) = Positives::diagonal(5).without(&[1], &[3]);
        assert_eq!((x, y), (vec![0, 2, 4], vec![0, 2, 4]));
        assert!(p.is_diagonal() && p.n_x() == 3);
        let groups = Positives::from_groups(&[3, 7, 3], &[7, 3, 3, 1]).unwrap();
        let (x, y, p) = groups.without(&[0], &[2]);
        assert_eq!((x, y), (vec![1, 2], vec![0, 1, 3]));
        assert_eq!((p.row(0), p.row(1), p.unmatched()), (&[0u32][..], &[1u32][..], (0, 1)));
    }

    #[test]
    fn hostile_lists_are_refused() {
        let bad = |p: &[i64], i: &[i64]| Positives::from_csr(p, i, 3).unwrap_err().to_string();
        assert!(bad(&[], &[]).contains("pos_indptr"));
        assert!(bad(&[0, 1], &[3]).contains("3 in row 0"));
        assert!(bad(&[0, 1], &[-1]).contains("-1 in row 0"));
        assert!(bad(&[0, 2], &[1, 1]).contains("1 twice in row 0"));
        assert!(bad(&[0, 2, 1], &[0]).contains("row 0"));
        assert!(bad(&[0, 0, 0], &[]).contains("none"));
        assert!(Positives::from_groups(&[1], &[2]).is_err());
    }

    #[test]
    fn csr_that_is_the_identity_is_known_as_diagonal() {
        assert!(Positives::from_csr(&[0, 1, 2], &[0, 1], 2).unwrap().is_diagonal());
        assert!(!Positives::from_csr(&[0, 1, 2], &[1, 0], 2).unwrap().is_diagonal());
        // The same columns in the same order, all of one row.
        assert!(!Positives::from_csr(&[0, 0, 2], &[0, 1], 2).unwrap().is_diagonal());
        let p = Positives::diagonal(3);
        assert_eq!((p.nnz(), p.row(2), p.col(1), p.row_offset(3)), (3, &[2u32][..], &[1u32][..], 3));
    }
}
