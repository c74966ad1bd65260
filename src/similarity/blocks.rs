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

/// Of rows and of columns.
pub(crate) type BothSides<S> = [S; 2];

/// What pass 1 sums over the visited negatives of every row and of every column.
#[derive(Clone, Copy)]
pub(crate) enum SumsOf<'a> {
    /// Clip: `log sum e^{s/tau}`, one number for an anchor. By running maxima at any temperature, else with a constant shift.
    Exponentials { by_maxima: bool },
    /// `sum psi(s_ij - nu s_ik)` and the same of psi' in turn for every pair of an anchor, whose `s_ik` are given pair by pair.
    Pairs(BothSides<&'a [f64]>),
}

/// What one visit of every tile adds up: on the rows of this rank, and over all rows on the columns.
pub(crate) trait Visit<B: Blocks, R>: Send {
    /// Adds the tiles of this rank's rows and a block of columns.
    fn add(&mut self, columns: &B::Columns<'_>) -> Result<()>;
    /// Nothing more is added to the columns of the last block: ranks may add up what they have of them. A collective.
    fn share(&mut self) -> Result<()> {
        Ok(())
    }
    /// What it has come to. A collective.
    fn finish(self: Box<Self>) -> Result<R>;
}

/// A visit that has not begun.
pub(crate) struct NewVisit<'a, B: Blocks + 'a, R> {
    /// This rank's row positions.
    pub(crate) rows: Range<usize>,
    /// What comes past them.
    pub(crate) passing: B::Passing<'a>,
    pub(crate) sums: Box<dyn Visit<B, R> + 'a>,
}

impl<B: Blocks, R> NewVisit<'_, B, R> {
    /// Visits all columns with all of this rank's rows, block by block.
    pub(crate) fn run(self, backend: &B) -> Result<R> {
        let Self { rows, passing, mut sums } = self;
        let stage = Stage { rows, index: 0, of: 1 };
        let add = |sums: &mut Box<dyn Visit<B, R> + '_>, columns: &B::Columns<'_>| sums.add(columns);
        backend.for_columns(&passing, &stage, &mut sums, add, |sums| sums.share())?;
        sums.finish()
    }
}

/// The block operations of a backend: which blocks, in what order, is with the passes.
///
/// Positions are places in the order of a schedule, which shuffles samples where negatives are sampled. Every method is a
/// collective of the ranks.
///
/// A block is as large as what is here: a device has the embeddings of all columns, and in pass 2 one CPU sees all that is in
/// memory at once; where sums over rows are open for every column of a block, some thousand bound them. Within a block
/// [`add_product`](Self::add_product) and [`Visit::add`] take panels and parts as launches and caches ask for: these sizes differ
/// for reasons of the hardware, and stay with the backends. So does what comes of a tile: it is computed once for its rows and its
/// columns.
pub(crate) trait Blocks: Backend + Sized {
    /// The similarities of a problem in the order of a schedule.
    type Problem<'a>
    where
        Self: 'a;
    /// `-S` of a problem, made a tile at a time.
    type WeightTiles<'a>: Sync
    where
        Self: 'a;
    /// What comes past with the columns: embeddings, and coefficients and values where they are needed.
    type Passing<'a>
    where
        Self: 'a;
    /// What weights are multiplied with: `V`.
    type Values<'a>: AsRef<Self::Passing<'a>>
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
    /// Sums over negatives, by position: of this rank's rows, and of its columns.
    fn sums<'a, 'p: 'a>(
        &'a self,
        p: &'a Self::Problem<'p>,
        of: SumsOf<'a>,
    ) -> Result<NewVisit<'a, Self, BothSides<Vec<f64>>>>;

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
    /// Whether [`both_products`](Self::both_products) costs less than two products.
    fn has_both_products(&self) -> bool {
        true
    }
    /// `-S Z_y` and `-S^T Z_x`, by sample, of the embeddings that the weights are of.
    fn both_products<'a, 't: 'a>(
        &'a self,
        tiles: &'a Self::WeightTiles<'t>,
        zx: &'a Self::Matrix,
        zy: &'a Self::Matrix,
    ) -> Result<NewVisit<'a, Self, BothSides<Self::Matrix>>>;

    /// Shows the blocks of columns that the rows of a stage meet, in ascending order; the next one is fetched while `visit`
    /// works on one. `then` follows each, and may call collectives.
    fn for_columns<S: Send>(
        &self,
        passing: &Self::Passing<'_>,
        stage: &Stage,
        state: &mut S,
        visit: impl Fn(&mut S, &Self::Columns<'_>) -> Result<()> + Sync + Send,
        then: impl FnMut(&mut S) -> Result<()>,
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
    /// Turns sums of `-S V` into `sign S V`: adds the masked entries that the tiles leave out.
    fn finish_rows(
        &self,
        tiles: &Self::WeightTiles<'_>,
        values: &Self::Values<'_>,
        stage: &Stage,
        sign: Sign,
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

/// Which of the two a product is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// `S V`.
    Plus,
    /// `-S V`.
    Minus,
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
