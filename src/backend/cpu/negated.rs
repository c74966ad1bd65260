//! `-S` a tile at a time: similarities made again and turned into weights, and what tiles leave out.

use super::Cpu;
use super::gemm::gemm_nn;
use super::matrix::Matrix;
use super::ranks::{Columns, Lookup, Window};
use super::simd::AdditiveKind;
use super::statistics::{ColumnLayers, safe_exponent};
use super::tiles::{Panel, Scratch, Source, Tiles, product};
use crate::backend::plan::TILE;
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

/// Coefficients of the weights, by position, in the tiles' number type: of all rows and columns, or of this rank's where
/// the weights are [shared out](Weights::share).
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
    /// The first row and column that have coefficients here.
    pub(super) first: (usize, usize),
    /// The columns' coefficients of all ranks, where each has its own: they come past with the columns.
    pub(super) passing: Option<Matrix<T>>,
    /// Columns of other ranks that this rank's exceptions meet, ascending, and clip's numbers of them.
    partners: (Vec<u32>, Vec<[f64; 2]>),
}

impl<'a, T: Real> Negated<'a, T> {
    /// A collective.
    pub(super) fn new(cpu: &Cpu<T>, tiles: &'a Tiles<'a, T>, w: &'a Weights) -> Result<Self> {
        let (plan, loss, p) = (&tiles.plan, tiles.loss, &tiles.positives);
        let held = |n: usize| if w.share { cpu.layout(n, TILE).own() } else { 0..n };
        let (rows, cols) = (held(p.n_x()), held(p.n_y()));
        let first = (rows.start, cols.start);
        let at_x =
            |f: &dyn Fn(usize) -> f64| -> Vec<T> { rows.clone().map(|i| T::of(f(plan.row_id(i)))).collect() };
        let at_y =
            |f: &dyn Fn(usize) -> f64| -> Vec<T> { cols.clone().map(|j| T::of(f(plan.col_id(j)))).collect() };
        let coefficients = if matches!(tiles.source, Source::Zeros) {
            let (alpha, beta) = w.at_zero();
            let alpha = at_x(&|i| loss.eps_neg * alpha[i - first.0]);
            Coefficients::Flat { alpha, beta: at_y(&|j| loss.eps_neg * beta[j - first.1]) }
        } else if loss.kind == LossKind::Clip {
            let log_eps = loss.eps_neg.ln();
            let a = |i: usize| w.rows.clip(i)[1] + log_eps + w.rows.factor(i).ln();
            let b = |j: usize| w.cols.clip(j)[1] + log_eps + w.cols.factor(j).ln();
            let shift = 1.0 / loss.tau;
            let safe = |c: f64| c + shift < safe_exponent::<T>();
            let all = rows.clone().all(|i| safe(a(plan.row_id(i))))
                && cols.clone().all(|j| safe(b(plan.col_id(j))));
            if cpu.group.any(!all)? {
                Coefficients::ClipLog { a: at_x(&a), b: at_y(&b) }
            } else {
                let alpha = at_x(&|i| (a(i) + shift).exp());
                Coefficients::ClipShifted { alpha, beta: at_y(&|j| (b(j) + shift).exp()) }
            }
        } else {
            let rows = at_x(&|i| w.row_scale(i) * loss.eps_neg * w.rows.factor(i));
            let cols = at_y(&|j| w.col_scale(j) * loss.eps_neg * w.cols.factor(j));
            Coefficients::Additive { rows, cols }
        };
        let mut out =
            Self { tiles, w, coefficients, first, passing: None, partners: (Vec::new(), Vec::new()) };
        if w.share {
            out.passing = Some(out.columns_matrix(cpu)?);
            out.partners = out.met(cpu, rows, &cols)?;
        }
        Ok(out)
    }

    /// The columns' coefficients of this rank as rows of a matrix.
    fn columns_matrix(&self, cpu: &Cpu<T>) -> Result<Matrix<T>> {
        let (Coefficients::ClipShifted { beta, .. }
        | Coefficients::ClipLog { b: beta, .. }
        | Coefficients::Additive { cols: beta, .. }
        | Coefficients::Flat { beta, .. }) = &self.coefficients;
        let mut out = cpu.zeros(self.tiles.positives.n_y(), 1)?;
        out.data_mut().copy_from_slice(beta);
        Ok(out)
    }

