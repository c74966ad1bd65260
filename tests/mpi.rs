//! The program as several processes under `mpirun`: the same results as one process, and an end with a reason whatever
//! happens to one of them. Ranks are oversubscribed, one compute thread each.
//!
//! The MPI is Open MPI. With `UNICON_TEST_MPICH` it is MPICH, for which the program must have been built (`MPICC=mpicc.mpich`);
//! tests that kill ranks know the processes of Open MPI's `mpirun` only.

mod library;
mod processes;
#[allow(dead_code, reason = "each test program uses a part of this")]
mod skip;

use processes::{
    LIMIT, MPI_COMPILER, UNICON, complaints, data, mpi, mpich, mpirun, ranks_of, signal, tensors, text, wait,
};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs `unicon args` as one process, or under mpirun as so many; returns what it printed.
fn unicon(ranks: usize, args: &str) -> serde_json::Value {
    let args = format!("{args} --threads 1 --device cpu --json");
    let child = match ranks {
        0 => Command::new(UNICON)
            .args(args.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn(),
        n => mpirun(n, &format!("exec {UNICON} {args}")).spawn(),
    };
    let out = wait(child.unwrap());
    assert!(out.status.success(), "{ranks} ranks, {args}: {}", text(&out.stderr));
    // One rank prints, one object.
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&out.stdout)))
}

/// What a report says of its ranks.
fn counted(ranks: &serde_json::Value, size: usize) {
    assert_eq!((&ranks["transport"], &ranks["size"]), (&"mpi".into(), &size.into()));
    let places: Vec<[usize; 2]> = serde_json::from_value(ranks["local"].clone()).unwrap();
    assert_eq!(places, (0..size).map(|rank| [rank, size]).collect::<Vec<_>>());
    assert_eq!(ranks["devices"], serde_json::json!(vec!["cpu"; size]));
    let sum = |name: &str| {
        let of = |t: &serde_json::Value| t[name].as_u64().unwrap();
        ranks["traffic"].as_array().unwrap().iter().map(of).sum::<u64>()
    };
    assert!(sum("sent") == sum("received") && sum("sent") > 0, "{ranks}");
    assert!(ranks["resident_bytes"].as_array().unwrap().iter().all(|b| b.as_u64() > Some(1 << 20)));
}

#[test]
fn ranks_agree_with_one_process_bit_for_bit() {
    if !mpi() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // Four panels of 512 rows: with four ranks each has one, and of the 1,200 rows of a second set one has none.
    let (x, y) = data(&dir.path().join("large"), 2000);
    let (small_x, small_y) = data(&dir.path().join("small"), 1200);
    let out = |name: String| dir.path().join(name);
    let fits = [
        ("linear", format!("--x {x} --y {y} --rank 8 --whiten 0.1 --iters 2 --tau 0.1")),
        ("sampled", format!("--x {x} --y {y} --rank 8 --negatives 300 --loss sigmoid --tau 1")),
        ("nystrom", format!("--x {small_x} --y {small_y} --rank 6 --kernel angular --landmarks 50")),
    ];
    for (name, options) in &fits {
        let run = |ranks: usize| {
            let model = out(format!("{name}-{ranks}.safetensors"));
            let report = unicon(ranks, &format!("fit {options} --out {}", model.display()));
            if ranks > 1 {
                counted(&report["ranks"], ranks);
            }
            (
                tensors(&model),
                report["info"]["loss"].clone(),
                report["info"]["final_loss"].clone(),
                report["info"]["peak_bytes"].as_u64().unwrap(),
            )
        };
        let alone = run(0);
        for ranks in 1..=4 {
            let shared = run(ranks);
            assert!(shared.0 == alone.0, "{name}: F on {ranks} ranks");
            assert_eq!((&shared.1, &shared.2), (&alone.1, &alone.2), "{name}: losses on {ranks} ranks");
            if ranks == 4 && *name == "linear" {
                // A quarter of the panels each; the products of a stream come on top.
                assert!(
                    10 * shared.3 < 4 * alone.3,
                    "{} bytes on a rank of four, {} on one",
                    shared.3,
                    alone.3
                );
            }
        }
    }
    let model = out("linear-0.safetensors".into());
    let model = model.display();
    let run = |ranks: usize| {
        let (z, top) = (out(format!("z-{ranks}.npy")), out(format!("top-{ranks}.npz")));
        unicon(ranks, &format!("encode --model {model} --side y --input {y} --out {}", z.display()));
        unicon(
            ranks,
            &format!("search --model {model} --queries {x} --items {y} -k 5 --out {}", top.display()),
        );
        let eval = unicon(ranks, &format!("eval --model {model} --x {x} --y {y} --loss"));
        (std::fs::read(z).unwrap(), std::fs::read(top).unwrap(), eval["recall"].clone(), eval["loss"].clone())
    };
    let alone = run(0);
    for ranks in [2, 3] {
        assert!(run(ranks) == alone, "{ranks} ranks");
    }
}

