//! Rows beside those that train: what they say of encoders, and which of several iterates is the best on them.

use super::linear::Encoders;
use super::options::BatchScore;
use crate::backend::{Backend, Similarity, Standing, Ties};
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::retrieval::matching_accuracy;
use crate::similarity::NegativeSampling;

/// Rows that encoders are scored on, as the solver sees features.
pub(crate) struct Validation<'a, M> {
    pub(crate) x: &'a M,
    pub(crate) y: &'a M,
    pub(crate) positives: &'a Positives,
    /// What decides between encoders that rank every pair first.
    pub(crate) loss: &'a Loss,
}

impl<M> Validation<'_, M> {
    /// Mean reciprocal rank of the best positive, mean of both directions: smoother than Recall@1, and it orders encoders
    /// alike. Where all are first it is above 1, the more the lower their loss: few rows are soon all found.
    pub(crate) fn score<B: Backend<Matrix = M>>(&self, backend: &B, e: &Encoders) -> Result<f64> {
        let (zx, zy) = self.embed(backend, e)?;
        let score = self.reciprocal_rank(backend, &zx, &zy)?;
        if score < 1.0 {
            return Ok(score);
        }
        Ok(1.0 + 1.0 / (1.0 + self.loss_of(backend, &zx, &zy)?.exp()))
    }

    /// Score and loss, by which iterates of a descent are compared.
    pub(crate) fn scores<B: Backend<Matrix = M>>(&self, backend: &B, e: &Encoders) -> Result<Scores> {
        let (zx, zy) = self.embed(backend, e)?;
        let score = self.reciprocal_rank(backend, &zx, &zy)?;
        Ok(Scores { score, loss: self.loss_of(backend, &zx, &zy)? })
    }

    fn embed<B: Backend<Matrix = M>>(&self, backend: &B, e: &Encoders) -> Result<(M, M)> {
        Ok((backend.encode(self.x, e.f1.as_ref())?.0, backend.encode(self.y, e.f2.as_ref())?.0))
    }

    fn loss_of<B: Backend<Matrix = M>>(&self, backend: &B, zx: &M, zy: &M) -> Result<f64> {
        let s = Similarity::Embeddings(zx, zy);
        Ok(backend.weights(s, self.loss, self.positives, NegativeSampling::All)?.value())
    }

    fn reciprocal_rank<B: Backend<Matrix = M>>(&self, backend: &B, zx: &M, zy: &M) -> Result<f64> {
        both_ways(backend, (zx, zy), self.positives, |s| s.reciprocal(Ties::Expected))
    }
}

/// What a mini-batch's solution is weighed by, from the embeddings that it gives the validation rows: a score that is not below 0, or
/// with [`BatchScore::Loss`] the loss `-L`, which [`BatchWeights`] turns into a weight.
pub(crate) fn batch_score<B: Backend>(
    backend: &B,
    score: BatchScore,
    (zx, zy): (&B::Matrix, &B::Matrix),
    positives: &Positives,
    loss: &Loss,
) -> Result<f64> {
    match score {
        BatchScore::Equal => Ok(1.0),
        BatchScore::Accuracy => matching_accuracy(backend, Similarity::Embeddings(zx, zy), positives),
        BatchScore::Loss => {
            let s = Similarity::Embeddings(zx, zy);
            Ok(-backend.weights(s, loss, positives, NegativeSampling::All)?.value())
        }
        BatchScore::Recall => both_ways(backend, (zx, zy), positives, |s| s.hit(1, Ties::Expected)),
        BatchScore::ReciprocalRank => {
            both_ways(backend, (zx, zy), positives, |s| s.reciprocal(Ties::Expected))
        }
    }
}

/// Weights of solutions that come one after the other: their scores, or with [`BatchScore::Loss`] `exp(L_min - L)`. Divided by their
/// sum these are `exp(-L)` divided by theirs, which losses of many pairs would take out of the range of numbers.
pub(crate) struct BatchWeights {
    by_loss: bool,
    top: f64,
}

impl BatchWeights {
    pub(crate) fn new(score: BatchScore) -> Self {
        Self { by_loss: score == BatchScore::Loss, top: f64::NEG_INFINITY }
    }

    /// The weight of the next solution, and what all weights before are to be multiplied by.
    pub(crate) fn next(&mut self, score: f64) -> (f64, f64) {
        match self.by_loss {
            false => (score, 1.0),
            true if !score.is_finite() => (0.0, 1.0),
            true if score > self.top => {
                let before = (self.top - score).exp();
                self.top = score;
                (1.0, before)
            }
            true => ((score - self.top).exp(), 1.0),
        }
    }
}

/// The mean of a number over the queries that have a positive, and of both directions; equal items in any order.
fn both_ways<B: Backend>(
    backend: &B,
    (zx, zy): (&B::Matrix, &B::Matrix),
    positives: &Positives,
    of: impl Fn(&Standing) -> f64,
) -> Result<f64> {
    let mean = |standings: &[Standing]| {
        let found = standings.iter().filter(|s| s.is_found());
        let (sum, count) = found.fold((0.0, 0usize), |(sum, count), s| (sum + of(s), count + 1));
        if count == 0 { 0.0 } else { sum / count as f64 }
    };
    let there = backend.standings(Similarity::Embeddings(zx, zy), positives, false)?;
    let back = backend.standings(Similarity::Embeddings(zy, zx), &positives.transposed(), false)?;
    Ok(0.5 * (mean(&there) + mean(&back)))
}

