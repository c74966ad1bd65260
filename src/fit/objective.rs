//! The loss as a function of both encoders, with its exact gradient through the row normalisation.

use super::info::Seconds;
use super::linear::Encoders;
use super::sampling::{relative_error, share};
use super::timed;
use crate::backend::Backend;
use crate::error::Result;
use crate::loss::Loss;
use crate::optim::Objective;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use faer::{Mat, MatRef};

/// `L(A_1, A_2)` of encoders `F = A W`, with fixed `W` (`p x d`; none: the identity). Whitening maps as `W` make the
/// problem well conditioned without a whitened copy of the data.
pub(crate) struct Alignment<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) x: &'a B::Matrix,
    pub(crate) y: &'a B::Matrix,
    pub(crate) positives: &'a Positives,
    pub(crate) loss: Loss,
    pub(crate) negatives: NegativeSampling,
    pub(crate) maps: Option<(&'a Mat<f64>, &'a Mat<f64>)>,
    pub(crate) dim: usize,
    pub(crate) seconds: Seconds,
}

impl<B: Backend> Alignment<'_, B> {
    /// Widths of `A_1` and `A_2`.
    fn widths(&self) -> (usize, usize) {
        match self.maps {
            Some((x, y)) => (x.nrows(), y.nrows()),
            None => (self.backend.shape(self.x).1, self.backend.shape(self.y).1),
        }
    }

    /// The variables of `A_1` and `A_2`, column by column. Each is scaled to the Frobenius norm `sqrt(r)`, which the
    /// loss does not see.
    pub(crate) fn variables(&self, a: &Encoders) -> Vec<f64> {
        let part = |m: &Mat<f64>| {
            let norm = m.norm_l2();
            let scale = if norm > 0.0 { (self.dim as f64).sqrt() / norm } else { 1.0 };
            (0..m.ncols())
                .flat_map(move |j| (0..m.nrows()).map(move |i| scale * m[(i, j)]))
                .collect::<Vec<_>>()
        };
        [part(&a.f1), part(&a.f2)].concat()
    }

    /// `A_1` and `A_2` of variables.
    fn parts<'v>(&self, v: &'v [f64]) -> (MatRef<'v, f64>, MatRef<'v, f64>) {
        let ((p1, p2), r) = (self.widths(), self.dim);
        let (a, b) = v.split_at(r * p1);
        (MatRef::from_column_major_slice(a, r, p1), MatRef::from_column_major_slice(b, r, p2))
    }

    /// The encoders `F = A W` of variables.
    pub(crate) fn encoders(&self, v: &[f64]) -> Encoders {
        let (a, b) = self.parts(v);
        match self.maps {
            Some((x, y)) => Encoders { f1: a * x, f2: b * y },
            None => Encoders { f1: a.to_owned(), f2: b.to_owned() },
        }
    }

    fn write(gradient: MatRef<'_, f64>, out: &mut [f64]) {
        for (j, out) in out.chunks_exact_mut(gradient.nrows().max(1)).enumerate() {
            out.iter_mut().enumerate().for_each(|(i, o)| *o = gradient[(i, j)]);
        }
    }
}

/// Embeddings, and the norms that they were divided by.
type Embedded<M> = (M, Vec<f64>);
/// Of x and of y.
type Both<M> = (Embedded<M>, Embedded<M>);

impl<B: Backend> Alignment<'_, B> {
    /// Both sides' embeddings under the encoders of variables.
    fn embed(&mut self, v: &[f64]) -> Result<Both<B::Matrix>> {
        let (backend, (x, y)) = (self.backend, (self.x, self.y));
        let e = self.encoders(v);
        timed(&mut self.seconds.encode, || {
            Ok((backend.encode(x, e.f1.as_ref())?, backend.encode(y, e.f2.as_ref())?))
        })
    }

    /// With sampled negatives, the estimated relative error that they leave in the `gradient` at `v`. Takes as long as
    /// the gradient.
    pub(crate) fn sampling_error(&mut self, v: &[f64], gradient: &[f64]) -> Result<Option<f64>> {
        let Some([first, second]) = self.negatives.halves() else { return Ok(None) };
        let (zx, zy) = self.embed(v)?;
        let (a, b) = (self.at(&zx, &zy, first)?, self.at(&zx, &zy, second)?);
        let (g1, g2) = self.parts(gradient);
        Ok(relative_error(
            &[g1, g2],
            &[a.1.as_ref(), a.2.as_ref()],
            &[b.1.as_ref(), b.2.as_ref()],
            share(self.negatives, self.positives),
        ))
    }

    /// Value and gradient in both encoders at embeddings, over some negatives.
    fn at(
        &mut self,
        (zx, norms_x): &Embedded<B::Matrix>,
        (zy, norms_y): &Embedded<B::Matrix>,
        negatives: NegativeSampling,
    ) -> Result<(f64, Mat<f64>, Mat<f64>)> {
        let (backend, seconds) = (self.backend, &mut self.seconds);
        let (value, gx, gy) = timed(&mut seconds.weights, || {
            backend.loss_gradients(zx, zy, &self.loss, self.positives, negatives)
        })?;
        let (g1, g2) = timed(&mut seconds.encode, || {
            let g1 = backend.encode_backward(self.x, zx, norms_x, &gx)?;
            Ok::<_, crate::Error>((g1, backend.encode_backward(self.y, zy, norms_y, &gy)?))
        })?;
        Ok(match self.maps {
            Some((wx, wy)) => (value, &g1 * wx.transpose(), &g2 * wy.transpose()),
            None => (value, g1, g2),
        })
    }
}

impl<B: Backend> Objective for Alignment<'_, B> {
    fn evaluate(&mut self, v: &[f64], gradient: &mut [f64]) -> Result<f64> {
        let (zx, zy) = self.embed(v)?;
        let (value, g1, g2) = self.at(&zx, &zy, self.negatives)?;
        let (first, second) = gradient.split_at_mut(g1.nrows() * g1.ncols());
        Self::write(g1.as_ref(), first);
        Self::write(g2.as_ref(), second);
        Ok(value)
    }
}
