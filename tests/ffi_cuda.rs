//! CUDA contexts of the C ABI, from C, on the stand-in libraries (`cuda_standin/`), which run the kernels on the host.
//! `UNICON_TEST_GPU=1` runs the same program on a real device instead.

use crate::ffi::{STRICT, built, have, julia, python_script, python_with, root, run};
use crate::skip::skip_for_want_of_kernels;
use crate::standin;
use std::process::Command;

/// Compiles a C program of `ffi/` against the library and the stand-ins, and runs it.
fn c_program(name: &str, source: &str, only_on_standin: bool, devices: u32) {
    if !have("gcc", "gcc") {
        return;
    }
    if let Err(e) = unicon::backend::cuda::probe()
        && e.to_string().contains("no CUDA kernels")
    {
        skip_for_want_of_kernels(&e.to_string());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["libunicon.so", "libunicon.so.1"] {
        std::os::unix::fs::symlink(built().join("libunicon.so"), dir.path().join(name)).unwrap();
    }
    let real = std::env::var_os("UNICON_TEST_GPU").is_some() && !only_on_standin;
    let folder = if real { None } else { standin::libraries() };
    if !real && folder.is_none() {
        return;
    }
    let exe = dir.path().join(name);
    let mut gcc = Command::new("gcc");
    gcc.args(["-std=c11", "-g", "-rdynamic"]).args(STRICT).arg("-I").arg(root().join("include"));
    gcc.arg(root().join(source)).arg("-o").arg(&exe).arg("-L").arg(dir.path()).arg("-lunicon");
    match &folder {
        Some(folder) => gcc.arg(folder.join("libcuda.so.1")),
        None => gcc.arg("-l:libcuda.so.1"),
    };
    run(gcc.args(["-lm", "-lpthread"]));
    let mut program = Command::new(&exe);
    program.env("UNICON_STANDIN_DEVICES", devices.to_string());
    let mut paths = vec![dir.path().to_path_buf()];
    paths.extend(folder);
    paths.extend(std::env::split_paths(&std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default()));
    print!("{}", run(program.env("LD_LIBRARY_PATH", std::env::join_paths(paths).unwrap())));
}

#[test]
fn a_cuda_context_does_what_a_cpu_context_does() {
    c_program("cuda", "tests/ffi/cuda.c", false, 1);
}

#[test]
fn cuda_contexts_fit_over_ranks() {
    // Its NCCL is its own, and reads device memory from the host.
    c_program("cuda_ranks", "tests/ffi/cuda_ranks.c", true, 1);
}

#[test]
fn a_context_of_several_devices_fits_over_them() {
    c_program("cuda_devices", "tests/ffi/cuda_devices.c", true, 3);
}

#[test]
fn python_and_julia_fit_over_several_devices() {
    let Some(folder) = standin::libraries().filter(|folder| standin::built(folder)) else { return };
    let depot = tempfile::tempdir().unwrap();
    let python = python_with("numpy").map(|python| python_script(python, "tests/people/bindings/devices.py"));
    let julia = julia(depot.path()).map(|mut julia| {
        julia.arg(root().join("tests/people/bindings/devices.jl"));
        julia
    });
    for mut script in [python, julia].into_iter().flatten() {
        script.env("LD_LIBRARY_PATH", &folder).env("UNICON_CUDA_LIBRARIES", "");
        run(script.env("UNICON_STANDIN_DEVICES", "3"));
    }
}
