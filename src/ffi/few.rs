//! A few rows through a linear encoder, on the calling thread: a query that is waited for. What is ready for it is kept with the
//! model; everything out of the ordinary is left to [`Model::encode`], whose results these are.

use super::context::{Context, Device};
use super::matrix::{Input, Output};
use crate::backend::cpu::gemm::gemm_nt;
use crate::error::Result;
use crate::io::Dtype;
use crate::model::{Encoder, Model, Side};
use crate::real::Real;
use std::sync::OnceLock;

/// Rows that are few, and multiplications that threads would not make faster.
const ROWS: usize = 16;
const WORK: usize = 1 << 21;
/// Magnitudes of encoders and rows that float32 has room for without scaling; zero rows too.
const ENCODER: std::ops::Range<f64> = 1e-15..1e15;
const FEATURES: std::ops::Range<f64> = 1e-5..1e5;

/// A linear encoder in both precisions, row by row; none where it is not an ordinary one.
#[derive(Default)]
pub(super) struct Ready {
    narrow: OnceLock<Option<Vec<f32>>>,
    wide: OnceLock<Option<Vec<f64>>>,
}

impl Ready {
    /// Encodes rows into `out`, if they are few and ordinary; else it returns false and has done nothing.
    pub(super) fn encode(
        &self,
        context: &Context,
        model: &Model,
        side: Side,
        features: &Input<'_>,
        out: &Output<'_>,
    ) -> Result<bool> {
        let r = model.embedding_dim();
        let few = features.rows <= ROWS && features.rows * features.cols * r <= WORK;
        if !few || !matches!(context.device(), Device::Cpu(_)) || context.has_limits() {
            return Ok(false);
        }
        match features.dtype {
            Dtype::F64 => run(&self.wide, model, side, features, out),
            _ => run(&self.narrow, model, side, features, out),
        }
    }
}

fn run<T: Real>(
    ready: &OnceLock<Option<Vec<T>>>,
    model: &Model,
    side: Side,
    features: &Input<'_>,
    out: &Output<'_>,
) -> Result<bool> {
    let Some(f) = ready.get_or_init(|| prepared(model, side)) else { return Ok(false) };
    let Some(encoder) = only(model, side) else { return Ok(false) };
    let (n, d, r) = (features.rows, features.cols, model.embedding_dim());
    let mut values = vec![0f64; n * d];
    features.source().read_rows_f64(0, &mut values)?;
    if let Some(offset) = &encoder.offset {
        values.chunks_exact_mut(d).for_each(|row| row.iter_mut().zip(&offset[..]).for_each(|(v, m)| *v -= m));
    }
    let most = |row: &[f64]| {
        row.iter().fold(0f64, |most, v| if v.is_finite() { most.max(v.abs()) } else { f64::NAN })
    };
    if !values.chunks_exact(d).all(|row| matches!(most(row), m if m == 0.0 || FEATURES.contains(&m))) {
        return Ok(false);
    }
    let x: Vec<T> = values.iter().map(|&v| T::of(v)).collect();
    let (mut z, mut lengths) = (vec![T::default(); n * r], vec![T::default(); n]);
    gemm_nt(n, r, d, false, &mut z, r, &x, d, f, d);
    T::normalize_rows(&mut z, r, &mut lengths);
    // So short that the general way may see it otherwise.
    if lengths.iter().any(|l| !(l.as_f64() > 1e-10 && l.as_f64().is_finite())) {
        return Ok(false);
    }
    out.put_rows(0, &z.iter().map(|v| v.as_f64()).collect::<Vec<_>>())?;
    Ok(true)
}

/// The encoder of a side of a model that has one and nothing after it.
fn only(model: &Model, side: Side) -> Option<&Encoder> {
    let ([only], None) = (&model.components[..], &model.compression) else { return None };
    Some(match side {
        Side::X => &only.x,
        Side::Y => &only.y,
    })
}

/// `F` of an ordinary linear encoder, `r x d` row by row.
fn prepared<T: Real>(model: &Model, side: Side) -> Option<Vec<T>> {
    let Encoder { map: None, matrix, offset: _ } = only(model, side)? else { return None };
    if !ENCODER.contains(&matrix.norm_max()) {
        return None;
    }
    Some((0..matrix.nrows()).flat_map(|i| (0..matrix.ncols()).map(move |j| T::of(matrix[(i, j)]))).collect())
}
