//! The front end: features by path.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::archive::open_npz;
use super::bytes::FileBytes;
use super::convert_hint::hint;
use super::npy::npy_of;
use super::safetensors::{names_in, tensor_of};
use super::spec::{Spec, resolve};
use super::{MappedArray, MappedMatrix, MatView, Part, RowSource, Shards};
use crate::error::{Error, Result};

/// A feature matrix on disk, opened by its path.
#[derive(Debug, Clone)]
pub enum Features {
    /// One array of one file.
    Mapped(MappedMatrix),
    /// A set of shards.
    Sharded(Shards),
}

impl Features {
    /// Opens `x.npy`, `xy.npz:x` (`xy.npz` if it holds one array), `file.safetensors:tensor` (`file.safetensors` if it holds
    /// one tensor), the same of `file.pt` that `torch.save` wrote (a tensor, or containers of tensors, `file.pt:images.x`), a folder of
    /// such files, or a pattern of them (`part-*.npy`, `part-{0..3}.npy`). `:bf16` after a name reads
    /// two-byte values as bfloat16, which `.npy` files have no type for. A pipe (`/dev/stdin`) is read to its end; of anything
    /// else nothing but headers is read.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be opened; [`Error::BadFile`] if it is damaged, not a matrix, or has no rows;
    /// [`Error::InvalidArgument`] if `spec` is none of the above or matches nothing.
    pub fn open(spec: impl AsRef<OsStr>) -> Result<Self> {
        let spec = spec.as_ref();
        let found = resolve(spec)?;
        let features = match found.parts {
            true => Self::Sharded(open_shards(&spec.display().to_string(), &found)?),
            false => Self::Mapped(open_file(&found.files[0], &found)?.into_matrix()?),
        };
        if features.rows() == 0 {
            return Err(Error::bad_file(spec, "the matrix has no rows"));
        }
        Ok(features)
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
pub fn open(spec: impl AsRef<OsStr>) -> Result<Box<dyn RowSource>> {
    Ok(Box::new(Features::open(spec)?))
}

/// The files that [`open`] and [`read_index_vector`](super::read_index_vector) would read; some may not exist.
///
/// # Errors
/// As [`open`], for a pattern that matches nothing.
pub fn files_of(spec: impl AsRef<OsStr>) -> Result<Vec<PathBuf>> {
    resolve(spec.as_ref()).map(|found| found.files)
}

/// The array in the one file that `spec` names.
pub(super) fn open_one(spec: &OsStr) -> Result<MappedArray> {
    let found = resolve(spec)?;
    match &found.files[..] {
        [only] => open_file(only, &found),
        many => Err(Error::invalid(spec.display().to_string(), "one file", format!("{} files", many.len()))),
    }
}

/// An array of one of a name's files, whatever kind of file it is: its first bytes decide where they can, its name where not.
fn open_file(path: &Path, spec: &Spec) -> Result<MappedArray> {
    let member = spec.member.as_deref();
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    if !path.exists() && !matches!(extension, "npy" | "npz" | "safetensors" | "pt" | "pth") {
        let expected = "x.npy, xy.npz:x, file.safetensors:tensor, file.pt:tensor, or a folder or pattern of such files that exists";
        return Err(Error::invalid("features", expected, format!("'{}'", path.display())));
    }
    let bytes = FileBytes::open(path)?;
    let known = match &bytes[..] {
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => "npy",
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => "npz",
        _ => extension,
    };
    let bad = |reason: String| Error::bad_file(path, reason);
    match known {
        "npz" => open_npz(path, &bytes, member, spec.bf16),
        "npy" => match member {
            None => hint_of(path, &bytes, npy_of(path, bytes.clone(), spec.bf16)),
            Some(name) => {
                Err(bad(format!("holds one array, which has no name; got ':{}'", name.escape_debug())))
            }
        },
        _ if spec.bf16 => {
            Err(bad("is no .npy file; :bf16 is for those, for other files say what they hold".into()))
        }
        "safetensors" => tensor_of(path, bytes, member),
        // The name of a pipe says nothing about its format.
        _ if member.is_some() || super::safetensors::whole_length(&bytes).is_ok() => {
            tensor_of(path, bytes, member)
        }
        _ => hint_of(path, &bytes, npy_of(path, bytes.clone(), false)),
    }
}

/// An array, or an error that says what the file is and how to convert it, where that is known.
fn hint_of(path: &Path, bytes: &[u8], array: Result<MappedArray>) -> Result<MappedArray> {
    array.map_err(|e| hint(path, bytes).map_or(e, |hint| Error::bad_file(path, hint)))
}

/// The shards of a name, stacked.
pub(super) fn open_shards(name: &str, spec: &Spec) -> Result<Shards> {
    let mut files: Vec<&PathBuf> = spec.files.iter().collect();
    if let Some(tensor) = &spec.member {
        // A checkpoint in several safetensors files has each tensor in one of them.
        let mut lacking = None;
        let mut having = Vec::new();
        for file in &files {
            let safetensors = file.extension().is_some_and(|e| e == "safetensors");
            let names = if safetensors { names_in(&FileBytes::open(file)?).ok() } else { None };
            match names {
                Some(names) if !names.contains(tensor) => lacking = Some(*file),
                _ => having.push(*file),
            }
        }
        match (having.len(), lacking) {
            (2.., Some(file)) => {
                let reason =
                    format!("has no tensor '{}', which {} has", tensor.escape_debug(), having[0].display());
                return Err(Error::bad_file(file, reason));
            }
            (1, _) => files = having,
            _ => {}
        }
    }
    let arrays = files.into_iter().map(|file| open_file(file, spec)).collect::<Result<Vec<_>>>()?;
    let tensor = |a: &MappedArray| a.member().map(str::to_string);
    if let Some(other) = arrays.iter().find(|a| tensor(a) != tensor(&arrays[0])) {
        let reason = format!("holds another array than {}; choose one as {name}:NAME", arrays[0].name());
        return Err(Error::bad_file(other.name(), reason));
    }
    Shards::stacked(name.into(), arrays)
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
    fn is_wide(&self) -> bool {
        self.source().is_wide()
    }
    fn part(&self, row: usize) -> Option<Part<'_>> {
        self.source().part(row)
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
            let source = open(at(spec)).unwrap();
            assert_eq!(read_all::<f32>(&source).unwrap(), values, "{spec}");
        }
        for (spec, cause) in [
            ("y.npy", "No such file"),
            ("y.bin", "expected x.npy"),
            ("x.npy:z", "holds one array"),
            ("x.npy:bf16", "two bytes"),
            ("y*.npy", "at least one"),
            ("t.safetensors:c", "has no tensor 'c'"),
            ("u.safetensors:c", "No such file"),
        ] {
            let text = open(at(spec)).err().unwrap().to_string();
            assert!(text.contains(cause) && !text.contains('\n'), "{spec}: {text}");
        }
        write_npy::<f32>(at("empty.npy"), &[0, 3], &[]).unwrap();
        assert!(Features::open(at("empty.npy")).unwrap_err().to_string().contains("no rows"));
        write_npy::<f32>(at("thin.npy"), &[3, 0], &[]).unwrap();
        assert!(Features::open(at("thin.npy")).unwrap_err().to_string().contains("no columns"));
    }
}
