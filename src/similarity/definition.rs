//! The loss and `S(gamma) = -dL/ds` by their definition: triple sums over `(i, j, k)` in float64, to be read beside
//! arXiv 2604.16678 (the unified loss and its triple reductions). Everything else in this crate computes the same numbers
//! in `O(n^2)` and is tested against this file.
//!
//! ```text
//! u_ik     = eps_ik psi((1-nu) s_ik) + sum_{j not in P(i)} eps_ij psi(s_ij - nu s_ik)                     k in P(i)
//! L_x      = 1/(2 n_x) sum_i 1/|P(i)| sum_{k in P(i)} phi(u_ik),         L = L_x + L_y
//!
//! gamma_ik = phi'(u_ik) [ eps_ik (1-nu) psi'((1-nu) s_ik) - nu sum_{j not in P(i)} eps_ij psi'(s_ij - nu s_ik) ]
//! gamma_ij = sum_{k in P(i)} phi'(u_ik) eps_ij psi'(s_ij - nu s_ik)                                    j not in P(i)
//!
//! S_ij     = -1/2 [ gamma_ij / (n_x |P_x(i)|)  +  gammabar_ji / (n_y |P_y(j)|) ]
//! ```
//!
//! `gammabar` is `gamma` of the transposed similarities; psi and phi are those of the loss, built in or one's own; `eps_ij` is
//! `eps_pos` for positives and `eps_neg` for negatives.

use crate::error::{Error, Result};
use crate::loss::{Loss, LossKind};
use crate::positives::Positives;
use faer::{Mat, MatRef};

/// Most terms of the triple sums that [`definition`] is willing to add: some seconds of work.
const MAX_TERMS: u64 = 1 << 31;

/// What the definition says about a similarity matrix.
#[derive(Clone, Debug)]
pub struct Definition {
    /// `L_x`, the rows' half of the loss.
    pub loss_rows: f64,
    /// `L_y`, the columns' half.
    pub loss_cols: f64,
    /// `S(gamma)`, `n_x x n_y`.
    pub weights: Mat<f64>,
}

/// The loss and `S(gamma)` of similarities `s` (`n_x x n_y`), term by term: `O(nnz(P) n)` operations, and `exp` is taken of
/// `(s_ij - nu s_ik) / tau` as it stands, so that `tau` must stay above about `(1 + |nu|) / 700` for `|s| <= 1`.
///
/// # Errors
/// [`Error::InvalidArgument`] for a loss out of range, a relation of another shape, or more than 2^31 terms;
/// [`Error::Numerical`] where a term leaves the range of float64.
pub fn definition(s: MatRef<'_, f64>, loss: &Loss, positives: &Positives) -> Result<Definition> {
    loss.validate()?;
    positives.check_shape(s.nrows(), s.ncols())?;
    let terms = (positives.nnz() as u64).saturating_mul((s.nrows() + s.ncols()) as u64);
    if terms > MAX_TERMS {
        let expected = format!("at most {MAX_TERMS} terms (pairs times rows and columns) for the definition");
        return Err(Error::invalid("similarity", expected, terms));
    }
    let transposed = positives.transposed();
    let rows = Direction { s, loss, positives };
    let cols = Direction { s: s.transpose(), loss, positives: &transposed };
    let (loss_rows, gamma) = rows.reductions();
    let (loss_cols, gamma_bar) = cols.reductions();
    // S_ij = -1/2 [ gamma_ij / (n_x |P_x(i)|) + gammabar_ji / (n_y |P_y(j)|) ]; the divisions stand in `reductions`.
    let weights = Mat::from_fn(s.nrows(), s.ncols(), |i, j| -0.5 * (gamma[(i, j)] + gamma_bar[(j, i)]));
    if !(loss_rows.is_finite() && loss_cols.is_finite() && weights.is_all_finite()) {
        let what = "a term of the definition leaves the range of float64: tau is too small for these similarities, or psi \
             or phi of one's own is not finite at them";
        return Err(Error::Numerical(what.into()));
    }
    Ok(Definition { loss_rows, loss_cols, weights })
}

/// One direction: the anchors are the rows of `s`.
struct Direction<'a> {
    s: MatRef<'a, f64>,
    loss: &'a Loss,
    positives: &'a Positives,
}

