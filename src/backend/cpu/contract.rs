//! Pass 2: the similarity tile is made again, turned into weights, and multiplied at once: `S V`, `X^T S Y` and
//! gradients, never an `n x n` matrix.
//!
//! Tiles hold `-S`, whose negatives are >= 0; the sign returns at the end.

use super::gemm::{gemm_nn, gemm_tn};
use super::matrix::Matrix;
use super::ranks::{Columns, Lookup, PIECE, TileSums, Window};
use super::simd::AdditiveKind;
use super::statistics::{ColumnLayers, safe_exponent};
use super::tiles::{Panel, Scratch, Source, Tiles, product};
use super::{Cpu, Meter, add};
use crate::backend::plan::TILE;
use crate::comm::Fold;
use crate::control::Phase;
use crate::error::Result;
use crate::loss::{Loss, LossKind};
use crate::real::Real;
use crate::weights::{Weights, exceptions_of_row};
use faer::Mat;
use rayon::prelude::*;
use std::ops::Range;

/// The additive member as the micro-kernels take it.
pub(super) fn additive_kind(loss: &Loss) -> AdditiveKind {
    let (tau, margin) = (loss.tau, loss.margin);
    match loss.kind {
        LossKind::TripletHard => AdditiveKind::TripletHard { margin },
        LossKind::TripletSmooth => AdditiveKind::TripletSmooth { tau, margin },
        // Clip never gets here; its exponential has its own kernels.
        LossKind::Sigmoid | LossKind::Clip => AdditiveKind::Sigmoid { tau },
    }
}

/// Coefficients of the weights, by position, in the tiles' number type.
enum Coefficients<T> {
    /// `e^{(s - 1)/tau} (alpha_i + beta_j)`: one exponential an element.
    ClipShifted { alpha: Vec<T>, beta: Vec<T> },
    /// `e^{s/tau + a_i} + e^{s/tau + b_j}`: any temperature.
    ClipLog { a: Vec<T>, b: Vec<T> },
    /// `c_i sum_k psi'(s_ij - nu s_ik) + d_j sum_l psi'(s_ij - nu s_lj)`.
    Additive { rows: Vec<T>, cols: Vec<T> },
    /// `alpha_i + beta_j`: all similarities are 0.
    Flat { alpha: Vec<T>, beta: Vec<T> },
}

/// `-S` as tiles.
pub(super) struct Negated<'a, T: Real> {
    tiles: &'a Tiles<'a, T>,
    w: &'a Weights,
    coefficients: Coefficients<T>,
}

impl<'a, T: Real> Negated<'a, T> {
    pub(super) fn new(tiles: &'a Tiles<'a, T>, w: &'a Weights) -> Self {
        let (plan, loss, p) = (&tiles.plan, tiles.loss, &tiles.positives);
        let at_x =
            |f: &dyn Fn(usize) -> f64| -> Vec<f64> { (0..p.n_x()).map(|i| f(plan.row_id(i))).collect() };
        let at_y =
            |f: &dyn Fn(usize) -> f64| -> Vec<f64> { (0..p.n_y()).map(|j| f(plan.col_id(j))).collect() };
        let round = |v: Vec<f64>| -> Vec<T> { v.into_iter().map(T::of).collect() };
        let coefficients = if matches!(tiles.source, Source::Zeros) {
            let (alpha, beta) = w.at_zero();
            let alpha = round(at_x(&|i| loss.eps_neg * alpha[i]));
            Coefficients::Flat { alpha, beta: round(at_y(&|j| loss.eps_neg * beta[j])) }
        } else if loss.kind == LossKind::Clip {
            let log_eps = loss.eps_neg.ln();
            let a = at_x(&|i| w.rows.coeff[i] + log_eps + w.rows.factor(i).ln());
            let b = at_y(&|j| w.cols.coeff[j] + log_eps + w.cols.factor(j).ln());
            let shift = 1.0 / loss.tau;
            if a.iter().chain(&b).all(|c| c + shift < safe_exponent::<T>()) {
                let unlog =
                    |v: Vec<f64>| -> Vec<T> { v.into_iter().map(|c| T::of((c + shift).exp())).collect() };
                Coefficients::ClipShifted { alpha: unlog(a), beta: unlog(b) }
            } else {
                Coefficients::ClipLog { a: round(a), b: round(b) }
            }
        } else {
            let rows = round(at_x(&|i| w.row_scale(i) * loss.eps_neg * w.rows.factor(i)));
            let cols = round(at_y(&|j| w.col_scale(j) * loss.eps_neg * w.cols.factor(j)));
            Coefficients::Additive { rows, cols }
        };
        Self { tiles, w, coefficients }
    }

