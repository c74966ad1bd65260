//! Everything that README.md, ffi-examples/*/README.md, python/README.md, docs/python.md, docs/ablation.md, docs/install.md, docs/tutorial.md
//! and the pages by task show is run, in a temporary folder, on small data. Links of all pages are followed, and the documentation site is
//! built.
//!
//! One folder a page; its blocks run in order and see each other's files. `unicon` is the program of this build,
//! `libunicon` is installed (pkg-config, CMake and the loader find it), Python finds the package `unicon_align`. In the folder
//! are the files beside an example's page, or links to the project's scripts, headers, sources and examples for README.md;
//! `data/digits_halves` and `data/icons`; `x.npy`, `y.npy`, 800 pairs of noisy views (32-d and 24-d) of 8 latent coordinates; and the
//! `pairs` of below.
//!
//! How blocks are run:
//!
//! * ` ```sh ` by bash, which stops at the first command that fails. `cargo run --release -- ARGS` runs `unicon ARGS`;
//!   of other cargo commands only the words are checked (see [`CARGO`]).
//! * ` ```c `, ` ```cpp `, ` ```rust `, ` ```python `: compiled against this build and run. Rust without a `main` is the
//!   body of one that returns `unicon::Result`.
//! * ` ```text ` and indented blocks after a paragraph that says ``output of `COMMAND` `` (or ``and of `COMMAND` ``):
//!   the command is run and must print the same, but for the numbers in it and for how often a line repeats. `./NAME` is
//!   built from NAME.c or NAME.cpp beside the page if it is not there yet. Other ` ```text ` is not run.
//! * Other indented blocks are `sh`. ` ```julia ` is left to ffi_c.rs, where a Julia is looked for.
//! * Any other language is a failure: there is nothing that nobody runs.
//!
//! A comment on the line before a block says what else it takes:
//!
//! * `<!-- run: data=KIND:FOLDER -->` puts a small stand-in with the same file names there first (`FOLDER` defaults to
//!   `.`): `titles_en_it` (train, val and test `_x.npy` of 512 and `_y.npy` of 384 columns), `titles_multi` (256 columns,
//!   several y for an x, `_indptr.npy` and `_indices.npy`), `pairs` (train, val and test, 160 and 144 columns).
//! * `<!-- run: needs=TOOL -->` skips the block where the tool is missing; UNICON_REQUIRE_TOOLS makes that a failure.
//! * `<!-- run: no, REASON -->` does not run it.

mod data;
mod links;
mod page;

use crate::ffi::{python_with, run};
use crate::library::built;
use crate::program::Lab;
use crate::skip::{full, skip};
use page::{Block, blocks};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What stands for cargo: runs the program, and knows the documented commands by their words.
const CARGO: &str = r#"#!/bin/bash
set -e
case "$1 $2 $3" in
"run --release --") shift 3; exec unicon "$@" ;;
"run --release --example") ;;
"test --release "*) ;;
"bench --bench "* | "bench  ") ;;
"build --release "* | "install --path ." | "add unicon "* | "doc --no-deps "* | "doc --release "*) ;;
*) echo "cargo $*: no documented command" >&2; exit 1 ;;
esac
while [ $# -gt 1 ]; do
    shift
    case "$1" in
    --test) grep -qx "name = \"$2\"" "$ROOT/Cargo.toml" || { echo "no test $2" >&2; exit 1; } ;;
    --example) [ -e "$ROOT/examples/$2.rs" ] || { echo "no example $2" >&2; exit 1; } ;;
    --bench) [ -e "$ROOT/benches/$2.rs" ] || { echo "no bench $2" >&2; exit 1; } ;;
    esac
done
"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo put the Rust library of these tests, and what it needs.
fn rust() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

fn have(tool: &str) -> bool {
    Command::new("bash")
        .args(["-c", &format!("command -v {tool}")])
        .output()
        .is_ok_and(|o| o.status.success())
}

