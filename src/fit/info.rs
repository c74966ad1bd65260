//! What a fit did.

use serde::Serialize;

/// How a fit ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FitStatus {
    /// All iterations were done.
    #[default]
    Completed,
    /// The change of `F1^T F2` fell below `tol`.
    Converged,
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

/// The record of a fit.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FitInfo {
    /// How it ended.
    pub status: FitStatus,
    /// Spectral updates done (of the first batch, with a batched kernel fit).
    pub iterations: usize,
    /// The loss of the encoders each update started from; with mini-batches the batches' mean.
    pub loss: Vec<f64>,
    /// The loss of the returned encoders on the training data, where asked for.
    pub final_loss: Option<f64>,
    /// `|F1^T F2 - previous|_F` from the second update on.
    pub change: Vec<f64>,
    /// Singular values of the last `C` (or of the batches' average): all that were computed, descending.
    pub singular_values: Vec<f64>,
    /// Weights of the mini-batches, by iteration.
    pub batch_weights: Vec<Vec<f64>>,
    /// Rows of a trailing batch that were dropped on request.
    pub rows_dropped: usize,
    /// Zero rows of x and y: they embed to 0.
    pub zero_rows: (usize, usize),
    /// Rows and columns without a positive: they count in averages but add nothing.
    pub unmatched: (usize, usize),
    /// Seconds per phase.
    pub seconds: Seconds,
    /// The most bytes of n-sized data held in the backend.
    pub peak_bytes: u64,
}
