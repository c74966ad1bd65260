//! Tensors of `.safetensors` files, mapped.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype as StDtype, Metadata, TensorInfo};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::bytes::FileBytes;
use super::{Dtype, MappedArray};
use crate::error::{Error, Result};

/// The format's own bound on the JSON header.
const MAX_HEADER: u64 = 100_000_000;

/// Maps one tensor of a safetensors file: the named one, or the only one.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened; [`Error::BadFile`] if it is damaged, has no such tensor, has several and
/// `tensor` is `None`, or the tensor's dtype is not one of [`Dtype`].
pub fn open_safetensors(path: impl AsRef<Path>, tensor: Option<&str>) -> Result<MappedArray> {
    let path = path.as_ref();
    tensor_of(path, FileBytes::open(path)?, tensor)
}

/// A tensor in the bytes of the safetensors file at `path`, as [`open_safetensors`].
pub(super) fn tensor_of(path: &Path, bytes: Arc<FileBytes>, tensor: Option<&str>) -> Result<MappedArray> {
    let (meta, start) = directory(&bytes).map_err(|reason| Error::bad_file(path, reason))?;
    let names = || {
        let mut names = meta.offset_keys();
        names.sort();
        some_names(&names)
    };
    let tensor = match tensor {
        Some(name) => name.to_string(),
        None => match meta.offset_keys().as_slice() {
            [only] => only.clone(),
            [] => return Err(Error::bad_file(path, "holds no tensor")),
            many => {
                let n = many.len();
                let reason = format!("holds {n} tensors; choose one as FILE:TENSOR ({})", names());
                return Err(Error::bad_file(path, reason));
            }
        },
    };
    let info = meta.info(&tensor).ok_or_else(|| {
        Error::bad_file(path, format!("has no tensor '{}'; it has {}", tensor.escape_debug(), names()))
    })?;
    let dtype = match info.dtype {
        StDtype::F64 => Dtype::F64,
        StDtype::F32 => Dtype::F32,
        StDtype::F16 => Dtype::F16,
        StDtype::BF16 => Dtype::BF16,
        StDtype::U8 => Dtype::U8,
        StDtype::I8 => Dtype::I8,
        StDtype::U16 => Dtype::U16,
        StDtype::I16 => Dtype::I16,
        StDtype::U32 => Dtype::U32,
        StDtype::I32 => Dtype::I32,
        StDtype::U64 => Dtype::U64,
        StDtype::I64 => Dtype::I64,
        StDtype::BOOL => Dtype::Bool,
        other => {
            let reason =
                format!("tensor '{}' has dtype {other:?}, which is not supported", tensor.escape_debug());
            return Err(Error::bad_file(path, reason));
        }
    };
    let (begin, end) = info.data_offsets;
    let name = format!("{}:{}", path.display(), tensor.escape_debug());
    Ok(MappedArray::new(bytes, start + begin..start + end, dtype, info.shape.clone(), false, name, path))
}

/// The names of a safetensors file's tensors, sorted.
///
/// # Errors
/// [`Error::Io`] or [`Error::BadFile`] as [`open_safetensors`].
pub fn safetensors_names(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    names_in(&FileBytes::open(path)?).map_err(|reason| Error::bad_file(path, reason))
}

/// As [`safetensors_names`], of a whole file's bytes.
pub(super) fn names_in(file: &[u8]) -> std::result::Result<Vec<String>, String> {
    let mut names = directory(file)?.0.offset_keys();
    names.sort();
    Ok(names)
}

/// The first of many names, for a message.
pub(super) fn some_names(names: &[String]) -> String {
    let more = if names.len() > 8 { ", ..." } else { "" };
    format!("{}{more}", one_line(&names[..names.len().min(8)].join(", ")))
}

/// The validated header of a whole file's bytes, and where the data section begins.
///
/// The crate checks that each tensor's offsets match its shape and that tensors follow one another without gaps. Checked
/// here, because it does not: that the last ends where the file ends (in arithmetic that cannot overflow), and that no name
/// occurs twice.
pub(crate) fn directory(file: &[u8]) -> std::result::Result<(Metadata, usize), String> {
    let (len, rest) = header_length(file)?;
    let json = rest
        .get(..len)
        .ok_or_else(|| format!("is truncated: it claims a header of {len} bytes, {} follow", rest.len()))?;
    let meta = parse(json)?;
    let (have, need) = (rest.len() - json.len(), meta.data_len());
    if have != need {
        let fault = if have < need { "is truncated" } else { "is longer than its header says" };
        return Err(format!("{fault}: its tensors take {need} bytes, {have} follow the header"));
    }
    Ok((meta, 8 + json.len()))
}

/// The length of a whole file by its first bytes, if they hold the header.
pub(super) fn whole_length(head: &[u8]) -> std::result::Result<Option<usize>, String> {
    let (len, rest) = header_length(head)?;
    let Some(json) = rest.get(..len) else { return Ok(None) };
    Ok(parse(json)?.data_len().checked_add(8 + len))
}

/// The length of the header, and what follows that number.
fn header_length(file: &[u8]) -> std::result::Result<(usize, &[u8]), String> {
    let (len, rest) = file.split_first_chunk::<8>().ok_or("is too short for a safetensors file")?;
    match u64::from_le_bytes(*len) {
        len @ ..=MAX_HEADER => Ok((len as usize, rest)),
        len => Err(format!("is not a safetensors file (it claims a header of {len} bytes)")),
    }
}

