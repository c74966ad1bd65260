//! What pass 1 leaves behind: the loss and `O(n)` numbers with which any entry of `S` follows from its similarity alone.

use super::additive;
use super::clip;
use super::masked::pair_scale;
use super::sampling::NegativeSampling;
use crate::distributed::Group;
use crate::error::{Error, Result};
use crate::loss::{Loss, LossKind};
use crate::positives::Positives;

/// The loss and the coefficients of `S(gamma)`, in float64.
#[derive(Clone, Debug)]
pub struct Weights {
    /// The loss.
    pub loss: Loss,
    /// The relation.
    pub positives: Positives,
    /// Which negatives the sums ran over; later passes use the same.
    pub negatives: NegativeSampling,
    /// `L_x`: the rows' half of the loss.
    pub loss_rows: f64,
    /// `L_y`: the columns' half of the loss.
    pub loss_cols: f64,
    /// Whether this rank has the numbers of its own rows and columns only: of clip over all negatives, on several
    /// CPU ranks.
    pub share: bool,
    /// Of the rows.
    pub rows: AnchorStats,
    /// Of the columns.
    pub cols: AnchorStats,
}

/// Numbers of the anchors of one direction.
#[derive(Clone, Debug, Default)]
pub struct AnchorStats {
    /// The first anchor whose numbers are here.
    pub first: usize,
    /// Clip: `log sum_neg eps e^{s/tau}` of each anchor.
    pub log_neg: Vec<f64>,
    /// Clip: `a_i = log( sum_k e^{-T_ik} / (2 n |P|) )`, without eps. -inf where the anchor pushes nothing.
    pub coeff: Vec<f64>,
    /// Additive members and losses of one's own: `s_ik` of every pair, anchor by anchor.
    pub s_pos: Vec<f64>,
    /// Additive members: `sum_neg eps psi'(s_ij - nu s_ik)` of every pair.
    pub dpsi: Vec<f64>,
    /// A loss of one's own: `phi'(u_ik)` of every pair.
    pub dphi: Vec<f64>,
    /// A loss of one's own: `gamma_ik` of every pair.
    pub gamma: Vec<f64>,
    /// Sampled negatives: all negatives / seen negatives of each anchor. Empty: 1.
    pub sampling_weight: Vec<f64>,
}

impl AnchorStats {
    /// How many times the seen negatives stand for all of anchor `i`'s.
    pub fn sampling_weight(&self, i: usize) -> f64 {
        self.sampling_weight.get(i).copied().unwrap_or(1.0)
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
            let pairs = [&side.s_pos, &side.dpsi, &side.dphi, &side.gamma];
            if pairs.into_iter().flatten().any(|v| !v.is_finite()) {
                return fails(format!("the weights of {name}s are not finite"));
            }
        }
        Ok(self)
    }

    /// The same with the numbers of all ranks' rows and columns. A collective.
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
            loss: self.loss.clone(),
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

    /// `S_ij` of an entry that dense tiles leave out: a positive, or (with [`EpsBy::Diagonal`](crate::loss::EpsBy::Diagonal))
    /// a diagonal negative.
    pub fn masked_entry(&self, i: usize, j: usize, s: f64) -> f64 {
        self.masked_entry_of(i, j, s, self.cols.clip(j))
    }

    /// The same with clip's numbers of column `j`, which need not be here.
    pub(crate) fn masked_entry_of(&self, i: usize, j: usize, s: f64, [log_col, a_col]: [f64; 2]) -> f64 {
        let (loss, p, [log_row, a_row]) = (&self.loss, &self.positives, self.rows.clip(i));
        let positive = p.contains(i, j);
        let eps = loss.eps(i, j, positive);
        match (loss.kind, positive) {
            (LossKind::Clip, true) => {
                -(self.row_scale(i) * clip::gamma_positive(loss, log_row, s, eps)
                    + self.col_scale(j) * clip::gamma_positive(loss, log_col, s, eps))
            }
            (LossKind::Clip, false) => {
                let t = s / loss.tau;
                -eps * ((t + a_row).exp() + (t + a_col).exp())
            }
            (LossKind::Custom, true) => {
                let row = self.rows.gamma[p.row_offset(i) + position(p.row(i), j)];
                let col = self.cols.gamma[p.col_offset(j) + position(p.col(j), i)];
                -(self.row_scale(i) * row + self.col_scale(j) * col)
            }
            (_, true) => {
                let row_sum = self.rows.dpsi[p.row_offset(i) + position(p.row(i), j)];
                let col_sum = self.cols.dpsi[p.col_offset(j) + position(p.col(j), i)];
                -(self.row_scale(i) * additive::gamma_positive(loss, row_sum, s, eps)
                    + self.col_scale(j) * additive::gamma_positive(loss, col_sum, s, eps))
            }
            (_, false) => -eps * (self.additive_row(i, s) + self.additive_col(j, s)),
        }
    }

    /// How hard row `i` of an additive loss pushes a negative at similarity `s`, without eps.
    fn additive_row(&self, i: usize, s: f64) -> f64 {
        let pairs = self.positives.row_offset(i)..self.positives.row_offset(i + 1);
        self.row_scale(i) * additive::push(&self.loss, &self.rows.s_pos[pairs], s)
    }

    fn additive_col(&self, j: usize, s: f64) -> f64 {
        let pairs = self.positives.col_offset(j)..self.positives.col_offset(j + 1);
        self.col_scale(j) * additive::push(&self.loss, &self.cols.s_pos[pairs], s)
    }

    /// When every similarity is 0, all negatives of row `i` and column `j` weigh `-eps_neg (alpha_i + beta_j)`: of the
    /// anchors that are here.
    ///
    /// # Errors
    /// Those of a psi of one's own.
    pub fn at_zero(&self) -> Result<(Vec<f64>, Vec<f64>)> {
        let p = &self.positives;
        let slope = self.loss.at_zero()?[1];
        let of = |n: usize, side: &AnchorStats, push: &dyn Fn(usize) -> f64| -> Vec<f64> {
            match self.loss.kind {
                LossKind::Clip => side.coeff.iter().map(|a| a.exp()).collect(),
                _ => (0..n).map(push).collect(),
            }
        };
        // sum_k phi'_k psi'(0) of an anchor's pairs.
        let pushes = |side: &AnchorStats, pairs: std::ops::Range<usize>| -> f64 {
            match side.dphi.is_empty() {
                true => slope * pairs.len() as f64,
                false => slope * side.dphi[pairs].iter().sum::<f64>(),
            }
        };
        let row = |i: usize| self.row_scale(i) * pushes(&self.rows, p.row_offset(i)..p.row_offset(i + 1));
        let col = |j: usize| self.col_scale(j) * pushes(&self.cols, p.col_offset(j)..p.col_offset(j + 1));
        Ok((of(p.n_x(), &self.rows, &row), of(p.n_y(), &self.cols, &col)))
    }
}

fn position(list: &[u32], item: usize) -> usize {
    list.partition_point(|&l| (l as usize) < item)
}
