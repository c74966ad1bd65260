//! `scripts/gpu-proof.sh`: on the CPU it runs through and says what waits for a GPU; its rehearsal on the stand-ins runs every
//! stage, tools included, and what was finished when it is killed is in its log.

use crate::library::built;
use crate::skip::skip;
use crate::standin;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A missing tool: an error where tools are required.
fn numpy() -> bool {
    let python = Command::new("python3").args(["-c", "import numpy"]).output();
    if python.is_ok_and(|o| o.status.success()) {
        return true;
    }
    skip("python3 with numpy not found; get it with apt-get install python3-numpy");
    false
}

fn script(out: &Path) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = built().join("libunicon.so");
    let mut command = Command::new(root.join("scripts/gpu-proof.sh"));
    command.arg(out).args(["--unicon", env!("CARGO_BIN_EXE_unicon"), "--commit", "0123abc"]);
    command.env("UNICON_LIBRARY", library).stdin(Stdio::null());
    command
}

/// The lines of the log that are whole.
fn log(out: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(out.join("log.jsonl")).unwrap_or_default();
    let whole = text.split_inclusive('\n').filter(|l| l.ends_with('\n'));
    whole.map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

fn stage<'a>(log: &'a [serde_json::Value], name: &str) -> &'a serde_json::Value {
    log.iter().find(|l| l["stage"] == name).unwrap_or_else(|| panic!("no stage {name}: {log:#?}"))
}

#[test]
fn the_script_runs_through_on_the_cpu() {
    if !numpy() {
        return;
    }
    let work = tempfile::tempdir().expect("a temporary folder");
    let out = script(work.path()).args(["--device", "cpu"]).output().expect("the script starts");
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && !said.contains("FAILED"), "{said}");
    let log = log(work.path());
    assert!(
        stage(&log, "machine")["result"].as_str().is_some_and(|m| m.contains("commit 0123abc")),
        "{log:#?}"
    );
    assert_eq!(stage(&log, "selftest, f32, quick, portable")["result"]["ok"], true);
    assert_eq!(stage(&log, "selftest, f64")["result"]["ok"], true);
    assert_eq!(stage(&log, "PyTorch or NumPy beside it")["result"]["ok"], true);
    let rows = stage(&log, "bench, f32, portable")["result"]["rows"].as_array().expect("rows");
    assert!(rows.iter().any(|r| r["name"] == "pass 2" && r["fraction"].as_f64() > Some(0.0)), "{rows:?}");
    for waits in ["n = 1,000,000", "ncu", "compute-sanitizer"] {
        assert!(stage(&log, waits)["waits"].as_str().is_some_and(|w| w.contains("no device")), "{log:#?}");
    }
}

#[test]
fn a_stop_midway_keeps_what_was_finished() {
    let work = tempfile::tempdir().expect("a temporary folder");
    let program = work.path().join("unicon");
    // The second self-test never ends.
    executable(&program, "case \"$*\" in *f64*) exec sleep 100 ;; *) echo '{\"ok\": true}' ;; esac");
    let out = work.path().join("out");
    let mut command = script(&out);
    command.args(["--unicon", &program.display().to_string(), "--device", "cpu"]);
    command.args(["--only", "selftest machine"]).stdout(Stdio::null()).stderr(Stdio::null());
    // A group of its own, so that nothing of it is left.
    let mut child = command.process_group(0).spawn().expect("the script starts");
    let begin = Instant::now();
    while log(&out).len() < 2 && begin.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: a signal to the group that was just started and not yet waited for.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
    child.wait().expect("it ended");
    let kept = log(&out);
    assert!(kept.len() >= 2 && !kept.iter().any(|l| l["stage"] == "selftest, f64"), "{kept:#?}");
    assert_eq!(stage(&kept, "machine")["code"], 0);
    assert_eq!(stage(&kept, "selftest, f32, quick, portable")["result"]["ok"], true);
}

/// A stage that is too slow is stopped, its line says so, and the next one runs.
#[test]
fn a_stage_has_a_limit() {
    let work = tempfile::tempdir().expect("a temporary folder");
    let program = work.path().join("unicon");
    executable(
        &program,
        "case $1 in selftest) echo '{\"half\": '; exec sleep 100 ;; *) echo '{\"ok\": true}' ;; esac",
    );
    let out = work.path().join("out");
    let status = script(&out)
        .args(["--unicon", &program.display().to_string(), "--device", "cpu", "--budget", "9"])
        .args(["--only", "selftest machine"])
        .output()
        .expect("the script starts")
        .status;
    assert_eq!(status.code(), Some(1));
    let log = log(&out);
    let slow = stage(&log, "selftest, f32, quick, portable");
    assert_eq!(
        (slow["code"].as_i64(), slow["result"].as_str()),
        (Some(124), Some("{\"half\": ")),
        "{log:#?}"
    );
    assert_eq!(stage(&log, "selftest, f64")["waits"], "no time left");
}