#[test]
fn what_fails_on_one_rank_ends_all_with_its_name_and_reason() {
    if !mpi() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = data(dir.path(), 1500);
    let model = dir.path().join("model.safetensors");
    let common = format!("--y {y} --rank 6 --threads 1 --device cpu --out {}", model.display());
    // One shard less on rank 1.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(dir.path().join("x/part-0.npy"), other.join("part-0.npy")).unwrap();
    let cases = [
        (format!("x={x}; [ $r = 1 ] && x={}/none", dir.path().display()), "rank 1:", "none"),
        (format!("x={x}; [ $r = 1 ] && x={}", other.display()), "rank 1:", "1500"),
        // The result cannot be written, which only rank 0 tries.
        (format!("x={x}; set -- --out {}/no/folder/model", dir.path().display()), "rank 0:", "no/folder"),
    ];
    for (prepare, rank, reason) in cases {
        let common = if prepare.contains("set --") {
            format!("--y {y} --rank 6 --threads 1 --device cpu $*")
        } else {
            common.clone()
        };
        let begin = Instant::now();
        let out = wait(mpirun(3, &format!("{prepare}; exec {UNICON} fit --x $x {common}")).spawn().unwrap());
        let said = text(&out.stderr);
        assert!(!out.status.success(), "{said}");
        let line = said.lines().find(|l| l.starts_with("unicon:")).unwrap_or_default();
        assert!(line.contains(rank) && line.contains(reason), "{said}");
        assert_eq!(said.lines().filter(|l| l.starts_with("unicon:")).count(), 1, "{said}");
        assert!(begin.elapsed() < LIMIT / 2 && !model.exists());
    }
}

/// Starts a fit that would run for minutes, waits until all ranks are there and `delay` has passed.
fn long_fit(dir: &Path, model: &Path, delay: Duration) -> (Child, Vec<u32>) {
    long_fit_with(dir, model, delay, "60")
}

/// The same with ranks that wait for each other so many seconds.
fn long_fit_with(dir: &Path, model: &Path, delay: Duration, timeout: &str) -> (Child, Vec<u32>) {
    let (x, y) = data(dir, 6000);
    let options =
        format!("--rank 12 --iters 100000 --tau 0.1 --threads 1 --device cpu --out {}", model.display());
    let mut command = mpirun(3, &format!("exec {UNICON} fit --x {x} --y {y} {options}"));
    let child = command.env("UNICON_COMM_TIMEOUT", timeout).spawn().unwrap();
    let begin = Instant::now();
    let mut ranks = Vec::new();
    while ranks.len() < 3 {
        assert!(begin.elapsed() < LIMIT, "the ranks do not start");
        std::thread::sleep(Duration::from_millis(5));
        ranks = ranks_of(child.id());
    }
    std::thread::sleep(delay);
    (child, ranks)
}

