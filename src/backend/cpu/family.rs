//! Losses of one's own on tiles: psi of every pair and every negative of its anchor, evaluated in blocks of arguments.
//!
//! An entry of a tile is asked about once for every positive of its row, and once for every positive of its column. Arguments
//! are gathered until a block of them is full; what the function answers is scattered again. All of it is float64.

use super::sums::Sums;
use super::tiles::Tiles;
use crate::error::Result;
use crate::loss::{BLOCK, Custom, Values};
use crate::real::Real;
use crate::similarity::Weights;
use crate::similarity::blocks::BothSides;
use crate::similarity::schedule::TILE;
use std::ops::Range;

/// Rows of a tile that are visited together: enough for a good part of a block.
pub(super) const STRIP: usize = 64;

/// Arguments on their way to a function, and its answers.
#[derive(Default)]
pub(super) struct Asked {
    at: Vec<f64>,
    answers: Values,
}

impl Asked {
    /// Asks about the arguments that `gather` adds for each item, a block at a time; `scatter` sees the item with its values
    /// and derivatives.
    fn about<I: Copy>(
        &mut self,
        custom: &Custom,
        items: impl Iterator<Item = I>,
        gather: impl Fn(I, &mut Vec<f64>),
        mut scatter: impl FnMut(I, &[f64], &[f64]),
    ) -> Result<()> {
        let Self { at, answers } = self;
        let mut waiting: Vec<(I, usize)> = Vec::new();
        let mut items = items.peekable();
        let mut longest = 0;
        at.clear();
        while let Some(item) = items.next() {
            let before = at.len();
            gather(item, at);
            waiting.push((item, at.len() - before));
            longest = longest.max(at.len() - before);
            // Another item as long as any so far must not take a call beyond a block.
            if at.len() + longest <= BLOCK && items.peek().is_some() {
                continue;
            }
            custom.psi(at, answers)?;
            let (mut value, mut derivative) = (&answers.value[..], &answers.derivative[..]);
            for (item, count) in waiting.drain(..) {
                let ((v, rest), (d, others)) = (value.split_at(count), derivative.split_at(count));
                scatter(item, v, d);
                (value, derivative) = (rest, others);
            }
            at.clear();
        }
        Ok(())
    }
}

/// The `t`-th positives of a tile's columns: `-nu s` of each, NaN where a column has fewer, and its coefficient.
pub(super) struct Layer {
    offsets: Vec<f64>,
    coefficients: Vec<f64>,
}

/// Whether an entry of a tile is a negative: others hold -inf.
fn is_negative<T: Real>(s: T) -> bool {
    s.as_f64() != f64::NEG_INFINITY
}

/// The arguments of a row's negatives against the positive of its anchor whose offset is given.
fn gather_row<T: Real>(s: &[T], offset: f64, at: &mut Vec<f64>) {
    at.extend(s.iter().filter(|s| is_negative(**s)).map(|s| s.as_f64() + offset));
}

/// The columns of a row's negatives that have a positive in a layer.
fn asked_columns<'a, T: Real>(s: &'a [T], layer: &'a [f64]) -> impl Iterator<Item = usize> + 'a {
    let wanted = |(s, offset): (&T, &f64)| is_negative(*s) && !offset.is_nan();
    s.iter().zip(layer).map(wanted).enumerate().filter_map(|(j, wanted)| wanted.then_some(j))
}

/// `sum psi(s_ij - nu s_ik)` and of psi' for every pair of rows and of columns.
pub(super) struct OfFamily<'a, T: Real> {
    pub(super) tiles: &'a Tiles<'a, T>,
    pub(super) s: BothSides<&'a [f64]>,
    pub(super) custom: &'a Custom,
}

impl<T: Real> OfFamily<'_, T> {
    fn pairs_of_row(&self, position: usize) -> Range<usize> {
        let (p, i) = (&self.tiles.positives, self.tiles.schedule.row_id(position));
        p.row_offset(i)..p.row_offset(i + 1)
    }
}

/// Offsets of a layer of columns, and the sums of psi and psi' against them.
pub(super) struct LayerSums {
    offsets: Vec<f64>,
    psi: Vec<f64>,
    dpsi: Vec<f64>,
}

