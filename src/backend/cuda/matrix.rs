//! n-sized data: on the device as it was stored or as embeddings, or on the host where the device has no room for it.
//!
//! Operations see a matrix through [`Panels`]: some rows at a time, in fp32, on the device, wherever they come from.

use super::Cuda;
use super::lent::LentMatrix;
use super::memory::{Buffer, View};
pub(super) use super::panels::{Panels, room};
use super::precision::Narrow;
use super::rows::Rows;
use crate::error::{Error, Result};
use crate::io::{Dtype, RowSource, read_panel};
use crate::threads;
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Rows of a panel: products of so many rows run at full rate, and their sums in fp32 stay exact to about 1e-6.
pub(super) const PANEL: usize = 4096;

/// n-sized data on the device, or on the host where the device has no room for it: it then passes through in panels.
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Data,
    /// Largest |element|, once someone needs it.
    max_abs: OnceLock<f32>,
    /// Which rows of how many these are; none: all there are.
    share: Option<(Range<usize>, usize)>,
    /// The rows of all ranks, once a pass needs them: of embeddings only.
    whole: OnceLock<Box<Matrix>>,
}

pub(super) enum Data {
    /// fp32, rows without gaps.
    Wide(Buffer<f32>),
    /// 16-bit features as their file has them, rows without gaps.
    Narrow(Narrow, Buffer<u16>),
    /// Unit rows as the sweeps take them (see `Embeddings` in `params.cuh`), with this depth.
    Embedded(usize, Buffer<u16>),
    /// fp32 on the host.
    HostWide(Vec<f32>),
    /// 16-bit features on the host.
    HostNarrow(Narrow, Vec<u16>),
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = match self.data {
            Data::Wide(_) => "fp32",
            Data::Narrow(..) => "16-bit",
            Data::Embedded(..) => "embeddings",
            Data::HostWide(_) => "fp32 on the host",
            Data::HostNarrow(..) => "16-bit on the host",
        };
        write!(f, "{} x {} ({place})", self.rows, self.cols)
    }
}

/// Enqueues what writes some rows of a matrix in the making.
type Fill<'a> = &'a mut dyn FnMut(Range<usize>, View<'_, f32>) -> Result<()>;

/// An order of samples, on both sides: position `p` holds sample `ids[p]`.
pub(super) struct Order {
    pub(super) ids: Vec<u32>,
    pub(super) on_device: Buffer<i32>,
}

/// Embeddings of one side as the sweeps take them, in position order.
pub(super) enum Embedded<'a> {
    /// Those of a matrix.
    Lent(View<'a, u16>),
    /// Made for the occasion.
    Made(Buffer<u16>),
}

impl Embedded<'_> {
    pub(super) fn view(&self) -> View<'_, u16> {
        match self {
            Self::Lent(view) => *view,
            Self::Made(buffer) => buffer.view(),
        }
    }

    /// The rows, if they were made.
    pub(super) fn into_buffer(self) -> Option<Buffer<u16>> {
        match self {
            Self::Lent(_) => None,
            Self::Made(buffer) => Some(buffer),
        }
    }
}

/// `r` rounded up to whole steps of the matrix instructions.
pub(crate) fn depth_of(r: usize) -> usize {
    r.div_ceil(16).max(1) * 16
}

impl Matrix {
    pub(super) fn new(rows: usize, cols: usize, data: Data) -> Self {
        Self { rows, cols, data, max_abs: OnceLock::new(), share: None, whole: OnceLock::new() }
    }

    /// The same rows as those numbered `held` of `all`.
    pub(super) fn held_as(self, held: Range<usize>, all: usize) -> Self {
        debug_assert_eq!(held.len(), self.rows);
        Self { share: Some((held, all)), ..self }
    }

    /// The same rows as what stands beside the rows of `x`.
    pub(super) fn beside(self, x: &Self) -> Self {
        Self { share: x.share.clone(), ..self }
    }

    /// The numbers of the rows that are here.
    pub fn held(&self) -> Range<usize> {
        self.share.as_ref().map_or(0..self.rows, |(held, _)| held.clone())
    }

