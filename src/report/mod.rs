//! One page that shows an alignment.

pub mod svg;
