//! Communicators as callbacks, and NCCL's as a ready-made one.

use super::bindings::*;
use super::entry;
use super::structs::{Versioned, init, read, write};
use crate::backend::cuda::Cuda;
use crate::distributed::Comm;
use crate::error::{Error, Result};
use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

/// The caller's communicator, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Communicator {
    pub(super) raw: unicon_communicator,
}

// SAFETY: the callbacks are called on the thread of a call on the context, one at a time; `user` is only passed back.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

impl Communicator {
    /// None for a single rank without callbacks.
    pub(super) fn new(raw: unicon_communicator) -> Result<Option<Self>> {
        if raw.size < 1 {
            return Err(Error::invalid("communicator.size", "at least 1", raw.size));
        }
        if !(0..raw.size).contains(&raw.rank) {
            return Err(Error::invalid("communicator.rank", format!("0 to {}", raw.size - 1), raw.rank));
        }
        match (raw.allgather, raw.send_recv) {
            (None, None) if raw.size == 1 => Ok(None),
            (Some(_), Some(_)) => Ok(Some(Self { raw })),
            _ => Err(Error::invalid("communicator", "both functions", "NULL")),
        }
    }

    /// Whether the callbacks are NCCL's, which take device memory only.
    pub(super) fn is_nccl(&self) -> bool {
        let ours: Gather = nccl_allgather;
        self.raw.allgather.is_some_and(|f| f as usize == ours as usize)
    }

    fn moved(&self, sent: usize, to: usize, received: usize, from: usize, at: At) -> Result<()> {
        let Some(function) = self.raw.send_recv else { return done("send_recv", -1) };
        let rank = |k: usize| i32::try_from(k).unwrap_or(-1);
        let (out, back) = (bytes_of(sent), bytes_of(received));
        // SAFETY: the caller's function by its contract: memory of these sizes, where `at` says it is.
        done("send_recv", unsafe {
            function(
                self.raw.user,
                at.sent,
                out,
                rank(to),
                at.received,
                back,
                rank(from),
                at.device,
                at.stream,
            )
        })
    }

    fn gathered(&self, sent: usize, at: At) -> Result<()> {
        let Some(function) = self.raw.allgather else { return done("allgather", -1) };
        // SAFETY: as above; `received` holds that many bytes of every rank.
        done("allgather", unsafe {
            function(self.raw.user, at.sent, at.received, bytes_of(sent), at.device, at.stream)
        })
    }
}

type Gather = unsafe extern "C" fn(Pointer, *const c_void, Pointer, i64, i32, Pointer) -> i32;

/// Where a callback finds its bytes.
struct At {
    sent: *const c_void,
    received: Pointer,
    device: i32,
    stream: Pointer,
}

impl At {
    fn host(sent: &[u8], received: &mut [u8]) -> Self {
        let device = UNICON_DEVICE_CPU as i32;
        Self {
            sent: sent.as_ptr().cast(),
            received: received.as_mut_ptr().cast(),
            device,
            stream: null_mut(),
        }
    }

    fn device(sent: *const c_void, received: Pointer, stream: Pointer) -> Self {
        Self { sent, received, device: UNICON_DEVICE_CUDA as i32, stream }
    }
}

/// A communicator whose callbacks take device memory only: every message passes through that of a CUDA context.
#[derive(Debug)]
pub(super) struct OnDevice {
    pub(super) inner: Communicator,
    pub(super) cuda: Cuda,
}

impl Comm for OnDevice {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn name(&self) -> &str {
        "nccl"
    }

    fn send_recv(&self, sent: &[u8], to: usize, received: &mut [u8], from: usize) -> Result<()> {
        let len = received.len();
        self.cuda.through_device(sent, received, |out, back, stream| {
            self.inner.moved(sent.len(), to, len, from, At::device(out, back, stream))
        })
    }

    fn allgather(&self, sent: &[u8], received: &mut [u8]) -> Result<()> {
        self.cuda.through_device(sent, received, |out, back, stream| {
            self.inner.gathered(sent.len(), At::device(out, back, stream))
        })
    }
}

/// `Ok` for 0.
fn done(name: &str, status: i32) -> Result<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(Error::Comm(format!("the communicator's {name} returned {status}")))
    }
}

fn bytes_of(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// Sums are made from these two in a fixed order, so that results do not depend on the number of ranks.
impl Comm for Communicator {
    fn rank(&self) -> usize {
        usize::try_from(self.raw.rank).unwrap_or(0)
    }

    fn size(&self) -> usize {
        usize::try_from(self.raw.size).unwrap_or(1)
    }

    fn name(&self) -> &str {
        "callbacks"
    }

    fn send_recv(&self, sent: &[u8], to: usize, received: &mut [u8], from: usize) -> Result<()> {
        let at = At::host(sent, received);
        self.moved(sent.len(), to, received.len(), from, at)
    }

    fn allgather(&self, sent: &[u8], received: &mut [u8]) -> Result<()> {
        self.gathered(sent.len(), At::host(sent, received))
    }
}

type Pointer = *mut c_void;
type AllGather = unsafe extern "C" fn(*const c_void, Pointer, usize, c_int, Pointer, Pointer) -> c_int;
type SendTo = unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Pointer, Pointer) -> c_int;
type RecvFrom = unsafe extern "C" fn(Pointer, usize, c_int, c_int, Pointer, Pointer) -> c_int;
type Group = unsafe extern "C" fn() -> c_int;
type Query = unsafe extern "C" fn(Pointer, *mut c_int) -> c_int;

