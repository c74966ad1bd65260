//! The C ABI from outside: C programs under sanitizers and valgrind, the header under three language standards, the
//! exported symbols, an installed tree, and the other languages' declarations against the header.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether a tool is there; without it the test is skipped, or fails where UNICON_REQUIRE_TOOLS=1.
fn have(tool: &str, package: &str) -> bool {
    if Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success()) {
        return true;
    }
    assert_ne!(std::env::var("UNICON_REQUIRE_TOOLS").as_deref(), Ok("1"), "{tool} not found");
    println!("skipped: {tool} not found; get it with apt-get install {package}");
    false
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {}\n{text}", out.status);
    text
}

/// The folder in which cargo put libunicon.so and libunicon.a for these tests.
fn built() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().unwrap().to_path_buf()
}

/// A folder with the library under the names that the linker and the loader look for.
fn linkable(dir: &Path) {
    for name in ["libunicon.so", "libunicon.so.1"] {
        std::os::unix::fs::symlink(built().join("libunicon.so"), dir.join(name)).unwrap();
    }
}

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn compile(cc: &str, standard: &str, flags: &[&str], source: &Path, dir: &Path) -> PathBuf {
    let out = dir.join(source.file_stem().unwrap());
    let mut command = Command::new(cc);
    command.arg(standard).args(STRICT).args(["-g", "-D_POSIX_C_SOURCE=200809L"]).args(flags);
    command.arg("-I").arg(root().join("include")).arg(source).arg("-o").arg(&out);
    command.arg("-L").arg(dir).args(["-lunicon", "-lm", "-lpthread"]);
    run(command.arg(format!("-Wl,-rpath,{}", dir.display())));
    out
}

fn argument(program: &str, dir: &Path) -> PathBuf {
    if program == "api" { dir.join("model.safetensors") } else { dir.to_path_buf() }
}