    /// Whether positives are written into the tiles (all negatives visited) or added on their own.
    fn positives_inline(&self) -> bool {
        !self.tiles.plan.is_sampled()
    }

    /// Fills `scratch.tile` with `-S` on the panel's rows and the columns `range`.
    fn fill(
        &self,
        panel: &Panel<'_, T>,
        zy: Option<&Window<'_, T>>,
        range: &Range<usize>,
        scratch: &mut Scratch<T>,
        pushes: &mut Vec<T>,
    ) -> Result<()> {
        let (loss, plan, w) = (self.tiles.loss, &self.tiles.plan, self.w);
        let (m, n) = (panel.rows.len(), range.len());
        self.tiles.fill_negatives(panel, zy, range, scratch)?;
        let scale = T::of(1.0 / loss.tau);
        let tile = &mut scratch.tile;
        match &self.coefficients {
            Coefficients::ClipShifted { alpha, beta } => {
                let (alpha, beta) = (&alpha[panel.rows.clone()], &beta[range.clone()]);
                T::exp_weights(tile, n, m, n, scale, scale, alpha, beta);
            }
            Coefficients::ClipLog { a, b } => {
                T::exp_weights_log(tile, n, m, n, scale, &a[panel.rows.clone()], &b[range.clone()]);
            }
            Coefficients::Flat { alpha, beta } => {
                for (li, i) in panel.rows.clone().enumerate() {
                    for (out, j) in tile[li * n..(li + 1) * n].iter_mut().zip(range.clone()) {
                        *out = T::of(alpha[i].as_f64() + beta[j].as_f64());
                    }
                }
                for &(li, lj, _) in &scratch.masked {
                    tile[li * n + lj] = T::default();
                }
            }
            Coefficients::Additive { rows, cols } => {
                let kind = additive_kind(loss);
                pushes.clear();
                pushes.resize(m * n, T::default());
                for (li, position) in panel.rows.clone().enumerate() {
                    let i = plan.row_id(position);
                    let (s_row, out) = (&tile[li * n..(li + 1) * n], &mut pushes[li * n..(li + 1) * n]);
                    for e in w.positives.row_offset(i)..w.positives.row_offset(i + 1) {
                        let offset = T::of(-loss.nu * w.rows.s_pos[e]);
                        T::additive_weights(kind, s_row, offset, rows[position], out);
                    }
                }
                for (layer, offsets) in ColumnLayers::new(self.tiles, range, &w.cols.s_pos) {
                    let coeff = |position: usize| {
                        let has = layer < w.positives.col(plan.col_id(position)).len();
                        if has { cols[position] } else { T::default() }
                    };
                    let coeff: Vec<T> = range.clone().map(coeff).collect();
                    T::additive_col_weights(kind, tile, n, m, n, &offsets, &coeff, pushes, n);
                }
                std::mem::swap(tile, pushes);
            }
        }
        if self.positives_inline() {
            for &(li, lj, s) in &scratch.masked {
                let (i, j) = (plan.row_id(panel.rows.start + li), plan.col_id(range.start + lj));
                scratch.tile[li * n + lj] = T::of(-w.exception(i, j, s.as_f64()));
            }
        }
        Ok(())
    }

