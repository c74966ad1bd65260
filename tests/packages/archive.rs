//! The archive and the Debian packages of scripts/package, unpacked and used in a system that has nothing but a C library.

use super::bare_root::BareRoot;
use super::{compile_shown, needed, shown_program};
use crate::ffi::{built, have, root, run};
use crate::library::{self, profile};
use crate::skip::{cannot, full, skip};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Bytes that the stripped shared library may have.
const LARGEST_LIBRARY: u64 = 20_000_000;

/// The oldest glibc that the packages run with.
const FLOOR: (u32, u32) = (2, 28);

/// A linker for that glibc. None: without network for pip, or without venv.
fn linker(dir: &Path) -> Option<PathBuf> {
    let (_, target) = profile();
    let out =
        Command::new(root().join("scripts/zig-tools")).env("CARGO_TARGET_DIR", &target).output().unwrap();
    if !out.status.success() {
        skip("scripts/zig-tools failed; it needs python3-venv, and cargo-zigbuild and ziglang from PyPI");
        return None;
    }
    let bin = target.join("wheel-tools/bin");
    let linker = dir.join("linker");
    let script = format!(
        "#!/bin/sh\nPATH={0}:$PATH\nexport CARGO_ZIGBUILD_ZIG_COMMAND={0}/python CARGO_ZIGBUILD_ZIG_COMMAND_ARGS='-m ziglang'\n\
         exec cargo-zigbuild zig cc -- -g -fno-sanitize=all -target x86_64-linux-gnu.{1}.{2} \"$@\"\n",
        bin.display(),
        FLOOR.0,
        FLOOR.1
    );
    std::fs::write(&linker, script).unwrap();
    std::fs::set_permissions(&linker, std::fs::Permissions::from_mode(0o755)).unwrap();
    Some(linker)
}

/// The Rust library, without MPI, that [`built`] has linked.
fn rlib() -> PathBuf {
    built();
    let mut cargo = library::build();
    let out = cargo.arg("--message-format=json").output().expect("cargo starts");
    assert!(out.status.success(), "{cargo:?}");
    let text = String::from_utf8(out.stdout).expect("cargo's messages");
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let manifest = format!("{}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let ours = |message: &serde_json::Value| {
        message["reason"] == "compiler-artifact"
            && message["manifest_path"].as_str() == Some(&manifest)
            && message["target"]["kind"][0] == "lib"
    };
    let files = messages.filter(ours).flat_map(|m| m["filenames"].as_array().cloned().unwrap_or_default());
    let mut names = files.filter_map(|f| f.as_str().map(PathBuf::from));
    names.find(|f| f.extension().is_some_and(|e| e == "rlib")).expect("cargo names the library")
}

/// What `cargo zigbuild` makes, from the Rust library that is compiled already: that does not depend on the C library, linking does.
fn linked(dir: &Path) -> Option<PathBuf> {
    let linker = linker(dir)?;
    let out = dir.join("linked");
    std::fs::create_dir(&out).unwrap();
    let library = rlib();
    let link = |kind: &str, name: &str, source: &str, file: &str| {
        let mut rustc = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()));
        rustc.current_dir(root()).args([
            "--edition",
            "2024",
            "-O",
            "--crate-name",
            "unicon",
            "--crate-type",
            kind,
        ]);
        rustc.arg(source).arg("--extern").arg(format!("{name}={}", library.display()));
        rustc.arg("-L").arg(format!("dependency={}", built().join("deps").display()));
        rustc.arg("-C").arg(format!("linker={}", linker.display())).arg("-o").arg(out.join(file));
        if kind == "cdylib" {
            rustc.args(["-C", "link-arg=-Wl,-soname,libunicon.so.1"]);
        }
        run(&mut rustc);
    };
    link("cdylib", "library", "capi/lib.rs", "libunicon.so");
    link("bin", "unicon", "src/main.rs", "unicon");
    std::fs::copy(built().join("libunicon.a"), out.join("libunicon.a")).unwrap();
    Some(out)
}

/// The newest glibc that a file asks for.
fn glibc(file: &Path) -> (u32, u32) {
    let text = run(Command::new("readelf").args(["-W", "-V"]).arg(file));
    let versions = text.split("Name: GLIBC_").skip(1).filter_map(|rest| {
        let mut numbers = rest.split_whitespace().next()?.split('.').filter_map(|n| n.parse().ok());
        Some((numbers.next()?, numbers.next()?))
    });
    versions.max().expect("versioned symbols")
}

/// The one file of a folder with this beginning and end.
fn one(folder: &Path, begin: &str, end: &str) -> PathBuf {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(begin) && name.ends_with(end)
    };
    let found: Vec<_> = entries.filter(named).collect();
    assert_eq!(found.len(), 1, "{begin}*{end}: {found:?}");
    found.into_iter().next().unwrap()
}

/// A fit of the digits in a bare system, in which `unicon` and a C program are.
fn use_in(bare: &BareRoot, library_path: &str, unicon: &str, main: &str) {
    let version = bare.run(library_path, &[unicon, "--version"]);
    assert_eq!(version, format!("unicon {}\n", env!("CARGO_PKG_VERSION")));
    for side in ["left", "right"] {
        bare.copy(&root().join(format!("data/digits_halves/{side}.npy")), &format!("home/{side}.npy"));
    }
    let files = ["--x", "/home/left.npy", "--y", "/home/right.npy"];
    let fit = [
        unicon,
        "fit",
        "--rank",
        "16",
        "--iters",
        "1",
        "--whiten",
        "0.1",
        "--out",
        "/home/model.safetensors",
    ];
    bare.run(library_path, &[&fit[..], &files].concat());
    let eval = [unicon, "eval", "--model", "/home/model.safetensors"];
    let said = bare.run(library_path, &[&eval[..], &files].concat());
    assert!(said.contains("R@1") && said.contains("matching accuracy"), "{said}");
    // It writes a model where it is.
    bare.run(library_path, &[main]);
    assert!(bare.path("model.safetensors").metadata().unwrap().len() > 0);
}

