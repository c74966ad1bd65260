//! Ranks on CUDA devices whose data moves through NCCL, as processes on the stand-in libraries: the same bits as through
//! the host, a clear word where NCCL cannot be used, and an end with a reason whatever happens to one of them.

use crate::processes::{LIMIT, complaints, signal, tensors, text, wait};
use crate::standin;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder for data and models, and the libraries that the ranks find.
struct Lab {
    dir: tempfile::TempDir,
    libraries: PathBuf,
}

type Variables = Vec<(&'static str, String)>;

impl Lab {
    /// None where the stand-ins cannot be built, with a message.
    fn new() -> Option<Self> {
        let libraries = standin::libraries().filter(|folder| standin::built(folder))?;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        Some(Self { dir, libraries })
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Two sides that have something in common.
    fn features(&self, n_x: usize, n_y: usize, d: usize) {
        let value = |i: usize, j: usize| ((i * 37 + j * 101 + i * j) as f32 * 0.7).sin();
        for (name, n, d) in [("x.npy", n_x, d + 2), ("y.npy", n_y, d)] {
            let values: Vec<f32> =
                (0..n * d).map(|k| value(k / d, k % d) + 0.3 * value(k / d + d, k % d + 3)).collect();
            unicon::io::write_npy(self.path(name), &[n, d], &values).unwrap();
        }
    }

    /// Starts ranks of `unicon`, each with the variables `extra` gives it.
    fn start(&self, size: usize, args: &str, extra: impl Fn(usize) -> Variables) -> Vec<Child> {
        (0..size).map(|rank| self.start_one(rank, size, args, extra(rank))).collect()
    }

    fn start_one(&self, rank: usize, size: usize, args: &str, extra: Variables) -> Child {
        let mut command: Command = standin::unicon(&self.libraries);
        command.current_dir(self.dir.path()).args(args.split_whitespace());
        command.args(["--json", "--device", "cuda", "--threads", "1"]);
        for name in ["UNICON_NCCL", "UNICON_TRANSPORT", "UNICON_RENDEZVOUS"] {
            command.env_remove(name);
        }
        command.env("UNICON_STANDIN_DEVICES", "4").env("TMPDIR", self.dir.path().join("tmp"));
        command.env("UNICON_RANK", rank.to_string()).env("UNICON_WORLD_SIZE", size.to_string());
        command.env("UNICON_RANKS", "env");
        command.env("UNICON_COMM_TIMEOUT", "60").envs(extra);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn run(&self, size: usize, args: &str, extra: impl Fn(usize) -> Variables) -> Vec<Output> {
        self.start(size, args, extra).into_iter().map(wait).collect()
    }

    /// A run that ends well: the object that one rank prints. Nothing may be left in the temporary folder.
    fn report(&self, size: usize, args: &str, extra: impl Fn(usize) -> Variables) -> Value {
        let outs = self.run(size, args, extra);
        for out in &outs {
            assert!(out.status.success() && out.stderr.is_empty(), "{args}: {}", text(&out.stderr));
        }
        assert!(outs[1..].iter().all(|o| o.stdout.is_empty()), "more than one rank prints");
        self.is_clean();
        serde_json::from_slice(&outs[0].stdout).unwrap()
    }

    fn is_clean(&self) {
        let left: Vec<_> =
            std::fs::read_dir(self.path("tmp")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// Variables that make a rank write what its device was asked for.
    fn watched(&self, rank: usize) -> Variables {
        vec![("UNICON_STANDIN_REPORT", self.path(&format!("report-{rank}")))]
    }

    fn device(&self, rank: usize) -> BTreeMap<String, u64> {
        let path = self.path(&format!("report-{rank}"));
        let report = standin::report(Path::new(&path));
        std::fs::remove_file(path).unwrap();
        report
    }
}

fn with(name: &'static str, value: &str) -> Variables {
    vec![(name, value.to_string())]
}

const FIT: &str = "fit --x x.npy --y y.npy --rank 3 --tau 0.2";

#[test]
fn data_through_nccl_is_the_same_to_the_bit_as_through_the_host() {
    let Some(lab) = Lab::new() else { return };
    lab.features(1100, 1100, 10);
    let groups: Vec<i64> = (0..1100).map(|i| i % 300).collect();
    unicon::io::write_npy(lab.path("g.npy"), &[1100], &groups).unwrap();
    let many = "--loss sigmoid --groups-x g.npy --groups-y g.npy --iters 1 --init random";
    // Blocks are of 512 rows: three ranks hold 512, 512 and 76.
    for (size, options) in [
        (2, "--whiten 0.1 --iters 2 --precision f32"),
        (3, "--iters 2 --negatives 300"),
        (3, many),
        (2, "--iters 1 --refine 1 --kernel angular --landmarks 20 --precision bf16"),
    ] {
        let args = format!("{FIT} {options} --out ");
        let nccl = lab.report(size, &format!("{args} nccl"), |rank| lab.watched(rank));
        let host = lab.report(size, &format!("{args} host"), |_| with("UNICON_NCCL", "off"));
        assert!(tensors(Path::new(&lab.path("nccl"))) == tensors(Path::new(&lab.path("host"))), "{options}");
        assert_eq!(nccl["final_loss"], host["final_loss"]);
        let said =
            |report: &Value, name: &str| report["ranks"][name].as_str().unwrap_or_default().to_string();
        assert_eq!((said(&nccl, "device_data"), said(&nccl, "nccl")), ("nccl".into(), "2.28.5".into()));
        assert_eq!(said(&host, "device_data"), "host");
        assert!(said(&host, "no_nccl").contains("UNICON_NCCL=off"), "{host}");
        // What was moved is counted, through whatever it went: embeddings at least.
        for report in [&nccl, &host] {
            let traffic = report["ranks"]["traffic"].as_array().unwrap();
            let sum = |name: &str| traffic.iter().map(|t| t[name].as_u64().unwrap()).sum::<u64>();
            assert!(sum("sent") > 2 * 1100 * 32 && sum("received") > 2 * 1100 * 32, "{report}");
        }
        for rank in 0..size {
            let device = lab.device(rank);
            let left = ["live_device", "live_host", "streams", "events", "modules", "pools", "unrun"];
            assert!(left.iter().all(|name| device[*name] == 0), "{options}, rank {rank}: {device:?}");
            assert!(device["ncclBroadcast"] > 2 && device["ncclSend"] > 0, "{options}: {device:?}");
            assert_eq!((device["ncclCommInitRankConfig"], device["ncclCommDestroy"]), (1, 1));
            assert!(!device.contains_key("ncclCommAbort"));
        }
    }
    // What a model is used for.
    for args in [
        "eval --model nccl --x x.npy --y y.npy",
        "search --model nccl --queries x.npy --items y.npy --k 2 --out found.npy",
    ] {
        let all = [with("UNICON_NCCL", "require"), with("UNICON_NCCL", "off")].map(|extra| {
            let mut report = lab.report(3, args, |_| extra.clone());
            let ranks = report.as_object_mut().unwrap().remove("ranks").unwrap();
            assert!(ranks["device_data"].is_string(), "{ranks}");
            let found = std::fs::read(lab.path("found.npy")).ok();
            (report["metrics"].clone(), found)
        });
        assert_eq!(all[0], all[1], "{args}");
    }
}

/// More columns than are brought at once: one piece comes while another is multiplied.
#[test]
fn pieces_that_pass_each_other_change_nothing() {
    let Some(lab) = Lab::new() else { return };
    let (n_x, n_y) = (530, 9000);
    lab.features(n_x, n_y, 90);
    let (mut ptr, mut idx) = (vec![0i64], Vec::new());
    for i in 0..n_x as i64 {
        idx.extend([i * 7, i * 7 + 5000]);
        ptr.push(idx.len() as i64);
    }
    unicon::io::write_npy(lab.path("p.npy"), &[ptr.len()], &ptr).unwrap();
    unicon::io::write_npy(lab.path("i.npy"), &[idx.len()], &idx).unwrap();
    for options in ["--iters 1 --init random", "--iters 1 --init random --negatives 200"] {
        let args = format!("{FIT} --pos-indptr p.npy --pos-indices i.npy {options} --out ");
        let small = |nccl: &str| {
            let mut variables = with("UNICON_STANDIN_MEMORY", "24000000");
            variables.extend(with("UNICON_NCCL", nccl));
            variables
        };
        let calls = |name: &str, variables: Variables| {
            lab.report(2, &format!("{args} {name}"), |rank| [variables.clone(), lab.watched(rank)].concat());
            let device = lab.device(0);
            lab.device(1);
            device.get("ncclGroupStart").copied().unwrap_or(0)
        };
        // Room for all columns, and for fewer.
        let few = calls("whole", with("UNICON_NCCL", "require"));
        let more = calls("pieces", small("require"));
        assert!(more > few, "{options}: {few} {more}");
        calls("host", small("off"));
        let [whole, pieces, host] =
            ["whole", "pieces", "host"].map(|name| tensors(Path::new(&lab.path(name))));
        assert!(whole == pieces && whole == host, "{options}");
    }
}

/// A library of this name that has one function.
fn without_functions(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("nccl.c"), folder.join("libnccl.so.2"));
    std::fs::write(&source, "int ncclGetVersion(int *v) { *v = 22805; return 0; }").unwrap();
    let made =
        Command::new("gcc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(made.success());
    library
}

#[test]
fn where_nccl_cannot_be_used_that_is_said_and_the_host_moves_the_data() {
    let Some(mut lab) = Lab::new() else { return };
    lab.features(60, 60, 10);
    let broken = without_functions(lab.dir.path()).display().to_string();
    let all = lab.libraries.clone();
    let absent = standin::only(&all, &["cuda", "cublas", "cusolver"]);
    let only_rank_1 = |name: &'static str, value: &'static str| {
        move |rank: usize| if rank == 1 { with(name, value) } else { Vec::new() }
    };
    let on_all = |name: &'static str, value: &str| {
        let value = value.to_string();
        move |_: usize| with(name, &value)
    };
    type Extra = Box<dyn Fn(usize) -> Variables>;
    let cases: Vec<(&Path, Extra, &str)> = vec![
        (absent.path(), Box::new(|_| Vec::new()), "rank 0: no NCCL: libnccl.so.2 was not found"),
        (
            &all,
            Box::new(on_all("UNICON_NCCL", &broken)),
            "rank 0: no NCCL: libnccl.so.2 has no ncclGetUniqueId",
        ),
        (
            &all,
            Box::new(on_all("UNICON_NCCL", "/nowhere/libnccl.so.2")),
            "rank 0: /nowhere/libnccl.so.2 was not found",
        ),
        (
            &all,
            Box::new(on_all("UNICON_STANDIN_NCCL", "21003")),
            "NCCL 2.10.3 was found, version 2 from 2.18.0 on",
        ),
        (&all, Box::new(only_rank_1("UNICON_STANDIN_NCCL", "30001")), "rank 1: NCCL 3.0.1 was found"),
        (
            &all,
            Box::new(only_rank_1("UNICON_STANDIN_NCCL", "22703")),
            "rank 0 has NCCL 2.28 and rank 1 has 2.27",
        ),
        (&all, Box::new(only_rank_1("UNICON_NCCL", "off")), "rank 1: UNICON_NCCL=off"),
        (&all, Box::new(on_all("UNICON_STANDIN_DEVICES", "1")), "ranks 0 and 1 share a device"),
        (
            &all,
            Box::new(on_all("UNICON_STANDIN_FAIL", "ncclGetUniqueId:1")),
            "ncclGetUniqueId: unhandled system error (2)",
        ),
        (
            &all,
            Box::new(only_rank_1("UNICON_STANDIN_FAIL", "ncclCommInitRankConfig:1")),
            "ncclCommInitRankConfig",
        ),
        (&all, Box::new(only_rank_1("UNICON_STANDIN_FAIL", "start:1")), "a transfer: "),
    ];
    for (libraries, extra, says) in cases {
        lab.libraries = libraries.to_path_buf();
        // Of a join that fails its name may stay, as NCCL's own files may.
        let outs = lab.run(2, &format!("{FIT} --iters 1 --out m"), |rank| {
            [with("UNICON_COMM_TIMEOUT", "3"), extra(rank)].concat()
        });
        assert!(
            outs.iter().all(|o| o.status.success() && o.stderr.is_empty()),
            "{says}: {}",
            text(&outs[0].stderr)
        );
        let report: Value = serde_json::from_slice(&outs[0].stdout).unwrap();
        assert_eq!(report["ranks"]["device_data"], "host", "{says}");
        let said = report["ranks"]["no_nccl"].as_str().unwrap();
        assert!(said.contains(says), "{said} instead of {says}");
        std::fs::remove_file(lab.path("m")).unwrap();
        // The same is an error where NCCL is required, on one rank.
        let outs = lab.run(2, &format!("{FIT} --iters 1 --out m"), |rank| {
            let own = [with("UNICON_COMM_TIMEOUT", "3"), extra(rank)].concat();
            let free = !own.iter().any(|(name, _)| *name == "UNICON_NCCL");
            if rank == 0 && free { [own, with("UNICON_NCCL", "require")].concat() } else { own }
        });
        if outs.iter().any(|o| !o.status.success()) {
            assert!(outs.iter().all(|o| o.status.code() == Some(1)), "{says}");
            let said: Vec<String> = outs.iter().flat_map(complaints).collect();
            assert!(said.len() == 1 && said[0].contains(says), "{said:?}");
            assert!(said[0].contains("rank 0 has UNICON_NCCL=require"), "{said:?}");
            assert!(!Path::new(&lab.path("m")).exists());
        } else {
            assert!(says.contains("nowhere") || says.contains("has no"), "{says}: required and not there");
            std::fs::remove_file(lab.path("m")).unwrap();
        }
        for entry in std::fs::read_dir(lab.path("tmp")).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }
    lab.libraries = all;
    let outs = lab.run(2, &format!("{FIT} --iters 1 --out m"), |_| with("UNICON_NCCL", "maybe"));
    let said: Vec<String> = outs.iter().flat_map(complaints).collect();
    assert!(
        !said.is_empty() && said.iter().all(|s| s.contains("UNICON_NCCL: expected auto, off")),
        "{said:?}"
    );
}

#[test]
fn info_says_which_nccl_there_is() {
    let Some(lab) = Lab::new() else { return };
    let info = |folder: &Path, json: &[&str]| {
        let out = standin::unicon(folder).arg("info").args(json).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    let json = |folder: &Path| -> Value { serde_json::from_str(&info(folder, &["--json"])).unwrap() };
    assert_eq!(json(&lab.libraries)["nccl"], "2.28.5");
    assert!(info(&lab.libraries, &[]).contains("2.28.5"));
    let absent = standin::only(&lab.libraries, &["cuda", "cublas", "cusolver"]);
    assert!(json(absent.path())["nccl"].is_null());
    assert!(json(absent.path())["no_nccl"].as_str().unwrap().contains("libnccl.so.2 was not found"));
    assert!(info(absent.path(), &[]).contains("no NCCL"));
}

/// All ranks have failed, in time, one of them has said why, and there is no model.
fn ends(lab: &Lab, outs: &[Output], begin: Instant, most: Duration) -> String {
    assert!(begin.elapsed() < most, "took {:?}: {outs:?}", begin.elapsed());
    let said: Vec<String> = outs.iter().flat_map(complaints).collect();
    assert!(outs.iter().all(|o| o.status.code() == Some(1)), "{outs:?}");
    assert!(!said.is_empty() && !said.iter().any(|s| s.contains("panicked")), "{said:?}");
    assert!(!Path::new(&lab.path("none")).exists());
    said.join("\n")
}

/// A call that fails on rank 1 of three: all end, none says more than one line, and what is said names the rank and why.
fn a_fault_ends_all(lab: &Lab, (call, says): (&str, &str), extra: impl Fn(usize) -> Variables) -> String {
    let begin = Instant::now();
    let outs = lab.run(3, &format!("{FIT} --iters 2 --out none"), |rank| match rank {
        1 => [extra(rank), with("UNICON_STANDIN_FAIL", call)].concat(),
        _ => extra(rank),
    });
    println!("{call}");
    let said = ends(lab, &outs, begin, Duration::from_secs(40));
    assert!(outs.iter().all(|o| complaints(o).len() <= 1), "{call}: {said}");
    assert!(said.contains("rank 1: ") && said.contains(says), "{call}: {said}");
    said
}

#[test]
fn an_error_of_nccl_on_one_rank_ends_all() {
    let Some(lab) = Lab::new() else { return };
    lab.features(600, 600, 10);
    for (call, says) in [
        ("ncclBroadcast:2", "ncclBroadcast: unhandled system error"),
        ("ncclSend:1:5", "ncclSend: invalid usage"),
        ("ncclGroupStart:2", "ncclGroupStart"),
        ("ncclGroupEnd:2", "ncclGroupEnd"),
        ("async:3", "a transfer: unhandled system error"),
        ("cuStreamWaitEvent:2:999", "cuStreamWaitEvent"),
        // Between two transfers: the others wait for the next one.
        ("cuMemAllocFromPoolAsync:60", "out of memory"),
        ("cuLaunchKernel:12:719", "kernel"),
    ] {
        let said = a_fault_ends_all(&lab, (call, says), |_| Vec::new());
        assert_eq!(said.lines().count(), 1, "{call}: {said}");
        lab.is_clean();
    }
}

/// Ranks in the midst of a fit that would run for minutes.
fn long_fit(lab: &Lab, size: usize, extra: impl Fn(usize) -> Variables) -> Vec<Child> {
    let args = format!("{FIT} --iters 100000 --out none");
    let children = lab.start(size, &args, extra);
    // All cards are there, and some time for the device to be opened.
    let begin = Instant::now();
    while std::fs::read_dir(lab.path("tmp")).unwrap().count() < size {
        assert!(begin.elapsed() < LIMIT, "the ranks do not meet");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_secs(2));
    children
}

#[test]
fn a_rank_that_is_killed_ends_the_others() {
    let Some(lab) = Lab::new() else { return };
    lab.features(600, 600, 10);
    for nccl in ["require", "off"] {
        let mut children = long_fit(&lab, 3, |_| with("UNICON_NCCL", nccl));
        let begin = Instant::now();
        children[1].kill().unwrap();
        children.remove(1).wait().unwrap();
        let outs: Vec<Output> = children.into_iter().map(wait).collect();
        let said = ends(&lab, &outs, begin, Duration::from_secs(20));
        assert!(said.lines().all(|line| line.contains("rank 1 has died")), "{nccl}: {said}");
    }
}

#[test]
fn a_rank_that_does_not_answer_is_waited_for_no_longer_than_asked() {
    let Some(lab) = Lab::new() else { return };
    lab.features(600, 600, 10);
    for nccl in ["require", "off"] {
        let extra = |_: usize| [with("UNICON_NCCL", nccl), with("UNICON_COMM_TIMEOUT", "2")].concat();
        let mut children = long_fit(&lab, 2, extra);
        let begin = Instant::now();
        signal(children[1].id(), "STOP");
        let silent = children.remove(1);
        let out = wait(children.remove(0));
        // Once for its device and once for itself, at most.
        let said = ends(&lab, &[out], begin, Duration::from_secs(15));
        assert!(said.contains("rank 1 has not answered"), "{nccl}: {said}");
        signal(silent.id(), "CONT");
        let out = wait(silent);
        assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    }
}

#[test]
fn a_rank_that_never_comes_is_named() {
    let Some(lab) = Lab::new() else { return };
    lab.features(60, 60, 10);
    for nccl in ["require", "off"] {
        let begin = Instant::now();
        let extra = [with("UNICON_NCCL", nccl), with("UNICON_COMM_TIMEOUT", "1")].concat();
        let out = wait(lab.start_one(0, 2, &format!("{FIT} --out none"), extra));
        let said = ends(&lab, &[out], begin, Duration::from_secs(15));
        assert!(said.contains("rank 1 has not come"), "{said}");
        lab.is_clean();
    }
}

/// As on machines of their own: the launcher says that each has one rank, and nothing connects them.
fn far_apart(lab: &Lab, _: usize) -> Variables {
    vec![
        ("UNICON_LOCAL_RANK", "0".to_string()),
        ("UNICON_LOCAL_WORLD_SIZE", "1".to_string()),
        ("UNICON_RENDEZVOUS", lab.path("tmp/meeting")),
    ]
}

#[test]
fn nccl_alone_connects_ranks_on_several_machines() {
    let Some(lab) = Lab::new() else { return };
    lab.features(1100, 1100, 10);
    let args = format!("{FIT} --iters 2 --negatives 300 --out ");
    let far =
        lab.report(3, &format!("{args} far"), |rank| [far_apart(&lab, rank), lab.watched(rank)].concat());
    lab.report(3, &format!("{args} near"), |_| with("UNICON_NCCL", "off"));
    assert!(tensors(Path::new(&lab.path("far"))) == tensors(Path::new(&lab.path("near"))));
    assert_eq!(
        (far["ranks"]["transport"].as_str(), far["ranks"]["device_data"].as_str()),
        (Some("nccl"), Some("nccl"))
    );
    for rank in 0..3 {
        let device = lab.device(rank);
        let left = ["live_device", "live_host", "streams", "events", "modules", "pools", "unrun"];
        assert!(left.iter().all(|name| device[*name] == 0), "rank {rank}: {device:?}");
        assert_eq!((device["ncclCommInitRankConfig"], device["ncclCommDestroy"]), (1, 1));
    }
    // Said where they cannot meet, and where ranks have no device each.
    let begin = Instant::now();
    let outs = lab.run(2, &format!("{FIT} --out none"), |rank| far_apart(&lab, rank)[..2].to_vec());
    let said = ends(&lab, &outs, begin, Duration::from_secs(20));
    assert!(said.contains("set UNICON_RENDEZVOUS"), "{said}");
    let fewer = |rank| [far_apart(&lab, rank), with("UNICON_STANDIN_DEVICES", "1")].concat();
    let outs = lab.run(2, &format!("{FIT} --out none"), fewer);
    let said = ends(&lab, &outs, begin, Duration::from_secs(20));
    assert!(said.contains("2 ranks and 1 devices"), "{said}");
    let off = |rank| [far_apart(&lab, rank), with("UNICON_NCCL", "off")].concat();
    let outs = lab.run(2, &format!("{FIT} --out none"), off);
    let said = ends(&lab, &outs, begin, Duration::from_secs(20));
    assert!(said.contains("UNICON_NCCL=off, and nothing else connects the ranks"), "{said}");
}

#[test]
fn ranks_that_nccl_alone_connects_end_together() {
    let Some(lab) = Lab::new() else { return };
    lab.features(600, 600, 10);
    for (call, says) in [
        // Where the words of the ranks are cut off, each says what it knows.
        ("ncclCommInitRankConfig:1", "ncclCommInitRankConfig"),
        ("ncclAllGather:9", "ncclAllGather: unhandled system error"),
        ("ncclBroadcast:2", "ncclBroadcast: unhandled system error"),
        ("cuMemAllocFromPoolAsync:60", "out of memory"),
        ("cuLaunchKernel:12:719", "kernel"),
    ] {
        a_fault_ends_all(&lab, (call, says), |rank| far_apart(&lab, rank));
    }
    let mut children = long_fit(&lab, 3, |rank| far_apart(&lab, rank));
    let begin = Instant::now();
    children[1].kill().unwrap();
    children.remove(1).wait().unwrap();
    let outs: Vec<Output> = children.into_iter().map(wait).collect();
    let said = ends(&lab, &outs, begin, Duration::from_secs(20));
    assert!(said.lines().all(|line| line.contains("rank 1 has died")), "{said}");
    let begin = Instant::now();
    let extra = [far_apart(&lab, 0), with("UNICON_COMM_TIMEOUT", "1")].concat();
    let out = wait(lab.start_one(0, 2, &format!("{FIT} --out none"), extra));
    let said = ends(&lab, &[out], begin, Duration::from_secs(15));
    assert!(said.contains("rank 1 has not come"), "{said}");
}
