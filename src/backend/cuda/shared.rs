//! Pass 2 over several ranks: each has its rows of `S`, and the values of the columns come past in pieces.

use super::blas::Operand;
use super::contract::{BLOCK, Dense, inverse};
use super::grid::{Entries, exceptions};
use super::matrix::{Data, Matrix, PANEL, Panels, panels_of};
use super::memory::Buffer;
use super::negatives::PanelRoom;
use super::pieces::Pieces;
use super::ranks::PIECE;
use super::rows::{AddEntries, EntryValues, Rows};
use super::values::Values;
use super::{Cuda, Phase};
use crate::backend::Similarity;
use crate::error::{Error, Result};
use crate::weights::Weights;
use faer::Mat;
use std::ops::Range;

impl Cuda {
    /// `S V` on this rank's row positions, `V` shared out; `transposed` as in [`contract`](Self::contract). The embeddings
    /// are those of all ranks.
    fn share_of_product(
        &self,
        dense: &Dense<'_>,
        value: &(dyn Fn(usize, usize) -> f64 + Sync),
        w: &Weights,
        v: &Matrix,
    ) -> Result<Buffer<f32>> {
        let (p, d, device) = (&w.positives, v.cols(), &self.device);
        let own = match dense {
            Dense::Negatives(negatives) => negatives.grid.own.clone(),
            Dense::Flat { .. } => self.layout(p.n_x()).own(),
        };
        let out = device.alloc::<f32>(own.len() * d, "this rank's rows of S V")?;
        device.zero(out.view())?;
        let mut unit = 1.0;
        match dense {
            Dense::Flat { alpha, .. } => {
                if let Some(sums) = self.flat_sums(dense, v)? {
                    let sums = self.sum_on_device(sums.view())?;
                    let sums = device.upload(&sums, "column sums")?;
                    device.flat_rows(
                        alpha.view().part(own.clone())?,
                        sums.view(),
                        (own.len(), d),
                        out.view(),
                    )?;
                }
            }
            Dense::Negatives(negatives) => {
                let top = self.group.concat(vec![self.max_abs(v)?])?;
                let top = top
                    .into_iter()
                    .fold(0.0, |a: f32, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) });
                let mut panel = PanelRoom::default();
                let mut value_unit = 1.0;
                let order = dense.order_y().map(|order| &order.ids[..]);
                let mut pieces = Pieces::new(self, v, order, p.n_y())?;
                while let Some((cols, piece)) = pieces.next()? {
                    let piece = piece.bounded(top);
                    let values = Values::new(self, &piece, None, 0..cols.len())?;
                    value_unit = values.unit;
                    for rows in panels_of(own.clone(), BLOCK) {
                        let to = out.view().from((rows.start - own.start) * d)?;
                        let to = Rows::new(to, rows.len(), d, d)?;
                        negatives.add(rows, cols.clone(), &values, &mut panel, to)?;
                    }
                    self.report(Phase::Weights, cols.end, p.n_y())?;
                }
                unit = negatives.unit() * value_unit;
            }
        }
        self.add_exceptions(dense, value, w, v, -unit as f32, Rows::dense(out.view(), own.len(), d)?, own)?;
        Ok(out)
    }

    /// `out <- alpha out + (entries x V)` on the row positions `own`: the rows of `V` that the entries meet are fetched,
    /// some at a time.
    #[allow(clippy::too_many_arguments)]
    fn add_exceptions(
        &self,
        dense: &Dense<'_>,
        value: &(dyn Fn(usize, usize) -> f64 + Sync),
        w: &Weights,
        v: &Matrix,
        alpha: f32,
        out: Rows<'_, f32>,
        own: Range<usize>,
    ) -> Result<()> {
        let row_id = |position: usize| dense.order_x().map_or(position, |o| o.ids[position] as usize);
        let lists: Vec<(usize, Vec<u32>)> =
            own.map(row_id).map(|i| (i, exceptions(&w.loss, &w.positives, i))).collect();
        let mut met: Vec<u32> = lists.iter().flat_map(|(_, list)| list).copied().collect();
        met.sort_unstable();
        met.dedup();
        let place = |j: &u32| met.partition_point(|m| m < j) as i32;
        let columns: Vec<Vec<i32>> = lists.iter().map(|(_, list)| list.iter().map(place).collect()).collect();
        let of_row = |(i, list): &(usize, Vec<u32>)| -> Vec<f32> {
            list.iter().map(|&j| value(*i, j as usize) as f32).collect()
        };
        let coefficient: Vec<f32> = lists.iter().flat_map(of_row).collect();
        let entries = Entries::new(self, &columns, "positives")?;
        let coefficient = self.device.upload(&coefficient, "coefficients of positives")?;
        let layout = self.layout(v.all_rows());
        let pieces = self.group.concat(vec![met.len().div_ceil(PIECE) as u64])?;
        let pieces = pieces.into_iter().max().unwrap_or(0).max(1) as usize;
        for k in 0..pieces {
            let cols = (k * PIECE).min(met.len())..((k + 1) * PIECE).min(met.len());
            let rows = self.fetch(v, &met[cols.clone()], &|j| layout.owner(j))?;
            let values = match rows.data() {
                Data::Wide(buffer) => EntryValues::Wide(Rows::dense(buffer.view(), rows.rows(), v.cols())?),
                Data::Narrow(stored, buffer) => {
                    EntryValues::Narrow(*stored, Rows::dense(buffer.view(), rows.rows(), v.cols())?, 0)
                }
                Data::Embedded(depth, buffer) => {
                    let from = Rows::dense(buffer.view(), rows.rows(), 2 * depth)?;
                    EntryValues::Narrow(self.mode.narrow(), from, *depth)
                }
                Data::HostWide(_) | Data::HostNarrow(..) => {
                    return Err(Error::Cuda("internal: fetched rows on the host".into()));
                }
            };
            let add = AddEntries {
                entries: entries.csr(),
                coefficient: coefficient.view(),
                factor: 1.0,
                row_of: None,
                rows: 0..out.rows,
                cols,
                alpha: if k == 0 { alpha } else { 1.0 },
                out,
            };
            self.device.add_entries(values, &add)?;
        }
        Ok(())
    }

    /// `S V` of several ranks; with `transposed`, of similarities and weights that were.
    pub(super) fn contract_shared(
        &self,
        s: Similarity<'_, Matrix>,
        w: &Weights,
        transposed: bool,
        v: &Matrix,
    ) -> Result<Matrix> {
        let (dense, value) = Dense::new(self, self.completed(s)?, w, transposed)?;
        let out = self.share_of_product(&dense, &*value, w, v)?;
        let n = w.positives.n_x();
        let rows = out.len() / v.cols().max(1);
        let by_position = Matrix::new(rows, v.cols(), Data::Wide(out));
        let (Dense::Negatives(negatives), Some(order)) = (&dense, dense.order_x()) else {
            return Ok(self.as_share(by_position, n));
        };
        let (held, layout) = (negatives.grid.own.clone(), self.positions_of(&negatives.grid.plan));
        let positions = inverse(&order.ids);
        let own = self.layout(n).own();
        let found = self.fetch(&by_position.held_as(held, n), &positions[own], &|i| layout.owner(i))?;
        Ok(self.as_share(found, n))
    }

    /// `X^T S Y` of several ranks, contracting `Y` first.
    pub(super) fn contract_both_shared(
        &self,
        s: Similarity<'_, Matrix>,
        w: &Weights,
        transposed: bool,
        x: &Matrix,
        y: &Matrix,
    ) -> Result<Mat<f64>> {
        let (dense, value) = Dense::new(self, self.completed(s)?, w, transposed)?;
        let sy = self.share_of_product(&dense, &*value, w, y)?;
        let (d1, d2) = (x.cols(), y.cols());
        let rows = sy.len() / d2.max(1);
        let fetched;
        let x = match (&dense, dense.order_x()) {
            (Dense::Negatives(negatives), Some(order)) => {
                let layout = self.layout(x.all_rows());
                let ids = &order.ids[negatives.grid.own.clone()];
                fetched = self.fetch(x, ids, &|i| layout.owner(i))?;
                &fetched
            }
            _ => x,
        };
        let mut panels = Panels::new(self, x, None)?;
        self.sum_products((d1, d2), panels_of(0..rows, PANEL), rows, |rows, out| {
            let right = Operand::f32(sy.view().from(rows.start * d2)?, d2);
            let m = rows.len();
            let left = Operand::f32(panels.get(rows)?, d1).t();
            self.device.multiply((d1, d2, m), left, right, false, Operand::f32(out, d2))
        })
    }

    /// `-S Z_y` and `-S^T Z_x` of several ranks: each has its rows of both, so each orientation is contracted.
    pub(super) fn gradients_shared(&self, zx: &Matrix, zy: &Matrix, w: &Weights) -> Result<(Matrix, Matrix)> {
        let negated = |g: Matrix| -> Result<Matrix> {
            let d = g.cols();
            let mut panels = Panels::new(self, &g, None)?;
            let out = self.build(g.rows(), d, PANEL, "gradients", &mut |rows, out| {
                let (m, out) = (rows.len(), Rows::dense(out, rows.len(), d)?);
                self.device.scale_rows(Rows::dense(panels.get(rows)?, m, d)?, -1.0, None, out)
            })?;
            Ok(out.beside(&g))
        };
        let gx = self.contract_shared(Similarity::Embeddings(zx, zy), w, false, zy)?;
        let gx = negated(gx)?;
        let back = w.transposed();
        let gy = self.contract_shared(Similarity::Embeddings(zy, zx), &back, true, zx)?;
        Ok((gx, negated(gy)?))
    }
}
