//! Progress out of, and cancellation into, a running computation.

use crate::error::{Error, Result};
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where a computation stands. Sent between row panels and between iterations, on the calling thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Units (row panels, or iterations for [`Phase::Iteration`]) finished.
    pub done: u64,
    /// Units in all.
    pub total: u64,
    /// The loss, where this phase has just computed it; NaN otherwise.
    pub loss: f64,
}

/// The phases of a fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Features are read and mapped (kernel, whitening).
    Features,
    /// Pass 1: row and column statistics and the loss.
    Statistics,
    /// Pass 2: `X^T S Y`, `S V` or gradients.
    Weights,
    /// One spectral update or optimiser step is complete.
    Iteration,
    /// Streaming search or recall.
    Retrieval,
}

type Hook = Box<dyn FnMut(Progress) -> ControlFlow<()> + Send>;

/// Shared by whoever computes (checks it between panels) and whoever watches (any thread may cancel).
#[derive(Default)]
pub struct Control {
    cancelled: AtomicBool,
    hook: Mutex<Option<Hook>>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("cancelled", &self.is_cancelled()).finish_non_exhaustive()
    }
}

impl Control {
    /// Asks the computation to stop at the next panel.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Forgets an earlier [`cancel`](Self::cancel).
    pub fn reset(&self) {
        self.cancelled.store(false, Ordering::Relaxed);
    }

    /// Whether someone asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Sets or removes the progress hook; `Break` from it cancels.
    pub fn set_hook(&self, hook: Option<Hook>) {
        *self.hook.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = hook;
    }

    /// Whether there is a progress hook.
    pub(crate) fn is_watched(&self) -> bool {
        self.hook.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }

    /// Reports progress and checks for cancellation.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when the hook or another thread asked to stop.
    pub fn report(&self, progress: Progress) -> Result<()> {
        if let Some(hook) = self.hook.lock().unwrap_or_else(std::sync::PoisonError::into_inner).as_mut()
            && hook(progress).is_break()
        {
            self.cancel();
        }
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}
