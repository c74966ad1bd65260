//! `unicon demo`: real digits, then the paper's synthetic experiment.

mod digits;
mod synthetic;

use super::output::Report;
use super::session::{Session, on_backend};
use anyhow::Result;
use std::time::Instant;
use unicon::backend::Backend;

/// Aligns halves of handwritten digits and repeats the paper's synthetic experiment; needs no files.
#[derive(clap::Args)]
pub struct Args {
    /// Draws of the synthetic data; published means are over 10.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    draws: u64,
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    let mut report = Report::new("demo");
    on_backend!(session, |backend| {
        report.value("device", backend.describe())?;
        report.line(format!("UniCon {} on {}\n", env!("CARGO_PKG_VERSION"), backend.describe()));
        digits::run(session, backend, &mut report)?;
        synthetic::run(session, backend, args.draws, &mut report)?;
    });
    let seconds = begin.elapsed().as_secs_f64();
    report.value("seconds", seconds)?;
    report.line(format!("\n{seconds:.1} s"));
    session.print(&report)
}
