//! Pass 2: `S V`, `X^T S Y` and gradients, a block of rows at a time, never an `n x n` matrix.
//!
//! A block begins as the negatives' product (panels of weights times values, or what similarities of 0 leave), is scaled
//! back, and gets the positives from fp32 coefficients.

use super::blas::Operand;
use super::grid::{Entries, Grid, Pairs, Sides, exceptions};
use super::matrix::{Data, Matrix, Order, PANEL, Panels, panels_of};
use super::memory::Buffer;
use super::negatives::{Negatives, PanelRoom, WEIGHT_COLS, WEIGHT_ROWS};
use super::rows::{AddEntries, EntryValues, Rows};
use super::values::Values;
use super::{Cuda, Phase};
use crate::backend::Similarity;
use crate::backend::plan::Plan;
use crate::error::Result;
use crate::threads;
use crate::weights::Weights;
use faer::Mat;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a block: long enough for the panels, and 100 MiB of fp32 at 768 columns.
pub(super) const BLOCK: usize = 8 * WEIGHT_ROWS;
/// Partial column sums of a panel.
const SUM_PARTS: usize = 64;

/// `S` as something to multiply with, in one orientation.
struct Operator<'a> {
    cuda: &'a Cuda,
    dense: Dense<'a>,
    /// Entries that the dense part leaves out or has wrong, by sample, and what to add for each.
    entries: Entries,
    coefficient: Buffer<f32>,
    rows: usize,
    cols: usize,
}

pub(super) enum Dense<'a> {
    /// Of embeddings.
    Negatives(Box<Negatives<'a>>),
    /// All similarities are 0: `-(alpha_i + beta_j)`.
    Flat { alpha: Buffer<f64>, beta: Vec<f64> },
}

/// What is to be added to the dense part at an entry `(i, j)` that it leaves out or has wrong.
type Exception<'a> = Box<dyn Fn(usize, usize) -> f64 + Sync + 'a>;

impl<'a> Dense<'a> {
    /// The dense part in one orientation (see [`Operator::new`]) and its exceptions.
    pub(super) fn new(
        cuda: &'a Cuda,
        s: Similarity<'a, Matrix>,
        w: &'a Weights,
        transposed: bool,
    ) -> Result<(Self, Exception<'a>)> {
        let p = &w.positives;
        match s {
            Similarity::Embeddings(zx, zy) => {
                let sides = Sides::new(cuda, zx, zy)?;
                let pairs = Pairs::new(&sides, &w.loss, p)?;
                let plan = match transposed {
                    false => Plan::new(p.n_x(), p.n_y(), w.negatives),
                    true => Plan::new(p.n_y(), p.n_x(), w.negatives).transposed(),
                };
                let grid = Grid::new(cuda, (zx, zy), &w.loss, p, plan)?;
                let value = Box::new(move |i, j| w.exception(i, j, pairs.at(i, j)));
                Ok((Self::Negatives(Box::new(Negatives::new(grid, w)?)), value))
            }
            // Other similarities are the host's, which `Cuda` has seen to.
            Similarity::Zeros(..) | Similarity::Dense(_) => {
                let (mut alpha, mut beta) = w.at_zero();
                alpha.iter_mut().chain(&mut beta).for_each(|v| *v *= w.loss.eps_neg);
                let dense =
                    Self::Flat { alpha: cuda.device.upload(&alpha, "coefficients")?, beta: beta.clone() };
                Ok((dense, Box::new(move |i, j| w.exception(i, j, 0.0) + alpha[i] + beta[j])))
            }
        }
    }

    pub(super) fn order_x(&self) -> Option<&Order> {
        match self {
            Self::Negatives(negatives) => negatives.grid.order_x.as_deref(),
            Self::Flat { .. } => None,
        }
    }

    pub(super) fn order_y(&self) -> Option<&Order> {
        match self {
            Self::Negatives(negatives) => negatives.grid.order_y.as_deref(),
            Self::Flat { .. } => None,
        }
    }
}

