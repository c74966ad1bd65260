// Work on rows: normalisation, conversion to the 16-bit layouts, and everything about positives, which never enter the
// low-precision tiles. One warp serves one row; blocks have 256 threads.
#include "params.cuh"
#include "ptx.cuh"

namespace {

__device__ __forceinline__ int64_t warp_row() { return (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) >> 5; }
__device__ __forceinline__ int lane_id() { return threadIdx.x & 31; }

// z = h / |h| for every row, zeros up to `depth`; a zero row stays zero, a row with NaN becomes NaN. Dividing by the largest
// element first keeps the squares in range for any h.
template <class Store>
__device__ __forceinline__ void normalise(const float* h, int64_t rows, int32_t r, int64_t ld_h, int32_t depth, float* norm,
                                          Store store) {
    const int64_t row = warp_row();
    if (row >= rows) return;
    h += row * ld_h;
    float top = 0.0f;
    for (int c = lane_id(); c < r; c += 32) top = fmaxf(top, fabsf(h[c]));
    top = warp_max(top);
    const float unit = top > 0.0f ? top : 1.0f;
    float squares = 0.0f;
    for (int c = lane_id(); c < r; c += 32) {
        const float v = h[c] / unit;
        squares += v * v;
    }
    squares = warp_sum(squares);
    const float length = sqrtf(squares);
    const float inverse = length > 0.0f ? 1.0f / length : length;  // a NaN length stays NaN
    for (int c = lane_id(); c < depth; c += 32) store(row, c, c < r ? h[c] / unit * inverse : 0.0f);
    if (lane_id() == 0) norm[row] = length * unit;
}


}  // namespace

#define NORMALISE(suffix, T)                                                                                                \
    UNICON_KERNEL void normalise_rows_##suffix(const float* h, int64_t rows, int32_t r, int64_t ld_h, int32_t depth, T* z,  \
                                               float* norm) {                                                               \
        normalise(h, rows, r, ld_h, depth, norm,                                                                            \
                  [&](int64_t row, int c, float v) { z[row * depth + c] = from_float<T>(v); });                             \
    }
NORMALISE(f16, half_t)
NORMALISE(bf16, bf16_t)
NORMALISE(f32, float)

// fp32 mode: the fp16 value, then the fp16 remainder; together 22 bits.
UNICON_KERNEL void normalise_rows_split(const float* h, int64_t rows, int32_t r, int64_t ld_h, int32_t depth, half_t* z,
                                        float* norm) {
    normalise(h, rows, r, ld_h, depth, norm, [&](int64_t row, int c, float v) {
        const half_t high = from_float<half_t>(v);
        z[row * 2 * depth + c] = high;
        z[row * 2 * depth + depth + c] = from_float<half_t>(v - to_float(high));
    });
}

// Gradient through the normalisation: g <- (g - z (z . g)) / |h| in place; 0 for a zero row.
UNICON_KERNEL void normalise_backward(const float* h, int64_t ld_h, const float* norm, int64_t rows, int32_t r, float* g,
                                      int64_t ld_g) {
    const int64_t row = warp_row();
    if (row >= rows) return;
    const float length = norm[row];
    const float inverse = length > 0.0f ? 1.0f / length : 0.0f;
    float dot = 0.0f;
    for (int c = lane_id(); c < r; c += 32) dot += h[row * ld_h + c] * inverse * g[row * ld_g + c];
    dot = warp_sum(dot);
    for (int c = lane_id(); c < r; c += 32) {
        float& v = g[row * ld_g + c];
        v = (v - h[row * ld_h + c] * inverse * dot) * inverse;
    }
}

// out[i][c] = factor * in[i][c] / norm[i], zeros for c in [cols, ld_out); norm may be null, a zero norm gives zeros.
#define CONVERT(suffix, T)                                                                                                  \
    UNICON_KERNEL void convert_rows_##suffix(const float* in, int64_t rows, int32_t cols, int64_t ld_in, float factor,      \
                                             const float* norm, T* out, int64_t ld_out) {                                   \
        const int64_t row = warp_row();                                                                                     \
        if (row >= rows) return;                                                                                            \
        const float f = norm == nullptr ? factor : norm[row] > 0.0f ? factor / norm[row] : 0.0f;                            \
        for (int64_t c = lane_id(); c < ld_out; c += 32)                                                                    \
            out[row * ld_out + c] = from_float<T>(c < cols ? in[row * ld_in + c] * f : 0.0f);                               \
    }
CONVERT(f16, half_t)
CONVERT(bf16, bf16_t)
CONVERT(f32, float)

