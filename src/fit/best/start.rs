//! The spectral step: features of both sides, and what is chosen from their moments.

use super::center::{Means, Raw, is_open};
use super::{BestOptions, Dim};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::fit::features::{self, Mapped};
use crate::fit::holdout::{Together, split};
use crate::fit::info::FitInfo;
use crate::fit::kernel;
use crate::fit::linear::Encoders;
use crate::fit::moments::{Choice, First, Moments, choose, leading};
use crate::fit::monitor::Monitor;
use crate::fit::options::{Factorization, KernelOptions, Landmarks};
use crate::fit::validation::Validation;
use crate::fit::{Data, Sides, timed};
use crate::io::{RowSource, Rows};

/// Dimension at which shrinkages are compared.
const TRIAL_DIM: usize = 128;
/// A smaller dimension is preferred when its score is within this of the best.
const DIM_TOLERANCE: f64 = 0.005;
/// Rows that kernel widths are compared on.
const WIDTH_ROWS: usize = 2048;

/// One side's features: of the rows that train and of those for validation.
pub(super) struct SideData<M> {
    pub(super) mapped: Mapped<M>,
    pub(super) validation: Option<M>,
}

impl<M> SideData<M> {
    /// The rows to validate on: where none are given those that train.
    pub(super) fn validation(&self) -> &M {
        self.validation.as_ref().unwrap_or(&self.mapped.cross)
    }
}

fn load_side<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    validation: Option<&dyn RowSource>,
    (options, width, exponent): (&BestOptions, Option<f64>, i32),
    info: &mut FitInfo,
) -> Result<SideData<B::Matrix>> {
    let mapped = match &options.kernel {
        Some(k) => {
            let x = timed(&mut info.seconds.load, || backend.load(source))?;
            timed(&mut info.seconds.features, || {
                let mut k = k.clone();
                k.kernel = k.kernel.of_scaled_rows(exponent);
                if let Some(width) = width {
                    let unit = kernel::median_distance(backend, source, &x, options.seed)?;
                    k.kernel = k.kernel.of_width(width * unit);
                }
                kernel::nystrom_features(backend, source, &x, &k, options.seed, None)
            })?
        }
        // The encoders of a given model may lie outside the span of the rows.
        None => features::linear(backend, source, None, options.start.is_none(), &mut info.seconds)?,
    };
    with_validation(backend, mapped, validation, info)
}

/// With the validation rows, mapped alike.
fn with_validation<B: Backend>(
    backend: &B,
    mapped: Mapped<B::Matrix>,
    validation: Option<&dyn RowSource>,
    info: &mut FitInfo,
) -> Result<SideData<B::Matrix>> {
    let validation = match validation {
        Some(v) => {
            let raw = timed(&mut info.seconds.load, || backend.load(v))?;
            Some(mapped.map.apply(backend, &raw)?.unwrap_or(raw))
        }
        None => None,
    };
    Ok(SideData { mapped, validation })
}

/// Where descent starts, and what was chosen on the way.
pub(super) struct Spectral<M> {
    pub(super) x: SideData<M>,
    pub(super) y: SideData<M>,
    pub(super) choice: Choice,
    pub(super) dim: usize,
    /// Encoders of whitened features, of that dimension.
    pub(super) encoders: Encoders,
    /// The means to take out, where centring scored better.
    pub(super) means: Option<Means>,
}

impl<M: Send + Sync> Spectral<M> {
    /// The same with the rows of centred data, which are linear features in the basis that the moments are of.
    pub(super) fn reloaded<B: Backend<Matrix = M>>(
        self,
        backend: &B,
        data: Data<'_>,
        validation: Option<Data<'_>>,
        info: &mut FitInfo,
    ) -> Result<Self> {
        let Self { x, y, choice, dim, encoders, means } = self;
        let (qx, qy) = (x.mapped.basis, y.mapped.basis);
        drop((x.mapped.cross, y.mapped.cross));
        let mapped = features::linear_in(backend, data.x, qx, &mut info.seconds)?;
        let x = with_validation(backend, mapped, validation.map(|v| v.x), info)?;
        let mapped = features::linear_in(backend, data.y, qy, &mut info.seconds)?;
        let y = with_validation(backend, mapped, validation.map(|v| v.y), info)?;
        Ok(Self { x, y, choice, dim, encoders, means })
    }
}

