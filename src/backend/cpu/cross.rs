//! Products `X^T M` over all rows, `d1 x d2`: what panels of rows contribute is added in float64, in the order of the panels.
//!
//! The rows of the product are shared out over the threads in slices: each slice adds its part of one panel after the other, so
//! nothing is left to be added by one thread alone.

use super::Cpu;
use super::gemm::multiply_tn;
use super::matrix::Matrix;
use super::panels::add;
use super::products::{Rows, Values};
use super::simd::product::Right;
use super::tiles::cuts;
use super::unit::{Factor, Unit};
use super::weight_tiles::WeightTiles;
use crate::control::Phase;
use crate::distributed::{Fold, Layout};
use crate::error::Result;
use crate::real::Real;
use crate::similarity::blocks::Stage;
use crate::similarity::schedule::TILE;
use faer::{Mat, MatMut};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a slice.
const SLICE: usize = 32;
/// Rows of a panel that are packed and multiplied together: with all columns they stay in the second cache.
const DEPTH: usize = 256;
/// Columns of a Gram matrix that are packed together: up to so many above the diagonal are computed for nothing.
const WIDTH: usize = 96;

/// Sums of slices over panels.
struct Slices {
    rows: Vec<Range<usize>>,
    folds: Vec<Fold<Vec<f64>>>,
}

impl Slices {
    /// Of a product of `rows` rows; the rank's panels lie in `layout`'s blocks.
    fn new(rows: usize, layout: &Layout) -> Self {
        let rows: Vec<_> = cuts(0..rows, SLICE).collect();
        let folds = rows.iter().map(|_| Fold::new(layout.own_blocks())).collect();
        Self { rows, folds }
    }

    /// Adds the panels' parts in turn: of each its block and what `product(panel, slice, part, scratch)` needs to make the part, as
    /// long as `size(slice)`.
    fn add<T: Real, P: Sync, S: Default>(
        &mut self,
        panels: &[(usize, P)],
        size: impl Fn(&Range<usize>) -> usize + Sync,
        product: impl Fn(&P, &Range<usize>, &mut [T], &mut S) + Sync,
    ) {
        self.folds.par_iter_mut().zip(&self.rows).with_max_len(1).for_each(|(fold, slice)| {
            let (mut part, mut scratch) = (vec![T::default(); size(slice)], S::default());
            for (block, panel) in panels {
                product(panel, slice, &mut part, &mut scratch);
                let mut new = false;
                let first = || {
                    new = true;
                    part.iter().map(|v| v.as_f64()).collect()
                };
                let sum = fold.block(*block, first, add);
                if !new {
                    sum.iter_mut().zip(&part).for_each(|(sum, v)| *sum += v.as_f64());
                }
            }
        });
    }

    /// The sums of every slice over the panels of all ranks. A collective.
    fn finish<T: Real>(
        self,
        cpu: &Cpu<T>,
        size: impl Fn(&Range<usize>) -> usize + Sync,
    ) -> Result<Vec<Vec<f64>>> {
        let Self { rows, folds } = self;
        if cpu.group.is_single() {
            let total = |(fold, slice): (Fold<Vec<f64>>, &Range<usize>)| {
                fold.total(add).unwrap_or_else(|| vec![0.0; size(slice)])
            };
            return Ok(cpu.install(|| folds.into_par_iter().zip(&rows).map(total).collect()));
        }
        let sizes: Vec<usize> = rows.iter().map(size).collect();
        let all = cpu.group.sum(Fold::side_by_side(folds), sizes.iter().sum())?;
        let mut rest = &all[..];
        let mut next = |size: &usize| {
            let (slice, after) = rest.split_at(*size);
            rest = after;
            slice.to_vec()
        };
        Ok(sizes.iter().map(&mut next).collect())
    }
}

/// The right factors of a panel: [`DEPTH`] of its rows after the other.
fn packed<T: Real>(unit: Unit, m: &[T], d: usize) -> Vec<Factor<T>> {
    let pack = |rows: &[T]| {
        let mut factor = Factor::default();
        unit.pack(&mut factor, rows, rows.len() / d, d);
        factor
    };
    m.chunks(DEPTH * d).map(pack).collect()
}

impl<T: Real> Cpu<T> {
    /// `X^T M` of the rows `M` that `fill` makes from zeros, stage by stage.
    pub(super) fn cross_product(
        &self,
        weights: &WeightTiles<'_, T>,
        values: &Values<'_, T>,
        x: &Matrix<T>,
        mut fill: impl FnMut(&Stage, &mut Rows<T>) -> Result<()>,
    ) -> Result<Mat<f64>> {
        let (schedule, unit) = (&weights.tiles.schedule, weights.tiles.unit.of_long_sums());
        let (d1, d2) = (x.cols(), values.cols());
        let layout = self.rows_of(schedule);
        let window = self.row_window(schedule, x)?;
        // Rows that are not in memory are read for few panels at a time.
        let group = if self.all_here(&[x]) { self.together() } else { self.threads() };
        let mut sums = Slices::new(d1, &layout);
        for stage in self.stages(weights, values) {
            let mut rows = Rows::zeros(schedule, &stage, d2);
            fill(&stage, &mut rows)?;
            if d1 == 0 || d2 == 0 {
                continue;
            }
            for (g, sy) in rows.sums.chunks(group).enumerate() {
                let first = rows.panels.start + g * group;
                let mut gathered = vec![Vec::new(); sy.len()];
                self.install(|| {
                    let panels: Result<Vec<_>> =
                        (gathered.par_iter_mut().zip(sy).enumerate().with_max_len(1))
                            .map(|(k, (scratch, sy))| {
                                let rows = schedule.panel(first + k);
                                let block = rows.start / layout.block();
                                Ok((block, (window.get(&rows, scratch)?, packed(unit, sy, d2))))
                            })
                            .collect();
                    let size = |slice: &Range<usize>| slice.len() * d2;
                    sums.add(&panels?, size, |(x, sy): &(&[T], Vec<Factor<T>>), slice, part, scratch| {
                        for (k, sy) in sy.iter().enumerate() {
                            let x = (&x[k * DEPTH * d1 + slice.start..], d1);
                            unit.multiply_transposed(k > 0, part, d2, x, slice.len(), sy, scratch);
                        }
                    });
                    Ok(())
                })?;
            }
        }
        let (rows, c) = (sums.rows.clone(), sums.finish(self, |slice| slice.len() * d2)?);
        let mut out = Mat::zeros(d1, d2);
        let mut pieces: Vec<MatMut<'_, f64>> = Vec::new();
        let mut rest = out.as_mut();
        for slice in rows {
            let (piece, after) = rest.split_at_row_mut(slice.len());
            pieces.push(piece);
            rest = after;
        }
        self.install(|| {
            pieces.into_par_iter().zip(&c).with_max_len(1).for_each(|(mut out, c)| {
                for j in 0..d2 {
                    for i in 0..out.nrows() {
                        out[(i, j)] = c[i * d2 + j];
                    }
                }
            });
        });
        Ok(out)
    }

