//! Where the ranks of a job meet: a path that all of them find by themselves, and those of other jobs do not.
//!
//! `UNICON_RENDEZVOUS` is that path, which ranks on several machines need on a disk that they share. Without it, it is a
//! name in the temporary folder, made of the user and what the launcher calls the job; where it calls it nothing, of the
//! process that started the ranks. That need not be the parent: with `UNICON_RANK=1 timeout 60 unicon ...` it is the
//! parent of `timeout`, as it would be of a script or a tracer. Such a process was itself given the rank's variable, and
//! the one that started the ranks was not.

use super::launch::Launch;
use crate::error::{Error, Result};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Processes between a rank and what started the ranks, at most.
const DEEPEST: usize = 64;

/// Where the ranks of a job meet.
///
/// # Errors
/// [`Error::Unsupported`] for ranks on several machines without a place.
pub(super) fn place(launch: &Launch) -> Result<PathBuf> {
    let named = |text: &str| {
        // FNV-1a: the same on every machine and in every build.
        let step = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
    };
    match std::env::var_os("UNICON_RENDEZVOUS").filter(|p| !p.is_empty()) {
        Some(mut place) => {
            // Jobs that know their names do not get into each other's way.
            if !launch.job.is_empty() {
                place.push(format!(".{}", named(&launch.job)));
            }
            Ok(PathBuf::from(place))
        }
        None if launch.local_size.is_some_and(|here| here < launch.size) => {
            let what = "set UNICON_RENDEZVOUS to a file name on a disk that all machines share";
            Err(Error::Unsupported(format!("ranks on several machines have no place to meet: {what}")))
        }
        None => {
            let job = match launch.job.as_str() {
                "" => starter(launch.variable),
                job => job.to_string(),
            };
            let user = fs::metadata("/proc/self").map_or(0, |m| m.uid());
            Ok(std::env::temp_dir().join(format!("unicon-{user}-{}", named(&job))))
        }
    }
}

/// The process that started the ranks, in words that no other process of this machine has: the nearest ancestor that was
/// not given `variable`. Where it has ended and left them to the system, their session.
fn starter(variable: &str) -> String {
    let mut pid = std::os::unix::process::parent_id();
    for _ in 0..DEEPEST {
        if pid <= 1 || !was_given(pid, variable) {
            break;
        }
        let Some((parent, _)) = parent_and_start(pid) else { break };
        pid = parent;
    }
    // Containers may share the temporary folder and have processes of equal numbers.
    let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let space = space.display();
    match parent_and_start(pid).filter(|_| pid > 1) {
        Some((_, start)) => format!("{space} process={pid} start={start}"),
        None if pid > 1 => format!("process={pid}"),
        None => {
            let session = rustix::process::getsid(None).map_or(0, |s| s.as_raw_nonzero().get());
            format!("{space} session={session}")
        }
    }
}

/// Whether a process began with this variable in its environment; no where that is not shown.
fn was_given(pid: u32, variable: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let begins = |entry: &[u8]| {
        entry.strip_prefix(variable.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'='))
    };
    environment.split(|b| *b == 0).any(begins)
}

/// A process's parent, and when it began, in ticks since the machine did.
fn parent_and_start(pid: u32) -> Option<(u32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name comes second, in brackets, and may hold anything.
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    // The fourth and the twenty-second of all.
    Some((parent, fields.nth(17)?.parse().ok()?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn ancestors_are_read_as_the_kernel_writes_them() {
        let own = std::process::id();
        let (parent, start) = parent_and_start(own).unwrap();
        assert_eq!(parent, std::os::unix::process::parent_id());
        let (_, before) = parent_and_start(parent).unwrap();
        assert!(before <= start && start > 0);
        assert_eq!(parent_and_start(u32::MAX), None);
        assert!(was_given(own, "PATH") && !was_given(own, "PAT") && !was_given(u32::MAX, "PATH"));
        // Nothing has this one: the parent is what started us.
        assert!(starter("UNICON_NO_SUCH_VARIABLE").contains(&format!("process={parent} ")));
    }
}
