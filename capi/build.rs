//! The shared library's name for the loader: that of its ABI version.

fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libunicon.so.1");
    println!("cargo:rerun-if-changed=build.rs");
}
