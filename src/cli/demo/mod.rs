//! `unicon demo`: icons and words, real digits, then the paper's synthetic experiment.

mod digits;
mod icons;

use super::output::{self, Report};
use super::reproduce::Experiment;
use super::session::{Session, on_backend};
use anyhow::Result;
use std::path::PathBuf;
use std::time::Instant;
use unicon::backend::Backend;
use unicon::io::AtomicFile;

/// Aligns pictures of icons with words and halves of handwritten digits, and repeats the paper's synthetic experiment; needs
/// no files.
#[derive(clap::Args)]
pub struct Args {
    /// Only the icons: shows the pictures nearest to the bundled captions that hold these words. No text encoder is bundled, so
    /// that other text cannot be looked up.
    #[arg(long, value_name = "TEXT", conflicts_with = "draws")]
    query: Option<String>,
    /// Draws of the synthetic data; published means are over 10, as in `unicon reproduce`.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    draws: u64,
    /// Where to write a page that shows the alignment of the icons.
    #[arg(long, value_name = "HTML", visible_alias = "html", default_value = "unicon-demo.html")]
    report: PathBuf,
    /// Write no page.
    #[arg(long, conflicts_with = "report")]
    no_report: bool,
}

/// What to do after it.
const NEXT: &str = "
next, the icons that match words of yours, and your own paired features (.npy, .npz or .safetensors; row i of one file matches
row i of the other):
  unicon demo --query music
  unicon fit --x X.npy --y Y.npy --rank 64 --out model.safetensors
  unicon eval --model model.safetensors --x X_TEST.npy --y Y_TEST.npy
  unicon report --model model.safetensors --x X_TEST.npy --y Y_TEST.npy --out report.html
  unicon ablate --x X.npy --y Y.npy --rank 64     does S(gamma) help here, or the whitening?";

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    let mut report = Report::new("demo");
    let icons = unicon::data::icons()?;
    let query = args.query.as_deref();
    let captions = icons::captions(&icons, query)?;
    if !args.no_report {
        // Better to know now that it cannot be written.
        drop(AtomicFile::create(&args.report)?);
    }
    let written;
    on_backend!(session, |backend| {
        report.value("device", backend.describe())?;
        report.line(format!("UniCon {} on {}\n", env!("CARGO_PKG_VERSION"), backend.describe()));
        let page = icons::run(session, backend, &icons, (query, &captions), &mut report)?;
        written = match args.no_report {
            true => None,
            false => output::write(&args.report, &page).map(|()| Some(&args.report))?,
        };
        if query.is_none() {
            digits::run(session, backend, &mut report)?;
            session.show(&mut report)?;
            for experiment in Experiment::SYNTHETIC {
                experiment.synthetic(session, backend, args.draws, &mut report)?;
                session.show(&mut report)?;
            }
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    report.value("seconds", seconds)?;
    report.value("report", written)?;
    if let Some(path) = written {
        report.line(format!("The alignment of the icons as a page: {}", path.display()));
    }
    report.line(format!("{seconds:.1} s"));
    if query.is_none() {
        report.line(NEXT);
    }
    session.print(&report)
}
