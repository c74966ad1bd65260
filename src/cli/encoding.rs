//! Applying models to data that need not fit in memory: rows in, unit rows out, a chunk at a time.

use super::session::{Precision, Session};
use anyhow::Result;
use unicon::Error;
use unicon::backend::Backend;
use unicon::io::{HostMatrix, RowRange, RowSource, UnitRows};
use unicon::model::{Model, Side};

/// Bytes of one chunk's features, kernel features and embeddings.
const CHUNK_BYTES: usize = 256 << 20;

/// Checks `source` and hands its embeddings to `sink` in row order. Returns the number of zero rows; linear encoders
/// embed them as zero.
pub fn stream<B: Backend>(
    session: &Session,
    backend: &B,
    model: &Model,
    side: Side,
    source: &dyn RowSource,
    sink: &mut dyn FnMut(&[f64]) -> unicon::Result<()>,
) -> Result<usize> {
    let expected = model.input_dim(side);
    if source.cols() != expected {
        let expected = format!("{expected} columns, as the model's");
        return Err(Error::invalid(source.name(), expected, source.cols()).into());
    }
    let seen = backend.survey(source)?;
    // Features as read and as computed with, kernel features, and the embeddings of all components twice.
    let width = 2 * source.cols() + 2 * model.fused_dim() + landmarks(model);
    let chunk = (CHUNK_BYTES / (8 * width.max(1))).max(1);
    for start in (0..source.rows()).step_by(chunk) {
        session.check()?;
        let rows = RowRange::new(source, start..(start + chunk).min(source.rows()))?;
        let z = model.encode_surveyed(backend, side, &rows, &seen)?;
        backend.store(&z, &mut |_, panel| sink(panel))?;
    }
    Ok(seen.zero_rows)
}

/// All embeddings of `source`, in the backend, and the number of zero rows.
pub fn embed<B: Backend>(
    session: &Session,
    backend: &B,
    model: &Model,
    side: Side,
    source: &dyn RowSource,
) -> Result<(B::Matrix, usize)> {
    if !backend.group().is_single() {
        // Each rank holds its rows; none gathers all.
        let seen = backend.survey(source)?;
        return Ok((model.encode_surveyed(backend, side, source, &seen)?, seen.zero_rows));
    }
    let (rows, cols) = (source.rows(), model.embedding_dim());
    // Kept in the precision they were computed in: nothing is lost.
    if session.precision() == Some(Precision::F64) {
        let mut values: Vec<f64> = Vec::new();
        let zero = stream(session, backend, model, side, source, &mut |panel| {
            values.extend_from_slice(panel);
            Ok(())
        })?;
        return Ok((backend.load(&HostMatrix::from_f64(source.name(), rows, cols, values)?)?, zero));
    }
    let mut values: Vec<f32> = Vec::new();
    let zero = stream(session, backend, model, side, source, &mut |panel| {
        values.extend(panel.iter().map(|&v| v as f32));
        Ok(())
    })?;
    Ok((backend.load(&HostMatrix::from_f32(source.name(), rows, cols, values)?)?, zero))
}

/// Checks that matrices fit a model, or without one each other.
pub fn check_widths(model: Option<&Model>, x: &dyn RowSource, y: &dyn RowSource) -> Result<()> {
    if model.is_none() && x.cols() != y.cols() {
        let expected = format!(
            "{} columns, as {} has: embeddings of one space (or a model with --model)",
            x.cols(),
            x.name()
        );
        return Err(Error::invalid(y.name(), expected, y.cols()).into());
    }
    Ok(())
}

/// Embeddings in the backend, and the number of zero rows: those that a model gives, or without one the rows themselves,
/// scaled to unit length.
pub fn embeddings<B: Backend>(
    session: &Session,
    backend: &B,
    model: Option<&Model>,
    side: Side,
    source: &dyn RowSource,
) -> Result<(B::Matrix, usize)> {
    let Some(model) = model else {
        let zero_rows = backend.screen(source)?;
        return Ok((backend.load(&UnitRows::new(source))?, zero_rows));
    };
    embed(session, backend, model, side, source)
}

fn landmarks(model: &Model) -> usize {
    let of = |c: &unicon::model::Component| {
        c.x.map
            .as_ref()
            .map_or(0, |m| m.landmarks.nrows())
            .max(c.y.map.as_ref().map_or(0, |m| m.landmarks.nrows()))
    };
    model.components.iter().map(of).max().unwrap_or(0)
}
