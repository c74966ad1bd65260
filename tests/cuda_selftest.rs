//! `unicon selftest` on the CPU and, through the stand-in libraries, on CUDA: every mode passes, faults of kernels are
//! noticed, nothing stays allocated, and a failure of any call of the driver is an error in one line.

use crate::standin;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn the_cpu_passes() {
    let out = Command::new(env!("CARGO_BIN_EXE_unicon"))
        .args(["selftest", "--quick", "--device", "cpu", "--json"])
        .output()
        .expect("unicon starts");
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one JSON object");
    assert_eq!(json["ok"], true);
    assert_eq!(json["outcome"]["arithmetic"], "f32");
    let checks = json["outcome"]["checks"].as_array().expect("a list of checks");
    assert!(checks.len() >= 25 && checks.iter().all(|c| c["cases"].as_u64() > Some(0)), "{checks:?}");
}

/// The folder of the stand-ins, if this build has kernels for them.
fn device() -> Option<std::path::PathBuf> {
    standin::libraries().filter(|folder| standin::built(folder))
}

#[test]
fn cuda_passes_in_every_mode_and_leaves_nothing_behind() {
    let Some(folder) = device() else { return };
    // Compute capability 9.0 has kernels of its own for the clip loss; there, without a choice, both sets are checked.
    // (tests/cuda_backend runs them in every mode.)
    let cases =
        [("fp16", "90", None), ("bf16", "80", None), ("f32", "86", None), ("f32", "90", Some("hopper"))];
    for (mode, compute_capability, kernels) in cases {
        let report = tempfile::NamedTempFile::new().expect("a temporary file");
        let out = standin::unicon(&folder)
            .args(["selftest", "--quick", "--json", "--device", "cuda:0", "--precision", mode])
            .env("UNICON_STANDIN_REPORT", report.path())
            .env("UNICON_STANDIN_SM", compute_capability)
            .envs(kernels.map(|k| ("UNICON_CUDA_KERNELS", k)))
            .output()
            .expect("unicon starts");
        assert_eq!(out.status.code(), Some(0), "{mode}: {}", text(&out));
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).expect("one JSON object");
        let of_hopper =
            |device: &serde_json::Value| device.as_str().is_some_and(|d| d.contains("Hopper kernels"));
        assert_eq!(of_hopper(&json["device"]), kernels.is_some(), "{mode}: {json}");
        let both = compute_capability == "90" && kernels.is_none();
        assert_eq!(of_hopper(&json["other_kernels"]["device"]), both, "{mode}: {json}");
        let report = standin::report(report.path());
        for kind in ["live_device", "live_host", "streams", "events", "modules", "pools", "unrun"] {
            assert_eq!(report[kind], 0, "{mode}: {kind} {report:?}");
        }
    }
}

/// Deliberate faults of the kernels (`cuda_emulation/faults.rs`) that a test of results must notice on any device, and one of
/// the kernels for compute capability 9.0.
const FAULTS: [(&str, &str); 5] = [
    ("swapped fragment", "portable"),
    ("column bound", "portable"),
    ("search of masked entries", "portable"),
    ("tie order", "portable"),
    ("step of an operand", "hopper"),
];

#[test]
fn faults_of_kernels_are_noticed() {
    let Some(folder) = device() else { return };
    let libraries =
        std::env::join_paths([standin::faulty_kernels(&folder), folder.clone()]).expect("two folders");
    for (name, kernels) in FAULTS {
        let out = standin::unicon(&folder)
            .args(["selftest", "--quick", "--device", "cuda:0"])
            .env("LD_LIBRARY_PATH", &libraries)
            .env("UNICON_CUDA_KERNELS", kernels)
            .env("UNICON_FAULT", standin::faults::number(name).to_string())
            .output()
            .expect("unicon starts");
        assert_ne!(out.status.code(), Some(0), "{name}: {}", text(&out));
        assert!(text(&out).contains("FAILED"), "{name}: {}", text(&out));
    }
}

/// A small fit on the stand-in device.
fn fit(folder: &Path, work: &Path, environment: &[(&str, String)]) -> Output {
    let at = |name: &str| work.join(name).display().to_string();
    for side in ["x.npy", "y.npy"] {
        if !work.join(side).exists() {
            let values: Vec<f32> = (0..70 * 12).map(|i| ((i * i) as f32 * 0.37).sin()).collect();
            unicon::io::write_npy(work.join(side), &[70, 12], &values).expect("a temporary file");
        }
    }
    standin::unicon(folder)
        .args(["fit", "--x", &at("x.npy"), "--y", &at("y.npy"), "--rank", "3", "--out", &at("m.safetensors")])
        .args(["--device", "cuda:0"])
        .envs(environment.iter().map(|(k, v)| (k, v)))
        .output()
        .expect("unicon starts")
}

#[test]
fn kernels_that_the_device_has_not_are_refused() {
    let Some(folder) = device() else { return };
    for (kernels, compute_capability, said) in [
        ("hopper", "86", "compute capability 9.0 is needed, cuda:0 has 8.6"),
        ("volta", "90", "UNICON_CUDA_KERNELS: expected portable, hopper or auto, got `volta`"),
    ] {
        let out = standin::unicon(&folder)
            .args(["selftest", "--quick", "--device", "cuda:0"])
            .env("UNICON_STANDIN_SM", compute_capability)
            .env("UNICON_CUDA_KERNELS", kernels)
            .output()
            .expect("unicon starts");
        let error = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(1), "{}", text(&out));
        assert!(error.contains(said) && error.trim_end().lines().count() == 1, "{error}");
    }
}

#[test]
fn any_call_that_fails_is_an_error_in_one_line() {
    let Some(folder) = device() else { return };
    let work = tempfile::tempdir().expect("a temporary folder");
    let path = work.path().join("report");
    let out = fit(&folder, work.path(), &[("UNICON_STANDIN_REPORT", path.display().to_string())]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out));
    // What releases something is called when there is nobody left to tell.
    let releases = ["Free", "Destroy", "Unload", "Release", "GetErrorString", "GetErrorName", "GetAttribute"];
    let calls: BTreeMap<String, u64> = standin::report(&path)
        .into_iter()
        .filter(|(name, _)| name.starts_with("cu") && !releases.iter().any(|r| name.contains(r)))
        .collect();
    assert!(calls.len() > 15, "{calls:?}");
    let mut wrong = Vec::new();
    for (name, count) in &calls {
        for which in [1, *count] {
            // Waiting for what has been done can fail while a device is closed, too. Where nobody knows how much memory is
            // free, none is assumed: features stay on the host, and the fit goes on.
            let closing = ["cuStreamSynchronize", "cuEventSynchronize", "cuCtxSetCurrent"];
            let survived = name == "cuMemGetInfo_v2" || (which == *count && closing.contains(&name.as_str()));
            let plan = format!("{name}:{which}");
            let out = fit(&folder, work.path(), &[("UNICON_STANDIN_FAIL", plan.clone())]);
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            let code = out.status.code();
            let right = match code {
                Some(0) => survived,
                Some(1) => said.trim_end().lines().count() == 1 && !said.contains("panicked"),
                _ => false,
            };
            if !right {
                wrong.push(format!("{plan}: {code:?} {said}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn too_little_device_memory_is_an_error_that_says_how_much() {
    let Some(folder) = device() else { return };
    let work = tempfile::tempdir().expect("a temporary folder");
    let out = fit(&folder, work.path(), &[("UNICON_STANDIN_MEMORY", "1000".into())]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{}", text(&out));
    assert!(said.contains("out of memory") && said.contains("bytes"), "{said}");
}