    /// `X^T X`. Up to rounding it is symmetric: what is above the diagonal is not computed.
    pub(super) fn gram_matrix(&self, x: &Matrix<T>) -> Result<Mat<f64>> {
        let (d, layout) = (x.cols(), self.layout(x.rows(), TILE));
        let own = layout.own();
        let group = if self.all_here(&[x]) { self.together() } else { self.threads() };
        // The columns of a slice's packed right factors: up to its last row.
        let columns = |slice: &Range<usize>| slice.end.next_multiple_of(WIDTH).min(d);
        let size = |slice: &Range<usize>| slice.len() * columns(slice);
        let mut sums = Slices::new(d, &layout);
        let starts: Vec<usize> = own.clone().step_by(TILE).collect();
        let of = starts.len();
        for (g, starts) in starts.chunks(group).enumerate() {
            let mut gathered = vec![Vec::new(); starts.len()];
            self.install(|| {
                let panels: Result<Vec<_>> = (gathered.par_iter_mut().zip(starts).with_max_len(1))
                    .map(|(scratch, &start)| {
                        let rows = start..(start + TILE).min(own.end);
                        let x = x.panel(&rows, scratch)?;
                        let pack = |columns: Range<usize>| {
                            let mut right = Right::default();
                            right.pack(&x[columns.start..], d, rows.len(), columns.len());
                            right
                        };
                        let packed: Vec<Right<T>> = cuts(0..d, WIDTH).map(pack).collect();
                        Ok((start / layout.block(), (x, packed)))
                    })
                    .collect();
                sums.add(&panels?, size, |(x, packed): &(&[T], Vec<Right<T>>), slice, part, slices| {
                    let (width, x) = (columns(slice), (&x[slice.start..], d));
                    multiply_tn(false, part, width, slice.len(), x, &packed[..width.div_ceil(WIDTH)], slices);
                });
                Ok(())
            })?;
            self.report(Phase::Features, ((g + 1) * group).min(of), of)?;
        }
        let sums = sums.finish(self, size)?;
        let entry = |i: usize, j: usize| {
            let slice = i / SLICE * SLICE..(i / SLICE * SLICE + SLICE).min(d);
            sums[i / SLICE][(i - slice.start) * columns(&slice) + j]
        };
        let mut out = Mat::zeros(d, d);
        let mut pieces: Vec<(usize, MatMut<'_, f64>)> = Vec::new();
        let mut rest = out.as_mut();
        for slice in cuts(0..d, SLICE) {
            let (piece, after) = rest.split_at_col_mut(slice.len());
            pieces.push((slice.start, piece));
            rest = after;
        }
        self.install(|| {
            pieces.into_par_iter().with_max_len(1).for_each(|(first, mut out)| {
                for i in 0..d {
                    for j in 0..out.ncols() {
                        out[(i, j)] = entry(i.max(first + j), i.min(first + j));
                    }
                }
            });
        });
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;
    use crate::io::HostMatrix;

    #[test]
    fn gram_matrices_of_many_panels_are_the_sums_of_products() {
        // More panels than are ready together, the last one ragged; slices and packed columns with edges.
        for (n, d) in [(8 * TILE + 300, 33), (700, 131), (5, 3)] {
            let values: Vec<f32> = (0..n * d).map(|i| (i as f32 * 0.37).sin()).collect();
            let source = HostMatrix::from_f32("x", n, d, values.clone()).unwrap();
            let gram = |threads: usize| {
                let cpu = Cpu::<f64>::new(threads).unwrap();
                let x = cpu.load(&source).unwrap();
                cpu.gram(&x).unwrap()
            };
            let (one, three) = (gram(1), gram(3));
            for i in 0..d {
                for j in 0..d {
                    let product = |k: usize| f64::from(values[k * d + i]) * f64::from(values[k * d + j]);
                    let wanted: f64 = (0..n).map(product).sum();
                    // Sums of n products of at most 1, in two orders.
                    assert!(
                        (one[(i, j)] - wanted).abs() <= (n * n) as f64 * f64::EPSILON,
                        "{n} {d}: {i} {j}"
                    );
                    assert_eq!(one[(i, j)].to_bits(), three[(i, j)].to_bits());
                    assert_eq!(one[(i, j)].to_bits(), one[(j, i)].to_bits());
                }
            }
        }
    }
}
