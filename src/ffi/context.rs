//! The context: a device, its threads, its limits, and the text of the last failure.

use super::bindings::*;
use super::callbacks::{Communicator, OnDevice};
use super::matrix::{check_out, values};
use super::memory::Allocator;
use super::structs::{count, init, read, read_or_default};
use super::{entry, guard, same_signature, structs};
use crate::backend::Backend;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{self, Cuda};
use crate::control::{Control, Phase, Progress};
use crate::distributed::Group;
use crate::error::{Error, Result};
use crate::io::Dtype;
use crate::threads;
use std::ffi::{c_char, c_void};
use std::ops::ControlFlow;
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What a context computes on.
pub(super) enum Device {
    /// In float32; float64 shares its threads and memory.
    Cpu(Cpu<f32>),
    Cuda(Cuda),
}

impl Device {
    fn open(options: &unicon_context_options, control: Arc<Control>) -> Result<Self> {
        match u32::try_from(options.device_type) {
            Ok(UNICON_DEVICE_CPU) => Self::open_cpu(options, control),
            Ok(UNICON_DEVICE_CUDA) => Self::open_cuda(options, control),
            // What only the CPU has decides; else what is there.
            Ok(UNICON_DEVICE_AUTO) if options.allocator.is_null() && cuda::probe().is_ok() => {
                Self::open_cuda(options, control)
            }
            Ok(UNICON_DEVICE_AUTO) => Self::open_cpu(options, control),
            _ => {
                let expected = "UNICON_DEVICE_CPU, UNICON_DEVICE_CUDA or UNICON_DEVICE_AUTO";
                Err(Error::invalid("options.device_type", expected, options.device_type))
            }
        }
    }

    fn open_cpu(options: &unicon_context_options, control: Arc<Control>) -> Result<Self> {
        if options.device_id != 0 {
            return Err(Error::invalid("options.device_id", "0 for the CPU", options.device_id));
        }
        if !options.stream.is_null() {
            let got = format!("{:p}", options.stream);
            return Err(Error::invalid("options.stream", "NULL for the CPU", got));
        }
        let threads = usize::try_from(options.n_threads).ok().filter(|&n| n <= threads::MOST);
        let Some(threads) = threads else {
            let expected = format!("0 to {}", threads::MOST);
            return Err(Error::invalid("options.n_threads", expected, options.n_threads));
        };
        // SAFETY: NULL, or the caller's struct, borrowed for this call.
        let allocator = match unsafe { options.allocator.as_ref() } {
            Some(raw) => Some(Allocator::new(raw)?),
            None => None,
        };
        let limit = limit_of(options);
        let precision = precision_of(options)?;
        let mut cpu = Cpu::with(threads, limit, control)?;
        if let Some(allocator) = allocator {
            cpu = cpu.with_memory(Arc::new(allocator), limit);
        }
        match precision {
            None | Some(Dtype::F32) => Ok(Self::Cpu(cpu)),
            Some(Dtype::BF16) => Ok(Self::Cpu(cpu.with_bf16()?)),
            Some(other) => Err(Error::Unsupported(format!("options.precision: {} on the CPU", other.name()))),
        }
    }

    fn open_cuda(options: &unicon_context_options, control: Arc<Control>) -> Result<Self> {
        let Ok(ordinal) = u32::try_from(options.device_id) else {
            return Err(Error::invalid("options.device_id", "a device's number", options.device_id));
        };
        Ok(Self::Cuda(cuda_of(options, ordinal, control)?))
    }
}

/// A CUDA device with what the options say.
fn cuda_of(options: &unicon_context_options, ordinal: u32, control: Arc<Control>) -> Result<Cuda> {
    if !options.allocator.is_null() {
        return Err(Error::Unsupported("options.allocator: of a CUDA context".into()));
    }
    let mode = match precision_of(options)? {
        None | Some(Dtype::F16) => cuda::Mode::Fp16,
        Some(Dtype::BF16) => cuda::Mode::Bf16,
        Some(_) => cuda::Mode::Fp32,
    };
    // SAFETY: the header requires a stream of this device that outlives the context.
    let stream =
        (!options.stream.is_null()).then(|| unsafe { cuda::BorrowedStream::from_raw(options.stream) });
    let memory_limit = limit_of(options);
    Cuda::open(ordinal, cuda::Options { mode, stream, memory_limit, control, ..cuda::Options::default() })
}

