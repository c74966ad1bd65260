//! Linear probe: how well a linear classifier tells classes apart by frozen features, the usual measure of what features hold.
//!
//! Multinomial logistic regression, `p(c | z) = softmax(W z' + b)_c` with `z' = (z - mean) / sigma`, by L-BFGS on
//! `-1/n sum_i log p(c_i | z_i) + lambda/2 |W|_F^2`, in float64.

use crate::control::{Control, Phase, Progress};
use crate::error::{Error, Result};
use crate::io::{RowSource, check_finite, read_all};
use crate::optim::{Lbfgs, Step};
use crate::threads;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::Serialize;

/// Rows multiplied at once, and parts of the rows that are summed apart: fixed, so that sums do not depend on the threads.
const ROWS: usize = 512;
const PARTS: usize = 16;
/// The share of the rows that is held back to choose on where nothing else is given, and the fewest rows of which it is.
const HELD: usize = 10;
const FEWEST: usize = 20;
/// Changes that L-BFGS remembers, and its first step.
const MEMORY: usize = 10;
const FIRST_STEP: f64 = 1.0;

/// Options of a linear probe.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeOptions {
    /// Candidates for the penalty lambda, each > 0: the one of the best accuracy on validation rows is taken, the largest of equals.
    pub penalties: Vec<f64>,
    /// Steps of L-BFGS at most, for each candidate.
    pub max_steps: usize,
    /// Stop when no element of the gradient is larger.
    pub tol: f64,
    /// Of the rows that are held back.
    pub seed: u64,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        Self { penalties: (-6..=0).map(|p| 10f64.powi(p)).collect(), max_steps: 500, tol: 1e-6, seed: 0 }
    }
}

/// Rows with the class of each, from 0.
#[derive(Clone, Copy)]
pub struct Labelled<'a> {
    /// Features, n x d.
    pub features: &'a dyn RowSource,
    /// The n classes.
    pub labels: &'a [u32],
}

/// A linear classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Number of classes.
    pub classes: usize,
    /// The penalty that was chosen.
    pub penalty: f64,
    /// Every candidate with its accuracy on the validation rows.
    pub tried: Vec<(f64, f64)>,
    /// Steps of the last descent.
    pub steps: usize,
    /// Whether it ended because nothing was left to gain, not because the steps were used up.
    pub converged: bool,
    /// Rows of the training set that were held back to choose on; all rows train in the end.
    pub held_back: usize,
    /// W (classes x d, row by row) followed by b.
    parameters: Vec<f64>,
    mean: Vec<f64>,
    sigma: f64,
}

/// How well a probe classifies.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProbeScore {
    /// The values of k.
    pub ks: Vec<usize>,
    /// Share of rows whose class is among the k most probable ones.
    pub accuracy: Vec<f64>,
    /// Standard errors of these.
    pub standard_error: Vec<f64>,
    /// Share of each class's rows that were classified right; none for a class without rows.
    pub class_accuracy: Vec<Option<f64>>,
    /// Mean of those.
    pub balanced_accuracy: f64,
    /// Mean of `-log p` of the right class.
    pub cross_entropy: f64,
    /// The most probable class of each row; of equal ones the lowest.
    pub predictions: Vec<u32>,
}

/// Features in memory, row by row, with their classes.
struct Samples {
    rows: usize,
    cols: usize,
    values: Vec<f64>,
    labels: Vec<u32>,
}

impl Samples {
    fn read(labelled: Labelled<'_>, what: &str) -> Result<Self> {
        let Labelled { features, labels } = labelled;
        if labels.len() != features.rows() {
            let expected = format!("{} labels, one a row of {}", features.rows(), features.name());
            return Err(Error::invalid(what, expected, labels.len()));
        }
        check_finite(features)?;
        let (rows, cols) = (features.rows(), features.cols());
        Ok(Self { rows, cols, values: read_all(features)?, labels: labels.to_vec() })
    }

