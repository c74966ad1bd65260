//! Which of several iterates is the best on held-out rows.

/// What held-out rows say of encoders.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// Mean reciprocal rank, mean of both directions.
    pub(crate) score: f64,
    /// The loss: smooth where few rows make a staircase of the score.
    pub(crate) loss: f64,
}

/// Scores this close do not tell iterates apart: two queries of a thousand that change places are no more. Their loss does.
const CLOSE: f64 = 1e-3;

/// The best iterate so far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Best<T> {
    pub(crate) verdict: Verdict,
    /// The highest score of any iterate: what is close to the best must be close to this.
    pub(crate) top: f64,
    /// The lowest loss of any iterate.
    pub(crate) lowest: f64,
    pub(crate) iterate: T,
}

impl<T> Best<T> {
    pub(crate) fn new(verdict: Verdict, iterate: T) -> Self {
        Self { verdict, top: verdict.score, lowest: verdict.loss, iterate }
    }

    /// Takes an iterate and its verdict.
    pub(crate) fn meet(&mut self, now: Verdict, iterate: impl FnOnce() -> T) -> Met {
        let gain = now.score > self.top || (now.score >= 1.0 && now.loss < self.verdict.loss);
        let falling = now.loss < self.lowest;
        self.top = self.top.max(now.score);
        self.lowest = self.lowest.min(now.loss);
        let close = |v: Verdict| v.score >= self.top - CLOSE;
        let better = match (close(self.verdict), close(now)) {
            (true, true) => now.loss < self.verdict.loss,
            (best, now) => now && !best,
        };
        if better {
            (self.verdict, self.iterate) = (now, iterate());
        }
        Met { better, gain, falling }
    }

    /// The numbers, to be saved.
    pub(crate) fn numbers(best: Option<&Self>) -> [f64; 4] {
        best.map_or([f64::NAN; 4], |b| [b.verdict.score, b.verdict.loss, b.top, b.lowest])
    }

    /// From saved numbers.
    pub(crate) fn read(numbers: &[f64], iterate: T) -> Self {
        let verdict = Verdict { score: numbers[0], loss: numbers[1] };
        Self { verdict, top: numbers[2], lowest: numbers[3], iterate }
    }
}

/// What became of an iterate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Met {
    /// It is the best now: of a higher score, or among close ones of a lower loss.
    pub(crate) better: bool,
    /// Its score is above all before, or every pair is found and its loss is below that of the best.
    pub(crate) gain: bool,
    /// Its loss is below all before: the descent is on its way, whatever the score says.
    pub(crate) falling: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_scores_are_told_apart_by_their_loss() {
        let v = |score, loss| Verdict { score, loss };
        let mut best = Best::new(v(0.4, 0.3), 0);
        let mut meet = |now: Verdict, k| {
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
