//! Ranks that are processes of one machine, started with the variables that torchrun and others set: the same results as
//! one process, and an end with a reason whatever happens to one of them.

use crate::processes::{LIMIT, UNICON, complaints, data, signal, tensors, text, wait};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What `torchrun --standalone --nproc-per-node 3` sets, of a job with this id.
fn torchrun(id: &str, rank: usize, size: usize) -> Vec<(String, String)> {
    let (rank, size) = (rank.to_string(), size.to_string());
    [
        ("RANK", rank.as_str()),
        ("WORLD_SIZE", &size),
        ("LOCAL_RANK", &rank),
        ("LOCAL_WORLD_SIZE", &size),
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", "29511"),
        ("TORCHELASTIC_RUN_ID", id),
    ]
    .map(|(name, value)| (name.to_string(), value.to_string()))
    .to_vec()
}

/// The program, piped, without any variable of a launcher that runs this test.
fn program(temp: &Path, args: &str) -> Command {
    let mut command = Command::new(UNICON);
    let ours = |name: &str| {
        ["SLURM_", "OMPI_", "PMI", "MV2_", "UNICON_"].iter().any(|p| name.starts_with(p))
            || ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"].contains(&name)
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
        command.env_remove(name);
    }
    command.args(args.split_whitespace()).args(["--threads", "1", "--device", "cpu", "--json"]);
    command.env("TMPDIR", temp).env("UNICON_COMM_TIMEOUT", "60").env("UNICON_RANKS", "env");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A folder for data and models, and one for temporary files, in which nothing may be left.
struct Lab {
    dir: tempfile::TempDir,
    temp: PathBuf,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let temp = dir.path().join("tmp");
        std::fs::create_dir(&temp).unwrap();
        Self { dir, temp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the ranks of a job under torchrun's variables.
    fn start(&self, id: &str, size: usize, args: &str) -> Vec<Child> {
        self.start_with(size, args, |rank| torchrun(id, rank, size))
    }

    fn start_with(
        &self,
        size: usize,
        args: &str,
        variables: impl Fn(usize) -> Vec<(String, String)>,
    ) -> Vec<Child> {
        (0..size).map(|rank| program(&self.temp, args).envs(variables(rank)).spawn().unwrap()).collect()
    }

    /// What one process reports.
    fn alone(&self, args: &str) -> serde_json::Value {
        report(&[wait(program(&self.temp, args).spawn().unwrap())])
    }

    /// The model that ranks have made under these arguments is, to the bit, that of one process, which takes its place.
    fn one_process_makes_it_too(&self, args: &str, model: &Path) {
        let shared = tensors(model);
        self.alone(args);
        assert!(tensors(model) == shared);
    }

    /// A fit that would run for minutes.
    fn long_fit(&self, id: &str) -> (Vec<Child>, PathBuf) {
        let (x, y) = data(self.dir.path(), 6000);
        let model = self.path("model.safetensors");
        let args =
            format!("fit --x {x} --y {y} --rank 12 --iters 100000 --tau 0.1 --out {}", model.display());
        (self.start(id, 3, &args), model)
    }

    /// Names of temporary files.
    fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.temp).unwrap();
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }

    /// Waits until all cards of a job of three are there, and a fit is under way.
    fn under_way(&self) {
        let begin = Instant::now();
        while self.left().iter().filter(|n| n.starts_with("unicon-")).count() < 3 {
            assert!(begin.elapsed() < LIMIT, "the ranks do not meet: {:?}", self.left());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(Duration::from_millis(700));
    }
}

/// Exactly one of the ranks has printed, one object; all ended well.
fn report(outs: &[Output]) -> serde_json::Value {
    for out in outs {
        assert!(out.status.success() && out.stderr.is_empty(), "{}", text(&out.stderr));
    }
    assert!(outs[1..].iter().all(|o| o.stdout.is_empty()), "more than one rank prints");
    serde_json::from_slice(&outs[0].stdout).unwrap()
}

fn wait_all(children: Vec<Child>) -> Vec<Output> {
    children.into_iter().map(wait).collect()
}

#[test]
fn ranks_without_mpi_agree_with_one_process_bit_for_bit() {
    let lab = Lab::new();
    let (x, y) = data(lab.dir.path(), 2000);
    let fit = |name: &str| {
        let model = lab.path(name);
        (
            format!(
                "fit --x {x} --y {y} --rank 8 --whiten 0.1 --iters 2 --tau 0.1 --out {}",
                model.display()
            ),
            model,
        )
    };
    let (args, alone) = fit("alone");
    lab.alone(&args);
    let plain = |rank: usize| {
        let pairs = [("UNICON_RANK", rank), ("UNICON_WORLD_SIZE", 2), ("UNICON_LOCAL_RANK", rank)];
        pairs.map(|(name, value)| (name.to_string(), value.to_string())).to_vec()
    };
    // Slurm without MPI: what srun sets on one node.
    let slurm = |rank: usize| {
        let mut all = vec![("UNICON_TRANSPORT".to_string(), "local".to_string())];
        for (name, value) in [
            ("SLURM_PROCID", rank),
            ("SLURM_STEP_NUM_TASKS", 4),
            ("SLURM_STEP_NUM_NODES", 1),
            ("SLURM_LOCALID", rank),
            ("SLURM_JOB_ID", 5),
            ("SLURM_STEP_ID", 0),
        ] {
            all.push((name.to_string(), value.to_string()));
        }
        all
    };
    for (launcher, size) in [("torchrun", 3), ("a launcher", 2), ("srun (Slurm)", 4)] {
        let (args, model) = fit(launcher.split(' ').next().unwrap());
        let children = match launcher {
            "torchrun" => lab.start("a", size, &args),
            "a launcher" => lab.start_with(size, &args, plain),
            _ => lab.start_with(size, &args, slurm),
        };
        let ranks = report(&wait_all(children))["ranks"].clone();
        assert_eq!((&ranks["launcher"], &ranks["transport"]), (&launcher.into(), &"local".into()));
        assert_eq!(ranks["size"], size);
        let places: Vec<[usize; 2]> = serde_json::from_value(ranks["local"].clone()).unwrap();
        assert_eq!(places, (0..size).map(|rank| [rank, size]).collect::<Vec<_>>());
        let counted = |name: &str| {
            let of = |t: &serde_json::Value| t[name].as_u64().unwrap();
            ranks["traffic"].as_array().unwrap().iter().map(of).sum::<u64>()
        };
        assert!(counted("sent") == counted("received") && counted("sent") > 0, "{ranks}");
        assert!(ranks["resident_bytes"].as_array().unwrap().iter().all(|b| b.as_u64() > Some(1 << 20)));
        assert!(tensors(&model) == tensors(&alone), "{launcher}: F on {size} ranks");
    }
    // Commands that one rank does for all, and those that all share.
    let model = alone.display();
    let eval = format!("eval --model {model} --x {x} --y {y}");
    let one = lab.alone(&eval);
    assert_eq!(report(&wait_all(lab.start("a", 3, &eval)))["recall"], one["recall"]);
    assert_eq!(report(&wait_all(lab.start("a", 3, "info")))["command"], "info");
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn two_jobs_at_one_address_do_not_meet() {
    let lab = Lab::new();
    let jobs = ["a", "b"].map(|id| {
        let (x, y) = data(&lab.path(id), if id == "a" { 1500 } else { 2100 });
        let model = lab.path(&format!("{id}.safetensors"));
        let args = format!("fit --x {x} --y {y} --rank 8 --iters 2 --tau 0.1 --out {}", model.display());
        (lab.start(id, 3, &args), args, model)
    });
    for (children, args, model) in jobs {
        report(&wait_all(children));
        lab.one_process_makes_it_too(&args, &model);
    }
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn a_killed_rank_ends_the_others_by_its_name() {
    for victim in [1, 0] {
        let lab = Lab::new();
        let (mut children, model) = lab.long_fit("killed");
        lab.under_way();
        signal(children[victim].id(), "KILL");
        let begin = Instant::now();
        let dead = wait(children.remove(victim));
        assert!(!dead.status.success());
        let others = wait_all(children);
        // A second or two, on a machine that has nothing else to do.
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        for out in &others {
            let said = complaints(out);
            assert_eq!(out.status.code(), Some(1), "{said:?}");
            assert!(said.len() == 1 && said[0].contains(&format!("rank {victim} has died")), "{said:?}");
        }
        assert!(!model.exists());
    }
}

#[test]
fn a_rank_killed_before_all_have_met_is_named_too() {
    let lab = Lab::new();
    let (x, y) = data(lab.dir.path(), 6000);
    let model = lab.path("model.safetensors");
    let args = format!("fit --x {x} --y {y} --rank 12 --iters 100000 --tau 0.1 --out {}", model.display());
    // Before it has posted its card, while ranks meet and connect, while they read.
    for (k, delay) in [0, 3, 6, 10, 15, 25, 50].into_iter().enumerate() {
        let victim = k % 3;
        let id = format!("early-{delay}");
        let start = |rank| {
            let mut command = program(&lab.temp, &args);
            command.envs(torchrun(&id, rank, 3)).env("UNICON_COMM_TIMEOUT", "2").spawn().unwrap()
        };
        let mut children: Vec<_> = (0..3).map(start).collect();
        std::thread::sleep(Duration::from_millis(delay));
        signal(children[victim].id(), "KILL");
        let begin = Instant::now();
        wait(children.remove(victim));
        for out in wait_all(children) {
            let said = complaints(&out);
            assert_eq!(out.status.code(), Some(1), "after {delay} ms: {said:?}");
            assert!(
                said.len() == 1 && said[0].contains(&format!("rank {victim} ")),
                "after {delay} ms: {said:?}"
            );
        }
        assert!(begin.elapsed() < Duration::from_secs(15) && !model.exists(), "{:?}", begin.elapsed());
    }
}

#[test]
fn cards_that_a_killed_job_left_are_not_taken_for_the_next_ones() {
    let lab = Lab::new();
    let (children, model) = lab.long_fit("again");
    lab.under_way();
    // All at once, as a batch system does it.
    children.iter().for_each(|c| signal(c.id(), "STOP"));
    children.iter().for_each(|c| signal(c.id(), "KILL"));
    wait_all(children);
    assert_eq!(lab.left().iter().filter(|n| n.starts_with("unicon-")).count(), 3, "{:?}", lab.left());
    let (x, y) = data(&lab.path("small"), 1500);
    let args = format!("fit --x {x} --y {y} --rank 8 --iters 1 --out {}", model.display());
    report(&wait_all(lab.start("again", 3, &args)));
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn a_rank_that_does_not_come_or_stops_is_not_waited_for() {
    let lab = Lab::new();
    let start = |rank| {
        let mut command = program(&lab.temp, "info");
        command.envs(torchrun("late", rank, 3)).env("UNICON_COMM_TIMEOUT", "1");
        command.spawn().unwrap()
    };
    let begin = Instant::now();
    for out in wait_all(vec![start(0), start(1)]) {
        let said = complaints(&out);
        assert_eq!(out.status.code(), Some(1), "{said:?}");
        assert!(said.len() == 1 && said[0].contains("rank 2 has not come"), "{said:?}");
    }
    assert!(begin.elapsed() < Duration::from_secs(20) && lab.left().is_empty(), "{:?}", lab.left());

    let (x, y) = data(lab.dir.path(), 6000);
    let model = lab.path("model.safetensors");
    let args = format!("fit --x {x} --y {y} --rank 12 --iters 100000 --tau 0.1 --out {}", model.display());
    let start = |rank| {
        let mut command = program(&lab.temp, &args);
        command.envs(torchrun("stops", rank, 3)).env("UNICON_COMM_TIMEOUT", "2").spawn().unwrap()
    };
    let mut children: Vec<_> = (0..3).map(start).collect();
    lab.under_way();
    signal(children[2].id(), "STOP");
    let begin = Instant::now();
    let stopped = children.pop().unwrap();
    let others = wait_all(children);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    signal(stopped.id(), "KILL");
    wait(stopped);
    let said: Vec<String> = others.iter().flat_map(complaints).collect();
    assert!(others.iter().all(|o| o.status.code() == Some(1)) && said.len() == 2, "{said:?}");
    assert!(said.iter().any(|s| s.contains("rank 2 has not answered")), "{said:?}");
    assert!(!model.exists());
}

#[test]
fn what_fails_or_is_cancelled_on_one_rank_ends_all() {
    let lab = Lab::new();
    let (x, y) = data(lab.dir.path(), 1500);
    let model = lab.path("model.safetensors");
    let children = (0..3).map(|rank| {
        let x = if rank == 1 { lab.path("none").display().to_string() } else { x.clone() };
        let args = format!("fit --x {x} --y {y} --rank 6 --out {}", model.display());
        program(&lab.temp, &args).envs(torchrun("shard", rank, 3)).spawn().unwrap()
    });
    let outs = wait_all(children.collect());
    let said: Vec<String> = outs.iter().flat_map(complaints).collect();
    assert!(outs.iter().all(|o| o.status.code() == Some(1)), "{said:?}");
    assert!(said.len() == 1 && said[0].contains("rank 1:") && said[0].contains("none"), "{said:?}");

    let (children, model) = lab.long_fit("cancelled");
    lab.under_way();
    signal(children[2].id(), "INT");
    let outs = wait_all(children);
    let said: Vec<String> = outs.iter().flat_map(complaints).collect();
    assert!(said.len() == 1 && said[0].contains("rank 2: cancelled"), "{said:?}");
    assert_eq!(outs[2].status.code(), Some(130));
    assert!(outs.iter().all(|o| !o.status.success()) && !model.exists());
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn a_fit_goes_on_with_another_number_of_ranks() {
    let lab = Lab::new();
    let (x, y) = data(lab.dir.path(), 3000);
    let args = |name: &str| {
        let model = lab.path(name).display().to_string();
        format!(
            "fit --x {x} --y {y} --rank 12 --preset global --iters 1 --refine 25 --whiten 0.1 --tau 0.1 --out {model}"
        )
    };
    lab.alone(&args("whole"));
    let state = lab.path("state");
    let inode = || std::fs::metadata(&state).ok().map(|m| std::os::unix::fs::MetadataExt::ino(&m));
    let mut killed = 0;
    for size in [3, 2] {
        let shared = format!("{} --checkpoint {}", args("model"), state.display());
        let mut children = lab.start("resume", size, &shared);
        let (begin, before) = (Instant::now(), inode());
        // Until two more steps are on disk.
        let mut last = before;
        let mut steps = 0;
        while steps < 2 && begin.elapsed() < LIMIT && children[0].try_wait().unwrap().is_none() {
            let now = inode();
            steps += usize::from(now != last);
            last = now;
            std::thread::sleep(Duration::from_micros(500));
        }
        if children[1].try_wait().unwrap().is_none() {
            signal(children[1].id(), "KILL");
            killed += 1;
        }
        let ended = wait_all(children);
        assert!(ended.iter().any(|o| !o.status.success()) && !lab.path("model").exists());
    }
    assert_eq!(killed, 2, "the fit was too quick");
    let last = format!("{} --checkpoint {}", args("model"), state.display());
    report(&wait_all(lab.start("resume", 4, &last)));
    assert!(tensors(&lab.path("model")) == tensors(&lab.path("whole")));
}

#[test]
fn ranks_that_cannot_be_connected_are_an_error() {
    let lab = Lab::new();
    let with = |variables: &[(&str, &str)]| {
        let out = wait(program(&lab.temp, "info").envs(variables.iter().copied()).spawn().unwrap());
        (out.status.code(), complaints(&out).concat())
    };
    // Two machines with a process each.
    let mut apart =
        [("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")].to_vec();
    let (code, said) = with(&apart);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("2 ranks: torchrun starts no MPI") && said.contains("mpirun -n 2 or srun"),
        "{said}"
    );
    apart.push(("UNICON_LAUNCHER", "none"));
    assert_eq!(with(&apart).0, Some(0));
    if !cfg!(feature = "mpi") {
        let (code, said) = with(&[
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "1"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
        ]);
        assert!(code == Some(1) && said.contains("built without MPI"), "{said}");
        let mpi = [("RANK", "1"), ("WORLD_SIZE", "2"), ("UNICON_TRANSPORT", "mpi")];
        assert!(with(&mpi).1.contains("built without MPI"));
    }
    let (code, said) = with(&[("UNICON_RANK", "2"), ("UNICON_WORLD_SIZE", "2")]);
    assert!(code == Some(1) && said.contains("UNICON_RANK: expected a number below"), "{said}");
    let (code, said) = with(&[("RANK", "0"), ("WORLD_SIZE", "2"), ("UNICON_TRANSPORT", "carrier pigeon")]);
    assert!(code == Some(1) && said.contains("UNICON_TRANSPORT: expected mpi, local or nccl"), "{said}");
    let info: serde_json::Value =
        serde_json::from_slice(&wait(program(&lab.temp, "info").spawn().unwrap()).stdout).unwrap();
    assert_eq!(info["mpi"], cfg!(feature = "mpi"));
}

/// A plain rank under `wrapper`, whose last words are the program's.
fn wrapped(temp: &Path, wrapper: &[&str], (rank, size): (usize, usize), args: &str) -> Command {
    let plain = program(temp, args);
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("UNICON_RANK", rank.to_string()).env("UNICON_WORLD_SIZE", size.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn ranks_meet_that_each_have_a_parent_of_their_own() {
    let lab = Lab::new();
    let shell = ["sh", "-c", "\"$@\"; exit $?", "sh"];
    let nested = [&["timeout", "60"][..], &shell, &["nice"], &shell].concat();
    for wrapper in [&["timeout", "60"][..], &shell, &nested] {
        let start = |rank| wrapped(&lab.temp, wrapper, (rank, 3), "info").spawn().unwrap();
        // One of them prints, so they have met.
        report(&wait_all((0..3).map(start).collect()));
    }
    // Two scripts at the same time, in one session: each is a job.
    let jobs = ["a", "b"].map(|name| {
        let (x, y) = data(&lab.path(name), if name == "a" { 1500 } else { 2100 });
        let model = lab.path(&format!("{name}.safetensors"));
        let args = format!("fit --x {x} --y {y} --rank 8 --iters 2 --tau 0.1 --out {}", model.display());
        let ranks = "for r in 0 1; do UNICON_RANK=$r UNICON_WORLD_SIZE=2 timeout 60 \"$@\" & done; wait";
        let mut script = wrapped(&lab.temp, &["sh", "-c", ranks, "sh"], (0, 2), &args);
        script.env_remove("UNICON_RANK").env_remove("UNICON_WORLD_SIZE");
        (script.spawn().unwrap(), args, model)
    });
    for (script, args, model) in jobs {
        assert_eq!(report(&[wait(script)])["ranks"]["size"], 2);
        lab.one_process_makes_it_too(&args, &model);
    }
    assert_eq!(lab.left(), [""; 0]);
}

#[test]
fn two_jobs_in_one_place_are_refused_not_mixed() {
    let lab = Lab::new();
    let (x, y) = data(lab.dir.path(), 6000);
    let model = lab.path("model.safetensors");
    let args = format!("fit --x {x} --y {y} --rank 12 --iters 100000 --tau 0.1 --out {}", model.display());
    let start = |rank, size, args: &str| {
        let mut command = wrapped(&lab.temp, &["timeout", "100"], (rank, size), args);
        command.env("UNICON_COMM_TIMEOUT", "20").spawn().unwrap()
    };
    let mut first: Vec<_> = (0..3).map(|rank| start(rank, 3, &args)).collect();
    lab.under_way();
    // Of one parent, so in one place: as many ranks, and more.
    for size in [3, 4] {
        for out in wait_all((0..size).map(|rank| start(rank, size, "info")).collect()) {
            let said = complaints(&out);
            assert_eq!(out.status.code(), Some(1), "{said:?}");
            assert!(said.len() == 1 && said[0].contains("places of their own"), "{said:?}");
        }
    }
    assert!(first.iter_mut().all(|c| c.try_wait().unwrap().is_none()), "the first job was disturbed");
    first.iter().for_each(|c| signal(c.id(), "TERM"));
    assert!(wait_all(first).iter().all(|out| !out.status.success()) && !model.exists());
}

#[test]
fn a_rank_that_waits_long_says_for_whom() {
    let lab = Lab::new();
    let mut command = wrapped(&lab.temp, &["timeout", "60"], (0, 2), "info");
    let said = complaints(&wait(command.env("UNICON_COMM_TIMEOUT", "11").spawn().unwrap()));
    assert!(said.len() == 2 && said[0].contains("waiting for rank 1 at "), "{said:?}");
    assert!(said[0].contains("UNICON_RENDEZVOUS") && said[1].contains("rank 1 has not come"), "{said:?}");
    assert_eq!(lab.left(), [""; 0]);
}
