//! The front end: features by path.

use std::path::Path;

use super::{MappedMatrix, MatView, RowSource, ShardedNpy, open_npy, open_safetensors};
use crate::error::{Error, Result};

/// A feature matrix on disk, opened by its path.
#[derive(Debug, Clone)]
pub enum Features {
    /// One array of one file.
    Mapped(MappedMatrix),
    /// A set of `.npy` shards.
    Sharded(ShardedNpy),
}

impl Features {
    /// Opens `x.npy`, `file.safetensors:tensor` (`file.safetensors` if it holds one tensor), a directory of `.npy`
    /// shards, or a glob pattern of them. Nothing but headers is read.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be opened; [`Error::BadFile`] if it is damaged, not a matrix, or has no rows;
    /// [`Error::InvalidArgument`] if `spec` is none of the above or matches nothing.
    pub fn open(spec: &str) -> Result<Self> {
        let features = Self::find(spec)?;
        if features.rows() == 0 {
            return Err(Error::bad_file(spec, "the matrix has no rows"));
        }
        Ok(features)
    }

    fn find(spec: &str) -> Result<Self> {
        let path = Path::new(spec);
        if path.is_dir() {
            return ShardedNpy::open(spec).map(Self::Sharded);
        }
        if let Some((file, tensor)) = split_tensor(spec) {
            return open_safetensors(file, tensor)?.into_matrix().map(Self::Mapped);
        }
        if !path.exists() && spec.contains(['*', '?', '[']) {
            return ShardedNpy::open(spec).map(Self::Sharded);
        }
        if path.exists() || path.extension().is_some_and(|e| e == "npy") {
            return open_npy(path)?.into_matrix().map(Self::Mapped);
        }
        let expected =
            "x.npy, file.safetensors:tensor, or a directory or glob pattern of .npy shards that exists";
        Err(Error::invalid("features", expected, format!("'{spec}'")))
    }

    fn source(&self) -> &dyn RowSource {
        match self {
            Self::Mapped(m) => m,
            Self::Sharded(s) => s,
        }
    }
}

/// [`Features::open`] as a boxed source.
///
/// # Errors
/// As [`Features::open`].
pub fn open(spec: &str) -> Result<Box<dyn RowSource>> {
    Ok(Box::new(Features::open(spec)?))
}

/// Splits `file.safetensors[:tensor]`; `None` if `spec` is not of that form. A file whose very name is `spec` wins over
/// a tensor of a file with a shorter name.
pub(super) fn split_tensor(spec: &str) -> Option<(&str, Option<&str>)> {
    const SUFFIX: &str = ".safetensors";
    if spec.ends_with(SUFFIX) {
        return Some((spec, None));
    }
    if Path::new(spec).exists() {
        return None;
    }
    let at = spec.find(&format!("{SUFFIX}:"))? + SUFFIX.len();
    let (file, tensor) = spec.split_at(at);
    Some((file, tensor.strip_prefix(':')))
}

impl RowSource for Features {
    fn rows(&self) -> usize {
        self.source().rows()
    }
    fn cols(&self) -> usize {
        self.source().cols()
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        self.source().read_rows(start, out)
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.source().read_rows_f64(start, out)
    }
    fn name(&self) -> &str {
        self.source().name()
    }
    fn view(&self) -> Option<MatView<'_>> {
        self.source().view()
    }
    fn paged(&self) -> Option<std::sync::Arc<dyn RowSource>> {
        self.source().paged()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read_all, write_npy};
    use super::*;

    #[test]
    fn every_form_of_path_opens() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
        let values = [1f32, 2., 3., 4., 5., 6.];
        write_npy(at("x.npy"), &[2, 3], &values).unwrap();
        std::fs::create_dir(at("parts")).unwrap();
        for k in 0..2 {
            write_npy(at(&format!("parts/p{k}.npy")), &[1, 3], &values[3 * k..3 * k + 3]).unwrap();
        }
        let tensor = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            vec![2, 3],
            bytemuck::cast_slice(&values),
        );
        let bytes = safetensors::serialize([("a:b", tensor.unwrap())], None).unwrap();
        std::fs::write(at("t.safetensors"), bytes).unwrap();
        for spec in
            ["x.npy", "parts", "parts/*.npy", "t.safetensors", "t.safetensors:a:b", "./x.npy", "x.np?"]
        {
            let source = open(&at(spec)).unwrap();
            assert_eq!(read_all::<f32>(&source).unwrap(), values, "{spec}");
        }
        for (spec, cause) in [
            ("y.npy", "No such file"),
            ("y.bin", "expected x.npy"),
            ("y*.npy", "at least one"),
            ("t.safetensors:c", "has no tensor 'c'"),
            ("u.safetensors:c", "No such file"),
        ] {
            let text = open(&at(spec)).err().unwrap().to_string();
            assert!(text.contains(cause) && !text.contains('\n'), "{spec}: {text}");
        }
        write_npy::<f32>(at("empty.npy"), &[0, 3], &[]).unwrap();
        assert!(Features::open(&at("empty.npy")).unwrap_err().to_string().contains("no rows"));
        write_npy::<f32>(at("thin.npy"), &[3, 0], &[]).unwrap();
        assert!(Features::open(&at("thin.npy")).unwrap_err().to_string().contains("no columns"));
    }
}
