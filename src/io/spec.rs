//! How people name matrices: a file, an array or tensor in it, a folder, or a pattern of files.
//!
//! ```text
//! x.npy   x.npy:bf16   xy.npz:x   file.safetensors:tensor   file.pt   file.pt:tensor   folder   folder:tensor   part-*.npy   part-{0..3}.npy
//! ```
//!
//! A path that exists is taken as it stands, whatever characters it has: patterns and names of members come after that.

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// The suffix that says that two-byte values are bfloat16.
const BF16: &[u8] = b":bf16";
/// The most files that a pattern may stand for.
const MOST_FILES: usize = 1 << 16;

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Spec {
    /// At least one.
    pub(super) files: Vec<PathBuf>,
    /// Whether they are parts of one matrix, even if there is one.
    pub(super) parts: bool,
    /// The array or tensor in each.
    pub(super) member: Option<String>,
    pub(super) bf16: bool,
}

/// Finds the files that `spec` names. One that does not exist is among them where `spec` could name nothing else.
pub(super) fn resolve(spec: &OsStr) -> Result<Spec> {
    let bytes = spec.as_bytes();
    let os = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    if !exists(spec) {
        if let Some(rest) = bytes.strip_suffix(BF16) {
            return Ok(Spec { bf16: true, ..resolve(&os(rest))? });
        }
        for at in (0..bytes.len()).filter(|&i| bytes[i] == b':') {
            let head = os(&bytes[..at]);
            let archive =
                [&b".safetensors"[..], b".npz", b".pt", b".pth"].iter().any(|end| bytes[..at].ends_with(end));
            if archive || exists(&head) {
                let member = String::from_utf8(bytes[at + 1..].to_vec()).map_err(|_| {
                    Error::invalid(spec.display().to_string(), "the name of an array in UTF-8", "other bytes")
                })?;
                let (files, parts) = files(&head)?;
                return Ok(Spec { files, parts, member: Some(member), bf16: false });
            }
        }
    }
    let (files, parts) = files(spec)?;
    Ok(Spec { files, parts, member: None, bf16: false })
}

fn exists(path: &OsStr) -> bool {
    Path::new(path).exists()
}

/// The files of a path or pattern, and whether they are parts of a whole.
fn files(path: &OsStr) -> Result<(Vec<PathBuf>, bool)> {
    if Path::new(path).is_dir() {
        return folder(Path::new(path)).map(|files| (files, true));
    }
    let pattern = path.as_bytes().iter().any(|b| b"*?[{".contains(b));
    if exists(path) || !pattern {
        return Ok((vec![path.into()], false));
    }
    let mut all: Vec<PathBuf> = Vec::new();
    for choice in braces(path)? {
        if exists(&choice) {
            all.push(choice.into());
        } else {
            all.extend(matching(&choice)?);
        }
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = all.iter().find(|file| !seen.insert(*file)) {
        return Err(Error::invalid(
            path.display().to_string(),
            "every file once",
            format!("{} twice", twice.display()),
        ));
    }
    Ok((all, true))
}

/// The shards in a folder: its `.npy` files, or where there are none its `.safetensors`, `.npz` or `.pt` files.
fn folder(path: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|e| Error::io(path, e))? {
        let file = entry.map_err(|e| Error::io(path, e))?.path();
        if !file.file_name().is_some_and(|n| n.as_bytes().starts_with(b".")) {
            all.push(file);
        }
    }
    for kind in ["npy", "safetensors", "npz", "pt"] {
        let mut of: Vec<PathBuf> =
            all.iter().filter(|f| f.extension().is_some_and(|e| e == kind)).cloned().collect();
        if !of.is_empty() {
            sort(&mut of);
            return Ok(of);
        }
    }
    Err(Error::invalid(
        path.display().to_string(),
        "at least one .npy shard (or .safetensors, .npz, .pt)",
        "none",
    ))
}

/// The files that match a pattern, at least one.
fn matching(pattern: &OsStr) -> Result<Vec<PathBuf>> {
    let name = || pattern.display().to_string();
    // What exists is taken literally: a folder may be called `run [3]`.
    let path = Path::new(pattern);
    let (mut literal, mut rest) = (PathBuf::new(), path.components().peekable());
    while let Some(part) = rest.peek() {
        let next = literal.join(part);
        if !next.exists() {
            break;
        }
        literal = next;
        rest.next();
    }
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_string);
        text.ok_or_else(|| Error::invalid(name(), "a pattern in UTF-8", "other bytes"))
    };
    let mut whole = glob::Pattern::escape(&text(&literal)?);
    for part in rest {
        if !whole.is_empty() && !whole.ends_with('/') {
            whole.push('/');
        }
        match part {
            Component::Normal(part) => whole.push_str(&text(Path::new(part))?),
            other => whole.push_str(&text(Path::new(other.as_os_str()))?),
        }
    }
    // A shell's rules: a star stands for no hidden file, such as one that is being written.
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
    let found = glob::glob_with(&whole, options).map_err(|e| Error::invalid(name(), "a glob pattern", e))?;
    let mut files = Vec::new();
    for file in found {
        files.push(file.map_err(|e| {
            let unreadable = e.path().to_path_buf();
            Error::io(unreadable, e.into())
        })?);
    }
    if files.is_empty() {
        return Err(Error::invalid(name(), "at least one .npy shard", "none"));
    }
    sort(&mut files);
    Ok(files)
}

