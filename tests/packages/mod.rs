//! What is handed out: the installed tree, the archive, the Debian packages and the crate, each used as a newcomer would.

mod archive;
mod bare_root;
mod crate_files;
mod licenses;
mod pages;
mod tree;

use crate::ffi::{STRICT, root};
use std::path::Path;
use std::process::Command;

/// The C program that README.md shows, written to a folder.
fn shown_program(folder: &Path) {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```c\n").expect("README.md shows C");
    let (program, _) = rest.split_once("```").unwrap();
    std::fs::write(folder.join("main.c"), program).unwrap();
}

/// Compiles it there with the flags of `pkg-config ARGUMENTS`.
fn compile_shown(folder: &Path, name: &str, flags: &str, arguments: &str) -> Command {
    let mut command = Command::new("sh");
    let strict = STRICT.join(" ");
    command.arg("-c").arg(format!(
        "flags=$(pkg-config {arguments}) && cc {strict} {flags} $(pkg-config --cflags unicon) main.c -o {name} $flags"
    ));
    command.current_dir(folder);
    command
}

/// The libraries that an ELF file asks the loader for.
fn needed(file: &Path) -> String {
    let out = crate::ffi::run(Command::new("readelf").args(["-W", "-d"]).arg(file));
    out.lines().filter(|line| line.contains("(NEEDED)")).collect::<Vec<_>>().join("\n")
}
