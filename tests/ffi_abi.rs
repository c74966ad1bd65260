//! The header as a contract: it compiles under every standard, the bindings are what it says, the library exports exactly its
//! functions, its ABI is the stored one, and the other languages declare what it does.

use crate::ffi::{STRICT, built, have, root, run};
use crate::skip::full;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn the_headers_compile_under_every_standard() {
    let dir = tempfile::tempdir().unwrap();
    let text = |header: &str| {
        format!("#include \"{header}\"\n#include \"{header}\"\nint main(void) {{ return 0; }}\n")
    };
    let (c, cpp) = (dir.path().join("h.c"), dir.path().join("h.cpp"));
    std::fs::write(&c, text("unicon.h")).unwrap();
    std::fs::write(&cpp, text("unicon.hpp")).unwrap();
    for (cc, standard, source, package) in [
        ("gcc", "-std=c99", &c, "gcc"),
        ("gcc", "-std=c11", &c, "gcc"),
        ("g++", "-std=c++17", &cpp, "g++"),
        ("clang-14", "-std=c99", &c, "clang-14"),
        ("clang-14", "-std=c11", &c, "clang-14"),
        ("clang++-14", "-std=c++17", &cpp, "clang-14"),
    ] {
        if have(cc, package) {
            let mut command = Command::new(cc);
            command.arg(standard).args(STRICT).arg("-fsyntax-only").arg("-I").arg(root().join("include"));
            run(command.arg(source));
        }
    }
}

/// Every function, parameter and field is documented, and every reference leads somewhere.
#[test]
fn doxygen_has_nothing_to_warn_of() {
    if !full() || !have("doxygen", "doxygen") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let settings = std::fs::read_to_string(root().join("docs/Doxyfile")).unwrap();
    let page = dir.path().join("Doxyfile");
    std::fs::write(&page, format!("{settings}\nOUTPUT_DIRECTORY = {}\n", dir.path().display())).unwrap();
    let said = run(Command::new("doxygen").arg(&page).current_dir(root()));
    assert!(said.trim().is_empty(), "{said}");
    assert!(dir.path().join("html/unicon_8h.html").exists());
}

#[test]
fn the_bindings_are_those_of_the_header() {
    // bindgen is compiled for it.
    if !full() {
        return;
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args(["test", "--release", "-q", "-p", "header-check", "--", "--nocapture"]);
    print!("{}", run(&mut cargo));
}

/// The stored ABI. Renewed by UNICON_RENEW_ABI=1 cargo test --release --test all ffi_abi::.
const BASELINE: &str = "tests/ffi/libunicon.so.1.abi.gz";

/// The ABI that a header describes, as abidw writes it down: every function defined as it is declared, and a variable of every
/// enumeration, since those travel as integers.
fn abi_of(header: &str, dir: &Path) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let folder = dir.join("unicon.h");
    std::fs::write(&folder, header).unwrap();
    let plain = run(Command::new("gcc").args(["-E", "-P", "-std=c11"]).arg(&folder));
    let mut stub = String::from("#include \"unicon.h\"\n");
    let mut functions = 0;
    for part in plain.split("__attribute__((visibility(\"default\")))").skip(1) {
        stub += &format!("{} {{ __builtin_trap(); }}\n", &part[..part.find(';').unwrap()]);
        functions += 1;
    }
    for part in plain.split("enum unicon_").skip(1) {
        let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if part[name.len()..].trim_start().starts_with('{') {
            stub += &format!("enum unicon_{name} value_of_{name};\n");
        }
    }
    assert!(functions > 40, "the header was not understood");
    let (source, library, xml) = (dir.join("stub.c"), dir.join("libstub.so"), dir.join("stub.abi"));
    std::fs::write(&source, stub).unwrap();
    let mut gcc = Command::new("gcc");
    gcc.current_dir(dir).args([
        "-std=c11",
        "-g",
        "-O0",
        "-w",
        "-fPIC",
        "-shared",
        "-Wl,-soname,libunicon.so.1",
        "-o",
    ]);
    run(gcc.arg(&library).arg("stub.c"));
    // No paths, so that the file is the same on every machine.
    let mut abidw = Command::new("abidw");
    abidw.args(["--no-corpus-path", "--no-comp-dir-path", "--no-show-locs", "--type-id-style", "hash"]);
    run(abidw.arg("--out-file").arg(&xml).arg(&library));
    xml
}

/// What abidiff says of two ABIs, and its exit status: 0 for none, bit 8 for a break.
fn difference(before: &Path, after: &Path) -> (i32, String) {
    let out = Command::new("abidiff").arg("--harmless").arg(before).arg(after).output().unwrap();
    (out.status.code().unwrap_or(-1), String::from_utf8_lossy(&out.stdout).into_owned())
}