/// The devices over which fits share the rows out; none: there is one device.
///
/// # Safety
/// `options.devices` is NULL or holds `options.n_devices` numbers.
unsafe fn devices_of(options: &unicon_context_options) -> Result<Vec<u32>> {
    let n = count("options.n_devices", options.n_devices, 0)?;
    if n == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: passed on.
    let numbers = unsafe { values("options.devices", options.devices, n)? };
    if u32::try_from(options.device_type) != Ok(UNICON_DEVICE_CUDA) {
        let expected = "UNICON_DEVICE_CUDA with devices";
        return Err(Error::invalid("options.device_type", expected, options.device_type));
    }
    if options.device_id != 0 {
        return Err(Error::invalid("options.device_id", "0 with devices", options.device_id));
    }
    if !options.stream.is_null() {
        let got = format!("{:p}", options.stream);
        return Err(Error::invalid("options.stream", "NULL with devices", got));
    }
    if !options.communicator.is_null() {
        let expected = "NULL with devices, for each rank of a communicator has one";
        return Err(Error::invalid("options.communicator", expected, "a communicator"));
    }
    let mut devices: Vec<u32> = Vec::new();
    for &number in numbers {
        match u32::try_from(number) {
            Ok(device) if !devices.contains(&device) => devices.push(device),
            _ => return Err(Error::invalid("options.devices", "different devices' numbers", number)),
        }
    }
    Ok(devices)
}

fn limit_of(options: &unicon_context_options) -> Option<u64> {
    Some(options.workspace_limit).filter(|&l| l > 0)
}

/// The dtype of similarities and weights that is asked for; 0 is none.
fn precision_of(options: &unicon_context_options) -> Result<Option<Dtype>> {
    match u32::try_from(options.precision) {
        Ok(0) => Ok(None),
        Ok(UNICON_F32) => Ok(Some(Dtype::F32)),
        Ok(UNICON_F16) => Ok(Some(Dtype::F16)),
        Ok(UNICON_BF16) => Ok(Some(Dtype::BF16)),
        _ => {
            let expected = "0, UNICON_F32, UNICON_F16 or UNICON_BF16";
            Err(Error::invalid("options.precision", expected, options.precision))
        }
    }
}

/// What a `unicon_context_t` points to.
pub(super) struct Context {
    /// Whether a call is at work on it.
    pub(super) busy: AtomicBool,
    control: Arc<Control>,
    error: Mutex<String>,
    device: Device,
    /// The other devices over which fits share the rows out.
    others: Vec<Cuda>,
    borrowed_stream: bool,
    limited: bool,
    pub(super) communicator: Option<Communicator>,
    warning: (unicon_warning_fn, Passed),
}

/// A pointer of the caller's that goes back to a function of the caller's.
#[derive(Clone, Copy)]
struct Passed(*mut c_void);

// SAFETY: never looked at here; handed back on the thread of a call.
unsafe impl Send for Passed {}
// SAFETY: as above.
unsafe impl Sync for Passed {}

/// Runs `$body` with `$backend` bound to a device's backend of a precision: the only place that knows which backends
/// there are. `$body` is compiled for each.
macro_rules! on_backend {
    ($device:expr, $precision:expr, |$backend:ident| $body:expr) => {
        match ($device, $precision) {
            ($crate::ffi::context::Device::Cpu(cpu), $crate::ffi::matrix::Precision::F32) => {
                let $backend = cpu;
                $body
            }
            ($crate::ffi::context::Device::Cpu(cpu), $crate::ffi::matrix::Precision::F64) => {
                let $backend = &cpu.in_precision::<f64>();
                $body
            }
            ($crate::ffi::context::Device::Cuda(cuda), $crate::ffi::matrix::Precision::F32) => {
                let $backend = cuda;
                $body
            }
            ($crate::ffi::context::Device::Cuda(_), $crate::ffi::matrix::Precision::F64) => {
                return Err($crate::Error::Unsupported("float64 features on a CUDA context".into()));
            }
        }
    };
}
pub(super) use on_backend;

