// Merges of partial results, each output by one thread in ascending order of the parts: the same bits every time.
#include "ptx.cuh"

namespace {

__device__ __forceinline__ int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }

// log(e^a + e^b); -inf is the empty sum. fmax would drop a NaN.
__device__ __forceinline__ double log_add(double a, double b) {
    if (isnan(a) || isnan(b)) return a + b;
    const double top = fmax(a, b);
    return top == -INFINITY ? top : top + log1p(exp(fmin(a, b) - top));
}

}  // namespace

// out[i] = log of the sum over parts of sum[part][i] 2^(max[part][i]) in natural units, or with max = nullptr of
// sum[part][i] 2^shift; with `accumulate` the previous out[i] takes part (row panels, one after another).
UNICON_KERNEL void merge_log_sums(const float* sum, const float* max, int32_t parts, int64_t count, float shift, double* out,
                                  int32_t accumulate) {
    const double kLn2 = 0.69314718055994530942;
    const int64_t i = thread_index();
    if (i >= count) return;
    double total = 0.0, top = shift;
    if (max) {
        top = -1e30;
        for (int p = 0; p < parts; ++p) top = fmax(top, double(max[p * count + i]));
        for (int p = 0; p < parts; ++p) total += double(sum[p * count + i]) * exp2(double(max[p * count + i]) - top);
    } else {
        for (int p = 0; p < parts; ++p) total += double(sum[p * count + i]);
    }
    const double value = total > 0.0 ? log(total) + top * kLn2 : total == 0.0 ? -INFINITY : total;  // NaN stays NaN
    out[i] = accumulate ? log_add(out[i], value) : value;
}

// out[i] = sum over parts of in[part][i], plus the previous out[i] with `accumulate`.
UNICON_KERNEL void merge_sums(const float* in, int32_t parts, int64_t count, double* out, int32_t accumulate) {
    const int64_t i = thread_index();
    if (i >= count) return;
    double total = accumulate ? out[i] : 0.0;
    for (int p = 0; p < parts; ++p) total += double(in[p * count + i]);
    out[i] = total;
}

UNICON_KERNEL void merge_counts(const int32_t* in, int32_t parts, int64_t count, int32_t* out) {
    const int64_t i = thread_index();
    if (i >= count) return;
    int32_t total = 0;
    for (int p = 0; p < parts; ++p) total += in[p * count + i];
    out[i] = total;
}

// Partial column sums of an [rows][ld] matrix: thread x of grid row y adds `rows_per_part` rows of column x in double, each
// times its weight (nullptr: 1).
UNICON_KERNEL void column_sums(const float* in, const double* weight, int64_t rows, int32_t cols, int64_t ld,
                               int64_t rows_per_part, double* out) {
    const int64_t col = thread_index();
    if (col >= cols) return;
    const int64_t begin = int64_t(blockIdx.y) * rows_per_part;
    const int64_t end = begin + rows_per_part < rows ? begin + rows_per_part : rows;
    double total = 0.0;
    for (int64_t i = begin; i < end; ++i) total += (weight ? weight[i] : 1.0) * double(in[i * ld + col]);
    out[int64_t(blockIdx.y) * cols + col] = total;
}

UNICON_KERNEL void merge_doubles(const double* in, int32_t parts, int64_t count, double* out, int32_t accumulate) {
    const int64_t i = thread_index();
    if (i >= count) return;
    double total = accumulate ? out[i] : 0.0;
    for (int p = 0; p < parts; ++p) total += in[p * count + i];
    out[i] = total;
}

// Largest |element| of each row, NaN when the row holds one; the host turns the largest of all into a power of two.
UNICON_KERNEL void row_max_abs(const float* in, int64_t rows, int32_t cols, int64_t ld, float* out) {
    const int64_t row = thread_index() >> 5;
    if (row >= rows) return;
    float top = 0.0f, poison = 0.0f;
    for (int c = threadIdx.x & 31; c < cols; c += 32) {
        const float v = in[row * ld + c];
        top = fmaxf(top, fabsf(v));
        poison += v * 0.0f;  // NaN for NaN and infinities, which fmaxf would drop
    }
    top = warp_max(top);
    poison = warp_sum(poison);
    if ((threadIdx.x & 31) == 0) out[row] = top + poison;
}
