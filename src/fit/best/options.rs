//! Options of the preset `best`.

use crate::error::{Error, Result};
use crate::fit::Data;
use crate::fit::condition::Center;
use crate::fit::options::{KernelOptions, Landmarks, MinibatchOptions, RefineOptions};
use crate::loss::{EpsBy, Loss, LossKind};
use crate::model::Model;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use std::path::PathBuf;
use std::time::Duration;

/// The dimension of the shared space.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Dim {
    /// This one.
    Fixed(usize),
    /// The smallest whose squared singular values of the whitened cross-covariance make up this share of all.
    Energy(f64),
    /// The smallest power of two that scores within 0.005 of the best on the validation rows.
    Auto,
}

impl Dim {
    /// The share of [`Dim::Energy`] where a caller asks for that choice alone.
    pub const ENERGY: f64 = 0.95;
}

/// Widths of kernels worth trying.
pub const WIDTHS: [f64; 4] = [0.5, 1.0, 2.0, 4.0];

/// Options of [`fit_best`](super::fit_best). The defaults need no tuning.
#[derive(Clone, Debug)]
pub struct BestOptions {
    /// The dimension of the shared space.
    pub dim: Dim,
    /// The loss; its temperature is replaced where `tau_auto` is set.
    pub loss: Loss,
    /// Choose the temperature on validation rows.
    pub tau_auto: bool,
    /// Candidate shrinkages of the whitening.
    pub whiten: Vec<f64>,
    /// Candidate powers of the singular values in each encoder.
    pub powers: Vec<f64>,
    /// Whether means are taken out of the features; [`Center::Auto`], the default, chooses on validation rows.
    pub center: Center,
    /// L-BFGS; its stages are replaced by those of `sample` and `exact`. `max_steps` 0: the spectral step alone, without
    /// mini-batches.
    pub refine: RefineOptions,
    /// Nystrom encoders. Default none: linear.
    pub kernel: Option<KernelOptions>,
    /// Candidate widths of the kernels rbf (`gamma = 1/width^2`) and matern (its lengthscale), in median distances
    /// between a side's rows; see [`WIDTHS`]. Default empty: the kernel's own parameter.
    pub widths: Vec<f64>,
    /// Descent on mini-batches, where data has at least four batches of rows. Default some; none leaves it out.
    pub minibatch: Option<MinibatchOptions>,
    /// L-BFGS on this many sampled negatives per row, then on four times as many. Default none.
    pub sample: Option<usize>,
    /// End in L-BFGS on all negatives. Small data, where nothing is sampled, always does. Default false.
    pub exact: bool,
    /// Start the refinement from this model (linear, of the same dimension) where it scores better than the spectral step.
    pub start: Option<Model>,
    /// Save the refinement's state here after every step, and continue from it where it exists.
    pub checkpoint: Option<PathBuf>,
    /// Wall time after which no step is begun.
    pub budget: Option<Duration>,
    /// Seed of everything random.
    pub seed: u64,
    /// Evaluate the exact loss of the returned encoders. Default false.
    pub final_loss: bool,
}

impl BestOptions {
    /// Defaults for a dimension: clip at tau 0.07.
    pub fn new(dim: Dim) -> Self {
        Self {
            dim,
            loss: Loss::default(),
            tau_auto: false,
            whiten: vec![10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001],
            powers: vec![0.0, 0.5, 1.0, 2.0],
            center: Center::Auto,
            refine: RefineOptions::default(),
            kernel: None,
            widths: Vec::new(),
            minibatch: Some(MinibatchOptions::default()),
            sample: None,
            exact: false,
            start: None,
            checkpoint: None,
            budget: None,
            seed: 0,
            final_loss: false,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        self.loss.validate()?;
        if self.tau_auto && self.loss.kind == LossKind::Custom {
            let expected = "a temperature that is given, with psi and phi of one's own";
            return Err(Error::invalid("tau", expected, "auto"));
        }
        self.refine.validate()?;
        if let Some(minibatch) = &self.minibatch {
            minibatch.validate()?;
        }
        if self.dim == Dim::Fixed(0) {
            return Err(Error::invalid("rank", "at least 1", 0));
        }
        if let Dim::Energy(share) = self.dim
            && !(share > 0.0 && share <= 1.0)
        {
            return Err(Error::invalid("rank energy", "a share in (0, 1]", share));
        }
        for (name, list) in [("whiten", &self.whiten), ("powers", &self.powers)] {
            if list.is_empty() {
                return Err(Error::invalid(name, "at least one candidate", "none"));
            }
            if let Some(bad) = list.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
                return Err(Error::invalid(name, "finite numbers >= 0", bad));
            }
        }
        if let Some(bad) = self.widths.iter().find(|w| !(w.is_finite() && **w > 0.0)) {
            return Err(Error::invalid("widths", "finite numbers > 0", bad));
        }
        if self.sample == Some(0) {
            return Err(Error::invalid("negatives", "at least 1 per row", 0));
        }
        if let Some(kernel) = &self.kernel {
            kernel.validate()?;
            if kernel.precomputed {
                let what = "the preset `best` on precomputed Gram matrices: it holds rows back";
                return Err(Error::Unsupported(what.into()));
            }
        }
        if self.kernel.as_ref().is_some_and(|k| k.landmarks == Landmarks::Exact) {
            return Err(Error::Unsupported("the preset `best` on the exact kernel: use landmarks".into()));
        }
        Ok(())
    }

    /// The same on the rows that are not held out: at most as many landmarks as there are of them.
    pub(super) fn on_rows(&self, data: Data<'_>, left: usize) -> Result<Self> {
        let mut options = self.clone();
        match options.kernel.as_mut().map(|k| &mut k.landmarks) {
            Some(Landmarks::Count(m)) => {
                let n = data.x.rows().min(data.y.rows());
                if *m > n {
                    return Err(Error::invalid("landmarks", format!("at most the number of rows, {n}"), m));
                }
                *m = left.min(*m);
            }
            Some(Landmarks::Rows(_)) => {
                let what = "landmarks by row while rows are held back: give validation rows";
                return Err(Error::Unsupported(what.into()));
            }
            _ => {}
        }
        Ok(options)
    }

    /// Stages of L-BFGS: a sample, another of four times its size, and all on request, or where there is nothing else.
    pub(super) fn stages(&self, minibatch: bool) -> Vec<NegativeSampling> {
        let mut stages = Vec::new();
        if let Some(m) = self.sample {
            stages.push(NegativeSampling::Sampled { per_anchor: m, seed: self.seed });
            let per_anchor = m.saturating_mul(4);
            stages.push(NegativeSampling::Sampled { per_anchor, seed: self.seed.wrapping_add(1) });
        }
        if self.exact || (stages.is_empty() && !minibatch) {
            stages.push(NegativeSampling::All);
        }
        stages
    }

    /// The options of the descent on mini-batches, where there is one.
    pub(super) fn descent(&self, positives: &Positives) -> Option<MinibatchOptions> {
        // "On the diagonal" means nothing within a batch of many-to-many pairs.
        let apart = self.loss.eps_by == EpsBy::Diagonal && !positives.is_diagonal();
        self.minibatch.filter(|m| self.refine.max_steps > 0 && m.suits(positives) && !apart)
    }
}
