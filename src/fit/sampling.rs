//! `C = X^T S Y` over sampled negatives, with its error estimated as it is computed.
//!
//! A sample of m negatives leaves noise, and a bias: what is sampled stands in denominators as well, so rare near
//! negatives that a sample misses make the others count too much. Two half samples show both (the jackknife of two
//! groups): half their difference is as large as the noise of their mean, and their mean has about twice the bias of the
//! whole sample, so that it lies as far from the whole sample's result as that lies from the truth.

use crate::backend::{Backend, Similarity};
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use faer::{Mat, MatRef};
use std::time::Instant;

/// What [`sampled_cross`] finds.
#[derive(Clone, Debug)]
pub struct SampledCross {
    /// `X^T S Y`, `d1 x d2`.
    pub cross: Mat<f64>,
    /// The loss.
    pub loss: f64,
    /// Estimated `|C - C_exact|_F / |C_exact|_F`; none where nothing is sampled.
    pub error: Option<f64>,
    /// Seconds of pass 1, and of pass 2 with the estimate: wall time.
    pub seconds: (f64, f64),
}

/// `X^T S Y` and the loss; with sampled negatives also the error of the former, which takes as long again.
///
/// # Errors
/// Those of the backend.
pub fn sampled_cross<B: Backend>(
    backend: &B,
    s: Similarity<'_, B::Matrix>,
    (x, y): (&B::Matrix, &B::Matrix),
    loss: &Loss,
    positives: &Positives,
    negatives: NegativeSampling,
) -> Result<SampledCross> {
    let begin = Instant::now();
    let w = backend.weights(s, loss, positives, negatives)?;
    let first = begin.elapsed().as_secs_f64();
    let cross = backend.cross(s, &w, x, y)?;
    let value = w.value();
    // The halves have numbers of every row of their own.
    drop(w);
    let error = sampling_error(backend, s, (x, y), (loss, positives, negatives), &cross)?;
    let seconds = (first, begin.elapsed().as_secs_f64() - first);
    Ok(SampledCross { cross, loss: value, error, seconds })
}

/// The estimated relative error of a `C = X^T S Y` from sampled negatives; none where nothing is sampled.
pub(super) fn sampling_error<B: Backend>(
    backend: &B,
    s: Similarity<'_, B::Matrix>,
    (x, y): (&B::Matrix, &B::Matrix),
    (loss, positives, negatives): (&Loss, &Positives, NegativeSampling),
    cross: &Mat<f64>,
) -> Result<Option<f64>> {
    let Some([first, second]) = negatives.halves() else { return Ok(None) };
    if matches!(s, Similarity::Zeros(..)) {
        return Ok(None);
    }
    let of = |negatives| {
        let w = backend.weights(s, loss, positives, negatives)?;
        backend.cross(s, &w, x, y)
    };
    let (a, b) = (of(first)?, of(second)?);
    Ok(relative_error(&[cross.as_ref()], &[a.as_ref()], &[b.as_ref()], share(negatives, positives)))
}

/// The share of the pairs that a sample holds.
pub(super) fn share(negatives: NegativeSampling, positives: &Positives) -> f64 {
    let most = positives.n_x().min(positives.n_y()).max(1) as f64;
    negatives.per_anchor().map_or(1.0, |m| (m as f64 / most).min(1.0))
}

/// Estimated relative error, in the Frobenius norm over all matrices of a list, of what a sample of this `share` of the
/// pairs gives, from what two independent half samples give. None for a result of 0.
pub(super) fn relative_error<const N: usize>(
    whole: &[MatRef<'_, f64>; N],
    a: &[MatRef<'_, f64>; N],
    b: &[MatRef<'_, f64>; N],
    share: f64,
) -> Option<f64> {
    let sum = |f: &dyn Fn(usize) -> f64| (0..N).map(|k| f(k).powi(2)).sum::<f64>();
    let size = sum(&|k| whole[k].norm_l2());
    let noise = sum(&|k| 0.5 * (a[k] - b[k]).norm_l2());
    let apart = sum(&|k| (whole[k] - (a[k] + b[k]) * faer::Scale(0.5)).norm_l2());
    // Drawn without replacement: the noise of the whole, as a share of that of two halves, and its bias, as a share of the
    // distance to that of a half, go to 0 as it comes to hold every pair.
    let left = 1.0 - share;
    let whole_noise = noise * left / (1.0 - 0.5 * share);
    // The whole and the halves' mean differ by the bias and by the noise of both.
    let bias = (apart - noise - whole_noise).max(0.0) * left * left;
    let error = ((whole_noise + bias) / size).sqrt();
    error.is_finite().then_some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_and_bias_add_up() {
        let m = |v: [f64; 2]| Mat::from_fn(2, 1, |i, _| v[i]);
        let error =
            |w, a, b, share| relative_error(&[m(w).as_ref()], &[m(a).as_ref()], &[m(b).as_ref()], share);
        // Halves 6 apart around the whole: noise 3. Halves 2 apart, their mean 6 away: noise 1, of which 2 lies in 36.
        assert_eq!(error([0.0, 10.0], [-3.0, 10.0], [3.0, 10.0], 0.0), Some(0.3));
        let both = error([0.0, 10.0], [-1.0, 16.0], [1.0, 16.0], 0.0).unwrap();
        assert!((both - (1.0f64 + 36.0 - 2.0).sqrt() / 10.0).abs() < 1e-15);
        // A sample of everything has no error, and half of it two thirds of that noise and half of that bias.
        assert_eq!(error([0.0, 10.0], [-1.0, 16.0], [1.0, 16.0], 1.0), Some(0.0));
        let half = error([0.0, 10.0], [-1.0, 16.0], [1.0, 16.0], 0.5).unwrap();
        let (noise, apart) = (2.0 / 3.0, 36.0 - 1.0 - 2.0 / 3.0);
        assert!((half - (noise + apart / 4.0f64).sqrt() / 10.0).abs() < 1e-15, "{half}");
        assert_eq!(error([0.0, 0.0], [0.0, 0.0], [0.0, 0.0], 0.0), None);
    }
}
