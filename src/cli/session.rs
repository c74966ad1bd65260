//! What every command runs in: device, threads, progress, cancellation.

use super::complain;
use super::output::{self, Report};
use super::ranks::{DeviceData, Job, Opened};
use anyhow::{Context, Result};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use unicon::Error;
use unicon::backend::cpu::Cpu;
use unicon::backend::cuda::{self, Cuda};
use unicon::control::{Control, Phase, Progress};
use unicon::distributed::Group;
use unicon::real::Real;
use unicon::threads;

/// Arguments of every command.
#[derive(clap::Args)]
pub struct Globals {
    /// Print one JSON object instead of a table.
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    /// Threads, 1 to 1024. 0: what UNICON_THREADS, RAYON_NUM_THREADS, OMP_NUM_THREADS or SLURM_CPUS_PER_TASK says, the
    /// first that is set, else one for each core that this process may use.
    #[arg(long, global = true, default_value_t = 0, value_name = "N", help_heading = "Everywhere",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(0..=threads::MOST as u64))]
    threads: usize,
    /// Seed of everything random.
    #[arg(long, global = true, default_value_t = 0, value_name = "N", help_heading = "Everywhere")]
    seed: u64,
    /// Where to compute: auto, cpu, cuda, cuda:N, or several devices that share the rows, cuda:all or cuda:0,2. Under mpirun
    /// each rank takes the next device of cuda.
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE", help_heading = "Everywhere")]
    pub device: DeviceChoice,
    /// Arithmetic: on the CPU f32, f64 or bf16, on CUDA fp16, bf16 or f32 [default: CPU f32, CUDA fp16; weights and gram f64].
    #[arg(long, global = true, value_enum, value_name = "TYPE", help_heading = "Everywhere")]
    precision: Option<Precision>,
    /// Memory for matrices of samples, such as 4G: larger features stay in their files and larger intermediate results go to
    /// temporary ones (in $TMPDIR). Beside it the program takes about 24 MB, ten float64 matrices of the features' width
    /// squared, for each thread one more and 4 MB, for each row of either side 64 bytes, and in refinements (--refine, the
    /// preset best) the gradients of the embeddings. The CPU only.
    #[arg(long, global = true, value_name = "BYTES", value_parser = size, help_heading = "Everywhere")]
    memory_limit: Option<u64>,
}

/// Number type of the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    F32,
    /// On the CPU only.
    F64,
    /// f32 with products of numbers rounded to bfloat16: on CUDA, and on processors that do that faster than f32 (others round nothing).
    Bf16,
    /// f32 with similarities and weights in fp16: on CUDA only.
    Fp16,
}

/// What `--device` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The fastest device there is.
    Auto,
    Cpu,
    /// The device with this number; none: the one that falls to this rank.
    Cuda(Option<u32>),
    /// The devices with these numbers, or all, a thread each.
    Several(Option<Vec<u32>>),
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(n)) => write!(f, "cuda:{n}"),
            Self::Several(None) => f.write_str("cuda:all"),
            Self::Several(Some(list)) => {
                let list: Vec<String> = list.iter().map(u32::to_string).collect();
                write!(f, "cuda:{}", list.join(","))
            }
        }
    }
}