#[test]
fn c_programs_pass_under_sanitizers() {
    if !have("gcc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    linkable(dir.path());
    for program in ["api", "misuse", "alloc", "threads"] {
        let source = root().join(format!("tests/ffi/{program}.c"));
        let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
        let exe = compile("gcc", "-std=c11", &flags, &source, dir.path());
        print!("{}", run(Command::new(exe).arg(argument(program, dir.path()))));
    }
}

#[test]
fn c_programs_pass_under_valgrind() {
    if !have("valgrind", "valgrind") || !have("gcc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    linkable(dir.path());
    // Not `threads`: valgrind runs one thread at a time, and its busy waiting takes minutes there.
    for program in ["api", "misuse", "alloc"] {
        let exe = compile("gcc", "-std=c99", &[], &root().join(format!("tests/ffi/{program}.c")), dir.path());
        let mut valgrind = Command::new("valgrind");
        // The threads of a pool end after their context: what they hold then is reachable or "possibly lost".
        valgrind.args(["-q", "--leak-check=full", "--show-leak-kinds=definite"]);
        valgrind.args(["--errors-for-leak-kinds=definite", "--error-exitcode=9"]);
        print!("{}", run(valgrind.arg(exe).arg(argument(program, dir.path()))));
    }
}

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
            || ty == "unicon_progress_fn" =>
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
        // Callbacks span lines and are none of the other languages' structs.
        if !body.contains("Option<") && !body.contains("_unused") {
            let fields = body.lines().filter_map(|l| l.trim().strip_prefix("pub ")?.split_once(':'));
            let fields = fields.map(|(f, ty)| (f.to_string(), kind(ty))).collect();
            structs.insert(name.to_string(), fields);
        }
    }
    assert!(functions.len() > 40 && structs.len() > 8, "the bindings were not understood");
    Header { functions, structs }
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
    let script = root().join("ffi-examples/python/unicon/_abi.py");
    let described: serde_json::Value =
        serde_json::from_str(&run(Command::new("python3").arg(script))).expect("JSON");
    let header = header();
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

#[test]
fn an_installed_tree_builds_outside_projects() {
    if !have("gcc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    let mut install = Command::new(root().join("scripts/install.sh"));
    run(install.arg("--prefix").arg(&first).arg("--from").arg(built()));
    // The tree is relocatable: it is used somewhere else than where it was installed.
    let prefix = dir.path().join("moved");
    std::fs::rename(&first, &prefix).unwrap();
    let project = dir.path().join("project");
    std::fs::create_dir(&project).unwrap();
    let main = "#include <unicon.h>\nint main(void) { unicon_context_t *c = 0;\n\
                int s = unicon_context_create(0, &c); unicon_context_destroy(c);\n\
                return s || unicon_abi_version() != UNICON_ABI_VERSION; }\n";
    std::fs::write(project.join("main.c"), main).unwrap();
    if have("pkg-config", "pkg-config") && have("make", "make") {
        let make = "main: main.c\n\tcc $$(pkg-config --cflags unicon) main.c -o main $$(pkg-config --libs unicon)\n\
                    static: main.c\n\tcc $$(pkg-config --cflags unicon) main.c -o static \
                    $$(pkg-config --variable=libdir unicon)/libunicon.a $$(pkg-config --static --libs-only-l unicon | sed s/-lunicon//)\n";
        std::fs::write(project.join("Makefile"), make).unwrap();
        let mut command = Command::new("make");
        command.arg("-C").arg(&project).args(["main", "static"]);
        run(command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")));
        run(Command::new(project.join("main")).env("LD_LIBRARY_PATH", prefix.join("lib")));
        run(&mut Command::new(project.join("static")));
    }
    if have("cmake", "cmake") {
        let cmake = "cmake_minimum_required(VERSION 3.16)\nproject(outside C)\nfind_package(UniCon 0.1 REQUIRED)\n\
                     add_executable(shared main.c)\ntarget_link_libraries(shared UniCon::unicon)\n\
                     add_executable(fixed main.c)\ntarget_link_libraries(fixed UniCon::unicon_static)\n";
        std::fs::write(project.join("CMakeLists.txt"), cmake).unwrap();
        let out = project.join("out");
        let mut configure = Command::new("cmake");
        configure.arg("-S").arg(&project).arg("-B").arg(&out);
        run(configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display())));
        run(Command::new("cmake").arg("--build").arg(&out));
        run(&mut Command::new(out.join("shared")));
        run(&mut Command::new(out.join("fixed")));
    }
}

#[test]
fn the_examples_run() {
    if !have("gcc", "gcc") || !have("g++", "g++") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    linkable(dir.path());
    let examples = root().join("ffi-examples");
    let sanitized = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let built =
        |cc, standard, file: &str| compile(cc, standard, &sanitized, &examples.join(file), dir.path());
    print!("{}", run(&mut Command::new(built("gcc", "-std=c99", "c/loss_layer.c"))));
    // Two .npy files of common latent points.
    let (n, d1, d2) = (200, 8, 6);
    let value = |i: usize, j: usize| {
        ((i * 31 % 97) as f32 / 97.0).powi(1 + (j % 4) as i32) - 0.3 * ((i + j) % 3) as f32
    };
    let features = |d: usize| (0..n * d).map(|k| value(k / d, k % d)).collect::<Vec<f32>>();
    let (x, y) = (dir.path().join("x.npy"), dir.path().join("y.npy"));
    unicon::io::write_npy(&x, &[n, d1], &features(d1)).unwrap();
    unicon::io::write_npy(&y, &[n, d2], &features(d2)).unwrap();
    let text = run(Command::new(built("gcc", "-std=c99", "c/fit.c")).arg(&x).arg(&y).arg("3"));
    assert!(text.contains("recall@1/5/10"), "{text}");
    let text = run(&mut Command::new(built("g++", "-std=c++17", "cpp/fit.cpp")));
    assert!(text.contains("as expected: invalid argument"), "{text}");
    if importable("numpy") {
        print!("{}", run(&mut python("ffi-examples/python/examples/fit.py")));
    }
    if importable("numpy") && importable_if_there("torch") {
        print!("{}", run(&mut python("ffi-examples/python/examples/train.py")));
    }
}

/// Whether Python has a package; without it the test is skipped, or fails where UNICON_REQUIRE_TOOLS=1.
fn importable(package: &str) -> bool {
    let there = importable_if_there(package);
    let required = std::env::var("UNICON_REQUIRE_TOOLS").as_deref() == Ok("1");
    assert!(there || !required, "Python's {package} not found");
    there
}

/// As [`importable`], for a package that is too large to require.
fn importable_if_there(package: &str) -> bool {
    let import = format!("import {package}");
    let there = Command::new("python3").args(["-c", &import]).output().is_ok_and(|o| o.status.success());
    if !there {
        println!("skipped: Python's {package} not found; get it with pip install {package}");
    }
    there
}

/// A Python script with the package of `ffi-examples` and the library of these tests.
fn python(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").arg(root().join(script)).env("PYTHONPATH", root().join("ffi-examples/python"));
    command.env("UNICON_LIBRARY", built().join("libunicon.so"));
    command
}

#[test]
fn golden_cases_pass_through_the_c_abi() {
    if importable("numpy") {
        let text = run(python("tests/ffi/golden.py").arg(root().join("tests/golden")));
        print!("{text}");
        assert!(text.contains(" 0 failed"), "{text}");
    }
}