impl<'a> Operator<'a> {
    /// With `transposed` the similarities and weights are those of the other side: the sample is still the one that was
    /// drawn for this side.
    fn new(cuda: &'a Cuda, s: Similarity<'a, Matrix>, w: &'a Weights, transposed: bool) -> Result<Self> {
        let p = &w.positives;
        let lists: Vec<Vec<u32>> =
            threads::run(|| (0..p.n_x()).into_par_iter().map(|i| exceptions(&w.loss, p, i)).collect());
        let coefficients = |value: &(dyn Fn(usize, usize) -> f64 + Sync)| -> Result<Buffer<f32>> {
            let of_row = |(i, list): (usize, &Vec<u32>)| -> Vec<f32> {
                list.iter().map(|&j| value(i, j as usize) as f32).collect()
            };
            let values: Vec<Vec<f32>> = threads::run(|| lists.par_iter().enumerate().map(of_row).collect());
            cuda.device.upload(&values.concat(), "coefficients of positives")
        };
        let (dense, value) = Dense::new(cuda, s, w, transposed)?;
        let coefficient = coefficients(&*value)?;
        let lists: Vec<Vec<i32>> =
            lists.into_iter().map(|l| l.into_iter().map(|j| j as i32).collect()).collect();
        let entries = Entries::new(cuda, &lists, "positives")?;
        Ok(Self { cuda, dense, entries, coefficient, rows: p.n_x(), cols: p.n_y() })
    }

    fn order_x(&self) -> Option<&Order> {
        self.dense.order_x()
    }

    /// Enqueues `S V` on the positions `rows` of the operator into `out`. `values` is `V` as the panels take it, where it
    /// lies on the device; `sums` are its flat sums.
    fn block(
        &self,
        rows: Range<usize>,
        v: &Matrix,
        (values, sums): (Option<&Values<'_>>, Option<&Buffer<f64>>),
        panel: &mut PanelRoom,
        out: Rows<'_, f32>,
    ) -> Result<()> {
        let device = &self.cuda.device;
        let unit = match (&self.dense, sums) {
            (Dense::Flat { alpha, .. }, Some(sums)) => {
                let alpha = alpha.view().part(rows.clone())?;
                device.flat_rows(alpha, sums.view(), (rows.len(), v.cols()), out.view)?;
                1.0
            }
            (Dense::Flat { .. }, None) => 0.0,
            (Dense::Negatives(negatives), _) => {
                device.zero(out.view.part(0..rows.len() * out.ld)?)?;
                let mut unit = 1.0;
                for values in self.chunks(v, values) {
                    let (cols, values) = values?;
                    unit = values.get().unit;
                    negatives.add(rows.clone(), cols, values.get(), panel, out)?;
                }
                negatives.unit() * unit
            }
        };
        self.add_entries(rows, v, -unit as f32, out)
    }

    /// `V` by column positions of the operator: as one, or in chunks from the host.
    fn chunks<'v>(
        &'v self,
        v: &'v Matrix,
        values: Option<&'v Values<'v>>,
    ) -> impl Iterator<Item = Result<(Range<usize>, Chunk<'v>)>> + 'v {
        let step = if values.is_some() { self.cols.max(1) } else { WEIGHT_COLS };
        panels_of(0..self.cols, step).map(move |cols| match values {
            Some(values) => Ok((cols, Chunk::Lent(values))),
            None => {
                let values = Values::new(self.cuda, v, self.dense.order_y(), cols.clone())?;
                Ok((cols, Chunk::Made(Box::new(values))))
            }
        })
    }

    /// `out <- alpha out + (entries x V)` on the positions `rows`.
    fn add_entries(&self, rows: Range<usize>, v: &Matrix, alpha: f32, out: Rows<'_, f32>) -> Result<()> {
        let (device, d) = (&self.cuda.device, v.cols());
        let row_of = self.order_x().map(|o| o.on_device.view());
        let add = |values: EntryValues<'_>, cols: Range<usize>, alpha: f32| {
            device.add_entries(
                values,
                &AddEntries {
                    entries: self.entries.csr(),
                    coefficient: self.coefficient.view(),
                    factor: 1.0,
                    row_of,
                    rows: rows.clone(),
                    cols,
                    alpha,
                    out,
                },
            )
        };
        let narrow = self.cuda.mode.narrow();
        match v.data() {
            Data::Wide(buffer) => {
                add(EntryValues::Wide(Rows::dense(buffer.view(), v.rows(), d)?), 0..self.cols, alpha)
            }
            Data::Narrow(stored, buffer) => {
                let values = Rows::dense(buffer.view(), v.rows(), d)?;
                add(EntryValues::Narrow(*stored, values, 0), 0..self.cols, alpha)
            }
            Data::Embedded(depth, buffer) => {
                let values = Rows::dense(buffer.view(), v.rows(), 2 * depth)?;
                add(EntryValues::Narrow(narrow, values, *depth), 0..self.cols, alpha)
            }
            Data::HostWide(_) | Data::HostNarrow(..) => {
                let mut panels = Panels::new(self.cuda, v, None)?;
                for (k, cols) in panels_of(0..self.cols, PANEL).enumerate() {
                    let values = Rows::dense(panels.get(cols.clone())?, cols.len(), d)?;
                    add(EntryValues::Wide(values), cols, if k == 0 { alpha } else { 1.0 })?;
                }
                Ok(())
            }
        }
    }

