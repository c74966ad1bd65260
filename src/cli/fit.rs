//! `unicon fit`.

use super::args::{self, KernelArgs, LossArgs, PositivesArgs, RankChoice, ValidationArgs};
use super::fit_best;
use super::fit_report::report;
use super::pairs::Pairs;
use super::session::{Session, on_backend};
use anyhow::Result;
use clap::ValueEnum;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use unicon::Error;
use unicon::fit::{
    BatchScore, Batches, Center, DampingOptions, Data, Factorization, FitOptions, Init, KernelOptions,
    Landmarks, RefineOptions, fit,
};
use unicon::io::{AtomicFile, read_index_vector};
use unicon::kernel::KernelKind;
use unicon::model::Model;
use unicon::similarity::NegativeSampling;
use unicon::spectral::SvdMethod;

/// Fits a pair of encoders and writes the model.
///
/// The default chooses everything itself (preset best): whitening, a spectral step and descent on the loss, judged on the
/// validation rows or, without them, on a tenth of the rows. Options of the iteration (--iters, --init, ..) select the
/// preset global instead: exact spectral updates from zeros. There validation rows weigh mini-batches and end a
/// refinement.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    loss: LossArgs,
    #[command(flatten)]
    solver: SolverArgs,
    #[command(flatten)]
    kernel: KernelFitArgs,
    /// Model file to write (safetensors).
    #[arg(long, value_name = "SAFETENSORS", help_heading = "Output")]
    out: PathBuf,
}

/// What to align.
#[derive(clap::Args)]
#[command(next_help_heading = "Data")]
struct DataArgs {
    /// Features of side x, n_x x d1.
    #[arg(long, value_name = "MATRIX")]
    x: OsString,
    /// Features of side y, n_y x d2.
    #[arg(long, value_name = "MATRIX")]
    y: OsString,
    #[command(flatten)]
    validation: ValidationArgs,
    #[command(flatten)]
    positives: PositivesArgs,
}

