//! From raw features to what the solver sees: whitening, few rows in a basis of their span, and the way back into encoders.
//! Kernel features are made in `kernel.rs`.

use super::info::Seconds;
use super::{thin, timed};
use crate::backend::Backend;
use crate::error::Result;
use crate::io::{HostMatrix, RowSource};
use crate::model::{Encoder, KernelMap};
use crate::spectral::psd_half_powers;
use faer::{Mat, MatRef};

/// Eigenvalues of a Gram matrix at most this count as 0 in inverse powers.
pub(super) const EIGENVALUE_CUT: f64 = 1e-10;

/// Raw features to solver features: `phi(x) = L k(x)` or `phi(x) = L x`.
#[derive(Clone, Debug, Default)]
pub(crate) struct FeatureMap {
    pub(super) kernel: Option<KernelMap>,
    pub(super) linear: Option<Mat<f64>>,
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

    /// The number of features, whatever basis they are in.
    pub(crate) fn width<B: Backend<Matrix = M>>(&self, backend: &B) -> usize {
        self.basis.as_ref().map_or_else(|| backend.shape(self.embed()).1, Mat::nrows)
    }

    /// The same features whitened; `gram` is `X^T X` of them, `width` their number in whatever basis.
    pub(super) fn whitened<B: Backend<Matrix = M>>(
        &self,
        backend: &B,
        gram: &Mat<f64>,
        width: usize,
        lambda: f64,
    ) -> Result<Self> {
        let w = whitening(gram, backend.shape(&self.cross).0, width, lambda)?;
        let cross = backend.linear(&self.cross, w.as_ref())?;
        let mut map = self.map.clone();
        map.then(w);
        Ok(Self { cross, embed: None, basis: self.basis.clone(), map })
    }

    /// A row of features in the basis that the features are in.
    pub(crate) fn row_in_basis(&self, row: &[f64]) -> Vec<f64> {
        match &self.basis {
            Some(q) => (0..q.ncols()).map(|k| (0..q.nrows()).map(|j| q[(j, k)] * row[j]).sum()).collect(),
            None => row.to_vec(),
        }
    }

    /// An encoder of the features, as it applies to them in their basis.
    pub(crate) fn in_basis(&self, f: Mat<f64>) -> Mat<f64> {
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

pub(super) fn whitened<B: Backend>(
    backend: &B,
    x: B::Matrix,
    map: FeatureMap,
    shrinkage: Option<f64>,
    width: usize,
) -> Result<Mapped<B::Matrix>> {
    let plain = Mapped { cross: x, embed: None, basis: None, map };
    let Some(lambda) = shrinkage else { return Ok(plain) };
    let gram = backend.gram(&plain.cross)?;
    plain.whitened(backend, &gram, width, lambda)
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
pub(super) fn host_rows<B: Backend>(
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

/// A host matrix as rows in the backend.
pub(crate) fn upload<B: Backend>(backend: &B, m: MatRef<'_, f64>) -> Result<B::Matrix> {
    let values = (0..m.nrows()).flat_map(|i| (0..m.ncols()).map(move |j| m[(i, j)])).collect();
    backend.load(&HostMatrix::from_f64("matrix", m.nrows(), m.ncols(), values)?)
}

/// A backend matrix on the host.
///
/// # Errors
/// Those of the backend.
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
