//! The contrastive similarity weight matrix `S(gamma)`.

pub mod definition;
