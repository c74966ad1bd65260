//! Vectors of integers: group ids, labels, CSR pointers and indices.

use std::path::Path;

use bytemuck::{Pod, pod_read_unaligned};

use super::features::open_one;
use super::{Dtype, HostFloat, npy_header};
use crate::error::{Error, Result};

/// Every integer up to this one is a float64 number.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads a vector of integers from `x.npy`, `xy.npz:x` or `file.safetensors:tensor`: any integer or boolean dtype, or floats
/// that are whole numbers; one extent (or two of which one is 1).
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) or [`Error::BadFile`](crate::Error::BadFile): as for matrices, and for fractions, other
/// shapes and values beyond int64.
pub fn read_index_vector(path: impl AsRef<Path>) -> Result<Vec<i64>> {
    let array = open_one(path.as_ref().as_os_str())?;
    if !matches!(array.shape(), [_] | [1, _] | [_, 1]) {
        return Err(array.bad(format!("expected a vector of integers, got shape {:?}", array.shape())));
    }
    integers(array.dtype(), array.bytes()).map_err(|reason| array.bad(reason))
}

/// As [`read_index_vector`], from the bytes of a whole `.npy` file.
pub(crate) fn parse_index_vector(name: &str, file: &[u8]) -> Result<Vec<i64>> {
    let bad = |reason| Error::bad_file(name, reason);
    let h = npy_header::parse(file, false).map_err(bad)?;
    integers(h.dtype, file.get(h.offset..h.offset + h.len).unwrap_or_default()).map_err(bad)
}

fn integers(dtype: Dtype, bytes: &[u8]) -> std::result::Result<Vec<i64>, String> {
    match dtype {
        Dtype::I64 => Ok(widen(bytes, |v: i64| v)),
        Dtype::I32 => Ok(widen(bytes, |v: i32| v.into())),
        Dtype::I16 => Ok(widen(bytes, |v: i16| v.into())),
        Dtype::I8 => Ok(widen(bytes, |v: i8| v.into())),
        Dtype::U32 => Ok(widen(bytes, |v: u32| v.into())),
        Dtype::U16 => Ok(widen(bytes, |v: u16| v.into())),
        Dtype::U8 => Ok(widen(bytes, |v: u8| v.into())),
        Dtype::Bool => Ok(widen(bytes, |v: u8| (v != 0).into())),
        Dtype::U64 => {
            let values = widen(bytes, |v: u64| i64::try_from(v).ok());
            let whole: Option<Vec<i64>> = values.iter().copied().collect();
            whole.ok_or_else(|| {
                let i = values.iter().position(Option::is_none).unwrap_or(0);
                format!("element {i} is beyond the range of int64")
            })
        }
        // Labels from tables or divisions are often stored as floats; whole numbers are accepted.
        Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => {
            let mut values = vec![0f64; bytes.len() / dtype.size()];
            f64::convert(dtype, bytes, &mut values);
            let whole = |v: f64| v.fract() == 0.0 && v.abs() <= EXACT;
            match values.iter().position(|&v| !whole(v)) {
                None => Ok(values.into_iter().map(|v| v as i64).collect()),
                Some(i) => Err(format!("expected integers, got {} at element {i} ({dtype})", values[i])),
            }
        }
    }
}

fn widen<S: Pod, T>(bytes: &[u8], f: impl Fn(S) -> T) -> Vec<T> {
    bytes.chunks_exact(size_of::<S>()).map(|b| f(pod_read_unaligned(b))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Element, write_npy};
    use super::*;

    fn read<T: Element>(shape: &[usize], data: &[T]) -> Result<Vec<i64>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.npy");
        write_npy(&path, shape, data).unwrap();
        read_index_vector(&path)
    }

    #[test]
    fn integers_of_any_width_are_read() {
        assert_eq!(read(&[2], &[-1i64, i64::MAX]).unwrap(), [-1, i64::MAX]);
        assert_eq!(read(&[2, 1], &[-1i32, 5]).unwrap(), [-1, 5]);
        assert_eq!(read(&[1, 2], &[-1i16, 5]).unwrap(), [-1, 5]);
        assert_eq!(read(&[2], &[-1i8, 5]).unwrap(), [-1, 5]);
        assert_eq!(read(&[1], &[u32::MAX]).unwrap(), [4294967295]);
        assert_eq!(read(&[1], &[u16::MAX]).unwrap(), [65535]);
        assert_eq!(read(&[1], &[u8::MAX]).unwrap(), [255]);
        assert_eq!(read(&[2], &[3u64, 4]).unwrap(), [3, 4]);
        assert!(read::<i64>(&[0], &[]).unwrap().is_empty());
        assert_eq!(read(&[3], &[-0f32, 2., -16777216.]).unwrap(), [0, 2, -16777216]);
        assert_eq!(read(&[2], &[3f64, -9007199254740992.]).unwrap(), [3, -9007199254740992]);
    }

    #[test]
    fn what_is_no_index_is_refused() {
        let text = read(&[3], &[1f32, 2.5, 3.]).unwrap_err().to_string();
        assert!(text.contains("v.npy: expected integers, got 2.5 at element 1 (float32)"), "{text}");
        for bad in [f64::NAN, f64::INFINITY, 1e17] {
            assert!(read(&[1], &[bad]).unwrap_err().to_string().contains("expected integers"), "{bad}");
        }
        assert!(read(&[2, 2], &[1i64, 2, 3, 4]).unwrap_err().to_string().contains("shape [2, 2]"));
        assert!(read(&[2], &[1u64, u64::MAX]).unwrap_err().to_string().contains("element 1 is beyond"));
    }
}
