//! The checked-in bindings are what the header says.

#[test]
fn bindings_are_those_of_the_header() {
    let fresh = match header_check::generate() {
        Ok(text) => text,
        Err(e) if e.contains("libclang") && std::env::var("UNICON_REQUIRE_TOOLS").as_deref() != Ok("1") => {
            println!("skipped: libclang not found; get it with apt-get install libclang1-14 ({e})");
            return;
        }
        Err(e) => panic!("{e}"),
    };
    let kept = std::fs::read_to_string(header_check::bindings_path()).expect("src/ffi/bindings.rs is there");
    if let Some((n, (a, b))) = fresh.lines().zip(kept.lines()).enumerate().find(|(_, (a, b))| a != b) {
        panic!(
            "src/ffi/bindings.rs line {}: the header gives\n  {a}\nthe file has\n  {b}\nrun cargo run -p header-check",
            n + 1
        );
    }
    assert_eq!(fresh.lines().count(), kept.lines().count(), "run cargo run -p header-check");
    // The comparison is not empty.
    assert!(fresh.contains("pub fn unicon_fit("), "bindgen saw no unicon_fit");
    assert!(fresh.matches("offset_of").count() > 100, "bindgen wrote no layout checks");
}
