//! `-S` a tile at a time: similarities made again and turned into weights, and the masked entries that tiles leave out.

use super::Cpu;
use super::gemm::gemm_nn;
use super::matrix::Matrix;
use super::ranks::{Columns, Lookup, Window};
use super::simd::AdditiveKind;
use super::sums::ColumnLayers;
use super::tiles::{Panel, Scratch, Tiles, product};
use crate::error::Result;
use crate::loss::{Loss, LossKind};
use crate::real::Real;
use crate::similarity::Weights;
use crate::similarity::coefficients::Coefficients as Wide;
use crate::similarity::masked::masked_of_row;
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

/// The [coefficients](Wide) of the weights in the tiles' number type.
pub(super) enum Coefficients<T> {
    ClipShifted { alpha: Vec<T>, beta: Vec<T> },
    ClipLog { a: Vec<T>, b: Vec<T> },
    Additive { c: Vec<T>, d: Vec<T> },
    Flat { alpha: Vec<T>, beta: Vec<T> },
}

impl<T: Real> Coefficients<T> {
    fn of(wide: Wide) -> Self {
        let cast = |v: Vec<f64>| v.into_iter().map(T::of).collect();
        match wide {
            Wide::ClipShifted { alpha, beta } => Self::ClipShifted { alpha: cast(alpha), beta: cast(beta) },
            Wide::ClipLog { a, b } => Self::ClipLog { a: cast(a), b: cast(b) },
            Wide::Additive { c, d } => Self::Additive { c: cast(c), d: cast(d) },
            Wide::Flat { alpha, beta } => Self::Flat { alpha: cast(alpha), beta: cast(beta) },
        }
    }
}

/// `-S` as tiles.
pub(crate) struct WeightTiles<'a, T: Real> {
    pub(super) tiles: &'a Tiles<'a, T>,
    pub(super) w: &'a Weights,
    /// By position: of all rows and columns, or of this rank's where the weights are [shared out](Weights::share).
    pub(super) coefficients: Coefficients<T>,
    /// The embeddings of this rank's rows, where similarities come from any.
    pub(super) zx: Option<Window<'a, T>>,
    /// The first row and column that have coefficients here.
    pub(super) first: (usize, usize),
    /// The columns' coefficients of all ranks, where each has its own: they come past with the columns.
    pub(super) passing: Option<Matrix<T>>,
    /// Columns of other ranks that this rank's masked entries meet, ascending, and clip's numbers of them.
    partners: (Vec<u32>, Vec<[f64; 2]>),
}

