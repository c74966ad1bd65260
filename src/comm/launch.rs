//! How this process was started: alone, or as one of several ranks.

use crate::error::{Error, Result};
use std::fmt::Write as _;

/// What a launcher says to its processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Whose words these are.
    pub launcher: &'static str,
    /// Whether it starts MPI, through which its ranks talk.
    pub mpi: bool,
    /// The rank it gives this process.
    pub rank: usize,
    /// How many processes it started.
    pub size: usize,
    /// The place of this process among those of its machine, where the launcher tells.
    pub local_rank: Option<usize>,
    /// How many processes it started on this machine, where it tells.
    pub local_size: Option<usize>,
    /// The environment variable that says the rank.
    pub variable: &'static str,
    /// What all processes of this job know, and those of another job do not; empty where the launcher says nothing.
    pub job: String,
}

/// The variables of a launcher. An empty name: it has none of the kind.
struct Variables {
    launcher: &'static str,
    mpi: bool,
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
    /// What names the job, on all machines alike.
    job: &'static [&'static str],
}

const MASTER: &[&str] = &["MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"];

/// What a person says comes before what programs say; of these, the first is the innermost where one starts another.
const LAUNCHERS: [Variables; 6] = [
    Variables {
        launcher: "a launcher",
        mpi: false,
        rank: "UNICON_RANK",
        size: "UNICON_WORLD_SIZE",
        local_rank: "UNICON_LOCAL_RANK",
        local_size: "UNICON_LOCAL_WORLD_SIZE",
        job: MASTER,
    },
    Variables {
        launcher: "mpirun (Open MPI)",
        mpi: true,
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
        job: &["PMIX_NAMESPACE"],
    },
    Variables {
        launcher: "mpiexec (MPICH, Intel MPI)",
        mpi: true,
        rank: "PMI_RANK",
        size: "PMI_SIZE",
        local_rank: "MPI_LOCALRANKID",
        local_size: "MPI_LOCALNRANKS",
        job: &["PMI_JOBID"],
    },
    Variables {
        launcher: "mpirun (MVAPICH)",
        mpi: true,
        rank: "MV2_COMM_WORLD_RANK",
        size: "MV2_COMM_WORLD_SIZE",
        local_rank: "MV2_COMM_WORLD_LOCAL_RANK",
        local_size: "MV2_COMM_WORLD_LOCAL_SIZE",
        job: &["PMI_JOBID"],
    },
    Variables {
        launcher: "srun (Slurm)",
        mpi: true,
        rank: "SLURM_PROCID",
        // A batch script itself is a step of one task; only srun's have more.
        size: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        local_size: "",
        job: &["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"],
    },
    TORCHRUN,
];
/// PyTorch's launcher, and everything else that sets its variables. It connects nothing by itself.
const TORCHRUN: Variables = Variables {
    launcher: "torchrun",
    mpi: false,
    rank: "RANK",
    size: "WORLD_SIZE",
    local_rank: "LOCAL_RANK",
    local_size: "LOCAL_WORLD_SIZE",
    job: MASTER,
};

/// The launcher of this process, if it started several.
///
/// `variable` reads the environment. `UNICON_LAUNCHER=none` makes every process a job of its own, whatever started it.
///
/// # Errors
/// [`Error::InvalidArgument`] naming a variable that is no number, or a rank that is not below the number of ranks.
pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Launch>> {
    if variable("UNICON_LAUNCHER").as_deref() == Some("none") {
        return Ok(None);
    }
    // torchrun may itself be the one task that srun or mpirun has on a machine.
    let torchrun = variable("TORCHELASTIC_RUN_ID").is_some() && variable("UNICON_RANK").is_none();
    for v in torchrun.then_some(&TORCHRUN).into_iter().chain(&LAUNCHERS) {
        if let Some(launch) = read(&variable, v)? {
            return Ok(Some(launch));
        }
    }
    Ok(None)
}

/// What the launcher with these variables says, if it is the one and started several processes.
fn read(variable: &impl Fn(&str) -> Option<String>, v: &Variables) -> Result<Option<Launch>> {
    let number = |name: &str| match variable(name) {
        Some(text) => match text.trim().parse::<usize>() {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(Error::invalid(name, "a number", format!("{text:?}"))),
        },
        None => Ok(None),
    };
    // One of the two on its own is somebody else's variable.
    if variable(v.rank).is_none() || variable(v.size).is_none() {
        return Ok(None);
    }
    let (Some(rank), Some(size)) = (number(v.rank)?, number(v.size)?) else { return Ok(None) };
    if rank >= size {
        return Err(Error::invalid(v.rank, format!("a number below {}={size}", v.size), rank));
    }
    if size == 1 {
        return Ok(None);
    }
    let local_rank = number(v.local_rank)?;
    let local_size = match number(v.local_size)? {
        // The words of a machine's own launcher, where it has none for this.
        None if v.rank == "SLURM_PROCID" => slurm_local_size(variable, size),
        None if !v.mpi && local_rank.is_none() && is_here(variable("MASTER_ADDR")) => Some(size),
        said => said,
    };
    if let Some((local, of)) = local_rank.zip(local_size).filter(|(local, of)| local >= of || *of > size) {
        return Err(Error::invalid(v.local_rank, format!("a number below {of}, of {size} in all"), local));
    }
    let mut job = String::new();
    for name in v.job {
        if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
            let _ = write!(job, "{name}={value};");
        }
    }
    let (launcher, mpi, variable) = (v.launcher, v.mpi, v.rank);
    Ok(Some(Launch { launcher, mpi, variable, rank, size, local_rank, local_size, job }))
}

