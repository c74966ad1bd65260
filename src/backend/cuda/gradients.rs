//! Both gradients from one panel of weights for both.

use super::masked::Masked;
use super::matrix::{Data, Matrix, PANEL, Panels, panels_of};
use super::memory::Buffer;
use super::products::{WeightTiles, inverse};
use super::rows::Rows;
use super::values::Values;
use super::weight_panels::{PanelRoom, WEIGHT_COLS, WEIGHT_ROWS};
use super::{Cuda, Phase};
use crate::backend::Similarity;
use crate::error::Result;
use crate::similarity::{Weights, pass2};

impl Cuda {
    /// `-S Z_y` and `-S^T Z_x`.
    pub(super) fn gradients_of(&self, zx: &Matrix, zy: &Matrix, w: &Weights) -> Result<(Matrix, Matrix)> {
        let s = Similarity::Embeddings(zx, zy);
        if self.group.size() == 1 {
            return pass2::with_tiles(self, s, w, false, |tiles| self.both_gradients(tiles, w, zx, zy));
        }
        // Each rank has its rows of both, so each orientation is multiplied.
        let negated = |g: Matrix| -> Result<Matrix> {
            let d = g.cols();
            let mut panels = Panels::new(self, &g, None)?;
            let out = self.build(g.rows(), d, PANEL, "gradients", &mut |rows, out| {
                let (m, out) = (rows.len(), Rows::dense(out, rows.len(), d)?);
                self.device.scale_rows(Rows::dense(panels.get(rows)?, m, d)?, -1.0, None, out)
            })?;
            Ok(out.beside(&g))
        };
        let gx = negated(pass2::apply(self, s, w, false, zy)?)?;
        Ok((gx, negated(pass2::apply(self, s, w, true, zx)?)?))
    }

    /// The same on one device.
    fn both_gradients(
        &self,
        tiles: &WeightTiles<'_>,
        w: &Weights,
        zx: &Matrix,
        zy: &Matrix,
    ) -> Result<(Matrix, Matrix)> {
        let (grid, pairs) = tiles.problem.grid()?;
        let Some(panels) = &tiles.panels else {
            return Err(crate::Error::Cuda("internal: gradients without embeddings".into()));
        };
        let (n_x, n_y, r) = (zx.rows(), zy.rows(), zx.cols());
        let (order_x, order_y) = (grid.order_x.as_deref(), grid.order_y.as_deref());
        let (u, v) = (Values::new(self, zx, order_x, 0..n_x)?, Values::new(self, zy, order_y, 0..n_y)?);
        let gx = self.device.alloc::<f32>(n_x * r, "gradients of x")?;
        let gy = self.device.alloc::<f32>(n_y * r, "gradients of y")?;
        self.device.zero(gx.view())?;
        self.device.zero(gy.view())?;
        let outs = (Rows::dense(gx.view(), n_x, r)?, Rows::dense(gy.view(), n_y, r)?);
        let mut panel = PanelRoom::default();
        for (rows, ranges) in grid.visits() {
            for rows in panels_of(rows, WEIGHT_ROWS) {
                for cols in ranges.iter().flat_map(|c| panels_of(c.clone(), WEIGHT_COLS)) {
                    panels.add_both((rows.clone(), cols), (&u, &v), outs, &mut panel)?;
                }
                self.report(Phase::Weights, rows.end, n_x)?;
            }
        }
        let back = w.transposed();
        let of_columns = |j: usize, i: usize| back.masked_entry(j, i, pairs.at(i, j));
        let masked = Masked::new(self, &back, &grid.schedule.transposed(), 0..n_y, of_columns)?;
        let unit = panels.unit();
        tiles.masked.add(self, 0..n_x, zy, [(unit * v.unit) as f32, -1.0], outs.0)?;
        masked.add(self, 0..n_y, zx, [(unit * u.unit) as f32, -1.0], outs.1)?;
        let by_sample = |g: Buffer<f32>, n: usize, ids: Option<&[u32]>| {
            let g = Matrix::new(n, r, Data::Wide(g));
            match ids {
                None => Ok(g),
                Some(ids) => self.gather(&g, &inverse(ids)),
            }
        };
        Ok((by_sample(gx, n_x, grid.schedule.x_ids())?, by_sample(gy, n_y, grid.schedule.y_ids())?))
    }
}