#[test]
fn the_abi_is_the_stored_one() {
    if !full() {
        return;
    }
    if !have("abidiff", "abigail-tools") || !have("gcc", "gcc") || !have("gzip", "gzip") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let header = std::fs::read_to_string(root().join("include/unicon.h")).unwrap();
    let now = abi_of(&header, &dir.path().join("now"));
    let baseline = root().join(BASELINE);
    if std::env::var("UNICON_RENEW_ABI").as_deref() == Ok("1") {
        run(Command::new("sh").arg("-c").arg(format!(
            "gzip -9nc {} > {}",
            now.display(),
            baseline.display()
        )));
    }
    let stored = dir.path().join("stored.abi");
    run(Command::new("sh").arg("-c").arg(format!("gzip -dc {} > {}", baseline.display(), stored.display())));
    let (status, text) = difference(&stored, &now);
    assert_eq!(status & 8, 0, "a break of the ABI, which needs another UNICON_ABI_VERSION:\n{text}");
    assert_eq!(
        status, 0,
        "the ABI has changed. If it only grew (functions, fields at the end), renew the stored one with\n  \
         UNICON_RENEW_ABI=1 cargo test --release --test all ffi_abi::\n{text}"
    );
    // Each kind of break is seen.
    for (name, from, to) in [
        ("order", "int64_t rows;        /**<", "double rows; /**<"),
        ("size", "int32_t device_id;   /**< Number", "int64_t device_id; /**< Number"),
        (
            "argument",
            "int64_t k, const unicon_matrix_t *scores,",
            "int32_t k, const unicon_matrix_t *scores,",
        ),
        ("enumerator", "UNICON_F16 = 3,", "UNICON_F16 = 7,"),
        ("removal", "UNICON_API int32_t unicon_abi_version(void);", ""),
    ] {
        assert_eq!(header.matches(from).count(), 1, "{name}");
        let (status, text) = difference(&stored, &abi_of(&header.replace(from, to), &dir.path().join(name)));
        assert_ne!(status, 0, "{name} was not seen:\n{text}");
    }
}

/// The header as bindgen wrote it down: arguments of every function and fields of every struct, as kinds of types.
struct Header {
    functions: BTreeMap<String, Vec<String>>,
    structs: BTreeMap<String, Vec<(String, String)>>,
}

/// Names a Rust or Julia type by what the ABI sees of it.
fn kind(ty: &str) -> String {
    let ty = ty.trim().trim_end_matches(',');
    match ty {
        "i32" | "unicon_status_t" | "Int32" => "i32",
        "i64" | "Int64" => "i64",
        "u64" | "UInt64" => "u64",
        "usize" | "Csize_t" => "usize",
        "f64" | "Float64" => "f64",
        "Cvoid" | "" => "void",
        _ if ty.starts_with('*')
            || ty.starts_with("Ptr{")
            || ty.starts_with("Ref{")
            || ty == "Cstring"
            || ty.starts_with("::core::option::Option<")
            || ["unicon_progress_fn", "unicon_family_fn", "unicon_warning_fn"].contains(&ty) =>
        {
            "ptr"
        }
        other => panic!("unknown type {other}"),
    }
    .to_string()
}

fn header() -> Header {
    let text = std::fs::read_to_string(root().join("src/ffi/bindings.rs")).unwrap();
    let (mut functions, mut structs) = (BTreeMap::new(), BTreeMap::new());
    for part in text.split("pub fn ").skip(1) {
        let part = &part[..part.find(';').unwrap()];
        let (name, rest) = part.split_once('(').unwrap();
        let (arguments, result) = rest.rsplit_once(')').unwrap();
        let mut kinds = vec![kind(result.trim().trim_start_matches("->"))];
        kinds.extend(arguments.split(',').filter_map(|a| a.split_once(':')).map(|(_, ty)| kind(ty)));
        functions.insert(name.to_string(), kinds);
    }
    for part in text.split("pub struct ").skip(1) {
        let (name, rest) = part.split_once(" {").unwrap();
        let body = &rest[..rest.find("\n}").unwrap()];
        if !body.contains("_unused") {
            // What a callback takes spans further lines, none of which is public.
            let fields = body.lines().filter_map(|l| l.trim().strip_prefix("pub ")?.split_once(':'));
            let fields = fields.map(|(f, ty)| (f.to_string(), kind(ty))).collect();
            structs.insert(name.to_string(), fields);
        }
    }
    assert!(functions.len() > 40 && structs.len() > 8, "the bindings were not understood");
    Header { functions, structs }
}

