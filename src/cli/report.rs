//! `unicon report`.

use super::args::{PositivesArgs, ValidationArgs};
use super::encoding::embed;
use super::eval::TiesArg;
use super::output::{self, Report};
use super::pairs::Pairs;
use super::session::{Session, on_backend};
use anyhow::Result;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;
use unicon::io::AtomicFile;
use unicon::model::{Model, Side};
use unicon::report::{Measured, Page, look, measure, page};

/// Writes a page that shows an alignment: recall, similarities, weights, a map, and how the fit went.
///
/// One HTML file that needs no network and no other file; open it in a browser. Figures are exact and over all pairs
/// (those of `unicon eval`); similarities, weights and map are of a sample.
#[derive(clap::Args)]
pub struct Args {
    /// Model that `unicon fit` wrote.
    #[arg(long, value_name = "SAFETENSORS")]
    model: PathBuf,
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
    /// The values of k in the table.
    #[arg(long, value_delimiter = ',', default_value = "1,5,10", value_name = "K,K,..")]
    k: Vec<usize>,
    /// Which of several items equal in score stands first, as in `unicon eval`.
    #[arg(long, value_enum, default_value_t = TiesArg::LowerIndex)]
    ties: TiesArg,
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
        let file = self.model.file_stem().unwrap_or(self.model.as_os_str());
        self.title.clone().unwrap_or_else(|| format!("Alignment: {}", file.to_string_lossy()))
    }
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    let model = Model::load(&args.model)?;
    let sets = args.sets()?;
    // Better to know now that the page cannot be written.
    drop(AtomicFile::create(&args.out)?);
    let query = (&args.k[..], args.ties.into());
    let mut measured: Vec<(&str, Measured)> = Vec::new();
    let looked = on_backend!(session, |backend| {
        let mut looked = None;
        for (name, Pairs { x, y, positives, .. }) in &sets {
            let (zx, zero_x) = embed(session, backend, &model, Side::X, x)?;
            let (zy, zero_y) = embed(session, backend, &model, Side::Y, y)?;
            let z = (&zx, &zy);
            measured.push((name, measure(backend, &model.loss, z, positives, query, (zero_x, zero_y))?));
            if looked.is_none() {
                looked = Some(look(backend, &model.loss, z, positives, session.seed())?);
            }
        }
        looked
    });
    // There is always a first set.
    let Some(look) = looked else { return Ok(()) };
    let shown: Vec<(&str, &Measured)> = measured.iter().map(|(name, m)| (*name, m)).collect();
    let html = page(&Page { title: &args.title(), model: &model, sets: &shown, look: &look });
    write(&args.out, &html)?;
    let mut report = Report::new("report");
    report.value("out", args.out.display().to_string())?;
    report.value("bytes", html.len())?;
    for (name, m) in &measured {
        report.value(name, m)?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    report.value("seconds", seconds)?;
    let size = output::bytes(html.len() as u64);
    report.line(format!("{}: {size}, {seconds:.2} s; open it in a browser", args.out.display()));
    sets[0].1.tell(&mut report, None)?;
    session.print(&report)
}

/// Writes a page aside and renames it.
pub fn write(path: &Path, html: &str) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(html.as_bytes()).map_err(|e| unicon::Error::io(path, e))?;
    Ok(file.commit()?)
}
