//! Signals, forks, limits of the system, and files left by what died.
#![cfg(target_os = "linux")]

use crate::program::{Lab, Ran};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};
use unicon::backend::cpu::Cpu;
use unicon::fit::{Data, FitOptions, fit};
use unicon::io::HostMatrix;
use unicon::model::Model;
use unicon::positives::Positives;

/// Pseudo-random values in (-1, 1) of a shared latent space: `n` rows of `d` columns.
fn rows(n: usize, d: usize, side: u64) -> Vec<f32> {
    let hash = |a: u64, b: u64| {
        let mut h = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        h = (h ^ (h >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((h >> 40) as f32 / (1u64 << 23) as f32) - 1.0
    };
    let mut out = Vec::with_capacity(n * d);
    for i in 0..n as u64 {
        let latent: Vec<f32> = (0..8).map(|k| hash(i, k)).collect();
        for j in 0..d as u64 {
            let mix = |k: u64| hash(1000 + side * 97 + j, 50 + k) * latent[k as usize];
            out.push((0..8).map(mix).sum::<f32>() + 0.1 * hash(i + 7, 1000 * side + j));
        }
    }
    out
}

fn pairs(lab: &Lab, n: usize, d: usize) {
    lab.npy("x.npy", &[n, d], &rows(n, d, 1));
    lab.npy("y.npy", &[n, d], &rows(n, d, 2));
}

fn ran(out: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: out.status.code(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

/// Runs the program in a shell that has set a limit first.
fn limited(lab: &Lab, limit: &str, args: &str) -> Ran {
    let script = format!("{limit}; exec \"$0\" \"$@\"");
    let mut command = Command::new("bash");
    command.current_dir(lab.path("")).args(["-c", &script, env!("CARGO_BIN_EXE_unicon")]);
    ran(command.args(args.split_whitespace()).output().unwrap())
}

/// One line of complaint, no panic.
fn one_line(ran: &Ran) -> &str {
    let line = ran.stderr.strip_suffix('\n').unwrap_or(&ran.stderr);
    assert!(line.starts_with("unicon: ") && !line.contains('\n') && !line.contains("panicked"), "{ran:?}");
    line
}

fn signal(child: &Child, name: &str) {
    // One that has ended in the meantime is nobody's problem.
    let _ = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).output();
}

/// Waits for the end; what hangs fails.
fn end(mut child: Child) -> Output {
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(300) {
            child.kill().unwrap();
            panic!("hangs: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

fn partial_files(lab: &Lab) -> Vec<String> {
    lab.files().into_iter().filter(|name| name.ends_with(".partial")).collect()
}

fn bits(model: &Model) -> Vec<u64> {
    let matrices = model.components.iter().flat_map(|c| [&c.x.matrix, &c.y.matrix]);
    matrices
        .flat_map(|m| (0..m.ncols()).flat_map(move |j| (0..m.nrows()).map(move |i| m[(i, j)].to_bits())))
        .collect()
}

#[test]
fn a_backend_works_in_a_child_of_fork() {
    let (n, d) = (600, 24);
    let values = |side| rows(n, d, side).into_iter().map(f64::from).collect();
    let x = HostMatrix::from_f64("x", n, d, values(1)).unwrap();
    let y = HostMatrix::from_f64("y", n, d, values(2)).unwrap();
    let positives = Positives::diagonal(n);
    let data = Data { x: &x, y: &y, positives: &positives };
    // Whitening decomposes outside of the backend's own passes.
    let options = FitOptions { whiten: Some(0.1), ..FitOptions::new(6) };
    let backend = Cpu::<f32>::new(3).unwrap();
    let expected = bits(&fit(&backend, data, None, &options).unwrap().0);
    for _ in 0..3 {
        // SAFETY: the child only computes, and ends without running anything of the parent's.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let same = |backend: &Cpu<f32>| {
                fit(backend, data, None, &options).is_ok_and(|(model, _)| bits(&model) == expected)
            };
            let all = same(&backend) && Cpu::<f32>::new(2).is_ok_and(|own| same(&own)) && same(&backend);
            // SAFETY: as above.
            unsafe { libc::_exit(if all { 0 } else { 1 }) };
        }
        let (begin, mut status) = (Instant::now(), 0);
        // SAFETY: our child.
        while unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == 0 {
            if begin.elapsed() > Duration::from_secs(120) {
                // SAFETY: our child, which has not been waited for.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(status, 0, "the child failed or hung");
    }
    assert!(bits(&fit(&backend, data, None, &options).unwrap().0) == expected);
}

/// Starts a fit that would take minutes, and waits until it is under way.
fn long_fit(lab: &Lab, more: &str) -> Child {
    let args = format!(
        "fit --preset global --x x.npy --y y.npy --rank 16 --iters 100000 --out m.safetensors {more}"
    );
    let child = lab.program(&args).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let begin = Instant::now();
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let mask = text.lines().find_map(|l| l.strip_prefix("SigCgt:")).unwrap_or("0").trim().to_string();
        // SIGINT is the second of the mask.
        if u64::from_str_radix(&mask, 16).unwrap_or(0) & 2 != 0 {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "no handler");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(200));
    child
}

#[test]
fn signals_end_the_program_with_their_codes_and_without_a_trace() {
    let lab = Lab::new();
    pairs(&lab, 3000, 32);
    let before = lab.files();
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let child = long_fit(&lab, "");
        signal(&child, name);
        let ran = ran(end(child));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(code), "unicon: cancelled\n"), "{name}");
        assert_eq!(lab.files(), before, "{name}");
    }
    // Stopped and continued: as if nothing had been.
    let child = long_fit(&lab, "");
    signal(&child, "STOP");
    signal(&child, "TERM");
    signal(&child, "CONT");
    assert_eq!(end(child).status.code(), Some(143));
    // A signal that is ignored at the start stays ignored.
    let mut command =
        lab.program("fit --preset global --x x.npy --y y.npy --rank 8 --iters 2 --out m.safetensors");
    // SAFETY: only what may be done between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        })
    };
    let child = command.spawn().unwrap();
    for _ in 0..20 {
        signal(&child, "HUP");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(end(child).status.success());
}

#[test]
fn whoever_reads_no_further_gets_no_complaint() {
    let lab = Lab::new();
    let mut child = lab.program("info").spawn().unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    // Either nobody was there to read, or the pipe took the text before it was closed.
    assert!(matches!(out.status.code(), Some(0 | 141)), "{out:?}");
    assert!(out.stderr.is_empty(), "{out:?}");
}

#[test]
fn a_file_size_limit_is_an_error_of_the_write() {
    let lab = Lab::new();
    pairs(&lab, 3000, 64);
    let fit = "fit --preset global --x x.npy --y y.npy --rank 16 --iters 1 --out";
    lab.text(&format!("{fit} m.safetensors"));
    let before = lab.files();
    // In blocks of 1,024 bytes.
    for args in [
        format!("{fit} other.safetensors"),
        "encode --model m.safetensors --side x --input x.npy --out z.npy".into(),
        "encode --model m.safetensors --side x --input x.npy --out m.safetensors.npy".into(),
    ] {
        let ran = limited(&lab, "ulimit -f 4", &args);
        assert_eq!(ran.code, Some(1), "{args}: {ran:?}");
        assert!(one_line(&ran).contains("large") || one_line(&ran).contains("limit"), "{ran:?}");
        assert_eq!(lab.files(), before, "{args}");
    }
}

#[test]
fn what_killed_runs_left_goes_with_the_next() {
    let lab = Lab::new();
    pairs(&lab, 400, 16);
    for left in [".m.safetensorsAbc123.partial", ".ck000000.partial"] {
        std::fs::write(lab.path(left), "half").unwrap();
    }
    // Of other files, and of a process that lives.
    let strangers =
        [".n.safetensorsAbc123.partial", ".m.safetensorslive00.partial", ".m.safetensorsAbc-23.partial"];
    for other in strangers {
        std::fs::write(lab.path(other), "half").unwrap();
    }
    let held = std::fs::File::open(lab.path(strangers[1])).unwrap();
    held.try_lock().unwrap();
    lab.text("fit --x x.npy --y y.npy --rank 4 --checkpoint ck --out m.safetensors");
    let mut expected = strangers.map(str::to_string);
    expected.sort();
    assert_eq!(partial_files(&lab), expected);
}

#[test]
fn an_input_that_shrinks_is_one_line() {
    let lab = Lab::new();
    let mut seen = 0;
    // It must be caught while it is read: several tries.
    for _ in 0..10 {
        let (n, d) = (1usize << 20, 64usize);
        for name in ["x.npy", "y.npy"] {
            let shape = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({n}, {d}), }}");
            let mut file = std::fs::File::create(lab.path(name)).unwrap();
            file.write_all(b"\x93NUMPY\x01\x00\x76\x00").unwrap();
            file.write_all(format!("{shape:<117}\n").as_bytes()).unwrap();
            // Sparse: zeros that take no disk.
            file.seek(SeekFrom::Start(128 + (n * d * 4) as u64 - 1)).unwrap();
            file.write_all(&[0]).unwrap();
        }
        let args =
            "fit --preset global --x x.npy --y y.npy --rank 4 --iters 1 --threads 1 --out m.safetensors";
        let child = lab.program(args).spawn().unwrap();
        let maps = format!("/proc/{}/maps", child.id());
        let begin = Instant::now();
        while !std::fs::read_to_string(&maps).unwrap_or_default().contains("/x.npy") {
            assert!(begin.elapsed() < Duration::from_secs(60), "never mapped");
            std::thread::sleep(Duration::from_micros(200));
        }
        std::fs::File::options().write(true).open(lab.path("x.npy")).unwrap().set_len(4096).unwrap();
        let ran = ran(end(child));
        assert_eq!(ran.code, Some(1), "{ran:?}");
        let line = one_line(&ran);
        if line.contains("x.npy: the file became shorter while it was read") {
            seen += 1;
            break;
        }
        assert!(partial_files(&lab).is_empty());
    }
    assert_eq!(seen, 1, "no read was caught in ten tries");
    assert!(partial_files(&lab).is_empty());
}

