//! The ranks that a launcher started.

use super::output;
use super::session::DeviceChoice;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use unicon::backend::Backend;
use unicon::backend::cuda::{self, Cuda};
use unicon::comm::launch::{Launch, detect};
use unicon::comm::local::Local;
use unicon::comm::rendezvous::Meeting;
use unicon::comm::{Group, Traffic};
use unicon::{Error, Result};

/// The ranks this process belongs to, and how many of them share this machine.
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
    /// The device of this rank, where the devices are what connects the ranks.
    pub device: Option<Cuda>,
}

impl Job {
    /// A process on its own.
    pub fn alone() -> Self {
        Self { group: Group::default(), local_rank: 0, local_size: 1, launcher: None, device: None }
    }

    /// Joins the ranks that the launcher of this process started: through MPI where both the launcher and this build have
    /// it. Otherwise launchers' variables mean nothing, for they stay in the environment of whatever a job starts, unless
    /// `UNICON_RANKS=env` says that they are meant: then through sockets of this machine, or on several machines through
    /// NCCL if the ranks compute on CUDA devices. `UNICON_TRANSPORT` (`mpi`, `local` or `nccl`) decides otherwise.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when there are several and this build, or what they were started with, cannot connect
    /// them: computing the same thing several times is never what was meant. [`Error::Comm`] naming a rank that does not
    /// come.
    pub fn join(device: DeviceChoice) -> Result<Self> {
        let read = |name: &str| std::env::var(name).ok();
        let asked = match read("UNICON_RANKS").unwrap_or_default().as_str() {
            "" | "none" => false,
            "env" => true,
            other => return Err(Error::invalid("UNICON_RANKS", "env or none", other)),
        };
        let wish = read("UNICON_TRANSPORT").unwrap_or_default();
        match wish.as_str() {
            _ if asked => {}
            "" if !cfg!(feature = "mpi") => return Ok(Self::alone()),
            "" | "mpi" => {}
            _ => {
                let expected =
                    format!("env, for UNICON_TRANSPORT={wish} connects the ranks of the environment");
                return Err(Error::invalid("UNICON_RANKS", expected, "nothing"));
            }
        }
        let heard = |name: &str| read(name).filter(|_| asked || of_mpi(name));
        let Some(launch) = detect(heard)? else { return Ok(Self::alone()) };
        match wish.as_str() {
            "" if launch.mpi && cfg!(feature = "mpi") => Self::mpi(&launch, asked),
            "nccl" => Self::nccl(&launch, device),
            "" if device == DeviceChoice::Cuda(None)
                && launch.local_size.is_some_and(|n| n < launch.size) =>
            {
                Self::nccl(&launch, device)
            }
            "" | "local" => Self::local(&launch),
            "mpi" => Self::mpi(&launch, false),
            _ => Err(Error::invalid("UNICON_TRANSPORT", "mpi, local or nccl", wish)),
        }
    }

    /// Through MPI. Ranks that MPI does not know of each other, for the launcher has started none, may be connected on
    /// this machine.
    #[cfg(feature = "mpi")]
    fn mpi(launch: &Launch, or_local: bool) -> Result<Self> {
        use unicon::comm::Comm;
        let mpi = super::mpi::Mpi::start()?;
        match mpi.size() {
            found if found == launch.size => {
                let (local_rank, local_size) = (mpi.local_rank, mpi.local_size);
                let launcher = Some(launch.launcher);
                Ok(Self { group: Group::new(Arc::new(mpi)), local_rank, local_size, launcher, device: None })
            }
            1 if or_local && launch.local_size == Some(launch.size) => Self::local(launch),
            found => {
                let found = format!("started them, but MPI finds {found} of them");
                let text = without(launch, &found);
                Err(Error::Comm(format!(
                    "{text}; is this program built with the MPI that it runs under? With srun, try --mpi=pmix"
                )))
            }
        }
    }

    #[cfg(not(feature = "mpi"))]
    fn mpi(launch: &Launch, _: bool) -> Result<Self> {
        Err(Error::Unsupported(without(launch, NO_MPI)))
    }

    /// Through sockets of this machine.
    fn local(launch: &Launch) -> Result<Self> {
        if let Some(here) = launch.local_size.filter(|&here| here < launch.size) {
            let why = if launch.mpi { NO_MPI } else { "starts no MPI" };
            let why =
                format!("{why}, which ranks on CPUs of several machines talk through (here are {here})");
            return Err(Error::Unsupported(without(launch, &why)));
        }
        let local = Local::join(launch, &waits)?;
        let (local_rank, local_size) = local.place();
        let launcher = Some(launch.launcher);
        Ok(Self { group: Group::new(Arc::new(local)), local_rank, local_size, launcher, device: None })
    }

