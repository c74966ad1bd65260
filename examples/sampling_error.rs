//! How well the run-time estimate of the error that sampled negatives leave in C agrees with the error itself.
//!
//! ```sh
//! cargo run --release --example sampling_error -- OUT.json NAME=X.npy,Y.npy[,INDPTR.npy,INDICES.npy] ..
//! ```
//!
//! For every data set: whitened features, the spectral step at rank 128, m = 512, three temperatures, 20 seeds.

use serde_json::{Value, json};
use std::path::Path;
use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Similarity};
use unicon::fit::{Data, FitOptions, fit, sampled_cross};
use unicon::io;
use unicon::loss::Loss;
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;

const SAMPLE: usize = 512;
const SEEDS: u64 = 20;
const TAUS: [f64; 3] = [0.05, 0.07, 0.2];

fn one(name: &str, files: &[&str]) -> unicon::Result<Value> {
    let (x, y) = (io::open(files[0])?, io::open(files[1])?);
    let positives = match files {
        [_, _, indptr, indices] => {
            let read = |path: &str| io::read_index_vector(Path::new(path));
            Positives::from_csr(&read(indptr)?, &read(indices)?, y.rows())?
        }
        _ => Positives::diagonal(x.rows()),
    };
    let backend = Cpu::<f32>::new(0)?;
    let rank = 128.min(x.cols()).min(y.cols());
    let start = FitOptions { n_iters: 1, whiten: Some(0.01), final_loss: false, ..FitOptions::new(rank) };
    let data = Data { x: &x, y: &y, positives: &positives };
    let model = fit(&backend, data, None, &start)?.0;
    let (x, y) = (backend.load(&x)?, backend.load(&y)?);
    let c = &model.components[0];
    let zx = backend.encode(&x, c.x.matrix.as_ref())?.0;
    let zy = backend.encode(&y, c.y.matrix.as_ref())?.0;
    let mut rows = Vec::new();
    for tau in TAUS {
        let loss = Loss::clip(tau);
        let cross = |negatives| {
            let s = Similarity::Embeddings(&zx, &zy);
            sampled_cross(&backend, s, (&x, &y), &loss, &positives, negatives)
        };
        let exact = cross(NegativeSampling::All)?;
        let mut pairs = Vec::new();
        for seed in 0..SEEDS {
            let sampled = cross(NegativeSampling::Sampled { per_anchor: SAMPLE, seed })?;
            let error = (&sampled.cross - &exact.cross).norm_l2() / exact.cross.norm_l2();
            pairs.push((error, sampled.error.unwrap_or(f64::NAN)));
        }
        let within = pairs.iter().filter(|(e, j)| (0.5..=2.0).contains(&(j / e))).count();
        let mean = |f: fn(&(f64, f64)) -> f64| pairs.iter().map(f).sum::<f64>() / pairs.len() as f64;
        let (error, estimate) = (mean(|p| p.0), mean(|p| p.1));
        println!(
            "{name:16} tau {tau:<5} error {error:.4} estimate {estimate:.4} within 2x: {within} of {SEEDS}"
        );
        rows.push(json!({ "tau": tau, "error": error, "estimate": estimate, "within_factor_2": within,
            "seeds": SEEDS, "error_and_estimate": pairs }));
    }
    let (n_x, n_y) = (positives.n_x(), positives.n_y());
    Ok(json!({ "data": name, "n_x": n_x, "n_y": n_y, "rank": rank, "sample": SAMPLE, "whiten": 0.01,
        "device": backend.describe(), "temperatures": rows }))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, sets @ ..] = &args[..] else {
        return Err("usage: sampling_error OUT.json NAME=X.npy,Y.npy[,INDPTR.npy,INDICES.npy] ..".into());
    };
    let mut results = Vec::new();
    for set in sets {
        let (name, files) = set.split_once('=').ok_or("expected NAME=X.npy,Y.npy")?;
        let files: Vec<&str> = files.split(',').collect();
        if files.len() != 2 && files.len() != 4 {
            return Err("expected two files, or four".into());
        }
        results.push(one(name, &files)?);
    }
    std::fs::write(out, format!("{:#}\n", Value::Array(results)))?;
    Ok(())
}
