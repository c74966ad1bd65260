//! Models from strangers.
