//! A matrix in several files.

use std::ffi::OsStr;
use std::sync::Arc;

use super::features::open_shards;
use super::source::check_request;
use super::spec::resolve;
use super::{HostFloat, MappedArray, MappedMatrix, Part, RowSource};
use crate::error::{Error, Result};

/// Shards stacked by rows, in natural order of their names (`part-2` before `part-10`).
///
/// Shards may differ in rows, dtype and order, not in columns; those without rows are left out. All are mapped at once; only
/// the pages of rows that are read are touched.
#[derive(Debug, Clone)]
pub struct Shards<S = MappedMatrix> {
    shards: Vec<S>,
    /// First row of each shard, then the total.
    starts: Vec<usize>,
    name: String,
}

impl Shards {
    /// Opens the shards in a folder, or the files that match a pattern such as `features/part-*.npy` or
    /// `part-{0..3}.safetensors:tensor`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a bad pattern or one without matches; [`Error::BadFile`] naming a shard that is damaged
    /// or has other columns than the first, and if none has rows; [`Error::Io`].
    pub fn open(spec: impl AsRef<OsStr>) -> Result<Self> {
        let spec = spec.as_ref();
        open_shards(&spec.display().to_string(), &resolve(spec)?)
    }

    /// The arrays as one matrix.
    pub(super) fn stacked(name: String, arrays: Vec<MappedArray>) -> Result<Self> {
        let mut set = Self { shards: Vec::new(), starts: vec![0], name };
        let some = !arrays.is_empty();
        let mut rows = 0usize;
        for array in arrays.into_iter().filter(|a| !a.is_empty()) {
            let shard = array.into_matrix()?;
            if let Some(first) = set.shards.first()
                && first.cols() != shard.cols()
            {
                let reason = format!("has {} columns, {} has {}", shard.cols(), first.name(), first.cols());
                return Err(Error::bad_file(shard.name(), reason));
            }
            let total = rows.checked_add(shard.rows());
            rows = total
                .ok_or_else(|| Error::bad_file(shard.name(), "makes the total number of rows overflow"))?;
            set.starts.push(rows);
            set.shards.push(shard);
        }
        match set.shards.is_empty() {
            true if some => Err(Error::bad_file(set.name, "the matrix has no rows")),
            true => Err(Error::invalid(set.name, "at least one .npy shard", "none")),
            false => Ok(set),
        }
    }
}

impl<S: RowSource> Shards<S> {
    /// Number of shards that have rows.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    fn read<T: HostFloat>(&self, start: usize, out: &mut [T]) -> Result<()> {
        check_request(self, start, out.len())?;
        let first = self.starts.partition_point(|&s| s <= start).saturating_sub(1);
        let (mut row, mut out, cols) = (start, out, self.cols());
        for (shard, &begin) in self.shards.iter().zip(&self.starts).skip(first) {
            if out.is_empty() {
                break;
            }
            let here = (begin + shard.rows()).saturating_sub(row).min(out.len() / cols);
            let (head, tail) = out.split_at_mut(here * cols);
            if here > 0 {
                T::read_rows(shard, row - begin, head)?;
            }
            (row, out) = (row + here, tail);
        }
        Ok(())
    }
}

impl<S: RowSource> RowSource for Shards<S> {
    fn rows(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }
    fn cols(&self) -> usize {
        self.shards.first().map_or(0, RowSource::cols)
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        self.read(start, out)
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.read(start, out)
    }
    fn paged(&self) -> Option<Arc<dyn RowSource>> {
        let shards = self.shards.iter().map(RowSource::paged).collect::<Option<Vec<_>>>()?;
        Some(Arc::new(Shards { shards, starts: self.starts.clone(), name: self.name.clone() }))
    }
    fn name(&self) -> &str {
        &self.name
    }
    fn is_wide(&self) -> bool {
        self.shards.iter().any(|s| s.is_wide())
    }
    fn part(&self, row: usize) -> Option<Part<'_>> {
        let index = self.starts.partition_point(|&s| s <= row).checked_sub(1)?;
        let name = self.shards.get(index)?.name();
        Some(Part { name, index, of: self.shards.len(), row: row - self.starts[index] })
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
        // As `np.save` writes `np.array([])`: of an empty part neither width nor type is checked.
        write_npy::<f64>(dir.path().join("part-12.npy"), &[0], &[]).unwrap();
        write_npy::<f64>(dir.path().join("part-13.npy"), &[0, 7], &[]).unwrap();
        write_npy(dir.path().join(".hidden.npy"), &[1, 2], &[0f32, 0.]).unwrap();
        let dir_of = dir.path().display();
        let globs = [
            format!("{dir_of}/part-*.npy"),
            format!("{dir_of}/*"),
            format!("{dir_of}/part-{{1,2,9,{{10..13}}}}.npy"),
        ];
        for spec in [&dir_of.to_string()].into_iter().chain(&globs) {
            let set = Shards::open(spec).unwrap();
            assert_eq!((set.rows(), set.cols(), set.shards()), (10, 2, 4), "{spec}");
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
        let set = Shards::open(dir.path()).unwrap();
        let part = set.part(5).unwrap();
        assert_eq!((part.index, part.row, part.of), (2, 1, 4));
        assert!(part.name.ends_with("part-10.npy"), "{}", part.name);
    }

    #[test]
    fn faults_name_the_shard() {
        let dir = tempfile::tempdir().unwrap();
        let spec = dir.path().to_str().unwrap().to_string();
        assert!(Shards::open(&spec).unwrap_err().to_string().contains("at least one .npy shard"));
        assert!(Shards::open(format!("{spec}/none-*.npy")).is_err());
        assert!(Shards::open(format!("{spec}/***")).unwrap_err().to_string().contains("a glob pattern"));
        write_npy::<f32>(dir.path().join("a.npy"), &[0, 2], &[]).unwrap();
        assert!(Shards::open(&spec).unwrap_err().to_string().contains("no rows"));
        write_npy(dir.path().join("a.npy"), &[1, 2], &[0f32, 0.]).unwrap();
        write_npy(dir.path().join("b.npy"), &[1, 3], &[0f32, 0., 0.]).unwrap();
        let text = Shards::open(&spec).unwrap_err().to_string();
        assert!(text.contains("b.npy: has 3 columns") && text.contains("a.npy has 2"), "{text}");
        let twice = Shards::open(format!("{spec}/{{a,a}}.npy")).unwrap_err().to_string();
        assert!(twice.contains("a.npy twice"), "{twice}");
    }
}
