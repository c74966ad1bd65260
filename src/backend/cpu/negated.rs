//! `-S` a tile at a time: similarities made again and turned into weights, and what tiles leave out.

use super::Cpu;
use super::gemm::gemm_nn;
use super::matrix::Matrix;
use super::ranks::{Columns, Lookup, Window};
use super::simd::AdditiveKind;
use super::statistics::{ColumnLayers, safe_exponent};
use super::tiles::{Panel, Scratch, Source, Tiles, product};
use crate::error::Result;
use crate::loss::{Loss, LossKind};
use crate::real::Real;
use crate::weights::{Weights, exceptions_of_row};
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
pub(super) enum Coefficients<T> {
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
    pub(super) tiles: &'a Tiles<'a, T>,
    pub(super) w: &'a Weights,
    pub(super) coefficients: Coefficients<T>,
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
    pub(super) fn positives_inline(&self) -> bool {
        !self.tiles.plan.is_sampled()
    }

    /// Fills `scratch.tile` with `-S` on the panel's rows and the columns `range`.
    pub(super) fn fill(
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
    pub(super) fn contract_tiles(
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
    pub(super) fn contract_flat(
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
pub(super) struct Apart<'a, T: Real> {
    w: &'a Weights,
    z: Option<Lookup<'a, T>>,
    v: Lookup<'a, T>,
}

impl<'a, T: Real> Apart<'a, T> {
    /// Of the row positions `rows`. A collective.
    pub(super) fn new(
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
    pub(super) fn add(&self, tiles: &Tiles<'_, T>, rows: Range<usize>, z: &[T], out: &mut [T]) -> Result<()> {
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
