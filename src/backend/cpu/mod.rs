//! The CPU backend: the default without a GPU, and in `f64` the oracle of the tests.
//!
//! Work is cut into panels of 512 rows that run in parallel; what panels produce is added in panel order, so results
//! do not depend on the number of threads.

mod backward;
mod contract;
pub mod gemm;
mod matrix;
mod memory;
mod search;
pub mod simd;
mod statistics;
mod tiles;

pub use matrix::Matrix;
pub use memory::{HostBlock, HostMemory};
pub use simd::TileOps;

use crate::backend::plan::{Plan, TILE};
use crate::backend::{Backend, Similarity, Ties, TopK};
use crate::control::{Control, Phase, Progress};
use crate::error::{Error, Result};
use crate::io::RowSource;
use crate::kernel::Kernel;
use crate::loss::Loss;
use crate::positives::Positives;
use crate::real::Real;
use crate::spectral::{self, SvdMethod, TopR};
use crate::weights::{Negatives, Weights};
use faer::{Mat, MatRef};
use gemm::{gemm_nt, gemm_tn};
use rayon::prelude::*;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use tiles::{Source, Tiles};

/// The CPU backend computing in `T`.
#[derive(Debug)]
pub struct Cpu<T> {
    pool: Arc<rayon::ThreadPool>,
    control: Arc<Control>,
    account: Arc<memory::Account>,
    bf16: bool,
    real: PhantomData<T>,
}

impl<T> Clone for Cpu<T> {
    fn clone(&self) -> Self {
        let (pool, control, account) = (self.pool.clone(), self.control.clone(), self.account.clone());
        Self { pool, control, account, bf16: self.bf16, real: PhantomData }
    }
}

impl<T: Real> Cpu<T> {
    /// A backend with `threads` threads (0: one per core) and no memory limit.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the threads cannot be started.
    pub fn new(threads: usize) -> Result<Self> {
        Self::with(threads, None, Arc::default())
    }

    /// A backend whose n-sized data stays below `memory_limit` bytes and that reports to `control`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(threads: usize, memory_limit: Option<u64>, control: Arc<Control>) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("unicon-{i}"))
            .build()
            .map_err(|e| Error::invalid("threads", "a number of threads the system grants", e))?;
        let account = Arc::new(memory::Account::new(memory_limit, None));
        Ok(Self { pool: Arc::new(pool), control, account, bf16: false, real: PhantomData })
    }

    /// Computes the similarities of S(gamma) from embeddings rounded to bfloat16: half the time of pass 1, and a relative
    /// error of C of about 1e-3. Weights, sums and search stay in `f32`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless `T` is `f32` and the processor has AVX512-BF16.
    pub fn with_bf16(self) -> Result<Self> {
        if T::as_f32_mut(&mut []).is_none() {
            return Err(Error::Unsupported(format!("bfloat16 similarities in {}", T::NAME)));
        }
        if !simd::bf16::bf16_available() {
            return Err(Error::Unsupported(
                "bfloat16 similarities: this processor has no AVX512-BF16".into(),
            ));
        }
        Ok(Self { bf16: true, ..self })
    }

    /// The same backend with its matrices in `memory`, and with `memory_limit` bytes of them at most.
    pub fn with_memory(self, memory: Arc<dyn HostMemory>, memory_limit: Option<u64>) -> Self {
        Self { account: Arc::new(memory::Account::new(memory_limit, Some(memory))), ..self }
    }

    /// The same threads, control and memory, computing in another number type.
    pub fn in_precision<U: Real>(&self) -> Cpu<U> {
        let (pool, control, account) = (self.pool.clone(), self.control.clone(), self.account.clone());
        // The reduced similarities exist in f32 only.
        Cpu { pool, control, account, bf16: false, real: PhantomData }
    }

    /// Makes the peak of [`Backend::memory`] what is held now.
    pub fn forget_peak(&self) {
        self.account.forget_peak();
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `f` with this backend's threads as rayon's.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }

    fn zeros(&self, rows: usize, cols: usize) -> Result<Matrix<T>> {
        Matrix::zeros(rows, cols, &self.account)
    }

    /// Runs `work` on every panel in parallel, a wave of one panel a thread at a time, and `fold`s the results in
    /// panel order on the calling thread. Reports progress and checks for cancellation between waves.
    fn for_panels<A: Send>(
        &self,
        phase: Phase,
        panels: usize,
        work: impl Fn(usize) -> Result<A> + Sync,
        mut fold: impl FnMut(A) -> Result<()>,
    ) -> Result<()> {
        let wave = self.threads();
        let mut first = 0;
        while first < panels {
            let last = (first + wave).min(panels);
            let parts: Vec<Result<A>> = if wave == 1 || last - first == 1 {
                (first..last).map(&work).collect()
            } else {
                self.install(|| (first..last).into_par_iter().map(&work).collect())
            };
            for part in parts {
                fold(part?)?;
            }
            first = last;
            let progress = Progress { phase, done: first as u64, total: panels as u64, loss: f64::NAN };
            self.control.report(progress)?;
        }
        Ok(())
    }

    /// A new `rows x cols` matrix made panel by panel: `fill(rows, panel)`.
    fn build(
        &self,
        rows: usize,
        cols: usize,
        fill: impl Fn(Range<usize>, &mut [T]) -> Result<()> + Sync,
    ) -> Result<Matrix<T>> {
        let mut out = self.zeros(rows, cols)?;
        if cols > 0 {
            self.install(|| {
                out.data_mut().par_chunks_mut(TILE * cols).enumerate().try_for_each(|(p, panel)| {
                    let start = p * TILE;
                    fill(start..start + panel.len() / cols, panel)
                })
            })?;
        }
        Ok(out)
    }

    fn tiles<'a>(
        &self,
        s: Similarity<'a, Matrix<T>>,
        loss: &'a Loss,
        positives: &Positives,
        negatives: Negatives,
    ) -> Tiles<'a, T> {
        let plan = Plan::new(positives.n_x(), positives.n_y(), negatives);
        Tiles { source: Source::new(s), loss, positives: positives.clone(), plan, bf16: self.bf16 }
    }
}

