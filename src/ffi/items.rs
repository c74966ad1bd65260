//! Items that stay on a device.

use super::bindings::*;
use super::context::{Context, Device, context_of, on_backend};
use super::matrix::{Input, Precision, check_out, input};
use super::retrieval::{Found, no_queries};
use super::weights::expect;
use super::{entry, guard, same_signature};
use crate::backend::{Backend, TopK, cpu, cuda};
use crate::error::{Error, Result};
use crate::retrieval::{search, search_others};
use std::ptr::NonNull;
use std::sync::Arc;

/// Items as a backend holds them.
enum Resident {
    F32(cpu::Matrix<f32>),
    F64(cpu::Matrix<f64>),
    Cuda(cuda::Matrix),
}

/// What a `unicon_items_t` points to.
struct Handle {
    /// Whose memory they are in.
    context: Arc<Context>,
    items: Resident,
    rows: usize,
    cols: usize,
}

/// Lets a backend's own matrices into and out of [`Resident`].
trait Keeps: Backend {
    fn keep(items: Self::Matrix) -> Resident;
    fn kept(items: &Resident) -> Option<&Self::Matrix>;
}

macro_rules! keeps {
    ($backend:ty, $variant:ident) => {
        impl Keeps for $backend {
            fn keep(items: Self::Matrix) -> Resident {
                Resident::$variant(items)
            }
            fn kept(items: &Resident) -> Option<&Self::Matrix> {
                match items {
                    Resident::$variant(items) => Some(items),
                    _ => None,
                }
            }
        }
    };
}
keeps!(cpu::Cpu<f32>, F32);
keeps!(cpu::Cpu<f64>, F64);
keeps!(cuda::Cuda, Cuda);

impl Handle {
    fn search<B: Keeps>(
        &self,
        backend: &B,
        queries: &Input<'_>,
        k: usize,
        own: Option<usize>,
    ) -> Result<TopK> {
        let Some(items) = B::kept(&self.items) else {
            return Err(Error::invalid("context", "a context of the items' device", "another device"));
        };
        let queries = backend.load(queries.source())?;
        match own {
            Some(first) => search_others(backend, &queries, items, k, first),
            None => search(backend, &queries, items, k),
        }
    }
}

/// # Safety
/// `handle` is NULL or live items.
unsafe fn handle_of<'a>(handle: *const unicon_items_t) -> Result<&'a Handle> {
    // SAFETY: passed on.
    unsafe { handle.cast::<Handle>().as_ref() }.ok_or_else(|| Error::invalid("resident", "items", "NULL"))
}

entry!(
    on context_of(context);
    fn unicon_items_create(
        context: *mut unicon_context_t,
        items: *const unicon_matrix_t,
        resident: *mut *mut unicon_items_t,
    ) |context| {
        check_out("resident", resident)?;
        // SAFETY: as the header requires.
        let items = unsafe { input(context, "items", items)? };
        let kept = on_backend!(context.device(), Precision::of(&[&items]), |backend| {
            keep(backend, &items)?
        });
        let made = Handle { context: context.clone(), items: kept, rows: items.rows, cols: items.cols };
        // SAFETY: checked above.
        unsafe { resident.write(Box::into_raw(Box::new(made)).cast()) };
        Ok(())
    }
);

fn keep<B: Keeps>(backend: &B, items: &Input<'_>) -> Result<Resident> {
    Ok(B::keep(backend.load(items.source())?))
}

/// Frees the items.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_items_destroy(resident: *mut unicon_items_t) {
    if let Some(handle) = NonNull::new(resident.cast::<Handle>()) {
        // SAFETY: what `Box::into_raw` gave, given back once.
        guard::silent((), || drop(unsafe { Box::from_raw(handle.as_ptr()) }));
    }
}
same_signature!(unicon_items_destroy);

entry!(
    on context_of(context);
    fn unicon_items_search(
        context: *mut unicon_context_t,
        resident: *const unicon_items_t,
        queries: *const unicon_matrix_t,
        k: i64,
        own: i64,
        scores: *const unicon_matrix_t,
        indices: *mut i64,
    ) |context| {
        // SAFETY: as the header requires.
        let handle = unsafe { handle_of(resident)? };
        let own = match own {
            none if none == i64::from(UNICON_OWN_NONE) => None,
            first => Some(usize::try_from(first).map_err(|_| {
                Error::invalid("own", "UNICON_OWN_NONE, or the number of an item", first)
            })?),
        };
        // SAFETY: as above.
        if unsafe { no_queries(context, queries, handle.cols, k, scores)? } {
            return Ok(());
        }
        // SAFETY: as above.
        let queries = unsafe { input(context, "queries", queries)? };
        expect(&queries, "columns, as the items have", handle.cols, queries.cols)?;
        if matches!(context.device(), Device::Cuda(_)) && !Arc::ptr_eq(context, &handle.context) {
            return Err(Error::invalid("context", "the context that took the items", "another one"));
        }
        // SAFETY: as the header requires.
        let found_to = unsafe { Found::new(context, (queries.rows, k), scores, indices)? };
        found_to.apart_from(&[&queries])?;
        let k = found_to.k.min(handle.rows);
        let precision = match handle.items {
            Resident::F64(_) => Precision::F64,
            _ => Precision::F32,
        };
        let found = on_backend!(context.device(), precision, |backend| {
            handle.search(backend, &queries, k, own)?
        });
        found_to.put(&found)
    }
);
