//! Pass 2: the similarity tile is made again, turned into weights, and multiplied at once: `S V`, `X^T S Y` and
//! gradients, never an `n x n` matrix.
//!
//! Tiles hold `-S`, whose negatives are >= 0; the sign returns at the end.

use super::Cpu;
use super::gemm::{gemm_nn, gemm_tn};
use super::matrix::Matrix;
use super::simd::AdditiveKind;
use super::statistics::{ColumnLayers, safe_exponent};
use super::tiles::{Panel, Scratch, Source, Tiles};
use crate::control::Phase;
use crate::error::Result;
use crate::loss::{Loss, LossKind};
use crate::real::Real;
use crate::weights::{Weights, exceptions_of_row};
use faer::Mat;
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
        range: &Range<usize>,
        scratch: &mut Scratch<T>,
        pushes: &mut Vec<T>,
    ) {
        let (loss, plan, w) = (self.tiles.loss, &self.tiles.plan, self.w);
        let (m, n) = (panel.rows.len(), range.len());
        self.tiles.fill_negatives(panel, range, scratch);
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
    }

    /// Calls `f(local row, column sample, -S_ij)` for the exceptions of a panel that tiles leave out.
    fn for_exceptions(&self, rows: &Range<usize>, mut f: impl FnMut(usize, usize, T)) {
        if self.positives_inline() {
            return;
        }
        for (li, position) in rows.clone().enumerate() {
            let i = self.tiles.plan.row_id(position);
            for j in exceptions_of_row(self.tiles.loss, &self.tiles.positives, i) {
                f(li, j, T::of(-self.w.exception(i, j, self.tiles.source.pair(i, j))));
            }
        }
    }

    /// `sum_j v_j` and `sum_j beta_j v_j`, when all similarities are 0.
    fn flat_sums(&self, v: &Matrix<T>) -> Option<[Vec<f64>; 2]> {
        let Coefficients::Flat { beta, .. } = &self.coefficients else { return None };
        let mut sums = [vec![0.0; v.cols()], vec![0.0; v.cols()]];
        for (position, beta) in beta.iter().enumerate() {
            let row = v.row(self.tiles.plan.col_id(position));
            for (k, value) in row.iter().enumerate() {
                sums[0][k] += value.as_f64();
                sums[1][k] += beta.as_f64() * value.as_f64();
            }
        }
        Some(sums)
    }

    /// `-S V` on the rows of panel `p` when all similarities are 0: `-S` is `alpha 1^T + 1 beta^T` off the exceptions.
    fn contract_flat(&self, rows: Range<usize>, v: &Matrix<T>, sums: &[Vec<f64>; 2]) -> Vec<T> {
        let Coefficients::Flat { alpha, beta } = &self.coefficients else { return Vec::new() };
        let (plan, loss) = (&self.tiles.plan, self.tiles.loss);
        let mut out = Vec::with_capacity(rows.len() * v.cols());
        let mut row = vec![0.0; v.cols()];
        for position in rows {
            let (i, alpha) = (plan.row_id(position), alpha[position].as_f64());
            row.iter_mut().enumerate().for_each(|(k, o)| *o = alpha * sums[0][k] + sums[1][k]);
            for j in exceptions_of_row(loss, &self.tiles.positives, i) {
                let weight = -self.w.exception(i, j, 0.0) - alpha - beta[plan.col_position(j)].as_f64();
                row.iter_mut().zip(v.row(j)).for_each(|(o, v)| *o += weight * v.as_f64());
            }
            out.extend(row.iter().map(|&o| T::of(o)));
        }
        out
    }

    /// `-S V` on the rows of panel `p` (`rows x d`, row-major); `flat` are `V`'s [`flat_sums`](Self::flat_sums).
    fn contract_panel(
        &self,
        p: usize,
        v: &Matrix<T>,
        flat: Option<&[Vec<f64>; 2]>,
    ) -> (Range<usize>, Vec<T>) {
        let (plan, d) = (&self.tiles.plan, v.cols());
        if let Some(sums) = flat {
            return (plan.panel(p), self.contract_flat(plan.panel(p), v, sums));
        }
        let (mut rows_z, mut scratch, mut pushes) = (Vec::new(), Scratch::default(), Vec::new());
        let panel = self.tiles.panel(p, &mut rows_z);
        let mut out = vec![T::default(); panel.rows.len() * d];
        let mut gathered = Vec::new();
        for range in plan.tiles(p) {
            self.fill(&panel, &range, &mut scratch, &mut pushes);
            let (m, n) = (panel.rows.len(), range.len());
            let v = v.gather(plan.y_ids(), &range, &mut gathered);
            gemm_nn(m, d, n, T::of(1.0), &mut out, d, T::of(1.0), &scratch.tile, n, v, d);
        }
        self.for_exceptions(&panel.rows, |li, j, weight| {
            axpy(weight, v.row(j), &mut out[li * d..(li + 1) * d]);
        });
        (panel.rows.clone(), out)
    }
}

fn axpy<T: Real>(a: T, x: &[T], y: &mut [T]) {
    let a = a.as_f64();
    y.iter_mut().zip(x).for_each(|(y, x)| *y = T::of(y.as_f64() + a * x.as_f64()));
}

impl<T: Real> Cpu<T> {
    /// `S V`.
    pub(super) fn contract(&self, tiles: &Tiles<'_, T>, w: &Weights, v: &Matrix<T>) -> Result<Matrix<T>> {
        let negated = Negated::new(tiles, w);
        let (d, flat) = (v.cols(), negated.flat_sums(v));
        let mut out = self.zeros(tiles.positives.n_x(), d)?;
        self.for_panels(
            Phase::Weights,
            tiles.plan.panels(),
            |p| Ok(negated.contract_panel(p, v, flat.as_ref())),
            |(rows, part)| {
                for (position, row) in rows.zip(part.chunks_exact(d.max(1))) {
                    let i = tiles.plan.row_id(position);
                    let out = &mut out.data_mut()[i * d..(i + 1) * d];
                    out.iter_mut().zip(row).for_each(|(o, &v)| *o = T::of(-v.as_f64()));
                }
                Ok(())
            },
        )?;
        Ok(out)
    }