/// A small host matrix as row-major `T`.
fn row_major<T: Real>(w: MatRef<'_, f64>) -> Vec<T> {
    (0..w.nrows()).flat_map(|i| (0..w.ncols()).map(move |j| T::of(w[(i, j)]))).collect()
}

impl<T: Real> Backend for Cpu<T> {
    type Matrix = Matrix<T>;

    fn describe(&self) -> String {
        let precision = if self.bf16 { "bf16 similarities" } else { T::NAME };
        format!("cpu, {} threads, {precision}, {}", self.threads(), simd::level())
    }

    fn control(&self) -> &Control {
        &self.control
    }

    fn memory(&self) -> (u64, u64) {
        self.account.read()
    }

    fn load(&self, source: &dyn RowSource) -> Result<Matrix<T>> {
        self.control.report(Progress { phase: Phase::Features, done: 0, total: 1, loss: f64::NAN })?;
        self.build(source.rows(), source.cols(), |rows, panel| T::read_rows(source, rows.start, panel))
    }

    fn store(&self, x: &Matrix<T>, sink: &mut dyn FnMut(usize, &[f64]) -> Result<()>) -> Result<()> {
        let mut panel = Vec::new();
        for start in (0..x.rows()).step_by(TILE) {
            let rows = start..(start + TILE).min(x.rows());
            panel.clear();
            panel.extend(x.panel(&rows).iter().map(|v| v.as_f64()));
            sink(start, &panel)?;
        }
        Ok(())
    }

    fn shape(&self, x: &Matrix<T>) -> (usize, usize) {
        (x.rows(), x.cols())
    }

    fn rows(&self, x: &Matrix<T>, range: Range<usize>) -> Result<Matrix<T>> {
        let mut out = self.zeros(range.len(), x.cols())?;
        out.data_mut().copy_from_slice(x.panel(&range));
        Ok(out)
    }

    fn linear(&self, x: &Matrix<T>, w: MatRef<'_, f64>) -> Result<Matrix<T>> {
        let (d, p, w) = (x.cols(), w.nrows(), row_major::<T>(w));
        self.build(x.rows(), p, |rows, panel| {
            gemm_nt(rows.len(), p, d, T::of(0.0), panel, p, T::of(1.0), x.panel(&rows), d, &w, d);
            Ok(())
        })
    }

    fn encode(&self, x: &Matrix<T>, f: MatRef<'_, f64>) -> Result<(Matrix<T>, Vec<f64>)> {
        let mut z = self.linear(x, f)?;
        let r = z.cols();
        let mut norms = vec![T::default(); z.rows()];
        if r > 0 {
            self.install(|| {
                let panels = z.data_mut().par_chunks_mut(TILE * r).zip(norms.par_chunks_mut(TILE));
                panels.for_each(|(z, norms)| T::normalize_rows(z, r, norms));
            });
        }
        Ok((z, norms.into_iter().map(Real::as_f64).collect()))
    }

    fn scale_rows(&self, x: &Matrix<T>, scale: &[f64]) -> Result<Matrix<T>> {
        let d = x.cols();
        self.build(x.rows(), d, |rows, panel| {
            for (i, out) in rows.zip(panel.chunks_exact_mut(d)) {
                out.iter_mut().zip(x.row(i)).for_each(|(o, v)| *o = T::of(v.as_f64() * scale[i]));
            }
            Ok(())
        })
    }

