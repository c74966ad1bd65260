//! `unicon compare`: every way to align the same data, timed in one run.

mod adam;
mod methods;
mod plot;

use crate::cli::args::{self, LossArgs, PositivesArgs, TestArgs, ValidationArgs};
use crate::cli::evaluation;
use crate::cli::fit::KernelFitArgs;
use crate::cli::output::{self, Report};
use crate::cli::pairs::Pairs;
use crate::cli::session::{Session, on_backend};
use adam::Optimizer;
pub use adam::{SgdClipOptions, sgd_clip};
use anyhow::Result;
use methods::{CompareOptions, compare, ranked};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use unicon::Error;
use unicon::backend::Ties;
use unicon::fit::{BestOptions, Dim, Landmarks, Preset, WIDTHS};
use unicon::io::AtomicFile;

/// Aligns the same data every way there is and times it: raw features, PLS-SVD, regularised CCA, SGD-CLIP (Adam,
/// AdamW or SGD), the schedules of the paper, and the preset best.
///
/// All run on this machine, one after the other, with the same threads. Recall is that of the test rows.
#[derive(clap::Args)]
pub struct Args {
    /// Training features of side x.
    #[arg(long, value_name = "MATRIX")]
    x: OsString,
    /// Training features of side y.
    #[arg(long, value_name = "MATRIX")]
    y: OsString,
    #[command(flatten)]
    positives: PositivesArgs,
    #[command(flatten)]
    validation: ValidationArgs,
    #[command(flatten)]
    test: TestArgs<true>,
    #[command(flatten)]
    loss: LossArgs,
    /// Dimension of the shared space.
    #[arg(long)]
    rank: usize,
    /// Learning rates of the grid.
    #[arg(long, value_delimiter = ',', default_value = "0.005,0.01,0.02", value_name = "LR,..")]
    lr: Vec<f64>,
    /// Batch sizes of the grid.
    #[arg(long, value_delimiter = ',', default_value = "512,1024,2048", value_name = "B,..")]
    batch: Vec<usize>,
    /// Numbers of epochs of the grid.
    #[arg(long, value_delimiter = ',', default_value = "1,3,10,20", value_name = "E,..")]
    epochs: Vec<usize>,
    /// Optimizers of the grid.
    #[arg(long, value_delimiter = ',', default_value = "adam", value_name = "OPTIMIZER,..")]
    optimizer: Vec<OptimizerKind>,
    /// Decoupled decay of the weights by adamw.
    #[arg(long, default_value_t = 1e-4, value_name = "W")]
    weight_decay: f64,
    /// Momentum of sgd.
    #[arg(long, default_value_t = 0.9, value_name = "M")]
    momentum: f64,
    /// Temperatures that SGD-CLIP is trained at, each with every setting of the grid [default: --tau]. The losses of the table are
    /// those at --tau for every method.
    #[arg(long, value_delimiter = ',', value_name = "TAU,..")]
    sgd_tau: Vec<f64>,
    /// Schedules of the paper, at their own loss but with --rank: paper-linear, paper-flickr, paper-coco-clip (1,000 rows or more),
    /// paper-coco-resnet; or none.
    #[arg(long, value_delimiter = ',', default_value = "paper-flickr,paper-coco-clip,paper-coco-resnet", value_name = "PRESET,..",
        value_parser = schedule)]
    paper: Vec<Option<Preset>>,
    /// Wall time that the preset best may take, such as 2s or 500ms.
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    budget: Option<Duration>,
    /// Skip the exact loss of every method's last point (a pass over all pairs each).
    #[arg(long)]
    no_exact_loss: bool,
    /// What items of equal score do to a rank, as in `unicon eval`.
    #[arg(long, value_parser = args::ties(), default_value = "expected", value_name = "RULE")]
    ties: Ties,
    /// The same as --ties optimistic.
    #[arg(long, hide = true, conflicts_with = "ties")]
    shared_ties: bool,
    /// Resamples of the test queries for the 95 % interval of every method's difference to best; 0: none.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    resamples: usize,
    #[command(flatten)]
    kernel: KernelFitArgs,
    /// Write all points as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write a plot of recall against time as SVG.
    #[arg(long, value_name = "SVG")]
    plot: Option<PathBuf>,
}

/// Optimizers of SGD-CLIP.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OptimizerKind {
    Adam,
    Adamw,
    Sgd,
}

/// A linear schedule of the paper, or none.
fn schedule(name: &str) -> Result<Option<Preset>, String> {
    let linear = [Preset::PaperLinear, Preset::PaperFlickr, Preset::PaperCocoClip, Preset::PaperCocoResnet];
    match linear.into_iter().find(|p| p.name() == name) {
        None if name != "none" => {
            let names = linear.map(Preset::name).join(", ");
            Err(format!("expected {names} or none"))
        }
        found => Ok(found),
    }
}

