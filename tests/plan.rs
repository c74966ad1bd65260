//! What `unicon plan` predicts against what is measured: bytes between ranks, and memory of the processes.

use crate::processes::{LIMIT, UNICON, mpi, mpirun, text, wait};
use crate::standin;
use rand::{Rng, SeedableRng};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use unicon::backend::cpu::Cpu;
use unicon::backend::cuda::{Cuda, Mode, Options};
use unicon::distributed::threads;
use unicon::fit::{Data, FitOptions, RefineOptions, fit};
use unicon::io::{HostMatrix, MatView, write_npy};
use unicon::plan::{CostEstimate, Job, Rates, plan};
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;

fn noise(n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..n * d).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// The plan of a fit on ranks with these rates.
fn planned(
    rates: &Rates,
    n: usize,
    d: (usize, usize),
    ranks: usize,
    options: &FitOptions,
    evaluations: usize,
) -> CostEstimate {
    let negatives = match options.negatives {
        NegativeSampling::All => None,
        NegativeSampling::Sampled { per_anchor, .. } => Some(per_anchor as f64),
    };
    let job = Job {
        n_x: n as f64,
        n_y: n as f64,
        d: (d.0 as f64, d.1 as f64),
        dim: options.dim as f64,
        negatives,
        updates: options.updates() as f64,
        gradients: evaluations as f64,
        whiten: options.whiten.is_some(),
        final_loss: options.final_loss,
        ranks: ranks as f64,
    };
    plan(&job, rates).unwrap()
}

fn cpu_rates() -> Rates {
    Rates::of("cpu").unwrap()
}

#[test]
fn bytes_between_ranks_are_those_of_the_plan() {
    let plain = || FitOptions { n_iters: 2, final_loss: false, ..FitOptions::new(8) };
    let sampled = |m| NegativeSampling::Sampled { per_anchor: m, seed: 3 };
    let refine = RefineOptions { max_steps: 3, ..RefineOptions::default() };
    // A name, rows, columns, options, and how much more than planned may be measured: lengths of messages and names of
    // parts. Sampled: which rows are elsewhere is a matter of chance, to about 1 / sqrt(n).
    let cases = [
        ("zeros", 5000, (24, 16), FitOptions { n_iters: 1, ..plain() }, 1.02),
        ("exact", 5000, (24, 16), FitOptions { n_iters: 3, ..plain() }, 1.02),
        ("x narrower", 3000, (12, 40), FitOptions { n_iters: 2, ..plain() }, 1.03),
        ("whitened", 5000, (24, 16), FitOptions { whiten: Some(0.1), final_loss: true, ..plain() }, 1.02),
        ("refined", 5000, (24, 16), FitOptions { refine: Some(refine), ..plain() }, 1.03),
        ("sampled", 9000, (24, 16), FitOptions { negatives: sampled(600), ..plain() }, 1.06),
        ("few sampled", 9000, (24, 16), FitOptions { negatives: sampled(64), ..plain() }, 1.06),
    ];
    for (name, n, d, options, most) in cases {
        let (x, y) = (noise(n, d.0, 1), noise(n, d.1, 2));
        let x = HostMatrix::from_f32("x", n, d.0, x).unwrap();
        let y = HostMatrix::from_f32("y", n, d.1, y).unwrap();
        let positives = Positives::diagonal(n);
        let data = Data { x: &x, y: &y, positives: &positives };
        for ranks in [1, 2, 3, 4] {
            let all = threads::run(ranks, |group| {
                let cpu = Cpu::<f32>::new(1).unwrap().with_group(group.clone());
                let (_, info) = group.conclude(fit(&cpu, data, None, &options)).unwrap();
                (group.traffic(), info.evaluations)
            });
            let sent: u64 = all.iter().map(|(t, _)| t.sent).sum();
            let received: u64 = all.iter().map(|(t, _)| t.received).sum();
            assert_eq!(sent, received, "{name}, {ranks} ranks");
            let plan = planned(&cpu_rates(), n, d, ranks, &options, all[0].1);
            let expected = plan.traffic_bytes * ranks as f64;
            let least = if options.negatives == NegativeSampling::All { 1.0 } else { 0.98 };
            // Lengths and names of parts, of the few sums and exchanges that do not grow with the rows.
            let most = most * expected + 800.0 * (ranks * (ranks - 1)) as f64;
            println!(
                "{name}, {ranks} ranks: {received} bytes, {:.4} of the plan",
                received as f64 / expected
            );
            assert!(
                (least * expected..=most).contains(&(received as f64)),
                "{name}, {ranks} ranks: {received} bytes, planned {expected}"
            );
        }
    }
}

