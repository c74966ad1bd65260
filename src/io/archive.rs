//! Arrays in `.npz` archives: what is stored is mapped, what is compressed is copied. Archives of PyTorch are told apart here.

use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use super::bytes::FileBytes;
use super::safetensors::{one_line, some_names};
use super::torch::open_torch;
use super::{MappedArray, npy_header};
use crate::error::{Error, Result};

/// The most of an entry that its `.npy` header can take.
const HEAD: u64 = 1 << 17;

/// One array of an archive: the named one, or the only one.
pub(super) fn open_npz(
    path: &Path,
    bytes: &Arc<FileBytes>,
    name: Option<&str>,
    bf16: bool,
) -> Result<MappedArray> {
    let bad = |reason: String| Error::bad_file(path, reason);
    let broken =
        |e: zip::result::ZipError| bad(format!("is a damaged archive: {}", one_line(&e.to_string())));
    let mut zip = ZipArchive::new(Cursor::new(&bytes[..])).map_err(broken)?;
    if zip.has_duplicate_names() {
        return Err(bad("holds several arrays of the same name".into()));
    }
    let mut names = Vec::new();
    let mut described = None;
    for entry in zip.file_names() {
        let entry = entry.map_err(broken)?;
        let describes = entry.ends_with("/data.pkl") || entry == "data.pkl";
        if describes && described.replace(entry.to_string()).is_some() {
            return Err(bad("describes its tensors twice".into()));
        }
        names.extend(entry.strip_suffix(".npy").map(str::to_string));
    }
    if let Some(described) = described {
        return match bf16 {
            true => Err(bad("is no .npy file; :bf16 is for those, for tensors say what they hold".into())),
            false => open_torch(path, bytes, &described, name),
        };
    }
    names.sort();
    let shown = some_names(&names);
    let name = match (name, &names[..]) {
        (Some(name), _) => name.strip_suffix(".npy").unwrap_or(name),
        (None, [only]) => only,
        (None, []) => return Err(bad("is an archive without a .npy array".into())),
        (None, many) => {
            return Err(bad(format!("holds {} arrays; choose one as FILE:ARRAY ({shown})", many.len())));
        }
    };
    let Some(index) = zip.index_for_name(&format!("{name}.npy")) else {
        return Err(bad(format!("has no array '{}'; it has {shown}", one_line(name))));
    };
    let called = format!("{}:{}", path.display(), one_line(name));
    let fault = |reason: String| bad(format!("array {}: {reason}", one_line(name)));
    let mut entry = zip.by_index(index).map_err(broken)?;
    let stored = entry.compression() == CompressionMethod::Stored && !entry.encrypted();
    if stored && entry.size() != entry.compressed_size() {
        return Err(fault("has two sizes in the archive's directory".into()));
    }
    if let (true, Some(start)) = (stored, entry.data_start()) {
        let whole = usize::try_from(start).ok().zip(usize::try_from(entry.size()).ok());
        let range = whole.and_then(|(start, size)| Some(start..start.checked_add(size)?));
        let Some((range, file)) = range.and_then(|r| Some((r.clone(), bytes.get(r)?))) else {
            return Err(fault("lies beyond the end of the archive".into()));
        };
        let h = npy_header::parse(file, bf16).map_err(fault)?;
        // Reading it once checks the archive's checksum.
        std::io::copy(&mut entry, &mut std::io::sink()).map_err(|e| fault(one_line(&e.to_string())))?;
        let data = range.start + h.offset..range.start + h.offset + h.len;
        return Ok(MappedArray::new(bytes.clone(), data, h.dtype, h.shape, h.fortran, called, path));
    }
    // The buffer has the size that the header announces, however much the compressed bytes expand to.
    let mut head = Vec::new();
    let read = |e: std::io::Error| fault(one_line(&e.to_string()));
    entry.by_ref().take(HEAD).read_to_end(&mut head).map_err(read)?;
    let end = npy_header::parse_start(&head, bf16).map_err(fault)?.end();
    let end = end.ok_or_else(|| fault("overflows the address space".into()))?;
    if entry.size() != end as u64 {
        return Err(fault(format!("takes {end} bytes by its header, {} by the archive's", entry.size())));
    }
    let copy = FileBytes::copy(path, &mut Cursor::new(head).chain(entry).take(end as u64 + 1))?;
    let h = npy_header::parse(&copy, bf16).map_err(fault)?;
    let data = h.offset..h.offset + h.len;
    Ok(MappedArray::new(Arc::new(copy), data, h.dtype, h.shape, h.fortran, called, path))
}
