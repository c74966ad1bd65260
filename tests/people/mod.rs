//! What people bring: input as it was seen in public bug reports of comparable software, and what an attacker would
//! send. One file a section; the tries run on the built program and the library, and each holds the right value.

mod bindings;
mod defaults;
mod duplicates;
mod evaluation;
mod files;
pub(crate) mod fitting;
mod models;
mod numbers;
mod presets;
mod processes;
mod retrieval;