#[test]
fn a_killed_rank_takes_the_job_down_and_leaves_no_model() {
    if !mpi() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.safetensors");
    // While features are read, in the first updates, later. Not while MPI starts: Open MPI's mpirun itself may then wait for
    // ever for the one that has ended (PMIX ERROR: UNREACHABLE).
    for (k, delay) in [500, 1000, 2000].into_iter().enumerate() {
        let (child, ranks) = long_fit(dir.path(), &model, Duration::from_millis(delay));
        signal(ranks[k], "KILL");
        let begin = Instant::now();
        let out = wait(child);
        let said = text(&out.stderr);
        assert!(!out.status.success());
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?} after {delay} ms", begin.elapsed());
        // mpirun itself says which.
        assert!(said.contains(&format!("process rank {k}")), "{said}");
        assert!(!model.exists());
    }
}

#[test]
fn interrupting_one_rank_ends_all() {
    if !mpi() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.safetensors");
    let (child, ranks) = long_fit(dir.path(), &model, Duration::from_millis(1500));
    signal(ranks[1], "INT");
    let out = wait(child);
    let said = text(&out.stderr);
    assert!(!out.status.success() && !model.exists());
    let line = said.lines().find(|l| l.starts_with("unicon:")).unwrap_or_default();
    assert!(line.starts_with("unicon: rank ") && line.contains("cancelled"), "{said}");
}

#[test]
fn a_rank_that_stops_is_waited_for_no_longer_than_asked() {
    if !mpi() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model.safetensors");
    let (child, ranks) = long_fit_with(dir.path(), &model, Duration::from_millis(1500), "2");
    signal(ranks[2], "STOP");
    let begin = Instant::now();
    let out = wait(child);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    let said = complaints(&out).concat();
    assert!(!out.status.success() && said.starts_with("unicon: rank "), "{said}");
    assert!(said.contains("has not answered") || said.contains("not all ranks have come"), "{said}");
    assert!(!model.exists());
}

#[test]
fn a_fit_goes_on_with_another_number_of_ranks() {
    if !mpi() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (x, y) = data(dir.path(), 3000);
    let path = |name: &str| dir.path().join(name);
    let args = |name: &str| {
        let model = path(name).display().to_string();
        format!(
            "fit --x {x} --y {y} --rank 12 --preset global --iters 1 --refine 25 --whiten 0.1 --tau 0.1 --out {model}"
        )
    };
    unicon(0, &args("whole"));
    let state = path("state");
    let shared = format!("{} --checkpoint {}", args("model"), state.display());
    let inode = || std::fs::metadata(&state).ok().map(|m| std::os::unix::fs::MetadataExt::ino(&m));
    let mut killed = 0;
    for size in [3, 2] {
        let run = format!("exec {UNICON} {shared} --threads 1 --device cpu --json");
        let mut child = mpirun(size, &run).spawn().unwrap();
        let (begin, mut last, mut steps) = (Instant::now(), inode(), 0);
        // Until two more steps are on disk.
        while steps < 2 && begin.elapsed() < LIMIT && child.try_wait().unwrap().is_none() {
            let now = inode();
            steps += usize::from(now != last);
            last = now;
            std::thread::sleep(Duration::from_micros(500));
        }
        if let Some(rank) = ranks_of(child.id()).get(1) {
            signal(*rank, "KILL");
            killed += 1;
        }
        assert!(!wait(child).status.success() && !path("model").exists());
    }
    assert_eq!(killed, 2, "the fit was too quick");
    unicon(4, &shared);
    assert!(tensors(&path("model")) == tensors(&path("whole")));
}

