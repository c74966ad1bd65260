//! The similarity matrix as a device sees it: embeddings of both sides in the order of the schedule, the entries that dense
//! tiles leave out, and which rows meet which columns.

use super::Cuda;
use super::hopper::{self, Lazily, Packed};
use super::matrix::{Embedded, Matrix, Order, depth_of};
use super::memory::Buffer;
use super::params::{Csr, Embeddings};
use super::rows::Rows;
use super::sweeps::{Launch, TILE, embeddings};
use crate::distributed::Layout;
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::masked::{diagonal_apart, masked_of_row};
use crate::similarity::schedule::TileSchedule;
use crate::threads;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Rows and columns of a panel of weights: 32 MiB of 16-bit numbers, which the L2 of the large cards keeps between the
/// kernel that writes them and the product that reads them.
pub(super) const WEIGHT_ROWS: usize = 4096;
pub(super) const WEIGHT_COLS: usize = 4096;
/// Blocks of a launch that writes a panel: two for each multiprocessor of the largest cards.
pub(super) const BLOCKS: usize = 256;
/// Pairs whose similarities are found in one launch.
const PAIRS: usize = 1 << 24;

/// A list of columns for every row, on the device.
pub(super) struct Entries {
    pub(super) offsets: Buffer<i64>,
    pub(super) columns: Buffer<i32>,
}

impl Entries {
    pub(super) fn new(cuda: &Cuda, lists: &[Vec<i32>], what: &str) -> Result<Self> {
        let mut offsets = Vec::with_capacity(lists.len() + 1);
        offsets.push(0i64);
        let mut total = 0;
        for list in lists {
            total += list.len() as i64;
            offsets.push(total);
        }
        let columns = lists.concat();
        Ok(Self {
            offsets: cuda.device.upload(&offsets, what)?,
            columns: cuda.device.upload(&columns, what)?,
        })
    }

    pub(super) fn csr(&self) -> Csr {
        Csr { offsets: self.offsets.view().ptr, columns: self.columns.view().ptr }
    }
}

/// The masked columns of the row of sample `i`, ascending.
pub(super) fn sorted_masked(loss: &Loss, positives: &Positives, i: usize) -> Vec<u32> {
    let mut row: Vec<u32> = masked_of_row(loss, positives, i).map(|j| j as u32).collect();
    row.sort_unstable();
    row
}

/// Embeddings of both sides by sample, as an operation was given them.
pub(super) struct Sides<'a> {
    pub(super) cuda: &'a Cuda,
    x: Embedded<'a>,
    y: Embedded<'a>,
    n: (usize, usize),
    pub(super) depth: usize,
}

impl<'a> Sides<'a> {
    pub(super) fn new(cuda: &'a Cuda, zx: &'a Matrix, zy: &'a Matrix) -> Result<Self> {
        let (x, y) = (cuda.embedded(zx, None)?, cuda.embedded(zy, None)?);
        Ok(Self { cuda, x, y, n: (zx.rows(), zy.rows()), depth: depth_of(zx.cols()) })
    }

    pub(super) fn embeddings(&self, products: usize) -> Result<Embeddings> {
        let width = 2 * self.depth;
        let x = Rows::dense(self.x.view(), self.n.0, width)?;
        embeddings(x, Rows::dense(self.y.view(), self.n.1, width)?, self.depth, products)
    }

    /// Exact similarities of listed pairs.
    fn products(&self, rows: &[i32], cols: &[i32]) -> Result<Vec<f64>> {
        let (device, z) = (&self.cuda.device, self.embeddings(1)?);
        let mut out = Vec::with_capacity(rows.len());
        for (rows, cols) in rows.chunks(PAIRS).zip(cols.chunks(PAIRS)) {
            let (rows, cols) = (device.upload(rows, "pairs")?, device.upload(cols, "pairs")?);
            let found = device.alloc::<f64>(rows.len(), "similarities of pairs")?;
            let narrow = self.cuda.mode.narrow();
            device.pair_products(narrow, z, (rows.view(), cols.view()), found.view())?;
            out.extend(device.download(found.view())?);
        }
        Ok(out)
    }

    /// Similarities of all positive pairs as the search kernels round them, row by row.
    pub(super) fn rounded_positives(&self, positives: &Positives, products: usize) -> Result<Vec<f32>> {
        let (device, z) = (&self.cuda.device, self.embeddings(products)?);
        let (rows, cols) = listed(positives);
        let mut out = Vec::with_capacity(rows.len());
        for (rows, cols) in rows.chunks(PAIRS).zip(cols.chunks(PAIRS)) {
            let (rows, cols) = (device.upload(rows, "pairs")?, device.upload(cols, "pairs")?);
            let found = device.alloc::<f32>(rows.len(), "similarities of pairs")?;
            let narrow = self.cuda.mode.narrow();
            device.pair_similarities(narrow, z, (rows.view(), cols.view()), found.view())?;
            out.extend(device.download(found.view())?);
        }
        Ok(out)
    }
}