    fn kernel(&self, kernel: &Kernel, x: &Matrix<T>, landmarks: MatRef<'_, f64>) -> Result<Matrix<T>> {
        let (d, m) = (x.cols(), landmarks.nrows());
        let points = row_major::<T>(landmarks);
        let of_row = |row: &[T]| kernel.norm(row.iter().map(|v| v.as_f64()));
        let norms: Vec<f64> = points.chunks_exact(d.max(1)).map(of_row).collect();
        self.build(x.rows(), m, |rows, panel| {
            gemm_nt(rows.len(), m, d, T::of(0.0), panel, m, T::of(1.0), x.panel(&rows), d, &points, d);
            for (i, out) in rows.zip(panel.chunks_exact_mut(m)) {
                let norm = of_row(x.row(i));
                for (value, other) in out.iter_mut().zip(&norms) {
                    *value = T::of(kernel.of_product(value.as_f64(), norm, *other));
                }
            }
            Ok(())
        })
    }

    fn gram(&self, x: &Matrix<T>) -> Result<Mat<f64>> {
        let d = x.cols();
        let mut gram = Mat::<f64>::zeros(d, d);
        self.for_panels(
            Phase::Features,
            x.rows().div_ceil(TILE),
            |p| {
                let rows = p * TILE..((p + 1) * TILE).min(x.rows());
                let (panel, mut part) = (x.panel(&rows), vec![T::default(); d * d]);
                gemm_tn(d, d, rows.len(), T::of(0.0), &mut part, d, T::of(1.0), panel, d, panel, d);
                Ok(part)
            },
            |part| {
                for j in 0..d {
                    // The product is symmetric up to rounding; its lower half is mirrored.
                    for i in j..d {
                        gram[(i, j)] += part[i * d + j].as_f64();
                    }
                }
                Ok(())
            },
        )?;
        for j in 0..d {
            for i in 0..j {
                gram[(i, j)] = gram[(j, i)];
            }
        }
        Ok(gram)
    }

    fn weights(
        &self,
        s: Similarity<'_, Matrix<T>>,
        loss: &Loss,
        positives: &Positives,
        negatives: Negatives,
    ) -> Result<Weights> {
        self.statistics(&self.tiles(s, loss, positives, negatives), negatives)
    }

    fn cross(
        &self,
        s: Similarity<'_, Matrix<T>>,
        w: &Weights,
        x: &Matrix<T>,
        y: &Matrix<T>,
    ) -> Result<Mat<f64>> {
        let tiles = self.tiles(s, &w.loss, &w.positives, w.negatives);
        // The narrower side is contracted: 2 n^2 min(d1, d2).
        if x.cols() < y.cols() {
            let transposed = self.contract_both(&tiles.transposed(), &w.transposed(), y, x)?;
            return Ok(transposed.transpose().to_owned());
        }
        self.contract_both(&tiles, w, x, y)
    }

    fn apply(&self, s: Similarity<'_, Matrix<T>>, w: &Weights, v: &Matrix<T>) -> Result<Matrix<T>> {
        self.contract(&self.tiles(s, &w.loss, &w.positives, w.negatives), w, v)
    }

    fn apply_t(&self, s: Similarity<'_, Matrix<T>>, w: &Weights, u: &Matrix<T>) -> Result<Matrix<T>> {
        let tiles = self.tiles(s, &w.loss, &w.positives, w.negatives).transposed();
        self.contract(&tiles, &w.transposed(), u)
    }

    fn gradients(&self, zx: &Matrix<T>, zy: &Matrix<T>, w: &Weights) -> Result<(Matrix<T>, Matrix<T>)> {
        let s = Similarity::Embeddings(zx, zy);
        self.contract_gradients(&self.tiles(s, &w.loss, &w.positives, w.negatives), w, zx, zy)
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
        let d = x.cols();
        self.build(ids.len(), d, |rows, panel| {
            for (out, &id) in panel.chunks_exact_mut(d).zip(&ids[rows]) {
                out.copy_from_slice(x.row(id as usize));
            }
            Ok(())
        })
    }

    fn dense(&self, s: Similarity<'_, Matrix<T>>, w: &Weights) -> Result<Mat<f64>> {
        self.contract_dense(&self.tiles(s, &w.loss, &w.positives, w.negatives), w)
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
            for (i, mut out) in range.zip(panel.chunks_exact_mut(cols)) {
                for (scale, block) in blocks {
                    let (here, rest) = out.split_at_mut(block.cols());
                    here.iter_mut().zip(block.row(i)).for_each(|(o, v)| *o = T::of(scale * v.as_f64()));
                    out = rest;
                }
            }
            Ok(())
        })
    }

    fn top_k(&self, queries: &Matrix<T>, items: &Matrix<T>, k: usize) -> Result<TopK> {
        self.search(queries, items, k)
    }

    fn ranks(&self, s: Similarity<'_, Matrix<T>>, positives: &Positives, ties: Ties) -> Result<Vec<u32>> {
        self.rank_positives(Source::new(s), positives, ties)
    }

    fn positive_similarities(&self, s: Similarity<'_, Matrix<T>>, positives: &Positives) -> Result<Vec<f64>> {
        Ok(self.pair_similarities(&Source::new(s), positives))
    }
}
