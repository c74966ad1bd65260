//! Rows of a matrix on their way into an operation.

use super::Cuda;
use super::matrix::{Data, Matrix, Order, gather_on_host};
use super::memory::{Buffer, View};
use super::rows::Rows;
use crate::error::{Error, Result};
use std::ops::Range;

/// Rows of a matrix in an order, some at a time, in fp32 and without gaps.
pub(super) struct Panels<'a> {
    cuda: &'a Cuda,
    x: &'a Matrix,
    order: Option<&'a Order>,
    wide: Option<Buffer<f32>>,
    narrow: Option<Buffer<u16>>,
}

impl<'a> Panels<'a> {
    pub(super) fn new(cuda: &'a Cuda, x: &'a Matrix, order: Option<&'a Order>) -> Result<Self> {
        Ok(Self { cuda, x, order, wide: None, narrow: None })
    }

    /// Positions `rows`, valid until the next call.
    pub(super) fn get(&mut self, rows: Range<usize>) -> Result<View<'_, f32>> {
        let (x, cols, device) = (self.x, self.x.cols(), &self.cuda.device);
        if rows.end > x.rows() {
            return Err(Error::Cuda(format!("internal: rows {rows:?} of {}", x.rows())));
        }
        let len = rows.len() * cols;
        if let (Data::Wide(buffer), None) = (x.data(), self.order) {
            return buffer.view().part(rows.start * cols..rows.end * cols);
        }
        let wide = room(&mut self.wide, len, self.cuda, "a panel of rows")?;
        match x.data() {
            Data::Wide(buffer) => {
                if let Some(order) = self.order {
                    let from = Rows::dense(buffer.view(), x.rows(), cols)?;
                    device.gather_rows(from, order.on_device.view().part(rows)?, wide)?;
                }
            }
            Data::HostWide(values) => {
                let order = self.order;
                device.fill(wide, cols, &mut |first, out| {
                    copy_host_rows(values, cols, order, rows.start + first / cols.max(1), out);
                    Ok(())
                })?;
            }
            Data::Narrow(narrow, buffer) => {
                let from = match self.order {
                    None => buffer.view().part(rows.start * cols..rows.end * cols)?,
                    Some(order) => {
                        let to = room(&mut self.narrow, len, self.cuda, "a panel of rows")?;
                        let from = Rows::dense(buffer.view(), x.rows(), cols)?;
                        device.gather_rows(from, order.on_device.view().part(rows.clone())?, to)?;
                        to
                    }
                };
                device.widen_rows(*narrow, Rows::dense(from, rows.len(), cols)?, 0, wide)?;
            }
            Data::HostNarrow(narrow, values) => {
                let to = room(&mut self.narrow, len, self.cuda, "a panel of rows")?;
                let order = self.order;
                device.fill(to, cols, &mut |first, out| {
                    copy_host_rows(values, cols, order, rows.start + first / cols.max(1), out);
                    Ok(())
                })?;
                device.widen_rows(*narrow, Rows::dense(to, rows.len(), cols)?, 0, wide)?;
            }
            Data::Embedded(depth, buffer) => {
                let width = 2 * depth;
                let from = match self.order {
                    None => buffer.view().part(rows.start * width..rows.end * width)?,
                    Some(order) => {
                        let to = room(&mut self.narrow, rows.len() * width, self.cuda, "a panel of rows")?;
                        let from = Rows::dense(buffer.view(), x.rows(), width)?;
                        device.gather_rows(from, order.on_device.view().part(rows.clone())?, to)?;
                        to
                    }
                };
                let narrow = self.cuda.mode.narrow();
                device.widen_rows(narrow, Rows::new(from, rows.len(), cols, width)?, *depth, wide)?;
            }
        }
        Ok(wide)
    }
}

/// The first `len` elements of a buffer that grows when it must.
pub(super) fn room<'b, T>(
    buffer: &'b mut Option<Buffer<T>>,
    len: usize,
    cuda: &Cuda,
    what: &str,
) -> Result<View<'b, T>> {
    if buffer.as_ref().is_none_or(|b| b.len() < len) {
        // The old one first, so that both are never held at once.
        *buffer = None;
        *buffer = Some(cuda.device.alloc(len, what)?);
    }
    match buffer {
        Some(buffer) => buffer.view().part(0..len),
        None => Err(Error::Cuda("internal: no room".into())),
    }
}

/// Rows from position `first` on.
fn copy_host_rows<T: Copy + Send + Sync>(
    from: &[T],
    cols: usize,
    order: Option<&Order>,
    first: usize,
    out: &mut [T],
) {
    match order {
        None => out.copy_from_slice(&from[first * cols..first * cols + out.len()]),
        Some(order) => gather_on_host(from, cols, &order.ids[first..], out),
    }
}