    /// Some of the rows.
    fn rows(&self, which: &[usize]) -> Self {
        let values =
            which.iter().flat_map(|&i| &self.values[i * self.cols..][..self.cols]).copied().collect();
        let labels = which.iter().map(|&i| self.labels[i]).collect();
        Self { rows: which.len(), cols: self.cols, values, labels }
    }

    /// With the mean taken out and divided by sigma.
    fn standardise(&mut self, mean: &[f64], sigma: f64) {
        let standardise = |row: &mut [f64]| row.iter_mut().zip(mean).for_each(|(v, m)| *v = (*v - m) / sigma);
        threads::run(|| self.values.par_chunks_mut(self.cols).for_each(standardise));
    }
}

/// Mean of the rows, and the root of the mean squared element after it is taken out.
fn moments(samples: &Samples) -> (Vec<f64>, f64) {
    let n = samples.rows as f64;
    // About the first row, so that rows that are all equal have exactly their own mean.
    let first = &samples.values[..samples.cols];
    let mut mean = first.to_vec();
    for row in samples.values.chunks_exact(samples.cols) {
        mean.iter_mut().zip(row.iter().zip(first)).for_each(|(m, (v, f))| *m += (v - f) / n);
    }
    let squares = |row: &[f64]| row.iter().zip(&mean).map(|(v, m)| (v - m) * (v - m)).sum::<f64>();
    let total: f64 = samples.values.chunks_exact(samples.cols).map(|row| squares(row) / n).sum();
    let sigma = (total / samples.cols as f64).sqrt();
    (mean, sigma)
}

/// `W z + b` of rows, classes beside each other.
fn logits(parameters: &[f64], (classes, cols): (usize, usize), rows: &[f64], out: &mut [f64]) {
    let (w, b) = parameters.split_at(classes * cols);
    out.chunks_exact_mut(classes).for_each(|row| row.copy_from_slice(b));
    let n = rows.len() / cols;
    let z = MatRef::from_row_major_slice(rows, n, cols);
    let w = MatRef::from_row_major_slice(w, classes, cols);
    matmul(MatMut::from_row_major_slice_mut(out, n, classes), Accum::Add, z, w.transpose(), 1.0, Par::Seq);
}

/// Turns a row of logits into probabilities and returns `-log p` of the class.
fn softmax(row: &mut [f64], class: usize) -> f64 {
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let own = row[class] - most;
    let mut sum = 0.0;
    for v in row.iter_mut() {
        *v = (*v - most).exp();
        sum += *v;
    }
    row.iter_mut().for_each(|v| *v /= sum);
    sum.ln() - own
}

/// Value and gradient of the penalised loss.
fn objective(samples: &Samples, classes: usize, penalty: f64, x: &[f64], gradient: &mut [f64]) -> f64 {
    let (cols, n) = (samples.cols, samples.rows as f64);
    let part = samples.rows.div_ceil(PARTS).max(1);
    let of_part = |k: usize| {
        let (mut sum, mut g) = (0.0, vec![0.0; x.len()]);
        let range = (k * part).min(samples.rows)..((k + 1) * part).min(samples.rows);
        let mut p = vec![0.0; ROWS.min(part) * classes];
        for start in range.clone().step_by(ROWS) {
            let rows = ROWS.min(range.end - start);
            let (z, p) = (&samples.values[start * cols..][..rows * cols], &mut p[..rows * classes]);
            logits(x, (classes, cols), z, p);
            let (gw, gb) = g.split_at_mut(classes * cols);
            for (row, &label) in p.chunks_exact_mut(classes).zip(&samples.labels[start..]) {
                sum += softmax(row, label as usize) / n;
                row[label as usize] -= 1.0;
                gb.iter_mut().zip(&*row).for_each(|(g, r)| *g += r / n);
            }
            let residual = MatRef::from_row_major_slice(&*p, rows, classes);
            let z = MatRef::from_row_major_slice(z, rows, cols);
            let gw = MatMut::from_row_major_slice_mut(gw, classes, cols);
            matmul(gw, Accum::Add, residual.transpose(), z, 1.0 / n, Par::Seq);
        }
        (sum, g)
    };
    let parts: Vec<(f64, Vec<f64>)> =
        threads::run(|| (0..PARTS.min(samples.rows)).into_par_iter().map(of_part).collect());
    gradient.fill(0.0);
    let mut value = 0.0;
    for (sum, g) in &parts {
        value += sum;
        gradient.iter_mut().zip(g).for_each(|(to, g)| *to += g);
    }
    let weights = classes * cols;
    value += 0.5 * penalty * x[..weights].iter().map(|w| w * w).sum::<f64>();
    gradient.iter_mut().zip(x).take(weights).for_each(|(g, w)| *g += penalty * w);
    value
}

