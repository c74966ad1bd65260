//! Several ranks, each with a device of its own: rows that other ranks hold, and sums over all of them.
//!
//! Rows are shared out as on the CPU ([`Layout`]). Pass 1 runs on this rank's rows of the similarities against the
//! embeddings of all ranks, which are gathered once and kept; pass 2 on the same rows, with the values of the columns
//! coming past in pieces. Data moves from device to device (see `transfer.rs`), or leaves the device through the host,
//! where the group's transport moves it. What ranks have summed is added in rank order: equal from run to run with one
//! number of ranks, and equal on all ranks.

use super::Cuda;
use super::matrix::{Data, Matrix, PANEL, Panels, depth_of, panels_of};
use super::stored::{Kind, Raw, Wanted};
use crate::backend::Backend;
use crate::backend::Reader;
use crate::backend::TopK;
use crate::distributed::{Fold, Layout};
use crate::error::{Error, Result};
use crate::io::{Duplicates, RowRange, RowSource, Survey, check_digests};
use crate::similarity::schedule::{TILE, TileSchedule};
use crate::spectral::TopR;
use faer::{Mat, MatRef};
use std::ffi::c_void;

/// Rows that come past at once, at most.
pub(crate) const PIECE: usize = 1 << 16;

/// Rows in the order in which they are wanted, from one list a rank; row `k` comes from `owners[k]`.
fn interleave<T: Copy>(
    lists: &[Vec<T>],
    owners: impl Iterator<Item = usize>,
    width: usize,
) -> Result<Vec<T>> {
    let mut next = vec![0; lists.len()];
    let mut out = Vec::with_capacity(lists.iter().map(Vec::len).sum());
    for owner in owners {
        let row = lists[owner].get(next[owner]..next[owner] + width);
        out.extend_from_slice(row.ok_or_else(|| {
            Error::Comm(format!("rank {owner} sent {} values, too few", lists[owner].len()))
        })?);
        next[owner] += width;
    }
    Ok(out)
}

impl Cuda {
    /// A step of a transport that moves device memory only: `call(sent, received, stream)` with a copy of `sent` and room
    /// for `received` on the device.
    ///
    /// # Errors
    /// Those of `call`; [`Error::Comm`] when the other ranks do not come within [`patience`](crate::distributed::patience);
    /// [`Error::OutOfMemory`] and [`Error::Cuda`] of the device.
    pub fn through_device(
        &self,
        sent: &[u8],
        received: &mut [u8],
        call: impl FnOnce(*const c_void, *mut c_void, *mut c_void) -> Result<()>,
    ) -> Result<()> {
        self.device.enter()?;
        let out = self.device.upload(sent, "bytes for other ranks")?;
        let back = self.device.alloc::<u8>(received.len(), "bytes of other ranks")?;
        let address = |ptr: u64| std::ptr::with_exposed_provenance_mut::<c_void>(ptr as usize);
        call(
            address(out.view().ptr).cast_const(),
            address(back.view().ptr),
            self.device.stream.raw().cast(),
        )?;
        self.device.stream.synchronize_within_patience()?;
        self.device.download_to(back.view(), received)
    }

    /// How the rows of a matrix of `n` are shared out.
    pub(super) fn layout(&self, n: usize) -> Layout {
        self.group.layout(n, TILE)
    }

    /// How the row positions of a schedule are shared out.
    pub(super) fn positions_of(&self, schedule: &TileSchedule) -> Layout {
        self.group.layout(schedule.n_x(), schedule.tile())
    }

    /// `x` as this rank's rows of `n`.
    pub(super) fn as_share(&self, x: Matrix, n: usize) -> Matrix {
        if self.group.is_single() { x } else { x.held_as(self.layout(n).own(), n) }
    }

    /// What every rank has summed over its rows, added in rank order, on every rank.
    pub(super) fn sum(&self, own: Vec<f64>) -> Result<Vec<f64>> {
        if self.group.is_single() {
            return Ok(own);
        }
        let (rank, size, width) = (self.group.rank(), self.group.size(), own.len());
        let mut fold = Fold::new(rank..if rank + 1 == size { usize::MAX } else { rank + 1 });
        *fold.block(rank, Vec::new, |_, _| ()) = own;
        self.group.sum(fold, width)
    }

