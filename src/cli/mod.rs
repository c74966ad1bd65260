//! Commands and their arguments. Every command is a file of its own; what they share is in [`args`] (arguments),
//! [`session`] (device, threads, cancellation), [`encoding`] (applying models) and [`output`] (tables, JSON).

mod args;
mod bench;
mod compare;
mod demo;
mod encode;
mod encoding;
mod eval;
mod files;
mod fit;
mod fit_best;
mod fit_report;
mod gram;
mod info;
mod judging;
mod memory;
#[cfg(feature = "mpi")]
mod mpi;
mod names;
mod output;
mod pairs;
mod plan;
mod ranks;
mod report;
mod search;
mod selftest;
mod session;
mod signals;
mod weights;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use ranks::Job;
use session::{Globals, Session};
use std::process::ExitCode;

/// Closed-form contrastive alignment of two sets of frozen features.
///
/// Matrices are .npy files, `xy.npz:x`, `file.safetensors:tensor`, or a folder or pattern of such files (`part-*.npy`,
/// `part-{0..3}.npy`); rows are samples. `x.npy:bf16` reads two-byte values as bfloat16, /dev/stdin a pipe.
/// Exit code: 0 success, 1 failure, 2 wrong usage; ended by a signal 128 + its number: 130 interrupt, 143 termination,
/// 129 hangup, 141 closed pipe. No output is ever left half-written.
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
    Plan(plan::Args),
    Info(info::Args),
}

impl Command {
    /// Whether several ranks share the work; of other commands one rank does it all.
    fn spreads(&self) -> bool {
        match self {
            Self::Fit(_) | Self::Encode(_) | Self::Search(_) | Self::Eval(_) => true,
            Self::Bench(args) => args.spreads(),
            _ => false,
        }
    }

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
            Self::Plan(args) => plan::run(session, args),
            Self::Info(args) => info::run(session, args),
        }
    }
}

#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator;

/// Bytes of stack of the thread that runs the program, whatever `ulimit -s` says.
const STACK: usize = 8 << 20;

/// Runs the program.
pub fn main() -> ExitCode {
    signals::prepare();
    let started = std::thread::Builder::new().name("main".into()).stack_size(STACK).spawn(run);
    match started.map(std::thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        // A panic has said what it is.
        Ok(Err(_)) => ExitCode::from(101),
        Err(e) => {
            complain(&format!("the system grants no thread: {e} (see ulimit -u and ulimit -v)"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> ExitCode {
    let parsed = Program::command()
        .try_get_matches()
        .and_then(|matches| Ok((Program::from_arg_matches(&matches)?, matches)));
    let (program, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(e) => return usage(&e),
    };
    if let Err(e) = files::check(&matches) {
        complain(&whole(&e));
        return ExitCode::FAILURE;
    }
    let mut job = match Job::join(program.globals.device) {
        Ok(job) => job,
        Err(e) => {
            complain(&e.to_string());
            return ExitCode::FAILURE;
        }
    };
    // Held to the end: a rank that fails tells the others, and MPI ends with the last user of the group.
    let group = job.group.clone();
    let mut done = Ok(());
    if !program.command.spreads() {
        job = Job::alone();
    }
    if program.command.spreads() || group.is_first() {
        done = Session::new(program.globals, job).and_then(|session| program.command.run(&session));
    }
    let others = group.finish(done.as_ref().err().map(whole).as_deref());
    let failure = match (done, others) {
        (Ok(()), Ok(())) => return ExitCode::SUCCESS,
        (Err(e), _) => e,
        (Ok(()), Err(e)) => e.into(),
    };
    let cancelled = matches!(failure.downcast_ref(), Some(unicon::Error::Cancelled));
    // Whoever reads no further needs no complaint.
    if let Some(e) = failure.downcast_ref::<std::io::Error>()
        && e.kind() == std::io::ErrorKind::BrokenPipe
    {
        return ExitCode::from(signals::code_of(libc::SIGPIPE));
    }
    let (speaks, named) = group.speaks();
    if speaks {
        let rank = if named { format!("rank {}: ", group.rank()) } else { String::new() };
        complain(&format!("{rank}{}", whole(&failure)));
    }
    ExitCode::from(if cancelled { signals::code() } else { 1 })
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
