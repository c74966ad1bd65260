//! Members of the loss whose triple sums are elementwise: sigmoid and the two triplet losses.

use super::SimdLevel;
use super::clip::{check_tile, for_vectors, load, store};
use super::elementary::{sigmoid, softplus_and_sigmoid};
use super::lanes::{Dispatch, Element, Kernel, Lanes};
use crate::loss::{Loss, LossKind};

/// The function psi of an additive member (phi is the identity).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AdditiveKind {
    /// `psi(t) = softplus(t / tau)`.
    Sigmoid { tau: f64 },
    /// `psi(t) = max(t + margin, 0)`, with slope 0 at the kink.
    TripletHard { margin: f64 },
    /// `psi(t) = -tau^2 softplus((margin - t) / tau)`.
    TripletSmooth { tau: f64, margin: f64 },
}

impl AdditiveKind {
    /// That of a loss.
    pub(crate) fn of(loss: &Loss) -> Self {
        let (tau, margin) = (loss.tau, loss.margin);
        match loss.kind {
            LossKind::TripletHard => Self::TripletHard { margin },
            LossKind::TripletSmooth => Self::TripletSmooth { tau, margin },
            // Clip never gets here, its exponential has its own kernels; nor does a psi of one's own.
            LossKind::Sigmoid | LossKind::Clip | LossKind::Custom => Self::Sigmoid { tau },
        }
    }
}

/// psi and its slope on vectors; where `x = -inf` both are 0.
trait Psi<V: Lanes>: Copy {
    fn psi_and_slope(self, x: V) -> (V, V);
    fn slope(self, x: V) -> V;
}

#[derive(Clone, Copy)]
struct Sigmoid<V> {
    inverse_tau: V,
}

impl<V: Lanes> Psi<V> for Sigmoid<V> {
    #[inline(always)]
    fn psi_and_slope(self, x: V) -> (V, V) {
        // e^-inf = 0 makes both vanish by themselves.
        let (psi, slope) = softplus_and_sigmoid(x * self.inverse_tau);
        (psi, slope * self.inverse_tau)
    }
    #[inline(always)]
    fn slope(self, x: V) -> V {
        sigmoid(x * self.inverse_tau) * self.inverse_tau
    }
}

#[derive(Clone, Copy)]
struct TripletHard<V> {
    margin: V,
}

impl<V: Lanes> Psi<V> for TripletHard<V> {
    #[inline(always)]
    fn psi_and_slope(self, x: V) -> (V, V) {
        ((x + self.margin).max(V::splat(V::T::ZERO)), self.slope(x))
    }
    #[inline(always)]
    fn slope(self, x: V) -> V {
        let (zero, one) = (V::splat(V::T::ZERO), V::splat(V::T::ONE));
        V::select_lt(zero, x + self.margin, one, zero)
    }
}

#[derive(Clone, Copy)]
struct TripletSmooth<V> {
    margin: V,
    tau: V,
    inverse_tau: V,
}

impl<V: Lanes> Psi<V> for TripletSmooth<V> {
    #[inline(always)]
    fn psi_and_slope(self, x: V) -> (V, V) {
        let zero = V::splat(V::T::ZERO);
        let (psi, slope) = softplus_and_sigmoid((self.margin - x) * self.inverse_tau);
        let psi = zero - self.tau * self.tau * psi;
        (present(x, psi), present(x, self.tau * slope))
    }
    #[inline(always)]
    fn slope(self, x: V) -> V {
        present(x, self.tau * sigmoid((self.margin - x) * self.inverse_tau))
    }
}

/// `value`, or 0 where `x = -inf`.
#[inline(always)]
fn present<V: Lanes>(x: V, value: V) -> V {
    V::select_lt(x, V::splat(V::T::LOWEST), V::splat(V::T::ZERO), value)
}

/// Evaluates `$body` with `$psi` bound to the vector form of `$kind`.
macro_rules! with_psi {
    ($V:ident, $kind:expr, |$psi:ident| $body:expr) => {{
        let number = |x: f64| $V::splat(Element::from_f64(x));
        match $kind {
            AdditiveKind::Sigmoid { tau } => {
                let $psi = Sigmoid { inverse_tau: number(1.0 / tau) };
                $body
            }
            AdditiveKind::TripletHard { margin } => {
                let $psi = TripletHard { margin: number(margin) };
                $body
            }
            AdditiveKind::TripletSmooth { tau, margin } => {
                let $psi = TripletSmooth {
                    margin: number(margin),
                    tau: number(tau),
                    inverse_tau: number(1.0 / tau),
                };
                $body
            }
        }
    }};
}

pub fn sums<T: Dispatch>(level: SimdLevel, kind: AdditiveKind, s_row: &[T], offset: T) -> (T, T) {
    T::dispatch(level, Sums { kind, s_row, offset })
}

struct Sums<'a, T> {
    kind: AdditiveKind,
    s_row: &'a [T],
    offset: T,
}

impl<T: Element> Kernel<T> for Sums<'_, T> {
    type Output = (T, T);
    #[inline(always)]
    fn run<V: Lanes<T = T>>(self) -> (T, T) {
        with_psi!(V, self.kind, |psi| self.over(psi))
    }
}

impl<T: Element> Sums<'_, T> {
    #[inline(always)]
    fn over<V: Lanes<T = T>>(self, member: impl Psi<V>) -> (T, T) {
        let offset = V::splat(self.offset);
        let zero = V::splat(T::ZERO);
        let (mut psi, mut slope) = (zero, zero);
        for_vectors!(V, self.s_row.len(), |j, n| {
            // SAFETY: j + n <= s_row.len().
            let x = unsafe { load::<V>(self.s_row.as_ptr().add(j), n, T::NEG_INFINITY) };
            let (p, d) = member.psi_and_slope(x + offset);
            psi = psi + p;
            slope = slope + d;
        });
        (psi.sum(), slope.sum())
    }
}

