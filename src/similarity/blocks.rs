//! What the passes ask of a backend: operations on the rows that a rank holds and on blocks of columns.

use super::coefficients::Coefficients;
use super::schedule::TileSchedule;
use super::weights::Weights;
use crate::backend::{Backend, Similarity};
use crate::error::Result;
use crate::loss::Loss;
use crate::positives::Positives;
use faer::Mat;
use std::ops::Range;

/// Sums over negatives of all rows and of all columns.
pub(crate) type BothSums<S> = [S; 2];
/// Sums of psi and of psi' of every pair.
pub(crate) type PairSums = [Vec<f64>; 2];

/// The block operations of a backend.
///
/// Positions are places in the order of a schedule, which shuffles samples where negatives are sampled. Every method is a
/// collective of the ranks.
pub(crate) trait Blocks: Backend {
    /// The similarities of a problem in the order of a schedule.
    type Problem<'a>
    where
        Self: 'a;
    /// `-S` of a problem, made a tile at a time.
    type WeightTiles<'a>: Sync
    where
        Self: 'a;
    /// What weights are multiplied with: `V`.
    type Values<'a>
    where
        Self: 'a;
    /// A block of columns that is here: embeddings, coefficients and values of all the columns, or of those that have come from
    /// disk, other ranks or a sample.
    type Columns<'a>
    where
        Self: 'a;
    /// Products of weights and values on some rows.
    type Rows<'a>: Send
    where
        Self: 'a;

    /// Runs host work on the backend's threads.
    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R;
    /// Largest magnitude of exponents that its exponentials keep exact (see [`lost_range`](super::clip::lost_range)).
    fn exponent_limit(&self) -> f64;

    /// Whether its exponentials need running maxima at temperature `tau` whatever the similarities.
    fn always_by_maxima(&self, _tau: f64) -> bool {
        false
    }

    /// Lays the similarities out. With `transposed` all arguments but the similarities are those of the other side:
    /// rows of the problem are columns of `s`.
    fn problem<'a>(
        &'a self,
        s: Similarity<'a, Self::Matrix>,
        transposed: bool,
        loss: &'a Loss,
        positives: &Positives,
        schedule: TileSchedule,
    ) -> Result<Self::Problem<'a>>;

    /// `f(i, similarities of i's masked entries)` for the rows that this rank holds, or its columns, in order of samples; the
    /// entries in the order of [`masked_of_row`](super::masked::masked_of_row).
    fn with_masked<R: Send>(
        &self,
        p: &Self::Problem<'_>,
        columns: bool,
        f: impl Fn(usize, &[f64]) -> R + Sync,
    ) -> Result<Vec<R>>;
    /// `log sum e^{s/tau}` over the visited negatives of rows and columns: of this rank's in order, or, where negatives are
    /// sampled, of all samples. With `maxima` by running maxima at any temperature, else with the constant shift.
    fn clip_log_sums(&self, p: &Self::Problem<'_>, maxima: bool) -> Result<BothSums<Vec<f64>>>;
    /// `sum psi(s_ij - nu s_ik)` and of psi' over the visited negatives of every pair, row by row and column by column, on
    /// every rank. `s` are the pairs' similarities.
    fn additive_sums(&self, p: &Self::Problem<'_>, s: BothSums<&[f64]>) -> Result<BothSums<PairSums>>;

    /// The row and column positions whose numbers `w` has on this rank.
    fn anchors_held(&self, w: &Weights) -> (Range<usize>, Range<usize>);
    /// The weights of a problem.
    fn weight_tiles<'a, 'p: 'a>(
        &'a self,
        p: &'a Self::Problem<'p>,
        w: &'a Weights,
        coefficients: Coefficients,
    ) -> Result<Self::WeightTiles<'a>>;
    /// `V` as the tiles take it.
    fn values<'a, 't: 'a>(
        &'a self,
        tiles: &'a Self::WeightTiles<'t>,
        v: &'a Self::Matrix,
    ) -> Result<Self::Values<'a>>;
    /// Shows the blocks of columns that the rows of a stage meet, in ascending order; the next one is fetched while `visit`
    /// works on one.
    fn for_columns<S: Send>(
        &self,
        tiles: &Self::WeightTiles<'_>,
        values: &Self::Values<'_>,
        stage: &Stage,
        state: &mut S,
        visit: impl Fn(&mut S, &Self::Columns<'_>) -> Result<()> + Sync + Send,
    ) -> Result<()>;
    /// Adds the weights on a block of columns times their values to the rows of a stage.
    fn add_product(
        &self,
        tiles: &Self::WeightTiles<'_>,
        columns: &Self::Columns<'_>,
        stage: &Stage,
        out: &mut Self::Rows<'_>,
    ) -> Result<()>;
    /// Adds the whole product where all similarities are 0: `-S` is `alpha 1^T + 1 beta^T` off the masked entries.
    fn add_flat_product(
        &self,
        tiles: &Self::WeightTiles<'_>,
        values: &Self::Values<'_>,
        stage: &Stage,
        out: &mut Self::Rows<'_>,
    ) -> Result<()>;
    /// Turns sums of `-S V` into `S V`: adds the masked entries that the tiles leave out.
    fn finish_rows(
        &self,
        tiles: &Self::WeightTiles<'_>,
        values: &Self::Values<'_>,
        stage: &Stage,
        out: &mut Self::Rows<'_>,
    ) -> Result<()>;
    /// The matrix, by sample, of rows that `fill` makes from zeros, stage by stage.
    fn collect_rows(
        &self,
        tiles: &Self::WeightTiles<'_>,
        values: &Self::Values<'_>,
        fill: impl FnMut(&Stage, &mut Self::Rows<'_>) -> Result<()>,
    ) -> Result<Self::Matrix>;
    /// `X^T M` of the rows `M` that `fill` makes from zeros, stage by stage; added in float64 in a fixed order.
    fn cross_rows(
        &self,
        tiles: &Self::WeightTiles<'_>,
        values: &Self::Values<'_>,
        x: &Self::Matrix,
        fill: impl FnMut(&Stage, &mut Self::Rows<'_>) -> Result<()>,
    ) -> Result<Mat<f64>>;
}

/// Some of a rank's rows, which meet all columns together: few where the columns stay in memory, many where they come past.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    /// Row positions. Ranks have equally many stages, of which some may be empty.
    pub(crate) rows: Range<usize>,
    /// Which stage of how many.
    pub(crate) index: usize,
    pub(crate) of: usize,
}

impl Stage {
    /// The rows `own`, at most `held` at a time (whole panels); `most` is the largest number of rows of any rank.
    pub(crate) fn all(own: Range<usize>, held: usize, most: usize) -> impl Iterator<Item = Self> {
        let of = most.div_ceil(held.max(1));
        (0..of).map(move |index| {
            let start = (own.start + index * held).min(own.end);
            Self { rows: start..(start + held).min(own.end), index, of }
        })
    }
}
