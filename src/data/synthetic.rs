//! Synthetic pairs: the paper's two latent-factor models, and a generator of any size that stores nothing.

use faer::Mat;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::io::{HostMatrix, RowSource};

/// How latent vectors arise and how they become features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LatentModel {
    /// `x = U1 z + noise`, `y = U2 z + noise`; z from a mixture of `clusters` Gaussians of deviation `spread` whose
    /// centres are uniform in -2 to 2, drawn anew for each split. Clusters are of equal size and in order, as the
    /// authors draw them: a mini-batch sees one cluster.
    Linear {
        /// Number of clusters.
        clusters: usize,
        /// Standard deviation within a cluster.
        spread: f64,
    },
    /// `x = tanh(U3 tanh(U1 z)) + noise`, `y = tanh(U4 tanh(U2 z)) + noise`; z standard normal.
    Nonlinear,
}

/// One of the paper's latent-factor models (arXiv 2604.16678, synthetic experiments). All U are Haar: U1 `d1 x latent`,
/// U2 `d2 x latent`, U3 `d1 x d1`, U4 `d2 x d2`; they are shared by the splits of a draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatentFactor {
    /// The model.
    pub model: LatentModel,
    /// Features of x.
    pub d1: usize,
    /// Features of y.
    pub d2: usize,
    /// Dimension of z, at most min(d1, d2).
    pub latent: usize,
    /// Standard deviation of the noise.
    pub noise: f64,
    /// Rows of the training, validation and test splits.
    pub sizes: [usize; 3],
}

/// Matching rows of two modalities.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// First modality, n x d1.
    pub x: HostMatrix,
    /// Second modality, n x d2.
    pub y: HostMatrix,
}

/// A draw of a model.
#[derive(Debug, Clone)]
pub struct Splits {
    /// To fit on.
    pub train: Pairs,
    /// To choose parameters by.
    pub val: Pairs,
    /// To report.
    pub test: Pairs,
}

impl LatentFactor {
    /// The linear model with the paper's sizes: 40 and 30 features, 10 latent, 3 clusters, 600/100/100 rows.
    pub const fn linear() -> Self {
        let model = LatentModel::Linear { clusters: 3, spread: 0.6 };
        Self { model, d1: 40, d2: 30, latent: 10, noise: 0.1, sizes: [600, 100, 100] }
    }

    /// The nonlinear model with the paper's sizes: 40 and 39 features, 10 latent, 1,000/100/100 rows.
    pub const fn nonlinear() -> Self {
        let model = LatentModel::Nonlinear;
        Self { model, d1: 40, d2: 39, latent: 10, noise: 0.3, sizes: [1000, 100, 100] }
    }

