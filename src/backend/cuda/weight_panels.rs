//! The negatives' part of `-S` as panels of weights: coefficients by position, scaled by a power of two so that 16-bit
//! weights keep their digits.

use super::Cuda;
use super::blas::Operand;
use super::grid::{BLOCKS, Grid, WEIGHT_COLS, WEIGHT_ROWS};
use super::hopper::{Packed, PackedValues};
use super::matrix::{panels_of, room};
use super::memory::{Buffer, View};
use super::params::{AdditiveWeights, ClipFused, ClipWeights};
use super::precision::Mode;
use super::rows::Rows;
use super::sweeps::{FUSED_COLS, FUSED_WIDTH};
use super::values::Values;
use crate::error::Result;
use crate::loss::LossKind;
use crate::similarity::Weights;
use crate::similarity::coefficients::Coefficients;
use std::f64::consts::LOG2_E;
use std::ops::Range;

/// Largest weight of a panel, as a power of two: fp16 ends at 2^16.
const TOP_WEIGHT: f64 = 14.0;

/// Coefficients of the weights, by position.
enum OnDevice {
    /// See `ClipWeights` in `params.cuh`; with `log` both exponentials are taken as they stand.
    Clip { log: bool, row: Buffer<f32>, col: Buffer<f32> },
    /// See `AdditiveWeights`.
    Additive { rows: AdditiveSide, cols: AdditiveSide },
}

/// Positives of one side, by position: where each anchor's thresholds begin, the thresholds, and its factor.
struct AdditiveSide {
    offsets: Buffer<i64>,
    threshold: Buffer<f32>,
    factor: Buffer<f32>,
}

/// The negatives' part of `-S`, times [`unit`](Self::unit)'s inverse.
pub(super) struct WeightPanels<'a> {
    pub(super) grid: &'a Grid<'a>,
    coefficients: OnDevice,
    /// Exponent of the power of two that the panels carry.
    power: i32,
}

/// The power of two that brings numbers up to `bound` to [`TOP_WEIGHT`].
fn power_for(bound: f64) -> i32 {
    if bound > 0.0 && bound.is_finite() {
        (TOP_WEIGHT - bound.log2().ceil()).clamp(-60.0, 60.0) as i32
    } else {
        0
    }
}

/// The largest weight that a negative can have.
fn largest_weight(w: &Weights) -> f64 {
    let (x, y) = (0.5 / w.positives.n_x() as f64, 0.5 / w.positives.n_y() as f64);
    let most = |weights: &[f64]| weights.iter().copied().fold(1.0, f64::max);
    let steepest = match w.loss.kind {
        // An anchor's weights sum to at most a share of 1/2n: e^{s_ij/tau} is one of the terms inside its logarithm.
        LossKind::Clip => return x + y,
        LossKind::Sigmoid => 1.0 / w.loss.tau,
        LossKind::TripletSmooth => w.loss.tau,
        LossKind::TripletHard => 1.0,
        // Not computed here.
        LossKind::Custom => return f64::INFINITY,
    };
    (x * most(&w.rows.sampling_weight) + y * most(&w.cols.sampling_weight)) * steepest * w.loss.eps_neg
}