impl DeviceChoice {
    /// The devices of which each gets a thread; none: there is one, or what falls to this process is decided later.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where there are none for `cuda:all`, or CUDA cannot be used.
    pub fn threads(&self) -> Result<Option<Vec<u32>>> {
        match self {
            Self::Several(Some(list)) => Ok(Some(list.clone())),
            Self::Several(None) => {
                let devices = usable_devices().context("--device cuda:all")?;
                if devices.is_empty() {
                    // None is new enough: the first says why.
                    Cuda::open(0, cuda::Options::default()).context("--device cuda:all")?;
                }
                Ok(Some(devices))
            }
            _ => Ok(None),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(s: &str) -> std::result::Result<Self, String> {
        match s {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(None)),
            "cuda:all" => Ok(Self::Several(None)),
            _ => {
                let numbers = s.strip_prefix("cuda:").map(|list| list.split(',').map(str::parse).collect());
                let Some(Ok(numbers)) = numbers else {
                    return Err("expected auto, cpu, cuda, cuda:N, cuda:N,M or cuda:all".into());
                };
                let numbers: Vec<u32> = numbers;
                match numbers[..] {
                    [one] => Ok(Self::Cuda(Some(one))),
                    _ if (1..numbers.len()).any(|k| numbers[..k].contains(&numbers[k])) => {
                        Err("expected every device once".into())
                    }
                    _ => Ok(Self::Several(Some(numbers))),
                }
            }
        }
    }
}

/// A device for people to choose.
#[derive(serde::Serialize)]
pub struct DeviceInfo {
    /// What `--device` calls it.
    pub id: String,
    pub name: String,
    pub memory_bytes: Option<u64>,
}

/// What this machine computes on.
pub struct Devices {
    pub usable: Vec<DeviceInfo>,
    /// Why no CUDA device is among them.
    pub no_cuda: Option<String>,
}

/// An opened device. See [`on_backend`].
pub enum Device {
    CpuF32(Cpu<f32>),
    CpuF64(Cpu<f64>),
    Cuda(Cuda),
}

/// Evaluates an expression that is generic over the backend with the session's device:
/// `on_backend!(session, |backend| fit(backend, ...))`.
macro_rules! on_backend {
    ($session:expr, |$backend:ident| $body:expr) => {
        match $session.open_device()? {
            $crate::cli::session::Device::CpuF32(ref $backend) => $body,
            $crate::cli::session::Device::CpuF64(ref $backend) => $body,
            $crate::cli::session::Device::Cuda(ref $backend) => $body,
        }
    };
}
pub(super) use on_backend;

/// A number of bytes: 1048576, 512M, 4G, 4GiB.
fn size(s: &str) -> std::result::Result<u64, String> {
    let digits = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
    let (number, unit) = s.split_at(digits);
    let shift = match unit.trim_end_matches("iB").trim_end_matches('B').to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err("expected a number of bytes, such as 512M or 4G".into()),
    };
    let number: f64 = number.parse().map_err(|_| "expected a number of bytes, such as 512M or 4G")?;
    let bytes =
        number * f64::from(1u32 << (shift % 30)) * if shift >= 30 { f64::from(1u32 << 30) } else { 1.0 };
    if (1.0..1e18).contains(&bytes) {
        Ok(bytes as u64)
    } else {
        Err("expected between 1 and 1e18 bytes".into())
    }
}

/// The running program.
pub struct Session {
    globals: Globals,
    control: Arc<Control>,
    job: Job,
    /// What was opened, for the report of several ranks.
    opened: Mutex<Opened>,
}

impl Session {
    /// Counts the threads and starts the progress display of the first rank. `control` stops what runs.
    pub fn new(mut globals: Globals, job: Job, control: Arc<Control>) -> Self {
        if globals.threads == 0 {
            let found = threads::default_count(|name| std::env::var(name).ok());
            for ignored in found.ignored.iter().filter(|_| job.group.is_first()) {
                complain(&format!("{ignored} is no number of threads from 1 to {}: ignored", threads::MOST));
            }
            // Ranks on one machine share its cores, unless somebody has given each its own.
            let bound = found.variable.is_some() || found.threads < cores_of_machine();
            let share = if bound { 1 } else { job.local_size };
            globals.threads = (found.threads / share).max(1);
        }
        threads::set_default(globals.threads);
        if std::io::stderr().is_terminal() && job.group.is_first() {
            let mut bars = Bars::default();
            control.set_hook(Some(Box::new(move |progress| bars.show(progress))));
        }
        let opened = Mutex::new(Opened { device: "cpu".into(), moved: None });
        Self { globals, control, job, opened }
    }

    /// Whether this rank writes files and prints: one of all does.
    pub fn is_first(&self) -> bool {
        self.job.group.is_first()
    }

    /// The ranks that work on this command.
    pub fn group(&self) -> &Group {
        &self.job.group
    }

