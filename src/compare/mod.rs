//! Every way to align the same data, timed in one run: raw features, PLS-SVD, regularised CCA, SGD-CLIP, the paper's
//! iteration, and the preset `best`.

mod adam;
pub mod plot;

pub use adam::{AdamOptions, sgd_clip};

use crate::backend::{Backend, Similarity, Ties};
use crate::error::Result;
use crate::fit::{
    BestOptions, Center, Data, Factorization, FitInfo, FitOptions, Rank, Wanted, fit, fit_best_watched,
    prepare,
};
use crate::io::{Conditioned, Conditioning, RowSource};
use crate::loss::Loss;
use crate::model::Component;
use crate::positives::Positives;
use crate::retrieval::recall_at_k;
use crate::weights::Negatives;
use faer::{Mat, MatRef};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

/// What to compare.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Dimension of the shared space.
    pub rank: usize,
    /// The loss of all methods that have one.
    pub loss: Loss,
    /// Settings of SGD-CLIP, each run from the start.
    pub adam: Vec<AdamOptions>,
    /// Shrinkages of regularised CCA.
    pub cca: Vec<f64>,
    /// Updates of the paper's iteration on the global batch; 0 leaves it out.
    pub paper_iters: usize,
    /// The preset `best`.
    pub best: BestOptions,
    /// The k of the recalls.
    pub ks: Vec<usize>,
    /// Negatives per row of the loss that all points are compared by: a sample of its own, the same for all.
    pub loss_sample: usize,
    /// Also the exact loss of every curve's last point.
    pub exact_loss: bool,
    /// Who stands first among equal scores.
    pub ties: Ties,
    /// Seed of everything random.
    pub seed: u64,
}

impl CompareOptions {
    /// Defaults for a rank: clip at tau 0.07, a grid of 36 Adam runs.
    pub fn new(rank: usize) -> Self {
        let mut adam = Vec::new();
        for epochs in [1, 3, 10, 20] {
            for batch in [512, 1024, 2048] {
                for learning_rate in [5e-3, 1e-2, 2e-2] {
                    adam.push(AdamOptions { learning_rate, batch, epochs });
                }
            }
        }
        Self {
            rank,
            loss: Loss::default(),
            adam,
            cca: vec![0.1, 0.01],
            paper_iters: 2,
            best: BestOptions::new(Rank::Fixed(rank)),
            ks: vec![1, 5, 10],
            loss_sample: 1024,
            exact_loss: true,
            ties: Ties::LowerIndex,
            seed: 0,
        }
    }
}

/// One pair of encoders on the way.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Wall time from the first byte read, without evaluation.
    pub seconds: f64,
    /// Recall@k of the test rows, x to y.
    pub x_to_y: Vec<f64>,
    /// Recall@k of the test rows, y to x.
    pub y_to_x: Vec<f64>,
    /// The loss on the training rows, over the common sample of negatives.
    pub loss: f64,
}

impl Point {
    /// Mean Recall@(first k) of both directions.
    pub fn recall(&self) -> f64 {
        0.5 * (self.x_to_y.first().unwrap_or(&0.0) + self.y_to_x.first().unwrap_or(&0.0))
    }
}

/// One method with one setting.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// The method.
    pub method: String,
    /// Its setting.
    pub setting: String,
    /// What it reached, in order of time.
    pub points: Vec<Point>,
    /// The exact loss of the last point.
    pub exact_loss: Option<f64>,
}

/// The outcome of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What it ran on.
    pub device: String,
    /// The k of the recalls.
    pub ks: Vec<usize>,
    /// Who stands first among equal scores.
    pub ties: Ties,
    /// Every method and setting.
    pub curves: Vec<Curve>,
    /// `best` against SGD-CLIP.
    pub verdict: Option<Verdict>,
}

/// How `best` stands to the best setting of SGD-CLIP at each time.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Points in time (of either) from the first spectral step on.
    pub times: usize,
    /// Those at which `best` has at least SGD-CLIP's mean recall.
    pub ahead: usize,
    /// `(seconds, best, SGD-CLIP)` where it has not.
    pub behind: Vec<(f64, f64, f64)>,
    /// Highest mean recall of `best` and when it is reached.
    pub best: (f64, f64),
    /// The same of SGD-CLIP.
    pub adam: (f64, f64),
    /// When `best` first has SGD-CLIP's highest mean recall.
    pub reached: Option<f64>,
    /// The loss that `best` ends with.
    pub best_loss: f64,
    /// The lowest loss that any setting of SGD-CLIP ends with.
    pub adam_loss: f64,
}

/// Snapshots of a run: encoders and when, of features from which the same offsets were taken out.
#[derive(Default)]
struct Track {
    points: Vec<(f64, Mat<f64>, Mat<f64>)>,
    offsets: Offsets,
}

/// Of x and of y.
type Offsets = (Option<Arc<[f64]>>, Option<Arc<[f64]>>);

impl Track {
    /// The end of a run.
    fn end(&mut self, seconds: f64, c: &Component) {
        self.points.push((seconds, c.x.matrix.clone(), c.y.matrix.clone()));
        self.offsets = (c.x.offset.clone(), c.y.offset.clone());
    }
}