impl Args {
    fn options(&self, seed: u64) -> Result<CompareOptions> {
        let mut adam = Vec::new();
        let optimizers = self.optimizer.iter().map(|kind| match kind {
            OptimizerKind::Adam => Optimizer::Adam,
            OptimizerKind::Adamw => Optimizer::AdamW { weight_decay: self.weight_decay },
            OptimizerKind::Sgd => Optimizer::Sgd { momentum: self.momentum },
        });
        for optimizer in optimizers {
            for &epochs in &self.epochs {
                for &batch in &self.batch {
                    adam.extend(self.lr.iter().map(|&learning_rate| SgdClipOptions {
                        learning_rate,
                        batch,
                        epochs,
                        optimizer,
                    }));
                }
            }
        }
        let kernel = self.kernel.build(Preset::Global, false)?;
        if kernel.as_ref().is_some_and(|k| k.precomputed) {
            return Err(
                Error::Unsupported("--precomputed in compare: its methods hold rows back".into()).into()
            );
        }
        if kernel.as_ref().is_some_and(|k| k.landmarks == Landmarks::Exact) {
            return Err(Error::Unsupported("--exact in compare: use --landmarks".into()).into());
        }
        Ok(CompareOptions {
            kernel,
            widths: if self.kernel.has_own_width() { Vec::new() } else { WIDTHS.to_vec() },
            bootstrap: evaluation::bootstrap(self.resamples, seed)?,
            loss: self.loss.build()?,
            adam,
            adam_taus: self.sgd_tau.clone(),
            paper: self.paper.iter().copied().flatten().collect(),
            best: BestOptions { budget: self.budget, seed, ..BestOptions::new(Dim::Fixed(self.rank)) },
            exact_loss: !self.no_exact_loss,
            ties: if self.shared_ties { Ties::Optimistic } else { self.ties },
            seed,
            ..CompareOptions::new(self.rank)
        })
    }
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let pairs = args.positives.open(&args.x, &args.y)?;
    let Some(test) = args.test.open(&args.positives)? else {
        return Err(Error::invalid("--test-x", "features of test rows", "none").into());
    };
    let validation = args.validation.open(&args.positives)?;
    let validation = validation.as_ref().map(Pairs::data);
    let options = args.options(session.seed())?;
    for path in args.out.iter().chain(&args.plot) {
        drop(AtomicFile::create(path)?);
    }
    let comparison = on_backend!(session, |backend| {
        compare(backend, pairs.data(), validation, test.data(), &options, &mut |_| ())?
    });
    if let Some(path) = &args.plot {
        output::write(path, &plot::svg(&comparison))?;
    }
    if let Some(path) = &args.out {
        output::write(path, &format!("{:#}\n", serde_json::to_value(&comparison)?))?;
    }
    let mut report = Report::new("compare");
    report.value("comparison", &comparison)?;
    let mut rows = Vec::new();
    for curve in ranked(&comparison) {
        let Some(last) = curve.points.last() else { continue };
        rows.push(vec![
            format!("{}, {}", curve.method, curve.setting),
            format!("{:.2}", last.seconds),
            output::three(last.x_to_y[0]),
            output::three(last.y_to_x[0]),
            output::loss(last.loss),
            curve.exact_loss.map_or_else(String::new, output::loss),
            curve.gain.map_or_else(String::new, |g| evaluation::gain(g.mean, g.interval)),
        ]);
    }
    let k = options.ks[0];
    let header = [
        "method",
        "seconds",
        &format!("R@{k} x to y"),
        &format!("R@{k} y to x"),
        "loss (sampled)",
        "loss",
        &format!("mean R@{k} less best's (95 %)"),
    ];
    report.table(&header[..if options.bootstrap.is_some() { 7 } else { 6 }], rows);
    let lost: Vec<String> = comparison
        .curves
        .iter()
        .filter(|c| c.points.is_empty())
        .map(|c| format!("{} ({})", c.method, c.setting))
        .collect();
    if !lost.is_empty() {
        report.line(format!("without a point: {}", lost.join(", ")));
    }
    let tied = comparison.curves.iter().filter_map(|c| c.last.as_ref()).map(|r| r.tied[0] + r.tied[1]).max();
    if let Some(tied @ 1..) = tied {
        let rule = evaluation::name(options.ties);
        report
            .line(format!("tied with a wrong item: up to {tied} of a method's test queries (--ties {rule})"));
    }
    if let Some(v) = &comparison.verdict {
        report.line(format!(
            "best is at or above SGD-CLIP at {} of {} points in time; its highest mean R@{k} {} at {:.2} s, SGD-CLIP's {} at {:.2} s",
            v.ahead, v.times, output::three(v.best.0), v.best.1, output::three(v.adam.0), v.adam.1
        ));
        let reached = v.reached.map_or_else(|| "never".into(), |t| format!("at {t:.2} s"));
        report.line(format!(
            "best reaches SGD-CLIP's highest {reached}; final loss {}, SGD-CLIP's lowest {}",
            output::loss(v.best_loss),
            output::loss(v.adam_loss)
        ));
    }
    pairs.tell(&mut report, None)?;
    session.print(&report)
}
