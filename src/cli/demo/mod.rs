//! `unicon demo`: real digits, then the paper's synthetic experiment.

mod digits;

use super::output::{self, Report};
use super::reproduce::Experiment;
use super::session::{Session, on_backend};
use anyhow::Result;
use std::path::PathBuf;
use std::time::Instant;
use unicon::backend::Backend;
use unicon::io::AtomicFile;

/// Aligns halves of handwritten digits and repeats the paper's synthetic experiment; needs no files.
#[derive(clap::Args)]
pub struct Args {
    /// Draws of the synthetic data; published means are over 10, as in `unicon reproduce`.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    draws: u64,
    /// Where to write a page that shows the best alignment of the digits.
    #[arg(long, value_name = "HTML", default_value = "unicon-demo.html")]
    report: PathBuf,
    /// Write no page.
    #[arg(long, conflicts_with = "report")]
    no_report: bool,
}

/// What to do after it.
const NEXT: &str = "
next, on your own paired features (.npy, .npz or .safetensors; row i of one file matches row i of the other):
  unicon fit --x X.npy --y Y.npy --rank 64 --out model.safetensors
  unicon eval --model model.safetensors --x X_TEST.npy --y Y_TEST.npy
  unicon report --model model.safetensors --x X_TEST.npy --y Y_TEST.npy --out report.html
  unicon ablate --x X.npy --y Y.npy --rank 64     does S(gamma) help here, or the whitening?";

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    let mut report = Report::new("demo");
    if !args.no_report {
        // Better to know now that it cannot be written.
        drop(AtomicFile::create(&args.report)?);
    }
    let written;
    on_backend!(session, |backend| {
        report.value("device", backend.describe())?;
        report.line(format!("UniCon {} on {}\n", env!("CARGO_PKG_VERSION"), backend.describe()));
        let page = digits::run(session, backend, &mut report)?;
        written = match page.filter(|_| !args.no_report) {
            Some(html) => output::write(&args.report, &html).map(|()| Some(&args.report))?,
            None => None,
        };
        for experiment in Experiment::SYNTHETIC {
            experiment.synthetic(session, backend, args.draws, &mut report)?;
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    report.value("seconds", seconds)?;
    report.value("report", written)?;
    if let Some(path) = written {
        report.line(format!("\nThe best alignment of the digits as a page: {}", path.display()));
    }
    report.line(format!("\n{seconds:.1} s"));
    report.line(NEXT);
    session.print(&report)
}
