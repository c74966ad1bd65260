//! The ranks that a launcher started.

#[cfg(feature = "mpi")]
use std::sync::Arc;
use unicon::comm::Group;
use unicon::comm::launch::{Launch, detect};
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
}

impl Job {
    /// A process on its own.
    pub fn alone() -> Self {
        Self { group: Group::default(), local_rank: 0, local_size: 1 }
    }

    /// Joins the ranks that the launcher of this process started.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when there are several and this build, or what they were started with, cannot connect
    /// them: computing the same thing several times is never what was meant.
    pub fn join() -> Result<Self> {
        match detect(|name| std::env::var(name).ok())? {
            Some(launch) => Self::connect(&launch),
            None => Ok(Self::alone()),
        }
    }

    #[cfg(feature = "mpi")]
    fn connect(launch: &Launch) -> Result<Self> {
        use unicon::comm::Comm;
        if !launch.mpi {
            return Err(Error::Unsupported(without(
                launch,
                "starts no MPI, which ranks on CPUs talk through",
            )));
        }
        let mpi = super::mpi::Mpi::start()?;
        if mpi.size() != launch.size {
            let found = format!("started them, but MPI finds {} of them", mpi.size());
            return Err(Error::Comm(format!(
                "{}; is this program built with the MPI that it runs under? With srun, try --mpi=pmix",
                without(launch, &found)
            )));
        }
        let (local_rank, local_size) = (mpi.local_rank, mpi.local_size);
        Ok(Self { group: Group::new(Arc::new(mpi)), local_rank, local_size })
    }

    #[cfg(not(feature = "mpi"))]
    fn connect(launch: &Launch) -> Result<Self> {
        let why = match launch.mpi {
            false => "starts no MPI, which ranks on CPUs talk through",
            true => "started them, but this program was built without MPI (cargo feature `mpi`)",
        };
        Err(Error::Unsupported(without(launch, why)))
    }
}

/// Why these ranks cannot be connected, and what to do.
fn without(launch: &Launch, why: &str) -> String {
    format!(
        "{} ranks: {} {why}; start one process, or mpirun -n {} with a build that has MPI, or set UNICON_LAUNCHER=none for \
         independent jobs",
        launch.size, launch.launcher, launch.size
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_connected_says_why_and_what_to_do() {
        let variables = [("RANK", "1"), ("WORLD_SIZE", "2")];
        let read = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string());
        let launch = detect(read).unwrap().unwrap();
        let text = Job::connect(&launch).unwrap_err().to_string();
        assert!(text.contains("torchrun starts no MPI") && text.contains("mpirun -n 2"), "{text}");
    }
}
