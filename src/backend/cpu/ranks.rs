//! Rows that other ranks hold, or that are in a file: fetched by number, or streamed past in order.

use super::Cpu;
use super::matrix::Matrix;
use super::panels::Meter;
use super::ready::Ready;
use super::spill::bytes;
use super::tiles::Tiles;
use super::window::{Columns, Lookup, Window};
use crate::backend::Similarity;
use crate::control::Phase;
use crate::distributed::Layout;
use crate::error::Result;
use crate::real::Real;
use crate::similarity::schedule::{TILE, TileSchedule};
use bytemuck::Pod;
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

/// Rows whose partners are fetched from other ranks at once.
const LOOKUPS: usize = 65_536;
/// Columns that are streamed at once.
pub(crate) const PIECE: usize = 16 * TILE;

/// What comes past the panels of rows with the columns of some tiles.
pub(crate) struct Passing<'a, T: Real> {
    pub(super) phase: Phase,
    pub(super) tiles: &'a Tiles<'a, T>,
    /// Matrices whose rows at the columns are shown: first embeddings, where similarities come from any.
    pub(super) matrices: Vec<&'a Matrix<T>>,
    /// The columns' coefficients, where they are shared out.
    pub(super) coefficients: Option<&'a Matrix<T>>,
    /// All columns packed, where that pays.
    pub(super) ready: Option<Ready<T>>,
    /// Columns of a block at most.
    pub(super) width: usize,
}

impl<'a, T: Real> Passing<'a, T> {
    /// The embeddings and `others`, in blocks as large as what is here.
    pub(super) fn new(phase: Phase, tiles: &'a Tiles<'a, T>, others: Option<&'a Matrix<T>>) -> Self {
        let embeddings = tiles.source.embeddings().map(|(_, zy)| zy);
        let matrices = embeddings.into_iter().chain(others).collect();
        Self { phase, tiles, matrices, coefficients: None, ready: None, width: usize::MAX }
    }

    /// The same, with all columns and the values `v` packed in parts of `width` where that pays.
    pub(super) fn packed(self, cpu: &Cpu<T>, v: Option<&Matrix<T>>, width: usize) -> Result<Self> {
        let z = self.tiles.source.embeddings().map(|(_, zy)| zy);
        Ok(Self { ready: cpu.ready((&self.tiles.schedule, self.tiles.unit), z, v, width)?, ..self })
    }
}

impl<T: Real> Cpu<T> {
    /// How `n` samples are shared out, in panels of `panel` rows.
    pub(super) fn layout(&self, n: usize, panel: usize) -> Layout {
        self.group.layout(n, panel)
    }

    /// Whether all rows of these matrices are in this process's memory.
    pub(super) fn all_here(&self, matrices: &[&Matrix<T>]) -> bool {
        self.group.is_single() && matrices.iter().all(|m| m.is_resident())
    }

    /// Whether the columns that a schedule visits can be visited again at no cost: they are here, or are a sample of a file's.
    pub(super) fn columns_stay(&self, schedule: &TileSchedule, matrices: &[&Matrix<T>]) -> bool {
        self.group.is_single() && (schedule.is_sampled() || self.all_here(matrices))
    }

    /// The memory limit that the sizes of pieces and stages follow. Ranks, whose limits may differ, take equal ones instead.
    pub(super) fn own_limit(&self) -> Option<u64> {
        self.spill.as_ref().filter(|_| self.group.is_single()).map(|spill| spill.limit)
    }

    /// Of `most` rows whose partners are looked up, those of a step: all where nothing is to be fetched, few where much may be.
    pub(super) fn lookup_step(&self, most: usize) -> usize {
        if self.group.is_single() { most.max(1) } else { LOOKUPS }
    }

