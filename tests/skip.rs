//! Tests that do not run say so in one line, which the harness does not hold back.

use std::io::Write;

/// Says why a test is skipped. Where everything must run (`UNICON_REQUIRE_TOOLS=1`, as in `.ci/run`), that is a failure.
pub fn skip(why: &str) {
    unless("UNICON_REQUIRE_TOOLS", why);
}

/// The same for a build without CUDA kernels, which is a failure with `UNICON_REQUIRE_CUDA=1`.
pub fn skip_for_want_of_kernels(why: &str) {
    unless("UNICON_REQUIRE_CUDA", &format!("{why}; get a compiler with scripts/get-nvcc"));
}

/// The same for what this machine cannot run, whatever is installed: never a failure.
pub fn cannot(why: &str) {
    say(&line(why));
}

/// Whether tests that take long are to run (`UNICON_TEST=full`, as in `.ci/run`); says how to run this one if not.
pub fn full() -> bool {
    if !is_full() {
        skip("it takes long; run it with UNICON_TEST=full cargo test --release");
    }
    is_full()
}

/// The same for a test that has a quick variant.
pub fn is_full() -> bool {
    is("UNICON_TEST", "full")
}

fn is(variable: &str, value: &str) -> bool {
    std::env::var(variable).is_ok_and(|v| v == value)
}

fn unless(variable: &str, why: &str) {
    let line = line(why);
    assert!(!is(variable, "1"), "{line}");
    say(&line);
}

fn line(why: &str) -> String {
    // The harness names a test's thread after it.
    format!("skipped: {}: {why}", std::thread::current().name().unwrap_or("a test"))
}

/// `println!` would be held back until the test fails.
fn say(line: &str) {
    writeln!(std::io::stderr(), "{line}").expect("standard error");
}