impl Probe {
    /// Fits a classifier on `train`. The penalty is chosen on `validation`, or on a tenth of the training rows, all of which train in
    /// the end (with fewer than 20, on those that train).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for rows and labels that do not belong together, values that are not finite, fewer than two classes,
    /// features that are all equal, or options out of range; [`Error::Cancelled`].
    pub fn fit(
        train: Labelled<'_>,
        validation: Option<Labelled<'_>>,
        options: &ProbeOptions,
        control: &Control,
    ) -> Result<Self> {
        let bad = |p: &f64| !(*p > 0.0 && p.is_finite());
        if options.penalties.is_empty() || options.penalties.iter().any(bad) {
            return Err(Error::invalid(
                "penalties",
                "finite numbers > 0",
                format!("{:?}", options.penalties),
            ));
        }
        if options.tol.is_nan() || options.tol < 0.0 || options.max_steps == 0 {
            let got = format!("{} and {}", options.tol, options.max_steps);
            return Err(Error::invalid("tol and max_steps", "a number >= 0, and at least 1 step", got));
        }
        let mut samples = Samples::read(train, "labels")?;
        let classes = samples.labels.iter().max().map_or(0, |&c| c as usize + 1);
        if samples.labels.iter().all(|&c| Some(&c) == samples.labels.first()) {
            return Err(Error::invalid("labels", "at least two classes", "one"));
        }
        // A label far beyond the number of rows is no class but a mistake, and its row of W would be as large.
        if classes > samples.rows.saturating_mul(2).max(1 << 16) {
            let expected = format!("classes from 0, for {} rows", samples.rows);
            return Err(Error::invalid("labels", expected, classes - 1));
        }
        let (mean, sigma) = moments(&samples);
        if !(sigma > 0.0 && sigma.is_finite()) {
            let got = if sigma == 0.0 { "rows that are all equal" } else { "values beyond float64" };
            return Err(Error::invalid(train.features.name(), "features that differ", got));
        }
        samples.standardise(&mean, sigma);
        let mut validation = validation.map(|v| Samples::read(v, "validation labels")).transpose()?;
        if let Some(v) = &mut validation {
            fits(v, samples.cols, classes, "validation")?;
            v.standardise(&mean, sigma);
        }
        let (learn, judge) = match validation {
            Some(v) => (None, Some(v)),
            None if samples.rows < FEWEST => (None, None),
            None => {
                let mut order: Vec<usize> = (0..samples.rows).collect();
                order.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(options.seed));
                let held = order.split_off(samples.rows - samples.rows / HELD);
                (Some(samples.rows(&order)), Some(samples.rows(&held)))
            }
        };
        let held_back = learn.as_ref().map_or(0, |l| samples.rows - l.rows);
        // From the strongest penalty on, each start being the end of the one before.
        let mut penalties = options.penalties.clone();
        penalties.sort_by(|a, b| b.total_cmp(a));
        let start = vec![0.0; classes * (samples.cols + 1)];
        let (mut state, mut tried) = (start.clone(), Vec::new());
        let mut best: Option<(f64, f64, Vec<f64>, usize, bool)> = None;
        for &penalty in &penalties {
            let learn = learn.as_ref().unwrap_or(&samples);
            let done = descend(learn, classes, penalty, state, options, control)?;
            let judge = judge.as_ref().unwrap_or(&samples);
            let accuracy = accuracy(&done.x, classes, judge);
            tried.push((penalty, accuracy));
            if best.as_ref().is_none_or(|b| accuracy > b.1) {
                best = Some((penalty, accuracy, done.x.clone(), done.steps, done.converged));
            }
            state = done.x;
        }
        let Some((penalty, _, mut parameters, mut steps, mut converged)) = best else {
            return Err(Error::Numerical("no penalty gave a classifier".into()));
        };
        if learn.is_some() {
            let done = descend(&samples, classes, penalty, parameters, options, control)?;
            (parameters, steps, converged) = (done.x, done.steps, done.converged);
        }
        Ok(Self { classes, penalty, tried, steps, converged, held_back, parameters, mean, sigma })
    }

    /// Judges the classifier on other rows, by accuracy among the `ks` most probable classes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for rows of another width, labels that are no classes, or an empty list of k or a k of 0.
    pub fn score(&self, test: Labelled<'_>, ks: &[usize]) -> Result<ProbeScore> {
        super::check_ks(ks)?;
        let mut samples = Samples::read(test, "test labels")?;
        fits(&samples, self.mean.len(), self.classes, "test")?;
        samples.standardise(&self.mean, self.sigma);
        let p = probabilities(&self.parameters, self.classes, &samples);
        let n = samples.rows as f64;
        let (mut hits, mut per_class) = (vec![0usize; ks.len()], vec![(0usize, 0usize); self.classes]);
        let (mut predictions, mut entropy) = (Vec::with_capacity(samples.rows), 0.0);
        for ((row, entropy_of), &label) in
            p.rows.chunks_exact(self.classes).zip(&p.entropy).zip(&samples.labels)
        {
            let own = row[label as usize];
            // Of equally probable classes the lower one stands first, as in the predictions.
            let ahead =
                row.iter().enumerate().filter(|&(c, &v)| v > own || (v == own && c < label as usize)).count();
            hits.iter_mut().zip(ks).for_each(|(h, &k)| *h += usize::from(ahead < k));
            per_class[label as usize].0 += usize::from(ahead == 0);
            per_class[label as usize].1 += 1;
            predictions.push(most_probable(row));
            entropy += entropy_of / n;
        }
        let accuracy: Vec<f64> = hits.iter().map(|&h| h as f64 / n).collect();
        let standard_error = accuracy.iter().map(|a| (a * (1.0 - a) / n).sqrt()).collect();
        let class_accuracy: Vec<Option<f64>> =
            per_class.iter().map(|&(h, of)| (of > 0).then(|| h as f64 / of as f64)).collect();
        let known: Vec<f64> = class_accuracy.iter().flatten().copied().collect();
        let balanced_accuracy = known.iter().sum::<f64>() / known.len().max(1) as f64;
        Ok(ProbeScore {
            ks: ks.to_vec(),
            accuracy,
            standard_error,
            class_accuracy,
            balanced_accuracy,
            cross_entropy: entropy,
            predictions,
        })
    }
}

