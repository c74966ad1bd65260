// libcublas.so.13: products in double, with the operands and the result rounded to their types.
#include "numbers.h"
#include "standin.h"

#include <math.h>

#include <memory>

using namespace standin;

namespace {

enum Status { kOk = 0, kNotInitialised = 1, kAllocFailed = 3, kInvalid = 7, kExecutionFailed = 13, kNotSupported = 15 };

struct Handle {
    Stream* stream = nullptr;
    int math = 0, pointer_mode = 0;
};

struct Operand {
    const void* p;
    int type;
    int64_t ld, stride;
    bool transposed;
};

// Element (i, j) of op(M), M column-major.
double element(const Operand& o, const char* base, int64_t i, int64_t j) {
    return get(base, o.type, size_t(o.transposed ? j + i * o.ld : i + j * o.ld));
}

size_t extent(int64_t rows, int64_t cols, int64_t ld, int type) {
    return rows && cols ? size_t((cols - 1) * ld + rows) * size_of(type) : 0;
}

void must_be_device(const void* p, size_t bytes, const char* what) {
    if (bytes && !is_device(p, bytes)) fail(std::string("cuBLAS: ") + what + " is not " + std::to_string(bytes) + " bytes of device memory");
}

double scalar(const void* p, int compute) { return compute == 70 ? *static_cast<const double*>(p) : compute == 64 ? double(*static_cast<const _Float16*>(p)) : *static_cast<const float*>(p); }

int gemm(Handle* h, int ta, int tb, int64_t m, int64_t n, int64_t k, const void* alpha, const void* a, int a_type, int64_t lda,
         int64_t a_stride, const void* b, int b_type, int64_t ldb, int64_t b_stride, const void* beta, void* c, int c_type,
         int64_t ldc, int64_t c_stride, int64_t batch, int compute) {
    if (!h) return kNotInitialised;
    if (!known(a_type) || !known(b_type) || !known(c_type)) return kNotSupported;
    if (h->pointer_mode != 0) return kNotSupported;
    const int64_t a_rows = ta ? k : m, a_cols = ta ? m : k, b_rows = tb ? n : k, b_cols = tb ? k : n;
    if (m < 0 || n < 0 || k < 0 || batch < 0 || lda < std::max<int64_t>(1, a_rows) || ldb < std::max<int64_t>(1, b_rows) || ldc < std::max<int64_t>(1, m)) return kInvalid;
    if (m == 0 || n == 0 || batch == 0) return kOk;
    const double al = scalar(alpha, compute), be = scalar(beta, compute);
    const Operand left{a, a_type, lda, a_stride, ta != 0}, right{b, b_type, ldb, b_stride, tb != 0};
    const bool short_mantissa = a_type == kF32 && (compute == 77 || h->math == 3);
    submit(h->stream, [=] {
        for (int64_t t = 0; t < batch; ++t) {
            const char* pa = static_cast<const char*>(a) + t * a_stride * int64_t(size_of(a_type));
            const char* pb = static_cast<const char*>(b) + t * b_stride * int64_t(size_of(b_type));
            char* pc = static_cast<char*>(c) + t * c_stride * int64_t(size_of(c_type));
            must_be_device(pa, extent(a_rows, a_cols, lda, a_type), "A");
            must_be_device(pb, extent(b_rows, b_cols, ldb, b_type), "B");
            must_be_device(pc, extent(m, n, ldc, c_type), "C");
            std::vector<double> x(size_t(m * k)), y(size_t(n * k));
            for (int64_t l = 0; l < k; ++l) {
                for (int64_t i = 0; i < m; ++i) x[size_t(l * m + i)] = element(left, pa, i, l);
                for (int64_t j = 0; j < n; ++j) y[size_t(l * n + j)] = element(right, pb, l, j);
            }
            if (short_mantissa) {
                for (double& v : x) v = tf32(v);
                for (double& v : y) v = tf32(v);
            }
            const std::vector<double> sum = product(size_t(m), size_t(n), size_t(k), x, y);
            for (int64_t j = 0; j < n; ++j)
                for (int64_t i = 0; i < m; ++i) {
                    const size_t at = size_t(i + j * ldc);
                    const double old = be == 0 ? 0 : be * get(pc, c_type, at);
                    put(pc, c_type, at, al * sum[size_t(j * m + i)] + old);
                }
        }
    });
    return kOk;
}

// C (one triangle) = alpha op(A) op(A)^T + beta C
int syrk(Handle* h, int uplo, int trans, int64_t n, int64_t k, const void* alpha, const void* a, int64_t lda, const void* beta, void* c, int64_t ldc, int type) {
    if (!h) return kNotInitialised;
    const int64_t rows = trans ? k : n, cols = trans ? n : k;
    if (n < 0 || k < 0 || lda < std::max<int64_t>(1, rows) || ldc < std::max<int64_t>(1, n)) return kInvalid;
    const int compute = type == kF64 ? 70 : 68;
    const double al = scalar(alpha, compute), be = scalar(beta, compute);
    const bool short_mantissa = type == kF32 && h->math == 3;
    submit(h->stream, [=] {
        must_be_device(a, extent(rows, cols, lda, type), "A");
        must_be_device(c, extent(n, n, ldc, type), "C");
        std::vector<double> x(size_t(n * k));
        for (int64_t l = 0; l < k; ++l)
            for (int64_t i = 0; i < n; ++i) x[size_t(l * n + i)] = get(a, type, size_t(trans ? l + i * lda : i + l * lda));
        if (short_mantissa)
            for (double& v : x) v = tf32(v);
        const std::vector<double> sum = product(size_t(n), size_t(n), size_t(k), x, x);
        for (int64_t j = 0; j < n; ++j)
            for (int64_t i = uplo ? 0 : j; i < (uplo ? j + 1 : n); ++i) {  // 0 lower, 1 upper
                const size_t at = size_t(i + j * ldc);
                put(c, type, at, al * sum[size_t(j * n + i)] + (be == 0 ? 0 : be * get(c, type, at)));
            }
    });
    return kOk;
}

}  // namespace

