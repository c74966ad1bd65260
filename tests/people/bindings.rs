//! What callers in C, C++, Python and Julia hand over.
//!
//! Each language has a script in `bindings/` that ends with a non-zero status where something is not as it should be.

use crate::ffi::{self, STRICT, built, have, python_script, python_with, root, run};
use crate::skip::full;
use std::path::{Path, PathBuf};
use std::process::Command;

fn here(file: &str) -> PathBuf {
    root().join("tests/people/bindings").join(file)
}

/// What a script printed. A part that it skipped, for want of Eigen, SciPy or joblib, fails where UNICON_REQUIRE_TOOLS=1.
fn said(text: &str) {
    print!("{text}");
    let required = std::env::var("UNICON_REQUIRE_TOOLS").as_deref() == Ok("1");
    assert!(!required || !text.contains("skipped: "), "{text}");
}

/// Runs a script in a folder of its own, by a Python that can import a package.
fn python(package: &str, script: &str) {
    let Some(found) = python_with(package) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut command = python_script(found, &format!("tests/people/bindings/{script}"));
    crate::program::usual_signals(&mut command);
    said(&run(command.env("PYTHONWARNINGS", "error::ResourceWarning").current_dir(dir.path())));
}

#[test]
fn python_positives_are_read_by_shape_and_type() {
    python("numpy", "positives.py");
}

#[test]
fn python_losses_of_ones_own() {
    python("numpy", "family.py");
}

#[test]
fn python_features_outputs_and_files_are_right_or_refused() {
    python("numpy", "arrays.py");
}

#[test]
fn python_things_are_documented_shown_and_told_of() {
    python("numpy", "package.py");
}

#[test]
fn python_hears_what_is_found_noticed_and_sampled() {
    python("numpy", "reports.py");
}

#[test]
fn python_models_are_copied_pickled_shared_and_forked() {
    python("numpy", "copies.py");
}

#[test]
fn python_hears_an_interrupt() {
    python("numpy", "interrupt.py");
}

#[test]
fn the_loss_layer_agrees_with_pytorch() {
    if !full() {
        return;
    }
    python("torch", "layer.py");
}

#[test]
fn the_losses_of_open_clip_have_its_numbers() {
    if !full() {
        return;
    }
    python("torch", "open_clip.py");
}

/// Runs the example of neural encoders in small and reads what it wrote.
fn neural_example(python: &str, dir: &Path, more: &[&str]) -> serde_json::Value {
    let (json, plot) = (dir.join("neural.json"), dir.join("neural.svg"));
    let mut command = python_script(python, "python/examples/neural");
    command.args([
        "--seconds",
        "0.1",
        "--seeds",
        "2",
        "--settings",
        "1",
        "--points",
        "4",
        "--gap-steps",
        "5",
    ]);
    command.args(["--hidden", "32", "--width", "24", "--r", "8"]).args(more);
    let text = run(command.arg("--json").arg(&json).arg("--plot").arg(&plot));
    assert!(text.contains("| alternation |"), "{text}");
    let plot = std::fs::read_to_string(plot).unwrap();
    assert_eq!(plot.matches("<polyline").count(), 4, "{plot}");
    serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap()
}

#[test]
fn networks_are_trained_by_the_example() {
    let Some(found) = python_with("torch") else { return };
    let dir = tempfile::tempdir().unwrap();
    let result = neural_example(found, dir.path(), &[]);
    for (name, method) in result["methods"].as_object().unwrap() {
        let seeds = method["r5"].as_array().unwrap();
        assert!(
            seeds.len() == 2 && method["steps"].as_array().unwrap().iter().all(|s| s.as_u64() >= Some(1))
        );
        for curve in seeds {
            let curve: Vec<f64> = curve.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            assert!(curve.len() == 4 && curve.iter().all(|r| (0.0..=1.0).contains(r)), "{name}: {curve:?}");
            // A spectral step on untrained networks finds three times what chance does (5 of 297).
            let closed = name == "closed-form start" || name == "alternation";
            assert!(!closed || curve[3] > 3.0 * 5.0 / 297.0, "{name}: {curve:?}");
        }
    }
    let first = &result["spectral_steps"][0];
    let score = |when: &str| first[format!("val_mrr_{when}")].as_f64().unwrap();
    assert!(score("after") > 2.0 * score("before"), "{first}");
    for (features, fits) in result["gap"].as_object().unwrap() {
        let loss = |name: &str| {
            let all = fits.as_array().unwrap();
            let fit = all.iter().find(|f| f["fit"].as_str().unwrap().starts_with(name));
            fit.unwrap_or_else(|| panic!("{features}: no {name}"))["loss"].as_f64().unwrap()
        };
        // `best` keeps its spectral step or descends from it, and L-BFGS descends from either.
        assert!(loss("best") <= loss("spectral step of best") * (1.0 + 1e-6), "{features}");
        assert!(loss("L-BFGS from best") <= loss("best") * (1.0 + 1e-6), "{features}");
        assert!(loss("L-BFGS from the spectral step") < loss("spectral step, 1 update"), "{features}");
    }
}