pub fn weights<T: Dispatch>(
    level: SimdLevel,
    kind: AdditiveKind,
    s_row: &[T],
    offset: T,
    coeff: T,
    out_row: &mut [T],
) {
    let out_row = &mut out_row[..s_row.len()];
    T::dispatch(level, Weights { kind, s_row, offset, coeff, out_row });
}

struct Weights<'a, T> {
    kind: AdditiveKind,
    s_row: &'a [T],
    offset: T,
    coeff: T,
    out_row: &'a mut [T],
}

impl<T: Element> Kernel<T> for Weights<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = T>>(self) {
        with_psi!(V, self.kind, |psi| self.over(psi));
    }
}

impl<T: Element> Weights<'_, T> {
    #[inline(always)]
    fn over<V: Lanes<T = T>>(self, member: impl Psi<V>) {
        let (offset, coeff) = (V::splat(self.offset), V::splat(self.coeff));
        for_vectors!(V, self.s_row.len(), |j, n| {
            // SAFETY: j + n <= s_row.len() = out_row.len().
            unsafe {
                let x = load::<V>(self.s_row.as_ptr().add(j), n, T::NEG_INFINITY);
                let p = self.out_row.as_mut_ptr().add(j);
                let out = load::<V>(p, n, T::ZERO);
                store(member.slope(x + offset).mul_add(coeff, out), p, n);
            }
        });
    }
}

#[allow(clippy::too_many_arguments)]
pub fn col_sums<T: Dispatch>(
    level: SimdLevel,
    kind: AdditiveKind,
    s: &[T],
    ld: usize,
    rows: usize,
    cols: usize,
    offsets: &[T],
    psi_col: &mut [T],
    dpsi_col: &mut [T],
) {
    check_tile(s.len(), ld, rows, cols);
    let (psi_col, dpsi_col) = (&mut psi_col[..cols], &mut dpsi_col[..cols]);
    let offsets = &offsets[..cols];
    T::dispatch(level, ColSums { kind, s, ld, rows, offsets, psi_col, dpsi_col });
}

struct ColSums<'a, T> {
    kind: AdditiveKind,
    s: &'a [T],
    ld: usize,
    rows: usize,
    offsets: &'a [T],
    psi_col: &'a mut [T],
    dpsi_col: &'a mut [T],
}

impl<T: Element> Kernel<T> for ColSums<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = T>>(self) {
        with_psi!(V, self.kind, |psi| self.over(psi));
    }
}

impl<T: Element> ColSums<'_, T> {
    #[inline(always)]
    fn over<V: Lanes<T = T>>(self, member: impl Psi<V>) {
        for i in 0..self.rows {
            let s = self.s.as_ptr().wrapping_add(i * self.ld);
            for_vectors!(V, self.offsets.len(), |j, n| {
                // SAFETY: i < rows and j + n <= cols, inside the checked tile and vectors.
                unsafe {
                    let x = load::<V>(s.add(j), n, T::NEG_INFINITY);
                    let offset = load::<V>(self.offsets.as_ptr().add(j), n, T::ZERO);
                    let (psi, slope) = member.psi_and_slope(x + offset);
                    let p = self.psi_col.as_mut_ptr().add(j);
                    store(load::<V>(p, n, T::ZERO) + psi, p, n);
                    let p = self.dpsi_col.as_mut_ptr().add(j);
                    store(load::<V>(p, n, T::ZERO) + slope, p, n);
                }
            });
        }
    }
}

#[allow(clippy::too_many_arguments)]
pub fn col_weights<T: Dispatch>(
    level: SimdLevel,
    kind: AdditiveKind,
    s: &[T],
    ld: usize,
    rows: usize,
    cols: usize,
    offsets: &[T],
    coeff: &[T],
    out: &mut [T],
    ld_out: usize,
) {
    check_tile(s.len(), ld, rows, cols);
    check_tile(out.len(), ld_out, rows, cols);
    let (offsets, coeff) = (&offsets[..cols], &coeff[..cols]);
    T::dispatch(level, ColWeights { kind, s, ld, rows, offsets, coeff, out, ld_out });
}

struct ColWeights<'a, T> {
    kind: AdditiveKind,
    s: &'a [T],
    ld: usize,
    rows: usize,
    offsets: &'a [T],
    coeff: &'a [T],
    out: &'a mut [T],
    ld_out: usize,
}

impl<T: Element> Kernel<T> for ColWeights<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = T>>(self) {
        with_psi!(V, self.kind, |psi| self.over(psi));
    }
}

impl<T: Element> ColWeights<'_, T> {
    #[inline(always)]
    fn over<V: Lanes<T = T>>(self, member: impl Psi<V>) {
        for i in 0..self.rows {
            let s = self.s.as_ptr().wrapping_add(i * self.ld);
            let out = self.out.as_mut_ptr().wrapping_add(i * self.ld_out);
            for_vectors!(V, self.offsets.len(), |j, n| {
                // SAFETY: i < rows and j + n <= cols, inside the checked tiles and vectors.
                unsafe {
                    let x = load::<V>(s.add(j), n, T::NEG_INFINITY);
                    let offset = load::<V>(self.offsets.as_ptr().add(j), n, T::ZERO);
                    let coeff = load::<V>(self.coeff.as_ptr().add(j), n, T::ZERO);
                    let p = out.add(j);
                    let old = load::<V>(p, n, T::ZERO);
                    store(member.slope(x + offset).mul_add(coeff, old), p, n);
                }
            });
        }
    }
}
