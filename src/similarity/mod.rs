//! `S(gamma)`, the contrastive similarity weight matrix: once by its definition, once as the passes compute it.
//!
//! | to understand | read |
//! |---|---|
//! | the loss and `S(gamma)` term by term, `O(n^3)` | [`definition`] |
//! | clip: from sums over negatives to the loss, `gamma` and weights | `clip.rs` |
//! | sigmoid and triplets: the same | `additive.rs` |
//! | a psi and a phi of one's own: the same | `family.rs` |
//! | which entries dense tiles leave out | `masked.rs` |
//! | which tiles are visited, and what a sample of them stands for | `schedule.rs`, `sampling.rs` |
//! | pass 1: sums over negatives, the loss, the coefficients of `S` | `pass1.rs` |
//! | pass 2: `S V`, `S^T U`, `X^T S Y` | `pass2.rs` |
//! | gradients: `-S Z_y` and `-S^T Z_x` from one visit | `gradients.rs` |
//!
//! A backend multiplies blocks of rows and columns that it holds (`blocks.rs`); the passes say which, in what order, and
//! what follows from the sums.

pub(crate) mod additive;
pub(crate) mod blocks;
pub(crate) mod clip;
pub(crate) mod coefficients;
pub mod definition;
pub(crate) mod family;
pub(crate) mod gradients;
pub(crate) mod masked;
pub(crate) mod pass1;
pub(crate) mod pass2;
pub(crate) mod sampling;
pub(crate) mod schedule;
mod weights;

pub use sampling::NegativeSampling;
pub use weights::{AnchorStats, Weights};
