//! `unicon report`: one page that shows an alignment. [`measure`] and [`look`] make the numbers, [`page`] the HTML, [`svg`]
//! the charts.

mod examples;
mod history;
mod look;
mod measure;
mod nearest;
mod page;
pub mod svg;
mod tables;

pub use examples::{Confusion, Example, Examples, examples};
pub use history::History;
pub use look::{Look, look};
pub use measure::{Measured, measure};
pub use nearest::{Nearest, nearest};
pub use page::{Page, page};
pub use tables::tables;

use crate::cli::args::{PositivesArgs, ValidationArgs};
use crate::cli::encoding::{check_widths, embeddings};
use crate::cli::evaluation::EvaluationArgs;
use crate::cli::names;
use crate::cli::output::{self, Report};
use crate::cli::pairs::Pairs;
use crate::cli::session::{Session, on_backend};
use anyhow::Result;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;
use unicon::io::{AtomicFile, RowSource};
use unicon::loss::Loss;
use unicon::model::{Model, Side};

/// Writes a page that shows an alignment: recall, similarities, weights, a map, and how the fit went.
///
/// One HTML file that needs no network and no other file; open it in a browser. Figures are exact and over all pairs
/// (those of `unicon eval`); similarities, weights and map are of a sample. Without --model the matrices are embeddings,
/// whose rows are scaled to unit length, and the loss is clip at tau = 0.07.
#[derive(clap::Args)]
pub struct Args {
    /// Model that `unicon fit` wrote; without one, x and y are embeddings of one space.
    #[arg(long, value_name = "SAFETENSORS")]
    model: Option<PathBuf>,
    /// Features of side x to evaluate on.
    #[arg(long, value_name = "MATRIX")]
    x: OsString,
    /// Features of side y to evaluate on.
    #[arg(long, value_name = "MATRIX")]
    y: OsString,
    #[command(flatten)]
    positives: PositivesArgs,
    #[command(flatten)]
    validation: ValidationArgs,
    #[command(flatten)]
    evaluation: EvaluationArgs,
    /// Names of the rows of x, one a line, for the examples: surest hits, worst misses, what is confused.
    #[arg(long, value_name = "FILE", conflicts_with = "drop_bad_rows")]
    names_x: Option<PathBuf>,
    /// Names of the rows of y, one a line.
    #[arg(long, value_name = "FILE", conflicts_with = "drop_bad_rows")]
    names_y: Option<PathBuf>,
    /// Heading of the page [default: the model's file name].
    #[arg(long)]
    title: Option<String>,
    /// The page to write.
    #[arg(long, value_name = "HTML", help_heading = "Output")]
    out: PathBuf,
}

/// A set of rows, opened.
type Set = (&'static str, Pairs);

impl Args {
    fn sets(&self) -> Result<Vec<Set>> {
        let evaluated = self.positives.open(&self.x, &self.y)?;
        let mut sets: Vec<Set> = vec![("evaluated", evaluated)];
        sets.extend(self.validation.open(&self.positives)?.map(|pairs| ("validation", pairs)));
        Ok(sets)
    }

    fn title(&self) -> String {
        let file = self.model.as_ref().map(|m| m.file_stem().unwrap_or(m.as_os_str()).to_string_lossy());
        let of = file.unwrap_or("embeddings".into());
        self.title.clone().unwrap_or_else(|| format!("Alignment: {of}"))
    }
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    let model = args.model.as_ref().map(Model::load).transpose()?;
    let model = model.as_ref();
    let sets = args.sets()?;
    sets.iter().try_for_each(|(_, set)| check_widths(model, &set.x, &set.y))?;
    let names = |path: &Option<PathBuf>, rows: &dyn RowSource| {
        path.as_ref().map(|path| names::read(path, rows.rows(), rows.name())).transpose()
    };
    let Some((_, first)) = sets.first() else { return Ok(()) };
    let (names_x, names_y) = (names(&args.names_x, &first.x)?, names(&args.names_y, &first.y)?);
    let options = args.evaluation.options(session.seed())?;
    // Better to know now that the page cannot be written.
    drop(AtomicFile::create(&args.out)?);
    let loss = match model {
        Some(m) if m.loss.validate().is_ok() => m.loss.clone(),
        // Files do not hold psi and phi of one's own: clip's loss is shown as where there is no model.
        _ => Loss::default(),
    };
    let mut measured: Vec<(&str, Measured)> = Vec::new();
    let looked = on_backend!(session, |backend| {
        let mut looked = None;
        for (name, Pairs { x, y, positives, .. }) in &sets {
            let (zx, zero_x) = embeddings(session, backend, model, Side::X, x)?;
            let (zy, zero_y) = embeddings(session, backend, model, Side::Y, y)?;
            let z = (&zx, &zy);
            let (figures, ranking) = measure(backend, &loss, z, positives, &options, (zero_x, zero_y))?;
            measured.push((name, figures));
            if looked.is_none() {
                let alone = options.exclude_self;
                let found = examples(backend, z, positives, &ranking, alone, names_y.as_deref())?;
                looked = Some((look(backend, &loss, z, positives, session.seed())?, found));
            }
        }
        looked
    });
    // There is always a first set.
    let Some((look, examples)) = looked else { return Ok(()) };
    let shown: Vec<(&str, &Measured)> = measured.iter().map(|(name, m)| (*name, m)).collect();
    let html = page(&Page {
        title: &args.title(),
        model,
        sets: &shown,
        look: &look,
        examples: Some(&examples),
        names: (names_x.as_deref(), names_y.as_deref()),
        nearest: None,
    });
    output::write(&args.out, &html)?;
    let mut report = Report::new("report");
    report.value("out", args.out.display().to_string())?;
    report.value("bytes", html.len())?;
    for (name, m) in &measured {
        report.value(name, m)?;
    }
    report.value("examples", &examples)?;
    report.value("normalised", model.is_none())?;
    let seconds = begin.elapsed().as_secs_f64();
    if model.is_some_and(|m| m.loss != loss) {
        report.line("the loss shown is clip's: files do not hold the model's own psi and phi");
    }
    report.value("seconds", seconds)?;
    let size = output::bytes(html.len() as u64);
    report.line(format!("{}: {size}, {seconds:.2} s; open it in a browser", args.out.display()));
    sets[0].1.tell(&mut report, None)?;
    session.print(&report)
}