/// Fails for rows that a classifier cannot be asked about.
fn fits(samples: &Samples, cols: usize, classes: usize, what: &str) -> Result<()> {
    if samples.rows == 0 || samples.cols != cols {
        let got = format!("{} x {}", samples.rows, samples.cols);
        return Err(Error::invalid(format!("{what} rows"), format!("at least 1 x {cols}"), got));
    }
    match samples.labels.iter().position(|&c| c as usize >= classes) {
        Some(i) => {
            let expected = format!("classes below {classes}, as in training");
            let got = format!("{} at row {i}", samples.labels[i]);
            Err(Error::invalid(format!("{what} labels"), expected, got))
        }
        None => Ok(()),
    }
}

/// How a descent ended.
struct Done {
    x: Vec<f64>,
    steps: usize,
    converged: bool,
}

fn descend(
    samples: &Samples,
    classes: usize,
    penalty: f64,
    start: Vec<f64>,
    options: &ProbeOptions,
    control: &Control,
) -> Result<Done> {
    let mut f = |x: &[f64], g: &mut [f64]| -> Result<f64> { Ok(objective(samples, classes, penalty, x, g)) };
    let mut state = Lbfgs::new(start, MEMORY, FIRST_STEP, &mut f)?;
    let small = |g: &[f64]| g.iter().all(|v| v.abs() <= options.tol);
    for step in 0..options.max_steps {
        let total = options.max_steps as u64;
        control.report(Progress { phase: Phase::Iteration, done: step as u64, total, loss: state.value })?;
        if small(&state.gradient) || state.step(&mut f)? == Step::Stalled {
            return Ok(Done { x: state.x, steps: step, converged: true });
        }
    }
    let converged = small(&state.gradient);
    Ok(Done { x: state.x, steps: options.max_steps, converged })
}

