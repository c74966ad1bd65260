//! Several CUDA devices whose data moves through NCCL, on the stand-in libraries: the same bits as through the host, a clear
//! word where NCCL cannot be used, and an end with a reason whatever happens to one of them. Devices are those of one process
//! (`--device cuda:0,1`), a thread each, or one of each rank under `mpirun`.

use crate::processes::{self, LIMIT, UNICON, complaints, mpi, mpirun, signal, tensors, text, wait};
use crate::standin;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder for data and models, and the libraries that the devices are found with.
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

    /// What every process gets.
    fn prepare(&self, command: &mut Command, extra: &[(&'static str, String)]) {
        command.current_dir(self.dir.path()).env_remove("UNICON_NCCL");
        command.env("UNICON_STANDIN_DEVICES", "4").env("TMPDIR", self.dir.path().join("tmp"));
        command.env("UNICON_COMM_TIMEOUT", "60").envs(extra.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    /// Starts `unicon` on the first `size` devices.
    fn start(&self, size: usize, args: &str, extra: &[(&'static str, String)]) -> Child {
        let mut command: Command = standin::unicon(&self.libraries);
        let devices: Vec<String> = (0..size).map(|k| k.to_string()).collect();
        command.args(args.split_whitespace()).args(["--json", "--threads", "1"]);
        command.args(["--device", &format!("cuda:{}", devices.join(","))]);
        self.prepare(&mut command, extra);
        command.spawn().unwrap()
    }

    fn run(&self, size: usize, args: &str, extra: &[(&'static str, String)]) -> Output {
        wait(self.start(size, args, extra))
    }

    /// Starts as many ranks under mpirun, each with the variables that `extra` gives it.
    fn start_mpi(&self, size: usize, args: &str, extra: impl Fn(usize) -> Variables) -> Child {
        let exports = |rank: usize| {
            let list = extra(rank).into_iter().map(|(name, value)| format!("export {name}=\"{value}\";"));
            format!("[ $r = {rank} ] && {{ {} : ; }};", list.collect::<String>())
        };
        let exports: String = (0..size).map(exports).collect();
        let run = format!("exec {UNICON} {args} --json --threads 1");
        let run = if args.contains("--device") { run } else { format!("{run} --device cuda") };
        let mut command = mpirun(size, &format!("{exports} {run}"));
        command.env("LD_LIBRARY_PATH", &self.libraries).env("UNICON_CUDA_LIBRARIES", "");
        self.prepare(&mut command, &[]);
        command.spawn().unwrap()
    }

    /// A run that ends well: the object that is printed. Nothing may be left in the temporary folder.
    fn report(&self, size: usize, args: &str, extra: &[(&'static str, String)]) -> Value {
        let out = self.run(size, args, extra);
        assert!(out.status.success() && out.stderr.is_empty(), "{args}: {}", text(&out.stderr));
        self.is_clean();
        serde_json::from_slice(&out.stdout).unwrap()
    }

    fn is_clean(&self) {
        let left: Vec<_> =
            std::fs::read_dir(self.path("tmp")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// The variable that makes a process write what its devices were asked for, to be read by [`device`](Self::device).
    fn watched(&self) -> Variables {
        with("UNICON_STANDIN_REPORT", &self.path("report"))
    }

    fn device(&self) -> BTreeMap<String, u64> {
        let path = self.path("report");
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
        let nccl = lab.report(size, &format!("{args} nccl"), &lab.watched());
        let host = lab.report(size, &format!("{args} host"), &with("UNICON_NCCL", "off"));
        assert!(tensors(Path::new(&lab.path("nccl"))) == tensors(Path::new(&lab.path("host"))), "{options}");
        assert_eq!(nccl["final_loss"], host["final_loss"]);
        let said =
            |report: &Value, name: &str| report["ranks"][name].as_str().unwrap_or_default().to_string();
        assert_eq!((said(&nccl, "device_data"), said(&nccl, "nccl")), ("nccl".into(), "2.28.5".into()));
        assert_eq!(said(&host, "device_data"), "host");
        assert!(said(&host, "no_nccl").contains("UNICON_NCCL=off"), "{host}");
        let devices: Vec<String> = (0..size).map(|k| format!("cuda:{k}")).collect();
        assert_eq!(nccl["ranks"]["devices"], serde_json::json!(devices));
        assert_eq!((said(&nccl, "launcher"), said(&nccl, "transport")), ("unicon".into(), "threads".into()));
        // What was moved is counted, through whatever it went: embeddings at least.
        for report in [&nccl, &host] {
            let traffic = report["ranks"]["traffic"].as_array().unwrap();
            let sum = |name: &str| traffic.iter().map(|t| t[name].as_u64().unwrap()).sum::<u64>();
            assert!(sum("sent") > 2 * 1100 * 32 && sum("received") > 2 * 1100 * 32, "{report}");
        }
        let device = lab.device();
        let left = ["live_device", "live_host", "streams", "events", "modules", "pools", "unrun"];
        assert!(left.iter().all(|name| device[*name] == 0), "{options}: {device:?}");
        assert!(device["ncclBroadcast"] > 2 && device["ncclSend"] > 0, "{options}: {device:?}");
        let size = size as u64;
        assert_eq!((device["ncclCommInitRankConfig"], device["ncclCommDestroy"]), (size, size));
        assert!(!device.contains_key("ncclCommAbort"));
    }
    // What a model is used for.
    for args in [
        "eval --model nccl --x x.npy --y y.npy",
        "search --model nccl --queries x.npy --items y.npy --k 2 --out found.npy",
    ] {
        let all = [with("UNICON_NCCL", "require"), with("UNICON_NCCL", "off")].map(|extra| {
            let mut report = lab.report(3, args, &extra);
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
            lab.report(2, &format!("{args} {name}"), &[variables, lab.watched()].concat());
            lab.device().get("ncclGroupStart").copied().unwrap_or(0)
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
    let of_device_1 =
        |call: &str| [with("UNICON_STANDIN_FAIL", call), with("UNICON_STANDIN_FAIL_DEVICE", "1")].concat();
    let cases: Vec<(&Path, Variables, &str)> = vec![
        (absent.path(), Vec::new(), "rank 0: no NCCL: libnccl.so.2 was not found"),
        (&all, with("UNICON_NCCL", &broken), "rank 0: no NCCL: libnccl.so.2 has no ncclGetUniqueId"),
        (&all, with("UNICON_NCCL", "/nowhere/libnccl.so.2"), "rank 0: /nowhere/libnccl.so.2 was not found"),
        (&all, with("UNICON_STANDIN_NCCL", "21003"), "NCCL 2.10.3 was found, version 2 from 2.18.0 on"),
        (&all, with("UNICON_NCCL", "off"), "rank 0: UNICON_NCCL=off"),
        (
            &all,
            with("UNICON_STANDIN_FAIL", "ncclGetUniqueId:1"),
            "ncclGetUniqueId: unhandled system error (2)",
        ),
        (&all, of_device_1("ncclCommInitRankConfig:1"), "rank 1: CUDA: NCCL: ncclCommInitRankConfig"),
        (&all, of_device_1("start:1"), "CUDA: NCCL: a transfer: "),
    ];
    for (libraries, extra, says) in cases {
        lab.libraries = libraries.to_path_buf();
        let extra = [with("UNICON_COMM_TIMEOUT", "3"), extra].concat();
        let out = lab.run(2, &format!("{FIT} --iters 1 --out m"), &extra);
        assert!(out.status.success() && out.stderr.is_empty(), "{says}: {}", text(&out.stderr));
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["ranks"]["device_data"], "host", "{says}");
        let said = report["ranks"]["no_nccl"].as_str().unwrap();
        assert!(said.contains(says), "{said} instead of {says}");
        std::fs::remove_file(lab.path("m")).unwrap();
        // Of a join that fails its name may stay, as NCCL's own files may.
        for entry in std::fs::read_dir(lab.path("tmp")).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        if extra.iter().any(|(name, _)| *name == "UNICON_NCCL") {
            continue;
        }
        // The same is an error where NCCL is required.
        let required = [extra, with("UNICON_NCCL", "require")].concat();
        let out = lab.run(2, &format!("{FIT} --iters 1 --out m"), &required);
        let said = complaints(&out);
        assert!(out.status.code() == Some(1) && said.len() == 1 && said[0].contains(says), "{said:?}");
        assert!(said[0].contains("rank 0 has UNICON_NCCL=require"), "{said:?}");
        assert!(!Path::new(&lab.path("m")).exists());
    }
    lab.libraries = all;
    let said = complaints(&lab.run(2, &format!("{FIT} --iters 1 --out m"), &with("UNICON_NCCL", "maybe")));
    assert!(said.len() == 1 && said[0].contains("UNICON_NCCL: expected auto, off"), "{said:?}");
}

/// What can differ between processes only.
#[test]
fn ranks_that_do_not_agree_on_nccl_go_without_it() {
    let Some(lab) = Lab::new().filter(|_| mpi()) else { return };
    lab.features(60, 60, 10);
    let only_rank_1 = |name: &'static str, value: &'static str| {
        move |rank: usize| if rank == 1 { with(name, value) } else { Vec::new() }
    };
    type Extra = Box<dyn Fn(usize) -> Variables>;
    let cases: [(Extra, &str); 4] = [
        (Box::new(only_rank_1("UNICON_STANDIN_NCCL", "30001")), "rank 1: NCCL 3.0.1 was found"),
        (Box::new(only_rank_1("UNICON_STANDIN_NCCL", "22703")), "rank 0 has NCCL 2.28 and rank 1 has 2.27"),
        (Box::new(only_rank_1("UNICON_NCCL", "off")), "rank 1: UNICON_NCCL=off"),
        (Box::new(|_| with("UNICON_STANDIN_DEVICES", "1")), "ranks 0 and 1 share a device"),
    ];
    for (extra, says) in cases {
        let run = |require: bool| {
            let extra = |rank: usize| {
                let own = extra(rank);
                let free = require && rank == 0 && !own.iter().any(|(name, _)| *name == "UNICON_NCCL");
                if free { [own, with("UNICON_NCCL", "require")].concat() } else { own }
            };
            wait(lab.start_mpi(2, &format!("{FIT} --iters 1 --out m"), extra))
        };
        let out = run(false);
        assert!(out.status.success(), "{says}: {}", text(&out.stderr));
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(report["ranks"]["device_data"], "host", "{says}");
        let said = report["ranks"]["no_nccl"].as_str().unwrap();
        assert!(said.contains(says), "{said} instead of {says}");
        std::fs::remove_file(lab.path("m")).unwrap();
        let said = complaints(&run(true));
        assert!(said.len() == 1 && said[0].contains(says), "{said:?}");
        assert!(said[0].contains("rank 0 has UNICON_NCCL=require"), "{said:?}");
        assert!(!Path::new(&lab.path("m")).exists());
    }
}

/// The largest difference of two models' `F1^T F2` against its largest entry.
fn distance(a: &str, b: &str) -> f64 {
    let product = |path: &str| {
        let model = unicon::model::Model::load(path).unwrap();
        let c = &model.components[0];
        c.x.matrix.transpose() * &c.y.matrix
    };
    let (a, b) = (product(a), product(b));
    (&a - &b).norm_max() / b.norm_max()
}

#[test]
fn several_devices_give_what_one_gives() {
    let Some(lab) = Lab::new() else { return };
    lab.features(1100, 1100, 10);
    let args = format!("{FIT} --precision f32 --iters 2 --whiten 0.1 --out ");
    lab.report(1, &format!("{args} one"), &[]);
    for size in [2, 3] {
        lab.report(size, &format!("{args} several"), &[]);
        let error = distance(&lab.path("several"), &lab.path("one"));
        // fp32 sums cut elsewhere, over two updates.
        assert!(error <= 1e-4, "{size} devices: {error:e}");
    }
}

#[test]
fn processes_with_a_device_each_give_what_threads_give() {
    let Some(lab) = Lab::new().filter(|_| mpi()) else { return };
    lab.features(1100, 1100, 10);
    let args = format!("{FIT} --iters 2 --whiten 0.1 --out ");
    lab.report(3, &format!("{args} threads"), &[]);
    // A device by its number is not for several, nor are several for each of several.
    for device in ["cuda:0", "cuda:0,1", "cuda:all"] {
        let out = wait(lab.start_mpi(2, &format!("{args} none --device {device}"), |_| Vec::new()));
        let said = complaints(&out);
        assert!(out.status.code() == Some(1) && said.len() == 1, "{said:?}");
        assert!(said[0].contains("--device: expected cuda, for") && said[0].ends_with(device), "{said:?}");
    }
    for (nccl, device) in [("require", "cuda"), ("off", "auto")] {
        let args = format!("{args} {nccl} --device {device}");
        let out = wait(lab.start_mpi(3, &args, |_| with("UNICON_NCCL", nccl)));
        assert!(out.status.success(), "{}", text(&out.stderr));
        let report: Value = serde_json::from_slice(&out.stdout).unwrap();
        let moved = if nccl == "off" { "host" } else { "nccl" };
        assert_eq!(
            (&report["ranks"]["device_data"], &report["ranks"]["transport"]),
            (&moved.into(), &"mpi".into())
        );
        assert_eq!(report["ranks"]["devices"], serde_json::json!(["cuda:0", "cuda:1", "cuda:2"]));
        assert!(tensors(Path::new(&lab.path(nccl))) == tensors(Path::new(&lab.path("threads"))), "{nccl}");
    }
    lab.is_clean();
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

/// It has failed, in time, and there is no model: what it said, in one line.
fn ends(lab: &Lab, out: &Output, begin: Instant, most: Duration) -> String {
    assert!(begin.elapsed() < most, "took {:?}: {out:?}", begin.elapsed());
    let said = complaints(out);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(said.len() == 1 && !text(&out.stderr).contains("panicked"), "{said:?}");
    assert!(!Path::new(&lab.path("none")).exists());
    said.concat()
}

#[test]
fn an_error_on_one_device_ends_all() {
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
        for nccl in ["auto", "off"] {
            if nccl == "off" && (call.contains("nccl") || call.contains("async") || call.contains("Event")) {
                continue;
            }
            let begin = Instant::now();
            let fault = [with("UNICON_STANDIN_FAIL", call), with("UNICON_STANDIN_FAIL_DEVICE", "1")].concat();
            let extra = [fault, with("UNICON_NCCL", nccl)].concat();
            let out = lab.run(3, &format!("{FIT} --iters 2 --out none"), &extra);
            let said = ends(&lab, &out, begin, Duration::from_secs(40));
            assert!(said.starts_with("unicon: cuda:1: ") && said.contains(says), "{call}: {said}");
            lab.is_clean();
        }
    }
    // The same of a rank that is a process.
    if mpi() {
        for call in ["ncclBroadcast:2", "cuLaunchKernel:12:719"] {
            let begin = Instant::now();
            let fault = |rank| if rank == 1 { with("UNICON_STANDIN_FAIL", call) } else { Vec::new() };
            let out = wait(lab.start_mpi(3, &format!("{FIT} --iters 2 --out none"), fault));
            assert!(
                ends(&lab, &out, begin, Duration::from_secs(40)).starts_with("unicon: rank 1: "),
                "{call}"
            );
        }
    }
}

#[test]
fn a_signal_stops_all_devices() {
    let Some(lab) = Lab::new() else { return };
    lab.features(600, 600, 10);
    for (nccl, name, code) in [("require", "INT", 130), ("off", "TERM", 143)] {
        let child = lab.start(3, &format!("{FIT} --iters 100000 --out none"), &with("UNICON_NCCL", nccl));
        std::thread::sleep(Duration::from_secs(2));
        signal(child.id(), name);
        let (begin, out) = (Instant::now(), wait(child));
        let said = complaints(&out);
        assert_eq!((out.status.code(), &said[..]), (Some(code), &["unicon: cancelled".to_string()][..]));
        assert!(begin.elapsed() < Duration::from_secs(10) && !Path::new(&lab.path("none")).exists());
        lab.is_clean();
    }
}

/// Ranks under mpirun in the midst of a fit that would run for minutes, and their processes.
fn long_fit(lab: &Lab, size: usize, extra: impl Fn(usize) -> Variables) -> (Child, Vec<u32>) {
    let child = lab.start_mpi(size, &format!("{FIT} --iters 100000 --out none"), extra);
    let begin = Instant::now();
    let mut ranks = Vec::new();
    while ranks.len() < size {
        assert!(begin.elapsed() < LIMIT, "the ranks do not start");
        std::thread::sleep(Duration::from_millis(5));
        ranks = processes::ranks_of(child.id());
    }
    std::thread::sleep(Duration::from_secs(3));
    (child, ranks)
}

#[test]
fn a_process_that_is_killed_ends_the_others() {
    let Some(lab) = Lab::new().filter(|_| mpi()) else { return };
    lab.features(600, 600, 10);
    for nccl in ["require", "off"] {
        let (child, ranks) = long_fit(&lab, 3, |_| with("UNICON_NCCL", nccl));
        let begin = Instant::now();
        signal(ranks[1], "KILL");
        let out = wait(child);
        assert!(begin.elapsed() < Duration::from_secs(20), "{nccl}: {:?}", begin.elapsed());
        // mpirun itself says which.
        assert!(
            !out.status.success() && text(&out.stderr).contains("process rank 1"),
            "{}",
            text(&out.stderr)
        );
        assert!(!Path::new(&lab.path("none")).exists());
    }
}

#[test]
fn a_process_that_does_not_answer_is_waited_for_no_longer_than_asked() {
    let Some(lab) = Lab::new().filter(|_| mpi()) else { return };
    lab.features(600, 600, 10);
    for nccl in ["require", "off"] {
        let extra = |_: usize| [with("UNICON_NCCL", nccl), with("UNICON_COMM_TIMEOUT", "2")].concat();
        let (child, ranks) = long_fit(&lab, 2, extra);
        let begin = Instant::now();
        signal(ranks[1], "STOP");
        let out = wait(child);
        // Once for its device and once for itself, at most, and mpirun ends the job.
        assert!(begin.elapsed() < Duration::from_secs(30), "{nccl}: {:?}", begin.elapsed());
        let said = complaints(&out).concat();
        assert!(!out.status.success() && said.contains("rank 0: "), "{nccl}: {}", text(&out.stderr));
        assert!(
            said.contains("has not answered") || said.contains("not all ranks have come"),
            "{nccl}: {said}"
        );
        assert!(!Path::new(&lab.path("none")).exists());
    }
}

#[test]
fn which_devices_is_said_in_one_way() {
    let Some(lab) = Lab::new() else { return };
    lab.features(600, 600, 10);
    let run = |args: &str, devices: &str| {
        let mut command = standin::unicon(&lab.libraries);
        command.args(args.split_whitespace()).args(["--json", "--threads", "1"]);
        lab.prepare(&mut command, &with("UNICON_STANDIN_DEVICES", devices));
        wait(command.spawn().unwrap())
    };
    let json = |out: &Output| -> Value {
        assert!(out.status.success() && out.stderr.is_empty(), "{}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    };
    let fit = format!("{FIT} --iters 1 --out ");
    let all = json(&run(&format!("{fit} all --device cuda:all"), "3"));
    assert_eq!(all["ranks"]["devices"], serde_json::json!(["cuda:0", "cuda:1", "cuda:2"]));
    let list = json(&run(&format!("{fit} list --device cuda:2,0,1"), "4"));
    assert_eq!(list["ranks"]["devices"], serde_json::json!(["cuda:2", "cuda:0", "cuda:1"]));
    assert!(tensors(Path::new(&lab.path("all"))) == tensors(Path::new(&lab.path("list"))));
    // One is as without a list.
    let one = json(&run(&format!("{fit} one --device cuda:all"), "1"));
    assert!(one["ranks"].is_null(), "{one}");
    json(&run(&format!("{fit} two --device cuda:0"), "1"));
    assert!(tensors(Path::new(&lab.path("one"))) == tensors(Path::new(&lab.path("two"))));
    json(&run("report --model all --x x.npy --y y.npy --out page.html --device cuda:all", "1"));
    for (args, code, says) in [
        ("--device cuda:0,9", 1, "cuda:9: there are cuda:0 to cuda:3"),
        ("--device cuda:1,1", 2, "expected every device once"),
        ("--device cuda:1,", 2, "expected auto, cpu, cuda, cuda:N, cuda:N,M or cuda:all"),
        ("--device cuda:0,1 --precision f64", 1, "--precision: expected fp16, bf16 or f32 on CUDA, got f64"),
    ] {
        let begin = Instant::now();
        let out = run(&format!("{fit} none {args}"), "4");
        assert_eq!(out.status.code(), Some(code), "{args}");
        let said = complaints(&out);
        assert!(said.len() == 1 && said[0].contains(says), "{args}: {said:?}");
        assert!(begin.elapsed() < Duration::from_secs(30) && !Path::new(&lab.path("none")).exists());
    }
    let out = run("bench --device cuda:0,1", "4");
    let said = complaints(&out).concat();
    assert!(
        said.contains("--device: expected one device, such as cuda:0, for this command, got cuda:0,1"),
        "{said}"
    );
    let pipe = lab.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let said = complaints(&run("fit --x pipe --y y.npy --rank 3 --out none --device cuda:0,1", "2")).concat();
    assert!(
        said.contains("--x: expected a file, for each of 2 devices reads its rows, got a pipe"),
        "{said}"
    );
    // No device at all.
    assert_eq!(run(&format!("{fit} none --device cuda:all"), "0").status.code(), Some(1));
}