    /// A small matrix as rank 0 has it: devices of different kinds round differently.
    pub(super) fn agreed(&self, w: MatRef<'_, f64>) -> Result<Mat<f64>> {
        let mut values = super::features::row_major_f64(w);
        self.group.broadcast(0, &mut values)?;
        Ok(Mat::from_fn(w.nrows(), w.ncols(), |i, j| values[i * w.ncols() + j]))
    }

    /// The triplets that rank 0 `finds`, on every rank.
    pub(super) fn agreed_triplets(
        &self,
        find: impl FnOnce() -> Result<TopR>,
        (m, n): (usize, usize),
    ) -> Result<TopR> {
        if self.group.is_single() {
            return find();
        }
        let found = self.group.is_first().then(find).transpose()?;
        let mut sizes = found.as_ref().map_or([0, 0], |t| [t.s.len() as u64, t.all.len() as u64]);
        self.group.broadcast(0, &mut sizes)?;
        let [r, all] = sizes.map(|v| v as usize);
        let mut values = match &found {
            Some(t) => {
                let mut values = super::features::row_major_f64(t.u.as_ref());
                values.extend(super::features::row_major_f64(t.v.as_ref()));
                values.extend(t.s.iter().chain(&t.all));
                values
            }
            None => vec![0.0; (m + n + 1) * r + all],
        };
        self.group.broadcast(0, &mut values)?;
        let (u, rest) = values.split_at(m * r);
        let (v, rest) = rest.split_at(n * r);
        let (s, all) = rest.split_at(r);
        Ok(TopR {
            u: Mat::from_fn(m, r, |i, j| u[i * r + j]),
            s: s.to_vec(),
            v: Mat::from_fn(n, r, |i, j| v[i * r + j]),
            all: all.to_vec(),
        })
    }

    /// Runs `read` on this rank's rows of a source: what it gave on all ranks.
    pub(super) fn over_shares(&self, source: &dyn RowSource, read: Reader<'_>) -> Result<Vec<Vec<u64>>> {
        let all = 0..source.rows();
        if self.group.is_single() {
            return Ok(vec![read(source, all)?]);
        }
        let rows = match self.group.any(source.held() != all)? {
            true => source.held(),
            false => self.layout(source.rows()).own(),
        };
        self.group.allgather(&read(source, rows)?)
    }

    /// A check of the rows of a source, which of several ranks each reads some of; equal rows are looked for by one rank only.
    pub(super) fn duplicates_of_ranks(&self, source: &dyn RowSource) -> Result<(Survey, Option<Duplicates>)> {
        if !self.group.is_single() {
            return Ok((self.survey(source)?, None));
        }
        if let Some(seen) = source.examine() {
            return Ok((seen?, None));
        }
        let screened = check_digests(source, 0..source.rows())?;
        Ok((screened.seen, Some(Duplicates::of(&screened.digests))))
    }

    /// This rank's rows of a source, from whichever ranks can read them.
    pub(super) fn load_share(&self, source: &dyn RowSource) -> Result<Matrix> {
        if self.group.is_single() {
            return self.load_rows(source);
        }
        let (n, held, own) = (source.rows(), source.held(), self.layout(source.rows()).own());
        if n > i32::MAX as usize {
            let what = format!("{}: {n} rows on CUDA", source.name());
            return Err(Error::Unsupported(what));
        }
        let elsewhere = self.group.any(held.start > own.start || held.end < own.end)?;
        let readable = if elsewhere { held.clone() } else { own.clone() };
        // Rows travel as they are stored: all ranks store them alike.
        let dtype = source.view().map_or(u64::MAX, |v| v.dtype() as u64);
        let dtypes = self.group.concat(vec![dtype])?;
        let mine = if dtypes.iter().all(|d| *d == dtypes[0]) {
            self.load_rows(&RowRange::new(source, readable)?)?
        } else {
            self.load_rows(&Unseen(RowRange::new(source, readable)?))?
        };
        if !elsewhere {
            return Ok(mine.held_as(own, n));
        }
        let ends = self.group.concat(vec![held.end as u64])?;
        let owner = |i: usize| ends.partition_point(|&end| end as usize <= i);
        let ids: Vec<u32> = own.clone().map(|i| i as u32).collect();
        Ok(self.fetch(&mine.held_as(held, n), &ids, &owner)?.held_as(own, n))
    }

