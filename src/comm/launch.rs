//! How this process was started: alone, or as one of several ranks.

/// What a launcher says to its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Whose words these are.
    pub launcher: &'static str,
    /// The rank it gives this process.
    pub rank: usize,
    /// How many processes it started.
    pub size: usize,
}

/// Launchers by the variables they set: rank and number of processes.
const LAUNCHERS: [(&str, &str, &str); 6] = [
    ("mpirun (Open MPI)", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec (MPICH, Intel MPI)", "PMI_RANK", "PMI_SIZE"),
    ("mpirun (MVAPICH)", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    // A batch script itself is a step of one task; only srun's have more.
    ("srun (Slurm)", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    (TORCHRUN, "RANK", "WORLD_SIZE"),
    ("a launcher", "UNICON_RANK", "UNICON_WORLD_SIZE"),
];
/// PyTorch's launcher, which connects nothing by itself.
pub const TORCHRUN: &str = "torchrun";

/// The launcher of this process, if it started several.
///
/// `variable` reads the environment. `UNICON_LAUNCHER=none` makes every process a job of its own, whatever started it.
pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Option<Launch> {
    if variable("UNICON_LAUNCHER").as_deref() == Some("none") {
        return None;
    }
    let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
    LAUNCHERS.iter().find_map(|&(launcher, rank, size)| {
        let (rank, size) = (number(rank)?, number(size)?);
        (size > 1 && rank < size).then_some(Launch { launcher, rank, size })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Option<Launch> {
        detect(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn launchers_are_known_by_what_they_set() {
        assert_eq!(with(&[]), None);
        let open_mpi = with(&[("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4")]).unwrap();
        assert_eq!((open_mpi.rank, open_mpi.size), (3, 4));
        let slurm = with(&[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_NTASKS", "2")]);
        assert_eq!(slurm.unwrap().launcher, "srun (Slurm)");
        // Inside a batch script, and under one process: nothing to connect.
        assert_eq!(with(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), None);
        assert_eq!(with(&[("RANK", "0"), ("WORLD_SIZE", "1")]), None);
        let torch = with(&[("RANK", "1"), ("WORLD_SIZE", "2")]).unwrap();
        assert_eq!((torch.launcher, torch.rank), (TORCHRUN, 1));
        let off = [("UNICON_LAUNCHER", "none"), ("RANK", "1"), ("WORLD_SIZE", "2")];
        assert_eq!(with(&off), None);
    }
}
