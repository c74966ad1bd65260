//! The kernel solver (Theorem 9, Algorithm 2 of arXiv 2604.16678): the linear solver on kernel features.
//!
//! ```text
//! A B^T = 1/rho K_X^{-1/2} [ K_X^{1/2} S K_Y^{1/2} ]_r K_Y^{-1/2},      f_x(x) = A^T k_X(x),   f_y(y) = B^T k_Y(y)
//! ```
//!
//! with `[.]_r` the best approximation of rank `r`. With the features `phi(x) = K_mm^{-1/2} k_m(x)` of `m` landmarks (all rows:
//! exact; some: Nystrom) and `Phi` their rows, `K^{1/2} S K^{1/2} = Q_X (Phi_X^T S Phi_Y) Q_Y^T` with orthonormal `Q`. So the
//! SVD of `C = Phi_X^T S Phi_Y / rho` in `linear.rs` gives `A = K_mm^{-1/2} U Sigma^p` and the encoder is `Sigma^p U^T phi(x)`.
//!
//! With a Tikhonov `ridge` both powers are of `K + ridge I`, but what is encoded is `(K + ridge I)^{-1/2} k(x)` with the kernel
//! itself, as in the authors' code: exact features differ in what `C` is made of and what is embedded.

use super::condition::Sides;
use super::features::{EIGENVALUE_CUT, FeatureMap, Mapped, download, host_rows, upload, whitened};
use super::info::FitInfo;
use super::linear::{batch_ranges, batch_seed};
use super::monitor::{Clock, Monitor};
use super::options::{BatchScore, Batches, FitOptions, Init, KernelOptions, Landmarks};
use super::validation::{BatchWeights, batch_score};
use super::{Data, fit_one, timed};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::io::{RowRange, RowSource, exponent, is_ordinary, times_power};
use crate::kernel::Kernel;
use crate::model::{Component, KernelMap};
use crate::plan::memory::exact_kernel;
use crate::spectral::psd_half_powers;
use faer::{Mat, MatRef};
use rand::SeedableRng;
use std::time::Instant;

/// Nystrom features `phi(x) = (K_ZZ + ridge I)^{-1/2} k_Z(x)`, whitened on request.
pub(crate) fn nystrom_features<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    x: &B::Matrix,
    options: &KernelOptions,
    seed: u64,
    whiten: Option<f64>,
) -> Result<Mapped<B::Matrix>> {
    let rows = landmark_rows(&options.landmarks, source.rows(), seed)?;
    let landmarks = host_rows(backend, source, Some(x), &rows)?;
    let k_zz = gram(backend, &options.kernel, landmarks.as_ref())?;
    let (_, inverse_half) = psd_half_powers(k_zz.as_ref(), options.ridge, EIGENVALUE_CUT)?;
    let kernel = Some(KernelMap { kernel: options.kernel, landmarks });
    let map = FeatureMap { kernel, linear: Some(inverse_half) };
    let phi = map.apply(backend, x)?.ok_or_else(|| Error::Numerical("no kernel features".into()))?;
    let width = rows.len();
    whitened(backend, phi, map, whiten, width)
}

/// Rows whose distances stand for all.
const DISTANCE_ROWS: usize = 256;

/// The median distance between rows; 1 where most are equal.
pub(crate) fn median_distance<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    x: &B::Matrix,
    seed: u64,
) -> Result<f64> {
    let n = source.rows();
    let rows = landmark_rows(&Landmarks::Count(n.min(DISTANCE_ROWS)), n, seed)?;
    let points = host_rows(backend, source, Some(x), &rows)?;
    let distance = |i: usize, j: usize| (points.row(i) - points.row(j)).norm_l2();
    let mut all: Vec<f64> =
        (0..rows.len()).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| distance(i, j)).collect();
    all.sort_unstable_by(f64::total_cmp);
    Ok(all.get(all.len() / 2).copied().filter(|d| *d > 0.0).unwrap_or(1.0))
}

/// The exact kernel solver's features: `n x n`.
pub(crate) fn exact_features<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    options: &KernelOptions,
) -> Result<Mapped<B::Matrix>> {
    let n = source.rows();
    check_exact_memory(n)?;
    let landmarks = host_rows(backend, source, None, &(0..n).collect::<Vec<_>>())?;
    let k = gram(backend, &options.kernel, landmarks.as_ref())?;
    let (half, inverse_half) = psd_half_powers(k.as_ref(), options.ridge, EIGENVALUE_CUT)?;
    let cross = upload(backend, half.as_ref())?;
    let embed = upload(backend, (&k * &inverse_half).as_ref())?;
    let kernel = Some(KernelMap { kernel: options.kernel, landmarks });
    let map = FeatureMap { kernel, linear: Some(inverse_half) };
    Ok(Mapped { cross, embed: Some(embed), basis: None, map })
}

/// Differences between a Gram matrix and its transpose, and negative eigenvalues, up to this share of its largest value are rounding.
const GRAM_TOLERANCE: f64 = 1e-5;