extern "C" {

int cublasCreate_v2(Handle** h) {
    ENTER(cublasCreate_v2, kNotInitialised);
    *h = new Handle;
    return kOk;
}
int cublasDestroy_v2(Handle* h) {
    ENTER(cublasDestroy_v2, kNotInitialised);
    delete h;
    return kOk;
}
int cublasSetStream_v2(Handle* h, void* stream) {
    ENTER(cublasSetStream_v2, kNotInitialised);
    h->stream = uintptr_t(stream) <= 2 ? nullptr : static_cast<Stream*>(stream);
    return kOk;
}
int cublasGetStream_v2(Handle* h, void** stream) {
    ENTER(cublasGetStream_v2, kNotInitialised);
    *stream = h->stream;
    return kOk;
}
int cublasSetWorkspace_v2(Handle*, void* workspace, size_t bytes) {
    ENTER(cublasSetWorkspace_v2, kInvalid);
    if (bytes && (!is_device(workspace, bytes) || uintptr_t(workspace) % 16)) return kInvalid;
    return kOk;
}
int cublasSetMathMode(Handle* h, int mode) {
    ENTER(cublasSetMathMode, kInvalid);
    h->math = mode & 15;
    return kOk;
}
int cublasGetMathMode(Handle* h, int* mode) {
    ENTER(cublasGetMathMode, kInvalid);
    *mode = h->math;
    return kOk;
}
int cublasSetPointerMode_v2(Handle* h, int mode) {
    ENTER(cublasSetPointerMode_v2, kInvalid);
    h->pointer_mode = mode;
    return kOk;
}
int cublasSetAtomicsMode(Handle*, int) {
    ENTER(cublasSetAtomicsMode, kInvalid);
    return kOk;
}
int cublasGetProperty(int property, int* value) {
    ENTER(cublasGetProperty, kInvalid);
    *value = property == 0 ? int(setting("UNICON_STANDIN_CUBLAS", 13)) : 0;
    return kOk;
}
int cublasGetVersion_v2(Handle*, int* version) {
    ENTER(cublasGetVersion_v2, kInvalid);
    *version = int(setting("UNICON_STANDIN_CUBLAS", 13)) * 10000;
    return kOk;
}
const char* cublasGetStatusName(int status) { return status == kOk ? "CUBLAS_STATUS_SUCCESS" : "CUBLAS_STATUS_ERROR"; }
const char* cublasGetStatusString(int status) { return status == kOk ? "success" : "the stand-in's error"; }

int cublasGemmEx(Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda, const void* b,
                 int b_type, int ldb, const void* beta, void* c, int c_type, int ldc, int compute, int) {
    ENTER(cublasGemmEx, kExecutionFailed);
    return gemm(h, ta, tb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute);
}
int cublasGemmEx_64(Handle* h, int ta, int tb, int64_t m, int64_t n, int64_t k, const void* alpha, const void* a, int a_type,
                    int64_t lda, const void* b, int b_type, int64_t ldb, const void* beta, void* c, int c_type, int64_t ldc,
                    int compute, int) {
    ENTER(cublasGemmEx_64, kExecutionFailed);
    return gemm(h, ta, tb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type, ldc, 0, 1, compute);
}
int cublasGemmStridedBatchedEx(Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int a_type, int lda,
                               long long a_stride, const void* b, int b_type, int ldb, long long b_stride, const void* beta, void* c,
                               int c_type, int ldc, long long c_stride, int batch, int compute, int) {
    ENTER(cublasGemmStridedBatchedEx, kExecutionFailed);
    return gemm(h, ta, tb, m, n, k, alpha, a, a_type, lda, a_stride, b, b_type, ldb, b_stride, beta, c, c_type, ldc, c_stride, batch,
                compute);
}
int cublasSgemm_v2(Handle* h, int ta, int tb, int m, int n, int k, const float* alpha, const float* a, int lda, const float* b, int ldb,
                   const float* beta, float* c, int ldc) {
    ENTER(cublasSgemm_v2, kExecutionFailed);
    return gemm(h, ta, tb, m, n, k, alpha, a, kF32, lda, 0, b, kF32, ldb, 0, beta, c, kF32, ldc, 0, 1, 68);
}
int cublasSgemm_v2_64(Handle* h, int ta, int tb, int64_t m, int64_t n, int64_t k, const float* alpha, const float* a, int64_t lda,
                      const float* b, int64_t ldb, const float* beta, float* c, int64_t ldc) {
    ENTER(cublasSgemm_v2_64, kExecutionFailed);
    return gemm(h, ta, tb, m, n, k, alpha, a, kF32, lda, 0, b, kF32, ldb, 0, beta, c, kF32, ldc, 0, 1, 68);
}
int cublasSgemmStridedBatched(Handle* h, int ta, int tb, int m, int n, int k, const float* alpha, const float* a, int lda,
                              long long a_stride, const float* b, int ldb, long long b_stride, const float* beta, float* c, int ldc,
                              long long c_stride, int batch) {
    ENTER(cublasSgemmStridedBatched, kExecutionFailed);
    return gemm(h, ta, tb, m, n, k, alpha, a, kF32, lda, a_stride, b, kF32, ldb, b_stride, beta, c, kF32, ldc, c_stride, batch, 68);
}
int cublasDgemm_v2(Handle* h, int ta, int tb, int m, int n, int k, const double* alpha, const double* a, int lda, const double* b,
                   int ldb, const double* beta, double* c, int ldc) {
    ENTER(cublasDgemm_v2, kExecutionFailed);
    return gemm(h, ta, tb, m, n, k, alpha, a, kF64, lda, 0, b, kF64, ldb, 0, beta, c, kF64, ldc, 0, 1, 70);
}
int cublasDgemm_v2_64(Handle* h, int ta, int tb, int64_t m, int64_t n, int64_t k, const double* alpha, const double* a, int64_t lda,
                      const double* b, int64_t ldb, const double* beta, double* c, int64_t ldc) {
    ENTER(cublasDgemm_v2_64, kExecutionFailed);
    return gemm(h, ta, tb, m, n, k, alpha, a, kF64, lda, 0, b, kF64, ldb, 0, beta, c, kF64, ldc, 0, 1, 70);
}
int cublasSsyrk_v2(Handle* h, int uplo, int trans, int n, int k, const float* alpha, const float* a, int lda, const float* beta,
                   float* c, int ldc) {
    ENTER(cublasSsyrk_v2, kExecutionFailed);
    return syrk(h, uplo, trans, n, k, alpha, a, lda, beta, c, ldc, kF32);
}
int cublasDsyrk_v2(Handle* h, int uplo, int trans, int n, int k, const double* alpha, const double* a, int lda, const double* beta,
                   double* c, int ldc) {
    ENTER(cublasDsyrk_v2, kExecutionFailed);
    return syrk(h, uplo, trans, n, k, alpha, a, lda, beta, c, ldc, kF64);
}

}  // extern "C"
