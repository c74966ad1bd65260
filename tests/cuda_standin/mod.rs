//! Builds the stand-ins for the CUDA libraries (see README.md beside this file) and runs programs with them.

use crate::skip::{full, skip, skip_for_want_of_kernels};
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[path = "../cuda_emulation/faults.rs"]
pub mod faults;
mod mistakes;

/// What the dynamic loader is asked for, and the sources of each; the driver uses the kernels, later ones use the driver.
const LIBRARIES: [(&str, &str, &[&str]); 4] = [
    ("cuda", "libcuda.so.1", &["driver.cpp"]),
    ("cublas", "libcublas.so.13", &["cublas.cpp"]),
    ("cusolver", "libcusolver.so.12", &["cusolver.cpp"]),
    ("nccl", "libnccl.so.2", &["nccl.cpp"]),
];

/// The kernels and what runs them.
const KERNELS: &str = "libunicon_standin_kernels.so";

/// One compilation at a time within a process.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_standin")
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "g++".to_string())
}

/// The folder of the stand-in libraries, compiled if need be; `None`, with a message, without a C++ compiler
/// or `UNICON_TEST=full`.
pub fn libraries() -> Option<PathBuf> {
    if !full() {
        return None;
    }
    let _guard = alone();
    let compiler = compiler();
    let version = Command::new(&compiler).arg("--version").output().ok().filter(|o| o.status.success());
    let Some(version) = version.filter(|_| cfg!(target_arch = "x86_64")) else {
        skip(&format!("{compiler} not found; get it with apt-get install g++"));
        return None;
    };
    let mut hasher = DefaultHasher::new();
    version.stdout.hash(&mut hasher);
    include_bytes!("mod.rs").hash(&mut hasher);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["tests/cuda_standin", "cuda", "cuda/emu"] {
        let files = std::fs::read_dir(root.join(folder)).expect("a folder of the project");
        let mut files: Vec<PathBuf> = files.map(|e| e.expect("a readable entry").path()).collect();
        files.sort();
        files
            .iter()
            .filter(|f| f.is_file())
            .for_each(|f| std::fs::read(f).expect("readable").hash(&mut hasher));
    }
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let done = tmp.join(format!("cuda_standin-{:016x}", hasher.finish()));
    if !done.is_dir() {
        // Several test programs may be here at once: each builds in a folder of its own, and the first to finish gives its name.
        let building = tmp.join(format!("cuda_standin-building-{}", std::process::id()));
        std::fs::create_dir_all(&building).expect("the target folder is writable");
        compile_kernels(&building, &root.join("cuda"), &flags());
        for (_, file, sources) in LIBRARIES {
            compile(&building, file, sources);
        }
        for (name, file, _) in LIBRARIES {
            std::os::unix::fs::symlink(file, building.join(format!("lib{name}.so"))).expect("a link");
        }
        if std::fs::rename(&building, &done).is_err() {
            std::fs::remove_dir_all(&building).expect("removing the second copy");
        }
    }
    Some(done)
}

/// The folder of kernels with all faults in them (`UNICON_FAULT` chooses one), to be searched before the stand-ins' own.
pub fn faulty_kernels(folder: &Path) -> PathBuf {
    let _guard = alone();
    let done = folder.with_extension("faults");
    if !done.is_dir() {
        let building = folder.with_extension(format!("faults-{}", std::process::id()));
        faults::copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda"), &building.join("cuda"));
        let quick: Vec<&str> = flags().into_iter().map(|f| if f == "-O2" { "-O1" } else { f }).collect();
        compile_kernels(&building, &building.join("cuda"), &quick);
        if std::fs::rename(&building, &done).is_err() {
            std::fs::remove_dir_all(&building).expect("removing the second copy");
        }
    }
    done
}

fn compile_kernels(folder: &Path, cuda: &Path, flags: &[&str]) {
    let mut command = Command::new(compiler());
    command.args(flags).args(["-fPIC", "-shared", &format!("-Wl,-soname,{KERNELS}"), "-I"]).arg(cuda);
    command
        .arg(sources().join("kernels.cpp"))
        .args(["device.cpp", "hopper.cpp"].map(|f| cuda.join("emu").join(f)));
    let out = command.arg("-o").arg(folder.join(KERNELS)).output().expect("the compiler starts");
    assert!(out.status.success(), "{KERNELS}: {}", String::from_utf8_lossy(&out.stderr));
}