/// All positive pairs, row by row.
fn listed(positives: &Positives) -> (Vec<i32>, Vec<i32>) {
    let nnz = positives.nnz();
    let (mut rows, mut cols) = (Vec::with_capacity(nnz), Vec::with_capacity(nnz));
    for i in 0..positives.n_x() {
        let row = positives.row(i);
        rows.extend(row.iter().map(|_| i as i32));
        cols.extend(row.iter().map(|&j| j as i32));
    }
    (rows, cols)
}

/// Exact similarities of the pairs that tiles leave out.
pub(super) struct Pairs {
    positives: Positives,
    /// Of positives, row by row.
    pub(super) s: Vec<f64>,
    /// Of diagonal pairs, where the loss weighs them apart.
    diagonal: Vec<f64>,
}

impl Pairs {
    pub(super) fn new(sides: &Sides<'_>, loss: &Loss, positives: &Positives) -> Result<Self> {
        let (rows, cols) = listed(positives);
        let s = sides.products(&rows, &cols)?;
        let apart: Vec<i32> =
            (0..positives.n_x()).filter(|&i| diagonal_apart(loss, positives, i)).map(|i| i as i32).collect();
        let mut diagonal = Vec::new();
        if !apart.is_empty() {
            diagonal.resize(positives.n_x(), f64::NAN);
            for (&i, s) in apart.iter().zip(sides.products(&apart, &apart)?) {
                diagonal[i as usize] = s;
            }
        }
        Ok(Self { positives: positives.clone(), s, diagonal })
    }

    /// The similarity of a listed pair; NaN for any other.
    pub(super) fn at(&self, i: usize, j: usize) -> f64 {
        match self.positives.row(i).binary_search(&(j as u32)) {
            Ok(place) => self.s[self.positives.row_offset(i) + place],
            Err(_) if i == j => self.diagonal.get(i).copied().unwrap_or(f64::NAN),
            Err(_) => f64::NAN,
        }
    }
}

/// The grid of similarities by position, with everything a sweep needs.
pub(super) struct Grid<'a> {
    pub(super) cuda: &'a Cuda,
    pub(super) schedule: TileSchedule,
    pub(super) loss: &'a Loss,
    pub(super) positives: Positives,
    pub(super) order_x: Option<Arc<Order>>,
    pub(super) order_y: Option<Arc<Order>>,
    x: Arc<Embedded<'a>>,
    y: Arc<Embedded<'a>>,
    pub(super) depth: usize,
    /// Both sides for the Hopper kernels.
    packed: Lazily<Packed>,
    entries: Entries,
    /// Row positions of this rank.
    pub(super) own: Range<usize>,
}

impl<'a> Grid<'a> {
    pub(super) fn new(
        cuda: &'a Cuda,
        (zx, zy): (&'a Matrix, &'a Matrix),
        loss: &'a Loss,
        positives: &Positives,
        schedule: TileSchedule,
    ) -> Result<Self> {
        let (order_x, order_y) = (cuda.order(schedule.x_ids())?, cuda.order(schedule.y_ids())?);
        let x = Arc::new(cuda.embedded(zx, order_x.as_deref())?);
        let y = Arc::new(cuda.embedded(zy, order_y.as_deref())?);
        let entries = left_out(cuda, &schedule, loss, positives)?;
        let (positives, depth, own) =
            (positives.clone(), depth_of(zx.cols()), cuda.positions_of(&schedule).own());
        let packed = Lazily::new();
        Ok(Self { cuda, schedule, loss, positives, order_x, order_y, x, y, depth, packed, entries, own })
    }

    /// The same grid seen from the other side.
    pub(super) fn transposed(&self) -> Result<Self> {
        let (schedule, positives) = (self.schedule.transposed(), self.positives.transposed());
        let entries = left_out(self.cuda, &schedule, self.loss, &positives)?;
        Ok(Self {
            cuda: self.cuda,
            own: self.cuda.positions_of(&schedule).own(),
            schedule,
            loss: self.loss,
            positives,
            order_x: self.order_y.clone(),
            order_y: self.order_x.clone(),
            x: self.y.clone(),
            y: self.x.clone(),
            depth: self.depth,
            packed: Lazily::new(),
            entries,
        })
    }