impl<'a> WeightPanels<'a> {
    /// None where all similarities are 0.
    pub(super) fn new(grid: &'a Grid<'a>, w: &Weights, coefficients: Coefficients) -> Result<Option<Self>> {
        let (device, schedule, p) = (&grid.cuda.device, &grid.schedule, &grid.positives);
        let power = power_for(largest_weight(w));
        let unit = f64::from(power).exp2();
        let upload = |v: Vec<f64>, of: &dyn Fn(f64) -> f64| {
            let v: Vec<f32> = v.into_iter().map(|v| of(v) as f32).collect();
            device.upload(&v, "coefficients")
        };
        let scaled = |v: f64| v * unit;
        let logarithm = |v: f64| v * LOG2_E + f64::from(power);
        let coefficients = match coefficients {
            Coefficients::Flat { .. } => return Ok(None),
            Coefficients::Family { .. } => return w.loss.check_built_in("a CUDA device").map(|()| None),
            Coefficients::ClipShifted { alpha, beta } => {
                OnDevice::Clip { log: false, row: upload(alpha, &scaled)?, col: upload(beta, &scaled)? }
            }
            Coefficients::ClipLog { a, b } => {
                OnDevice::Clip { log: true, row: upload(a, &logarithm)?, col: upload(b, &logarithm)? }
            }
            Coefficients::Additive { c, d } => {
                let side = |pairs: &dyn Fn(usize) -> Range<usize>, s: &[f64], factor: Vec<f64>| {
                    let (mut offsets, mut threshold) = (vec![0i64], Vec::with_capacity(s.len()));
                    for position in 0..factor.len() {
                        threshold.extend(s[pairs(position)].iter().map(|s| (w.loss.nu * s) as f32));
                        offsets.push(threshold.len() as i64);
                    }
                    Ok::<_, crate::Error>(AdditiveSide {
                        offsets: device.upload(&offsets, "positives")?,
                        threshold: device.upload(&threshold, "thresholds")?,
                        factor: upload(factor, &scaled)?,
                    })
                };
                let of_row = |position: usize| {
                    let i = schedule.row_id(position);
                    p.row_offset(i)..p.row_offset(i + 1)
                };
                let of_col = |position: usize| {
                    let j = schedule.col_id(position);
                    p.col_offset(j)..p.col_offset(j + 1)
                };
                let rows = side(&of_row, &w.rows.s_pos, c)?;
                OnDevice::Additive { rows, cols: side(&of_col, &w.cols.s_pos, d)? }
            }
        };
        Ok(Some(Self { grid, coefficients, power }))
    }

    /// What one unit of the panels is worth.
    pub(super) fn unit(&self) -> f64 {
        f64::from(-self.power).exp2()
    }

    /// Scale and shift of clip's exponent.
    fn exponent(&self, log: bool) -> (f32, f32) {
        let scale = LOG2_E / self.grid.loss.tau;
        (scale as f32, if log { 0.0 } else { scale as f32 })
    }

    /// Enqueues the weights of `rows x cols` (positions), rows `ld` apart.
    fn write_panel(&self, rows: Range<usize>, cols: Range<usize>, panel: &Panel<'_>) -> Result<()> {
        let (device, mode) = (&self.grid.cuda.device, self.grid.cuda.mode);
        // The Hopper kernels store eight weights at a time, from a multiple of eight columns on.
        let clip = matches!(self.coefficients, OnDevice::Clip { .. });
        let l = match clip && cols.start.is_multiple_of(8) {
            true => self.grid.launch_clip(rows, cols, self.grid.panel_blocks()?)?,
            false => self.grid.launch(rows, cols, BLOCKS)?,
        };
        panel.holds(l.rows(), l.cols())?;
        match &self.coefficients {
            OnDevice::Clip { log, row, col } => {
                let (scale, shift) = self.exponent(*log);
                let p = ClipWeights {
                    sweep: l.sweep,
                    scale,
                    shift,
                    row: row.view().ptr,
                    col: col.view().ptr,
                    out: panel.ptr(),
                    ld_out: panel.ld as i64,
                };
                // SAFETY: the grid's sweep, a coefficient for each of its rows and columns, and room for the panel.
                unsafe { device.clip_weights(mode, *log, &l, &p) }
            }
            OnDevice::Additive { rows, cols } => {
                let p = AdditiveWeights {
                    sweep: l.sweep,
                    tau: self.grid.loss.tau as f32,
                    margin: self.grid.loss.margin as f32,
                    row_offsets: rows.offsets.view().ptr,
                    row_threshold: rows.threshold.view().ptr,
                    row_factor: rows.factor.view().ptr,
                    col_offsets: cols.offsets.view().ptr,
                    col_threshold: cols.threshold.view().ptr,
                    col_factor: cols.factor.view().ptr,
                    out: panel.ptr(),
                    ld_out: panel.ld as i64,
                };
                // SAFETY: the grid's sweep, the positives of each of its rows and columns, and room for the panel.
                unsafe { device.additive_weights(mode, self.grid.loss.kind, &l, &p) }
            }
        }
    }

