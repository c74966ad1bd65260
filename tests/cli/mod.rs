//! The program from outside: every command, its JSON against the library and the golden cases, its exit codes, and
//! what it says to bad input.

mod ablate;
mod bad_input;
mod commands;
mod golden;
mod options;
mod page;
mod probe;
