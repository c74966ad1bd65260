//! Vector exponential, softplus and sigmoid.

use super::lanes::{Element, Lanes};

/// Horner's rule for `c_0 + c_1 x + ..`.
#[inline(always)]
fn polynomial<V: Lanes>(x: V, coefficients: &[V::T]) -> V {
    let mut reversed = coefficients.iter().rev();
    let mut sum = V::splat(*reversed.next().unwrap_or(&V::T::ZERO));
    for &c in reversed {
        sum = sum.mul_add(x, V::splat(c));
    }
    sum
}

/// `e^y` within 2 ulp: 0 from `-inf` up to the smallest normal result, `+inf` above the largest.
#[inline(always)]
pub fn exp<V: Lanes>(y: V) -> V {
    let one = V::splat(V::T::ONE);
    // Without the clamp +inf would become inf - inf. NaN passes.
    let y = V::splat(V::T::EXP_MAX).min(y);
    // y = t ln 2 + r, |r| <= ln(2)/2.
    let t = (y * V::splat(V::T::LOG2_E)).round();
    let r = t.neg_mul_add(V::splat(V::T::LN_2_HI), y);
    let r = t.neg_mul_add(V::splat(V::T::LN_2_LO), r);
    let p = polynomial(r, V::T::EXP_POLY).mul_add(r, one).mul_add(r, one);
    V::exp_scale(p, t, y)
}

/// `2^y` within 2 ulp: 0 from `-inf` to about the smallest normal result, `+inf` from about the largest.
#[inline(always)]
pub fn exp2<V: Lanes>(y: V) -> V {
    // Without the clamp the exponent would run into the sign. NaN passes.
    let y = V::splat(V::T::EXP2_MAX).min(y);
    let t = y.round();
    // Of -inf this is NaN, and so is the polynomial; its scale is 0.
    let r = y - t;
    let p = polynomial(r, V::T::EXP2_POLY).mul_add(r, V::splat(V::T::ONE));
    V::exp2_scale(p, t)
}

/// `ln(1 + u)` for 0 <= u <= 1 with small relative error, as `2 atanh(u / (2 + u))`.
#[inline(always)]
fn ln_1p_unit<V: Lanes>(u: V) -> V {
    let w = u / (V::splat(V::T::from_f64(2.0)) + u);
    let z = w * w;
    (w * z).mul_add(polynomial(z, V::T::ATANH_POLY), w + w)
}

/// `ln(1 + e^t)` and its derivative `1 / (1 + e^-t)`, without overflow and with small relative error
/// for any argument, large negative ones included.
#[inline(always)]
pub fn softplus_and_sigmoid<V: Lanes>(t: V) -> (V, V) {
    let zero = V::splat(V::T::ZERO);
    let e = exp(zero - t.abs());
    (V::max(t, zero) + ln_1p_unit(e), sigmoid_from(t, e))
}

/// `1 / (1 + e^-t)`.
#[inline(always)]
pub fn sigmoid<V: Lanes>(t: V) -> V {
    sigmoid_from(t, exp(V::splat(V::T::ZERO) - t.abs()))
}

/// The sigmoid of `t` given `e = e^-|t|`.
#[inline(always)]
fn sigmoid_from<V: Lanes>(t: V, e: V) -> V {
    let one = V::splat(V::T::ONE);
    V::select_lt(t, V::splat(V::T::ZERO), e, one) / (one + e)
}