impl Context {
    fn new(options: &unicon_context_options) -> Result<Self> {
        // SAFETY: NULL, or the caller's struct, borrowed for this call.
        let communicator = match options.communicator.is_null() {
            false => Communicator::new(unsafe { read(options.communicator)? })?,
            true => None,
        };
        let control = Arc::new(Control::default());
        // SAFETY: the caller's array, borrowed for this call.
        let devices = unsafe { devices_of(options)? };
        let first = devices.first().map_or(options.device_id, |&d| d as i32);
        let device = Device::open(&unicon_context_options { device_id: first, ..*options }, control.clone())?;
        let other = |&ordinal: &u32| cuda_of(options, ordinal, Arc::default());
        let others = devices.iter().skip(1).map(other).collect::<Result<Vec<_>>>()?;
        if communicator.is_some_and(|c| c.is_nccl()) && matches!(device, Device::Cpu(_)) {
            return Err(Error::Unsupported("communicator: NCCL's on a CPU context".into()));
        }
        let error = Mutex::new(String::new());
        let (busy, borrowed_stream) = (AtomicBool::new(false), !options.stream.is_null());
        let limited = limit_of(options).is_some() || !options.allocator.is_null();
        let warning = (options.warning, Passed(options.warning_user));
        Ok(Self { busy, control, error, device, others, borrowed_stream, limited, communicator, warning })
    }

    /// Tells the caller's function what was noticed.
    pub(super) fn warn(&self, text: &str) {
        let (Some(function), user) = self.warning else { return };
        let text: Vec<u8> = text.bytes().filter(|&b| b != 0).collect();
        if let Ok(text) = std::ffi::CString::new(text) {
            // SAFETY: the caller's function by its contract, with the caller's pointer, on the thread of a call.
            unsafe { function(text.as_ptr(), user.0) };
        }
    }

