//! What can be known about the CUDA kernels without a GPU: they compile for every architecture, hot kernels neither
//! spill nor draw a performance warning from ptxas, and the machine code holds the instructions they are built on.

use std::path::{Path, PathBuf};
use std::process::Command;

const ARCHS: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];
/// Families whose kernels carry the n^2 work.
const HOT: [&str; 5] = ["clip_stats", "clip_weights", "clip_fused", "additive", "search"];

fn nvcc() -> Option<PathBuf> {
    let mut candidates: Vec<PathBuf> = std::env::var_os("NVCC").map(PathBuf::from).into_iter().collect();
    for home in ["CUDA_HOME", "CUDA_PATH"] {
        candidates.extend(std::env::var_os(home).map(|h| PathBuf::from(h).join("bin/nvcc")));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    candidates.extend(std::env::split_paths(&path).map(|d| d.join("nvcc")));
    candidates.push("/usr/local/cuda/bin/nvcc".into());
    candidates.push(Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/cuda/nvidia/cu13/bin/nvcc"));
    let found = candidates.into_iter().find(|c| c.is_file()).and_then(|c| c.canonicalize().ok());
    if found.is_none() {
        let message = "skipped: nvcc not found; get it with scripts/get-nvcc";
        assert!(std::env::var("UNICON_REQUIRE_TOOLS").is_err(), "{message}");
        println!("{message}");
    }
    found
}

/// Compiles one family for one architecture; returns ptxas's report and the cubin, whose name
/// holds the `purpose` because tests run side by side.
fn compile(nvcc: &Path, family: &str, arch: &str, purpose: &str) -> (String, PathBuf) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda").join(family).with_extension("cu");
    let cubin = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{family}_{arch}_{purpose}.cubin"));
    let out = Command::new(nvcc)
        .args(["-std=c++17", "-O3", "-Xptxas", "-v", "-cubin"])
        .arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"))
        .arg("-o")
        .args([&cubin, &source])
        .output()
        .expect("nvcc starts");
    let report = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{family} for {arch}:\n{report}");
    (report, cubin)
}

/// Kernels of the report that spill.
fn spilling(report: &str) -> Vec<String> {
    let mut kernel = "";
    let mut found = Vec::new();
    for line in report.lines() {
        if let Some(name) = line.split('\'').nth(1).filter(|_| line.contains("Compiling entry function")) {
            kernel = name;
        }
        if line.contains("bytes spill stores") && !line.contains(" 0 bytes spill stores, 0 bytes spill loads")
        {
            found.push(format!("{kernel}: {}", line.trim()));
        }
    }
    found
}

fn families() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let files = std::fs::read_dir(dir).expect("cuda/ is there").map(|e| e.expect("a readable entry").path());
    let mut names: Vec<String> = files
        .filter(|p| p.extension().is_some_and(|e| e == "cu"))
        .map(|p| p.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn every_architecture_compiles_without_spills() {
    let Some(nvcc) = nvcc() else { return };
    let families = families();
    assert!(HOT.iter().all(|h| families.iter().any(|f| f == h)), "{families:?}");
    let jobs: Vec<(&str, &str)> =
        families.iter().flat_map(|f| ARCHS.iter().map(move |a| (f.as_str(), *a))).collect();
    let (first, second) = jobs.split_at(jobs.len() / 2);
    let check = |jobs: &[(&str, &str)]| {
        for (family, arch) in jobs {
            let (report, _) = compile(&nvcc, family, arch, "report");
            assert!(
                report.contains("Compiling entry function"),
                "ptxas said nothing about {family}:\n{report}"
            );
            let hot = HOT.contains(family);
            assert!(!hot || spilling(&report).is_empty(), "{family} for {arch}: {:?}", spilling(&report));
            assert!(!report.contains("C75"), "{family} for {arch}:\n{report}");
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| check(second));
        check(first);
        other.join().expect("the second half compiles too");
    });
}

#[test]
fn machine_code_uses_tensor_cores_and_asynchronous_copies() {
    let Some(nvcc) = nvcc() else { return };
    let cuobjdump = nvcc.with_file_name("cuobjdump");
    if !cuobjdump.is_file() {
        println!("skipped: cuobjdump not found; get it with scripts/get-nvcc");
        assert!(std::env::var("UNICON_REQUIRE_TOOLS").is_err());
        return;
    }
    for arch in ["80", "90a"] {
        for family in HOT {
            let (_, cubin) = compile(&nvcc, family, arch, "sass");
            let out =
                Command::new(&cuobjdump).arg("--dump-sass").arg(&cubin).output().expect("cuobjdump starts");
            let sass = String::from_utf8_lossy(&out.stdout);
            for instruction in ["HMMA.16816.F32", "LDSM.16.M88.4", "LDGSTS"] {
                assert!(sass.contains(instruction), "{family} for {arch} has no {instruction}");
            }
        }
    }
}

#[test]
fn spills_are_recognised() {
    let report = "ptxas info : Compiling entry function 'a' for 'sm_80'\n    0 bytes stack frame, 0 bytes spill stores, \
                  0 bytes spill loads\nptxas info : Compiling entry function 'b' for 'sm_80'\n    8 bytes stack frame, \
                  4 bytes spill stores, 4 bytes spill loads\n";
    let found = spilling(report);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("b:"));
}
