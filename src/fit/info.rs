//! What a fit did.

use super::condition::Prepared;
use super::holdout::Apart;
use crate::model::Compressed;
use serde::{Deserialize, Serialize};

/// How a fit ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FitStatus {
    /// All iterations were done.
    #[default]
    Completed,
    /// The change of `F1^T F2` fell below `tol`.
    Converged,
    /// The time budget was used up.
    OutOfTime,
}

/// One point of a fit's history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TracePoint {
    /// Since the call, wall time.
    pub seconds: f64,
    /// The loss over the negatives that it saw: an estimate where these are a sample, and on mini-batches the mean over the
    /// batches since the point before, each taken before its step.
    pub loss: f64,
    /// Negatives per row that the loss saw; none: all.
    pub negatives: Option<usize>,
    /// Evaluations of loss and gradient so far.
    pub evaluations: usize,
    /// Mean reciprocal rank on the validation rows, mean of both directions.
    pub score: Option<f64>,
    /// With sampled negatives, the relative error they leave in the gradient, estimated from two half samples: at every
    /// step of damping, at the first of each sample in refinement.
    #[serde(default)]
    pub sampling_error: Option<f64>,
}

/// What was chosen on validation rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Chosen {
    /// Shrinkage of the whitening.
    pub whiten: f64,
    /// Power of the singular values in each encoder.
    pub power: f64,
    /// Temperature.
    pub tau: f64,
    /// Width of rbf and matern kernels, in median distances; none where it was not to be chosen.
    pub width: Option<f64>,
    /// Dimension of the shared space.
    #[serde(rename = "rank")]
    pub dim: usize,
    /// Every candidate tried: `(whiten, power, validation score)`.
    pub candidates: Vec<(f64, f64, f64)>,
    /// Scores of the choice with raw and with centred features; none where that was not open.
    pub centring: Option<(f64, f64)>,
    /// Rows of x and y that were held out for validation.
    pub held_back: (usize, usize),
    /// What these rows share with no training row; none where validation rows were given.
    pub apart: Option<Apart>,
}

/// Seconds of each phase, wall time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Seconds {
    /// Reading and checking features.
    pub load: f64,
    /// Feature maps: kernel, whitening.
    pub features: f64,
    /// Encoding: `Z = X F^T`, normalised.
    pub encode: f64,
    /// Pass 1.
    pub statistics: f64,
    /// Pass 2.
    pub weights: f64,
    /// SVDs.
    pub spectral: f64,
    /// Validation scores.
    pub validation: f64,
    /// Everything, from call to return.
    pub total: f64,
}

impl Seconds {
    /// Adds another record's phases.
    pub(crate) fn add(&mut self, other: &Self) {
        self.load += other.load;
        self.features += other.features;
        self.encode += other.encode;
        self.statistics += other.statistics;
        self.weights += other.weights;
        self.spectral += other.spectral;
        self.validation += other.validation;
    }
}

/// The record of a fit.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FitInfo {
    /// How it ended.
    pub status: FitStatus,
    /// Spectral updates done (of the first batch, with a batched kernel fit).
    pub iterations: usize,
    /// The loss of the encoders each update started from; with mini-batches the batches' mean.
    pub loss: Vec<f64>,
    /// When each spectral update began: seconds since the start of the fit.
    pub loss_seconds: Vec<f64>,
    /// The loss of the returned encoders on the training data, where asked for.
    pub final_loss: Option<f64>,
    /// The loss after a further update that was not kept, because it was higher: where the number of updates was left to the fit.
    pub rejected: Option<f64>,
    /// `|F1^T F2 - previous|_F` from the second update on.
    pub change: Vec<f64>,
    /// Singular values of the last `C` (or of the batches' average): all that were computed, descending.
    pub singular_values: Vec<f64>,
    /// Weights of the mini-batches, by iteration.
    pub batch_weights: Vec<Vec<f64>>,
    /// What compressing the model lost, where that was asked for.
    pub compressed: Option<Compressed>,
    /// Rows of a trailing batch that were dropped on request.
    pub rows_dropped: usize,
    /// What was done to the features of x and of y before the solver saw them.
    pub prepared: (Prepared, Prepared),
    /// Zero rows of x and y: they embed to 0, unless means were taken out.
    pub zero_rows: (usize, usize),
    /// Distinct rows of x and of y; none where the rows were not compared (features in device memory).
    pub distinct: (Option<usize>, Option<usize>),
    /// Rows and columns without a positive: they count in averages but add nothing.
    pub unmatched: (usize, usize),
    /// Seconds per phase.
    pub seconds: Seconds,
    /// The history of refinement and damping, step by step.
    pub trace: Vec<TracePoint>,
    /// The point of the history, counted from 0, whose encoders are returned; none: those that it started from.
    pub returned: Option<usize>,
    /// Evaluations of loss and gradient.
    pub evaluations: usize,
    /// Of every update with sampled negatives: estimated `|C - C_exact|_F / |C_exact|_F` from two half samples.
    pub sampling_error: Vec<f64>,
    /// What the preset `best` chose.
    pub chosen: Option<Chosen>,
    /// The most bytes of n-sized data held in the backend: features and embeddings. What is as large as the square of a width
    /// and passes is not counted; the whole process, at its peak, is `resident_bytes`.
    pub peak_bytes: u64,
    /// The most memory that this process has had resident since it began, where the system says: everything.
    pub resident_bytes: Option<u64>,
}

/// What a model keeps of a point of the history.
#[derive(Serialize)]
struct Step {
    loss: f64,
    negatives: Option<usize>,
    evaluations: usize,
    score: Option<f64>,
    sampling_error: Option<f64>,
}

impl Step {
    fn of(point: &TracePoint) -> Self {
        let &TracePoint { seconds: _, loss, negatives, evaluations, score, sampling_error } = point;
        Self { loss, negatives, evaluations, score, sampling_error }
    }
}

impl FitInfo {
    /// Notes the history in a model, for `unicon report`: without times, so that equal fits are equal files.
    pub(crate) fn record(&self, model: &mut crate::model::Model) {
        let mut note = |name: &str, value: serde_json::Result<String>| {
            // Numbers that JSON cannot hold become null; nothing here fails.
            if let Ok(value) = value {
                model.notes.insert(name.into(), value);
            }
        };
        for (name, side) in [("centred_x", self.prepared.0), ("centred_y", self.prepared.1)] {
            if side.centred {
                note(name, serde_json::to_string(&side.mean_over_spread));
            }
        }
        let history: Vec<Step> = self.trace.iter().map(Step::of).collect();
        note("history", serde_json::to_string(&history));
        note("history_loss", serde_json::to_string(&self.loss));
        if let Some(loss) = self.final_loss {
            note("final_loss", serde_json::to_string(&loss));
        }
        note("singular_values", serde_json::to_string(&self.singular_values));
    }
}
