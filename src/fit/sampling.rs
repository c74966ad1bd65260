//! `C = X^T S Y` over sampled negatives, with its error estimated as it is computed.

use crate::backend::{Backend, Similarity};
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::weights::Negatives;
use faer::Mat;
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
    /// Seconds of both passes, wall time.
    pub seconds: (f64, f64),
}

/// `X^T S Y` and the loss. With sampled negatives both are means over two independent half samples: half the difference
/// of the halves has the size of the error that sampling leaves in their mean (the jackknife of two groups).
///
/// # Errors
/// Those of the backend.
pub fn sampled_cross<B: Backend>(
    backend: &B,
    s: Similarity<'_, B::Matrix>,
    (x, y): (&B::Matrix, &B::Matrix),
    loss: &Loss,
    positives: &Positives,
    negatives: Negatives,
) -> Result<SampledCross> {
    let one = |negatives: Negatives| {
        let begin = Instant::now();
        let w = backend.weights(s, loss, positives, negatives)?;
        let first = begin.elapsed().as_secs_f64();
        let cross = backend.cross(s, &w, x, y)?;
        let seconds = (first, begin.elapsed().as_secs_f64() - first);
        Ok::<_, crate::Error>(SampledCross { cross, loss: w.value(), error: None, seconds })
    };
    match negatives.halves() {
        Some([first, second]) if !matches!(s, Similarity::Zeros(..)) => {
            let (a, b) = (one(first)?, one(second)?);
            let cross = (&a.cross + &b.cross) * faer::Scale(0.5);
            let size = cross.norm_l2();
            let error = if size > 0.0 { 0.5 * (&a.cross - &b.cross).norm_l2() / size } else { 0.0 };
            let seconds = (a.seconds.0 + b.seconds.0, a.seconds.1 + b.seconds.1);
            Ok(SampledCross { cross, loss: 0.5 * (a.loss + b.loss), error: Some(error), seconds })
        }
        _ => one(negatives),
    }
}
