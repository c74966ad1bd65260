//! The few operations the solvers are made of, and the backends that do them.
//!
//! n-sized data (features, embeddings) lives in a backend as its [`Backend::Matrix`]; the small `d x d` algebra
//! is `faer::Mat<f64>` on the host. Nothing above this module knows which backend runs.

pub mod cpu;
pub mod cuda;
mod range;
mod standing;

pub(crate) use range::{directions, inverse_lengths};
pub use standing::{Standing, Ties};

use crate::control::Control;
use crate::distributed::Group;
use crate::error::Result;
use crate::io::{Center, Duplicates, RowSource, Survey, column_sums, survey_rows};
use crate::kernel::Kernel;
use crate::loss::Loss;
use crate::memory::room;
use crate::positives::Positives;
use crate::similarity::{NegativeSampling, Weights};
use crate::spectral::{self, SvdMethod, TopR};
use faer::{Mat, MatRef};
use std::ops::Range;

/// Where similarities come from.
#[derive(Debug)]
pub enum Similarity<'a, M> {
    /// All zero (encoders not yet chosen), for `n_x x n_y` pairs. `S` is then a rank-2 matrix plus its
    /// positives, so everything costs `O(n)`.
    Zeros(usize, usize),
    /// `s = Z_x Z_y^T` of embeddings with unit rows, `n_x x r` and `n_y x r`.
    Embeddings(&'a M, &'a M),
    /// Given explicitly, `n_x x n_y`.
    Dense(&'a M),
}

impl<M> Clone for Similarity<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Similarity<'_, M> {}

/// What a backend computes in, which decides how close to float64 its results are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arithmetic {
    /// float64 throughout: the oracle.
    F64,
    /// float32, or products that are as good.
    F32,
    /// float32 whose products are sums of three products of bfloat16 halves: each within 2^-15 of its size.
    Bf16Halves,
    /// Embeddings, weights and what they multiply in float16, sums in float32.
    F16,
    /// The same in bfloat16.
    Bf16,
}

/// What a rank finds in some rows of a source.
pub type Reader<'a> = &'a (dyn Fn(&dyn RowSource, Range<usize>) -> Result<Vec<u64>> + Sync);

/// The mean of a source's rows; `seen` is what [`Backend::survey`] says of it.
pub(crate) fn center<B: Backend>(backend: &B, source: &dyn RowSource, seen: &Survey) -> Result<Center> {
    let top = seen.range().map_or(0, |(_, most)| most);
    let parts = backend.over_rows(source, &|source, rows| column_sums(source, rows, top))?;
    Ok(Center::new(&parts, source.cols(), source.rows(), top))
}

/// Best items per query: `k` columns a query, best first; ties by lower index. Short rows (fewer than `k` items)
/// cannot occur: `k` is cut to the number of items. Scores that are not numbers come last, as NaN.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopK {
    /// Items per query.
    pub k: usize,
    /// Scores, `queries x k` row-major.
    pub scores: Vec<f32>,
    /// Item numbers, `queries x k` row-major.
    pub indices: Vec<u32>,
}

impl TopK {
    /// No items yet, with room for `k` of each of `n` queries.
    pub(crate) fn room(n: usize, k: usize) -> Result<Self> {
        let (places, what) = (n.saturating_mul(k), || format!("{k} items of each of {n} queries"));
        Ok(Self { k, scores: room(places, what)?, indices: room(places, what)? })
    }

    /// The items of one query that `best` holds in order, and the lowest others as NaN up to `k`.
    fn push(&mut self, best: impl ExactSizeIterator<Item = (f32, u32)>) {
        let (first, held) = (self.indices.len(), best.len());
        for (score, index) in best {
            self.scores.push(score);
            self.indices.push(index);
        }
        if held < self.k {
            let mut taken = self.indices[first..].to_vec();
            taken.sort_unstable();
            let free = (0..).filter(|j| taken.binary_search(j).is_err());
            self.indices.extend(free.take(self.k - held));
            self.scores.resize(self.indices.len(), f32::NAN);
        }
    }
}

/// The operations of a backend. All shapes are checked by the callers in this crate; a backend reports what only it
/// can know (memory, device errors, cancellation).
pub trait Backend: Send + Sync {
    /// n-sized data resident in the backend: rows are samples.
    type Matrix: Send + Sync;

