//! Bytes between ranks on CUDA devices, counted as that backend calls its collectives, and memory of a device.
//!
//! Features travel as they are stored. Embeddings are two 16-bit halves in every precision mode: tiles of negatives may
//! need the leading half only, but similarities of positives are exact, on every rank. Each device holds those of all ranks
//! while passes need them. Sums over rows are one part a rank. Time is counted as if nothing moved beside computation.

use super::Job;
use super::memory::{self, Side};
use super::traffic::{Shares, Steps};
use crate::backend::cuda::{PIECE, depth_of};
use crate::similarity::schedule::TILE;

/// Bytes of an embedding: both halves, each padded to steps of the matrix instructions.
fn embedding(dim: f64) -> f64 {
    2.0 * 2.0 * depth_of(dim as usize) as f64
}

/// Bytes of a feature: as stored, or fp32 once mapped.
fn feature(job: &Job, stored: f64) -> f64 {
    if job.whiten { 4.0 } else { stored }
}

/// Counts a job whose features are stored in `stored` bytes a number.
pub(super) fn steps(job: &Job, stored: f64) -> Steps {
    let (ranks, r, all) = (job.ranks, job.dim, job.ranks - 1.0);
    if all < 1.0 {
        return Steps::default();
    }
    let (d1, d2) = job.d;
    let (wide, narrow) = (d1.max(d2), d1.min(d2));
    let (rows, columns) = if d1 < d2 { (job.n_y, job.n_x) } else { (job.n_x, job.n_y) };
    let bytes = feature(job, stored);
    // Every rank adds up its share of the width, then all gather the shares.
    let sum = |width: f64| 2.0 * all * 8.0 * width;
    let map = |rows: f64, cols: f64| all * 8.0 * rows * cols;
    // Both bases and two lists of singular values, from the first rank.
    let triplets = all * 8.0 * ((d1 + d2 + 1.0) * r + narrow);
    let embeddings = all * embedding(r) * (job.n_x + job.n_y);
    // Parts of the columns' log-sums, then log-sums and coefficients of all rows and columns.
    let logs = all * 8.0 * (2.0 * job.n_x + 3.0 * job.n_y);
    let mut cross = all * bytes * columns * narrow + sum(d1 * d2);
    let mut back = 0.0;
    let mut samples = 1.0;
    if let Some(m) = job.sample() {
        // Rows in shuffled order, and the partners of their positives, most of which are elsewhere.
        let fetched = |n: f64, bytes: f64| all / ranks * n * (4.0 + bytes);
        cross += fetched(rows, bytes * wide) + fetched(rows, bytes * narrow);
        back = fetched(job.n_x + job.n_y, 4.0 * r);
        if m >= 2.0 {
            samples = 3.0;
        }
    }
    let mut steps = Steps {
        screen: 0.0,
        whiten: 0.0,
        // The weights of zeros are made on the host: log-sums and coefficients of all rows.
        zeros: all * 16.0 * (job.n_x + job.n_y) + sum(2.0 * narrow) + sum(d1 * d2) + triplets,
        encode: map(r, d1 + d2),
        pass1: (0.0, embeddings + logs),
        update: (0.0, embeddings + samples * (logs + cross) + triplets),
        gradient: (0.0, back + sum(r * d1) + sum(r * d2)),
        pieces: (columns / PIECE as f64).ceil(),
    };
    if job.whiten {
        steps.whiten = sum(d1 * d1) + sum(d2 * d2) + map(d1, d1) + map(d2, d2);
    }
    steps
}

/// Bytes of device memory of a rank's share of the rows, apart from the program's own buffers.
pub(super) fn memory(job: &Job, stored: f64) -> f64 {
    let most = |n: f64| Shares::new(n, TILE as f64, job.ranks).most();
    let (m_x, m_y) = (most(job.n_x), most(job.n_y));
    let (d1, d2) = job.d;
    let (rows, columns) = if d1 < d2 { (m_y, job.n_x) } else { (m_x, job.n_y) };
    let (wide, narrow) = (d1.max(d2), d1.min(d2));
    let bytes = feature(job, stored);
    let features = memory::features(Side::linear(job.whiten, m_x, d1), Side::linear(job.whiten, m_y, d2));
    let all = if job.ranks > 1.0 { job.n_x + job.n_y } else { 0.0 };
    // Products of a block of rows; of several ranks, those of all its rows. Values are brought down to 16 bits where they
    // are not so stored.
    let product = if job.ranks > 1.0 { rows } else { rows.min(PIECE as f64) };
    let narrowed = if bytes > 2.0 { 2.0 } else { 0.0 };
    let values =
        if job.ranks > 1.0 { columns.min(PIECE as f64) * (bytes + narrowed) } else { columns * narrowed };
    let fetched = if job.sample().is_some() && job.ranks > 1.0 { bytes * rows * wide } else { 0.0 };
    let gradients = if job.gradients > 0.0 { 4.0 * job.dim * (m_x + m_y) } else { 0.0 };
    bytes * features
        + embedding(job.dim) * (m_x + m_y + all)
        + 4.0 * product * narrow
        + values * narrow
        + fetched
        + gradients
        + 3.0 * 8.0 * d1 * d2
}
