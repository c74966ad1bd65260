//! Where the CPU backend's matrices live, and how much there is of them.

use crate::error::{Error, Result};
use crate::memory::available;
use crate::real::Real;
use std::alloc::{Layout, alloc_zeroed};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a matrix from which on it is worth asking whether there is room for it.
const LARGE: usize = 16 << 20;

/// Memory from outside for the matrices of a CPU backend, instead of the process's allocator.
pub trait HostMemory: Debug + Send + Sync {
    /// A block of so many zero bytes, aligned for any element; `None` if there is no memory.
    fn zeroed(&self, bytes: usize) -> Option<Box<dyn HostBlock>>;
}

/// A block of a [`HostMemory`], given back when dropped.
pub trait HostBlock: Debug + Send + Sync {
    /// Its bytes, at least as many as were asked for, always at the same address.
    fn bytes(&self) -> &[u8];
    /// The same, to be written.
    fn bytes_mut(&mut self) -> &mut [u8];
}

/// Bytes of n-sized data held, the most ever held, and the most that may be.
#[derive(Debug, Default)]
pub(super) struct Account {
    now: AtomicU64,
    peak: AtomicU64,
    limit: u64,
    memory: Option<Arc<dyn HostMemory>>,
}

impl Account {
    pub(super) fn new(limit: Option<u64>, memory: Option<Arc<dyn HostMemory>>) -> Self {
        Self { limit: limit.unwrap_or(u64::MAX), memory, ..Self::default() }
    }

    pub(super) fn read(&self) -> (u64, u64) {
        (self.now.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed))
    }

    /// Makes the peak what is held now.
    pub(super) fn forget_peak(&self) {
        self.peak.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
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

/// The values of a matrix, accounted for.
#[derive(Debug)]
pub(super) struct Values<T> {
    place: Place,
    own: Vec<T>,
    len: usize,
    account: Arc<Account>,
    element: PhantomData<T>,
}

#[derive(Debug)]
enum Place {
    Own,
    Lent(Box<dyn HostBlock>),
}

impl<T> Drop for Values<T> {
    fn drop(&mut self) {
        self.account.now.fetch_sub((self.len * size_of::<T>()) as u64, Ordering::Relaxed);
    }
}

impl<T: Real> Values<T> {
    /// Zeros; refused, not aborted, when memory is short.
    pub(super) fn zeros(rows: usize, cols: usize, account: &Arc<Account>) -> Result<Self> {
        let what = || format!("a {rows} x {cols} matrix of {}", T::NAME);
        let len = rows.checked_mul(cols);
        let bytes = len.and_then(|n| n.checked_mul(size_of::<T>())).filter(|&b| b <= isize::MAX as usize);
        let (Some(len), Some(bytes)) = (len, bytes) else {
            return Err(Error::OutOfMemory { what: what(), needed: u64::MAX, limit: account.limit });
        };
        // Linux grants more than there is, and ends the process when it is used.
        if account.memory.is_none()
            && bytes >= LARGE
            && let Some(limit) = available()
            && bytes as u64 > limit
        {
            return Err(Error::OutOfMemory { what: what(), needed: bytes as u64, limit });
        }
        account.take(bytes as u64, &what())?;
        // From here on dropping `values` gives the bytes back to the account.
        let mut values =
            Self { place: Place::Own, own: Vec::new(), len, account: account.clone(), element: PhantomData };
        let short = || Error::OutOfMemory { what: what(), needed: bytes as u64, limit: 0 };
        match &account.memory {
            Some(memory) => values.place = Place::Lent(memory.zeroed(bytes).ok_or_else(short)?),
            None => {
                values.own = zeroed(len).ok_or_else(short)?;
            }
        }
        Ok(values)
    }

    pub(super) fn as_slice(&self) -> &[T] {
        match &self.place {
            Place::Own => &self.own,
            Place::Lent(block) => bytemuck::cast_slice(&block.bytes()[..self.len * size_of::<T>()]),
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        match &mut self.place {
            Place::Own => &mut self.own,
            Place::Lent(block) => {
                bytemuck::cast_slice_mut(&mut block.bytes_mut()[..self.len * size_of::<T>()])
            }
        }
    }
}

/// Zeros whose pages the system makes when they are first written, by whichever thread that is; `None` if there is no memory.
fn zeroed<T: Real>(len: usize) -> Option<Vec<T>> {
    let layout = Layout::array::<T>(len).ok()?;
    if layout.size() == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if start.is_null() {
        return None;
    }
    // SAFETY: `len` elements of this layout from the allocator of vectors; zero bytes are the number 0.
    Some(unsafe { Vec::from_raw_parts(start, len, len) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::{Cpu, Matrix};
    use std::sync::atomic::AtomicUsize;

    /// Gives ordinary memory, `left` times.
    #[derive(Debug)]
    struct Counted {
        left: AtomicUsize,
    }

    #[derive(Debug)]
    struct Words(Vec<u64>);

    impl HostBlock for Words {
        fn bytes(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
        fn bytes_mut(&mut self) -> &mut [u8] {
            bytemuck::cast_slice_mut(&mut self.0)
        }
    }

    impl HostMemory for Counted {
        fn zeroed(&self, bytes: usize) -> Option<Box<dyn HostBlock>> {
            let left = self.left.load(Ordering::Relaxed);
            self.left.store(left.checked_sub(1)?, Ordering::Relaxed);
            Some(Box::new(Words(vec![0; bytes.div_ceil(8)])))
        }
    }

    #[test]
    fn matrices_live_in_lent_memory_and_its_end_is_an_error() {
        let memory = Arc::new(Counted { left: AtomicUsize::new(1) });
        let account = Arc::new(Account::new(None, Some(memory)));
        let mut m = Matrix::<f32>::zeros(3, 5, 0..3, &account).unwrap();
        m.data_mut()[14] = 2.0;
        let mut scratch = Vec::new();
        assert_eq!(m.panel(&(0..3), &mut scratch).unwrap().len(), 15);
        assert_eq!(m.row(2, &mut scratch).unwrap()[4], 2.0);
        assert_eq!(account.read(), (60, 60));
        let refused = Matrix::<f64>::zeros(2, 2, 0..2, &account);
        assert!(matches!(refused, Err(Error::OutOfMemory { needed: 32, .. })));
        assert_eq!(account.read().0, 60);
        drop(m);
        assert_eq!(account.read().0, 0);
    }

    #[test]
    fn the_limit_is_kept_and_shared_by_precisions() {
        let cpu = Cpu::<f32>::with(1, Some(100), Arc::default()).unwrap();
        let wide = cpu.in_precision::<f64>();
        let m = cpu.zeros(5, 5).unwrap();
        assert!(wide.zeros(1, 1).is_err());
        drop(m);
        assert!(wide.zeros(3, 4).is_ok());
    }
}
