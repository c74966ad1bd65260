//! Dense decompositions and products in float64, whose results do not depend on the number of threads.
//!
//! The linear algebra underneath cuts its work into as many parts as it is told, and sums over the parts. Told the number
//! of threads, as it is by default, it gives other last digits on other numbers of threads; here it is always told
//! [`PARTS`], which any number of threads may work on. Its operators (`&a * &b`) take what the process is set to: nothing
//! in parallel, from the first backend on ([`settle`]). Memory is asked for first, so that want of it is an error.

use crate::error::{Error, Result};
use crate::threads;
use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::cholesky::llt::factor as cholesky_factor;
use faer::linalg::{evd, householder, matmul, qr, svd, triangular_inverse, triangular_solve};
use faer::reborrow::{Reborrow, ReborrowMut};
use faer::{Accum, Conj, Mat, MatRef, Par, Spec};
use std::sync::Once;

/// Parts that work is cut into.
const PARTS: usize = 8;

/// Products with fewer multiplications than this are not worth cutting.
const SMALL: usize = 1 << 21;

/// Makes the operators of dense matrices sequential in this process: what they run in parallel would depend on the number
/// of threads, and hang in a child of `fork()`.
pub(crate) fn settle() {
    static SETTLED: Once = Once::new();
    SETTLED.call_once(|| faer::set_global_parallelism(Par::Seq));
}

fn parts() -> Par {
    Par::rayon(PARTS)
}

/// Working memory, or an error.
fn workspace(request: StackReq, what: &str) -> Result<MemBuffer> {
    let needed = request.unaligned_bytes_required() as u64;
    MemBuffer::try_new(request).map_err(|_| Error::OutOfMemory { needed, limit: 0, what: what.into() })
}

/// Fails where a matrix of this size could not be had: the matrix itself would end the process.
fn room(rows: usize, cols: usize, what: &str) -> Result<()> {
    let short = || {
        let needed = (rows as u64).saturating_mul(cols as u64).saturating_mul(8);
        Error::OutOfMemory { needed, limit: 0, what: what.into() }
    };
    let len = rows.checked_mul(cols).ok_or_else(short)?;
    Vec::<f64>::new().try_reserve_exact(len).map_err(|_| short())
}

/// `A B`.
pub(crate) fn product(a: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Mat<f64> {
    let (m, k, n) = (a.nrows(), a.ncols(), b.ncols());
    let mut c = Mat::zeros(m, n);
    let par = if m.saturating_mul(k).saturating_mul(n) < SMALL { Par::Seq } else { parts() };
    let mut multiply = || matmul::matmul(c.as_mut(), Accum::Replace, a, b, 1.0, par);
    if par == Par::Seq {
        multiply()
    } else {
        threads::run(multiply)
    }
    c
}

/// The thin singular value decomposition: `U`, the singular values, descending, and `V`.
///
/// # Errors
/// [`Error::Numerical`] when it does not converge, [`Error::OutOfMemory`].
pub(crate) fn thin_svd(a: MatRef<'_, f64>) -> Result<(Mat<f64>, Vec<f64>, Mat<f64>)> {
    let ((m, n), what) = (a.shape(), "an SVD");
    let size = m.min(n);
    let thin = svd::ComputeSvdVectors::Thin;
    let mut memory = workspace(svd::svd_scratch::<f64>(m, n, thin, thin, parts(), Spec::default()), what)?;
    room(m + n, size, what)?;
    let (mut u, mut v, mut s) = (Mat::zeros(m, size), Mat::zeros(n, size), Diag::zeros(size));
    let (to_u, to_v, to_s) = (u.as_mut(), v.as_mut(), s.as_mut());
    threads::run(|| {
        let stack = MemStack::new(&mut memory);
        svd::svd(a, to_s, Some(to_u), Some(to_v), parts(), stack, Spec::default())
    })
    .map_err(|e| Error::Numerical(format!("SVD: {e:?}")))?;
    let values = s.column_vector().iter().copied().collect();
    Ok((u, values, v))
}

/// Eigenvectors (columns) and eigenvalues, ascending, of a symmetric matrix, of which the lower half is read.
///
/// # Errors
/// As [`thin_svd`].
pub(crate) fn symmetric_eigen(a: MatRef<'_, f64>) -> Result<(Mat<f64>, Vec<f64>)> {
    let (n, what) = (a.nrows(), "an eigendecomposition");
    let yes = evd::ComputeEigenvectors::Yes;
    let mut memory = workspace(evd::self_adjoint_evd_scratch::<f64>(n, yes, parts(), Spec::default()), what)?;
    room(n, n, what)?;
    let (mut u, mut s) = (Mat::zeros(n, n), Diag::zeros(n));
    let (to_u, to_s) = (u.as_mut(), s.as_mut());
    threads::run(|| {
        let stack = MemStack::new(&mut memory);
        evd::self_adjoint_evd(a, to_s, Some(to_u), parts(), stack, Spec::default())
    })
    .map_err(|e| Error::Numerical(format!("symmetric eigendecomposition: {e:?}")))?;
    let values = s.column_vector().iter().copied().collect();
    Ok((u, values))
}

/// The lower triangular `L` of `A = L L^T`, zeros above the diagonal; none where the symmetric `A`, of which the lower half is
/// read, is not positive definite up to rounding.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn cholesky(a: MatRef<'_, f64>) -> Result<Option<Mat<f64>>> {
    let (n, what) = (a.nrows(), "a Cholesky decomposition");
    let request = cholesky_factor::cholesky_in_place_scratch::<f64>(n, parts(), Spec::default());
    let mut memory = workspace(request, what)?;
    room(n, n, what)?;
    let mut l = a.to_owned();
    let to_l = l.as_mut();
    let done = threads::run(|| {
        let stack = MemStack::new(&mut memory);
        cholesky_factor::cholesky_in_place(to_l, Default::default(), parts(), stack, Spec::default())
    });
    // Above the diagonal blocks of the decomposition leave what they worked with.
    for j in 0..n {
        l.col_mut(j).subrows_mut(0, j).fill(0.0);
    }
    Ok(done.is_ok().then_some(l))
}

