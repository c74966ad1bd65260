//! The ranks that work on a command: processes that a launcher of MPI started, or a thread for each of several CUDA devices.

use super::launch::{self, Launch};
use super::output;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use unicon::distributed::{Group, Traffic, threads};
use unicon::memory::resident_peak;
use unicon::{Error, Result};

/// A rank, and how many of them share this machine.
#[derive(Clone, Debug)]
pub struct Job {
    /// All ranks.
    pub group: Group,
    /// This rank's place among those of this machine.
    pub local_rank: usize,
    /// Ranks on this machine, this one included.
    pub local_size: usize,
    /// Who started them; none: a process on its own.
    pub launcher: Option<&'static str>,
    /// The CUDA device that falls to this rank, where its number is known from the start.
    pub device: Option<u32>,
}

impl Job {
    /// A process on its own.
    pub fn alone() -> Self {
        Self { group: Group::default(), local_rank: 0, local_size: 1, launcher: None, device: None }
    }

    /// Ranks that are threads of this process, one for each of these devices.
    pub fn threads(devices: &[u32]) -> Vec<Self> {
        let local_size = devices.len();
        let job = |(local_rank, (rank, &device)): (usize, (threads::ThreadRank, &u32))| Self {
            group: Group::new(Arc::new(rank)),
            local_rank,
            local_size,
            launcher: Some("unicon"),
            device: Some(device),
        };
        threads::ranks(local_size).into_iter().zip(devices).enumerate().map(job).collect()
    }

    /// Joins the ranks of the MPI job that this process belongs to, if it belongs to one of several.
    ///
    /// # Errors
    /// [`Error::Unsupported`] in a build without MPI, and [`Error::Comm`] where MPI does not know the others: each process
    /// would solve the whole problem, and all would write the same files.
    pub fn join() -> Result<Self> {
        match launch::detect(|name| std::env::var(name).ok()) {
            Some(launch) => Self::mpi(&launch),
            None => Ok(Self::alone()),
        }
    }

    #[cfg(feature = "mpi")]
    fn mpi(launch: &Launch) -> Result<Self> {
        use unicon::distributed::Comm;
        let mpi = super::mpi::Mpi::start()?;
        if mpi.size() != launch.size {
            let why = format!("MPI finds {} of them", mpi.size());
            let remedy = "build this program with the MPI that it runs under; with srun, try --mpi=pmix";
            return Err(Error::Comm(apart(launch, &why, remedy)));
        }
        let (local_rank, local_size) = (mpi.local_rank, mpi.local_size);
        let launcher = Some(launch.launcher);
        Ok(Self { group: Group::new(Arc::new(mpi)), local_rank, local_size, launcher, device: None })
    }

    #[cfg(not(feature = "mpi"))]
    fn mpi(launch: &Launch) -> Result<Self> {
        let why = "this program was built without MPI";
        Err(Error::Unsupported(apart(launch, why, "build it with `cargo build --release --features mpi`")))
    }
}

/// Why the processes of a launcher do not find each other, and what to do.
fn apart(launch: &Launch, why: &str, remedy: &str) -> String {
    let Launch { launcher, size } = launch;
    format!(
        "{launcher} started {size} processes, but {why}, so that each would solve the whole problem: {remedy}, start one \
         process, or set UNICON_LAUNCHER=none if each is a job of its own"
    )
}

/// How the data of ranks on CUDA devices moves.
#[derive(Clone, Debug)]
pub struct DeviceData {
    /// From device to device, through this version of NCCL.
    pub nccl: Option<String>,
    /// Through the host and the ranks' transport, and why.
    pub no_nccl: Option<String>,
}

/// What a rank computes on.
#[derive(Clone, Debug)]
pub struct Opened {
    /// `cpu`, `cuda:0`.
    pub device: String,
    /// Of several ranks on CUDA devices.
    pub moved: Option<DeviceData>,
}

/// What a job had to do: the figures of every rank, in order.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    launcher: &'static str,
    transport: String,
    /// What each rank computes on: `cpu`, `cuda:0`.
    devices: Vec<String>,
    /// Of ranks on CUDA devices, what moves their data: `nccl` or `host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_data: Option<&'static str>,
    /// NCCL's version, or why it is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    nccl: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_nccl: Option<String>,
    size: usize,
    /// The place of a rank among those of its machine, and how many these are.
    local: Vec<[u64; 2]>,
    /// The most bytes of memory the process had at any time.
    resident_bytes: Vec<u64>,
    traffic: Vec<Traffic>,
}

impl Job {
    /// The figures of all ranks so far; none of a process on its own. All ranks must ask.
    ///
    /// # Errors
    /// [`Error::Comm`].
    pub fn figures(&self, opened: &Opened) -> Result<Option<Figures>> {
        let Some(launcher) = self.launcher else { return Ok(None) };
        let traffic = self.group.traffic();
        let local = self.group.concat(vec![[self.local_rank as u64, self.local_size as u64]])?;
        let resident_bytes = self.group.concat(vec![resident_peak().unwrap_or(0)])?;
        let traffic = self.group.concat(vec![traffic])?;
        let (transport, size) = (self.group.transport().to_string(), self.group.size());
        let devices = self.group.allgather(opened.device.as_bytes())?;
        let devices = devices.iter().map(|d| String::from_utf8_lossy(d).into_owned()).collect();
        let device_data = opened.moved.as_ref().map(|m| if m.nccl.is_some() { "nccl" } else { "host" });
        let (nccl, no_nccl) = opened.moved.clone().map_or((None, None), |m| (m.nccl, m.no_nccl));
        Ok(Some(Figures {
            launcher,
            transport,
            devices,
            device_data,
            nccl,
            no_nccl,
            size,
            local,
            resident_bytes,
            traffic,
        }))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = |of: fn(&Traffic) -> f64| self.traffic.iter().map(of).fold(0.0, f64::max);
        let resident = self.resident_bytes.iter().max().copied().unwrap_or(0);
        let who = match self.transport.as_str() {
            "threads" => format!("{}, a thread each", self.devices.join(", ")),
            "mpi" => format!("{} ranks of {}, through MPI", self.size, self.launcher),
            other => format!("{} ranks of {}, through {other}", self.size, self.launcher),
        };
        let data = match (&self.nccl, &self.no_nccl) {
            (Some(version), _) => format!(", their data from device to device by NCCL {version}"),
            (None, Some(why)) => format!(", their data through the host ({why})"),
            (None, None) => String::new(),
        };
        write!(
            f,
            "{who}{data}; at most {} resident, {} received, {:.2} s waited and {:.2} s moving data",
            output::bytes(resident),
            output::bytes(most(|t| t.received as f64) as u64),
            most(|t| t.waiting),
            most(|t| t.moving)
        )
    }
}