    /// Adds `-S V` of one panel of rows over some of the columns to `out` (`rows x d`, row-major).
    fn contract_tiles(
        &self,
        p: usize,
        zx: Option<&Window<'_, T>>,
        columns: &Columns<'_, T>,
        out: &mut [T],
    ) -> Result<()> {
        let (mut rows_z, mut scratch, mut pushes) = (Vec::new(), Scratch::default(), Vec::new());
        let panel = self.tiles.panel(p, zx, &mut rows_z)?;
        let (m, mut gathered) = (panel.rows.len(), Vec::new());
        let d = out.len() / m.max(1);
        for range in self.tiles.plan.tiles_in(p, &columns.range) {
            self.fill(&panel, columns.z(), &range, &mut scratch, &mut pushes)?;
            let n = range.len();
            let v = columns.values(&range, &mut gathered)?;
            gemm_nn(m, d, n, T::of(1.0), out, d, T::of(1.0), &scratch.tile, n, v, d);
        }
        Ok(())
    }

    /// `-S V` on a panel of rows when all similarities are 0: `-S` is `alpha 1^T + 1 beta^T` off the exceptions. `sums` are
    /// `sum_j v_j` and `sum_j beta_j v_j`.
    fn contract_flat(
        &self,
        rows: Range<usize>,
        v: &Lookup<'_, T>,
        sums: &[f64],
        out: &mut [T],
    ) -> Result<()> {
        let Coefficients::Flat { alpha, beta } = &self.coefficients else { return Ok(()) };
        let (loss, d) = (self.tiles.loss, sums.len() / 2);
        let (mut row, mut scratch) = (vec![0.0; d], Vec::new());
        for (i, out) in rows.zip(out.chunks_exact_mut(d.max(1))) {
            let alpha = alpha[i].as_f64();
            row.iter_mut().enumerate().for_each(|(k, o)| *o = alpha * sums[k] + sums[d + k]);
            for j in exceptions_of_row(loss, &self.tiles.positives, i) {
                let weight = -self.w.exception(i, j, 0.0) - alpha - beta[j].as_f64();
                row.iter_mut().zip(v.row(j, &mut scratch)?).for_each(|(o, v)| *o += weight * v.as_f64());
            }
            out.iter_mut().zip(&row).for_each(|(out, &o)| *out = T::of(o));
        }
        Ok(())
    }
}

/// What the exceptions of some rows need where tiles leave them out: the columns' embeddings and values.
struct Apart<'a, T: Real> {
    w: &'a Weights,
    z: Option<Lookup<'a, T>>,
    v: Lookup<'a, T>,
}

impl<'a, T: Real> Apart<'a, T> {
    /// Of the row positions `rows`. A collective.
    fn new(
        cpu: &Cpu<T>,
        tiles: &Tiles<'a, T>,
        w: &'a Weights,
        v: &'a Matrix<T>,
        rows: Range<usize>,
    ) -> Result<Self> {
        let wanted = || {
            rows.clone().flat_map(|position| {
                exceptions_of_row(tiles.loss, &tiles.positives, tiles.plan.row_id(position))
            })
        };
        let z = match tiles.source.embeddings() {
            Some((_, zy)) => Some(cpu.lookup(zy, wanted())?),
            None => None,
        };
        Ok(Self { w, z, v: cpu.lookup(v, wanted())? })
    }

    /// Adds `-S_ij v_j` of the exceptions of the row positions `rows`, whose embeddings `z` are.
    fn add(&self, tiles: &Tiles<'_, T>, rows: Range<usize>, z: &[T], out: &mut [T]) -> Result<()> {
        let d = out.len() / rows.len().max(1);
        let r = z.len() / rows.len().max(1);
        let (mut z_row, mut v_row) = (Vec::new(), Vec::new());
        for (li, position) in rows.enumerate() {
            let i = tiles.plan.row_id(position);
            for j in exceptions_of_row(tiles.loss, &tiles.positives, i) {
                let s = match (&self.z, &tiles.source) {
                    (Some(zy), _) => product(&z[li * r..(li + 1) * r], zy.row(j, &mut z_row)?),
                    (None, source) => source.entry(i, j)?,
                };
                let weight = T::of(-self.w.exception(i, j, s));
                axpy(weight, self.v.row(j, &mut v_row)?, &mut out[li * d..(li + 1) * d]);
            }
        }
        Ok(())
    }
}

