//! Rows between ranks: how they are stored, and which are wanted.

use super::matrix::{Data, Matrix};
use super::precision::Narrow;
use std::ops::Range;

/// How the rows of a matrix are stored.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Wide,
    Narrow(Narrow),
    Embedded(usize),
}

/// Stored rows on the host.
pub(super) enum Raw {
    Wide(Vec<f32>),
    Half(Vec<u16>),
}

impl Kind {
    pub(super) fn of(x: &Matrix) -> Self {
        match x.data() {
            Data::Wide(_) | Data::HostWide(_) => Self::Wide,
            Data::Narrow(narrow, _) | Data::HostNarrow(narrow, _) => Self::Narrow(*narrow),
            Data::Embedded(depth, _) => Self::Embedded(*depth),
        }
    }

    /// Elements of a row of so many columns.
    pub(super) fn width(self, cols: usize) -> usize {
        match self {
            Self::Wide | Self::Narrow(_) => cols,
            Self::Embedded(depth) => 2 * depth,
        }
    }

    /// 16-bit words of a row of so many columns.
    pub(super) fn words(self, cols: usize) -> usize {
        match self {
            Self::Wide => 2 * cols,
            Self::Narrow(_) | Self::Embedded(_) => self.width(cols),
        }
    }
}

/// Rows that all ranks want.
pub(super) enum Wanted {
    Range(Range<usize>),
    /// In this order.
    Ids(Vec<u32>),
}