    /// The order of a sample's rows, where its samples may be other ranks' rows.
    pub(super) fn order_to_place<'p>(&self, schedule: &'p TileSchedule) -> Option<&'p [u32]> {
        schedule.x_ids().filter(|_| !self.group.is_single())
    }

    /// The same similarities, explicit ones on every rank as a whole.
    pub(super) fn whole<'a>(
        &self,
        s: Similarity<'a, Matrix<T>>,
        hold: &'a mut Option<Matrix<T>>,
    ) -> Result<Similarity<'a, Matrix<T>>> {
        match s {
            Similarity::Dense(s) if !self.group.is_single() => {
                Ok(Similarity::Dense(hold.insert(self.complete(s)?)))
            }
            s => Ok(s),
        }
    }

    /// The rows `ids` of a matrix as a matrix. A collective.
    pub(super) fn select_rows(&self, x: &Matrix<T>, ids: &[u32]) -> Result<Matrix<T>> {
        let (d, own) = (x.cols(), self.layout(ids.len(), TILE).own());
        if self.group.is_single() {
            return self.build(ids.len(), d, |rows, panel| {
                let mut scratch = Vec::new();
                for (out, &id) in panel.chunks_exact_mut(d).zip(&ids[rows]) {
                    out.copy_from_slice(x.row(id as usize, &mut scratch)?);
                }
                Ok(())
            });
        }
        let mut out = self.zeros(ids.len(), d)?;
        out.data_mut().copy_from_slice(&self.fetch(x, &ids[own])?);
        Ok(out)
    }

    /// How the rows of a schedule are shared out, by position.
    pub(super) fn rows_of(&self, schedule: &TileSchedule) -> Layout {
        self.layout(schedule.n_x(), schedule.tile())
    }

    /// This rank's panels of a schedule.
    pub(super) fn own_panels(&self, schedule: &TileSchedule) -> Range<usize> {
        schedule.panels_of(&self.rows_of(schedule).own())
    }

    /// The rows `ids` of a matrix, in that order. With several ranks a collective: each asks for its own.
    pub(super) fn fetch(&self, m: &Matrix<T>, ids: &[u32]) -> Result<Vec<T>> {
        let d = m.cols();
        let mut out = vec![T::default(); ids.len() * d];
        let mut scratch = Vec::new();
        if self.group.is_single() {
            for (out, &id) in out.chunks_exact_mut(d.max(1)).zip(ids) {
                out.copy_from_slice(m.row(id as usize, &mut scratch)?);
            }
            return Ok(out);
        }
        self.ask(m.rows(), ids, &mut out, |id, answer| {
            answer.extend_from_slice(m.row(id, &mut scratch)?);
            Ok(())
        })?;
        Ok(out)
    }

    /// What the owners of the samples `ids` of `n` say of them, as many numbers for each, into `out`: `answer` adds what is
    /// said of one to a list. A collective of several ranks.
    pub(super) fn ask<U: Pod>(
        &self,
        n: usize,
        ids: &[u32],
        out: &mut [U],
        mut answer: impl FnMut(usize, &mut Vec<U>) -> Result<()>,
    ) -> Result<()> {
        let (layout, d) = (self.layout(n, TILE), out.len() / ids.len().max(1));
        let (mut wanted, mut places) =
            (vec![Vec::new(); self.group.size()], vec![Vec::new(); self.group.size()]);
        for (k, &id) in ids.iter().enumerate() {
            let owner = layout.owner(id as usize);
            wanted[owner].push(id);
            places[owner].push(k);
        }
        let asked = self.group.exchange(wanted)?;
        let mut answers = Vec::with_capacity(asked.len());
        for ids in asked {
            let mut said = Vec::new();
            for id in ids {
                answer(id as usize, &mut said)?;
            }
            answers.push(said);
        }
        for (rows, places) in self.group.exchange(answers)?.into_iter().zip(places) {
            for (row, k) in rows.chunks_exact(d.max(1)).zip(places) {
                out[k * d..(k + 1) * d].copy_from_slice(row);
            }
        }
        Ok(())
    }

    /// Access to this rank's rows of `m` and to those of `wanted`, in any order. A collective.
    pub(super) fn lookup<'a>(
        &self,
        m: &'a Matrix<T>,
        wanted: impl Iterator<Item = usize>,
    ) -> Result<Lookup<'a, T>> {
        if self.group.is_single() {
            return Ok(Lookup { matrix: m, ids: Vec::new(), data: Vec::new() });
        }
        let own = m.own();
        let mut ids: Vec<u32> = wanted.filter(|id| !own.contains(id)).map(|id| id as u32).collect();
        ids.sort_unstable();
        ids.dedup();
        let data = self.fetch(m, &ids)?;
        Ok(Lookup { matrix: m, ids, data })
    }

    /// The matrix whose row `ids[k]` is the `k`-th of `rows`; every id is on one rank. A collective.
    pub(super) fn place(&self, n: usize, cols: usize, ids: &[u32], rows: Vec<T>) -> Result<Matrix<T>> {
        let mut out = self.zeros(n, cols)?;
        let own = out.own();
        let mut put = |id: u32, row: &[T]| {
            let k = id as usize - own.start;
            out.data_mut()[k * cols..(k + 1) * cols].copy_from_slice(row);
        };
        if cols == 0 {
            return Ok(out);
        }
        if self.group.is_single() {
            ids.iter().zip(rows.chunks_exact(cols)).for_each(|(&id, row)| put(id, row));
            return Ok(out);
        }
        let layout = self.layout(n, TILE);
        let size = self.group.size();
        let (mut names, mut values) = (vec![Vec::new(); size], vec![Vec::new(); size]);
        for (&id, row) in ids.iter().zip(rows.chunks_exact(cols)) {
            let owner = layout.owner(id as usize);
            names[owner].push(id);
            values[owner].extend_from_slice(row);
        }
        drop(rows);
        let (names, values) = (self.group.exchange(names)?, self.group.exchange(values)?);
        for (ids, rows) in names.iter().zip(values) {
            ids.iter().zip(rows.chunks_exact(cols)).for_each(|(&id, row)| put(id, row));
        }
        Ok(out)
    }

    /// All rows of a matrix, on every rank: small ones only. A collective.
    pub(super) fn complete(&self, m: &Matrix<T>) -> Result<Matrix<T>> {
        let mut scratch = Vec::new();
        let own = m.panel(&m.own(), &mut scratch)?.to_vec();
        let all = self.group.concat(own)?;
        let mut out = Matrix::zeros(m.rows(), m.cols(), 0..m.rows(), &self.account)?;
        out.data_mut().copy_from_slice(&all);
        Ok(out)
    }

    /// The rows of `m` at this rank's row positions. A collective.
    pub(super) fn row_window<'a>(
        &self,
        schedule: &'a TileSchedule,
        m: &'a Matrix<T>,
    ) -> Result<Window<'a, T>> {
        match schedule.x_ids() {
            Some(ids) if self.order_to_place(schedule).is_some() => {
                let own = self.rows_of(schedule).own();
                let data = self.fetch(m, &ids[own.clone()])?.into();
                Ok(Window::Piece { start: own.start, cols: m.cols(), data })
            }
            ids => Ok(Window::Matrix(m, ids)),
        }
    }

    /// The embeddings of this rank's rows, where similarities come from any. A collective.
    pub(super) fn row_embeddings<'a>(&self, tiles: &'a Tiles<'_, T>) -> Result<Option<Window<'a, T>>> {
        let zx = tiles.source.embeddings().map(|(zx, _)| self.row_window(&tiles.schedule, zx));
        zx.transpose()
    }

    /// Shows this rank all columns that its `panels` visit, in ascending order of positions, in blocks: `compute` with what comes
    /// past there, then `after` (which may call collectives). The next block is fetched while `compute` runs on the pool.
    /// `stage` of `stages` such visits make up the whole, for progress.
    pub(super) fn columns<S: Send>(
        &self,
        passing: &Passing<'_, T>,
        (stage, stages): (usize, usize),
        panels: Range<usize>,
        state: &mut S,
        compute: impl Fn(&mut S, &Columns<'_, T>, &Meter) -> Result<()> + Sync + Send,
        mut after: impl FnMut(&mut S) -> Result<()>,
    ) -> Result<()> {
        let &Passing { phase, tiles, coefficients, width, .. } = passing;
        let (schedule, ready) = (&tiles.schedule, passing.ready.as_ref());
        let matrices: Vec<&Matrix<T>> = passing.matrices.iter().copied().chain(coefficients).collect();
        let passing = coefficients.is_some();
        let embedded = tiles.source.embeddings().is_some();
        let width = (width / schedule.tile()).max(1) * schedule.tile();
        if schedule.is_sampled() && !self.group.is_single() {
            let windows: Result<_> =
                matrices.iter().map(|m| self.halo(schedule, panels.clone(), m)).collect();
            let piece =
                Columns { range: 0..schedule.n_y(), ready: None, windows: windows?, embedded, passing };
            let meter = Meter::quiet(phase);
            compute(state, &piece, &meter)?;
            self.report(phase, stage + 1, stages)?;
            return after(state);
        }
        if self.columns_stay(schedule, &matrices) || matrices.is_empty() {
            let pieces = schedule.n_y().div_ceil(width);
            for k in 0..pieces {
                let range = k * width..((k + 1) * width).min(schedule.n_y());
                let windows = matrices.iter().map(|m| Window::Matrix(m, schedule.y_ids())).collect();
                let piece = Columns { range, ready, windows, embedded, passing };
                let meter = Meter {
                    phase,
                    done: stage * pieces + k,
                    of: stages * pieces,
                    quiet: !self.group.is_single(),
                };
                compute(state, &piece, &meter)?;
                after(state)?;
            }
            return Ok(());
        }
        let layout = self.layout(schedule.n_y(), schedule.tile());
        let cols = matrices.iter().map(|m| m.cols()).sum();
        let pieces = layout.pieces(width.min(self.piece_rows(cols)));
        let mut next = self.bring(&matrices, &pieces[0])?;
        for (k, (owner, range)) in pieces.iter().enumerate() {
            let here = std::mem::take(&mut next);
            let mut windows = Vec::with_capacity(matrices.len());
            for (m, data) in matrices.iter().zip(here) {
                windows.push(if *owner == self.group.rank() && m.is_resident() {
                    Window::Matrix(m, None)
                } else {
                    Window::Piece { start: range.start, cols: m.cols(), data: data.into() }
                });
            }
            let piece = Columns { range: range.clone(), ready: None, windows, embedded, passing };
            let meter = Meter::quiet(phase);
            let mut done = Ok(0.0);
            let mut brought = Ok(Vec::new());
            let mut spent = 0.0;
            self.pool.in_place_scope(|scope| {
                let (done, state, piece) = (&mut done, &mut *state, &piece);
                let (meter, compute) = (&meter, &compute);
                scope.spawn(move |_| {
                    let begin = Instant::now();
                    *done = compute(state, piece, meter).map(|()| begin.elapsed().as_secs_f64());
                });
                if let Some(piece) = pieces.get(k + 1) {
                    let begin = Instant::now();
                    brought = self.bring(&matrices, piece);
                    spent = begin.elapsed().as_secs_f64();
                }
            });
            self.group.hid(spent.min(done?));
            next = brought?;
            after(state)?;
            self.report(phase, stage * pieces.len() + k + 1, stages * pieces.len())?;
        }
        Ok(())
    }

    /// Rows of a piece of `cols` columns, of which two are held at a time: an eighth of the memory limit together. Ranks, whose
    /// limits may differ, cut equal ones.
    fn piece_rows(&self, cols: usize) -> usize {
        match self.own_limit() {
            Some(limit) => {
                let rows = limit / 16 / bytes::<T>(1, cols.max(1));
                (rows.min(PIECE as u64) as usize / TILE).max(1) * TILE
            }
            _ => PIECE,
        }
    }

    /// The rows of a piece, from whoever holds them. Empty where they are in memory here.
    fn bring(&self, matrices: &[&Matrix<T>], (owner, range): &(usize, Range<usize>)) -> Result<Vec<Vec<T>>> {
        let mut out = Vec::with_capacity(matrices.len());
        for m in matrices {
            let mut data = Vec::new();
            if *owner == self.group.rank() {
                let rows = m.panel(range, &mut data)?;
                self.group.send(rows)?;
            } else {
                data.resize(range.len() * m.cols(), T::default());
                self.group.broadcast(*owner, &mut data)?;
            }
            out.push(data);
        }
        Ok(out)
    }

    /// The tiles of columns that the `panels` of a sampled schedule visit.
    fn halo(
        &self,
        schedule: &TileSchedule,
        panels: Range<usize>,
        m: &Matrix<T>,
    ) -> Result<Window<'static, T>> {
        let mut ranges: Vec<Range<usize>> = panels.flat_map(|p| schedule.tiles(p)).collect();
        ranges.sort_unstable_by_key(|r| r.start);
        ranges.dedup();
        let mut ids = Vec::new();
        let mut places = BTreeMap::new();
        for range in ranges {
            places.insert(range.start, (range.end, ids.len() * m.cols()));
            ids.extend(range.map(|j| schedule.col_id(j) as u32));
        }
        let data = self.fetch(m, &ids)?;
        Ok(Window::Tiles { cols: m.cols(), places, data })
    }
}
