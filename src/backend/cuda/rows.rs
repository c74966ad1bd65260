//! The kernels of `rows.cu`, `reduce.cu` and `gram.cu` as functions: one warp for every row, or one thread for every
//! number. Each checks that its buffers hold what the kernel touches.

use super::device::Device;
use super::kernels::{Name, THREADS, argument};
use super::memory::View;
use super::params::{Csr, Embeddings};
use super::precision::Narrow;
use crate::error::Result;

const fn rows_cu(kernel: &'static str) -> Name {
    Name { family: "rows", kernel }
}

const fn reduce_cu(kernel: &'static str) -> Name {
    Name { family: "reduce", kernel }
}

const fn gram_cu(kernel: &'static str) -> Name {
    Name { family: "gram", kernel }
}

/// Blocks for so many threads.
pub(super) fn threads(count: usize) -> (usize, usize) {
    (count.div_ceil(THREADS as usize), 1)
}

/// Blocks for so many warps.
fn warps(count: usize) -> (usize, usize) {
    threads(count * 32)
}

/// Elements that `rows` rows of `cols` with this distance between rows span.
fn span(rows: usize, cols: usize, ld: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1) * ld + cols }
}

/// Launches with arguments that were checked by the function that calls it.
macro_rules! launch {
    ($device:expr, $name:expr, $grid:expr, [$($value:expr),+ $(,)?]) => {
        // SAFETY: the kernel's parameters in their order and types; the views were checked against what it touches.
        unsafe { $device.kernels.launch($name, $grid, 0, &mut [$(argument(&$value)),+]) }
    };
}
pub(super) use launch;

/// `rows` rows of `cols` elements, `ld` from one to the next.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T> {
    pub(super) view: View<'a, T>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) ld: usize,
}

impl<'a, T> Rows<'a, T> {
    pub(super) fn new(view: View<'a, T>, rows: usize, cols: usize, ld: usize) -> Result<Self> {
        view.holds(span(rows, cols, ld))?;
        Ok(Self { view, rows, cols, ld })
    }

    /// Rows without gaps.
    pub(super) fn dense(view: View<'a, T>, rows: usize, cols: usize) -> Result<Self> {
        Self::new(view, rows, cols, cols)
    }
}

impl Device {
    /// Unit rows in the embeddings' layout (`rows x 2 depth`) and their lengths.
    pub(super) fn normalise_rows(
        &self,
        narrow: Narrow,
        h: Rows<'_, f32>,
        depth: usize,
        z: View<'_, u16>,
        norm: View<'_, f32>,
    ) -> Result<()> {
        z.holds(h.rows * 2 * depth)?;
        norm.holds(h.rows)?;
        let name = rows_cu(narrow.pick("normalise_rows_f16", "normalise_rows_bf16"));
        launch!(
            self,
            name,
            warps(h.rows),
            [h.view.ptr, h.rows as i64, h.cols as i32, h.ld as i64, depth as i32, z.ptr, norm.ptr]
        )
    }

    /// Rows as they are in the embeddings' layout.
    pub(super) fn split_rows(
        &self,
        narrow: Narrow,
        x: Rows<'_, f32>,
        depth: usize,
        z: View<'_, u16>,
    ) -> Result<()> {
        z.holds(x.rows * 2 * depth)?;
        let name = rows_cu(narrow.pick("split_rows_f16", "split_rows_bf16"));
        launch!(
            self,
            name,
            warps(x.rows),
            [x.view.ptr, x.rows as i64, x.cols as i32, x.ld as i64, z.ptr, depth as i32]
        )
    }

    /// 16-bit rows, `width` wide (zeros beyond the columns of `x`), times `factor`.
    pub(super) fn narrow_rows(
        &self,
        narrow: Narrow,
        x: Rows<'_, f32>,
        factor: f32,
        out: View<'_, u16>,
        width: usize,
    ) -> Result<()> {
        out.holds(x.rows * width)?;
        let name = rows_cu(narrow.pick("convert_rows_f16", "convert_rows_bf16"));
        let no_scale = 0u64;
        launch!(
            self,
            name,
            warps(x.rows),
            [
                x.view.ptr,
                x.rows as i64,
                x.cols as i32,
                x.ld as i64,
                factor,
                no_scale,
                out.ptr,
                width as i32,
                width as i64
            ]
        )
    }