// The layout of the fp32 mode from rows that are already normalised; as the other conversions, without a norm.
UNICON_KERNEL void convert_rows_split(const float* in, int64_t rows, int32_t cols, int64_t ld_in, half_t* out, int32_t depth) {
    const int64_t row = warp_row();
    if (row >= rows) return;
    for (int c = lane_id(); c < depth; c += 32) {
        const float v = c < cols ? in[row * ld_in + c] : 0.0f;
        const half_t high = from_float<half_t>(v);
        out[row * 2 * depth + c] = high;
        out[row * 2 * depth + depth + c] = from_float<half_t>(v - to_float(high));
    }
}

#define WIDEN(suffix, T)                                                                                              \
    UNICON_KERNEL void widen_##suffix(const T* in, int64_t count, float* out) {                                       \
        for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += int64_t(gridDim.x) * blockDim.x) \
            out[i] = to_float(in[i]);                                                                                 \
    }
WIDEN(f16, half_t)
WIDEN(bf16, bf16_t)

namespace {

// Similarities of listed pairs, formed as the sweeps form theirs (the same instruction, the same order over r and over the
// products), so that a positive compares with a tile's entries without a rounding difference. A warp takes eight
// pairs as rows and columns of one 16 x 8 product and keeps its diagonal; the waste does not matter at nnz entries.
template <class T>
__device__ __forceinline__ void pair_similarities(const Embeddings& z, const int32_t* row, const int32_t* col, int64_t pairs,
                                                  float* out) {
    const int64_t first = warp_row() * 8;
    if (first >= pairs) return;
    const int group = lane_id() >> 2, quad = lane_id() & 3;
    const int64_t pair = first + group;
    const bool valid = pair < pairs;
    const uint16_t* x = z.rows + (valid ? int64_t(row[pair]) * z.ld : 0);
    const uint16_t* y = z.cols + (valid ? int64_t(col[pair]) * z.ld : 0);
    auto two = [&](const uint16_t* p) { return valid ? *reinterpret_cast<const uint32_t*>(p) : 0u; };
    float acc[4] = {};
    for (int product = 0; product < z.products; ++product) {
        const int from_x = product == 2 ? z.depth : 0, from_y = product == 1 ? z.depth : 0;
        for (int k = 0; k < z.depth; k += 16) {
            const uint32_t a[4] = {two(x + from_x + k + quad * 2), 0, two(x + from_x + k + quad * 2 + 8), 0};
            mma_16x8x16<T>(acc, a, two(y + from_y + k + quad * 2), two(y + from_y + k + quad * 2 + 8));
        }
    }
    if (valid && group >> 1 == quad) out[pair] = acc[group & 1];
}

// out[i] = alpha out[i] + sum over positives p of row i of coefficient[p] values[columns[p]], in the order of the list.
template <class V>
__device__ __forceinline__ void add_positives(Csr positives, const float* coefficient, const V* values, int64_t ld_values,
                                              float values_factor, int64_t row_begin, int64_t rows, int32_t width, float alpha,
                                              float* out, int64_t ld_out) {
    const int64_t local = warp_row();
    if (local >= rows) return;
    const int64_t begin = positives.offsets[row_begin + local], end = positives.offsets[row_begin + local + 1];
    for (int c = lane_id(); c < width; c += 32) {
        float sum = 0.0f;
        for (int64_t p = begin; p < end; ++p)
            sum = fmaf(coefficient[p], to_float(values[int64_t(positives.columns[p]) * ld_values + c]), sum);
        float& o = out[local * ld_out + c];
        o = alpha == 0.0f ? sum * values_factor : alpha * o + sum * values_factor;
    }
}

}  // namespace

UNICON_KERNEL void pair_similarities_f16(Embeddings z, const int32_t* row, const int32_t* col, int64_t pairs, float* out) {
    pair_similarities<half_t>(z, row, col, pairs, out);
}
UNICON_KERNEL void pair_similarities_bf16(Embeddings z, const int32_t* row, const int32_t* col, int64_t pairs, float* out) {
    pair_similarities<bf16_t>(z, row, col, pairs, out);
}

#define ADD_POSITIVES(suffix, V)                                                                                            \
    UNICON_KERNEL void add_positives_##suffix(Csr positives, const float* coefficient, const V* values, int64_t ld_values,  \
                                              float values_factor, int64_t row_begin, int64_t rows, int32_t width,          \
                                              float alpha, float* out, int64_t ld_out) {                                    \
        add_positives(positives, coefficient, values, ld_values, values_factor, row_begin, rows, width, alpha, out, ld_out); \
    }
ADD_POSITIVES(f16, half_t)
ADD_POSITIVES(bf16, bf16_t)
ADD_POSITIVES(f32, float)
