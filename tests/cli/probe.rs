//! `unicon probe`, on the bundled digits, beside scikit-learn's logistic regression.

use crate::ffi::python_with;
use crate::program::{Lab, numbers};
use std::path::Path;
use std::process::Command;
use unicon::data::digits;
use unicon::io::{RowSource, read_all, read_index_vector};

/// Left halves of digits: 1,200 to learn on, the rest to judge by, and a model of both halves.
fn lab() -> Lab {
    let lab = Lab::new();
    let data = digits().unwrap();
    let (left, d) = (read_all::<f64>(&data.left).unwrap(), data.left.cols());
    let (n, cut) = (data.labels.len(), 1200);
    lab.npy("x.npy", &[cut, d], &left[..cut * d]);
    lab.npy("tx.npy", &[n - cut, d], &left[cut * d..]);
    lab.npy("l.npy", &[cut], &data.labels[..cut]);
    lab.npy("tl.npy", &[n - cut], &data.labels[cut..]);
    lab.take(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data/digits_halves"));
    lab
}

const PROBE: &str = "probe --x x.npy --labels l.npy --test-x tx.npy --test-labels tl.npy";

#[test]
fn a_probe_learns_what_logistic_regression_learns() {
    let lab = lab();
    let json = lab.json(&format!("{PROBE} --penalty 0.001 --k 1,3,99 --out p.npy --max-steps 3000"));
    let score = &json["score"];
    assert_eq!(score["ks"], serde_json::json!([1, 3, 10]));
    let accuracy = numbers(&score["accuracy"]);
    assert!(accuracy[0] > 0.75 && accuracy[1] > accuracy[0] && accuracy[2] == 1.0, "{accuracy:?}");
    assert_eq!((json["classes"].as_u64(), json["converged"].as_bool()), (Some(10), Some(true)));
    let predicted: Vec<f64> = numbers(&score["predictions"]);
    let written = read_index_vector(lab.path("p.npy")).unwrap();
    assert_eq!(written.iter().map(|&c| c as f64).collect::<Vec<_>>(), predicted);
    let Some(python) = python_with("sklearn") else { return };
    let program = "
import numpy as np
from sklearn.linear_model import LogisticRegression
x, l, tx, tl = (np.load(f).astype(float) for f in ('x.npy', 'l.npy', 'tx.npy', 'tl.npy'))
m = x.mean(0); s = np.sqrt(((x - m) ** 2).mean())
fit = LogisticRegression(C=1 / (len(x) * 0.001), tol=1e-10, max_iter=20000).fit((x - m) / s, l)
p = fit.predict_proba((tx - m) / s)
print((p.argmax(1) == tl).mean(), -np.log(p[np.arange(len(tl)), tl.astype(int)]).mean())
";
    let out = Command::new(python)
        .current_dir(lab.path(""))
        .args(["-W", "ignore", "-c", program])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let want: Vec<f64> = text.split_whitespace().map(|v| v.parse().unwrap()).collect();
    // Both end where the gradient is small, 1e-6 here.
    assert!((accuracy[0] - want[0]).abs() < 2.0 / 597.0, "{} {}", accuracy[0], want[0]);
    assert!((score["cross_entropy"].as_f64().unwrap() - want[1]).abs() < 1e-3 * want[1], "{score} {want:?}");
}

#[test]
fn penalties_are_chosen_and_embeddings_probed() {
    let lab = lab();
    let json = lab.json(PROBE);
    assert_eq!(json["held_back"].as_u64(), Some(120));
    assert_eq!(json["tried"].as_array().unwrap().len(), 7);
    let chosen = json["penalty"].as_f64().unwrap();
    let tried: Vec<(f64, f64)> = serde_json::from_value(json["tried"].clone()).unwrap();
    let best = tried.iter().map(|t| t.1).fold(0.0, f64::max);
    // The first of the best, from the largest penalty on.
    assert_eq!(tried.iter().find(|t| t.1 == best).unwrap().0, chosen);
    let json = lab.json(&format!("{PROBE} --val-x tx.npy --val-labels tl.npy"));
    assert_eq!(json["held_back"].as_u64(), Some(0));
    lab.text(
        "fit --preset global --x left.npy --y right.npy --groups-x labels.npy --groups-y labels.npy --rank 16 --iters 1 --whiten 0.1 \
         --tau 0.2 --out m.safetensors",
    );
    let json = lab.json(&format!("{PROBE} --model m.safetensors"));
    assert_eq!(json["dimension"].as_u64(), Some(16));
    assert!(numbers(&json["score"]["accuracy"])[0] > 0.7);
    let text = lab.text(&format!("{PROBE} --penalty 0.01"));
    assert!(text.contains("linear probe") && text.contains("10 classes in 32 dimensions"), "{text}");
    let text = lab.text(&format!("{PROBE} --penalty 1e-6 --max-steps 1"));
    assert!(text.contains("--max-steps allows more"), "{text}");
}

#[test]
fn what_a_probe_cannot_do_it_says() {
    let lab = lab();
    for (args, words) in [
        ("probe --x x.npy --labels tl.npy --test-x tx.npy --test-labels tl.npy", "1200 labels, one a row of"),
        ("probe --x x.npy --labels l.npy --test-x x.npy --test-labels tl.npy", "1200 labels, one a row of"),
        ("probe --x x.npy --labels l.npy --test-x labels.npy --test-labels tl.npy", "expected a matrix"),
        (&format!("{PROBE} --penalty 0"), "penalties: expected finite numbers > 0"),
        (&format!("{PROBE} --k 0"), "--k: expected numbers >= 1"),
    ] {
        let line = lab.fails(1, args);
        assert!(line.contains(words), "{args}: {line}");
    }
    lab.npy("nan.npy", &[1200, 2], &vec![f32::NAN; 2400]);
    let line = lab.fails(1, "probe --x nan.npy --labels l.npy --test-x tx.npy --test-labels tl.npy");
    assert!(line.contains("nan.npy") && line.contains("finite"), "{line}");
    lab.npy("odd.npy", &[1200], &[-1i64; 1200]);
    let line = lab.fails(1, "probe --x x.npy --labels odd.npy --test-x tx.npy --test-labels tl.npy");
    assert!(line.contains("classes as numbers from 0"), "{line}");
    let line = lab.fails(2, &format!("{PROBE} --val-x tx.npy"));
    assert!(line.contains("--val-labels"), "{line}");
}