fn sort(files: &mut [PathBuf]) {
    files.sort_by(|a, b| natural_order(a.as_os_str().as_bytes(), b.as_os_str().as_bytes()));
}

/// `{a,b}` and `{0..3}` written out, in order, as a shell does; `{00..12}` keeps its zeros. A brace without a comma or range
/// stands for itself.
fn braces(pattern: &OsStr) -> Result<Vec<OsString>> {
    let mut open = vec![pattern.as_bytes().to_vec()];
    let mut done: Vec<OsString> = Vec::new();
    // The first pair of braces is expanded; each result is expanded in turn.
    while let Some(text) = open.pop() {
        if open.len() + done.len() > MOST_FILES {
            let name = pattern.display().to_string();
            return Err(Error::invalid(name, format!("at most {MOST_FILES} files"), "more"));
        }
        match first_brace(&text)? {
            None => done.push(OsString::from_vec(text)),
            Some((before, choices, after)) => {
                open.extend(choices.into_iter().rev().map(|c| [&before[..], &c, &after].concat()));
            }
        }
    }
    Ok(done)
}

/// Text before a brace, what is in it, and text after it.
type Brace = (Vec<u8>, Vec<Vec<u8>>, Vec<u8>);

/// The first pair of braces with a comma or a range.
fn first_brace(text: &[u8]) -> Result<Option<Brace>> {
    for start in (0..text.len()).filter(|&i| text[i] == b'{') {
        let (mut depth, mut commas) = (0usize, Vec::new());
        let mut end = None;
        for (i, &b) in text.iter().enumerate().skip(start) {
            match b {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                b',' if depth == 1 => commas.push(i),
                _ => {}
            }
            if depth == 0 {
                end = Some(i);
                break;
            }
        }
        let Some(end) = end else { continue };
        let inner = &text[start + 1..end];
        let choices = if commas.is_empty() {
            match range(inner)? {
                Some(numbers) => numbers,
                None => continue,
            }
        } else {
            let bounds: Vec<usize> = [start].into_iter().chain(commas).chain([end]).collect();
            bounds.windows(2).map(|w| text[w[0] + 1..w[1]].to_vec()).collect()
        };
        return Ok(Some((text[..start].to_vec(), choices, text[end + 1..].to_vec())));
    }
    Ok(None)
}

/// The numbers of `a..b`.
fn range(inner: &[u8]) -> Result<Option<Vec<Vec<u8>>>> {
    let Some((a, b)) = std::str::from_utf8(inner).ok().and_then(|s| s.split_once("..")) else {
        return Ok(None);
    };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
    let (Some(first), Some(last)) = (a.parse::<u64>().ok(), b.parse::<u64>().ok()) else { return Ok(None) };
    if !digits(a) || !digits(b) {
        return Ok(None);
    }
    if first.abs_diff(last) >= MOST_FILES as u64 {
        return Err(Error::invalid(format!("{{{a}..{b}}}"), format!("at most {MOST_FILES} numbers"), "more"));
    }
    let padded = [a, b].iter().any(|s| s.len() > 1 && s.starts_with('0'));
    let width = if padded { a.len().max(b.len()) } else { 0 };
    let text = |n: u64| format!("{n:0width$}").into_bytes();
    Ok(Some(match first <= last {
        true => (first..=last).map(text).collect(),
        false => (last..=first).rev().map(text).collect(),
    }))
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
    use super::*;

    fn written_out(text: &str) -> Vec<String> {
        braces(OsStr::new(text)).unwrap().into_iter().map(|s| s.into_string().unwrap()).collect()
    }

    #[test]
    fn braces_are_written_out_as_a_shell_does() {
        assert_eq!(written_out("p{0..3}.npy"), ["p0.npy", "p1.npy", "p2.npy", "p3.npy"]);
        assert_eq!(written_out("p{08..11}"), ["p08", "p09", "p10", "p11"]);
        assert_eq!(written_out("{b,a}/{1..2}"), ["b/1", "b/2", "a/1", "a/2"]);
        assert_eq!(written_out("{a,b{1,2}}"), ["a", "b1", "b2"]);
        assert_eq!(written_out("{3..1}"), ["3", "2", "1"]);
        assert_eq!(written_out("{,x}y"), ["y", "xy"]);
        for same in ["{x}", "{", "}", "{a", "a}", "{1..}", "{1..b}", "{}", "{-1..2}"] {
            assert_eq!(written_out(same), [same]);
        }
        assert!(braces(OsStr::new("{0..99999999999}")).is_err());
        assert!(braces(OsStr::new(&"{0..999}".repeat(9))).is_err());
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
