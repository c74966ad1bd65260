//! Many linear fits of the same rows: features are read and brought into range once, and whitened once for each shrinkage.
//! Updates come one at a time, so that a fit of five passes through those of one and two.

use super::condition::{Sides, Wanted};
use super::features::{self, Mapped};
use super::info::FitInfo;
use super::linear::{Encoders, Problem, Start};
use super::monitor::{Clock, Monitor};
use super::options::{FitOptions, Init};
use super::whole::Whole;
use super::{Center, Data, check_fit, component, screened};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::model::Component;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use faer::Mat;
use std::time::Instant;

/// One side's features as they are, and `X^T X` of them once it is asked for.
struct Raw<M> {
    mapped: Mapped<M>,
    gram: Option<Mat<f64>>,
    width: usize,
}

impl<M> Raw<M> {
    fn gram<B: Backend<Matrix = M>>(&mut self, backend: &B) -> Result<()> {
        if self.gram.is_none() {
            self.gram = Some(backend.gram(&self.mapped.cross)?);
        }
        Ok(())
    }
}

/// Rows that several fits train on.
pub(crate) struct Sweep<'a, B: Backend> {
    backend: &'a B,
    positives: &'a Positives,
    sides: Sides,
    x: Raw<B::Matrix>,
    y: Raw<B::Matrix>,
    /// Wall time of reading them.
    seconds: f64,
}

/// Features that were made for one shrinkage, or those of the sweep.
enum Held<'a, M> {
    Own(Mapped<M>),
    Shared(&'a Mapped<M>),
}

impl<M> Held<'_, M> {
    fn get(&self) -> &Mapped<M> {
        match self {
            Self::Own(mapped) => mapped,
            Self::Shared(mapped) => mapped,
        }
    }
}

/// The same, whitened with one shrinkage or not at all.
pub(crate) struct Whitened<'a, B: Backend> {
    sweep: &'a Sweep<'a, B>,
    x: Held<'a, B::Matrix>,
    y: Held<'a, B::Matrix>,
    /// Validation rows, by which mini-batches are weighed.
    validation: Option<(B::Matrix, B::Matrix, &'a Positives)>,
    seconds: f64,
}

/// Loaded rows that mini-batches are weighed by, and which of them match.
type Weighing<'a, M> = (&'a (M, M), &'a Positives);

/// Encoders of solver features after an update.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    encoders: Encoders,
    /// Wall time of a fit that ends here: reading and whitening the features, and all updates.
    pub(crate) seconds: f64,
}

