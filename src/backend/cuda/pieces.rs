//! The values of pass 2 that come past in pieces: while one is multiplied, the next is on its way.
//!
//! Between devices a piece moves on a stream of its own, behind what has used the room it takes: two pieces are here at a
//! time. Through the host, what a rank adds to a piece is taken off the device before the current piece is multiplied, and
//! the group's transport moves it meanwhile.

use super::Cuda;
use super::grid::WEIGHT_COLS;
use super::matrix::{Matrix, panels_of};
use super::ranks::PIECE;
use super::stored::{Kind, Raw, Wanted};
use super::transfer::Coming;
use crate::error::Result;
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

/// Pieces of the rows of a matrix by position, all of them on every rank.
pub(super) struct Pieces<'a> {
    cuda: &'a Cuda,
    x: &'a Matrix,
    order: Option<&'a [u32]>,
    left: VecDeque<Range<usize>>,
    ahead: Option<Ahead<'a>>,
}

/// What has been begun of the next piece.
enum Ahead<'a> {
    /// It is on its way.
    Coming(Coming<'a>),
    /// This rank's part, on the host.
    Own(Raw),
}

impl<'a> Pieces<'a> {
    /// The positions `0..n`, which are the rows in an order, or in their own. A collective.
    ///
    /// Pieces are cut at multiples of [`WEIGHT_COLS`], as the sums over them are: results do not depend on their size, which
    /// the rank with the least memory left decides.
    pub(super) fn new(cuda: &'a Cuda, x: &'a Matrix, order: Option<&'a [u32]>, n: usize) -> Result<Self> {
        // Two as they are stored, and one as the panels take it, in a quarter of what is left.
        let bytes = 4 * Kind::of(x).words(x.cols()) + 4 * x.cols();
        let fit = (cuda.device.available() / 4 / bytes.max(1) as u64).min(PIECE as u64);
        let fit = cuda.group.concat(vec![fit])?.into_iter().min().unwrap_or(0) as usize;
        let piece = (fit / WEIGHT_COLS).max(1) * WEIGHT_COLS;
        Ok(Self { cuda, x, order, left: panels_of(0..n, piece).collect(), ahead: None })
    }

    fn ids(&self, rows: &Range<usize>) -> Vec<u32> {
        match self.order {
            Some(order) => order[rows.clone()].to_vec(),
            None => rows.clone().map(|i| i as u32).collect(),
        }
    }

    fn begin(&self, rows: &Range<usize>) -> Result<Ahead<'a>> {
        let wanted = match self.order {
            Some(_) => Wanted::Ids(self.ids(rows)),
            None => Wanted::Range(rows.clone()),
        };
        Ok(match &self.cuda.link {
            Some(link) => {
                Ahead::Coming(self.cuda.bring_linked(link, self.x, wanted, "values of all ranks")?)
            }
            None => Ahead::Own(self.cuda.own_raw(self.x, &self.ids(rows))?),
        })
    }

    /// The next piece, when what is to be done with the one before has been enqueued. A collective.
    pub(super) fn next(&mut self) -> Result<Option<(Range<usize>, Matrix)>> {
        let Some(rows) = self.left.pop_front() else { return Ok(None) };
        let (cuda, x) = (self.cuda, self.x);
        if let Some(whole) = x.whole().get() {
            let piece = cuda.gather(whole, &self.ids(&rows))?;
            return Ok(Some((rows, piece)));
        }
        let ahead = match self.ahead.take() {
            Some(ahead) => ahead,
            None => self.begin(&rows)?,
        };
        let piece = match ahead {
            Ahead::Coming(coming) => {
                self.ahead = self.left.front().map(|next| self.begin(next)).transpose()?;
                coming.arrived(cuda)?
            }
            Ahead::Own(raw) => {
                let (begin, ids) = (Instant::now(), self.ids(&rows));
                let raw = cuda.join_raw(x, &ids, raw)?;
                if cuda.device.stream.is_busy() {
                    cuda.group.hid(begin.elapsed().as_secs_f64());
                }
                let piece = cuda.matrix_of(Kind::of(x), ids.len(), x.cols(), &raw)?;
                self.ahead = self.left.front().map(|next| self.begin(next)).transpose()?;
                piece
            }
        };
        Ok(Some((rows, piece)))
    }
}
