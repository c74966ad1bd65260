//! Gradients with respect to the embeddings: `dL/dZ_x = -S Z_y` and `dL/dZ_y = -S^T Z_x`.

use super::blocks::{Blocks, BothSides, Sign};
use super::pass2::{signed_product, with_tiles};
use super::weights::Weights;
use crate::backend::Similarity;
use crate::error::Result;

/// Both, each tile's weights being made once for both where that costs less than two products.
pub(crate) fn gradients<B: Blocks>(
    backend: &B,
    zx: &B::Matrix,
    zy: &B::Matrix,
    w: &Weights,
) -> Result<BothSides<B::Matrix>> {
    let s = Similarity::Embeddings(zx, zy);
    if !backend.has_both_products() {
        let of_x = signed_product(backend, s, w, false, zy, Sign::Minus)?;
        return Ok([of_x, signed_product(backend, s, w, true, zx, Sign::Minus)?]);
    }
    with_tiles(backend, s, w, false, |tiles| backend.both_products(tiles, zx, zy)?.run(backend))
}
