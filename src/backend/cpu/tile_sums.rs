//! Sums over all rows for the columns of a tile, whichever ranks the rows are with.

use super::Cpu;
use crate::distributed::{Fold, Part};
use crate::error::Result;
use crate::real::Real;
use crate::similarity::schedule::TileSchedule;
use bytemuck::Pod;
use std::collections::BTreeMap;
use std::ops::Range;

/// Sums per tile of columns over the panels of rows, in an order that does not depend on the ranks.
pub(super) struct TileSums<S> {
    blocks: Range<usize>,
    folds: BTreeMap<usize, (Range<usize>, Fold<Vec<S>>)>,
}

impl<S: Copy> TileSums<S> {
    pub(super) fn new(blocks: Range<usize>) -> Self {
        Self { blocks, folds: BTreeMap::new() }
    }

    /// What has been added, which leaves nothing.
    pub(super) fn take(&mut self) -> Self {
        let blocks = self.blocks.clone();
        std::mem::replace(self, Self::new(blocks))
    }

    /// Adds what a panel of `block` contributes to the columns `range`.
    pub(super) fn add(
        &mut self,
        block: usize,
        range: Range<usize>,
        part: Vec<S>,
        add: impl Fn(S, S) -> S + Copy,
    ) {
        let blocks = self.blocks.clone();
        let (_, fold) = self.folds.entry(range.start).or_insert_with(|| (range, Fold::new(blocks)));
        let mut part = Some(part);
        let sum = fold.block(block, || part.take().unwrap_or_default(), |a, b| add_all(a, &b, add));
        if let Some(part) = part {
            add_all(sum, &part, add);
        }
    }
}

fn add_all<S: Copy>(a: &mut [S], b: &[S], add: impl Fn(S, S) -> S) {
    a.iter_mut().zip(b).for_each(|(a, &b)| *a = add(*a, b));
}

impl<T: Real> Cpu<T> {
    /// Finishes sums over all panels for the columns of one piece (or of all): of those that this rank owns, by
    /// position. `none` stands where nothing was added; `width(range)` is the number of values of a range of columns.
    pub(super) fn finish_tiles<S: Pod + Send>(
        &self,
        schedule: &TileSchedule,
        sums: TileSums<S>,
        add: impl Fn(S, S) -> S + Copy,
    ) -> Result<Vec<(Range<usize>, Vec<S>)>> {
        let merge = |a: &mut Vec<S>, b: Vec<S>| add_all(a, &b, add);
        if self.group.is_single() {
            let total = |(range, fold): (Range<usize>, Fold<Vec<S>>)| Some((range, fold.total(merge)?));
            return Ok(sums.folds.into_values().filter_map(total).collect());
        }
        let (layout, size) = (self.layout(schedule.n_y(), schedule.tile()), self.group.size());
        let (mut names, mut values) = (vec![Vec::new(); size], vec![Vec::new(); size]);
        for (range, fold) in sums.folds.into_values() {
            let owner = layout.owner(range.start);
            for part in fold.parts(merge) {
                let numbers = [range.start, range.end, part.first, part.last, part.value.len()];
                names[owner].extend(numbers.map(|n| n as u64));
                values[owner].extend_from_slice(&part.value);
            }
        }
        let (names, values) = (self.group.exchange(names)?, self.group.exchange(values)?);
        let mut folds: BTreeMap<usize, (Range<usize>, Fold<Vec<S>>)> = BTreeMap::new();
        for (names, values) in names.iter().zip(values) {
            let mut values = &values[..];
            for name in names.chunks_exact(5) {
                let [start, end, first, last, length] = [0, 1, 2, 3, 4].map(|k| name[k] as usize);
                let (value, rest) = values.split_at(length);
                values = rest;
                let (_, fold) = folds.entry(start).or_insert_with(|| (start..end, Fold::new(0..usize::MAX)));
                fold.push(Part { first, last, value: value.to_vec() }, merge);
            }
        }
        let total = |(range, fold): (Range<usize>, Fold<Vec<S>>)| Some((range, fold.total(merge)?));
        Ok(folds.into_values().filter_map(total).collect())
    }
}
