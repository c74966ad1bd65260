//! A matrix in several `.npy` files.

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use super::paged::Stacked;
use super::source::check_request;
use super::{HostFloat, MappedMatrix, RowSource, open_npy};
use crate::error::{Error, Result};

/// `.npy` shards stacked by rows, in natural order of their names (`part-2` before `part-10`).
///
/// Shards may differ in rows, dtype and order, not in columns. All are mapped at once; only the pages of rows that are
/// read are touched.
#[derive(Debug, Clone)]
pub struct ShardedNpy {
    shards: Vec<MappedMatrix>,
    /// First row of each shard, then the total.
    starts: Vec<usize>,
    cols: usize,
    name: String,
}

impl ShardedNpy {
    /// Opens all `.npy` files of a directory, or those that match a glob pattern such as `features/part-*.npy`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a bad pattern or one without matches; otherwise as [`from_paths`](Self::from_paths).
    pub fn open(spec: &str) -> Result<Self> {
        let mut paths = Vec::new();
        if Path::new(spec).is_dir() {
            for entry in std::fs::read_dir(spec).map_err(|e| Error::io(spec, e))? {
                let path = entry.map_err(|e| Error::io(spec, e))?.path();
                let hidden = path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
                if !hidden && path.extension().is_some_and(|e| e == "npy") {
                    paths.push(path);
                }
            }
        } else {
            let pattern = glob::glob(spec).map_err(|e| Error::invalid(spec, "a glob pattern", e))?;
            for path in pattern {
                paths.push(path.map_err(|e| {
                    let unreadable = e.path().to_path_buf();
                    Error::io(unreadable, e.into())
                })?);
            }
        }
        if paths.is_empty() {
            return Err(Error::invalid(spec, "at least one .npy shard", "none"));
        }
        paths.sort_by(|a, b| {
            natural_order(a.as_os_str().as_encoded_bytes(), b.as_os_str().as_encoded_bytes())
        });
        Self::from_paths(spec, &paths)
    }

