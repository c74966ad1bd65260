//! Whether to centre, chosen on the validation rows like the shrinkage: the moments of centred features follow from those of the raw ones by
//! corrections of rank one, without another pass over the rows.

use super::start::SideData;
use crate::backend::{Backend, Similarity};
use crate::error::Result;
use crate::fit::condition::{Sides, mean_of};
use crate::fit::moments::{Choice, Moments, choose};
use crate::fit::monitor::Monitor;
use crate::fit::validation::Validation;
use crate::fit::{Data, timed};
use crate::io::HostMatrix;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::NegativeSampling;
use faer::Mat;

/// Features stay as they are unless centred ones score better by more than this: less is chance.
const MARGIN: f64 = 1e-3;

/// The means of both sides, in units of features in range.
pub(super) type Means = (Vec<f64>, Vec<f64>);

/// What centring makes of the choice.
pub(super) struct Centred<M> {
    pub(super) means: Means,
    pub(super) choice: Choice,
    /// The validation rows beside a column of ones.
    pub(super) validation: (M, M),
}

/// `1^T S Y`, `X^T S 1` and `1^T S 1` with `S` of the first update.
pub(crate) struct Sums {
    pub(crate) rows: Mat<f64>,
    pub(crate) cols: Mat<f64>,
    pub(crate) all: f64,
}

impl Sums {
    pub(crate) fn new<B: Backend>(
        backend: &B,
        (x, y): (&B::Matrix, &B::Matrix),
        loss: &Loss,
        positives: &Positives,
    ) -> Result<Self> {
        let s = Similarity::Zeros(positives.n_x(), positives.n_y());
        let w = backend.weights(s, loss, positives, NegativeSampling::All)?;
        let (one_x, one_y) = (ones(backend, positives.n_x())?, ones(backend, positives.n_y())?);
        let all = backend.cross(s, &w, &one_x, &one_y)?[(0, 0)];
        Ok(Self { rows: backend.cross(s, &w, &one_x, y)?, cols: backend.cross(s, &w, x, &one_y)?, all })
    }
}

fn ones<B: Backend>(backend: &B, n: usize) -> Result<B::Matrix> {
    backend.load(&HostMatrix::from_f32("ones", n, 1, vec![1.0; n])?)
}

/// Rows with a column of ones beside them.
fn beside_ones<B: Backend>(backend: &B, x: &B::Matrix) -> Result<B::Matrix> {
    let ones = ones(backend, backend.shape(x).0)?;
    backend.hstack(&[(1.0, x), (1.0, &ones)])
}

/// The choice on raw features, and what it was made from.
pub(super) struct Raw<'a, M> {
    pub(super) data: Data<'a>,
    pub(super) sides: (&'a SideData<M>, &'a SideData<M>),
    /// Validation rows.
    pub(super) validation: &'a Validation<'a, M>,
    pub(super) moments: &'a Moments,
    pub(super) choice: &'a Choice,
    /// As [`choose`] takes them.
    pub(super) dims: (usize, usize),
}

impl<M: Send + Sync> Raw<'_, M> {
    /// The choice on centred features, where it scores better on the same rows. Notes both scores.
    pub(super) fn centred<B: Backend<Matrix = M>>(
        &self,
        backend: &B,
        monitor: &mut Monitor<'_>,
    ) -> Result<Option<Centred<M>>> {
        let Self { data, sides: (x, y), validation, moments, choice: raw, dims } = self;
        let means = timed(&mut monitor.seconds().load, || {
            Ok::<_, crate::Error>((mean_of(backend, data.x)?, mean_of(backend, data.y)?))
        })?;
        let sums = timed(&mut monitor.seconds().weights, || {
            Sums::new(backend, (&x.mapped.cross, &y.mapped.cross), validation.loss, data.positives)
        })?;
        let (mean_x, mean_y) = (x.mapped.row_in_basis(&means.0), y.mapped.row_in_basis(&means.1));
        let moments = timed(&mut monitor.seconds().spectral, || moments.centred((&mean_x, &mean_y), &sums));
        let rows = (beside_ones(backend, validation.x)?, beside_ones(backend, validation.y)?);
        let validation = Validation { x: &rows.0, y: &rows.1, ..**validation };
        let lists = (&[raw.lambda][..], &[raw.power][..]);
        let choice = choose(backend, &moments, &validation, lists, *dims, monitor, None)?;
        let scores = (raw.score.min(1.0), choice.score.min(1.0));
        monitor.info.chosen.get_or_insert_default().centring = Some(scores);
        let mut tried = raw.candidates.clone();
        tried.extend(choice.candidates);
        let better = choice.score > raw.score + MARGIN;
        let choice = Choice { candidates: tried, ..choice };
        Ok(better.then_some(Centred { means, choice, validation: rows }))
    }
}

/// Whether the choice between raw and centred features is open.
pub(super) fn is_open(sides: &Sides, options: &super::BestOptions) -> bool {
    options.center == crate::fit::Center::Auto
        && options.kernel.is_none()
        && options.start.is_none()
        && sides.can_be_centred()
}
