//! Options of what descends on the loss: damped updates, mini-batches, L-BFGS.

use crate::error::{Error, Result};
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use serde::{Deserialize, Serialize};

/// Options of the damped iteration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DampingOptions {
    /// First step tried, as `|eta C| / |F1^T F2|`. Later searches begin where the last one ended. Default 1.
    pub first: f64,
    /// Halvings of a step before the iteration counts as converged. Default 12.
    pub halvings: usize,
    /// Stop when a step lowers the loss by less than this share. Default 1e-4.
    pub tol: f64,
}

impl Default for DampingOptions {
    fn default() -> Self {
        Self { first: 1.0, halvings: 12, tol: 1e-4 }
    }
}

impl DampingOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        if !(self.first.is_finite() && self.first > 0.0) {
            return Err(Error::invalid("damping first", "a finite number > 0", self.first));
        }
        if !(self.tol.is_finite() && self.tol >= 0.0) {
            return Err(Error::invalid("damping tol", "a finite number >= 0", self.tol));
        }
        Ok(())
    }
}

/// Options of the refinement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefineOptions {
    /// L-BFGS steps at most. Default 30.
    pub max_steps: usize,
    /// A stage ends when a step lowers the loss by less than this share. Default 1e-4.
    pub tol: f64,
    /// Steps that L-BFGS remembers. Default 10.
    pub memory: usize,
    /// Steps without a better validation score (mean reciprocal rank) before a stage ends; needs validation rows.
    /// Default 3.
    pub patience: usize,
    /// Length of the very first step as a share of the encoders' norm. Default 0.07.
    pub first_step: f64,
    /// Negatives of each stage in turn: a fixed sample within a stage. Default: one stage with all.
    pub stages: Vec<NegativeSampling>,
}

impl Default for RefineOptions {
    fn default() -> Self {
        let stages = vec![NegativeSampling::All];
        Self { max_steps: 30, tol: 1e-4, memory: 10, patience: 3, first_step: 0.07, stages }
    }
}

impl RefineOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        for (name, value) in [("refine tol", self.tol), ("refine first_step", self.first_step)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::invalid(name, "a finite number >= 0", value));
            }
        }
        if self.stages.is_empty() {
            return Err(Error::invalid("refine stages", "at least one", 0));
        }
        for stage in &self.stages {
            if let NegativeSampling::Sampled { per_anchor: 0, .. } = stage {
                return Err(Error::invalid("refine stages", "at least 1 negative per anchor", 0));
            }
        }
        Ok(())
    }
}

/// Options of the descent on mini-batches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MinibatchOptions {
    /// Matching pairs per batch, at least 2. Default 1024.
    pub batch: usize,
    /// Passes over the data. Default 4.
    pub epochs: usize,
    /// Steps at least, where an epoch is few. Default 100.
    pub min_steps: usize,
    /// Steps at most, whatever the epochs. Default no limit.
    pub max_steps: usize,
    /// Length of the first step as a share of the encoders' norm; falls to 0 along a half cosine. Default 0.1.
    pub rate: f64,
    /// Share of the past in the averaged gradient, in [0, 1). Default 0.5.
    pub momentum: f64,
    /// Validations (two an epoch) without a better score before it ends. After half of them, unless the loss on
    /// the validation rows still falls, it goes on from the best iterate with steps a quarter as long, and ends after half
    /// as many without one. Default 4.
    pub patience: usize,
}

impl Default for MinibatchOptions {
    fn default() -> Self {
        Self {
            batch: 1024,
            epochs: 4,
            min_steps: 100,
            max_steps: usize::MAX,
            rate: 0.1,
            momentum: 0.5,
            patience: 4,
        }
    }
}

impl MinibatchOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        if self.batch < 2 {
            return Err(Error::invalid("minibatch batch", "at least 2", self.batch));
        }
        if self.epochs == 0 {
            return Err(Error::invalid("minibatch epochs", "at least 1", self.epochs));
        }
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return Err(Error::invalid("minibatch rate", "a finite number > 0", self.rate));
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return Err(Error::invalid("minibatch momentum", "a number in [0, 1)", self.momentum));
        }
        Ok(())
    }

    /// Whether data is large enough: smaller data is done sooner, and better, on all pairs at once.
    pub(crate) fn suits(&self, positives: &Positives) -> bool {
        positives.n_x().max(positives.n_y()) >= 4 * self.batch
    }
}