fn axpy<T: Real>(a: T, x: &[T], y: &mut [T]) {
    let a = a.as_f64();
    y.iter_mut().zip(x).for_each(|(y, x)| *y = T::of(y.as_f64() + a * x.as_f64()));
}

/// Rows whose products with all columns are held at once where the columns do not stay.
const HELD: usize = 65_536;

impl<T: Real> Cpu<T> {
    /// `sum_j v_j` and `sum_j beta_j v_j`, when all similarities are 0.
    fn flat_sums(&self, negated: &Negated<'_, T>, v: &Matrix<T>) -> Result<Option<Vec<f64>>> {
        let Coefficients::Flat { beta, .. } = &negated.coefficients else { return Ok(None) };
        let (layout, d) = (self.layout(v.rows(), TILE), v.cols());
        let own = layout.own();
        let mut fold = Fold::new(self.own_blocks(&layout));
        self.for_panels(
            &Meter::quiet(Phase::Weights),
            own.start / TILE..own.end.div_ceil(TILE),
            &mut vec![(); own.len().div_ceil(TILE)],
            |p, ()| {
                let rows = p * TILE..((p + 1) * TILE).min(own.end);
                let mut scratch = Vec::new();
                let values = v.panel(&rows, &mut scratch)?;
                let mut sums = vec![0.0; 2 * d];
                for (row, beta) in values.chunks_exact(d.max(1)).zip(&beta[rows]) {
                    for (k, value) in row.iter().enumerate() {
                        sums[k] += value.as_f64();
                        sums[d + k] += beta.as_f64() * value.as_f64();
                    }
                }
                Ok((p * TILE / layout.block(), sums))
            },
            |(block, part)| {
                let sums = fold.block(block, || vec![0.0; 2 * d], add);
                sums.iter_mut().zip(part).for_each(|(a, b)| *a += b);
                Ok(())
            },
        )?;
        self.group.sum(fold, 2 * d).map(Some)
    }

    /// `-S V` on all rows of this rank, panel by panel: `finish(panel, rows, -S V there)` runs in parallel, `fold` in order
    /// of panels.
    fn contract_rows<B: Send>(
        &self,
        tiles: &Tiles<'_, T>,
        w: &Weights,
        v: &Matrix<T>,
        finish: impl Fn(Range<usize>, &mut Vec<T>) -> Result<B> + Sync + Send,
        mut fold: impl FnMut(usize, B) -> Result<()> + Send,
    ) -> Result<()> {
        let negated = Negated::new(tiles, w);
        let (plan, d) = (&tiles.plan, v.cols());
        let flat = self.flat_sums(&negated, v)?;
        let panels = self.own_panels(plan);
        // Where all columns are here, a wave of panels sees them all at once; where they stream past, many rows must
        // share a stream.
        let mut matrices: Vec<&Matrix<T>> = tiles.source.embeddings().map(|(_, zy)| zy).into_iter().collect();
        matrices.push(v);
        let here = self.group.is_single() && matrices.iter().all(|m| m.is_resident());
        let held = if here || (self.group.is_single() && plan.is_sampled()) {
            self.threads()
        } else {
            HELD.div_ceil(plan.tile())
        };
        let most = self.rows_of(plan).most().div_ceil(plan.tile());
        let stages = most.div_ceil(held);
        let zx = match tiles.source.embeddings() {
            Some((zx, _)) => Some(self.row_window(plan, zx)?),
            None => None,
        };
        let zx = zx.as_ref();
        for stage in 0..stages {
            let first = (panels.start + stage * held).min(panels.end);
            let panels = first..(first + held).min(panels.end);
            let rows = panels.start * plan.tile()..(panels.end * plan.tile()).min(plan.n_x());
            let mut states: Vec<Vec<T>> =
                panels.clone().map(|p| vec![T::default(); plan.panel(p).len() * d]).collect();
            if let Some(sums) = &flat {
                let wanted = rows.flat_map(|i| exceptions_of_row(tiles.loss, &tiles.positives, i));
                let v = self.lookup(v, wanted)?;
                let work = |p: usize, out: &mut Vec<T>| {
                    negated.contract_flat(plan.panel(p), &v, sums, out)?;
                    Ok((p, finish(plan.panel(p), out)?))
                };
                let meter = Meter { phase: Phase::Weights, done: stage, of: stages, quiet: false };
                self.for_panels(&meter, panels, &mut states, work, |(p, part)| fold(p, part))?;
                continue;
            }
            let apart = match negated.positives_inline() {
                true => None,
                false => Some(Apart::new(self, tiles, w, v, rows)?),
            };
            let state = &mut (&mut states, &mut fold);
            self.columns(
                Phase::Weights,
                (stage, stages),
                tiles,
                panels.clone(),
                &matrices,
                usize::MAX,
                state,
                |(states, fold), columns, meter| {
                    let work = |p: usize, out: &mut Vec<T>| {
                        negated.contract_tiles(p, zx, columns, out)?;
                        if !columns.last {
                            return Ok(None);
                        }
                        if let Some(apart) = &apart {
                            let mut scratch = Vec::new();
                            let z = zx.map_or(Ok(&[][..]), |zx| zx.get(&plan.panel(p), &mut scratch))?;
                            apart.add(tiles, plan.panel(p), z, out)?;
                        }
                        let part = finish(plan.panel(p), out)?;
                        // Done with: what follows holds its own.
                        *out = Vec::new();
                        Ok(Some((p, part)))
                    };
                    self.for_panels(meter, panels.clone(), states, work, |part| match part {
                        Some((p, part)) => fold(p, part),
                        None => Ok(()),
                    })
                },
                |_, _| Ok(()),
            )?;
        }
        Ok(())
    }

