//! What callers in C, C++, Python and Julia hand over.
