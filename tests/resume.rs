//! A fit that is killed at any moment and started again ends bit for bit where an undisturbed one does, and has lost
//! at most one step.
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use unicon::data::synthetic_pairs;
use unicon::io::{RowSource, read_all, write_npy};
use unicon::model::Model;

fn write(dir: &Path, name: &str, rows: &dyn RowSource) -> PathBuf {
    let path = dir.join(name);
    write_npy(&path, &[rows.rows(), rows.cols()], &read_all::<f32>(rows).unwrap()).unwrap();
    path
}

struct Fit {
    dir: tempfile::TempDir,
    x: PathBuf,
    y: PathBuf,
    options: &'static [&'static str],
}

impl Fit {
    fn start(&self, out: &Path, checkpoint: Option<&Path>) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_unicon"));
        command.arg("fit").arg("--x").arg(&self.x).arg("--y").arg(&self.y).arg("--out").arg(out);
        command.args(["--rank", "12", "--threads", "2", "--json", "--no-final-loss"]).args(self.options);
        if let Some(path) = checkpoint {
            command.arg("--checkpoint").arg(path);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs to the end: the model, and the losses of its steps.
    fn finish(&self, out: &Path, checkpoint: Option<&Path>) -> (Model, Vec<f64>) {
        let done = self.start(out, checkpoint).wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        let trace = report["info"]["trace"].as_array().unwrap();
        (Model::load(out).unwrap(), trace.iter().map(|t| t["loss"].as_f64().unwrap()).collect())
    }

    /// Starts, waits until the state has been written `writes` times and a little longer, and kills. Whether it was
    /// still running.
    fn kill_after(&self, out: &Path, checkpoint: &Path, writes: usize, longer: Duration) -> bool {
        let mut child = self.start(out, Some(checkpoint));
        let (mut last, mut seen) = (written(checkpoint), 0);
        let patience = Instant::now() + Duration::from_secs(120);
        while seen < writes {
            assert!(Instant::now() < patience, "no state was written");
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            let now = written(checkpoint);
            if now != last {
                (last, seen) = (now, seen + 1);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(longer);
        let running = child.try_wait().unwrap().is_none();
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
        running
    }
}

/// Which writing of a file it is: every one is a new file renamed into place.
fn written(path: &Path) -> Option<(u64, std::time::SystemTime)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.modified().ok()?))
}

fn check(options: &'static [&'static str], n: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = synthetic_pairs(n, 40, 32, 16, 0.5, 3).unwrap();
    let (x, y) = (write(dir.path(), "x.npy", &x), write(dir.path(), "y.npy", &y));
    let fit = Fit { x, y, options, dir };
    let path = |name: &str| fit.dir.path().join(name);
    let (whole, losses) = fit.finish(&path("whole"), None);
    assert!(losses.len() > 4, "{losses:?}");
    let state = path("state");
    let mut kills = 0;
    // Every run gets a step or two further; delays differ so that kills hit steps, judgements and writes alike.
    for k in 0..losses.len() as u64 {
        if !fit.kill_after(&path("out"), &state, 1, Duration::from_micros(700 * (k % 7))) {
            break;
        }
        kills += 1;
    }
    assert!(kills >= 2, "the fit was too quick to be killed: {kills}");
    let (model, continued) = fit.finish(&path("out"), Some(&state));
    assert_eq!(continued, losses);
    for (a, b) in whole.components.iter().zip(&model.components) {
        assert!(a.x.matrix == b.x.matrix && a.y.matrix == b.y.matrix, "after {kills} kills");
    }
}

#[test]
fn mini_batches_then_lbfgs() {
    check(&["--preset", "best", "--exact-last", "--refine", "4", "--whiten", "0.1"], 5000);
}

#[test]
fn lbfgs_after_one_update() {
    check(&["--preset", "global", "--iters", "1", "--refine", "6", "--whiten", "0.1"], 2500);
}
