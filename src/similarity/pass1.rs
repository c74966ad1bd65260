//! Pass 1: sums over the negatives of every row and column, then the loss and the coefficients of `S(gamma)`.

use super::blocks::{Blocks, BothSides, SumsOf};
use super::masked::diagonal_apart;
use super::sampling::{NegativeSampling, Seen};
use super::schedule::{TILE, TileSchedule};
use super::weights::{AnchorStats, Weights};
use super::{additive, clip, family};
use crate::backend::Similarity;
use crate::distributed::Fold;
use crate::error::Result;
use crate::loss::{EpsBy, Loss, LossKind};
use crate::positives::Positives;
use std::ops::Range;

/// Sums of psi and of psi' over the negatives of every pair.
type PairSums = [Vec<f64>; 2];

/// The loss and the coefficients of `S(gamma)` at similarities `s`. A collective.
pub(crate) fn weights<B: Blocks>(
    backend: &B,
    s: Similarity<'_, B::Matrix>,
    loss: &Loss,
    positives: &Positives,
    negatives: NegativeSampling,
) -> Result<Weights> {
    let schedule = TileSchedule::of(&s, positives, negatives);
    let back = positives.transposed();
    let seen = backend
        .install(|| [Seen::new(&schedule, loss, positives), Seen::new(&schedule.transposed(), loss, &back)]);
    let zeros = matches!(s, Similarity::Zeros(..));
    let problem = backend.problem(s, false, loss, positives, schedule.clone())?;
    let pass =
        Pass { backend, problem, loss, sides: [positives, &back], schedule: &schedule, seen: &seen, zeros };
    let [(rows, loss_rows), (cols, loss_cols)] = match loss.kind {
        LossKind::Clip => pass.clip()?,
        _ => pass.by_pairs()?,
    };
    drop(pass);
    let [weight_x, weight_y] = seen.map(|seen| seen.weight);
    Weights {
        loss: loss.clone(),
        positives: positives.clone(),
        negatives,
        loss_rows,
        loss_cols,
        share: loss.kind == LossKind::Clip && !schedule.is_sampled() && backend.group().size() > 1,
        rows: AnchorStats { sampling_weight: weight_x, ..rows },
        cols: AnchorStats { sampling_weight: weight_y, ..cols },
    }
    .checked()
}

/// One pass. Pairs of things are of rows and of columns.
struct Pass<'a, B: Blocks + 'a> {
    backend: &'a B,
    problem: B::Problem<'a>,
    loss: &'a Loss,
    /// The relation, and seen from the columns.
    sides: [&'a Positives; 2],
    schedule: &'a TileSchedule,
    seen: &'a [Seen; 2],
    zeros: bool,
}

impl<B: Blocks> Pass<'_, B> {
    /// The anchors whose sums are here: this rank's, or, where negatives are sampled, all.
    fn summed(&self, side: usize) -> Range<usize> {
        let n = self.sides[side].n_x();
        if self.schedule.is_sampled() { 0..n } else { self.backend.group().layout(n, TILE).own() }
    }

    fn clip(&self) -> Result<[(AnchorStats, f64); 2]> {
        let [log_x, log_y] = self.clip_log_sums()?;
        Ok([self.clip_anchors(0, log_x)?, self.clip_anchors(1, log_y)?])
    }

    /// `log sum_neg eps_neg e^{s/tau}` of the anchors whose sums are here, masked entries left out.
    fn clip_log_sums(&self) -> Result<[Vec<f64>; 2]> {
        let (tau, limit) = (self.loss.tau, self.backend.exponent_limit());
        let first = [0, 1].map(|side| self.summed(side).start);
        // Negatives of the `k`-th of these anchors.
        let negatives = |side: usize, k: usize| self.seen[side].of(first[side] + k);
        let mut sums: [Vec<f64>; 2] = if self.zeros {
            [0, 1].map(|side| self.summed(side).map(|i| self.seen[side].of(i).ln()).collect())
        } else {
            let by_maxima = self.backend.always_by_maxima(tau);
            let sums = self.log_sums(by_maxima)?;
            let lost = !by_maxima
                && (0..2).any(|side| {
                    let mut anchors = sums[side].iter().enumerate();
                    anchors.any(|(k, log)| negatives(side, k) > 0.0 && clip::lost_range(*log, tau, limit))
                });
            match self.backend.group().any(lost)? {
                true => self.log_sums(true)?,
                false => sums,
            }
        };
        let log_eps = self.loss.eps_neg.ln();
        for (side, sums) in sums.iter_mut().enumerate() {
            for (k, log) in sums.iter_mut().enumerate() {
                let weight = self.seen[side].weight.get(k).map_or(0.0, |w| w.ln());
                *log = if negatives(side, k) > 0.0 { *log + log_eps + weight } else { f64::NEG_INFINITY };
            }
        }
        Ok(sums)
    }

    /// `log sum e^{s/tau}` over the visited negatives of the anchors whose sums are here.
    fn log_sums(&self, by_maxima: bool) -> Result<BothSides<Vec<f64>>> {
        let [x, y] = self.sums(SumsOf::Exponentials { by_maxima })?;
        Ok([self.by_sample(0, x)?, self.by_sample(1, y)?])
    }

    /// Sums over the negatives of this rank's rows and columns, by position.
    fn sums(&self, of: SumsOf<'_>) -> Result<BothSides<Vec<f64>>> {
        self.backend.sums(&self.problem, of)?.run(self.backend)
    }

    /// The anchor at a position of one side.
    fn anchor_at(&self, side: usize, position: usize) -> usize {
        if side == 0 { self.schedule.row_id(position) } else { self.schedule.col_id(position) }
    }