/// `L^{-1} B` with `L` lower triangular.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn solve_lower(l: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Result<Mat<f64>> {
    room(b.nrows(), b.ncols(), "a triangular solution")?;
    let mut x = b.to_owned();
    let to_x = x.as_mut();
    threads::run(|| triangular_solve::solve_lower_triangular_in_place(l, to_x, parts()));
    Ok(x)
}

/// `L^{-T} B` with `L` lower triangular.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn solve_lower_transposed(l: MatRef<'_, f64>, b: MatRef<'_, f64>) -> Result<Mat<f64>> {
    room(b.nrows(), b.ncols(), "a triangular solution")?;
    let mut x = b.to_owned();
    let to_x = x.as_mut();
    threads::run(|| triangular_solve::solve_upper_triangular_in_place(l.transpose(), to_x, parts()));
    Ok(x)
}

/// `L^{-1}` of a lower triangular `L`, zeros above the diagonal.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn inverse_lower(l: MatRef<'_, f64>) -> Result<Mat<f64>> {
    room(l.nrows(), l.ncols(), "a triangular inverse")?;
    let mut inverse = Mat::zeros(l.nrows(), l.ncols());
    let to_inverse = inverse.as_mut();
    threads::run(|| triangular_inverse::invert_lower_triangular(to_inverse, l, parts()));
    Ok(inverse)
}

/// `W^T W` of a lower triangular `W`.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn square_of_lower(w: MatRef<'_, f64>) -> Result<Mat<f64>> {
    use matmul::triangular::{BlockStructure, matmul};
    let n = w.nrows();
    room(2 * n, n, "a square of a triangular matrix")?;
    let mut half = Mat::zeros(n, n);
    let (lower, upper) = (BlockStructure::TriangularLower, BlockStructure::TriangularUpper);
    let to_half = half.as_mut();
    threads::run(|| matmul(to_half, lower, Accum::Replace, w.transpose(), upper, w, lower, 1.0, parts()));
    Ok(Mat::from_fn(n, n, |i, j| half[(i.max(j), i.min(j))]))
}

