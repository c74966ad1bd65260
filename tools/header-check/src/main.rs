//! Rewrites `src/ffi/bindings.rs` from `include/unicon.h`.

fn main() {
    let written = header_check::generate()
        .and_then(|text| std::fs::write(header_check::bindings_path(), text).map_err(|e| e.to_string()));
    if let Err(e) = written {
        eprintln!("header-check: {e}");
        std::process::exit(1);
    }
}