    /// `V` as the panels take it, where it lies on the device.
    fn values<'v>(&self, v: &'v Matrix) -> Result<Option<Values<'v>>> {
        match &self.dense {
            Dense::Negatives(negatives) if v.on_device() => {
                let order = negatives.grid.order_y.as_deref();
                Ok(Some(Values::new(self.cuda, v, order, 0..self.cols)?))
            }
            _ => Ok(None),
        }
    }

    /// Rows of a block: more of them when every block sends all of `V` to the device again.
    fn block_rows(&self, v: &Matrix) -> usize {
        if v.on_device() || matches!(self.dense, Dense::Flat { .. }) {
            return BLOCK;
        }
        let fits = self.cuda.device.available() / 4 / (4 * v.cols().max(1)) as u64;
        ((fits as usize) / PANEL * PANEL).clamp(PANEL, self.rows.div_ceil(PANEL).max(1) * PANEL)
    }
}

/// Values of a chunk of columns.
enum Chunk<'a> {
    Lent(&'a Values<'a>),
    Made(Box<Values<'a>>),
}

impl<'a> Chunk<'a> {
    fn get(&self) -> &Values<'a> {
        match self {
            Self::Lent(values) => values,
            Self::Made(values) => values,
        }
    }
}

impl Cuda {
    /// What a flat operator needs of the rows of `V` that are here: their column sums, and those weighted by beta.
    pub(super) fn flat_sums(&self, dense: &Dense<'_>, v: &Matrix) -> Result<Option<Buffer<f64>>> {
        let Dense::Flat { beta, .. } = dense else { return Ok(None) };
        let (device, d) = (&self.device, v.cols());
        let beta = device.upload(&beta[v.held()], "coefficients")?;
        let sums = device.alloc::<f64>(2 * d, "column sums")?;
        let scratch = device.alloc::<f64>(SUM_PARTS * d, "partial column sums")?;
        device.zero(sums.view())?;
        let mut panels = Panels::new(self, v, None)?;
        for rows in panels_of(0..v.rows(), PANEL) {
            let x = Rows::dense(panels.get(rows.clone())?, rows.len(), d)?;
            let weight = beta.view().part(rows)?;
            device.column_sums(x, None, SUM_PARTS, scratch.view(), sums.view())?;
            device.column_sums(x, Some(weight), SUM_PARTS, scratch.view(), sums.view().from(d)?)?;
        }
        Ok(Some(sums))
    }

