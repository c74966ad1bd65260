//! Which pairs match: one-to-one, by group, or any relation as CSR.

mod equal;
mod lists;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::memory::{filled, room};
use lists::{Lists, matches};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

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
    pub(crate) fn among(&self, pairs: &[(u32, u32)]) -> Result<(Vec<u32>, Vec<u32>, Self)> {
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
    pub(crate) fn none(n_x: usize, n_y: usize) -> Result<Self> {
        Self::from_sorted(filled(n_x + 1, 0, matches)?, Vec::new(), n_y)
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
        let rows = Arc::new(Lists::shared(of(groups_x), ptr_y, idx_y)?);
        let cols = Arc::new(Lists::shared(of(groups_y), ptr_x, idx_x)?);
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
        let (mut ptr, mut idx) = (room(n_x + 1, matches)?, room(indices.len(), matches)?);
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
        Self::from_sorted(ptr, idx, n_y)
    }

    /// From a valid, sorted CSR: builds the other side.
    fn from_sorted(indptr: Vec<usize>, indices: Vec<u32>, n_y: usize) -> Result<Self> {
        let n_x = indptr.len() - 1;
        let own = |(i, &j): (usize, &u32)| i == j as usize && indptr[i] == i;
        if n_x == n_y && indices.len() == n_x && indices.iter().enumerate().all(own) {
            return Ok(Self::diagonal(n_x));
        }
        let mut ptr = filled(n_y + 1, 0usize, matches)?;
        for &j in &indices {
            ptr[j as usize + 1] += 1;
        }
        for j in 0..n_y {
            ptr[j + 1] += ptr[j];
        }
        let mut next = ptr.clone();
        let mut idx = filled(indices.len(), 0u32, matches)?;
        for i in 0..n_x {
            for &j in &indices[indptr[i]..indptr[i + 1]] {
                idx[next[j as usize]] = i as u32;
                next[j as usize] += 1;
            }
        }
        let (rows, cols) = (Arc::new(Lists::own(indptr, indices)), Arc::new(Lists::own(ptr, idx)));
        Ok(Self { n_x, n_y, diagonal: false, rows, cols })
    }

    /// Rows (samples of x).
    pub fn n_x(&self) -> usize {
        self.n_x
    }

    /// Columns (samples of y).
    pub fn n_y(&self) -> usize {
        self.n_y
    }

    /// The relation without some rows and columns (ascending), and the rows and columns that are left. Of pairs by row
    /// number the whole pair goes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn without(&self, x: &[usize], y: &[usize]) -> Result<(Vec<usize>, Vec<usize>, Self)> {
        let left = |n: usize, gone: &[&[usize]]| {
            let mut keep = vec![true; n];
            gone.iter().copied().flatten().for_each(|&i| keep[i] = false);
            (0..n).filter(|&i| keep[i]).collect::<Vec<usize>>()
        };
        let (x, y) = match self.diagonal {
            true => (left(self.n_x, &[x, y]), left(self.n_y, &[x, y])),
            false => (left(self.n_x, &[x]), left(self.n_y, &[y])),
        };
        let relation = self.subset(&x, &y)?;
        Ok((x, y, relation))
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
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn restricted(&self, x: Range<usize>, y: Range<usize>) -> Result<Self> {
        if self.diagonal && x == y {
            return Ok(Self::diagonal(x.len()));
        }
        let most = x.clone().map(|i| self.row_in(i, &y).len()).sum();
        let (mut ptr, mut idx) = (room(x.len() + 1, matches)?, room(most, matches)?);
        ptr.push(0);
        for i in x {
            idx.extend(self.row_in(i, &y).iter().map(|&j| j - y.start as u32));
            ptr.push(idx.len());
        }
        Self::from_sorted(ptr, idx, y.len())
    }

    /// The relation among some rows and columns only, given in ascending order, renumbered by their places in the lists.
    /// It may be empty.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    ///
    /// # Panics
    /// When a row or column does not exist.
    pub(crate) fn subset(&self, x: &[usize], y: &[usize]) -> Result<Self> {
        if self.diagonal && x == y {
            return Ok(Self::diagonal(x.len()));
        }
        let (rows, cols) = (self.rows.subset(x, y, self.n_y)?, self.cols.subset(y, x, self.n_x)?);
        let (rows, cols) = (Arc::new(rows), Arc::new(cols));
        Ok(Self { n_x: x.len(), n_y: y.len(), diagonal: false, rows, cols })
    }

    /// The relation and every pair `(i, i)`; as many columns as rows.
    pub(crate) fn with_self(&self) -> Result<Self> {
        if (0..self.n_x).all(|i| self.contains(i, i)) {
            return Ok(self.clone());
        }
        let (mut ptr, mut idx) = (room(self.n_x + 1, matches)?, room(self.nnz() + self.n_x, matches)?);
        ptr.push(0);
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

fn check_count(name: &str, n: usize) -> Result<()> {
    if n == 0 || n > u32::MAX as usize {
        return Err(Error::invalid(name, format!("between 1 and {} samples", u32::MAX), n));
    }
    Ok(())
}
