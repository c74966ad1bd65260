//! The contrastive similarity weight matrix `S(gamma) = -dL/ds`, in closed form from `O(n)` numbers.
//!
//! Everything here is per anchor, in float64, and shared by all backends. A backend supplies sums over
//! negatives (pass 1); this module turns them into the loss and into coefficients with which any entry of
//! `S` follows from its similarity `s_ij` alone:
//!
//! * clip, negatives: `S_ij = -(e^{s_ij/tau + a_i} + e^{s_ij/tau + b_j})` with logarithmic coefficients `a`, `b`.
//!   Every exponent is at most `log 1/2n`, so nothing overflows at any temperature.
//! * additive members, negatives: `S_ij = -(sum_k c_i psi'(s_ij - nu s_ik) + sum_l d_j psi'(s_ij - nu s_lj))`.
//! * positives ([`Weights::exception`]) come from the anchor's share of negatives, never from `1 - p`.
//!
//! Source: arXiv 2604.16678, the triple reductions `gamma`, `gamma-bar` of the unified loss.

use crate::distributed::Group;
use crate::error::{Error, Result};
use crate::loss::{EpsBy, Loss, LossKind, log_add_exp};
use crate::positives::Positives;
use serde::{Deserialize, Serialize};

/// Which negatives an anchor sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Negatives {
    /// All of them: the exact loss.
    #[default]
    All,
    /// About `per_anchor` of them, drawn for a seed in shuffled tiles; sums are scaled up to all negatives
    /// and positives stay exact.
    Sampled {
        /// Negatives per row; rounded up to whole tiles.
        per_anchor: usize,
        /// Equal seeds give equal samples.
        seed: u64,
    },
}

impl Negatives {
    /// The size of the sample of an anchor; none: all.
    pub fn per_anchor(self) -> Option<usize> {
        match self {
            Self::All => None,
            Self::Sampled { per_anchor, .. } => Some(per_anchor),
        }
    }

    /// Two samples of half the size, independent of each other and of this one, which show the error that sampling
    /// leaves. None where nothing is sampled, or too little to halve.
    pub fn halves(self) -> Option<[Self; 2]> {
        let Self::Sampled { per_anchor: m @ 2.., seed } = self else { return None };
        let per_anchor = m.div_ceil(2);
        // Seeds that nobody picks by counting.
        let apart = |k: u64| seed ^ k.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Some([1, 2].map(|k| Self::Sampled { per_anchor, seed: apart(k) }))
    }
}

/// What pass 1 leaves behind: the loss and everything needed to evaluate `S` (see the module's text).
#[derive(Clone, Debug)]
pub struct Weights {
    /// The loss.
    pub loss: Loss,
    /// The relation.
    pub positives: Positives,
    /// Which negatives the sums ran over; later passes use the same.
    pub negatives: Negatives,
    /// `L_x`: the rows' half of the loss.
    pub loss_rows: f64,
    /// `L_y`: the columns' half of the loss.
    pub loss_cols: f64,
    /// Whether this rank has the coefficients of its own rows and columns only: of clip over all negatives, on several
    /// CPU ranks.
    pub share: bool,
    /// Coefficients of the rows.
    pub rows: Side,
    /// Coefficients of the columns.
    pub cols: Side,
}

/// Coefficients of the anchors of one direction.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// The first anchor whose numbers are here.
    pub first: usize,
    /// Clip: `log sum_neg eps e^{s/tau}` of each anchor.
    pub log_neg: Vec<f64>,
    /// Clip: `a_i = log( sum_k e^{-T_ik} / (2 n |P|) )`, without eps. -inf where the anchor pushes nothing.
    pub coeff: Vec<f64>,
    /// Additive members: `s_ik` of every pair, anchor by anchor.
    pub s_pos: Vec<f64>,
    /// Additive members: `sum_neg eps psi'(s_ij - nu s_ik)` of every pair.
    pub dpsi: Vec<f64>,
    /// Sampled negatives: all negatives / seen negatives of each anchor. Empty: 1.
    pub factor: Vec<f64>,
}

impl Side {
    /// How many times the seen negatives stand for all of anchor `i`'s.
    pub fn factor(&self, i: usize) -> f64 {
        self.factor.get(i).copied().unwrap_or(1.0)
    }

    /// Clip's `log_neg` and `coeff` of anchor `i`; NaN where they are not here.
    pub fn clip(&self, i: usize) -> [f64; 2] {
        let at = |list: &[f64]| i.checked_sub(self.first).and_then(|k| list.get(k)).copied();
        [at(&self.log_neg).unwrap_or(f64::NAN), at(&self.coeff).unwrap_or(f64::NAN)]
    }
}

impl Weights {
    /// `L = L_x + L_y`.
    pub fn value(&self) -> f64 {
        self.loss_rows + self.loss_cols
    }

