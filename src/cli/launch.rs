//! How this process was started: alone, or as one of the several processes of an MPI job.

/// The launcher of an MPI job, as its processes know it by their environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// What it is called.
    pub launcher: &'static str,
    /// How many processes it started.
    pub size: usize,
}

/// Launchers with the variables in which they say a process's rank and the number of processes. Where one launcher starts
/// another, the inner one comes first.
///
/// `RANK` and `WORLD_SIZE` are not among them: they are left in the environment of whatever runs below a training script.
const LAUNCHERS: [(&str, &str, &str); 4] = [
    ("mpirun (Open MPI)", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec (MPICH, Intel MPI)", "PMI_RANK", "PMI_SIZE"),
    ("mpirun (MVAPICH)", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    // A batch script itself is a step of one task; only srun's steps have more.
    ("srun (Slurm)", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
];

/// The launcher of this process, if it started several processes. `variable` reads the environment;
/// `UNICON_LAUNCHER=none` makes every process a job of its own, whatever started it.
pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Option<Launch> {
    if variable("UNICON_LAUNCHER").as_deref() == Some("none") {
        return None;
    }
    let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
    let started = LAUNCHERS.into_iter().find_map(|(launcher, rank, size)| {
        let (rank, size) = (number(rank)?, number(size)?);
        (rank < size).then_some(Launch { launcher, size })
    });
    started.filter(|launch| launch.size > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Option<Launch> {
        detect(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn launchers_are_known_by_what_they_set() {
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "4")];
        assert_eq!(with(&open_mpi), Some(Launch { launcher: "mpirun (Open MPI)", size: 4 }));
        let mpich = [("PMI_RANK", "1"), ("PMI_SIZE", "2")];
        assert_eq!(with(&mpich).unwrap().launcher, "mpiexec (MPICH, Intel MPI)");
        let step = [("SLURM_PROCID", "5"), ("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_NTASKS", "8")];
        assert_eq!(with(&step), Some(Launch { launcher: "srun (Slurm)", size: 8 }));
        // mpirun inside one task of srun, of which it is the inner one.
        let both = [&open_mpi[..], &step].concat();
        assert_eq!(with(&both).unwrap().size, 4);
    }

    #[test]
    fn what_means_nothing_is_not_read() {
        for variables in [
            &[][..],
            // Inside a batch script, and under one process.
            &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")],
            &[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")],
            &[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")],
            // torchrun, and whoever sets the same.
            &[("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("TORCHELASTIC_RUN_ID", "a")],
            // Not a launcher's.
            &[("PMI_RANK", "major"), ("PMI_SIZE", "2")],
            &[("PMI_RANK", "2"), ("PMI_SIZE", "2")],
            &[("PMI_RANK", "1")],
            &[("UNICON_LAUNCHER", "none"), ("PMI_RANK", "1"), ("PMI_SIZE", "2")],
        ] {
            assert_eq!(with(variables), None, "{variables:?}");
        }
    }
}
