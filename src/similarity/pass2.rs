//! Pass 2: similarities are made again, turned into weights, and multiplied at once: `S V`, `S^T U` and `X^T S Y`, never an
//! `n x n` matrix. Some rows at a time meet one block of columns after the other.

use super::blocks::{Blocks, Sign, Stage};
use super::coefficients::Coefficients;
use super::schedule::TileSchedule;
use super::weights::Weights;
use crate::backend::Similarity;
use crate::error::Result;
use faer::Mat;

/// `S V` (`n_x x d`), or with `transposed` `S^T V` (`n_y x d`).
pub(crate) fn apply<B: Blocks>(
    backend: &B,
    s: Similarity<'_, B::Matrix>,
    w: &Weights,
    transposed: bool,
    v: &B::Matrix,
) -> Result<B::Matrix> {
    signed_product(backend, s, w, transposed, v, Sign::Plus)
}

/// [`apply`] times a sign.
pub(crate) fn signed_product<B: Blocks>(
    backend: &B,
    s: Similarity<'_, B::Matrix>,
    w: &Weights,
    transposed: bool,
    v: &B::Matrix,
    sign: Sign,
) -> Result<B::Matrix> {
    let kind = (sign, matches!(s, Similarity::Zeros(..)));
    with_tiles(backend, s, w, transposed, |tiles| {
        let values = backend.values(tiles, v)?;
        backend.collect_rows(tiles, &values, |stage, out| product(backend, tiles, &values, stage, kind, out))
    })
}

/// `X^T S Y` (`d1 x d2`): the narrower side is contracted first, `2 n^2 min(d1, d2)` operations beside the tiles'.
pub(crate) fn cross<B: Blocks>(
    backend: &B,
    s: Similarity<'_, B::Matrix>,
    w: &Weights,
    x: &B::Matrix,
    y: &B::Matrix,
) -> Result<Mat<f64>> {
    let transposed = backend.shape(x).1 < backend.shape(y).1;
    let (outer, inner) = if transposed { (y, x) } else { (x, y) };
    let kind = (Sign::Plus, matches!(s, Similarity::Zeros(..)));
    let c = with_tiles(backend, s, w, transposed, |tiles| {
        let values = backend.values(tiles, inner)?;
        let fill = |stage: &Stage, out: &mut B::Rows<'_>| product(backend, tiles, &values, stage, kind, out);
        backend.cross_rows(tiles, &values, outer, fill)
    })?;
    Ok(if transposed { c.transpose().to_owned() } else { c })
}

/// `S V` times a sign on the rows of a stage; with `zeros` all similarities are 0.
fn product<B: Blocks>(
    backend: &B,
    tiles: &B::WeightTiles<'_>,
    values: &B::Values<'_>,
    stage: &Stage,
    (sign, zeros): (Sign, bool),
    out: &mut B::Rows<'_>,
) -> Result<()> {
    if zeros {
        backend.add_flat_product(tiles, values, stage, out)?;
    } else {
        let add = |out: &mut &mut B::Rows<'_>, columns: &B::Columns<'_>| {
            backend.add_product(tiles, columns, stage, out)
        };
        backend.for_columns(values.as_ref(), stage, &mut &mut *out, add, |_| Ok(()))?;
    }
    backend.finish_rows(tiles, values, stage, sign, out)
}

/// Runs `f` with the weights `S`, or `S^T`, as tiles.
pub(crate) fn with_tiles<B: Blocks, R>(
    backend: &B,
    s: Similarity<'_, B::Matrix>,
    w: &Weights,
    transposed: bool,
    f: impl FnOnce(&B::WeightTiles<'_>) -> Result<R>,
) -> Result<R> {
    let zeros = matches!(s, Similarity::Zeros(..));
    // The sample is the one that was drawn for the rows.
    let schedule = TileSchedule::of(&s, &w.positives, w.negatives);
    let (back, schedule) = match transposed {
        true => (Some(w.transposed()), schedule.transposed()),
        false => (None, schedule),
    };
    let w = back.as_ref().unwrap_or(w);
    let problem = backend.problem(s, transposed, &w.loss, &w.positives, schedule.clone())?;
    let (held, limit) = (backend.anchors_held(w), backend.exponent_limit());
    let coefficients = Coefficients::new(backend.group(), w, &schedule, zeros, held, limit)?;
    let tiles = backend.weight_tiles(&problem, w, coefficients)?;
    f(&tiles)
}
