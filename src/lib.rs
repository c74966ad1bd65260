//! UniCon.
pub mod backend;