    /// Asks for the numbers of what the exceptions of `rows` meet beyond the columns `own`.
    fn met(&self, cpu: &Cpu<T>, rows: Range<usize>, own: &Range<usize>) -> Result<(Vec<u32>, Vec<[f64; 2]>)> {
        let p = &self.tiles.positives;
        let met = rows.flat_map(|i| exceptions_of_row(self.tiles.loss, p, i));
        let mut ids: Vec<u32> = met.filter(|j| !own.contains(j)).map(|j| j as u32).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut numbers = vec![[0.0; 2]; ids.len()];
        cpu.ask(p.n_y(), &ids, &mut numbers, |j, answer| {
            answer.push(self.w.cols.clip(j));
            Ok(())
        })?;
        Ok((ids, numbers))
    }

    /// Clip's numbers of a column that is this rank's, or that its exceptions meet.
    fn column(&self, j: usize) -> [f64; 2] {
        match self.partners.0.binary_search(&(j as u32)) {
            Ok(k) => self.partners.1[k],
            Err(_) => self.w.cols.clip(j),
        }
    }

    /// Whether positives are written into the tiles (all negatives visited) or added on their own.
    pub(super) fn positives_inline(&self) -> bool {
        !self.tiles.plan.is_sampled()
    }

    /// Fills `scratch.tile` with `-S` on the panel's rows and the columns `range`.
    pub(super) fn fill(
        &self,
        panel: &Panel<'_, T>,
        columns: &Columns<'_, T>,
        range: &Range<usize>,
        scratch: &mut Scratch<T>,
        pushes: &mut Vec<T>,
    ) -> Result<()> {
        let (loss, plan, w) = (self.tiles.loss, &self.tiles.plan, self.w);
        let (m, n) = (panel.rows.len(), range.len());
        self.tiles.fill_negatives(panel, columns.z(), range, scratch)?;
        let mut passed = Vec::new();
        let mut of_columns = |held: &'_ [T]| -> Result<Vec<T>> {
            Ok(match &self.passing {
                Some(_) => columns.coefficients(range, &mut passed)?.to_vec(),
                None => held[range.clone()].to_vec(),
            })
        };
        let rows = panel.rows.start - self.first.0..panel.rows.end - self.first.0;
        let scale = T::of(1.0 / loss.tau);
        let tile = &mut scratch.tile;
        match &self.coefficients {
            Coefficients::ClipShifted { alpha, beta } => {
                T::exp_weights(tile, n, m, n, scale, scale, &alpha[rows], &of_columns(beta)?);
            }
            Coefficients::ClipLog { a, b } => {
                T::exp_weights_log(tile, n, m, n, scale, &a[rows], &of_columns(b)?);
            }
            Coefficients::Flat { alpha, beta } => {
                let beta = of_columns(beta)?;
                for (alpha, out) in alpha[rows].iter().zip(tile.chunks_exact_mut(n)) {
                    out.iter_mut().zip(&beta).for_each(|(o, b)| *o = T::of(alpha.as_f64() + b.as_f64()));
                }
                for &(li, lj, _) in &scratch.masked {
                    tile[li * n + lj] = T::default();
                }
            }
            Coefficients::Additive { rows: pushing, cols } => {
                let kind = additive_kind(loss);
                pushes.clear();
                pushes.resize(m * n, T::default());
                for (li, position) in panel.rows.clone().enumerate() {
                    let i = plan.row_id(position);
                    let (s_row, out) = (&tile[li * n..(li + 1) * n], &mut pushes[li * n..(li + 1) * n]);
                    for e in w.positives.row_offset(i)..w.positives.row_offset(i + 1) {
                        let offset = T::of(-loss.nu * w.rows.s_pos[e]);
                        T::additive_weights(kind, s_row, offset, pushing[position], out);
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
                scratch.tile[li * n + lj] = T::of(-w.exception_of(i, j, s.as_f64(), self.column(j)));
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
            self.fill(&panel, columns, &range, &mut scratch, &mut pushes)?;
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
            let alpha = alpha[i - self.first.0].as_f64();
            row.iter_mut().enumerate().for_each(|(k, o)| *o = alpha * sums[k] + sums[d + k]);
            for j in exceptions_of_row(loss, &self.tiles.positives, i) {
                let column = self.column(j);
                let beta = match j.checked_sub(self.first.1).and_then(|k| beta.get(k)) {
                    Some(beta) => *beta,
                    None => T::of(loss.eps_neg * column[1].exp()),
                };
                let weight = -self.w.exception_of(i, j, 0.0, column) - alpha - beta.as_f64();
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
