//! The `unicon` program: the library from a shell.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
