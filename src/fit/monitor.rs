//! The bookkeeping of a fit, so that its loops hold the method alone: the record and its history, the time budget,
//! progress out and cancellation in, and the state on disk.

use super::checkpoint::{Checkpoint, Saved};
use super::condition::Sides;
use super::features::FeatureMap;
use super::info::{FitInfo, FitStatus, Seconds, TracePoint};
use super::linear::Encoders;
use crate::backend::Backend;
use crate::control::{Control, Phase, Progress};
use crate::dense::product;
use crate::distributed::Group;
use crate::error::Result;
use crate::memory::resident_peak;
use faer::Mat;
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a fit stands after an iteration.
pub struct Iterate<'a> {
    /// Encoder of x (of kernel features, with kernels), `r x d1`.
    pub x: &'a Mat<f64>,
    /// Encoder of y, `r x d2`.
    pub y: &'a Mat<f64>,
    /// The means, of x and of y, that are taken out of the features before; none where they are left in.
    pub offsets: &'a Offsets,
    /// Since the call, wall time.
    pub seconds: f64,
    /// The loss (an estimate with sampled negatives); NaN before the first evaluation.
    pub loss: f64,
}

/// Means that are taken out of the features of x and of y, `d1` and `d2` values.
pub type Offsets = (Option<Arc<[f64]>>, Option<Arc<[f64]>>);

/// Called with every iterate of a fit; an error ends it.
pub type Watch<'a> = &'a mut dyn FnMut(Iterate<'_>) -> Result<()>;

/// When a fit began and how long it may take.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    begin: Instant,
    budget: Option<Duration>,
    /// Seconds at the end that what comes last is expected to take.
    reserve: f64,
}

impl Clock {
    pub(crate) fn new(begin: Instant, budget: Option<Duration>) -> Self {
        Self { begin, budget, reserve: 0.0 }
    }

    /// Seconds since the call.
    pub(super) fn elapsed(&self) -> f64 {
        self.begin.elapsed().as_secs_f64()
    }
}

/// What a fit reports to and asks between its steps. Ranks ask together: rank 0's clock decides for all.
pub(crate) struct Monitor<'a> {
    pub(super) info: &'a mut FitInfo,
    pub(super) clock: Clock,
    pub(super) checkpoint: Option<Checkpoint>,
    watch: Option<Watch<'a>>,
    /// What makes encoders of the solver's features those of the features in range.
    maps: [Option<Mat<f64>>; 2],
    offsets: Offsets,
    group: &'a Group,
    control: &'a Control,
}

impl<'a> Monitor<'a> {
    pub(super) fn new<B: Backend>(
        backend: &'a B,
        clock: Clock,
        info: &'a mut FitInfo,
        watch: Option<Watch<'a>>,
    ) -> Self {
        let (group, control) = (backend.group(), backend.control());
        let (maps, offsets) = (Default::default(), Default::default());
        Self { info, clock, checkpoint: None, watch, maps, offsets, group, control }
    }

    /// The seconds of the phases.
    pub(super) fn seconds(&mut self) -> &mut Seconds {
        &mut self.info.seconds
    }

    /// Whether there is a time budget.
    pub(super) fn is_timed(&self) -> bool {
        self.clock.budget.is_some()
    }

    /// Keeps so many seconds of the budget for what comes last.
    pub(super) fn reserve(&mut self, seconds: f64) {
        self.clock.reserve = seconds;
    }

    /// Whether another step of `seconds` fits into the budget, beside what comes last.
    pub(super) fn allows(&self, seconds: f64) -> Result<bool> {
        let Some(budget) = self.clock.budget else { return Ok(true) };
        let fits = self.clock.elapsed() + seconds + self.clock.reserve <= budget.as_secs_f64();
        Ok(self.group.same(u8::from(fits))? == 1)
    }