/// How to align. What is not given has the preset's value.
#[derive(clap::Args)]
#[command(next_help_heading = "Solver")]
pub struct SolverArgs {
    /// Dimension of the shared space; with the preset best also auto, or energy:SHARE of the squared singular values; presets of the
    /// paper bring their own.
    #[arg(long, value_name = "R")]
    pub rank: Option<RankChoice>,
    /// Where defaults come from [default: best; global where options of the iteration are given].
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// Wall time after which no step is begun, such as 2s or 500ms; mini-batches fit their schedule to it.
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    pub budget: Option<Duration>,
    /// Save the state of the descent here after every step, and continue from it where it exists.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Start from this linear model (the preset best: where it scores better than the spectral step).
    #[arg(long, value_name = "SAFETENSORS", conflicts_with = "init")]
    pub start: Option<PathBuf>,
    /// Steps of L-BFGS at most [default: preset best 30, on small data or where sampled or exact negatives are asked for;
    /// others 0].
    #[arg(long, value_name = "STEPS")]
    pub refine: Option<usize>,
    /// The updates F1^T F2 <- [F1^T F2 + eta C]_r with a line search: the loss never rises.
    #[arg(long)]
    damping: bool,
    /// Spectral updates [default: 2, of which the second is kept where it lowers the loss; with --whiten 1, for a second, undamped,
    /// ruins a whitened fit at the default loss; presets of the paper: theirs].
    #[arg(long, value_name = "N")]
    iters: Option<usize>,
    /// Start: zeros, random, gaussian (standard normal similarities), F1.npy,F2.npy or similarity:S.npy (any numbers)
    /// [default: zeros; presets of the paper but paper-kernel random].
    #[arg(long, value_name = "INIT")]
    init: Option<InitChoice>,
    /// Split of C = U diag(s) V^T: sqrt, orthonormal or power:P, F1 = s^P U^T [default: sqrt; presets of the paper on
    /// real data orthonormal].
    #[arg(long, value_name = "F", value_parser = factorization)]
    factorization: Option<Factorization>,
    /// Added to the leading diagonal of F1^T F2 before its last SVD [default: 0; paper-coco-clip 10, paper-coco-resnet 1e-4].
    #[arg(long, value_name = "LAMBDA", allow_negative_numbers = true)]
    ridge: Option<f64>,
    /// C = X^T S Y / rho [default: 1; paper-coco-resnet 0.1].
    #[arg(long, allow_negative_numbers = true)]
    rho: Option<f64>,
    /// Build C from x/|F1 x| and y/|F2 y| (paper-coco-clip and paper-coco-resnet do).
    #[arg(long)]
    scale_inputs: bool,
    /// full or randomized (randomized:OVERSAMPLE,POWER sets its parameters; 10,4).
    #[arg(long, value_name = "SVD", default_value = "full")]
    svd: SvdChoice,
    /// Stop when |F1^T F2 - previous| falls below this; 0 never does [default: 0; paper-kernel 1e-3].
    #[arg(long, allow_negative_numbers = true)]
    tol: Option<f64>,
    /// Whiten both sides first with this shrinkage; folded into the encoders. The preset best chooses among several.
    #[arg(long, value_name = "LAMBDA,..", value_delimiter = ',', allow_negative_numbers = true)]
    pub whiten: Vec<f64>,
    /// Whether the mean of each side's features is taken out, and folded into its encoder as a bias: auto does where it is
    /// over 30 times their spread, and the preset best judges it on validation rows [default: auto; presets of the paper
    /// off].
    #[arg(long, value_enum, value_name = "WHEN")]
    pub center: Option<CenterArg>,
    /// Mini-batches of this many rows instead of the global batch [paper-linear, paper-kernel: 30; paper-coco-clip:
    /// the first 1,000].
    #[arg(long, value_name = "B")]
    batch_size: Option<usize>,
    /// Use only the first N mini-batches.
    #[arg(long, value_name = "N")]
    batches: Option<usize>,
    /// Drop a trailing partial batch (presets of the paper do) instead of spreading its rows over the others.
    #[arg(long)]
    drop_trailing: bool,
    /// What weighs the solutions of mini-batches where there are validation rows: accuracy, equal, recall (mean R@1),
    /// reciprocal-rank or loss (exp(-loss)) [default: accuracy; paper-linear equal].
    #[arg(long, value_name = "SCORE", value_parser = args::choice::<BatchScore>(&["accuracy", "equal", "recall", "reciprocal-rank", "loss"]))]
    batch_score: Option<BatchScore>,
    /// Sample about this many negatives per row instead of all; sums are scaled up.
    #[arg(long, value_name = "N")]
    pub negatives: Option<usize>,
    /// Sampled negatives of an update as a multiple of those of the update before.
    #[arg(long, value_name = "FACTOR", requires = "negatives", default_value_t = usual().growth)]
    growth: f64,
    /// End with all negatives: the last update, or a last stage of L-BFGS.
    #[arg(long)]
    pub exact_last: bool,
    /// Compress the model to this many columns, the best for the products of the training rows' embeddings: fused kernel models have a
    /// rank for each mini-batch.
    #[arg(long, value_name = "COLUMNS")]
    compress: Option<usize>,
    /// Skip evaluating the loss of the fitted encoders (one more pass over the pairs).
    #[arg(long)]
    pub no_final_loss: bool,
}

/// Kernel encoders; linear ones without `--kernel`.
#[derive(clap::Args)]
#[command(next_help_heading = "Kernel encoders (default: linear encoders)")]
pub struct KernelFitArgs {
    #[command(flatten)]
    kernel: KernelArgs,
    /// --x and --y are Gram matrices: the values of any kernel between all rows that train, n x n of each side. The model encodes rows of such
    /// values with the rows that trained.
    #[arg(long, group = "encoders")]
    precomputed: bool,
    /// Number of Nystrom landmarks, drawn from the rows [default: 512, at most n].
    #[arg(long, value_name = "M", requires = "encoders", conflicts_with_all = ["exact", "landmark_rows"])]
    landmarks: Option<usize>,
    /// Row numbers of the landmarks.
    #[arg(long, value_name = "NPY", requires = "encoders", conflicts_with = "exact")]
    landmark_rows: Option<PathBuf>,
    /// The exact kernel solver, O(n^2) memory: every row is a landmark.
    #[arg(long, requires = "encoders")]
    exact: bool,
    /// Tikhonov ridge on K [default: 1e-6].
    #[arg(long, value_name = "LAMBDA", requires = "encoders", allow_negative_numbers = true)]
    kernel_ridge: Option<f64>,
}

/// Whether means are taken out of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CenterArg {
    On,
    Off,
    Auto,
}

impl CenterArg {
    /// What was asked for, or `usual`.
    pub fn of(given: Option<Self>, usual: Center) -> Center {
        match given {
            Some(Self::On) => Center::On,
            Some(Self::Off) => Center::Off,
            Some(Self::Auto) => Center::Auto,
            None => usual,
        }
    }
}

