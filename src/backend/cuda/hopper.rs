//! The kernels for compute capability 9.0 (`cuda/hopper_*.cu`): which device takes them, operands packed as they want
//! them, and their launches. They serve the clip loss over embeddings of up to 256 columns (128 with three products);
//! everything else, and every device of another architecture, takes the portable kernels.

use super::Cuda;
use super::device::Device;
use super::kernels::{Name, argument};
use super::matrix::Embedded;
use super::memory::Buffer;
use super::params::{Csr, Embeddings, Sweep};
use super::rows::{Rows, launch, threads};
use super::sweeps::{Launch, column_groups};
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::OnceLock;

/// Rows and columns of a packed tile, and its bytes: `cuda/hopper.cuh`, as all that follows.
const TILE: usize = 64;
const TILE_BYTES: usize = 8192;
pub(super) const SWEEP_ROWS: usize = 256;
const SWEEP_COLS: usize = 128;
const SWEEP_STAGE: usize = 2 * TILE_BYTES;
const FUSED_ROWS: usize = 128;
const MOST_STAGES: usize = 12;
/// Chunks of a strip's rows that shared memory has room for.
const MOST_CHUNKS: usize = 4;
/// Barriers, masks and, of sweeps, the exchange of column sums.
const SWEEP_REST: usize = 256 + 4096 + 16_384;
const FUSED_REST: usize = 256 + 1024;
/// Threads of a block of the kernels that compute.
const THREADS: u32 = 384;
/// Widest V of the fused kernel.
const FUSED_WIDTH: usize = 256;

/// Both sides' embeddings as the kernels take them.
pub(super) struct Packed {
    x: Buffer<u16>,
    y: Buffer<u16>,
    shape: Shape,
}

/// Depth of embeddings, and the tiles side by side that hold a row: of the values and, with three products, of the
/// remainders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    depth: usize,
    products: usize,
    chunks: usize,
}

impl Shape {
    fn new(depth: usize, products: usize) -> Self {
        let halves = if products == 1 { 1 } else { 2 };
        Self { depth, products, chunks: halves * depth.div_ceil(TILE) }
    }

    /// Stages of a sweep, as many as fit; `None` when a tile of columns does not.
    fn sweep_stages(self, shared: usize) -> Option<usize> {
        let left = shared.checked_sub(4 * self.chunks * TILE_BYTES + SWEEP_REST)?;
        let stages = (left / SWEEP_STAGE).min(MOST_STAGES);
        (stages >= self.chunks && self.chunks <= MOST_CHUNKS).then_some(stages)
    }

    fn sweep_shared(self, stages: usize) -> usize {
        4 * self.chunks * TILE_BYTES + stages * SWEEP_STAGE + SWEEP_REST
    }

    /// The same of the fused kernel with V this wide, two stages at least.
    fn fused_stages(self, shared: usize, padded: usize) -> Option<usize> {
        let left = shared.checked_sub(2 * self.chunks * TILE_BYTES + FUSED_REST)?;
        let stages = (left / self.fused_stage(padded)).min(MOST_STAGES);
        (stages >= 2).then_some(stages)
    }

    fn fused_stage(self, padded: usize) -> usize {
        self.chunks * TILE_BYTES + padded * 128
    }

    fn fused_shared(self, stages: usize, padded: usize) -> usize {
        2 * self.chunks * TILE_BYTES + stages * self.fused_stage(padded) + FUSED_REST
    }
}

/// Tiles of so many rows, whole strips of them.
fn tiles_of(rows: usize) -> usize {
    rows.div_ceil(SWEEP_ROWS) * (SWEEP_ROWS / TILE)
}

