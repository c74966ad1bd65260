//! `unicon eval`.

use super::args::{self, PositivesArgs};
use super::encoding::{check_widths, embeddings};
use super::evaluation::{self, EvaluationArgs};
use super::output::{self, Report};
use super::pairs::Pairs;
use super::session::{Session, on_backend};
use anyhow::Result;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;
use unicon::Error;
use unicon::backend::{Backend, Similarity};
use unicon::io::{RowSource, read_index_vector};
use unicon::model::{Model, Side};
use unicon::retrieval;
use unicon::similarity::NegativeSampling;

/// Evaluates a model, or embeddings: Recall@k and ranks both ways, or zero-shot classification with --classes.
///
/// A query is a hit if any of its positives is among its k best; a row without positives is a miss, and is left out of
/// median and mean rank. With --classes the rows of x are samples and the rows of the class matrix (of side y) are one
/// embedding a class, or several with --class-groups; every sample is given its most similar class. Without --model the
/// matrices are embeddings, whose rows are scaled to unit length.
#[derive(clap::Args)]
pub struct Args {
    /// Model that `unicon fit` wrote; without one, x and y are embeddings of one space.
    #[arg(long, value_name = "SAFETENSORS")]
    model: Option<PathBuf>,
    /// Features of side x.
    #[arg(long, value_name = "MATRIX")]
    x: OsString,
    /// Features of side y.
    #[arg(long, value_name = "MATRIX", required_unless_present = "classes", conflicts_with = "classes")]
    y: Option<OsString>,
    #[command(flatten)]
    evaluation: EvaluationArgs,
    /// Also evaluate the loss the model was fitted with on these rows.
    #[arg(long, requires = "model", conflicts_with = "classes")]
    loss: bool,
    #[command(flatten)]
    positives: PositivesArgs,
    /// Zero-shot: features of the classes, of side y, one row a class.
    #[arg(long, value_name = "MATRIX", requires = "labels", help_heading = "Zero-shot classification")]
    classes: Option<OsString>,
    /// Zero-shot: the class of every row of --classes, from 0, where a class has several (prompts): its embedding is the
    /// mean of theirs, scaled to unit length again.
    #[arg(long, value_name = "NPY", requires = "classes", help_heading = "Zero-shot classification")]
    class_groups: Option<PathBuf>,
    /// Zero-shot: the class (row of --classes, or group) of every row of x.
    #[arg(
        long,
        value_name = "NPY",
        requires = "classes",
        conflicts_with = "exclude_self",
        help_heading = "Zero-shot classification"
    )]
    labels: Option<PathBuf>,
}

impl Args {
    /// Whether x and y are pairs, not samples and classes.
    pub fn takes_pairs(&self) -> bool {
        self.classes.is_none()
    }
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let model = args.model.as_ref().map(Model::load).transpose()?;
    let model = model.as_ref();
    let x = args::open(&args.x)?;
    if let (Some(classes), Some(labels)) = (&args.classes, &args.labels) {
        if args.positives.rows.drop_bad_rows {
            let expected = "pairs of rows, which --classes and --labels are not";
            return Err(Error::invalid("--drop-bad-rows", expected, "--classes").into());
        }
        return zero_shot(session, &args, model, &x, &args::open(classes)?, labels);
    }
    // The parser lets nothing else through.
    let y = args::open(args.y.as_deref().unwrap_or_default())?;
    recall(session, &args, model, Pairs::of(x, y, &args.positives)?)
}