/// An orthonormal basis of the columns, `min(m, n)` of them.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub(crate) fn orthonormal(a: MatRef<'_, f64>) -> Result<Mat<f64>> {
    let ((m, n), what) = (a.shape(), "a QR decomposition");
    let size = m.min(n);
    let block = qr::no_pivoting::factor::recommended_block_size::<f64>(m, n);
    let request = qr::no_pivoting::factor::qr_in_place_scratch::<f64>(m, n, block, parts(), Spec::default());
    let back =
        householder::apply_block_householder_sequence_on_the_left_in_place_scratch::<f64>(m, block, size);
    let mut memory = workspace(request.or(back), what)?;
    room(2 * m, n, what)?;
    let (mut factors, mut coefficients) = (a.to_owned(), Mat::zeros(block, size));
    let mut q = Mat::identity(m, size);
    let (to_factors, to_coefficients, to_q) = (factors.as_mut(), coefficients.as_mut(), q.as_mut());
    threads::run(|| {
        let (mut to_factors, mut to_coefficients) = (to_factors, to_coefficients);
        let (factors, coefficients) = (to_factors.rb_mut(), to_coefficients.rb_mut());
        let stack = MemStack::new(&mut memory);
        qr::no_pivoting::factor::qr_in_place(factors, coefficients, parts(), stack, Spec::default());
        householder::apply_block_householder_sequence_on_the_left_in_place_with_conj(
            to_factors.rb().subcols(0, size),
            to_coefficients.rb(),
            Conj::No,
            to_q,
            parts(),
            MemStack::new(&mut memory),
        );
    });
    Ok(q)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::Threads;
    use rand::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};
    use std::sync::Arc;

    fn sample(rows: usize, cols: usize, seed: u64) -> Mat<f64> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        Mat::<f64>::from_fn(rows, cols, |_, _| StandardNormal.sample(&mut rng))
    }

    /// The bits of everything that this module computes of two matrices, on so many threads.
    fn bits(threads: usize, a: &Mat<f64>, b: &Mat<f64>) -> Vec<u64> {
        let of = |m: &Mat<f64>| -> Vec<u64> {
            (0..m.ncols()).flat_map(|j| (0..m.nrows()).map(move |i| (i, j))).map(|p| m[p].to_bits()).collect()
        };
        let threads = Arc::new(Threads::new(threads).unwrap());
        threads.install(|| {
            let k = product(a.transpose(), a.as_ref());
            let (u, s, v) = thin_svd(a.as_ref()).unwrap();
            let (q, w) = symmetric_eigen(k.as_ref()).unwrap();
            let basis = orthonormal(a.as_ref()).unwrap();
            let all = [of(&product(a.as_ref(), b.as_ref())), of(&k), of(&u), of(&v), of(&q), of(&basis)];
            let l = cholesky(k.as_ref()).unwrap().unwrap();
            let inverse = inverse_lower(l.as_ref()).unwrap();
            let (down, up) = (
                solve_lower(l.as_ref(), b.as_ref()).unwrap(),
                solve_lower_transposed(l.as_ref(), b.as_ref()).unwrap(),
            );
            let triangular =
                [of(&l), of(&inverse), of(&down), of(&up), of(&square_of_lower(inverse.as_ref()).unwrap())];
            let values = [s, w].concat().iter().map(|v| v.to_bits()).collect();
            [all.concat(), triangular.concat(), values].concat()
        })
    }

    #[test]
    fn results_do_not_depend_on_the_number_of_threads() {
        // Large enough that everything is cut into parts.
        for (m, n, p) in [(420, 300, 260), (301, 301, 7)] {
            let (a, b) = (sample(m, n, 1), sample(n, p, 2));
            let one = bits(1, &a, &b);
            for threads in [2, 3, 5] {
                assert!(bits(threads, &a, &b) == one, "{m} x {n} on {threads} threads");
            }
        }
    }

    #[test]
    fn factors_multiply_to_the_matrix() {
        let a = sample(60, 40, 3);
        let (u, s, v) = thin_svd(a.as_ref()).unwrap();
        let scaled = Mat::from_fn(60, 40, |i, j| u[(i, j)] * s[j]);
        assert!((product(scaled.as_ref(), v.transpose()) - &a).norm_l2() < 1e-12 * a.norm_l2());
        let q = orthonormal(a.as_ref()).unwrap();
        assert!((product(q.transpose(), q.as_ref()) - Mat::<f64>::identity(40, 40)).norm_l2() < 1e-12);
        assert!((product(q.as_ref(), product(q.transpose(), a.as_ref()).as_ref()) - &a).norm_l2() < 1e-11);
        let wide = orthonormal(sample(5, 9, 4).as_ref()).unwrap();
        assert_eq!(wide.shape(), (5, 5));
        let k = product(a.transpose(), a.as_ref());
        let (q, w) = symmetric_eigen(k.as_ref()).unwrap();
        let scaled = Mat::from_fn(40, 40, |i, j| q[(i, j)] * w[j]);
        assert!((product(scaled.as_ref(), q.transpose()) - &k).norm_l2() < 1e-12 * k.norm_l2());
        let l = cholesky(k.as_ref()).unwrap().unwrap();
        assert!((product(l.as_ref(), l.transpose()) - &k).norm_l2() < 1e-12 * k.norm_l2());
        let w = inverse_lower(l.as_ref()).unwrap();
        let identity = Mat::<f64>::identity(40, 40);
        assert!((product(w.as_ref(), l.as_ref()) - &identity).norm_l2() < 1e-11);
        assert!(
            (product(square_of_lower(w.as_ref()).unwrap().as_ref(), k.as_ref()) - &identity).norm_l2() < 1e-9
        );
        let b = sample(40, 7, 5);
        assert!(
            (product(l.as_ref(), solve_lower(l.as_ref(), b.as_ref()).unwrap().as_ref()) - &b).norm_l2()
                < 1e-12
        );
        let up = solve_lower_transposed(l.as_ref(), b.as_ref()).unwrap();
        assert!((product(l.transpose(), up.as_ref()) - &b).norm_l2() < 1e-12);
        assert!(
            cholesky((&k - &identity * faer::Scale(w.norm_l2() * k.norm_l2())).as_ref()).unwrap().is_none()
        );
    }

    #[test]
    fn memory_that_is_not_there_is_an_error() {
        assert!(matches!(room(1 << 40, 1 << 40, "a matrix"), Err(Error::OutOfMemory { .. })));
        assert!(matches!(room(1 << 30, 1 << 28, "a matrix"), Err(Error::OutOfMemory { .. })));
    }
}
