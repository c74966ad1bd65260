//! Fewer columns: the embeddings of a given width whose products are the nearest to those of a model.
//!
//! A fused model puts its components' embeddings side by side. With `Z_x` (`n_x x R`) and `Z_y` (`n_y x R`) those of some rows,
//! all their similarities are `T = Z_x Z_y^T`. The moments `G_x = Z_x^T Z_x` and `G_y` hold what is needed of the rows: the singular
//! values of `T` are those of `G_x^{1/2} G_y^{1/2} = U diag(s) V^T`, and its best approximation of rank `r` is
//!
//! ```text
//! T_r = (Z_x A_x)(Z_y A_y)^T,     A_x = G_y^{1/2} V_r s_r^{-1/2},     A_y = G_x^{1/2} U_r s_r^{-1/2}
//! ```
//!
//! since `Z_x = Q_x G_x^{1/2}` with orthonormal `Q_x`. No moment is inverted: rows that do not span the embeddings do no harm.
//! `O(n R^2 + R^3)` time and `O(R^2)` memory; nothing is `n x n`.

use super::{Model, Side};
use crate::backend::Backend;
use crate::dense::product;
use crate::error::{Error, Result};
use crate::fit::download;
use crate::io::{RowRange, RowSource};
use crate::spectral::{SvdMethod, psd_half_powers, top_r};
use faer::Mat;
use serde::Serialize;

/// Bytes of the embeddings of one panel of rows.
const PANEL_BYTES: usize = 64 << 20;
/// Singular values at most this share of the largest count as 0: they are roots of the rounding of moments, and what is divided by them
/// would be large for other rows.
const NOTHING: f64 = 1e-7;

/// The maps from a model's embeddings side by side, of width `R`, to the `r` columns that it hands out: rows are
/// `A^T z`. They are not scaled to unit length: their products are the similarities.
#[derive(Clone, Debug)]
pub struct Compression {
    /// `A_x^T`, `r x R`.
    pub x: Mat<f64>,
    /// `A_y^T`, `r x R`.
    pub y: Mat<f64>,
}

impl Compression {
    pub(super) fn of(&self, side: Side) -> &Mat<f64> {
        match side {
            Side::X => &self.x,
            Side::Y => &self.y,
        }
    }
}

/// What [`Model::compressed`] lost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compressed {
    /// Columns before, `R`.
    pub from: usize,
    /// Columns after, `r`.
    pub columns: usize,
    /// `|T - T_r| / |T|` (Frobenius) over all pairs of the given rows: the root of the discarded share of the squared singular values.
    /// No `r` columns have a smaller one. Below 1e-7 it is rounding.
    pub error: f64,
    /// The `r` singular values of `T` that are kept, descending.
    pub singular_values: Vec<f64>,
}

impl Model {
    /// This model with embeddings of `r` columns, whose products over all pairs of the given rows are as near as `r` columns can be
    /// to those of its own (in the Frobenius norm), and what that lost. The rows, `n_x x d1` and `n_y x d2`, need not match each
    /// other; training rows are a good choice.
    ///
    /// What is kept is the similarity that the model ranks by, the product of its embeddings (of a fused model the weighted mean of
    /// its components' cosines). Rows of the new embeddings are about as long as what is kept of them and not of unit length:
    /// compare them by products, since dividing by their lengths gives other similarities. Where the rows' similarities have a rank
    /// below `r`, the last columns are 0.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for `r` of 0 or above [`embedding_dim`](Self::embedding_dim), and for rows as
    /// [`encode`](Self::encode) says; [`Error::Numerical`] where all products are 0; those of the source and the backend.
    pub fn compressed<B: Backend>(
        &self,
        backend: &B,
        x: &dyn RowSource,
        y: &dyn RowSource,
        r: usize,
    ) -> Result<(Self, Compressed)> {
        let from = self.embedding_dim();
        if r == 0 || r > from {
            let expected = format!("between 1 and the model's {from} columns");
            return Err(Error::invalid("compress", expected, r));
        }
        let half = |side, rows| -> Result<Mat<f64>> {
            Ok(psd_half_powers(self.moments(backend, side, rows)?.as_ref(), 0.0, 0.0)?.0)
        };
        let (hx, hy) = (half(Side::X, x)?, half(Side::Y, y)?);
        let top = top_r(product(hx.as_ref(), hy.as_ref()).as_ref(), r, SvdMethod::Full)?;
        let largest = top.s[0];
        if largest == 0.0 {
            return Err(Error::Numerical(
                "all similarities of the given rows are 0: nothing to compress".into(),
            ));
        }
        let of = |half: &Mat<f64>, vectors: &Mat<f64>| {
            let rows = product(vectors.transpose(), half.as_ref());
            let scale = |k: usize| if top.s[k] > NOTHING * largest { top.s[k].powf(-0.5) } else { 0.0 };
            Mat::from_fn(r, from, |k, j| rows[(k, j)] * scale(k))
        };
        let (ax, ay) = (of(&hy, &top.v), of(&hx, &top.u));
        let after = |a: Mat<f64>, side| match &self.compression {
            Some(before) => product(a.as_ref(), before.of(side).as_ref()),
            None => a,
        };
        // Relative to the largest, so that no square leaves the range of numbers.
        let square = |s: &[f64]| s.iter().map(|s| (s / largest).powi(2)).sum::<f64>();
        let error = (square(&top.all[r..]) / square(&top.all)).sqrt();
        let told = Compressed { from, columns: r, error, singular_values: top.s };
        let mut model = self.clone();
        model.compression = Some(Compression { x: after(ax, Side::X), y: after(ay, Side::Y) });
        model.notes.insert("compressed_from".into(), from.to_string());
        model.notes.insert("compression_error".into(), error.to_string());
        Ok((model, told))
    }

    /// `Z^T Z` of a side's embeddings, in float64, a panel of rows at a time.
    fn moments<B: Backend>(&self, backend: &B, side: Side, rows: &dyn RowSource) -> Result<Mat<f64>> {
        self.check_width(side, rows)?;
        let seen = backend.survey(rows)?;
        let (n, width) = (rows.rows(), self.embedding_dim().max(self.fused_dim()));
        let panel = (PANEL_BYTES / (8 * width.max(1))).max(1);
        let mut sum = Mat::zeros(self.embedding_dim(), self.embedding_dim());
        for start in (0..n).step_by(panel) {
            let part = RowRange::new(rows, start..(start + panel).min(n))?;
            let z = download(backend, &self.encode_surveyed(backend, side, &part, &seen)?)?;
            sum += product(z.transpose(), z.as_ref());
        }
        Ok(sum)
    }
}