impl Packed {
    /// Packs `n` embeddings a side; `None` where these kernels do not serve them, or the device has no room for copies.
    pub(super) fn new(
        cuda: &Cuda,
        (x, n_x): (&Embedded<'_>, usize),
        (y, n_y): (&Embedded<'_>, usize),
        depth: usize,
        products: usize,
    ) -> Result<Option<Self>> {
        let shape = Shape::new(depth, products);
        let device = &cuda.device;
        if !device.hopper || shape.sweep_stages(device.info.shared_memory as usize).is_none() {
            return Ok(None);
        }
        let pack = |z: &Embedded<'_>, n: usize| -> Result<Option<Buffer<u16>>> {
            let tiles = tiles_of(n);
            let out = match device.alloc(tiles * shape.chunks * TILE_BYTES / 2, "packed embeddings") {
                Err(Error::OutOfMemory { .. }) => return Ok(None),
                out => out?,
            };
            device.pack_rows(Rows::dense(z.view(), n, 2 * depth)?, shape, tiles, &out)?;
            Ok(Some(out))
        };
        let (Some(x), Some(y)) = (pack(x, n_x)?, pack(y, n_y)?) else { return Ok(None) };
        Ok(Some(Self { x, y, shape }))
    }

    fn sweep(
        &self,
        masked: Csr,
        rows: &Range<usize>,
        cols: &Range<usize>,
        stages: usize,
        tiles: usize,
    ) -> Sweep {
        Sweep {
            z: Embeddings {
                rows: self.x.view().ptr,
                cols: self.y.view().ptr,
                depth: self.shape.depth as i32,
                ld: self.shape.chunks as i32,
                products: self.shape.products as i32,
                resident: stages as i32,
            },
            masked,
            row_of: 0,
            row_begin: rows.start as i32,
            row_end: rows.end as i32,
            col_begin: cols.start as i32,
            col_end: cols.end as i32,
            tiles_per_block: tiles as i32,
            reserved: 0,
        }
    }

    /// A launch of the statistics or panel kernel over about `blocks` blocks.
    pub(super) fn launch(
        &self,
        device: &Device,
        masked: Csr,
        rows: Range<usize>,
        cols: Range<usize>,
        blocks: usize,
    ) -> Result<Launch> {
        let stages = self.shape.sweep_stages(device.info.shared_memory as usize).ok_or_else(no_room)?;
        let strips = rows.end.div_ceil(SWEEP_ROWS) - rows.start / SWEEP_ROWS;
        let col_tiles = cols.end.div_ceil(SWEEP_COLS) - cols.start / SWEEP_COLS;
        let (tiles, groups) = column_groups(blocks, strips, col_tiles);
        Ok(Launch {
            threads: THREADS,
            sweep: self.sweep(masked, &rows, &cols, stages, tiles),
            grid: unless_empty(&rows, &cols, (strips, groups)),
            shared: self.shape.sweep_shared(stages) as u32,
            // A warp has whole rows; a warpgroup adds its columns up.
            parts: (1, 2),
            hopper: true,
        })
    }

    /// The columns of the fused kernel that V of this width takes, if it does.
    pub(super) fn fused_width(&self, device: &Device, width: usize) -> Option<usize> {
        let padded = if width <= 128 { 128 } else { FUSED_WIDTH };
        let serves = width <= FUSED_WIDTH && self.shape.products == 1;
        let stages = self.shape.fused_stages(device.info.shared_memory as usize, padded);
        (serves && stages.is_some()).then_some(padded)
    }

    /// A launch of the fused kernel.
    pub(super) fn launch_fused(
        &self,
        device: &Device,
        masked: Csr,
        rows: Range<usize>,
        cols: Range<usize>,
        padded: usize,
    ) -> Result<Launch> {
        let stages =
            self.shape.fused_stages(device.info.shared_memory as usize, padded).ok_or_else(no_room)?;
        Ok(Launch {
            threads: THREADS,
            sweep: self.sweep(masked, &rows, &cols, stages, 0),
            grid: unless_empty(&rows, &cols, (rows.end.div_ceil(FUSED_ROWS) - rows.start / FUSED_ROWS, 1)),
            shared: self.shape.fused_shared(stages, padded) as u32,
            parts: (0, 0),
            hopper: true,
        })
    }
}

/// The grid, which has no blocks where there is nothing to do: a block without columns would wait for some.
fn unless_empty(rows: &Range<usize>, cols: &Range<usize>, grid: (usize, usize)) -> (usize, usize) {
    if rows.is_empty() || cols.is_empty() { (0, 0) } else { grid }
}

fn no_room() -> Error {
    Error::Cuda("internal: no shared memory for a Hopper kernel".into())
}

/// V as the fused kernel takes it: tiles of 64 columns of the grid, `padded` wide.
pub(super) struct PackedValues {
    buffer: Buffer<u16>,
    /// The first tile.
    first: usize,
    pub(super) padded: usize,
}

impl PackedValues {
    /// Packs 16-bit `values`, the first of which is that of column `start`; `None` where the device has no room.
    pub(super) fn new(
        cuda: &Cuda,
        values: Rows<'_, u16>,
        start: usize,
        width: usize,
        padded: usize,
    ) -> Result<Option<Self>> {
        let first = start / TILE;
        let tiles = (start + values.rows).div_ceil(TILE) - first;
        let buffer = match cuda.device.alloc(tiles * padded * TILE, "packed values") {
            Err(Error::OutOfMemory { .. }) => return Ok(None),
            buffer => buffer?,
        };
        cuda.device.pack_values(values, width, (start - first * TILE, tiles, padded), &buffer)?;
        Ok(Some(Self { buffer, first, padded }))
    }

