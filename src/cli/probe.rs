//! `unicon probe`.

use super::args;
use super::encoding::stream;
use super::output::{self, Report};
use super::session::{Session, on_backend};
use anyhow::Result;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;
use unicon::Error;
use unicon::backend::Backend;
use unicon::io::{HostMatrix, RowSource, write_npy};
use unicon::model::{Model, Side};
use unicon::retrieval::{Labelled, Probe, ProbeOptions};

/// Linear probe: how well a linear classifier tells classes apart by features, or by their embeddings.
///
/// Multinomial logistic regression by L-BFGS in float64 on features whose mean is taken out and that are divided by one number, so that
/// neither offset nor scale matters. The penalty is chosen on validation rows, or on a tenth of the rows, all of which train in the end.
/// With --model the features are embedded first; without, they are taken as they are.
#[derive(clap::Args)]
pub struct Args {
    /// Features to learn on, n x d.
    #[arg(long, value_name = "MATRIX")]
    x: OsString,
    /// The class of every row of --x, from 0.
    #[arg(long, value_name = "NPY")]
    labels: PathBuf,
    /// Features to judge by.
    #[arg(long, value_name = "MATRIX")]
    test_x: OsString,
    /// The class of every row of --test-x.
    #[arg(long, value_name = "NPY")]
    test_labels: PathBuf,
    /// Features to choose the penalty on.
    #[arg(long, value_name = "MATRIX", requires = "val_labels")]
    val_x: Option<OsString>,
    /// The class of every row of --val-x.
    #[arg(long, value_name = "NPY", requires = "val_x")]
    val_labels: Option<PathBuf>,
    /// Model that `unicon fit` wrote: its embeddings are probed.
    #[arg(long, value_name = "SAFETENSORS")]
    model: Option<PathBuf>,
    /// Which of the model's encoders.
    #[arg(long, value_parser = args::side(), value_name = "x|y", default_value = "x", requires = "model")]
    side: Side,
    /// Candidates for the penalty lambda of `lambda/2 |W|^2` beside the mean cross-entropy.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "L,..",
        default_value = "1e-6,1e-5,1e-4,1e-3,0.01,0.1,1"
    )]
    penalty: Vec<f64>,
    /// Steps of L-BFGS at most for each penalty.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    max_steps: usize,
    /// Accuracy among the k most probable classes.
    #[arg(long, value_delimiter = ',', value_name = "K,..", default_value = "1,5")]
    k: Vec<usize>,
    /// The predicted class of every row of --test-x, int64.
    #[arg(long, value_name = "NPY")]
    out: Option<PathBuf>,
}

/// Rows with their classes.
struct Part {
    features: Box<dyn RowSource>,
    labels: Vec<u32>,
}

impl Part {
    fn open(
        session: &Session,
        model: Option<(&Model, Side)>,
        features: &OsString,
        labels: &Path,
    ) -> Result<Self> {
        let source = args::open(features)?;
        let labels = super::eval::classes_of(labels, source.rows(), source.name())?;
        let mut values = Vec::new();
        on_backend!(session, |backend| {
            match model {
                Some((model, side)) => {
                    stream(session, backend, model, side, &source, &mut |rows| {
                        values.extend_from_slice(rows);
                        Ok(())
                    })?;
                }
                // What is wrong with rows is found on the threads that were asked for.
                None => drop(backend.screen(&source)?),
            }
        });
        let Some((model, _)) = model else { return Ok(Self { features: Box::new(source), labels }) };
        let embeddings = HostMatrix::from_f64(source.name(), source.rows(), model.embedding_dim(), values)?;
        Ok(Self { features: Box::new(embeddings), labels })
    }

    fn labelled(&self) -> Labelled<'_> {
        Labelled { features: &*self.features, labels: &self.labels }
    }
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    let model = args.model.as_ref().map(Model::load).transpose()?;
    let model = model.as_ref().map(|m| (m, args.side));
    let train = Part::open(session, model, &args.x, &args.labels)?;
    let validation = match (&args.val_x, &args.val_labels) {
        (Some(x), Some(labels)) => Some(Part::open(session, model, x, labels)?),
        _ => None,
    };
    let test = Part::open(session, model, &args.test_x, &args.test_labels)?;
    if args.k.is_empty() || args.k.contains(&0) {
        return Err(Error::invalid("--k", "numbers >= 1", format!("{:?}", args.k)).into());
    }
    let options = ProbeOptions {
        penalties: args.penalty,
        max_steps: args.max_steps,
        seed: session.seed(),
        ..ProbeOptions::default()
    };
    let validation = validation.as_ref().map(Part::labelled);
    let probe = Probe::fit(train.labelled(), validation, &options, session.control())?;
    // More than there are classes is all of them.
    let ks: Vec<usize> = args.k.iter().map(|&k| k.min(probe.classes)).collect();
    let score = probe.score(test.labelled(), &ks)?;
    if let Some(path) = &args.out {
        let classes: Vec<i64> = score.predictions.iter().map(|&c| c.into()).collect();
        write_npy(path, &[classes.len()], &classes)?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let mut report = Report::new("probe");
    report.value("rows", train.features.rows())?;
    report.value("test_rows", test.features.rows())?;
    report.value("dimension", train.features.cols())?;
    report.value("classes", probe.classes)?;
    report.value("penalty", probe.penalty)?;
    report.value("tried", &probe.tried)?;
    report.value("held_back", probe.held_back)?;
    report.value("steps", probe.steps)?;
    report.value("converged", probe.converged)?;
    report.value("score", &score)?;
    report.value("seconds", seconds)?;
    let rows = score.ks.iter().zip(score.accuracy.iter().zip(&score.standard_error));
    let row =
        |(k, (&a, &e)): (&usize, (&f64, &f64))| vec![format!("top {k}"), output::three(a), output::three(e)];
    report.table(&["linear probe", "accuracy", "standard error"], rows.map(row).collect());
    report.line(format!(
        "{} of {} classes in {} dimensions, learnt from {}; mean of the classes' accuracies {}",
        output::count(test.features.rows(), "row"),
        probe.classes,
        train.features.cols(),
        output::count(train.features.rows(), "row"),
        output::three(score.balanced_accuracy)
    ));
    let chosen = match (args.val_x.is_some(), probe.held_back) {
        (true, _) => "on the validation rows".to_string(),
        (false, 0) => "on the rows that trained".into(),
        (false, held) => format!("on {} held back", output::count(held, "row")),
    };
    report.line(format!(
        "penalty {} chosen {chosen}, {}, {seconds:.2} s",
        probe.penalty,
        output::count(probe.steps, "step")
    ));
    if !probe.converged {
        report.line("the descent was not at its end: --max-steps allows more");
    }
    session.print(&report)
}