    /// Whether calls concern this rank alone.
    pub(super) fn is_single(&self) -> bool {
        self.communicator.is_none_or(|c| c.raw.size == 1)
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// Whether memory is counted or comes from the caller.
    pub(super) fn has_limits(&self) -> bool {
        self.limited
    }

    /// Makes the context work in a child of `fork()`: on the CPU, where threads are started anew.
    pub(super) fn revive(&self) -> Result<()> {
        match &self.device {
            Device::Cpu(cpu) => cpu.revive(),
            Device::Cuda(cuda) => std::iter::once(cuda).chain(&self.others).try_for_each(Cuda::alive),
        }
    }

    /// The devices over which fits share the rows out, where there are several.
    pub(super) fn devices(&self) -> Option<Vec<Cuda>> {
        match &self.device {
            Device::Cuda(first) if !self.others.is_empty() => {
                Some(std::iter::once(first).chain(&self.others).cloned().collect())
            }
            _ => None,
        }
    }

    /// The most bytes of sample-sized data that were held since [`watch`](Self::watch).
    pub(super) fn peak_bytes(&self) -> u64 {
        match &self.device {
            Device::Cpu(cpu) => cpu.memory().1,
            Device::Cuda(cuda) => cuda.memory().1,
        }
    }

    pub(super) fn keep_error(&self, text: String) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// The ranks that this context is one of; anew for every call, so that a failed one does not end the next.
    pub(super) fn group(&self) -> Group {
        match (self.communicator, &self.device) {
            (None, _) => Group::default(),
            (Some(inner), Device::Cuda(cuda)) if inner.is_nccl() => {
                Group::new(Arc::new(OnDevice { inner, cuda: cuda.clone() }))
            }
            (Some(c), _) => Group::new(Arc::new(c)),
        }
    }

    /// The device as one of the ranks; of several, connected by NCCL where that can be.
    pub(super) fn device_of(&self, group: &Group) -> Result<Device> {
        match &self.device {
            Device::Cpu(cpu) => Ok(Device::Cpu(cpu.clone().with_group(group.clone()))),
            Device::Cuda(cuda) => Ok(Device::Cuda(cuda.clone().connected(group.clone())?.0)),
        }
    }

    /// Fails on a context of several ranks: the solver called works on the rows of one.
    pub(super) fn single_rank(&self) -> Result<()> {
        match &self.communicator {
            Some(c) if c.raw.size > 1 => {
                Err(Error::Unsupported(format!("communicator: fits over {} ranks in this build", c.raw.size)))
            }
            _ => Ok(()),
        }
    }

    /// Whether memory of that kind lies on this context's device; fails where the context cannot reach it.
    pub(super) fn check_device(&self, name: &str, device_type: i32, device_id: i32) -> Result<bool> {
        let here = match &self.device {
            Device::Cpu(_) => None,
            Device::Cuda(cuda) => Some(cuda.device().ordinal),
        };
        match (u32::try_from(device_type), here) {
            (Ok(UNICON_DEVICE_CUDA | UNICON_DEVICE_CUDA_MANAGED), _) if !self.others.is_empty() => {
                Err(Error::Unsupported(format!("{name}: device memory on a context of several devices")))
            }
            (Ok(UNICON_DEVICE_CPU), _) if device_id == 0 => Ok(false),
            (Ok(UNICON_DEVICE_CPU), _) => {
                Err(Error::invalid(format!("{name}.device_id"), "0 for host memory", device_id))
            }
            (Ok(UNICON_DEVICE_CUDA_HOST), _) | (Ok(UNICON_DEVICE_CUDA_MANAGED), None) => Ok(false),
            (Ok(UNICON_DEVICE_CUDA | UNICON_DEVICE_CUDA_MANAGED), Some(here)) => {
                if u32::try_from(device_id) == Ok(here) {
                    return Ok(true);
                }
                Err(Error::Unsupported(format!(
                    "{name}: memory of cuda:{device_id} on a context of cuda:{here}"
                )))
            }
            (Ok(UNICON_DEVICE_CUDA), None) => {
                Err(Error::Unsupported(format!("{name}: a CPU context cannot reach CUDA device memory")))
            }
            _ => Err(Error::invalid(
                format!("{name}.device_type"),
                "a value of unicon_device_type",
                device_type,
            )),
        }
    }

    /// A caller's matrix on this context's device.
    ///
    /// # Safety
    /// As [`Cuda::lent`].
    pub(super) unsafe fn lent(&self, place: cuda::Place, name: &str) -> Result<cuda::LentMatrix> {
        match &self.device {
            // SAFETY: passed on.
            Device::Cuda(cuda) => unsafe { cuda.lent(place, name) },
            Device::Cpu(_) => {
                Err(Error::Unsupported(format!("{name}: a CPU context cannot reach CUDA device memory")))
            }
        }
    }

    /// Waits until a call's device outputs are there, unless they are ordered by the caller's own stream.
    pub(super) fn settle(&self) -> Result<()> {
        match &self.device {
            Device::Cuda(cuda) if !self.borrowed_stream => cuda.synchronize(),
            _ => Ok(()),
        }
    }

    /// Begins to watch a fit: memory anew, and progress to a caller's function until the call ends.
    pub(super) fn watch(&self, function: unicon_progress_fn, user: *mut c_void) {
        match &self.device {
            Device::Cpu(cpu) => cpu.forget_peak(),
            Device::Cuda(cuda) => cuda.forget_peak(),
        }
        let Some(function) = function else { return };
        let (user, begin, mut loss) = (Passed(user), Instant::now(), f64::NAN);
        self.control.set_hook(Some(Box::new(move |progress: Progress| {
            let user = &user;
            if !progress.loss.is_nan() {
                loss = progress.loss;
            }
            let report = unicon_progress {
                struct_size: size_of::<unicon_progress>(),
                phase: phase_of(progress.phase),
                reserved: 0,
                done: i64::try_from(progress.done).unwrap_or(i64::MAX),
                total: i64::try_from(progress.total).unwrap_or(i64::MAX),
                loss,
                seconds: begin.elapsed().as_secs_f64(),
            };
            // SAFETY: the caller's function by its contract, with the caller's pointer.
            if unsafe { function(&report, user.0) } == 0 {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })));
    }
}

fn phase_of(phase: Phase) -> i32 {
    let phase = match phase {
        Phase::Features => UNICON_PHASE_FEATURES,
        Phase::Statistics => UNICON_PHASE_STATISTICS,
        Phase::Weights => UNICON_PHASE_WEIGHTS,
        Phase::Iteration => UNICON_PHASE_ITERATION,
        Phase::Retrieval => UNICON_PHASE_RETRIEVAL,
    };
    phase as i32
}

/// The context of a handle, kept alive by the result.
///
/// # Safety
/// `handle` is NULL or a live context.
pub(super) unsafe fn context_of(handle: *const unicon_context_t) -> Result<Arc<Context>> {
    if handle.is_null() {
        return Err(Error::invalid("context", "a context", "NULL"));
    }
    let context = handle.cast::<Context>();
    // SAFETY: a live context is what `Arc::into_raw` gave, with at least one owner: the handle.
    unsafe {
        Arc::increment_strong_count(context);
        Ok(Arc::from_raw(context))
    }
}

entry!(
    fn unicon_context_options_init(options: *mut unicon_context_options_t, struct_size: usize) {
        // SAFETY: NULL or that many bytes by the header's contract.
        unsafe { init(options, struct_size, &structs::Versioned::defaults()) }
    }
);

entry!(
    fn unicon_context_create(options: *const unicon_context_options_t, context: *mut *mut unicon_context_t) {
        check_out("context", context)?;
        // SAFETY: NULL or a struct by the header's contract.
        let options = unsafe { read_or_default(options)? };
        let made = Arc::into_raw(Arc::new(Context::new(&options)?));
        // SAFETY: checked above.
        unsafe { context.write(made.cast_mut().cast()) };
        Ok(())
    }
);

/// Gives up the handle's share of the context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_context_destroy(context: *mut unicon_context_t) {
    if let Some(context) = NonNull::new(context.cast::<Context>()) {
        // SAFETY: what `Arc::into_raw` gave, given back once.
        guard::silent((), || drop(unsafe { Arc::from_raw(context.as_ptr().cast_const()) }));
    }
}
same_signature!(unicon_context_destroy);

/// Copies the text of the last failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_last_error(
    context: *const unicon_context_t,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    guard::silent(0, || {
        // SAFETY: NULL or a live context by the header's contract.
        let text = match unsafe { context_of(context) } {
            Ok(context) => context.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Err(_) => guard::thread_error(),
        };
        if !buffer.is_null() && capacity > 0 {
            let mut end = text.len().min(capacity - 1);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            // SAFETY: the buffer holds `capacity` bytes, of which `end + 1` are written.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), end);
                buffer.add(end).write(0);
            }
        }
        text.len()
    })
}
same_signature!(unicon_last_error);

