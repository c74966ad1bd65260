//! `unicon eval`.

use super::args::{self, PositivesArgs};
use super::encoding::embed;
use super::output::{self, Report};
use super::pairs::Pairs;
use super::session::{Session, on_backend};
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;
use unicon::Error;
use unicon::backend::{Backend, Similarity, Ties};
use unicon::io::{RowSource, read_index_vector};
use unicon::model::{Model, Side};
use unicon::retrieval;
use unicon::weights::Negatives;

/// Evaluates a model: Recall@k both ways, or zero-shot classification with --classes.
///
/// A query is a hit if any of its positives is among its k best; of items equal in score the lower index
/// stands first (--ties); a row without positives is a miss. With --classes the rows of x are samples and the rows of the class matrix (of side
/// y) are one embedding a class; every sample is given its most similar class.
#[derive(clap::Args)]
pub struct Args {
    /// Model that `unicon fit` wrote.
    #[arg(long, value_name = "SAFETENSORS")]
    model: PathBuf,
    /// Features of side x.
    #[arg(long, value_name = "MATRIX")]
    x: OsString,
    /// Features of side y.
    #[arg(long, value_name = "MATRIX", required_unless_present = "classes", conflicts_with = "classes")]
    y: Option<OsString>,
    /// The values of k.
    #[arg(long, value_delimiter = ',', default_value = "1,5,10", value_name = "K,K,..")]
    k: Vec<usize>,
    /// Which of several items equal in score stands first: the lower index, as a search returns them, or nobody (data
    /// with duplicate items is often scored so).
    #[arg(long, value_enum, default_value_t = TiesArg::LowerIndex)]
    ties: TiesArg,
    /// Also evaluate the loss the model was fitted with on these rows.
    #[arg(long, conflicts_with = "classes")]
    loss: bool,
    #[command(flatten)]
    positives: PositivesArgs,
    /// Zero-shot: features of the classes, of side y, one row a class.
    #[arg(long, value_name = "MATRIX", requires = "labels", help_heading = "Zero-shot classification")]
    classes: Option<OsString>,
    /// Zero-shot: the class (row of --classes) of every row of x.
    #[arg(long, value_name = "NPY", requires = "classes", help_heading = "Zero-shot classification")]
    labels: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum TiesArg {
    LowerIndex,
    Shared,
}

impl From<TiesArg> for Ties {
    fn from(ties: TiesArg) -> Self {
        match ties {
            TiesArg::LowerIndex => Self::LowerIndex,
            TiesArg::Shared => Self::Shared,
        }
    }
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let model = Model::load(&args.model)?;
    let x = args::open(&args.x)?;
    if let (Some(classes), Some(labels)) = (&args.classes, &args.labels) {
        if args.positives.rows.drop_bad_rows {
            let expected = "pairs of rows, which --classes and --labels are not";
            return Err(Error::invalid("--drop-bad-rows", expected, "--classes").into());
        }
        return zero_shot(session, &model, &x, &args::open(classes)?, labels, &args.k);
    }
    // The parser lets nothing else through.
    let y = args::open(args.y.as_deref().unwrap_or_default())?;
    recall(session, &args, &model, Pairs::of(x, y, &args.positives)?)
}

fn recall(session: &Session, args: &Args, model: &Model, pairs: Pairs) -> Result<()> {
    let begin = Instant::now();
    let Pairs { x, y, positives, .. } = &pairs;
    let (recall, loss, zero_rows) = on_backend!(session, |backend| {
        let (zx, zero_x) = embed(session, backend, model, Side::X, x)?;
        let (zy, zero_y) = embed(session, backend, model, Side::Y, y)?;
        let recall = retrieval::recall_at_k(backend, &zx, &zy, positives, &args.k, args.ties.into())?;
        let s = Similarity::Embeddings(&zx, &zy);
        let loss = match args.loss {
            true => Some(backend.weights(s, &model.loss, positives, Negatives::All)?.value()),
            false => None,
        };
        (recall, loss, (zero_x, zero_y))
    });
    let mut report = Report::new("eval");
    report.value("n_x", x.rows())?;
    report.value("n_y", y.rows())?;
    report.value("recall", &recall)?;
    report.value("matching_accuracy", recall.matching_accuracy)?;
    report.value("loss", loss)?;
    report.value("zero_rows", zero_rows)?;
    report.value("unmatched", positives.unmatched())?;
    report.value("seconds", begin.elapsed().as_secs_f64())?;
    let header: Vec<String> = recall.ks.iter().map(|k| format!("R@{k}")).collect();
    let header: Vec<&str> =
        ["direction", "queries"].into_iter().chain(header.iter().map(String::as_str)).collect();
    let row = |name: &str, queries: usize, values: &[f64]| {
        let mut row = vec![name.to_string(), queries.to_string()];
        row.extend(values.iter().map(|&v| output::three(v)));
        row
    };
    report.table(
        &header,
        vec![row("x to y", x.rows(), &recall.x_to_y), row("y to x", y.rows(), &recall.y_to_x)],
    );
    report.line(format!("matching accuracy {}", output::three(recall.matching_accuracy)));
    if let Some(loss) = loss {
        report.line(format!("loss {}", output::loss(loss)));
    }
    output::zero_rows(zero_rows).into_iter().for_each(|line| report.line(line));
    let (ux, uy) = positives.unmatched();
    if ux + uy > 0 {
        report.line(format!(
            "without a positive: {} of x, {} of y",
            output::count(ux, "row"),
            output::count(uy, "row")
        ));
    }
    pairs.tell(&mut report, None)?;
    session.print(&report)
}

fn zero_shot(
    session: &Session,
    model: &Model,
    x: &dyn RowSource,
    classes: &dyn RowSource,
    labels: &std::path::Path,
    ks: &[usize],
) -> Result<()> {
    let begin = Instant::now();
    let name = labels.display().to_string();
    let truth = read_index_vector(labels)?;
    if truth.len() != x.rows() {
        let expected = format!("{} labels, one a row of {}", x.rows(), x.name());
        return Err(Error::invalid(name, expected, truth.len()).into());
    }
    let class_count = classes.rows() as i64;
    if let Some((i, l)) = truth.iter().enumerate().find(|(_, l)| !(0..class_count).contains(l)) {
        let expected = format!("labels in 0..{class_count}");
        return Err(Error::invalid(name, expected, format!("{l} at row {i}")).into());
    }
    let truth: Vec<u32> = truth.iter().map(|&l| l as u32).collect();
    let (shot, zero_rows) = on_backend!(session, |backend| {
        let (zx, zero_x) = embed(session, backend, model, Side::X, x)?;
        let (zc, zero_c) = embed(session, backend, model, Side::Y, classes)?;
        (retrieval::zero_shot_accuracy(backend, &zx, &zc, &truth, ks)?, (zero_x, zero_c))
    });
    let mut report = Report::new("eval");
    report.value("n_x", x.rows())?;
    report.value("classes", classes.rows())?;
    report.value("ks", &shot.ks)?;
    report.value("accuracy", &shot.accuracy)?;
    report.value("balanced_accuracy", shot.balanced_accuracy)?;
    report.value("class_accuracy", &shot.class_accuracy)?;
    report.value("predictions", &shot.predictions)?;
    report.value("zero_rows", zero_rows)?;
    report.value("seconds", begin.elapsed().as_secs_f64())?;
    let row = |(&k, &a): (&usize, &f64)| vec![format!("top {k}"), output::three(a)];
    report.table(&["zero-shot", "accuracy"], shot.ks.iter().zip(&shot.accuracy).map(row).collect());
    report.line(format!(
        "{} of {} classes; mean of the classes' accuracies {}",
        output::count(x.rows(), "sample"),
        classes.rows(),
        output::three(shot.balanced_accuracy)
    ));
    output::zero_rows(zero_rows).into_iter().for_each(|line| report.line(line));
    session.print(&report)
}
