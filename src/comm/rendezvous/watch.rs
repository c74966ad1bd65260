//! Patience: which ranks have been seen, and how long the rest is waited for.

use super::card::Card;
use crate::error::{Error, Result};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// After how long a rank says that it waits.
const QUIET: Duration = Duration::from_secs(10);

/// Who has been seen, and how long to wait for the rest.
pub(super) struct Watch<'a> {
    notice: Option<&'a dyn Fn(&str)>,
    pub seen: Vec<Option<u64>>,
    pub begin: Instant,
    patience: Duration,
    nap: Duration,
}

impl<'a> Watch<'a> {
    pub(super) fn new(size: usize, patience: Duration, notice: &'a dyn Fn(&str)) -> Self {
        let notice = Some(notice);
        Self {
            notice,
            seen: vec![None; size],
            begin: Instant::now(),
            patience,
            nap: Duration::from_millis(1),
        }
    }

    pub(super) fn has_seen(&self, rank: usize, number: u64) -> bool {
        self.seen[rank] == Some(number)
    }

    /// The card of a rank that lives; an error when it lived before.
    pub(super) fn see(&mut self, rank: usize, card: Option<(Card, bool, File)>) -> Result<Option<Card>> {
        match (card, self.seen[rank]) {
            (Some((card, true, _)), _) => {
                self.seen[rank] = Some(card.number);
                Ok(Some(card))
            }
            (_, Some(_)) => Err(Error::Comm(format!("rank {rank} ended before all ranks had met"))),
            (_, None) => Ok(None),
        }
    }

    /// Waits a moment for a rank; with `missing`, it has not been seen yet.
    pub(super) fn wait(&mut self, rank: usize, missing: bool, place: &Path) -> Result<()> {
        let waited = self.begin.elapsed();
        if waited > self.patience {
            let (seconds, place) = (waited.as_secs_f64(), place.display());
            return Err(Error::Comm(format!("rank {rank} has not come to {place} in {seconds:.1} s")));
        }
        if missing
            && waited > QUIET
            && let Some(notice) = self.notice.take()
        {
            notice(&format!(
                "waiting for rank {rank} at {} (all ranks need the same UNICON_RENDEZVOUS, or one parent; they wait \
                 {:.0} s, or UNICON_COMM_TIMEOUT)",
                place.display(),
                self.patience.as_secs_f64()
            ));
        }
        std::thread::sleep(self.nap);
        self.nap = (self.nap * 2).min(Duration::from_millis(20));
        Ok(())
    }
}