    /// The same, if its numbers are finite: embeddings that are not, or extreme parameters of the loss, end here.
    ///
    /// # Errors
    /// [`Error::Numerical`].
    pub(crate) fn checked(self) -> Result<Self> {
        let fails = |what: String| {
            let advice = "are the embeddings unit rows, and tau, nu, margin and eps of ordinary size?";
            Err(Error::Numerical(format!("{what}: {advice}")))
        };
        let Self { loss_rows, loss_cols, .. } = self;
        if !(loss_rows.is_finite() && loss_cols.is_finite()) {
            return fails(format!("the loss is not finite ({loss_rows} of rows, {loss_cols} of columns)"));
        }
        for (name, side) in [("row", &self.rows), ("column", &self.cols)] {
            // -inf is the logarithm of nothing.
            let logs = side.coeff.iter().position(|v| v.is_nan() || *v == f64::INFINITY);
            if let Some(i) = logs {
                return fails(format!("the weights of {name} {} are not finite", side.first + i));
            }
            if side.s_pos.iter().chain(&side.dpsi).any(|v| !v.is_finite()) {
                return fails(format!("the weights of {name}s are not finite"));
            }
        }
        Ok(self)
    }

    /// The same with the coefficients of all ranks' rows and columns. A collective.
    ///
    /// # Errors
    /// [`Error::Comm`].
    pub fn complete(mut self, group: &Group) -> Result<Self> {
        // All ranks have shares, or none.
        if std::mem::take(&mut self.share) {
            for side in [&mut self.rows, &mut self.cols] {
                side.log_neg = group.concat(std::mem::take(&mut side.log_neg))?;
                side.coeff = group.concat(std::mem::take(&mut side.coeff))?;
                side.first = 0;
            }
        }
        Ok(self)
    }

    /// The same matrix seen from the other side: `S^T`.
    pub fn transposed(&self) -> Self {
        Self {
            share: self.share,
            loss: self.loss,
            positives: self.positives.transposed(),
            negatives: self.negatives,
            loss_rows: self.loss_cols,
            loss_cols: self.loss_rows,
            rows: self.cols.clone(),
            cols: self.rows.clone(),
        }
    }

    /// `1/(2 n |P(anchor)|)`: the average's weight of one pair of row `i`.
    pub fn row_scale(&self, i: usize) -> f64 {
        pair_scale(self.positives.n_x(), self.positives.row(i).len())
    }

    /// The same of column `j`.
    pub fn col_scale(&self, j: usize) -> f64 {
        pair_scale(self.positives.n_y(), self.positives.col(j).len())
    }

    /// `S_ij` of a pair that dense tiles leave out: a positive, or (with [`EpsBy::Diagonal`]) a diagonal negative.
    pub fn exception(&self, i: usize, j: usize, s: f64) -> f64 {
        self.exception_of(i, j, s, self.cols.clip(j))
    }

    /// The same with clip's numbers of column `j`, which need not be here.
    pub(crate) fn exception_of(&self, i: usize, j: usize, s: f64, [log_col, coeff_col]: [f64; 2]) -> f64 {
        let [log_row, coeff_row] = self.rows.clip(i);
        let positive = self.positives.contains(i, j);
        let eps = self.loss.eps(i, j, positive);
        if self.loss.kind == LossKind::Clip {
            if positive {
                -(self.row_scale(i) * clip_positive(&self.loss, log_row, s, eps)
                    + self.col_scale(j) * clip_positive(&self.loss, log_col, s, eps))
            } else {
                let t = s / self.loss.tau;
                -eps * ((t + coeff_row).exp() + (t + coeff_col).exp())
            }
        } else if positive {
            let row_pair = self.positives.row_offset(i) + position(self.positives.row(i), j);
            let col_pair = self.positives.col_offset(j) + position(self.positives.col(j), i);
            let own = (1.0 - self.loss.nu) * eps * self.loss.dpsi((1.0 - self.loss.nu) * s);
            -(self.row_scale(i) * (own - self.loss.nu * self.rows.dpsi[row_pair])
                + self.col_scale(j) * (own - self.loss.nu * self.cols.dpsi[col_pair]))
        } else {
            -eps * (self.additive_row(i, s) + self.additive_col(j, s))
        }
    }

    /// `sum_k psi'(s - nu s_ik) / (2 n_x |P(i)|)`: how hard row `i` pushes a negative at similarity `s`.
    fn additive_row(&self, i: usize, s: f64) -> f64 {
        let pairs = self.positives.row_offset(i)..self.positives.row_offset(i + 1);
        let pushes = self.rows.s_pos[pairs].iter().map(|&sk| self.loss.dpsi(s - self.loss.nu * sk));
        self.row_scale(i) * pushes.sum::<f64>()
    }

