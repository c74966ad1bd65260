//! The CPU backend: the default without a GPU, and in `f64` the oracle of the tests.
//!
//! Work is cut into panels of 64 to 512 rows that run in parallel; what panels produce is added in a fixed order, so results
//! depend neither on the number of threads nor on the number of ranks. With several ranks a matrix holds some of the
//! rows on each; columns stream past all of them in order (`ranks.rs`).

mod backward;
mod best;
mod cross;
mod family;
pub mod gemm;
mod gradients;
mod matrix;
mod memory;
mod panels;
mod products;
mod ranks;
mod ready;
mod search;
pub mod simd;
mod spill;
mod standings;
mod sums;
mod tile_sums;
mod tiles;
mod unit;
mod weight_tiles;
mod window;

pub use matrix::Matrix;
pub use memory::{HostBlock, HostMemory};
pub(crate) use products::HELD as STAGE_ROWS;
pub(crate) use ranks::PIECE;
pub use simd::TileOps;

use crate::backend::{Arithmetic, Backend, Reader, Similarity, Standing, TopK, directions};
use crate::control::{Control, Phase};
use crate::distributed::Group;
use crate::error::{Error, Result};
use crate::io::{Duplicates, RowSource, Survey, check_digests};
use crate::kernel::Kernel;
use crate::loss::Loss;
use crate::memory::room;
use crate::positives::Positives;
use crate::real::Real;
use crate::similarity::blocks::Blocks;
use crate::similarity::gradients::gradients;
use crate::similarity::schedule::{TILE, TileSchedule};
use crate::similarity::{NegativeSampling, Weights, pass1, pass2};
use crate::spectral::{self, SvdMethod, TopR};
use crate::threads::Threads;
use faer::{Mat, MatRef};
use gemm::{gemm_nn, gemm_nt};
use rayon::prelude::*;
use simd::halves::Products;
use spill::{Spill, bytes};
use std::marker::PhantomData;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tiles::Source;
use unit::Unit;

/// The CPU backend computing in `T`.
#[derive(Debug)]
pub struct Cpu<T> {
    pool: Arc<Threads>,
    control: Arc<Control>,
    account: Arc<memory::Account>,
    group: Group,
    spill: Option<Arc<Spill>>,
    unit: Unit,
    real: PhantomData<T>,
}

impl<T> Clone for Cpu<T> {
    fn clone(&self) -> Self {
        let (pool, control, account) = (self.pool.clone(), self.control.clone(), self.account.clone());
        let (group, spill) = (self.group.clone(), self.spill.clone());
        Self { pool, control, account, group, spill, unit: self.unit, real: PhantomData }
    }
}

