//! Data to try the solver on: handwritten digits and icons with captions that come with the crate, and synthetic pairs.

mod icons;
mod synthetic;

pub use icons::{IconRows, Icons, icons};
pub use synthetic::{LatentFactor, LatentModel, Pairs, Splits, SyntheticRows, synthetic_pairs};

use crate::error::Result;
use crate::io::{HostMatrix, RowSource, parse_index_vector, parse_npy, read_all};

/// Two views of 1,797 handwritten digits: their left and their right halves.
///
/// UCI Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak), CC BY 4.0; see `data/digits_halves`.
#[derive(Debug, Clone)]
pub struct Digits {
    /// Left halves, 1,797 x 32: 8 rows of 4 pixels from 0 (white) to 16.
    pub left: HostMatrix,
    /// Right halves, likewise; row i is of the same image as row i of `left`.
    pub right: HostMatrix,
    /// The digit 0 to 9 of each row: group ids for many-to-many alignment.
    pub labels: Vec<i64>,
}

/// The digits bundled with the crate.
///
/// # Errors
/// None in an intact build; those of parsing otherwise.
pub fn digits() -> Result<Digits> {
    let half = |name: &str, file: &[u8]| {
        let view = parse_npy(name, file)?;
        HostMatrix::from_f32(name, view.rows(), view.cols(), read_all(&view)?)
    };
    Ok(Digits {
        left: half("digits, left", include_bytes!("../../data/digits_halves/left.npy"))?,
        right: half("digits, right", include_bytes!("../../data/digits_halves/right.npy"))?,
        labels: parse_index_vector("digits, labels", include_bytes!("../../data/digits_halves/labels.npy"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{FeatureReport, check_finite};

    #[test]
    fn digits_are_whole() {
        let d = digits().unwrap();
        for half in [&d.left, &d.right] {
            let report = check_finite(half).unwrap();
            assert_eq!(report, FeatureReport { rows: 1797, cols: 32, zero_rows: 0 });
            let values: Vec<f32> = read_all(half).unwrap();
            assert!(values.iter().all(|v| (0.0..=16.0).contains(v) && v.fract() == 0.0));
            assert!(values.contains(&16.0));
        }
        // Class sizes as published for this set.
        let mut sizes = [0; 10];
        d.labels.iter().for_each(|&l| sizes[l as usize] += 1);
        assert_eq!(sizes, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    }
}
