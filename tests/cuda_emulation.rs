//! The CUDA kernels, compiled for the host under AddressSanitizer and run against float64 on small ragged problems
//! (`tests/cuda_emulation/`, `cuda/emu/device.h`). Deliberate faults must all be noticed.

#![cfg(target_arch = "x86_64")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Faults 1 .. COUNT of `emu::Fault`.
const FAULTS: u32 = 23;

/// Mistakes 1 .. of `mistakes.cpp`.
const MISTAKES: u32 = 27;

fn build(name: &str, source: &str) -> Option<PathBuf> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "g++".to_string());
    let works = Command::new(&compiler).arg("--version").output().is_ok_and(|o| o.status.success());
    if !works {
        let message = format!("skipped: {compiler} not found; get it with `apt install g++`");
        assert!(std::env::var("UNICON_REQUIRE_TOOLS").is_err(), "{message}");
        println!("{message}");
        return None;
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_emulation").join(source);
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let out = Command::new(&compiler)
        .args(["-std=c++20", "-O1", "-g1", "-fsanitize=address", "-Wall", "-Werror"])
        // Unused kernels of a family, and the unroll pragmas meant for nvcc.
        .args(["-Wno-unused-function", "-Wno-unknown-pragmas", "-o"])
        .arg(&program)
        .arg(&source)
        .output()
        .expect("the compiler starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    Some(program)
}

fn run(program: &Path, fault: u32) -> Output {
    Command::new(program).arg(fault.to_string()).output().expect("the emulation starts")
}

#[test]
fn kernels_agree_with_float64_and_faults_are_noticed() {
    let Some(program) = build("cuda_emulation", "main.cpp") else { return };
    let out = run(&program, 0);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains(", 0 failures") && !text.starts_with("0 checks"), "{text}");

    assert_eq!(run(&program, FAULTS + 1).status.code(), Some(64), "FAULTS must be the number of faults");
    let missed: Vec<u32> = std::thread::scope(|scope| {
        let run_half = |parity: u32| {
            let program = &program;
            scope.spawn(move || -> Vec<u32> {
                let mine = (1..=FAULTS).filter(|f| f % 2 == parity);
                mine.filter(|&f| matches!(run(program, f).status.code(), Some(0 | 64))).collect()
            })
        };
        let halves = [run_half(0), run_half(1)];
        halves.into_iter().flat_map(|h| h.join().expect("no panic")).collect()
    });
    assert!(missed.is_empty(), "faults {missed:?} went unnoticed");
}

#[test]
fn mistakes_in_the_use_of_hopper_instructions_are_noticed() {
    let Some(program) = build("cuda_emulation_mistakes", "mistakes.cpp") else { return };
    let run = |which: u32, backwards: bool| {
        let order = if backwards { "1" } else { "0" };
        let out =
            Command::new(&program).args([&which.to_string(), order]).output().expect("the program starts");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    for backwards in [false, true] {
        assert_eq!(run(0, backwards), (Some(0), String::new()), "backwards: {backwards}");
        let others: Vec<_> = (1..=MISTAKES).filter(|&k| run(k, backwards).0 != Some(3)).collect();
        assert!(others.is_empty(), "mistakes {others:?} went unnoticed (backwards: {backwards})");
    }
    assert_eq!(run(MISTAKES + 1, false).0, Some(64), "MISTAKES must be the number of mistakes");
}
