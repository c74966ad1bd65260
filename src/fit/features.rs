//! From raw features to what the solver sees: kernel features, whitening, and the way back into encoders.

use super::options::{KernelOptions, Landmarks};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::io::{HostMatrix, RowSource};
use crate::kernel::Kernel;
use crate::model::{Encoder, KernelMap};
use crate::spectral::psd_half_powers;
use faer::{Mat, MatRef};
use rand::SeedableRng;

/// Eigenvalues of a Gram matrix at most this count as 0 in inverse powers.
const EIGENVALUE_CUT: f64 = 1e-10;

/// Raw features to solver features: `phi(x) = L k(x)` or `phi(x) = L x`.
#[derive(Clone, Debug, Default)]
pub(crate) struct FeatureMap {
    kernel: Option<KernelMap>,
    linear: Option<Mat<f64>>,
}

impl FeatureMap {
    /// Maps raw features; `None` where nothing changes.
    pub(crate) fn apply<B: Backend>(&self, backend: &B, x: &B::Matrix) -> Result<Option<B::Matrix>> {
        let kernel = match &self.kernel {
            Some(map) => Some(backend.kernel(&map.kernel, x, map.landmarks.as_ref())?),
            None => None,
        };
        match &self.linear {
            Some(l) => backend.linear(kernel.as_ref().unwrap_or(x), l.as_ref()).map(Some),
            None => Ok(kernel),
        }
    }

    /// Whether it changes anything.
    pub(crate) fn folds(&self) -> bool {
        self.kernel.is_some() || self.linear.is_some()
    }

    /// The encoder of raw features that equals `f` on mapped ones.
    pub(crate) fn fold(&self, f: MatRef<'_, f64>) -> Encoder {
        let matrix = match &self.linear {
            Some(l) => f * l,
            None => f.to_owned(),
        };
        Encoder { offset: None, map: self.kernel.clone(), matrix }
    }

    /// Appends the linear map `l` (`p x p_before`).
    fn then(&mut self, l: Mat<f64>) {
        self.linear = Some(match &self.linear {
            Some(before) => &l * before,
            None => l,
        });
    }
}

/// One side's features as the solver uses them.
pub(crate) struct Mapped<M> {
    /// What `C = X^T S Y` is built from.
    pub(crate) cross: M,
    /// What is encoded, where that differs: the exact kernel solver builds `C` from `(K + ridge I)^{1/2}` and encodes
    /// `(K + ridge I)^{-1/2} k(x)`.
    pub(crate) embed: Option<M>,
    pub(crate) map: FeatureMap,
}

impl<M> Mapped<M> {
    pub(crate) fn embed(&self) -> &M {
        self.embed.as_ref().unwrap_or(&self.cross)
    }
}

/// Linear features: the raw ones, whitened on request.
pub(crate) fn linear<B: Backend>(
    backend: &B,
    x: B::Matrix,
    whiten: Option<f64>,
) -> Result<Mapped<B::Matrix>> {
    whitened(backend, x, FeatureMap::default(), whiten)
}

/// Nystrom features `phi(x) = (K_ZZ + ridge I)^{-1/2} k_Z(x)`, whitened on request.
pub(crate) fn nystrom<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    x: &B::Matrix,
    options: &KernelOptions,
    seed: u64,
    whiten: Option<f64>,
) -> Result<Mapped<B::Matrix>> {
    let rows = landmark_rows(&options.landmarks, source.rows(), seed)?;
    let landmarks = host_rows(backend, source, Some(x), &rows)?;
    let k_zz = gram(backend, &options.kernel, landmarks.as_ref())?;
    let (_, inverse_half) = psd_half_powers(k_zz.as_ref(), options.ridge, EIGENVALUE_CUT)?;
    let kernel = Some(KernelMap { kernel: options.kernel, landmarks });
    let map = FeatureMap { kernel, linear: Some(inverse_half) };
    let phi = map.apply(backend, x)?.ok_or_else(|| Error::Numerical("no kernel features".into()))?;
    whitened(backend, phi, map, whiten)
}

/// Rows whose distances stand for all.
const DISTANCE_ROWS: usize = 256;

/// The median distance between rows; 1 where most are equal.
pub(crate) fn median_distance<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    x: &B::Matrix,
    seed: u64,
) -> Result<f64> {
    let n = source.rows();
    let rows = landmark_rows(&Landmarks::Count(n.min(DISTANCE_ROWS)), n, seed)?;
    let points = host_rows(backend, source, Some(x), &rows)?;
    let distance = |i: usize, j: usize| (points.row(i) - points.row(j)).norm_l2();
    let mut all: Vec<f64> =
        (0..rows.len()).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| distance(i, j)).collect();
    all.sort_unstable_by(f64::total_cmp);
    Ok(all.get(all.len() / 2).copied().filter(|d| *d > 0.0).unwrap_or(1.0))
}

/// The exact kernel solver's features: `n x n`.
pub(crate) fn exact<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    options: &KernelOptions,
) -> Result<Mapped<B::Matrix>> {
    let n = source.rows();
    check_exact_memory(n)?;
    let landmarks = host_rows(backend, source, None, &(0..n).collect::<Vec<_>>())?;
    let k = gram(backend, &options.kernel, landmarks.as_ref())?;
    let (half, inverse_half) = psd_half_powers(k.as_ref(), options.ridge, EIGENVALUE_CUT)?;
    let cross = upload(backend, half.as_ref())?;
    let embed = upload(backend, (&k * &inverse_half).as_ref())?;
    let kernel = Some(KernelMap { kernel: options.kernel, landmarks });
    Ok(Mapped { cross, embed: Some(embed), map: FeatureMap { kernel, linear: Some(inverse_half) } })
}

