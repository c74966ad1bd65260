//! The fuzz targets, built with coverage and run for a bounded time from the stored corpus.

use crate::ffi::{root, run};
use crate::skip::{cannot, full};
use std::process::Command;

/// Seconds per target; UNICON_FUZZ_SECONDS asks for another number.
const SECONDS: u64 = 20;

#[test]
fn no_input_brings_a_target_down() {
    if !full() {
        return;
    }
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        cannot("the fuzz targets are for x86-64 Linux");
        return;
    }
    let seconds = std::env::var("UNICON_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SECONDS);
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(root()).args(["build", "--release", "-q", "-p", "unicon-fuzz", "--bins"]);
    run(build.env("RUSTC_WORKSPACE_WRAPPER", root().join("fuzz/instrument")));
    // Beside this program's folder, `deps`.
    let programs = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_path_buf();
    let programs = programs.parent().unwrap().join("release");
    std::thread::scope(|scope| {
        for target in ["model", "features", "options"] {
            let program = programs.join(format!("fuzz-{target}"));
            scope.spawn(move || {
                let dir = tempfile::tempdir().unwrap();
                let mut fuzz = Command::new(program);
                fuzz.args(["-max_len=2048", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]);
                fuzz.arg(format!("-max_total_time={seconds}"))
                    .arg("-artifact_prefix=")
                    .current_dir(dir.path());
                // New inputs go to the first folder.
                fuzz.arg(dir.path()).arg(root().join("fuzz/corpus").join(target));
                let out = fuzz.output().unwrap_or_else(|e| panic!("{target}: {e}"));
                let text = String::from_utf8_lossy(&out.stderr).into_owned();
                let found = std::fs::read_dir(dir.path()).unwrap().flatten().find(|f| {
                    ["crash-", "timeout-", "oom-"]
                        .iter()
                        .any(|p| f.file_name().to_string_lossy().starts_with(p))
                });
                let input = found.map(|f| std::fs::read(f.path()).unwrap());
                assert!(out.status.success() && input.is_none(), "{target}: input {input:?}\n{text}");
                let covered = text.lines().rev().find_map(|l| l.split_once("cov: ")).map_or("0", |(_, r)| r);
                let covered: u32 = covered.split_whitespace().next().unwrap().parse().unwrap();
                // Without instrumentation there is no coverage to speak of.
                assert!(covered > 100, "{target}: coverage {covered}\n{text}");
                let runs = text.lines().find_map(|l| l.strip_prefix("stat::number_of_executed_units:"));
                println!("{target}: {} executions, {covered} edges", runs.unwrap_or("?").trim());
            });
        }
    });
}
