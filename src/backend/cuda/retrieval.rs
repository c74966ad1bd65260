//! Streaming retrieval: best items per query and ranks of the best positive, without an `n x m` matrix. Similarities come
//! from three products of split embeddings in every mode: search is not where the time goes.

use super::grid::{Entries, Sides};
use super::matrix::{Matrix, panels_of};
use super::params::{Csr, Ranks, TopK as TopKParams};
use super::sweeps::Launch;
use super::{Cuda, Phase};
use crate::backend::{Standing, TopK};
use crate::error::Result;
use crate::positives::Positives;

const PRODUCTS: usize = 3;
const BLOCKS: usize = 512;
/// Rows of a launch.
const ROWS: usize = 8192;
/// Places in the partial lists of a launch.
const PLACES: usize = 1 << 24;
/// The column of a place that nothing took.
const NOTHING: i32 = i32::MAX;
/// Counts of a row: wrong items before its best positive, as similar ones, and those of them in a lower column.
const COUNTS: usize = 3;

impl Cuda {
    pub(super) fn search(&self, queries: &Matrix, items: &Matrix, k: usize) -> Result<TopK> {
        let (n, m) = (queries.rows(), items.rows());
        let k = k.min(m);
        let mut out = TopK::room(n, k)?;
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
            let scores = device.download(value.part(0..places)?)?;
            let indices = device.download(index.part(0..places)?)?;
            for (scores, indices) in scores.chunks_exact(k).zip(indices.chunks_exact(k)) {
                // Places that nothing took, because scores were not numbers, are the last.
                let taken = indices.iter().position(|&j| j == NOTHING).unwrap_or(k);
                let best = scores[..taken].iter().zip(&indices[..taken]);
                out.push(best.map(|(&score, &j)| (score, j as u32)));
            }
            self.report(Phase::Retrieval, rows.end, n)?;
        }
        Ok(out)
    }

    /// Of the rows `own`; both sides are whole.
    pub(super) fn stand(
        &self,
        (zx, zy): (&Matrix, &Matrix),
        positives: &Positives,
        exclude_self: bool,
        own: std::ops::Range<usize>,
    ) -> Result<Vec<Standing>> {
        let (device, n, m) = (&self.device, positives.n_x(), positives.n_y());
        let sides = Sides::new(self, zx, zy)?;
        let z = sides.embeddings(PRODUCTS)?;
        // Rounded as the rivals are, so that equal items tie exactly.
        let s = sides.rounded_positives(positives, PRODUCTS)?;
        // Nothing is before, or equal to, what a row without a positive to find has.
        let (mut best, mut best_index) = (vec![f32::INFINITY; n], vec![0i32; n]);
        let mut standings = vec![Standing::default(); n];
        for i in 0..n {
            let first = positives.row_offset(i);
            let (mut held, mut equal): (Option<(f32, u32)>, u32) = (None, 0);
            for (&j, &s) in positives.row(i).iter().zip(&s[first..]) {
                let is_self = exclude_self && i == j as usize;
                match held {
                    _ if is_self || s.is_nan() => {}
                    Some((best, _)) if s < best => {}
                    Some((best, _)) if s == best => equal += 1,
                    _ => (held, equal) = (Some((s, j)), 1),
                }
            }
            if let Some((s, j)) = held {
                (best[i], best_index[i], standings[i].positives) = (s, j as i32, equal);
            }
        }
        // What is left out is no wrong item.
        let left_out = if exclude_self { positives.with_self()? } else { positives.clone() };
        let lists: Vec<Vec<i32>> =
            (0..n).map(|i| left_out.row(i).iter().map(|&j| j as i32).collect()).collect();
        let entries = Entries::new(self, &lists, "positives")?;
        let (best, best_index) =
            (device.upload(&best, "best positives")?, device.upload(&best_index, "best positives")?);
        let counts = device.alloc::<i32>(COUNTS * n, "counts of wrong items")?;
        for rows in panels_of(own.clone(), ROWS) {
            let l = Launch::new(z, entries.csr(), 0, rows.clone(), 0..m, BLOCKS);
            let places = l.row_parts() * l.rows();
            let parts = device.alloc::<i32>(COUNTS * places, "partial counts")?;
            let p = Ranks {
                sweep: l.sweep,
                best: best.view().ptr,
                best_index: best_index.view().ptr,
                count: parts.view().ptr,
            };
            // SAFETY: whole embeddings, a positive for each row, and counts of the launch's size.
            unsafe { device.ranks(self.mode.narrow(), &l, &p) }?;
            for c in 0..COUNTS {
                let of = parts.view().part(c * places..(c + 1) * places)?;
                let to = counts.view().part(c * n + rows.start..c * n + rows.end)?;
                device.merge_counts(of, l.row_parts(), to)?;
            }
            self.report(Phase::Retrieval, rows.end, n)?;
        }
        let count = |c: usize| device.download(counts.view().part(c * n + own.start..c * n + own.end)?);
        let (ahead, tied, before) = (count(0)?, count(1)?, count(2)?);
        let counted = ahead.into_iter().zip(tied).zip(before).zip(&standings[own]);
        let made = |(((ahead, tied), before), standing): (((i32, i32), i32), &Standing)| {
            let counts = [ahead, tied, before].map(|c| if standing.is_found() { c as u32 } else { 0 });
            Standing { ahead: counts[0], tied: counts[1], tied_before: counts[2], ..*standing }
        };
        Ok(counted.map(made).collect())
    }
}
