//! The weights of negatives as a tile computes them from its similarities: which formula, and its coefficients.

use super::clip;
use super::schedule::TileSchedule;
use super::weights::Weights;
use crate::distributed::Group;
use crate::error::Result;
use crate::loss::LossKind;
use std::ops::Range;

/// `-S_ij` of negatives, with coefficients by position of a schedule, eps and sampling weights included.
pub(crate) enum Coefficients {
    /// Clip, one exponential an entry: `e^{(s - 1)/tau} (alpha_i + beta_j)`.
    ClipShifted { alpha: Vec<f64>, beta: Vec<f64> },
    /// Clip at any temperature: `e^{s/tau + a_i} + e^{s/tau + b_j}`.
    ClipLog { a: Vec<f64>, b: Vec<f64> },
    /// Additive members: `c_i sum_k psi'(s - nu s_ik) + d_j sum_l psi'(s - nu s_lj)`.
    Additive { c: Vec<f64>, d: Vec<f64> },
    /// A psi and a phi of one's own: `c_i sum_k phi'_ik psi'(s - nu s_ik) + d_j sum_l phi'_lj psi'(s - nu s_lj)`.
    Family { c: Vec<f64>, d: Vec<f64> },
    /// All similarities are 0: `alpha_i + beta_j`.
    Flat { alpha: Vec<f64>, beta: Vec<f64> },
}

impl Coefficients {
    /// Of the row and column positions whose numbers the rank has (`0..n` unless the weights are [shared
    /// out](Weights::share)); `limit` as in [`clip::one_exponential`]. A collective.
    pub(crate) fn new(
        group: &Group,
        w: &Weights,
        schedule: &TileSchedule,
        zeros: bool,
        (rows, cols): (Range<usize>, Range<usize>),
        limit: f64,
    ) -> Result<Self> {
        let loss = &w.loss;
        let at_rows =
            |f: &dyn Fn(usize) -> f64| rows.clone().map(|p| f(schedule.row_id(p))).collect::<Vec<f64>>();
        let at_cols =
            |f: &dyn Fn(usize) -> f64| cols.clone().map(|p| f(schedule.col_id(p))).collect::<Vec<f64>>();
        if zeros {
            let (alpha, beta) = w.at_zero()?;
            let scaled = |v: Vec<f64>| v.into_iter().map(|v| loss.eps_neg * v).collect();
            return Ok(Self::Flat { alpha: scaled(alpha), beta: scaled(beta) });
        }
        if loss.kind != LossKind::Clip {
            let c = at_rows(&|i| w.row_scale(i) * loss.eps_neg * w.rows.sampling_weight(i));
            let d = at_cols(&|j| w.col_scale(j) * loss.eps_neg * w.cols.sampling_weight(j));
            return Ok(match loss.kind {
                LossKind::Custom => Self::Family { c, d },
                _ => Self::Additive { c, d },
            });
        }
        let log_eps = loss.eps_neg.ln();
        let a = at_rows(&|i| w.rows.clip(i)[1] + log_eps + w.rows.sampling_weight(i).ln());
        let b = at_cols(&|j| w.cols.clip(j)[1] + log_eps + w.cols.sampling_weight(j).ln());
        // Where a sum left the range, e^{(s - 1)/tau} does; eps of 0 leaves no sum, and no weight.
        let sums = w.rows.log_neg.iter().chain(&w.cols.log_neg);
        let large = sums.map(|log| log - log_eps).any(|log| log - 1.0 / loss.tau > limit);
        let safe = !large && a.iter().chain(&b).all(|&a| clip::one_exponential(a, loss.tau, limit));
        if group.any(!safe)? {
            return Ok(Self::ClipLog { a, b });
        }
        let shifted = |v: Vec<f64>| v.into_iter().map(|a| (a + 1.0 / loss.tau).exp()).collect();
        Ok(Self::ClipShifted { alpha: shifted(a), beta: shifted(b) })
    }
}
