//! Closed-form contrastive alignment of two sets of frozen features.
//!
//! Given paired features of two modalities, UniCon finds encoders into a shared space by spectral updates of the
//! contrastive similarity weight matrix `S(gamma)` instead of thousands of gradient steps (arXiv 2604.16678). What
//! the textbook formulas do in `O(n^3)` time or `n x n` memory is done exactly in `O(n^2)` time and `O(n)` memory.
//!
//! Where to find what:
//!
//! | in the paper | here |
//! |---|---|
//! | the unified loss (psi, phi, nu, eps) | [`loss`], [`positives`] |
//! | `S(gamma)`, the triple reductions | [`similarity::definition`] term by term; [`similarity`] in `O(n^2)`, on a [`backend`] |
//! | Algorithm 1 (linear), Theorem 9 and Algorithm 2 (kernels) | [`fit`], [`kernel`], [`spectral`] |
//! | retrieval and matching experiments | [`retrieval`], [`model`] |

pub mod backend;
pub mod control;
pub mod data;
mod dense;
pub mod distributed;
pub mod error;
mod ffi;
pub mod fit;
pub mod io;
pub mod kernel;
pub mod loss;
mod memory;
pub mod model;
pub mod optim;
pub mod plan;
pub mod positives;
pub mod real;
pub mod retrieval;
pub mod selftest;
pub mod similarity;
pub mod spectral;
pub mod threads;

pub use error::{Error, Result};
