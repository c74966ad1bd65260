//! The synthetic experiments of arXiv 2604.16678 (Section 4.1, Table 7, Appendix C.7): the presets paper-linear and paper-kernel, and
//! the default beside them, matching accuracy on 100 test pairs, mean over draws of the authors' latent-factor models.

use crate::cli::output::{self, Report};
use crate::cli::session::Session;
use anyhow::Result;
use serde::Serialize;
use std::time::Instant;
use unicon::backend::{Backend, Similarity};
use unicon::data::{LatentFactor, Splits};
use unicon::fit::{
    BestOptions, Data, Dim, FitOptions, KernelOptions, Landmarks, Preset, WIDTHS, fit, fit_best,
};
use unicon::io::RowSource;
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::{Loss, LossKind};
use unicon::model::{Model, Side};
use unicon::positives::Positives;
use unicon::retrieval::matching_accuracy;

/// A row of a published table.
pub struct Case {
    kernel: Option<KernelKind>,
    loss: LossKind,
    /// What the paper prints; none: it prints no such figure.
    paper: Option<f64>,
    /// The lowest and highest mean of the authors' public code, on ten draws of its own.
    code: [f64; 2],
}

const fn case(kernel: Option<KernelKind>, loss: LossKind, paper: Option<f64>, code: f64) -> Case {
    Case { kernel, loss, paper, code: [code; 2] }
}

/// Section 4.1: linear encoders on the linear model.
pub const LINEAR: &[Case] = &[
    case(None, LossKind::Clip, Some(1.0), 0.997),
    case(None, LossKind::TripletSmooth, None, 0.999),
    case(None, LossKind::Sigmoid, None, 0.999),
];

/// Table 7: kernels on the nonlinear model.
pub const KERNELS: &[Case] = &[
    case(Some(KernelKind::Angular), LossKind::Clip, Some(0.86), 0.852),
    case(Some(KernelKind::Arccos), LossKind::Clip, Some(0.85), 0.864),
    case(Some(KernelKind::Cosine), LossKind::Clip, Some(0.81), 0.860),
    case(Some(KernelKind::ExpCosine), LossKind::Clip, Some(0.73), 0.862),
    case(Some(KernelKind::Matern), LossKind::Clip, Some(0.73), 0.768),
    Case { kernel: Some(KernelKind::Rbf), loss: LossKind::Clip, paper: Some(0.56), code: [0.61, 0.63] },
];

/// Appendix C.7: losses, angular kernels on the nonlinear model.
pub const LOSSES: &[Case] = &[
    case(Some(KernelKind::Angular), LossKind::Clip, Some(0.86), 0.852),
    case(Some(KernelKind::Angular), LossKind::TripletSmooth, Some(0.90), 0.858),
    case(Some(KernelKind::Angular), LossKind::Sigmoid, Some(0.876), 0.876),
];

/// Mean over draws.
#[derive(Serialize)]
struct Mean {
    draws: Vec<f64>,
    mean: f64,
    /// Of the draws.
    deviation: f64,
    /// A fit, on average.
    seconds: f64,
}

