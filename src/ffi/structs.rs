//! Structs that grow: `struct_size` first, defaults for what the caller lacks, zeros for what we do not know.

use super::bindings::*;
use crate::error::{Error, Result};
use std::ffi::{CStr, c_char};
use std::mem::{MaybeUninit, offset_of, size_of};

/// A struct of the header that begins with `struct_size`.
///
/// # Safety
/// `repr(C)`, begins with `struct_size: usize`, consists of integers, floats, pointers and optional function pointers
/// (so that any bytes from C are a value), and `ENDS` are the offsets at which its fields end.
pub(super) unsafe trait Versioned: Copy {
    /// The argument's name in messages.
    const NAME: &'static str;
    /// Sizes that a struct of an older header can have had: each ends with a whole field.
    const ENDS: &'static [usize];
    /// Every field at its default and `struct_size` ours.
    fn defaults() -> Self;
}

/// Implements [`Versioned`]; the list of fields is checked to be complete and in order.
macro_rules! versioned {
    ($ty:ident, $name:literal, [$first:ident, $($field:ident),*], $defaults:expr) => {
        // SAFETY: generated from the header with exactly these fields; the destructuring proves the list complete.
        unsafe impl Versioned for $ty {
            const NAME: &'static str = $name;
            const ENDS: &'static [usize] = &[$(offset_of!($ty, $field),)* size_of::<$ty>()];
            fn defaults() -> Self {
                #[allow(dead_code)]
                fn complete($ty { $first: _, $($field: _),* }: $ty) {}
                // SAFETY: all zero bytes are a value of such a struct.
                let mut zero: $ty = unsafe { std::mem::zeroed() };
                zero.struct_size = size_of::<$ty>();
                let set: fn(&mut $ty) = $defaults;
                set(&mut zero);
                zero
            }
        }
    };
}

versioned!(
    unicon_context_options,
    "options",
    [
        struct_size,
        device_type,
        device_id,
        stream,
        n_threads,
        precision,
        workspace_limit,
        allocator,
        communicator,
        devices,
        n_devices,
        warning,
        warning_user
    ],
    |o| o.device_type = UNICON_DEVICE_CPU as i32
);
versioned!(
    unicon_loss,
    "loss",
    [struct_size, kind, eps_by, tau, nu, margin, eps_pos, eps_neg, log_eps, family],
    super::problem::default_loss
);
versioned!(unicon_communicator, "communicator", [struct_size, rank, size, allgather, send_recv, user], |c| {
    c.size = 1
});
versioned!(unicon_pairs, "pairs", [struct_size, x, y, positives], |_| ());
versioned!(unicon_weights_options, "options", [struct_size, loss, n_negatives, seed], |_| ());
versioned!(unicon_sizes, "sizes", [struct_size, n_x, n_y, d1, d2, m_x, m_y, dtype, reserved], |s| s.dtype =
    UNICON_F32 as i32);
versioned!(unicon_family, "loss.family", [struct_size, name, psi, phi, user, concurrent, reserved], |_| ());
versioned!(
    unicon_positives,
    "positives",
    [struct_size, kind, reserved, x_groups, y_groups, indptr, indices, nnz],
    |_| ()
);
versioned!(
    unicon_kernel,
    "kernel",
    [struct_size, kind, reserved, beta, gamma, lengthscale, cos_clamp],
    super::problem::default_kernel
);
versioned!(unicon_damping, "damping", [struct_size, first, halvings, tol], super::options::default_damping);
versioned!(
    unicon_refine,
    "refine",
    [struct_size, max_steps, tol, memory, patience, first_step, stages, n_stages],
    super::options::default_refine
);
versioned!(
    unicon_minibatch,
    "minibatch",
    [struct_size, batch, epochs, min_steps, max_steps, rate, momentum, patience],
    super::options::default_minibatch
);
versioned!(
    unicon_best_options,
    "options",
    [
        struct_size,
        dimension,
        tau_auto,
        r,
        energy,
        loss,
        kernel,
        n_landmarks,
        landmarks,
        kernel_ridge,
        whiten,
        n_whiten,
        powers,
        n_powers,
        refine,
        minibatch,
        n_negatives,
        exact,
        final_loss,
        checkpoint,
        budget,
        seed,
        progress,
        progress_user,
        widths,
        n_widths,
        center,
        reserved,
        validation,
        warm_start
    ],
    super::options::default_best
);
versioned!(
    unicon_fit_options,
    "options",
    [
        struct_size,
        r,
        loss,
        kernel,
        n_landmarks,
        landmarks,
        kernel_ridge,
        n_iters,
        tol,
        rho,
        ridge,
        factorization,
        svd,
        init,
        scale_inputs,
        final_loss,
        drop_trailing,
        power,
        similarity,
        whiten,
        batch_size,
        n_batches,
        n_negatives,
        seed,
        growth,
        exact_last,
        center,
        validation,
        warm_start,
        damping,
        refine,
        checkpoint,
        budget,
        progress,
        progress_user,
        batch_score,
        reserved,
        cos_clamp
    ],
    super::options::default_fit
);
versioned!(
    unicon_model_description,
    "description",
    [struct_size, d1, d2, r, kernel_x, kernel_y, members],
    |_| ()
);

