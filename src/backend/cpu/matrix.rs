//! n-sized data of the CPU backend: row-major, in the backend's number type.

use crate::error::{Error, Result};
use crate::real::Real;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of n-sized data held, and the most ever held.
#[derive(Debug, Default)]
pub(super) struct Account {
    now: AtomicU64,
    peak: AtomicU64,
    limit: u64,
}

impl Account {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { limit: limit.unwrap_or(u64::MAX), ..Self::default() }
    }

    pub(super) fn read(&self) -> (u64, u64) {
        (self.now.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed))
    }

    fn take(&self, bytes: u64, what: &str) -> Result<()> {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if now > self.limit {
            self.now.fetch_sub(bytes, Ordering::Relaxed);
            let what = what.to_string();
            return Err(Error::OutOfMemory { what, needed: now, limit: self.limit });
        }
        self.peak.fetch_max(now, Ordering::Relaxed);
        Ok(())
    }
}

/// `rows x cols`, row-major.
#[derive(Debug)]
pub struct Matrix<T> {
    rows: usize,
    cols: usize,
    data: Vec<T>,
    account: Arc<Account>,
}

impl<T> Drop for Matrix<T> {
    fn drop(&mut self) {
        let bytes = (self.data.len() * size_of::<T>()) as u64;
        self.account.now.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl<T: Real> Matrix<T> {
    /// Zeros; refused, not aborted, when memory is short.
    pub(super) fn zeros(rows: usize, cols: usize, account: &Arc<Account>) -> Result<Self> {
        let what = || format!("a {rows} x {cols} matrix of {}", T::NAME);
        let bytes = rows.checked_mul(cols).and_then(|n| n.checked_mul(size_of::<T>()));
        let Some(bytes) = bytes.filter(|&b| b <= isize::MAX as usize) else {
            return Err(Error::OutOfMemory { what: what(), needed: u64::MAX, limit: account.limit });
        };
        account.take(bytes as u64, &what())?;
        let mut data = Vec::new();
        if data.try_reserve_exact(rows * cols).is_err() {
            account.now.fetch_sub(bytes as u64, Ordering::Relaxed);
            return Err(Error::OutOfMemory { what: what(), needed: bytes as u64, limit: 0 });
        }
        data.resize(rows * cols, T::default());
        Ok(Self { rows, cols, data, account: account.clone() })
    }

    /// Number of rows (samples).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All values, row-major.
    pub fn as_slice(&self) -> &[T] {
        &self.data
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &[T] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// Rows `range`, row-major.
    pub(super) fn panel(&self, range: &Range<usize>) -> &[T] {
        &self.data[range.start * self.cols..range.end * self.cols]
    }

    pub(super) fn data_mut(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// The rows at positions `range` of an order: borrowed when there is none, gathered into `scratch` otherwise.
    pub(super) fn gather<'a>(
        &'a self,
        ids: Option<&[u32]>,
        range: &Range<usize>,
        scratch: &'a mut Vec<T>,
    ) -> &'a [T] {
        let Some(ids) = ids else { return self.panel(range) };
        scratch.clear();
        for &id in &ids[range.clone()] {
            scratch.extend_from_slice(self.row(id as usize));
        }
        scratch
    }
}
