//! Commands and their arguments. Every command is a file of its own; what they share is in [`args`] (arguments),
//! [`session`] (device, threads, cancellation), [`encoding`] (applying models) and [`output`] (tables, JSON).

mod args;
mod bench;
mod compare;
mod demo;
mod encode;
mod encoding;
mod eval;
mod fit;
mod fit_best;
mod gram;
mod info;
mod output;
mod report;
mod search;
mod selftest;
mod session;
mod weights;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use session::{Globals, Session};
use std::process::ExitCode;

/// Closed-form contrastive alignment of two sets of frozen features.
///
/// Matrices are .npy files, `file.safetensors:tensor`, or a folder or glob of .npy shards; rows are samples.
/// Exit code: 0 success, 1 failure, 2 wrong usage, 130 interrupted.
#[derive(Parser)]
#[command(name = "unicon", version, max_term_width = 110)]
struct Program {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::Args),
    Fit(Box<fit::Args>),
    Encode(encode::Args),
    Search(search::Args),
    Compare(Box<compare::Args>),
    Eval(eval::Args),
    Report(report::Args),
    Weights(weights::Args),
    Gram(gram::Args),
    Selftest(selftest::Args),
    Bench(bench::Args),
    Info(info::Args),
}

impl Command {
    fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Demo(args) => demo::run(session, args),
            Self::Fit(args) => fit::run(session, *args),
            Self::Encode(args) => encode::run(session, args),
            Self::Search(args) => search::run(session, args),
            Self::Compare(args) => compare::run(session, *args),
            Self::Eval(args) => eval::run(session, args),
            Self::Report(args) => report::run(session, args),
            Self::Weights(args) => weights::run(session, args),
            Self::Gram(args) => gram::run(session, args),
            Self::Selftest(args) => selftest::run(session, args),
            Self::Bench(args) => bench::run(session, args),
            Self::Info(args) => info::run(session, args),
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let program = match Program::try_parse() {
        Ok(program) => program,
        Err(e) => return usage(&e),
    };
    let done = Session::new(program.globals).and_then(|session| program.command.run(&session));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let cancelled = matches!(e.downcast_ref(), Some(unicon::Error::Cancelled));
            complain(&whole(&e));
            ExitCode::from(if cancelled { 130 } else { 1 })
        }
    }
}

/// An error and its causes; a cause that the error already told is not told again.
fn whole(e: &anyhow::Error) -> String {
    e.chain().map(ToString::to_string).fold(String::new(), |told, cause| match () {
        () if told.is_empty() => cause,
        () if told.contains(&cause) => told,
        () => format!("{told}: {cause}"),
    })
}

/// One line on stderr. A closed stderr is nobody's problem.
fn complain(message: &str) {
    use std::io::Write;
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(std::io::stderr(), "unicon: {line}");
}

/// Help and version go to stdout as they are; mistakes become one line.
fn usage(e: &clap::Error) -> ExitCode {
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return if e.print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = e.print();
        }
        _ => {
            let text = e.to_string();
            let until = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|m| text.find(m)).min();
            let text = text[..until.unwrap_or(text.len())].trim_start_matches("error: ");
            complain(&format!("{text} (see --help)"));
        }
    }
    ExitCode::from(2)
}