fn executable(path: &Path, body: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{body}\n")).expect("a temporary file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

/// Tools that run what they are given, and write their log.
fn tools() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let body = r#"
while [ $# -gt 0 ]; do
  case $1 in
    --log-file) log=$2; shift 2 ;;
    --section|--kernel-name|--kernel-regex|--launch-count|--clock-control|--tool|--error-exitcode) shift 2 ;;
    -*) echo "unknown $1" >&2; exit 64 ;;
    *) break ;;
  esac
done
echo "===== $0 of $*" >"$log"
exec "$@""#;
    for tool in ["ncu", "compute-sanitizer"] {
        executable(&folder.path().join(tool), body);
    }
    folder
}

fn rehearsal(folder: &Path, tools: &Path, out: &Path) -> Command {
    let mut command = script(out);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths(std::iter::once(PathBuf::from(tools)).chain(std::env::split_paths(&path)));
    command.args(["--rehearse", "--standins"]).arg(folder).env("PATH", path.expect("folders"));
    command.env("UNICON_CUDA_LIBRARIES", "").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn the_rehearsal_runs_every_stage() {
    let Some(folder) = standin::libraries().filter(|folder| standin::built(folder)) else { return };
    if !numpy() {
        return;
    }
    let (work, tools) = (tempfile::tempdir().expect("a temporary folder"), tools());
    let whole = work.path().join("whole");
    let status = rehearsal(&folder, tools.path(), &whole).status().expect("the script starts");
    let log = log(&whole);
    assert!(status.success(), "{log:#?}");
    for set in ["portable", "hopper"] {
        for name in ["selftest, fp16, quick", "bench, fp16", "n = 1,000,000"] {
            assert_eq!(stage(&log, &format!("{name}, {set}"))["code"], 0, "{log:#?}");
        }
    }
    let tools = [
        "ncu, hopper_fused",
        "ncu, clip_stats",
        "compute-sanitizer, racecheck",
        "compute-sanitizer, initcheck",
    ];
    for name in ["selftest, bf16", "selftest, f32", "PyTorch or NumPy beside it"].iter().chain(&tools) {
        assert_eq!(stage(&log, name)["code"], 0, "{log:#?}");
    }
    let files: Vec<_> =
        std::fs::read_dir(&whole).expect("results").map(|e| e.expect("an entry").path()).collect();
    assert!(files.len() <= 8 && files.contains(&whole.join("sanitizer-racecheck.txt")), "{files:?}");
    let ncu = std::fs::read_to_string(whole.join("ncu.txt")).expect("what ncu said");
    assert_eq!(ncu.lines().count(), 4, "{ncu}");
}

#[test]
fn a_packed_folder_is_small_and_runs() {
    let work = tempfile::tempdir().expect("a temporary folder");
    let pack = work.path().join("pack");
    let program = work.path().join("unicon");
    std::fs::copy(env!("CARGO_BIN_EXE_unicon"), &program).expect("a copy");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packed = Command::new(root.join("scripts/gpu-proof.sh"))
        .arg("--pack")
        .arg(&pack)
        .args(["--commit", "0123abc", "--unicon"])
        .arg(&program)
        .output()
        .expect("the script starts");
    if String::from_utf8_lossy(&packed.stderr).contains("strip: ") {
        skip("strip not found; get it with apt-get install binutils");
        return;
    }
    assert!(packed.status.success(), "{packed:?}");
    let size = |p: &Path| std::fs::metadata(p).expect("a file").len();
    assert!(size(&pack.join("unicon")) < size(&program));
    let out = work.path().join("out");
    let ran = Command::new(pack.join("scripts/gpu-proof.sh"))
        .arg(&out)
        .args(["--device", "cpu", "--only", "machine"])
        .output()
        .expect("the script starts");
    assert!(ran.status.success(), "{ran:?}");
    let log = log(&out);
    assert!(
        stage(&log, "machine")["result"].as_str().is_some_and(|m| m.contains("commit 0123abc")),
        "{log:#?}"
    );
}
