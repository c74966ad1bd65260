//! Arguments that several commands share.

use super::pairs::{Pairs, RowsArgs};
use anyhow::{Context, Result};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use faer::Mat;
use serde::de::DeserializeOwned;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use unicon::Error;
use unicon::backend::Ties;
use unicon::io::{self, RowSource};
use unicon::kernel::{Kernel, KernelKind};
use unicon::loss::{Loss, LossKind};
use unicon::model::Side;
use unicon::positives::Positives;

/// A parser of the library's names for a choice; what follows a `|` is another spelling.
pub fn choice<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    let values = names.iter().map(|names| {
        let mut spellings = names.split('|');
        PossibleValue::new(spellings.next().unwrap_or_default()).aliases(spellings)
    });
    PossibleValuesParser::new(values).try_map(|name| {
        serde_json::from_value(serde_json::Value::String(name.replace('_', "-"))).map_err(|e| e.to_string())
    })
}

/// Psi and phi of one's own are functions, which a command line does not hold.
fn loss_kind() -> impl TypedValueParser<Value = LossKind> {
    choice(&["clip", "sigmoid", "triplet-hard|triplet_hard", "triplet-smooth|triplet_smooth"])
}

fn kernel_kind() -> impl TypedValueParser<Value = KernelKind> {
    choice(&["linear", "cosine", "angular", "arccos", "exp-cosine|exp_cosine", "rbf", "matern"])
}

/// The rule for items of equal score.
pub fn ties() -> impl TypedValueParser<Value = Ties> {
    choice(&["lower-index|lower_index", "optimistic|shared", "pessimistic", "expected"])
}

/// `--side x` or `--side y`.
pub fn side() -> impl TypedValueParser<Value = Side> {
    choice(&["x", "y"])
}

/// The loss. What is not given has the member's default.
#[derive(clap::Args)]
#[command(next_help_heading = "Loss")]
pub struct LossArgs {
    /// Member of the loss family.
    #[arg(long, value_parser = loss_kind(), default_value = "clip", value_name = "LOSS")]
    pub loss: LossKind,
    /// Temperature, at least 0.001; auto (fit, preset best) chooses it on validation rows [default: 0.07; presets of the paper:
    /// theirs].
    #[arg(long, allow_negative_numbers = true)]
    pub tau: Option<Tau>,
    /// Weight of the positive inside the loss [default: sigmoid 1.5, others 1; presets of the paper: theirs, of clip].
    #[arg(long, allow_negative_numbers = true)]
    pub nu: Option<f64>,
    /// Margin of the triplet losses.
    #[arg(long, default_value_t = Loss::default().margin, allow_negative_numbers = true)]
    pub margin: f64,
    /// Weight of a positive's own term; 0 is the decoupled loss.
    #[arg(long, default_value_t = Loss::default().eps_pos, value_name = "W", allow_negative_numbers = true)]
    pub eps_pos: f64,
    /// Weight of the negatives' terms.
    #[arg(long, default_value_t = Loss::default().eps_neg, value_name = "W", allow_negative_numbers = true)]
    pub eps_neg: f64,
    /// Added inside clip's logarithm. The authors' code uses 1e-8, which is inexact at small tau.
    #[arg(long, default_value_t = Loss::default().log_eps, value_name = "EPS", allow_negative_numbers = true)]
    pub log_eps: f64,
}

/// `--tau`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tau {
    Fixed(f64),
    Auto,
}

impl FromStr for Tau {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "auto" => Ok(Self::Auto),
            _ => s.parse().map(Self::Fixed).map_err(|_| "expected a number or auto".into()),
        }
    }
}

/// `--rank`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RankChoice {
    Fixed(usize),
    /// The share of squared singular values.
    Energy(f64),
    Auto,
}

impl FromStr for RankChoice {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        let expected = || "expected a number, auto or energy:SHARE".to_string();
        match (s, s.strip_prefix("energy:")) {
            ("auto", _) => Ok(Self::Auto),
            (_, Some(share)) => share.parse().map(Self::Energy).map_err(|_| expected()),
            _ => s.parse().map(Self::Fixed).map_err(|_| expected()),
        }
    }
}