    /// `X^T S Y`, contracting `Y` first: panels' products are added in float64 in panel order.
    pub(super) fn contract_both(
        &self,
        tiles: &Tiles<'_, T>,
        w: &Weights,
        x: &Matrix<T>,
        y: &Matrix<T>,
    ) -> Result<Mat<f64>> {
        let negated = Negated::new(tiles, w);
        let (d1, d2, flat) = (x.cols(), y.cols(), negated.flat_sums(y));
        let mut c = Mat::<f64>::zeros(d1, d2);
        self.for_panels(
            Phase::Weights,
            tiles.plan.panels(),
            |p| {
                let (rows, sy) = negated.contract_panel(p, y, flat.as_ref());
                let mut gathered = Vec::new();
                let x = x.gather(tiles.plan.x_ids(), &rows, &mut gathered);
                let mut part = vec![T::default(); d1 * d2];
                gemm_tn(d1, d2, rows.len(), T::of(0.0), &mut part, d2, T::of(1.0), x, d1, &sy, d2);
                Ok(part)
            },
            |part| {
                for j in 0..d2 {
                    for (i, c) in c.col_mut(j).iter_mut().enumerate() {
                        *c -= part[i * d2 + j].as_f64();
                    }
                }
                Ok(())
            },
        )?;
        Ok(c)
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
        let (mut gx, mut gy) = (self.zeros(zx.rows(), r)?, self.zeros(zy.rows(), r)?);
        self.for_panels(
            Phase::Weights,
            plan.panels(),
            |p| {
                let (mut rows_z, mut scratch, mut pushes) = (Vec::new(), Scratch::default(), Vec::new());
                let panel = tiles.panel(p, &mut rows_z);
                let (mut x_rows, mut y_rows) = (Vec::new(), Vec::new());
                let zx = zx.gather(plan.x_ids(), &panel.rows, &mut x_rows);
                let m = panel.rows.len();
                let mut out = vec![T::default(); m * r];
                let mut cols = Vec::new();
                for range in plan.tiles(p) {
                    negated.fill(&panel, &range, &mut scratch, &mut pushes);
                    let n = range.len();
                    let y = zy.gather(plan.y_ids(), &range, &mut y_rows);
                    gemm_nn(m, r, n, T::of(1.0), &mut out, r, T::of(1.0), &scratch.tile, n, y, r);
                    let mut part = vec![T::default(); n * r];
                    gemm_tn(n, r, m, T::of(0.0), &mut part, r, T::of(1.0), &scratch.tile, n, zx, r);
                    cols.push((range, part));
                }
                let mut pairs = Vec::new();
                negated.for_exceptions(&panel.rows, |li, j, weight| {
                    axpy(weight, zy.row(j), &mut out[li * r..(li + 1) * r]);
                    pairs.push((li, j, weight));
                });
                Ok((panel.rows.clone(), out, cols, pairs))
            },
            |(rows, out, cols, pairs)| {
                for (position, row) in rows.clone().zip(out.chunks_exact(r.max(1))) {
                    let i = plan.row_id(position);
                    gx.data_mut()[i * r..(i + 1) * r].copy_from_slice(row);
                }
                for (range, part) in cols {
                    for (position, row) in range.zip(part.chunks_exact(r.max(1))) {
                        let j = plan.col_id(position);
                        axpy(T::of(1.0), row, &mut gy.data_mut()[j * r..(j + 1) * r]);
                    }
                }
                for (li, j, weight) in pairs {
                    let i = plan.row_id(rows.start + li);
                    axpy(weight, zx.row(i), &mut gy.data_mut()[j * r..(j + 1) * r]);
                }
                Ok(())
            },
        )?;
        Ok((gx, gy))
    }

    /// `S` itself.
    pub(super) fn contract_dense(&self, tiles: &Tiles<'_, T>, w: &Weights) -> Result<Mat<f64>> {
        let negated = Negated::new(tiles, w);
        let plan = &tiles.plan;
        let mut out = Mat::<f64>::zeros(tiles.positives.n_x(), tiles.positives.n_y());
        self.for_panels(
            Phase::Weights,
            plan.panels(),
            |p| {
                let (mut rows_z, mut scratch, mut pushes) = (Vec::new(), Scratch::default(), Vec::new());
                let panel = tiles.panel(p, &mut rows_z);
                let mut parts = Vec::new();
                for range in plan.tiles(p) {
                    negated.fill(&panel, &range, &mut scratch, &mut pushes);
                    parts.push((range, scratch.tile.clone()));
                }
                let mut pairs = Vec::new();
                negated.for_exceptions(&panel.rows, |li, j, weight| pairs.push((li, j, weight)));
                Ok((panel.rows.clone(), parts, pairs))
            },
            |(rows, parts, pairs)| {
                for (range, tile) in parts {
                    let n = range.len();
                    for (li, i) in rows.clone().enumerate() {
                        for (lj, j) in range.clone().enumerate() {
                            out[(plan.row_id(i), plan.col_id(j))] = -tile[li * n + lj].as_f64();
                        }
                    }
                }
                for (li, j, weight) in pairs {
                    out[(plan.row_id(rows.start + li), j)] = -weight.as_f64();
                }
                Ok(())
            },
        )?;
        Ok(out)
    }
}
