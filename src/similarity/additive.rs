//! Sigmoid and triplets (`phi = id`): from the sums over an anchor's negatives to the loss, `gamma` and the weights of `S`.
//!
//! ```text
//! term of the loss    1/(2 n |P(i)|) ( sum_neg eps psi(s_ij - nu s_ik) + eps_ik psi((1 - nu) s_ik) )
//! gamma_ik            eps_ik (1 - nu) psi'((1 - nu) s_ik) - nu sum_neg eps psi'(s_ij - nu s_ik)
//! gamma_ij, j neg.    eps sum_k psi'(s_ij - nu s_ik)
//! S_ij,     j neg.    -eps ( c_i sum_k psi'(s_ij - nu s_ik) + d_j sum_l psi'(s_ij - nu s_lj) )
//! ```
//!
//! with `c_i = 1/(2 n_x |P(i)|)` and `d_j = 1/(2 n_y |P(j)|)` (arXiv 2604.16678). Pass 1 sums psi and psi' over the negatives
//! of every positive pair; pass 2 needs `s_ik` of the pairs alone.

use super::masked::{diagonal_apart, pair_scale};
use super::weights::AnchorStats;
use crate::loss::Loss;
use crate::positives::Positives;

/// The anchors of one direction and their half of the loss, from the plain sums of psi and psi' over the negatives of every
/// pair: applies eps and the sampling weights, and adds diagonal negatives. `diagonal(i)` is `s_ii`, asked for in order
/// where it is [weighed apart](diagonal_apart).
pub(crate) fn anchors(
    loss: &Loss,
    positives: &Positives,
    s_pos: Vec<f64>,
    [mut psi, mut dpsi]: [Vec<f64>; 2],
    sampling_weight: &[f64],
    mut diagonal: impl FnMut(usize) -> f64,
) -> (AnchorStats, f64) {
    let mut value = 0.0;
    for i in 0..positives.n_x() {
        let scale = loss.eps_neg * sampling_weight.get(i).copied().unwrap_or(1.0);
        let apart = diagonal_apart(loss, positives, i).then(|| (loss.eps_pos, diagonal(i)));
        let pairs = positives.row_offset(i)..positives.row_offset(i + 1);
        let mut term = 0.0;
        for (e, &k) in pairs.zip(positives.row(i)) {
            psi[e] *= scale;
            dpsi[e] *= scale;
            if let Some((eps, s)) = apart {
                psi[e] += eps * loss.psi(s - loss.nu * s_pos[e]);
                dpsi[e] += eps * loss.dpsi(s - loss.nu * s_pos[e]);
            }
            let eps = loss.eps(i, k as usize, true);
            term += psi[e] + eps * loss.psi((1.0 - loss.nu) * s_pos[e]);
        }
        value += pair_scale(positives.n_x(), positives.row(i).len()) * term;
    }
    (AnchorStats { s_pos, dpsi, ..AnchorStats::default() }, value)
}

/// `gamma_ik` of a positive pair; `sum` is `sum_neg eps psi'(s_ij - nu s_ik)`.
pub(crate) fn gamma_positive(loss: &Loss, sum: f64, s: f64, eps: f64) -> f64 {
    (1.0 - loss.nu) * eps * loss.dpsi((1.0 - loss.nu) * s) - loss.nu * sum
}

/// `sum_k psi'(s - nu s_ik)` over an anchor's positives `s_pos`, for a negative at similarity `s`.
pub(crate) fn push(loss: &Loss, s_pos: &[f64], s: f64) -> f64 {
    s_pos.iter().map(|&sk| loss.dpsi(s - loss.nu * sk)).sum()
}
