//! NVIDIA's NCCL, which moves data from device to device: found at run time, as the other libraries are.
//!
//! Only what [`Link`](super::link::Link) calls. A communicator never blocks: its calls return at once, and whether they
//! have done what they should is asked, so that a rank that is gone ends the others instead of leaving them in a call.

use super::driver::open_first;
use crate::error::{Error, Result};
use cudarc::driver::sys::CUstream;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// Done, and still at it; everything else is an error.
const SUCCESS: c_int = 0;
pub(super) const IN_PROGRESS: c_int = 7;
/// `ncclInt8`: everything is moved as bytes.
const BYTES: c_int = 0;
/// The first version with all of [`Config`].
const OLDEST: c_int = 21_800;

/// What makes the ranks of one communicator find each other.
pub(super) const ID: usize = 128;

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId(pub(super) [u8; ID]);

/// `ncclConfig_t` as of 2.18. Newer versions take it too: it says how long it is, and for which version it was written.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    /// Cluster size, least and most blocks, the network's name, splitting: NCCL's choice.
    others: [c_int; 3],
    net_name: *const c_char,
    split_share: c_int,
    /// What was padding then is a traffic class now.
    after: c_int,
}

const UNDEFINED: c_int = c_int::MIN;

/// An `ncclComm_t`.
pub(super) type Handle = *mut c_void;

/// The functions.
#[allow(non_snake_case)]
pub(super) struct Nccl {
    /// As `ncclGetVersion` has it: 22805 is 2.28.5.
    pub(super) version: c_int,
    ncclGetUniqueId: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    ncclCommInitRankConfig: unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int, *mut Config) -> c_int,
    ncclCommGetAsyncError: unsafe extern "C" fn(Handle, *mut c_int) -> c_int,
    ncclCommFinalize: unsafe extern "C" fn(Handle) -> c_int,
    ncclCommDestroy: unsafe extern "C" fn(Handle) -> c_int,
    ncclCommAbort: unsafe extern "C" fn(Handle) -> c_int,
    ncclGroupStart: unsafe extern "C" fn() -> c_int,
    ncclGroupEnd: unsafe extern "C" fn() -> c_int,
    ncclSend: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Handle, CUstream) -> c_int,
    ncclRecv: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Handle, CUstream) -> c_int,
    ncclBroadcast:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Handle, CUstream) -> c_int,
    ncclGetErrorString: unsafe extern "C" fn(c_int) -> *const c_char,
    ncclGetLastError: unsafe extern "C" fn(Handle) -> *const c_char,
}

/// NCCL, or what keeps it from being used.
pub(super) fn nccl() -> std::result::Result<&'static Nccl, &'static str> {
    static NCCL: OnceLock<std::result::Result<Nccl, String>> = OnceLock::new();
    NCCL.get_or_init(Nccl::open).as_ref().map_err(String::as_str)
}

/// Version of the NCCL that device data of several ranks can move through, such as 2.28.5.
///
/// # Errors
/// [`Error::Unsupported`] with what is missing.
pub fn nccl_version() -> Result<String> {
    nccl().map(|nccl| nccl.version_text()).map_err(|why| Error::Unsupported(why.to_string()))
}

/// `UNICON_NCCL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Where all ranks have it.
    Auto,
    Off,
    /// Or an error.
    Require,
    /// A file, where all ranks have it.
    File(String),
}

impl Wish {
    pub(super) fn read() -> Result<Self> {
        match std::env::var("UNICON_NCCL").unwrap_or_default().as_str() {
            "" | "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "require" => Ok(Self::Require),
            path if path.contains('/') => Ok(Self::File(path.to_string())),
            got => Err(Error::invalid(
                "UNICON_NCCL",
                "auto, off, require or the path of libnccl.so.2",
                format!("{got:?}"),
            )),
        }
    }
}

/// 2.28.5 from 22805; before 2.9 it was 2708 for 2.7.8.
fn readable(version: c_int) -> String {
    let (major, unit) = if version < 10_000 { (version / 1000, 1000) } else { (version / 10_000, 10_000) };
    format!("{major}.{}.{}", version % unit / 100, version % 100)
}