#[test]
fn scaling_is_measured_against_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &str| {
        let out = Command::new(UNICON).args(args.split_whitespace()).arg("--json").output().unwrap();
        assert!(out.status.success(), "{args}: {}", text(&out.stderr));
        out.stdout
    };
    let (json, svg) = (dir.path().join("scaling.json"), dir.path().join("scaling.svg"));
    let sizes = "--sizes 1,2,3 --scaling-n 2048 --scaling-d 64 --scaling-rank 16 --scaling-repeat 1";
    let out = run(&format!("bench --scaling {sizes} --scaling-svg {}", svg.display()));
    std::fs::write(&json, &out).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
    let points = report["points"].as_array().unwrap();
    assert_eq!(points.len(), 6);
    for p in points {
        let of = |name: &str| p[name].as_f64().unwrap();
        let parts = of("compute") + of("moving") + of("waiting") - of("hidden");
        assert!((parts - of("seconds")).abs() < 1e-6 && of("efficiency") > 0.0, "{p}");
        let (got, expected) = (of("received"), of("predicted"));
        assert!(got <= 2.0 * expected && expected <= 2.0 * got, "{p}");
        assert_eq!(got == 0.0, of("ranks") == 1.0, "{p}");
        assert!((0.0..=1.0).contains(&of("predicted_share")) && of("predicted_seconds") > 0.0, "{p}");
        assert_eq!(of("predicted_share") > 0.0, of("ranks") > 1.0, "{p}");
        // The share of the rows, in one process: what all ranks hold is what there is.
        let held: u64 = p["memory"]["held"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap()).sum();
        // Of several, also the columns' coefficients.
        let columns = 2.0 * (64.0 + 16.0) + if of("ranks") > 1.0 { 1.0 } else { 0.0 };
        assert_eq!(held as f64, of("n") * 4.0 * columns, "{p}");
        assert_eq!(p["memory"]["resident"].as_array().unwrap().len(), usize::from(of("ranks") == 1.0));
    }
    assert!(std::fs::read_to_string(&svg).unwrap().starts_with("<svg"));
    // What was measured is what a plan is made of.
    let plan =
        |args: &str| serde_json::from_slice::<serde_json::Value>(&run(&format!("plan {args}"))).unwrap();
    let measured = plan(&format!("--n 1e6 --rank 16 --ranks 4 --rates {}", json.display()));
    assert_eq!(measured["rates"]["flops"], report["rates"]["flops"]);
    let cluster =
        |ranks: u32| plan(&format!("--n 1e9 --gpus {ranks} --rank 128 --negatives 4096"))["plan"].clone();
    let (few, many) = (cluster(8), cluster(64));
    for part in ["read_seconds", "pass1_seconds", "pass2_seconds"] {
        let ratio = few[part].as_f64().unwrap() / many[part].as_f64().unwrap();
        assert!((ratio - 8.0).abs() < 1e-6, "{part}: {ratio}");
    }
}

/// The C program that passes its own communicator, against itself on one rank.
#[test]
fn a_c_program_brings_its_own_communicator() {
    if !mpi() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("fit");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = library::built();
    let mut compile = Command::new(MPI_COMPILER[usize::from(mpich())]);
    compile.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-o"]).arg(&program);
    compile.arg(root.join("ffi-examples/mpi/fit.c")).arg("-I").arg(root.join("include"));
    compile.arg(library.join("libunicon.so")).arg(format!("-Wl,-rpath,{}", library.display())).arg("-lm");
    // The library goes by its SONAME.
    let soname = dir.path().join("libunicon.so.1");
    std::os::unix::fs::symlink(library.join("libunicon.so"), &soname).unwrap();
    let out = compile.output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    let run = |ranks: usize| {
        let model = dir.path().join(format!("{ranks}.safetensors"));
        let mut command = mpirun(ranks, &format!("exec {} 2300 {}", program.display(), model.display()));
        command.env("LD_LIBRARY_PATH", dir.path());
        let out = wait(command.spawn().unwrap());
        assert!(out.status.success(), "{ranks} ranks: {}", text(&out.stderr));
        (tensors(&model), text(&out.stdout).rsplit(' ').next().unwrap_or_default().to_string())
    };
    let alone = run(1);
    for ranks in [2, 4] {
        assert!(run(ranks) == alone, "{ranks} ranks");
    }
}
