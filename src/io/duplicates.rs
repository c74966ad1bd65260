//! Rows that are equal to others.
//!
//! A data set that repeats a row (five captions to an image as five pairs) makes the row its own negative unless groups
//! say otherwise, and a copy among the validation rows was seen in training. Rows are compared by a 128-bit digest of
//! their values, so that a file of any element type costs one read and 32 bytes a row.

use super::check::check_digests;
use super::{RowSource, Screened};
use crate::error::Result;
use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

/// A 128-bit digest of a row: equal rows have equal digests, unequal ones with probability 2^-128 a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
#[repr(transparent)]
pub struct Digest([u64; 2]);

impl Digest {
    /// Of a row without negative zeros, which equal the positive ones.
    pub(super) fn of<T: Pod>(row: &[T]) -> Self {
        let whole = xxh3_128(bytemuck::cast_slice(row));
        Self([whole as u64, (whole >> 64) as u64])
    }
}

/// Half of a row's digest and the row's number, by which rows are sorted: the other half is looked at where this one is
/// that of another row too.
pub(crate) type Brief = [u32; 3];

/// Which rows of a matrix are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Duplicates {
    groups: Vec<u32>,
    distinct: usize,
}

impl Duplicates {
    /// From the digests of all rows, in order.
    pub fn of(digests: &[Digest]) -> Self {
        Self::sorted_by(digests, |order| crate::threads::run(|| order.par_sort_unstable()))
    }

    /// As [`of`](Self::of), with other threads to sort. The lists are made by this thread: the allocator keeps what is freed
    /// for the thread that asked for it, and this is the one that asks for what a fit needs next.
    pub(crate) fn sorted_by(digests: &[Digest], sort: impl FnOnce(&mut [Brief])) -> Self {
        let brief = |(digest, row): (&Digest, u32)| [(digest.0[0] >> 32) as u32, digest.0[0] as u32, row];
        let mut order: Vec<Brief> = digests.iter().zip(0..).map(brief).collect();
        sort(&mut order);
        let mut groups = vec![0; digests.len()];
        let mut distinct = 0;
        let whole = |brief: &Brief| digests[brief[2] as usize];
        for alike in order.chunk_by_mut(|a, b| a[..2] == b[..2]) {
            if alike.len() > 1 {
                alike.sort_unstable_by_key(|brief| (whole(brief), brief[2]));
            }
            for equal in alike.chunk_by(|a, b| whole(a) == whole(b)) {
                // The sort is by digest, then by row: the first of equal rows comes first.
                equal.iter().for_each(|brief| groups[brief[2] as usize] = equal[0][2]);
                distinct += 1;
            }
        }
        Self { groups, distinct }
    }

    /// Of each row the first row that is equal to it: equal rows have equal numbers, which serve as group ids.
    pub fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.groups.len()
    }

    /// Number of distinct rows.
    pub fn distinct(&self) -> usize {
        self.distinct
    }

    /// Rows that an earlier row is equal to.
    pub fn repeats(&self) -> usize {
        self.rows() - self.distinct
    }

    /// Whether enough rows repeat that pairs by row number are hardly what was meant: at least two, and one in a hundred.
    pub fn many(&self) -> bool {
        Self::many_of(self.rows(), self.distinct)
    }

    /// As [`many`](Self::many), of numbers of rows and of distinct rows.
    pub fn many_of(rows: usize, distinct: usize) -> bool {
        let repeats = rows.saturating_sub(distinct);
        repeats >= 2 && repeats >= rows / 100
    }
}

/// Which rows of a matrix are equal, as they are stored (zeros of either sign are equal). Reads everything once, in parallel, and
/// checks it like [`check_finite`](super::check_finite).
///
/// Whoever splits rows keeps equal ones together: `duplicate_groups(x)?.groups()` are group ids.
///
/// # Errors
/// As [`check_finite`](super::check_finite).
pub fn duplicate_groups(source: &dyn RowSource) -> Result<Duplicates> {
    let Screened { digests, .. } = check_digests(source, 0..source.rows())?;
    Ok(Duplicates::of(&digests))
}

#[cfg(test)]
mod tests {
    use super::super::HostMatrix;
    use super::*;

    #[test]
    fn equal_rows_share_the_first_ones_number() {
        let rows = [[1., 2.], [0., 3.], [1., 2.], [-0., 3.], [2., 1.], [1., 2.]];
        let m = HostMatrix::from_f32("x", 6, 2, rows.concat()).unwrap();
        let d = duplicate_groups(&m).unwrap();
        assert_eq!(d.groups(), [0, 1, 0, 1, 4, 0]);
        assert_eq!((d.rows(), d.distinct(), d.repeats(), d.many()), (6, 3, 3, true));
        // Equal values are equal in every element type.
        let wide = HostMatrix::from_f64("x", 6, 2, rows.concat().iter().map(|&v| f64::from(v)).collect());
        assert_eq!(duplicate_groups(&wide.unwrap()).unwrap(), d);
        // Values that differ only beyond float32 are not equal.
        let near = HostMatrix::from_f64("x", 3, 1, vec![1e9, 1e9 + 1.0, 1e9]).unwrap();
        assert_eq!(duplicate_groups(&near).unwrap().groups(), [0, 1, 0]);
        assert_eq!(
            duplicate_groups(&super::super::Rows::new(&near, vec![1, 0]).unwrap()).unwrap().distinct(),
            2
        );
        let none = HostMatrix::from_f32("x", 0, 2, vec![]).unwrap();
        assert_eq!(duplicate_groups(&none).unwrap().distinct(), 0);
    }

    #[test]
    fn halves_that_agree_are_not_enough() {
        let digests = [[7, 2], [7, 1], [8, 2], [7, 2], [7 << 32, 1], [7, 1], [8, 2]].map(Digest);
        let found = Duplicates::of(&digests);
        assert_eq!(found.groups(), [0, 1, 2, 0, 4, 1, 2]);
        assert_eq!(found.distinct(), 4);
    }

    #[test]
    fn many_panels_agree_with_a_plain_count() {
        let (n, d) = (20_000, 300);
        let value = |i: usize, j: usize| ((i * 7919 % 15_013) * 31 + j) as f32;
        let values = (0..n * d).map(|k| value(k / d, k % d)).collect();
        let found = duplicate_groups(&HostMatrix::from_f32("x", n, d, values).unwrap()).unwrap();
        assert_eq!(found.distinct(), 15_013);
        // 7919 is prime to 15,013: row i equals row i + 15,013.
        assert!(found.groups().iter().enumerate().all(|(i, &g)| g as usize == i % 15_013));
    }
}
