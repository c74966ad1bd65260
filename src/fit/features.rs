//! From raw features to what the solver sees: kernel features, whitening, and the way back into encoders.

use super::info::Seconds;
use super::options::{KernelOptions, Landmarks};
use super::{thin, timed};
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
    /// `Q` (`d x n`) of few rows of many columns: the features above are those in this basis.
    pub(crate) basis: Option<Mat<f64>>,
    pub(crate) map: FeatureMap,
}

impl<M> Mapped<M> {
    pub(crate) fn embed(&self) -> &M {
        self.embed.as_ref().unwrap_or(&self.cross)
    }

    /// The number of features, whatever the basis that they are held in.
    pub(crate) fn width<B: Backend<Matrix = M>>(&self, backend: &B) -> usize {
        self.basis.as_ref().map_or_else(|| backend.shape(self.embed()).1, Mat::nrows)
    }

    /// A row of features as it is held.
    pub(crate) fn row_on_held(&self, row: &[f64]) -> Vec<f64> {
        match &self.basis {
            Some(q) => (0..q.ncols()).map(|k| (0..q.nrows()).map(|j| q[(j, k)] * row[j]).sum()).collect(),
            None => row.to_vec(),
        }
    }

    /// An encoder of the features, as it applies to what is held of them.
    pub(crate) fn on_held(&self, f: Mat<f64>) -> Mat<f64> {
        match &self.basis {
            Some(q) => f * q,
            None => f,
        }
    }
}

/// Linear features: the raw ones, whitened on request. `span`: few rows of many columns may be held in a basis of their
/// span.
pub(crate) fn linear<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    whiten: Option<f64>,
    span: bool,
    seconds: &mut Seconds,
) -> Result<Mapped<B::Matrix>> {
    let thin = match span {
        true => timed(&mut seconds.load, || thin::of_source(backend, source))?,
        false => None,
    };
    let Some(thin) = thin else {
        let x = timed(&mut seconds.load, || backend.load(source))?;
        return timed(&mut seconds.features, || {
            whitened(backend, x, FeatureMap::default(), whiten, source.cols())
        });
    };
    let map = FeatureMap { kernel: None, linear: Some(thin.basis.transpose().to_owned()) };
    let width = source.cols();
    let mapped = timed(&mut seconds.features, || whitened(backend, thin.rows, map, whiten, width))?;
    Ok(Mapped { basis: Some(thin.basis), ..mapped })
}

/// Linear features in a basis that other rows of the same kind are held in, where they are.
pub(crate) fn linear_in<B: Backend>(
    backend: &B,
    source: &dyn RowSource,
    basis: Option<Mat<f64>>,
    seconds: &mut Seconds,
) -> Result<Mapped<B::Matrix>> {
    let x = timed(&mut seconds.load, || backend.load(source))?;
    let Some(q) = basis else {
        return Ok(Mapped { cross: x, embed: None, basis: None, map: FeatureMap::default() });
    };
    let cross = timed(&mut seconds.features, || backend.linear(&x, q.transpose()))?;
    let map = FeatureMap { kernel: None, linear: Some(q.transpose().to_owned()) };
    Ok(Mapped { cross, embed: None, basis: Some(q), map })
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
    let width = rows.len();
    whitened(backend, phi, map, whiten, width)
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
    let map = FeatureMap { kernel, linear: Some(inverse_half) };
    Ok(Mapped { cross, embed: Some(embed), basis: None, map })
}

/// Row numbers of the landmarks.
pub(crate) fn landmark_rows(landmarks: &Landmarks, n: usize, seed: u64) -> Result<Vec<usize>> {
    match landmarks {
        Landmarks::Exact => Ok((0..n).collect()),
        Landmarks::Count(m) if *m > n => {
            Err(Error::invalid("landmarks", format!("at most the number of rows, {n}"), m))
        }
        Landmarks::Count(_) | Landmarks::Auto => {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let mut rows = rand::seq::index::sample(&mut rng, n, landmarks.count(n)).into_vec();
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
    width: usize,
) -> Result<Mapped<B::Matrix>> {
    let Some(lambda) = shrinkage else { return Ok(Mapped { cross: x, embed: None, basis: None, map }) };
    let w = whitening(&backend.gram(&x)?, backend.shape(&x).0, width, lambda)?;
    let cross = backend.linear(&x, w.as_ref())?;
    map.then(w);
    Ok(Mapped { cross, embed: None, basis: None, map })
}

/// `(G + lambda tr(G)/d I)^{-1/2}` with `G = X^T X / n` of `width` = d features, which may be held in fewer coordinates.
pub(crate) fn whitening(xtx: &Mat<f64>, n: usize, width: usize, lambda: f64) -> Result<Mat<f64>> {
    let d = xtx.nrows();
    let g = Mat::from_fn(d, d, |i, j| xtx[(i, j)] / n as f64);
    let mean = (0..d).map(|i| g[(i, i)]).sum::<f64>() / width as f64;
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
///
/// # Errors
/// Those of the backend.
pub fn download<B: Backend>(backend: &B, m: &B::Matrix) -> Result<Mat<f64>> {
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
