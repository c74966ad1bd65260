//! Borrowed matrices: inputs as [`MatView`]s, outputs as places to write rows to.

use super::bindings::*;
use super::context::Context;
use crate::backend::Backend;
use crate::backend::cuda::{self, LentMatrix, Place};
use crate::error::{Error, Result};
use crate::io::{Dtype, MatView, RowSource, check_finite_as};
use faer::Mat;
use half::{bf16, f16};
use std::any::Any;
use std::ops::Range;

/// The precision a call computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Precision {
    F32,
    F64,
}

impl Precision {
    /// The wider of the inputs' precisions: float64 if one is.
    pub(super) fn of(inputs: &[&Input<'_>]) -> Self {
        if inputs.iter().any(|i| i.dtype == Dtype::F64) { Self::F64 } else { Self::F32 }
    }

    /// From a ::unicon_dtype, an argument of that name.
    pub(super) fn of_dtype(name: &str, dtype: i32) -> Result<Self> {
        Ok(if dtype_called(name, dtype)? == Dtype::F64 { Self::F64 } else { Self::F32 })
    }

    /// Bytes of one element.
    pub(super) fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// That of a matrix of this name.
fn dtype_of(name: &str, dtype: i32) -> Result<Dtype> {
    dtype_called(&format!("{name}.dtype"), dtype)
}

fn dtype_called(name: &str, dtype: i32) -> Result<Dtype> {
    match u32::try_from(dtype) {
        Ok(UNICON_F32) => Ok(Dtype::F32),
        Ok(UNICON_F64) => Ok(Dtype::F64),
        Ok(UNICON_F16) => Ok(Dtype::F16),
        Ok(UNICON_BF16) => Ok(Dtype::BF16),
        _ => Err(Error::invalid(name, "a value of unicon_dtype", dtype)),
    }
}

/// A caller's matrix whose description has been checked.
struct Checked {
    /// In memory of the context's device, not of the host.
    on_device: bool,
    data: *mut u8,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
    dtype: Dtype,
    /// Bytes from the first element to the end of the last.
    bytes: usize,
}

impl Checked {
    /// As the device's backend takes it.
    fn place(&self) -> Place {
        let Self { data, rows, cols, row_stride, col_stride, dtype, .. } = *self;
        Place { data: data.cast(), rows, cols, row_stride, col_stride, dtype }
    }

    fn addresses(&self) -> Range<usize> {
        let start = self.data.addr();
        start..start + self.bytes
    }
}

/// Checks everything about a matrix that can be checked without reading its elements.
///
/// # Safety
/// `pointer` is NULL or points to a `unicon_matrix_t`.
unsafe fn check(context: &Context, name: &str, pointer: *const unicon_matrix_t) -> Result<Checked> {
    if pointer.is_null() {
        return Err(Error::invalid(name, "a matrix", "NULL"));
    }
    if !pointer.is_aligned() {
        return Err(Error::invalid(name, "an aligned struct", "a misaligned pointer"));
    }
    // SAFETY: not NULL, aligned, and a matrix by the header's contract.
    let m = unsafe { pointer.read() };
    let dtype = dtype_of(name, m.dtype)?;
    if m.reserved != 0 {
        return Err(Error::Unsupported(format!("{name}.reserved must be 0, got {}", m.reserved)));
    }
    let size = |field: &str, value: i64| match usize::try_from(value) {
        Ok(n) if n >= 1 => Ok(n),
        _ => Err(Error::invalid(format!("{name}.{field}"), "at least 1", value)),
    };
    let (rows, cols) = (size("rows", m.rows)?, size("cols", m.cols)?);
    let on_device = context.check_device(name, m.device_type, m.device_id)?;
    if m.data.is_null() {
        return Err(Error::invalid(format!("{name}.data"), "an address", "NULL"));
    }
    if m.data.addr() % dtype.size() != 0 {
        let expected = format!("an address aligned to its {} elements", dtype.name());
        return Err(Error::invalid(format!("{name}.data"), expected, format!("{:p}", m.data)));
    }
    let (row_stride, col_stride) = strides(name, &m, rows, cols)?;
    let last = (rows - 1).checked_mul(row_stride).zip((cols - 1).checked_mul(col_stride));
    let bytes = last
        .and_then(|(a, b)| a.checked_add(b)?.checked_add(1)?.checked_mul(dtype.size()))
        .filter(|&b| isize::try_from(b).is_ok() && m.data.addr().checked_add(b).is_some());
    let Some(bytes) = bytes else {
        let got = format!("{rows} x {cols} with strides ({row_stride}, {col_stride})");
        return Err(Error::invalid(name, "a matrix that fits into the address space", got));
    };
    Ok(Checked { on_device, data: m.data.cast(), rows, cols, row_stride, col_stride, dtype, bytes })
}

/// The strides, of which one must be 1 and the other clear its extent. A stride whose extent is 1 is not looked at.
fn strides(name: &str, m: &unicon_matrix_t, rows: usize, cols: usize) -> Result<(usize, usize)> {
    let at_least = |stride: i64, least: usize| usize::try_from(stride).ok().filter(|&s| s >= least);
    let by_rows = (cols == 1 || m.col_stride == 1)
        .then(|| if rows == 1 { Some(cols) } else { at_least(m.row_stride, cols) })
        .flatten();
    if let Some(row_stride) = by_rows {
        return Ok((row_stride, 1));
    }
    let by_cols = (rows == 1 || m.row_stride == 1)
        .then(|| if cols == 1 { Some(rows) } else { at_least(m.col_stride, rows) })
        .flatten();
    if let Some(col_stride) = by_cols {
        return Ok((1, col_stride));
    }
    Err(Error::Unsupported(format!(
        "{name}: expected one stride of 1 and the other at least the extent that it steps over, got strides ({}, {}) \
         of a {rows} x {cols} matrix",
        m.row_stride, m.col_stride
    )))
}

/// An input: a view over the caller's memory.
pub(super) struct Input<'a> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) dtype: Dtype,
    place: InputPlace<'a>,
    addresses: Range<usize>,
}

enum InputPlace<'a> {
    Host(MatView<'a>),
    Device(LentMatrix),
}

impl Input<'_> {
    /// Its rows, for a backend to load.
    pub(super) fn source(&self) -> &dyn RowSource {
        match &self.place {
            InputPlace::Host(view) => view,
            InputPlace::Device(lent) => lent,
        }
    }