    /// `S V`; with `transposed`, of similarities and weights that were.
    pub(super) fn contract(
        &self,
        s: Similarity<'_, Matrix>,
        w: &Weights,
        transposed: bool,
        v: &Matrix,
    ) -> Result<Matrix> {
        let op = Operator::new(self, s, w, transposed)?;
        let (values, sums, d) = (op.values(v)?, self.flat_sums(&op.dense, v)?, v.cols());
        let mut panel = PanelRoom::default();
        let block = op.block_rows(v);
        let by_position = self.build(op.rows, d, block, "S V", &mut |rows, out| {
            let out = Rows::dense(out, rows.len(), d)?;
            op.block(rows.clone(), v, (values.as_ref(), sums.as_ref()), &mut panel, out)?;
            self.report(Phase::Weights, rows.end, op.rows)
        })?;
        match op.order_x() {
            None => Ok(by_position),
            Some(order) => self.gather(&by_position, &inverse(&order.ids)),
        }
    }

    /// `X^T S Y`, contracting `Y` first: panels' products are added in float64 in panel order. `transposed` as in
    /// [`contract`](Self::contract).
    pub(super) fn contract_both(
        &self,
        s: Similarity<'_, Matrix>,
        w: &Weights,
        transposed: bool,
        x: &Matrix,
        y: &Matrix,
    ) -> Result<Mat<f64>> {
        let op = Operator::new(self, s, w, transposed)?;
        let (values, sums) = (op.values(y)?, self.flat_sums(&op.dense, y)?);
        let (d1, d2) = (x.cols(), y.cols());
        let mut panel = PanelRoom::default();
        let mut x_rows = Panels::new(self, x, op.order_x())?;
        let c = self.device.alloc::<f64>(d1 * d2, "X^T S Y")?;
        let part = self.device.alloc::<f32>(d1 * d2, "a panel's X^T S Y")?;
        self.device.zero(c.view())?;
        let block = op.block_rows(y);
        let sy = self.device.alloc::<f32>(block.min(op.rows) * d2, "a block of S Y")?;
        for rows in panels_of(0..op.rows, block) {
            let sy = sy.view().part(0..rows.len() * d2)?;
            let out = Rows::dense(sy, rows.len(), d2)?;
            op.block(rows.clone(), y, (values.as_ref(), sums.as_ref()), &mut panel, out)?;
            for sub in panels_of(rows.clone(), PANEL) {
                let right = Operand::f32(sy.from((sub.start - rows.start) * d2)?, d2);
                let left = Operand::f32(x_rows.get(sub.clone())?, d1).t();
                let product = (d1, d2, sub.len());
                self.device.multiply(product, left, right, false, Operand::f32(part.view(), d2))?;
                self.device.merge_sums(part.view(), 1, c.view())?;
            }
            self.report(Phase::Weights, rows.end, op.rows)?;
        }
        let c = self.device.download(c.view())?;
        Ok(Mat::from_fn(d1, d2, |i, j| c[i * d2 + j]))
    }

