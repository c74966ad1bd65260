//! Commands and their arguments. Every command is a file of its own; what they share is in [`args`] (arguments),
//! [`session`] (device, threads, cancellation), [`encoding`] (applying models) and [`output`] (tables, JSON).

mod ablate;
mod args;
mod bench;
mod compare;
mod demo;
mod encode;
mod encoding;
mod eval;
mod evaluation;
mod files;
mod fit;
mod fit_best;
mod fit_report;
mod gram;
mod info;
mod launch;
pub mod memory;
#[cfg(feature = "mpi")]
mod mpi;
mod names;
mod output;
mod pages;
mod pairs;
mod plan;
mod probe;
mod ranks;
mod report;
mod reproduce;
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
use std::sync::Arc;
use unicon::control::Control;
use unicon::distributed::{Group, threads};
use unicon::io::FINITE;

/// Closed-form contrastive alignment of two sets of frozen features.
///
/// Matrices are .npy files, `xy.npz:x`, `file.safetensors:tensor`, `file.pt:tensor`, or a folder or pattern of such files (`part-*.npy`,
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
    Ablate(Box<ablate::Args>),
    Reproduce(reproduce::Args),
    Eval(eval::Args),
    Probe(probe::Args),
    Report(report::Args),
    Weights(weights::Args),
    Gram(gram::Args),
    Selftest(selftest::Args),
    Bench(bench::Args),
    Plan(plan::Args),
    Info(info::Args),
    Completions(pages::CompletionsArgs),
    Man(pages::ManArgs),
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

    /// Whether several CUDA devices of one process may share the work.
    fn spreads_over_devices(&self) -> bool {
        self.spreads() && !matches!(self, Self::Bench(_))
    }

    /// Whether `--drop-bad-rows` leaves rows out that are not finite.
    fn drops_bad_rows(&self) -> bool {
        match self {
            Self::Fit(_) | Self::Compare(_) | Self::Ablate(_) | Self::Report(_) => true,
            Self::Eval(args) => args.takes_pairs(),
            _ => false,
        }
    }

    fn run(self, session: &Session) -> anyhow::Result<()> {
        let drops = self.drops_bad_rows();
        self.begin(session).map_err(|e| if drops { with_remedy(e) } else { e })
    }

    fn begin(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Demo(args) => demo::run(session, args),
            Self::Fit(args) => fit::run(session, *args),
            Self::Encode(args) => encode::run(session, args),
            Self::Search(args) => search::run(session, args),
            Self::Compare(args) => compare::run(session, *args),
            Self::Ablate(args) => ablate::run(session, *args),
            Self::Reproduce(args) => reproduce::run(session, args),
            Self::Eval(args) => eval::run(session, args),
            Self::Probe(args) => probe::run(session, args),
            Self::Report(args) => report::run(session, args),
            Self::Weights(args) => weights::run(session, args),
            Self::Gram(args) => gram::run(session, args),
            Self::Selftest(args) => selftest::run(session, args),
            Self::Bench(args) => bench::run(session, args),
            Self::Plan(args) => plan::run(session, args),
            Self::Info(args) => info::run(session, args),
            Self::Completions(args) => pages::completions(session, args),
            Self::Man(args) => pages::man(session, args),
        }
    }
}

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
    let jobs = match files::check(&matches).and_then(|pipe| jobs(&program, pipe)) {
        Ok(jobs) => jobs,
        Err(e) => {
            complain(&whole(&e));
            return ExitCode::FAILURE;
        }
    };
    let controls: Vec<Arc<Control>> = jobs.iter().map(|_| Arc::default()).collect();
    signals::watch(controls.clone());
    // The first rank is on this thread, the only one that may call MPI. Every rank reads the arguments for itself.
    let ends = threads::on_each(jobs.into_iter().zip(controls), |(job, control)| {
        rank(Program::from_arg_matches(&matches), job, control)
    });
    code_of(ends)
}

