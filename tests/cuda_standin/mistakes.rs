//! The stand-ins for the CUDA libraries notice the mistakes they exist for.

use std::process::Command;

/// Mistakes 1 .. of `faults.cpp`.
const MISTAKES: i32 = 10;

#[test]
fn mistakes_in_the_use_of_cuda_are_noticed() {
    let Some(folder) = super::libraries() else { return };
    let program = super::program(&folder, "faults.cpp", "standin_mistakes");
    let run = |which: i32| {
        let out = Command::new(&program).arg(which.to_string()).output().expect("the program starts");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    assert_eq!(run(0), (Some(0), String::new()));
    assert_eq!(run(MISTAKES + 1).0, Some(64), "MISTAKES must be the number of mistakes");
    let missed: Vec<i32> = (1..=MISTAKES).filter(|&k| matches!(run(k).0, Some(0 | 64))).collect();
    assert!(missed.is_empty(), "mistakes {missed:?} went unnoticed");
}

#[test]
fn calls_fail_on_request_and_memory_is_limited_and_reported() {
    let Some(folder) = super::libraries() else { return };
    let program = super::program(&folder, "faults.cpp", "standin_limits");
    let run = |name: &str, value: &str| {
        Command::new(&program).arg("0").env(name, value).output().expect("the program starts").status.code()
    };
    assert_eq!(run("UNICON_STANDIN_FAIL", "cuMemAlloc_v2:2"), Some(2));
    assert_eq!(run("UNICON_STANDIN_FAIL", "cuMemAlloc_v2:3"), Some(0));
    assert_eq!(run("UNICON_STANDIN_MEMORY", "199"), Some(2));
    assert_eq!(run("UNICON_STANDIN_MEMORY", "200"), Some(0));
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    assert_eq!(run("UNICON_STANDIN_REPORT", &file.path().display().to_string()), Some(0));
    let report = super::report(file.path());
    assert_eq!((report["peak"], report["live_device"], report["live_host"]), (200, 0, 1));
    assert_eq!((report["cuMemAlloc_v2"], report["unrun"]), (2, 0));
}
