//! The Slurm script of the examples, run by stand-ins for `sbatch` and `srun` (`slurm_standin/`) on one machine.

use crate::processes::{UNICON, complaints, data, mpi, tensors, text, wait};
use crate::skip::full;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script() -> PathBuf {
    root().join("ffi-examples/mpi/unicon.sbatch")
}

/// `sbatch` as a user calls it, with the programs of this build and the stand-ins found first.
fn sbatch(features: &Path, out: &Path, tasks: usize) -> Output {
    let standins = root().join("tests/slurm_standin");
    let built = Path::new(UNICON).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = [standins.clone(), built.to_path_buf()].into_iter().chain(std::env::split_paths(&path));
    let mut command = Command::new(standins.join("sbatch"));
    command.args(["--nodes=1", &format!("--ntasks-per-node={tasks}"), "--cpus-per-task=1"]).arg(script());
    command.env("PATH", std::env::join_paths(all).unwrap()).env("UNICON_COMM_TIMEOUT", "60");
    command.envs([
        ("ROWS", "1500"),
        ("DX", "24"),
        ("DY", "20"),
        ("RANK_OF_MODEL", "8"),
        ("NEGATIVES", "600"),
    ]);
    command.env("FEATURES", features).env("OUT", out).env("TMPDIR", out.parent().unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    wait(command.spawn().unwrap())
}

#[test]
fn the_script_plans_fits_and_tells_how_it_ended() {
    if !full() {
        return;
    }
    let checked = Command::new("bash").arg("-n").arg(script()).output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", text(&checked.stderr));
    let dir = tempfile::tempdir().unwrap();
    data(dir.path(), 1500);
    for (side, name) in [("x", "image"), ("y", "text")] {
        std::fs::rename(dir.path().join(side), dir.path().join(name)).unwrap();
    }
    let run = |tasks: usize| {
        let model = dir.path().join(format!("{tasks}.safetensors"));
        let out = sbatch(dir.path(), &model, tasks);
        let said = text(&out.stdout);
        assert!(out.status.success() && out.stderr.is_empty(), "{said}{}", text(&out.stderr));
        assert!(said.contains("received by a rank"), "no plan: {said}");
        let report: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert!(!dir.path().join(format!("{tasks}.safetensors.state")).exists());
        (tensors(&model), report)
    };
    let (alone, _) = run(1);
    if !cfg!(feature = "mpi") {
        // Tasks that cannot find each other do not each write the model.
        let out = sbatch(dir.path(), &dir.path().join("none.safetensors"), 3);
        let said = complaints(&out);
        assert!(out.status.code() == Some(1) && !dir.path().join("none.safetensors").exists(), "{said:?}");
        assert!(
            said[0].contains("srun (Slurm) started 3 processes, but this program was built without MPI"),
            "{said:?}"
        );
        assert!(said[0].contains("--features mpi") && said[0].contains("UNICON_LAUNCHER=none"), "{said:?}");
    }
    if !mpi() {
        return;
    }
    let (shared, report) = run(3);
    assert!(shared == alone);
    let ranks = &report["ranks"];
    assert_eq!((&ranks["launcher"], &ranks["size"]), (&"srun (Slurm)".into(), &3.into()));
    // What fails on the ranks is the job's exit code, and there is no model.
    std::fs::remove_file(dir.path().join("text/part-1.npy")).unwrap();
    let model = dir.path().join("none.safetensors");
    let out = sbatch(dir.path(), &model, 2);
    let said = complaints(&out);
    assert!(out.status.code() == Some(1) && said.len() == 1, "{}", text(&out.stderr));
    assert!(!model.exists());
}
