//! Evaluation: Recall@k, ranks and matching accuracy, top-k search, zero-shot classification, all streaming; linear probes.
//!
//! | module | |
//! |---|---|
//! | [`Ranking`] | where the right item of every query stands, and what follows: recall, ranks, intervals |
//! | [`Items`] | items that stay in a backend for many searches |
//! | [`ZeroShot`] | classification by class embeddings |
//! | [`Probe`] | a linear classifier on frozen features |

mod bootstrap;
mod items;
mod probe;
mod ranking;
mod zero_shot;

pub use bootstrap::Bootstrap;
pub use items::{Items, search, search_others};
pub use probe::{Labelled, Probe, ProbeOptions, ProbeScore};
pub use ranking::{
    Gain, Intervals, Ranking, Recall, RecallOptions, evaluate, matching_accuracy, recall_at_k,
};
pub use zero_shot::{ZeroShot, class_embeddings, zero_shot, zero_shot_accuracy};

use crate::error::{Error, Result};

fn check_ks(ks: &[usize]) -> Result<()> {
    if ks.is_empty() || ks.contains(&0) {
        return Err(Error::invalid("k", "one or more numbers >= 1", format!("{ks:?}")));
    }
    Ok(())
}