    /// Opens the given shards in the given order; `name` is what errors call the whole.
    ///
    /// # Errors
    /// [`Error::BadFile`] naming a shard that is damaged or has other columns than the first; [`Error::Io`].
    pub fn from_paths(name: impl Into<String>, paths: &[PathBuf]) -> Result<Self> {
        let mut set = Self { shards: Vec::new(), starts: vec![0], cols: 0, name: name.into() };
        let mut rows = 0usize;
        for path in paths {
            let shard = open_npy(path)?.into_matrix()?;
            if let Some(first) = set.shards.first()
                && first.cols() != shard.cols()
            {
                let (expected, got) = (first.cols(), shard.cols());
                return Err(Error::bad_file(
                    path,
                    format!("has {got} columns, {} has {expected}", first.name()),
                ));
            }
            let total = rows.checked_add(shard.rows());
            rows = total.ok_or_else(|| Error::bad_file(path, "makes the total number of rows overflow"))?;
            set.cols = shard.cols();
            set.starts.push(rows);
            set.shards.push(shard);
        }
        if set.shards.is_empty() {
            return Err(Error::invalid(set.name, "at least one .npy shard", "none"));
        }
        Ok(set)
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    fn read<T: HostFloat>(&self, start: usize, out: &mut [T]) -> Result<()> {
        check_request(self, start, out.len())?;
        let first = self.starts.partition_point(|&s| s <= start).saturating_sub(1);
        let (mut row, mut out) = (start, out);
        for (shard, &begin) in self.shards.iter().zip(&self.starts).skip(first) {
            if out.is_empty() {
                break;
            }
            let here = (begin + shard.rows()).saturating_sub(row).min(out.len() / self.cols);
            let (head, tail) = out.split_at_mut(here * self.cols);
            if here > 0 {
                T::read_rows(shard, row - begin, head)?;
            }
            (row, out) = (row + here, tail);
        }
        Ok(())
    }
}

impl RowSource for ShardedNpy {
    fn rows(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        self.read(start, out)
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.read(start, out)
    }
    fn paged(&self) -> Option<std::sync::Arc<dyn RowSource>> {
        let parts: Option<Vec<_>> = self.shards.iter().map(|s| s.paged()).collect();
        Some(std::sync::Arc::new(Stacked::new(parts?, &self.name)))
    }
    fn name(&self) -> &str {
        &self.name
    }
}

/// Compares names with their runs of digits taken as numbers; equal numbers of unequal length by length (`1` < `01`).
fn natural_order(a: &[u8], b: &[u8]) -> Ordering {
    let (mut a, mut b) = (a, b);
    let mut tie = Ordering::Equal;
    loop {
        let digits = |s: &[u8]| s.iter().take_while(|c| c.is_ascii_digit()).count();
        let (da, db) = (digits(a), digits(b));
        if da > 0 && db > 0 {
            let ((na, ra), (nb, rb)) = (a.split_at(da), b.split_at(db));
            let significant = |n: &[u8]| n.iter().take_while(|&&c| c == b'0').count();
            let (za, zb) = (significant(na), significant(nb));
            let values = (da - za).cmp(&(db - zb)).then_with(|| na.iter().skip(za).cmp(nb.iter().skip(zb)));
            if values.is_ne() {
                return values;
            }
            tie = tie.then(da.cmp(&db));
            (a, b) = (ra, rb);
            continue;
        }
        match (a.split_first(), b.split_first()) {
            (Some((x, ra)), Some((y, rb))) if x == y => (a, b) = (ra, rb),
            (Some((x, _)), Some((y, _))) => return x.cmp(y),
            (None, None) => return tie,
            (left, right) => return left.is_some().cmp(&right.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read_all, write_npy};
    use super::*;

    #[test]
    fn shards_are_stacked_in_natural_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        for (part, rows) in [(1, 3), (2, 0), (9, 1), (10, 4), (11, 2)] {
            let values: Vec<f32> = (0..rows * 2).map(|v| (part * 100 + v) as f32).collect();
            write_npy(dir.path().join(format!("part-{part}.npy")), &[rows as usize, 2], &values).unwrap();
            expected.extend(values);
        }
        write_npy(dir.path().join(".hidden.npy"), &[1, 2], &[0f32, 0.]).unwrap();
        let glob = format!("{}/part-*.npy", dir.path().display());
        for spec in [dir.path().to_str().unwrap(), &glob] {
            let set = ShardedNpy::open(spec).unwrap();
            assert_eq!((set.rows(), set.cols(), set.shards()), (10, 2, 5));
            assert_eq!(read_all::<f32>(&set).unwrap(), expected);
            for start in 0..10 {
                for count in 0..=10 - start {
                    let mut out = vec![0f64; count * 2];
                    set.read_rows_f64(start, &mut out).unwrap();
                    assert!(out.iter().zip(&expected[start * 2..]).all(|(a, b)| *a == f64::from(*b)));
                }
            }
            assert!(set.read_rows(9, &mut [0.; 4]).is_err());
        }
    }

    #[test]
    fn faults_name_the_shard() {
        let dir = tempfile::tempdir().unwrap();
        let spec = dir.path().to_str().unwrap().to_string();
        assert!(ShardedNpy::open(&spec).unwrap_err().to_string().contains("at least one .npy shard"));
        assert!(ShardedNpy::open(&format!("{spec}/none-*.npy")).is_err());
        assert!(ShardedNpy::open(&format!("{spec}/***")).unwrap_err().to_string().contains("a glob pattern"));
        write_npy(dir.path().join("a.npy"), &[1, 2], &[0f32, 0.]).unwrap();
        write_npy(dir.path().join("b.npy"), &[1, 3], &[0f32, 0., 0.]).unwrap();
        let text = ShardedNpy::open(&spec).unwrap_err().to_string();
        assert!(text.contains("b.npy: has 3 columns") && text.contains("a.npy has 2"), "{text}");
    }

    #[test]
    fn natural_order_is_a_total_order() {
        let sorted = ["a", "a1", "a01", "a2", "a10", "a10b", "a10c1", "a10c02", "b", "b0", "b00"];
        for (i, x) in sorted.iter().enumerate() {
            for (j, y) in sorted.iter().enumerate() {
                assert_eq!(natural_order(x.as_bytes(), y.as_bytes()), i.cmp(&j), "{x} {y}");
            }
        }
    }
}
