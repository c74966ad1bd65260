//! Scale, offset, and values that are not finite.