impl Nccl {
    fn open() -> std::result::Result<Self, String> {
        let library = match Wish::read() {
            Ok(Wish::File(path)) => open_first(&[&path])?,
            _ => open_first(&["libnccl.so.2", "libnccl.so"]).map_err(|what| format!("no NCCL: {what}"))?,
        };
        // The functions are used until the process ends, so the library stays open.
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        // SAFETY: the signature is that of NCCL's header.
        let ask = unsafe { library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"ncclGetVersion\0") };
        let ask = ask.map_err(|_| "no NCCL: libnccl.so.2 has no ncclGetVersion".to_string())?;
        let mut version = 0;
        // SAFETY: writes one integer.
        if unsafe { ask(&mut version) } != SUCCESS {
            return Err("no NCCL: it does not tell its version".into());
        }
        if version < OLDEST || version / 10_000 != 2 {
            let (found, oldest) = (readable(version), readable(OLDEST));
            return Err(format!("NCCL {found} was found, version 2 from {oldest} on is needed"));
        }
        macro_rules! function {
            ($name:ident) => {
                // SAFETY: the field's type is the signature of NCCL's header.
                *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }
                    .map_err(|_| format!("no NCCL: libnccl.so.2 has no {}", stringify!($name)))?
            };
        }
        Ok(Self {
            version,
            ncclGetUniqueId: function!(ncclGetUniqueId),
            ncclCommInitRankConfig: function!(ncclCommInitRankConfig),
            ncclCommGetAsyncError: function!(ncclCommGetAsyncError),
            ncclCommFinalize: function!(ncclCommFinalize),
            ncclCommDestroy: function!(ncclCommDestroy),
            ncclCommAbort: function!(ncclCommAbort),
            ncclGroupStart: function!(ncclGroupStart),
            ncclGroupEnd: function!(ncclGroupEnd),
            ncclSend: function!(ncclSend),
            ncclRecv: function!(ncclRecv),
            ncclBroadcast: function!(ncclBroadcast),
            ncclGetErrorString: function!(ncclGetErrorString),
            ncclGetLastError: function!(ncclGetLastError),
        })
    }

    pub(super) fn version_text(&self) -> String {
        readable(self.version)
    }

    /// What may not differ between ranks: major and minor version.
    pub(super) fn family(&self) -> c_int {
        self.version / 100
    }

    /// `Ok` for success, and for what is still in progress; otherwise the call and NCCL's reason.
    fn check(&self, call: &str, status: c_int, comm: Handle) -> Result<()> {
        if status == SUCCESS || status == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: constants of NCCL, or a text that stays until the next call on this thread.
        let read = |text: *const c_char| match text.is_null() {
            true => String::new(),
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().trim().to_string(),
        };
        // SAFETY: a number, and a communicator that is alive or NULL.
        let (name, last) =
            unsafe { (read((self.ncclGetErrorString)(status)), read((self.ncclGetLastError)(comm))) };
        let more = if last.is_empty() { last } else { format!(": {last}") };
        Err(Error::Cuda(format!("NCCL: {call}: {name} ({status}){more}")))
    }

    pub(super) fn unique_id(&self) -> Result<UniqueId> {
        let mut id = UniqueId([0; ID]);
        // SAFETY: writes 128 bytes.
        let status = unsafe { (self.ncclGetUniqueId)(&mut id) };
        self.check("ncclGetUniqueId", status, std::ptr::null_mut())?;
        Ok(id)
    }

    /// Begins to join the communicator of `id`, on the current device. It is there once [`state`](Self::state) is done.
    pub(super) fn join(&self, id: UniqueId, rank: usize, size: usize) -> Result<Handle> {
        let mut config = Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: OLDEST as c_uint,
            blocking: 0,
            others: [UNDEFINED; 3],
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
            after: UNDEFINED,
        };
        let mut comm: Handle = std::ptr::null_mut();
        // SAFETY: reads the id and the configuration, writes a handle.
        let status = unsafe {
            (self.ncclCommInitRankConfig)(&mut comm, size as c_int, id, rank as c_int, &mut config)
        };
        self.check("ncclCommInitRankConfig", status, std::ptr::null_mut())?;
        Ok(comm)
    }

    /// Whether all calls so far have done what they should.
    ///
    /// # Errors
    /// That of one of them.
    pub(super) fn state(&self, comm: Handle) -> Result<bool> {
        let mut state = SUCCESS;
        // SAFETY: the communicator is alive; writes one integer.
        let status = unsafe { (self.ncclCommGetAsyncError)(comm, &mut state) };
        self.check("ncclCommGetAsyncError", status, comm)?;
        self.check("a transfer", state, comm)?;
        Ok(state == SUCCESS)
    }

    pub(super) fn begin(&self) -> Result<()> {
        // SAFETY: no precondition.
        self.check("ncclGroupStart", unsafe { (self.ncclGroupStart)() }, std::ptr::null_mut())
    }

    /// Begins all that was asked for since [`begin`](Self::begin); it is on its streams once [`state`](Self::state) is done.
    pub(super) fn end(&self, comm: Handle) -> Result<()> {
        // SAFETY: follows `begin`.
        self.check("ncclGroupEnd", unsafe { (self.ncclGroupEnd)() }, comm)
    }

    /// # Safety
    /// `bytes` bytes of device memory that stay until the stream has passed them.
    pub(super) unsafe fn send(
        &self,
        comm: Handle,
        from: u64,
        bytes: usize,
        to: usize,
        stream: CUstream,
    ) -> Result<()> {
        let from = std::ptr::with_exposed_provenance(from as usize);
        // SAFETY: by this function's contract.
        let status = unsafe { (self.ncclSend)(from, bytes, BYTES, to as c_int, comm, stream) };
        self.check("ncclSend", status, comm)
    }

    /// # Safety
    /// As [`send`](Self::send).
    pub(super) unsafe fn receive(
        &self,
        comm: Handle,
        to: u64,
        bytes: usize,
        from: usize,
        stream: CUstream,
    ) -> Result<()> {
        let to = std::ptr::with_exposed_provenance_mut(to as usize);
        // SAFETY: by this function's contract.
        let status = unsafe { (self.ncclRecv)(to, bytes, BYTES, from as c_int, comm, stream) };
        self.check("ncclRecv", status, comm)
    }

    /// # Safety
    /// As [`send`](Self::send), for `to`, and on the root for `from`.
    pub(super) unsafe fn broadcast(
        &self,
        comm: Handle,
        (from, to): (u64, u64),
        bytes: usize,
        root: usize,
        stream: CUstream,
    ) -> Result<()> {
        let from = std::ptr::with_exposed_provenance(from as usize);
        let to = std::ptr::with_exposed_provenance_mut(to as usize);
        // SAFETY: by this function's contract.
        let status = unsafe { (self.ncclBroadcast)(from, to, bytes, BYTES, root as c_int, comm, stream) };
        self.check("ncclBroadcast", status, comm)
    }

    /// Begins to finish: all that was asked for is done once [`state`](Self::state) is.
    pub(super) fn finalize(&self, comm: Handle) -> Result<()> {
        // SAFETY: the communicator is alive.
        self.check("ncclCommFinalize", unsafe { (self.ncclCommFinalize)(comm) }, comm)
    }

    /// Frees a communicator that is finished.
    ///
    /// # Safety
    /// It is not used again.
    pub(super) unsafe fn destroy(&self, comm: Handle) {
        // SAFETY: by this function's contract. Nothing can be done about a failure.
        unsafe { (self.ncclCommDestroy)(comm) };
    }

    /// Frees a communicator, whatever it is doing.
    ///
    /// # Safety
    /// It is not used again.
    pub(super) unsafe fn abort(&self, comm: Handle) {
        // SAFETY: by this function's contract. Nothing can be done about a failure.
        unsafe { (self.ncclCommAbort)(comm) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_are_written() {
        assert_eq!(readable(22_805), "2.28.5");
        assert_eq!(readable(21_800), "2.18.0");
        assert_eq!(readable(2708), "2.7.8");
        // ncclConfig_v21800: a word, six integers, a pointer, an integer, and what fills its word.
        assert_eq!(size_of::<Config>(), 48);
    }
}
