//! `unicon ablate`: does `S(gamma)` help on these features, or does the whitening do the work?

mod advice;
mod design;
mod held_out;
mod plot;
mod run;
mod table;

use crate::cli::args::{self, PositivesArgs, TestArgs, ValidationArgs};
use crate::cli::evaluation;
use crate::cli::fit::factorization;
use crate::cli::output::{self, Report};
use crate::cli::session::{Session, on_backend};
use advice::{Advice, Terms, advise};
use anyhow::Result;
use design::Design;
use held_out::HeldOut;
use run::{Judging, Outcome, Row, Sets, run as run_fits};
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use unicon::Error;
use unicon::backend::{Backend, Ties};
use unicon::fit::Factorization;
use unicon::io::AtomicFile;

/// Shows what whitening and S(gamma) each do on your data: every combination is fitted, and one line says what to use.
///
/// The centred identity (one update from zeros, where S is proportional to I - 11^T/n: centred or, whitened, regularised CCA) is
/// matched with S(gamma) that differs in nothing else. Settings are chosen on the validation rows, where the advice
/// comes from; the test rows are reported for all. What is not given is held out of the training rows. The loss is clip.
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
    test: TestArgs<false>,
    /// Dimension of the shared space.
    #[arg(long)]
    rank: usize,
    /// Numbers of spectral updates.
    #[arg(long, value_delimiter = ',', default_value = "1,2,5", value_name = "N,..")]
    iters: Vec<usize>,
    /// Shrinkages of the whitening, none for features as they are.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "none,0.1,0.01",
        value_name = "LAMBDA,..",
        allow_negative_numbers = true
    )]
    whiten: Vec<Whitening>,
    /// Temperatures, each at least 0.001.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,0.2,0.07",
        value_name = "TAU,..",
        allow_negative_numbers = true
    )]
    tau: Vec<f64>,
    /// Weights of the positive inside the loss.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,2",
        value_name = "NU,..",
        allow_negative_numbers = true
    )]
    nu: Vec<f64>,
    /// Splits of C = U diag(s) V^T: orthonormal, sqrt or power:P.
    #[arg(long, value_delimiter = ',', default_value = "orthonormal", value_name = "F,..", value_parser = factorization)]
    factorization: Vec<Factorization>,
    /// Beside the global batch, the paper's mini-batches of these many rows, weighed by validation accuracy.
    #[arg(long, value_delimiter = ',', value_name = "B,..")]
    batch_size: Vec<usize>,
    /// Also the exact loss of every row on the training pairs (clip at tau = 0.07, nu = 1; a pass over all pairs each).
    #[arg(long)]
    exact_loss: bool,
    /// Wall time after which no update is begun, such as 30s or 2m; what is left out is told.
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    budget: Option<Duration>,
    /// What items of equal score do to a rank, as in `unicon eval`.
    #[arg(long, value_parser = args::ties(), default_value = "expected", value_name = "RULE")]
    ties: Ties,
    /// Resamples of the queries for the 95 % intervals of differences, at least 40.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    resamples: usize,
    /// Write the table as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write a plot of recall after each number of updates as SVG.
    #[arg(long, value_name = "SVG")]
    plot: Option<PathBuf>,
}

/// A value of `--whiten`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Whitening(Option<f64>);

impl FromStr for Whitening {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "none" => Ok(Self(None)),
            _ => s.parse().map(|v| Self(Some(v))).map_err(|_| "expected a number >= 0 or none".into()),
        }
    }
}

/// What `--json` and `--out` hold.
#[derive(Serialize)]
struct Ablation<'a> {
    device: String,
    rank: usize,
    ties: Ties,
    resamples: usize,
    rows: &'a [Row],
    /// Rows that the budget left out.
    left_out: usize,
    /// Rows that were held out of the training rows, where none were given.
    held_out: HeldOut,
    advice: &'a Advice,
}

impl Args {
    fn design(&self, seed: u64) -> Result<Design> {
        let mut batches = vec![None];
        batches.extend(self.batch_size.iter().map(|&size| Some(size)));
        let design = Design {
            rank: self.rank,
            whiten: self.whiten.iter().map(|w| w.0).collect(),
            factorizations: self.factorization.clone(),
            batches,
            tau: self.tau.clone(),
            nu: self.nu.clone(),
            iters: self.iters.clone(),
            seed,
        };
        Ok(design.checked()?)
    }
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let design = args.design(session.seed())?;
    let Some(bootstrap) = evaluation::bootstrap(args.resamples, session.seed())? else {
        return Err(Error::invalid("--resamples", "at least 40: the advice rests on intervals", 0).into());
    };
    for path in args.out.iter().chain(&args.plot) {
        drop(AtomicFile::create(path)?);
    }
    let pairs = args.positives.open(&args.x, &args.y)?;
    let test = args.test.open(&args.positives)?;
    let validation = args.validation.open(&args.positives)?;
    let whole = held_out::Part::of(pairs.data());
    let (test, rest, test_held) = whole.or_held_out(test.as_ref(), "--test-x", session.seed())?;
    let (validation, train, validation_held) =
        rest.or_held_out(validation.as_ref(), "--val-x", session.seed())?;
    let held_out = HeldOut { validation: validation_held, test: test_held };
    let sets = Sets { train: train.data(), validation: validation.data(), test: test.data() };
    let judging = Judging { ties: args.ties, bootstrap, exact_loss: args.exact_loss, budget: args.budget };
    let bar = session.steps("fits", 1 + design.rows() as u64);
    let (outcome, advice, device) = on_backend!(session, |backend| {
        let outcome = run_fits(backend, sets, &design, &judging, &mut |setting| {
            bar.set_message(format!("whiten {}, {}", setting.whitening(), setting.weights()));
            bar.inc(1);
        })?;
        let advice = advise(backend, &outcome, &Terms { ties: args.ties, bootstrap })?;
        (outcome, advice, backend.describe())
    });
    bar.finish_and_clear();
    if let Some(path) = &args.plot {
        output::write(path, &plot::svg(&design, &outcome))?;
    }
    let Outcome { rows, left_out, .. } = &outcome;
    let (ties, left_out) = (args.ties, *left_out);
    let (rank, resamples) = (args.rank, args.resamples);
    let ablation = Ablation { device, rank, ties, resamples, rows, left_out, held_out, advice: &advice };
    if let Some(path) = &args.out {
        output::write(path, &format!("{:#}\n", serde_json::to_value(&ablation)?))?;
    }
    let mut report = Report::new("ablate");
    report.value("ablation", &ablation)?;
    table::show(&mut report, &design, &ablation);
    pairs.tell(&mut report, None)?;
    session.print(&report)
}
