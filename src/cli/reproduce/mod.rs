//! `unicon reproduce`: the experiments of arXiv 2604.16678 by name.

pub mod synthetic;

use super::output::Report;
use super::report::{tables, write as write_page};
use super::session::{Session, on_backend};
use anyhow::Result;
use clap::ValueEnum;
use std::path::PathBuf;
use std::time::Instant;
use unicon::backend::Backend;
use unicon::io::AtomicFile;

/// Repeats experiments of the paper beside its figures, those of the authors' code and the default.
#[derive(clap::Args)]
pub struct Args {
    /// Which; without one all that need no data.
    #[arg(value_enum, value_name = "EXPERIMENT")]
    experiments: Vec<Experiment>,
    /// Draws of the synthetic data; published means are over 10.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    draws: u64,
    /// Write the tables as a page.
    #[arg(long, value_name = "HTML")]
    html: Option<PathBuf>,
}

/// An experiment of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Experiment {
    /// Section 4.1: linear encoders on the linear latent-factor model.
    #[value(alias = "section-4.1")]
    Linear,
    /// Table 7: six kernels on the nonlinear latent-factor model.
    #[value(alias = "table-7")]
    Kernels,
    /// Appendix C.7: three losses on the nonlinear latent-factor model.
    #[value(alias = "c.7")]
    Losses,
}

impl Experiment {
    /// Those that need no data.
    pub const SYNTHETIC: [Self; 3] = [Self::Linear, Self::Kernels, Self::Losses];

    fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Kernels => "kernels",
            Self::Losses => "losses",
        }
    }

    /// Runs it and adds its table.
    pub fn run<B: Backend>(
        self,
        session: &Session,
        backend: &B,
        draws: u64,
        report: &mut Report,
    ) -> Result<()> {
        let (title, cases) = match self {
            Self::Linear => ("Section 4.1, linear encoders on the linear model", synthetic::LINEAR),
            Self::Kernels => ("Table 7, kernels on the nonlinear model", synthetic::KERNELS),
            Self::Losses => ("Appendix C.7, losses on the nonlinear model", synthetic::LOSSES),
        };
        synthetic::run(session, backend, (self.name(), title, cases), draws, report)
    }
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    let mut report = Report::new("reproduce");
    if let Some(path) = &args.html {
        // Better to know now that it cannot be written.
        drop(AtomicFile::create(path)?);
    }
    let experiments =
        if args.experiments.is_empty() { Experiment::SYNTHETIC.to_vec() } else { args.experiments };
    on_backend!(session, |backend| {
        report.value("device", backend.describe())?;
        report.line(format!("UniCon {} on {}\n", env!("CARGO_PKG_VERSION"), backend.describe()));
        for experiment in experiments {
            experiment.run(session, backend, args.draws, &mut report)?;
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    report.value("seconds", seconds)?;
    report.line(format!("{seconds:.1} s"));
    if let Some(path) = &args.html {
        write_page(path, &tables("The experiments of arXiv 2604.16678, repeated", &report))?;
        report.line(format!("wrote {}", path.display()));
    }
    session.print(&report)
}
