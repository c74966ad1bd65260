//! Launches of the dense kernels: which blocks, how much shared memory, how many partial results.

use super::device::Device;
use super::kernels::{Name, THREADS, argument};
use super::params::{
    AdditiveSums, AdditiveWeights, Argument, ClipFused, ClipStats, ClipWeights, Csr, Embeddings, Ptr, Ranks,
    Sweep, TopK,
};
use super::precision::{Mode, Narrow};
use super::rows::Rows;
use crate::error::{Error, Result};
use crate::loss::LossKind;
use std::ops::Range;

/// Rows and columns of a tile, and columns of embeddings in a stage: `cuda/tiles.cuh`.
pub(super) const TILE: usize = 128;
const DEPTH: usize = 64;
const STAGES: usize = 3;
const TILE_BYTES: usize = TILE * DEPTH * 2;
const MASK_BYTES: usize = TILE * TILE / 8;
/// Most column tiles of a block: 8,192 terms keep a partial sum exact to about 1e-6.
const MOST_TILES: usize = 64;
/// Columns that one launch of the fused kernel adds up, 256 steps of its accumulators: tensor cores cut sums off instead of
/// rounding them, so long ones drift.
pub(super) const FUSED_COLS: usize = 4096;
/// Width of V in one block of the fused kernel.
pub(super) const FUSED_WIDTH: usize = 128;
const FUSED_TILE: usize = 64;

/// Rows against columns of one launch, with its grid.
#[derive(Clone, Copy)]
pub(super) struct Launch {
    pub(super) sweep: Sweep,
    pub(super) grid: (usize, usize),
    pub(super) threads: u32,
    pub(super) shared: u32,
    /// Partial results of a row in each group of columns, and of a column in each strip of rows.
    pub(super) parts: (usize, usize),
    /// Whether it is one of the kernels of `hopper.rs`.
    pub(super) hopper: bool,
}

impl Launch {
    /// `blocks` is about how many blocks there should be: each takes a strip of 128 rows and some column tiles.
    pub(super) fn new(
        mut z: Embeddings,
        masked: Csr,
        row_of: Ptr,
        rows: Range<usize>,
        cols: Range<usize>,
        blocks: usize,
    ) -> Self {
        let strips = rows.len().div_ceil(TILE);
        let col_tiles = cols.len().div_ceil(TILE);
        let (tiles, groups) = column_groups(blocks, strips, col_tiles);
        let halves = if z.products == 1 { 1 } else { 2 };
        let chunks = (z.depth as usize).div_ceil(DEPTH) * halves;
        // Rows stay in shared memory for the whole sweep where that takes no more of it than passing them through.
        let resident = chunks <= STAGES;
        z.resident = i32::from(resident);
        let slots = STAGES + if resident { chunks } else { STAGES };
        let sweep = Sweep {
            z,
            masked,
            row_of,
            row_begin: rows.start as i32,
            row_end: rows.end as i32,
            col_begin: cols.start as i32,
            col_end: cols.end as i32,
            tiles_per_block: tiles as i32,
            reserved: 0,
        };
        let shared = (slots * TILE_BYTES + MASK_BYTES + 16) as u32;
        // Four warps side by side share a row, two a column.
        Self { sweep, grid: (strips, groups), threads: THREADS, shared, parts: (4, 2), hopper: false }
    }

    /// The same sweep for the fused kernel: strips of 128 rows, each of all columns, and `shared` bytes of shared memory.
    pub(super) fn fused(self, width: usize, shared: u32) -> Self {
        Self { grid: (self.grid.0, width.div_ceil(FUSED_WIDTH)), shared, ..self }
    }

    pub(super) fn rows(&self) -> usize {
        (self.sweep.row_end - self.sweep.row_begin) as usize
    }

    pub(super) fn cols(&self) -> usize {
        (self.sweep.col_end - self.sweep.col_begin) as usize
    }

    /// Partial results of a row.
    pub(super) fn row_parts(&self) -> usize {
        self.grid.1 * self.parts.0
    }