#[test]
fn the_example_of_networks_takes_many_to_many_pairs_from_files() {
    let Some(found) = python_with("torch") else { return };
    let dir = tempfile::tempdir().unwrap();
    // Up to two rows of x and three of y of each of some latent points.
    let script = "import numpy as np\nrng = np.random.default_rng(0)\na, b = rng.normal(size=(6, 12)), rng.normal(size=(6, 10))\n\
                  for name, n in (('train', 90), ('val', 30), ('test', 30)):\n    z = rng.normal(size=(n, 6))\n    \
                  for side, u, most in (('x', a, 3), ('y', b, 4)):\n        g = np.repeat(np.arange(n), rng.integers(1, most, n))\n        \
                  np.save(f'{name}_{side}.npy', z[g] @ u + 0.1 * rng.normal(size=(len(g), u.shape[1])))\n        \
                  np.save(f'{name}_g{side}.npy', g)\n";
    run(Command::new(found).args(["-c", script]).current_dir(dir.path()));
    let folder = dir.path().to_str().unwrap().to_string();
    let result = neural_example(found, dir.path(), &["--data", &folder]);
    assert_eq!(result["arguments"]["data"], folder);
    let end = result["methods"]["closed-form start"]["r5"][0][3].as_f64().unwrap();
    assert!(end > 0.5, "{end}");
    // What is not there is named.
    let mut command = python_script(found, "python/examples/neural");
    let out = command.args(["--data", "/nowhere"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("/nowhere/train_x.npy"), "{said}");
}

#[test]
fn scikit_learn_searches_and_pipelines() {
    python("sklearn", "estimator.py");
}

#[test]
fn python_is_typed() {
    let Some(found) = python_with("mypy") else { return };
    let cache = tempfile::tempdir().unwrap();
    let mypy = |folder: &Path| {
        let mut command = Command::new(found);
        command.current_dir(folder).env("MYPYPATH", root().join("python"));
        command.args(["-m", "mypy", "--strict", "--cache-dir"]).arg(cache.path());
        command
    };
    print!("{}", run(&mut mypy(&root().join("python"))));
    // And a program of the caller's.
    let config = root().join("python/pyproject.toml");
    print!("{}", run(mypy(&here("")).arg("--config-file").arg(&config).arg("typed.py")));
    // And the larger example. Base classes and decorators of torch, which may not be installed, are of any type.
    let mut example = mypy(&root().join("python/examples/neural"));
    example.args([
        "--allow-subclassing-any",
        "--allow-untyped-decorators",
        "--allow-untyped-calls",
        "--no-warn-return-any",
    ]);
    print!("{}", run(example.arg("--config-file").arg(config).arg("__main__.py")));
}

#[test]
fn a_wheel_is_built_installed_and_used() {
    if !full() {
        return;
    }
    let Some(found) = python_with("ensurepip") else { return };
    let dir = tempfile::tempdir().unwrap();
    let begin = std::time::Instant::now();
    let step = |what: &str, command: &mut Command| {
        command.env_remove("PYTHONPATH").env_remove("UNICON_LIBRARY").current_dir(dir.path());
        command.env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        let text = run(command);
        println!("{what}: {:.1} s since the start", begin.elapsed().as_secs_f64());
        text
    };
    let out = dir.path().join("wheels");
    let mut wheel = Command::new(root().join("scripts/wheel"));
    wheel.arg("--sdist").arg("--out").arg(&out).env("PYTHON", found).env("CARGO_TARGET_DIR", dir.path());
    step("built", wheel.env("UNICON_BUILD_LIBRARY", built().join("libunicon.so")));
    let made = |ending: &str| {
        let mut files = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().path());
        files.find(|p| p.to_str().unwrap().ends_with(ending)).unwrap_or_else(|| panic!("no {ending}"))
    };
    let (wheel, sdist) = (made(".whl"), made(".tar.gz"));
    let (name, size) = (wheel.file_name().unwrap().to_str().unwrap(), wheel.metadata().unwrap().len());
    println!("{name}: {:.1} MB", size as f64 / 1e6);
    let tag = format!("unicon_align-{}-py3-none-", env!("CARGO_PKG_VERSION"));
    assert!(name.starts_with(&tag) && size < 20_000_000, "{name}: {size} bytes");
    step("environment", Command::new(found).args(["-m", "venv", "venv"]));
    let python = dir.path().join("venv/bin/python");
    step("installed", Command::new(&python).args(["-m", "pip", "install", "-q"]).arg(&wheel));
    step("first example", Command::new(&python).arg(root().join("python/examples/fit.py")));
    // The library, the digits and the types come with it, and it is the wheel that was imported.
    let check = "import pathlib, unicon_align as u\nhere = pathlib.Path(u.__file__).parent\n\
                 assert 'venv' in here.parts and (here / 'py.typed').exists() and (here / 'libunicon.so').exists()\n\
                 assert u.digits().left.shape == (1797, 32) and (here / 'digits').is_dir()";
    step("checked", Command::new(&python).args(["-c", check]));
    // What the sdist compiles is all there: its manifest names no file that is missing.
    step("unpacked", Command::new("tar").arg("-xzf").arg(&sdist));
    let rust = dir.path().join(format!("unicon_align-{}/rust", env!("CARGO_PKG_VERSION")));
    let mut metadata = Command::new(env!("CARGO"));
    metadata
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(rust.join("Cargo.toml"));
    step("sources", &mut metadata);
}

