//! The synthetic experiment of arXiv 2604.16678: mini-batches of 30, r = 10, tau = 1, matching accuracy on 100 test
//! pairs, mean over draws. The reference means are of the authors' public code on ten draws of the same models.

use super::super::output::{self, Report};
use super::super::session::Session;
use anyhow::Result;
use serde::Serialize;
use unicon::backend::{Backend, Similarity};
use unicon::data::{LatentFactor, Splits};
use unicon::fit::{Batches, Data, FitOptions, Init, KernelOptions, Landmarks, fit};
use unicon::io::RowSource;
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::{Loss, LossKind};
use unicon::model::Side;
use unicon::positives::Positives;
use unicon::retrieval::matching_accuracy;

const RANK: usize = 10;
const TAU: f64 = 1.0;
/// What the authors' code clamps cosines with.
const COS_CLAMP: f64 = 1e-5;

/// Data model, kernel (none: linear encoders), loss, and the reference's lowest and highest mean.
type Case = (&'static str, Option<KernelKind>, LossKind, [f64; 2]);

const CASES: [Case; 11] = [
    ("linear", None, LossKind::Clip, [0.997; 2]),
    ("linear", None, LossKind::TripletSmooth, [0.999; 2]),
    ("linear", None, LossKind::Sigmoid, [0.999; 2]),
    ("nonlinear", Some(KernelKind::Angular), LossKind::Clip, [0.852; 2]),
    ("nonlinear", Some(KernelKind::Arccos), LossKind::Clip, [0.864; 2]),
    ("nonlinear", Some(KernelKind::ExpCosine), LossKind::Clip, [0.862; 2]),
    ("nonlinear", Some(KernelKind::Cosine), LossKind::Clip, [0.860; 2]),
    ("nonlinear", Some(KernelKind::Matern), LossKind::Clip, [0.768; 2]),
    ("nonlinear", Some(KernelKind::Rbf), LossKind::Clip, [0.61, 0.63]),
    ("nonlinear", Some(KernelKind::Angular), LossKind::TripletSmooth, [0.858; 2]),
    ("nonlinear", Some(KernelKind::Angular), LossKind::Sigmoid, [0.876; 2]),
];

#[derive(Serialize)]
struct Row {
    data: &'static str,
    kernel: Option<KernelKind>,
    loss: LossKind,
    accuracy: Vec<f64>,
    mean: f64,
    /// Of the draws.
    deviation: f64,
    reference: [f64; 2],
    /// Mean further below the reference than draws explain.
    below: bool,
}

pub fn run<B: Backend>(session: &Session, backend: &B, draws: u64, report: &mut Report) -> Result<()> {
    let mut accuracy = vec![Vec::new(); CASES.len()];
    let progress = session.steps("synthetic", draws * CASES.len() as u64);
    for draw in 0..draws {
        let seed = session.seed() + draw;
        let (linear, nonlinear) = (LatentFactor::linear().draw(seed)?, LatentFactor::nonlinear().draw(seed)?);
        for (case, accuracy) in CASES.iter().zip(&mut accuracy) {
            session.check()?;
            let data = if case.1.is_none() { &linear } else { &nonlinear };
            accuracy.push(one(backend, data, case, seed)?);
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let rows: Vec<Row> = CASES.iter().zip(accuracy).map(|(case, accuracy)| summary(case, accuracy)).collect();
    report.value("synthetic", &rows)?;
    report.line(format!(
        "The paper's synthetic experiment: matching accuracy, {} (batches of 30, r = {RANK}, tau = {TAU})",
        output::count(draws as usize, "draw")
    ));
    let cells = |r: &Row| {
        let kernel = r.kernel.map_or_else(|| "linear".into(), |k| format!("{} kernel", name(k)));
        let reference = match r.reference {
            [low, high] if low == high => output::three(low),
            [low, high] => format!("{low} to {high}"),
        };
        let standard_error = r.deviation / (r.accuracy.len() as f64).sqrt();
        let mean = format!("{} ± {}", output::three(r.mean), output::three(standard_error));
        vec![r.data.into(), kernel, name(r.loss), mean, reference]
    };
    report.table(&["data", "encoders", "loss", "ours", "reference"], rows.iter().map(cells).collect());
    report.line("± standard error over draws; reference: the authors' code on ten draws of its own");
    let list = |chosen: fn(&Row) -> bool| {
        let names: Vec<String> = rows.iter().filter(|r| chosen(r)).map(|r| cells(r)[..3].join(" ")).collect();
        if names.is_empty() { "none".to_string() } else { names.join("; ") }
    };
    report.line(format!("below the reference: {}", list(|r| r.mean < r.reference[0])));
    report.line(format!("by more than draws explain (two standard errors): {}", list(|r| r.below)));
    Ok(())
}

/// Test accuracy of one fit.
fn one<B: Backend>(backend: &B, data: &Splits, &(_, kernel, loss, _): &Case, seed: u64) -> Result<f64> {
    let options = FitOptions {
        loss: Loss::new(loss, TAU),
        batches: Some(Batches { size: 30, count: None, drop_trailing: true }),
        // The authors iterate kernels from zeros until the change is below tol, linear encoders once from random ones.
        n_iters: if kernel.is_some() { 10 } else { 1 },
        tol: if kernel.is_some() { 1e-3 } else { 0.0 },
        init: if kernel.is_some() { Init::Zeros } else { Init::Random },
        kernel: kernel.map(|kind| {
            KernelOptions::new(Kernel { cos_clamp: COS_CLAMP, ..Kernel::new(kind) }, Landmarks::Exact)
        }),
        seed,
        final_loss: false,
        ..FitOptions::new(RANK)
    };
    let positives = |n: usize| Positives::diagonal(n);
    let (n, n_val, n_test) = (data.train.x.rows(), data.val.x.rows(), data.test.x.rows());
    let train = Data { x: &data.train.x, y: &data.train.y, positives: &positives(n) };
    let validation = Data { x: &data.val.x, y: &data.val.y, positives: &positives(n_val) };
    let (model, _) = fit(backend, train, Some(validation), &options)?;
    let zx = model.encode(backend, Side::X, &data.test.x)?;
    let zy = model.encode(backend, Side::Y, &data.test.y)?;
    Ok(matching_accuracy(backend, Similarity::Embeddings(&zx, &zy), &positives(n_test))?)
}

fn summary(&(data, kernel, loss, reference): &Case, accuracy: Vec<f64>) -> Row {
    let n = accuracy.len() as f64;
    let mean = accuracy.iter().sum::<f64>() / n;
    let variance = accuracy.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    // Two standard errors of the difference between two means of n draws each.
    let noise = 2.0 * (2.0 * variance / n).sqrt();
    let below = mean + noise < reference[0];
    Row { data, kernel, loss, accuracy, mean, deviation: variance.sqrt(), reference, below }
}

/// The library's name for a choice.
fn name(choice: impl Serialize) -> String {
    serde_json::to_value(choice).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
