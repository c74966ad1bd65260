//! Streaming retrieval: best items per query and ranks of the best positive, without an `n x m` matrix. Similarities come
//! from three products of split embeddings in every mode: search is not where the time goes.

use super::grid::{Entries, Sides};
use super::matrix::{Matrix, panels_of};
use super::params::{Csr, Ranks, TopK as TopKParams};
use super::sweeps::Launch;
use super::{Cuda, Phase};
use crate::backend::{Ties, TopK};
use crate::error::Result;
use crate::positives::Positives;

const PRODUCTS: usize = 3;
const BLOCKS: usize = 512;
/// Rows of a launch.
const ROWS: usize = 8192;
/// Places in the partial lists of a launch.
const PLACES: usize = 1 << 24;

impl Cuda {
    pub(super) fn search(&self, queries: &Matrix, items: &Matrix, k: usize) -> Result<TopK> {
        let (n, m) = (queries.rows(), items.rows());
        let k = k.min(m);
        let mut out = TopK { k, scores: Vec::with_capacity(n * k), indices: Vec::with_capacity(n * k) };
        if k == 0 || n == 0 {
            return Ok(out);
        }
        let device = &self.device;
        let sides = Sides::new(self, queries, items)?;
        let z = sides.embeddings(PRODUCTS)?;
        // Long lists are joined slowly, so few of them are made.
        let blocks = if k > 64 { 1 } else { BLOCKS };
        let nothing = Csr { offsets: 0, columns: 0 };
        let lists = Launch::new(z, nothing, 0, 0..ROWS.min(n), 0..m, blocks).row_parts();
        let panel = (PLACES / (lists * k)).clamp(128, ROWS) / 128 * 128;
        for rows in panels_of(0..n, panel) {
            let l = Launch::new(
                z,
                nothing,
                0,
                rows.clone(),
                0..m,
                blocks.min(lists / 4 * rows.len().div_ceil(128)),
            );
            let places = l.row_parts() * l.rows() * k;
            let value = device.alloc::<f32>(places, "lists of best items")?;
            let index = device.alloc::<i32>(places, "lists of best items")?;
            let (value, index) = (value.view(), index.view());
            let p =
                TopKParams { sweep: l.sweep, k: k as i32, reserved: 0, value: value.ptr, index: index.ptr };
            // SAFETY: whole embeddings, and lists of the sizes that the launch has.
            unsafe { device.top_k(self.mode.narrow(), &l, &p) }?;
            let places = rows.len() * k;
            out.scores.extend(device.download(value.part(0..places)?)?);
            out.indices.extend(device.download(index.part(0..places)?)?.into_iter().map(|j| j as u32));
            self.report(Phase::Retrieval, rows.end, n)?;
        }
        for (scores, indices) in out.scores.chunks_mut(k).zip(out.indices.chunks_mut(k)) {
            complete(scores, indices);
        }
        Ok(out)
    }

    /// Of the rows `own`; both sides are whole.
    pub(super) fn rank_positives(
        &self,
        (zx, zy): (&Matrix, &Matrix),
        positives: &Positives,
        ties: Ties,
        own: std::ops::Range<usize>,
    ) -> Result<Vec<u32>> {
        let (device, n, m) = (&self.device, positives.n_x(), positives.n_y());
        let sides = Sides::new(self, zx, zy)?;
        let z = sides.embeddings(PRODUCTS)?;
        // Rounded as the rivals are, so that equal items tie exactly.
        let s = sides.rounded_positives(positives, PRODUCTS)?;
        let (mut best, mut best_index) = (vec![f32::INFINITY; n], vec![0i32; n]);
        for i in 0..n {
            let first = positives.row_offset(i);
            let mut held: Option<(f32, u32)> = None;
            for (&j, &s) in positives.row(i).iter().zip(&s[first..]) {
                if held.is_none_or(|(best, _)| s > best) {
                    held = Some((s, j));
                }
            }
            if let Some((s, j)) = held {
                // With shared ranks nobody wins a tie: no column is before column 0.
                (best[i], best_index[i]) = (s, if ties == Ties::Shared { 0 } else { j as i32 });
            }
        }
        let lists: Vec<Vec<i32>> =
            (0..n).map(|i| positives.row(i).iter().map(|&j| j as i32).collect()).collect();
        let entries = Entries::new(self, &lists, "positives")?;
        let (best, best_index) =
            (device.upload(&best, "best positives")?, device.upload(&best_index, "best positives")?);
        let ranks = device.alloc::<i32>(n, "ranks")?;
        for rows in panels_of(own.clone(), ROWS) {
            let l = Launch::new(z, entries.csr(), 0, rows.clone(), 0..m, BLOCKS);
            let parts = device.alloc::<i32>(l.row_parts() * l.rows(), "partial counts")?;
            let p = Ranks {
                sweep: l.sweep,
                best: best.view().ptr,
                best_index: best_index.view().ptr,
                count: parts.view().ptr,
            };
            // SAFETY: whole embeddings, a positive for each row, and counts of the launch's size.
            unsafe { device.ranks(self.mode.narrow(), &l, &p) }?;
            device.merge_counts(parts.view(), l.row_parts(), ranks.view().part(rows.clone())?)?;
            self.report(Phase::Retrieval, rows.end, n)?;
        }
        let ranks = device.download(ranks.view().part(own.clone())?)?;
        let of_row =
            |(i, rank): (usize, i32)| if positives.row(i).is_empty() { u32::MAX } else { rank as u32 };
        Ok(own.zip(ranks).map(of_row).collect())
    }
}

/// Places that nothing took, because scores were not numbers: the lowest items that are not in the list, with NaN.
fn complete(scores: &mut [f32], indices: &mut [u32]) {
    let taken = indices.iter().position(|&j| j == i32::MAX as u32).unwrap_or(indices.len());
    let (held, free) = indices.split_at_mut(taken);
    let mut next = 0u32;
    for (index, score) in free.iter_mut().zip(&mut scores[taken..]) {
        while held.contains(&next) {
            next += 1;
        }
        (*index, *score) = (next, f32::NAN);
        next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_cut_short_by_nan_are_completed() {
        let nothing = i32::MAX as u32;
        let (mut scores, mut indices) =
            (vec![0.5, 0.1, f32::NEG_INFINITY, f32::NEG_INFINITY], vec![1, 0, nothing, nothing]);
        complete(&mut scores, &mut indices);
        assert_eq!(indices, [1, 0, 2, 3]);
        assert!(scores[2].is_nan() && scores[3].is_nan() && scores[1] == 0.1);
        let (mut scores, mut indices) = (vec![0.5], vec![7]);
        complete(&mut scores, &mut indices);
        assert_eq!((scores[0], indices[0]), (0.5, 7));
    }
}