/// The keys of reports in the header, under the names of the other languages.
fn report_keys() -> BTreeMap<String, i64> {
    let text = std::fs::read_to_string(root().join("include/unicon.h")).unwrap();
    let named = |part: &str| {
        let (name, rest) = part.split_once(" = ")?;
        let number = rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        Some((name.to_lowercase(), number))
    };
    let keys: BTreeMap<_, _> = text.split("    UNICON_REPORT_").skip(1).filter_map(named).collect();
    assert!(keys.len() > 60 && keys["final_loss"] == 1, "the keys were not understood: {keys:?}");
    keys
}

#[test]
fn exports_are_exactly_the_headers_functions() {
    if !have("nm", "binutils") {
        return;
    }
    let text = run(Command::new("nm").args(["-D", "--defined-only"]).arg(built().join("libunicon.so")));
    let mut exported: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().nth(2)).collect();
    exported.sort_unstable();
    assert_eq!(exported, header().functions.keys().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn julia_declares_what_the_header_does() {
    let text = std::fs::read_to_string(root().join("ffi-examples/julia/UniCon/src/abi.jl")).unwrap();
    let header = header();
    let mut calls = 0;
    for line in text.lines().filter(|l| l.contains("@ccall")) {
        let (_, call) = line.split_once("$(symbol(:").unwrap();
        let (name, rest) = call.split_once("))(").unwrap();
        let (arguments, result) = rest.rsplit_once(")::").unwrap();
        let mut kinds = vec![if result == "Cstring" { "ptr".into() } else { kind(result) }];
        kinds.extend(
            arguments.split(", ").filter(|a| !a.is_empty()).map(|a| kind(a.rsplit_once("::").unwrap().1)),
        );
        assert_eq!(Some(&kinds), header.functions.get(name), "{name}");
        calls += 1;
    }
    assert!(calls > 30, "{calls}");
    // unicon_fit_options <-> FitOptions_t
    let named = |julia: &str| {
        let mut out = String::from("unicon");
        for c in julia.trim_end_matches("_t").chars() {
            if c.is_uppercase() {
                out.push('_');
            }
            out.extend(c.to_lowercase());
        }
        out
    };
    let (_, keys) = text.split_once("const REPORT_KEYS = (").unwrap();
    let keys = keys[..keys.find("\n)").unwrap()].split(',').filter_map(|k| k.trim().split_once(" = "));
    let keys: BTreeMap<String, i64> = keys.map(|(name, n)| (name.to_string(), n.parse().unwrap())).collect();
    assert_eq!(keys, report_keys());
    let mut compared = 0;
    let declared = text.replace("\nmutable struct ", "\nstruct ");
    for part in declared.split("\nstruct ").skip(1) {
        let (name, rest) = part.split_once('\n').unwrap();
        let body = &rest[..rest.find("end\n").unwrap()];
        let fields: Vec<(String, String)> = body
            .lines()
            .filter(|l| !l.contains('('))
            .filter_map(|l| l.trim().split_once("::"))
            .map(|(f, ty)| (f.to_string(), kind(ty)))
            .collect();
        let expected = header
            .structs
            .get(&named(name))
            .unwrap_or_else(|| panic!("{} is not in the header", named(name)));
        assert_eq!(&fields, expected, "{name}");
        compared += 1;
    }
    assert!(compared >= 9, "{compared}");
}

#[test]
fn python_declares_what_the_header_does() {
    if !have("python3", "python3") {
        return;
    }
    let script = root().join("python/unicon_align/_abi.py");
    let described: serde_json::Value =
        serde_json::from_str(&run(Command::new("python3").arg(script))).expect("JSON");
    let header = header();
    let keys: BTreeMap<String, i64> = serde_json::from_value(described["keys"].clone()).unwrap();
    assert_eq!(keys, report_keys());
    let functions = described["functions"].as_object().unwrap();
    for (name, kinds) in functions {
        let kinds: Vec<String> =
            kinds.as_array().unwrap().iter().map(|k| k.as_str().unwrap().into()).collect();
        // ctypes has one type for u64 and size_t.
        let same = |a: &String, b: &String| a.replace("usize", "u64") == b.replace("usize", "u64");
        let expected = &header.functions[name];
        let equal = kinds.len() == expected.len() && kinds.iter().zip(expected).all(|(a, b)| same(a, b));
        assert!(equal, "{name}: {kinds:?}, the header has {expected:?}");
    }
    assert!(functions.len() > 40);
    for (name, layout) in described["structs"].as_object().unwrap() {
        let expected = &header.structs[name];
        let fields = layout["fields"].as_array().unwrap();
        assert_eq!(fields.len(), expected.len(), "{name}");
        for (field, (expected, kind)) in fields.iter().zip(expected) {
            assert_eq!(field[0].as_str().unwrap(), expected, "{name}");
            let size = if kind == "i32" { 4 } else { 8 };
            assert_eq!(field[2].as_u64().unwrap(), size, "{name}.{expected}");
        }
    }
}