/// NCCL's functions that the callbacks need.
struct Nccl {
    all_gather: AllGather,
    send: SendTo,
    recv: RecvFrom,
    group_start: Group,
    group_end: Group,
    count: Query,
    rank: Query,
}

/// NCCL's ncclInt8.
const NCCL_INT8: c_int = 0;

/// A function of the NCCL that the process has loaded.
fn symbol(name: &CStr) -> Pointer {
    // SAFETY: looks up names; RTLD_NOLOAD loads nothing.
    unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
        if !found.is_null() {
            return found;
        }
        // Loaded privately, as Python extensions do.
        let library = libc::dlopen(c"libnccl.so.2".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if library.is_null() { library } else { libc::dlsym(library, name.as_ptr()) }
    }
}

/// NCCL, if the process has loaded it.
fn nccl() -> Option<&'static Nccl> {
    static NCCL: OnceLock<Nccl> = OnceLock::new();
    if let Some(nccl) = NCCL.get() {
        return Some(nccl);
    }
    let names = [
        c"ncclAllGather",
        c"ncclSend",
        c"ncclRecv",
        c"ncclGroupStart",
        c"ncclGroupEnd",
        c"ncclCommCount",
        c"ncclCommUserRank",
    ];
    let found = names.map(symbol);
    if found.iter().any(|p| p.is_null()) {
        return None;
    }
    // SAFETY: NCCL's functions of these names have these types since version 2.7.
    let nccl = unsafe {
        Nccl {
            all_gather: std::mem::transmute::<Pointer, AllGather>(found[0]),
            send: std::mem::transmute::<Pointer, SendTo>(found[1]),
            recv: std::mem::transmute::<Pointer, RecvFrom>(found[2]),
            group_start: std::mem::transmute::<Pointer, Group>(found[3]),
            group_end: std::mem::transmute::<Pointer, Group>(found[4]),
            count: std::mem::transmute::<Pointer, Query>(found[5]),
            rank: std::mem::transmute::<Pointer, Query>(found[6]),
        }
    };
    Some(NCCL.get_or_init(|| nccl))
}

/// What a callback returns when it cannot even ask NCCL: host memory, a negative size, no NCCL.
const REFUSED: i32 = -1;

fn on_device(device_type: i32) -> Option<&'static Nccl> {
    if device_type == UNICON_DEVICE_CUDA as i32 { nccl() } else { None }
}

unsafe extern "C" fn nccl_allgather(
    comm: Pointer,
    sent: *const c_void,
    received: Pointer,
    bytes: i64,
    device_type: i32,
    stream: Pointer,
) -> i32 {
    match (on_device(device_type), usize::try_from(bytes)) {
        // SAFETY: device memory of these sizes, as the callback's contract says.
        (Some(nccl), Ok(bytes)) => unsafe {
            (nccl.all_gather)(sent, received, bytes, NCCL_INT8, comm, stream)
        },
        _ => REFUSED,
    }
}

unsafe extern "C" fn nccl_send_recv(
    comm: Pointer,
    sent: *const c_void,
    send_bytes: i64,
    to: i32,
    received: Pointer,
    receive_bytes: i64,
    from: i32,
    device_type: i32,
    stream: Pointer,
) -> i32 {
    let (Some(nccl), Ok(out), Ok(back)) =
        (on_device(device_type), usize::try_from(send_bytes), usize::try_from(receive_bytes))
    else {
        return REFUSED;
    };
    // SAFETY: device memory of these sizes, as the callback's contract says; grouped, so that neither side waits.
    unsafe {
        let mut status = (nccl.group_start)();
        if status == 0 && out > 0 {
            status = (nccl.send)(sent, out, NCCL_INT8, to, comm, stream);
        }
        if status == 0 && back > 0 {
            status = (nccl.recv)(received, back, NCCL_INT8, from, comm, stream);
        }
        let ended = (nccl.group_end)();
        if status == 0 { ended } else { status }
    }
}

entry!(
    fn unicon_communicator_nccl(nccl_comm: *mut c_void, communicator: *mut unicon_communicator_t) {
        // SAFETY: as the header requires.
        let before = unsafe { read(communicator.cast_const())? };
        if nccl_comm.is_null() {
            return Err(Error::invalid("nccl_comm", "an ncclComm_t", "NULL"));
        }
        let Some(nccl) = nccl() else {
            return Err(Error::Unsupported(
                "nccl_comm: the process has not loaded NCCL (libnccl.so.2)".into(),
            ));
        };
        let ask = |query: Query, name: &str| {
            let mut value = 0;
            // SAFETY: the caller's communicator.
            match unsafe { query(nccl_comm, &mut value) } {
                0 => Ok(value),
                status => Err(Error::Cuda(format!("{name} returned {status}"))),
            }
        };
        let made = unicon_communicator {
            rank: ask(nccl.rank, "ncclCommUserRank")?,
            size: ask(nccl.count, "ncclCommCount")?,
            allgather: Some(nccl_allgather),
            send_recv: Some(nccl_send_recv),
            user: nccl_comm,
            ..before
        };
        // SAFETY: read above.
        unsafe { write(communicator, &made) };
        Ok(())
    }
);

entry!(
    fn unicon_communicator_init(communicator: *mut unicon_communicator_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(communicator, struct_size, &unicon_communicator::defaults()) }
    }
);