    /// Rows on all ranks.
    pub fn all_rows(&self) -> usize {
        self.share.as_ref().map_or(self.rows, |(_, all)| *all)
    }

    pub(super) fn whole(&self) -> &OnceLock<Box<Matrix>> {
        &self.whole
    }

    /// Takes the largest |element| from whoever knows it.
    pub(super) fn bounded(self, max_abs: f32) -> Self {
        Self { max_abs: max_abs.into(), ..self }
    }

    /// Number of rows (samples) that are here: of several ranks each holds some.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether it lies on the device.
    pub fn on_device(&self) -> bool {
        !matches!(self.data, Data::HostWide(_) | Data::HostNarrow(..))
    }

    pub(super) fn data(&self) -> &Data {
        &self.data
    }

    pub(super) fn into_data(self) -> Data {
        self.data
    }

    /// Whether these are one rank's rows of several.
    pub(super) fn is_share(&self) -> bool {
        self.share.is_some()
    }
}

impl Cuda {
    /// Whether so many bytes may be taken for good: a quarter of what is left stays for the work.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        bytes <= self.device.available() / 4 * 3
    }

    pub(super) fn load_rows(&self, source: &dyn RowSource) -> Result<Matrix> {
        if let Some(lent) = source.as_any().and_then(|s| s.downcast_ref::<LentMatrix>())
            && let Some(copy) = self.load_lent(lent)?
        {
            return Ok(copy);
        }
        let (rows, cols) = (source.rows(), source.cols());
        if rows > i32::MAX as usize || cols > i32::MAX as usize / 2 {
            return Err(Error::Unsupported(format!("{}: {rows} x {cols} on CUDA", source.name())));
        }
        let narrow = match source.view().map(|v| v.dtype()) {
            Some(Dtype::F16) => Some(Narrow::F16),
            Some(Dtype::BF16) => Some(Narrow::Bf16),
            _ => None,
        };
        let len = rows * cols;
        let what = format!("{} ({rows} x {cols})", source.name());
        let bytes = (len * if narrow.is_some() { 2 } else { 4 }) as u64;
        let data = match (narrow, self.fits(bytes)) {
            (None, true) => {
                let buffer = self.device.alloc::<f32>(len, &what)?;
                self.device.fill(buffer.view(), cols, &mut |first, out| {
                    read_panel::<f32>(source, first / cols.max(1), out)
                })?;
                Data::Wide(buffer)
            }
            (Some(narrow), true) => {
                let buffer = self.device.alloc::<u16>(len, &what)?;
                self.device
                    .fill(buffer.view(), cols, &mut |first, out| read_narrow(narrow, source, first, out))?;
                Data::Narrow(narrow, buffer)
            }
            (None, false) => {
                let mut values = host_zeros(len, &what)?;
                read_panel::<f32>(source, 0, &mut values)?;
                Data::HostWide(values)
            }
            (Some(narrow), false) => {
                let mut values = host_zeros(len, &what)?;
                read_narrow(narrow, source, 0, &mut values)?;
                Data::HostNarrow(narrow, values)
            }
        };
        Ok(Matrix::new(rows, cols, data))
    }

    /// An order on the device; `None` for the natural one.
    pub(super) fn order(&self, ids: Option<&[u32]>) -> Result<Option<Arc<Order>>> {
        let Some(ids) = ids else { return Ok(None) };
        Ok(Some(Arc::new(Order {
            ids: ids.to_vec(),
            on_device: self.upload_ids(ids, "an order of samples")?,
        })))
    }

    pub(super) fn upload_ids(&self, ids: &[u32], what: &str) -> Result<Buffer<i32>> {
        // Below 2^31 by the check of `load_rows`, so the bits are the same.
        self.device.upload::<i32>(bytemuck::cast_slice(ids), what)
    }

    /// The rows of `x` as embeddings, in an order.
    pub(super) fn embedded<'a>(&self, x: &'a Matrix, order: Option<&Order>) -> Result<Embedded<'a>> {
        let depth = depth_of(x.cols);
        match (&x.data, order) {
            (Data::Embedded(_, buffer), None) => Ok(Embedded::Lent(buffer.view())),
            (Data::Embedded(_, buffer), Some(order)) => {
                let out = self.device.alloc(x.rows * 2 * depth, "shuffled embeddings")?;
                let from = Rows::dense(buffer.view(), x.rows, 2 * depth)?;
                self.device.gather_rows(from, order.on_device.view(), out.view())?;
                Ok(Embedded::Made(out))
            }
            _ => {
                let out = self.device.alloc(x.rows * 2 * depth, "embeddings")?;
                let mut panels = Panels::new(self, x, order)?;
                for rows in panels_of(0..x.rows, PANEL) {
                    let to = out.view().part(rows.start * 2 * depth..rows.end * 2 * depth)?;
                    let wide = Rows::dense(panels.get(rows.clone())?, rows.len(), x.cols)?;
                    self.device.split_rows(self.mode.narrow(), wide, depth, to)?;
                }
                Ok(Embedded::Made(out))
            }
        }
    }

    /// Largest |element| of `x`, NaN if one is not finite. Waits for the device the first time.
    pub(super) fn max_abs(&self, x: &Matrix) -> Result<f32> {
        if let Some(known) = x.max_abs.get() {
            return Ok(*known);
        }
        let merge = |a: f32, b: f32| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) };
        let finite = |v: f32| if v.is_finite() { v.abs() } else { f32::NAN };
        let found = match &x.data {
            // Unit rows.
            Data::Embedded(..) => 1.0,
            Data::HostWide(values) => {
                threads::run(|| values.par_iter().map(|v| finite(*v)).reduce(|| 0.0, merge))
            }
            Data::HostNarrow(narrow, values) => {
                let tops = || values.par_iter().map(|v| finite(narrow.to_f32(*v))).reduce(|| 0.0, merge);
                threads::run(tops)
            }
            Data::Wide(_) | Data::Narrow(..) => {
                let tops = self.device.alloc::<f32>(x.rows, "row maxima")?;
                let mut panels = Panels::new(self, x, None)?;
                for rows in panels_of(0..x.rows, PANEL) {
                    let wide = Rows::dense(panels.get(rows.clone())?, rows.len(), x.cols)?;
                    self.device.row_max_abs(wide, tops.view().part(rows)?)?;
                }
                self.device.download(tops.view())?.into_iter().fold(0.0, merge)
            }
        };
        Ok(*x.max_abs.get_or_init(|| found))
    }

    /// A new fp32 matrix made panel by panel: `fill(rows, out)` enqueues what writes them. It lies on the host when
    /// the device has no room.
    pub(super) fn build(
        &self,
        rows: usize,
        cols: usize,
        panel: usize,
        what: &str,
        fill: Fill<'_>,
    ) -> Result<Matrix> {
        self.build_in(panels_of(0..rows, panel), rows, cols, panel.min(rows), what, fill)
    }

    /// The same in panels of at most `longest` rows that make up all rows in order.
    pub(super) fn build_in(
        &self,
        panels: impl Iterator<Item = Range<usize>>,
        rows: usize,
        cols: usize,
        longest: usize,
        what: &str,
        fill: Fill<'_>,
    ) -> Result<Matrix> {
        let len = rows * cols;
        if self.fits((len * 4) as u64) {
            let out = self.device.alloc(len, what)?;
            for rows in panels {
                fill(rows.clone(), out.view().part(rows.start * cols..rows.end * cols)?)?;
            }
            return Ok(Matrix::new(rows, cols, Data::Wide(out)));
        }
        let mut out = host_zeros(len, what)?;
        let scratch = self.device.alloc(longest * cols, what)?;
        for rows in panels {
            let view = scratch.view().part(0..rows.len() * cols)?;
            fill(rows.clone(), view)?;
            self.device.download_to(view, &mut out[rows.start * cols..rows.end * cols])?;
        }
        Ok(Matrix::new(rows, cols, Data::HostWide(out)))
    }

    /// Some rows of `x` by number, in a matrix of the same kind.
    pub(super) fn gather(&self, x: &Matrix, ids: &[u32]) -> Result<Matrix> {
        let (cols, what) = (x.cols, "selected rows");
        let data = match &x.data {
            Data::Wide(from) => Data::Wide(self.gather_on_device(from, x.rows, cols, ids)?),
            Data::Narrow(narrow, from) => {
                Data::Narrow(*narrow, self.gather_on_device(from, x.rows, cols, ids)?)
            }
            Data::Embedded(depth, from) => {
                Data::Embedded(*depth, self.gather_on_device(from, x.rows, 2 * depth, ids)?)
            }
            Data::HostWide(from) => {
                let mut out = host_zeros(ids.len() * cols, what)?;
                gather_on_host(from, cols, ids, &mut out);
                if self.fits((out.len() * 4) as u64) {
                    Data::Wide(self.device.upload(&out, what)?)
                } else {
                    Data::HostWide(out)
                }
            }
            Data::HostNarrow(narrow, from) => {
                let mut out = host_zeros(ids.len() * cols, what)?;
                gather_on_host(from, cols, ids, &mut out);
                if self.fits((out.len() * 2) as u64) {
                    Data::Narrow(*narrow, self.device.upload(&out, what)?)
                } else {
                    Data::HostNarrow(*narrow, out)
                }
            }
        };
        Ok(Matrix::new(ids.len(), cols, data))
    }

    fn gather_on_device<T>(
        &self,
        from: &Buffer<T>,
        rows: usize,
        width: usize,
        ids: &[u32],
    ) -> Result<Buffer<T>> {
        let out = self.device.alloc(ids.len() * width, "selected rows")?;
        let ids = self.upload_ids(ids, "row numbers")?;
        self.device.gather_rows(Rows::dense(from.view(), rows, width)?, ids.view(), out.view())?;
        Ok(out)
    }
}

