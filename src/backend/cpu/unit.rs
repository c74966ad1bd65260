//! What multiplies tiles: vector registers in the number type itself, or a matrix unit on bfloat16 halves.

use super::gemm::multiply_tn;
use super::simd;
use super::simd::halves::{self, Engine, Order, Packed, Products};
use super::simd::product::{Left, Right, multiply};
use crate::real::Real;
use std::fmt;
use std::ops::Range;

/// What computes the products of tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Multiply-adds of vector registers.
    Vectors,
    /// Products of bfloat16 halves with float32 sums; the numbers are `f32`.
    Halves(Engine, Products),
}

/// What `UNICON_SIMD` says of units.
#[derive(Clone, Copy)]
enum Wish {
    Engine(Engine),
    Vectors,
    Fastest,
}

impl Wish {
    fn of_environment() -> Self {
        match (simd::asked_for(), simd::named_level()) {
            (Some(engine), _) => Self::Engine(engine),
            (None, Some(_)) => Self::Vectors,
            (None, None) => Self::Fastest,
        }
    }
}

/// A packed right factor.
pub(super) struct Factor<T> {
    vectors: Right<T>,
    halves: Packed,
}

impl<T> Default for Factor<T> {
    fn default() -> Self {
        Self { vectors: Right::default(), halves: Packed::default() }
    }
}

/// A left factor, packed where the unit does not read it as it is.
#[derive(Default)]
pub(super) struct Rows {
    halves: Packed,
}

impl Rows {
    /// The rows `rows` (from a multiple of a strip on) of what was packed, a row-major matrix `values` of `k` columns.
    pub(super) fn of<'a, T>(&'a self, values: &'a [T], k: usize, rows: Range<usize>) -> Strip<'a, T> {
        let values = Left::rows(&values[rows.start * k..rows.end * k], k);
        Strip { values, packed: &self.halves, rows }
    }

    /// All `rows` rows of what was packed, the transpose of a row-major matrix `values`.
    pub(super) fn transposed<'a, T>(&'a self, values: &'a [T], rows: usize) -> Strip<'a, T> {
        Strip { values: Left::transposed(values, rows), packed: &self.halves, rows: 0..rows }
    }
}

/// Some rows of a left factor, as they are and packed.
pub(super) struct Strip<'a, T> {
    values: Left<'a, T>,
    packed: &'a Packed,
    rows: Range<usize>,
}

impl Unit {
    /// The fastest unit whose products are as good as those of the number type, or nearly so: three products of halves are
    /// within 2^-15 of the sizes of the products.
    pub(super) fn fastest<T: Real>() -> Self {
        match T::as_f32(&[]) {
            Some(_) => Self::chosen(Products::Three, Wish::of_environment(), Engine::is_here),
            None => Self::Vectors,
        }
    }

    /// The fastest unit for numbers rounded to bfloat16. Where vectors of `f32` are faster still, they are not rounded.
    pub(super) fn fastest_rounded() -> Self {
        Self::chosen(Products::One, Wish::of_environment(), Engine::is_here)
    }

    fn chosen(products: Products, wish: Wish, is_here: impl Fn(Engine) -> bool) -> Self {
        let engine = match wish {
            Wish::Engine(engine) => Some(engine),
            Wish::Vectors => None,
            Wish::Fastest if is_here(Engine::Amx) => Some(Engine::Amx),
            // Three products of it are slower than one of vectors everywhere.
            Wish::Fastest => {
                Some(Engine::Avx512Bf16).filter(|e| products == Products::One && e.outdoes_vectors())
            }
        };
        engine
            .filter(|&engine| is_here(engine))
            .map_or(Self::Vectors, |engine| Self::Halves(engine, products))
    }

    /// Rows whose similarities are made, weighed and multiplied together: so few that they stay in the nearest caches.
    pub(super) fn strip(self) -> usize {
        match self {
            Self::Vectors => 16,
            Self::Halves(..) => halves::BLOCK,
        }
    }

    /// Columns whose weights are multiplied together: they stay in the second cache with their values.
    pub(super) fn part(self) -> usize {
        match self {
            Self::Vectors => 128,
            // Sums enter and leave the tile registers once a part.
            Self::Halves(..) => 256,
        }
    }

    /// Packs a left factor, a row-major `rows x k` matrix with leading dimension `k`.
    pub(super) fn pack_rows<T: Real>(self, out: &mut Rows, values: &[T], rows: usize, k: usize) {
        if let (Self::Halves(_, products), Some(values)) = (self, T::as_f32(values)) {
            out.halves.left(values, k, Order::OuterFirst, rows, k, products);
        }
    }

