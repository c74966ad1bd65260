//! What the block operations work on: a problem, its weights, and what they are multiplied with.

use super::grid::{Grid, Pairs};
use super::masked::Masked;
use super::matrix::{Matrix, Order};
use super::memory::Buffer;
use super::values::Values as Operands;
use super::weight_panels::WeightPanels;
use crate::error::{Error, Result};
use crate::loss::Loss;
use crate::positives::Positives;
use crate::similarity::Weights;
use crate::similarity::schedule::TileSchedule;
use std::ops::Range;

/// Similarities in the order of a schedule.
pub(crate) struct Problem<'a> {
    pub(super) loss: &'a Loss,
    pub(super) positives: Positives,
    pub(super) schedule: TileSchedule,
    /// None where all similarities are 0.
    pub(super) of_embeddings: Option<(Grid<'a>, Pairs)>,
}

/// `-S`.
pub(crate) struct WeightTiles<'a> {
    pub(super) panels: Option<WeightPanels<'a>>,
    pub(super) masked: Masked,
    pub(super) problem: &'a Problem<'a>,
    pub(super) w: &'a Weights,
    /// Where all similarities are 0: `alpha_i + beta_j`.
    pub(super) flat: Option<(Buffer<f64>, Vec<f64>)>,
    /// Row positions of this rank.
    pub(super) own: Range<usize>,
}

impl<'a> Problem<'a> {
    pub(super) fn grid(&self) -> Result<(&Grid<'a>, &Pairs)> {
        let missing = || Error::Cuda("internal: similarities without embeddings".into());
        self.of_embeddings.as_ref().map(|(grid, pairs)| (grid, pairs)).ok_or_else(missing)
    }

    pub(super) fn order_x(&self) -> Option<&Order> {
        self.of_embeddings.as_ref().and_then(|(grid, _)| grid.order_x.as_deref())
    }

    pub(super) fn order_y(&self) -> Option<&Order> {
        self.of_embeddings.as_ref().and_then(|(grid, _)| grid.order_y.as_deref())
    }
}

/// What comes past with the columns beside their embeddings and coefficients, which every device has.
pub(crate) struct Passing<'a> {
    pub(super) problem: &'a Problem<'a>,
    /// `V`, where weights are multiplied with any, and as the panels take it where it stays on the device.
    pub(super) values: Option<(&'a Matrix, Option<Operands<'a>>)>,
}

/// `V`.
pub(crate) struct Values<'a> {
    pub(super) v: &'a Matrix,
    pub(super) passing: Passing<'a>,
    /// Its column sums, and those weighted by beta, where all similarities are 0.
    pub(super) flat: Option<Buffer<f64>>,
}

impl<'a> AsRef<Passing<'a>> for Values<'a> {
    fn as_ref(&self) -> &Passing<'a> {
        &self.passing
    }
}

impl Values<'_> {
    /// Whether they stay on the device.
    pub(super) fn stay(&self) -> bool {
        matches!(self.passing.values, Some((_, Some(_))))
    }
}

/// Columns that are on the device, and their values.
pub(crate) struct Columns<'a> {
    pub(super) range: Range<usize>,
    pub(super) values: Option<&'a Operands<'a>>,
}
