//! A fitted pair of encoders: applying it, and (in [`file`]) saving and loading it.

mod file;

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::fit::FitOptions;
use crate::io::RowSource;
use crate::kernel::Kernel;
use crate::loss::Loss;
use faer::Mat;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Which modality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The first (rows of the similarity matrix).
    X,
    /// The second (its columns).
    Y,
}

/// `k(x) = (k(x, z_1), ..., k(x, z_m))`.
#[derive(Clone, Debug)]
pub struct KernelMap {
    /// The kernel.
    pub kernel: Kernel,
    /// `Z`, `m x d`.
    pub landmarks: Mat<f64>,
}

/// One encoder: `f(x) = F x`, or `f(x) = F k(x)`.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Kernel features first, if any.
    pub map: Option<KernelMap>,
    /// `F`, `r x d` (or `r x m`).
    pub matrix: Mat<f64>,
}

impl Encoder {
    /// Width of the raw features.
    pub fn input_dim(&self) -> usize {
        self.map.as_ref().map_or(self.matrix.ncols(), |m| m.landmarks.ncols())
    }

    /// Unit-norm embeddings of raw features.
    pub(crate) fn encode<B: Backend>(&self, backend: &B, x: &B::Matrix) -> Result<B::Matrix> {
        match &self.map {
            Some(map) => {
                let k = backend.kernel(&map.kernel, x, map.landmarks.as_ref())?;
                Ok(backend.encode(&k, self.matrix.as_ref())?.0)
            }
            None => Ok(backend.encode(x, self.matrix.as_ref())?.0),
        }
    }
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
    /// The loss it was fitted with.
    pub loss: Loss,
    /// Everything else worth knowing about its making, by name.
    pub notes: HashMap<String, String>,
}

impl Model {
    /// A model of fitted components.
    pub fn new(components: Vec<Component>, options: &FitOptions) -> Self {
        let mut notes = HashMap::new();
        let mut note = |name: &str, value: String| notes.insert(name.to_string(), value);
        note("rank", options.rank.to_string());
        note("n_iters", options.n_iters.to_string());
        note("factorization_power", options.factorization.power().to_string());
        note("rho", options.rho.to_string());
        note("ridge", options.ridge.to_string());
        note("scale_inputs", options.scale_inputs.to_string());
        note("seed", options.seed.to_string());
        if let Some(lambda) = options.whiten {
            note("whiten", lambda.to_string());
        }
        Self { components, loss: options.loss, notes }
    }

    /// Width of the raw features of a side.
    pub fn input_dim(&self, side: Side) -> usize {
        self.components.first().map_or(0, |c| encoder(c, side).input_dim())
    }

    /// Dimension of the shared space of each component.
    pub fn rank(&self) -> usize {
        self.components.first().map_or(0, |c| c.x.matrix.nrows())
    }

    /// Width of the embeddings: the components' side by side.
    pub fn embedding_dim(&self) -> usize {
        self.components.iter().map(|c| c.x.matrix.nrows()).sum()
    }

    /// Unit-norm embeddings of raw features: `n x r`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the width is not the model's; those of the source and the backend.
    pub fn encode<B: Backend>(&self, backend: &B, side: Side, x: &dyn RowSource) -> Result<B::Matrix> {
        let expected = self.input_dim(side);
        if x.cols() != expected {
            return Err(Error::invalid(x.name(), format!("{expected} columns, as the model's"), x.cols()));
        }
        self.encode_loaded(backend, side, &backend.load(x)?)
    }

    /// As [`encode`](Self::encode), of features already in the backend.
    pub(crate) fn encode_loaded<B: Backend>(
        &self,
        backend: &B,
        side: Side,
        x: &B::Matrix,
    ) -> Result<B::Matrix> {
        if let [only] = &self.components[..] {
            return encoder(only, side).encode(backend, x);
        }
        let parts: Vec<(f64, B::Matrix)> = self
            .components
            .iter()
            .map(|c| Ok((c.weight.sqrt(), encoder(c, side).encode(backend, x)?)))
            .collect::<Result<_>>()?;
        let blocks: Vec<(f64, &B::Matrix)> = parts.iter().map(|(w, z)| (*w, z)).collect();
        backend.hstack(&blocks)
    }
}

fn encoder(c: &Component, side: Side) -> &Encoder {
    match side {
        Side::X => &c.x,
        Side::Y => &c.y,
    }
}