    /// What messages call it.
    pub(super) fn name(&self) -> &str {
        self.source().name()
    }
}

/// Takes an input matrix that is used as it is, and checks that its values are finite in float32.
///
/// # Safety
/// `pointer` is NULL or points to a `unicon_matrix_t` that describes memory readable during the call.
pub(super) unsafe fn input<'a>(
    context: &Context,
    name: &'a str,
    pointer: *const unicon_matrix_t,
) -> Result<Input<'a>> {
    // SAFETY: passed on.
    let input = unsafe { unchecked_input(context, name, pointer)? };
    check_finite_as::<f32>(input.source())?;
    Ok(input)
}

/// As [`input`], for a solver that checks the values itself.
///
/// # Safety
/// As [`input`].
pub(super) unsafe fn unchecked_input<'a>(
    context: &Context,
    name: &'a str,
    pointer: *const unicon_matrix_t,
) -> Result<Input<'a>> {
    // SAFETY: passed on.
    let m = unsafe { check(context, name, pointer)? };
    let place = if m.on_device {
        // SAFETY: the caller promises device memory that is readable during the call.
        InputPlace::Device(unsafe { context.lent(m.place(), name)? })
    } else {
        // SAFETY: the caller promises that the elements described are readable during the call, and `check` made sure
        // that they are within this many bytes.
        let bytes = unsafe { std::slice::from_raw_parts(m.data.cast_const(), m.bytes) };
        let view = MatView::strided(bytes, m.rows, m.cols, m.row_stride, m.col_stride, m.dtype)?;
        InputPlace::Host(view.named(name))
    };
    Ok(Input { rows: m.rows, cols: m.cols, dtype: m.dtype, place, addresses: m.addresses() })
}

