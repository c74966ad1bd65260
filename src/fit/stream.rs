//! Fitting a stream of batches that are never together in memory: Gram matrices and `C` are summed batch by batch.
//!
//! `C` is the mean of the batches' `C`, weighted by their rows (the paper's batched mode keeps a solution per batch
//! instead). From zeros this is the cross-covariance centred within batches; with a start model `S` comes from its
//! similarities within each batch, so that passes over the stream are the paper's iterations.

use super::features::whitening;
use super::options::{Factorization, FitOptions, Init};
use super::solve::{Encoders, sampled_cross};
use super::{Data, FitInfo, check_data};
use crate::backend::{Backend, Similarity};
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::model::{Component, Encoder, Model};
use crate::spectral::SvdMethod;
use crate::weights::Negatives;
use faer::Mat;

/// Options of [`StreamFit`].
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// Dimension of the shared space.
    pub rank: usize,
    /// The loss.
    pub loss: Loss,
    /// Shrinkage of the whitening; none: no whitening. Default 0.1.
    pub whiten: Option<f64>,
    /// Split of `C`. Default sqrt.
    pub factorization: Factorization,
    /// Where similarities come from. Default zeros.
    pub start: Option<Model>,
}

impl StreamOptions {
    /// Defaults for a rank.
    pub fn new(rank: usize) -> Self {
        let factorization = Factorization::Sqrt;
        Self { rank, loss: Loss::default(), whiten: Some(0.1), factorization, start: None }
    }
}

/// A fit in progress: [`add`](Self::add) batches, then [`finish`](Self::finish).
#[derive(Debug)]
pub struct StreamFit {
    options: StreamOptions,
    start: Option<Encoders>,
    grams: (Mat<f64>, Mat<f64>),
    cross: Mat<f64>,
    rows: (usize, usize),
    batches: usize,
    loss: f64,
}

impl StreamFit {
    /// Begins a fit of `d1`- and `d2`-wide features.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options out of range, or a start model of other widths, of kernels, or of another
    /// rank.
    pub fn new(d1: usize, d2: usize, options: StreamOptions) -> Result<Self> {
        FitOptions {
            loss: options.loss,
            whiten: options.whiten,
            factorization: options.factorization,
            ..FitOptions::new(options.rank)
        }
        .validate()?;
        let bound = d1.min(d2);
        if options.rank > bound {
            return Err(Error::invalid("rank", format!("at most min(d1, d2) = {bound}"), options.rank));
        }
        let start = match options.start.as_ref().map(Init::from_model).transpose()? {
            Some(Init::Given(f1, f2)) => {
                for (name, f, d) in [("start x", &f1, d1), ("start y", &f2, d2)] {
                    if f.ncols() != d {
                        return Err(Error::invalid(name, format!("an encoder of {d} features"), f.ncols()));
                    }
                }
                Some(Encoders { f1, f2 })
            }
            _ => None,
        };
        let grams = (Mat::zeros(d1, d1), Mat::zeros(d2, d2));
        let cross = Mat::zeros(d1, d2);
        Ok(Self { options, start, grams, cross, rows: (0, 0), batches: 0, loss: 0.0 })
    }

    /// Batches added so far.
    pub fn batches(&self) -> usize {
        self.batches
    }

    /// Rows added so far, of x and of y.
    pub fn rows(&self) -> (usize, usize) {
        self.rows
    }

    /// The loss of the start encoders, mean over the rows so far; none before the first batch.
    pub fn loss(&self) -> Option<f64> {
        (self.rows.0 > 0).then(|| self.loss / self.rows.0 as f64)
    }

    /// Adds a batch with its own relation.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for other widths, for shapes that do not fit together and for NaN or infinite
    /// features; those of the backend. The fit is then as before the call.
    pub fn add<B: Backend>(&mut self, backend: &B, batch: Data<'_>) -> Result<()> {
        check_data(batch, None)?;
        for (name, source, d) in [("x", batch.x, self.cross.nrows()), ("y", batch.y, self.cross.ncols())] {
            if source.cols() != d {
                return Err(Error::invalid(name, format!("{d} columns"), source.cols()));
            }
            backend.screen(source)?;
        }
        let (x, y) = (backend.load(batch.x)?, backend.load(batch.y)?);
        let (n_x, n_y) = (batch.x.rows(), batch.y.rows());
        let embedded = match &self.start {
            Some(e) => Some((backend.encode(&x, e.f1.as_ref())?.0, backend.encode(&y, e.f2.as_ref())?.0)),
            None => None,
        };
        let s = match &embedded {
            Some((zx, zy)) => Similarity::Embeddings(zx, zy),
            None => Similarity::Zeros(n_x, n_y),
        };
        let mut info = FitInfo::default();
        let (loss, all) = (&self.options.loss, Negatives::All);
        let (c, value) = sampled_cross(backend, s, (&x, &y), loss, batch.positives, all, &mut info)?;
        let (gx, gy) = (backend.gram(&x)?, backend.gram(&y)?);
        self.cross += c * faer::Scale(n_x as f64);
        self.grams.0 += gx;
        self.grams.1 += gy;
        self.loss += value * n_x as f64;
        self.rows = (self.rows.0 + n_x, self.rows.1 + n_y);
        self.batches += 1;
        Ok(())
    }

    /// The model of all batches so far; more may follow.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] before the first batch; [`Error::Numerical`].
    pub fn finish<B: Backend>(&self, backend: &B) -> Result<Model> {
        if self.batches == 0 {
            return Err(Error::invalid("batches", "at least one", 0));
        }
        let o = &self.options;
        let mean = &self.cross * faer::Scale(1.0 / self.rows.0 as f64);
        let maps = match o.whiten {
            Some(lambda) => Some((
                whitening(&self.grams.0, self.rows.0, lambda)?,
                whitening(&self.grams.1, self.rows.1, lambda)?,
            )),
            None => None,
        };
        let c = match &maps {
            Some((wx, wy)) => wx * &mean * wy,
            None => mean,
        };
        let top = backend.top_r(c.as_ref(), o.rank, SvdMethod::Full)?;
        let e = Encoders::split(&top, o.factorization);
        let (f1, f2) = match &maps {
            Some((wx, wy)) => (&e.f1 * wx, &e.f2 * wy),
            None => (e.f1, e.f2),
        };
        let encoder = |matrix| Encoder { map: None, matrix };
        let component = Component { weight: 1.0, x: encoder(f1), y: encoder(f2) };
        let record = FitOptions {
            loss: o.loss,
            whiten: o.whiten,
            factorization: o.factorization,
            n_iters: 1,
            ..FitOptions::new(o.rank)
        };
        Ok(Model::new(vec![component], &record))
    }
}