fn flags() -> Vec<&'static str> {
    let mut flags = vec!["-std=c++20", "-O2", "-g1", "-march=native", "-Wall", "-Wextra", "-Werror"];
    // Unused kernels of a family, pragmas meant for nvcc, and arguments that a stand-in has no use for.
    flags.extend(["-Wno-unused-function", "-Wno-unknown-pragmas", "-Wno-unused-parameter"]);
    flags
}

fn compile(folder: &Path, file: &str, files: &[&str]) {
    let mut command = Command::new(compiler());
    command
        .args(flags())
        .args(["-fPIC", "-shared", &format!("-Wl,-soname,{file}"), "-o"])
        .arg(folder.join(file));
    command.args(files.iter().map(|f| sources().join(f)));
    let used = if file == LIBRARIES[0].1 { KERNELS } else { LIBRARIES[0].1 };
    // Where the environment says otherwise, that is searched before.
    command.arg(folder.join(used)).arg("-Wl,-rpath,$ORIGIN,--enable-new-dtags");
    let out = command.output().expect("the compiler starts");
    assert!(out.status.success(), "{file}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Compiles a C++ program that calls the stand-in driver, under a `name` of its own.
pub fn program(folder: &Path, source: &str, name: &str) -> PathBuf {
    let _guard = alone();
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let rpath = format!("-Wl,-rpath,{}", folder.display());
    let mut command = Command::new(compiler());
    command.args(flags()).arg("-o").arg(&program).arg(sources().join(source));
    let out = command.arg(folder.join(LIBRARIES[0].1)).arg(rpath).output().expect("the compiler starts");
    assert!(out.status.success(), "{source}: {}", String::from_utf8_lossy(&out.stderr));
    program
}

/// A folder with some of the libraries; the others cannot be loaded, even where the system has them.
pub fn only(all: &Path, present: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::os::unix::fs::symlink(all.join(KERNELS), folder.path().join(KERNELS)).expect("a link");
    for (name, file, _) in LIBRARIES {
        let names = ["so", "so.1", "so.2", "so.9", "so.10", "so.11", "so.12", "so.13"]
            .map(|e| format!("lib{name}.{e}"));
        if present.contains(&name) {
            for link in [file.to_string(), format!("lib{name}.so")] {
                std::os::unix::fs::symlink(all.join(file), folder.path().join(link)).expect("a link");
            }
        } else {
            names.iter().for_each(|n| std::fs::write(folder.path().join(n), "").expect("an empty file"));
        }
    }
    folder
}

/// `unicon` with the libraries of a folder.
pub fn unicon(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unicon"));
    crate::program::usual_signals(&mut command);
    // And of no other, such as that of an installed Python package.
    command.env("LD_LIBRARY_PATH", folder).env("UNICON_CUDA_LIBRARIES", "");
    command
}

/// Runs a test (its path within its program) again in a process that has the stand-in libraries; `true` in that process,
/// and everywhere with `UNICON_TEST_GPU`, for a real device.
pub fn on_a_device(test: &str) -> bool {
    if std::env::var_os("UNICON_TEST_GPU").is_some() || std::env::var_os("UNICON_ON_STANDIN").is_some() {
        return true;
    }
    // Without a driver the answer of a build with kernels is another error.
    if let Err(e) = unicon::backend::cuda::probe()
        && e.to_string().contains("no CUDA kernels")
    {
        skip_for_want_of_kernels(&e.to_string());
        return false;
    }
    let Some(folder) = libraries() else { return false };
    let out = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", folder)
        .env("UNICON_ON_STANDIN", "1")
        .output()
        .expect("this program starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// What a process with `UNICON_STANDIN_REPORT` left: memory, what is still alive, and how often each function was called.
pub fn report(path: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).expect("the stand-in's report");
    let entry = |line: &str| {
        let (name, count) = line.trim_start_matches("call ").rsplit_once(' ').expect("a name and a number");
        (name.to_string(), count.parse().expect("a number"))
    };
    text.lines().map(entry).collect()
}

/// Whether this build has kernels; a message if not.
pub fn built(folder: &Path) -> bool {
    let out = unicon(folder).args(["info"]).output().expect("unicon starts");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    if !text.contains("no CUDA kernels") {
        return true;
    }
    skip_for_want_of_kernels("built without CUDA kernels");
    false
}
