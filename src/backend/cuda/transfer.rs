//! Rows and sums that go from device to device, as the host would have put them together: the same numbers, bit for bit.

use super::Cuda;
use super::channel::Move;
use super::link::{Link, Transfer};
use super::matrix::{Data, Matrix};
use super::memory::{Buffer, View};
use super::rows::Rows;
use super::stored::{Kind, Wanted};
use crate::error::Result;
use std::ops::Range;

/// Stored rows on the device.
enum Stored<'a> {
    Lent(View<'a, u16>),
    Words(Buffer<u16>),
    Wide(Buffer<f32>),
}

impl Stored<'_> {
    /// As 16-bit words.
    fn words(&self) -> View<'_, u16> {
        match self {
            Self::Lent(view) => *view,
            Self::Words(buffer) => buffer.view(),
            Self::Wide(buffer) => buffer.view().words(),
        }
    }
}

/// Rows that are on their way from all ranks to all.
pub(super) struct Coming<'a> {
    // Dropped first: nothing may write to memory that has been given back.
    transfer: Transfer<'a>,
    _own: Stored<'a>,
    came: Buffer<u16>,
    kind: Kind,
    rows: usize,
    cols: usize,
    /// Where each row lies among what came; none: in order.
    places: Option<Vec<u32>>,
}

impl Coming<'_> {
    /// The rows, once they are there.
    ///
    /// # Errors
    /// As [`Transfer::wait`].
    pub(super) fn arrived(self, cuda: &Cuda) -> Result<Matrix> {
        self.transfer.wait()?;
        cuda.arranged(self.came, self.kind, (self.rows, self.cols), self.places.as_deref())
    }
}

/// Where row `k`, which came from rank `owners[k]`, lies when the rows of rank 0 come first, and so on; none: in order.
fn places(owners: &[usize], size: usize) -> Option<Vec<u32>> {
    if owners.is_sorted() {
        return None;
    }
    let mut next = vec![0u32; size + 1];
    owners.iter().for_each(|&owner| next[owner + 1] += 1);
    (0..size).for_each(|k| next[k + 1] += next[k]);
    let place = |&owner: &usize| {
        let place = next[owner];
        next[owner] += 1;
        place
    };
    Some(owners.iter().map(place).collect())
}

/// How many of the rows each rank has.
fn counts(owners: &[usize], size: usize) -> Vec<usize> {
    let mut counts = vec![0; size];
    owners.iter().for_each(|&owner| counts[owner] += 1);
    counts
}

impl Cuda {
    /// Rows as they came, put in order.
    fn arranged(
        &self,
        came: Buffer<u16>,
        kind: Kind,
        (rows, cols): (usize, usize),
        places: Option<&[u32]>,
    ) -> Result<Matrix> {
        let words = kind.words(cols);
        let came = match places {
            None => came,
            Some(places) => {
                let out = self.device.alloc(rows * words, "rows of other ranks")?;
                let places = self.upload_ids(places, "row numbers")?;
                self.device.gather_rows(Rows::dense(came.view(), rows, words)?, places.view(), out.view())?;
                out
            }
        };
        let data = match kind {
            Kind::Wide => Data::Wide(came.into_wide()),
            Kind::Narrow(narrow) => Data::Narrow(narrow, came),
            Kind::Embedded(depth) => Data::Embedded(depth, came),
        };
        Ok(Matrix::new(rows, cols, data))
    }

