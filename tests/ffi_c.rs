//! The C ABI from outside: C programs under sanitizers and valgrind, the reference cases, the header under three language standards, an
//! installed tree, and the examples.

use crate::ffi::{self, STRICT, built, have, python_script, python_with, root, run};
use crate::skip::full;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with the library under the names that the linker and the loader look for.
fn linkable(dir: &Path) {
    for name in ["libunicon.so", "libunicon.so.1"] {
        std::os::unix::fs::symlink(built().join("libunicon.so"), dir.join(name)).unwrap();
    }
}

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
    if !full() {
        return;
    }
    if !have("gcc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    linkable(dir.path());
    for program in ["api", "promises", "misuse", "alloc", "threads", "ranks", "processes"] {
        let source = root().join(format!("tests/ffi/{program}.c"));
        let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
        let exe = compile("gcc", "-std=c11", &flags, &source, dir.path());
        print!("{}", run(Command::new(exe).arg(argument(program, dir.path()))));
    }
}

#[test]
fn c_programs_pass_under_valgrind() {
    if !full() {
        return;
    }
    if !have("valgrind", "valgrind") || !have("gcc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    linkable(dir.path());
    // Not `threads`: valgrind runs one thread at a time, and its busy waiting takes minutes there.
    for program in ["api", "promises", "misuse", "alloc"] {
        let exe = compile("gcc", "-std=c99", &[], &root().join(format!("tests/ffi/{program}.c")), dir.path());
        let mut valgrind = Command::new("valgrind");
        // The threads of a pool end after their context: what they hold then is reachable or "possibly lost".
        valgrind.args(["-q", "--leak-check=full", "--show-leak-kinds=definite"]);
        valgrind.args(["--errors-for-leak-kinds=definite", "--error-exitcode=9"]);
        print!("{}", run(valgrind.arg(exe).arg(argument(program, dir.path()))));
    }
}

#[test]
fn an_installed_tree_builds_outside_projects() {
    if !full() {
        return;
    }
    if !have("gcc", "gcc") {
        return;
    }
    // One part, and several as on Debian.
    for libdir in ["lib", "lib/x86_64-linux-gnu"] {
        builds_with_the_libraries_in(libdir);
    }
}

fn builds_with_the_libraries_in(libdir: &str) {
    let dir = tempfile::tempdir().unwrap();
    let first = dir.path().join("first");
    let mut install = Command::new(root().join("scripts/install.sh"));
    run(install.arg("--prefix").arg(&first).args(["--libdir", libdir]).arg("--from").arg(built()));
    // The tree is relocatable: it is used somewhere else than where it was installed.
    let prefix = dir.path().join("moved");
    std::fs::rename(&first, &prefix).unwrap();
    let lib = prefix.join(libdir);
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
        run(command.env("PKG_CONFIG_PATH", lib.join("pkgconfig")));
        run(Command::new(project.join("main")).env("LD_LIBRARY_PATH", &lib));
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
        // CMake itself finds one part below the prefix, and the parts of its own system.
        run(match libdir {
            "lib" => configure.arg(format!("-DCMAKE_PREFIX_PATH={}", prefix.display())),
            _ => configure.arg(format!("-DUniCon_DIR={}", lib.join("cmake/UniCon").display())),
        });
        run(Command::new("cmake").arg("--build").arg(&out));
        run(&mut Command::new(out.join("shared")));
        run(&mut Command::new(out.join("fixed")));
    }
}

#[test]
fn the_examples_run() {
    if !full() {
        return;
    }
    if !have("gcc", "gcc") || !have("g++", "g++") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    linkable(dir.path());
    let examples = root().join("ffi-examples");
    let sanitized = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let built =
        |cc, standard, file: &str| compile(cc, standard, &sanitized, &examples.join(file), dir.path());
    for example in ["loss_layer", "stream", "allocator", "threads"] {
        print!("{}", run(&mut Command::new(built("gcc", "-std=c99", &format!("c/{example}.c")))));
    }
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
    let text = run(Command::new(dir.path().join("fit")).arg(&x).arg(&y).args(["3", "best"]));
    assert!(text.contains("chosen: whiten"), "{text}");
    let text = run(&mut Command::new(built("g++", "-std=c++17", "cpp/fit.cpp")));
    assert!(text.contains("best: r "), "{text}");
    assert!(text.contains("as expected: invalid argument"), "{text}");
    for (package, script) in [("numpy", "fit"), ("torch", "train")] {
        if let Some(python) = python_with(package) {
            let script = format!("python/examples/{script}.py");
            print!("{}", run(&mut python_script(python, &script)));
        }
    }
}

#[test]
fn golden_cases_pass_through_the_c_abi() {
    if let Some(python) = python_with("numpy") {
        let text = run(python_script(python, "tests/ffi/golden.py").arg(root().join("tests/golden")));
        print!("{text}");
        assert!(text.contains(" 0 failed"), "{text}");
    }
}

#[test]
fn the_julia_package_passes_its_tests() {
    let depot = tempfile::tempdir().unwrap();
    if let Some(mut julia) = ffi::julia(depot.path()) {
        print!("{}", run(julia.arg(root().join("ffi-examples/julia/UniCon/test/runtests.jl"))));
    }
}

#[test]
fn the_julia_that_pages_show_runs() {
    let dir = tempfile::tempdir().unwrap();
    for page in ["README.md", "ffi-examples/julia/README.md"] {
        let page = std::fs::read_to_string(root().join(page)).unwrap();
        let blocks: Vec<_> =
            page.split("```julia\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty());
        for block in blocks {
            if let Some(mut julia) = ffi::julia(dir.path()) {
                print!("{}", run(julia.args(["-e", block]).current_dir(dir.path())));
            }
        }
    }
}