    /// What stops the command, and is told how far it is.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.globals.threads
    }

    /// Seed of everything random.
    pub fn seed(&self) -> u64 {
        self.globals.seed
    }

    /// `--precision`, if given.
    pub fn precision(&self) -> Option<Precision> {
        self.globals.precision
    }

    /// The device the arguments ask for. This is the only place that knows which devices exist.
    pub fn open_device(&self) -> Result<Device> {
        if let Some(device) = self.job.device {
            return Ok(Device::Cuda(self.open_cuda(device)?));
        }
        match self.globals.device {
            DeviceChoice::Auto if self.globals.memory_limit.is_some() => self.open_cpu(),
            DeviceChoice::Cuda(Some(n)) if self.job.local_size > 1 => {
                let expected = format!("cuda, for {} ranks share this machine", self.job.local_size);
                Err(Error::invalid("--device", expected, format!("cuda:{n}")).into())
            }
            DeviceChoice::Cuda(Some(n)) => Ok(Device::Cuda(self.open_cuda(n)?)),
            DeviceChoice::Cuda(None) => {
                let devices = usable_devices().context("--device cuda")?;
                // Without a usable one: the first says why.
                let own = self.job.local_rank % devices.len().max(1);
                Ok(Device::Cuda(self.open_cuda(devices.get(own).copied().unwrap_or(0))?))
            }
            // Without a device of its own on every rank, and for arithmetic that only a CPU has, the CPU does.
            DeviceChoice::Auto if self.globals.precision != Some(Precision::F64) => {
                let devices = usable_devices().unwrap_or_default();
                let own = devices.get(self.job.local_rank).copied();
                if self.job.group.any(own.is_none())? {
                    return self.open_cpu();
                }
                own.map_or_else(|| self.open_cpu(), |n| Ok(Device::Cuda(self.open_cuda(n)?)))
            }
            DeviceChoice::Auto | DeviceChoice::Cpu => self.open_cpu(),
            // In a process on its own, `job.device` is one of them.
            DeviceChoice::Several(_) => {
                let expected = format!("cuda, for each of {} ranks has one device", self.job.group.size());
                Err(Error::invalid("--device", expected, &self.globals.device).into())
            }
        }
    }

    /// The CPU backend, as one of the ranks and within the memory limit.
    fn cpu<T: Real>(&self) -> Result<Cpu<T>> {
        let cpu = Cpu::with(self.globals.threads, None, self.control.clone())?;
        let cpu = cpu.with_group(self.job.group.clone());
        Ok(match self.globals.memory_limit {
            Some(limit) => cpu.with_spill(limit, std::env::temp_dir()),
            None => cpu,
        })
    }

    fn open_cpu(&self) -> Result<Device> {
        Ok(match self.globals.precision.unwrap_or(Precision::F32) {
            Precision::F32 => Device::CpuF32(self.cpu()?),
            Precision::Bf16 => Device::CpuF32(self.cpu()?.with_bf16()?),
            Precision::F64 => Device::CpuF64(self.cpu()?),
            Precision::Fp16 => {
                return Err(Error::invalid("--precision", "f32, f64 or bf16 on the CPU", "fp16").into());
            }
        })
    }

    fn open_cuda(&self, ordinal: u32) -> Result<Cuda> {
        let mode = match self.globals.precision.unwrap_or(Precision::Fp16) {
            Precision::Fp16 => cuda::Mode::Fp16,
            Precision::Bf16 => cuda::Mode::Bf16,
            Precision::F32 => cuda::Mode::Fp32,
            Precision::F64 => {
                return Err(Error::invalid("--precision", "fp16, bf16 or f32 on CUDA", "f64").into());
            }
        };
        let options = cuda::Options { mode, control: self.control.clone(), ..cuda::Options::default() };
        let cuda = Cuda::open(ordinal, options).with_context(|| format!("--device cuda:{ordinal}"))?;
        let (cuda, no_nccl) = cuda.connected(self.job.group.clone())?;
        let moved = Some(DeviceData { nccl: cuda.nccl(), no_nccl });
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) =
            Opened { device: format!("cuda:{ordinal}"), moved };
        Ok(cuda)
    }

    /// The float64 CPU backend, for commands that are about exact values.
    pub fn oracle(&self, command: &str) -> Result<Cpu<f64>> {
        if !matches!(self.globals.device, DeviceChoice::Auto | DeviceChoice::Cpu) {
            let expected = format!("cpu or auto, for `unicon {command}` computes in float64 on the CPU");
            return Err(Error::invalid("--device", expected, &self.globals.device).into());
        }
        Ok(Cpu::with(self.globals.threads, None, self.control.clone())?)
    }

    /// The devices of this machine that this program can use.
    pub fn devices(&self) -> Devices {
        let read = |path: &str, key: &str| -> Option<String> {
            let text = std::fs::read_to_string(path).ok()?;
            let line = text.lines().find(|l| l.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_string())
        };
        let kib =
            read("/proc/meminfo", "MemTotal").and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
        let name = read("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_string());
        let mut usable = vec![DeviceInfo { id: "cpu".into(), name, memory_bytes: kib.map(|kib| kib * 1024) }];
        let cuda = cuda::probe();
        let no_cuda = cuda.as_ref().err().map(ToString::to_string);
        usable.extend(cuda.into_iter().flatten().map(|d| DeviceInfo {
            id: format!("cuda:{}", d.ordinal),
            name: d.name,
            memory_bytes: Some(d.memory),
        }));
        Devices { usable, no_cuda }
    }

    /// Whether the user asked to stop, for loops outside the library.
    pub fn check(&self) -> Result<()> {
        if self.control.is_cancelled() { Err(Error::Cancelled.into()) } else { Ok(()) }
    }

    /// A bar over `total` steps of a command that runs many small computations, instead of theirs.
    pub fn steps(&self, name: &'static str, total: u64) -> ProgressBar {
        self.control.set_hook(None);
        if !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        bar(name, total)
    }

    /// No progress: for commands whose many small computations are not worth a bar.
    pub fn quiet(&self) {
        self.control.set_hook(None);
    }

    /// Shows people what a report says so far, and takes it out: commands that take long have something to read at once.
    pub fn show(&self, report: &mut Report) -> Result<()> {
        if self.globals.json || !self.is_first() || report.parts().is_empty() {
            return Ok(());
        }
        output::print(&report.take_parts(), false)
    }

    /// Prints a command's result, once, with what the ranks had to do for it.
    pub fn print(&self, report: &Report) -> Result<()> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ranks = self.job.figures(&opened)?;
        match ranks {
            _ if !self.is_first() => Ok(()),
            None => output::print(report, self.globals.json),
            Some(ranks) => {
                let mut report = report.clone();
                report.line(ranks.to_string());
                report.value("ranks", ranks)?;
                output::print(&report, self.globals.json)
            }
        }
    }
}

