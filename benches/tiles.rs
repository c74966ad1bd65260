//! The two tile loops of clip beside the plain matrix product, one thread each.
//!
//! Throughput is useful floating-point operations (2 per multiply-add of the products), so the rate of a
//! loop divided by that of `sgemm` is the share of the product's speed it keeps. Compare figures of one run only.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use unicon::backend::cpu::TileOps;
use unicon::backend::cpu::gemm::{gemm_nn, gemm_nt};
use unicon::backend::cpu::simd::halves::{Engine, Order, Packed, Products, multiply};

/// Edge of a tile, embedding dimension, and features of the contracted side.
const TILE: usize = 512;
const R: usize = 128;
const D: usize = 384;
/// Columns: embeddings and features of all of them do not fit in a second-level cache.
const N: usize = 4096;
const TAU: f32 = 0.07;

/// Uniform numbers in +-`size`.
fn uniform(len: usize, size: f32) -> Vec<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..len).map(|_| (2.0 * next() - 1.0) * size).collect()
}

fn tiles(c: &mut Criterion) {
    let mut group = c.benchmark_group("tiles");
    group.sample_size(10);

    let n = 2048;
    let (a, b, mut product) = (uniform(n * n, 1.0), uniform(n * n, 1.0), vec![0.0; n * n]);
    group.throughput(Throughput::Elements(2 * (n * n * n) as u64));
    group.bench_function("sgemm 2048", |bench| {
        bench.iter(|| gemm_nn(n, n, n, false, &mut product, n, &a, n, &b, n));
    });

    // Rows of about unit length.
    let (zx, zy, y) = (uniform(TILE * R, 0.15), uniform(N * R, 0.15), uniform(N * D, 1.0));
    let mut s = vec![0.0; TILE * TILE];
    let (scale, shift) = (1.0 / TAU, 1.0 / TAU);
    let pairs = (TILE * N) as u64;

    group.throughput(Throughput::Elements(2 * pairs * R as u64));
    group.bench_function("pass 1", |bench| {
        let (mut row, mut col) = (vec![0.0; TILE], vec![0.0; N]);
        bench.iter(|| {
            for j in (0..N).step_by(TILE) {
                gemm_nt(TILE, TILE, R, false, &mut s, TILE, &zx, R, &zy[j * R..], R);
                f32::exp_sums(&s, TILE, TILE, TILE, scale, shift, &mut row, &mut col[j..]);
            }
        });
    });

    group.throughput(Throughput::Elements(2 * pairs * (R + D) as u64));
    group.bench_function("pass 2", |bench| {
        let (alpha, beta, mut panel) = (vec![1.0; TILE], vec![1.0; N], vec![0.0; TILE * D]);
        bench.iter(|| {
            panel.fill(0.0);
            for j in (0..N).step_by(TILE) {
                gemm_nt(TILE, TILE, R, false, &mut s, TILE, &zx, R, &zy[j * R..], R);
                f32::exp_weights(&mut s, TILE, TILE, TILE, scale, shift, &alpha, &beta[j..]);
                gemm_nn(TILE, D, TILE, true, &mut panel, D, &s, TILE, &y[j * D..], D);
            }
        });
    });

    for engine in [Engine::Amx, Engine::Avx512Bf16].into_iter().filter(|engine| engine.is_here()) {
        for products in [Products::One, Products::Three] {
            let (mut left, mut right) = (Packed::default(), Packed::default());
            left.left(&zx, R, Order::OuterFirst, TILE, R, products);
            right.right(&zy, R, Order::OuterFirst, TILE, R, products);
            group.throughput(Throughput::Elements(2 * (TILE * TILE * R) as u64));
            group.bench_function(format!("similarities, {engine}, {products:?}"), |bench| {
                bench.iter(|| multiply(engine, false, &mut s, TILE, (0, TILE), &left, &right));
            });
        }
    }
    group.finish();

    // The exponential on its own: elements, not operations.
    let mut group = c.benchmark_group("elementwise");
    group.throughput(Throughput::Elements((TILE * TILE) as u64));
    let s = uniform(TILE * TILE, 1.0);
    group.bench_function("exp_sums", |bench| {
        let (mut row, mut col) = (vec![0.0; TILE], vec![0.0; TILE]);
        bench.iter(|| f32::exp_sums(&s, TILE, TILE, TILE, scale, shift, &mut row, &mut col));
    });
    group.finish();
}

criterion_group!(benches, tiles);
criterion_main!(benches);
