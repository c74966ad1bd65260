//! The header of a `.npy` file (NumPy format 1.0 to 3.0).
//!
//! Parsed here and not by a general Python-literal parser: those recurse on nested brackets and allocate what the length
//! field says, which a hostile file chooses. This one reads a flat dictionary from bytes that are already there.

use super::Dtype;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Plain arrays need about 100 bytes; only record types, which are not features, need more than this.
const MAX_HEADER: usize = 1 << 16;

/// What a header says, checked against the bytes that follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub dtype: Dtype,
    pub fortran: bool,
    pub shape: Vec<usize>,
    /// Where the elements begin.
    pub offset: usize,
    /// How many bytes they take.
    pub len: usize,
}

/// The part of a [`Header`] that does not depend on what follows it.
pub(super) struct Start {
    dtype: Dtype,
    fortran: bool,
    shape: Vec<usize>,
    offset: usize,
}

impl Start {
    /// Bytes of the elements.
    fn len(&self) -> Option<usize> {
        let count = self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
        count.checked_mul(self.dtype.size()).filter(|&n| isize::try_from(n).is_ok())
    }

    /// Where the elements end, and so the file.
    pub(super) fn end(&self) -> Option<usize> {
        self.len()?.checked_add(self.offset)
    }
}

/// Parses the header at the start of a whole file's bytes. `bf16`: values of two bytes without a type of their own are
/// bfloat16.
pub(super) fn parse(file: &[u8], bf16: bool) -> Result<Header, String> {
    let start = parse_start(file, bf16)?;
    let len = start.len();
    let Start { dtype, fortran, shape, offset } = start;
    let len = len.ok_or_else(|| format!("has shape {shape:?}, which overflows the address space"))?;
    let have = file.len() - offset;
    if have != len {
        let fault = if have < len { "is truncated" } else { "is longer than its header says" };
        return Err(format!(
            "{fault}: shape {shape:?} of {dtype} takes {len} bytes, {have} follow the header"
        ));
    }
    Ok(Header { dtype, fortran, shape, offset, len })
}

/// Parses the header at the start of a file, of which what follows may be missing.
pub(super) fn parse_start(file: &[u8], bf16: bool) -> Result<Start, String> {
    let rest = file.strip_prefix(MAGIC).ok_or("is not a .npy file (wrong magic number)")?;
    let [major, minor, rest @ ..] = rest else {
        return Err("ends within the .npy header".into());
    };
    let (text_len, rest) = match (major, rest) {
        (1, [a, b, rest @ ..]) => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        (2 | 3, [a, b, c, d, rest @ ..]) => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        (1..=3, _) => return Err("ends within the .npy header".into()),
        _ => {
            return Err(format!("has .npy format version {major}.{minor}; 1.0 to 3.0 are known"));
        }
    };
    if text_len > MAX_HEADER {
        return Err(format!("claims a .npy header of {text_len} bytes; at most {MAX_HEADER} are allowed"));
    }
    let text = rest.get(..text_len).ok_or("ends within the .npy header")?;
    let offset = file.len() - rest.len() + text_len;
    let (dtype, fortran, shape) = Literal { rest: text, bf16 }.header()?;
    Ok(Start { dtype, fortran, shape, offset })
}

/// The header bytes of a C-order array, padded so that the elements begin at a multiple of 64.
pub(super) fn format(descr: &str, shape: &[usize]) -> Vec<u8> {
    let mut extents = String::new();
    for d in shape {
        extents += &format!("{d}, ");
    }
    // (n,) with one extent, (n, m) with more, as Python writes tuples.
    let extents = if shape.len() == 1 { extents.trim_end() } else { extents.trim_end_matches(", ") };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    let unpadded = MAGIC.len() + 4 + text.len() + 1;
    text.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    text.push('\n');
    // No shape of this crate reaches the 65,535 bytes at which version 2.0 would be needed.
    let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
    [MAGIC, &[1, 0], &len.to_le_bytes(), text.as_bytes()].concat()
}

/// A cursor over the header's Python dictionary.
struct Literal<'a> {
    rest: &'a [u8],
    bf16: bool,
}

