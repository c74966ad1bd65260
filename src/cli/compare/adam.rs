//! SGD-CLIP: the same loss on linear heads, by Adam, AdamW or SGD on mini-batches with cosine decay.
//!
//! The honest rival: it runs on the same kernels and threads as everything else here.

use faer::Mat;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::time::Instant;
use unicon::backend::Backend;
use unicon::error::{Error, Result};
use unicon::fit::{Data, Iterate, Watch};
use unicon::loss::Loss;
use unicon::model::{Component, Encoder, Model};
use unicon::similarity::NegativeSampling;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// What turns gradients into steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// Adam (Kingma and Ba 2015).
    #[default]
    Adam,
    /// Adam with decoupled decay of the weights (Loshchilov and Hutter 2019).
    AdamW {
        /// Share of the weights that is taken away at every step, times the learning rate.
        weight_decay: f64,
    },
    /// Gradient descent with heavy-ball momentum.
    Sgd {
        /// What is left of the last step.
        momentum: f64,
    },
}

impl Optimizer {
    /// As tables name it; Adam is what they mean where they say nothing.
    pub fn describe(self) -> String {
        match self {
            Self::Adam => String::new(),
            Self::AdamW { weight_decay } => format!("AdamW, decay {weight_decay}, "),
            Self::Sgd { momentum } => format!("SGD, momentum {momentum}, "),
        }
    }
}

/// Settings of [`sgd_clip`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SgdClipOptions {
    /// Learning rate of the first step; falls to 0 along a half cosine.
    pub learning_rate: f64,
    /// Matching pairs per mini-batch.
    pub batch: usize,
    /// Passes over all pairs.
    pub epochs: usize,
    /// How steps are made.
    pub optimizer: Optimizer,
}

impl SgdClipOptions {
    /// Adam.
    pub const fn adam(learning_rate: f64, batch: usize, epochs: usize) -> Self {
        Self { learning_rate, batch, epochs, optimizer: Optimizer::Adam }
    }

    /// As tables name it.
    pub fn describe(&self) -> String {
        let Self { learning_rate, batch, epochs, optimizer } = self;
        format!("{}lr {learning_rate}, batch {batch}, {epochs} epochs", optimizer.describe())
    }

    fn validate(&self) -> Result<()> {
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(Error::invalid("learning rate", "a finite number > 0", self.learning_rate));
        }
        if self.batch < 2 {
            return Err(Error::invalid("batch", "at least 2", self.batch));
        }
        if self.epochs == 0 {
            return Err(Error::invalid("epochs", "at least 1", self.epochs));
        }
        let (name, share, most) = match self.optimizer {
            Optimizer::Adam => return Ok(()),
            Optimizer::AdamW { weight_decay } => ("weight decay", weight_decay, f64::INFINITY),
            Optimizer::Sgd { momentum } => ("momentum", momentum, 1.0),
        };
        if !(share >= 0.0 && share < most) {
            let expected = if most < f64::INFINITY { "0 or more, below 1" } else { "0 or more" };
            return Err(Error::invalid(name, expected, share));
        }
        Ok(())
    }
}

/// One head and its moments.
struct Head {
    f: Mat<f64>,
    first: Mat<f64>,
    second: Mat<f64>,
}

impl Head {
    fn new(rank: usize, d: usize, rng: &mut rand_chacha::ChaCha8Rng) -> Self {
        let bound = 1.0 / (d as f64).sqrt();
        let f = Mat::from_fn(rank, d, |_, _| rng.random_range(-bound..bound));
        Self { f, first: Mat::zeros(rank, d), second: Mat::zeros(rank, d) }
    }

    /// Step `t` (from 1) along gradient `g`.
    fn step(&mut self, g: &Mat<f64>, rate: f64, t: i32, optimizer: Optimizer) {
        let (c1, c2) = (1.0 - BETA1.powi(t), 1.0 - BETA2.powi(t));
        let kept = match optimizer {
            Optimizer::AdamW { weight_decay } => 1.0 - rate * weight_decay,
            Optimizer::Adam | Optimizer::Sgd { .. } => 1.0,
        };
        for j in 0..g.ncols() {
            let moments = self.first.col_mut(j).iter_mut().zip(self.second.col_mut(j).iter_mut());
            for ((f, (m, v)), g) in self.f.col_mut(j).iter_mut().zip(moments).zip(g.col(j).iter()) {
                if let Optimizer::Sgd { momentum } = optimizer {
                    *m = momentum * *m + g;
                    *f -= rate * *m;
                    continue;
                }
                *m = BETA1 * *m + (1.0 - BETA1) * g;
                *v = BETA2 * *v + (1.0 - BETA2) * g * g;
                *f = kept * *f - rate * (*m / c1) / ((*v / c2).sqrt() + EPSILON);
            }
        }
    }
}