/// Row numbers of the landmarks.
pub(crate) fn landmark_rows(landmarks: &Landmarks, n: usize, seed: u64) -> Result<Vec<usize>> {
    match landmarks {
        Landmarks::Exact => Ok((0..n).collect()),
        Landmarks::Count(m) if *m > n => {
            Err(Error::invalid("landmarks", format!("at most the number of rows, {n}"), m))
        }
        Landmarks::Count(m) => {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let mut rows = rand::seq::index::sample(&mut rng, n, *m).into_vec();
            rows.sort_unstable();
            Ok(rows)
        }
        Landmarks::Rows(rows) => match rows.iter().find(|&&r| r >= n) {
            Some(r) => Err(Error::invalid("landmarks", format!("rows below {n}"), r)),
            None => Ok(rows.clone()),
        },
    }
}

fn whitened<B: Backend>(
    backend: &B,
    x: B::Matrix,
    mut map: FeatureMap,
    shrinkage: Option<f64>,
) -> Result<Mapped<B::Matrix>> {
    let Some(lambda) = shrinkage else { return Ok(Mapped { cross: x, embed: None, map }) };
    let w = whitening(&backend.gram(&x)?, backend.shape(&x).0, lambda)?;
    let cross = backend.linear(&x, w.as_ref())?;
    map.then(w);
    Ok(Mapped { cross, embed: None, map })
}

/// `(G + lambda tr(G)/d I)^{-1/2}` with `G = X^T X / n`.
pub(crate) fn whitening(xtx: &Mat<f64>, n: usize, lambda: f64) -> Result<Mat<f64>> {
    let d = xtx.nrows();
    let g = Mat::from_fn(d, d, |i, j| xtx[(i, j)] / n as f64);
    let mean = (0..d).map(|i| g[(i, i)]).sum::<f64>() / d as f64;
    Ok(psd_half_powers(g.as_ref(), lambda * mean, EIGENVALUE_CUT * mean)?.1)
}

/// All rows of a source on the host.
pub(crate) fn host(source: &dyn RowSource) -> Result<Mat<f64>> {
    let (n, d) = (source.rows(), source.cols());
    let values = crate::io::read_all::<f64>(source)?;
    Ok(Mat::from_fn(n, d, |i, j| values[i * d + j]))
}

/// Some rows of a source on the host of every rank; `x` are all of them in the backend, if they are there.
fn host_rows<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    x: Option<&B::Matrix>,
    rows: &[usize],
) -> Result<Mat<f64>> {
    if !backend.group().any(source.held() != (0..source.rows()))? {
        return read_rows(source, rows);
    }
    // Each rank has brought rows of its own: they meet in the backend.
    let ids: Vec<u32> = rows.iter().map(|&i| i as u32).collect();
    match x {
        Some(x) => download(backend, &backend.select(x, &ids)?),
        None => download(backend, &backend.select(&backend.load(source)?, &ids)?),
    }
}

fn read_rows(source: &dyn RowSource, rows: &[usize]) -> Result<Mat<f64>> {
    let d = source.cols();
    let mut values = vec![0.0; rows.len() * d];
    for (&row, out) in rows.iter().zip(values.chunks_exact_mut(d.max(1))) {
        source.read_rows_f64(row, out)?;
    }
    Ok(Mat::from_fn(rows.len(), d, |i, j| values[i * d + j]))
}

/// `K_ij = k(a_i, a_j)`.
fn gram<B: Backend>(backend: &B, kernel: &Kernel, points: MatRef<'_, f64>) -> Result<Mat<f64>> {
    let k = backend.kernel(kernel, &upload(backend, points)?, points)?;
    download(backend, &k)
}

/// A host matrix as rows in the backend.
pub(crate) fn upload<B: Backend>(backend: &B, m: MatRef<'_, f64>) -> Result<B::Matrix> {
    let values = (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect();
    backend.load(&HostMatrix::from_f64("matrix", m.nrows(), m.ncols(), values)?)
}

/// A backend matrix on the host.
pub(crate) fn download<B: Backend>(backend: &B, m: &B::Matrix) -> Result<Mat<f64>> {
    let (rows, cols) = backend.shape(m);
    let mut out = Mat::zeros(rows, cols);
    backend.store(m, &mut |first, panel| {
        for (i, row) in panel.chunks_exact(cols.max(1)).enumerate() {
            row.iter().enumerate().for_each(|(j, &v)| out[(first + i, j)] = v);
        }
        Ok(())
    })?;
    Ok(out)
}

/// Refuses an exact kernel fit that cannot fit in memory, before it starts.
fn check_exact_memory(n: usize) -> Result<()> {
    // Per side: K, its shifted copy, eigenvectors, workspace, two powers and two backend copies.
    let needed = (n as u64).saturating_mul(n as u64).saturating_mul(8 * 8);
    match available_memory() {
        Some(limit) if needed > limit => {
            let what = format!("the exact kernel solver on {n} rows (use landmarks)");
            Err(Error::OutOfMemory { what, needed, limit })
        }
        _ => Ok(()),
    }
}

/// Bytes the system can still hand out, where it says.
pub(crate) fn available_memory() -> Option<u64> {
    crate::memory::available()
}
