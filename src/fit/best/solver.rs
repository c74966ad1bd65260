//! What descends from the spectral step: on mini-batches, then by L-BFGS.

use super::BestOptions;
use crate::backend::Backend;
use crate::error::Result;
use crate::fit::Data;
use crate::fit::info::FitInfo;
use crate::fit::linear::Encoders;
use crate::fit::metric::Metric;
use crate::fit::minibatch::Descent;
use crate::fit::moments::Whitenings;
use crate::fit::monitor::Monitor;
use crate::fit::objective::Alignment;
use crate::fit::options::{MinibatchOptions, RefineOptions};
use crate::fit::refine::{self, refine};
use crate::fit::validation::Validation;
use crate::loss::Loss;
use crate::similarity::NegativeSampling;
use faer::Mat;
use std::time::Instant;

/// Temperatures that are tried.
const TAUS: [f64; 5] = [0.03, 0.05, 0.07, 0.1, 0.2];
/// Steps after which temperatures are compared: of L-BFGS, and of mini-batches.
const TAU_STEPS: (usize, usize) = (3, 32);

/// What descends: the data in solver features and everything chosen for it.
pub(super) struct Solver<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) x: &'a B::Matrix,
    pub(super) y: &'a B::Matrix,
    pub(super) data: Data<'a>,
    pub(super) options: &'a BestOptions,
    pub(super) whitenings: &'a Whitenings,
    pub(super) maps: &'a (Mat<f64>, Mat<f64>),
    pub(super) dim: usize,
}

impl<B: Backend> Solver<'_, B> {
    /// `F = A W`.
    pub(super) fn folded(&self, a: &Encoders) -> Result<Encoders> {
        self.whitenings.folded(a)
    }

    /// What a checkpoint must agree on.
    pub(super) fn fingerprint(&self) -> String {
        let (o, p) = (self.options, self.data.positives);
        let (minibatch, refine, stages) = (o.descent(p), &o.refine, (o.sample, o.exact));
        format!("{minibatch:?} {refine:?} {stages:?} {} {} {} {}", p.n_x(), p.n_y(), p.nnz(), o.seed)
    }

    pub(super) fn alignment(&self, loss: &Loss) -> Alignment<'_, B> {
        Alignment {
            backend: self.backend,
            x: self.x,
            y: self.y,
            positives: self.data.positives,
            loss: loss.clone(),
            negatives: NegativeSampling::All,
            maps: Some((&self.maps.0, &self.maps.1)),
            dim: self.dim,
            seconds: Default::default(),
        }
    }

    /// The loss with the temperature of the best score after a few steps from `start`.
    pub(super) fn temperature(
        &self,
        start: &Encoders,
        validation: &Validation<'_, B::Matrix>,
        monitor: &mut Monitor<'_>,
    ) -> Result<Loss> {
        let (mut best, mut chosen) = (f64::NEG_INFINITY, self.options.loss.clone());
        let minibatch = self.options.minibatch.map(|m| MinibatchOptions {
            epochs: 1,
            min_steps: 0,
            max_steps: TAU_STEPS.1,
            ..m
        });
        let refine = RefineOptions { max_steps: TAU_STEPS.0, ..self.options.refine.clone() };
        let options = BestOptions { minibatch, refine, sample: None, exact: false, ..self.options.clone() };
        let short = Solver { options: &options, ..*self };
        for tau in TAUS {
            let begun = Instant::now();
            let loss = Loss { tau, ..self.options.loss.clone() };
            let mut part = FitInfo::default();
            let mut alone = Monitor::new(self.backend, monitor.clock, &mut part, None);
            let e = short.descend(start.clone(), &loss, None, &mut alone)?;
            let score = validation.score(self.backend, &e)?;
            monitor.info.evaluations += part.evaluations;
            if score > best {
                (best, chosen) = (score, loss);
            }
            if !monitor.allows(begun.elapsed().as_secs_f64())? {
                break;
            }
        }
        Ok(chosen)
    }

    /// Descends from encoders `A` of whitened features: on mini-batches where there are enough rows, then by L-BFGS
    /// where that is asked for or nothing was done yet.
    pub(super) fn descend(
        &self,
        mut start: Encoders,
        loss: &Loss,
        validation: Option<&Validation<'_, B::Matrix>>,
        monitor: &mut Monitor<'_>,
    ) -> Result<Encoders> {
        let (o, positives) = (self.options, self.data.positives);
        let minibatch = o.descent(positives);
        let refining = monitor.saved(refine::PHASE)?.is_some();
        let mut encoders = None;
        if let Some(options) = minibatch
            && !refining
        {
            let metric = self.whitenings.metric(self.backend)?;
            let arithmetic = self.backend.arithmetic();
            let metric = (Metric::new(metric.0, arithmetic), Metric::new(metric.1, arithmetic));
            let descent = Descent {
                backend: self.backend,
                x: self.x,
                y: self.y,
                positives,
                loss: loss.clone(),
                metric: (&metric.0, &metric.1),
                options,
                seed: o.seed,
            };
            let size = |a: &Mat<f64>| a.norm_l2().powi(2);
            let sizes = (size(&start.f1), size(&start.f2));
            let e = descent.run(&self.folded(&start)?, sizes, validation, monitor)?;
            start = self.whitenings.unfolded(&e);
            encoders = Some(e);
        }
        let refinement = RefineOptions { stages: o.stages(minibatch.is_some()), ..o.refine.clone() };
        let wanted = !refinement.stages.is_empty() && refinement.max_steps > 0;
        if wanted && (encoders.is_none() || monitor.goes_on(0.0)?) {
            let f = self.alignment(loss);
            let variables = f.variables(&start);
            return refine(f, variables, &refinement, validation, monitor);
        }
        encoders.map_or_else(|| self.folded(&start), Ok)
    }
}
