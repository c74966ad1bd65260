//! Columns that are packed once for all panels of rows, where they are few.

use super::Cpu;
use super::matrix::Matrix;
use super::unit::{Factor, Unit};
use crate::error::Result;
use crate::real::Real;
use crate::similarity::schedule::TileSchedule;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of packed columns at most. More would not stay in the last cache, and many rows repay packing them once a panel.
const MOST: usize = 8 << 20;

/// Right factors of all columns, a part of them after the other.
pub(super) struct Ready<T> {
    /// Columns of a part.
    width: usize,
    parts: Vec<Part<T>>,
}

/// Columns, and their packed embeddings and values where products need any.
struct Part<T> {
    range: Range<usize>,
    z: Option<Arc<Factor<T>>>,
    values: Option<Arc<Factor<T>>>,
}

impl<T> Ready<T> {
    fn part(&self, range: &Range<usize>) -> Option<&Part<T>> {
        self.parts.get(range.start / self.width).filter(|part| part.range == *range)
    }

    /// The packed embeddings of these columns, if they are a part.
    pub(super) fn z(&self, range: &Range<usize>) -> Option<Arc<Factor<T>>> {
        self.part(range)?.z.clone()
    }

    /// Their packed values.
    pub(super) fn values(&self, range: &Range<usize>) -> Option<Arc<Factor<T>>> {
        self.part(range)?.values.clone()
    }
}

impl<T: Real> Cpu<T> {
    /// Packs the embeddings `z` of a schedule's columns in parts of `width` (which divides a tile), with their `values`, if
    /// several panels meet them and they are here and few.
    pub(super) fn ready(
        &self,
        (schedule, unit): (&TileSchedule, Unit),
        z: Option<&Matrix<T>>,
        values: Option<&Matrix<T>>,
        width: usize,
    ) -> Result<Option<Ready<T>>> {
        let matrices: Vec<_> = z.into_iter().chain(values).collect();
        let (n, cols) = (schedule.n_y(), matrices.iter().map(|m| m.cols()).sum::<usize>());
        let few = n.saturating_mul(cols).saturating_mul(unit.bytes::<T>()) <= MOST;
        // Vectors read what the same core has just packed sooner than what comes from the last cache.
        let few = few && unit != Unit::Vectors;
        if !few || schedule.is_sampled() || schedule.panels() < 2 || !self.all_here(&matrices) {
            return Ok(None);
        }
        let pack = |start: usize| -> Result<Part<T>> {
            let range = start..(start + width).min(n);
            let (mut scratch, mut part) = (Vec::new(), Part { range: range.clone(), z: None, values: None });
            if let Some(z) = z {
                let mut factor = Factor::default();
                let rows = z.panel(&range, &mut scratch)?;
                unit.pack_transposed(&mut factor, rows, range.len(), z.cols());
                part.z = Some(Arc::new(factor));
            }
            if let Some(v) = values {
                let mut factor = Factor::default();
                unit.pack(&mut factor, v.panel(&range, &mut scratch)?, range.len(), v.cols());
                part.values = Some(Arc::new(factor));
            }
            Ok(part)
        };
        let starts: Vec<usize> = (0..n).step_by(width).collect();
        let parts: Result<Vec<_>> =
            self.install(|| starts.into_par_iter().with_max_len(1).map(pack).collect());
        Ok(Some(Ready { width, parts: parts? }))
    }
}