    /// The fused kernel that serves values of this width, if one does: it spares the panel where one block holds all of V.
    fn fused<'v>(
        &'v self,
        values: &'v Values<'_>,
        cols: &Range<usize>,
        width: usize,
    ) -> Result<Option<Fused<'v>>> {
        let clip = matches!(self.coefficients, OnDevice::Clip { .. });
        if !clip || self.grid.schedule.is_sampled() || self.grid.products() != 1 {
            return Ok(None);
        }
        let device = &self.grid.cuda.device;
        if let Some(packed) = self.grid.packed()? {
            let Some(padded) = packed.fused_width(device, width) else { return Ok(None) };
            let values = values.packed(self.grid.cuda, cols.start, width, padded)?;
            return Ok(values.map(|values| Fused::Hopper(packed, values)));
        }
        Ok(device.fused_shared(self.grid.depth).filter(|_| width <= FUSED_WIDTH).map(Fused::Portable))
    }

    /// Adds the product of the weights on `rows` with the values of `cols`.
    pub(super) fn add(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        values: &Values<'_>,
        panel: &mut PanelRoom,
        out: Rows<'_, f32>,
    ) -> Result<()> {
        let fused = self.fused(values, &cols, out.cols)?;
        for (visited, ranges) in self.grid.visits() {
            let both = visited.start.max(rows.start)..visited.end.min(rows.end);
            if both.is_empty() {
                continue;
            }
            let to = out.view.from((both.start - rows.start) * out.ld)?;
            let to = Rows::new(to, both.len(), out.cols, out.ld)?;
            for range in ranges {
                let part = range.start.max(cols.start)..range.end.min(cols.end);
                if part.is_empty() {
                    continue;
                }
                let values = (values, part.start - cols.start);
                match &fused {
                    None => self.add_products(both.clone(), part, values, to, panel)?,
                    Some(fused) => self.add_fused(fused, both.clone(), part, values, to)?,
                }
            }
        }
        Ok(())
    }

    /// Adds `W V` on the rows of `out` (positions `rows`) over the columns `cols`, the first of which has row `first` of
    /// the values.
    fn add_fused(
        &self,
        fused: &Fused<'_>,
        rows: Range<usize>,
        cols: Range<usize>,
        (values, first): (&Values<'_>, usize),
        out: Rows<'_, f32>,
    ) -> Result<()> {
        let OnDevice::Clip { log, row, col } = &self.coefficients else { return Ok(()) };
        let (scale, shift) = self.exponent(*log);
        for part in aligned(cols.clone(), FUSED_COLS) {
            let (rows, cols) = (rows.clone(), part.clone());
            let (l, origin, ld) = match fused {
                Fused::Hopper(z, v) => {
                    (self.grid.launch_packed(z, rows, cols, v.padded)?, v.origin(), v.padded)
                }
                Fused::Portable(shared) => {
                    let v = values.narrow_from(first + part.start - cols.start, part.len())?;
                    // The kernel counts rows of the values as it counts columns of the grid.
                    let origin = v.view.ptr.wrapping_sub((part.start * v.ld * 2) as u64);
                    (self.grid.launch(rows, cols, 1)?.fused(out.cols, *shared), origin, v.ld)
                }
            };
            let p = ClipFused {
                sweep: l.sweep,
                scale,
                shift,
                row: row.view().ptr,
                col: col.view().ptr,
                values: origin,
                ld_values: ld as i64,
                width: out.cols as i32,
                accumulate: 1,
                out: out.view.ptr,
                ld_out: out.ld as i64,
            };
            // SAFETY: the grid's sweep, its coefficients, values for each of its columns, and room for its rows.
            unsafe { self.grid.cuda.device.clip_fused(self.grid.cuda.mode.narrow(), *log, &l, &p) }?;
        }
        Ok(())
    }

    /// The same by panels and products.
    fn add_products(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        (values, first): (&Values<'_>, usize),
        out: Rows<'_, f32>,
        panel: &mut PanelRoom,
    ) -> Result<()> {
        let device = &self.grid.cuda.device;
        for sub in panels_of(rows.clone(), WEIGHT_ROWS) {
            let to = Operand::f32(out.view.from((sub.start - rows.start) * out.ld)?, out.ld);
            for part in aligned(cols.clone(), WEIGHT_COLS) {
                let w = panel.get(self.grid.cuda, sub.len(), part.len())?;
                self.write_panel(sub.clone(), part.clone(), &w)?;
                let v = values.operand(first + part.start - cols.start)?;
                device.blas.multiply((sub.len(), out.cols, part.len()), w.operand(), v, true, to)?;
            }
        }
        Ok(())
    }

    /// Adds `W V` to `x_out` and `W^T U` to `y_out` from one panel for both; `u` and `v` by position, all rows.
    pub(super) fn add_both(
        &self,
        (rows, cols): (Range<usize>, Range<usize>),
        (u, v): (&Values<'_>, &Values<'_>),
        (x_out, y_out): (Rows<'_, f32>, Rows<'_, f32>),
        panel: &mut PanelRoom,
    ) -> Result<()> {
        let (device, r) = (&self.grid.cuda.device, x_out.cols);
        let w = panel.get(self.grid.cuda, rows.len(), cols.len())?;
        self.write_panel(rows.clone(), cols.clone(), &w)?;
        let to = Operand::f32(x_out.view.from(rows.start * x_out.ld)?, x_out.ld);
        device.blas.multiply((rows.len(), r, cols.len()), w.operand(), v.operand(cols.start)?, true, to)?;
        let to = Operand::f32(y_out.view.from(cols.start * y_out.ld)?, y_out.ld);
        device.blas.multiply((cols.len(), r, rows.len()), w.operand().t(), u.operand(rows.start)?, true, to)
    }
}

/// A kernel in which weights meet values without a panel.
enum Fused<'v> {
    /// The portable one, with so much shared memory.
    Portable(u32),
    /// That for compute capability 9.0, with both of its operands.
    Hopper(&'v Packed, &'v PackedValues),
}

