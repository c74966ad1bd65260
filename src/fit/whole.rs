//! The loss over all rows, and how long it will take.

use super::info::{FitStatus, Seconds};
use super::linear::Encoders;
use super::monitor::Monitor;
use super::timed;
use crate::backend::{Backend, Similarity};
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use std::time::Instant;

/// Sampled negatives per row from whose time that of all is predicted.
const PROBE: usize = 512;

/// What a loss is taken over, in solver features.
pub(crate) struct Whole<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) x: &'a B::Matrix,
    pub(crate) y: &'a B::Matrix,
    pub(crate) positives: &'a Positives,
    pub(crate) loss: &'a Loss,
    pub(crate) negatives: NegativeSampling,
}

impl<B: Backend> Whole<'_, B> {
    /// The loss of encoders.
    pub(crate) fn value(&self, e: &Encoders, seconds: &mut Seconds) -> Result<f64> {
        self.over(e, self.negatives, seconds)
    }

    /// Records the loss of the encoders that a fit returns, unless its budget is used up: then it says so.
    pub(crate) fn record(&self, e: &Encoders, monitor: &mut Monitor<'_>) -> Result<()> {
        match monitor.allows(0.0)? {
            true => monitor.info.final_loss = Some(self.value(e, monitor.seconds())?),
            false => monitor.info.status = FitStatus::OutOfTime,
        }
        Ok(())
    }

    fn over(&self, e: &Encoders, negatives: NegativeSampling, seconds: &mut Seconds) -> Result<f64> {
        let (zx, zy) = timed(&mut seconds.encode, || {
            let zx = self.backend.encode(self.x, e.f1.as_ref())?.0;
            Ok::<_, Error>((zx, self.backend.encode(self.y, e.f2.as_ref())?.0))
        })?;
        let s = Similarity::Embeddings(&zx, &zy);
        let w =
            timed(&mut seconds.statistics, || self.backend.weights(s, self.loss, self.positives, negatives))?;
        Ok(w.value())
    }

    /// Seconds that [`value`](Self::value) is expected to take: measured in full where that is quick, else on a sample of
    /// the negatives and scaled up.
    pub(crate) fn seconds(&self, e: &Encoders) -> Result<f64> {
        let begin = Instant::now();
        let all = self.positives.n_x().min(self.positives.n_y());
        let wanted = self.negatives.per_anchor().map_or(all, |m| m.min(all));
        let mut spent = Seconds::default();
        if wanted <= 4 * PROBE {
            self.value(e, &mut spent)?;
            return Ok(begin.elapsed().as_secs_f64());
        }
        self.over(e, NegativeSampling::Sampled { per_anchor: PROBE, seed: 0 }, &mut spent)?;
        Ok(spent.encode + spent.statistics * wanted as f64 / PROBE as f64)
    }
}