impl<T: Real> Cpu<T> {
    /// A backend with `threads` threads (0: as [`default_count`](crate::threads::default_count) says) and no memory limit.
    ///
    /// It works in a child of `fork()` too, where it starts its threads anew. The first backend of a process makes the
    /// operators of faer's matrices sequential in it (`faer::set_global_parallelism`): results would depend on the number
    /// of threads, and its threads do not outlive a `fork()`. Large work is cut up by this crate.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more than 1,024, and when the system does not grant them.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with(threads, None, Arc::default())
    }

    /// A backend whose n-sized data stays below `memory_limit` bytes and that reports to `control`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(threads: usize, memory_limit: Option<u64>, control: Arc<Control>) -> Result<Self> {
        crate::dense::settle();
        let pool = Threads::new(threads)?;
        let account = Arc::new(memory::Account::new(memory_limit, None));
        let group = Group::single().clone();
        let pool = Arc::new(pool);
        Ok(Self { pool, control, account, group, spill: None, unit: Unit::fastest::<T>(), real: PhantomData })
    }

    /// Computes the products of S(gamma), its similarities and what its weights multiply, from numbers rounded to bfloat16
    /// where the processor does that faster than `f32` (AMX; AVX512-BF16 of AMD): a relative error of C of about 5e-3. Sums,
    /// encoding and search stay in `f32`. Elsewhere nothing is rounded, and [`describe`](Backend::describe) says so.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless `T` is `f32`.
    pub fn with_bf16(self) -> Result<Self> {
        if T::as_f32(&[]).is_none() {
            return Err(Error::Unsupported(format!("bfloat16 products in {}", T::NAME)));
        }
        Ok(Self { unit: Unit::fastest_rounded(), ..self })
    }

    /// Computes the products of S(gamma) in `T` itself, also where a matrix unit would do them faster from halves.
    pub fn with_vectors(self) -> Self {
        Self { unit: Unit::Vectors, ..self }
    }

    /// Computes them from halves of numbers, by the loops that stand in for a matrix unit.
    #[cfg(test)]
    pub(crate) fn with_software(self, products: Products) -> Self {
        Self { unit: Unit::Halves(simd::halves::Engine::Software, products), ..self }
    }

    /// The same backend with its matrices in `memory`, and with `memory_limit` bytes of them at most.
    pub fn with_memory(self, memory: Arc<dyn HostMemory>, memory_limit: Option<u64>) -> Self {
        Self { account: Arc::new(memory::Account::new(memory_limit, Some(memory))), ..self }
    }

    /// The same threads, control and memory, computing in another number type, by its fastest unit.
    pub fn in_precision<U: Real>(&self) -> Cpu<U> {
        let (pool, control, account) = (self.pool.clone(), self.control.clone(), self.account.clone());
        let (group, spill) = (self.group.clone(), self.spill.clone());
        Cpu { pool, control, account, group, spill, unit: Unit::fastest::<U>(), real: PhantomData }
    }

    /// The same backend within about `limit` bytes of memory: features that are large stay in their files, and what is
    /// made of them goes to nameless files in `folder` where it does not fit, both read a panel at a time. Results are
    /// the same.
    pub fn with_spill(self, limit: u64, folder: impl Into<PathBuf>) -> Self {
        Self { spill: Some(Arc::new(Spill { limit, folder: folder.into() })), ..self }
    }

    /// The same backend as one of the ranks of `group`: its matrices hold some of the rows, and every operation is a
    /// collective, which all ranks call in the same order with the same arguments.
    pub fn with_group(self, group: Group) -> Self {
        Self { group, ..self }
    }

    /// Makes the peak of [`Backend::memory`] what is held now.
    pub fn forget_peak(&self) {
        self.account.forget_peak();
    }

    /// Starts the threads anew in a child of `fork()`, where whatever is computed next would.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the system does not grant them.
    pub(crate) fn revive(&self) -> Result<()> {
        self.pool.revive()
    }

    /// What multiplies tiles: vectors of a level, or a matrix unit and how many halves of numbers it is given.
    pub fn unit(&self) -> String {
        self.unit.to_string()
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.count()
    }

    /// Runs a check over the rows of a source that fall to this rank: those that it alone can read, or its share.
    fn screen_share<R: Send>(
        &self,
        source: &dyn RowSource,
        check: impl Fn(&dyn RowSource, Range<usize>) -> Result<R> + Sync,
    ) -> Result<R> {
        let all = 0..source.rows();
        let rows = match self.group.any(source.held() != all)? {
            true => source.held(),
            false => self.layout(source.rows(), TILE).own(),
        };
        let paged = self.spill.as_ref().and_then(|_| source.paged());
        self.install(|| check(paged.as_deref().unwrap_or(source), rows))
    }

    /// Runs `f`, an operation that hands work to the threads many times: as one of them, which need not be woken each time, where
    /// nothing in it must be done by the calling thread (progress hooks and messages to other ranks).
    fn inside<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        if self.group.is_single() && !self.control.is_watched() { self.install(f) } else { f() }
    }

    /// Runs `f` with this backend's threads as rayon's.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }
}

impl<T: Real> Cpu<T> {
    /// Unit rows of `X F^T`, and their lengths before.
    fn encode_rows(&self, x: &Matrix<T>, f: MatRef<'_, f64>) -> Result<(Matrix<T>, Vec<f64>)> {
        let (d, r, f) = (x.cols(), f.nrows(), self.agreed(f)?);
        let own = self.layout(x.rows(), TILE).own();
        // Panels are filled in parallel, each with its part of the norms.
        let norms: Vec<Mutex<Vec<T>>> = (0..own.len().div_ceil(TILE)).map(|_| Mutex::default()).collect();
        let z = self.build(x.rows(), r, |rows, panel| {
            let mut scratch = Vec::new();
            let x = x.panel(&rows, &mut scratch)?;
            gemm_nt(rows.len(), r, d, false, panel, r, x, d, &f, d);
            let mut lengths = vec![T::default(); rows.len()];
            T::normalize_rows(panel, r, &mut lengths);
            let slot = &norms[(rows.start - own.start) / TILE];
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = lengths;
            Ok(())
        })?;
        let norms = norms.into_iter().map(|n| n.into_inner().unwrap_or_else(PoisonError::into_inner));
        let norms = norms.flatten().map(Real::as_f64).collect::<Vec<_>>();
        Ok((z, norms))
    }
}

