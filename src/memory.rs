//! How much memory this process has had, and how much it can still have: of the machine, of its control group, and of its
//! own limit.
//!
//! Linux grants more than there is and ends the process when it is used, so what is large is compared first.

use crate::error::{Error, Result};
use std::fs;

/// Bytes from which on it is looked at what the system has: it may grant more, and end the process that uses it.
const LARGE: u64 = 16 << 20;

/// Bytes that can still be had, where the system says.
pub(crate) fn available() -> Option<u64> {
    [machine(), control_group(), address_space()].into_iter().flatten().min()
}

/// The most bytes that this process has had resident, where the system says.
pub(crate) fn resident_peak() -> Option<u64> {
    kib("/proc/self/status", "VmHWM:")
}

/// Makes the peak of [`resident_peak`] what is resident now, where the system can.
#[cfg(feature = "cli")]
pub(crate) fn forget_resident_peak() {
    // Without it the peak is that of the whole run, which is no error.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Makes room for `n` more values in a list.
///
/// # Errors
/// [`Error::OutOfMemory`] naming `what` they are.
pub(crate) fn reserve<T>(list: &mut Vec<T>, n: usize, what: impl Fn() -> String) -> Result<()> {
    if list.capacity() - list.len() >= n {
        return Ok(());
    }
    let needed = (n as u64).saturating_mul(size_of::<T>() as u64);
    let short = |limit: u64| Error::OutOfMemory { needed, limit, what: what() };
    if let Some(limit) = (needed >= LARGE).then(available).flatten().filter(|&limit| limit < needed) {
        return Err(short(limit));
    }
    list.try_reserve(n).map_err(|_| short(available().unwrap_or(0)))
}

/// An empty list with room for `n` values.
///
/// # Errors
/// As [`reserve`].
pub(crate) fn room<T>(n: usize, what: impl Fn() -> String) -> Result<Vec<T>> {
    let mut list = Vec::new();
    reserve(&mut list, n, what)?;
    Ok(list)
}

/// As [`room`], filled with a value.
pub(crate) fn filled<T: Clone>(n: usize, value: T, what: impl Fn() -> String) -> Result<Vec<T>> {
    let mut out = room(n, what)?;
    out.resize(n, value);
    Ok(out)
}

/// What the machine can hand out without swapping.
fn machine() -> Option<u64> {
    kib("/proc/meminfo", "MemAvailable:")
}

/// The number of a line such as `MemAvailable:  123 kB`, in bytes.
fn kib(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// What `ulimit -v` leaves.
fn address_space() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current?;
    Some(limit.saturating_sub(kib("/proc/self/status", "VmSize:")?))
}

/// What the control groups of this process leave, of either version and on every level: their limits less what they hold,
/// of which cached file pages can be given back.
fn control_group() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().filter_map(|line| group_of(line, |path| fs::read_to_string(path).ok())).min()
}

/// The same of the groups that a line `id:controllers:path` of /proc/self/cgroup names.
fn group_of(line: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (root, limit, held, cached) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current", ["inactive_file", "active_file"]),
        _ if controllers.split(',').any(|c| c == "memory") => (
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            ["total_inactive_file", "total_active_file"],
        ),
        _ => return None,
    };
    let number = |file: String| read(&file)?.trim().parse::<u64>().ok();
    let mut least = None;
    // Inside a container the path may be that of outside: then only the root is there.
    let mut here = path.trim_end_matches('/');
    loop {
        let folder = format!("{root}{here}");
        // "max" is no number.
        if let (Some(limit), Some(held)) =
            (number(format!("{folder}/{limit}")), number(format!("{folder}/{held}")))
        {
            let stat = read(&format!("{folder}/memory.stat")).unwrap_or_default();
            let of = |name: &str| {
                let line = stat.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
                line.and_then(|v| v.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            let given_back: u64 = cached.iter().map(|name| of(name)).sum();
            let room = limit.saturating_sub(held.saturating_sub(given_back));
            least = Some(least.map_or(room, |l: u64| l.min(room)));
        }
        match here.rfind('/') {
            Some(cut) => here = &here[..cut],
            None => return least,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_counts_and_cached_pages_do_not() {
        let v2 = |path: &str| {
            let text = match path {
                "/sys/fs/cgroup/a/b/memory.max" => "max",
                "/sys/fs/cgroup/a/b/memory.current" => "900",
                "/sys/fs/cgroup/a/memory.max" => "1000\n",
                "/sys/fs/cgroup/a/memory.current" => "950\n",
                "/sys/fs/cgroup/a/memory.stat" => "anon 1\nfile 999\ninactive_file 30\nactive_file 20\n",
                _ => return None,
            };
            Some(text.to_string())
        };
        assert_eq!(group_of("0::/a/b", v2), Some(100));
        assert_eq!(group_of("0::/", v2), None);
        let v1 = |path: &str| {
            let text = match path {
                "/sys/fs/cgroup/memory/memory.limit_in_bytes" => "500",
                "/sys/fs/cgroup/memory/memory.usage_in_bytes" => "700",
                _ => return None,
            };
            Some(text.to_string())
        };
        assert_eq!(group_of("4:memory,x:/docker/abc", v1), Some(0));
        assert_eq!(group_of("3:cpuset:/", v1), None);
        assert_eq!(group_of("nonsense", v1), None);
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        let text = room::<u64>(usize::MAX / 2, || "a list".into()).unwrap_err().to_string();
        assert!(text.starts_with("out of memory: a list needs"), "{text}");
        assert!(room::<u64>(1 << 45, String::new).is_err());
        assert_eq!(filled(3, 7u8, String::new).unwrap(), [7; 3]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_some() {
        assert!(available().is_some_and(|bytes| bytes > 1 << 20));
        assert!(resident_peak().is_some_and(|bytes| bytes > 1 << 20));
    }
}