    /// Partial results of a column.
    pub(super) fn col_parts(&self) -> usize {
        self.grid.0 * self.parts.1
    }
}

/// Column tiles of a block and how many blocks share a strip of rows, for about `blocks` blocks in all.
pub(super) fn column_groups(blocks: usize, strips: usize, col_tiles: usize) -> (usize, usize) {
    let fewest = col_tiles.div_ceil(MOST_TILES);
    let groups = blocks.div_ceil(strips.max(1)).clamp(fewest.max(1), col_tiles.max(1));
    let tiles = col_tiles.div_ceil(groups).max(1);
    (tiles, col_tiles.div_ceil(tiles))
}

impl Device {
    /// Enqueues a dense kernel whose one parameter is `p`.
    ///
    /// # Safety
    /// What `p` points to holds what the kernel reads and writes.
    unsafe fn sweep<P: Argument>(
        &self,
        family: &'static str,
        kernel: &'static str,
        l: &Launch,
        p: &P,
    ) -> Result<()> {
        let name = Name { family, kernel };
        // SAFETY: by this function's contract.
        unsafe { self.kernels.launch_blocks(name, l.grid, l.threads, l.shared, &mut [argument(p)]) }
    }

    /// Partial sums of `2^(scale s - shift)`; with maxima, the robust form. The caller sizes them by [`Launch`].
    ///
    /// # Safety
    /// The sweep's pointers and the four results hold what `clip_stats.cu` says.
    pub(super) unsafe fn clip_stats(
        &self,
        narrow: Narrow,
        robust: bool,
        l: &Launch,
        p: &ClipStats,
    ) -> Result<()> {
        let kernel = match (l.hopper, robust) {
            (false, false) => narrow.pick("clip_stats_f16", "clip_stats_bf16"),
            (false, true) => narrow.pick("clip_stats_robust_f16", "clip_stats_robust_bf16"),
            (true, false) => narrow.pick("hopper_stats_f16", "hopper_stats_bf16"),
            (true, true) => narrow.pick("hopper_stats_robust_f16", "hopper_stats_robust_bf16"),
        };
        // SAFETY: by this function's contract.
        unsafe { self.sweep(if l.hopper { "hopper_stats" } else { "clip_stats" }, kernel, l, p) }
    }

    /// A panel of weights.
    ///
    /// # Safety
    /// The sweep's pointers, the coefficients and the panel hold what `clip_weights.cu` says.
    pub(super) unsafe fn clip_weights(
        &self,
        mode: Mode,
        robust: bool,
        l: &Launch,
        p: &ClipWeights,
    ) -> Result<()> {
        let [portable, hopper] = match (mode, robust) {
            (Mode::Fp16, false) => ["clip_weights_f16", "hopper_weights_f16"],
            (Mode::Bf16, false) => ["clip_weights_bf16", "hopper_weights_bf16"],
            (Mode::Fp32, false) => ["clip_weights_f32", "hopper_weights_f32"],
            (Mode::Fp16, true) => ["clip_weights_robust_f16", "hopper_weights_robust_f16"],
            (Mode::Bf16, true) => ["clip_weights_robust_bf16", "hopper_weights_robust_bf16"],
            (Mode::Fp32, true) => ["clip_weights_robust_f32", "hopper_weights_robust_f32"],
        };
        let (family, kernel) = if l.hopper { ("hopper_weights", hopper) } else { ("clip_weights", portable) };
        // SAFETY: by this function's contract.
        unsafe { self.sweep(family, kernel, l, p) }
    }

    /// Shared memory that the fused kernel needs for embeddings of this depth, if the device has it.
    pub(super) fn fused_shared(&self, depth: usize) -> Option<u32> {
        let chunks = depth.div_ceil(DEPTH);
        let bytes = chunks * (TILE + 2 * FUSED_TILE) * DEPTH * 2 + 2 * FUSED_TILE * FUSED_WIDTH * 2;
        u32::try_from(bytes).ok().filter(|&b| b <= self.info.shared_memory)
    }