/// Whether an input has no rows, where that is allowed; then the output `(name, matrix, columns)` must have none either.
///
/// # Safety
/// The matrices are NULL or as the header requires.
pub(super) unsafe fn no_rows(
    context: &Context,
    input: (&str, *const unicon_matrix_t, usize),
    out: Option<(&str, *const unicon_matrix_t, usize)>,
) -> Result<bool> {
    // SAFETY: passed on.
    match unsafe { input.1.as_ref() } {
        Some(m) if input.1.is_aligned() && m.rows == 0 => {}
        // What is wrong with others is said where they are used.
        _ => return Ok(false),
    }
    for (name, pointer, cols) in std::iter::once(input).chain(out) {
        if pointer.is_null() || !pointer.is_aligned() {
            return Err(Error::invalid(name, "a matrix", "NULL or a misaligned pointer"));
        }
        // SAFETY: not NULL, aligned, and a matrix by the header's contract.
        let m = unsafe { pointer.read() };
        dtype_of(name, m.dtype)?;
        context.check_device(name, m.device_type, m.device_id)?;
        if m.reserved != 0 {
            return Err(Error::Unsupported(format!("{name}.reserved must be 0, got {}", m.reserved)));
        }
        if m.rows != 0 || usize::try_from(m.cols) != Ok(cols) {
            return Err(Error::invalid(name, format!("0 x {cols}"), format!("{} x {}", m.rows, m.cols)));
        }
    }
    Ok(true)
}

/// Values of a host matrix that are handed over at once.
const PANEL_VALUES: usize = 1 << 16;

/// Element types that an output may have.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Allowed {
    /// float32 and float64.
    Wide,
    /// Also float16 and bfloat16.
    Any,
}

/// An output: where rows of a result go.
pub(super) struct Output<'a> {
    name: &'a str,
    m: Checked,
    /// Where `m` is on a device.
    lent: Option<LentMatrix>,
}

/// Takes an output matrix of a required shape.
///
/// # Safety
/// `pointer` is NULL or points to a `unicon_matrix_t` that describes memory writable during the call, which nothing
/// else reads or writes.
pub(super) unsafe fn output<'a>(
    context: &Context,
    name: &'a str,
    pointer: *const unicon_matrix_t,
    (rows, cols): (usize, usize),
    allowed: Allowed,
) -> Result<Output<'a>> {
    // SAFETY: passed on.
    let m = unsafe { check(context, name, pointer)? };
    if (m.rows, m.cols) != (rows, cols) {
        return Err(Error::invalid(name, format!("{rows} x {cols}"), format!("{} x {}", m.rows, m.cols)));
    }
    if allowed == Allowed::Wide && !matches!(m.dtype, Dtype::F32 | Dtype::F64) {
        return Err(Error::invalid(format!("{name}.dtype"), "float32 or float64", m.dtype.name()));
    }
    // SAFETY: the caller promises device memory that is ours to write during the call.
    let lent = if m.on_device { Some(unsafe { context.lent(m.place(), name)? }) } else { None };
    Ok(Output { name, m, lent })
}