impl<T: Real> Sums<T> for OfFamily<'_, T> {
    type Row = Vec<(f64, f64)>;
    type Columns = (Vec<LayerSums>, Asked);

    fn strip(&self, _: usize) -> usize {
        STRIP
    }

    /// All columns of a tile: the more arguments a call has, the fewer calls.
    fn part(&self, _: usize) -> usize {
        TILE
    }

    fn row(&self, position: usize) -> Vec<(f64, f64)> {
        vec![(0.0, 0.0); self.pairs_of_row(position).len()]
    }

    fn columns(&self, positions: &Range<usize>) -> Self::Columns {
        let zeros = || vec![0.0; positions.len()];
        let layers = self.tiles.column_layers(positions, self.s[1], f64::NAN);
        (layers.map(|offsets| LayerSums { offsets, psi: zeros(), dpsi: zeros() }).collect(), Asked::default())
    }

    fn visit(
        &self,
        tile: &[T],
        rows: Range<usize>,
        sums: &mut [Self::Row],
        (layers, asked): &mut Self::Columns,
    ) -> Result<()> {
        let n = tile.len() / rows.len().max(1);
        let row = |li: usize| &tile[li * n..(li + 1) * n];
        let pairs = |li: usize| self.pairs_of_row(rows.start + li).enumerate().map(move |(k, e)| (li, k, e));
        let nu = self.tiles.loss.nu;
        asked.about(
            self.custom,
            (0..rows.len()).flat_map(pairs),
            |(li, _, e), at| gather_row(row(li), -nu * self.s[0][e], at),
            |(li, k, _), psi, dpsi| {
                let sum = &mut sums[li][k];
                *sum = (sum.0 + psi.iter().sum::<f64>(), sum.1 + dpsi.iter().sum::<f64>());
            },
        )?;
        for LayerSums { offsets, psi, dpsi } in layers {
            asked.about(
                self.custom,
                0..rows.len(),
                |li, at| {
                    at.extend(asked_columns(row(li), offsets).map(|j| row(li)[j].as_f64() + offsets[j]));
                },
                |li, values, derivatives| {
                    let answers = values.iter().zip(derivatives);
                    for (j, (v, d)) in asked_columns(row(li), offsets).zip(answers) {
                        psi[j] += v;
                        dpsi[j] += d;
                    }
                },
            )?;
        }
        Ok(())
    }

    /// Of every pair of the row in turn: psi, psi'.
    fn finish_row(&self, row: Self::Row) -> impl Iterator<Item = f64> {
        row.into_iter().flat_map(|(psi, dpsi)| [psi, dpsi])
    }

    /// The same of the columns.
    fn finish(&self, positions: &Range<usize>, (layers, _): Self::Columns) -> Vec<f64> {
        let pairs = |j: usize| self.tiles.positives.col(self.tiles.schedule.col_id(j)).len();
        let of_column = |(local, j): (usize, usize)| {
            layers.iter().take(pairs(j)).flat_map(move |layer| [layer.psi[local], layer.dpsi[local]])
        };
        positions.clone().enumerate().flat_map(of_column).collect()
    }
}

/// The layers of a tile's columns with their coefficients `d_j phi'(u_lj)`, the `d` by position.
pub(super) fn layers<T: Real>(
    tiles: &Tiles<'_, T>,
    w: &Weights,
    range: &Range<usize>,
    d: &[f64],
) -> Vec<Layer> {
    let pair = |layer: usize, position: usize| {
        let j = tiles.schedule.col_id(position);
        (layer < w.positives.col(j).len()).then(|| w.positives.col_offset(j) + layer)
    };
    let with_coefficients = |(layer, offsets): (usize, Vec<f64>)| {
        let of = |position: usize| pair(layer, position).map_or(0.0, |e| d[position] * w.cols.dphi[e]);
        Layer { offsets, coefficients: range.clone().map(of).collect() }
    };
    tiles.column_layers(range, &w.cols.s_pos, f64::NAN).enumerate().map(with_coefficients).collect()
}

/// Turns the similarities of a tile's negatives into their weights `-S`; masked entries become 0. `positions` are the rows',
/// and `c` has their coefficients by position; `sums` and `asked` are buffers.
pub(super) fn fill<T: Real>(
    custom: &Custom,
    tiles: &Tiles<'_, T>,
    w: &Weights,
    (positions, c): (&Range<usize>, &[f64]),
    layers: &[Layer],
    tile: &mut [T],
    (sums, asked): (&mut Vec<f64>, &mut Asked),
) -> Result<()> {
    let n = tile.len() / positions.len().max(1);
    sums.clear();
    sums.resize(tile.len(), 0.0);
    {
        let tile = &*tile;
        let row = |li: usize| &tile[li * n..(li + 1) * n];
        let pairs = |li: usize| {
            let i = tiles.schedule.row_id(positions.start + li);
            (w.positives.row_offset(i)..w.positives.row_offset(i + 1)).map(move |e| (li, e))
        };
        let nu = tiles.loss.nu;
        asked.about(
            custom,
            (0..positions.len()).flat_map(pairs),
            |(li, e), at| gather_row(row(li), -nu * w.rows.s_pos[e], at),
            |(li, e), _, dpsi| {
                let coefficient = c[positions.start + li] * w.rows.dphi[e];
                let mut dpsi = dpsi.iter();
                for (sum, _) in sums[li * n..].iter_mut().zip(row(li)).filter(|(_, s)| is_negative(**s)) {
                    *sum += coefficient * dpsi.next().copied().unwrap_or(0.0);
                }
            },
        )?;
        for Layer { offsets, coefficients } in layers {
            asked.about(
                custom,
                0..positions.len(),
                |li, at| {
                    at.extend(asked_columns(row(li), offsets).map(|j| row(li)[j].as_f64() + offsets[j]));
                },
                |li, _, dpsi| {
                    for (j, dpsi) in asked_columns(row(li), offsets).zip(dpsi) {
                        sums[li * n + j] += coefficients[j] * dpsi;
                    }
                },
            )?;
        }
    }
    tile.iter_mut().zip(&*sums).for_each(|(out, sum)| *out = T::of(*sum));
    Ok(())
}
