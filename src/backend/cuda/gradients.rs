//! Both gradients on one device, from one panel of weights for both.

use super::Cuda;
use super::Phase;
use super::grid::{WEIGHT_COLS, WEIGHT_ROWS};
use super::masked::Masked;
use super::matrix::{Data, Matrix, panels_of};
use super::memory::Buffer;
use super::problem::{Columns, WeightTiles};
use super::rows::Rows;
use super::values::Values;
use super::weight_panels::PanelRoom;
use crate::error::{Error, Result};
use crate::similarity::blocks::{BothSides, Visit};
use crate::similarity::schedule::Order;
use std::sync::Arc;

/// `-S Z_y` and `-S^T Z_x` on their way, by position. All columns are one block.
pub(super) struct BothProducts<'a> {
    cuda: &'a Cuda,
    tiles: &'a WeightTiles<'a>,
    z: BothSides<&'a Matrix>,
    /// The embeddings as the panels take them.
    values: BothSides<Values<'a>>,
    sums: BothSides<Buffer<f32>>,
}

impl<'a> BothProducts<'a> {
    pub(super) fn new(cuda: &'a Cuda, tiles: &'a WeightTiles<'a>, z: BothSides<&'a Matrix>) -> Result<Self> {
        let (grid, _) = tiles.problem.grid()?;
        let ([zx, zy], order_x, order_y) = (z, grid.order_x.as_deref(), grid.order_y.as_deref());
        let values =
            [Values::new(cuda, zx, order_x, 0..zx.rows())?, Values::new(cuda, zy, order_y, 0..zy.rows())?];
        let zeros = |z: &Matrix, what: &str| -> Result<Buffer<f32>> {
            let sums = cuda.device.alloc::<f32>(z.rows() * z.cols(), what)?;
            cuda.device.zero(sums.view())?;
            Ok(sums)
        };
        let sums = [zeros(zx, "gradients of x")?, zeros(zy, "gradients of y")?];
        Ok(Self { cuda, tiles, z, values, sums })
    }

    fn rows(&self, side: usize) -> Result<Rows<'_, f32>> {
        Rows::dense(self.sums[side].view(), self.z[side].rows(), self.z[side].cols())
    }
}

impl Visit<Cuda, BothSides<Matrix>> for BothProducts<'_> {
    fn add(&mut self, _: &Columns<'_>) -> Result<()> {
        let missing = || Error::Cuda("internal: gradients without embeddings".into());
        let panels = self.tiles.panels.as_ref().ok_or_else(missing)?;
        let (mut panel, outs, [u, v]) = (PanelRoom::default(), (self.rows(0)?, self.rows(1)?), &self.values);
        for (rows, ranges) in self.tiles.problem.grid()?.0.visits() {
            for rows in panels_of(rows, WEIGHT_ROWS) {
                for cols in ranges.iter().flat_map(|c| panels_of(c.clone(), WEIGHT_COLS)) {
                    panels.add_both((rows.clone(), cols), (u, v), outs, &mut panel)?;
                }
                self.cuda.report(Phase::Weights, rows.end, self.z[0].rows())?;
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<BothSides<Matrix>> {
        let (cuda, tiles, [zx, zy], [u, v]) = (self.cuda, self.tiles, self.z, &self.values);
        let (grid, pairs) = tiles.problem.grid()?;
        let (n_x, n_y, unit) = (zx.rows(), zy.rows(), self.tiles.panels.as_ref().map_or(1.0, |p| p.unit()));
        let back = tiles.w.transposed();
        let of_columns = |j: usize, i: usize| back.masked_entry(j, i, pairs.at(i, j));
        let masked = Masked::new(cuda, &back, &grid.schedule.transposed(), 0..n_y, of_columns)?;
        tiles.masked.add(cuda, 0..n_x, zy, [(unit * v.unit) as f32, -1.0], self.rows(0)?)?;
        masked.add(cuda, 0..n_y, zx, [(unit * u.unit) as f32, -1.0], self.rows(1)?)?;
        let by_sample = |g: Buffer<f32>, z: &Matrix, order: &Option<Arc<Order>>| {
            let g = Matrix::new(z.rows(), z.cols(), Data::Wide(g));
            match order {
                None => Ok(g),
                Some(order) => cuda.gather(&g, &order.positions),
            }
        };
        let [of_x, of_y] = self.sums;
        Ok([by_sample(of_x, zx, &grid.schedule.order_x)?, by_sample(of_y, zy, &grid.schedule.order_y)?])
    }
}