/// Sets of defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Everything that is not given is chosen on validation rows.
    Best,
    /// The exact global batch, from zeros.
    Global,
    /// paper-kernel with --kernel, else paper-linear.
    Paper,
    /// The paper's Section 4.1: r 10, tau 1, batches of 30 of equal weight, one update from random encoders.
    PaperLinear,
    /// The same for kernel encoders (angular unless given): at most 10 updates from zeros, fused by validation accuracy.
    PaperKernel,
    /// Table 1: r 128, tau 1, nu 2, orthonormal, two updates of one batch of all rows from random encoders.
    PaperFlickr,
    /// Table 2, features of CLIP: r 512, tau 0.07, nu 1.5, orthonormal, two updates of the first 1,000 rows, ridge 10, scaled inputs.
    PaperCocoClip,
    /// Table 2, features of ResNet-50: r 256, tau 0.07, nu 1.5, orthonormal, two updates of all rows, rho 0.1, ridge 1e-4, scaled
    /// inputs.
    PaperCocoResnet,
}

impl Preset {
    /// The library's, for a fit that iterates, of kernel encoders or not.
    pub fn schedule(self, kernel: bool) -> unicon::fit::Preset {
        use unicon::fit::Preset as Of;
        match self {
            Self::Best | Self::Global => Of::Global,
            Self::Paper => Of::paper(kernel),
            Self::PaperLinear => Of::PaperLinear,
            Self::PaperKernel => Of::PaperKernel,
            Self::PaperFlickr => Of::PaperFlickr,
            Self::PaperCocoClip => Of::PaperCocoClip,
            Self::PaperCocoResnet => Of::PaperCocoResnet,
        }
    }
}

#[derive(Clone, Debug)]
enum InitChoice {
    Zeros,
    Random,
    Gaussian,
    Files(String, String),
    Similarity(String),
}

impl FromStr for InitChoice {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "zeros" => Ok(Self::Zeros),
            "random" => Ok(Self::Random),
            "gaussian" => Ok(Self::Gaussian),
            _ => match (s.strip_prefix("similarity:"), s.split_once(',')) {
                (Some(path), _) => Ok(Self::Similarity(path.into())),
                (None, Some((f1, f2))) => Ok(Self::Files(f1.into(), f2.into())),
                (None, None) => {
                    Err("expected zeros, random, gaussian, F1.npy,F2.npy or similarity:S.npy".into())
                }
            },
        }
    }
}

pub fn factorization(s: &str) -> std::result::Result<Factorization, String> {
    match s {
        "sqrt" => Ok(Factorization::Sqrt),
        "orthonormal" => Ok(Factorization::Orthonormal),
        _ => s
            .strip_prefix("power:")
            .and_then(|p| p.parse().ok())
            .map(Factorization::Power)
            .ok_or_else(|| "expected sqrt, orthonormal or power:P".into()),
    }
}

/// The SVD, whose seed is that of the fit.
#[derive(Clone, Copy, Debug)]
struct SvdChoice(SvdMethod);

impl FromStr for SvdChoice {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "full" => return Ok(Self(SvdMethod::Full)),
            "randomized" => return Ok(Self(SvdMethod::randomized(0))),
            _ => {}
        }
        s.strip_prefix("randomized:")
            .and_then(|p| p.split_once(','))
            .and_then(|(o, p)| {
                let (oversample, power_iterations) = (o.parse().ok()?, p.parse().ok()?);
                Some(Self(SvdMethod::Randomized { oversample, power_iterations, seed: 0 }))
            })
            .ok_or_else(|| "expected full, randomized or randomized:OVERSAMPLE,POWER".into())
    }
}

/// What is the same in every preset of the iteration.
fn usual() -> FitOptions {
    FitOptions::new(1)
}