#[test]
fn limits_of_the_system_are_one_line() {
    let lab = Lab::new();
    pairs(&lab, 1500, 64);
    let fit = "fit --x x.npy --y y.npy --rank 16 --threads 2 --out m.safetensors";
    let ran = limited(&lab, "ulimit -v 800000", fit);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    std::fs::remove_file(lab.path("m.safetensors")).unwrap();
    // Whatever the first thing is that is not to be had.
    for kib in [40_000, 60_000, 90_000, 130_000] {
        let ran = limited(&lab, &format!("ulimit -v {kib}"), fit);
        if ran.code != Some(0) {
            assert_eq!(ran.code, Some(1), "{kib} KiB: {ran:?}");
            one_line(&ran);
        }
        assert!(partial_files(&lab).is_empty());
    }
    // Threads with 64 KiB of stack, the main one's.
    let ran = limited(&lab, "ulimit -s 64", fit);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    let line = lab.fails(2, "fit --x x.npy --y y.npy --rank 16 --threads 1000000 --out n.safetensors");
    assert!(line.contains("--threads") && line.contains("1024"), "{line}");
    let ran = limited(&lab, "ulimit -v 500000", "info --threads 1024");
    assert!(ran.code == Some(0) || one_line(&ran).contains("threads"), "{ran:?}");
    let ran = limited(
        &lab,
        "ulimit -v 500000",
        "fit --x x.npy --y y.npy --rank 16 --threads 1024 --out n.safetensors",
    );
    assert!(ran.code == Some(0) || (ran.code == Some(1) && one_line(&ran).contains("threads")), "{ran:?}");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let lab = Lab::new();
    pairs(&lab, 1300, 96);
    let model = |args: &str, threads: usize| {
        lab.text(&format!(
            "fit --x x.npy --y y.npy --rank 24 --threads {threads} --out m.safetensors {args}"
        ));
        bits(&Model::load(lab.path("m.safetensors")).unwrap())
    };
    let mut tried: Vec<String> = ["best", "global", "paper"].map(|p| format!("--preset {p}")).to_vec();
    for kernel in ["rbf", "matern", "angular", "arccos", "cosine", "exp-cosine"] {
        tried.push(format!("--preset global --iters 2 --kernel {kernel} --landmarks 150"));
    }
    tried.push("--preset global --kernel rbf --landmarks 400 --whiten 0.1".into());
    for loss in ["sigmoid", "triplet-hard", "triplet-smooth"] {
        tried.push(format!("--preset global --iters 2 --loss {loss} --whiten 0.01"));
    }
    tried.push("--preset global --iters 2 --svd randomized:10,2 --precision f64".into());
    tried.push("--preset global --iters 3 --negatives 300 --whiten 0.1".into());
    for args in tried {
        let one = model(&args, 1);
        for threads in [2, 3] {
            assert!(model(&args, threads) == one, "{args} on {threads} threads");
        }
    }
}