/// The ranks of this process: one, or one for each of several devices. `pipe` is an option that reads one.
fn jobs(program: &Program, pipe: Option<String>) -> anyhow::Result<Vec<Job>> {
    let job = Job::join()?;
    if job.launcher.is_some() {
        // Each has a device; where a list is given, they agree on the error when it is opened.
        return Ok(vec![job]);
    }
    match program.globals.device.threads()? {
        Some(devices) if devices.len() == 1 => Ok(vec![Job { device: Some(devices[0]), ..job }]),
        Some(devices) if !program.command.spreads_over_devices() => {
            let expected = format!("one device, such as cuda:{}, for this command", devices[0]);
            Err(unicon::Error::invalid("--device", expected, &program.globals.device).into())
        }
        Some(devices) => match pipe {
            Some(option) => {
                let expected = format!("a file, for each of {} devices reads its rows", devices.len());
                Err(unicon::Error::invalid(option, expected, "a pipe").into())
            }
            None => Ok(Job::threads(&devices)),
        },
        None => Ok(vec![job]),
    }
}
/// How a rank ended.
#[derive(Default)]
struct End {
    failure: Option<anyhow::Error>,
    /// What the rank is called where there are several: `rank 1`, `cuda:1`.
    name: String,
    group: Group,
}

/// Runs the command as one of the ranks, and tells the others if it fails.
fn rank(program: Result<Program, clap::Error>, job: Job, control: Arc<Control>) -> End {
    // Held to the end: a rank that fails tells the others, and MPI ends with the last user of the group.
    let group = job.group.clone();
    let name = match job.device {
        Some(device) => format!("cuda:{device}"),
        None => format!("rank {}", group.rank()),
    };
    let run = || -> anyhow::Result<()> {
        let Program { globals, command } = program?;
        match command.spreads() {
            true => command.run(&Session::new(globals, job, control)),
            false if group.is_first() => {
                let alone = Job { device: job.device, ..Job::alone() };
                command.run(&Session::new(globals, alone, control))
            }
            false => Ok(()),
        }
    };
    let done = run();
    let others = group.finish(done.as_ref().err().map(whole).as_deref());
    let failure = done.err().or_else(|| Some(others.err()?.into()));
    End { failure, name, group }
}

/// The exit code of this process, whose ranks ended so; one of them says why it failed.
fn code_of(ends: Vec<unicon::Result<End>>) -> ExitCode {
    let several = ends.len() > 1;
    let no_thread = |e: unicon::Error| End { failure: Some(e.into()), ..End::default() };
    let ends: Vec<End> = ends.into_iter().map(|end| end.unwrap_or_else(no_thread)).collect();
    let is = |end: &End, kind: fn(&unicon::Error) -> bool| {
        end.failure.as_ref().and_then(|e| e.downcast_ref()).is_some_and(kind)
    };
    let cancelled = ends.iter().any(|end| is(end, |e| matches!(e, unicon::Error::Cancelled)));
    // Who knows the reason speaks, not who has only heard that another rank failed.
    let mut failed: Vec<&End> = ends.iter().filter(|end| end.failure.is_some()).collect();
    failed.sort_by_key(|end| (!end.group.speaks().0, is(end, |e| matches!(e, unicon::Error::Comm(_)))));
    let Some((end, failure)) = failed.first().and_then(|end| Some((end, end.failure.as_ref()?))) else {
        return ExitCode::SUCCESS;
    };
    // Whoever reads no further needs no complaint.
    if let Some(e) = failure.downcast_ref::<std::io::Error>()
        && e.kind() == std::io::ErrorKind::BrokenPipe
    {
        return ExitCode::from(signals::code_of(libc::SIGPIPE));
    }
    let (speaks, named) = end.group.speaks();
    if several && cancelled {
        // One signal stops all.
        complain("cancelled");
    } else if speaks {
        let name = if named { format!("{}: ", end.name) } else { String::new() };
        complain(&format!("{name}{}", whole(failure)));
    }
    ExitCode::from(if cancelled { signals::code() } else { 1 })
}

/// The error with the argument that leaves out rows that are not finite, where that is what it is about.
fn with_remedy(e: anyhow::Error) -> anyhow::Error {
    match e.downcast_ref() {
        Some(unicon::Error::InvalidArgument { name, expected, got }) if expected == FINITE => {
            unicon::Error::invalid(name, expected, format!("{got} (--drop-bad-rows)")).into()
        }
        _ => e,
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
