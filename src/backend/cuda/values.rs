//! What weights are multiplied with, as the kernels and products take it.

use super::Cuda;
use super::blas::Operand;
use super::grid::WEIGHT_ROWS;
use super::hopper::{Lazily, PackedValues};
use super::matrix::{Data, Matrix, Order, Panels, panels_of};
use super::memory::{Buffer, View};
use super::precision::Mode;
use super::rows::Rows;
use crate::error::Result;
use std::ops::Range;

/// Rows of a matrix by position, in the number type of the panels, times a power of two.
pub(super) struct Values<'a> {
    place: Place<'a>,
    ld: usize,
    mode: Mode,
    /// What one unit of the values is worth.
    pub(super) unit: f64,
    rows: usize,
    packed: Lazily<PackedValues>,
}

enum Place<'a> {
    LentNarrow(View<'a, u16>),
    LentWide(View<'a, f32>),
    Narrow(Buffer<u16>),
    Wide(Buffer<f32>),
}

impl<'a> Values<'a> {
    /// Positions `rows` of `v`. Lent where the matrix has them in the right form already.
    pub(super) fn new(cuda: &Cuda, v: &'a Matrix, order: Option<&Order>, rows: Range<usize>) -> Result<Self> {
        let (mode, d) = (cuda.mode, v.cols());
        let made =
            |place, ld, unit| Ok(Self { place, ld, mode, unit, rows: rows.len(), packed: Lazily::new() });
        let narrow = mode != Mode::Fp32;
        match (v.data(), order) {
            (Data::Embedded(depth, buffer), None) if narrow => {
                let (depth, view) = (2 * depth, buffer.view());
                return made(Place::LentNarrow(view.part(rows.start * depth..rows.end * depth)?), depth, 1.0);
            }
            (Data::Narrow(stored, buffer), None)
                if narrow && *stored == mode.narrow() && d.is_multiple_of(8) =>
            {
                return made(Place::LentNarrow(buffer.view().part(rows.start * d..rows.end * d)?), d, 1.0);
            }
            (Data::Wide(buffer), None) if !narrow => {
                return made(Place::LentWide(buffer.view().part(rows.start * d..rows.end * d)?), d, 1.0);
            }
            _ => {}
        }
        let mut panels = Panels::new(cuda, v, order)?;
        if !narrow {
            let out = cuda.device.alloc(rows.len() * d, "values in fp32")?;
            for part in panels_of(rows.clone(), WEIGHT_ROWS) {
                let to = out.view().from((part.start - rows.start) * d)?;
                cuda.device.copy(panels.get(part)?, to)?;
            }
            return made(Place::Wide(out), d, 1.0);
        }
        let power = if mode == Mode::Fp16 { value_power(cuda.max_abs(v)?) } else { 0 };
        let ld = d.div_ceil(8) * 8;
        let out = cuda.device.alloc(rows.len() * ld, "16-bit values")?;
        for part in panels_of(rows.clone(), WEIGHT_ROWS) {
            let to = out.view().part((part.start - rows.start) * ld..(part.end - rows.start) * ld)?;
            let wide = Rows::dense(panels.get(part.clone())?, part.len(), d)?;
            cuda.device.narrow_rows(mode.narrow(), wide, f64::from(power).exp2() as f32, to, ld)?;
        }
        made(Place::Narrow(out), ld, f64::from(-power).exp2())
    }

    /// From row `first` on, as an operand.
    pub(super) fn operand(&self, first: usize) -> Result<Operand<'_>> {
        let stored = self.mode.narrow().stored();
        Ok(match &self.place {
            Place::LentNarrow(view) => Operand::narrow(view.from(first * self.ld)?, self.ld, stored),
            Place::Narrow(buffer) => Operand::narrow(buffer.view().from(first * self.ld)?, self.ld, stored),
            Place::LentWide(view) => Operand::f32(view.from(first * self.ld)?, self.ld),
            Place::Wide(buffer) => Operand::f32(buffer.view().from(first * self.ld)?, self.ld),
        })
    }

    /// The values of the columns from `start` on as the Hopper kernel takes them, `width` of their columns; `start` is the
    /// same at every call. `None` where the device has no room.
    pub(super) fn packed(
        &self,
        cuda: &Cuda,
        start: usize,
        width: usize,
        padded: usize,
    ) -> Result<Option<&PackedValues>> {
        self.packed.get(|| PackedValues::new(cuda, self.narrow_from(0, self.rows)?, start, width, padded))
    }

    /// `count` whole 16-bit rows from row `first` on.
    pub(super) fn narrow_from(&self, first: usize, count: usize) -> Result<Rows<'_, u16>> {
        let view = match &self.place {
            Place::LentNarrow(view) => *view,
            Place::Narrow(buffer) => buffer.view(),
            Place::LentWide(_) | Place::Wide(_) => View::null(),
        };
        Rows::dense(view.from(first * self.ld)?, count, self.ld)
    }
}

/// The power of two that brings numbers up to `max` to about 2^10 in fp16, which keeps those down to `max / 2^24` normal.
fn value_power(max: f32) -> i32 {
    if max > 0.0 && max.is_finite() { 10 - max.log2().ceil() as i32 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_bring_the_largest_value_near_the_top() {
        for max in [1e-30f32, 0.37, 1.0, 70000.0, 1e30] {
            let scaled = max * (value_power(max) as f32).exp2();
            assert!((512.0..=1024.0).contains(&scaled), "{max}: {scaled}");
        }
        assert_eq!((value_power(0.0), value_power(f32::NAN)), (0, 0));
    }
}
