fn main() {
    // Programs linked against the shared library ask for its ABI, whatever the file is called (include/unicon.h).
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libunicon.so.1");
    println!("cargo:rerun-if-changed=build.rs");
}
