//! Whether to centre, judged like the shrinkage: the moments of centred features follow from those of the raw ones by
//! corrections of rank one, without another pass over the rows.

use super::start::SideData;
use crate::backend::{Backend, Similarity};
use crate::error::Result;
use crate::fit::condition::{Sides, mean_of};
use crate::fit::info::FitInfo;
use crate::fit::moments::{Choice, Moments, choose};
use crate::fit::refine::{Clock, Held};
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
    pub(super) moments: Moments,
    pub(super) choice: Choice,
    /// The rows that judged, rotated into the eigenbases, beside a column of ones.
    pub(super) held: (M, M),
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

/// The choice on centred features, where it judges better than `raw` on the same rows, `rotated` into the eigenbases. Notes
/// both scores.
#[allow(clippy::too_many_arguments)]
pub(super) fn centred<B: Backend>(
    backend: &B,
    data: Data<'_>,
    (x, y): (&SideData<B::Matrix>, &SideData<B::Matrix>),
    rotated: (&B::Matrix, &B::Matrix),
    (moments, raw): (&Moments, &Choice),
    (positives, loss): (&Positives, &Loss),
    ranks: (usize, usize),
    clock: &Clock,
    info: &mut FitInfo,
) -> Result<Option<Centred<B::Matrix>>> {
    let means = timed(&mut info.seconds.load, || {
        Ok::<_, crate::Error>((mean_of(backend, data.x)?, mean_of(backend, data.y)?))
    })?;
    let sums = timed(&mut info.seconds.weights, || {
        Sums::new(backend, (&x.mapped.cross, &y.mapped.cross), loss, data.positives)
    })?;
    // As the features are held: in a basis of their span, which holds their mean, where they are few.
    let (mean_x, mean_y) = (x.mapped.row_on_held(&means.0), y.mapped.row_on_held(&means.1));
    let moments = timed(&mut info.seconds.spectral, || moments.centred((&mean_x, &mean_y), &sums));
    let held = (beside_ones(backend, rotated.0)?, beside_ones(backend, rotated.1)?);
    let judge = Held { x: &held.0, y: &held.1, positives, loss };
    let lists = (&[raw.lambda][..], &[raw.power][..]);
    let choice = choose(backend, &moments, &judge, lists, ranks, clock, info)?;
    info.chosen.get_or_insert_default().centring = Some((raw.score.min(1.0), choice.score.min(1.0)));
    let mut tried = raw.candidates.clone();
    tried.extend(choice.candidates);
    let better = choice.score > raw.score + MARGIN;
    let choice = Choice { candidates: tried, ..choice };
    Ok(better.then_some(Centred { means, moments, choice, held }))
}

/// Whether the choice between raw and centred features is open.
pub(super) fn is_open(sides: &Sides, options: &super::BestOptions) -> bool {
    options.center == crate::fit::Center::Auto
        && options.kernel.is_none()
        && options.start.is_none()
        && sides.can_be_centred()
}