versioned!(
    unicon_evaluation_options,
    "options",
    [struct_size, ks, n_ks, ties, exclude_self, resamples, level, seed],
    super::evaluation::defaults
);

/// More than any header's struct will ever need; beyond it a size is garbage and its tail is not looked at.
const LARGEST: usize = 1 << 14;

/// Checks the pointer and the size that the caller gave.
fn check_size<T: Versioned>(pointer: *const T, size: usize) -> Result<()> {
    if pointer.is_null() {
        return Err(Error::invalid(T::NAME, "a struct", "NULL"));
    }
    if !pointer.is_aligned() {
        return Err(Error::invalid(T::NAME, format!("an address aligned to {}", align_of::<T>()), "another"));
    }
    let plausible = if size < size_of::<T>() { T::ENDS.contains(&size) } else { size <= LARGEST };
    if !plausible {
        let expected = format!("struct_size {} as set by the _init function", size_of::<T>());
        return Err(Error::invalid(T::NAME, expected, size));
    }
    Ok(())
}

/// Reads a caller's struct: what it lacks takes its default, what we do not know must be zero.
///
/// # Safety
/// `pointer` is NULL or points to as many readable bytes as its `struct_size` says.
pub(super) unsafe fn read<T: Versioned>(pointer: *const T) -> Result<T> {
    if pointer.is_null() || !pointer.is_aligned() {
        check_size(pointer, size_of::<T>())?;
    }
    // SAFETY: not NULL and aligned; every such struct begins with its size.
    let size = unsafe { pointer.cast::<usize>().read() };
    check_size(pointer, size)?;
    if size > size_of::<T>() {
        // SAFETY: the caller's struct has `size` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(pointer.cast::<u8>(), size) };
        if bytes.iter().skip(size_of::<T>()).any(|&b| b != 0) {
            return Err(Error::Unsupported(format!(
                "{}: fields beyond the {} bytes that version {} of the library knows must be zero",
                T::NAME,
                size_of::<T>(),
                env!("CARGO_PKG_VERSION")
            )));
        }
    }
    let mut out = MaybeUninit::new(T::defaults());
    // SAFETY: both sides hold that many bytes; any bytes are a value of a `Versioned` struct.
    unsafe {
        let bytes = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping(pointer.cast::<u8>(), out.as_mut_ptr().cast::<u8>(), bytes);
        Ok(out.assume_init())
    }
}

/// Reads an optional struct: NULL gives the defaults.
///
/// # Safety
/// As [`read`].
pub(super) unsafe fn read_or_default<T: Versioned>(pointer: *const T) -> Result<T> {
    if pointer.is_null() {
        return Ok(T::defaults());
    }
    // SAFETY: passed on.
    unsafe { read(pointer) }
}

/// Writes a struct over the caller's, as far as the caller's goes, and keeps the caller's `struct_size`.
///
/// # Safety
/// `pointer` came through [`read`] and is writable.
pub(super) unsafe fn write<T: Versioned>(pointer: *mut T, value: &T) {
    // SAFETY: the caller's struct holds `size` bytes; `size_of::<usize>()` of them are its size and stay.
    unsafe {
        let size = pointer.cast::<usize>().read().min(size_of::<T>());
        let from = std::ptr::from_ref(value).cast::<u8>().add(size_of::<usize>());
        let count = size - size_of::<usize>();
        std::ptr::copy_nonoverlapping(from, pointer.cast::<u8>().add(size_of::<usize>()), count);
    }
}

