//! The C library, which `cargo test` does not make by itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The name of this build's profile, and the target folder.
pub fn profile() -> (String, PathBuf) {
    let folder = folder();
    let profile = folder.file_name().and_then(|p| p.to_str()).expect("the name of a profile");
    let profile = if profile == "debug" { "dev" } else { profile };
    (profile.to_string(), folder.parent().expect("the target folder").to_path_buf())
}

/// TARGET/PROFILE, of TARGET/PROFILE/deps/this program.
fn folder() -> PathBuf {
    let exe = std::env::current_exe().expect("this program");
    exe.ancestors().nth(2).expect("the folder of a profile").to_path_buf()
}

/// The folder of libunicon.so and libunicon.a, linked from the Rust library that these tests use; where that has MPI in it, which
/// whoever links the static library would need too, from one of its own.
pub fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut cargo = build();
        let status = cargo.arg("-q").status().expect("cargo starts");
        assert!(status.success(), "{cargo:?}");
        folder()
    })
}

/// What makes it.
pub fn build() -> Command {
    let (profile, target) = profile();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "-p", "unicon-c", "--profile", &profile]);
    cargo.arg("--target-dir").arg(target);
    // The libraries alone: a program of theirs would take the place of the one that these tests run. With the features of a build
    // without MPI, which is not compiled again.
    cargo.args(["-p", "unicon", "--lib"]);
    cargo
}
