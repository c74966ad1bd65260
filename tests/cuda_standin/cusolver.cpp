// libcusolver.so.12: eigenvalues and singular values by Jacobi rotations in double.
#include "numbers.h"
#include "standin.h"

#include <math.h>

#include <algorithm>
#include <numeric>

using namespace standin;
using std::vector;

namespace {

enum Status { kOk = 0, kNotInitialised = 1, kInvalid = 3, kExecutionFailed = 6, kNotSupported = 9 };

struct Handle {
    Stream* stream = nullptr;
};

void must_be_device(const void* p, size_t bytes, const char* what) {
    if (bytes && !is_device(p, bytes)) fail(std::string("cuSOLVER: ") + what + " is not " + std::to_string(bytes) + " bytes of device memory");
}

// Singular values of the columns of a [m x n, column-major], m >= n, descending: a becomes U (n columns), v [n x n] holds V.
void one_sided(size_t m, size_t n, vector<double>& a, vector<double>& s, vector<double>& v) {
    v.assign(n * n, 0);
    for (size_t i = 0; i < n; ++i) v[i * n + i] = 1;
    for (int sweep = 0; sweep < 60; ++sweep) {
        bool rotated = false;
        for (size_t p = 0; p + 1 < n; ++p)
            for (size_t q = p + 1; q < n; ++q) {
                double pp = 0, qq = 0, pq = 0;
                for (size_t i = 0; i < m; ++i) {
                    pp += a[p * m + i] * a[p * m + i];
                    qq += a[q * m + i] * a[q * m + i];
                    pq += a[p * m + i] * a[q * m + i];
                }
                if (fabs(pq) <= 1e-15 * sqrt(pp * qq) || pq == 0) continue;
                rotated = true;
                const double z = (qq - pp) / (2 * pq), t = copysign(1 / (fabs(z) + hypot(1, z)), z), c = 1 / hypot(1, t), d = c * t;
                auto rotate = [&](vector<double>& x, size_t rows) {
                    for (size_t i = 0; i < rows; ++i) {
                        const double left = x[p * rows + i], right = x[q * rows + i];
                        x[p * rows + i] = c * left - d * right;
                        x[q * rows + i] = d * left + c * right;
                    }
                };
                rotate(a, m);
                rotate(v, n);
            }
        if (!rotated) break;
    }
    vector<double> length(n);
    for (size_t j = 0; j < n; ++j) length[j] = sqrt(std::inner_product(&a[j * m], &a[j * m] + m, &a[j * m], 0.0));
    vector<size_t> order(n);
    std::iota(order.begin(), order.end(), size_t(0));
    std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return length[i] > length[j]; });
    vector<double> u(m * n), w(n * n);
    s.resize(n);
    for (size_t j = 0; j < n; ++j) {
        s[j] = length[order[j]];
        for (size_t i = 0; i < m; ++i) u[j * m + i] = s[j] > 0 ? a[order[j] * m + i] / s[j] : 0;
        std::copy_n(&v[order[j] * n], n, &w[j * n]);
    }
    a = u;
    v = w;
}

// Eigenvalues of a symmetric matrix, ascending; a becomes its eigenvectors, as columns.
void eigen(size_t n, vector<double>& a, vector<double>& values) {
    vector<double> v(n * n, 0);
    for (size_t i = 0; i < n; ++i) v[i * n + i] = 1;
    const double size = sqrt(std::inner_product(a.begin(), a.end(), a.begin(), 0.0));
    for (int sweep = 0; sweep < 60; ++sweep) {
        bool rotated = false;
        for (size_t p = 0; p + 1 < n; ++p)
            for (size_t q = p + 1; q < n; ++q) {
                const double pq = a[q * n + p];
                if (fabs(pq) <= 1e-17 * size) continue;
                rotated = true;
                const double z = (a[q * n + q] - a[p * n + p]) / (2 * pq), t = copysign(1 / (fabs(z) + hypot(1, z)), z);
                const double c = 1 / hypot(1, t), d = c * t;
                for (size_t i = 0; i < n; ++i) {
                    const double left = a[p * n + i], right = a[q * n + i];
                    a[p * n + i] = c * left - d * right;
                    a[q * n + i] = d * left + c * right;
                }
                for (size_t i = 0; i < n; ++i) {
                    const double left = a[i * n + p], right = a[i * n + q];
                    a[i * n + p] = c * left - d * right;
                    a[i * n + q] = d * left + c * right;
                }
                for (size_t i = 0; i < n; ++i) {
                    const double left = v[p * n + i], right = v[q * n + i];
                    v[p * n + i] = c * left - d * right;
                    v[q * n + i] = d * left + c * right;
                }
            }
        if (!rotated) break;
    }
    vector<size_t> order(n);
    std::iota(order.begin(), order.end(), size_t(0));
    std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return a[i * n + i] < a[j * n + j]; });
    values.resize(n);
    vector<double> out(n * n);
    for (size_t j = 0; j < n; ++j) {
        values[j] = a[order[j] * n + order[j]];
        std::copy_n(&v[order[j] * n], n, &out[j * n]);
    }
    a = out;
}

