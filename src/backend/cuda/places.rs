//! Where NVIDIA's libraries lie when the system does not know them: in Python packages (`pip install nvidia-cublas`,
//! PyTorch), as `nvidia/cu13/lib` or `nvidia/nccl/lib` below a folder of packages.

use std::env;
use std::path::{Path, PathBuf};

/// Folders to look in instead of those of Python, separated as in `PATH`.
const VARIABLE: &str = "UNICON_CUDA_LIBRARIES";

/// Paths of `file` beside the Pythons of this environment, or in the folders of `UNICON_CUDA_LIBRARIES`.
pub(super) fn paths(file: &str) -> Vec<PathBuf> {
    match env::var_os(VARIABLE) {
        Some(folders) => existing(env::split_paths(&folders), file),
        None => existing(pythons().iter().flat_map(|p| folders(p)), file),
    }
}

fn existing(folders: impl Iterator<Item = PathBuf>, file: &str) -> Vec<PathBuf> {
    let paths = folders.filter(|f| f.is_absolute()).map(|f| f.join(file));
    paths.filter(|p| p.is_file()).collect()
}

/// What the active environment, the Pythons of `PATH` and the user's packages are installed under.
fn pythons() -> Vec<PathBuf> {
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(env::var_os).map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).filter(|f| f.join("python3").is_file());
    let found = found.filter_map(|f| Some(f.parent()?.to_path_buf()));
    let of_user = env::var_os("HOME").map(|h| PathBuf::from(h).join(".local"));
    active.chain(found).chain(of_user).collect()
}

/// `lib/python3*/{site,dist}-packages/nvidia/*/lib` of an installation, in the order of their names.
fn folders(python: &Path) -> Vec<PathBuf> {
    let mut versions = entries(&python.join("lib"));
    versions.retain(|v| v.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")));
    let packages = versions.iter().flat_map(|v| ["site-packages", "dist-packages"].map(|p| v.join(p)));
    packages.flat_map(|p| entries(&p.join("nvidia"))).map(|p| p.join("lib")).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = found.map(|e| e.path()).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_of_packages_are_found() {
        let python = tempfile::tempdir().expect("a temporary folder");
        let packages = python.path().join("lib/python3.12/site-packages/nvidia");
        for (package, file) in [("cu13", "libcublas.so.13"), ("nccl", "libnccl.so.2")] {
            let lib = packages.join(package).join("lib");
            std::fs::create_dir_all(&lib).expect("writable");
            std::fs::write(lib.join(file), "").expect("writable");
        }
        std::fs::create_dir_all(packages.join("cu12/lib")).expect("writable");
        let find = |file: &str| existing(folders(python.path()).into_iter(), file);
        assert_eq!(find("libcublas.so.13"), [packages.join("cu13/lib/libcublas.so.13")]);
        assert_eq!(find("libnccl.so.2"), [packages.join("nccl/lib/libnccl.so.2")]);
        assert!(find("libcusolver.so.12").is_empty());
        assert!(existing([PathBuf::from("")].into_iter(), "libnccl.so.2").is_empty());
    }
}
