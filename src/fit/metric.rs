//! What turns gradients into steps of whitened coordinates.

use crate::backend::Arithmetic;
use faer::{Mat, Scale};

/// `M = W^T W` of a whitening map, in the numbers that gradients are computed in.
pub(crate) enum Metric {
    F64(Mat<f64>),
    /// Divided by its size, which is beside it.
    F32(Mat<f32>, f64),
}

impl Metric {
    pub(crate) fn new(m: Mat<f64>, arithmetic: Arithmetic) -> Self {
        let size = m.norm_max();
        if arithmetic == Arithmetic::F64 || !(size > 0.0 && size.is_finite()) {
            return Self::F64(m);
        }
        Self::F32(narrowed(&m, size), size)
    }

    /// `V M`.
    pub(crate) fn turned(&self, v: &Mat<f64>) -> Mat<f64> {
        match self {
            Self::F64(m) => v * m,
            Self::F32(m, size) => {
                let own = v.norm_max();
                if !(own > 0.0 && own.is_finite()) {
                    return v.clone();
                }
                let (turned, back) = (narrowed(v, own) * m, own * size);
                Mat::from_fn(v.nrows(), m.ncols(), |i, j| f64::from(turned[(i, j)]) * back)
            }
        }
    }
}

fn narrowed(m: &Mat<f64>, size: f64) -> Mat<f32> {
    let unit = m * Scale(1.0 / size);
    Mat::from_fn(m.nrows(), m.ncols(), |i, j| unit[(i, j)] as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_beyond_float32_make_no_difference() {
        let m = Mat::from_fn(5, 5, |i, j| ((i * j) as f64).cos() + if i == j { 3.0 } else { 0.0 });
        let v = Mat::from_fn(3, 5, |i, j| ((i + 2 * j) as f64).sin());
        for (a, b) in [(1.0, 1.0), (1e-60, 1.0), (1e60, 1e-80), (1e-50, 1e-50)] {
            let (m, v) = (&m * Scale(a), &v * Scale(b));
            let want = &v * &m;
            for (arithmetic, limit) in [(Arithmetic::F64, 1e-15), (Arithmetic::F32, 1e-6)] {
                let got = Metric::new(m.clone(), arithmetic).turned(&v);
                assert!((&got - &want).norm_max() <= limit * want.norm_max(), "{a} {b}");
            }
        }
        assert_eq!(Metric::new(m, Arithmetic::F32).turned(&Mat::zeros(2, 5)).norm_max(), 0.0);
    }
}