#[test]
fn bytes_between_cuda_ranks_are_those_of_the_plan() {
    if !standin::on_a_device("plan::bytes_between_cuda_ranks_are_those_of_the_plan") {
        return;
    }
    let plain = || FitOptions { n_iters: 2, final_loss: false, ..FitOptions::new(8) };
    let sampled = NegativeSampling::Sampled { per_anchor: 64, seed: 3 };
    let refine = RefineOptions { max_steps: 1, ..RefineOptions::default() };
    // A name, the mode, whether features are stored as fp16, options, and how far from the plan measured bytes may be:
    // lengths of messages, and what single rows are fetched.
    let cases = [
        ("zeros", Mode::Fp32, false, FitOptions { n_iters: 1, ..plain() }, 0.02),
        ("exact", Mode::Fp32, false, plain(), 0.02),
        ("exact in fp16", Mode::Fp16, false, FitOptions { final_loss: true, ..plain() }, 0.02),
        ("exact in bf16 from fp16", Mode::Bf16, true, plain(), 0.02),
        ("whitened", Mode::Fp16, true, FitOptions { whiten: Some(0.1), ..plain() }, 0.02),
        ("refined", Mode::Fp32, false, FitOptions { refine: Some(refine), ..plain() }, 0.02),
        ("sampled", Mode::Fp16, false, FitOptions { negatives: sampled, ..plain() }, 0.05),
    ];
    let (n, d) = (1024, (40, 24));
    let (x, y) = (noise(n, d.0, 1), noise(n, d.1, 2));
    let narrow = |v: &[f32]| v.iter().map(|v| half::f16::from_f32(*v)).collect::<Vec<_>>();
    let (x16, y16) = (narrow(&x), narrow(&y));
    let positives = Positives::diagonal(n);
    for (name, mode, stored_f16, options, limit) in cases {
        let views = if stored_f16 {
            (MatView::from_slice(&x16, n, d.0).unwrap(), MatView::from_slice(&y16, n, d.1).unwrap())
        } else {
            (MatView::from_slice(&x, n, d.0).unwrap(), MatView::from_slice(&y, n, d.1).unwrap())
        };
        let data = Data { x: &views.0, y: &views.1, positives: &positives };
        let all = threads::run(2, |group| {
            let gpu = Cuda::open(0, Options { mode, ..Options::default() }).unwrap();
            let gpu = gpu.with_group(group.clone());
            let (_, info) = group.conclude(fit(&gpu, data, None, &options)).unwrap();
            (group.traffic(), info.evaluations)
        });
        let received: u64 = all.iter().map(|(t, _)| t.received).sum();
        let rates = Rates { bytes: if stored_f16 { 2.0 } else { 4.0 }, ..Rates::of("h200").unwrap() };
        let plan = planned(&rates, n, d, 2, &options, all[0].1);
        let ratio = received as f64 / (2.0 * plan.traffic_bytes);
        println!("{name}: {received} bytes, {ratio:.4} of the plan");
        // Beside it, as on CPU ranks, small messages: what each rank saw in its rows, votes.
        let small = 2.0 * 800.0 / (2.0 * plan.traffic_bytes);
        assert!((ratio - 1.0).abs() <= limit + small, "{name}: {received} bytes, {ratio} of the plan");
    }
}