    /// Weights times values without a panel, by a launch of [`fused`](Launch::fused) or of `hopper.rs`, whose V is `padded`
    /// columns wide.
    ///
    /// # Safety
    /// The sweep's pointers, the coefficients, the values and the result hold what `clip_fused.cu` or `hopper_fused.cu` says.
    pub(super) unsafe fn clip_fused(
        &self,
        narrow: Narrow,
        robust: bool,
        l: &Launch,
        p: &ClipFused,
    ) -> Result<()> {
        let (family, kernel) = match (l.hopper, robust) {
            (false, false) => ("clip_fused", narrow.pick("clip_fused_f16", "clip_fused_bf16")),
            (false, true) => ("clip_fused", narrow.pick("clip_fused_robust_f16", "clip_fused_robust_bf16")),
            (true, _) => ("hopper_fused", hopper_fused(narrow, robust, p.ld_values as usize)),
        };
        // SAFETY: by this function's contract.
        unsafe { self.sweep(family, kernel, l, p) }
    }

    /// Partial sums of psi and psi' for every row of the sweep.
    ///
    /// # Safety
    /// The sweep's pointers, the thresholds and the two results hold what `additive.cu` says.
    pub(super) unsafe fn additive_sums(
        &self,
        narrow: Narrow,
        loss: LossKind,
        l: &Launch,
        p: &AdditiveSums,
    ) -> Result<()> {
        let kernel = match loss {
            LossKind::Sigmoid => narrow.pick("sigmoid_sums_f16", "sigmoid_sums_bf16"),
            LossKind::TripletHard => narrow.pick("triplet_hard_sums_f16", "triplet_hard_sums_bf16"),
            LossKind::TripletSmooth => narrow.pick("triplet_smooth_sums_f16", "triplet_smooth_sums_bf16"),
            LossKind::Clip | LossKind::Custom => {
                return Err(Error::Cuda(
                    "internal: clip and losses of one's own have no additive sums".into(),
                ));
            }
        };
        // SAFETY: by this function's contract.
        unsafe { self.sweep("additive", kernel, l, p) }
    }

    /// A panel of weights of an additive member.
    ///
    /// # Safety
    /// The sweep's pointers, the lists of positives and the panel hold what `additive.cu` says.
    pub(super) unsafe fn additive_weights(
        &self,
        mode: Mode,
        loss: LossKind,
        l: &Launch,
        p: &AdditiveWeights,
    ) -> Result<()> {
        let kernel = match (loss, mode) {
            (LossKind::Sigmoid, Mode::Fp16) => "sigmoid_weights_f16",
            (LossKind::Sigmoid, Mode::Bf16) => "sigmoid_weights_bf16",
            (LossKind::Sigmoid, Mode::Fp32) => "sigmoid_weights_f32",
            (LossKind::TripletHard, Mode::Fp16) => "triplet_hard_weights_f16",
            (LossKind::TripletHard, Mode::Bf16) => "triplet_hard_weights_bf16",
            (LossKind::TripletHard, Mode::Fp32) => "triplet_hard_weights_f32",
            (LossKind::TripletSmooth, Mode::Fp16) => "triplet_smooth_weights_f16",
            (LossKind::TripletSmooth, Mode::Bf16) => "triplet_smooth_weights_bf16",
            (LossKind::TripletSmooth, Mode::Fp32) => "triplet_smooth_weights_f32",
            (LossKind::Clip | LossKind::Custom, _) => {
                return Err(Error::Cuda(
                    "internal: clip and losses of one's own have no additive weights".into(),
                ));
            }
        };
        // SAFETY: by this function's contract.
        unsafe { self.sweep("additive", kernel, l, p) }
    }