/// Runs every method on `data` and judges it on `test`; `validation` rows are for `best` alone.
///
/// # Errors
/// Those of the fits.
pub fn compare<B: Backend>(
    backend: &B,
    data: Data<'_>,
    validation: Option<Data<'_>>,
    test: Data<'_>,
    options: &CompareOptions,
    note: &mut dyn FnMut(&str),
) -> Result<Comparison> {
    // All methods see the same features, in range.
    let wanted = Wanted { center: Center::Off, kernel: None, start: None };
    let seen = (&backend.survey(data.x)?, &backend.survey(data.y)?);
    let sides = prepare(backend, data, seen, &wanted, &mut FitInfo::default())?;
    let (data, test, validation) = (sides.of(data), sides.of(test), validation.map(|v| sides.of(v)));
    let (data, test, validation) = (data.data(), test.data(), validation.as_ref().map(|v| v.data()));
    let mut judge = Judge::new(backend, data, test, options)?;
    let mut curves = Vec::new();
    let plain = FitOptions {
        loss: options.loss,
        n_iters: 1,
        factorization: Factorization::Orthonormal,
        final_loss: false,
        seed: options.seed,
        ..FitOptions::new(options.rank)
    };
    let linear = |o: &FitOptions| -> Result<Track> {
        let (model, info) = fit(backend, data, None, o)?;
        let mut track = Track::default();
        track.end(info.seconds.total, &model.components[0]);
        Ok(track)
    };
    if data.x.cols() == data.y.cols() {
        note("raw features");
        let begin = Instant::now();
        let identity = Mat::<f64>::identity(data.x.cols(), data.x.cols());
        let points = vec![(begin.elapsed().as_secs_f64(), identity.clone(), identity)];
        let track = Track { points, ..Track::default() };
        curves.push(judge.curve("raw features", "cosine", track)?);
    }
    note("PLS-SVD");
    curves.push(judge.curve("PLS-SVD", "centred cross-covariance", linear(&plain)?)?);
    for &lambda in &options.cca {
        note(&format!("regularised CCA, lambda {lambda}"));
        let track = linear(&FitOptions { whiten: Some(lambda), ..plain.clone() })?;
        curves.push(judge.curve("regularised CCA", &format!("lambda {lambda}"), track)?);
    }
    let mut paper = Track::default();
    for n_iters in 1..=options.paper_iters {
        note(&format!("the paper's iteration, {n_iters} updates"));
        let o = FitOptions { n_iters, factorization: Factorization::Sqrt, ..plain.clone() };
        let track = linear(&o)?;
        paper.points.extend(track.points);
        paper.offsets = track.offsets;
    }
    if !paper.points.is_empty() {
        curves.push(judge.curve("paper", "global batch", paper)?);
    }
    for adam in &options.adam {
        let setting = format!("lr {}, batch {}, {} epochs", adam.learning_rate, adam.batch, adam.epochs);
        note(&format!("SGD-CLIP, {setting}"));
        let mut track = Track::default();
        sgd_clip(backend, data, options.rank, &options.loss, adam, options.seed, &mut |i| {
            track.points.push((i.seconds, i.x.clone(), i.y.clone()));
            Ok(())
        })?;
        curves.push(judge.curve("SGD-CLIP", &setting, track)?);
    }
    note("best");
    let mut track = Track::default();
    let best = BestOptions { rank: Rank::Fixed(options.rank), loss: options.loss, ..options.best.clone() };
    let (model, info) = fit_best_watched(backend, data, validation, &best, &mut |i| {
        track.points.push((i.seconds, i.x.clone(), i.y.clone()));
        Ok(())
    })?;
    // What is returned is the iterate of the best validation score, which need not be the last.
    track.end(info.seconds.total, &model.components[0]);
    curves.push(judge.curve("best", "defaults", track)?);
    let verdict = verdict(&curves);
    Ok(Comparison { device: backend.describe(), ks: options.ks.clone(), ties: options.ties, curves, verdict })
}

/// Judges encoders of raw features on the test rows, and their loss on the training rows.
struct Judge<'a, B: Backend> {
    backend: &'a B,
    data: (Data<'a>, Data<'a>),
    train: Rows<'a, B>,
    test: Rows<'a, B>,
    offsets: Offsets,
    options: &'a CompareOptions,
}

/// Both sides' features in the backend, and which match.
type Rows<'a, B> = (<B as Backend>::Matrix, <B as Backend>::Matrix, &'a Positives);

/// Features without offsets.
fn load<'a, B: Backend>(backend: &B, data: Data<'a>, offsets: &Offsets) -> Result<Rows<'a, B>> {
    let side = |source: &dyn RowSource, offset: &Option<Arc<[f64]>>| {
        let how = Conditioning { offset: offset.clone(), ..Conditioning::default() };
        backend.load(&Conditioned::new(source, how))
    };
    Ok((side(data.x, &offsets.0)?, side(data.y, &offsets.1)?, data.positives))
}

