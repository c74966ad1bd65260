//! The tree of scripts/install.sh: static linking, packagers' trees, what is in it, and how it goes.

use super::{compile_shown, needed, shown_program};
use crate::ffi::{built, have, root, run};
use crate::skip::full;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn install(prefix: &Path, more: &[&str]) -> String {
    let mut install = Command::new(root().join("scripts/install.sh"));
    run(install.arg("--prefix").arg(prefix).arg("--from").arg(built()).args(more))
}

/// Every file below a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let text = run(Command::new("find").args([".", "!", "-type", "d"]).current_dir(folder));
    text.lines().map(|line| line.trim_start_matches("./").to_string()).collect()
}

#[test]
fn static_libraries_are_linked_without_the_shared_one() {
    if !full() {
        return;
    }
    if !have("cc", "gcc") || !have("pkg-config", "pkg-config") || !have("readelf", "binutils") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("prefix");
    install(&prefix, &["--libdir", "lib/x86_64-linux-gnu"]);
    shown_program(dir.path());
    let pc = prefix.join("lib/x86_64-linux-gnu/pkgconfig");
    // UniCon alone is static; and everything is.
    for (name, flags, arguments) in
        [("part", "", "--libs unicon-static"), ("whole", "-static", "--static --libs unicon")]
    {
        run(compile_shown(dir.path(), name, flags, arguments).env("PKG_CONFIG_PATH", &pc));
        let needed = needed(&dir.path().join(name));
        assert!(!needed.contains("unicon"), "{name}: {needed}");
        assert_eq!(needed.is_empty(), name == "whole", "{name}: {needed}");
        let _ = std::fs::remove_file(dir.path().join("model.safetensors"));
        run(Command::new(dir.path().join(name)).current_dir(dir.path()));
        assert!(dir.path().join("model.safetensors").exists());
    }
}

#[test]
fn a_packagers_tree_names_the_place_where_it_will_be() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("root");
    let libdir = "lib/x86_64-linux-gnu";
    install(Path::new("/usr"), &["--libdir", libdir, "--destdir", to.to_str().unwrap()]);
    let pc = to.join(format!("usr/{libdir}/pkgconfig"));
    let text = std::fs::read_to_string(pc.join("unicon.pc")).unwrap();
    assert!(text.starts_with("prefix=/usr\n") && !text.contains("root"), "{text}");
    if !have("cc", "gcc") || !have("pkg-config", "pkg-config") || !have("cmake", "cmake") {
        return;
    }
    shown_program(dir.path());
    let mut compile = compile_shown(dir.path(), "main", "", "--libs unicon");
    run(compile.env("PKG_CONFIG_LIBDIR", &pc).env("PKG_CONFIG_SYSROOT_DIR", &to));
    let mut main = Command::new(dir.path().join("main"));
    run(main.env("LD_LIBRARY_PATH", to.join("usr").join(libdir)).current_dir(dir.path()));
    // CMake looks below /lib, too, which is a link on most systems.
    std::os::unix::fs::symlink("usr/lib", to.join("lib")).unwrap();
    let cmake = "cmake_minimum_required(VERSION 3.16)\nproject(outside C)\nfind_package(UniCon REQUIRED)\n\
                 add_executable(shared main.c)\ntarget_link_libraries(shared UniCon::unicon)\n";
    std::fs::write(dir.path().join("CMakeLists.txt"), cmake).unwrap();
    let mut configure = Command::new("cmake");
    configure.args(["-S", ".", "-B", "out"]).current_dir(dir.path());
    run(configure.arg(format!("-DUniCon_DIR={}", to.join(libdir).join("cmake/UniCon").display())));
    run(Command::new("cmake").args(["--build", "out"]).current_dir(dir.path()));
    run(Command::new(dir.path().join("out/shared")).current_dir(dir.path()));
}

#[test]
fn the_tree_is_listed_and_removed_again() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = dir.path().join("prefix");
    std::fs::create_dir_all(prefix.join("bin")).unwrap();
    std::fs::write(prefix.join("bin/other"), "").unwrap();
    install(&prefix, &[]);
    let listed = std::fs::read_to_string(prefix.join("share/doc/unicon/files")).unwrap();
    let listed: BTreeSet<String> = listed.lines().map(str::to_string).collect();
    let mut there = files(&prefix);
    assert!(there.remove("bin/other"));
    assert_eq!(listed, there);
    for file in [
        "bin/unicon",
        "lib/libunicon.so",
        "lib/pkgconfig/unicon-static.pc",
        "share/man/man1/unicon-fit.1",
        "share/bash-completion/completions/unicon",
        "share/zsh/site-functions/_unicon",
        "share/fish/vendor_completions.d/unicon.fish",
        "share/doc/unicon/LICENSE-DEPENDENCIES.txt",
        "share/doc/unicon/ATTRIBUTION.md",
    ] {
        assert!(listed.contains(file), "{file}: {listed:?}");
    }
    let version = run(Command::new(prefix.join("bin/unicon")).arg("--version"));
    assert_eq!(version, format!("unicon {}\n", env!("CARGO_PKG_VERSION")));
    // Over itself, and away; what was there before stays.
    install(&prefix, &[]);
    install(&prefix, &["--uninstall"]);
    assert_eq!(files(&prefix), BTreeSet::from(["bin/other".to_string()]));
    assert!(!prefix.join("share").exists() && !prefix.join("lib").exists());
    let refused = |arguments: &[&str], told: &str| {
        let out = Command::new(root().join("scripts/install.sh")).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(!out.status.success() && text.contains(told), "{arguments:?}: {text}");
    };
    let place = prefix.to_str().unwrap();
    refused(&["--prefix", place, "--uninstall"], "--uninstall: expected");
    refused(&["--prefix", place, "--from", place], "expected a folder with libunicon.so");
    refused(&["--prefix", place, "--libdir", "/usr/lib"], "--libdir: expected a folder below the prefix");
}