impl Direction<'_> {
    /// This direction's half of the loss, and `gamma_ij / (n |P(i)|)`.
    fn reductions(&self) -> (f64, Mat<f64>) {
        let Self { s, loss, positives } = *self;
        let n = s.nrows() as f64;
        let (nu, eps) = (loss.nu, |i, j| loss.eps(i, j, positives.contains(i, j)));
        let mut value = 0.0;
        let mut gamma = Mat::<f64>::zeros(s.nrows(), s.ncols());
        for i in 0..s.nrows() {
            let p: Vec<usize> = positives.row(i).iter().map(|&k| k as usize).collect();
            let negatives: Vec<usize> = (0..s.ncols()).filter(|&j| !positives.contains(i, j)).collect();
            let u = |k: usize| {
                let own = eps(i, k) * loss.psi((1.0 - nu) * s[(i, k)]);
                own + negatives.iter().map(|&j| eps(i, j) * loss.psi(s[(i, j)] - nu * s[(i, k)])).sum::<f64>()
            };
            let u: Vec<f64> = p.iter().map(|&k| u(k)).collect();
            // Nothing inside phi (no negatives and eps_pos = 0): such an anchor contributes nothing.
            let nothing = match loss.kind {
                LossKind::Clip => u.iter().any(|&u| u + loss.log_eps == 0.0),
                _ => loss.eps_pos == 0.0 && (loss.eps_neg == 0.0 || negatives.is_empty()),
            };
            if nothing {
                continue;
            }
            let share = 1.0 / (n * p.len() as f64);
            for (&k, &u_ik) in p.iter().zip(&u) {
                value += 0.5 * share * loss.phi(u_ik);
                let dphi = share * loss.dphi(u_ik);
                let mut pull = eps(i, k) * (1.0 - nu) * loss.dpsi((1.0 - nu) * s[(i, k)]);
                for &j in &negatives {
                    let push = eps(i, j) * loss.dpsi(s[(i, j)] - nu * s[(i, k)]);
                    gamma[(i, j)] += dphi * push;
                    pull -= nu * push;
                }
                gamma[(i, k)] += dphi * pull;
            }
        }
        (value, gamma)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `S = (nu I - (P + Q)/2)/n` of clip with one positive a row, `P` and `Q` the softmax over rows and columns.
    #[test]
    fn clip_of_pairs_is_softmax() {
        let (n, tau, nu) = (5, 0.4, 1.3);
        let s = Mat::from_fn(n, n, |i, j| ((3 * i + 7 * j) as f64).sin() * 0.8);
        let d = definition(s.as_ref(), &Loss::clip(tau).with_nu(nu), &Positives::diagonal(n)).unwrap();
        let e = |i: usize, j: usize| (s[(i, j)] / tau).exp();
        for i in 0..n {
            for j in 0..n {
                let p = e(i, j) / (0..n).map(|j| e(i, j)).sum::<f64>();
                let q = e(i, j) / (0..n).map(|i| e(i, j)).sum::<f64>();
                let want = (nu * f64::from(i == j) - (p + q) / 2.0) / n as f64;
                assert!((d.weights[(i, j)] - want).abs() < 1e-14, "({i}, {j})");
            }
        }
    }

    #[test]
    fn what_cannot_be_added_up_is_refused() {
        let s = Mat::from_fn(3, 3, |i, _| if i == 0 { -1.0 } else { 1.0 });
        let of = |loss: Loss, n: usize| definition(s.as_ref(), &loss, &Positives::diagonal(n));
        assert!(matches!(of(Loss::clip(0.001), 3), Err(Error::Numerical(_))));
        assert!(matches!(of(Loss::clip(0.1), 4), Err(Error::InvalidArgument { .. })));
        assert!(matches!(of(Loss::clip(-0.1), 3), Err(Error::InvalidArgument { .. })));
        let large = Mat::zeros(40_000, 40_000 / 1000);
        let groups = |n: usize| vec![0i64; n];
        let all = Positives::from_groups(&groups(40_000), &groups(40)).unwrap();
        let error = definition(large.as_ref(), &Loss::clip(0.1), &all).unwrap_err().to_string();
        assert!(error.contains("2147483648 terms"), "{error}");
    }
}