impl<'a> Literal<'a> {
    fn header(mut self) -> Result<(Dtype, bool, Vec<usize>), String> {
        let (mut dtype, mut fortran, mut shape) = (None, None, None);
        self.expect(b'{')?;
        while !self.accept(b'}') {
            let key = self.string()?;
            self.expect(b':')?;
            let twice = match key {
                b"descr" => dtype.replace(self.dtype()?).is_some(),
                b"fortran_order" => fortran.replace(self.boolean()?).is_some(),
                b"shape" => shape.replace(self.shape()?).is_some(),
                _ => {
                    return Err(format!("has an unknown .npy header key '{}'", key.escape_ascii()));
                }
            };
            if twice {
                return Err(format!("has '{}' twice in its .npy header", key.escape_ascii()));
            }
            if !self.accept(b',') {
                self.expect(b'}')?;
                break;
            }
        }
        self.skip_space();
        if !self.rest.is_empty() {
            return Err("has text after the dictionary of its .npy header".into());
        }
        let missing = |key: &str| format!("has no '{key}' in its .npy header");
        Ok((
            dtype.ok_or_else(|| missing("descr"))?,
            fortran.ok_or_else(|| missing("fortran_order"))?,
            shape.ok_or_else(|| missing("shape"))?,
        ))
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn accept(&mut self, byte: u8) -> bool {
        self.skip_space();
        let found = self.rest.strip_prefix(&[byte]);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        if self.accept(byte) {
            Ok(())
        } else {
            Err(format!("has a malformed .npy header ('{}' expected)", char::from(byte)))
        }
    }

    fn string(&mut self) -> Result<&'a [u8], String> {
        let malformed = || "has a malformed .npy header (a quoted string expected)".to_string();
        self.skip_space();
        let (&quote, rest) = self.rest.split_first().ok_or_else(malformed)?;
        if quote != b'\'' && quote != b'"' {
            return Err(malformed());
        }
        let end = rest.iter().position(|&b| b == quote).ok_or_else(malformed)?;
        let (text, rest) = rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or_default();
        Ok(text)
    }

