//! Every way to align the same data, timed in one run: raw features, PLS-SVD, regularised CCA, SGD-CLIP, the schedules of the
//! paper, and the preset `best`.

use super::adam::{SgdClipOptions, sgd_clip};
use faer::Mat;
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;
use unicon::backend::{Backend, Similarity, Ties};
use unicon::error::{Error, Result};
use unicon::fit::{
    BestOptions, Data, Dim, Factorization, FitOptions, Iterate, KernelOptions, Landmarks, Offsets, Preset,
    fit, fit_best, fit_best_watched, in_range,
};
use unicon::io::{Conditioned, Conditioning, RowSource};
use unicon::loss::Loss;
use unicon::model::{Component, Encoder};
use unicon::positives::Positives;
use unicon::retrieval::{Bootstrap, Gain, Ranking, Recall};
use unicon::similarity::NegativeSampling;

/// What to compare.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Dimension of the shared space.
    pub rank: usize,
    /// The loss of all methods that have one.
    pub loss: Loss,
    /// Settings of SGD-CLIP, each run from the start.
    pub adam: Vec<SgdClipOptions>,
    /// Temperatures that SGD-CLIP is trained at, each with every setting; none: that of the loss. All are judged at that of the loss.
    pub adam_taus: Vec<f64>,
    /// Shrinkages of regularised CCA.
    pub cca: Vec<f64>,
    /// Schedules of the paper, each at its own loss but with `rank`; those of mini-batches have no point where
    /// there are fewer rows, or not as many of y as of x.
    pub paper: Vec<Preset>,
    /// The preset `best`.
    pub best: BestOptions,
    /// Also regularised CCA and `best` on these kernel features (landmarks, not exact). Default none.
    pub kernel: Option<KernelOptions>,
    /// Candidate widths of that kernel, as [`BestOptions::widths`].
    pub widths: Vec<f64>,
    /// The k of the recalls.
    pub ks: Vec<usize>,
    /// Negatives per row of the loss that all points are compared by: a sample of its own, the same for all.
    pub loss_sample: usize,
    /// Also the exact loss of every curve's last point.
    pub exact_loss: bool,
    /// What items of equal score do.
    pub ties: Ties,
    /// Confidence intervals of every curve's last point.
    pub bootstrap: Option<Bootstrap>,
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
                    adam.push(SgdClipOptions::adam(learning_rate, batch, epochs));
                }
            }
        }
        Self {
            rank,
            loss: Loss::default(),
            adam,
            adam_taus: Vec::new(),
            cca: vec![0.1, 0.01],
            paper: vec![Preset::PaperFlickr, Preset::PaperCocoClip, Preset::PaperCocoResnet],
            best: BestOptions::new(Dim::Fixed(rank)),
            kernel: None,
            widths: Vec::new(),
            ks: vec![1, 5, 10],
            loss_sample: 1024,
            exact_loss: true,
            ties: Ties::default(),
            bootstrap: None,
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
    /// Recall, ranks and intervals of the last point.
    pub last: Option<Recall>,
    /// Mean Recall@(first k) of the last point less that of `best`, where intervals were asked for.
    pub gain: Option<Gain>,
}

/// The outcome of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What it ran on.
    pub device: String,
    /// The k of the recalls.
    pub ks: Vec<usize>,
    /// What items of equal score did.
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

/// Snapshots of a run.
#[derive(Default)]
struct Track {
    points: Vec<Snapshot>,
}

/// Encoders of features from which offsets have been taken out, and when.
struct Snapshot {
    seconds: f64,
    x: Encoder,
    y: Encoder,
    offsets: Offsets,
}

impl Track {
    /// Adds linear encoders.
    fn push(&mut self, i: &Iterate<'_>) {
        let (x, y) = (Encoder::linear(i.x.clone()), Encoder::linear(i.y.clone()));
        self.points.push(Snapshot { seconds: i.seconds, x, y, offsets: i.offsets.clone() });
    }

    /// The end of a run.
    fn end(&mut self, seconds: f64, c: &Component) {
        let without = |e: &Encoder| Encoder { offset: None, ..e.clone() };
        let offsets = (c.x.offset.clone(), c.y.offset.clone());
        self.points.push(Snapshot { seconds, x: without(&c.x), y: without(&c.y), offsets });
    }
}

