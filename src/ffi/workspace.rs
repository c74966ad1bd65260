//! How many bytes of sample-sized matrices a call holds at most, before it is made.

use super::bindings::*;
use super::context::context_of;
use super::matrix::{Precision, check_out};
use super::structs::{Versioned, count, init, read, reserved};
use super::{entry, options};
use crate::error::Result;
use crate::plan::memory::{Sizes, of_best, of_fit, of_weights};

/// A pair of counts, each at least `least`.
fn pair(names: [&str; 2], x: i64, y: i64, least: i64) -> Result<(usize, usize)> {
    Ok((count(names[0], x, least)?, count(names[1], y, least)?))
}

/// The sizes that are asked for, and the bytes of an element.
///
/// # Safety
/// `pointer` is NULL or a caller's struct.
unsafe fn sizes_of(pointer: *const unicon_sizes_t) -> Result<(Sizes, u64)> {
    // SAFETY: passed on.
    let s = unsafe { read(pointer)? };
    reserved("sizes", s.reserved)?;
    let sizes = Sizes {
        rows: pair(["sizes.n_x", "sizes.n_y"], s.n_x, s.n_y, 1)?,
        widths: pair(["sizes.d1", "sizes.d2"], s.d1, s.d2, 1)?,
        validation: pair(["sizes.m_x", "sizes.m_y"], s.m_x, s.m_y, 0)?,
    };
    Ok((sizes, Precision::of_dtype("sizes.dtype", s.dtype)?.size()))
}

entry!(
    fn unicon_sizes_init(sizes: *mut unicon_sizes_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(sizes, struct_size, &unicon_sizes::defaults()) }
    }
);

entry!(
    on context_of(context);
    fn unicon_fit_workspace(
        context: *mut unicon_context_t,
        options: *const unicon_fit_options_t,
        sizes: *const unicon_sizes_t,
        bytes: *mut u64,
    ) |context| {
        check_out("bytes", bytes)?;
        // SAFETY: as the header requires.
        let (o, (sizes, element)) = unsafe {
            (options::fit(context, &read(options)?)?, sizes_of(sizes)?)
        };
        // SAFETY: checked above.
        unsafe { bytes.write(of_fit(&o, sizes, element)) };
        Ok(())
    }
);

entry!(
    on context_of(context);
    fn unicon_fit_best_workspace(
        context: *mut unicon_context_t,
        options: *const unicon_best_options_t,
        sizes: *const unicon_sizes_t,
        bytes: *mut u64,
    ) |_context| {
        check_out("bytes", bytes)?;
        // SAFETY: as the header requires.
        let (o, (sizes, element)) = unsafe {
            (options::best(&read(options)?)?, sizes_of(sizes)?)
        };
        // SAFETY: checked above.
        unsafe { bytes.write(of_best(&o, sizes, element)) };
        Ok(())
    }
);

entry!(
    on context_of(context);
    fn unicon_weights_workspace(
        context: *mut unicon_context_t,
        n_x: i64,
        n_y: i64,
        r: i64,
        dtype: i32,
        bytes: *mut u64,
    ) |_context| {
        check_out("bytes", bytes)?;
        let (rows, r) = (pair(["n_x", "n_y"], n_x, n_y, 1)?, count("r", r, 1)?);
        let answer = of_weights(rows, r, Precision::of_dtype("dtype", dtype)?.size());
        // SAFETY: checked above.
        unsafe { bytes.write(answer) };
        Ok(())
    }
);
