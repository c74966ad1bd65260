//! `unicon reproduce`: the experiments of arXiv 2604.16678 by name.

mod features;
pub mod synthetic;

use super::args::{PositivesArgs, TestArgs, ValidationArgs};
use super::output::{self, Report};
use super::pairs::Pairs;
use super::report::tables;
use super::session::{Session, on_backend};
use anyhow::Result;
use clap::ValueEnum;
use features::Features;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;
use unicon::Error;
use unicon::backend::Backend;
use unicon::io::AtomicFile;

/// What is not repeated, and why.
const ABSENT: &str = "\
Not here, since we do not know the settings that made the figures, and a row beside them would compare unlike runs:
  Table 5, truncated SVD .2235 and stabilised .2601: the features, the number of updates and what is stabilised by how much
  Table 8, SigLIP features, .3340 and .2862: dimension, temperature, nu and mini-batches; `unicon fit --preset paper-coco-clip --rank R` on
    such features is the nearest
  CIFAR-10, a linear probe, 61.82 % in 23.38 s: the encoders' training and the probe's penalty; `unicon fit --preset paper-kernel` and
    `unicon probe` do the like on your features
  The kernel ablation with the SVD of S itself, .761: how its singular vectors become encoders of new rows";

/// Repeats experiments of the paper beside its figures, those of the authors' code and the default.
///
/// Those on synthetic data need nothing. The others run the paper's schedule on your features of its data, or of your own, beside the
/// figures that the paper prints for its own.
#[derive(clap::Args)]
#[command(after_long_help = ABSENT)]
pub struct Args {
    /// Which; without one all that need no data, and with --x those of Tables 1 and 2 and Appendix C.3.
    #[arg(value_enum, value_name = "EXPERIMENT")]
    experiments: Vec<Experiment>,
    /// Draws of the synthetic data; published means are over 10.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    draws: u64,
    /// Training features of side x (images).
    #[arg(long, value_name = "MATRIX", requires_all = ["y", "test_x"])]
    x: Option<OsString>,
    /// Training features of side y (captions).
    #[arg(long, value_name = "MATRIX", requires = "x")]
    y: Option<OsString>,
    #[command(flatten)]
    positives: PositivesArgs,
    #[command(flatten)]
    validation: ValidationArgs,
    #[command(flatten)]
    test: TestArgs<false>,
    /// Dimension of the shared space, if not the paper's (Flickr 128, MSCOCO 512 and 256).
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
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
    /// Table 1: Flickr30k; needs features.
    #[value(alias = "table-1")]
    Flickr,
    /// Table 2: MSCOCO with features of CLIP, many captions an image; needs features, 1,000 rows or more.
    #[value(alias = "table-2")]
    CocoClip,
    /// Table 2: MSCOCO with features of ResNet-50; needs features.
    CocoResnet,
    /// Appendix C.3: MSCOCO with features of CLIP by the number of rows that the schedule sees; needs features.
    #[value(alias = "c.3")]
    Batches,
}

impl Experiment {
    /// Those that need no data.
    pub const SYNTHETIC: [Self; 3] = [Self::Linear, Self::Kernels, Self::Losses];
    /// Those that do.
    const REAL: [Self; 4] = [Self::Flickr, Self::CocoClip, Self::CocoResnet, Self::Batches];

    /// Runs one that needs no data, and adds its table; whether it is one.
    pub fn synthetic<B: Backend>(
        self,
        session: &Session,
        backend: &B,
        draws: u64,
        report: &mut Report,
    ) -> Result<bool> {
        let (name, title, cases) = match self {
            Self::Linear => ("linear", "Section 4.1, linear encoders on the linear model", synthetic::LINEAR),
            Self::Kernels => ("kernels", "Table 7, kernels on the nonlinear model", synthetic::KERNELS),
            Self::Losses => ("losses", "Appendix C.7, losses on the nonlinear model", synthetic::LOSSES),
            _ => return Ok(false),
        };
        synthetic::run(session, backend, (name, title, cases), draws, report)?;
        Ok(true)
    }

    /// Runs one on features.
    fn real<B: Backend>(
        self,
        session: &Session,
        backend: &B,
        features: &Features<'_>,
        report: &mut Report,
    ) -> Result<()> {
        let table = match self {
            Self::Flickr => &features::FLICKR,
            Self::CocoClip => &features::COCO_CLIP,
            Self::CocoResnet => &features::COCO_RESNET,
            _ => return features::batches(session, backend, features, report),
        };
        features::run(session, backend, table, features, report)
    }
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    let mut report = Report::new("reproduce");
    let train = match (&args.x, &args.y) {
        (Some(x), Some(y)) => Some(args.positives.open(x, y)?),
        _ => None,
    };
    let validation = args.validation.open(&args.positives)?;
    let test = args.test.open(&args.positives)?;
    let experiments = match (args.experiments.is_empty(), &train) {
        (true, None) => Experiment::SYNTHETIC.to_vec(),
        (true, Some(_)) => Experiment::REAL.to_vec(),
        _ => args.experiments,
    };
    if train.is_none() && (validation.is_some() || test.is_some() || args.rank.is_some()) {
        let expected = "beside features to train on (--x, --y)";
        return Err(Error::invalid("--val-x, --test-x or --rank", expected, "none").into());
    }
    if train.is_some() && !experiments.iter().any(|e| Experiment::REAL.contains(e)) {
        let expected = "an experiment on features: flickr, coco-clip, coco-resnet or batches";
        return Err(Error::invalid("--x", expected, "those on synthetic data alone").into());
    }
    let features = train.as_ref().zip(test.as_ref()).map(|(train, test)| Features {
        train: train.data(),
        validation: validation.as_ref().map(Pairs::data),
        test: test.data(),
        rank: args.rank,
    });
    if let (Some(one), None) = (experiments.iter().find(|e| Experiment::REAL.contains(e)), &features) {
        let name = one.to_possible_value().map_or_else(String::new, |v| v.get_name().to_string());
        let expected = "features (--x, --y, --test-x, --test-y), which this experiment needs";
        return Err(Error::invalid(name, expected, "none").into());
    }
    if let Some(path) = &args.html {
        // Better to know now that it cannot be written.
        drop(AtomicFile::create(path)?);
    }
    on_backend!(session, |backend| {
        report.value("device", backend.describe())?;
        report.line(format!("UniCon {} on {}\n", env!("CARGO_PKG_VERSION"), backend.describe()));
        for experiment in experiments {
            if experiment.synthetic(session, backend, args.draws, &mut report)? {
                continue;
            }
            if let Some(features) = &features {
                experiment.real(session, backend, features, &mut report)?;
            }
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    report.value("seconds", seconds)?;
    report.line(format!("{seconds:.1} s"));
    if let Some(path) = &args.html {
        output::write(path, &tables("The experiments of arXiv 2604.16678, repeated", &report))?;
        report.line(format!("wrote {}", path.display()));
    }
    session.print(&report)
}
