//! What a fit is asked to do: every option and default. Those of `fit_best` are in `best/options.rs`.

mod descent;
mod presets;

pub use descent::{DampingOptions, MinibatchOptions, RefineOptions};
pub use presets::Preset;

use super::condition::Center;
use crate::error::{Error, Result};
use crate::kernel::Kernel;
use crate::loss::Loss;
use crate::model::Component;
use crate::similarity::NegativeSampling;
use crate::spectral::SvdMethod;
use faer::Mat;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// How `C ~ U diag(s) V^T` is split into encoders.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Factorization {
    /// `F1 = s^{1/2} U^T`, `F2 = s^{1/2} V^T`.
    Sqrt,
    /// `F1 = U^T`, `F2 = V^T`.
    Orthonormal,
    /// `F1 = s^p U^T`, `F2 = s^p V^T`.
    Power(f64),
}

impl Factorization {
    /// The power of the singular values in each factor.
    pub fn power(self) -> f64 {
        match self {
            Self::Sqrt => 0.5,
            Self::Orthonormal => 0.0,
            Self::Power(p) => p,
        }
    }
}

/// Where the encoders start.
#[derive(Clone, Debug, Default)]
pub enum Init {
    /// All similarities 0: the first `C` is the centred cross-covariance. Deterministic, and the better default.
    #[default]
    Zeros,
    /// Kaiming-uniform `+-1/sqrt(d)`, from the fit's seed.
    Random,
    /// Encoders of the features the solver sees (raw features, or kernel features), `r x d1` and `r x d2`.
    Given(Mat<f64>, Mat<f64>),
    /// The linear encoders of a model. Unless centring is off, what they take out of raw features is taken out in the fit.
    Model(Box<Component>),
    /// A matrix `n_x x n_y` of any finite similarities for the first `S`. Small n only.
    Similarity(Mat<f64>),
    /// Independent standard normal similarities for the first `S`, from the fit's seed, as the authors' kernel solver starts. In
    /// mini-batches each has its own. Small n, or small batches, only.
    Gaussian,
}

impl Init {
    /// The encoders of a linear model, to continue from.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a model of kernel encoders or of several components, and a compressed one.
    pub fn from_model(model: &crate::model::Model) -> Result<Self> {
        match &model.components[..] {
            [c] if c.x.map.is_none() && c.y.map.is_none() && model.compression.is_none() => {
                Ok(Self::Model(Box::new(c.clone())))
            }
            _ => Err(Error::invalid(
                "init",
                "a linear model of one component",
                "kernels, several or a compressed one",
            )),
        }
    }

    /// The encoders that are given.
    pub(crate) fn encoders(&self) -> Option<(&Mat<f64>, &Mat<f64>)> {
        match self {
            Self::Given(f1, f2) => Some((f1, f2)),
            Self::Model(c) => Some((&c.x.matrix, &c.y.matrix)),
            _ => None,
        }
    }
}

/// The paper's mini-batches: a solution per batch, averaged as `F1^T F2` with validation weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batches {
    /// Rows per batch, at least 2 and at most n.
    pub size: usize,
    /// Use only the first this many batches of each iteration.
    pub count: Option<usize>,
    /// Drop a trailing partial batch, as the authors do (the number of dropped rows is reported). Otherwise batches
    /// are made slightly larger so that every row is used.
    pub drop_trailing: bool,
    /// What weighs the solutions where there are validation rows.
    pub score: BatchScore,
}

impl Batches {
    /// Batches of `size` rows that use every row, weighed by accuracy.
    pub fn new(size: usize) -> Self {
        Self { size, count: None, drop_trailing: false, score: BatchScore::default() }
    }
}

/// What weighs the solutions of mini-batches where there are validation rows: each has the weight `max(score, 0)`, all the same
/// where every score is 0. Without validation rows all weigh the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchScore {
    /// Matching accuracy, x to y: the paper's, on synthetic data.
    #[default]
    Accuracy,
    /// All the same, whatever validation rows say.
    Equal,
    /// The mean of Recall@1 of both directions: the authors', on real data.
    Recall,
    /// The mean reciprocal rank, the mean of both directions.
    ReciprocalRank,
    /// `exp(-L)` of the loss `L` of the validation pairs, the fit's own: smooth where few rows make a staircase of the others.
    Loss,
}

/// Which rows stand for the data in a kernel feature map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Landmarks {
    /// All of them: the exact kernel solver. `O(n^2)` memory.
    Exact,
    /// [`USUAL`](Self::USUAL) many, or all rows where there are fewer.
    Auto,
    /// This many rows, drawn without replacement from the fit's seed (Nystrom).
    Count(usize),
    /// These rows.
    Rows(Vec<usize>),
}