impl Mean {
    fn new(draws: Vec<f64>, seconds: f64) -> Self {
        let n = draws.len() as f64;
        let mean = draws.iter().sum::<f64>() / n;
        let variance = draws.iter().map(|a| (a - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Self { draws, mean, deviation: variance.sqrt(), seconds: seconds / n }
    }

    /// `0.853 ± 0.012`, the standard error of the mean.
    fn text(&self) -> String {
        let error = self.deviation / (self.draws.len() as f64).sqrt();
        format!("{} ± {}", output::three(self.mean), output::three(error))
    }
}

#[derive(Serialize)]
struct Row {
    kernel: Option<KernelKind>,
    loss: LossKind,
    paper: Option<f64>,
    code: [f64; 2],
    /// The paper's schedule.
    schedule: Mean,
    /// The preset `best`.
    best: Mean,
    /// The schedule's mean is further below that of the authors' code than draws explain.
    below: bool,
}

/// Runs an experiment and reports it under `name`.
pub fn run<B: Backend>(
    session: &Session,
    backend: &B,
    (name, title, cases): (&'static str, &str, &[Case]),
    draws: u64,
    report: &mut Report,
) -> Result<()> {
    let progress = session.steps(name, draws * cases.len() as u64);
    let mut found: Vec<[(Vec<f64>, f64); 2]> = cases.iter().map(|_| Default::default()).collect();
    for draw in 0..draws {
        let seed = session.seed() + draw;
        let mut data: [Option<Splits>; 2] = [None, None];
        for (case, found) in cases.iter().zip(&mut found) {
            session.check()?;
            let model = [LatentFactor::linear, LatentFactor::nonlinear];
            let which = usize::from(case.kernel.is_some());
            let data = match &mut data[which] {
                Some(data) => data,
                none => none.insert(model[which]().draw(seed)?),
            };
            for (best, (accuracy, seconds)) in found.iter_mut().enumerate() {
                let (a, s) = one(backend, data, case, best == 1, seed)?;
                accuracy.push(a);
                *seconds += s;
            }
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let rows: Vec<Row> = cases.iter().zip(found).map(|(case, found)| summary(case, found)).collect();
    report.value(name, &rows)?;
    report.line(format!("{title}: matching accuracy, {}", output::count(draws as usize, "draw")));
    let cells = |r: &Row| {
        let code = match r.code {
            [low, high] if low == high => output::three(low),
            [low, high] => format!("{low} to {high}"),
        };
        vec![
            r.kernel.map_or_else(|| "linear".into(), |k| format!("{} kernel", word(k))),
            word(r.loss),
            r.paper.map_or_else(|| "-".into(), output::three),
            code,
            r.schedule.text(),
            format!("{:.3}", r.schedule.seconds),
            r.best.text(),
            format!("{:.3}", r.best.seconds),
        ]
    };
    let header =
        ["encoders", "loss", "paper", "authors' code", "paper's schedule", "seconds", "default", "seconds"];
    report.table(&header, rows.iter().map(cells).collect());
    let below: Vec<String> = rows.iter().filter(|r| r.below).map(|r| cells(r)[..2].join(", ")).collect();
    report.line(format!(
        "± standard error over draws; the schedule below the authors' code by more than draws explain: {}",
        if below.is_empty() { "none".into() } else { below.join("; ") }
    ));
    let behind: Vec<String> =
        rows.iter().filter(|r| r.best.mean < r.schedule.mean).map(|r| cells(r)[..2].join(", ")).collect();
    report.line(format!(
        "the default below the paper's schedule: {}\n",
        if behind.is_empty() { "none".into() } else { behind.join("; ") }
    ));
    Ok(())
}

/// Test accuracy and seconds of one fit.
fn one<B: Backend>(backend: &B, data: &Splits, case: &Case, best: bool, seed: u64) -> Result<(f64, f64)> {
    let positives = |n: usize| Positives::diagonal(n);
    let (n, n_val, n_test) = (data.train.x.rows(), data.val.x.rows(), data.test.x.rows());
    let train = Data { x: &data.train.x, y: &data.train.y, positives: &positives(n) };
    let validation = Some(Data { x: &data.val.x, y: &data.val.y, positives: &positives(n_val) });
    let begin = Instant::now();
    let model = if best {
        default(backend, train, validation, case, seed)?
    } else {
        fit(backend, train, validation, &schedule(case, seed))?.0
    };
    let seconds = begin.elapsed().as_secs_f64();
    let zx = model.encode(backend, Side::X, &data.test.x)?;
    let zy = model.encode(backend, Side::Y, &data.test.y)?;
    let accuracy = matching_accuracy(backend, Similarity::Embeddings(&zx, &zy), &positives(n_test))?;
    Ok((accuracy, seconds))
}

/// What the paper does.
fn schedule(case: &Case, seed: u64) -> FitOptions {
    let preset = Preset::paper(case.kernel.is_some());
    let o = preset.options(preset.dim().unwrap_or(10));
    let kernel = case.kernel.map(|kind| KernelOptions::new(preset.kernel(kind), Landmarks::Exact));
    let loss = if case.loss == o.loss.kind { o.loss } else { Loss::new(case.loss, o.loss.tau) };
    FitOptions { loss, kernel, seed, final_loss: false, ..o }
}

/// What `unicon fit` does.
fn default<B: Backend>(
    backend: &B,
    train: Data<'_>,
    validation: Option<Data<'_>>,
    case: &Case,
    seed: u64,
) -> Result<Model> {
    let usual = Loss::default();
    let rank = Preset::paper(case.kernel.is_some()).dim().unwrap_or(10);
    let o = BestOptions {
        loss: Loss::new(case.loss, usual.tau),
        kernel: case.kernel.map(|kind| KernelOptions::new(Kernel::new(kind), Landmarks::Auto)),
        widths: if case.kernel.is_some() { WIDTHS.to_vec() } else { Vec::new() },
        seed,
        final_loss: false,
        ..BestOptions::new(Dim::Fixed(rank))
    };
    Ok(fit_best(backend, train, validation, &o)?.0)
}

fn summary(case: &Case, [schedule, best]: [(Vec<f64>, f64); 2]) -> Row {
    let (schedule, best) = (Mean::new(schedule.0, schedule.1), Mean::new(best.0, best.1));
    // Two standard errors of the difference between two means of n draws each; a draw of 100 pairs has at least a binomial's.
    let binomial = (schedule.mean * (1.0 - schedule.mean) / 100.0).sqrt();
    let noise = 2.0 * (2.0 / schedule.draws.len() as f64).sqrt() * schedule.deviation.max(binomial);
    let below = schedule.mean + noise < case.code[0];
    Row { kernel: case.kernel, loss: case.loss, paper: case.paper, code: case.code, schedule, best, below }
}

/// The library's name for a choice.
fn word(choice: impl Serialize) -> String {
    serde_json::to_value(choice).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}