    /// Draws the splits; equal seeds give equal data.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `latent` is 0 or exceeds d1 or d2, there are no clusters, or a deviation is negative
    /// or not finite.
    pub fn draw(&self, seed: u64) -> Result<Splits> {
        check_shape(self.d1, self.d2, self.latent, self.noise)?;
        if let LatentModel::Linear { clusters, spread } = self.model {
            if clusters == 0 {
                return Err(Error::invalid("clusters", "at least 1", clusters));
            }
            check_deviation("spread", spread)?;
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let x_map = self.encoder(&mut rng, self.d1);
        let y_map = self.encoder(&mut rng, self.d2);
        let mut split = |name: &str, n: usize| {
            let z = self.latents(&mut rng, n);
            Ok(Pairs {
                x: self.features(&mut rng, &z, &x_map, &format!("{name} x"))?,
                y: self.features(&mut rng, &z, &y_map, &format!("{name} y"))?,
            })
        };
        let [train, val, test] = self.sizes;
        Ok(Splits { train: split("train", train)?, val: split("val", val)?, test: split("test", test)? })
    }

    /// U1 (and U3) of one modality.
    fn encoder(&self, rng: &mut ChaCha8Rng, d: usize) -> (Mat<f64>, Option<Mat<f64>>) {
        let inner = haar(rng, d, self.latent);
        (inner, (self.model == LatentModel::Nonlinear).then(|| haar(rng, d, d)))
    }

    /// n latent vectors, one a row.
    fn latents(&self, rng: &mut ChaCha8Rng, n: usize) -> Mat<f64> {
        match self.model {
            LatentModel::Nonlinear => gaussian(rng, n, self.latent),
            LatentModel::Linear { clusters, spread } => {
                let centres = Mat::from_fn(clusters, self.latent, |_, _| rng.random_range(-2.0..2.0));
                let size = n.div_ceil(clusters).max(1);
                let within = gaussian(rng, n, self.latent);
                Mat::from_fn(n, self.latent, |i, k| centres[(i / size, k)] + spread * within[(i, k)])
            }
        }
    }

    /// The noisy features of `z` in one modality.
    fn features(
        &self,
        rng: &mut ChaCha8Rng,
        z: &Mat<f64>,
        (inner, outer): &(Mat<f64>, Option<Mat<f64>>),
        name: &str,
    ) -> Result<HostMatrix> {
        let mut clean = z * inner.transpose();
        if let Some(outer) = outer {
            let hidden = Mat::from_fn(clean.nrows(), clean.ncols(), |i, j| clean[(i, j)].tanh());
            clean = hidden * outer.transpose();
            clean = Mat::from_fn(clean.nrows(), clean.ncols(), |i, j| clean[(i, j)].tanh());
        }
        let (n, d) = (clean.nrows(), clean.ncols());
        let mut values = Vec::with_capacity(n * d);
        for i in 0..n {
            for j in 0..d {
                let noise: f64 = rng.sample(StandardNormal);
                values.push((clean[(i, j)] + self.noise * noise) as f32);
            }
        }
        HostMatrix::from_f32(name, n, d, values)
    }
}

fn check_deviation(name: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::invalid(name, "a finite standard deviation of at least 0", value))
}

fn check_shape(d1: usize, d2: usize, latent: usize, noise: f64) -> Result<()> {
    if latent == 0 || latent > d1.min(d2) {
        return Err(Error::invalid("latent", format!("1 to min(d1, d2) = {}", d1.min(d2)), latent));
    }
    check_deviation("noise", noise)
}

fn gaussian(rng: &mut ChaCha8Rng, rows: usize, cols: usize) -> Mat<f64> {
    Mat::from_fn(rows, cols, |_, _| rng.sample(StandardNormal))
}

/// `d x r` orthonormal columns of the Haar distribution: Q of a Gaussian matrix, with the signs that make R's diagonal
/// positive (Mezzadri 2007), without which Q depends on the QR algorithm's convention.
fn haar(rng: &mut ChaCha8Rng, d: usize, r: usize) -> Mat<f64> {
    let qr = gaussian(rng, d, r).qr();
    let (q, triangle) = (qr.compute_thin_Q(), qr.thin_R());
    Mat::from_fn(d, r, |i, j| q[(i, j)] * 1f64.copysign(triangle[(j, j)]))
}

/// One modality of [`synthetic_pairs`]; rows are computed whenever they are read.
#[derive(Debug, Clone)]
pub struct SyntheticRows {
    name: String,
    rows: usize,
    cols: usize,
    noise: f32,
    rng: ChaCha8Rng,
    /// Which of a row's random streams its noise comes from.
    stream: u64,
    /// U transposed, latent x cols: one row per latent dimension.
    loadings: Vec<f32>,
}

/// Random streams per row: the latent vector, the noise of x, the noise of y, and one for both U (row 0).
const STREAMS: u64 = 4;

/// `n` pairs `x = U1 z + noise`, `y = U2 z + noise` with standard normal z and Haar U, as sources that store nothing but U.
///
/// Every row has its own streams of the generator (ChaCha8 by row number), so that any range of rows can be read in any
/// order, from any thread, with the same result: a million rows need no more memory than one panel.
///
/// # Errors
/// [`Error::InvalidArgument`] if `latent` is 0 or exceeds d1 or d2, or `noise` is negative or not finite.
pub fn synthetic_pairs(
    n: usize,
    d1: usize,
    d2: usize,
    latent: usize,
    noise: f64,
    seed: u64,
) -> Result<(SyntheticRows, SyntheticRows)> {
    check_shape(d1, d2, latent, noise)?;
    let rng = ChaCha8Rng::seed_from_u64(seed);
    let mut matrices = rng.clone();
    matrices.set_stream(STREAMS - 1);
    let mut side = |name: &str, cols: usize, stream: u64| {
        let u = haar(&mut matrices, cols, latent);
        let loadings = (0..latent).flat_map(|k| (0..cols).map(move |j| (j, k)));
        SyntheticRows {
            name: name.into(),
            rows: n,
            cols,
            noise: noise as f32,
            rng: rng.clone(),
            stream,
            loadings: loadings.map(|(j, k)| u[(j, k)] as f32).collect(),
        }
    };
    Ok((side("synthetic x", d1, 1), side("synthetic y", d2, 2)))
}