impl<T: Real> Backend for Cpu<T> {
    type Matrix = Matrix<T>;

    fn describe(&self) -> String {
        let (threads, ranks) = (self.threads(), self.group.describe(""));
        format!("cpu, {threads} threads, {}, {}{ranks}", T::NAME, self.unit)
    }

    fn control(&self) -> &Control {
        &self.control
    }

    fn memory(&self) -> (u64, u64) {
        self.account.read()
    }

    fn group(&self) -> &Group {
        &self.group
    }

    fn over_rows(&self, source: &dyn RowSource, read: Reader<'_>) -> Result<Vec<Vec<u64>>> {
        self.group.allgather(&self.screen_share(source, read)?)
    }

    fn screen_duplicates(&self, source: &dyn RowSource) -> Result<(Survey, Option<Duplicates>)> {
        let screened = self.screen_share(source, check_digests)?;
        let parts = self.group.allgather(&screened.seen.words())?;
        let nothing = Survey::of_shape(source.rows(), source.cols());
        let seen = parts.iter().fold(nothing, |seen, words| seen.with_words(words));
        let digests = self.group.concat(screened.digests)?;
        let whole = digests.len() == source.rows();
        let sort = |order: &mut [_]| self.install(|| order.par_sort_unstable());
        Ok((seen, whole.then(|| Duplicates::sorted_by(&digests, sort))))
    }

    fn arithmetic(&self) -> Arithmetic {
        match self.unit {
            Unit::Halves(_, Products::One) => Arithmetic::Bf16,
            Unit::Halves(_, Products::Three) => Arithmetic::Bf16Halves,
            Unit::Vectors if T::EPSILON < 1e-10 => Arithmetic::F64,
            Unit::Vectors => Arithmetic::F32,
        }
    }