    /// Rows of `x` that are here, by their number among these, one after the other.
    fn stored(&self, x: &Matrix, ids: &[u32]) -> Result<Stored<'static>> {
        let what = "rows for other ranks";
        Ok(match self.gather(x, ids)?.into_data() {
            Data::Wide(buffer) => Stored::Wide(buffer),
            Data::Narrow(_, buffer) | Data::Embedded(_, buffer) => Stored::Words(buffer),
            Data::HostWide(values) => Stored::Wide(self.device.upload(&values, what)?),
            Data::HostNarrow(_, values) => Stored::Words(self.device.upload(&values, what)?),
        })
    }

    /// The same of rows that follow one another: as they lie, where they lie on the device.
    fn stored_range<'x>(&self, x: &'x Matrix, rows: Range<usize>) -> Result<Stored<'x>> {
        let cols = x.cols();
        let (part, what) = (rows.start * cols..rows.end * cols, "rows for other ranks");
        Ok(match x.data() {
            Data::Wide(buffer) => Stored::Lent(buffer.view().part(part)?.words()),
            Data::Narrow(_, buffer) => Stored::Lent(buffer.view().part(part)?),
            Data::Embedded(depth, buffer) => {
                Stored::Lent(buffer.view().part(rows.start * 2 * depth..rows.end * 2 * depth)?)
            }
            Data::HostWide(values) => Stored::Wide(self.device.upload(&values[part], what)?),
            Data::HostNarrow(_, values) => Stored::Words(self.device.upload(&values[part], what)?),
        })
    }

    /// The rows that rank `k` asked for are `asked[k]`, by their number among those here; this rank has asked for rows that
    /// lie with `owners`. A collective.
    pub(super) fn fetch_linked(
        &self,
        link: &Link,
        x: &Matrix,
        owners: &[usize],
        asked: &[Vec<u32>],
    ) -> Result<Matrix> {
        let (kind, rank, size) = (Kind::of(x), self.group.rank(), self.group.size());
        let (rows, words) = (owners.len(), kind.words(x.cols()));
        let sent = self.stored(x, &asked.concat())?;
        let came = self.device.alloc::<u16>(rows * words, "rows of other ranks")?;
        let (mut moves, mut from, mut to) = (Vec::new(), 0, 0);
        for (k, count) in counts(owners, size).into_iter().enumerate() {
            let out = sent.words().part(from..from + asked[k].len() * words)?;
            let back = came.view().part(to..to + count * words)?;
            (from, to) = (from + out.len, to + back.len);
            if k == rank {
                self.device.copy(out, back)?;
            } else {
                moves.extend([Move::send(out, k), Move::receive(back, k)]);
            }
        }
        link.begin(&moves)?.wait()?;
        self.arranged(came, kind, (rows, x.cols()), places(owners, size).as_deref())
    }

    /// Begins to bring rows from the ranks that have them to all. A collective.
    pub(super) fn bring_linked<'a>(
        &self,
        link: &'a Link,
        x: &'a Matrix,
        wanted: Wanted,
        what: &str,
    ) -> Result<Coming<'a>> {
        let (kind, rank, size) = (Kind::of(x), self.group.rank(), self.group.size());
        let (cols, words) = (x.cols(), kind.words(x.cols()));
        let (layout, held) = (self.layout(x.all_rows()), x.held());
        let (counts, own, places) = match &wanted {
            Wanted::Range(range) => {
                let part = |k: usize| {
                    let rows = layout.of(k);
                    rows.start.clamp(range.start, range.end)..rows.end.clamp(range.start, range.end)
                };
                let own = part(rank);
                // Where this rank has none, wherever that would be.
                let own = if own.is_empty() { 0..0 } else { own.start - held.start..own.end - held.start };
                ((0..size).map(|k| part(k).len()).collect(), self.stored_range(x, own)?, None)
            }
            Wanted::Ids(ids) => {
                let owners: Vec<usize> = ids.iter().map(|&id| layout.owner(id as usize)).collect();
                let mine = ids.iter().zip(&owners).filter(|(_, owner)| **owner == rank);
                let mine: Vec<u32> = mine.map(|(id, _)| id - held.start as u32).collect();
                (counts(&owners, size), self.stored(x, &mine)?, places(&owners, size))
            }
        };
        let rows = counts.iter().sum::<usize>();
        let came = self.device.alloc::<u16>(rows * words, what)?;
        let (mut moves, mut to) = (Vec::new(), 0);
        for (root, count) in counts.into_iter().enumerate() {
            let at = came.view().part(to..to + count * words)?;
            to += at.len;
            // Only the root's is read.
            let from = if root == rank { own.words().ptr } else { at.ptr };
            moves.push(Move::Broadcast { from, to: at.ptr, bytes: 2 * at.len, root });
        }
        let transfer = link.begin(&moves)?;
        Ok(Coming { transfer, _own: own, came, kind, rows, cols, places })
    }

    /// What every rank has summed over its rows, on the host of every rank: added as [`sum`](Self::sum) adds it. `own` is
    /// overwritten.
    pub(super) fn sum_on_device(&self, own: View<'_, f64>) -> Result<Vec<f64>> {
        let Some(link) = &self.link else { return self.sum(self.device.download(own)?) };
        let (rank, size, device) = (self.group.rank(), self.group.size(), &self.device);
        // Each rank adds a share of the numbers.
        let share = |k: usize| own.part(k * own.len / size..(k + 1) * own.len / size);
        let (mine, width) = (share(rank)?, share(rank)?.len);
        let parts = device.alloc::<f64>(size * width, "sums of all ranks")?;
        let part = |k: usize| parts.view().part(k * width..(k + 1) * width);
        let mut moves = Vec::new();
        for k in (0..size).filter(|&k| k != rank) {
            moves.extend([Move::send(share(k)?, k), Move::receive(part(k)?, k)]);
        }
        device.copy(mine, part(rank)?)?;
        link.begin(&moves)?.wait()?;
        // Along the binary tree over ranks.
        let mut apart = 1;
        while apart < size {
            for k in (0..size - apart).step_by(2 * apart) {
                device.add_doubles(part(k + apart)?, part(k)?)?;
            }
            apart *= 2;
        }
        device.copy(part(0)?, mine)?;
        let all = |k: usize| -> Result<Move> {
            let (at, bytes) = (share(k)?.ptr, share(k)?.len * size_of::<f64>());
            Ok(Move::Broadcast { from: at, to: at, bytes, root: k })
        };
        link.begin(&(0..size).map(all).collect::<Result<Vec<_>>>()?)?.wait()?;
        device.download(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_where_their_ranks_put_them() {
        assert_eq!(places(&[0, 0, 1, 2], 3), None);
        assert_eq!(places(&[2, 0, 2, 1, 0], 3), Some(vec![3, 0, 4, 2, 1]));
        assert_eq!(counts(&[2, 0, 2, 1, 0], 4), [2, 1, 2, 0]);
    }
}