/// `range` cut at the multiples of `step`: the same pieces however the range was cut before.
fn aligned(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    (range.start / step..range.end.div_ceil(step))
        .map(move |k| (k * step).max(range.start)..((k + 1) * step).min(range.end))
}

/// Memory for a panel of weights, reused from panel to panel.
#[derive(Default)]
pub(super) struct PanelRoom {
    narrow: Option<Buffer<u16>>,
    wide: Option<Buffer<f32>>,
}

/// A panel of weights: 16-bit, or fp32 in that mode.
pub(super) enum Weight<'a> {
    Narrow(Mode, View<'a, u16>),
    Wide(View<'a, f32>),
}

pub(super) struct Panel<'a> {
    weight: Weight<'a>,
    ld: usize,
}

impl PanelRoom {
    fn get(&mut self, cuda: &Cuda, rows: usize, cols: usize) -> Result<Panel<'_>> {
        let ld = cols.div_ceil(8) * 8;
        let weight = if cuda.mode == Mode::Fp32 {
            Weight::Wide(room(&mut self.wide, rows * ld, cuda, "a panel of weights")?)
        } else {
            Weight::Narrow(cuda.mode, room(&mut self.narrow, rows * ld, cuda, "a panel of weights")?)
        };
        Ok(Panel { weight, ld })
    }
}

impl<'a> Panel<'a> {
    fn ptr(&self) -> u64 {
        match &self.weight {
            Weight::Narrow(_, view) => view.ptr,
            Weight::Wide(view) => view.ptr,
        }
    }

    fn holds(&self, rows: usize, cols: usize) -> Result<()> {
        let len = if cols > self.ld { usize::MAX } else { rows * self.ld };
        match &self.weight {
            Weight::Narrow(_, view) => view.holds(len),
            Weight::Wide(view) => view.holds(len),
        }
    }

    fn operand(&self) -> Operand<'a> {
        match self.weight {
            Weight::Narrow(mode, view) => Operand::narrow(view, self.ld, mode.narrow().stored()),
            Weight::Wide(view) => Operand::f32(view, self.ld),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_depend_on_earlier_cuts() {
        let whole: Vec<_> = aligned(3..25, 10).collect();
        assert_eq!(whole, [3..10, 10..20, 20..25]);
        assert_eq!(aligned(3..10, 10).chain(aligned(10..25, 10)).collect::<Vec<_>>(), whole);
        assert_eq!(aligned(5..5, 10).filter(|r| !r.is_empty()).count(), 0);
    }

    #[test]
    fn powers_bring_the_largest_number_near_the_top() {
        for n in [1.0, 1000.0, 27_593.0, 4e8] {
            let scaled = 1.0 / n * f64::from(power_for(1.0 / n)).exp2();
            assert!((8192.0..=16384.0).contains(&scaled), "{n}: {scaled}");
        }
        assert_eq!((power_for(0.0), power_for(f64::NAN)), (0, 0));
    }
}