    fn additive_col(&self, j: usize, s: f64) -> f64 {
        let pairs = self.positives.col_offset(j)..self.positives.col_offset(j + 1);
        let pushes = self.cols.s_pos[pairs].iter().map(|&sk| self.loss.dpsi(s - self.loss.nu * sk));
        self.col_scale(j) * pushes.sum::<f64>()
    }

    /// When every similarity is 0, all negatives of row `i` and column `j` weigh `-eps_neg (alpha_i + beta_j)`: of the
    /// anchors that are here.
    pub fn at_zero(&self) -> (Vec<f64>, Vec<f64>) {
        let of = |n: usize, side: &Side, push: &dyn Fn(usize) -> f64| -> Vec<f64> {
            match self.loss.kind {
                LossKind::Clip => side.coeff.iter().map(|a| a.exp()).collect(),
                _ => (0..n).map(push).collect(),
            }
        };
        let alpha = of(self.positives.n_x(), &self.rows, &|i| self.additive_row(i, 0.0));
        let beta = of(self.positives.n_y(), &self.cols, &|j| self.additive_col(j, 0.0));
        (alpha, beta)
    }
}

/// Whether the loss weighs the diagonal pair of anchor `i` apart although it is a negative.
pub(crate) fn diagonal_apart(loss: &Loss, positives: &Positives, i: usize) -> bool {
    loss.eps_by == EpsBy::Diagonal && i < positives.n_y() && !positives.contains(i, i)
}

/// The pairs of row `i` that dense tiles leave out: its positives, and the diagonal where `eps_by` singles it out.
pub fn exceptions_of_row(loss: &Loss, positives: &Positives, i: usize) -> impl Iterator<Item = usize> {
    let row = positives.row(i);
    let extra = diagonal_apart(loss, positives, i).then_some(i);
    row.iter().map(|&j| j as usize).chain(extra)
}

fn position(list: &[u32], item: usize) -> usize {
    list.partition_point(|&l| (l as usize) < item)
}

fn pair_scale(anchors: usize, positives: usize) -> f64 {
    if positives == 0 { 0.0 } else { 0.5 / (anchors as f64 * positives as f64) }
}

/// One clip anchor: from the log-sum of its negatives and its positives' `(s_ik, eps_ik)`, its logarithmic
/// coefficient `a` and its term of the loss (both already averaged: `1/(2 n |P|)`).
///
/// With `T_ik = log(sum_neg + eps_ik e^{s_ik/tau})` the term of a pair is `tau T_ik - nu s_ik`.
pub fn clip_anchor(
    loss: &Loss,
    anchors: usize,
    log_neg: f64,
    pairs: impl Iterator<Item = (f64, f64)>,
) -> (f64, f64) {
    let (mut coeff, mut term, mut count, mut dead) = (f64::NEG_INFINITY, 0.0, 0, false);
    for (s, eps) in pairs {
        let t = clip_log_total(loss, log_neg, s, eps);
        count += 1;
        // Nothing inside the logarithm (no negatives and eps_pos = 0): defined as no contribution.
        dead |= t == f64::NEG_INFINITY;
        if !dead {
            coeff = log_add_exp(coeff, -t);
            term += loss.tau * t - loss.nu * s;
        }
    }
    if count == 0 || dead {
        return (f64::NEG_INFINITY, 0.0);
    }
    let scale = pair_scale(anchors, count);
    (coeff + scale.ln(), scale * term)
}

/// `T_ik`, the logarithm inside clip's phi plus `nu s_ik / tau` (which leaves the logarithm).
fn clip_log_total(loss: &Loss, log_neg: f64, s: f64, eps: f64) -> f64 {
    let own = if eps > 0.0 { s / loss.tau + eps.ln() } else { f64::NEG_INFINITY };
    let t = log_add_exp(log_neg, own);
    if loss.log_eps > 0.0 { log_add_exp(t, loss.log_eps.ln() + loss.nu * s / loss.tau) } else { t }
}

/// `gamma_ik` of clip: `(1 - nu) p - nu q`, with `p` the positive's and `q` the negatives' share of `e^{T_ik}`.
fn clip_positive(loss: &Loss, log_neg: f64, s: f64, eps: f64) -> f64 {
    let t = clip_log_total(loss, log_neg, s, eps);
    if t == f64::NEG_INFINITY {
        return 0.0;
    }
    let p = eps * (s / loss.tau - t).exp();
    let q = (log_neg - t).exp();
    (1.0 - loss.nu) * p - loss.nu * q
}

/// One additive anchor: its term of the loss from `sum_neg eps psi(s_ij - nu s_ik)` of each pair.
pub fn additive_anchor(loss: &Loss, anchors: usize, pairs: impl Iterator<Item = (f64, f64, f64)>) -> f64 {
    let (mut term, mut count) = (0.0, 0);
    for (s, eps, psi_negatives) in pairs {
        term += psi_negatives + eps * loss.psi((1.0 - loss.nu) * s);
        count += 1;
    }
    pair_scale(anchors, count) * term
}
