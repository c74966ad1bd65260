//! Sorted lists of partners, which anchors may share.

use crate::error::Result;
use crate::memory::{filled, room};

/// What runs out of memory here.
pub(super) fn matches() -> String {
    "the list of matches".into()
}

/// For each anchor a sorted list of partners; anchors may share lists.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    /// The list of each anchor; empty: anchor `i` has list `i`.
    of: Vec<u32>,
    /// Where each list begins, and where the last ends; empty: list `i` is the one entry `indices[i]`.
    indptr: Vec<usize>,
    indices: Vec<u32>,
    /// Running number of pairs before each anchor, one longer than the anchors; empty: `indptr` says it.
    offset: Vec<usize>,
}

impl Lists {
    pub(super) fn own(indptr: Vec<usize>, indices: Vec<u32>) -> Self {
        Self { of: Vec::new(), offset: Vec::new(), indptr, indices }
    }

    pub(super) fn shared(of: Vec<u32>, indptr: Vec<usize>, indices: Vec<u32>) -> Result<Self> {
        let mut offset = room(of.len() + 1, matches)?;
        let mut total = 0;
        offset.push(0);
        for &list in &of {
            total += indptr[list as usize + 1] - indptr[list as usize];
            offset.push(total);
        }
        Ok(Self { of, indptr, indices, offset })
    }

    /// The lists of some anchors, cut to the (ascending) `partners` and renumbered. Shared lists stay shared.
    pub(super) fn subset(&self, anchors: &[usize], partners: &[usize], n_partners: usize) -> Result<Self> {
        let mut place = filled(n_partners, u32::MAX, matches)?;
        for (new, &old) in partners.iter().enumerate() {
            place[old] = new as u32;
        }
        let (lists, most) = match self.of.is_empty() {
            true => (anchors.len(), anchors.iter().map(|&a| self.get(a).len()).sum()),
            false => (self.indptr.len() - 1, self.indices.len()),
        };
        let (mut indptr, mut indices) = (room(lists + 1, matches)?, room(most, matches)?);
        indptr.push(0);
        let mut cut = |list: &[u32]| {
            indices.extend(list.iter().map(|&p| place[p as usize]).filter(|&p| p != u32::MAX));
            indptr.push(indices.len());
        };
        if self.of.is_empty() {
            anchors.iter().for_each(|&a| cut(self.get(a)));
            return Ok(Self::own(indptr, indices));
        }
        for list in 0..self.indptr.len() - 1 {
            cut(&self.indices[self.indptr[list]..self.indptr[list + 1]]);
        }
        Self::shared(anchors.iter().map(|&a| self.of[a]).collect(), indptr, indices)
    }

    pub(super) fn get(&self, anchor: usize) -> &[u32] {
        if self.indptr.is_empty() {
            return &self.indices[anchor..=anchor];
        }
        let list = self.of.get(anchor).map_or(anchor, |&l| l as usize);
        &self.indices[self.indptr[list]..self.indptr[list + 1]]
    }

    /// Pairs before an anchor.
    pub(super) fn offset(&self, anchor: usize) -> usize {
        match (self.offset.is_empty(), self.indptr.is_empty()) {
            (true, true) => anchor,
            (true, false) => self.indptr[anchor],
            (false, _) => self.offset[anchor],
        }
    }
}