    /// `out[i] = factor x[i] scale[i]` (no scale: 1), into rows of another distance.
    pub(super) fn scale_rows(
        &self,
        x: Rows<'_, f32>,
        factor: f32,
        scale: Option<View<'_, f32>>,
        out: Rows<'_, f32>,
    ) -> Result<()> {
        if let Some(scale) = scale {
            scale.holds(x.rows)?;
        }
        out.view.holds(span(x.rows, x.cols, out.ld))?;
        let scale = scale.map_or(0u64, |s| s.ptr);
        launch!(
            self,
            rows_cu("convert_rows_f32"),
            warps(x.rows),
            [
                x.view.ptr,
                x.rows as i64,
                x.cols as i32,
                x.ld as i64,
                factor,
                scale,
                out.view.ptr,
                x.cols as i32,
                out.ld as i64
            ]
        )
    }

    /// fp32 rows without gaps from 16-bit rows, plus their remainders `remainder` elements further on (0: none).
    pub(super) fn widen_rows(
        &self,
        narrow: Narrow,
        x: Rows<'_, u16>,
        remainder: usize,
        out: View<'_, f32>,
    ) -> Result<()> {
        x.view.holds(span(x.rows, x.cols + remainder, x.ld))?;
        out.holds(x.rows * x.cols)?;
        let name = rows_cu(narrow.pick("widen_rows_f16", "widen_rows_bf16"));
        launch!(
            self,
            name,
            warps(x.rows),
            [x.view.ptr, x.rows as i64, x.cols as i32, x.ld as i64, remainder as i32, out.ptr, x.cols as i64]
        )
    }

    pub(super) fn rows_to_double(&self, x: Rows<'_, f32>, out: View<'_, f64>) -> Result<()> {
        out.holds(x.rows * x.cols)?;
        launch!(
            self,
            rows_cu("rows_to_double"),
            warps(x.rows),
            [x.view.ptr, x.rows as i64, x.cols as i32, x.ld as i64, out.ptr]
        )
    }

    pub(super) fn rows_to_float(&self, x: Rows<'_, f64>, out: View<'_, f32>) -> Result<()> {
        out.holds(x.rows * x.cols)?;
        launch!(
            self,
            rows_cu("rows_to_float"),
            warps(x.rows),
            [x.view.ptr, x.rows as i64, x.cols as i32, out.ptr, x.cols as i64]
        )
    }

    /// `out[i] = x[ids[i]]`. The caller has checked the ids against the rows of `x`.
    pub(super) fn gather_rows<T>(&self, x: Rows<'_, T>, ids: View<'_, i32>, out: View<'_, T>) -> Result<()> {
        let bytes = x.cols * size_of::<T>();
        out.holds(ids.len * x.cols)?;
        let (kernel, words) = if bytes.is_multiple_of(4) {
            ("gather_rows_b32", bytes / 4)
        } else {
            ("gather_rows_b16", bytes / 2)
        };
        launch!(
            self,
            rows_cu(kernel),
            warps(ids.len),
            [x.view.ptr, ids.ptr, ids.len as i64, words as i64, out.ptr]
        )
    }

    /// `(g - z (z . g)) / norm`, 0 where the norm is at most 1e-30; `z`, `g` and `out` without gaps.
    pub(super) fn tangent_rows(
        &self,
        z: Rows<'_, f32>,
        norm: View<'_, f32>,
        g: View<'_, f32>,
        out: View<'_, f32>,
    ) -> Result<()> {
        norm.holds(z.rows)?;
        g.holds(z.rows * z.cols)?;
        out.holds(z.rows * z.cols)?;
        launch!(
            self,
            rows_cu("tangent_rows"),
            warps(z.rows),
            [z.view.ptr, norm.ptr, g.ptr, z.cols as i64, z.rows as i64, z.cols as i32, out.ptr]
        )
    }

    /// `out[i] = row[i] sums[0] + sums[1]` with two rows of sums of `cols` numbers.
    pub(super) fn flat_rows(
        &self,
        row: View<'_, f64>,
        sums: View<'_, f64>,
        (rows, cols): (usize, usize),
        out: View<'_, f32>,
    ) -> Result<()> {
        row.holds(rows)?;
        sums.holds(2 * cols)?;
        out.holds(rows * cols)?;
        launch!(
            self,
            rows_cu("flat_rows"),
            warps(rows),
            [row.ptr, sums.ptr, rows as i64, cols as i32, out.ptr]
        )
    }