/// Runs every method on `data` and evaluates it on `test`; `validation` rows are for `best` alone.
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
    let sides = in_range(backend, data)?;
    let (data, test, validation) = (sides.of(data), sides.of(test), validation.map(|v| sides.of(v)));
    let (data, test, validation) = (data.data(), test.data(), validation.as_ref().map(|v| v.data()));
    let mut evaluator = Evaluator::new(backend, data, test, options)?;
    let mut curves = Vec::new();
    let plain = FitOptions {
        loss: options.loss.clone(),
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
        let (begin, mut track) = (Instant::now(), Track::default());
        let identity = Mat::<f64>::identity(data.x.cols(), data.x.cols());
        let seconds = begin.elapsed().as_secs_f64();
        track.push(&Iterate {
            x: &identity,
            y: &identity,
            offsets: &Offsets::default(),
            seconds,
            loss: f64::NAN,
        });
        curves.push(evaluator.curve("raw features", "cosine", &track)?);
    }
    note("PLS-SVD");
    curves.push(evaluator.curve("PLS-SVD", "centred cross-covariance", &linear(&plain)?)?);
    for &lambda in &options.cca {
        note(&format!("regularised CCA, lambda {lambda}"));
        let track = linear(&FitOptions { whiten: Some(lambda), ..plain.clone() })?;
        curves.push(evaluator.curve("regularised CCA", &format!("lambda {lambda}"), &track)?);
    }
    for preset in &options.paper {
        let o = FitOptions { final_loss: false, seed: options.seed, ..preset.options(options.rank) };
        let mut paper = Track::default();
        if let Some(b) = o.batches
            && (b.size > data.x.rows() || data.x.rows() != data.y.rows())
        {
            let why = format!("{}: needs {} rows of x and as many of y as of x", preset.name(), b.size);
            curves.push(evaluator.curve("paper", &why, &paper)?);
            continue;
        }
        for n_iters in 1..=o.updates() {
            note(&format!("the schedule {}, {n_iters} updates", preset.name()));
            let track = linear(&FitOptions { n_iters, ..o.clone() })?;
            paper.points.extend(track.points);
        }
        let Loss { tau, nu, .. } = o.loss;
        curves.push(evaluator.curve("paper", &format!("{}, tau {tau}, nu {nu}", preset.name()), &paper)?);
    }
    let trained_at: Vec<(Loss, String)> = match &options.adam_taus[..] {
        [] => vec![(options.loss.clone(), String::new())],
        taus => {
            taus.iter().map(|&tau| (Loss { tau, ..options.loss.clone() }, format!("tau {tau}, "))).collect()
        }
    };
    for (adam, (loss, at)) in options.adam.iter().flat_map(|adam| trained_at.iter().map(move |at| (adam, at)))
    {
        let setting = format!("{at}{}", adam.describe());
        note(&format!("SGD-CLIP, {setting}"));
        let mut track = Track::default();
        let trained = sgd_clip(backend, data, options.rank, loss, adam, options.seed, &mut |i| {
            track.push(&i);
            Ok(())
        });
        // A learning rate that is too high for the data ends one curve, not the comparison.
        let setting = match trained {
            Ok(_) => setting,
            Err(Error::Numerical(_)) => format!("{setting}, diverged"),
            Err(e) => return Err(e),
        };
        curves.push(evaluator.curve("SGD-CLIP", &setting, &track)?);
    }
    if let Some(kernel) = &options.kernel {
        let name = kernel_name(kernel);
        for &lambda in &options.cca {
            note(&format!("regularised CCA on {name}, lambda {lambda}"));
            let o = FitOptions { whiten: Some(lambda), kernel: Some(kernel.clone()), ..plain.clone() };
            curves.push(evaluator.curve("kernel CCA", &format!("{name}, lambda {lambda}"), &linear(&o)?)?);
        }
        note(&format!("best on {name}"));
        let best = BestOptions {
            dim: Dim::Fixed(options.rank),
            loss: options.loss.clone(),
            kernel: Some(kernel.clone()),
            widths: options.widths.clone(),
            ..options.best.clone()
        };
        let (model, info) = fit_best(backend, data, validation, &best)?;
        let mut track = Track::default();
        track.end(info.seconds.total, &model.components[0]);
        curves.push(evaluator.curve("kernel best", &name, &track)?);
    }
    note("best");
    let mut track = Track::default();
    let best =
        BestOptions { dim: Dim::Fixed(options.rank), loss: options.loss.clone(), ..options.best.clone() };
    let (model, info) = fit_best_watched(backend, data, validation, &best, &mut |i| {
        track.push(&i);
        Ok(())
    })?;
    // What is returned is the iterate of the best validation score, which need not be the last.
    track.end(info.seconds.total, &model.components[0]);
    curves.push(evaluator.curve("best", "defaults", &track)?);
    let curves = evaluator.compared(curves)?;
    let verdict = verdict(&curves);
    Ok(Comparison { device: backend.describe(), ks: options.ks.clone(), ties: options.ties, curves, verdict })
}

