//! Tensors of files that `torch.save` wrote (PyTorch 1.6 and newer): mapped where they lie, and nothing of the file is run.

use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use super::bytes::FileBytes;
use super::pickle::{Id, Node, Pickle};
use super::safetensors::{one_line, some_names};
use super::{Dtype, MappedArray, convert_hint};
use crate::error::{Error, Result};

/// The most bytes that the description of a file's tensors may take, the most tensors, and how deeply they may be nested.
const MOST_BYTES: u64 = 64 << 20;
const MOST_TENSORS: usize = 1 << 16;
const MOST_DEPTH: usize = 16;
/// The most values that are looked at (containers may hold themselves), the longest name of a tensor, and its most extents.
const MOST_VISITS: usize = 1 << 20;
const LONGEST_NAME: usize = 1 << 10;
const MOST_EXTENTS: usize = 64;

/// A tensor as its file describes it.
struct Tensor {
    /// Joined by dots where containers are nested; empty where the file is the tensor.
    name: String,
    /// The entry that holds its numbers.
    key: String,
    dtype: std::result::Result<Dtype, String>,
    /// In elements.
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// One tensor of an archive whose description is the entry `described`: the named one, or the only one.
pub(super) fn open_torch(
    path: &Path,
    bytes: &Arc<FileBytes>,
    described: &str,
    name: Option<&str>,
) -> Result<MappedArray> {
    let bad = |reason: String| Error::bad_file(path, reason);
    let broken =
        |e: zip::result::ZipError| bad(format!("is a damaged archive: {}", one_line(&e.to_string())));
    let mut zip = ZipArchive::new(Cursor::new(&bytes[..])).map_err(broken)?;
    let entry = zip.by_name(described).map_err(broken)?;
    if entry.size() > MOST_BYTES {
        return Err(bad(format!("describes its tensors in {} bytes; {MOST_BYTES} are read", entry.size())));
    }
    let mut pickle = Vec::new();
    entry
        .take(MOST_BYTES)
        .read_to_end(&mut pickle)
        .map_err(|e| bad(format!("is a damaged archive: {}", one_line(&e.to_string()))))?;
    let pickle = Pickle::read(&pickle).map_err(|e| bad(format!("{} ({e})", convert_hint::torch(path))))?;
    let mut found = Found::default();
    found.collect(&pickle, pickle.root, String::new(), 0).map_err(bad)?;
    let Found { tensors, passed, .. } = found;
    let mut names: Vec<String> = tensors.iter().map(|t| t.name.clone()).collect();
    names.sort();
    let shown = some_names(&names);
    let tensor = match (name, &tensors[..]) {
        (Some(name), all) => all.iter().find(|t| t.name == name).ok_or_else(|| match all {
            [only] if only.name.is_empty() => {
                bad(format!("is one tensor, which has no name; got ':{}'", one_line(name)))
            }
            _ => bad(format!("has no tensor '{}'; it has {shown}", one_line(name))),
        })?,
        (None, [only]) if passed == 0 => only,
        (None, [only]) => {
            let name = one_line(&only.name);
            return Err(bad(format!(
                "holds a tensor '{name}' and values that are not read; choose it as FILE:{name}"
            )));
        }
        (None, []) => {
            return Err(bad(format!("holds no tensor that can be found; it {}", convert_hint::torch(path))));
        }
        (None, many) => {
            return Err(bad(format!("holds {} tensors; choose one as FILE:TENSOR ({shown})", many.len())));
        }
    };
    if tensors.iter().filter(|t| t.name == tensor.name).count() > 1 {
        return Err(bad(format!("has several tensors that are called '{}'", one_line(&tensor.name))));
    }
    let called = match &tensor.name[..] {
        "" => path.display().to_string(),
        name => format!("{}:{}", path.display(), one_line(name)),
    };
    let fault = |reason: String| match &tensor.name[..] {
        "" => bad(format!("the tensor {reason}")),
        name => bad(format!("tensor {} {reason}", one_line(name))),
    };
    let dtype =
        tensor.dtype.clone().map_err(|what| fault(format!("has dtype {what}, which is not supported")))?;
    let fortran = order(&tensor.shape, &tensor.strides)
        .ok_or_else(|| fault("is neither contiguous nor transposed: save it with .contiguous()".into()))?;
    let folder = described.strip_suffix("data.pkl").unwrap_or_default();
    let swapped = zip.by_name(&format!("{folder}byteorder")).is_ok_and(|entry| {
        let mut order = Vec::new();
        entry.take(16).read_to_end(&mut order).is_ok() && order == b"big"
    });
    if swapped && dtype.size() > 1 {
        return Err(fault("was saved by a big-endian machine".into()));
    }
    let mut entry = zip.by_name(&format!("{folder}data/{}", tensor.key)).map_err(|_| {
        fault(format!("has its numbers in an entry '{}' that is not there", one_line(&tensor.key)))
    })?;
    if entry.compression() != CompressionMethod::Stored
        || entry.encrypted()
        || entry.size() != entry.compressed_size()
    {
        return Err(fault(format!("is compressed; the file {}", convert_hint::torch(path))));
    }
    let whole =
        entry.data_start().and_then(|s| usize::try_from(s).ok()).zip(usize::try_from(entry.size()).ok());
    let len = tensor.shape.iter().try_fold(dtype.size(), |n, &extent| n.checked_mul(extent));
    let first = tensor.offset.checked_mul(dtype.size());
    let range = whole.zip(first.zip(len)).and_then(|((start, size), (first, len))| {
        let end = first.checked_add(len).filter(|&end| end <= size)?;
        Some(start.checked_add(first)?..start.checked_add(end)?)
    });
    let Some(range) = range.filter(|r| bytes.get(r.clone()).is_some()) else {
        return Err(fault(format!("of shape {:?} lies beyond the end of its entry", tensor.shape)));
    };
    // Reading it once checks the archive's checksum.
    std::io::copy(&mut entry, &mut std::io::sink())
        .map_err(|e| fault(format!("is damaged: {}", one_line(&e.to_string()))))?;
    Ok(MappedArray::new(bytes.clone(), range, dtype, tensor.shape.clone(), fortran, called, path))
}

/// Whether elements lie column by column (true) or row by row (false); none for any other order.
fn order(shape: &[usize], strides: &[usize]) -> Option<bool> {
    let matches = |mut extents: Vec<(usize, usize)>| {
        let mut step = 1usize;
        extents.reverse();
        extents.into_iter().all(|(extent, stride)| {
            let fits = extent <= 1 || stride == step;
            step = step.saturating_mul(extent);
            fits
        })
    };
    let by_rows: Vec<_> = shape.iter().copied().zip(strides.iter().copied()).collect();
    let by_columns = by_rows.iter().rev().copied().collect();
    if shape.len() != strides.len() {
        None
    } else if matches(by_rows) {
        Some(false)
    } else {
        matches(by_columns).then_some(true)
    }
}

/// The tensors in a value, by name.
#[derive(Default)]
struct Found {
    tensors: Vec<Tensor>,
    /// Values that may hold numbers and are not read: other arrays, what stands under keys without a name or lies too deep.
    passed: usize,
    visits: usize,
}

impl Found {
    fn collect(&mut self, p: &Pickle, id: Id, name: String, depth: usize) -> std::result::Result<(), String> {
        self.visits += 1;
        if self.tensors.len() >= MOST_TENSORS || self.visits > MOST_VISITS {
            return Err(format!("holds more than {MOST_TENSORS} tensors, or {MOST_VISITS} values"));
        }
        let inner = |key: &str| if name.is_empty() { key.to_string() } else { format!("{name}.{key}") };
        match p.node(id) {
            Node::Dict(_) | Node::Tuple(_) | Node::List(_) if depth > MOST_DEPTH => self.passed += 1,
            Node::Dict(items) => {
                // Of a key that was set twice the later value counts.
                let mut last: std::collections::BTreeMap<(bool, String), Id> =
                    std::collections::BTreeMap::new();
                for &(key, value) in items {
                    self.visits += 1;
                    let key = match p.node(key) {
                        Node::Text(text) => (true, text.as_str()),
                        Node::Int(n) => (false, &*n.to_string()),
                        _ => {
                            self.passed += 1;
                            continue;
                        }
                    };
                    if name.len() + key.1.len() > LONGEST_NAME || self.visits > MOST_VISITS {
                        self.passed += 1;
                        continue;
                    }
                    last.insert((key.0, key.1.to_string()), value);
                }
                for ((_, key), value) in last {
                    self.collect(p, value, inner(&key), depth + 1)?;
                }
            }
            Node::Tuple(items) | Node::List(items) => {
                for (k, &item) in items.iter().enumerate() {
                    self.collect(p, item, inner(&k.to_string()), depth + 1)?;
                }
            }
            Node::Call(function, arguments) => match tensor(p, *function, *arguments, name, depth)? {
                Some(tensor) => self.tensors.push(tensor),
                None => self.passed += 1,
            },
            _ => {}
        }
        Ok(())
    }
}

/// The tensor that a call would make; none where it would make something else.
fn tensor(
    p: &Pickle,
    function: Id,
    arguments: Id,
    name: String,
    depth: usize,
) -> std::result::Result<Option<Tensor>, String> {
    let (Some(function), Some(arguments)) = (p.global(function), p.items(arguments)) else { return Ok(None) };
    let odd = || format!("describes tensor '{}' in an unknown way", one_line(&name));
    match (function, arguments) {
        ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [inner, ..])
            if depth < MOST_DEPTH =>
        {
            match p.node(*inner) {
                Node::Call(function, arguments) => tensor(p, *function, *arguments, name, depth + 1),
                _ => Err(odd()),
            }
        }
        ("torch._tensor._rebuild_from_type_v2", [function, _, arguments, ..]) if depth < MOST_DEPTH => {
            tensor(p, *function, *arguments, name, depth + 1)
        }
        (
            "torch._utils._rebuild_tensor"
            | "torch._utils._rebuild_tensor_v2"
            | "torch._utils._rebuild_tensor_v3",
            [storage, offset, shape, strides, rest @ ..],
        ) => {
            let Node::Persistent(storage) = p.node(*storage) else { return Err(odd()) };
            let Some([kind, class, key, ..]) = p.items(*storage) else { return Err(odd()) };
            let (Some("storage"), Some(class), Some(key)) = (p.text(*kind), p.global(*class), p.text(*key))
            else {
                return Err(odd());
            };
            // The third version has its dtype among the arguments, for its storage has bytes.
            let named = match (function, rest) {
                ("torch._utils._rebuild_tensor_v3", [_, _, dtype, ..]) => p.global(*dtype).ok_or_else(odd)?,
                _ => class,
            };
            // Newer files say here that numbers are to be negated or conjugated.
            let notes = if function.ends_with("_v3") { rest.get(3) } else { rest.get(2) };
            let plain = |&id: &Id| match p.node(id) {
                Node::None => true,
                Node::Dict(notes) => notes.is_empty(),
                _ => false,
            };
            if !notes.is_none_or(plain) {
                let name = one_line(&name);
                return Err(format!(
                    "holds tensor '{name}' as a view that negates; save it with .resolve_neg()"
                ));
            }
            let few = |id: Id| p.items(id).is_some_and(|items| items.len() <= MOST_EXTENTS);
            if !few(*shape) || !few(*strides) {
                return Err(odd());
            }
            let (Some(offset), Some(shape), Some(strides)) =
                (p.size(*offset), p.sizes(*shape), p.sizes(*strides))
            else {
                return Err(odd());
            };
            Ok(Some(Tensor { dtype: dtype_of(named), key: key.to_string(), name, offset, shape, strides }))
        }
        _ => Ok(None),
    }
}

