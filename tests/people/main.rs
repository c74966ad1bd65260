//! What people bring: input as it was seen in public bug reports of comparable software, and what an attacker would
//! send. One file a section; the tries run on the built program and the library, and each holds the right value.

mod bindings;
mod duplicates;
mod evaluation;
#[path = "../ffi/mod.rs"]
mod ffi;
mod files;
mod fitting;
mod models;
mod numbers;
#[path = "../parts/mod.rs"]
mod parts;
mod processes;
#[path = "../program/mod.rs"]
mod program;
mod retrieval;