    /// Where tile 0 of the grid would lie.
    pub(super) fn origin(&self) -> u64 {
        self.buffer.view().ptr.wrapping_sub((self.first * self.padded * TILE * 2) as u64)
    }
}

/// Packed values, made when they are first asked for.
pub(super) struct Lazily<T>(OnceLock<Option<T>>);

impl<T> Lazily<T> {
    pub(super) const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// What was made, or is now; `None` where it could not be.
    pub(super) fn get(&self, make: impl FnOnce() -> Result<Option<T>>) -> Result<Option<&T>> {
        if self.0.get().is_none() {
            // Who comes second drops what it made.
            let _ = self.0.set(make()?);
        }
        Ok(self.0.get().and_then(Option::as_ref))
    }
}

const fn pack_cu(kernel: &'static str) -> Name {
    Name { family: "hopper_pack", kernel }
}

impl Device {
    fn pack_rows(&self, z: Rows<'_, u16>, shape: Shape, tiles: usize, out: &Buffer<u16>) -> Result<()> {
        let out = out.view();
        out.holds(tiles * shape.chunks * TILE_BYTES / 2)?;
        let halves = if shape.products == 1 { 1i32 } else { 2 };
        let pieces = tiles * shape.chunks * TILE_BYTES / 16;
        launch!(
            self,
            pack_cu("hopper_pack_rows"),
            threads(pieces),
            [z.view.ptr, z.ld as i64, shape.depth as i32, halves, z.rows as i64, tiles as i64, out.ptr]
        )
    }

    fn pack_values(
        &self,
        v: Rows<'_, u16>,
        width: usize,
        (skip, tiles, padded): (usize, usize, usize),
        out: &Buffer<u16>,
    ) -> Result<()> {
        let out = out.view();
        out.holds(tiles * padded * TILE)?;
        launch!(
            self,
            pack_cu("hopper_pack_values"),
            threads(tiles * padded * 8),
            [
                v.view.ptr,
                v.ld as i64,
                width.min(v.ld) as i32,
                v.rows as i64,
                padded as i32,
                skip as i32,
                tiles as i64,
                out.ptr
            ]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of shared memory that a block of compute capability 9.0 may have.
    const SHARED: usize = 227 << 10;

    #[test]
    fn shared_memory_suffices_for_every_shape_that_is_served() {
        for (depth, products, served) in [
            (16, 1, true),
            (128, 1, true),
            (256, 1, true),
            (272, 1, false),
            (16, 3, true),
            (128, 3, true),
            (144, 3, false),
        ] {
            let shape = Shape::new(depth, products);
            let stages = shape.sweep_stages(SHARED);
            assert_eq!(stages.is_some(), served, "{depth} {products}");
            if let Some(stages) = stages {
                assert!(stages >= shape.chunks && shape.sweep_shared(stages) <= SHARED, "{depth} {products}");
            }
            for padded in [128, 256] {
                if products == 1 && served {
                    let stages = shape.fused_stages(SHARED, padded).expect("room for two stages");
                    assert!(stages >= 2 && shape.fused_shared(stages, padded) <= SHARED, "{depth} {padded}");
                }
            }
        }
        assert_eq!(Shape::new(128, 1).sweep_stages(99 << 10), None);
    }
}
