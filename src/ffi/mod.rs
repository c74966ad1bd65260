//! The C ABI: what `include/unicon.h` promises, over the rest of the crate.
//!
//! [`bindings`] is the header as Rust sees it (generated, checked in). Every exported function is defined with the
//! [`entry!`] macro, which wraps it in the one guard that stops panics and keeps error texts, and which compares its
//! signature with the header's at compile time. In reading order:
//!
//! | module | |
//! |---|---|
//! | [`guard`] | statuses, error texts, panics, one call at a time |
//! | [`structs`] | versioned option structs |
//! | [`matrix`] | borrowed matrices in and out |
//! | [`memory`] | the caller's allocator |
//! | [`context`] | the context and its options |
//! | [`problem`], [`family`] | losses, positives, kernels |
//! | [`options`], [`report`] | what a fit is told and tells |
//! | [`weights`], [`fit`], [`partial`], [`model`] (with [`few`]) | the calls |
//! | [`retrieval`], [`evaluation`], [`items`], [`workspace`] | the calls |
//!
//! It is not part of the Rust API: Rust programs use the crate's other modules.

#[rustfmt::skip]
mod bindings;
mod callbacks;
mod context;
mod evaluation;
mod family;
mod few;
mod fit;
mod guard;
mod items;
mod library;
mod matrix;
mod memory;
mod model;
mod options;
mod partial;
mod problem;
mod report;
mod retrieval;
mod structs;
mod weights;
mod workspace;

/// Defines an exported function `fn name(arguments) { body }` returning a status.
///
/// * `entry!(fn name(...) { ... })`: without a context; error texts are kept per thread.
/// * `entry!(on handle: fn name(...) |context| { ... })`: on the context of a handle (an expression that gives
///   `Result<&Arc<Context>>` or fails for NULL), which is held for the duration of the call.
/// * `entry!(over ranks on handle: ...)`: the same of a call that all ranks of the context make together.
macro_rules! entry {
    (fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> $crate::ffi::bindings::unicon_status_t {
            $crate::ffi::guard::without_context(|| -> $crate::Result<()> { $body })
        }
        $crate::ffi::same_signature!($name);
    };
    (over ranks on $handle:expr; fn $name:ident($($arg:ident: $ty:ty),* $(,)?) |$context:ident| $body:block) => {
        $crate::ffi::entry!(@ true, $handle, $name, ($($arg: $ty),*), $context, $body);
    };
    (on $handle:expr; fn $name:ident($($arg:ident: $ty:ty),* $(,)?) |$context:ident| $body:block) => {
        $crate::ffi::entry!(@ false, $handle, $name, ($($arg: $ty),*), $context, $body);
    };
    (@ $over_ranks:literal, $handle:expr, $name:ident, ($($arg:ident: $ty:ty),*), $context:ident, $body:block) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> $crate::ffi::bindings::unicon_status_t {
            // SAFETY: the header requires handles to be NULL or alive for the duration of the call.
            let handle = unsafe { $handle };
            $crate::ffi::guard::on_context(handle, $over_ranks, |$context| -> $crate::Result<()> { $body })
        }
        $crate::ffi::same_signature!($name);
    };
}

/// Fails to compile where the function of this name here and the one in the header differ in type.
macro_rules! same_signature {
    ($name:ident) => {
        const _: () = {
            // The arms unify only if both are one function pointer type.
            let _ = match true {
                true => $name,
                false => $crate::ffi::bindings::$name,
            };
        };
    };
}

pub(crate) use {entry, same_signature};