/// The best spectral step by validation score; `width` is that of the kernels, in median distances. Where the choice is open
/// by what `sides` did to the features, it is also tried without their means.
pub(super) fn spectral<B: Backend>(
    backend: &B,
    data: Data<'_>,
    validation: Option<Data<'_>>,
    (options, width, sides): (&BestOptions, Option<f64>, &Sides),
    monitor: &mut Monitor<'_>,
) -> Result<Spectral<B::Matrix>> {
    let (ex, ey) = (sides.x.exponent, sides.y.exponent);
    let x = load_side(backend, data.x, validation.map(|v| v.x), (options, width, ex), monitor.info)?;
    let y = load_side(backend, data.y, validation.map(|v| v.y), (options, width, ey), monitor.info)?;
    let (mx, my) = (&x.mapped.cross, &y.mapped.cross);
    let widths = (x.mapped.width(backend), y.mapped.width(backend));
    let bound = widths.0.min(widths.1);
    let widest = match options.dim {
        Dim::Fixed(r) if r > bound => {
            let what = if options.kernel.is_some() { "the number of features," } else { "min(d1, d2) =" };
            return Err(Error::invalid("rank", format!("at most {what} {bound}"), r));
        }
        Dim::Fixed(r) => r,
        // Few rows have no more directions than rows.
        _ => backend.shape(mx).1.min(backend.shape(my).1),
    };
    let moments = Moments::new(backend, (mx, my), widths, &options.loss, data.positives, monitor.info)?;
    let positives = validation.map_or(data.positives, |v| v.positives);
    let (vx, vy) = (x.validation(), y.validation());
    let mut validation = Validation { x: vx, y: vy, positives, loss: &options.loss };
    // Choices of shrinkage hardly depend on the dimension.
    let lists = (&options.whiten[..], &options.powers[..]);
    let dims = (widest.min(TRIAL_DIM), widest);
    let (maps, fixed) = ((&x.mapped.map, &y.mapped.map), matches!(options.dim, Dim::Fixed(_)));
    monitor.shows(maps, sides);
    let mut first = |e: Encoders, monitor: &mut Monitor<'_>| monitor.show(&e, f64::NAN);
    let first: Option<First<'_>> =
        if fixed && width.is_none() && monitor.is_watched() { Some(&mut first) } else { None };
    let mut choice = choose(backend, &moments, &validation, lists, dims, monitor, first)?;
    let mut centred = None;
    if is_open(sides, options) && monitor.allows(0.0)? {
        let (sides, validation) = ((&x, &y), &validation);
        let raw = Raw { data, sides, validation, moments: &moments, choice: &choice, dims };
        centred = raw.centred(backend, monitor)?;
    }
    let (mut means, mut with_ones) = (None, None);
    if let Some(c) = centred {
        (choice, means) = (c.choice, Some(c.means));
        let (x, y) = with_ones.insert(c.validation);
        validation = Validation { x, y, ..validation };
    }
    let all = Encoders::split(&choice.top, Factorization::Power(choice.power));
    let dim = timed(&mut monitor.seconds().validation, || match options.dim {
        Dim::Fixed(r) => Ok(r),
        Dim::Energy(share) => Ok(by_energy(&choice.top.all, share)),
        Dim::Auto => {
            let mut dims: Vec<usize> = (2..).map(|k| 1 << k).take_while(|&r| r < widest).collect();
            dims.push(widest);
            let on = |r: usize| choice.whitenings.with_bias(&leading(&all, r));
            let scores: Vec<f64> =
                dims.iter().map(|&r| validation.score(backend, &on(r)?)).collect::<Result<_>>()?;
            let limit = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max) - DIM_TOLERANCE;
            Ok::<_, Error>(dims.iter().zip(&scores).find(|(_, s)| **s >= limit).map_or(widest, |(&r, _)| r))
        }
    })?;
    let encoders = leading(&all, dim);
    Ok(Spectral { x, y, choice, dim, encoders, means })
}

/// The kernels' width with the best spectral step; none where there are no widths to choose from.
pub(super) fn width<B: Backend>(
    backend: &B,
    data: Data<'_>,
    validation: Option<Data<'_>>,
    (options, sides): (&BestOptions, &Sides),
    monitor: &mut Monitor<'_>,
) -> Result<Option<f64>> {
    let Some(kernel) = options.kernel.as_ref().filter(|k| k.kernel.has_width()) else { return Ok(None) };
    let [first, rest @ ..] = &options.widths[..] else { return Ok(None) };
    let mut best = (f64::NEG_INFINITY, *first);
    if rest.is_empty() {
        return Ok(Some(*first));
    }
    let all: (Vec<usize>, Vec<usize>) = ((0..data.x.rows()).collect(), (0..data.y.rows()).collect());
    let together = Together::new(data.positives, None, None);
    let some = match data.x.rows() > WIDTH_ROWS {
        true => split(together, WIDTH_ROWS, options.seed).map_or_else(|| all.clone(), |s| s.validation),
        false => all,
    };
    let (x, y) = (Rows::new(data.x, some.0.clone())?, Rows::new(data.y, some.1.clone())?);
    let positives = data.positives.subset(&some.0, &some.1)?;
    let data = Data { x: &x, y: &y, positives: &positives };
    let fewest = x.rows().min(y.rows());
    let landmarks = Landmarks::Count(kernel.landmarks.count(fewest).min(fewest));
    let kernel = Some(KernelOptions { landmarks, ..kernel.clone() });
    let options = BestOptions { kernel, ..options.clone() };
    for &width in &options.widths {
        let found = spectral(backend, data, validation, (&options, Some(width), sides), monitor)?;
        if found.choice.score > best.0 {
            best = (found.choice.score, width);
        }
        if !monitor.allows(0.0)? {
            break;
        }
    }
    Ok(Some(best.1))
}

/// The smallest dimension whose squared singular values make up `share` of all.
fn by_energy(values: &[f64], share: f64) -> usize {
    let total: f64 = values.iter().map(|v| v * v).sum();
    let mut sum = 0.0;
    for (k, v) in values.iter().enumerate() {
        sum += v * v;
        if sum >= share * total {
            return k + 1;
        }
    }
    values.len().max(1)
}