/// The kernel solver's part of the options.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelOptions {
    /// The kernel, on both sides.
    pub kernel: Kernel,
    /// Landmarks.
    pub landmarks: Landmarks,
    /// Tikhonov ridge on `K`, >= 0.
    pub ridge: f64,
    /// The features are kernel values themselves: of a fit the Gram matrices of its rows (`n_x x n_x` and `n_y x n_y`), and of other
    /// rows `k(x, x_1), ..., k(x, x_n)` with every row of the fit. `kernel` is then not used.
    #[serde(default)]
    pub precomputed: bool,
}

impl KernelOptions {
    /// `kernel` with the default ridge 1e-6.
    pub fn new(kernel: Kernel, landmarks: Landmarks) -> Self {
        Self { kernel, landmarks, ridge: 1e-6, precomputed: false }
    }

    /// Of a kernel of which only values are known, which take the place of features: see [`precomputed`](Self::precomputed) and
    /// [`kernel_values`](crate::kernel::kernel_values). The model's encoders are linear maps of these values.
    pub fn of_values(landmarks: Landmarks) -> Self {
        Self { precomputed: true, ..Self::new(Kernel::default(), landmarks) }
    }

    /// With cosines clamped to `+-(1 - clamp)`, where the kernel does not clamp them to less.
    pub(crate) fn with_clamp(mut self, clamp: f64) -> Self {
        self.kernel.cos_clamp = self.kernel.cos_clamp.max(clamp);
        self
    }

    /// Checks every value that does not depend on the data.
    pub(crate) fn validate(&self) -> Result<()> {
        self.kernel.validate()?;
        match &self.landmarks {
            Landmarks::Count(0) => Err(Error::invalid("landmarks", "at least 1", 0)),
            Landmarks::Rows(rows) if rows.is_empty() => Err(Error::invalid("landmarks", "at least 1 row", 0)),
            _ => Ok(()),
        }
    }
}

/// Options of a fit. [`FitOptions::new`] gives the defaults; every field is checked before any work.
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// Dimension of the shared space, 1 to min(d1, d2).
    pub dim: usize,
    /// The loss.
    pub loss: Loss,
    /// Spectral updates, at least 1 (0 refines given or random encoders as they are). Default [`AUTO`](Self::AUTO): 2, and 1
    /// where both sides are whitened.
    pub n_iters: usize,
    /// `C = X^T S Y / rho`, > 0. Default 1.
    pub rho: f64,
    /// Split of `C`. Default [`Factorization::Sqrt`].
    pub factorization: Factorization,
    /// Added to the leading diagonal of `F1^T F2` before its last SVD, >= 0. Default 0.
    pub ridge: f64,
    /// Build `C` from `x_i/|F1 x_i|` and `y_j/|F2 y_j|`. Default false. Has no effect on an update from zeros.
    pub scale_inputs: bool,
    /// The SVD. Default full.
    pub svd: SvdMethod,
    /// Start. Default zeros.
    pub init: Init,
    /// Stop when `|F1^T F2 - previous|_F` is below this, >= 0. Default 0: never.
    pub tol: f64,
    /// Mini-batches instead of the exact global batch. Default none.
    pub batches: Option<Batches>,
    /// Whiten both sides first, with this shrinkage lambda >= 0: `X (X^T X/n + lambda tr/d I)^{-1/2}`. The map is folded
    /// into the encoders. Default none.
    pub whiten: Option<f64>,
    /// Whether means are taken out of the features. Default [`Center::Auto`].
    pub center: Center,
    /// Kernel encoders. Default none: linear.
    pub kernel: Option<KernelOptions>,
    /// Which negatives the sums see. Default all.
    pub negatives: NegativeSampling,
    /// Sampled negatives of an update as a multiple of those of the update before, >= 1. Default 1.
    pub growth: f64,
    /// The last update sees all negatives whatever is sampled before. Default false.
    pub exact_last: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// Damped updates: one plain update, then at most `n_iters` with a line search on the loss. Default none.
    pub damping: Option<DampingOptions>,
    /// Refine the result by L-BFGS on the loss. Default none.
    pub refine: Option<RefineOptions>,
    /// Save the refinement's state here after every step, and continue from it where it exists. Default none.
    pub checkpoint: Option<PathBuf>,
    /// Wall time after which damping and refinement begin no further step. Default none.
    pub budget: Option<Duration>,
    /// Evaluate the loss of the returned encoders (one more pass 1). Default true.
    pub final_loss: bool,
    /// Compress the model to this many columns: [`Model::compressed`](crate::model::Model::compressed) by the training rows, 1 to the
    /// width of its embeddings. Default none.
    pub compress: Option<usize>,
}