impl SyntheticRows {
    fn stream(&self, row: usize, stream: u64) -> ChaCha8Rng {
        let mut rng = self.rng.clone();
        rng.set_stream(row as u64 * STREAMS + stream);
        rng
    }

    fn row(&self, row: usize, out: &mut [f32]) {
        let mut noise = self.stream(row, self.stream);
        for o in out.iter_mut() {
            let e: f32 = noise.sample(StandardNormal);
            *o = self.noise * e;
        }
        let mut latent = self.stream(row, 0);
        for u in self.loadings.chunks_exact(self.cols) {
            let z: f32 = latent.sample(StandardNormal);
            for (o, &u) in out.iter_mut().zip(u) {
                *o += z * u;
            }
        }
    }
}

impl RowSource for SyntheticRows {
    fn rows(&self) -> usize {
        self.rows
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        crate::io::check_request(self, start, out.len())?;
        let rows = out.par_chunks_exact_mut(self.cols).enumerate().with_min_len(16);
        crate::threads::run(|| rows.for_each(|(i, out)| self.row(start + i, out)));
        Ok(())
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        crate::io::check_request(self, start, out.len())?;
        let rows = out.par_chunks_exact_mut(self.cols).enumerate().with_min_len(16);
        crate::threads::run(|| {
            rows.for_each_init(
                || vec![0f32; self.cols],
                |row, (i, out)| {
                    self.row(start + i, row);
                    out.iter_mut().zip(&*row).for_each(|(o, &v)| *o = v.into());
                },
            );
        });
        Ok(())
    }
    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Features, read_all};

    /// Singular values divided by sqrt(n), descending.
    fn spectrum(m: &dyn RowSource) -> Vec<f64> {
        let (n, d) = (m.rows(), m.cols());
        let values: Vec<f64> = read_all(m).unwrap();
        let m = Mat::from_fn(n, d, |i, j| values[i * d + j]);
        let s = m.singular_values().unwrap();
        s.iter().map(|s| s / (n as f64).sqrt()).collect()
    }

    fn mean(v: &[f64]) -> f64 {
        v.iter().sum::<f64>() / v.len() as f64
    }

    /// The stored draws of the authors' generators.
    fn reference(model: &str, seed: usize, matrix: &str) -> Features {
        let root = env!("CARGO_MANIFEST_DIR");
        Features::open(format!("{root}/tests/data/synthetic/{model}_seed{seed}/{matrix}.npy")).unwrap()
    }

    #[test]
    fn statistics_are_those_of_the_authors_generators() {
        for seed in 0..3 {
            let nonlinear = LatentFactor::nonlinear().draw(seed as u64).unwrap();
            let linear = LatentFactor::linear().draw(seed as u64).unwrap();
            for (matrix, own) in [("x_train", &nonlinear.train.x), ("y_train", &nonlinear.train.y)] {
                let theirs = reference("nonlinear", seed, matrix);
                assert_eq!((own.rows(), own.cols()), (theirs.rows(), theirs.cols()));
                let (a, b) = (spectrum(own), spectrum(&theirs));
                // Sampling error of a mean over ten singular values of 1,000 rows is about 1%.
                for part in [0..10, 10..a.len()] {
                    let (a, b) = (mean(&a[part.clone()]), mean(&b[part]));
                    assert!((a / b - 1.0).abs() < 0.03, "nonlinear {seed} {matrix}: {a} {b}");
                }
            }
            for (matrix, own) in [("x_train", &linear.train.x), ("y_train", &linear.train.y)] {
                let theirs = reference("linear", seed, matrix);
                assert_eq!((own.rows(), own.cols()), (theirs.rows(), theirs.cols()));
                let (a, b) = (spectrum(own), spectrum(&theirs));
                // The first three directions are the centres, which differ from draw to draw.
                for part in [3..10, 10..a.len()] {
                    let (a, b) = (mean(&a[part.clone()]), mean(&b[part]));
                    assert!((a / b - 1.0).abs() < 0.05, "linear {seed} {matrix}: {a} {b}");
                }
                assert!(a[0] > 1.2 && a[0] < 4.0, "{}", a[0]);
            }
            assert_eq!((linear.val.x.rows(), linear.test.y.rows()), (100, 100));
        }
    }

    #[test]
    fn haar_columns_are_orthonormal_and_signs_are_fair() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut positive = 0;
        for _ in 0..200 {
            let u = haar(&mut rng, 7, 3);
            let g = u.transpose() * &u;
            for (i, j) in (0..3).flat_map(|i| (0..3).map(move |j| (i, j))) {
                assert!((g[(i, j)] - f64::from(u8::from(i == j))).abs() < 1e-14);
            }
            positive += i32::from(u[(0, 0)] > 0.0);
        }
        // Householder QR without the sign fix gives always the same sign. Four standard deviations of 200 fair coins.
        assert!((positive - 100).abs() < 29, "{positive} of 200");
    }

    #[test]
    fn seeds_determine_draws() {
        let values = |seed| read_all::<f32>(&LatentFactor::linear().draw(seed).unwrap().test.x).unwrap();
        assert_eq!(values(3), values(3));
        assert_ne!(values(3), values(4));
    }

    #[test]
    fn rows_do_not_depend_on_how_they_are_read() {
        let (x, y) = synthetic_pairs(301, 24, 17, 6, 0.2, 11).unwrap();
        for side in [&x, &y] {
            let whole: Vec<f32> = read_all(side).unwrap();
            for (start, count) in [(0, 1), (300, 1), (5, 123), (299, 2)] {
                let mut part = vec![0f32; count * side.cols()];
                side.read_rows(start, &mut part).unwrap();
                assert_eq!(part, whole[start * side.cols()..][..part.len()]);
                let mut wide = vec![0f64; count * side.cols()];
                side.read_rows_f64(start, &mut wide).unwrap();
                assert!(wide.iter().zip(&part).all(|(w, p)| *w == f64::from(*p)));
            }
            assert!(side.read_rows(301, &mut vec![0.; side.cols()]).is_err());
        }
        let longer = synthetic_pairs(1_000_000_000, 24, 17, 6, 0.2, 11).unwrap().0;
        let mut row = vec![0f32; 24];
        longer.read_rows(300, &mut row).unwrap();
        assert_eq!(row, read_all::<f32>(&x).unwrap()[300 * 24..]);
        longer.read_rows(999_999_999, &mut row).unwrap();
        assert!(row.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn pairs_share_their_latent_vector() {
        let (n, d1, d2, r, noise) = (4000, 20, 15, 5, 0.1);
        let (x, y) = synthetic_pairs(n, d1, d2, r, noise, 2).unwrap();
        let (xv, yv): (Vec<f64>, Vec<f64>) = (read_all(&x).unwrap(), read_all(&y).unwrap());
        let x = Mat::from_fn(n, d1, |i, j| xv[i * d1 + j]);
        let y = Mat::from_fn(n, d2, |i, j| yv[i * d2 + j]);
        let c = x.transpose() * &y * faer::Scale(1.0 / n as f64);
        // E x y^T = U1 U2^T: r singular values 1, the others 0; both to sampling error (1/sqrt(n) = 0.016 an entry).
        let s = c.singular_values().unwrap();
        assert!(s[..r].iter().all(|s| (s - 1.0).abs() < 0.1) && s[r..].iter().all(|&s| s < 0.05), "{s:?}");
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert!(synthetic_pairs(10, 5, 4, 5, 0.1, 0).is_err());
        assert!(synthetic_pairs(10, 5, 4, 0, 0.1, 0).is_err());
        assert!(synthetic_pairs(10, 5, 4, 2, f64::NAN, 0).is_err());
        let none = LatentModel::Linear { clusters: 0, spread: 0.6 };
        assert!(LatentFactor { model: none, ..LatentFactor::linear() }.draw(0).is_err());
        assert!(LatentFactor { noise: -1.0, ..LatentFactor::nonlinear() }.draw(0).is_err());
    }
}
