//! A fitted pair of encoders: applying it (in `apply`), embeddings of fewer columns (in `compress`), and saving and loading it (in
//! [`file`]).

mod apply;
mod compress;
mod file;

pub use compress::{Compressed, Compression};

use crate::fit::FitOptions;
use crate::kernel::Kernel;
use crate::loss::Loss;
use apply::encoder;
use faer::Mat;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Which modality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The first (rows of the similarity matrix).
    X,
    /// The second (its columns).
    Y,
}

/// `k(x) = (k(x, z_1), ..., k(x, z_m))`, of features from which the encoder's offset has been taken out, as it has been
/// out of the landmarks.
#[derive(Clone, Debug)]
pub struct KernelMap {
    /// The kernel.
    pub kernel: Kernel,
    /// `Z`, `m x d`.
    pub landmarks: Mat<f64>,
}

/// One encoder: `f(x) = F (x - m)`, or `f(x) = F k(x - m)`. Embeddings are `f(x)` divided by its length, so `F` counts up
/// to a positive factor.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// `m`, taken out of raw features first (`d` values); none: 0.
    pub offset: Option<Arc<[f64]>>,
    /// Kernel features then, if any.
    pub map: Option<KernelMap>,
    /// `F`, `r x d` (or `r x m`).
    pub matrix: Mat<f64>,
}

/// A pair of encoders and its share of the fused similarity.
#[derive(Clone, Debug)]
pub struct Component {
    /// Share, in (0, 1]; all components' sum to 1.
    pub weight: f64,
    /// Encoder of x.
    pub x: Encoder,
    /// Encoder of y.
    pub y: Encoder,
}

/// A fitted model. Usually one component; the batched kernel solver fuses one per mini-batch, whose similarities
/// `sum_b w_b cos_b` are the products of concatenated embeddings `sqrt(w_b) z_b`.
#[derive(Clone, Debug)]
pub struct Model {
    /// The components.
    pub components: Vec<Component>,
    /// Maps to fewer columns, if any.
    pub compression: Option<Compression>,
    /// The loss it was fitted with; of psi and phi of one's own the name alone.
    pub loss: Loss,
    /// Everything else worth knowing about its making, by name.
    pub notes: HashMap<String, String>,
}

impl Model {
    /// A model of fitted components.
    pub fn new(components: Vec<Component>, options: &FitOptions) -> Self {
        let mut notes = HashMap::new();
        let mut note = |name: &str, value: String| notes.insert(name.to_string(), value);
        note("rank", options.dim.to_string());
        note("n_iters", options.updates().to_string());
        note("factorization_power", options.factorization.power().to_string());
        note("rho", options.rho.to_string());
        note("ridge", options.ridge.to_string());
        note("scale_inputs", options.scale_inputs.to_string());
        note("seed", options.seed.to_string());
        if let Some(lambda) = options.whiten {
            note("whiten", lambda.to_string());
        }
        if options.kernel.as_ref().is_some_and(|k| k.precomputed) {
            note("encodes", "kernel values with the rows of the fit".into());
        }
        Self { components, compression: None, loss: options.loss.recorded(), notes }
    }

    /// Width of the raw features of a side.
    pub fn input_dim(&self, side: Side) -> usize {
        self.components.first().map_or(0, |c| encoder(c, side).input_dim())
    }

    /// Dimension of the shared space of each component.
    pub fn dim(&self) -> usize {
        self.components.first().map_or(0, |c| c.x.matrix.nrows())
    }

    /// Width of the embeddings: the components' side by side, or fewer where the model is compressed.
    pub fn embedding_dim(&self) -> usize {
        self.compression.as_ref().map_or_else(|| self.fused_dim(), |a| a.x.nrows())
    }

    /// Width of the components' embeddings side by side.
    pub(crate) fn fused_dim(&self) -> usize {
        self.components.iter().map(|c| c.x.matrix.nrows()).sum()
    }
}
