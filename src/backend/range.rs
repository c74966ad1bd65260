//! Encoders and lengths kept within what float32 can hold. Shared by the backends.

use crate::distributed::Group;
use crate::error::{Error, Result};
use crate::io::{exponent, times_power};
use faer::{Mat, MatRef};

/// Exponents of an encoder's largest entry that products in float32 have room for.
const ROOM: std::ops::Range<i32> = -60..60;
/// Lengths of rows this far below the longest are taken for 0: what is left of them is rounding.
const VANISHED: f64 = 1e-12;

/// An encoder as `2^k F'` with `F'` in range; none where it is already.
pub(crate) fn in_range(f: MatRef<'_, f64>) -> Option<(Mat<f64>, i32)> {
    let k = exponent(f.norm_max()).filter(|k| !ROOM.contains(k))?;
    Some((Mat::from_fn(f.nrows(), f.ncols(), |i, j| times_power(f[(i, j)], -k)), k))
}

/// Encodes with `F` in range: `encode` gives embeddings and the lengths `|F x_i|`, of rows from `first` on. Lengths that are
/// not finite are an error.
pub(crate) fn directions<M>(
    f: MatRef<'_, f64>,
    first: usize,
    encode: impl FnOnce(MatRef<'_, f64>) -> Result<(M, Vec<f64>)>,
) -> Result<(M, Vec<f64>)> {
    if !f.norm_max().is_finite() {
        return Err(Error::Numerical("the encoder is not finite".into()));
    }
    let scaled = in_range(f);
    let (z, mut lengths) = encode(scaled.as_ref().map_or(f, |(f, _)| f.as_ref()))?;
    if let Some(i) = lengths.iter().position(|l| !l.is_finite()) {
        let row = first + i;
        let text = format!("row {row} has no embedding: its product with the encoder is not finite");
        return Err(Error::Numerical(text));
    }
    if let Some((_, k)) = scaled {
        lengths.iter_mut().for_each(|l| *l = times_power(*l, k));
    }
    Ok((z, lengths))
}

/// `1 / length` of rows; 0 where a length is 0 beside the longest of all ranks. A collective.
pub(crate) fn inverse_lengths(group: &Group, lengths: &[f64]) -> Result<Vec<f64>> {
    let own = lengths.iter().copied().fold(0.0, f64::max);
    let longest = group.concat(vec![own])?.into_iter().fold(0.0, f64::max);
    let inverse = |&l: &f64| if l > VANISHED * longest { 1.0 / l } else { 0.0 };
    Ok(lengths.iter().map(inverse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoders_are_scaled_only_beyond_their_room() {
        let f = Mat::from_fn(2, 3, |i, j| (i + j) as f64);
        assert!(in_range(f.as_ref()).is_none());
        assert!(in_range(Mat::<f64>::zeros(2, 2).as_ref()).is_none());
        let large = Mat::from_fn(2, 3, |i, j| 1e300 * (1 + i + j) as f64);
        let (scaled, k) = in_range(large.as_ref()).unwrap();
        assert!((1.0..2.0).contains(&scaled.norm_max()));
        assert_eq!(times_power(scaled[(0, 0)], k), 1e300);
        let (_, lengths) = directions(large.as_ref(), 0, |_| Ok(((), vec![1.0, 0.0]))).unwrap();
        assert_eq!(lengths, [times_power(1.0, k), 0.0]);
        let failed = directions(f.as_ref(), 512, |_| Ok(((), vec![1.0, f64::NAN])));
        assert!(failed.unwrap_err().to_string().contains("row 513"));
    }

    #[test]
    fn inverse_lengths_are_relative() {
        let inverse = |l: &[f64]| inverse_lengths(Group::single(), l).unwrap();
        assert_eq!(inverse(&[2e-20, 1e-20, 0.0, 1e-33]), [0.5e20, 1e20, 0.0, 0.0]);
        assert_eq!(inverse(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