/// Whether a tool is there; without it a block is skipped, or fails where tools are required.
fn needed(block: &Block, tool: &str) -> bool {
    if have(tool) {
        return true;
    }
    skip(&format!("{}: {tool} not found; get it with apt-get install {tool}", block.place()));
    false
}

/// A page's folder.
struct Folder {
    lab: Lab,
    cc: Option<String>,
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, mode).unwrap();
}

impl Folder {
    fn of(page: &Path) -> Self {
        let lab = Lab::new();
        let home = page.parent().unwrap();
        if home == root() {
            for name in ["scripts", "ffi-examples", "include", "benches", "src", "cuda", "Cargo.toml"] {
                std::os::unix::fs::symlink(root().join(name), lab.path(name)).unwrap();
            }
        } else {
            let copied =
                Command::new("cp").arg("-r").arg(home.join(".")).arg(lab.path(".")).status().unwrap();
            assert!(copied.success());
        }
        for set in ["data/digits_halves", "data/icons"] {
            std::fs::create_dir_all(lab.path(set)).unwrap();
            for entry in std::fs::read_dir(root().join(set)).unwrap().map(|e| e.unwrap().path()) {
                std::fs::copy(&entry, lab.path(set).join(entry.file_name().unwrap())).unwrap();
            }
        }
        data::views(&lab);
        data::make(&lab, "pairs", ".");
        let tools = lab.path(".tools");
        std::fs::create_dir(&tools).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_unicon"), tools.join("unicon")).unwrap();
        executable(&tools.join("cargo"), CARGO);
        if !have("python") && have("python3") {
            executable(&tools.join("python"), "#!/bin/sh\nexec python3 \"$@\"\n");
        }
        let prefix = tools.join("prefix");
        let mut install = Command::new(root().join("scripts/install.sh"));
        let done = install.arg("--prefix").arg(&prefix).arg("--from").arg(built()).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        Self { lab, cc: None }
    }

    /// A command in the folder, with everything in its places.
    fn bash(&self, script: &str) -> Command {
        let (tools, prefix) = (self.lab.path(".tools"), self.lab.path(".tools/prefix"));
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(self.lab.path("."));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", tools.display())).env("ROOT", root());
        command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).env("CMAKE_PREFIX_PATH", &prefix);
        command.env("LD_LIBRARY_PATH", prefix.join("lib")).env("LIBRARY_PATH", prefix.join("lib"));
        command.env("CPATH", prefix.join("include"));
        command.env("PYTHONPATH", root().join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("UNICON_LIBRARY", prefix.join("lib/libunicon.so"));
        command
    }

