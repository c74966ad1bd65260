//! Statuses, error texts, panics, and one call at a time.

use super::bindings::*;
use super::context::Context;
use crate::error::{Error, Result};
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The status of an error.
fn status_of(error: &Error) -> unicon_status_t {
    let status = match error {
        Error::InvalidArgument { .. } => UNICON_ERROR_INVALID_ARGUMENT,
        Error::Io { .. } => UNICON_ERROR_IO,
        Error::BadFile { .. } => UNICON_ERROR_BAD_FILE,
        Error::OutOfMemory { .. } => UNICON_ERROR_OUT_OF_MEMORY,
        Error::Numerical(_) => UNICON_ERROR_NUMERICAL,
        Error::Unsupported(_) => UNICON_ERROR_UNSUPPORTED,
        Error::NoDevice(_) => UNICON_ERROR_NO_DEVICE,
        Error::Cuda(_) => UNICON_ERROR_CUDA,
        Error::Cancelled => UNICON_ERROR_CANCELLED,
        Error::Comm(_) => UNICON_ERROR_COMM,
    };
    status as unicon_status_t
}

/// The name of a status.
pub(super) fn status_name(status: unicon_status_t) -> &'static std::ffi::CStr {
    match status {
        0 => c"ok",
        1 => c"invalid argument",
        2 => c"unsupported",
        3 => c"out of memory",
        4 => c"no device",
        5 => c"CUDA error",
        6 => c"numerical failure",
        7 => c"cancelled",
        8 => c"communicator failure",
        9 => c"input/output error",
        10 => c"bad file",
        11 => c"busy",
        12 => c"panic",
        13 => c"no such value",
        _ => c"unknown status",
    }
}

/// Bytes of stack that a call may take on the caller's thread, which may have little, and what it is given instead where
/// less is left. Large work runs on threads of the library's own.
const STACK_NEEDED: usize = 512 << 10;
const STACK_GIVEN: usize = 4 << 20;

/// Runs `f`; what it returns or throws becomes a status and, on failure, a text.
fn caught(f: impl FnOnce() -> Result<()>, keep: impl FnOnce(String)) -> unicon_status_t {
    // Unwind safety: whatever a panic leaves half done is dropped with the call; the context's own state is atomic or
    // behind locks whose poison is ignored.
    match catch_unwind(AssertUnwindSafe(|| stacker::maybe_grow(STACK_NEEDED, STACK_GIVEN, f))) {
        Ok(Ok(())) => UNICON_OK as unicon_status_t,
        Ok(Err(error)) => {
            keep(error.to_string());
            status_of(&error)
        }
        Err(payload) => {
            keep(panic_text(&*payload));
            UNICON_ERROR_PANIC as unicon_status_t
        }
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    format!("internal fault: {}", text.unwrap_or("no message"))
}

/// A thread that is at its end keeps no text any more.
fn keep_for_thread(text: String) {
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = text);
}

/// A call without a context.
pub(super) fn without_context(f: impl FnOnce() -> Result<()>) -> unicon_status_t {
    caught(f, keep_for_thread)
}

/// A call on a context: BUSY if another one is at work on it. Of one `over_ranks` all ranks must hear that it was cancelled, which the
/// call itself sees to.
pub(super) fn on_context(
    context: Result<Arc<Context>>,
    over_ranks: bool,
    f: impl FnOnce(&Arc<Context>) -> Result<()>,
) -> unicon_status_t {
    let context = match context {
        Ok(context) => context,
        Err(error) => return without_context(|| Err(error)),
    };
    let keep = |text: String| {
        keep_for_thread(text.clone());
        context.keep_error(text);
    };
    if context.busy.swap(true, Ordering::Acquire) {
        // What the call at work says of itself stays.
        keep_for_thread("the context is at work for another call".into());
        return UNICON_ERROR_BUSY as unicon_status_t;
    }
    /// Frees the context however the call ends, which uses up a cancellation.
    struct Release<'a>(&'a Context);
    impl Drop for Release<'_> {
        fn drop(&mut self) {
            self.0.control().set_hook(None);
            self.0.control().reset();
            self.0.busy.store(false, Ordering::Release);
        }
    }
    let _release = Release(&context);
    let run = || {
        context.revive()?;
        // One that came before the call.
        if context.control().is_cancelled() && (context.is_single() || !over_ranks) {
            return Err(Error::Cancelled);
        }
        f(&context)?;
        context.settle()
    };
    caught(run, keep)
}

/// The status of a report that has no value of a key.
pub(super) fn no_value(text: String) -> unicon_status_t {
    keep_for_thread(text);
    UNICON_ERROR_NO_VALUE as unicon_status_t
}

/// Runs `f` on a handle whose function returns no status; a panic is swallowed after its text is kept.
pub(super) fn silent<R>(default: R, f: impl FnOnce() -> R) -> R {
    let mut out = default;
    let run = || {
        out = f();
        Ok(())
    };
    caught(run, keep_for_thread);
    out
}

/// The text of the last failure on this thread.
pub(super) fn thread_error() -> String {
    LAST_ERROR.try_with(|last| last.borrow().clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_a_status_and_a_text() {
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let status = without_context(|| panic!("{} is broken", "this"));
        std::panic::set_hook(quiet);
        assert_eq!(status, UNICON_ERROR_PANIC as i32);
        assert_eq!(thread_error(), "internal fault: this is broken");
    }

    #[test]
    fn every_status_of_the_header_has_a_name() {
        for status in 0..=UNICON_ERROR_NO_VALUE as i32 {
            assert_ne!(status_name(status), c"unknown status", "{status}");
        }
        assert_eq!(status_name(-1), c"unknown status");
        assert_eq!(status_name(UNICON_ERROR_NO_VALUE as i32 + 1), c"unknown status");
    }

    #[test]
    fn every_error_has_its_own_status() {
        let all = [
            Error::invalid("a", "b", "c"),
            Error::Unsupported(String::new()),
            Error::OutOfMemory { needed: 0, limit: 0, what: String::new() },
            Error::NoDevice(String::new()),
            Error::Cuda(String::new()),
            Error::Numerical(String::new()),
            Error::Cancelled,
            Error::Comm(String::new()),
            Error::io("p", std::io::Error::other("x")),
            Error::bad_file("p", "r"),
        ];
        let statuses: Vec<_> = all.iter().map(status_of).collect();
        assert_eq!(statuses, (1..=10).collect::<Vec<_>>());
    }
}