/// The features of a kernel of which the values are given: `source` is the Gram matrix of its rows.
pub(crate) fn value_features<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    kernel: &KernelOptions,
    options: &FitOptions,
) -> Result<Mapped<B::Matrix>> {
    let n = source.rows();
    match &kernel.landmarks {
        Landmarks::Exact => check_exact_memory(n)?,
        some => check_memory(8 * (n as u64) * (n + 3 * some.count(n)) as u64, || {
            format!("a Gram matrix of {n} rows")
        })?,
    }
    let k = host_rows(backend, source, None, &(0..n).collect::<Vec<_>>())?;
    let k = in_range(k);
    check_symmetric(source, k.as_ref())?;
    if kernel.landmarks == Landmarks::Exact {
        check_definite(source, k.as_ref())?;
        let (half, inverse_half) = psd_half_powers(k.as_ref(), kernel.ridge, EIGENVALUE_CUT)?;
        let cross = upload(backend, half.as_ref())?;
        let embed = upload(backend, (&k * &inverse_half).as_ref())?;
        let map = FeatureMap { kernel: None, linear: Some(inverse_half) };
        return Ok(Mapped { cross, embed: Some(embed), basis: None, map });
    }
    let rows = landmark_rows(&kernel.landmarks, n, options.seed)?;
    let m = rows.len();
    let k_zz = Mat::from_fn(m, m, |i, j| k[(rows[i], rows[j])]);
    check_definite(source, k_zz.as_ref())?;
    let (_, inverse_half) = psd_half_powers(k_zz.as_ref(), kernel.ridge, EIGENVALUE_CUT)?;
    // Of all values those with the landmarks.
    let mut linear = Mat::zeros(m, n);
    for (j, &row) in rows.iter().enumerate() {
        (0..m).for_each(|i| linear[(i, row)] += inverse_half[(i, j)]);
    }
    let values = Mat::from_fn(n, m, |i, j| k[(i, rows[j])]);
    let phi = backend.linear(&upload(backend, values.as_ref())?, inverse_half.as_ref())?;
    whitened(backend, phi, FeatureMap { kernel: None, linear: Some(linear) }, options.whiten, m)
}

/// Values far from 1 times a power of two, so that the ridge is as small beside them as it is beside a kernel's: embeddings have no scale.
fn in_range(k: Mat<f64>) -> Mat<f64> {
    match exponent(k.norm_max()).filter(|&e| !is_ordinary(e)) {
        Some(e) => Mat::from_fn(k.nrows(), k.ncols(), |i, j| times_power(k[(i, j)], -e)),
        None => k,
    }
}

/// Refuses a Gram matrix that is not symmetric, to rounding.
fn check_symmetric(source: &dyn RowSource, k: MatRef<'_, f64>) -> Result<()> {
    let limit = GRAM_TOLERANCE.max(2.0 * rounded(k)) * k.norm_max();
    for j in 0..k.ncols() {
        if let Some(i) = (0..j).find(|&i| (k[(i, j)] - k[(j, i)]).abs() > limit) {
            let got = format!("{} at ({i}, {j}) and {} at ({j}, {i})", k[(i, j)], k[(j, i)]);
            return Err(Error::invalid(source.name(), "a symmetric Gram matrix", got));
        }
    }
    Ok(())
}

/// Half a unit in the last place, relative, of the 16-bit type that holds all entries; 0 where none does.
fn rounded(k: MatRef<'_, f64>) -> f64 {
    let all = |held: &dyn Fn(f64) -> f64| (0..k.ncols()).all(|j| k.col(j).iter().all(|&v| held(v) == v));
    match () {
        () if all(&|v| half::f16::from_f64(v).to_f64()) => 2f64.powi(-11),
        () if all(&|v| half::bf16::from_f64(v).to_f64()) => 2f64.powi(-8),
        () => 0.0,
    }
}

/// Refuses a Gram matrix with negative eigenvalues, beyond rounding: no inner products are such values. Numbers of 16 bits have
/// been rounded, which moves an eigenvalue by no more than the norm of all that was rounded off.
fn check_definite(source: &dyn RowSource, k: MatRef<'_, f64>) -> Result<()> {
    let values = crate::spectral::eigen(k)?.1;
    let size = values.iter().fold(0f64, |m, v| m.max(v.abs()));
    let limit = (GRAM_TOLERANCE * size).max(rounded(k) * k.norm_l2());
    match values.first() {
        Some(&least) if least < -limit => {
            let expected = "a positive semi-definite Gram matrix (of a kernel: no negative eigenvalue)";
            Err(Error::invalid(
                source.name(),
                expected,
                format!("the eigenvalue {least:.3e} beside {size:.3e}"),
            ))
        }
        _ => Ok(()),
    }
}