impl<'a, B: Backend> Sweep<'a, B> {
    /// Reads `data` for fits with any of `options`, whose ranks and batches are checked; `others` are rows of the same kind.
    ///
    /// # Errors
    /// As [`fit`](super::fit).
    pub(crate) fn new(
        backend: &'a B,
        data: Data<'a>,
        others: &[Data<'_>],
        options: &[FitOptions],
    ) -> Result<Self> {
        let begin = Instant::now();
        for o in options {
            others.iter().try_for_each(|&other| check_fit(data, Some(other), o))?;
        }
        let wanted = Wanted::new(Center::Auto, None, &Init::Zeros);
        let (_, sides, _) = screened(backend, data, None, &wanted)?;
        let in_range = sides.of(data);
        let rows = in_range.data();
        let side = |source| {
            let mapped = features::linear(backend, source, None, true, &mut FitInfo::default().seconds)?;
            Ok::<_, Error>(Raw { mapped, gram: None, width: source.cols() })
        };
        let (x, y) = (side(rows.x)?, side(rows.y)?);
        Ok(Self { backend, positives: data.positives, sides, x, y, seconds: begin.elapsed().as_secs_f64() })
    }

    /// Other rows of the same kind, in range, for [`Component`]s of this sweep to be applied to.
    pub(crate) fn load(&self, rows: Data<'_>) -> Result<(B::Matrix, B::Matrix)> {
        self.backend.survey(rows.x)?;
        self.backend.survey(rows.y)?;
        let in_range = self.sides.of(rows);
        let rows = in_range.data();
        Ok((self.backend.load(rows.x)?, self.backend.load(rows.y)?))
    }

    /// The features whitened with a shrinkage, or as they are. Loaded `validation` rows weigh mini-batches.
    pub(crate) fn whitened<'s>(
        &'s mut self,
        shrinkage: Option<f64>,
        validation: Option<Weighing<'s, B::Matrix>>,
    ) -> Result<Whitened<'s, B>> {
        let begin = Instant::now();
        let backend = self.backend;
        if shrinkage.is_some() {
            self.x.gram(backend)?;
            self.y.gram(backend)?;
        }
        let sweep: &'s Self = self;
        let side = |raw: &'s Raw<B::Matrix>| match (shrinkage, &raw.gram) {
            (Some(lambda), Some(gram)) => {
                raw.mapped.whitened(backend, gram, raw.width, lambda).map(Held::Own)
            }
            _ => Ok(Held::Shared(&raw.mapped)),
        };
        let (x, y) = (side(&sweep.x)?, side(&sweep.y)?);
        let seconds = sweep.seconds + begin.elapsed().as_secs_f64();
        let validation = match validation {
            Some(((vx, vy), positives)) => {
                let on = |rows: &B::Matrix, side: &Mapped<B::Matrix>| match side.map.apply(backend, rows)? {
                    Some(mapped) => Ok::<_, Error>(mapped),
                    None => backend.rows(rows, 0..backend.shape(rows).0),
                };
                Some((on(vx, x.get())?, on(vy, y.get())?, positives))
            }
            None => None,
        };
        Ok(Whitened { sweep, x, y, validation, seconds })
    }
}

impl<B: Backend> Whitened<'_, B> {
    /// One more update (Algorithm 1) after `before`, or the first one, from zeros.
    ///
    /// # Errors
    /// As [`fit`](super::fit).
    pub(crate) fn update(&self, options: &FitOptions, before: Option<&Step>) -> Result<Step> {
        let (begin, backend) = (Instant::now(), self.sweep.backend);
        let options = FitOptions { n_iters: 1, ..options.clone() };
        let problem = Problem {
            backend,
            x: self.x.get(),
            y: self.y.get(),
            positives: self.sweep.positives,
            validation: self.validation.as_ref().map(|(x, y, p)| (x, y, *p)),
            options: &options,
            negatives: NegativeSampling::All,
        };
        let start = before.map_or(Start::Zeros, |b| Start::Encoders(b.encoders.clone()));
        let mut info = FitInfo::default();
        let mut monitor = Monitor::new(backend, Clock::new(begin, None), &mut info, None);
        let encoders = problem.solve_from(start, &mut monitor)?;
        if !(encoders.f1.norm_max().is_finite() && encoders.f2.norm_max().is_finite()) {
            return Err(Error::Numerical("the encoders are not finite".into()));
        }
        let seconds = before.map_or(self.seconds, |b| b.seconds) + begin.elapsed().as_secs_f64();
        Ok(Step { encoders, seconds })
    }

    /// The encoders of rows in range, without what is taken out of raw features: for rows of [`Sweep::load`].
    pub(crate) fn component(&self, step: &Step) -> Component {
        component(self.x.get(), self.y.get(), &step.encoders, 1.0)
    }

    /// The exact loss on the training rows.
    pub(crate) fn loss(&self, step: &Step, loss: &Loss) -> Result<f64> {
        let whole = Whole {
            backend: self.sweep.backend,
            x: self.x.get().embed(),
            y: self.y.get().embed(),
            positives: self.sweep.positives,
            loss,
            negatives: NegativeSampling::All,
        };
        whole.value(&step.encoders, &mut FitInfo::default().seconds)
    }
}