#[test]
fn processes_of_pytorch_fit_together() {
    if !full() {
        return;
    }
    python("torch", "torch_group.py");
}

/// A folder with the library under the names that the linker and the loader look for.
pub(super) fn linkable(dir: &Path) {
    for name in ["libunicon.so", "libunicon.so.1"] {
        std::os::unix::fs::symlink(built().join("libunicon.so"), dir.join(name)).unwrap();
    }
}

#[test]
fn cpp_views_keep_their_strides_and_handles_are_safe() {
    if !full() {
        return;
    }
    if !have("g++", "g++") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    linkable(dir.path());
    let compile = |source: &Path, out: &str| {
        let mut command = Command::new("g++");
        command.arg("-std=c++17").args(STRICT).args(["-g", "-fsanitize=address,undefined"]);
        command.arg("-fno-sanitize-recover=all").arg("-I").arg(root().join("include"));
        // Where Debian has Eigen; without it that part is skipped.
        command.args(["-isystem", "/usr/include/eigen3"]).arg(source).arg("-o").arg(dir.path().join(out));
        command.arg("-L").arg(dir.path()).args(["-lunicon", "-lpthread"]);
        command.arg(format!("-Wl,-rpath,{}", dir.path().display()));
        command
    };
    run(&mut compile(&here("views.cpp"), "views"));
    said(&run(&mut Command::new(dir.path().join("views"))));
    // What must not compile: outputs of constant memory, of a view to read, and elements that are no floats.
    let begin = "#include <unicon.hpp>\n#include <vector>\nvoid f(unicon::Context &c, unicon::Model &m, std::vector<float> &v, \
                 const std::vector<float> &k, std::vector<int> &i) {\n(void)i; (void)k;\n";
    for (line, said) in [
        ("m.encode(c, unicon::Side::x, unicon::view(v, 2), unicon::view(v, 2));", ""),
        ("m.encode(c, unicon::Side::x, unicon::view(v, 2), unicon::view(k, 2));", "cannot convert"),
        (
            "const unicon::View out = unicon::view(v, 2); m.encode(c, unicon::Side::x, out, out);",
            "cannot convert",
        ),
        (
            "m.encode(c, unicon::Side::x, unicon::view(i, 2), unicon::view(v, 2));",
            "matrices of float or double",
        ),
        (
            "const unicon::Context &k2 = c; const std::vector<float> &k3 = k; m.similarity(k2, unicon::view(v, 2), \
             unicon::view(k3, 2), unicon::view(k3, 2));",
            "cannot convert",
        ),
        ("unicon::Context d = c; (void)d;", "deleted"),
        ("unicon::Items d(c, unicon::view(v, 2)); unicon::Items e = d; (void)e;", "deleted"),
        ("unicon::view(std::vector<float>(4), 2);", "cannot bind"),
    ] {
        let source = dir.path().join("line.cpp");
        std::fs::write(&source, format!("{begin}{line}\n(void)c; (void)m; (void)v;\n}}\nint main() {{}}\n"))
            .unwrap();
        let out = compile(&source, "line").output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.success(), said.is_empty(), "{line}\n{text}");
        assert!(text.contains(said), "{line}\n{text}");
    }
}

#[test]
fn julia_copies_turns_and_threads() {
    let depot = tempfile::tempdir().unwrap();
    if let Some(mut julia) = ffi::julia(depot.path()) {
        julia.env("JULIA_NUM_THREADS", "4").arg(here("people.jl"));
        print!("{}", run(&mut julia));
    }
}

#[test]
fn c_models_are_bytes_and_a_loss_has_the_nu_of_its_kind() {
    if !have("gcc", "gcc") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    linkable(dir.path());
    let mut gcc = Command::new("gcc");
    gcc.arg("-std=c99").args(STRICT).args([
        "-g",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
    ]);
    gcc.arg("-I").arg(root().join("include")).arg("-I").arg(root().join("tests/ffi")).arg(here("bytes.c"));
    gcc.arg("-o").arg(dir.path().join("bytes")).arg("-L").arg(dir.path()).args(["-lunicon", "-lm"]);
    run(gcc.arg(format!("-Wl,-rpath,{}", dir.path().display())));
    print!("{}", run(Command::new(dir.path().join("bytes")).arg(dir.path().join("m.safetensors"))));
}
