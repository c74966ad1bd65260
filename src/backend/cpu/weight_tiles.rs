//! `-S` a tile at a time: similarities made again and turned into weights, and the masked entries that tiles leave out.

use super::Cpu;
use super::family::{self, Asked, STRIP};
use super::matrix::Matrix;
use super::simd::AdditiveKind;
use super::tiles::{Panel, Scratch, Tiles, cuts, packed_anew, product};
use super::unit::{Factor, Rows};
use super::window::{Columns, Lookup, Window};
use crate::error::Result;
use crate::real::Real;
use crate::similarity::Weights;
use crate::similarity::coefficients::Coefficients as Wide;
use crate::similarity::masked::masked_of_row;
use std::ops::Range;
use std::sync::Arc;

/// The [coefficients](Wide) of the weights in the tiles' number type.
pub(super) enum Coefficients<T> {
    ClipShifted { alpha: Vec<T>, beta: Vec<T> },
    ClipLog { a: Vec<T>, b: Vec<T> },
    Additive { c: Vec<T>, d: Vec<T> },
    Family { c: Vec<f64>, d: Vec<f64> },
    Flat { alpha: Vec<T>, beta: Vec<T> },
}

impl<T: Real> Coefficients<T> {
    fn of(wide: Wide) -> Self {
        let cast = |v: Vec<f64>| v.into_iter().map(T::of).collect();
        match wide {
            Wide::ClipShifted { alpha, beta } => Self::ClipShifted { alpha: cast(alpha), beta: cast(beta) },
            Wide::ClipLog { a, b } => Self::ClipLog { a: cast(a), b: cast(b) },
            Wide::Additive { c, d } => Self::Additive { c: cast(c), d: cast(d) },
            Wide::Family { c, d } => Self::Family { c, d },
            Wide::Flat { alpha, beta } => Self::Flat { alpha: cast(alpha), beta: cast(beta) },
        }
    }
}

/// Buffers of one worker.
pub(super) struct WeightScratch<T> {
    pub(super) tiles: Scratch<T>,
    /// The columns' coefficients; of additive losses layer by layer, with the offsets.
    columns: Vec<T>,
    layers: Vec<(Vec<T>, Vec<T>)>,
    /// The same of a psi of one's own.
    family_layers: Vec<family::Layer>,
    /// Sums of weights on their way.
    sums: Vec<T>,
    wide_sums: Vec<f64>,
    asked: Asked,
    /// The weights and the columns' values, packed, and the values before.
    pub(super) weights: Rows,
    values: Arc<Factor<T>>,
    gathered: Vec<T>,
}

