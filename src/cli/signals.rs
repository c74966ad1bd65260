//! Signals: an orderly end, and no half files.
//!
//! INT, TERM and HUP ask the computation to stop; what runs stops at its next step and cleans up, and the exit code is 128
//! plus the signal's number. Asked again, or if the step takes longer than [`PATIENCE`] seconds, the program ends at once.
//! A signal that was ignored at the start, as nohup does, stays ignored. XFSZ is ignored, so that a file-size limit is an
//! error of the write that meets it, and PIPE, as in every Rust program. BUS means that a mapped file became shorter
//! while it was read, or that its disk failed: one line names it.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use unicon::control::Control;
use unicon::io::remove_partial_files;

/// Seconds that a step may take to notice that it should stop.
const PATIENCE: u32 = 10;

/// The signal that asked to stop; 0: none.
static ASKED: AtomicI32 = AtomicI32::new(0);
/// What a signal stops: the computations of this process.
static CONTROLS: OnceLock<Vec<Arc<Control>>> = OnceLock::new();

/// The exit code of a program that was stopped: by a signal, or by another rank.
pub fn code() -> u8 {
    match ASKED.load(Ordering::Relaxed) {
        0 => code_of(libc::SIGINT),
        signal => code_of(signal),
    }
}

/// 128 and the signal's number.
pub fn code_of(signal: c_int) -> u8 {
    128 + signal as u8
}

/// What holds from the start of the program on.
pub fn prepare() {
    // SAFETY: no handler, and XFSZ is one of the signals that may be ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    // On the alternative stack, for where the fault happens may have little left.
    handle(libc::SIGBUS, on_bus as extern "C" fn(_, _, _) as usize, libc::SA_SIGINFO | libc::SA_ONSTACK);
}

/// Makes INT, TERM and HUP cancel all of `controls`. Called once.
pub fn watch(controls: Vec<Arc<Control>>) {
    if CONTROLS.set(controls).is_err() {
        return;
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let mut before = MaybeUninit::uninit();
        // SAFETY: asks only, into memory of the right type.
        let asked = unsafe { libc::sigaction(signal, null_mut(), before.as_mut_ptr()) };
        // SAFETY: filled where the call succeeded.
        let ignored = asked == 0 && unsafe { before.assume_init() }.sa_sigaction == libc::SIG_IGN;
        if !ignored {
            handle(signal, on_stop as extern "C" fn(_) as usize, libc::SA_RESTART);
        }
    }
    handle(libc::SIGALRM, on_alarm as extern "C" fn(_) as usize, 0);
}

/// Sets a handler; of the signals used here none can be refused.
fn handle(signal: c_int, handler: usize, flags: c_int) {
    // SAFETY: an action of zeros is a valid one, with no signal blocked, and the handlers below only do what a signal
    // handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        (action.sa_sigaction, action.sa_flags) = (handler, flags);
        libc::sigaction(signal, &raw const action, null_mut());
    }
}

/// Ends the program from a signal handler or where nothing else can be trusted.
pub fn end(code: c_int) -> ! {
    remove_partial_files();
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Writes to stderr as a signal handler may.
pub fn say(parts: &[&[u8]]) {
    let mut line = [0u8; 1024];
    let mut len = 0;
    for byte in parts.iter().flat_map(|part| part.iter()).take(line.len() - 1) {
        line[len] = *byte;
        len += 1;
    }
    line[len] = b'\n';
    // SAFETY: so many bytes of the line. That nobody may read them is nobody's problem.
    let _ = unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), len + 1) };
}

extern "C" fn on_stop(signal: c_int) {
    // Whoever asks twice does not want to wait for the current step.
    if ASKED.swap(signal, Ordering::Relaxed) != 0 {
        end(128 + signal);
    }
    CONTROLS.get().into_iter().flatten().for_each(|control| control.cancel());
    // SAFETY: may be called by signal handlers.
    unsafe { libc::alarm(PATIENCE) };
}

extern "C" fn on_alarm(_: c_int) {
    say(&[b"unicon: cancelled, without waiting for the current step"]);
    end(c_int::from(code()));
}

extern "C" fn on_bus(signal: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's, for the duration of the handler.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    /// Beyond the end of a mapped file, or not readable from its disk.
    const BUS_ADRERR: c_int = 2;
    if code != BUS_ADRERR {
        // SAFETY: the signal's own way from here on; the faulting instruction is run again.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    static SAID: AtomicBool = AtomicBool::new(false);
    if SAID.swap(true, Ordering::Relaxed) {
        // Another thread is telling, and ends the process.
        loop {
            // SAFETY: waits for signals.
            unsafe { libc::pause() };
        }
    }
    let mut path = [0u8; 512];
    let len = mapped_at(address, &mut path);
    let name: &[u8] = if len == 0 { b"an input" } else { &path[..len] };
    say(&[
        b"unicon: ",
        name,
        b": the file became shorter while it was read, or its disk failed (bus error); replace files in use by renaming",
    ]);
    end(1);
}

/// The path of what is mapped at an address, as /proc/self/maps has it: its length in `path`, 0 where it is not found.
/// Only system calls that a signal handler may make.
fn mapped_at(address: usize, path: &mut [u8]) -> usize {
    // SAFETY: a constant path, and a descriptor that is used here only.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let (mut line, mut len, mut chunk) = ([0u8; 768], 0, [0u8; 512]);
    loop {
        // SAFETY: at most as many bytes as the chunk has; a descriptor that was not opened gives -1.
        let read = unsafe { libc::read(maps, chunk.as_mut_ptr().cast(), chunk.len()) };
        let Ok(read) = usize::try_from(read) else { return 0 };
        if read == 0 {
            return 0;
        }
        for byte in &chunk[..read] {
            if *byte != b'\n' {
                if len < line.len() {
                    line[len] = *byte;
                    len += 1;
                }
                continue;
            }
            let found = path_in(&line[..len], address);
            if let Some(found) = found {
                let found = &found[..found.len().min(path.len())];
                path[..found.len()].copy_from_slice(found);
                return found.len();
            }
            len = 0;
        }
    }
}

/// The path in a line of /proc/self/maps (`start-end rwxp offset device inode   path`), if the address is in its range.
fn path_in(line: &[u8], address: usize) -> Option<&[u8]> {
    let hex =
        |text: &[u8]| text.iter().try_fold(0usize, |n, b| Some(n << 4 | (*b as char).to_digit(16)? as usize));
    let dash = line.iter().position(|b| *b == b'-')?;
    let blank = line.iter().position(|b| *b == b' ')?;
    let (start, end) = (hex(line.get(..dash)?)?, hex(line.get(dash + 1..blank)?)?);
    let slash = line.iter().position(|b| *b == b'/')?;
    (start..end).contains(&address).then(|| &line[slash..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapped_file_is_found() {
        let line = b"7f01a000-7f01b000 r--s 00000000 fe:00 1234     /data/with blank.npy";
        assert_eq!(path_in(line, 0x7f01_a000), Some(&b"/data/with blank.npy"[..]));
        assert_eq!(path_in(line, 0x7f01_b000), None);
        assert_eq!(path_in(b"7f01a000-7f01b000 rw-p 00000000 00:00 0 ", 0x7f01_a000), None);
        // This program's own code.
        let mut path = [0u8; 512];
        let len = mapped_at(code as fn() -> u8 as usize, &mut path);
        let here = std::env::current_exe().unwrap();
        assert_eq!(std::str::from_utf8(&path[..len]).unwrap(), here.to_str().unwrap());
    }
}