    /// Similarities of listed pairs as the sweeps round them.
    pub(super) fn pair_similarities(
        &self,
        narrow: Narrow,
        z: Embeddings,
        (rows, cols): (View<'_, i32>, View<'_, i32>),
        out: View<'_, f32>,
    ) -> Result<()> {
        cols.holds(rows.len)?;
        out.holds(rows.len)?;
        let name = rows_cu(narrow.pick("pair_similarities_f16", "pair_similarities_bf16"));
        launch!(self, name, warps(rows.len.div_ceil(8)), [z, rows.ptr, cols.ptr, rows.len as i64, out.ptr])
    }

    /// The same from all digits of the embeddings, in double.
    pub(super) fn pair_products(
        &self,
        narrow: Narrow,
        z: Embeddings,
        (rows, cols): (View<'_, i32>, View<'_, i32>),
        out: View<'_, f64>,
    ) -> Result<()> {
        cols.holds(rows.len)?;
        out.holds(rows.len)?;
        let name = rows_cu(narrow.pick("pair_products_f16", "pair_products_bf16"));
        launch!(self, name, warps(rows.len), [z, rows.ptr, cols.ptr, rows.len as i64, out.ptr])
    }

    /// `out = alpha out + factor sum over entries of coefficient x values`, see `add_entries` in `rows.cu`.
    pub(super) fn add_entries(&self, values: EntryValues<'_>, a: &AddEntries<'_>) -> Result<()> {
        a.out.view.holds(span(a.rows.len(), a.out.cols, a.out.ld))?;
        if let Some(row_of) = a.row_of {
            row_of.holds(a.rows.end)?;
        }
        let (name, ptr, ld, remainder) = match values {
            EntryValues::Wide(v) => ("add_entries_f32", v.view.ptr, v.ld, 0),
            EntryValues::Narrow(narrow, v, remainder) => {
                (narrow.pick("add_entries_f16", "add_entries_bf16"), v.view.ptr, v.ld, remainder)
            }
        };
        let (row_of, rows) = (a.row_of.map_or(0u64, |r| r.ptr), a.rows.len());
        launch!(
            self,
            rows_cu(name),
            warps(rows),
            [
                a.entries,
                a.coefficient.ptr,
                ptr,
                ld as i64,
                remainder as i32,
                a.factor,
                row_of,
                a.rows.start as i64,
                rows as i64,
                a.cols.start as i32,
                a.cols.end as i32,
                a.out.cols as i32,
                a.alpha,
                a.out.view.ptr,
                a.out.ld as i64
            ]
        )
    }

    /// Merges partial log-sums into `out` (see `merge_log_sums` in `reduce.cu`), which takes part.
    pub(super) fn merge_log_sums(
        &self,
        sum: View<'_, f32>,
        max: Option<View<'_, f32>>,
        parts: usize,
        shift: f32,
        out: View<'_, f64>,
    ) -> Result<()> {
        sum.holds(parts * out.len)?;
        if let Some(max) = max {
            max.holds(parts * out.len)?;
        }
        let max = max.map_or(0u64, |m| m.ptr);
        launch!(
            self,
            reduce_cu("merge_log_sums"),
            threads(out.len),
            [sum.ptr, max, parts as i32, out.len as i64, shift, out.ptr, 1i32]
        )
    }

    /// Adds `parts` rows of `out.len` partial sums to `out`.
    pub(super) fn merge_sums(&self, parts_of: View<'_, f32>, parts: usize, out: View<'_, f64>) -> Result<()> {
        parts_of.holds(parts * out.len)?;
        launch!(
            self,
            reduce_cu("merge_sums"),
            threads(out.len),
            [parts_of.ptr, parts as i32, out.len as i64, out.ptr, 1i32]
        )
    }