impl SolverArgs {
    /// An option that only the iteration of the other presets than best has, where one is given.
    pub fn of_the_iteration(&self) -> Option<&'static str> {
        let usual = usual();
        let given = [
            ("--iters", self.iters.is_some()),
            ("--init", self.init.is_some()),
            ("--factorization", self.factorization.is_some()),
            ("--ridge", self.ridge.is_some()),
            ("--rho", self.rho.is_some()),
            ("--scale-inputs", self.scale_inputs),
            ("--svd", self.svd.0 != usual.svd),
            ("--tol", self.tol.is_some()),
            ("--batch-size", self.batch_size.is_some()),
            ("--batches", self.batches.is_some()),
            ("--drop-trailing", self.drop_trailing),
            ("--batch-score", self.batch_score.is_some()),
            ("--damping", self.damping),
            ("--growth", self.growth != usual.growth),
            ("--compress", self.compress.is_some()),
        ];
        given.iter().find(|(_, given)| *given).map(|(name, _)| *name)
    }

    /// The rank that is given, or `usual`.
    pub fn rank_or(&self, usual: Option<usize>) -> Result<RankChoice> {
        self.rank.or(usual.map(RankChoice::Fixed)).ok_or_else(|| {
            Error::invalid("--rank", "the dimension of the shared space, such as --rank 128", "none").into()
        })
    }

    /// The preset that was asked for or that the options imply; the exact kernel has no preset best.
    fn preset(&self, kernel: &KernelFitArgs) -> Preset {
        let implied = self.of_the_iteration().is_some()
            || kernel.exact
            || kernel.precomputed
            || kernel.landmark_rows.is_some();
        self.preset.unwrap_or(if implied { Preset::Global } else { Preset::Best })
    }

    fn init(&self, usual: Init) -> Result<Init> {
        if let Some(start) = &self.start {
            return Ok(Init::from_model(&Model::load(start)?)?);
        }
        Ok(match &self.init {
            None => usual,
            Some(InitChoice::Zeros) => Init::Zeros,
            Some(InitChoice::Random) => Init::Random,
            Some(InitChoice::Gaussian) => Init::Gaussian,
            Some(InitChoice::Files(f1, f2)) => Init::Given(args::read_matrix(f1)?, args::read_matrix(f2)?),
            Some(InitChoice::Similarity(s)) => Init::Similarity(args::read_matrix(s)?),
        })
    }

    fn batches(&self, usual: Option<Batches>) -> Result<Option<Batches>> {
        let size = self.batch_size.or(usual.map(|b| b.size));
        let parts = [
            ("--batches", self.batches.is_some()),
            ("--drop-trailing", self.drop_trailing),
            ("--batch-score", self.batch_score.is_some()),
        ];
        if let (None, Some((name, _))) = (size, parts.iter().find(|(_, given)| *given)) {
            return Err(Error::invalid(*name, "mini-batches (--batch-size)", "the global batch").into());
        }
        let count = self.batches.or(usual.and_then(|b| b.count));
        let drop_trailing = self.drop_trailing || usual.is_some_and(|b| b.drop_trailing);
        let score = self.batch_score.or(usual.map(|b| b.score)).unwrap_or_default();
        Ok(size.map(|size| Batches { size, count, drop_trailing, score }))
    }
}

impl KernelFitArgs {
    /// Whether a kernel is asked for.
    pub fn is_given(&self) -> bool {
        self.kernel.kernel.is_some() || self.precomputed
    }

    /// Whether the kernel's width is given.
    pub fn has_own_width(&self) -> bool {
        self.kernel.gamma.is_some() || self.kernel.lengthscale.is_some()
    }

    /// The kernel, where one is asked for or the preset has one.
    pub fn build(&self, preset: unicon::fit::Preset, batched: bool) -> Result<Option<KernelOptions>> {
        let usual = preset.options(1).kernel;
        let kind = self.kernel.kernel.or(usual.map(|k| k.kernel.kind));
        let Some(kind) = kind.or(self.precomputed.then(KernelKind::default)) else { return Ok(None) };
        let cos_clamp = preset.cos_clamp();
        let landmarks = match (&self.landmark_rows, self.landmarks) {
            (Some(path), _) => Landmarks::Rows(rows(path)?),
            (None, Some(m)) => Landmarks::Count(m),
            // Mini-batches are small: every row is a landmark.
            (None, None) if self.exact || batched => Landmarks::Exact,
            (None, None) => Landmarks::Auto,
        };
        let mut options = KernelOptions::new(self.kernel.build(kind, cos_clamp)?, landmarks);
        options.ridge = self.kernel_ridge.unwrap_or(options.ridge);
        options.precomputed = self.precomputed;
        Ok(Some(options))
    }
}

fn rows(path: &std::path::Path) -> Result<Vec<usize>> {
    let bad = |v: &i64| Error::invalid(path.display().to_string(), "row numbers >= 0", v);
    let rows = read_index_vector(path)?;
    Ok(rows.iter().map(|v| usize::try_from(*v).map_err(|_| bad(v))).collect::<unicon::Result<_>>()?)
}