int set_info(int* info, int value) {
    must_be_device(info, sizeof(int), "info");
    *info = value;
    return kOk;
}

// uplo: 0 lower, 1 upper. A NaN anywhere is reported as cuSOLVER does when it does not converge.
int syevd(Handle* h, int vectors, int uplo, int n, void* a, int lda, void* w, void* work, int lwork, int* info, int type) {
    if (!h) return kNotInitialised;
    if (n < 0 || lda < std::max(1, n) || lwork < n) return kInvalid;
    submit(h->stream, [=] {
        must_be_device(a, n ? (size_t(n - 1) * size_t(lda) + size_t(n)) * size_of(type) : 0, "A");
        must_be_device(w, size_t(n) * size_of(type), "W");
        must_be_device(work, size_t(lwork) * size_of(type), "the workspace");
        const size_t size = size_t(n), ld = size_t(lda);
        vector<double> m(size * size), values;
        for (size_t j = 0; j < size; ++j)
            for (size_t i = 0; i < size; ++i) {
                const bool stored = uplo ? i <= j : i >= j;
                m[j * size + i] = get(a, type, stored ? i + j * ld : j + i * ld);
            }
        if (std::any_of(m.begin(), m.end(), [](double x) { return !std::isfinite(x); })) return void(set_info(info, 1));
        eigen(size, m, values);
        for (size_t j = 0; j < size; ++j) {
            put(w, type, j, values[j]);
            for (size_t i = 0; vectors && i < size; ++i) put(a, type, i + j * ld, m[j * size + i]);
        }
        set_info(info, 0);
    });
    return kOk;
}

// 'S' or 'N' for both sides, or 'A' when square; m >= n, as cuSOLVER wants.
int gesvd(Handle* h, signed char jobu, signed char jobvt, int m, int n, void* a, int lda, void* s, void* u, int ldu, void* vt, int ldvt, void* work, int lwork, int* info, int type) {
    if (!h) return kNotInitialised;
    if (n < 0 || m < n || lda < std::max(1, m) || lwork < n) return kInvalid;
    if ((jobu == 'A' && m != n) || jobu == 'O' || jobvt == 'O') return kNotSupported;
    submit(h->stream, [=] {
        must_be_device(work, size_t(lwork) * size_of(type), "the workspace");
        const size_t rows = size_t(m), cols = size_t(n);
        vector<double> x(rows * cols), values, v;
        for (size_t j = 0; j < cols; ++j)
            for (size_t i = 0; i < rows; ++i) x[j * rows + i] = get(a, type, i + j * size_t(lda));
        if (std::any_of(x.begin(), x.end(), [](double y) { return !std::isfinite(y); })) return void(set_info(info, 1));
        one_sided(rows, cols, x, values, v);
        for (size_t j = 0; j < cols; ++j) {
            put(s, type, j, values[j]);
            for (size_t i = 0; jobu != 'N' && i < rows; ++i) put(u, type, i + j * size_t(ldu), x[j * rows + i]);
            for (size_t i = 0; jobvt != 'N' && i < cols; ++i) put(vt, type, j + i * size_t(ldvt), v[j * cols + i]);
        }
        set_info(info, 0);
    });
    return kOk;
}

