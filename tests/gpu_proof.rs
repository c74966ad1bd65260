//! `scripts/gpu-proof.sh` runs through on the CPU and writes what it found and what waits for a GPU.

use std::path::Path;
use std::process::Command;

#[test]
fn the_script_runs_through_on_the_cpu() {
    let python = Command::new("python3").args(["-c", "import numpy"]).output();
    if !python.is_ok_and(|o| o.status.success()) {
        let message = "skipped: python3 with numpy not found; get it with `apt install python3-numpy`";
        assert!(std::env::var("UNICON_REQUIRE_TOOLS").is_err(), "{message}");
        println!("{message}");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let work = tempfile::tempdir().expect("a temporary folder");
    let result = work.path().join("result.json");
    let library = std::env::current_exe().expect("this test").with_file_name("libunicon.so");
    let out = Command::new(root.join("scripts/gpu-proof.sh"))
        .args(["--unicon", env!("CARGO_BIN_EXE_unicon"), "--device", "cpu", "--quick", "--out"])
        .arg(&result)
        .env("UNICON_LIBRARY", library)
        .output()
        .expect("the script starts");
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !said.contains("FAILED"), "{said}");
    for step in ["ok      selftest, f32", "ok      bench, f64", "ok      PyTorch or NumPy reference"] {
        assert!(said.contains(step), "{said}");
    }
    let text = std::fs::read_to_string(&result).expect("the result");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(json["selftest_f32"]["ok"], true);
    assert_eq!(json["reference"]["ok"], true);
    let rows = json["bench_f32_portable"]["rows"].as_array().expect("rows");
    assert!(rows.iter().any(|r| r["name"] == "pass 2" && r["fraction"].as_f64() > Some(0.0)), "{rows:?}");
    let waits = json["waits"].as_array().expect("a list");
    assert!(waits.iter().any(|w| w.as_str().is_some_and(|w| w.contains("n = 1,000,000"))), "{waits:?}");
}
