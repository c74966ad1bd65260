//! `unicon selftest`.

use super::output::Report;
use super::session::{Session, on_backend};
use anyhow::Result;
use std::time::Instant;
use unicon::backend::Backend;
use unicon::selftest::{self, Check};

/// Checks this installation: every operation of a device against float64 on the CPU.
///
/// Small ragged problems, all losses, temperatures down to 0.01, one-to-one and many-to-many positives, sampled negatives,
/// kernels, search, gradients; two runs must agree bit by bit, and memory must stay within what is announced. Exit code 1
/// when anything fails.
#[derive(clap::Args)]
pub struct Args {
    /// Small problems only.
    #[arg(long)]
    quick: bool,
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    session.quiet();
    let options = selftest::Options { quick: args.quick };
    let (device, outcome) =
        on_backend!(session, |backend| { (backend.describe(), selftest::run(backend, options)?) });
    let seconds = begin.elapsed().as_secs_f64();
    let failed: Vec<&Check> = outcome.checks.iter().filter(|c| !c.ok).collect();
    let mut report = Report::new("selftest");
    report.value("version", env!("CARGO_PKG_VERSION"))?;
    report.value("device", &device)?;
    report.value("quick", args.quick)?;
    report.value("seconds", seconds)?;
    report.value("ok", failed.is_empty())?;
    report.value("outcome", &outcome)?;
    report.line(device);
    let row = |c: &Check| {
        let number = |v: f64| if v == 0.0 { "0".to_string() } else { format!("{v:.1e}") };
        let verdict = if c.ok { "ok" } else { "FAILED" };
        let worst = if c.error == 0.0 { String::new() } else { c.case.clone() };
        vec![c.operation.into(), c.cases.to_string(), number(c.error), number(c.limit), verdict.into(), worst]
    };
    let header = ["operation", "cases", "worst error", "limit", "", "worst case"];
    report.table(&header, outcome.checks.iter().map(row).collect());
    for check in outcome.checks.iter().filter(|c| !c.notes.is_empty()) {
        let kind = if check.ok { "not supported" } else { "failed" };
        report.line(format!("{}: {kind}: {}", check.operation, check.notes.join("; ")));
    }
    report.line(format!(
        "{} of {} checks hold, {seconds:.1} s",
        outcome.checks.len() - failed.len(),
        outcome.checks.len()
    ));
    session.print(&report)?;
    if failed.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = failed.iter().map(|c| c.operation).collect();
    anyhow::bail!("selftest failed: {}", names.join(", "))
}
