//! Few rows of many columns: everything a fit computes lies in the span of the rows, so it is computed there.
//!
//! `X = A Q^T` with `A` `n x n` and orthonormal columns in `Q` (`d x n`), from a QR decomposition of `X^T`: no squared
//! condition, and rank-deficient rows need no care. Gram matrices, `C = X^T S Y` and gradients of encoders are those of `A`
//! between `Q` and `Q^T`, norms and inner products are kept, and an encoder `F` of `A` is the encoder `F Q^T` of `X`. What
//! took decompositions of `d x d` matrices takes those of `n x n` ones.

use super::features::{download, upload};
use crate::backend::Backend;
use crate::error::Result;
use crate::io::RowSource;
use faer::Mat;

/// Whether `n` rows are few enough among `d` columns for the QR decomposition to be the smaller part of the work.
pub(crate) fn pays(n: usize, d: usize) -> bool {
    4 * n <= 3 * d
}

/// Features in an orthonormal basis of a space that holds their rows.
pub(crate) struct Thin<M> {
    /// `A`, `n x n`.
    pub(crate) rows: M,
    /// `Q`, `d x n`.
    pub(crate) basis: Mat<f64>,
}

/// The rows of a source in a basis of their span, where that pays.
pub(crate) fn of_source<B: Backend>(backend: &B, source: &dyn RowSource) -> Result<Option<Thin<B::Matrix>>> {
    if !pays(source.rows(), source.cols()) {
        return Ok(None);
    }
    // Where each rank has brought rows of its own they meet in the backend.
    let x = match backend.group().any(source.held() != (0..source.rows()))? {
        true => download(backend, &backend.load(source)?)?,
        false => super::host(source)?,
    };
    Ok(Some(thin(backend, &x)?))
}

/// The same of rows that are in the backend.
pub(crate) fn of_matrix<B: Backend>(backend: &B, x: &B::Matrix) -> Result<Option<Thin<B::Matrix>>> {
    let (n, d) = backend.shape(x);
    if !pays(n, d) {
        return Ok(None);
    }
    Ok(Some(thin(backend, &download(backend, x)?)?))
}

fn thin<B: Backend>(backend: &B, x: &Mat<f64>) -> Result<Thin<B::Matrix>> {
    let qr = x.transpose().qr();
    let rows = upload(backend, qr.thin_R().transpose())?;
    Ok(Thin { rows, basis: qr.compute_thin_Q() })
}
