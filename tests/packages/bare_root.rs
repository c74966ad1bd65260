//! A system that has a C library and nothing else, as a folder.

use crate::ffi::run;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub struct BareRoot {
    dir: TempDir,
}

/// Runs what needs to be root: as it is, or in a namespace of users. None where the system allows neither.
fn as_root() -> Option<Vec<&'static str>> {
    [vec!["env"], vec!["unshare", "--map-root-user"]].into_iter().find(|prefix| {
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).args(["chroot", "/", "true"]);
        command.output().is_ok_and(|o| o.status.success())
    })
}

impl BareRoot {
    /// With the C library and the compiler's that this machine has, for files that need them. None where nobody may change
    /// its root, or without `ldd`.
    pub fn new(programs: &[PathBuf]) -> Option<Self> {
        as_root()?;
        let new = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["tmp", "usr/lib", "usr/lib64", "home"] {
            std::fs::create_dir_all(new.path(folder)).unwrap();
        }
        for folder in ["lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{folder}"), new.path(folder)).unwrap();
        }
        for program in programs {
            // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x..)` and `/lib64/ld-linux-x86-64.so.2 (0x..)`.
            let text = run(Command::new("ldd").arg(program));
            let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
            for path in paths.filter(|path| !path.contains("unicon")) {
                new.copy(Path::new(path), path);
            }
        }
        Some(new)
    }

    pub fn path(&self, place: &str) -> PathBuf {
        self.dir.path().join(place.trim_start_matches('/'))
    }

    pub fn copy(&self, from: &Path, place: &str) {
        let to = self.path(place);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    }

    /// A command of this machine that works on the folder as root.
    pub fn command(&self, words: &[&str]) -> Command {
        let prefix = as_root().unwrap();
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).args(words);
        command
    }

    /// Runs a program that is in it, in /home, and gives what it said.
    pub fn run(&self, library_path: &str, words: &[&str]) -> String {
        let root = self.dir.path().to_str().unwrap();
        // Paths of the surroundings mean nothing there.
        let environment = format!("LD_LIBRARY_PATH={library_path}");
        let path = format!("PATH={}", std::env::var("PATH").unwrap_or_default());
        let mut all = vec!["env", "-i", &path, &environment, "chroot", root];
        all.extend(words);
        run(&mut self.command(&all))
    }
}
