//! `unicon selftest`.

use super::output::Report;
use super::session::{Device, Session};
use anyhow::Result;
use std::time::Instant;
use unicon::backend::Backend;
use unicon::backend::cuda::{Cuda, KernelSet};
use unicon::selftest::{self, Check, Outcome};

/// Checks this installation: every operation of a device against float64 on the CPU.
///
/// Small ragged problems, all losses, temperatures down to 0.01, one-to-one and many-to-many positives, sampled negatives,
/// kernels, search, gradients; two runs must agree bit by bit, and memory must stay within what is announced. A CUDA device
/// that can take the clip loss in two ways is checked with both, unless UNICON_CUDA_KERNELS names one. Exit code 1 when
/// anything fails.
#[derive(clap::Args)]
pub struct Args {
    /// Small problems only.
    #[arg(long)]
    quick: bool,
}

/// What a device turned out to be worth.
#[derive(serde::Serialize)]
struct Run {
    device: String,
    outcome: Outcome,
}

impl Run {
    fn new<B: Backend>(backend: &B, options: selftest::Options) -> unicon::Result<Self> {
        Ok(Self { device: backend.describe(), outcome: selftest::run(backend, options)? })
    }

    fn failed(&self) -> impl Iterator<Item = &Check> {
        self.outcome.checks.iter().filter(|c| !c.ok)
    }

    fn show(&self, report: &mut Report) {
        report.line(&self.device);
        let row = |c: &Check| {
            let number = |v: f64| if v == 0.0 { "0".to_string() } else { format!("{v:.1e}") };
            let verdict = if c.ok { "ok" } else { "FAILED" };
            let worst = if c.error == 0.0 { String::new() } else { c.case.clone() };
            let (operation, cases) = (c.operation.into(), c.cases.to_string());
            vec![operation, cases, number(c.error), number(c.limit), verdict.into(), worst]
        };
        let header = ["operation", "cases", "worst error", "limit", "", "worst case"];
        report.table(&header, self.outcome.checks.iter().map(row).collect());
        for check in self.outcome.checks.iter().filter(|c| !c.notes.is_empty()) {
            let kind = if check.ok { "not supported" } else { "failed" };
            report.line(format!("{}: {kind}: {}", check.operation, check.notes.join("; ")));
        }
    }
}

/// The device with the other kernels that it can take, unless the user has chosen.
fn other_kernels(cuda: &Cuda) -> unicon::Result<Option<Cuda>> {
    let other = match cuda.kernels() {
        KernelSet::Hopper => KernelSet::Portable,
        _ => KernelSet::Hopper,
    };
    if std::env::var_os("UNICON_CUDA_KERNELS").is_some() || !other.runs_on(cuda.device()) {
        return Ok(None);
    }
    cuda.with_kernels(other).map(Some)
}

pub fn run(session: &Session, args: Args) -> Result<()> {
    let begin = Instant::now();
    session.quiet();
    let options = selftest::Options { quick: args.quick };
    let runs = match session.open_device()? {
        Device::CpuF32(cpu) => vec![Run::new(&cpu, options)?],
        Device::CpuF64(cpu) => vec![Run::new(&cpu, options)?],
        Device::Cuda(cuda) => {
            let mut runs = vec![Run::new(&cuda, options)?];
            if let Some(other) = other_kernels(&cuda)? {
                runs.push(Run::new(&other, options)?);
            }
            runs
        }
    };
    let seconds = begin.elapsed().as_secs_f64();
    let failed: Vec<&str> = runs.iter().flat_map(Run::failed).map(|c| c.operation).collect();
    let mut report = Report::new("selftest");
    report.value("version", env!("CARGO_PKG_VERSION"))?;
    report.value("device", &runs[0].device)?;
    report.value("quick", args.quick)?;
    report.value("seconds", seconds)?;
    report.value("ok", failed.is_empty())?;
    report.value("outcome", &runs[0].outcome)?;
    report.value("other_kernels", runs.get(1))?;
    runs.iter().for_each(|run| run.show(&mut report));
    let all: usize = runs.iter().map(|run| run.outcome.checks.len()).sum();
    report.line(format!("{} of {all} checks hold, {seconds:.1} s", all - failed.len()));
    session.print(&report)?;
    if failed.is_empty() {
        return Ok(());
    }
    anyhow::bail!("selftest failed: {}", failed.join(", "))
}
