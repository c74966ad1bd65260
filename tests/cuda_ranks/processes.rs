//! Ranks that are processes of `unicon`, a device each.

use super::{N, distance, related};
use crate::standin;
use std::path::Path;
use std::process::{Output, Stdio};
use unicon::io::RowSource;
use unicon::model::Model;

/// What `ranks` processes said, each with `extra` of its rank; none may take longer than their patience and a bit.
fn processes(
    folder: &Path,
    ranks: usize,
    args: &[&str],
    extra: impl Fn(usize) -> Vec<(&'static str, String)>,
) -> Vec<Output> {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let start = |rank: usize| {
        let mut command = standin::unicon(folder);
        command.args(args).envs(extra(rank)).env("UNICON_STANDIN_DEVICES", "2").env("TMPDIR", temp.path());
        command.env("UNICON_COMM_TIMEOUT", "60").env("UNICON_RANKS", "env");
        command.env("UNICON_RANK", rank.to_string());
        command.env("UNICON_WORLD_SIZE", ranks.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("unicon")
    };
    let children: Vec<_> = (0..ranks).map(start).collect();
    children.into_iter().map(|c| c.wait_with_output().expect("its output")).collect()
}

#[test]
fn processes_take_a_device_each() {
    let Some(folder) = standin::libraries().filter(|folder| standin::built(folder)) else { return };
    let work = tempfile::tempdir().expect("a temporary folder");
    let (x, y) = related(N);
    let paths = [("x.npy", &x), ("y.npy", &y)].map(|(name, m)| {
        let path = work.path().join(name);
        let mut values = vec![0f32; m.rows() * m.cols()];
        m.read_rows(0, &mut values).expect("rows");
        unicon::io::write_npy(&path, &[m.rows(), m.cols()], &values).expect("a temporary file");
        path.display().to_string()
    });
    let model = |name: &str| work.path().join(name).display().to_string();
    let fit =
        |ranks: usize, device: &str, out: &str, extra: &dyn Fn(usize) -> Vec<(&'static str, String)>| {
            let (out, [x, y]) = (model(out), &paths);
            let args =
                ["fit", "--x", x, "--y", y, "--rank", "3", "--whiten", "0.1", "--iters", "2", "--out", &out];
            let args = [&args[..], &["--precision", "f32", "--json", "--device", device]].concat();
            processes(&folder, ranks, &args, extra)
        };
    let said = |out: &Output| String::from_utf8_lossy(&out.stderr).into_owned();
    let json = |out: &Output| -> serde_json::Value {
        assert!(out.status.success(), "{}", said(out));
        serde_json::from_slice(&out.stdout).expect("one JSON object")
    };
    let nothing = |_: usize| Vec::new();
    json(&fit(1, "cuda", "alone", &nothing)[0]);
    let alone = Model::load(model("alone")).expect("the model");
    for device in ["cuda", "auto"] {
        let outs = fit(2, device, "both", &nothing);
        let report = json(&outs[0]);
        assert!(outs[1].status.success() && outs[1].stdout.is_empty(), "{}", said(&outs[1]));
        let traffic = report["ranks"]["traffic"].as_array().expect("a list");
        // Embeddings, at least: both sides, in two halves of 16 bits.
        let least = (2 * 2 * 2 * 16 * (N - 512)) as u64;
        assert!(traffic.iter().any(|t| t["received"].as_u64() > Some(least)), "{report}");
        let error = distance(&Model::load(model("both")).expect("the model"), &alone);
        // fp32 sums cut elsewhere, over two updates.
        assert!(error <= 1e-4, "{error:e}");
    }
    // A device that is asked for by number is not for two.
    for out in fit(2, "cuda:0", "none", &nothing) {
        assert_eq!(out.status.code(), Some(1));
        assert!(!said(&out).contains("panicked"), "{}", said(&out));
    }
    // One rank's device fails: all end, and somebody says which and why.
    let breaks = |rank: usize| match rank {
        1 => vec![("UNICON_STANDIN_FAIL", "cuLaunchKernel:9:719".to_string())],
        _ => Vec::new(),
    };
    let outs = fit(2, "cuda", "none", &breaks);
    assert!(outs.iter().all(|out| out.status.code() == Some(1)), "{}{}", said(&outs[0]), said(&outs[1]));
    let text = said(&outs[0]) + &said(&outs[1]);
    assert!(text.contains("rank 1") && text.contains("kernel"), "{text}");
    assert!(!Path::new(&model("none")).exists());
}