struct Probabilities {
    rows: Vec<f64>,
    /// `-log p` of the right class.
    entropy: Vec<f64>,
}

fn probabilities(parameters: &[f64], classes: usize, samples: &Samples) -> Probabilities {
    let cols = samples.cols;
    let mut rows = vec![0.0; samples.rows * classes];
    let mut entropy = vec![0.0; samples.rows];
    threads::run(|| {
        let blocks = rows.par_chunks_mut(ROWS * classes).zip(entropy.par_chunks_mut(ROWS)).enumerate();
        blocks.for_each(|(k, (p, entropy))| {
            let first = k * ROWS;
            logits(parameters, (classes, cols), &samples.values[first * cols..][..entropy.len() * cols], p);
            for ((row, e), &label) in p.chunks_exact_mut(classes).zip(entropy).zip(&samples.labels[first..]) {
                *e = softmax(row, label as usize);
            }
        });
    });
    Probabilities { rows, entropy }
}

fn most_probable(row: &[f64]) -> u32 {
    let best = (0..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best });
    u32::try_from(best).unwrap_or(u32::MAX)
}

fn accuracy(parameters: &[f64], classes: usize, samples: &Samples) -> f64 {
    let p = probabilities(parameters, classes, samples);
    let right = p
        .rows
        .chunks_exact(classes)
        .zip(&samples.labels)
        .filter(|(row, label)| most_probable(row) == **label);
    right.count() as f64 / samples.rows as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::HostMatrix;
    use rand::Rng;
    use rand_distr::{Distribution, StandardNormal};

    fn normal(n: usize, seed: u64) -> Vec<f64> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| StandardNormal.sample(&mut rng)).collect()
    }

    #[test]
    fn gradients_are_those_of_differences() {
        for (rows, cols, classes, penalty) in
            [(37, 5, 3, 0.1), (700, 4, 2, 1e-4), (16, 1, 4, 1.0), (1, 3, 2, 0.5)]
        {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(rows as u64);
            let labels = (0..rows).map(|_| rng.random_range(0..classes as u32)).collect();
            let samples = Samples { rows, cols, values: normal(rows * cols, 1), labels };
            let x = normal(classes * (cols + 1), 2);
            let mut g = vec![0.0; x.len()];
            objective(&samples, classes, penalty, &x, &mut g);
            for k in 0..x.len() {
                let at = |h: f64| {
                    let mut moved = x.clone();
                    moved[k] += h;
                    objective(&samples, classes, penalty, &moved, &mut vec![0.0; x.len()])
                };
                // Central differences with h = 1e-5: an error of h^2 times the third derivative, and rounding of 1e-16/h.
                let difference = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!((difference - g[k]).abs() < 1e-8, "{k}: {difference} {}", g[k]);
            }
        }
    }

    #[test]
    fn classes_that_lie_apart_are_told_apart_at_any_scale() {
        for (scale, offset) in [(1.0, 0.0), (1e-20, 0.0), (1e20, 0.0), (1.0, 1e6)] {
            let labels: Vec<u32> = (0..300).map(|i| i % 3).collect();
            let noise = normal(600, 5);
            let value = |i: usize, k: usize| {
                let centre = f64::from(u8::from(labels[i] as usize == k)) * 8.0;
                (centre + noise[2 * i + k]) * scale + offset
            };
            let values = (0..600).map(|at| value(at / 2, at % 2)).collect();
            let features = HostMatrix::from_f64("x", 300, 2, values).unwrap();
            let train = Labelled { features: &features, labels: &labels };
            let probe = Probe::fit(train, None, &ProbeOptions::default(), &Control::default()).unwrap();
            let score = probe.score(train, &[1, 3]).unwrap();
            assert!(score.accuracy[0] > 0.99 && score.accuracy[1] == 1.0, "{scale}: {score:?}");
            assert!((probe.classes, probe.held_back, probe.tried.len()) == (3, 30, 7) && probe.converged);
        }
    }

    #[test]
    fn what_does_not_belong_together_is_told() {
        let features = HostMatrix::from_f64("x", 30, 2, normal(60, 3)).unwrap();
        let labels: Vec<u32> = (0..30).map(|i| i % 2).collect();
        let fit = |features: &HostMatrix, labels: &[u32], options: &ProbeOptions| {
            let fitted = Probe::fit(Labelled { features, labels }, None, options, &Control::default());
            fitted.err().map(|e| e.to_string()).unwrap_or_default()
        };
        let usual = ProbeOptions::default();
        assert!(fit(&features, &labels[1..], &usual).contains("labels: expected 30 labels"));
        assert!(fit(&features, &[0; 30], &usual).contains("at least two classes"));
        let far: Vec<u32> = (0..30).map(|i| i * 100_000_000).collect();
        assert!(fit(&features, &far, &usual).contains("classes from 0"));
        let equal = HostMatrix::from_f64("x", 30, 2, vec![3.0; 60]).unwrap();
        assert!(fit(&equal, &labels, &usual).contains("rows that are all equal"));
        for penalties in [vec![], vec![0.0], vec![-1.0], vec![f64::NAN]] {
            assert!(
                fit(&features, &labels, &ProbeOptions { penalties, ..usual.clone() }).contains("penalties")
            );
        }
        assert!(
            fit(&features, &labels, &ProbeOptions { max_steps: 0, ..usual.clone() }).contains("max_steps")
        );
        let nan = HostMatrix::from_f64("x", 30, 2, vec![f64::NAN; 60]).unwrap();
        assert!(!fit(&nan, &labels, &usual).is_empty());
        let train = Labelled { features: &features, labels: &labels };
        let probe = Probe::fit(train, None, &usual, &Control::default()).unwrap();
        let narrow = HostMatrix::from_f64("x", 30, 1, normal(30, 3)).unwrap();
        let said =
            probe.score(Labelled { features: &narrow, labels: &labels }, &[1]).unwrap_err().to_string();
        assert!(said.contains("test rows: expected at least 1 x 2"), "{said}");
        let said =
            probe.score(Labelled { features: &features, labels: &[7; 30] }, &[1]).unwrap_err().to_string();
        assert!(said.contains("test labels: expected classes below 2"), "{said}");
        assert!(probe.score(train, &[0]).is_err());
        let control = Control::default();
        control.cancel();
        assert!(matches!(Probe::fit(train, None, &usual, &control), Err(Error::Cancelled)));
    }

    #[test]
    fn sums_do_not_depend_on_the_threads() {
        let labels: Vec<u32> = (0..2000).map(|i| i % 5).collect();
        let features = HostMatrix::from_f64("x", 2000, 7, normal(14000, 9)).unwrap();
        let train = Labelled { features: &features, labels: &labels };
        let fit = || Probe::fit(train, None, &ProbeOptions::default(), &Control::default()).unwrap();
        let on = |count| std::sync::Arc::new(threads::Threads::new(count).unwrap()).install(fit);
        assert_eq!(on(1), on(3));
    }
}