/// Sets a flag; nothing else, so that it may be called from a signal handler.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_cancel(context: *mut unicon_context_t) -> unicon_status_t {
    // SAFETY: NULL or a live context by the header's contract.
    match unsafe { context.cast::<Context>().as_ref() } {
        Some(context) => {
            context.control.cancel();
            UNICON_OK as unicon_status_t
        }
        None => UNICON_ERROR_INVALID_ARGUMENT as unicon_status_t,
    }
}
same_signature!(unicon_cancel);

/// Takes the flag back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_cancel_clear(context: *mut unicon_context_t) -> unicon_status_t {
    // SAFETY: NULL or a live context by the header's contract.
    match unsafe { context.cast::<Context>().as_ref() } {
        Some(context) => {
            context.control().reset();
            UNICON_OK as unicon_status_t
        }
        None => UNICON_ERROR_INVALID_ARGUMENT as unicon_status_t,
    }
}
same_signature!(unicon_cancel_clear);

/// The kind of device of a context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unicon_context_device_type(context: *const unicon_context_t) -> i32 {
    // SAFETY: NULL or a live context by the header's contract.
    match unsafe { context.cast::<Context>().as_ref() } {
        Some(context) => match context.device {
            Device::Cpu(_) => UNICON_DEVICE_CPU as i32,
            Device::Cuda(_) => UNICON_DEVICE_CUDA as i32,
        },
        None => 0,
    }
}
same_signature!(unicon_context_device_type);
