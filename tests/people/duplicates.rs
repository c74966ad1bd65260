//! Repeated rows and groups: counted, told, and never on both sides of a split.
