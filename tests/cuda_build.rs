//! What can be known about the CUDA kernels without a GPU, from the images that the library embeds and what ptxas said
//! while the build script made them: every architecture is there, hot kernels neither spill nor draw a performance
//! warning, and the machine code holds the instructions they are built on.

use crate::skip::skip;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const ARCHS: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];
/// Families whose kernels carry the n^2 work.
const HOT: [&str; 5] = ["clip_stats", "clip_weights", "clip_fused", "additive", "search"];
/// The same of compute capability 9.0 only.
const HOPPER: [&str; 3] = ["hopper_stats", "hopper_weights", "hopper_fused"];

/// The images of this build by family, each with ptxas's report beside it.
fn images() -> Option<BTreeMap<String, PathBuf>> {
    let Some(folder) = option_env!("UNICON_CUDA_IMAGES") else {
        skip("built without CUDA kernels; get a compiler with scripts/get-nvcc");
        return None;
    };
    let entries = std::fs::read_dir(folder).expect("the build script's folder");
    let paths = entries.map(|e| e.expect("a readable entry").path());
    let images = paths.filter(|p| p.extension().is_some_and(|e| e == "fatbin"));
    let family = |p: &PathBuf| {
        let name = p.file_stem().expect("a name").to_string_lossy().into_owned();
        name.rsplit_once('-').expect("family-hash").0.to_string()
    };
    Some(images.map(|p| (family(&p), p)).collect())
}

/// What ptxas said about one kernel for one architecture.
#[derive(Debug)]
struct Kernel {
    name: String,
    arch: String,
    spills: bool,
}

/// The kernels of a report.
fn kernels(report: &str) -> Vec<Kernel> {
    let mut found: Vec<Kernel> = Vec::new();
    for line in report.lines() {
        if line.contains("Compiling entry function") {
            let mut names = line.split('\'').skip(1).step_by(2);
            let (name, arch) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
            let arch = arch.trim_start_matches("sm_").to_string();
            found.push(Kernel { name: name.into(), arch, spills: false });
        }
        if line.contains("bytes spill stores") && !line.contains(" 0 bytes spill stores, 0 bytes spill loads")
        {
            found.last_mut().expect("a kernel was named").spills = true;
        }
    }
    found
}

#[test]
fn every_architecture_is_built_without_spills_or_warnings() {
    let Some(images) = images() else { return };
    assert!(HOT.iter().all(|h| images.contains_key(*h)), "{images:?}");
    for (family, image) in &images {
        let report = std::fs::read_to_string(image.with_extension("ptxas")).expect("ptxas's report");
        let kernels = kernels(&report);
        assert!(!kernels.is_empty(), "ptxas said nothing about {family}:\n{report}");
        let spilling: Vec<&Kernel> = kernels.iter().filter(|k| k.spills).collect();
        let hot = HOT.contains(&family.as_str()) || HOPPER.contains(&family.as_str());
        assert!(!hot || spilling.is_empty(), "{family}: {spilling:?}");
        assert!(!report.contains("(C75"), "{family}:\n{report}");
        let built: BTreeSet<&str> = kernels.iter().map(|k| k.arch.as_str()).collect();
        let hopper = family.starts_with("hopper_");
        if let Some(missing) = ARCHS.iter().find(|&&a| !built.contains(a) && (!hopper || a == "90a")) {
            skip(&format!("{family} was built for {built:?}, not {missing}; unset UNICON_CUDA_ARCHS"));
        }
    }
}

/// The list by which the stand-in driver finds kernels on the host.
#[test]
fn every_kernel_has_its_twin_on_the_host() {
    let Some(images) = images() else { return };
    let mut built = BTreeSet::new();
    for image in images.values() {
        let report = std::fs::read_to_string(image.with_extension("ptxas")).expect("ptxas's report");
        built.extend(kernels(&report).into_iter().map(|k| k.name));
    }
    let list = include_str!("cuda_standin/kernels.inc").lines().filter_map(|l| l.strip_prefix("KERNEL("));
    // Without 90a among the architectures its own kernels are not built.
    let hopper = images.contains_key("hopper_pack");
    let listed: BTreeSet<String> = list
        .map(|l| l.trim_end_matches(')').to_string())
        .filter(|name| hopper || !name.starts_with("hopper_"))
        .collect();
    let missing: Vec<_> = built.symmetric_difference(&listed).collect();
    assert!(missing.is_empty(), "in the images or in tests/cuda_standin/kernels.inc only: {missing:?}");
}

fn cuobjdump() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let parent = |p: PathBuf| p.parent().map(Path::to_path_buf);
    folders.extend(std::env::var_os("NVCC").and_then(|n| parent(PathBuf::from(n).canonicalize().ok()?)));
    for home in ["CUDA_HOME", "CUDA_PATH"] {
        folders.extend(std::env::var_os(home).map(|h| PathBuf::from(h).join("bin")));
    }
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    folders.push("/usr/local/cuda/bin".into());
    folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/cuda/nvidia/cu13/bin"));
    let found = folders.into_iter().map(|f| f.join("cuobjdump")).find(|c| c.is_file());
    if found.is_none() {
        skip("cuobjdump not found; get it with scripts/get-nvcc");
    }
    found
}

#[test]
fn machine_code_uses_tensor_cores_and_asynchronous_copies() {
    let Some(images) = images() else { return };
    let Some(cuobjdump) = cuobjdump() else { return };
    let asynchronous = ["HMMA.16816.F32", "LDSM.16.M88.4", "LDGSTS"];
    // Warpgroup products, bulk copies, barriers in shared memory.
    let warpgroups = ["HGMMA.64x", "UBLKCP", "SYNCS"];
    let portable = HOT.map(|family| (family, asynchronous));
    let hopper = HOPPER.map(|family| (family, warpgroups));
    for (family, instructions) in portable.into_iter().chain(hopper) {
        let Some(image) = images.get(family) else {
            skip(&format!("{family} is not built; unset UNICON_CUDA_ARCHS"));
            continue;
        };
        let out = Command::new(&cuobjdump).arg("--dump-sass").arg(image).output().expect("cuobjdump starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8_lossy(&out.stdout);
        // "arch = sm_90a" heads each architecture's code; PTX has a head of its own and no code here.
        let parts: Vec<(&str, &str)> = text
            .split("Fatbin elf code:")
            .skip(1)
            .filter_map(|part| part.split_once("arch = sm_")?.1.split_once('\n'))
            .collect();
        assert!(!parts.is_empty(), "no machine code in {family}");
        for (arch, sass) in parts {
            for instruction in instructions {
                assert!(sass.contains(instruction), "{family} for {arch} has no {instruction}");
            }
        }
    }
}

#[test]
fn reports_are_read_right() {
    let report = "ptxas info : Compiling entry function 'a' for 'sm_80'\n    0 bytes stack frame, 0 bytes spill stores, \
                  0 bytes spill loads\nptxas info : Compiling entry function 'b' for 'sm_90a'\n    8 bytes stack frame, \
                  4 bytes spill stores, 4 bytes spill loads\n";
    let found = kernels(report);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].name.as_str(), found[0].arch.as_str(), found[0].spills), ("a", "80", false));
    assert_eq!((found[1].name.as_str(), found[1].arch.as_str(), found[1].spills), ("b", "90a", true));
}