/// Parses the header's JSON.
fn parse(json: &[u8]) -> std::result::Result<Metadata, String> {
    let bad =
        |e: &dyn std::fmt::Display| format!("has a bad safetensors header: {}", one_line(&e.to_string()));
    let Entries { metadata, mut tensors } = serde_json::from_slice(json).map_err(|e| bad(&e))?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    Metadata::new(metadata, tensors).map_err(|e| bad(&e))
}

/// The header's JSON object, each key once.
struct Entries {
    metadata: Option<HashMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Entries { metadata: None, tensors: Vec::new() };
                let mut names = HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom(format_args!("'{name}' comes twice")));
                    }
                    match name.as_str() {
                        "__metadata__" => entries.metadata = map.next_value::<Option<Notes>>()?.map(|n| n.0),
                        _ => entries.tensors.push((name, map.next_value()?)),
                    }
                }
                Ok(entries)
            }
        }
        d.deserialize_map(Read)
    }
}

/// The header's metadata: strings by name, each name once.
struct Notes(HashMap<String, String>);

impl<'de> Deserialize<'de> for Notes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Notes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Notes, A::Error> {
                let mut notes = HashMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if notes.contains_key(&name) {
                        return Err(A::Error::custom(format_args!("metadata '{name}' comes twice")));
                    }
                    notes.insert(name, value);
                }
                Ok(Notes(notes))
            }
        }
        d.deserialize_map(Read)
    }
}

/// Text that may quote the file, made fit for a message.
pub(crate) fn one_line(text: &str) -> String {
    let text: String = text.chars().take(200).collect();
    text.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'")
}

#[cfg(test)]
mod tests {
    use super::super::{RowSource, read_all};
    use super::*;

    fn file(json: &str, data: usize) -> Vec<u8> {
        let mut f = [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
        f.resize(f.len() + data, 0);
        f
    }

    fn open_bytes(bytes: &[u8], tensor: Option<&str>) -> Result<MappedArray> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.safetensors");
        std::fs::write(&path, bytes).unwrap();
        open_safetensors(&path, tensor)
    }

    #[test]
    fn tensors_are_found_by_name() {
        let x: Vec<half::bf16> = (0..6).map(|v| half::bf16::from_f32(v as f32)).collect();
        let y = [1f32, 2., 3.];
        let view = |dtype, shape, data| safetensors::tensor::TensorView::new(dtype, shape, data).unwrap();
        let x = view(StDtype::BF16, vec![2, 3], bytemuck::cast_slice(&x));
        let y = view(StDtype::F32, vec![3], bytemuck::cast_slice(&y));
        let both = safetensors::serialize([("x", x.clone()), ("y", y)], None).unwrap();
        let m = open_bytes(&both, Some("x")).unwrap().into_matrix().unwrap();
        assert!(m.name().ends_with("t.safetensors:x"));
        assert_eq!(read_all::<f32>(&m).unwrap(), [0., 1., 2., 3., 4., 5.]);
        let text = open_bytes(&both, None).unwrap_err().to_string();
        assert!(text.contains("holds 2 tensors") && text.contains("x, y"), "{text}");
        let text = open_bytes(&both, Some("z")).unwrap_err().to_string();
        assert!(text.contains("has no tensor 'z'; it has x, y"), "{text}");
        let text = open_bytes(&both, Some("y")).unwrap().into_matrix().unwrap_err().to_string();
        assert!(text.contains("tensor y: expected a matrix (2 extents), got shape [3]"), "{text}");
        let single = safetensors::serialize([("x", x)], None).unwrap();
        assert_eq!(open_bytes(&single, None).unwrap().shape(), [2, 3]);
    }

    #[test]
    fn hostile_headers_are_refused_with_their_cause() {
        let t = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"x":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let huge = u64::MAX;
        for (bytes, cause) in [
            (vec![1, 2, 3], "too short"),
            (vec![0xff; 64], "not a safetensors file"),
            (1_000_000u64.to_le_bytes().to_vec(), "truncated"),
            (file("nonsense", 0), "bad safetensors header"),
            (file("{}", 0), "holds no tensor"),
            (
                file(
                    r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#,
                    4,
                ),
                "'x' comes twice",
            ),
            (file(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0), "metadata 'a' comes twice"),
            (file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "'__metadata__' comes twice"),
            (file(&"[".repeat(100_000), 0), "bad safetensors header"),
            (file(&format!("{{\"x\":{}", "{\"a\":".repeat(50_000)), 0), "bad safetensors header"),
            (file(&t("F32", "[2,3]", "[0,24]"), 23), "truncated"),
            (file(&t("F32", "[2,3]", "[0,24]"), 25), "longer"),
            (file(&t("F32", "[2,3]", "[0,20]"), 20), "bad safetensors header"),
            (file(&t("F32", "[2,3]", "[4,28]"), 28), "bad safetensors header"),
            (file(&t("F32", "[2,3]", "[24,0]"), 24), "bad safetensors header"),
            (file(&t("F32", "[-2,3]", "[0,24]"), 24), "bad safetensors header"),
            (file(&t("F32", "[4294967296,4294967296]", "[0,24]"), 24), "bad safetensors header"),
            (file(&t("U8", &format!("[{}]", huge / 16), &format!("[0,{}]", huge / 16)), 24), "truncated"),
            (file(&t("F8_E4M3", "[2,3]", "[0,6]"), 6), "not supported"),
            (file(&t("Q9", "[2,3]", "[0,6]"), 6), "bad safetensors header"),
        ] {
            let text = open_bytes(&bytes, None).unwrap_err().to_string();
            assert!(text.contains(cause), "expected {cause:?} in {text:?}");
            assert!(text.contains("t.safetensors") && !text.contains('\n') && text.len() < 600, "{text}");
        }
    }
}