#[test]
fn what_launchers_left_in_the_environment_means_nothing() {
    let lab = Lab::new();
    pairs(&lab, 300, 16);
    let left: [&[(&str, &str)]; 5] = [
        &[("RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("MASTER_ADDR", "node7")],
        &[("RANK", "1"), ("WORLD_SIZE", "4"), ("TORCHELASTIC_RUN_ID", "a"), ("MASTER_PORT", "29500")],
        &[("RANK", "major"), ("WORLD_SIZE", "many")],
        &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8"), ("SLURM_NODEID", "1")],
        &[("UNICON_LAUNCHER", "none"), ("PMI_RANK", "1"), ("PMI_SIZE", "2")],
    ];
    for variables in left {
        let mut command = lab.program("fit --x x.npy --y y.npy --rank 4 --out m.safetensors");
        command.envs(variables.iter().copied());
        let begin = Instant::now();
        let ran = ran(end(command.spawn().unwrap()));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{variables:?}");
        assert!(begin.elapsed() < Duration::from_secs(60), "{variables:?}");
        assert!(lab.path("m.safetensors").exists());
        std::fs::remove_file(lab.path("m.safetensors")).unwrap();
    }
}

/// Processes that would each solve the whole problem and write one file say so instead.
#[test]
fn several_processes_that_do_not_find_each_other_are_an_error() {
    let lab = Lab::new();
    pairs(&lab, 300, 16);
    let started: [(&str, &[(&str, &str)]); 3] = [
        ("srun (Slurm)", &[("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "8")]),
        ("mpirun (Open MPI)", &[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")]),
        ("mpiexec (MPICH, Intel MPI)", &[("PMI_RANK", "1"), ("PMI_SIZE", "2")]),
    ];
    for (launcher, variables) in started {
        // A build with MPI asks MPI, which may not survive what is not true.
        if cfg!(feature = "mpi") && !launcher.contains("Open MPI") {
            continue;
        }
        let mut command = lab.program("fit --x x.npy --y y.npy --rank 4 --out m.safetensors");
        let ran = ran(end(command.envs(variables.iter().copied()).spawn().unwrap()));
        let said = one_line(&ran);
        assert_eq!(ran.code, Some(1), "{said}");
        assert!(said.starts_with("unicon: ") && said.contains(&format!("{launcher} started ")), "{said}");
        assert!(said.contains("would solve the whole problem"), "{said}");
        assert!(said.contains("--features mpi") || cfg!(feature = "mpi"), "{said}");
        assert!(said.contains("UNICON_LAUNCHER=none") && !lab.path("m.safetensors").exists(), "{said}");
    }
}

#[test]
fn the_environment_says_how_many_threads() {
    let lab = Lab::new();
    let info = |variables: &[(&str, &str)], args: &str| {
        let mut command = lab.program(&format!("info --json {args}"));
        for name in unicon::threads::VARIABLES {
            command.env_remove(name);
        }
        let ran = ran(command.envs(variables.iter().copied()).output().unwrap());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        (report["threads"].as_u64().unwrap(), ran.stderr)
    };
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    assert_eq!(info(&[], ""), (cores, String::new()));
    assert_eq!(info(&[("OMP_NUM_THREADS", "3")], ""), (3, String::new()));
    assert_eq!(info(&[("OMP_NUM_THREADS", "3,1")], "--threads 5"), (5, String::new()));
    assert_eq!(info(&[("SLURM_CPUS_PER_TASK", "1")], ""), (1, String::new()));
    assert_eq!(info(&[("SLURM_CPUS_PER_TASK", "999")], ""), (cores, String::new()));
    assert_eq!(info(&[("UNICON_THREADS", "4"), ("OMP_NUM_THREADS", "3")], ""), (4, String::new()));
    for nonsense in ["many", "-3", "0", "1000000", "2.5"] {
        let (threads, said) = info(&[("OMP_NUM_THREADS", nonsense)], "");
        assert_eq!(threads, cores);
        assert_eq!(
            said,
            format!("unicon: OMP_NUM_THREADS={nonsense} is no number of threads from 1 to 1024: ignored\n")
        );
    }
    let help = lab.text("--help");
    for name in unicon::threads::VARIABLES {
        assert!(help.contains(name), "--help does not name {name}");
    }
    for code in ["130", "143", "129", "141"] {
        assert!(help.contains(code), "--help does not name exit code {code}");
    }
}

/// The most bytes that a run had resident, as it tells itself: what the system tells the parent begins with the parent's own.
fn peak(lab: &Lab, args: &str) -> u64 {
    lab.json(args)["info"]["resident_bytes"].as_u64().expect("a number of bytes")
}

#[test]
fn the_memory_limit_holds_beyond_what_is_stated() {
    let lab = Lab::new();
    let fit = "fit --preset global --x x.npy --y y.npy --rank 16 --iters 2 --threads 2 --out m.safetensors";
    // What --help states beside the limit.
    for (n, d, more) in [(2_000, 64, ""), (20_000, 96, "--whiten 0.1 "), (16_000, 256, "--negatives 200 ")] {
        pairs(&lab, n, d);
        for limit in [8u64 << 20, 32 << 20] {
            let resident = peak(&lab, &format!("{fit} {more}--memory-limit {limit}"));
            let square = (d * d * 8) as u64;
            let stated = (24 << 20) + 2 * ((4 << 20) + square) + 2 * n as u64 * 64 + 10 * square;
            println!("{n} x {d}, limit {limit}: {resident} resident, stated {}", limit + stated);
            assert!(resident <= limit + stated, "{n} x {d}: {resident} > {limit} + {stated}");
        }
    }
}

/// A number from a seed, for moments that nobody chose.
fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

/// How often each storm strikes: `UNICON_STORMS`, a few by default.
fn storms() -> u64 {
    std::env::var("UNICON_STORMS").ok().and_then(|n| n.parse().ok()).unwrap_or(4)
}

/// What a run that was struck may leave: its inputs, a whole model or none, a whole checkpoint or none.
fn nothing_half(lab: &Lab, allowed: &[&str]) {
    for name in lab.files() {
        let known = allowed.contains(&name.as_str()) || name.ends_with(".partial");
        assert!(known, "{name} was left");
    }
    if lab.path("m.safetensors").exists() {
        Model::load(lab.path("m.safetensors")).expect("a whole model");
    }
}

#[test]
fn killed_stopped_and_resumed_fits_end_where_undisturbed_ones_do() {
    let lab = Lab::new();
    pairs(&lab, 500, 24);
    let fit = "fit --preset global --x x.npy --y y.npy --rank 8 --refine 40 --threads 2 --checkpoint ck --out m.safetensors";
    let begin = Instant::now();
    lab.text(fit);
    let whole = begin.elapsed().as_micros() as u64;
    let expected = bits(&Model::load(lab.path("m.safetensors")).unwrap());
    let (mut state, mut struck, mut resumed) = (17, 0, 0);
    for storm in 0..storms() {
        for name in ["m.safetensors", "ck"] {
            let _ = std::fs::remove_file(lab.path(name));
        }
        let ends: [(&str, &[i32]); 4] = [("KILL", &[]), ("TERM", &[143]), ("INT", &[130]), ("HUP", &[129])];
        // Every other one only stops it for a while.
        let (name, codes) = if storm % 2 == 1 { ("STOP", &[0][..]) } else { ends[storm as usize / 2 % 4] };
        let child = lab.program(fit).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(random(&mut state, whole * 11 / 10)));
        signal(&child, name);
        if name == "STOP" {
            std::thread::sleep(Duration::from_millis(random(&mut state, 50)));
            signal(&child, "CONT");
        }
        let out = end(child);
        let code = out.status.code();
        // Killed before the handlers stand: by the signal itself.
        let by_signal = out.status.signal().is_some() && name != "STOP";
        assert!(code == Some(0) || by_signal || code.is_some_and(|c| codes.contains(&c)), "{name}: {out:?}");
        struck += u64::from(code != Some(0));
        nothing_half(&lab, &["x.npy", "y.npy", "m.safetensors", "ck"]);
        if name != "KILL" && !by_signal {
            assert!(partial_files(&lab).is_empty(), "{name}: {:?}", partial_files(&lab));
        }
        resumed += u64::from(lab.path("ck").exists());
        let ran = lab.run(fit);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "after {name}");
        assert!(bits(&Model::load(lab.path("m.safetensors")).unwrap()) == expected, "after {name}");
        assert!(partial_files(&lab).is_empty(), "after {name}: {:?}", partial_files(&lab));
    }
    println!("{} struck of {}, {resumed} with a checkpoint", struck, storms());
}

/// Cuts a file to a length, or replaces its end by nothing for a moment.
fn cut(path: &Path, len: u64) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

#[test]
fn inputs_cut_at_any_moment_are_one_line_or_make_no_difference() {
    let lab = Lab::new();
    let (n, d) = (20_000, 64);
    let (x, y) = (rows(n, d, 1), rows(n, d, 2));
    lab.npy("y.npy", &[n, d], &y);
    lab.npy("x.npy", &[n, d], &x);
    let fit = "fit --preset global --x x.npy --y y.npy --rank 8 --iters 1 --threads 2 --negatives 200 --no-final-loss --out m.safetensors";
    let begin = Instant::now();
    lab.text(fit);
    let whole = begin.elapsed().as_micros() as u64;
    let expected = bits(&Model::load(lab.path("m.safetensors")).unwrap());
    let size = std::fs::metadata(lab.path("x.npy")).unwrap().len();
    let (mut state, mut bus, mut errors) = (23, 0, 0);
    for storm in 0..storms() {
        lab.npy("x.npy", &[n, d], &x);
        let _ = std::fs::remove_file(lab.path("m.safetensors"));
        // Cut before the start, or while it runs.
        let len = random(&mut state, size);
        let mut args = fit.to_string();
        if storm % 3 == 2 {
            args += " --memory-limit 8M";
        }
        if storm % 2 == 0 {
            cut(&lab.path("x.npy"), len);
        }
        let child = lab.program(&args).spawn().unwrap();
        if storm % 2 == 1 {
            std::thread::sleep(Duration::from_micros(random(&mut state, whole)));
            cut(&lab.path("x.npy"), len);
        }
        let ran = ran(end(child));
        match ran.code {
            Some(0) => {
                assert!(storm % 2 == 1, "a short file was taken");
                let model = Model::load(lab.path("m.safetensors")).unwrap();
                assert!(bits(&model) == expected, "another model from a file that was cut");
            }
            Some(1) => {
                let line = one_line(&ran);
                assert!(line.contains("x.npy"), "{line}");
                bus += u64::from(line.contains("became shorter"));
                errors += 1;
                assert!(!lab.path("m.safetensors").exists());
            }
            _ => panic!("{ran:?}"),
        }
        nothing_half(&lab, &["x.npy", "y.npy", "m.safetensors"]);
        assert!(partial_files(&lab).is_empty());
    }
    println!("{errors} of {} refused, {bus} of them while mapped", storms());
}