impl Output<'_> {
    /// Fails if this output shares memory with an input.
    pub(super) fn apart_from(&self, inputs: &[&Input<'_>]) -> Result<()> {
        let mine = self.m.addresses();
        for input in inputs {
            if mine.start < input.addresses.end && input.addresses.start < mine.end {
                let expected = format!("memory apart from that of {}", input.name());
                return Err(Error::invalid(self.name, expected, "an overlap"));
            }
        }
        Ok(())
    }

    /// Fails if this output shares memory with another.
    pub(super) fn apart_from_output(&self, other: &Output<'_>) -> Result<()> {
        let (a, b) = (self.m.addresses(), other.m.addresses());
        if a.start < b.end && b.start < a.end {
            let expected = format!("memory apart from that of {}", other.name);
            return Err(Error::invalid(self.name, expected, "an overlap"));
        }
        Ok(())
    }

    /// Fails if this output shares memory with `len` values at `values`.
    pub(super) fn apart_from_values<T>(&self, name: &str, values: *const T, len: usize) -> Result<()> {
        let a = self.m.addresses();
        let b = values.addr()..values.addr().saturating_add(len.saturating_mul(size_of::<T>()));
        if a.start < b.end && b.start < a.end {
            return Err(Error::invalid(self.name, format!("memory apart from that of {name}"), "an overlap"));
        }
        Ok(())
    }

    /// Stores a backend's matrix, which has this output's shape; on one device without passing through the host.
    pub(super) fn store<B: Backend>(&self, backend: &B, from: &B::Matrix) -> Result<()>
    where
        B::Matrix: 'static,
    {
        if let Some(lent) = &self.lent
            && let Some(from) = (from as &dyn Any).downcast_ref::<cuda::Matrix>()
            && lent.take(from)?
        {
            return Ok(());
        }
        backend.store(from, &mut |first, rows| self.put_rows(first, rows))
    }

    /// Stores a host matrix, which has this output's shape.
    pub(super) fn store_host(&self, from: &Mat<f64>) -> Result<()> {
        let (rows, cols) = (self.m.rows, self.m.cols);
        let panel = (PANEL_VALUES / cols).max(1);
        let mut values = Vec::new();
        for first in (0..rows).step_by(panel) {
            values.clear();
            let last = (first + panel).min(rows);
            values.extend((first..last).flat_map(|i| (0..cols).map(move |j| from[(i, j)])));
            self.put_rows(first, &values)?;
        }
        Ok(())
    }

    /// Writes whole rows from row `first`, rounding once. Rows beyond the matrix are ignored.
    pub(super) fn put_rows(&self, first: usize, values: &[f64]) -> Result<()> {
        if let Some(lent) = &self.lent {
            return lent.write_rows(first, values);
        }
        for (i, row) in values.chunks_exact(self.m.cols).enumerate() {
            let i = first + i;
            if i >= self.m.rows {
                break;
            }
            for (j, &v) in row.iter().enumerate() {
                let at = i * self.m.row_stride + j * self.m.col_stride;
                // SAFETY: i < rows and j < cols, so the element lies within the bytes that `check` computed, aligned for
                // its type as data is and the stride counts elements; the caller promises that it is ours to write.
                unsafe {
                    match self.m.dtype {
                        Dtype::F64 => self.m.data.cast::<f64>().add(at).write(v),
                        Dtype::F16 => self.m.data.cast::<f16>().add(at).write(f16::from_f64(v)),
                        Dtype::BF16 => self.m.data.cast::<bf16>().add(at).write(bf16::from_f64(v)),
                        _ => self.m.data.cast::<f32>().add(at).write(v as f32),
                    }
                }
            }
        }
        Ok(())
    }
}

/// Takes `len` values of an input array.
///
/// # Safety
/// `pointer` is NULL or points to `len` readable values.
pub(super) unsafe fn values<'a, T>(name: &str, pointer: *const T, len: usize) -> Result<&'a [T]> {
    check_values(name, pointer, len)?;
    // SAFETY: checked above, and readable by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// Checks an array's address and length.
pub(super) fn check_values<T>(name: &str, pointer: *const T, len: usize) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::invalid(name, format!("{len} values"), "NULL"));
    }
    if !pointer.is_aligned() {
        return Err(Error::invalid(name, "an aligned address", format!("{pointer:p}")));
    }
    if len.checked_mul(size_of::<T>()).is_none_or(|b| isize::try_from(b).is_err()) {
        return Err(Error::invalid(
            name,
            "an array that fits into the address space",
            format!("{len} values"),
        ));
    }
    Ok(())
}

/// Checks that an output pointer can be written through.
pub(super) fn check_out<T>(name: &str, pointer: *mut T) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::invalid(name, "an address to write to", "NULL"));
    }
    if !pointer.is_aligned() {
        return Err(Error::invalid(name, "an aligned address", format!("{pointer:p}")));
    }
    Ok(())
}