    /// The product of 2,048 cubed in vectors of `T`, cut over the threads as the passes are: by row panels. Matrix units exceed it.
    fn product_rate(&self) -> Result<Option<f64>> {
        const N: usize = 4 * TILE;
        let ramp = |step: f64| (0..N * N).map(|i| T::of((i as f64 * step).sin())).collect::<Vec<T>>();
        let (a, b, mut product) = (ramp(0.37), ramp(0.23), vec![T::default(); N * N]);
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let begin = Instant::now();
            self.install(|| {
                product.par_chunks_mut(TILE * N).zip(a.par_chunks(TILE * N)).for_each(|(c, a)| {
                    gemm_nn(TILE, N, N, false, c, N, a, N, &b, N);
                });
            });
            best = best.min(begin.elapsed().as_secs_f64());
        }
        Ok(Some(2.0 * (N as f64).powi(3) / best))
    }

    fn load(&self, source: &dyn RowSource) -> Result<Matrix<T>> {
        self.report(Phase::Features, 0, 1)?;
        let (n, d) = (source.rows(), source.cols());
        let (held, own) = (source.held(), self.layout(n, TILE).own());
        let elsewhere = held.start > own.start || held.end < own.end;
        if !self.group.any(elsewhere)? {
            if let Some(spill) = &self.spill
                && bytes::<T>(own.len(), d) > spill.limit / 8
                && let Some(source) = source.paged()
            {
                return Ok(Matrix::in_file(n, own, source, 0));
            }
            return self.build(n, d, |rows, panel| T::read_rows(source, rows.start, panel));
        }
        // Ranks brought rows of their own: everyone sends on what belongs elsewhere.
        let mut mine = vec![T::default(); held.len() * d];
        if !mine.is_empty() {
            let first = held.start;
            self.install(|| {
                mine.par_chunks_mut(TILE * d)
                    .enumerate()
                    .try_for_each(|(p, panel)| T::read_rows(source, first + p * TILE, panel))
            })?;
        }
        let ids: Vec<u32> = held.map(|i| i as u32).collect();
        self.place(n, d, &ids, mine)
    }

    fn store(&self, x: &Matrix<T>, sink: &mut dyn FnMut(usize, &[f64]) -> Result<()>) -> Result<()> {
        let (mut panel, mut scratch) = (Vec::new(), Vec::new());
        for (owner, rows) in self.layout(x.rows(), TILE).pieces(TILE) {
            panel.clear();
            if owner == self.group.rank() {
                panel.extend(x.panel(&rows, &mut scratch)?.iter().map(|v| v.as_f64()));
            } else {
                panel.resize(rows.len() * x.cols(), 0.0);
            }
            self.group.broadcast(owner, &mut panel)?;
            sink(rows.start, &panel)?;
        }
        Ok(())
    }

    fn shape(&self, x: &Matrix<T>) -> (usize, usize) {
        (x.rows(), x.cols())
    }

    fn rows(&self, x: &Matrix<T>, range: Range<usize>) -> Result<Matrix<T>> {
        let ids: Vec<u32> = range.map(|i| i as u32).collect();
        self.select(x, &ids)
    }

    fn linear(&self, x: &Matrix<T>, w: MatRef<'_, f64>) -> Result<Matrix<T>> {
        let (d, p, w) = (x.cols(), w.nrows(), self.agreed(w)?);
        self.build(x.rows(), p, |rows, panel| {
            let mut scratch = Vec::new();
            let x = x.panel(&rows, &mut scratch)?;
            gemm_nt(rows.len(), p, d, false, panel, p, x, d, &w, d);
            Ok(())
        })
    }

    fn encode(&self, x: &Matrix<T>, f: MatRef<'_, f64>) -> Result<(Matrix<T>, Vec<f64>)> {
        directions(f, x.own().start, |f| self.encode_rows(x, f))
    }

    fn scale_rows(&self, x: &Matrix<T>, scale: &[f64]) -> Result<Matrix<T>> {
        let (d, first) = (x.cols(), x.own().start);
        self.build(x.rows(), d, |rows, panel| {
            let mut scratch = Vec::new();
            let x = x.panel(&rows, &mut scratch)?;
            for ((i, out), x) in rows.zip(panel.chunks_exact_mut(d)).zip(x.chunks_exact(d)) {
                out.iter_mut().zip(x).for_each(|(o, v)| *o = T::of(v.as_f64() * scale[i - first]));
            }
            Ok(())
        })
    }

    fn kernel(&self, kernel: &Kernel, x: &Matrix<T>, landmarks: MatRef<'_, f64>) -> Result<Matrix<T>> {
        let (d, m) = (x.cols(), landmarks.nrows());
        let points = self.agreed(landmarks)?;
        let of_row = |row: &[T]| kernel.norm(row.iter().map(|v| v.as_f64()));
        let norms: Vec<f64> = points.chunks_exact(d.max(1)).map(of_row).collect();
        self.build(x.rows(), m, |rows, panel| {
            let mut scratch = Vec::new();
            let x = x.panel(&rows, &mut scratch)?;
            gemm_nt(rows.len(), m, d, false, panel, m, x, d, &points, d);
            for (x, out) in x.chunks_exact(d.max(1)).zip(panel.chunks_exact_mut(m)) {
                let norm = of_row(x);
                for (value, other) in out.iter_mut().zip(&norms) {
                    *value = T::of(kernel.of_product(value.as_f64(), norm, *other));
                }
            }
            Ok(())
        })
    }

    fn gram(&self, x: &Matrix<T>) -> Result<Mat<f64>> {
        self.gram_matrix(x)
    }

    fn weights(
        &self,
        s: Similarity<'_, Matrix<T>>,
        loss: &Loss,
        positives: &Positives,
        negatives: NegativeSampling,
    ) -> Result<Weights> {
        let mut hold = None;
        let s = self.whole(s, &mut hold)?;
        self.inside(|| pass1::weights(self, s, loss, positives, negatives))
    }

    fn cross(
        &self,
        s: Similarity<'_, Matrix<T>>,
        w: &Weights,
        x: &Matrix<T>,
        y: &Matrix<T>,
    ) -> Result<Mat<f64>> {
        let mut hold = None;
        let s = self.whole(s, &mut hold)?;
        self.inside(|| pass2::cross(self, s, w, x, y))
    }

    fn apply(&self, s: Similarity<'_, Matrix<T>>, w: &Weights, v: &Matrix<T>) -> Result<Matrix<T>> {
        let mut hold = None;
        let s = self.whole(s, &mut hold)?;
        self.inside(|| pass2::apply(self, s, w, false, v))
    }

    fn apply_transpose(&self, s: Similarity<'_, Matrix<T>>, w: &Weights, u: &Matrix<T>) -> Result<Matrix<T>> {
        let mut hold = None;
        let s = self.whole(s, &mut hold)?;
        self.inside(|| pass2::apply(self, s, w, true, u))
    }

    fn gradients(&self, zx: &Matrix<T>, zy: &Matrix<T>, w: &Weights) -> Result<(Matrix<T>, Matrix<T>)> {
        self.inside(|| gradients(self, zx, zy, w)).map(|[of_x, of_y]| (of_x, of_y))
    }

    fn encode_backward(
        &self,
        x: &Matrix<T>,
        z: &Matrix<T>,
        norms: &[f64],
        g: &Matrix<T>,
    ) -> Result<Mat<f64>> {
        self.project_back(x, z, norms, g)
    }

    fn select(&self, x: &Matrix<T>, ids: &[u32]) -> Result<Matrix<T>> {
        self.select_rows(x, ids)
    }

    fn dense(&self, s: Similarity<'_, Matrix<T>>, w: &Weights) -> Result<Mat<f64>> {
        // The matrix, and the rows that it is put together from, twice.
        let places = w.positives.n_x().saturating_mul(w.positives.n_y()).saturating_mul(3);
        drop(room::<f64>(places, || "the weights as a dense matrix".into())?);
        let mut hold = None;
        pass2::with_tiles(self, self.whole(s, &mut hold)?, w, false, |tiles| self.dense_weights(tiles))
    }

    fn top_r(&self, c: MatRef<'_, f64>, r: usize, method: SvdMethod) -> Result<TopR> {
        self.install(|| spectral::top_r(c, r, method))
    }

    fn parallel<A: Sync, R: Send>(&self, items: &[A], f: impl Fn(&A) -> R + Sync + Send) -> Vec<R> {
        self.install(|| items.par_iter().map(f).collect())
    }

    fn hstack(&self, blocks: &[(f64, &Matrix<T>)]) -> Result<Matrix<T>> {
        let rows = blocks.first().map_or(0, |(_, b)| b.rows());
        let cols = blocks.iter().map(|(_, b)| b.cols()).sum();
        self.build(rows, cols, |range, panel| {
            let mut scratch = Vec::new();
            for (i, mut out) in range.zip(panel.chunks_exact_mut(cols)) {
                for (scale, block) in blocks {
                    let (here, rest) = out.split_at_mut(block.cols());
                    let row = block.row(i, &mut scratch)?;
                    here.iter_mut().zip(row).for_each(|(o, v)| *o = T::of(scale * v.as_f64()));
                    out = rest;
                }
            }
            Ok(())
        })
    }

    fn top_k(&self, queries: &Matrix<T>, items: &Matrix<T>, k: usize) -> Result<TopK> {
        self.search(queries, items, k)
    }

    fn standings(
        &self,
        s: Similarity<'_, Matrix<T>>,
        positives: &Positives,
        exclude_self: bool,
    ) -> Result<Vec<Standing>> {
        let mut hold = None;
        let s = self.whole(s, &mut hold)?;
        self.stand(Source::new(s), positives, exclude_self)
    }

    fn positive_similarities(&self, s: Similarity<'_, Matrix<T>>, positives: &Positives) -> Result<Vec<f64>> {
        let mut hold = None;
        let s = self.whole(s, &mut hold)?;
        let (schedule, loss) = (TileSchedule::of(&s, positives, NegativeSampling::All), Loss::default());
        let tiles = self.problem(s, false, &loss, positives, schedule)?;
        self.group.concat(self.masked_similarities(&tiles, |_, s| s.to_vec())?.concat())
    }
}