/// Runs a fit as one process (0), or on so many ranks of this machine; resident bytes at most, of every rank.
fn resident(ranks: usize, args: &str) -> Vec<u64> {
    let run = format!("exec {UNICON} {args} --threads 1 --device cpu --json");
    let mut command = match ranks {
        0 => Command::new("sh"),
        n => mpirun(n, &run),
    };
    if ranks == 0 {
        command.args(["-c", &run]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    command.env("UNICON_COMM_TIMEOUT", LIMIT.as_secs().to_string());
    let out = wait(command.spawn().unwrap());
    assert!(out.status.success(), "{}", text(&out.stderr));
    let report: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    match report["ranks"]["resident_bytes"].as_array() {
        Some(all) => all.iter().map(|b| b.as_u64().unwrap()).collect(),
        None => vec![report["info"]["resident_bytes"].as_u64().unwrap()],
    }
}

#[test]
fn ranks_stay_within_the_memory_of_the_plan() {
    if !mpi() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, n: usize, d: usize, seed: u64| -> PathBuf {
        let path = dir.path().join(name);
        write_npy(&path, &[n, d], &noise(n, d, seed)).unwrap();
        path
    };
    let out = dir.path().join("model");
    let fit = |x: &Path, y: &Path, more: &str| {
        let [x, y, out] = [x, y, &out].map(Path::display);
        format!("fit --x {x} --y {y} --no-final-loss --out {out} {more}")
    };
    // What MPI takes for itself, which is in no plan: the difference it makes to a fit of a few rows.
    let few = fit(&write("few-x.npy", 600, 8, 1), &write("few-y.npy", 600, 8, 2), "--rank 4 --iters 1");
    let alone = resident(0, &few)[0];
    let of_mpi = |ranks: usize| resident(ranks, &few).into_iter().max().unwrap_or(0).saturating_sub(alone);
    // Much data of which each rank has a part; many rows of which each rank has numbers; so many ranks that comparing all
    // rows needs more than a rank's share of the fit.
    for (n, d, rank, iters, ranks) in [
        (16_000, (512, 384), 16, 1, &[2, 4][..]),
        (16_000, (512, 384), 16, 2, &[4]),
        (1_000_000, (8, 8), 4, 1, &[2, 4, 8]),
    ] {
        let (x, y) = (write("x.npy", n, d.0, 1), write("y.npy", n, d.1, 2));
        let args = fit(&x, &y, &format!("--rank {rank} --iters {iters}"));
        for &ranks in ranks {
            let options = FitOptions { n_iters: iters, final_loss: false, ..FitOptions::new(rank) };
            let p = planned(&cpu_rates(), n, d, ranks, &options, 0);
            let expected = p.memory_bytes + p.replicated_bytes + p.mapped_bytes;
            let of_mpi = of_mpi(ranks);
            for (k, bytes) in resident(ranks, &args).into_iter().enumerate() {
                let bytes = bytes.saturating_sub(of_mpi) as f64;
                // Linux may map files in pieces of 2 MiB, as its cache holds them: where a rank's rows of either file begin
                // and end inside a piece, the neighbour's part of it counts as this rank's memory too.
                let ends = f64::from(u8::from(k > 0) + u8::from(k + 1 < ranks));
                let (least, most) = (0.6 * expected, 1.1 * expected + 2.0 * ends * f64::from(2 << 20));
                println!(
                    "n = {n}, {iters} updates, rank {k} of {ranks}: {bytes} bytes, {:.3} of the plan, at most {:.3}",
                    bytes / expected,
                    most / expected
                );
                // Above: a tenth for what the allocator keeps. Below: buffers that are counted but not used at once.
                assert!(
                    (least..=most).contains(&bytes),
                    "n = {n}, rank {k} of {ranks}: {bytes} bytes, planned {expected}, at most {most}"
                );
            }
        }
    }
}