// The lower (0) or upper (1) Cholesky factor in place; info = the first pivot that is not positive.
int potrf(Handle* h, int uplo, int n, void* a, int lda, void* work, int lwork, int* info, int type) {
    if (!h) return kNotInitialised;
    if (n < 0 || lda < std::max(1, n) || lwork < n) return kInvalid;
    submit(h->stream, [=] {
        must_be_device(work, size_t(lwork) * size_of(type), "the workspace");
        auto at = [&](int i, int j) { return size_t(uplo ? j + int64_t(i) * lda : i + int64_t(j) * lda); };  // of the lower factor
        for (int j = 0; j < n; ++j) {
            double pivot = get(a, type, at(j, j));
            for (int k = 0; k < j; ++k) pivot -= get(a, type, at(j, k)) * get(a, type, at(j, k));
            if (!(pivot > 0)) return void(set_info(info, j + 1));
            const double root = sqrt(pivot);
            put(a, type, at(j, j), root);
            for (int i = j + 1; i < n; ++i) {
                double v = get(a, type, at(i, j));
                for (int k = 0; k < j; ++k) v -= get(a, type, at(i, k)) * get(a, type, at(j, k));
                put(a, type, at(i, j), v / root);
            }
        }
        set_info(info, 0);
    });
    return kOk;
}

}  // namespace

extern "C" {

int cusolverDnCreate(Handle** h) {
    ENTER(cusolverDnCreate, kNotInitialised);
    *h = new Handle;
    return kOk;
}
int cusolverDnDestroy(Handle* h) {
    ENTER(cusolverDnDestroy, kNotInitialised);
    delete h;
    return kOk;
}
int cusolverDnSetStream(Handle* h, void* stream) {
    ENTER(cusolverDnSetStream, kNotInitialised);
    h->stream = uintptr_t(stream) <= 2 ? nullptr : static_cast<Stream*>(stream);
    return kOk;
}
int cusolverGetProperty(int property, int* value) {
    ENTER(cusolverGetProperty, kInvalid);
    *value = property == 0 ? int(setting("UNICON_STANDIN_CUSOLVER", 12)) : 0;
    return kOk;
}
int cusolverGetVersion(int* version) {
    ENTER(cusolverGetVersion, kInvalid);
    *version = int(setting("UNICON_STANDIN_CUSOLVER", 12)) * 1000;
    return kOk;
}

#define SOLVERS(L, T, type)                                                                                                       \
    int cusolverDn##L##syevd_bufferSize(Handle* h, int, int, int n, const T*, int lda, const T*, int* lwork) {                    \
        ENTER(cusolverDn##L##syevd_bufferSize, kExecutionFailed);                                                                 \
        if (!h || n < 0 || lda < std::max(1, n)) return kInvalid;                                                                 \
        *lwork = 2 * n + 1;                                                                                                       \
        return kOk;                                                                                                               \
    }                                                                                                                             \
    int cusolverDn##L##syevd(Handle* h, int jobz, int uplo, int n, T* a, int lda, T* w, T* work, int lwork, int* info) {          \
        ENTER(cusolverDn##L##syevd, kExecutionFailed);                                                                            \
        return syevd(h, jobz, uplo, n, a, lda, w, work, lwork, info, type);                                                       \
    }                                                                                                                             \
    int cusolverDn##L##gesvd_bufferSize(Handle* h, int m, int n, int* lwork) {                                                    \
        ENTER(cusolverDn##L##gesvd_bufferSize, kExecutionFailed);                                                                 \
        if (!h || n < 0 || m < n) return kInvalid;                                                                                \
        *lwork = 2 * n + 1;                                                                                                       \
        return kOk;                                                                                                               \
    }                                                                                                                             \
    int cusolverDn##L##gesvd(Handle* h, signed char ju, signed char jv, int m, int n, T* a, int lda, T* s, T* u, int ldu, T* vt,  \
                             int ldvt, T* work, int lwork, T*, int* info) {                                                       \
        ENTER(cusolverDn##L##gesvd, kExecutionFailed);                                                                            \
        return gesvd(h, ju, jv, m, n, a, lda, s, u, ldu, vt, ldvt, work, lwork, info, type);                                      \
    }                                                                                                                             \
    int cusolverDn##L##potrf_bufferSize(Handle* h, int, int n, T*, int lda, int* lwork) {                                         \
        ENTER(cusolverDn##L##potrf_bufferSize, kExecutionFailed);                                                                 \
        if (!h || n < 0 || lda < std::max(1, n)) return kInvalid;                                                                 \
        *lwork = n + 1;                                                                                                           \
        return kOk;                                                                                                               \
    }                                                                                                                             \
    int cusolverDn##L##potrf(Handle* h, int uplo, int n, T* a, int lda, T* work, int lwork, int* info) {                          \
        ENTER(cusolverDn##L##potrf, kExecutionFailed);                                                                            \
        return potrf(h, uplo, n, a, lda, work, lwork, info, type);                                                                \
    }
SOLVERS(S, float, kF32)
SOLVERS(D, double, kF64)

}  // extern "C"