impl Args {
    fn options(&self, preset: Preset, seed: u64) -> Result<FitOptions> {
        let solver = &self.solver;
        let preset = preset.schedule(self.kernel.is_given());
        let RankChoice::Fixed(rank) = solver.rank_or(preset.dim())? else {
            return Err(Error::invalid("--rank", "a number, unless the preset is best", "a choice").into());
        };
        let whiten = match solver.whiten[..] {
            [] => None,
            [lambda] => Some(lambda),
            _ => {
                let got = format!("{} of them", solver.whiten.len());
                return Err(Error::invalid("--whiten", "one value, unless the preset is best", got).into());
            }
        };
        let defaults = preset.options(rank);
        let batches = solver.batches(defaults.batches)?;
        let negatives = match solver.negatives {
            Some(per_anchor) => NegativeSampling::Sampled { per_anchor, seed },
            None => defaults.negatives,
        };
        let options = FitOptions {
            loss: self.loss.build_beside(defaults.loss)?,
            n_iters: solver.iters.unwrap_or(defaults.n_iters),
            rho: solver.rho.unwrap_or(defaults.rho),
            factorization: solver.factorization.unwrap_or(defaults.factorization),
            ridge: solver.ridge.unwrap_or(defaults.ridge),
            scale_inputs: solver.scale_inputs || defaults.scale_inputs,
            svd: match solver.svd.0 {
                SvdMethod::Full => SvdMethod::Full,
                SvdMethod::Randomized { oversample, power_iterations, .. } => {
                    SvdMethod::Randomized { oversample, power_iterations, seed }
                }
            },
            init: solver.init(defaults.init.clone())?,
            tol: solver.tol.unwrap_or(defaults.tol),
            batches,
            whiten,
            center: CenterArg::of(solver.center, defaults.center),
            kernel: self.kernel.build(preset, batches.is_some())?,
            negatives,
            growth: solver.growth,
            exact_last: solver.exact_last,
            damping: solver.damping.then(DampingOptions::default),
            refine: solver.refine.filter(|&steps| steps > 0).map(|max_steps| {
                let mut stages = vec![negatives];
                let last = solver.negatives.is_some() && solver.exact_last;
                stages.extend(last.then_some(NegativeSampling::All));
                RefineOptions { max_steps, stages, ..RefineOptions::default() }
            }),
            checkpoint: solver.checkpoint.clone(),
            budget: solver.budget,
            seed,
            final_loss: !solver.no_final_loss,
            compress: solver.compress,
            ..defaults
        };
        options.validate()?;
        Ok(options)
    }
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let pairs = args.data.positives.open(&args.data.x, &args.data.y)?;
    let data = pairs.data();
    let validation = args.data.validation.open(&args.data.positives)?;
    let validation = validation.as_ref().map(Pairs::data);
    let seed = session.seed();
    let preset = args.solver.preset(&args.kernel);
    let best = match preset {
        Preset::Best => Some(fit_best::options(&args.solver, &args.loss, &args.kernel, seed)?),
        _ => None,
    };
    let options = match &best {
        Some(_) => None,
        None => Some(args.options(preset, seed)?),
    };
    // A fit may take long: better to know now that its result cannot be written.
    if session.is_first() {
        drop(AtomicFile::create(&args.out)?);
        fit_best::check_writable(args.solver.checkpoint.as_deref())?;
    }
    let (model, info, device) = on_backend!(session, |backend| {
        let (model, info) = match (&best, &options) {
            (Some(best), _) => unicon::fit::fit_best(backend, data, validation, best)?,
            (None, Some(options)) => fit(backend, data, validation, options)?,
            (None, None) => return Err(Error::Unsupported("a fit without options".into()).into()),
        };
        (model, info, unicon::backend::Backend::describe(backend))
    });
    if session.is_first() {
        model.save(&args.out)?;
    }
    let Data { x, y, positives } = data;
    let shape = (x.rows(), y.rows(), x.cols(), y.cols());
    let kernel = args.kernel.is_given();
    let mut report = report(&args.out, (preset, kernel), &model, &info, &device, shape, positives.nnz())?;
    pairs.tell(&mut report, Some(info.distinct))?;
    session.print(&report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_parsed() {
        assert!(matches!("zeros".parse(), Ok(InitChoice::Zeros)));
        assert!(matches!("a.npy,b.npy".parse(), Ok(InitChoice::Files(a, b)) if a == "a.npy" && b == "b.npy"));
        assert!("a.npy".parse::<InitChoice>().is_err());
        assert_eq!(factorization("power:2"), Ok(Factorization::Power(2.0)));
        assert!(factorization("cube").is_err());
        let SvdChoice(svd) = "randomized:5,1".parse().unwrap();
        assert_eq!(svd, SvdMethod::Randomized { oversample: 5, power_iterations: 1, seed: 0 });
        assert!("randomized:5".parse::<SvdChoice>().is_err());
    }
}
