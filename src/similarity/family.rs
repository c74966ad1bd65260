//! A psi and a phi of one's own: from the sums over an anchor's negatives to the loss, `gamma` and the weights of `S`.
//!
//! ```text
//! u_ik                eps_ik psi((1 - nu) s_ik) + sum_neg eps psi(s_ij - nu s_ik)
//! term of the loss    1/(2 n |P(i)|) phi(u_ik)
//! gamma_ik            phi'(u_ik) [ eps_ik (1 - nu) psi'((1 - nu) s_ik) - nu sum_neg eps psi'(s_ij - nu s_ik) ]
//! gamma_ij, j neg.    eps sum_k phi'(u_ik) psi'(s_ij - nu s_ik)
//! S_ij,     j neg.    -eps ( c_i sum_k phi'(u_ik) psi'(s_ij - nu s_ik) + d_j sum_l phi'(u_lj) psi'(s_ij - nu s_lj) )
//! ```
//!
//! (arXiv 2604.16678, the triple reductions.) The sums over negatives are those of the [additive members](super::additive); a
//! general phi makes every pair `(i, k)` weigh its negatives by its own `phi'(u_ik)`. For a general psi the pairs do not separate,
//! so that both passes take one psi of every pair and every negative of its anchor, `O(nnz(P) n)` in all.
//!
//! Everything here is float64 whatever the tiles are, for `psi` may exceed the range of float32 where its weights do not.

use super::masked::pair_scale;
use super::weights::AnchorStats;
use crate::error::Result;
use crate::loss::{Custom, Loss, Values};
use crate::positives::Positives;

/// The anchors of one direction and their half of the loss, from the plain sums of psi and psi' over the negatives of every
/// pair: applies eps and the sampling weights. `negatives(i)` is how many of them anchor `i` sees.
pub(crate) fn anchors(
    (loss, custom): (&Loss, &Custom),
    positives: &Positives,
    s_pos: Vec<f64>,
    [psi, dpsi]: [Vec<f64>; 2],
    sampling_weight: &[f64],
    negatives: impl Fn(usize) -> f64,
) -> Result<(AnchorStats, f64)> {
    let own: Vec<f64> = s_pos.iter().map(|s| (1.0 - loss.nu) * s).collect();
    let mut at_own = Values::default();
    custom.psi(&own, &mut at_own)?;
    // u and gamma of every pair, and where phi has nothing inside: such a pair contributes nothing.
    let (mut u, mut gamma, mut nothing) = (own, dpsi, Vec::new());
    for i in 0..positives.n_x() {
        let scale = loss.eps_neg * sampling_weight.get(i).copied().unwrap_or(1.0);
        let pairs = positives.row_offset(i)..positives.row_offset(i + 1);
        for (e, &k) in pairs.zip(positives.row(i)) {
            let eps = loss.eps(i, k as usize, true);
            u[e] = eps * at_own.value[e] + scale * psi[e];
            gamma[e] = eps * (1.0 - loss.nu) * at_own.derivative[e] - loss.nu * scale * gamma[e];
            if eps == 0.0 && (loss.eps_neg == 0.0 || negatives(i) == 0.0) {
                nothing.push(e);
            }
        }
    }
    let mut at_u = Values::default();
    let full: Vec<f64> = match nothing.is_empty() {
        true => u,
        false => without(u, &nothing),
    };
    custom.phi(&full, &mut at_u)?;
    let [phi, dphi] = [at_u.value, at_u.derivative].map(|v| with_zeros(v, &nothing));
    gamma.iter_mut().zip(&dphi).for_each(|(gamma, dphi)| *gamma *= dphi);
    let mut value = 0.0;
    for i in 0..positives.n_x() {
        let term: f64 = phi[positives.row_offset(i)..positives.row_offset(i + 1)].iter().sum();
        value += pair_scale(positives.n_x(), positives.row(i).len()) * term;
    }
    Ok((AnchorStats { s_pos, dphi, gamma, ..AnchorStats::default() }, value))
}

/// The entries of a list but those at the ascending `places`.
fn without(list: Vec<f64>, places: &[usize]) -> Vec<f64> {
    let keep = |(e, v): (usize, f64)| places.binary_search(&e).is_err().then_some(v);
    list.into_iter().enumerate().filter_map(keep).collect()
}

/// The list that had zeros at the ascending `places` before they were taken [out](without).
fn with_zeros(list: Vec<f64>, places: &[usize]) -> Vec<f64> {
    if places.is_empty() {
        return list;
    }
    let mut rest = list.iter();
    let all = list.len() + places.len();
    (0..all)
        .map(|e| if places.binary_search(&e).is_ok() { 0.0 } else { rest.next().copied().unwrap_or(0.0) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_out_and_put_back() {
        let list = vec![1.0, 2.0, 3.0, 4.0];
        let short = without(list, &[0, 2]);
        assert_eq!(short, [2.0, 4.0]);
        assert_eq!(with_zeros(short, &[0, 2]), [0.0, 2.0, 0.0, 4.0]);
        assert_eq!(with_zeros(vec![5.0], &[]), [5.0]);
    }
}
