//! The number types that n-sized data is computed in.

use crate::backend::cpu::TileOps;

/// `f32` (the default) or `f64` (the oracle).
pub trait Real: TileOps + bytemuck::Pod + Copy + Send + Sync + Default + PartialOrd + std::fmt::Debug + 'static {
    /// "f32" or "f64".
    const NAME: &'static str;
    /// Unit roundoff times two.
    const EPSILON: f64;
    /// Rounds to this type.
    fn of(value: f64) -> Self;
    /// Widens to float64.
    fn as_f64(self) -> f64;
    /// Reads rows of a source in this type.
    ///
    /// # Errors
    /// Those of the source.
    fn read_rows(source: &dyn crate::io::RowSource, start: usize, out: &mut [Self]) -> crate::Result<()>;
}

impl Real for f32 {
    const NAME: &'static str = "f32";
    const EPSILON: f64 = f32::EPSILON as f64;
    fn of(value: f64) -> Self {
        value as f32
    }
    fn as_f64(self) -> f64 {
        f64::from(self)
    }
    fn read_rows(source: &dyn crate::io::RowSource, start: usize, out: &mut [Self]) -> crate::Result<()> {
        source.read_rows(start, out)
    }
}

impl Real for f64 {
    const NAME: &'static str = "f64";
    const EPSILON: f64 = f64::EPSILON;
    fn of(value: f64) -> Self {
        value
    }
    fn as_f64(self) -> f64 {
        self
    }
    fn read_rows(source: &dyn crate::io::RowSource, start: usize, out: &mut [Self]) -> crate::Result<()> {
        source.read_rows_f64(start, out)
    }
}
