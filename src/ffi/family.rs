//! Losses of one's own, as callbacks on arrays.

use super::bindings::*;
use super::entry;
use super::structs::{self, Versioned, boolean, init, path_of, reserved};
use crate::error::{Error, Result};
use crate::loss::{Answer, Custom, Family};
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

type Function = unsafe extern "C" fn(*const f64, *mut f64, *mut f64, i64, *mut c_void) -> i32;

/// The caller's functions.
struct Callbacks {
    psi: Function,
    phi: Function,
    user: *mut c_void,
    /// Held during a call, where they come one at a time.
    alone: Option<Mutex<()>>,
}

// SAFETY: `user` is only passed back, from any thread as the header says, and from one at a time unless the caller allows more.
unsafe impl Send for Callbacks {}
// SAFETY: as above.
unsafe impl Sync for Callbacks {}

impl Callbacks {
    fn call(&self, function: Function, at: &[f64], value: &mut [f64], derivative: &mut [f64]) -> Answer {
        let _alone = self.alone.as_ref().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        // No slice is longer than 2^15.
        let count = at.len() as i64;
        let (value, derivative) = (value.as_mut_ptr(), derivative.as_mut_ptr());
        // SAFETY: the caller's function by its contract: `count` arguments, and room for as many answers.
        match unsafe { function(at.as_ptr(), value, derivative, count, self.user) } {
            0 => Ok(()),
            code => Err(format!("the function returned {code}")),
        }
    }
}

impl Family for Callbacks {
    fn psi(&self, t: &[f64], value: &mut [f64], derivative: &mut [f64]) -> Answer {
        self.call(self.psi, t, value, derivative)
    }

    fn phi(&self, u: &[f64], value: &mut [f64], derivative: &mut [f64]) -> Answer {
        self.call(self.phi, u, value, derivative)
    }
}

/// The caller's functions and their name.
///
/// # Safety
/// A caller's struct, whose functions stay as long as the header says.
pub(super) unsafe fn read(pointer: *const unicon_family_t) -> Result<Custom> {
    // SAFETY: passed on.
    let raw = unsafe { structs::read(pointer)? };
    reserved("loss.family", raw.reserved)?;
    let (Some(psi), Some(phi)) = (raw.psi, raw.phi) else {
        return Err(Error::invalid("loss.family", "both functions, psi and phi", "NULL"));
    };
    let name = match raw.name.is_null() {
        true => "custom",
        // SAFETY: a string by the header's contract.
        false => unsafe { path_of("loss.family.name", raw.name)? },
    };
    let alone = (!boolean("loss.family.concurrent", raw.concurrent)?).then(Mutex::default);
    Ok(Custom::new(name, Callbacks { psi, phi, user: raw.user, alone }))
}

entry!(
    fn unicon_family_init(family: *mut unicon_family_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(family, struct_size, &unicon_family::defaults()) }
    }
);