/// A kernel's name and its number of landmarks.
fn kernel_name(k: &KernelOptions) -> String {
    let kind = serde_json::to_value(k.kernel.kind).ok();
    let kind = kind.as_ref().and_then(|v| v.as_str()).unwrap_or("kernel").to_string();
    match &k.landmarks {
        Landmarks::Count(m) => format!("{kind} kernel, {m} landmarks"),
        Landmarks::Rows(rows) => format!("{kind} kernel, {} landmarks", rows.len()),
        Landmarks::Auto => format!("{kind} kernel, at most {} landmarks", Landmarks::USUAL),
        Landmarks::Exact => format!("{kind} kernel"),
    }
}

/// Judges encoders of raw features on the test rows, and their loss on the training rows.
struct Evaluator<'a, B: Backend> {
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

impl<'a, B: Backend> Evaluator<'a, B> {
    fn new(backend: &'a B, data: Data<'a>, test: Data<'a>, options: &'a CompareOptions) -> Result<Self> {
        let offsets = Offsets::default();
        let (train, held) = (load(backend, data, &offsets)?, load(backend, test, &offsets)?);
        Ok(Self { backend, data: (data, test), train, test: held, offsets, options })
    }

    /// Makes the features those without these offsets.
    fn take_out(&mut self, offsets: &Offsets) -> Result<()> {
        if self.offsets != *offsets {
            self.train = load(self.backend, self.data.0, offsets)?;
            self.test = load(self.backend, self.data.1, offsets)?;
            self.offsets.clone_from(offsets);
        }
        Ok(())
    }

    fn encode(
        &self,
        (x, y, _): &Rows<'_, B>,
        (f, g): (&Encoder, &Encoder),
    ) -> Result<(B::Matrix, B::Matrix)> {
        Ok((f.apply(self.backend, x)?, g.apply(self.backend, y)?))
    }

    fn loss(&self, encoders: (&Encoder, &Encoder), negatives: NegativeSampling) -> Result<f64> {
        let (zx, zy) = self.encode(&self.train, encoders)?;
        let s = Similarity::Embeddings(&zx, &zy);
        Ok(self.backend.weights(s, &self.options.loss, self.train.2, negatives)?.value())
    }

    /// A method's curve, and where the test rows stand at its end.
    fn curve(&mut self, method: &str, setting: &str, track: &Track) -> Result<(Curve, Option<Ranking>)> {
        let o = self.options;
        // A seed that no method samples with.
        let seed = !o.seed;
        let negatives = NegativeSampling::Sampled { per_anchor: o.loss_sample, seed };
        let mut points = Vec::with_capacity(track.points.len());
        let (mut last, mut ranking, mut setting) = (None, None, setting.to_string());
        for Snapshot { seconds, x: f, y: g, offsets } in &track.points {
            self.take_out(offsets)?;
            let evaluated = || {
                let (zx, zy) = self.encode(&self.test, (f, g))?;
                let found = Ranking::new(self.backend, &zx, &zy, self.test.2, false)?;
                Ok((found, self.loss((f, g), negatives)?))
            };
            let (found, loss) = match evaluated() {
                Ok((found, loss)) if loss.is_finite() => (found, loss),
                // What is not a number is no point, nor is what follows from it.
                Ok(_) | Err(Error::Numerical(_)) => {
                    setting += if setting.ends_with("diverged") { "" } else { ", diverged" };
                    break;
                }
                Err(e) => return Err(e),
            };
            let recall = found.recall(&o.ks, o.ties)?;
            let (x_to_y, y_to_x) = (recall.x_to_y.clone(), recall.y_to_x.clone());
            points.push(Point { seconds: *seconds, x_to_y, y_to_x, loss });
            (last, ranking) = (Some(recall), Some(found));
        }
        if let (Some(recall), Some(found), Some(b)) = (&mut last, &ranking, &o.bootstrap) {
            recall.intervals = Some(found.intervals(self.backend, &o.ks, o.ties, b)?);
        }
        // Of the last point that is one.
        let exact_loss = match track.points[..points.len()].last() {
            Some(last) if o.exact_loss => {
                self.take_out(&last.offsets)?;
                Some(self.loss((&last.x, &last.y), NegativeSampling::All)?)
            }
            _ => None,
        };
        let method = method.into();
        Ok((Curve { method, setting, points, exact_loss, last, gain: None }, ranking))
    }

    /// Every curve with what its end has over that of `best`.
    fn compared(&self, curves: Vec<(Curve, Option<Ranking>)>) -> Result<Vec<Curve>> {
        let o = self.options;
        let best = curves.iter().find(|(c, _)| c.method == "best").and_then(|(_, r)| r.clone());
        let gain = |(curve, ranking): (Curve, Option<Ranking>)| {
            let gain = match (&o.bootstrap, &ranking, &best, o.ks.first()) {
                (Some(b), Some(own), Some(best), Some(&k)) if curve.method != "best" => {
                    Some(own.gain(self.backend, best, k, o.ties, b)?)
                }
                _ => None,
            };
            Ok(Curve { gain, ..curve })
        };
        curves.into_iter().map(gain).collect()
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