/// Of a class of storages or a dtype.
fn dtype_of(name: &str) -> std::result::Result<Dtype, String> {
    Ok(match name.rsplit('.').next().unwrap_or(name) {
        "DoubleStorage" | "float64" => Dtype::F64,
        "FloatStorage" | "float32" => Dtype::F32,
        "HalfStorage" | "float16" => Dtype::F16,
        "BFloat16Storage" | "bfloat16" => Dtype::BF16,
        "LongStorage" | "int64" => Dtype::I64,
        "IntStorage" | "int32" => Dtype::I32,
        "ShortStorage" | "int16" => Dtype::I16,
        "CharStorage" | "int8" => Dtype::I8,
        "ByteStorage" | "uint8" => Dtype::U8,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "BoolStorage" | "bool" => Dtype::Bool,
        other => return Err(one_line(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_told_apart() {
        assert_eq!(order(&[3, 4], &[4, 1]), Some(false));
        assert_eq!(order(&[3, 4], &[1, 3]), Some(true));
        assert_eq!(order(&[3, 4], &[8, 1]), None);
        assert_eq!(order(&[3, 4], &[4]), None);
        assert_eq!(order(&[1, 4], &[77, 1]), Some(false));
        assert_eq!(order(&[5], &[1]), Some(false));
        assert_eq!(order(&[], &[]), Some(false));
        assert_eq!(order(&[usize::MAX, usize::MAX], &[usize::MAX, 1]), Some(false));
    }

    /// A file of 3 x 2 floats as torch.save writes it, with `notes` after the hooks, and other entries.
    fn file(notes: &[u8], more: &[(&str, &[u8])], data: Option<usize>) -> tempfile::NamedTempFile {
        let head = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00((X\x07\x00\x00\x00storageq\x01ctorch\nFloatStorage\nq\x02\
            X\x01\x00\x00\x000q\x03X\x03\x00\x00\x00cpuq\x04K\x06tq\x05QK\x00K\x03K\x02\x86q\x06K\x02K\x01\x86q\x07\x89\
            ccollections\nOrderedDict\nq\x08)Rq\t";
        let pickle = [&head[..], notes, b"tq\nRq\x0b."].concat();
        let numbers: Vec<u8> = (0..6).flat_map(|v| (v as f32).to_le_bytes()).collect();
        let mut entries = vec![("x/data.pkl", &pickle[..])];
        entries.extend(data.map(|len| ("x/data/0", &numbers[..len])));
        entries.extend(more);
        let out = tempfile::Builder::new().suffix(".pt").tempfile().unwrap();
        let mut zip = zip::ZipWriter::new(out.reopen().unwrap());
        let stored = zip::write::SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, bytes) in entries {
            zip.start_file(name, stored).unwrap();
            std::io::Write::write_all(&mut zip, bytes).unwrap();
        }
        zip.finish().unwrap();
        out
    }

    #[test]
    fn files_that_mean_something_else_are_refused() {
        let open = |file: &tempfile::NamedTempFile| super::super::Features::open(file.path());
        for notes in [&b""[..], b"}q\x0c", b"N"] {
            let m = open(&file(notes, &[], Some(24))).unwrap();
            assert_eq!(super::super::read_all::<f32>(&m).unwrap(), [0., 1., 2., 3., 4., 5.]);
        }
        let negated = b"}q\x0cX\x03\x00\x00\x00negq\r\x88s";
        for (file, cause) in [
            (file(negated, &[], Some(24)), ".resolve_neg()"),
            (file(b"", &[("y/data.pkl", b"N.")], Some(24)), "describes its tensors twice"),
            (file(b"", &[("x/byteorder", b"big")], Some(24)), "big-endian"),
            (file(b"", &[], Some(20)), "of shape [3, 2] lies beyond the end of its entry"),
            (file(b"", &[], None), "in an entry '0' that is not there"),
        ] {
            let text = open(&file).unwrap_err().to_string();
            assert!(text.contains(cause) && !text.contains('\n'), "{text}");
        }
    }
}