    /// `C <- A^T B`, or `C <- C + A^T B` with `add`, where `values` begins with the first of the `rows` columns of `A`, a row-major
    /// matrix as long as `b` with leading dimension `lda`; `C` is row-major with leading dimension `ldc`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn multiply_transposed<T: Real>(
        self,
        add: bool,
        c: &mut [T],
        ldc: usize,
        (values, lda): (&[T], usize),
        rows: usize,
        b: &Factor<T>,
        (packed, slices): &mut (Rows, Vec<T>),
    ) {
        if let (Self::Halves(engine, products), Some(values)) = (self, T::as_f32(values))
            && let Some(c) = T::as_f32_mut(c)
        {
            packed.halves.left(values, lda, Order::InnerFirst, rows, b.halves.k(), products);
            halves::multiply(engine, add, c, ldc, (0, rows), &packed.halves, &b.halves);
        } else {
            multiply_tn(add, c, ldc, rows, (values, lda), std::slice::from_ref(&b.vectors), slices);
        }
    }

    /// What computes `X^T M` over all samples: numbers that are rounded anyway are there as well, but the errors of three products of
    /// halves would show in what is made of sums that cancel.
    pub(super) fn of_long_sums(self) -> Self {
        match self {
            Self::Halves(_, Products::Three) => Self::Vectors,
            unit => unit,
        }
    }

    /// Bytes of a packed number.
    pub(super) fn bytes<T>(self) -> usize {
        match self {
            Self::Vectors => size_of::<T>(),
            Self::Halves(_, Products::One) => 2,
            Self::Halves(_, Products::Three) => 4,
        }
    }

    /// Packs the transpose of a row-major `k x rows` matrix with leading dimension `rows`.
    pub(super) fn pack_rows_transposed<T: Real>(self, out: &mut Rows, values: &[T], rows: usize, k: usize) {
        if let (Self::Halves(_, products), Some(values)) = (self, T::as_f32(values)) {
            out.halves.left(values, rows, Order::InnerFirst, rows, k, products);
        }
    }

    /// Packs a right factor, a row-major `k x cols` matrix with leading dimension `cols`.
    pub(super) fn pack<T: Real>(self, out: &mut Factor<T>, values: &[T], k: usize, cols: usize) {
        match (self, T::as_f32(values)) {
            (Self::Halves(_, products), Some(values)) => {
                out.halves.right(values, cols, Order::InnerFirst, cols, k, products);
            }
            _ => out.vectors.pack(values, cols, k, cols),
        }
    }

    /// Packs the transpose of a row-major `cols x k` matrix with leading dimension `k`.
    pub(super) fn pack_transposed<T: Real>(self, out: &mut Factor<T>, values: &[T], cols: usize, k: usize) {
        match (self, T::as_f32(values)) {
            (Self::Halves(_, products), Some(values)) => {
                out.halves.right(values, k, Order::OuterFirst, cols, k, products);
            }
            _ => out.vectors.pack_transposed(values, k, cols, k),
        }
    }

    /// `C <- A B`, or `C <- C + A B` with `add`; `C` is row-major with leading dimension `ldc`.
    pub(super) fn multiply<T: Real>(
        self,
        add: bool,
        c: &mut [T],
        ldc: usize,
        a: Strip<'_, T>,
        b: &Factor<T>,
    ) {
        let rows = (a.rows.start, a.rows.len());
        if let Self::Halves(engine, _) = self
            && let Some(c) = T::as_f32_mut(c)
        {
            halves::multiply(engine, add, c, ldc, rows, a.packed, &b.halves);
        } else {
            multiply(add, c, ldc, rows.1, a.values, &b.vectors);
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vectors => write!(f, "{}", simd::level()),
            Self::Halves(engine, Products::One) => write!(f, "bf16 on {engine}"),
            Self::Halves(engine, Products::Three) => write!(f, "bf16 halves on {engine}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_by_name_turns_matrix_units_off() {
        let all = |_: Engine| true;
        let none = |_: Engine| false;
        let amx = Unit::Halves(Engine::Amx, Products::Three);
        assert_eq!(Unit::chosen(Products::Three, Wish::Fastest, all), amx);
        for products in [Products::One, Products::Three] {
            assert_eq!(Unit::chosen(products, Wish::Vectors, all), Unit::Vectors);
            assert_eq!(Unit::chosen(products, Wish::Fastest, none), Unit::Vectors);
            assert_eq!(Unit::chosen(products, Wish::Engine(Engine::Amx), none), Unit::Vectors);
            let asked = Wish::Engine(Engine::Software);
            assert_eq!(Unit::chosen(products, asked, all), Unit::Halves(Engine::Software, products));
        }
    }
}