    /// The k best columns of every row, joined into list 0.
    ///
    /// # Safety
    /// The sweep's pointers and the lists hold what `search.cu` says.
    pub(super) unsafe fn top_k(&self, narrow: Narrow, l: &Launch, p: &TopK) -> Result<()> {
        let kernel = narrow.pick("top_k_f16", "top_k_bf16");
        // SAFETY: by this function's contract.
        unsafe { self.sweep("search", kernel, l, p) }?;
        let (lists, rows) = (l.row_parts() as i32, l.rows() as i32);
        let grid = (l.rows().div_ceil(8), 1);
        let mut arguments =
            [argument(&p.value), argument(&p.index), argument(&lists), argument(&rows), argument(&p.k)];
        // SAFETY: the same lists.
        unsafe {
            self.kernels.launch(Name { family: "search", kernel: "merge_top_k" }, grid, 0, &mut arguments)
        }
    }

    /// Partial counts of the columns before every row's best positive.
    ///
    /// # Safety
    /// The sweep's pointers, the positives and the counts hold what `search.cu` says.
    pub(super) unsafe fn ranks(&self, narrow: Narrow, l: &Launch, p: &Ranks) -> Result<()> {
        let kernel = narrow.pick("ranks_f16", "ranks_bf16");
        // SAFETY: by this function's contract.
        unsafe { self.sweep("search", kernel, l, p) }
    }
}

/// The Hopper kernel for V of this width.
fn hopper_fused(narrow: Narrow, robust: bool, padded: usize) -> &'static str {
    match (padded <= 128, robust) {
        (true, false) => narrow.pick("hopper_fused128_f16", "hopper_fused128_bf16"),
        (true, true) => narrow.pick("hopper_fused128_robust_f16", "hopper_fused128_robust_bf16"),
        (false, false) => narrow.pick("hopper_fused256_f16", "hopper_fused256_bf16"),
        (false, true) => narrow.pick("hopper_fused256_robust_f16", "hopper_fused256_robust_bf16"),
    }
}

/// Embeddings of both sides as kernel arguments; checked to be whole rows.
pub(super) fn embeddings(
    rows: Rows<'_, u16>,
    cols: Rows<'_, u16>,
    depth: usize,
    products: usize,
) -> Result<Embeddings> {
    if rows.ld != 2 * depth || cols.ld != 2 * depth {
        return Err(Error::Cuda(format!("internal: embeddings of ld {} and {}", rows.ld, cols.ld)));
    }
    Ok(Embeddings {
        rows: rows.view.ptr,
        cols: cols.view.ptr,
        depth: depth as i32,
        ld: 2 * depth as i32,
        products: products as i32,
        resident: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(n: (usize, usize), r: usize, products: i32, blocks: usize) -> Launch {
        let depth = (r.div_ceil(16) * 16) as i32;
        let z = Embeddings { rows: 0, cols: 0, depth, ld: 2 * depth, products, resident: 0 };
        Launch::new(z, Csr { offsets: 0, columns: 0 }, 0, 0..n.0, 0..n.1, blocks)
    }

    #[test]
    fn grids_cover_the_columns_and_blocks_are_not_too_long() {
        for n_y in [1, 127, 128, 129, 5000, 27_593, 1_000_003] {
            for blocks in [1, 256, 1024] {
                let l = launch((1000, n_y), 128, 1, blocks);
                let tiles = l.sweep.tiles_per_block as usize;
                assert!(tiles <= MOST_TILES && l.grid.1 * tiles * TILE >= n_y, "{n_y}");
                assert!((l.grid.1 - 1) * tiles * TILE < n_y, "an empty block at {n_y}");
                assert_eq!((l.grid.0, l.col_parts()), (8, 16));
            }
        }
    }

    #[test]
    fn shared_memory_fits_the_smallest_supported_card() {
        for (r, products, resident) in
            [(16, 1, 1), (192, 1, 1), (193, 1, 0), (64, 3, 1), (65, 3, 0), (4096, 3, 0)]
        {
            let l = launch((256, 256), r, products, 1);
            assert_eq!(l.sweep.z.resident, resident, "{r} {products}");
            assert!(l.shared <= 99 << 10, "{}", l.shared);
        }
    }
}
