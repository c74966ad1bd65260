//! `unicon info`.

use super::output::{self, Report};
use super::session::Session;
use anyhow::Result;
use unicon::backend::cpu::{Cpu, simd};
use unicon::backend::cuda;

/// Shows version, threads, SIMD level, devices and what was built in.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(session: &Session, _: Args) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let threads = session.threads();
    let level = simd::level().to_string();
    let unit = Cpu::<f32>::new(1)?.unit();
    let devices = session.devices();
    let features = features();
    let mut report = Report::new("info");
    report.value("version", version)?;
    report.value("threads", threads)?;
    report.value("simd", &level)?;
    report.value("products", &unit)?;
    report.value("devices", &devices.usable)?;
    report.value("no_cuda", &devices.no_cuda)?;
    let nccl = cuda::nccl_version();
    let no_nccl = nccl.as_ref().err().map(ToString::to_string);
    report.value("nccl", nccl.as_ref().ok())?;
    report.value("no_nccl", &no_nccl)?;
    report.value("features", &features)?;
    report.value("mpi", cfg!(feature = "mpi"))?;
    report.value("target", format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS))?;
    let mut rows = vec![
        ("version".to_string(), version.to_string()),
        ("threads".to_string(), threads.to_string()),
        ("SIMD".to_string(), level),
        ("products".to_string(), unit),
    ];
    rows.extend(devices.usable.iter().map(|d| {
        let memory = d.memory_bytes.map(|b| format!(", {}", output::bytes(b))).unwrap_or_default();
        (format!("device {}", d.id), format!("{}{memory}", d.name))
    }));
    rows.extend(devices.no_cuda.map(|why| ("no CUDA".to_string(), why)));
    rows.push(match nccl {
        Ok(version) => ("NCCL".to_string(), version),
        Err(why) => ("no NCCL".to_string(), why.to_string()),
    });
    rows.push(("built in".to_string(), features.join(", ")));
    report.list(rows);
    session.print(&report)
}

/// Optional parts this program was built with.
fn features() -> Vec<&'static str> {
    let mut features = vec!["cli"];
    if cfg!(feature = "mpi") {
        features.push("mpi");
    }
    features
}