impl<'a, B: Backend> Judge<'a, B> {
    fn new(backend: &'a B, data: Data<'a>, test: Data<'a>, options: &'a CompareOptions) -> Result<Self> {
        let offsets = Offsets::default();
        let (train, held) = (load(backend, data, &offsets)?, load(backend, test, &offsets)?);
        Ok(Self { backend, data: (data, test), train, test: held, offsets, options })
    }

    fn encode(
        &self,
        (x, y, _): &Rows<'_, B>,
        f1: MatRef<'_, f64>,
        f2: MatRef<'_, f64>,
    ) -> Result<(B::Matrix, B::Matrix)> {
        Ok((self.backend.encode(x, f1)?.0, self.backend.encode(y, f2)?.0))
    }

    fn loss(&self, f1: &Mat<f64>, f2: &Mat<f64>, negatives: Negatives) -> Result<f64> {
        let (zx, zy) = self.encode(&self.train, f1.as_ref(), f2.as_ref())?;
        let s = Similarity::Embeddings(&zx, &zy);
        Ok(self.backend.weights(s, &self.options.loss, self.train.2, negatives)?.value())
    }

    fn curve(&mut self, method: &str, setting: &str, track: Track) -> Result<Curve> {
        let o = self.options;
        if self.offsets != track.offsets {
            self.train = load(self.backend, self.data.0, &track.offsets)?;
            self.test = load(self.backend, self.data.1, &track.offsets)?;
            self.offsets.clone_from(&track.offsets);
        }
        // A seed that no method samples with.
        let seed = !o.seed;
        let negatives = Negatives::Sampled { per_anchor: o.loss_sample, seed };
        let mut points = Vec::with_capacity(track.points.len());
        for (seconds, f1, f2) in &track.points {
            let (zx, zy) = self.encode(&self.test, f1.as_ref(), f2.as_ref())?;
            let recall = recall_at_k(self.backend, &zx, &zy, self.test.2, &o.ks, o.ties)?;
            let loss = self.loss(f1, f2, negatives)?;
            points.push(Point { seconds: *seconds, x_to_y: recall.x_to_y, y_to_x: recall.y_to_x, loss });
        }
        let exact_loss = match track.points.last() {
            Some((_, f1, f2)) if o.exact_loss => Some(self.loss(f1, f2, Negatives::All)?),
            _ => None,
        };
        Ok(Curve { method: method.into(), setting: setting.into(), points, exact_loss })
    }
}

/// The highest mean recall reached by time `t` by any curve of a method, with the time it was reached.
pub(crate) fn frontier(curves: &[Curve], method: &str, t: f64) -> Option<(f64, f64)> {
    let points = curves.iter().filter(|c| c.method == method).flat_map(|c| &c.points);
    let best = points
        .filter(|p| p.seconds <= t)
        .max_by(|a, b| a.recall().total_cmp(&b.recall()).then(b.seconds.total_cmp(&a.seconds)))?;
    Some((best.recall(), best.seconds))
}

fn verdict(curves: &[Curve]) -> Option<Verdict> {
    let best = frontier(curves, "best", f64::INFINITY)?;
    let adam = frontier(curves, "SGD-CLIP", f64::INFINITY)?;
    let start = curves.iter().find(|c| c.method == "best")?.points.first()?.seconds;
    let of = |c: &&Curve| c.method == "best" || c.method == "SGD-CLIP";
    let mut times: Vec<f64> = curves.iter().filter(of).flat_map(|c| &c.points).map(|p| p.seconds).collect();
    times.retain(|&t| t >= start);
    times.sort_by(f64::total_cmp);
    let mut behind = Vec::new();
    for &t in &times {
        let ours = frontier(curves, "best", t).map_or(0.0, |p| p.0);
        let theirs = frontier(curves, "SGD-CLIP", t).map_or(0.0, |p| p.0);
        if ours < theirs {
            behind.push((t, ours, theirs));
        }
    }
    let points = curves.iter().filter(|c| c.method == "best").flat_map(|c| &c.points);
    let reached = points.filter(|p| p.recall() >= adam.0).map(|p| p.seconds).min_by(f64::total_cmp);
    let ends = |method: &str| {
        let curves = curves.iter().filter(|c| c.method == method);
        let loss = |c: &Curve| c.exact_loss.or_else(|| Some(c.points.last()?.loss));
        curves.filter_map(loss).fold(f64::INFINITY, f64::min)
    };
    let (best_loss, adam_loss) = (ends("best"), ends("SGD-CLIP"));
    Some(Verdict {
        reached,
        best_loss,
        adam_loss,
        times: times.len(),
        ahead: times.len() - behind.len(),
        behind,
        best,
        adam,
    })
}

/// Rows of a table: every curve's last point, best recall first.
pub fn ranked(comparison: &Comparison) -> Vec<&Curve> {
    let mut curves: Vec<&Curve> = comparison.curves.iter().filter(|c| !c.points.is_empty()).collect();
    let last = |c: &Curve| c.points.last().map_or(0.0, Point::recall);
    curves.sort_by(|a, b| last(b).total_cmp(&last(a)));
    curves
}