    /// `-S Z_y` and `-S^T Z_x` from one panel of weights for both.
    pub(super) fn both_gradients(&self, zx: &Matrix, zy: &Matrix, w: &Weights) -> Result<(Matrix, Matrix)> {
        let back = w.transposed();
        let op = Operator::new(self, Similarity::Embeddings(zx, zy), w, false)?;
        let Dense::Negatives(negatives) = &op.dense else {
            return Err(crate::Error::Cuda("internal: gradients without embeddings".into()));
        };
        let (n_x, n_y, r) = (zx.rows(), zy.rows(), zx.cols());
        let (order_x, order_y) = (negatives.grid.order_x.as_deref(), negatives.grid.order_y.as_deref());
        let (u, v) = (Values::new(self, zx, order_x, 0..n_x)?, Values::new(self, zy, order_y, 0..n_y)?);
        let gx = self.device.alloc::<f32>(n_x * r, "gradients of x")?;
        let gy = self.device.alloc::<f32>(n_y * r, "gradients of y")?;
        self.device.zero(gx.view())?;
        self.device.zero(gy.view())?;
        let outs = (Rows::dense(gx.view(), n_x, r)?, Rows::dense(gy.view(), n_y, r)?);
        let mut panel = PanelRoom::default();
        for (rows, ranges) in negatives.grid.visits() {
            for rows in panels_of(rows, WEIGHT_ROWS) {
                for cols in ranges.iter().flat_map(|c| panels_of(c.clone(), WEIGHT_COLS)) {
                    negatives.add_both((rows.clone(), cols), (&u, &v), outs, &mut panel)?;
                }
                self.report(Phase::Weights, rows.end, n_x)?;
            }
        }
        let transposed = Transposed::new(&op, &back, zx, zy)?;
        let x_alpha = negatives.unit() * v.unit;
        let y_alpha = negatives.unit() * u.unit;
        op.finish_gradient(&op.entries, &op.coefficient, order_x, zy, x_alpha as f32, outs.0)?;
        op.finish_gradient(
            &transposed.entries,
            &transposed.coefficient,
            order_y,
            zx,
            y_alpha as f32,
            outs.1,
        )?;
        let by_sample = |g: Buffer<f32>, n: usize, order: Option<&Order>| {
            let g = Matrix::new(n, r, Data::Wide(g));
            match order {
                None => Ok(g),
                Some(order) => self.gather(&g, &inverse(&order.ids)),
            }
        };
        Ok((by_sample(gx, n_x, order_x)?, by_sample(gy, n_y, order_y)?))
    }
}

/// The entries of an operator from the other side.
struct Transposed {
    entries: Entries,
    coefficient: Buffer<f32>,
}

impl Transposed {
    fn new(op: &Operator<'_>, back: &Weights, zx: &Matrix, zy: &Matrix) -> Result<Self> {
        let (p, loss) = (&back.positives, &back.loss);
        let sides = Sides::new(op.cuda, zx, zy)?;
        let forward = p.transposed();
        let pairs = Pairs::new(&sides, loss, &forward)?;
        let lists: Vec<Vec<u32>> =
            threads::run(|| (0..p.n_x()).into_par_iter().map(|j| exceptions(loss, p, j)).collect());
        let of_col = |(j, list): (usize, &Vec<u32>)| -> Vec<f32> {
            let value = |&i: &u32| back.exception(j, i as usize, pairs.at(i as usize, j)) as f32;
            list.iter().map(value).collect()
        };
        let values: Vec<Vec<f32>> = threads::run(|| lists.par_iter().enumerate().map(of_col).collect());
        let coefficient = op.cuda.device.upload(&values.concat(), "coefficients of positives")?;
        let lists: Vec<Vec<i32>> =
            lists.into_iter().map(|l| l.into_iter().map(|i| i as i32).collect()).collect();
        Ok(Self { entries: Entries::new(op.cuda, &lists, "positives")?, coefficient })
    }
}

impl Operator<'_> {
    /// `out <- alpha out - entries x Z`, all rows.
    fn finish_gradient(
        &self,
        entries: &Entries,
        coefficient: &Buffer<f32>,
        order: Option<&Order>,
        z: &Matrix,
        alpha: f32,
        out: Rows<'_, f32>,
    ) -> Result<()> {
        let mut panels = Panels::new(self.cuda, z, None)?;
        let (rows, d) = (out.rows, z.cols());
        for (k, cols) in panels_of(0..z.rows(), 16 * PANEL).enumerate() {
            let values = Rows::dense(panels.get(cols.clone())?, cols.len(), d)?;
            let add = AddEntries {
                entries: entries.csr(),
                coefficient: coefficient.view(),
                factor: -1.0,
                row_of: order.map(|o| o.on_device.view()),
                rows: 0..rows,
                cols,
                alpha: if k == 0 { alpha } else { 1.0 },
                out,
            };
            self.cuda.device.add_entries(EntryValues::Wide(values), &add)?;
        }
        Ok(())
    }
}

/// Position of each sample from the sample of each position.
pub(super) fn inverse(ids: &[u32]) -> Vec<u32> {
    let mut positions = vec![0; ids.len()];
    for (position, &id) in ids.iter().enumerate() {
        positions[id as usize] = position as u32;
    }
    positions
}