impl FitOptions {
    /// Defaults for a dimension, the preset `global`: clip at tau 0.07, exact global updates from zeros.
    pub fn new(dim: usize) -> Self {
        Self {
            dim,
            loss: Loss::default(),
            n_iters: Self::AUTO,
            rho: 1.0,
            factorization: Factorization::Sqrt,
            ridge: 0.0,
            scale_inputs: false,
            svd: SvdMethod::Full,
            init: Init::Zeros,
            tol: 0.0,
            batches: None,
            whiten: None,
            center: Center::Auto,
            kernel: None,
            negatives: NegativeSampling::All,
            growth: 1.0,
            exact_last: false,
            seed: 0,
            damping: None,
            refine: None,
            checkpoint: None,
            budget: None,
            final_loss: true,
            compress: None,
        }
    }

    /// Checks every value that does not depend on the data.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming the first bad one; [`Error::Unsupported`] for a combination that has no meaning.
    pub fn validate(&self) -> Result<()> {
        self.loss.validate()?;
        if self.dim == 0 {
            return Err(Error::invalid("rank", "at least 1", self.dim));
        }
        let given = self.init.encoders().is_some() || matches!(self.init, Init::Random);
        if self.n_iters == 0 && !(given && self.refine.is_some()) {
            return Err(Error::invalid("n_iters", "at least 1", self.n_iters));
        }
        if !(self.rho.is_finite() && self.rho > 0.0) {
            return Err(Error::invalid("rho", "a finite number > 0", self.rho));
        }
        let power = self.factorization.power();
        if !(power.is_finite() && power >= 0.0) {
            return Err(Error::invalid("factorization", "a power >= 0", power));
        }
        let whiten = self.whiten.unwrap_or(0.0);
        let kernel_ridge = self.kernel.as_ref().map_or(0.0, |k| k.ridge);
        for (name, value) in
            [("ridge", self.ridge), ("tol", self.tol), ("whiten", whiten), ("kernel ridge", kernel_ridge)]
        {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::invalid(name, "a finite number >= 0", value));
            }
        }
        if !(self.growth.is_finite() && self.growth >= 1.0) {
            return Err(Error::invalid("growth", "a finite number >= 1", self.growth));
        }
        if self.compress == Some(0) {
            return Err(Error::invalid("compress", "at least 1 column", 0));
        }
        if let NegativeSampling::Sampled { per_anchor: 0, .. } = self.negatives {
            return Err(Error::invalid("negatives", "at least 1 per anchor", 0));
        }
        if let Some(batches) = self.batches {
            if batches.size < 2 {
                return Err(Error::invalid("batch_size", "at least 2", batches.size));
            }
            if batches.count == Some(0) {
                return Err(Error::invalid("n_batches", "at least 1", 0));
            }
            if matches!(self.init, Init::Similarity(_)) {
                return Err(Error::Unsupported("a given similarity matrix with mini-batches".into()));
            }
        }
        if let Some(damping) = &self.damping {
            damping.validate()?;
        }
        if let Some(refine) = &self.refine {
            refine.validate()?;
        }
        if self.batches.is_some() && (self.damping.is_some() || self.refine.is_some()) {
            return Err(Error::Unsupported("damping or refinement with mini-batches".into()));
        }
        if self.damping.is_some() && self.ridge > 0.0 {
            return Err(Error::Unsupported("damping with a ridge on F1^T F2".into()));
        }
        if let Some(k) = &self.kernel {
            k.validate()?;
            if k.precomputed && self.batches.is_some() {
                return Err(Error::Unsupported("mini-batches of precomputed Gram matrices".into()));
            }
            if k.precomputed && self.center == Center::On {
                return Err(Error::Unsupported("taking means out of precomputed kernel values".into()));
            }
            if self.batches.is_some() && k.landmarks != Landmarks::Exact {
                let what = "mini-batches with Nystrom landmarks: use the exact kernel per batch";
                return Err(Error::Unsupported(what.into()));
            }
            if k.landmarks == Landmarks::Exact && self.whiten.is_some() {
                return Err(Error::Unsupported("whitening the exact kernel solver's features".into()));
            }
        }
        Ok(())
    }

    /// The negatives of an update, counted from 1.
    pub(crate) fn negatives_of(&self, update: usize) -> NegativeSampling {
        match self.negatives {
            NegativeSampling::Sampled { .. } if self.exact_last && update >= self.updates() => {
                NegativeSampling::All
            }
            NegativeSampling::Sampled { per_anchor, seed } => {
                let grown = per_anchor as f64 * self.growth.powi(update.min(1024) as i32 - 1);
                NegativeSampling::Sampled { per_anchor: grown.min(u32::MAX.into()) as usize, seed }
            }
            NegativeSampling::All => NegativeSampling::All,
        }
    }
}
