//! Small problems with the shapes that go wrong.

use super::Options;
use crate::error::Result;
use crate::positives::Positives;
use faer::Mat;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::fmt;

/// Which pairs match.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Relation {
    /// One-to-one.
    Diagonal,
    /// Many-to-many, some rows and columns without, one row with half of the columns.
    Ragged,
    /// By group id, groups of about four.
    Groups,
}

/// Two sides of features with common structure, and encoders for them.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    pub(super) n_x: usize,
    pub(super) n_y: usize,
    pub(super) r: usize,
    /// Features, `n_x x d1` and `n_y x d2`.
    pub(super) x: Mat<f64>,
    pub(super) y: Mat<f64>,
    /// Encoders, `r x d1` and `r x d2`.
    pub(super) f: Mat<f64>,
    pub(super) g: Mat<f64>,
    pub(super) relations: Vec<Relation>,
    pub(super) taus: Vec<f64>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (d1, d2) = (self.x.ncols(), self.y.ncols());
        write!(f, "{} x {}, r {}, d {d1}/{d2}", self.n_x, self.n_y, self.r)
    }
}

/// `n x d` uniform in +-1.
pub(super) fn random(rows: usize, cols: usize, seed: u64) -> Mat<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f64> = (0..rows * cols).map(|_| rng.random_range(-1.0..1.0)).collect();
    Mat::from_fn(rows, cols, |i, j| values[i * cols + j])
}

impl Problem {
    fn new(n_x: usize, n_y: usize, r: usize, d1: usize, d2: usize, seed: u64) -> Self {
        let seeds = |k: u64| seed * 16 + k;
        // Row i of both sides shares a latent vector.
        let latent = random(n_x.max(n_y), r, seeds(0));
        let side = |n: usize, d: usize, k: u64| {
            let shared = latent.subrows(0, n) * random(r, d, seeds(k));
            &shared + random(n, d, seeds(k + 1)) * faer::Scale((r as f64).sqrt())
        };
        let (x, mut y) = (side(n_x, d1, 1), side(n_y, d2, 3));
        // Exact ties between columns, and a row that is all zero.
        if n_y > 8 {
            for c in 0..d2 {
                y[(4, c)] = y[(1, c)];
                y[(6, c)] = 0.0;
            }
        }
        let (f, g) = (random(r, d1, seeds(5)), random(r, d2, seeds(6)));
        Self { n_x, n_y, r, x, y, f, g, relations: Vec::new(), taus: Vec::new() }
    }

    fn with(self, relations: &[Relation], taus: &[f64]) -> Self {
        Self { relations: relations.to_vec(), taus: taus.to_vec(), ..self }
    }

    pub(super) fn positives(&self, relation: Relation) -> Result<Positives> {
        match relation {
            Relation::Diagonal => Ok(Positives::diagonal(self.n_x)),
            Relation::Groups => {
                let ids = |n: usize, shift: usize| -> Vec<i64> {
                    (0..n).map(|i| ((i * 7 + shift) % (self.n_x / 4).max(1)) as i64).collect()
                };
                Positives::from_groups(&ids(self.n_x, 0), &ids(self.n_y, 3))
            }
            Relation::Ragged => {
                let mut rng = ChaCha8Rng::seed_from_u64(self.n_x as u64);
                let (mut indptr, mut indices) = (vec![0], Vec::new());
                for i in 0..self.n_x {
                    let own = if i % 7 == 3 { None } else { Some(i % self.n_y) };
                    let mut row: Vec<usize> = match i {
                        2 => (0..self.n_y).step_by(2).collect(),
                        _ => {
                            (0..rng.random_range(0..3usize)).map(|_| rng.random_range(0..self.n_y)).collect()
                        }
                    };
                    row.extend(own);
                    row.retain(|j| j % 11 != 5 && (i % 7 != 3 || i == 2));
                    row.sort_unstable();
                    row.dedup();
                    indices.extend(row.iter().map(|&j| j as i64));
                    indptr.push(indices.len() as i64);
                }
                Positives::from_csr(&indptr, &indices, self.n_y)
            }
        }
    }
}

/// The problems, smallest first. No size is a multiple of a tile.
pub(super) fn all(options: Options) -> Vec<Problem> {
    use Relation::{Diagonal, Groups, Ragged};
    let mut problems = vec![
        Problem::new(1, 1, 3, 5, 4, 1).with(&[Diagonal], &[0.07]),
        Problem::new(7, 7, 20, 24, 21, 2).with(&[Diagonal, Ragged], &[1.0, 0.07]),
        Problem::new(131, 131, 33, 45, 36, 3).with(&[Diagonal], &[1.0, 0.07, 0.01]),
        Problem::new(70, 197, 16, 17, 40, 4).with(&[Ragged], &[0.2, 0.02]),
        Problem::new(265, 133, 70, 75, 72, 5).with(&[Groups], &[0.07]),
    ];
    if !options.quick {
        problems.extend([
            Problem::new(1031, 1031, 128, 130, 200, 6).with(&[Diagonal, Groups], &[1.0, 0.07, 0.01]),
            Problem::new(2050, 517, 65, 384, 100, 7).with(&[Ragged], &[0.3, 0.05, 0.015]),
            Problem::new(389, 4100, 256, 260, 512, 8).with(&[Ragged], &[0.07]),
        ]);
    }
    problems
}