    fn boolean(&mut self) -> Result<bool, String> {
        self.skip_space();
        for (word, value) in [(&b"True"[..], true), (b"False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err("has a malformed .npy header (fortran_order is neither True nor False)".into())
    }

    fn shape(&mut self) -> Result<Vec<usize>, String> {
        self.expect(b'(')?;
        let mut shape = Vec::new();
        while !self.accept(b')') {
            self.skip_space();
            let digits = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
            let (number, rest) = self.rest.split_at(digits);
            // Python 2 wrote long integers as 12L.
            self.rest = rest.strip_prefix(b"L").unwrap_or(rest);
            let number = std::str::from_utf8(number).ok().and_then(|n| n.parse().ok());
            shape.push(
                number.ok_or(
                    "has a malformed .npy header (an extent of the shape is not a number that fits)",
                )?,
            );
            // NumPy arrays have at most 64 extents.
            if shape.len() > 64 {
                return Err("has more than 64 extents".into());
            }
            if !self.accept(b',') {
                self.expect(b')')?;
                break;
            }
        }
        Ok(shape)
    }

    fn dtype(&mut self) -> Result<Dtype, String> {
        self.skip_space();
        if self.rest.first() == Some(&b'[') {
            return Err("holds records (a structured dtype); a plain numeric array is needed".into());
        }
        let descr = self.string()?;
        let shown = descr.escape_ascii();
        let [order, kind @ ..] = descr else {
            return Err("has an empty dtype".into());
        };
        if *order == b'>' && kind.get(1..) != Some(b"1") {
            return Err(format!(
                "is big-endian (dtype '{shown}'); rewrite it with a.astype(a.dtype.newbyteorder('<'))"
            ));
        }
        if kind.first() == Some(&b'O') {
            return Err(format!("holds pickled Python objects (dtype '{shown}'), which are never loaded"));
        }
        if !matches!(order, b'<' | b'>' | b'|' | b'=') {
            return Err(format!("has dtype '{shown}', which is not a known type"));
        }
        if self.bf16 {
            return match kind {
                b"V2" | b"u2" | b"i2" => Ok(Dtype::BF16),
                _ => Err(format!(
                    "has dtype '{shown}'; :bf16 is for values of two bytes ('|V2', '<u2' or '<i2')"
                )),
            };
        }
        Ok(match kind {
            b"V2" => {
                return Err(format!(
                    "has dtype '{shown}', values of two bytes without a type, as which NumPy writes bfloat16; \
                     :bf16 after its name reads them so"
                ));
            }
            b"f8" => Dtype::F64,
            b"f4" => Dtype::F32,
            b"f2" => Dtype::F16,
            b"u1" => Dtype::U8,
            b"i1" => Dtype::I8,
            b"u2" => Dtype::U16,
            b"i2" => Dtype::I16,
            b"u4" => Dtype::U32,
            b"i4" => Dtype::I32,
            b"u8" => Dtype::U64,
            b"i8" => Dtype::I64,
            b"b1" => Dtype::Bool,
            _ => {
                return Err(format!(
                    "has dtype '{shown}'; a real floating-point, integer or boolean type is needed"
                ));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of the given dictionary text and data length.
    fn file(text: &str, data: usize) -> Vec<u8> {
        let mut f = [MAGIC, &[1, 0], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat();
        f.resize(f.len() + data, 0);
        f
    }

    #[test]
    fn what_is_written_is_read_back() {
        for shape in [&[][..], &[5], &[3, 4], &[2, 3, 4], &[0, 7]] {
            for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::I64, Dtype::U8, Dtype::Bool] {
                let mut f = format(dtype.npy_descr().unwrap(), shape);
                assert_eq!(f.len() % 64, 0);
                let (offset, len) = (f.len(), shape.iter().product::<usize>() * dtype.size());
                f.resize(offset + len, 0);
                let expected = Header { dtype, fortran: false, shape: shape.to_vec(), offset, len };
                assert_eq!(parse(&f, false), Ok(expected));
            }
        }
    }

    #[test]
    fn other_writers_headers_are_read() {
        for text in [
            "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }          \n",
            "{'shape': (3L, 2L), 'fortran_order': True, 'descr': '<f4'}",
            " { \"descr\":\"=f4\",\"fortran_order\":True,\"shape\":(3,2,)}",
        ] {
            let h = parse(&file(text, 24), false).unwrap();
            assert_eq!((h.dtype, h.fortran, h.shape), (Dtype::F32, true, vec![3, 2]), "{text}");
        }
        let text = "{'descr': '<i8', 'fortran_order': False, 'shape': (1,)}";
        let mut f = [MAGIC, &[2, 0], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
        f.resize(f.len() + 8, 0);
        assert_eq!(parse(&f, false).unwrap().dtype, Dtype::I64);
    }

    #[test]
    fn two_byte_values_are_bfloat16_where_asked_for() {
        for descr in ["'|V2'", "'<V2'", "'<u2'", "'<i2'"] {
            let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2, 3), }}");
            assert_eq!(parse(&file(&text, 12), true).unwrap().dtype, Dtype::BF16, "{descr}");
        }
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        assert!(parse(&file(text, 24), true).unwrap_err().contains("values of two bytes"));
    }

    #[test]
    fn hostile_headers_are_refused_with_their_cause() {
        let with = |descr: &str, shape: &str| {
            format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")
        };
        for (f, cause) in [
            (b"PK\x03\x04".to_vec(), "magic"),
            (b"\x93NUMPY".to_vec(), "ends within"),
            (b"\x93NUMPY\x01\x00\xff".to_vec(), "ends within"),
            (b"\x93NUMPY\x01\x00\xff\xff{".to_vec(), "ends within"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec(), "claims a .npy header of 4294967295"),
            (b"\x93NUMPY\x07\x00\x01\x00{".to_vec(), "version 7.0"),
            (file("", 0), "'{' expected"),
            (file("{}", 0), "no 'descr'"),
            (file(&with("'<f4'", "(2, 3)"), 23), "truncated"),
            (file(&with("'<f4'", "(2, 3)"), 25), "longer"),
            (file(&with("'<f4'", "(4294967296, 4294967296)"), 24), "overflows"),
            (file(&with("'<f4'", "(9223372036854775807,)"), 24), "overflows"),
            (file(&with("'<f4'", "(99999999999999999999999,)"), 24), "not a number that fits"),
            (file(&with("'<f4'", "(-1, 3)"), 24), "not a number that fits"),
            (file(&with("'<f4'", "(2, 3"), 24), "not a number"),
            (file(&with("'<f4'", &"(".repeat(60000)), 24), "not a number"),
            (file(&with("'<f4'", &format!("({})", "1, ".repeat(70))), 4), "64 extents"),
            (file(&with("'>f4'", "(2, 3)"), 24), "big-endian"),
            (file(&with("'|O'", "(2, 3)"), 24), "pickled"),
            (file(&with("'<c8'", "(2, 3)"), 48), "is needed"),
            (file(&with("'<U7'", "(2, 3)"), 24), "is needed"),
            (file(&with("[('a', '<f4')]", "(2, 3)"), 24), "records"),
            (file(&with("''", "(2, 3)"), 24), "empty dtype"),
            (file("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,)}", 4), "neither True nor False"),
            (file(&with("'|V2'", "(2, 3)"), 12), "bfloat16"),
            (
                file("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'shape': (1,)}", 4),
                "'shape' twice",
            ),
            (file("{'descr': '<f4', 'other': 1}", 4), "unknown .npy header key 'other'"),
            (file("{'descr': '<f4", 4), "quoted string"),
            (file("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} x", 4), "text after"),
        ] {
            let got = parse(&f, false).unwrap_err();
            assert!(got.contains(cause), "expected {cause:?} in {got:?}");
            assert!(!got.contains('\n') && got.len() < 400, "{got}");
        }
    }
}
