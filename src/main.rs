//! The `unicon` program: the library from a shell.

// Of the program alone, not of the library: it ends the process where memory is refused.
#[global_allocator]
static ALLOCATOR: unicon::program::Allocator = unicon::program::Allocator;

fn main() -> std::process::ExitCode {
    unicon::program::main()
}
