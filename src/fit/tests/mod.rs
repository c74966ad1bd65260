//! Tests of what is better than the paper's iteration.

mod best;
mod gradients;
mod monotone;
mod sampling;

use crate::backend::cpu::Cpu;
use crate::io::HostMatrix;
use crate::positives::Positives;
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// Two noisy linear views of a common latent variable, and who matches whom.
pub(super) struct Sample {
    pub(super) x: HostMatrix,
    pub(super) y: HostMatrix,
    pub(super) positives: Positives,
}

/// `n` pairs of `d1`- and `d2`-wide features of a `k`-wide latent variable.
pub(super) fn pairs(n: usize, d1: usize, d2: usize, k: usize, noise: f64, seed: u64) -> Sample {
    let owner: Vec<usize> = (0..n).collect();
    sample((n, d1, d2, k), &owner, noise, seed, Positives::diagonal(n))
}

/// As [`pairs`], row `i` of x matching 1 to 3 rows of y.
pub(super) fn many(n: usize, d1: usize, d2: usize, k: usize, noise: f64, seed: u64) -> Sample {
    let owner: Vec<usize> = (0..n).flat_map(|i| std::iter::repeat_n(i, 1 + i % 3)).collect();
    let mut indptr = vec![0i64];
    for i in 0..n {
        indptr.push(indptr[i] + 1 + (i % 3) as i64);
    }
    let indices: Vec<i64> = (0..owner.len() as i64).collect();
    let positives = Positives::from_csr(&indptr, &indices, owner.len()).unwrap();
    sample((n, d1, d2, k), &owner, noise, seed, positives)
}

fn sample(
    (n, d1, d2, k): (usize, usize, usize, usize),
    owner: &[usize],
    noise: f64,
    seed: u64,
    positives: Positives,
) -> Sample {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut normal = |len: usize| -> Vec<f64> { (0..len).map(|_| StandardNormal.sample(&mut rng)).collect() };
    let (z, u, v) = (normal(n * k), normal(k * d1), normal(k * d2));
    let (ex, ey) = (normal(n * d1), normal(owner.len() * d2));
    let view = |rows: &[usize], map: &[f64], d: usize, e: &[f64]| -> Vec<f64> {
        let entry = |(row, i): (usize, &usize), j: usize| {
            (0..k).map(|l| z[i * k + l] * map[l * d + j]).sum::<f64>() + noise * e[row * d + j]
        };
        rows.iter().enumerate().flat_map(|at| (0..d).map(move |j| entry(at, j))).collect()
    };
    let all: Vec<usize> = (0..n).collect();
    let x = HostMatrix::from_f64("x", n, d1, view(&all, &u, d1, &ex)).unwrap();
    let y = HostMatrix::from_f64("y", owner.len(), d2, view(owner, &v, d2, &ey)).unwrap();
    Sample { x, y, positives }
}

pub(super) fn oracle() -> Cpu<f64> {
    Cpu::new(1).unwrap()
}