    /// `S V`.
    pub(super) fn contract(&self, tiles: &Tiles<'_, T>, w: &Weights, v: &Matrix<T>) -> Result<Matrix<T>> {
        let (plan, d) = (&tiles.plan, v.cols());
        let own = self.rows_of(plan).own();
        let negate = |part: &[T], out: &mut [T]| {
            out.iter_mut().zip(part).for_each(|(o, &v)| *o = T::of(-v.as_f64()));
        };
        let finish = |_: Range<usize>, out: &mut Vec<T>| Ok(std::mem::take(out));
        if plan.is_sampled() && !self.group.is_single() {
            let mut rows = vec![T::default(); own.len() * d];
            self.contract_rows(tiles, w, v, finish, |p, part| {
                let first = (plan.panel(p).start - own.start) * d;
                negate(&part, &mut rows[first..first + part.len()]);
                Ok(())
            })?;
            let ids = plan.x_ids().unwrap_or_default();
            return self.place(plan.n_x(), d, &ids[own], rows);
        }
        let mut out = self.zeros(plan.n_x(), d)?;
        let first = out.own().start;
        self.contract_rows(tiles, w, v, finish, |p, part| {
            for (position, row) in plan.panel(p).zip(part.chunks_exact(d.max(1))) {
                let i = plan.row_id(position) - first;
                negate(row, &mut out.data_mut()[i * d..(i + 1) * d]);
            }
            Ok(())
        })?;
        Ok(out)
    }

    /// `X^T S Y`, contracting `Y` first: panels' products are added in float64 in a fixed order.
    pub(super) fn contract_both(
        &self,
        tiles: &Tiles<'_, T>,
        w: &Weights,
        x: &Matrix<T>,
        y: &Matrix<T>,
    ) -> Result<Mat<f64>> {
        let (plan, d1, d2) = (&tiles.plan, x.cols(), y.cols());
        let layout = self.rows_of(plan);
        let window = self.row_window(plan, x)?;
        let mut c = Fold::new(self.own_blocks(&layout));
        self.contract_rows(
            tiles,
            w,
            y,
            |rows, sy| {
                let mut gathered = Vec::new();
                let x = window.get(&rows, &mut gathered)?;
                let mut part = vec![T::default(); d1 * d2];
                gemm_tn(d1, d2, rows.len(), T::of(0.0), &mut part, d2, T::of(1.0), x, d1, sy, d2);
                Ok(part)
            },
            |p, part| {
                let sum = c.block(p * plan.tile() / layout.block(), || vec![0.0; d1 * d2], add);
                sum.iter_mut().zip(&part).for_each(|(c, v)| *c -= v.as_f64());
                Ok(())
            },
        )?;
        let c = self.group.sum(c, d1 * d2)?;
        Ok(Mat::from_fn(d1, d2, |i, j| c[i * d2 + j]))
    }