/// `range` in pieces of `panel`.
pub(super) fn panels_of(range: Range<usize>, panel: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(panel.max(1)).map(move |start| start..(start + panel).min(end))
}

/// Zeros on the host; refused, not aborted, when memory is short.
fn host_zeros<T: bytemuck::Pod>(len: usize, what: &str) -> Result<Vec<T>> {
    let mut out = Vec::new();
    out.try_reserve_exact(len).map_err(|_| Error::OutOfMemory {
        what: format!("{what} on the host"),
        needed: (len * size_of::<T>()) as u64,
        limit: 0,
    })?;
    out.resize(len, T::zeroed());
    Ok(out)
}

/// Elements from number `first` on of a source that stores this type.
fn read_narrow(narrow: Narrow, source: &dyn RowSource, first: usize, out: &mut [u16]) -> Result<()> {
    let view = source.view();
    let stored: Option<&[u16]> = match (&view, narrow) {
        (Some(view), Narrow::F16) => view.as_slice::<f16>().map(bytemuck::cast_slice),
        (Some(view), Narrow::Bf16) => view.as_slice::<bf16>().map(bytemuck::cast_slice),
        (None, _) => None,
    };
    if let Some(stored) = stored {
        out.copy_from_slice(&stored[first..first + out.len()]);
        return Ok(());
    }
    // In another order in memory: through fp32, which holds both types exactly.
    let cols = source.cols().max(1);
    let mut wide = Vec::new();
    for (k, part) in out.chunks_mut(PANEL * cols).enumerate() {
        wide.resize(part.len(), 0.0f32);
        read_panel::<f32>(source, first / cols + k * PANEL, &mut wide)?;
        part.iter_mut().zip(&wide).for_each(|(o, v)| *o = narrow.of(*v));
    }
    Ok(())
}

pub(super) fn gather_on_host<T: Copy>(from: &[T], cols: usize, ids: &[u32], out: &mut [T]) {
    for (row, &id) in out.chunks_exact_mut(cols.max(1)).zip(ids) {
        row.copy_from_slice(&from[id as usize * cols..(id as usize + 1) * cols]);
    }
}
