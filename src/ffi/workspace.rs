//! How many bytes of sample-sized matrices a call holds at most, before it is made.

use super::bindings::*;
use super::context::context_of;
use super::matrix::{Precision, check_out};
use super::structs::{count, read};
use super::{entry, options};
use crate::error::Result;
use crate::plan::memory::{Sizes, of_best, of_fit, of_weights};

/// A pair of counts, each at least `least`.
fn pair(names: [&str; 2], x: i64, y: i64, least: i64) -> Result<(usize, usize)> {
    Ok((count(names[0], x, least)?, count(names[1], y, least)?))
}

entry!(
    on context_of(context);
    fn unicon_fit_workspace(
        context: *mut unicon_context_t,
        options: *const unicon_fit_options_t,
        n_x: i64,
        n_y: i64,
        d1: i64,
        d2: i64,
        dtype: i32,
        bytes: *mut u64,
    ) |context| {
        check_out("bytes", bytes)?;
        // SAFETY: as the header requires.
        let o = unsafe { options::fit(context, &read(options)?, std::ptr::null())? };
        let sizes = Sizes {
            rows: pair(["n_x", "n_y"], n_x, n_y, 1)?,
            widths: pair(["d1", "d2"], d1, d2, 1)?,
            validation: (0, 0),
        };
        let answer = of_fit(&o, sizes, Precision::of_dtype("dtype", dtype)?.size());
        // SAFETY: checked above.
        unsafe { bytes.write(answer) };
        Ok(())
    }
);

entry!(
    on context_of(context);
    fn unicon_fit_best_workspace(
        context: *mut unicon_context_t,
        options: *const unicon_best_options_t,
        n_x: i64,
        n_y: i64,
        m_x: i64,
        m_y: i64,
        d1: i64,
        d2: i64,
        dtype: i32,
        bytes: *mut u64,
    ) |_context| {
        check_out("bytes", bytes)?;
        // SAFETY: as the header requires.
        let o = unsafe { options::best(&read(options)?, std::ptr::null())? };
        let sizes = Sizes {
            rows: pair(["n_x", "n_y"], n_x, n_y, 1)?,
            widths: pair(["d1", "d2"], d1, d2, 1)?,
            validation: pair(["m_x", "m_y"], m_x, m_y, 0)?,
        };
        let answer = of_best(&o, sizes, Precision::of_dtype("dtype", dtype)?.size());
        // SAFETY: checked above.
        unsafe { bytes.write(answer) };
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