    pub(super) fn merge_counts(
        &self,
        parts_of: View<'_, i32>,
        parts: usize,
        out: View<'_, i32>,
    ) -> Result<()> {
        parts_of.holds(parts * out.len)?;
        launch!(
            self,
            reduce_cu("merge_counts"),
            threads(out.len),
            [parts_of.ptr, parts as i32, out.len as i64, out.ptr]
        )
    }

    /// Adds numbers to others, one by one.
    pub(super) fn add_doubles(&self, from: View<'_, f64>, to: View<'_, f64>) -> Result<()> {
        to.holds(from.len)?;
        let name = reduce_cu("merge_doubles");
        launch!(self, name, threads(from.len), [from.ptr, 1i32, from.len as i64, to.ptr, 1i32])
    }

    /// Adds the column sums of `x`, each row times its weight (none: 1), to `out`; `scratch` holds `parts` rows.
    pub(super) fn column_sums(
        &self,
        x: Rows<'_, f32>,
        weight: Option<View<'_, f64>>,
        parts: usize,
        scratch: View<'_, f64>,
        out: View<'_, f64>,
    ) -> Result<()> {
        if let Some(weight) = weight {
            weight.holds(x.rows)?;
        }
        scratch.holds(parts * x.cols)?;
        let out = out.part(0..x.cols)?;
        let (weight, per_part) = (weight.map_or(0u64, |w| w.ptr), x.rows.div_ceil(parts.max(1)));
        launch!(
            self,
            reduce_cu("column_sums"),
            (threads(x.cols).0, parts),
            [x.view.ptr, weight, x.rows as i64, x.cols as i32, x.ld as i64, per_part as i64, scratch.ptr]
        )?;
        launch!(
            self,
            reduce_cu("merge_doubles"),
            threads(x.cols),
            [scratch.ptr, parts as i32, x.cols as i64, out.ptr, 1i32]
        )
    }

    /// Largest |element| of every row; NaN where a row is not finite.
    pub(super) fn row_max_abs(&self, x: Rows<'_, f32>, out: View<'_, f32>) -> Result<()> {
        out.holds(x.rows)?;
        launch!(
            self,
            reduce_cu("row_max_abs"),
            warps(x.rows),
            [x.view.ptr, x.rows as i64, x.cols as i32, x.ld as i64, out.ptr]
        )
    }

    pub(super) fn row_squares(&self, x: Rows<'_, f64>, out: View<'_, f64>) -> Result<()> {
        out.holds(x.rows)?;
        launch!(
            self,
            gram_cu("row_squares"),
            warps(x.rows),
            [x.view.ptr, x.rows as i64, x.cols as i32, x.ld as i64, out.ptr]
        )
    }

    /// Kernel values from the products `k`, in place. `kind` counts as `KernelKind` does.
    pub(super) fn kernel_values(
        &self,
        kind: i32,
        k: Rows<'_, f64>,
        (row_square, col_square): (View<'_, f64>, View<'_, f64>),
        (parameter, clamp): (f64, f64),
    ) -> Result<()> {
        row_square.holds(k.rows)?;
        col_square.holds(k.cols)?;
        let blocks = (k.rows * k.cols).div_ceil(THREADS as usize).min(4096);
        launch!(
            self,
            gram_cu("kernel_values"),
            (blocks, 1),
            [
                kind,
                k.view.ptr,
                k.rows as i64,
                k.cols as i64,
                k.ld as i64,
                row_square.ptr,
                col_square.ptr,
                parameter,
                clamp
            ]
        )
    }
}

/// What entries are multiplied with: row `j - cols.start` belongs to column `j`.
#[derive(Clone, Copy)]
pub(super) enum EntryValues<'a> {
    Wide(Rows<'a, f32>),
    /// With the distance to the remainders, 0 for none.
    Narrow(Narrow, Rows<'a, u16>, usize),
}

/// Arguments of [`Device::add_entries`].
pub(super) struct AddEntries<'a> {
    pub(super) entries: Csr,
    pub(super) coefficient: View<'a, f32>,
    pub(super) factor: f32,
    /// The row of the entries that a row of `rows` stands for; none: itself.
    pub(super) row_of: Option<View<'a, i32>>,
    pub(super) rows: std::ops::Range<usize>,
    /// The columns whose values are there.
    pub(super) cols: std::ops::Range<usize>,
    pub(super) alpha: f32,
    pub(super) out: Rows<'a, f32>,
}
