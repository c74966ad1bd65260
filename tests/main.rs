//! Every test of the program and of the library from outside, in one program: what it links is compiled and linked once.
//! `cargo test --release --test all -- people::numbers` runs the tests of one module.
//!
//! What takes minutes runs with `UNICON_TEST=full` only, see [`skip`].

// What tests share.
mod ffi;
mod library;
mod parts;
mod processes;
mod program;
mod skip;
#[path = "cuda_standin/mod.rs"]
mod standin;

// The method.
mod compression;
mod family;
mod golden;
mod operator;
mod out_of_core;
mod precomputed;
mod proposition;
mod ranks;
mod resume;

// The program, and what people bring to it.
mod cli;
mod interop_numpy;
mod people;
mod plan;
mod readme;
mod slurm;

// The C ABI and the languages on it.
mod ffi_abi;
mod ffi_c;
mod ffi_cuda;
mod ffi_fuzz;

// What is handed out.
mod packages;

// CUDA without a GPU.
mod cuda_absence;
mod cuda_backend;
mod cuda_build;
mod cuda_emulation;
mod cuda_nccl;
mod cuda_ranks;
mod cuda_selftest;
mod gpu_proof;