    /// Rows of `x` that are here, by their number among these, on the host.
    fn raw(&self, x: &Matrix, ids: &[u32]) -> Result<Raw> {
        Ok(match self.gather(x, ids)?.into_data() {
            Data::Wide(buffer) => Raw::Wide(self.device.download(buffer.view())?),
            Data::Narrow(_, buffer) | Data::Embedded(_, buffer) => {
                Raw::Half(self.device.download(buffer.view())?)
            }
            Data::HostWide(values) => Raw::Wide(values),
            Data::HostNarrow(_, values) => Raw::Half(values),
        })
    }

    /// A matrix on the device from rows as they are stored.
    pub(super) fn matrix_of(&self, kind: Kind, rows: usize, cols: usize, raw: &Raw) -> Result<Matrix> {
        let what = "rows of other ranks";
        let data = match (kind, raw) {
            (Kind::Wide, Raw::Wide(v)) => Data::Wide(self.device.upload(v, what)?),
            (Kind::Narrow(narrow), Raw::Half(v)) => Data::Narrow(narrow, self.device.upload(v, what)?),
            (Kind::Embedded(depth), Raw::Half(v)) => Data::Embedded(depth, self.device.upload(v, what)?),
            _ => return Err(Error::Cuda("internal: rows of another type".into())),
        };
        Ok(Matrix::new(rows, cols, data))
    }

    /// The rows `ids` of a matrix, which every rank asks for itself. A collective.
    pub(super) fn fetch(&self, x: &Matrix, ids: &[u32], owner: &dyn Fn(usize) -> usize) -> Result<Matrix> {
        if self.group.is_single() {
            return self.gather(x, ids);
        }
        if let Some(whole) = x.whole().get() {
            return self.gather(whole, ids);
        }
        let (kind, size, first) = (Kind::of(x), self.group.size(), x.held().start as u32);
        let mut wanted = vec![Vec::new(); size];
        ids.iter().for_each(|&id| wanted[owner(id as usize)].push(id));
        let asked = self.group.exchange(wanted)?;
        let owners = ids.iter().map(|&id| owner(id as usize));
        let width = kind.width(x.cols());
        let local = |ids: Vec<u32>| -> Vec<u32> { ids.into_iter().map(|id| id - first).collect() };
        if let Some(link) = &self.link {
            let owners: Vec<usize> = owners.collect();
            let asked: Vec<Vec<u32>> = asked.into_iter().map(local).collect();
            return self.fetch_linked(link, x, &owners, &asked);
        }
        let raw = match kind {
            Kind::Wide => {
                let mut answers = Vec::with_capacity(size);
                for ids in asked {
                    answers.push(self.raw(x, &local(ids))?.wide()?);
                }
                Raw::Wide(interleave(&self.group.exchange(answers)?, owners, width)?)
            }
            Kind::Narrow(_) | Kind::Embedded(_) => {
                let mut answers = Vec::with_capacity(size);
                for ids in asked {
                    answers.push(self.raw(x, &local(ids))?.half()?);
                }
                Raw::Half(interleave(&self.group.exchange(answers)?, owners, width)?)
            }
        };
        self.matrix_of(kind, ids.len(), x.cols(), &raw)
    }

    /// This rank's share of the rows `ids`, on the host.
    pub(super) fn own_raw(&self, x: &Matrix, ids: &[u32]) -> Result<Raw> {
        let held = x.held();
        let mine = ids.iter().filter(|&&id| held.contains(&(id as usize)));
        let mine: Vec<u32> = mine.map(|&id| id - held.start as u32).collect();
        self.raw(x, &mine)
    }

    /// The rows `ids` of a matrix, which all ranks want, from the shares of all. A collective.
    pub(super) fn join_raw(&self, x: &Matrix, ids: &[u32], own: Raw) -> Result<Raw> {
        let layout = self.layout(x.all_rows());
        let owners = ids.iter().map(|&id| layout.owner(id as usize));
        let width = Kind::of(x).width(x.cols());
        Ok(match own {
            Raw::Wide(v) => Raw::Wide(interleave(&self.group.allgather(&v)?, owners, width)?),
            Raw::Half(v) => Raw::Half(interleave(&self.group.allgather(&v)?, owners, width)?),
        })
    }

