//! Ranks, ties and lists of any length.
