//! What a fit is made of, on all threads: pass 1 (sums), pass 2 (`X^T S Y`), `S V`, and a fit end to end.
//!
//! Throughput is useful floating-point operations, so the rate of a pass divided by that of `sgemm` is the share of the
//! machine's product rate that it keeps. Compare figures of one run only.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use faer::Mat;
use rayon::prelude::*;
use unicon::backend::cpu::Cpu;
use unicon::backend::cpu::gemm::gemm_nn;
use unicon::backend::{Backend, Similarity};
use unicon::data::{SyntheticRows, synthetic_pairs};
use unicon::fit::{Data, FitOptions, fit};
use unicon::io::{HostMatrix, RowSource, read_all};
use unicon::loss::Loss;
use unicon::positives::Positives;
use unicon::similarity::NegativeSampling;

const R: usize = 128;
const D: (usize, usize) = (512, 384);
const SIZES: [usize; 2] = [2048, 8192];

/// `sgemm` of 2,048 cubed, cut over the threads as the passes are: by row panels.
fn sgemm(c: &mut Criterion) {
    const N: usize = 2048;
    const PANEL: usize = 512;
    let cpu = Cpu::<f32>::new(0).expect("threads start");
    let ramp = |step: f32| (0..N * N).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
    let (a, b, mut product) = (ramp(0.37), ramp(0.23), vec![0.0; N * N]);
    let mut group = c.benchmark_group("product");
    group.sample_size(10).throughput(Throughput::Elements(2 * (N * N * N) as u64));
    group.bench_function("sgemm 2048", |bench| {
        bench.iter(|| {
            cpu.install(|| {
                product.par_chunks_mut(PANEL * N).zip(a.par_chunks(PANEL * N)).for_each(|(c, a)| {
                    gemm_nn(PANEL, N, N, false, c, N, a, N, &b, N);
                });
            });
        });
    });
    group.finish();
}

/// Pairs of the linear latent model, in memory.
fn features(n: usize) -> (HostMatrix, HostMatrix) {
    let (x, y) = synthetic_pairs(n, D.0, D.1, R, 0.1, 1).expect("a valid model");
    let held = |s: &SyntheticRows| {
        HostMatrix::from_f32("features", n, s.cols(), read_all(s).expect("memory")).expect("a valid shape")
    };
    (held(&x), held(&y))
}

fn solver(c: &mut Criterion) {
    let cpu = Cpu::<f32>::new(0).expect("threads start");
    let loss = Loss::default();
    for n in SIZES {
        let (host_x, host_y) = features(n);
        let (x, y) = (cpu.load(&host_x).expect("memory"), cpu.load(&host_y).expect("memory"));
        let identity = |d: usize| Mat::from_fn(R, d, |i, j| f64::from(u8::from(i == j)));
        let zx = cpu.encode(&x, identity(D.0).as_ref()).expect("memory").0;
        let zy = cpu.encode(&y, identity(D.1).as_ref()).expect("memory").0;
        let positives = Positives::diagonal(n);
        let s = Similarity::Embeddings(&zx, &zy);
        let w = cpu.weights(s, &loss, &positives, NegativeSampling::All).expect("memory");
        let entries = (n * n) as u64;

        let mut group = c.benchmark_group("solver");
        group.sample_size(10);
        group.throughput(Throughput::Elements(2 * entries * R as u64));
        group.bench_function(BenchmarkId::new("pass 1", n), |bench| {
            bench.iter(|| cpu.weights(s, &loss, &positives, NegativeSampling::All).expect("memory"));
        });
        group.throughput(Throughput::Elements(2 * entries * (R + D.1) as u64));
        group.bench_function(BenchmarkId::new("pass 2", n), |bench| {
            bench.iter(|| cpu.cross(s, &w, &x, &y).expect("memory"));
        });
        group.throughput(Throughput::Elements(2 * entries * (R + R) as u64));
        group.bench_function(BenchmarkId::new("S V", n), |bench| {
            bench.iter(|| cpu.apply(s, &w, &zy).expect("memory"));
        });
        group.throughput(Throughput::Elements(2 * entries * (2 * R + D.1) as u64));
        group.bench_function(BenchmarkId::new("fit, 2 updates", n), |bench| {
            let options = FitOptions { final_loss: false, ..FitOptions::new(R) };
            let data = Data { x: &host_x, y: &host_y, positives: &positives };
            bench.iter(|| fit(&cpu, data, None, &options).expect("a fit"));
        });
        group.finish();
    }
}

criterion_group!(benches, sgemm, solver);
criterion_main!(benches);
