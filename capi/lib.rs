//! `libunicon.so` and `libunicon.a`: what `include/unicon.h` declares, which is all in the Rust library (`src/ffi`).

extern crate library as _;
