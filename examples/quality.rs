//! The preset `best` with its defaults on small data sets: the paper's synthetic models (clip, tau = 0.07, nu = 1, where
//! its own iteration loses accuracy step by step), and the halves of handwritten digits.
//!
//! ```sh
//! cargo run --release --example quality -- OUT.json
//! ```

use serde_json::{Value, json};
use unicon::backend::cpu::Cpu;
use unicon::backend::{Backend, Similarity, Ties};
use unicon::data::{LatentFactor, Splits, digits};
use unicon::fit::{BestOptions, Data, Dim, FitOptions, KernelOptions, Landmarks, WIDTHS, fit, fit_best};
use unicon::io::{RowSource, Rows};
use unicon::kernel::{Kernel, KernelKind};
use unicon::model::{Model, Side};
use unicon::positives::Positives;
use unicon::retrieval::{matching_accuracy, recall_at_k};

const DRAWS: u64 = 10;
const RANK: usize = 10;
const KERNELS: [KernelKind; 6] = [
    KernelKind::Angular,
    KernelKind::Arccos,
    KernelKind::ExpCosine,
    KernelKind::Cosine,
    KernelKind::Matern,
    KernelKind::Rbf,
];

type Out<T> = Result<T, Box<dyn std::error::Error>>;

fn accuracy(backend: &Cpu<f32>, model: &Model, data: &Splits) -> Out<f64> {
    let zx = model.encode(backend, Side::X, &data.test.x)?;
    let zy = model.encode(backend, Side::Y, &data.test.y)?;
    let positives = Positives::diagonal(data.test.x.rows());
    Ok(matching_accuracy(backend, Similarity::Embeddings(&zx, &zy), &positives)?)
}

/// Test accuracies of `best` and of five global updates as the paper has them.
fn synthetic(backend: &Cpu<f32>, data: &Splits, kernel: Option<KernelKind>, seed: u64) -> Out<(f64, f64)> {
    let (n, m) = (data.train.x.rows(), data.val.x.rows());
    let (train, held) = (Positives::diagonal(n), Positives::diagonal(m));
    let train = Data { x: &data.train.x, y: &data.train.y, positives: &train };
    let held = Data { x: &data.val.x, y: &data.val.y, positives: &held };
    let landmarks = |k| KernelOptions::new(Kernel::new(k), Landmarks::Count(512.min(n)));
    let widths = WIDTHS.to_vec();
    let best =
        BestOptions { kernel: kernel.map(landmarks), widths, seed, ..BestOptions::new(Dim::Fixed(RANK)) };
    let ours = fit_best(backend, train, Some(held), &best)?.0;
    let exact = |k| KernelOptions::new(Kernel::new(k), Landmarks::Exact);
    let paper = FitOptions { kernel: kernel.map(exact), n_iters: 5, seed, ..FitOptions::new(RANK) };
    let paper = fit(backend, train, None, &paper)?.0;
    Ok((accuracy(backend, &ours, data)?, accuracy(backend, &paper, data)?))
}

/// Recall@1 of held-out halves: of the same digit, and of any with the same label.
fn halves(backend: &Cpu<f32>) -> Out<Value> {
    let d = digits()?;
    let ids = |test: bool| (0..d.labels.len()).filter(|i| (i % 5 == 0) == test).collect::<Vec<_>>();
    let (train, test) = (ids(false), ids(true));
    let labels = |ids: &[usize]| ids.iter().map(|&i| d.labels[i]).collect::<Vec<_>>();
    let (lx, ly) = (Rows::new(&d.left, train.clone())?, Rows::new(&d.right, train.clone())?);
    let (tx, ty) = (Rows::new(&d.left, test.clone())?, Rows::new(&d.right, test.clone())?);
    let mut rows = Vec::new();
    for by_label in [false, true] {
        let relation = |ids: &[usize]| match by_label {
            true => Positives::from_groups(&labels(ids), &labels(ids)),
            false => Ok(Positives::diagonal(ids.len())),
        };
        let (positives, truth) = (relation(&train)?, relation(&test)?);
        let data = Data { x: &lx, y: &ly, positives: &positives };
        for kernel in [None, Some(KernelKind::Angular)] {
            let kernel_options = kernel.map(|k| KernelOptions::new(Kernel::new(k), Landmarks::Count(512)));
            let best = BestOptions { kernel: kernel_options, ..BestOptions::new(Dim::Fixed(16)) };
            let (ours, info) = fit_best(backend, data, None, &best)?;
            let paper = FitOptions { final_loss: false, ..FitOptions::new(16) };
            let paper = fit(backend, data, None, &paper)?.0;
            let recall = |model: &Model| -> Out<f64> {
                let (zx, zy) = (model.encode(backend, Side::X, &tx)?, model.encode(backend, Side::Y, &ty)?);
                let r = recall_at_k(backend, &zx, &zy, &truth, &[1], Ties::Expected)?;
                Ok(0.5 * (r.x_to_y[0] + r.y_to_x[0]))
            };
            let (a, b) = (recall(&ours)?, recall(&paper)?);
            println!(
                "digits by_label={by_label} {kernel:?}: best {a:.3} in {:.2} s, two updates {b:.3}",
                info.seconds.total
            );
            rows.push(json!({ "by_label": by_label, "kernel": kernel, "best": a, "two_linear_updates": b,
                "seconds": info.seconds.total }));
        }
    }
    Ok(Value::Array(rows))
}

fn main() -> Out<()> {
    let out = std::env::args().nth(1).ok_or("usage: quality OUT.json")?;
    let backend = Cpu::<f32>::new(0)?;
    let mut rows = Vec::new();
    for kernel in [None].into_iter().chain(KERNELS.map(Some)) {
        let mut both = Vec::new();
        for seed in 0..DRAWS {
            let model = if kernel.is_none() { LatentFactor::linear() } else { LatentFactor::nonlinear() };
            both.push(synthetic(&backend, &model.draw(seed)?, kernel, seed)?);
        }
        let mean = |f: fn(&(f64, f64)) -> f64| both.iter().map(f).sum::<f64>() / both.len() as f64;
        let (ours, paper) = (mean(|b| b.0), mean(|b| b.1));
        println!("synthetic {kernel:?}: best {ours:.3}, five global updates {paper:.3}");
        rows.push(json!({ "kernel": kernel, "best": ours, "five_global_updates": paper, "draws": both }));
    }
    let digits = halves(&backend)?;
    let all = json!({ "device": backend.describe(), "loss": "clip, tau 0.07, nu 1", "synthetic": rows, "digits": digits });
    std::fs::write(out, format!("{all:#}\n"))?;
    Ok(())
}