    fn run(&self, block: &Block, script: &str) -> String {
        let out = self.bash(script).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            out.status.success(),
            "{}: {}\n{script}\n{}{}",
            block.place(),
            out.status,
            text(&out.stdout),
            text(&out.stderr)
        );
        text(&out.stdout) + &text(&out.stderr)
    }

    /// A Python that has what a block imports; without one the block is skipped.
    fn python(&self, block: &Block) -> Option<&'static str> {
        let imports = |package: &&str| {
            block.code.contains(&format!("import {package}\n"))
                || block.code.contains(&format!("from {package}."))
        };
        python_with(["torch", "sklearn"].into_iter().find(imports).unwrap_or("numpy"))
    }

    /// Runs a block; false if it was skipped.
    fn block(&mut self, block: &Block) -> bool {
        if let Some(reason) = &block.mark.no {
            println!("not run: {}: {reason}", block.place());
            return false;
        }
        if !block.mark.needs.iter().all(|tool| needed(block, tool)) {
            return false;
        }
        for (kind, folder) in &block.mark.data {
            data::make(&self.lab, kind, folder);
        }
        if let Some(command) = &block.output_of {
            return self.output(block, command);
        }
        match block.language.as_str() {
            "sh" => {
                if !block.code.contains("pkg-config") || (needed(block, "pkg-config") && needed(block, "cc"))
                {
                    let line = block.code.lines().find(|l| l.contains("pkg-config")).map(str::to_string);
                    self.cc = line.or(self.cc.take());
                    self.run(block, &block.code);
                    return true;
                }
                false
            }
            "python" => self.python(block).is_some_and(|python| {
                std::fs::write(self.lab.path("block.py"), &block.code).unwrap();
                self.run(block, &format!("{python} block.py"));
                true
            }),
            "c" | "cpp" => {
                let (compiler, flags) =
                    if block.language == "c" { ("cc", "-std=c99") } else { ("c++", "-std=c++17") };
                needed(block, compiler) && {
                    let file = format!("block.{}", block.language);
                    std::fs::write(self.lab.path(&file), &block.code).unwrap();
                    self.run(
                        block,
                        &format!("{compiler} {flags} {file} -o block -lunicon -lm -lpthread && ./block"),
                    );
                    true
                }
            }
            "rust" => {
                self.rust(block);
                true
            }
            "text" | "julia" => false,
            other => panic!("{}: nobody runs {other:?}", block.place()),
        }
    }

    fn rust(&self, block: &Block) {
        let body = if block.code.contains("fn main") {
            block.code.clone()
        } else {
            format!("fn main() -> unicon::Result<()> {{\n{}\nOk(())\n}}\n", block.code)
        };
        std::fs::write(self.lab.path("block.rs"), body).unwrap();
        let rlibs = std::fs::read_dir(rust()).unwrap().map(|e| e.unwrap().path()).filter(|p| {
            let name = p.file_name().unwrap().to_string_lossy().into_owned();
            // Not one of another crate, such as the instrumented library of the fuzz targets.
            name.strip_prefix("libunicon").is_some_and(|rest| rest.starts_with(['.', '-']))
                && name.ends_with(".rlib")
        });
        let rlib =
            rlibs.max_by_key(|p| p.metadata().unwrap().modified().unwrap()).expect("the library is built");
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
        let deps = rust();
        self.run(
            block,
            &format!(
                "{rustc} --edition 2024 block.rs --extern unicon='{}' -L dependency='{}' && ./block",
                rlib.display(),
                deps.display()
            ),
        );
    }

    /// Runs a command whose output the page shows.
    fn output(&self, block: &Block, command: &str) -> bool {
        let mut command = command.to_string();
        if command.starts_with("python ") {
            let Some(python) = self.python(block) else { return false };
            command = command.replacen("python", python, 1);
        }
        let name = command.split_whitespace().next().unwrap_or_default();
        if let Some(program) = name.strip_prefix("./") {
            let (c, cpp) = (format!("{program}.c"), format!("{program}.cpp"));
            if !self.lab.path(program).exists()
                && (self.lab.path(&c).exists() || self.lab.path(&cpp).exists())
            {
                if !needed(block, "c++") || !needed(block, "pkg-config") {
                    return false;
                }
                let (compiler, source) =
                    if self.lab.path(&c).exists() { ("cc", c) } else { ("c++ -std=c++17", cpp) };
                self.run(
                    block,
                    &format!(
                        "{compiler} {source} -o {program} $(pkg-config --cflags --libs unicon) -lm -lpthread"
                    ),
                );
            }
        }
        let got = self.run(block, &command);
        let (got, want) = (page::masked(&got), page::masked(&block.code));
        assert_eq!(got, want, "{}: `{command}` prints something else", block.place());
        true
    }
}

/// Runs a page; the number of blocks that were run.
fn check(page: &Path) -> usize {
    let text = std::fs::read_to_string(page).unwrap();
    let name = page.strip_prefix(root()).unwrap().display().to_string();
    let all = blocks(&name, &text);
    let mut folder = Folder::of(page);
    all.iter().filter(|block| folder.block(block)).count()
}

#[test]
fn readme() {
    let ran = check(&root().join("README.md"));
    assert!(ran >= 2, "{ran} blocks");
}

#[test]
fn pages_of_the_examples() {
    for page in [
        "ffi-examples/c/README.md",
        "ffi-examples/cpp/README.md",
        "ffi-examples/julia/README.md",
        "python/README.md",
    ] {
        check(&root().join(page));
    }
}