/// What validation rows say of encoders.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scores {
    /// Mean reciprocal rank, mean of both directions.
    pub(crate) score: f64,
    /// The loss: smooth, where few rows make a staircase of the score.
    pub(crate) loss: f64,
}

/// Scores this close do not tell iterates apart: two queries of a thousand that change places are no more. Their loss does.
const CLOSE: f64 = 1e-3;

/// The best iterate so far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Best<T> {
    scores: Scores,
    /// The highest score of any iterate: what is close to the best must be close to this.
    top: f64,
    /// The lowest loss of any iterate.
    lowest: f64,
    pub(crate) iterate: T,
}

impl<T> Best<T> {
    pub(crate) fn new(scores: Scores, iterate: T) -> Self {
        Self { scores, top: scores.score, lowest: scores.loss, iterate }
    }

    /// Takes an iterate and its scores.
    pub(crate) fn meet(&mut self, now: Scores, iterate: impl FnOnce() -> T) -> Met {
        let gain = now.score > self.top || (now.score >= 1.0 && now.loss < self.scores.loss);
        let falling = now.loss < self.lowest;
        self.top = self.top.max(now.score);
        self.lowest = self.lowest.min(now.loss);
        let close = |v: Scores| v.score >= self.top - CLOSE;
        let better = match (close(self.scores), close(now)) {
            (true, true) => now.loss < self.scores.loss,
            (best, now) => now && !best,
        };
        if better {
            (self.scores, self.iterate) = (now, iterate());
        }
        Met { better, gain, falling }
    }
}

/// What became of an iterate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Met {
    /// It is the best now: of a higher score, or among close ones of a lower loss.
    pub(crate) better: bool,
    /// Its score is above all before, or every pair is found and its loss is below that of the best.
    pub(crate) gain: bool,
    /// Its loss is below all before: the descent makes progress, whatever the score says.
    pub(crate) falling: bool,
}

/// The best of the iterates of a descent, and for how long none has been better.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Selection<T> {
    pub(crate) best: Option<Best<T>>,
    /// Iterates since the best score.
    pub(crate) stale: usize,
}

impl<T> Selection<T> {
    pub(crate) fn new(best: Option<Best<T>>) -> Self {
        Self { best, stale: 0 }
    }

    /// Takes the next iterate and its scores.
    pub(crate) fn meet(&mut self, now: Scores, iterate: impl FnOnce() -> T) -> Met {
        let met = match &mut self.best {
            Some(best) => best.meet(now, iterate),
            None => {
                self.best = Some(Best::new(now, iterate()));
                Met { better: true, gain: true, falling: false }
            }
        };
        self.stale = if met.gain { 0 } else { self.stale + 1 };
        met
    }

    /// The numbers of the best, to be saved.
    pub(crate) fn numbers(&self) -> [f64; 4] {
        self.best.as_ref().map_or([f64::NAN; 4], |b| [b.scores.score, b.scores.loss, b.top, b.lowest])
    }

    /// From saved [`numbers`](Self::numbers), and the best iterate where there is one.
    pub(crate) fn read(numbers: &[f64], stale: usize, iterate: Option<T>) -> Self {
        let scores = Scores { score: numbers[0], loss: numbers[1] };
        let best = iterate.map(|iterate| Best { scores, top: numbers[2], lowest: numbers[3], iterate });
        Self { best, stale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_by_the_loss_are_relative() {
        for losses in [[3.0, 1.0, 2.5], [-4000.0, -4001.0, -3999.5], [9000.0, 9002.0, 9001.0]] {
            let mut weights = BatchWeights::new(BatchScore::Loss);
            let mut all: Vec<f64> = Vec::new();
            for loss in losses {
                let (weight, before) = weights.next(-loss);
                all.iter_mut().for_each(|w| *w *= before);
                all.push(weight);
            }
            let (total, least) =
                (all.iter().sum::<f64>(), losses.iter().copied().fold(f64::INFINITY, f64::min));
            let wanted: Vec<f64> = losses.iter().map(|l| (least - l).exp()).collect();
            let sum: f64 = wanted.iter().sum();
            for (got, wanted) in all.iter().zip(&wanted) {
                assert!((got / total - wanted / sum).abs() < 1e-14, "{all:?}");
            }
        }
        assert_eq!(BatchWeights::new(BatchScore::Loss).next(f64::NAN), (0.0, 1.0));
        assert_eq!(BatchWeights::new(BatchScore::Accuracy).next(0.3), (0.3, 1.0));
    }

    #[test]
    fn close_scores_are_told_apart_by_their_loss() {
        let v = |score, loss| Scores { score, loss };
        let mut best = Best::new(v(0.4, 0.3), 0);
        let mut meet = |now: Scores, k| {
            let met = best.meet(now, || k);
            assert_eq!(met.better, best.iterate == k);
            (met.better, met.gain)
        };
        assert_eq!(meet(v(0.5, 0.4), 1), (true, true));
        assert_eq!(meet(v(0.4995, 0.35), 2), (true, false));
        // A gain in score that is none in loss: noise.
        assert_eq!(meet(v(0.5002, 0.36), 3), (false, true));
        // Lower and lower losses do not lead away from the highest score.
        assert_eq!(meet(v(0.4988, 0.1), 4), (false, false));
        assert_eq!(meet(v(0.4993, 0.34), 5), (true, false));
        assert_eq!(meet(v(f64::NAN, f64::NAN), 6), (false, false));
        assert_eq!(meet(v(1.0, 0.2), 7), (true, true));
        assert_eq!(meet(v(1.0, 0.1), 8), (true, true));
        assert_eq!(meet(v(1.0, 0.1), 9), (false, false));
    }
}