    /// Through the ranks' CUDA devices, which find each other by files.
    fn nccl(launch: &Launch, device: DeviceChoice) -> Result<Self> {
        if device != DeviceChoice::Cuda(None) {
            let expected = "cuda, for NCCL is what connects the ranks";
            return Err(Error::invalid("--device", expected, device));
        }
        let meeting = Meeting::join_with(launch, &waits, cuda::nccl_id)?;
        let (local_rank, local_size) = meeting.local();
        let open = || -> Result<Cuda> {
            let devices: Vec<u32> = cuda::probe()?.iter().filter(|d| d.usable()).map(|d| d.ordinal).collect();
            let own = devices.get(local_rank).ok_or_else(|| {
                let has = devices.len();
                Error::NoDevice(format!(
                    "this machine has {local_size} ranks and {has} devices: NCCL needs one for each"
                ))
            })?;
            Cuda::open(*own, cuda::Options::default())
        };
        let device = match open() {
            Ok(device) => device.meet(meeting)?,
            Err(e) => {
                // Whoever waits for this rank need not wait longer.
                meeting.leave(&e.to_string());
                return Err(e);
            }
        };
        let (group, launcher) = (device.group().clone(), Some(launch.launcher));
        Ok(Self { group, local_rank, local_size, launcher, device: Some(device) })
    }
}

/// Whether this variable is one that launchers of MPI set.
fn of_mpi(name: &str) -> bool {
    name == "UNICON_LAUNCHER"
        || ["OMPI_", "PMI", "MV2_", "MPI_", "SLURM_"].iter().any(|p| name.starts_with(p))
}

/// For whom this rank waits.
fn waits(text: &str) {
    eprintln!("unicon: {text}");
}

/// How the data of ranks on CUDA devices moves.
#[derive(Clone, Debug)]
pub struct DeviceData {
    /// From device to device, through this version of NCCL.
    pub nccl: Option<String>,
    /// Through the host and the ranks' transport, and why.
    pub no_nccl: Option<String>,
}

/// What a job had to do: the figures of every rank, in order.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    launcher: &'static str,
    transport: String,
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
    pub fn figures(&self, moved: Option<DeviceData>) -> Result<Option<Figures>> {
        let Some(launcher) = self.launcher else { return Ok(None) };
        let traffic = self.group.traffic();
        let local = self.group.concat(vec![[self.local_rank as u64, self.local_size as u64]])?;
        let resident_bytes = self.group.concat(vec![peak_resident()])?;
        let traffic = self.group.concat(vec![traffic])?;
        let (transport, size) = (self.group.transport().to_string(), self.group.size());
        let device_data = moved.as_ref().map(|m| if m.nccl.is_some() { "nccl" } else { "host" });
        let (nccl, no_nccl) = moved.map_or((None, None), |m| (m.nccl, m.no_nccl));
        Ok(Some(Figures {
            launcher,
            transport,
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
        let how = match self.transport.as_str() {
            "local" => "sockets of this machine",
            "mpi" => "MPI",
            "nccl" => "NCCL",
            other => other,
        };
        let data = match (&self.nccl, &self.no_nccl) {
            (Some(version), _) => format!(", their data from device to device by NCCL {version}"),
            (None, Some(why)) => format!(", their data through the host ({why})"),
            (None, None) => String::new(),
        };
        write!(
            f,
            "{} ranks of {}, through {how}{data}; at most {} resident, {} received, {:.2} s waited and {:.2} s moving data",
            self.size,
            self.launcher,
            output::bytes(resident),
            output::bytes(most(|t| t.received as f64) as u64),
            most(|t| t.waiting),
            most(|t| t.moving)
        )
    }
}

/// The most bytes of memory this process has had, as its kernel counts them; 0 where it does not.
pub fn peak_resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| 1024 * kib)
}

/// Makes the peak of [`peak_resident`] what there is now, where the kernel can.
pub fn forget_peak_resident() {
    // Without it the peak is that of the whole run, which is no error.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

const NO_MPI: &str = "started them, but this program was built without MPI (cargo feature `mpi`)";

/// Why these ranks cannot be connected, and what to do.
fn without(launch: &Launch, why: &str) -> String {
    let (size, launcher) = (launch.size, launch.launcher);
    format!(
        "{size} ranks: {launcher} {why}; use mpirun -n {size} or srun with a build that has MPI, or UNICON_RANKS=env with \
         --device cuda or on one machine, or set UNICON_LAUNCHER=none for independent jobs"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_on_several_machines_are_told_what_to_do() {
        let variables = [("RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")];
        let read = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        let launch = detect(read).unwrap().unwrap();
        let text = Job::local(&launch).unwrap_err().to_string();
        assert!(text.contains("torchrun starts no MPI") && text.contains("mpirun -n 4 or srun"), "{text}");
    }
}