    /// Numbers of the positions of all ranks in the order of samples, where negatives are sampled; elsewhere positions are samples.
    fn by_sample(&self, side: usize, own: Vec<f64>) -> Result<Vec<f64>> {
        if !self.schedule.is_sampled() {
            return Ok(own);
        }
        let all = self.backend.group().concat(own)?;
        let mut out = vec![0.0; all.len()];
        all.into_iter().enumerate().for_each(|(position, v)| out[self.anchor_at(side, position)] = v);
        Ok(out)
    }

    /// Sums of psi and of psi' of all pairs, anchor by anchor, from those of this rank's positions.
    fn pair_sums(&self, side: usize, own: Vec<f64>) -> Result<PairSums> {
        let p = self.sides[side];
        let all = self.backend.group().concat(own)?;
        let pairs = |position: usize| {
            let i = self.anchor_at(side, position);
            p.row_offset(i)..p.row_offset(i + 1)
        };
        let mut out = [vec![0.0; p.nnz()], vec![0.0; p.nnz()]];
        for (e, sums) in (0..p.n_x()).flat_map(pairs).zip(all.chunks_exact(2)) {
            (out[0][e], out[1][e]) = (sums[0], sums[1]);
        }
        Ok(out)
    }

    /// The anchors of one side and their half of the loss, from the log-sums of their negatives.
    fn clip_anchors(&self, side: usize, mut log_neg: Vec<f64>) -> Result<(AnchorStats, f64)> {
        let (loss, positives, group) = (self.loss, self.sides[side], self.backend.group());
        let first = self.summed(side).start;
        let anchors = self.backend.with_masked(&self.problem, side == 1, |i, s| {
            clip::anchor(loss, positives, i, log_neg[i - first], s)
        })?;
        // Added in an order that does not depend on the ranks.
        let layout = group.layout(positives.n_x(), TILE);
        let (own, mut value) = (layout.own(), Fold::new(layout.own_blocks()));
        for (i, anchor) in own.clone().zip(&anchors) {
            value.block(i / layout.block(), || vec![0.0], |a: &mut Vec<f64>, b| a[0] += b[0])[0] +=
                anchor.term;
        }
        let value = group.sum(value, 1)?[0];
        // They change where the diagonal is apart.
        let at = own.start - first;
        log_neg[at..at + own.len()].iter_mut().zip(&anchors).for_each(|(log, a)| *log = a.log_neg);
        let mut coeff: Vec<f64> = anchors.into_iter().map(|a| a.coefficient).collect();
        if self.schedule.is_sampled() {
            coeff = group.concat(coeff)?;
            if loss.eps_by == EpsBy::Diagonal {
                log_neg = group.concat(log_neg[own].to_vec())?;
            }
        }
        Ok((AnchorStats { first, log_neg, coeff, ..AnchorStats::default() }, value))
    }

    /// Every member but clip: from sums over the negatives of every pair.
    fn by_pairs(&self) -> Result<[(AnchorStats, f64); 2]> {
        let s = [self.positive_similarities(0)?, self.positive_similarities(1)?];
        let sums = if self.zeros {
            [self.sums_at_zero(0)?, self.sums_at_zero(1)?]
        } else {
            let [x, y] = self.sums(SumsOf::Pairs(s.each_ref().map(|s| &s[..])))?;
            [self.pair_sums(0, x)?, self.pair_sums(1, y)?]
        };
        let ([sums_x, sums_y], [s_x, s_y]) = (sums, s);
        Ok([self.anchors_of_pairs(0, s_x, sums_x)?, self.anchors_of_pairs(1, s_y, sums_y)?])
    }

    fn anchors_of_pairs(&self, side: usize, s: Vec<f64>, sums: PairSums) -> Result<(AnchorStats, f64)> {
        let seen = &self.seen[side];
        if let Some(custom) = self.loss.own()? {
            let loss = (self.loss, custom);
            return family::anchors(loss, self.sides[side], s, sums, &seen.weight, |i| seen.of(i));
        }
        let mut diagonal = self.diagonal_similarities(side)?.into_iter();
        let next = |_| diagonal.next().unwrap_or(0.0);
        Ok(additive::anchors(self.loss, self.sides[side], s, sums, &seen.weight, next))
    }

    /// Sums of psi and psi' where all similarities are 0.
    fn sums_at_zero(&self, side: usize) -> Result<PairSums> {
        let p = self.sides[side];
        Ok(self.loss.at_zero()?.map(|value| {
            let of_anchor = |i: usize| std::iter::repeat_n(value * self.seen[side].of(i), p.row(i).len());
            (0..p.n_x()).flat_map(of_anchor).collect()
        }))
    }

    /// `s_ik` of all pairs, anchor by anchor, on every rank.
    fn positive_similarities(&self, side: usize) -> Result<Vec<f64>> {
        let p = self.sides[side];
        let of = |i: usize, s: &[f64]| s[..p.row(i).len()].to_vec();
        let own = self.backend.with_masked(&self.problem, side == 1, of)?;
        self.backend.group().concat(own.concat())
    }

    /// `s_ii` of the anchors whose diagonal is [apart](diagonal_apart), in order, on every rank.
    fn diagonal_similarities(&self, side: usize) -> Result<Vec<f64>> {
        let (loss, p) = (self.loss, self.sides[side]);
        if loss.eps_by != EpsBy::Diagonal {
            return Ok(Vec::new());
        }
        let of = |i: usize, s: &[f64]| s.last().copied().filter(|_| diagonal_apart(loss, p, i));
        let own = self.backend.with_masked(&self.problem, side == 1, of)?;
        self.backend.group().concat(own.into_iter().flatten().collect())
    }
}