#[test]
fn page_of_the_ablation() {
    check(&root().join("docs/ablation.md"));
}

#[test]
fn page_of_installing() {
    let ran = check(&root().join("docs/install.md"));
    assert!(ran >= 2, "{ran} blocks");
}

#[test]
fn page_of_python() {
    check(&root().join("docs/python.md"));
}

#[test]
fn tutorial() {
    let ran = check(&root().join("docs/tutorial.md"));
    assert!(ran >= 12, "{ran} blocks");
}

#[test]
fn pages_by_task() {
    for page in ["docs/retrieval.md", "docs/captions.md", "docs/zero_shot.md"] {
        let ran = check(&root().join(page));
        assert!(ran >= 2, "{page}: {ran} blocks");
    }
}

#[test]
fn pages_that_run_elsewhere() {
    for page in ["docs/method.md", "docs/neural.md"] {
        check(&root().join(page));
    }
}

#[test]
fn the_documentation_site_builds_without_a_warning() {
    if !full() {
        return;
    }
    if !have("doxygen") {
        skip("the documentation site: doxygen not found; get it with apt-get install doxygen");
        return;
    }
    let Some(python) = python_with("ensurepip") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut site = Command::new(root().join("scripts/site"));
    site.arg("--out").arg(dir.path()).env("PYTHON", python);
    site.env("UNICON_PROGRAM", env!("CARGO_BIN_EXE_unicon"));
    site.env("UNICON_LIBRARY", built().join("libunicon.so"));
    // Where documentation has been built, as CI does before the tests, it is not built again.
    let rustdoc = built().parent().unwrap().join("doc");
    if rustdoc.join("unicon/index.html").exists() {
        site.env("UNICON_RUSTDOC", rustdoc);
    }
    let said = run(&mut site);
    println!("{said}");
    // Of thousands: every page leads to every other.
    assert!(said.contains("links lead somewhere"), "{said}");
    for (page, holds) in [
        ("index.html", "docs/index.html"),
        ("docs/index.html", "tutorial.html"),
        ("docs/reference/cli.html", "unicon fit"),
        ("docs/reference/c.html", "unicon_fit_best"),
        ("docs/reference/python.html", "unicon_align.Context.fit_best"),
        ("docs/reference/julia.html", "BestUniCon"),
        ("docs/reference/rust.html", "rust/unicon/index.html"),
        ("rust/unicon/index.html", "unicon"),
        // What its cells print.
        ("docs/notebooks/icons.html", "R@1"),
    ] {
        let text = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(holds), "{page}");
    }
}

#[test]
fn links_of_built_pages_that_lead_nowhere_are_found() {
    let Some(python) = python_with("html.parser") else { return };
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        std::fs::write(dir.path().join("a.html"), text).unwrap();
        let mut links = Command::new(python);
        let out = links.arg(root().join("docs/site/links.py")).arg(dir.path()).output().unwrap();
        (out.status.success(), String::from_utf8(out.stderr).unwrap())
    };
    assert!(check("<h1 id=\"b\">B</h1><a href=\"a.html#b\">1</a><a href=\"https://example.org/x\">2</a>").0);
    let (good, said) =
        check("<h1 id=\"b\">B</h1><a href=\"#c\">1</a><a href=\"d.html\">2</a><img src=\"e.png\">");
    assert!(!good && ["3 of 3", "a.html: #c", "d.html", "e.png"].iter().all(|w| said.contains(w)), "{said}");
}

#[test]
fn the_readme_begins_with_the_two_commands_and_ci_runs_the_second() {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let first = blocks("README.md", &text).into_iter().next().expect("a block");
    let commands: Vec<&str> = first.code.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).collect();
    assert_eq!(commands, ["cargo run --release -- demo", "cargo test --release"]);
    let ci = std::fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.lines().any(|l| l.trim_start().starts_with("cargo test --release")), "{ci}");
}
