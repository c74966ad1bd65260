//! What masked entries add to a product: their weights are found in float64 on the host and multiplied on the device.

use super::Cuda;
use super::grid::{Entries, sorted_masked};
use super::matrix::{Data, Matrix, PANEL, Panels, panels_of};
use super::memory::Buffer;
use super::ranks::PIECE;
use super::rows::{AddEntries, EntryValues, Rows};
use crate::error::Result;
use crate::similarity::Weights;
use crate::similarity::schedule::TileSchedule;
use crate::threads;
use rayon::prelude::*;
use std::ops::Range;

/// The masked entries of some rows, by position.
pub(super) struct Masked {
    entries: Entries,
    coefficient: Buffer<f32>,
    /// The first row position.
    first: usize,
    cols: usize,
    /// The columns that the entries meet, ascending, where the entries count along these: other ranks have some of them.
    met: Option<Vec<u32>>,
}

impl Masked {
    /// Of the row positions `own`; `value(i, j)` is what is to be added for an entry by sample.
    pub(super) fn new(
        cuda: &Cuda,
        w: &Weights,
        schedule: &TileSchedule,
        own: Range<usize>,
        value: impl Fn(usize, usize) -> f64 + Sync,
    ) -> Result<Self> {
        let p = &w.positives;
        let of_position = |position: usize| -> (Vec<u32>, Vec<f32>) {
            let i = schedule.row_id(position);
            let columns = sorted_masked(&w.loss, p, i);
            let values = columns.iter().map(|&j| value(i, j as usize) as f32).collect();
            (columns, values)
        };
        let first = own.start;
        let (lists, values): (Vec<Vec<u32>>, Vec<Vec<f32>>) =
            threads::run(|| own.into_par_iter().map(of_position).unzip());
        let met = (cuda.group.size() > 1).then(|| {
            let mut met = lists.concat();
            met.sort_unstable();
            met.dedup();
            met
        });
        let place = |j: u32| met.as_ref().map_or(j as usize, |met| met.partition_point(|m| *m < j)) as i32;
        let lists: Vec<Vec<i32>> = lists.into_iter().map(|l| l.into_iter().map(place).collect()).collect();
        let entries = Entries::new(cuda, &lists, "positives")?;
        let coefficient = cuda.device.upload(&values.concat(), "coefficients of positives")?;
        Ok(Self { entries, coefficient, first, cols: p.n_y(), met })
    }

    /// `out <- alpha out + factor (entries x V)` on row positions; `v` by sample. A collective.
    pub(super) fn add(
        &self,
        cuda: &Cuda,
        rows: Range<usize>,
        v: &Matrix,
        [alpha, factor]: [f32; 2],
        out: Rows<'_, f32>,
    ) -> Result<()> {
        let rows = rows.start - self.first..rows.end - self.first;
        let add = |values: EntryValues<'_>, cols: Range<usize>| {
            let add = AddEntries {
                entries: self.entries.csr(),
                coefficient: self.coefficient.view(),
                factor,
                row_of: None,
                rows: rows.clone(),
                alpha: if cols.start == 0 { alpha } else { 1.0 },
                cols,
                out,
            };
            cuda.device.add_entries(values, &add)
        };
        let Some(met) = &self.met else {
            if let Some(values) = on_device(cuda, v)? {
                return add(values, 0..self.cols);
            }
            let mut panels = Panels::new(cuda, v, None)?;
            return panels_of(0..self.cols, PANEL).try_for_each(|cols| {
                let values = Rows::dense(panels.get(cols.clone())?, cols.len(), v.cols())?;
                add(EntryValues::Wide(values), cols)
            });
        };
        // The rows of V that the entries meet are fetched, some at a time, equally often on every rank.
        let layout = cuda.layout(v.all_rows());
        let pieces = cuda.group.concat(vec![met.len().div_ceil(PIECE) as u64])?;
        let pieces = pieces.into_iter().max().unwrap_or(0).max(1) as usize;
        for k in 0..pieces {
            let cols = (k * PIECE).min(met.len())..((k + 1) * PIECE).min(met.len());
            let fetched = cuda.fetch(v, &met[cols.clone()], &|j| layout.owner(j))?;
            match on_device(cuda, &fetched)? {
                // Where none are left there is nothing to add, but the rows may still have to be scaled.
                Some(_) if k > 0 && cols.is_empty() => {}
                Some(values) => add(values, cols)?,
                None => return Err(crate::Error::Cuda("internal: fetched rows on the host".into())),
            }
        }
        Ok(())
    }
}

/// The rows of a matrix as the kernel takes them, where they lie on the device.
fn on_device<'a>(cuda: &Cuda, v: &'a Matrix) -> Result<Option<EntryValues<'a>>> {
    let (n, d) = (v.rows(), v.cols());
    Ok(match v.data() {
        Data::Wide(buffer) => Some(EntryValues::Wide(Rows::dense(buffer.view(), n, d)?)),
        Data::Narrow(stored, buffer) => {
            Some(EntryValues::Narrow(*stored, Rows::dense(buffer.view(), n, d)?, 0))
        }
        Data::Embedded(depth, buffer) => {
            let values = Rows::dense(buffer.view(), n, 2 * depth)?;
            Some(EntryValues::Narrow(cuda.mode.narrow(), values, *depth))
        }
        Data::HostWide(_) | Data::HostNarrow(..) => None,
    })
}