    /// `-S Z_y` and `-S^T Z_x` from one visit of every tile.
    pub(super) fn contract_gradients(
        &self,
        tiles: &Tiles<'_, T>,
        w: &Weights,
        zx: &Matrix<T>,
        zy: &Matrix<T>,
    ) -> Result<(Matrix<T>, Matrix<T>)> {
        let negated = Negated::new(tiles, w);
        let (plan, r) = (&tiles.plan, zx.cols());
        let (layout, panels) = (self.rows_of(plan), self.own_panels(plan));
        let own = layout.own();
        let (window, blocks) = (self.row_window(plan, zx)?, self.own_blocks(&layout));
        let sum = |a: T, b: T| T::of(a.as_f64() + b.as_f64());
        // By position; sums over rows of S^T Z_x are finished piece by piece of the columns.
        let mut gx: Vec<Vec<T>> =
            panels.clone().map(|p| vec![T::default(); plan.panel(p).len() * r]).collect();
        let owned = self.layout(plan.n_y(), plan.tile()).own();
        let mut gy = vec![T::default(); owned.len() * r];
        let state = &mut (&mut gx, TileSums::new(blocks.clone()), &mut gy);
        self.columns(
            Phase::Weights,
            (0, 1),
            tiles,
            panels.clone(),
            &[zy],
            PIECE,
            state,
            |(gx, sums, _), columns, meter| {
                let work = |p: usize, out: &mut Vec<T>| {
                    let (mut rows_z, mut scratch, mut pushes) = (Vec::new(), Scratch::default(), Vec::new());
                    let mut cols = Vec::new();
                    if !plan.meets(p, &columns.range) {
                        return Ok((p, cols));
                    }
                    let panel = tiles.panel(p, Some(&window), &mut rows_z)?;
                    let (m, mut y_rows) = (panel.rows.len(), Vec::new());
                    for range in plan.tiles_in(p, &columns.range) {
                        negated.fill(&panel, columns.z(), &range, &mut scratch, &mut pushes)?;
                        let n = range.len();
                        let y = columns.values(&range, &mut y_rows)?;
                        gemm_nn(m, r, n, T::of(1.0), out, r, T::of(1.0), &scratch.tile, n, y, r);
                        let mut part = vec![T::default(); n * r];
                        gemm_tn(n, r, m, T::of(0.0), &mut part, r, T::of(1.0), &scratch.tile, n, panel.z, r);
                        cols.push((range, part));
                    }
                    Ok((p, cols))
                };
                self.for_panels(meter, panels.clone(), gx, work, |(p, cols)| {
                    let block = p * plan.tile() / layout.block();
                    cols.into_iter().for_each(|(range, part)| sums.add(block, range, part, sum));
                    Ok(())
                })
            },
            |(_, sums, gy), _| {
                let done = std::mem::replace(sums, TileSums::new(blocks.clone()));
                for (range, part) in self.finish_tiles(plan, done, sum)? {
                    gy[(range.start - owned.start) * r..(range.end - owned.start) * r].copy_from_slice(&part);
                }
                Ok(())
            },
        )?;
        let mut gx = gx.concat();
        if !negated.positives_inline() {
            self.add_apart(tiles, w, zx, zy, own.clone(), &mut gx)?;
            let (tiles, w) = (tiles.transposed(), w.transposed());
            self.add_apart(&tiles, &w, zy, zx, owned.clone(), &mut gy)?;
        }
        Ok((
            self.by_sample(plan.n_x(), r, plan.x_ids(), own, gx)?,
            self.by_sample(plan.n_y(), r, plan.y_ids(), owned, gy)?,
        ))
    }