fn recall(session: &Session, args: &Args, model: Option<&Model>, pairs: Pairs) -> Result<()> {
    let begin = Instant::now();
    let Pairs { x, y, positives, .. } = &pairs;
    let options = args.evaluation.options(session.seed())?;
    check_widths(model, x, y)?;
    let (recall, loss, zero_rows) = on_backend!(session, |backend| {
        let (zx, zero_x) = embeddings(session, backend, model, Side::X, x)?;
        let (zy, zero_y) = embeddings(session, backend, model, Side::Y, y)?;
        let recall = retrieval::evaluate(backend, &zx, &zy, positives, &options)?;
        let s = Similarity::Embeddings(&zx, &zy);
        let loss = match model.filter(|_| args.loss) {
            Some(model) => Some(backend.weights(s, &model.loss, positives, NegativeSampling::All)?.value()),
            None => None,
        };
        (recall, loss, (zero_x, zero_y))
    });
    let mut report = Report::new("eval");
    report.value("n_x", x.rows())?;
    report.value("n_y", y.rows())?;
    report.value("recall", &recall)?;
    report.value("matching_accuracy", recall.matching_accuracy)?;
    report.value("loss", loss)?;
    report.value("normalised", model.is_none())?;
    report.value("exclude_self", options.exclude_self)?;
    report.value("zero_rows", zero_rows)?;
    report.value("unmatched", positives.unmatched())?;
    report.value("seconds", begin.elapsed().as_secs_f64())?;
    evaluation::table(&mut report, &recall, (x.rows(), y.rows()));
    report.line(format!("matching accuracy {}", output::three(recall.matching_accuracy)));
    if let Some(loss) = loss {
        report.line(format!("loss {}", output::loss(loss)));
    }
    let [tied_x, tied_y] = recall.tied;
    evaluation::tied(options.ties, (tied_x, x.rows()), (tied_y, y.rows()))
        .into_iter()
        .for_each(|line| report.line(line));
    given(model, &mut report);
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

/// Says what became of embeddings that were given.
fn given(model: Option<&Model>, report: &mut Report) {
    if model.is_none() {
        report.line("no model: embeddings as given, rows scaled to unit length");
    }
}

/// A number from 0 for each row of something.
pub(super) fn classes_of(path: &Path, rows: usize, what: &str) -> Result<Vec<u32>> {
    let (name, read) = (path.display().to_string(), read_index_vector(path)?);
    if read.len() != rows {
        let expected = format!("{rows} labels, one a row of {what}");
        return Err(Error::invalid(name, expected, read.len()).into());
    }
    let number = |(i, &l): (usize, &i64)| {
        let bad = || Error::invalid(&name, "classes as numbers from 0", format!("{l} at row {i}"));
        u32::try_from(l).map_err(|_| bad())
    };
    Ok(read.iter().enumerate().map(number).collect::<unicon::Result<_>>()?)
}

fn zero_shot(
    session: &Session,
    args: &Args,
    model: Option<&Model>,
    x: &dyn RowSource,
    classes: &dyn RowSource,
    labels: &Path,
) -> Result<()> {
    let begin = Instant::now();
    let options = args.evaluation.options(session.seed())?;
    check_widths(model, x, classes)?;
    let groups = args.class_groups.as_ref();
    let groups = groups.map(|path| classes_of(path, classes.rows(), classes.name())).transpose()?;
    if let (Some(groups), Some(path)) = (&groups, &args.class_groups) {
        let highest = groups.iter().max().map_or(0, |&c| c as usize);
        let present: std::collections::BTreeSet<u32> = groups.iter().copied().collect();
        if present.len() != highest + 1 {
            let missing = (0..).find(|c| !present.contains(c)).unwrap_or(0);
            let expected = format!("a row for each of the classes 0 to {highest}");
            let got = format!("none for class {missing}");
            return Err(Error::invalid(path.display().to_string(), expected, got).into());
        }
    }
    let class_count =
        groups.as_ref().map_or(classes.rows(), |g| g.iter().max().map_or(0, |&c| c as usize + 1));
    let truth = classes_of(labels, x.rows(), x.name())?;
    if let Some((i, l)) = truth.iter().enumerate().find(|(_, l)| **l as usize >= class_count) {
        let expected = format!("labels in 0..{class_count}");
        let name = labels.display().to_string();
        return Err(Error::invalid(name, expected, format!("{l} at row {i}")).into());
    }
    if groups.is_some() && model.is_some_and(|m| m.compression.is_some()) {
        let what = "--class-groups with a compressed model: means of rows that are not of unit length";
        return Err(Error::Unsupported(what.into()).into());
    }
    let (shot, zero_rows) = on_backend!(session, |backend| {
        let (zx, zero_x) = embeddings(session, backend, model, Side::X, x)?;
        let (mut zc, zero_c) = embeddings(session, backend, model, Side::Y, classes)?;
        if let Some(groups) = &groups {
            zc = retrieval::class_embeddings(backend, &zc, groups)?;
        }
        (retrieval::zero_shot_accuracy(backend, &zx, &zc, &truth, &options)?, (zero_x, zero_c))
    });
    let mut report = Report::new("eval");
    report.value("n_x", x.rows())?;
    report.value("classes", class_count)?;
    report.value("class_rows", classes.rows())?;
    report.value("ks", &shot.ks)?;
    report.value("ties", shot.ties)?;
    report.value("accuracy", &shot.accuracy)?;
    report.value("intervals", &shot.intervals)?;
    report.value("balanced_accuracy", shot.balanced_accuracy)?;
    report.value("class_accuracy", &shot.class_accuracy)?;
    report.value("tied", shot.tied)?;
    report.value("predictions", &shot.predictions)?;
    report.value("normalised", model.is_none())?;
    report.value("zero_rows", zero_rows)?;
    report.value("seconds", begin.elapsed().as_secs_f64())?;
    let row = |(at, (&k, &a)): (usize, (&usize, &f64))| {
        let mut row = vec![format!("top {k}"), output::three(a)];
        row.extend(shot.intervals.as_ref().map(|i| evaluation::interval(i[at])));
        row
    };
    let header = ["zero-shot", "accuracy", "95 %"];
    let header = &header[..if shot.intervals.is_some() { 3 } else { 2 }];
    report.table(header, shot.ks.iter().zip(&shot.accuracy).enumerate().map(row).collect());
    report.line(format!(
        "{} of {class_count} classes; mean of the classes' accuracies {}",
        output::count(x.rows(), "sample"),
        output::three(shot.balanced_accuracy)
    ));
    if shot.tied > 0 {
        report.line(format!(
            "tied with a wrong class: {} (--ties {})",
            output::count(shot.tied, "sample"),
            evaluation::name(options.ties)
        ));
    }
    given(model, &mut report);
    output::zero_rows(zero_rows).into_iter().for_each(|line| report.line(line));
    session.print(&report)
}
