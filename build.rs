//! Compiles `cuda/*.cu` into images that the library embeds, when a CUDA 13 compiler is there.
//!
//! * `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH`, `/usr/local/cuda` and `.tools/cuda` (put there by `scripts/get-nvcc`) are
//!   searched in that order. Without a compiler the library builds without kernels and says so when a GPU is asked for;
//!   `UNICON_REQUIRE_CUDA=1` makes that an error.
//! * `UNICON_CUDA_ARCHS` chooses architectures (`90a`, `80,90a`, `none`; default: all that are supported).
//!
//! An image is compiled again only when its sources, the architectures or the compiler change. What ptxas said about its
//! kernels (registers, spills, warnings) is kept beside it; `tests/cuda_build.rs` reads both, from the folder that
//! `UNICON_CUDA_IMAGES` names at compile time.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// SASS for each; PTX for the newest, so that later cards can translate it. Sources that begin with the name of an
/// architecture in [`OWN`] are built for that one only.
const ARCHS: &[&str] = &["80", "86", "89", "90a", "100", "120"];

/// Instructions of one architecture: prefix of the sources, and which.
const OWN: (&str, &str) = ("hopper_", "90a");

fn main() {
    println!("cargo:rustc-check-cfg=cfg(unicon_cuda)");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cuda");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "UNICON_CUDA_ARCHS", "UNICON_REQUIRE_CUDA"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let images = match cuda_images(&out) {
        Ok(images) => images,
        Err(reason) if env::var("UNICON_REQUIRE_CUDA").is_ok_and(|v| v == "1") => {
            println!("cargo:warning=UNICON_REQUIRE_CUDA=1, but {reason}");
            std::process::exit(1);
        }
        Err(reason) => {
            println!("cargo:warning=building without CUDA kernels: {reason}");
            Vec::new()
        }
    };
    let mut table = String::from("&[\n");
    for (name, path) in &images {
        writeln!(table, "    ({name:?}, &Aligned(*include_bytes!({path:?})).0),")
            .expect("writing to a string");
    }
    table.push_str("]\n");
    write_if_changed(&out.join("cuda_images.rs"), &table);
    if !images.is_empty() {
        println!("cargo:rustc-cfg=unicon_cuda");
        println!("cargo:rustc-env=UNICON_CUDA_IMAGES={}", out.join("cuda").display());
    }
}

/// The compiled images by family, or why there are none. `UNICON_CUDA_ARCHS=none` is not a failure.
fn cuda_images(out: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let wanted = env::var("UNICON_CUDA_ARCHS").unwrap_or_default();
    if wanted.trim() == "none" {
        return Ok(Vec::new());
    }
    let archs = parse_archs(&wanted)?;
    let nvcc = find_nvcc().ok_or("nvcc was not found; scripts/get-nvcc installs one")?;
    let version =
        Command::new(&nvcc).arg("--version").output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    if !version.contains("release 13.") {
        return Err(format!("{} is not the compiler of CUDA 13", nvcc.display()));
    }
    let root =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR")).join("cuda");
    let mut sources: Vec<PathBuf> = list(&root, "cu")?;
    sources.sort();
    let mut headers = list(&root, "cuh")?;
    headers.sort();
    let mut shared = DefaultHasher::new();
    version.hash(&mut shared);
    for header in &headers {
        fs::read(header).map_err(|e| format!("{}: {e}", header.display()))?.hash(&mut shared);
    }
    let cache = out.join("cuda");
    fs::create_dir_all(&cache).map_err(|e| format!("{}: {e}", cache.display()))?;

    let mut images = Vec::new();
    let mut stale = Vec::new();
    for source in &sources {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let archs: Vec<&str> = archs_of(&name, &archs);
        if archs.is_empty() {
            continue;
        }
        let flags = flags(&archs);
        let mut hasher = shared.clone();
        flags.hash(&mut hasher);
        fs::read(source).map_err(|e| format!("{}: {e}", source.display()))?.hash(&mut hasher);
        let image = cache.join(format!("{name}-{:016x}.fatbin", hasher.finish()));
        if !image.exists() || !report(&image).exists() {
            stale.push(Work { source: source.clone(), image: image.clone(), flags });
        }
        images.push((name, image));
    }
    compile(&nvcc, stale)?;
    for old in list(&cache, "fatbin")?.into_iter().chain(list(&cache, "ptxas")?) {
        if !images.iter().any(|(_, image)| *image == old || report(image) == old) {
            // Only a cache: a file that cannot be removed is harmless.
            let _ = fs::remove_file(old);
        }
    }
    Ok(images)
}

/// Where what ptxas said about an image is kept.
fn report(image: &Path) -> PathBuf {
    image.with_extension("ptxas")
}