/// Trains linear heads on shuffled mini-batches of matching pairs; `watch` sees the heads after every epoch.
///
/// # Errors
/// [`Error::InvalidArgument`] for settings out of range; those of the backend.
pub fn sgd_clip<B: Backend>(
    backend: &B,
    data: Data<'_>,
    rank: usize,
    loss: &Loss,
    options: &SgdClipOptions,
    seed: u64,
    watch: Watch<'_>,
) -> Result<Model> {
    let begin = Instant::now();
    options.validate()?;
    loss.validate()?;
    data.positives.check_shape(data.x.rows(), data.y.rows())?;
    let (x, y) = (backend.load(data.x)?, backend.load(data.y)?);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (mut hx, mut hy) =
        (Head::new(rank, data.x.cols(), &mut rng), Head::new(rank, data.y.cols(), &mut rng));
    let mut pairs: Vec<(u32, u32)> = (0..data.positives.n_x())
        .flat_map(|i| data.positives.row(i).iter().map(move |&j| (i as u32, j)))
        .collect();
    let batch = options.batch.min(pairs.len());
    let per_epoch = (pairs.len() / batch.max(1)).max(1);
    let total = (per_epoch * options.epochs) as f64;
    let mut step = 0;
    for _ in 0..options.epochs {
        pairs.shuffle(&mut rng);
        let mut value = 0.0;
        for chunk in pairs.chunks_exact(batch.max(1)) {
            let rate =
                0.5 * options.learning_rate * (1.0 + (std::f64::consts::PI * f64::from(step) / total).cos());
            step += 1;
            let (ids_x, ids_y, positives) = data.positives.among(chunk)?;
            let (xb, yb) = (backend.select(&x, &ids_x)?, backend.select(&y, &ids_y)?);
            let (zx, nx) = backend.encode(&xb, hx.f.as_ref())?;
            let (zy, ny) = backend.encode(&yb, hy.f.as_ref())?;
            let (batch_loss, gx, gy) =
                backend.loss_gradients(&zx, &zy, loss, &positives, NegativeSampling::All)?;
            value += batch_loss;
            hx.step(&backend.encode_backward(&xb, &zx, &nx, &gx)?, rate, step, options.optimizer);
            hy.step(&backend.encode_backward(&yb, &zy, &ny, &gy)?, rate, step, options.optimizer);
        }
        let seconds = begin.elapsed().as_secs_f64();
        let (loss, offsets) = (value / per_epoch as f64, &Default::default());
        watch(Iterate { x: &hx.f, y: &hy.f, offsets, seconds, loss })?;
    }
    let component = Component { weight: 1.0, x: Encoder::linear(hx.f), y: Encoder::linear(hy.f) };
    Ok(Model::new(
        vec![component],
        &unicon::fit::FitOptions { loss: loss.clone(), ..unicon::fit::FitOptions::new(rank) },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_pytorch() {
        // Three steps of torch.optim in float64.
        let wanted = [
            (Optimizer::Adam, [0.3143620019388818, -0.8199039317247604]),
            (Optimizer::AdamW { weight_decay: 0.2 }, [0.29075356369877, -0.7659948678047515]),
            (Optimizer::Sgd { momentum: 0.9 }, [0.4559, -0.9562999999999999]),
        ];
        let row = |v: [f64; 2]| Mat::from_fn(1, 2, |_, j| v[j]);
        for (optimizer, wanted) in wanted {
            let mut head = Head { f: row([0.5, -1.0]), first: row([0.0; 2]), second: row([0.0; 2]) };
            for (t, g) in [[0.1, -0.2], [0.3, 0.05], [-0.4, 0.01]].into_iter().enumerate() {
                head.step(&row(g), 0.1, t as i32 + 1, optimizer);
            }
            assert!((&head.f - row(wanted)).norm_max() < 1e-14, "{optimizer:?}: {:?}", head.f);
        }
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let adam = SgdClipOptions::adam(0.1, 8, 1);
        assert!(adam.validate().is_ok());
        let refused = [
            (Optimizer::AdamW { weight_decay: -0.1 }, "weight decay"),
            (Optimizer::AdamW { weight_decay: f64::NAN }, "weight decay"),
            (Optimizer::Sgd { momentum: 1.0 }, "momentum"),
        ];
        for (optimizer, name) in refused {
            let error = SgdClipOptions { optimizer, ..adam }.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