impl<'a, T: Real> WeightTiles<'a, T> {
    /// A collective.
    pub(super) fn new(
        cpu: &Cpu<T>,
        tiles: &'a Tiles<'a, T>,
        w: &'a Weights,
        coefficients: Wide,
        (rows, cols): (Range<usize>, Range<usize>),
    ) -> Result<Self> {
        let first = (rows.start, cols.start);
        let zx = match tiles.source.embeddings() {
            Some((zx, _)) => Some(cpu.row_window(&tiles.schedule, zx)?),
            None => None,
        };
        let coefficients = Coefficients::of(coefficients);
        let mut out =
            Self { tiles, w, coefficients, zx, first, passing: None, partners: (Vec::new(), Vec::new()) };
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
        | Coefficients::Additive { d: beta, .. }
        | Coefficients::Flat { beta, .. }) = &self.coefficients;
        let mut out = cpu.zeros(self.tiles.positives.n_y(), 1)?;
        out.data_mut().copy_from_slice(beta);
        Ok(out)
    }

    /// Asks for the numbers of what the masked entries of `rows` meet beyond the columns `own`.
    fn met(&self, cpu: &Cpu<T>, rows: Range<usize>, own: &Range<usize>) -> Result<(Vec<u32>, Vec<[f64; 2]>)> {
        let p = &self.tiles.positives;
        let met = rows.flat_map(|i| masked_of_row(self.tiles.loss, p, i));
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

    /// Clip's numbers of a column that is this rank's, or that its masked entries meet.
    fn column(&self, j: usize) -> [f64; 2] {
        match self.partners.0.binary_search(&(j as u32)) {
            Ok(k) => self.partners.1[k],
            Err(_) => self.w.cols.clip(j),
        }
    }

    /// Whether masked entries are written into the tiles (all negatives visited) or added on their own.
    pub(super) fn masked_inline(&self) -> bool {
        !self.tiles.schedule.is_sampled()
    }

    /// Fills `scratch.tile` with `-S` on the panel's rows and the columns `range`.
    pub(super) fn fill(
        &self,
        panel: &Panel<'_, T>,
        columns: &Columns<'_, T>,
        range: &Range<usize>,
        scratch: &mut Scratch<T>,
        weights: &mut Vec<T>,
    ) -> Result<()> {
        let (loss, schedule, w) = (self.tiles.loss, &self.tiles.schedule, self.w);
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
            Coefficients::Additive { c, d } => {
                let kind = additive_kind(loss);
                weights.clear();
                weights.resize(m * n, T::default());
                for (li, position) in panel.rows.clone().enumerate() {
                    let i = schedule.row_id(position);
                    let (s_row, out) = (&tile[li * n..(li + 1) * n], &mut weights[li * n..(li + 1) * n]);
                    for e in w.positives.row_offset(i)..w.positives.row_offset(i + 1) {
                        let offset = T::of(-loss.nu * w.rows.s_pos[e]);
                        T::additive_weights(kind, s_row, offset, c[position], out);
                    }
                }
                for (layer, offsets) in ColumnLayers::new(self.tiles, range, &w.cols.s_pos) {
                    let coeff = |position: usize| {
                        let has = layer < w.positives.col(schedule.col_id(position)).len();
                        if has { d[position] } else { T::default() }
                    };
                    let coeff: Vec<T> = range.clone().map(coeff).collect();
                    T::additive_col_weights(kind, tile, n, m, n, &offsets, &coeff, weights, n);
                }
                std::mem::swap(tile, weights);
            }
        }
        if self.masked_inline() {
            for &(li, lj, s) in &scratch.masked {
                let (i, j) = (schedule.row_id(panel.rows.start + li), schedule.col_id(range.start + lj));
                scratch.tile[li * n + lj] = T::of(-w.masked_entry_of(i, j, s.as_f64(), self.column(j)));
            }
        }
        Ok(())
    }

    /// Adds `-S V` of one panel of rows over some of the columns to `out` (`rows x d`, row-major).
    pub(super) fn add_tiles(&self, p: usize, columns: &Columns<'_, T>, out: &mut [T]) -> Result<()> {
        let (mut rows_z, mut scratch, mut weights) = (Vec::new(), Scratch::default(), Vec::new());
        let panel = self.tiles.panel(p, self.zx.as_ref(), &mut rows_z)?;
        let (m, mut gathered) = (panel.rows.len(), Vec::new());
        let d = out.len() / m.max(1);
        for range in self.tiles.schedule.tiles_in(p, &columns.range) {
            self.fill(&panel, columns, &range, &mut scratch, &mut weights)?;
            let n = range.len();
            let v = columns.values(&range, &mut gathered)?;
            gemm_nn(m, d, n, T::of(1.0), out, d, T::of(1.0), &scratch.tile, n, v, d);
        }
        Ok(())
    }

    /// `-S V` on a panel of rows when all similarities are 0: `-S` is `alpha 1^T + 1 beta^T` off the masked entries. `sums` are
    /// `sum_j v_j` and `sum_j beta_j v_j`.
    pub(super) fn add_flat(
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
            for j in masked_of_row(loss, &self.tiles.positives, i) {
                let column = self.column(j);
                let beta = match j.checked_sub(self.first.1).and_then(|k| beta.get(k)) {
                    Some(beta) => *beta,
                    None => T::of(loss.eps_neg * column[1].exp()),
                };
                let weight = -self.w.masked_entry_of(i, j, 0.0, column) - alpha - beta.as_f64();
                row.iter_mut().zip(v.row(j, &mut scratch)?).for_each(|(o, v)| *o += weight * v.as_f64());
            }
            out.iter_mut().zip(&row).for_each(|(out, &o)| *out = T::of(o));
        }
        Ok(())
    }
}

/// What the masked entries of some rows need where tiles leave them out: the columns' embeddings and values.
pub(super) struct MaskedRows<'a, T: Real> {
    w: &'a Weights,
    z: Option<Lookup<'a, T>>,
    v: Lookup<'a, T>,
}

impl<'a, T: Real> MaskedRows<'a, T> {
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
                masked_of_row(tiles.loss, &tiles.positives, tiles.schedule.row_id(position))
            })
        };
        let z = match tiles.source.embeddings() {
            Some((_, zy)) => Some(cpu.lookup(zy, wanted())?),
            None => None,
        };
        Ok(Self { w, z, v: cpu.lookup(v, wanted())? })
    }

    /// Adds `-S_ij v_j` of the masked entries of the row positions `rows`, whose embeddings `z` are.
    pub(super) fn add(&self, tiles: &Tiles<'_, T>, rows: Range<usize>, z: &[T], out: &mut [T]) -> Result<()> {
        let d = out.len() / rows.len().max(1);
        let r = z.len() / rows.len().max(1);
        let (mut z_row, mut v_row) = (Vec::new(), Vec::new());
        for (li, position) in rows.enumerate() {
            let i = tiles.schedule.row_id(position);
            for j in masked_of_row(tiles.loss, &tiles.positives, i) {
                let s = match (&self.z, &tiles.source) {
                    (Some(zy), _) => product(&z[li * r..(li + 1) * r], zy.row(j, &mut z_row)?),
                    (None, source) => source.entry(i, j)?,
                };
                let weight = T::of(-self.w.masked_entry(i, j, s));
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
