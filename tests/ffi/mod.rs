//! What the tests of the C ABI share.

pub use crate::library::built;
use crate::skip::{cannot, skip};
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether a tool is there; without it the test is skipped, or fails where UNICON_REQUIRE_TOOLS=1.
pub fn have(tool: &str, package: &str) -> bool {
    if Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success()) {
        return true;
    }
    skip(&format!("{tool} not found; get it with apt-get install {package}"));
    false
}

/// A Python that can import a package: that of `PATH`, or the system's own, where Debian's packages are. Without one the test is
/// skipped, or fails where UNICON_REQUIRE_TOOLS=1.
pub fn python_with(package: &str) -> Option<&'static str> {
    let imports = |python: &&str| {
        let import = ["-c", &format!("import {package}")];
        Command::new(python).args(import).output().is_ok_and(|o| o.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(imports);
    if found.is_none() {
        // PyPI's PyTorch brings several GB of CUDA.
        let get = match package {
            "torch" => "apt-get install python3-torch".into(),
            "sklearn" => "pip install scikit-learn".into(),
            "ensurepip" => "apt-get install python3-venv".into(),
            _ => format!("pip install {package}"),
        };
        skip(&format!("no Python with {package}; get it with {get}"));
    }
    found
}

/// A script of the project with the package of `python` and the library of these tests.
pub fn python_script(python: &str, script: &str) -> Command {
    let mut command = Command::new(python);
    command.arg("-B").arg(root().join(script)).env("PYTHONPATH", root().join("python"));
    command.env("UNICON_LIBRARY", built().join("libunicon.so"));
    command
}

/// Julia, that of `PATH` or of `scripts/get-julia`, with the package of `ffi-examples` and nothing of the user's. Without one the test
/// is skipped, or fails where UNICON_REQUIRE_TOOLS=1 and nobody said that none can be had.
pub fn julia(depot: &Path) -> Option<Command> {
    let installed = root().join(".tools/julia/bin/julia");
    let here =
        |program: &Path| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    let Some(program) = [PathBuf::from("julia"), installed].into_iter().find(|program| here(program)) else {
        let why = "julia not found; get it from julialang.org or with scripts/get-julia";
        if std::env::var_os("UNICON_WITHOUT_JULIA").is_some() {
            cannot(why)
        } else {
            skip(why)
        }
        return None;
    };
    let mut command = Command::new(program);
    command.args(["--startup-file=no", "--color=no"]).env("JULIA_DEPOT_PATH", depot);
    command.env("JULIA_LOAD_PATH", format!("@stdlib:{}", root().join("ffi-examples/julia").display()));
    command.env("UNICON_LIBRARY", built().join("libunicon.so"));
    Some(command)
}

pub fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {}\n{text}", out.status);
    text
}

/// Strictest warnings, as errors.
pub const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