    /// Adds the exceptions' share of `-S Z_y` to the row positions `own`.
    fn add_apart(
        &self,
        tiles: &Tiles<'_, T>,
        w: &Weights,
        zx: &Matrix<T>,
        zy: &Matrix<T>,
        own: Range<usize>,
        out: &mut [T],
    ) -> Result<()> {
        let (plan, r) = (&tiles.plan, zx.cols());
        let apart = Apart::new(self, tiles, w, zy, own.clone())?;
        let window = self.row_window(plan, zx)?;
        let step = plan.tile();
        self.install(|| {
            out.par_chunks_mut((step * r).max(1)).enumerate().try_for_each(|(p, out)| {
                let start = own.start + p * step;
                let rows = start..(start + step).min(own.end);
                let mut scratch = Vec::new();
                apart.add(tiles, rows.clone(), window.get(&rows, &mut scratch)?, out)
            })
        })
    }

    /// The matrix of rows given by position in an order.
    fn by_sample(
        &self,
        n: usize,
        r: usize,
        ids: Option<&[u32]>,
        own: Range<usize>,
        rows: Vec<T>,
    ) -> Result<Matrix<T>> {
        match ids {
            Some(ids) => self.place(n, r, &ids[own], rows),
            None => {
                let mut out = self.zeros(n, r)?;
                out.data_mut().copy_from_slice(&rows);
                Ok(out)
            }
        }
    }

    /// `S` itself, on every rank.
    pub(super) fn contract_dense(&self, tiles: &Tiles<'_, T>, w: &Weights) -> Result<Mat<f64>> {
        let negated = Negated::new(tiles, w);
        let (plan, n_y) = (&tiles.plan, tiles.positives.n_y());
        let panels = self.own_panels(plan);
        let (zx, items) = match tiles.source.embeddings() {
            Some((zx, zy)) => (Some(self.row_window(plan, zx)?), vec![zy]),
            None => (None, Vec::new()),
        };
        let mut states: Vec<Vec<f64>> =
            panels.clone().map(|p| vec![0.0; plan.panel(p).len() * n_y]).collect();
        self.columns(
            Phase::Weights,
            (0, 1),
            tiles,
            panels.clone(),
            &items,
            usize::MAX,
            &mut states,
            |states, columns, meter| {
                let work = |p: usize, out: &mut Vec<f64>| {
                    let (mut rows_z, mut scratch, mut pushes) = (Vec::new(), Scratch::default(), Vec::new());
                    let panel = tiles.panel(p, zx.as_ref(), &mut rows_z)?;
                    for range in plan.tiles_in(p, &columns.range) {
                        negated.fill(&panel, columns.z(), &range, &mut scratch, &mut pushes)?;
                        for (out, tile) in
                            out.chunks_exact_mut(n_y).zip(scratch.tile.chunks_exact(range.len()))
                        {
                            for (j, value) in range.clone().zip(tile) {
                                out[plan.col_id(j)] = -value.as_f64();
                            }
                        }
                    }
                    Ok(())
                };
                self.for_panels(meter, panels.clone(), states, work, Ok)
            },
            |_, _| Ok(()),
        )?;
        let rows = self.group.concat(states.concat())?;
        let mut out = Mat::<f64>::zeros(plan.n_x(), n_y);
        for (position, row) in rows.chunks_exact(n_y.max(1)).enumerate() {
            let i = plan.row_id(position);
            row.iter().enumerate().for_each(|(j, &v)| out[(i, j)] = v);
        }
        if !negated.positives_inline() {
            let pairs = self.pair_similarities(tiles, true)?;
            let mut pairs = pairs.into_iter();
            for i in 0..plan.n_x() {
                for (j, s) in exceptions_of_row(tiles.loss, &tiles.positives, i).zip(&mut pairs) {
                    out[(i, j)] = T::of(w.exception(i, j, s)).as_f64();
                }
            }
        }
        Ok(out)
    }
}