/// Numbers of the devices that can be used.
fn usable_devices() -> Result<Vec<u32>> {
    Ok(cuda::probe()?.iter().filter(|d| d.usable()).map(|d| d.ordinal).collect())
}

/// Cores that the machine has, whether or not this process may use them.
fn cores_of_machine() -> usize {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().filter(|l| l.starts_with("processor")).count()
}

/// One progress bar, for the phase that runs.
#[derive(Default)]
struct Bars {
    current: Option<(Phase, ProgressBar)>,
    iterations: String,
}

impl Bars {
    fn show(&mut self, p: Progress) -> ControlFlow<()> {
        if p.phase == Phase::Iteration {
            self.iterations = format!("update {}/{}, loss {:.5}", p.done, p.total, p.loss);
            if p.done == p.total {
                self.clear();
            }
            return ControlFlow::Continue(());
        }
        if self.current.as_ref().is_none_or(|(phase, _)| *phase != p.phase) {
            self.clear();
            let bar = bar(name(p.phase), p.total);
            self.current = Some((p.phase, bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_length(p.total);
            bar.set_position(p.done);
            bar.set_message(self.iterations.clone());
            if p.done == p.total {
                self.clear();
            }
        }
        ControlFlow::Continue(())
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(name: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    if let Ok(style) = ProgressStyle::with_template("{prefix:12} {wide_bar} {pos}/{len} {eta} {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(name);
    bar
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Features => "features",
        Phase::Statistics => "sums",
        Phase::Weights => "weights",
        Phase::Iteration => "updates",
        Phase::Retrieval => "retrieval",
    }
}