/// A time: seconds, or with a unit: 500ms, 2s, 1.5m, 1h.
pub fn duration(s: &str) -> std::result::Result<Duration, String> {
    let units = [("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let unit = units.iter().find_map(|(unit, seconds)| Some((s.strip_suffix(unit)?, *seconds)));
    let (number, seconds) = unit.unwrap_or((s, 1.0));
    number
        .trim()
        .parse::<f64>()
        .ok()
        .and_then(|v| Duration::try_from_secs_f64(v * seconds).ok())
        .ok_or_else(|| "expected a time such as 2s, 500ms or 1.5m".into())
}

impl LossArgs {
    /// The loss, checked.
    pub fn build(&self) -> Result<Loss> {
        self.build_beside(Loss::default())
    }

    /// The loss, checked; what is not given is that of `usual`, whose kind it may not be.
    pub fn build_beside(&self, usual: Loss) -> Result<Loss> {
        match self.build_or_auto(usual)? {
            (loss, false) => Ok(loss),
            _ => Err(Error::invalid("--tau", "a number, or auto in fit with the preset best", "auto").into()),
        }
    }

    /// The loss, checked, and whether its temperature is to be chosen.
    pub fn build_or_auto(&self, usual: Loss) -> Result<(Loss, bool)> {
        let (tau, auto) = match self.tau {
            Some(Tau::Fixed(tau)) => (tau, false),
            Some(Tau::Auto) => (usual.tau, true),
            None => (usual.tau, false),
        };
        let usual = if self.loss == usual.kind { Loss { tau, ..usual } } else { Loss::new(self.loss, tau) };
        let loss = Loss {
            nu: self.nu.unwrap_or(usual.nu),
            margin: self.margin,
            eps_pos: self.eps_pos,
            eps_neg: self.eps_neg,
            log_eps: self.log_eps,
            ..usual
        };
        loss.validate()?;
        Ok((loss, auto))
    }
}

/// Validation rows, beside those that train.
#[derive(clap::Args)]
pub struct ValidationArgs {
    /// Validation features of side x.
    #[arg(long, value_name = "MATRIX", requires = "val_y")]
    val_x: Option<OsString>,
    /// Validation features of side y.
    #[arg(long, value_name = "MATRIX", requires = "val_x")]
    val_y: Option<OsString>,
    /// Group ids of the validation rows of x.
    #[arg(long, value_name = "NPY", requires_all = ["val_groups_y", "val_x"], conflicts_with = "val_pos_indptr")]
    val_groups_x: Option<PathBuf>,
    /// Group ids of the validation rows of y.
    #[arg(long, value_name = "NPY", requires = "val_groups_x")]
    val_groups_y: Option<PathBuf>,
    /// Matches of the validation rows, as --pos-indptr.
    #[arg(long, value_name = "NPY", requires_all = ["val_pos_indices", "val_x"])]
    val_pos_indptr: Option<PathBuf>,
    /// Matches of the validation rows, as --pos-indices.
    #[arg(long, value_name = "NPY", requires = "val_pos_indptr")]
    val_pos_indices: Option<PathBuf>,
}

impl ValidationArgs {
    /// The rows, where some are given; what happens to rows is that of the training rows.
    pub fn open(&self, training: &PositivesArgs) -> Result<Option<Pairs>> {
        let (Some(x), Some(y)) = (&self.val_x, &self.val_y) else { return Ok(None) };
        let positives = PositivesArgs {
            groups_x: self.val_groups_x.clone(),
            groups_y: self.val_groups_y.clone(),
            pos_indptr: self.val_pos_indptr.clone(),
            pos_indices: self.val_pos_indices.clone(),
            rows: training.rows.clone(),
        };
        positives.open(x, y).map(Some)
    }
}

/// Test rows, beside those that train.
#[derive(clap::Args)]
pub struct TestArgs<const REQUIRED: bool> {
    /// Test features of side x.
    #[arg(long, value_name = "MATRIX", required = REQUIRED, requires = "test_y")]
    test_x: Option<OsString>,
    /// Test features of side y.
    #[arg(long, value_name = "MATRIX", required = REQUIRED, requires = "test_x")]
    test_y: Option<OsString>,
    /// Group ids of the test rows of x.
    #[arg(long, value_name = "NPY", requires_all = ["test_groups_y", "test_x"], conflicts_with = "test_pos_indptr")]
    test_groups_x: Option<PathBuf>,
    /// Group ids of the test rows of y.
    #[arg(long, value_name = "NPY", requires = "test_groups_x")]
    test_groups_y: Option<PathBuf>,
    /// Matches of the test rows, as --pos-indptr.
    #[arg(long, value_name = "NPY", requires_all = ["test_pos_indices", "test_x"])]
    test_pos_indptr: Option<PathBuf>,
    /// Matches of the test rows, as --pos-indices.
    #[arg(long, value_name = "NPY", requires = "test_pos_indptr")]
    test_pos_indices: Option<PathBuf>,
}

impl<const REQUIRED: bool> TestArgs<REQUIRED> {
    /// The rows, where some are given; what happens to rows is that of the training rows.
    pub fn open(&self, training: &PositivesArgs) -> Result<Option<Pairs>> {
        let (Some(x), Some(y)) = (&self.test_x, &self.test_y) else { return Ok(None) };
        let positives = PositivesArgs {
            groups_x: self.test_groups_x.clone(),
            groups_y: self.test_groups_y.clone(),
            pos_indptr: self.test_pos_indptr.clone(),
            pos_indices: self.test_pos_indices.clone(),
            rows: training.rows.clone(),
        };
        positives.open(x, y).map(Some)
    }
}

/// A kernel and its parameters.
#[derive(clap::Args)]
pub struct KernelArgs {
    /// Kernel of both sides.
    #[arg(long, value_parser = kernel_kind(), value_name = "KERNEL", group = "encoders")]
    pub kernel: Option<KernelKind>,
    /// Of exp-cosine: exp(beta cos).
    #[arg(long, default_value_t = Kernel::default().beta, allow_negative_numbers = true)]
    pub beta: f64,
    /// Of rbf: exp(-gamma |a - b|^2) [default: 1; preset best: chosen].
    #[arg(long, allow_negative_numbers = true)]
    pub gamma: Option<f64>,
    /// Of matern [default: 1; preset best: chosen].
    #[arg(long, allow_negative_numbers = true)]
    pub lengthscale: Option<f64>,
    /// Cosines are clamped to +-(1 - C) [default: 0; presets of the paper 1e-5].
    #[arg(long, value_name = "C", allow_negative_numbers = true)]
    pub cos_clamp: Option<f64>,
}

impl KernelArgs {
    /// The kernel with its parameters, checked.
    pub fn build(&self, kind: KernelKind, cos_clamp: f64) -> Result<Kernel> {
        let usual = Kernel::new(kind);
        let kernel = Kernel {
            beta: self.beta,
            gamma: self.gamma.unwrap_or(usual.gamma),
            lengthscale: self.lengthscale.unwrap_or(usual.lengthscale),
            cos_clamp: self.cos_clamp.unwrap_or(cos_clamp),
            ..usual
        };
        kernel.validate()?;
        Ok(kernel)
    }
}

/// Which rows of x match which rows of y: row i with row i unless given.
#[derive(clap::Args, Default)]
#[command(next_help_heading = "Positives (default: row i matches row i)")]
pub struct PositivesArgs {
    /// Group ids of the rows of x: equal id is a match.
    #[arg(long, value_name = "NPY", requires = "groups_y", conflicts_with = "pos_indptr")]
    pub groups_x: Option<PathBuf>,
    /// Group ids of the rows of y.
    #[arg(long, value_name = "NPY", requires = "groups_x")]
    pub groups_y: Option<PathBuf>,
    /// The matches of row i of x are pos-indices[pos-indptr[i]..pos-indptr[i+1]].
    #[arg(long, value_name = "NPY", requires = "pos_indices")]
    pub pos_indptr: Option<PathBuf>,
    /// Row numbers of y.
    #[arg(long, value_name = "NPY", requires = "pos_indptr")]
    pub pos_indices: Option<PathBuf>,
    #[command(flatten)]
    pub rows: RowsArgs,
}

impl PositivesArgs {
    /// Opens features and reads their matches.
    pub fn open(&self, x: &OsStr, y: &OsStr) -> Result<Pairs> {
        Pairs::of(open(x)?, open(y)?, self)
    }

    /// The relation between the rows of `x` and `y`.
    pub fn read(&self, x: &dyn RowSource, y: &dyn RowSource) -> Result<Positives> {
        self.read_shape((x.name(), x.rows()), (y.name(), y.rows()))
    }

    /// As [`read`](Self::read), of named numbers of rows.
    pub fn read_shape(&self, x: (&str, usize), y: (&str, usize)) -> Result<Positives> {
        if let (Some(gx), Some(gy)) = (&self.groups_x, &self.groups_y) {
            let groups = |path: &Path, (name, rows): (&str, usize)| {
                let ids = io::read_index_vector(path)?;
                if ids.len() == rows {
                    return Ok(ids);
                }
                let expected = format!("{rows} group ids, one a row of {name}");
                Err(Error::invalid(path.display().to_string(), expected, ids.len()))
            };
            return Ok(Positives::from_groups(&groups(gx, x)?, &groups(gy, y)?)?);
        }
        if let (Some(indptr), Some(indices)) = (&self.pos_indptr, &self.pos_indices) {
            let ptr = io::read_index_vector(indptr)?;
            if ptr.len() != x.1 + 1 {
                let expected = format!("{} entries, one more than rows of {}", x.1 + 1, x.0);
                return Err(Error::invalid(indptr.display().to_string(), expected, ptr.len()).into());
            }
            let positives = Positives::from_csr(&ptr, &io::read_index_vector(indices)?, y.1);
            return positives.with_context(|| format!("{}, {}", indptr.display(), indices.display()));
        }
        if x.1 != y.1 {
            let expected = format!("as many rows as {} has ({}), or positives", x.0, x.1);
            return Err(Error::invalid(y.0, expected, y.1).into());
        }
        Ok(Positives::diagonal(x.1))
    }
}

/// A matrix on disk: anything [`io::open`] takes.
pub fn open(path: impl AsRef<OsStr>) -> Result<Box<dyn RowSource>> {
    Ok(io::open(path)?)
}

/// A small matrix as float64.
pub fn read_matrix(path: impl AsRef<OsStr>) -> Result<Mat<f64>> {
    matrix_of(&open(path)?)
}

/// All of a small matrix as float64.
pub fn matrix_of(source: &dyn RowSource) -> Result<Mat<f64>> {
    let (rows, cols) = (source.rows(), source.cols());
    let values = io::read_all::<f64>(source)?;
    Ok(Mat::from_fn(rows, cols, |i, j| values[i * cols + j]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_ranks_and_temperatures_are_parsed() {
        for (text, ms) in [("2s", 2000), ("500ms", 500), ("1.5m", 90_000), ("3", 3000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        assert!(duration("-1s").is_err() && duration("soon").is_err() && duration("").is_err());
        assert_eq!("128".parse(), Ok(RankChoice::Fixed(128)));
        assert_eq!("energy:0.9".parse(), Ok(RankChoice::Energy(0.9)));
        assert_eq!("auto".parse(), Ok(RankChoice::Auto));
        assert!("many".parse::<RankChoice>().is_err());
        assert_eq!(("auto".parse(), "0.1".parse()), (Ok(Tau::Auto), Ok(Tau::Fixed(0.1))));
    }
}