/// Row numbers of the landmarks.
pub(crate) fn landmark_rows(landmarks: &Landmarks, n: usize, seed: u64) -> Result<Vec<usize>> {
    match landmarks {
        Landmarks::Exact => Ok((0..n).collect()),
        Landmarks::Count(m) if *m > n => {
            Err(Error::invalid("landmarks", format!("at most the number of rows, {n}"), m))
        }
        Landmarks::Count(_) | Landmarks::Auto => {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let mut rows = rand::seq::index::sample(&mut rng, n, landmarks.count(n)).into_vec();
            rows.sort_unstable();
            Ok(rows)
        }
        Landmarks::Rows(rows) => match rows.iter().find(|&&r| r >= n) {
            Some(r) => Err(Error::invalid("landmarks", format!("rows below {n}"), r)),
            None => Ok(rows.clone()),
        },
    }
}

/// `K_ij = k(a_i, a_j)`.
fn gram<B: Backend>(backend: &B, kernel: &Kernel, points: MatRef<'_, f64>) -> Result<Mat<f64>> {
    let k = backend.kernel(kernel, &upload(backend, points)?, points)?;
    download(backend, &k)
}

/// Refuses an exact kernel fit that cannot fit in memory, before it starts.
fn check_exact_memory(n: usize) -> Result<()> {
    let what = || format!("the exact kernel solver on {n} rows (use landmarks)");
    check_memory(exact_kernel(n as f64) as u64, what)
}

fn check_memory(needed: u64, what: impl FnOnce() -> String) -> Result<()> {
    match crate::memory::available() {
        Some(limit) if needed > limit => Err(Error::OutOfMemory { what: what(), needed, limit }),
        _ => Ok(()),
    }
}

/// Algorithm 2: a kernel solution per mini-batch, whose similarities are fused: `s = sum_b w_b s_b` with weights
/// `w_b = max(score, 0) / total` on the validation rows.
pub(super) fn fit_batches<B: Backend>(
    backend: &B,
    (data, validation, sides): (Data<'_>, Option<Data<'_>>, &Sides),
    (options, kernel, batches): (&FitOptions, &KernelOptions, Batches),
    monitor: &mut Monitor<'_>,
) -> Result<Vec<Component>> {
    let ranges = batch_ranges(data.x.rows(), batches, monitor.info);
    // As with linear mini-batches, no batch leaves an update out.
    let one = FitOptions {
        batches: None,
        kernel: Some(kernel.clone()),
        n_iters: options.updates(),
        final_loss: false,
        ..options.clone()
    };
    let mut components = Vec::new();
    let mut losses: Vec<(f64, usize)> = Vec::new();
    for range in &ranges {
        let x = RowRange::new(data.x, range.clone())?;
        let y = RowRange::new(data.y, range.clone())?;
        let positives = data.positives.restricted(range.clone(), range.clone())?;
        let seed = match one.init {
            Init::Gaussian => batch_seed(options.seed, range),
            _ => options.seed,
        };
        let one = FitOptions { seed, ..one.clone() };
        let mut part = FitInfo { seconds: monitor.info.seconds, ..FitInfo::default() };
        let batch = Data { x: &x, y: &y, positives: &positives };
        let begun = Instant::now();
        let mut alone = Monitor::new(backend, Clock::new(begun, None), &mut part, None);
        let mut component = fit_one(backend, (batch, None, sides), &one, &mut alone)?;
        monitor.info.seconds = part.seconds;
        if let Some(v) = validation.filter(|_| batches.score != BatchScore::Equal) {
            component.weight = timed(&mut monitor.info.seconds.validation, || {
                let zx = component.x.apply(backend, &backend.load(v.x)?)?;
                let zy = component.y.apply(backend, &backend.load(v.y)?)?;
                batch_score(backend, batches.score, (&zx, &zy), v.positives, &options.loss)
            })?;
        }
        for (iteration, loss) in part.loss.iter().enumerate() {
            if losses.len() == iteration {
                losses.push((0.0, 0));
            }
            losses[iteration] = (losses[iteration].0 + loss, losses[iteration].1 + 1);
        }
        if components.is_empty() {
            let info = &mut *monitor.info;
            (info.iterations, info.status) = (part.iterations, part.status);
            (info.change, info.singular_values) = (part.change, part.singular_values);
        }
        components.push(component);
        let more = components.len() < ranges.len();
        if more && !monitor.goes_on(begun.elapsed().as_secs_f64())? {
            break;
        }
    }
    let count = components.len();
    monitor.info.loss = losses.iter().map(|(sum, count)| sum / *count as f64).collect();
    let mut of_scores = BatchWeights::new(batches.score);
    for k in 0..count {
        let (weight, before) = of_scores.next(components[k].weight);
        components[..k].iter_mut().for_each(|c| c.weight *= before);
        components[k].weight = weight;
    }
    let total: f64 = components.iter().map(|c| c.weight).sum();
    for c in &mut components {
        c.weight = if total > 0.0 { c.weight / total } else { 1.0 / count as f64 };
    }
    monitor.info.batch_weights.push(components.iter().map(|c| c.weight).collect());
    components.retain(|c| c.weight > 0.0);
    Ok(components)
}