    /// How the column positions are shared out, as rows of the transposed grid would be.
    pub(super) fn columns_of_ranks(&self) -> Layout {
        self.cuda.group.layout(self.schedule.n_y(), self.schedule.tile())
    }

    /// Rows of this rank that meet the same columns: everything in natural order, or the schedule's panels, which no two ranks
    /// share.
    pub(super) fn visits(&self) -> Vec<(Range<usize>, Vec<Range<usize>>)> {
        if !self.schedule.is_sampled() {
            let all = std::iter::once(0..self.positives.n_y()).collect();
            return vec![(self.own.clone(), all)];
        }
        (0..self.schedule.panels())
            .filter(|&p| self.own.contains(&self.schedule.panel(p).start))
            .map(|p| {
                let mut cols: Vec<Range<usize>> = Vec::new();
                for tile in self.schedule.tiles(p) {
                    match cols.last_mut() {
                        Some(last) if last.end == tile.start => last.end = tile.end,
                        _ => cols.push(tile),
                    }
                }
                (self.schedule.panel(p), cols)
            })
            .collect()
    }

    /// Products of halves that make a similarity.
    pub(super) fn products(&self) -> usize {
        self.cuda.mode.products(self.depth)
    }

    fn embeddings(&self, products: usize) -> Result<Embeddings> {
        let width = 2 * self.depth;
        let x = Rows::dense(self.x.view(), self.positives.n_x(), width)?;
        embeddings(x, Rows::dense(self.y.view(), self.positives.n_y(), width)?, self.depth, products)
    }

    /// A launch over rows and columns by position.
    pub(super) fn launch(&self, rows: Range<usize>, cols: Range<usize>, blocks: usize) -> Result<Launch> {
        let z = self.embeddings(self.products())?;
        Ok(Launch::new(z, self.entries.csr(), 0, rows, cols, blocks))
    }

    /// Both sides for the Hopper kernels, where these serve the grid.
    pub(super) fn packed(&self) -> Result<Option<&Packed>> {
        let (x, y) = ((&*self.x, self.positives.n_x()), (&*self.y, self.positives.n_y()));
        self.packed.get(|| Packed::new(self.cuda, x, y, self.depth, self.products()))
    }

    /// Rows of a strip of [`launch_clip`](Self::launch_clip).
    pub(super) fn strip(&self) -> Result<usize> {
        Ok(if self.packed()?.is_some() { hopper::SWEEP_ROWS } else { TILE })
    }

    /// Blocks of a launch that writes a panel of the clip loss: a Hopper block has a multiprocessor to itself.
    pub(super) fn panel_blocks(&self) -> Result<usize> {
        let packed = self.packed()?.is_some();
        Ok(if packed { self.cuda.device.info.processors as usize } else { BLOCKS })
    }

    /// A launch over rows and columns by position for the clip loss, of the Hopper kernels where they serve the grid.
    pub(super) fn launch_clip(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        blocks: usize,
    ) -> Result<Launch> {
        match self.packed()? {
            Some(packed) => packed.launch(&self.cuda.device, self.entries.csr(), rows, cols, blocks),
            None => self.launch(rows, cols, blocks),
        }
    }

    /// The same for the fused kernel on V that was packed `padded` wide.
    pub(super) fn launch_packed(
        &self,
        packed: &Packed,
        rows: Range<usize>,
        cols: Range<usize>,
        padded: usize,
    ) -> Result<Launch> {
        packed.launch_fused(&self.cuda.device, self.entries.csr(), rows, cols, padded)
    }

    /// A launch whose rows stand for the rows `row_of` of the grid.
    pub(super) fn launch_mapped(
        &self,
        row_of: &Buffer<i32>,
        rows: Range<usize>,
        cols: Range<usize>,
        blocks: usize,
    ) -> Result<Launch> {
        row_of.view().holds(rows.end)?;
        let z = self.embeddings(self.products())?;
        Ok(Launch::new(z, self.entries.csr(), row_of.view().ptr, rows, cols, blocks))
    }
}

/// What dense tiles leave out, by position.
fn left_out(cuda: &Cuda, schedule: &TileSchedule, loss: &Loss, positives: &Positives) -> Result<Entries> {
    let of_row = |position: usize| {
        let row = sorted_masked(loss, positives, schedule.row_id(position));
        let mut row: Vec<i32> = row.iter().map(|&j| schedule.col_position(j as usize) as i32).collect();
        if schedule.is_sampled() {
            row.sort_unstable();
        }
        row
    };
    let lists: Vec<Vec<i32>> = threads::run(|| (0..positives.n_x()).into_par_iter().map(of_row).collect());
    Entries::new(cuda, &lists, "positives")
}
