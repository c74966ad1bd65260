//! Applying encoders: features are brought into range first, see [`Conditioning`].

use super::{Component, Encoder, KernelMap, Model, Side};
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::io::{Conditioned, Conditioning, RowScale, RowSource, Survey, exponent, is_ordinary, times_power};
use crate::kernel::{Kernel, KernelKind};
use faer::Mat;
use std::borrow::Cow;

impl KernelMap {
    /// The power of two that brings the landmarks into range, all alike.
    fn exponent(&self) -> i32 {
        exponent(self.landmarks.norm_max()).filter(|&e| !is_ordinary(e)).map_or(0, |e| -e)
    }

    /// The same of rows before they were multiplied by `2^e`. Landmarks of kernels that do not see lengths stay scaled.
    pub(crate) fn of_raw_rows(self, e: i32, kernel: Option<Kernel>) -> Self {
        let raw = kernel.unwrap_or_else(|| self.kernel.of_scaled_rows(-e));
        if e == 0 || raw.is_scale_free() {
            return Self { kernel: raw, ..self };
        }
        let z = &self.landmarks;
        let landmarks = Mat::from_fn(z.nrows(), z.ncols(), |i, j| times_power(z[(i, j)], -e));
        Self { kernel: raw, landmarks }
    }

    /// Kernel and landmarks as they apply to features in range.
    fn in_range(&self) -> (Kernel, Cow<'_, Mat<f64>>) {
        let z = &self.landmarks;
        let scaled = |power: &dyn Fn(usize) -> i32| {
            Mat::from_fn(z.nrows(), z.ncols(), |i, j| times_power(z[(i, j)], power(i)))
        };
        match (self.kernel.kind, self.exponent()) {
            (KernelKind::Linear | KernelKind::Rbf | KernelKind::Matern, 0) => (self.kernel, Cow::Borrowed(z)),
            (KernelKind::Linear | KernelKind::Rbf | KernelKind::Matern, e) => {
                (self.kernel.of_scaled_rows(e), Cow::Owned(scaled(&|_| e)))
            }
            // These kernels see angles only: each landmark may be scaled by itself.
            _ => {
                let row = |i: usize| exponent(z.row(i).norm_max()).filter(|&e| !is_ordinary(e));
                let powers: Vec<i32> = (0..z.nrows()).map(|i| row(i).map_or(0, |e| -e)).collect();
                match powers.iter().all(|e| *e == 0) {
                    true => (self.kernel, Cow::Borrowed(z)),
                    false => (self.kernel, Cow::Owned(scaled(&|i| powers[i]))),
                }
            }
        }
    }
}

impl Encoder {
    /// `f(x) = F x`.
    pub fn linear(matrix: Mat<f64>) -> Self {
        Self { offset: None, map: None, matrix }
    }

    /// Width of the raw features.
    pub fn input_dim(&self) -> usize {
        self.map.as_ref().map_or(self.matrix.ncols(), |m| m.landmarks.ncols())
    }

    /// `b = -F m` of a linear encoder `f(x) = F (x - m) = F x + b`; none where nothing is taken out, and of kernels.
    pub fn bias(&self) -> Option<Vec<f64>> {
        let (Some(m), None) = (&self.offset, &self.map) else { return None };
        let row = |i: usize| -(0..m.len()).map(|j| self.matrix[(i, j)] * m[j]).sum::<f64>();
        Some((0..self.matrix.nrows()).map(row).collect())
    }

    /// What brings features that look like `seen` into range.
    fn conditioning(&self, seen: &Survey) -> Conditioning {
        match &self.map {
            Some(map) if !map.kernel.is_scale_free() => {
                let exponent = map.exponent();
                let huge = seen.range().is_some_and(|(_, most)| !is_ordinary(most + exponent));
                let rows = if huge { RowScale::Huge } else { RowScale::None };
                Conditioning { offset: self.offset.clone(), exponent, rows }
            }
            _ => Conditioning::for_encoding(seen, self.offset.as_ref()),
        }
    }

    /// Unit-norm embeddings of features from which the offset has been taken out, in range.
    ///
    /// # Errors
    /// Those of the backend.
    pub(crate) fn apply<B: Backend>(&self, backend: &B, x: &B::Matrix) -> Result<B::Matrix> {
        let Some(map) = &self.map else { return Ok(backend.encode(x, self.matrix.as_ref())?.0) };
        let (kernel, landmarks) = map.in_range();
        let k = backend.kernel(&kernel, x, landmarks.as_ref().as_ref())?;
        Ok(backend.encode(&k, self.matrix.as_ref())?.0)
    }
}

impl Model {
    /// Unit-norm embeddings of raw features: `n x r`. Every row is a unit vector, or zero where the encoder maps the row to
    /// exactly zero, whatever the scale of the features: rows outside of `2^-20 .. 2^20` are multiplied by powers of two
    /// first. A [compressed](Model::compressed) model gives rows whose products are the similarities, of other lengths.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the width is not the model's, and for NaN or infinite features (the row is named);
    /// [`Error::Numerical`] when an embedding is not finite; those of the source and the backend.
    pub fn encode<B: Backend>(&self, backend: &B, side: Side, x: &dyn RowSource) -> Result<B::Matrix> {
        self.check_width(side, x)?;
        let seen = backend.survey(x)?;
        self.encode_surveyed(backend, side, x, &seen)
    }

    /// As [`encode`](Self::encode), of features (or some rows of them) that [`Backend::survey`] has seen: they are read
    /// once.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_surveyed<B: Backend>(
        &self,
        backend: &B,
        side: Side,
        x: &dyn RowSource,
        seen: &Survey,
    ) -> Result<B::Matrix> {
        self.check_width(side, x)?;
        let mut loaded: Option<(Conditioning, B::Matrix)> = None;
        let mut parts = Vec::with_capacity(self.components.len());
        for c in &self.components {
            let encoder = encoder(c, side);
            let how = encoder.conditioning(seen);
            let x = match loaded.take() {
                Some(before) if before.0 == how => loaded.insert(before),
                _ => {
                    let x = match how.is_plain() {
                        true => backend.load(x)?,
                        false => backend.load(&Conditioned::new(x, how.clone()))?,
                    };
                    loaded.insert((how, x))
                }
            };
            parts.push((c.weight.sqrt(), encoder.apply(backend, &x.1)?));
        }
        drop(loaded);
        let fused = match (parts.len(), parts.pop()) {
            (1, Some((_, only))) => only,
            (_, last) => {
                parts.extend(last);
                let blocks: Vec<(f64, &B::Matrix)> = parts.iter().map(|(w, z)| (*w, z)).collect();
                backend.hstack(&blocks)?
            }
        };
        drop(parts);
        match &self.compression {
            Some(a) => backend.linear(&fused, a.of(side).as_ref()),
            None => Ok(fused),
        }
    }

    pub(super) fn check_width(&self, side: Side, x: &dyn RowSource) -> Result<()> {
        let expected = self.input_dim(side);
        if x.cols() == expected {
            return Ok(());
        }
        Err(Error::invalid(x.name(), format!("{expected} columns, as the model's"), x.cols()))
    }
}

pub(super) fn encoder(c: &Component, side: Side) -> &Encoder {
    match side {
        Side::X => &c.x,
        Side::Y => &c.y,
    }
}