    /// As [`allows`](Self::allows); where it does not fit, the record says that the fit ran out of time.
    pub(super) fn goes_on(&mut self, seconds: f64) -> Result<bool> {
        let fits = self.allows(seconds)?;
        if !fits {
            self.info.status = FitStatus::OutOfTime;
        }
        Ok(fits)
    }

    /// The share of the budget used up since `began` (seconds since the call); 0 without a budget.
    pub(super) fn share(&self, began: f64) -> Result<f64> {
        let Some(budget) = self.clock.budget else { return Ok(0.0) };
        let left = budget.as_secs_f64() - self.clock.reserve - began;
        let used = self.clock.elapsed() - began;
        self.group.same(if left > 0.0 { (used / left).min(1.0) } else { 1.0 })
    }

    /// Adds a point to the history; its `seconds` are set here. `best`: its encoders are those to return so far.
    pub(super) fn record(&mut self, point: TracePoint, best: bool) {
        let info = &mut *self.info;
        if best {
            info.returned = Some(info.trace.len());
        }
        info.loss.push(point.loss);
        info.trace.push(TracePoint { seconds: self.clock.elapsed(), ..point });
    }

    /// Records a finished iteration and shows its encoders to the caller.
    pub(super) fn iterate(&mut self, e: &Encoders, point: TracePoint, best: bool) -> Result<()> {
        let loss = point.loss;
        self.record(point, best);
        self.info.iterations += 1;
        self.show(e, loss)
    }

    /// Whether anyone sees what is shown.
    pub(super) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Says what the encoders that are shown from here on apply to: features of `maps`, of rows as `sides` brings them into range.
    pub(super) fn shows(&mut self, maps: (&FeatureMap, &FeatureMap), sides: &Sides) {
        if !self.is_watched() {
            return;
        }
        let linear = |map: &FeatureMap| map.linear.clone().filter(|_| map.kernel.is_none());
        self.maps = [linear(maps.0), linear(maps.1)];
        self.offsets = (sides.x.offset.clone(), sides.y.offset.clone());
    }

    /// Shows encoders to the caller.
    pub(super) fn show(&mut self, e: &Encoders, loss: f64) -> Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let [x, y] = &self.maps;
        let fold =
            |f: &Mat<f64>, map: &Option<Mat<f64>>| map.as_ref().map(|map| product(f.as_ref(), map.as_ref()));
        let (x, y) = (fold(&e.f1, x), fold(&e.f2, y));
        let (x, y) = (x.as_ref().unwrap_or(&e.f1), y.as_ref().unwrap_or(&e.f2));
        let (offsets, seconds) = (&self.offsets, self.clock.elapsed());
        watch(Iterate { x, y, offsets, seconds, loss })
    }

    /// Reports iterations done, of `total`.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled) where someone asked to stop.
    pub(super) fn progress(&self, done: usize, total: usize, loss: f64) -> Result<()> {
        let (done, total) = (done as u64, total as u64);
        self.control.report(Progress { phase: Phase::Iteration, done, total, loss })
    }

    /// The state that an earlier run left on disk, if it is of this phase.
    pub(super) fn saved(&self, phase: &str) -> Result<Option<Saved>> {
        self.checkpoint.as_ref().map_or(Ok(None), |c| c.load(self.group, phase))
    }

    /// Saves the state of a phase with the history, where that is asked for.
    pub(super) fn save(
        &self,
        phase: &str,
        state: &impl Serialize,
        tensors: Vec<(String, &[f64])>,
    ) -> Result<()> {
        match &self.checkpoint {
            Some(c) => c.save(self.group, phase, state, tensors, &self.info.trace),
            None => Ok(()),
        }
    }

    /// Closes the record: memory and time.
    pub(super) fn close<B: Backend>(&mut self, backend: &B) {
        self.info.peak_bytes = backend.memory().1;
        self.info.resident_bytes = resident_peak();
        self.info.seconds.total = self.clock.elapsed();
    }
}
