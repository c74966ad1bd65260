//! Clip: from the sums over an anchor's negatives to the loss, `gamma` and the weights of `S`.
//!
//! With `T_ik = log( sum_neg eps e^{s_ij/tau} + eps_ik e^{s_ik/tau} + log_eps e^{nu s_ik/tau} )` of anchor `i` and its
//! positive `k`, which is `log(u_ik + log_eps) + nu s_ik/tau` of the unified loss (arXiv 2604.16678):
//!
//! ```text
//! term of the loss    1/(2 n |P(i)|) (tau T_ik - nu s_ik)
//! gamma_ik            (1 - nu) p - nu q,   p = eps_ik e^{s_ik/tau - T_ik},   q = e^{log_neg_i - T_ik}
//! gamma_ij, j neg.    eps e^{s_ij/tau} sum_k e^{-T_ik}
//! S_ij,     j neg.    -eps (e^{s_ij/tau + a_i} + e^{s_ij/tau + b_j}),   a_i = log( sum_k e^{-T_ik} / (2 n |P(i)|) )
//! ```
//!
//! and `b_j` the same of column `j`. Sums stay logarithms (`log_neg`, `a`, `b`), so that every exponent of a weight is at
//! most `log 1/2n`, and no temperature overflows. `gamma_ik` comes from `q`, never from `1 - p`, which would cancel.
//!
//! # Range
//!
//! |s| <= 1 of embeddings, so that `e^{(s - 1)/tau}` cannot overflow: one shift serves all sums and weights, and a tile costs
//! one exponential an entry. Where a sum of them is below `e^-limit` ([`lost_range`]) too many of its terms may have underflowed,
//! and pass 1 sums once more with running maxima. Where `a_i + 1/tau` is above the limit ([`one_exponential`]) the weights
//! take both exponentials as they stand. Given similarities may exceed 1: where they take a sum above `e^limit` both happen, too.

use super::masked::pair_scale;
use crate::loss::{Loss, log_add_exp};
use crate::positives::Positives;

/// Whether the logarithm of a sum of `e^{s/tau}` that was taken with the constant shift has lost too much of the number
/// type's range, or left it because given similarities exceed 1: `limit` is the largest magnitude of exponents that a backend's
/// exponentials keep exact.
pub(crate) fn lost_range(log_sum: f64, tau: f64, limit: f64) -> bool {
    // Written so that NaN is lost, too.
    !(-limit..=limit).contains(&(log_sum - 1.0 / tau))
}

/// Whether weights with the logarithmic coefficient `a` may be computed as `e^{(s - 1)/tau} e^{a + 1/tau}`.
pub(crate) fn one_exponential(a: f64, tau: f64, limit: f64) -> bool {
    a + 1.0 / tau < limit
}

/// What pass 1 finds for an anchor.
pub(crate) struct Anchor {
    /// `log sum_neg eps e^{s/tau}`, diagonal negatives included.
    pub(crate) log_neg: f64,
    /// `a_i`, without `eps_neg`.
    pub(crate) coefficient: f64,
    /// Its term of the loss, averaged.
    pub(crate) term: f64,
}

/// Row `i` from the log-sum of its negatives and the similarities `s` of its masked entries: its positives', then its
/// diagonal's where that is a negative [weighed apart](super::masked::diagonal_apart).
pub(crate) fn anchor(loss: &Loss, positives: &Positives, i: usize, log_neg: f64, s: &[f64]) -> Anchor {
    let row = positives.row(i);
    let log_neg = match s.get(row.len()) {
        Some(diagonal) => log_add_exp(log_neg, loss.eps_pos.ln() + diagonal / loss.tau),
        None => log_neg,
    };
    let (mut coefficient, mut term) = (f64::NEG_INFINITY, 0.0);
    for (&k, &s) in row.iter().zip(s) {
        let t = log_total(loss, log_neg, s, loss.eps(i, k as usize, true));
        // Nothing inside the logarithm (no negatives and eps_pos = 0): defined as no contribution.
        if t == f64::NEG_INFINITY {
            (coefficient, term) = (f64::NEG_INFINITY, 0.0);
            break;
        }
        coefficient = log_add_exp(coefficient, -t);
        term += loss.tau * t - loss.nu * s;
    }
    let scale = pair_scale(positives.n_x(), row.len());
    Anchor { log_neg, coefficient: coefficient + scale.ln(), term: scale * term }
}

/// `T_ik`.
fn log_total(loss: &Loss, log_neg: f64, s: f64, eps: f64) -> f64 {
    let own = if eps > 0.0 { s / loss.tau + eps.ln() } else { f64::NEG_INFINITY };
    let t = log_add_exp(log_neg, own);
    if loss.log_eps > 0.0 { log_add_exp(t, loss.log_eps.ln() + loss.nu * s / loss.tau) } else { t }
}

/// `gamma_ik` of a positive pair.
pub(crate) fn gamma_positive(loss: &Loss, log_neg: f64, s: f64, eps: f64) -> f64 {
    let t = log_total(loss, log_neg, s, eps);
    if t == f64::NEG_INFINITY {
        return 0.0;
    }
    let p = eps * (s / loss.tau - t).exp();
    let q = (log_neg - t).exp();
    (1.0 - loss.nu) * p - loss.nu * q
}
