//! Closed-form contrastive alignment of two sets of frozen features.

pub mod error;
pub mod io;

pub use error::{Error, Result};
