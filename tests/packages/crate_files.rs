//! The crate as `cargo publish` would upload it: what is in it, how large it is, that it builds by itself; and the examples.

use crate::ffi::{root, run};
use crate::library::profile;
use crate::program::Lab;
use crate::skip::{full, skip};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Compressed bytes that the crate may have.
const LARGEST: u64 = 4 << 20;

/// What cargo prints about the project.
fn cargo(arguments: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    let out = cargo.current_dir(root()).args(arguments).output().unwrap();
    assert!(out.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Every file below a folder of the project that is read when the crate is built.
fn sources(folder: &str, extensions: &[&str], found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let place = format!("{folder}/{}", entry.file_name().into_string().unwrap());
        if entry.path().is_dir() && folder.starts_with("src") {
            sources(&place, extensions, found);
        } else if entry.path().extension().is_some_and(|e| extensions.iter().any(|x| e == *x)) {
            found.insert(place);
        }
    }
}

#[test]
fn the_crate_holds_what_it_is_built_from_and_little_else() {
    let list = cargo(&["package", "--list", "--allow-dirty", "--offline", "-p", "unicon"]);
    let list: BTreeSet<String> = list.lines().map(str::to_string).collect();
    let mut needed = BTreeSet::new();
    sources("src", &["rs"], &mut needed);
    sources("cuda", &["cu", "cuh"], &mut needed);
    sources("data/digits_halves", &["npy", "md"], &mut needed);
    sources("examples", &["rs"], &mut needed);
    needed.extend(
        ["build.rs", "README.md", "LICENSE-MIT", "LICENSE-APACHE", "include/unicon.h"].map(str::to_string),
    );
    let missing: Vec<_> = needed.difference(&list).collect();
    assert!(missing.is_empty(), "not in the crate: {missing:?}; see `include` in Cargo.toml");
    // Whatever the library embeds is among them.
    for source in needed.iter().filter(|file| file.ends_with(".rs")) {
        let text = std::fs::read_to_string(root().join(source)).unwrap();
        for name in text.split("include_bytes!(\"").chain(text.split("include_str!(\"")).skip(1) {
            let Some((name, _)) = name.split_once('"') else { continue };
            let folder = Path::new(source).parent().unwrap();
            let Ok(path) = root().join(folder).join(name).canonicalize() else { continue };
            let place =
                path.strip_prefix(root().canonicalize().unwrap()).unwrap().to_str().unwrap().to_string();
            assert!(list.contains(&place), "{source} includes {place}, which is not in the crate");
        }
    }
    let folders: BTreeSet<&str> = list.iter().filter_map(|file| Some(file.split_once('/')?.0)).collect();
    let expected = ["cuda", "data", "docs", "examples", "include", "src"];
    assert_eq!(folders, BTreeSet::from(expected), "see `include` in Cargo.toml");
}

#[test]
fn the_minimum_rust_version_is_that_of_the_dependencies() {
    // Of this platform: crates of others need not have been fetched.
    let platform = ["--filter-platform", "x86_64-unknown-linux-gnu"];
    let text =
        cargo(&[&["metadata", "--format-version", "1", "--locked", "--offline"], &platform[..]].concat());
    let metadata: serde_json::Value = serde_json::from_str(&text).unwrap();
    let number = |version: &str| -> Vec<u32> { version.split('.').filter_map(|n| n.parse().ok()).collect() };
    let ours = env!("CARGO_PKG_RUST_VERSION");
    assert!(!ours.is_empty());
    for package in metadata["packages"].as_array().unwrap() {
        let theirs = package["rust_version"].as_str().unwrap_or("1.0");
        assert!(
            number(theirs) <= number(ours),
            "{} asks for Rust {theirs}, Cargo.toml for {ours}",
            package["id"]
        );
    }
}

#[test]
fn the_crate_builds_by_itself() {
    if !full() {
        return;
    }
    let lab = Lab::new();
    let target = lab.path("package");
    let package =
        ["package", "-q", "--no-verify", "--allow-dirty", "--offline", "-p", "unicon", "--target-dir"];
    cargo(&[&package[..], &[target.to_str().unwrap()]].concat());
    let name = format!("unicon-{}", env!("CARGO_PKG_VERSION"));
    let file = target.join(format!("package/{name}.crate"));
    let size = file.metadata().unwrap().len();
    println!("{name}.crate: {size} bytes");
    assert!(size < LARGEST, "{size} bytes, expected less than {LARGEST}; see `include` in Cargo.toml");
    run(Command::new("tar").arg("xzf").arg(&file).current_dir(lab.path(".")));
    // Its dependencies are those that were built already. Its kernels are those of the project, which other tests compile.
    let mut check = Command::new(env!("CARGO"));
    check.current_dir(lab.path(&name)).args(["check", "--locked", "--offline"]);
    let (name, folder) = profile();
    check.args(["--profile", &name]).arg("--target-dir").arg(folder);
    run(check.env("UNICON_CUDA_ARCHS", "none"));
}

#[test]
fn the_examples_of_the_library_run() {
    let lab = Lab::new();
    let exe = std::env::current_exe().unwrap();
    let folder = exe.ancestors().nth(2).unwrap().join("examples");
    if !folder.join("align").exists() || !folder.join("sampling_error").exists() {
        skip("the examples are not built; cargo test --release builds them, with --test all it does not");
        return;
    }
    let example = |name: &str| {
        let mut command = Command::new(folder.join(name));
        command.current_dir(lab.path("."));
        command
    };
    let recall = |said: &str| -> f64 {
        let (_, rest) = said.split_once("Recall@1 ").unwrap_or_else(|| panic!("{said}"));
        rest.split(',').next().unwrap().parse().unwrap()
    };
    let said = run(&mut example("align"));
    assert!(recall(&said) > 0.5, "{said}");
    let digits = root().join("data/digits_halves");
    let said = run(example("align").arg(digits.join("left.npy")).arg(digits.join("right.npy")));
    // Chance: 1 in 360.
    assert!(recall(&said) > 0.05 && said.contains("360 test pairs"), "{said}");
    let out = example("align").arg("x.npy").output().unwrap();
    assert!(
        !out.status.success() && String::from_utf8_lossy(&out.stderr).contains("usage: align"),
        "{out:?}"
    );
    let pair = format!("digits={0}/left.npy,{0}/right.npy", digits.display());
    let said = run(example("sampling_error").args(["errors.json", &pair]));
    assert!(said.contains("digits"), "{said}");
    assert!(std::fs::read_to_string(lab.path("errors.json")).unwrap().contains("digits"));
}
