// Kernel values from inner products: an elementwise pass over a block of x_i . y_j that cuBLAS formed, in place.
#include "params.cuh"
#include "ptx.cuh"

namespace {

// The order of unicon::kernel::KernelKind, checked by the caller.
enum Kind : int32_t { kLinear, kCosine, kAngular, kArcCos, kExpCosine, kRbf, kMatern };

// `a` and `b` are |x|^2 and |y|^2; cosines of a zero vector are 0. `parameter` is beta, gamma or the lengthscale; clamp
// bounds |cosine| (1 for none).
template <class F>
__device__ __forceinline__ F kernel_value(int32_t kind, F dot, F a, F b, F parameter, F clamp) {
    const F pi = F(3.14159265358979323846), root3 = F(1.73205080756887729353);
    if (kind == kLinear) return dot;
    if (kind == kRbf || kind == kMatern) {
        const F squared = fmax(a + b - F(2) * dot, F(0));
        if (kind == kRbf) return exp(-parameter * squared);
        const F r = root3 * sqrt(squared + F(1e-12)) / parameter;  // the offset of unicon::kernel, which see
        return (F(1) + r) * exp(-r);
    }
    const F scale = sqrt(a) * sqrt(b);
    const F cosine = fmin(fmax(scale > F(0) ? dot / scale : F(0), -clamp), clamp);
    switch (kind) {
        case kCosine: return cosine;
        case kAngular: return F(1) - acos(cosine) / pi;
        case kArcCos: return (sqrt((F(1) - cosine) * (F(1) + cosine)) + (pi - acos(cosine)) * cosine) / pi;
        default: return exp(parameter * cosine);
    }
}

template <class F>
__device__ __forceinline__ void kernel_values(int32_t kind, F* k, int64_t rows, int64_t cols, int64_t ld, const F* row_square,
                                              const F* col_square, F parameter, F clamp) {
    const int64_t count = rows * cols;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
        const int64_t row = i / cols, col = i - row * cols;
        F& v = k[row * ld + col];
        v = kernel_value(kind, v, row_square[row], col_square[col], parameter, clamp);
    }
}

template <class F> __device__ __forceinline__ void row_squares(const F* x, int64_t rows, int32_t cols, int64_t ld, F* out) {
    const int64_t row = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) >> 5;
    if (row >= rows) return;
    F sum = F(0);
    for (int c = threadIdx.x & 31; c < cols; c += 32) sum += x[row * ld + c] * x[row * ld + c];
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0) out[row] = sum;
}

}  // namespace

#define GRAM(suffix, F)                                                                                                    \
    UNICON_KERNEL void kernel_values_##suffix(int32_t kind, F* k, int64_t rows, int64_t cols, int64_t ld, const F* row_square, \
                                              const F* col_square, F parameter, F clamp) {                                 \
        kernel_values<F>(kind, k, rows, cols, ld, row_square, col_square, parameter, clamp);                               \
    }                                                                                                                      \
    UNICON_KERNEL void row_squares_##suffix(const F* x, int64_t rows, int32_t cols, int64_t ld, F* out) {                  \
        row_squares<F>(x, rows, cols, ld, out);                                                                            \
    }
GRAM(f32, float)
GRAM(f64, double)