    /// All rows of a matrix on this device, gathered the first time: embeddings of the similarities. A collective.
    pub(super) fn complete<'a>(&self, x: &'a Matrix) -> Result<&'a Matrix> {
        if self.group.is_single() {
            return Ok(x);
        }
        if let Some(whole) = x.whole().get() {
            return Ok(whole);
        }
        let (n, r) = (x.all_rows(), x.cols());
        let depth = depth_of(r);
        let split;
        let own = match x.data() {
            Data::Embedded(..) => x,
            // As the sweeps take them.
            _ => {
                let buffer = self.embedded(x, None)?.into_buffer();
                let Some(buffer) = buffer else {
                    return Err(Error::Cuda("internal: embeddings that are lent".into()));
                };
                split = Matrix::new(x.rows(), r, Data::Embedded(depth, buffer)).beside(x);
                &split
            }
        };
        let what = format!("embeddings of all ranks ({n} x {r})");
        let whole = match &self.link {
            Some(link) => self.bring_linked(link, own, Wanted::Range(0..n), &what)?.arrived(self)?,
            None => {
                let all = self.device.alloc::<u16>(n * 2 * depth, &what)?;
                for rows in panels_of(0..n, PIECE) {
                    let ids: Vec<u32> = rows.clone().map(|i| i as u32).collect();
                    let to = all.view().part(rows.start * 2 * depth..rows.end * 2 * depth)?;
                    let raw = self.join_raw(own, &ids, self.own_raw(own, &ids)?)?;
                    self.device.upload_to(&raw.half()?, to)?;
                }
                Matrix::new(n, r, Data::Embedded(depth, all))
            }
        };
        Ok(x.whole().get_or_init(|| Box::new(whole)))
    }

    /// Rows by number, in that order: of several ranks each gets its share of the result.
    pub(super) fn select_rows(&self, x: &Matrix, ids: &[u32]) -> Result<Matrix> {
        if self.group.is_single() {
            return self.gather(x, ids);
        }
        let own = self.layout(ids.len()).own();
        let layout = self.layout(x.all_rows());
        let found = self.fetch(x, &ids[own], &|i| layout.owner(i))?;
        Ok(self.as_share(found, ids.len()))
    }

    /// Hands all rows out in order, on every rank.
    pub(super) fn store_share(
        &self,
        x: &Matrix,
        sink: &mut dyn FnMut(usize, &[f64]) -> Result<()>,
    ) -> Result<()> {
        let mut panels = Panels::new(self, x, None)?;
        let (first, mut values) = (x.held().start, Vec::new());
        for (owner, rows) in self.layout(x.all_rows()).pieces(PANEL) {
            let mut panel = if owner == self.group.rank() {
                self.device.download(panels.get(rows.start - first..rows.end - first)?)?
            } else {
                vec![0f32; rows.len() * x.cols()]
            };
            self.group.broadcast(owner, &mut panel)?;
            values.clear();
            values.extend(panel.into_iter().map(f64::from));
            sink(rows.start, &values)?;
        }
        Ok(())
    }

    /// The lists of all ranks' queries.
    pub(super) fn join_lists(&self, own: TopK) -> Result<TopK> {
        let TopK { k, scores, indices } = own;
        Ok(TopK { k, scores: self.group.concat(scores)?, indices: self.group.concat(indices)? })
    }
}

impl Raw {
    fn wide(self) -> Result<Vec<f32>> {
        match self {
            Self::Wide(v) => Ok(v),
            Self::Half(_) => Err(Error::Cuda("internal: 16-bit rows among others".into())),
        }
    }

    fn half(self) -> Result<Vec<u16>> {
        match self {
            Self::Half(v) => Ok(v),
            Self::Wide(_) => Err(Error::Cuda("internal: fp32 rows among others".into())),
        }
    }
}

/// A source whose stored elements are not shown, so that it is read as fp32.
struct Unseen<S>(S);

impl<S: RowSource> RowSource for Unseen<S> {
    fn rows(&self) -> usize {
        self.0.rows()
    }
    fn cols(&self) -> usize {
        self.0.cols()
    }
    fn read_rows(&self, start: usize, out: &mut [f32]) -> Result<()> {
        self.0.read_rows(start, out)
    }
    fn read_rows_f64(&self, start: usize, out: &mut [f64]) -> Result<()> {
        self.0.read_rows_f64(start, out)
    }
    fn name(&self) -> &str {
        self.0.name()
    }
}
