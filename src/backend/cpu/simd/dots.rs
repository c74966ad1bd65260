//! Inner products of one vector with many rows: bound by the memory that the rows come from.

use super::SimdLevel;
use super::lanes::{Dispatch, Element, Kernel, Lanes};

/// Rows whose sums run side by side: one would wait for itself at every step.
const ROWS: usize = 4;

pub fn dots<T: Dispatch>(level: SimdLevel, query: &[T], rows: &[T], out: &mut [T]) {
    assert_eq!(rows.len(), query.len() * out.len(), "as many rows of {} elements as results", query.len());
    if query.is_empty() {
        out.fill(T::ZERO);
        return;
    }
    T::dispatch(level, Dots { query, rows, out });
}

struct Dots<'a, T> {
    query: &'a [T],
    rows: &'a [T],
    out: &'a mut [T],
}

impl<T: Element> Kernel<T> for Dots<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Lanes<T = T>>(self) {
        let r = self.query.len();
        let (blocks, rest) = self.out.split_at_mut(self.out.len() / ROWS * ROWS);
        let (head, tail) = self.rows.split_at(blocks.len() * r);
        for (out, rows) in blocks.chunks_exact_mut(ROWS).zip(head.chunks_exact(ROWS * r)) {
            products::<V, ROWS>(self.query, rows, out);
        }
        for (out, row) in rest.chunks_exact_mut(1).zip(tail.chunks_exact(r)) {
            products::<V, 1>(self.query, row, out);
        }
    }
}

/// `R` rows at once. Each row's sum has the same order whatever stands beside it, so that equal rows give equal results.
#[inline(always)]
fn products<V: Lanes, const R: usize>(query: &[V::T], rows: &[V::T], out: &mut [V::T]) {
    let r = query.len();
    assert!(rows.len() == R * r && out.len() == R);
    let whole = r / V::N * V::N;
    let mut sums = [V::splat(V::T::ZERO); R];
    for l in (0..whole).step_by(V::N) {
        // SAFETY: l + N <= r, so that N elements from l are within the query and within each of the R rows of r.
        let q = unsafe { V::load(query.as_ptr().add(l)) };
        for (k, sum) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            *sum = unsafe { V::load(rows.as_ptr().add(k * r + l)) }.mul_add(q, *sum);
        }
    }
    if whole < r {
        // SAFETY: r - whole < N elements from `whole` end with the query and with each row.
        let q = unsafe { V::load_first(query.as_ptr().add(whole), r - whole, V::T::ZERO) };
        for (k, sum) in sums.iter_mut().enumerate() {
            // SAFETY: as above.
            let x = unsafe { V::load_first(rows.as_ptr().add(k * r + whole), r - whole, V::T::ZERO) };
            *sum = x.mul_add(q, *sum);
        }
    }
    out.iter_mut().zip(sums).for_each(|(o, s)| *o = s.sum());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Dispatch + Element>(epsilon: f64) {
        for level in [SimdLevel::Scalar, SimdLevel::Avx2, SimdLevel::Avx512] {
            for (n, r) in [(1, 1), (5, 3), (7, 16), (4, 31), (9, 130), (0, 4), (3, 0)] {
                let value = |i: usize| T::from_f64((i as f64 * 0.37).sin());
                let query: Vec<T> = (0..r).map(value).collect();
                let rows: Vec<T> = (0..n * r).map(|i| value(i + 5)).collect();
                let mut out = vec![T::ONE; n];
                dots(level, &query, &rows, &mut out);
                for (j, got) in out.iter().enumerate() {
                    let of = |l: usize| query[l].to_f64() * rows[j * r + l].to_f64();
                    let (want, size): (f64, f64) =
                        (0..r).map(of).fold((0.0, 0.0), |(s, a), v| (s + v, a + v.abs()));
                    // Each addition of either sum rounds to half an epsilon of at most the sum of the sizes.
                    let limit = epsilon * (r as f64 + 2.0) * size;
                    assert!((got.to_f64() - want).abs() <= limit, "{level} {n} {r} {j}");
                }
            }
            // Equal rows give equal results wherever they stand.
            let query: Vec<T> = (0..13).map(|i| T::from_f64((f64::from(i) * 0.3).cos())).collect();
            let rows: Vec<T> = (0..7 * 13).map(|i| T::from_f64(f64::from(i % 13).sqrt())).collect();
            let mut out = vec![T::ZERO; 7];
            dots(level, &query, &rows, &mut out);
            assert!(out.iter().all(|v| *v == out[0]), "{level} {out:?}");
        }
    }

    #[test]
    fn products_match_their_sums() {
        check::<f32>(f64::from(f32::EPSILON));
        check::<f64>(f64::EPSILON);
    }
}
