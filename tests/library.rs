//! The C library, which `cargo test` does not make by itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder of libunicon.so and libunicon.a, linked from the Rust library that these tests use; where that has MPI in it, which
/// whoever links the static library would need too, from one of its own.
pub fn built() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // TARGET/PROFILE/deps/this program.
        let exe = std::env::current_exe().expect("this program");
        let folder = exe.ancestors().nth(2).expect("the folder of a profile");
        let profile = folder.file_name().and_then(|p| p.to_str()).expect("the name of a profile");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "-q", "-p", "unicon-c"]);
        cargo.args(["--profile", if profile == "debug" { "dev" } else { profile }]);
        cargo.arg("--target-dir").arg(folder.parent().expect("the target folder"));
        if !cfg!(feature = "mpi") {
            // With the features of the library in these tests, so that it is not compiled again.
            cargo.args(["-p", "unicon"]);
        }
        let status = cargo.status().expect("cargo starts");
        assert!(status.success(), "{cargo:?}");
        folder.to_path_buf()
    })
}
