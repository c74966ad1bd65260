// Kernel values from inner products: an elementwise pass over a block of x_i . y_j that cuBLAS formed, in place. In double:
// angles and distances of close points are roots of differences, which fp32 products do not have the digits for.
#include "params.cuh"
#include "ptx.cuh"

namespace {

// The order of unicon::kernel::KernelKind, checked by the caller.
enum Kind : int32_t { kLinear, kCosine, kAngular, kArcCos, kExpCosine, kRbf, kMatern };

// `a` and `b` are |x|^2 and |y|^2. `parameter` is beta, gamma or the lengthscale; clamp bounds |cosine| (1 for none).
// Comparisons instead of fmin and fmax: those would drop a NaN.
__device__ __forceinline__ double kernel_value(int32_t kind, double dot, double a, double b, double parameter, double clamp) {
    const double pi = 3.14159265358979323846, root3 = 1.73205080756887729353;
    if (kind == kLinear) return dot;
    if (kind == kRbf || kind == kMatern) {
        const double difference = a + b - 2.0 * dot, squared = difference < 0.0 ? 0.0 : difference;
        if (kind == kRbf) return exp(-parameter * squared);
        const double r = root3 * sqrt(squared + 1e-12) / parameter;  // the offset of unicon::kernel, which see
        return r > 1e3 ? 0.0 : (1.0 + r) * exp(-r);  // never infinity times 0; NaN stays
    }
    const double lengths = sqrt(a) * sqrt(b), ratio = lengths == 0.0 ? 0.0 : dot / lengths;
    const double cosine = ratio < -clamp ? -clamp : ratio > clamp ? clamp : ratio;
    switch (kind) {
        case kCosine: return cosine;
        case kAngular: return 1.0 - acos(cosine) / pi;
        case kArcCos: return (sqrt((1.0 - cosine) * (1.0 + cosine)) + (pi - acos(cosine)) * cosine) / pi;
        default: return exp(parameter * cosine);
    }
}

}  // namespace

UNICON_KERNEL void kernel_values(int32_t kind, double* k, int64_t rows, int64_t cols, int64_t ld, const double* row_square,
                                 const double* col_square, double parameter, double clamp) {
    const int64_t count = rows * cols;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) {
        const int64_t row = i / cols, col = i - row * cols;
        double& v = k[row * ld + col];
        v = kernel_value(kind, v, row_square[row], col_square[col], parameter, clamp);
    }
}

UNICON_KERNEL void row_squares(const double* x, int64_t rows, int32_t cols, int64_t ld, double* out) {
    const int64_t row = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) >> 5;
    if (row >= rows) return;
    double sum = 0.0;
    for (int c = threadIdx.x & 31; c < cols; c += 32) sum += x[row * ld + c] * x[row * ld + c];
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0) out[row] = sum;
}