/// Whether the address at which ranks should meet says that all are on this machine. Without one they can be nowhere
/// else.
fn is_here(address: Option<String>) -> bool {
    address.is_none_or(|a| matches!(a.trim(), "" | "localhost" | "127.0.0.1" | "::1"))
}

/// Tasks on this node from Slurm's list of tasks a node, such as `2(x3),1`.
fn slurm_local_size(variable: &impl Fn(&str) -> Option<String>, size: usize) -> Option<usize> {
    let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
    if number("SLURM_STEP_NUM_NODES") == Some(1) {
        return Some(size);
    }
    let mut node = number("SLURM_NODEID")?;
    for entry in variable("SLURM_STEP_TASKS_PER_NODE")?.split(',') {
        let (tasks, repeat) = entry.trim().split_once("(x").unwrap_or((entry.trim(), "1)"));
        let repeat = repeat.trim_end_matches(')').parse::<usize>().ok()?;
        if node < repeat {
            return tasks.parse().ok();
        }
        node -= repeat;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(variables: &[(&str, &str)]) -> Result<Option<Launch>> {
        detect(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    fn with(variables: &[(&str, &str)]) -> Option<Launch> {
        tried(variables).unwrap()
    }

    #[test]
    fn launchers_are_known_by_what_they_set() {
        assert_eq!(with(&[]), None);
        let open_mpi = [
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
            ("PMIX_NAMESPACE", "1234"),
        ];
        let open_mpi = with(&open_mpi).unwrap();
        assert_eq!((open_mpi.rank, open_mpi.size, open_mpi.mpi), (3, 4, true));
        assert_eq!((open_mpi.local_rank, open_mpi.local_size), (Some(1), Some(2)));
        assert_eq!(open_mpi.job, "PMIX_NAMESPACE=1234;");
        let mpich =
            [("PMI_RANK", "1"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "0"), ("MPI_LOCALNRANKS", "1")];
        assert_eq!(with(&mpich).unwrap().local_size, Some(1));
        // Inside a batch script, and under one process: nothing to connect.
        assert_eq!(with(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), None);
        assert_eq!(with(&[("RANK", "0"), ("WORLD_SIZE", "1")]), None);
        let off = [("UNICON_LAUNCHER", "none"), ("RANK", "1"), ("WORLD_SIZE", "2")];
        assert_eq!(with(&off), None);
    }

    #[test]
    fn slurm_says_how_many_tasks_a_node_has() {
        let step = |node: &'static str| {
            with(&[
                ("SLURM_PROCID", "5"),
                ("SLURM_STEP_NUM_TASKS", "8"),
                ("SLURM_STEP_NUM_NODES", "4"),
                ("SLURM_STEP_TASKS_PER_NODE", "1,3(x2),1"),
                ("SLURM_NODEID", node),
                ("SLURM_LOCALID", "0"),
                ("SLURM_JOB_ID", "77"),
                ("SLURM_STEP_ID", "0"),
            ])
            .unwrap()
        };
        let sizes = ["0", "1", "2", "3", "4"].map(|node| step(node).local_size);
        assert_eq!(sizes, [Some(1), Some(3), Some(3), Some(1), None]);
        assert_eq!(
            (step("1").launcher, step("1").job.as_str()),
            ("srun (Slurm)", "SLURM_JOB_ID=77;SLURM_STEP_ID=0;")
        );
        let one = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_STEP_NUM_NODES", "1")];
        assert_eq!(with(&one).unwrap().local_size, Some(2));
    }

    #[test]
    fn torchrun_and_plain_variables_name_the_job() {
        let torch = [
            ("RANK", "9"),
            ("WORLD_SIZE", "16"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "8"),
            ("MASTER_ADDR", "node7"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_RUN_ID", "abc"),
            // The task of srun that torchrun is.
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "2"),
        ];
        let torch = with(&torch).unwrap();
        assert_eq!((torch.launcher, torch.rank, torch.mpi), ("torchrun", 9, false));
        assert_eq!((torch.local_rank, torch.local_size), (Some(1), Some(8)));
        assert_eq!(torch.job, "MASTER_ADDR=node7;MASTER_PORT=29500;TORCHELASTIC_RUN_ID=abc;");
        // Without an address all are here; with one, the processes have to find out.
        let plain = [("UNICON_RANK", "1"), ("UNICON_WORLD_SIZE", "3"), ("RANK", "0"), ("WORLD_SIZE", "2")];
        let plain = with(&plain).unwrap();
        assert_eq!((plain.launcher, plain.rank, plain.local_size), ("a launcher", 1, Some(3)));
        let apart = [("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "node7")];
        assert_eq!(with(&apart).unwrap().local_size, None);
    }

    #[test]
    fn nonsense_is_named() {
        let said = |variables: &[(&str, &str)]| tried(variables).unwrap_err().to_string();
        let text = said(&[("UNICON_RANK", "2"), ("UNICON_WORLD_SIZE", "2")]);
        assert!(text.starts_with("UNICON_RANK: expected a number below UNICON_WORLD_SIZE=2"), "{text}");
        assert!(said(&[("RANK", "major"), ("WORLD_SIZE", "2")]).starts_with("RANK: expected a number"));
        let local = [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "2"), ("LOCAL_WORLD_SIZE", "2")];
        assert!(said(&local).starts_with("LOCAL_RANK: "));
        // A variable of somebody else.
        assert_eq!(with(&[("RANK", "major")]), None);
    }
}