/// Fills a caller's struct of `size` bytes with `value`; a tail that we do not know becomes zero.
///
/// # Safety
/// `pointer` is NULL or points to `size` writable bytes.
pub(super) unsafe fn init<T: Versioned>(pointer: *mut T, size: usize, value: &T) -> Result<()> {
    check_size(pointer, size)?;
    // SAFETY: checked above; the caller gives `size` bytes.
    unsafe {
        std::ptr::write_bytes(pointer.cast::<u8>(), 0, size);
        let count = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping(std::ptr::from_ref(value).cast::<u8>(), pointer.cast::<u8>(), count);
        pointer.cast::<usize>().write(size);
    }
    Ok(())
}

/// A boolean field.
pub(super) fn boolean(name: &str, value: i32) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Error::invalid(name, "0 or 1", other)),
    }
}

/// A count field, at least `least`.
pub(super) fn count(name: &str, value: i64, least: i64) -> Result<usize> {
    match usize::try_from(value) {
        Ok(n) if value >= least => Ok(n),
        _ => Err(Error::invalid(name, format!("at least {least}"), value)),
    }
}

/// A file name.
///
/// # Safety
/// `path` is NULL or a NUL-terminated string.
pub(super) unsafe fn path_of<'a>(name: &str, path: *const c_char) -> Result<&'a str> {
    if path.is_null() {
        return Err(Error::invalid(name, "a file name", "NULL"));
    }
    // SAFETY: passed on.
    let path = unsafe { CStr::from_ptr(path) };
    path.to_str().map_err(|e| Error::invalid(name, "UTF-8", e))
}

/// A reserved field.
pub(super) fn reserved(name: &str, value: i32) -> Result<()> {
    if value == 0 {
        Ok(())
    } else {
        Err(Error::Unsupported(format!("{name}: reserved must be 0, got {value}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller's struct of any size.
    #[repr(C, align(8))]
    struct Bytes([u8; 256]);

    fn loss_of(size: usize) -> Bytes {
        let mut bytes = Bytes([0; 256]);
        let pointer = bytes.0.as_mut_ptr().cast::<unicon_loss>();
        // SAFETY: 256 bytes hold any size used here.
        unsafe {
            init(pointer, size_of::<unicon_loss>(), &unicon_loss::defaults()).unwrap();
            (*pointer).nu = 3.0;
            pointer.cast::<usize>().write(size);
        }
        bytes
    }

    fn read_loss(bytes: &Bytes) -> Result<unicon_loss> {
        // SAFETY: 256 bytes hold any size used here.
        unsafe { read(bytes.0.as_ptr().cast()) }
    }

    #[test]
    fn missing_tail_fields_take_their_defaults() {
        let nu_end = offset_of!(unicon_loss, margin);
        assert_eq!(read_loss(&loss_of(nu_end)).unwrap().nu, 3.0);
        assert_eq!(read_loss(&loss_of(nu_end)).unwrap().margin, 0.5);
        let before_nu = offset_of!(unicon_loss, nu);
        assert_eq!(read_loss(&loss_of(before_nu)).unwrap().nu, super::super::problem::NU_USUAL);
    }

    #[test]
    fn unknown_tail_fields_must_be_zero() {
        let ours = size_of::<unicon_loss>();
        let mut bytes = loss_of(ours + 16);
        assert_eq!(read_loss(&bytes).unwrap().nu, 3.0);
        bytes.0[ours + 15] = 1;
        assert!(matches!(read_loss(&bytes), Err(Error::Unsupported(_))));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for size in [0, 1, 7, 8 + 1, size_of::<unicon_loss>() - 1, LARGEST + 1, usize::MAX] {
            assert!(matches!(read_loss(&loss_of(size)), Err(Error::InvalidArgument { .. })), "{size}");
        }
        // SAFETY: NULL is allowed.
        assert!(unsafe { read::<unicon_loss>(std::ptr::null()) }.is_err());
        let bytes = loss_of(size_of::<unicon_loss>());
        let odd = bytes.0.as_ptr().wrapping_add(1).cast::<unicon_loss>();
        // SAFETY: a misaligned pointer is refused before it is read.
        assert!(unsafe { read(odd) }.unwrap_err().to_string().contains("aligned"));
    }

    #[test]
    fn init_zeroes_what_it_does_not_know() {
        let mut bytes = Bytes([7; 256]);
        let pointer = bytes.0.as_mut_ptr().cast::<unicon_loss>();
        // SAFETY: 256 bytes are there.
        unsafe { init(pointer, 200, &unicon_loss::defaults()).unwrap() };
        assert_eq!(read_loss(&bytes).unwrap().struct_size, 200);
        assert!(bytes.0[size_of::<unicon_loss>()..200].iter().all(|&b| b == 0));
        assert!(bytes.0[200..].iter().all(|&b| b == 7));
    }
}