impl<T> Default for WeightScratch<T> {
    fn default() -> Self {
        let (columns, layers, sums, gathered) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (weights, values) = (Rows::default(), Arc::default());
        let (family_layers, wide_sums, asked) = (Vec::new(), Vec::new(), Asked::default());
        let tiles = Scratch::default();
        Self { tiles, columns, layers, family_layers, sums, wide_sums, asked, weights, values, gathered }
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
        let zx = cpu.row_embeddings(tiles)?;
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
        let mut out = cpu.zeros(self.tiles.positives.n_y(), 1)?;
        match &self.coefficients {
            Coefficients::ClipShifted { beta, .. }
            | Coefficients::ClipLog { b: beta, .. }
            | Coefficients::Additive { d: beta, .. }
            | Coefficients::Flat { beta, .. } => out.data_mut().copy_from_slice(beta),
            Coefficients::Family { d, .. } => {
                out.data_mut().iter_mut().zip(d).for_each(|(o, d)| *o = T::of(*d));
            }
        }
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

    /// Whether psi is the user's own: it is asked about as many entries at once as a tile has.
    fn is_family(&self) -> bool {
        matches!(self.coefficients, Coefficients::Family { .. })
    }

    /// Rows whose weights are made together.
    pub(super) fn strip(&self) -> usize {
        if self.is_family() { STRIP } else { self.tiles.unit.strip() }
    }

    /// Parts of a tile's columns whose weights are multiplied together: they stay in the second cache with their values.
    pub(super) fn parts(&self, range: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<T> {
        let Range { start, end } = range;
        cuts(range, if self.is_family() { (end - start).max(1) } else { self.tiles.unit.part() })
    }

    /// Makes the column positions `range` those that [`fill`](Self::fill) makes weights of.
    pub(super) fn take_columns(
        &self,
        columns: &Columns<'_, T>,
        range: &Range<usize>,
        scratch: &mut WeightScratch<T>,
    ) -> Result<()> {
        self.tiles.take_columns(columns, range, &mut scratch.tiles)?;
        let mut passed = Vec::new();
        let mut of_columns = |held: &[T]| -> Result<Vec<T>> {
            Ok(match &self.passing {
                Some(_) => columns.coefficients(range, &mut passed)?.to_vec(),
                None => held[range.clone()].to_vec(),
            })
        };
        match &self.coefficients {
            Coefficients::ClipShifted { beta, .. } | Coefficients::Flat { beta, .. } => {
                scratch.columns = of_columns(beta)?;
            }
            Coefficients::ClipLog { b, .. } => scratch.columns = of_columns(b)?,
            Coefficients::Family { d, .. } => {
                scratch.family_layers = family::layers(self.tiles, self.w, range, d);
            }
            Coefficients::Additive { d, .. } => {
                let schedule = &self.tiles.schedule;
                let layers = self.tiles.column_layers(range, &self.w.cols.s_pos, T::default()).enumerate();
                let coefficient = |layer: usize, position: usize| {
                    let has = layer < self.w.positives.col(schedule.col_id(position)).len();
                    if has { d[position] } else { T::default() }
                };
                let with_coefficients = |(layer, offsets): (usize, Vec<T>)| {
                    (offsets, range.clone().map(|position| coefficient(layer, position)).collect())
                };
                scratch.layers = layers.map(with_coefficients).collect();
            }
        }
        Ok(())
    }

    /// Fills `scratch.tiles.tile` with `-S` on a strip of the panel's rows and the [columns](Self::take_columns) `range`.
    pub(super) fn fill(
        &self,
        panel: &Panel<'_, T>,
        strip: &Range<usize>,
        range: &Range<usize>,
        scratch: &mut WeightScratch<T>,
    ) -> Result<()> {
        let (loss, schedule, w) = (self.tiles.loss, &self.tiles.schedule, self.w);
        let (m, n) = (strip.len(), range.len());
        let WeightScratch { tiles, columns, layers, family_layers, sums, wide_sums, asked, .. } = scratch;
        self.tiles.fill_negatives(panel, strip, range, tiles)?;
        let positions = panel.rows.start + strip.start..panel.rows.start + strip.end;
        let rows = positions.start - self.first.0..positions.end - self.first.0;
        let scale = T::of(1.0 / loss.tau);
        let tile = &mut tiles.tile;
        match &self.coefficients {
            Coefficients::ClipShifted { alpha, .. } => {
                T::exp_weights(tile, n, m, n, scale, scale, &alpha[rows], columns);
            }
            Coefficients::ClipLog { a, .. } => T::exp_weights_log(tile, n, m, n, scale, &a[rows], columns),
            Coefficients::Flat { alpha, .. } => {
                for (alpha, out) in alpha[rows].iter().zip(tile.chunks_exact_mut(n)) {
                    let alpha = alpha.as_f64();
                    out.iter_mut().zip(&*columns).for_each(|(o, b)| *o = T::of(alpha + b.as_f64()));
                }
                for &(li, lj, _) in &tiles.masked {
                    tile[li * n + lj] = T::default();
                }
            }
            Coefficients::Family { c, .. } => {
                let custom = loss.own()?.ok_or_else(|| loss.without_family())?;
                let buffers = (wide_sums, asked);
                family::fill(custom, self.tiles, w, (&positions, c), family_layers, tile, buffers)?;
            }
            Coefficients::Additive { c, .. } => {
                let kind = AdditiveKind::of(loss);
                sums.clear();
                sums.resize(m * n, T::default());
                for (li, position) in positions.clone().enumerate() {
                    let i = schedule.row_id(position);
                    let (s_row, out) = (&tile[li * n..(li + 1) * n], &mut sums[li * n..(li + 1) * n]);
                    for e in w.positives.row_offset(i)..w.positives.row_offset(i + 1) {
                        let offset = T::of(-loss.nu * w.rows.s_pos[e]);
                        T::additive_weights(kind, s_row, offset, c[position], out);
                    }
                }
                for (offsets, coefficients) in layers {
                    T::additive_col_weights(kind, tile, n, m, n, offsets, coefficients, sums, n);
                }
                std::mem::swap(tile, sums);
            }
        }
        if self.masked_inline() {
            for &(li, lj, s) in &tiles.masked {
                let (i, j) = (schedule.row_id(positions.start + li), schedule.col_id(range.start + lj));
                tile[li * n + lj] = T::of(-w.masked_entry_of(i, j, s.as_f64(), self.column(j)));
            }
        }
        Ok(())
    }

    /// Adds `-S V` of one panel of rows over some of the columns to `out` (`rows x d`, row-major).
    pub(super) fn add_tiles(&self, p: usize, columns: &Columns<'_, T>, out: &mut [T]) -> Result<()> {
        let (mut rows_z, mut scratch) = (Vec::new(), WeightScratch::default());
        let panel = self.tiles.panel(p, self.zx.as_ref(), &mut rows_z)?;
        for range in self.tiles.schedule.tiles_in(p, &columns.range).flat_map(|range| self.parts(range)) {
            self.add_part(&panel, columns, &range, &mut scratch, out, |_| ())?;
        }
        Ok(())
    }

    /// The same over one [part](Self::parts) of a tile's columns; `seen` is shown the weights of every strip of rows in turn.
    pub(super) fn add_part(
        &self,
        panel: &Panel<'_, T>,
        columns: &Columns<'_, T>,
        range: &Range<usize>,
        scratch: &mut WeightScratch<T>,
        out: &mut [T],
        mut seen: impl FnMut(&[T]),
    ) -> Result<()> {
        let (unit, n, d) = (self.tiles.unit, range.len(), out.len() / panel.rows.len().max(1));
        self.take_columns(columns, range, scratch)?;
        match columns.ready.and_then(|ready| ready.values(range)) {
            Some(ready) => scratch.values = ready,
            None => {
                let values = columns.values(range, &mut scratch.gathered)?;
                packed_anew(&mut scratch.values, |out| unit.pack(out, values, n, d));
            }
        }
        for strip in panel.strips(self.strip()) {
            self.fill(panel, &strip, range, scratch)?;
            let weights = &scratch.tiles.tile[..strip.len() * n];
            seen(weights);
            unit.pack_rows(&mut scratch.weights, weights, strip.len(), n);
            let weights = scratch.weights.of(weights, n, 0..strip.len());
            unit.multiply(true, &mut out[strip.start * d..], d, weights, &scratch.values);
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