fn parse_archs(wanted: &str) -> Result<Vec<String>, String> {
    if wanted.trim().is_empty() {
        return Ok(ARCHS.iter().map(ToString::to_string).collect());
    }
    let archs: Vec<String> = wanted.split([',', ' ']).filter(|a| !a.is_empty()).map(str::to_string).collect();
    for arch in &archs {
        let digits = arch.trim_end_matches(['a', 'f']);
        if digits.parse::<u32>().is_err() {
            return Err(format!("UNICON_CUDA_ARCHS: expected e.g. `80,90a` or `none`, got `{arch}`"));
        }
        if digits.parse::<u32>().is_ok_and(|a| a < 80) {
            return Err(format!("UNICON_CUDA_ARCHS: the kernels need 80 or newer, got `{arch}`"));
        }
    }
    Ok(archs)
}

/// The architectures among `archs` that a source is built for.
fn archs_of<'a>(name: &str, archs: &'a [String]) -> Vec<&'a str> {
    let (prefix, own) = OWN;
    archs.iter().map(String::as_str).filter(|&a| !name.starts_with(prefix) || a == own).collect()
}

/// A source to compile.
struct Work {
    source: PathBuf,
    image: PathBuf,
    flags: Vec<String>,
}

fn flags(archs: &[&str]) -> Vec<String> {
    let mut flags: Vec<String> =
        ["-std=c++17", "-O3", "-Xptxas", "-v", "-Xfatbin", "-compress-all", "-fatbin"]
            .map(str::to_string)
            .to_vec();
    for arch in archs {
        flags.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    if let Some(newest) = archs.last().filter(|a| a.bytes().all(|b| b.is_ascii_digit())) {
        flags.push(format!("-gencode=arch=compute_{newest},code=compute_{newest}"));
    }
    flags
}

/// Compiles on as many threads as cargo grants, the longest source first, the architectures of one source side by side
/// where there are threads to spare. The first error ends up in the message.
fn compile(nvcc: &Path, mut work: Vec<Work>) -> Result<(), String> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).max(1);
    work.sort_by_key(|w| fs::metadata(&w.source).map_or(0, |m| m.len()));
    let threads = jobs.div_ceil(work.len().max(1)).to_string();
    let threads = &["-t".to_string(), threads];
    let work = Mutex::new(work);
    let failures = Mutex::new(Vec::new());
    let next = || work.lock().expect("no thread panics with the lock").pop();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(w) = next() {
                    if let Err(e) = compile_one(nvcc, &[&w.flags[..], threads].concat(), &w.source, &w.image)
                    {
                        failures.lock().expect("no thread panics with the lock").push(e);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread panicked");
    failures.into_iter().next().map_or(Ok(()), Err)
}

fn compile_one(nvcc: &Path, flags: &[String], source: &Path, image: &Path) -> Result<(), String> {
    let partial = image.with_extension("partial");
    let run = Command::new(nvcc).args(flags).arg("-o").arg(&partial).arg(source).output();
    let run = run.map_err(|e| format!("{}: {e}", nvcc.display()))?;
    let text = String::from_utf8_lossy(&run.stderr).into_owned() + &String::from_utf8_lossy(&run.stdout);
    if !run.status.success() {
        for line in text.lines().filter(|l| !l.starts_with("ptxas info")) {
            println!("cargo:warning={line}");
        }
        return Err(format!("nvcc failed on {}", source.display()));
    }
    fs::write(report(image), text).map_err(|e| format!("{}: {e}", report(image).display()))?;
    fs::rename(&partial, image).map_err(|e| format!("{}: {e}", image.display()))
}

/// The compiler's real path: through a symbolic link nvcc does not find its own headers.
fn find_nvcc() -> Option<PathBuf> {
    let mut candidates: Vec<PathBuf> = Vec::new();
    candidates.extend(env::var_os("NVCC").map(PathBuf::from));
    for home in ["CUDA_HOME", "CUDA_PATH"] {
        candidates.extend(env::var_os(home).map(|h| PathBuf::from(h).join("bin/nvcc")));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    candidates.extend(env::split_paths(&path).map(|dir| dir.join("nvcc")));
    candidates.push(PathBuf::from("/usr/local/cuda/bin/nvcc"));
    let root = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    candidates.push(root.join(".tools/cuda/nvidia/cu13/bin/nvcc"));
    candidates.into_iter().find(|c| c.is_file()).and_then(|c| c.canonicalize().ok())
}

fn list(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let paths = entries.filter_map(|e| e.ok().map(|e| e.path()));
    Ok(paths.filter(|p| p.extension().is_some_and(|e| e == extension)).collect())
}

fn write_if_changed(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return;
    }
    fs::write(path, text).expect("OUT_DIR is writable");
}