#[test]
fn packages_run_where_there_is_nothing_but_a_c_library() {
    if !full() {
        return;
    }
    let tools = [("cc", "gcc"), ("pkg-config", "pkg-config"), ("readelf", "binutils")];
    if !tools.iter().all(|(tool, package)| have(tool, package)) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(from) = linked(dir.path()) else { return };
    let out = dir.path().join("out");
    let mut package = Command::new(root().join("scripts/package"));
    println!("{}", run(package.arg("--from").arg(&from).arg("--out").arg(&out)));
    for file in ["libunicon.so", "unicon"] {
        let asked = glibc(&from.join(file));
        assert!(asked <= FLOOR, "{file} asks for glibc {asked:?}");
    }
    in_an_archive(&out);
    if have("dpkg-deb", "dpkg") && have("dpkg-shlibdeps", "dpkg-dev") {
        in_debian_packages(&out);
    }
}

fn in_an_archive(out: &Path) {
    let archive = one(out, "unicon-", "-x86_64-linux.tar.gz");
    let place = tempfile::tempdir().unwrap();
    run(Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(place.path()));
    let tree = one(place.path(), "unicon-", "-x86_64-linux");
    let library = tree.join("lib/libunicon.so");
    let size = library.metadata().unwrap().len();
    assert!(size < LARGEST_LIBRARY, "{size} bytes, expected less than {LARGEST_LIBRARY}");
    shown_program(place.path());
    let mut compile = compile_shown(place.path(), "main", "", "--libs unicon");
    run(compile.env("PKG_CONFIG_PATH", tree.join("lib/pkgconfig")));
    let main = place.path().join("main");
    assert!(needed(&main).contains("libunicon.so.1"));
    let Some(bare) = BareRoot::new(&[tree.join("bin/unicon"), library.clone()]) else {
        cannot("chroot is not allowed here");
        return;
    };
    run(Command::new("cp").arg("-r").arg(&tree).arg(bare.path("opt")));
    bare.copy(&main, "home/main");
    use_in(&bare, "/opt/lib", "/opt/bin/unicon", "/home/main");
}

fn in_debian_packages(out: &Path) {
    let of = |package: &str| one(out, &format!("{package}_"), ".deb");
    let field = |package: &str, name: &str| {
        run(Command::new("dpkg-deb").arg("-f").arg(of(package)).arg(name)).trim().to_string()
    };
    for package in ["unicon", "libunicon1"] {
        let depends = field(package, "Depends");
        let (_, rest) = depends.split_once("libc6 (>= 2.").unwrap_or_else(|| panic!("{package}: {depends}"));
        let minor: u32 = rest.split(')').next().unwrap().parse().unwrap();
        assert!(minor <= FLOOR.1, "{package}: {depends}");
    }
    assert_eq!(field("libunicon-dev", "Depends"), format!("libunicon1 (= {}-1)", env!("CARGO_PKG_VERSION")));
    let place = tempfile::tempdir().unwrap();
    run(Command::new("dpkg-deb").arg("-x").arg(of("libunicon1")).arg(place.path()));
    run(Command::new("dpkg-deb").arg("-x").arg(of("unicon")).arg(place.path()));
    let lib = "usr/lib/x86_64-linux-gnu";
    let installed = [place.path().join("usr/bin/unicon"), place.path().join(lib).join("libunicon.so.1")];
    let Some(bare) = BareRoot::new(&installed) else {
        cannot("chroot is not allowed here");
        return;
    };
    // dpkg knows there what stands there, and takes nothing whose dependencies do not.
    std::fs::create_dir_all(bare.path("var/lib/dpkg/info")).unwrap();
    std::fs::create_dir_all(bare.path("var/lib/dpkg/updates")).unwrap();
    let folder = bare.path("");
    let dpkg = |arguments: &[&str], packages: &[&str]| {
        let root = format!("--root={}", folder.display());
        let mut dpkg = bare.command(&["dpkg", &root, "--log=/dev/null"]);
        dpkg.args(arguments);
        for package in packages {
            if arguments[0] == "-i" {
                dpkg.arg(of(package))
            } else {
                dpkg.arg(package)
            };
        }
        dpkg
    };
    let refused = dpkg(&["-i"], &["unicon"]).output().unwrap();
    assert!(!refused.status.success(), "a package went in without its dependencies: {refused:?}");
    let status = run(Command::new("dpkg-query").args(["--status", "libc6"]));
    std::fs::write(bare.path("var/lib/dpkg/status"), status + "\n").unwrap();
    let packages = ["libunicon1", "libunicon-dev", "unicon", "libunicon1-dbg"];
    run(&mut dpkg(&["-i"], &packages));
    shown_program(place.path());
    let mut compile = compile_shown(place.path(), "main", "", "--libs unicon");
    compile.env("PKG_CONFIG_LIBDIR", bare.path(lib).join("pkgconfig")).env("PKG_CONFIG_SYSROOT_DIR", &folder);
    run(&mut compile);
    bare.copy(&place.path().join("main"), "home/main");
    // The loader looks there by itself.
    use_in(&bare, "", "/usr/bin/unicon", "/home/main");
    run(&mut dpkg(&["-r"], &packages));
    for gone in ["usr/bin/unicon", "usr/include/unicon.h", &format!("{lib}/libunicon.so.1")] {
        assert!(!bare.path(gone).exists(), "{gone}");
    }
}