    /// A line for people: device, precision, SIMD level.
    fn describe(&self) -> String;
    /// Progress and cancellation of whatever runs on this backend.
    fn control(&self) -> &Control;
    /// Bytes of n-sized data held now and at most so far.
    fn memory(&self) -> (u64, u64);
    /// What it computes in.
    fn arithmetic(&self) -> Arithmetic;
    /// Bytes that a pass may hold at most beyond its inputs, its result and a few numbers a row, where
    /// [`memory`](Self::memory) counts them.
    fn workspace(&self) -> u64 {
        0
    }

    /// The ranks that this backend is one of. Every operation is then a collective: all ranks call it in the same
    /// order with equal arguments; matrices are shared out by rows, and everything else comes back on every rank.
    fn group(&self) -> &Group;

    /// Checks that every value of a source is finite, and says how large its rows are.
    fn survey(&self, source: &dyn RowSource) -> Result<Survey> {
        let parts = self.over_rows(source, &|source, rows| Ok(survey_rows(source, rows)?.words()))?;
        let nothing = Survey::of_shape(source.rows(), source.cols());
        Ok(parts.iter().fold(nothing, |seen, words| seen.with_words(words)))
    }
    /// Checks that every value of a source is finite, and counts its zero rows.
    fn screen(&self, source: &dyn RowSource) -> Result<usize> {
        self.survey(source).map(|seen| seen.zero_rows)
    }
    /// Runs `read` on rows of a source, which ranks share out: what it gave on each of them, in their order.
    fn over_rows(&self, source: &dyn RowSource, read: Reader<'_>) -> Result<Vec<Vec<u64>>>;
    /// As [`survey`](Self::survey), and which rows are equal, from the same reading of them; none where the rows do not pass
    /// through the host. The same on all ranks.
    fn screen_duplicates(&self, source: &dyn RowSource) -> Result<(Survey, Option<Duplicates>)>;
    /// Waits until what was asked for has been done. Only timing needs it: whoever reads a result waits anyway.
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    /// Operations a second of this device's own large matrix product in its arithmetic, measured now: what the passes'
    /// rates are compared with. `None` where there is no such product.
    fn product_rate(&self) -> Result<Option<f64>> {
        Ok(None)
    }

    /// Brings rows in.
    fn load(&self, source: &dyn RowSource) -> Result<Self::Matrix>;
    /// Hands rows out in order, in panels: `sink(first_row, rows)` with row-major `rows`.
    fn store(&self, x: &Self::Matrix, sink: &mut dyn FnMut(usize, &[f64]) -> Result<()>) -> Result<()>;
    /// `(rows, cols)`.
    fn shape(&self, x: &Self::Matrix) -> (usize, usize);
    /// A copy of some rows.
    fn rows(&self, x: &Self::Matrix, range: Range<usize>) -> Result<Self::Matrix>;

    /// `X W^T`, with `W` `p x d`.
    fn linear(&self, x: &Self::Matrix, w: MatRef<'_, f64>) -> Result<Self::Matrix>;
    /// Encoder `F` (`r x d`): rows `F x_i / |F x_i|`, and the norms `|F x_i|` of the rows that this rank holds, in order. Rows
    /// are unit, or zero where `F x_i` is.
    ///
    /// # Errors
    /// [`Error::Numerical`](crate::Error::Numerical) naming the first row whose `F x_i` is not finite.
    fn encode(&self, x: &Self::Matrix, f: MatRef<'_, f64>) -> Result<(Self::Matrix, Vec<f64>)>;
    /// Row `i` times its factor; `scale` has those of the rows that this rank holds, in order, as the norms of
    /// [`encode`](Self::encode).
    fn scale_rows(&self, x: &Self::Matrix, scale: &[f64]) -> Result<Self::Matrix>;
    /// `k(x_i, z_j)` for landmarks `Z` (`m x d`).
    fn kernel(&self, kernel: &Kernel, x: &Self::Matrix, landmarks: MatRef<'_, f64>) -> Result<Self::Matrix>;
    /// `X^T X` (`d x d`).
    fn gram(&self, x: &Self::Matrix) -> Result<Mat<f64>>;

    /// Whether this backend computes a loss: all of them compute the built-in members.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for psi and phi of one's own on a CUDA device.
    fn check_loss(&self, _loss: &Loss) -> Result<()> {
        Ok(())
    }
    /// Pass 1: the loss and the coefficients of `S(gamma)`.
    fn weights(
        &self,
        s: Similarity<'_, Self::Matrix>,
        loss: &Loss,
        positives: &Positives,
        negatives: NegativeSampling,
    ) -> Result<Weights>;
    /// Pass 2: `X^T S Y` (`d1 x d2`).
    fn cross(
        &self,
        s: Similarity<'_, Self::Matrix>,
        w: &Weights,
        x: &Self::Matrix,
        y: &Self::Matrix,
    ) -> Result<Mat<f64>>;
    /// `S V` (`n_x x d`).
    fn apply(&self, s: Similarity<'_, Self::Matrix>, w: &Weights, v: &Self::Matrix) -> Result<Self::Matrix>;
    /// `S^T U` (`n_y x d`).
    fn apply_transpose(
        &self,
        s: Similarity<'_, Self::Matrix>,
        w: &Weights,
        u: &Self::Matrix,
    ) -> Result<Self::Matrix>;
    /// `dL/dZ_x = -S Z_y` and `dL/dZ_y = -S^T Z_x`, the embeddings being those of the similarity.
    fn gradients(
        &self,
        zx: &Self::Matrix,
        zy: &Self::Matrix,
        w: &Weights,
    ) -> Result<(Self::Matrix, Self::Matrix)>;
    /// The loss with its [`gradients`](Self::gradients): both passes, for backends that can share work between them.
    fn loss_gradients(
        &self,
        zx: &Self::Matrix,
        zy: &Self::Matrix,
        loss: &Loss,
        positives: &Positives,
        negatives: NegativeSampling,
    ) -> Result<(f64, Self::Matrix, Self::Matrix)> {
        let w = self.weights(Similarity::Embeddings(zx, zy), loss, positives, negatives)?;
        let (gx, gy) = self.gradients(zx, zy, &w)?;
        Ok((w.value(), gx, gy))
    }
    /// The encoder's share of a gradient: from `G = dL/dZ` of the embeddings `z_i = F x_i / |F x_i|` to
    /// `dL/dF = sum_i (I - z_i z_i^T) g_i / |F x_i| x_i^T` (`r x d`). `norms` are the `|F x_i|` of
    /// [`encode`](Self::encode); rows that it left at 0 add nothing.
    fn encode_backward(
        &self,
        x: &Self::Matrix,
        z: &Self::Matrix,
        norms: &[f64],
        g: &Self::Matrix,
    ) -> Result<Mat<f64>>;
    /// The rows `ids`, in that order; an id may repeat.
    fn select(&self, x: &Self::Matrix, ids: &[u32]) -> Result<Self::Matrix>;
    /// `S` itself, `n_x x n_y`: small sizes only.
    fn dense(&self, s: Similarity<'_, Self::Matrix>, w: &Weights) -> Result<Mat<f64>>;

    /// The leading `r` singular triplets of a small matrix.
    fn top_r(&self, c: MatRef<'_, f64>, r: usize, method: SvdMethod) -> Result<TopR> {
        spectral::top_r(c, r, method)
    }

    /// Runs `f` on every item, on as many threads as the backend may use.
    fn parallel<A: Sync, R: Send>(&self, items: &[A], f: impl Fn(&A) -> R + Sync + Send) -> Vec<R> {
        items.iter().map(f).collect()
    }

    /// Side by side: column blocks `scale_b x_b` of matrices with equal numbers of rows.
    fn hstack(&self, blocks: &[(f64, &Self::Matrix)]) -> Result<Self::Matrix>;
    /// The `k` items of highest similarity for every query.
    fn top_k(&self, queries: &Self::Matrix, items: &Self::Matrix, k: usize) -> Result<TopK>;
    /// Where the best positive of every row stands among its wrong items. With `exclude_self` (as many columns as rows)
    /// column `i` is no item of row `i`, neither right nor wrong.
    fn standings(
        &self,
        s: Similarity<'_, Self::Matrix>,
        positives: &Positives,
        exclude_self: bool,
    ) -> Result<Vec<Standing>>;
    /// The similarities of all positive pairs, row by row.
    fn positive_similarities(
        &self,
        s: Similarity<'_, Self::Matrix>,
        positives: &Positives,
    ) -> Result<Vec<f64>>;
}
