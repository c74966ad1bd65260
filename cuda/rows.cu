// Work on rows: normalisation, conversion to the 16-bit layouts, and everything about positives, which never enter the
// low-precision tiles. One warp serves one row; blocks have 256 threads.
#include "params.cuh"
#include "ptx.cuh"

namespace {

__device__ __forceinline__ int64_t warp_row() { return (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) >> 5; }
__device__ __forceinline__ int lane_id() { return threadIdx.x & 31; }

// z = h / |h| for every row, in the layout of the embeddings (the 16-bit value, then its 16-bit remainder), zeros
// up to `depth`; a zero row stays zero, a row with NaN becomes NaN. Dividing by the largest element first keeps the
// squares in range for any h.
template <class T> __device__ __forceinline__ void store_split(T* row, int depth, int c, float v) {
    const T high = from_float<T>(v);
    row[c] = high;
    row[depth + c] = from_float<T>(v - to_float(high));
}

template <class T>
__device__ __forceinline__ void normalise(const float* h, int64_t rows, int32_t r, int64_t ld_h, int32_t depth, T* z, float* norm) {
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
    for (int c = lane_id(); c < depth; c += 32)
        store_split(z + row * 2 * depth, depth, c, c < r ? h[c] / unit * inverse : 0.0f);
    if (lane_id() == 0) norm[row] = length * unit;
}

// Rows that are embeddings already, in their layout.
template <class T>
__device__ __forceinline__ void split_rows(const float* in, int64_t rows, int32_t cols, int64_t ld_in, T* out, int32_t depth) {
    const int64_t row = warp_row();
    if (row >= rows) return;
    for (int c = lane_id(); c < depth; c += 32)
        store_split(out + row * 2 * depth, depth, c, c < cols ? in[row * ld_in + c] : 0.0f);
}

// out[i][c] = factor in[i][c] scale[i] (scale = nullptr: 1), zeros for c in [cols, width).
template <class T>
__device__ __forceinline__ void convert_rows(const float* in, int64_t rows, int32_t cols, int64_t ld_in, float factor,
                                             const float* scale, T* out, int32_t width, int64_t ld_out) {
    const int64_t row = warp_row();
    if (row >= rows) return;
    const float f = scale == nullptr ? factor : factor * scale[row];
    for (int c = lane_id(); c < width; c += 32) out[row * ld_out + c] = from_float<T>(c < cols ? in[row * ld_in + c] * f : 0.0f);
}

// out[i][c] = in[i][c], plus in[i][remainder + c] where `remainder` is not 0.
template <class T>
__device__ __forceinline__ void widen_rows(const T* in, int64_t rows, int32_t cols, int64_t ld_in, int32_t remainder, float* out,
                                           int64_t ld_out) {
    const int64_t row = warp_row();
    if (row >= rows) return;
    for (int c = lane_id(); c < cols; c += 32) {
        const float v = to_float(in[row * ld_in + c]);
        out[row * ld_out + c] = remainder == 0 ? v : v + to_float(in[row * ld_in + remainder + c]);
    }
}

}  // namespace

#define ROWS(suffix, T)                                                                                                     \
    UNICON_KERNEL void normalise_rows_##suffix(const float* h, int64_t rows, int32_t r, int64_t ld_h, int32_t depth, T* z,  \
                                               float* norm) {                                                               \
        normalise(h, rows, r, ld_h, depth, z, norm);                                                                        \
    }                                                                                                                       \
    UNICON_KERNEL void split_rows_##suffix(const float* in, int64_t rows, int32_t cols, int64_t ld_in, T* out,              \
                                           int32_t depth) {                                                                 \
        split_rows(in, rows, cols, ld_in, out, depth);                                                                      \
    }                                                                                                                       \
    UNICON_KERNEL void widen_rows_##suffix(const T* in, int64_t rows, int32_t cols, int64_t ld_in, int32_t remainder,       \
                                           float* out, int64_t ld_out) {                                                    \
        widen_rows(in, rows, cols, ld_in, remainder, out, ld_out);                                                          \
    }
ROWS(f16, half_t)
ROWS(bf16, bf16_t)

#define CONVERT(suffix, T)                                                                                                  \
    UNICON_KERNEL void convert_rows_##suffix(const float* in, int64_t rows, int32_t cols, int64_t ld_in, float factor,      \
                                             const float* scale, T* out, int32_t width, int64_t ld_out) {                   \
        convert_rows(in, rows, cols, ld_in, factor, scale, out, width, ld_out);                                             \
    }
CONVERT(f16, half_t)
CONVERT(bf16, bf16_t)
CONVERT(f32, float)

// Between fp32 and double, rows without gaps on the double side.
UNICON_KERNEL void rows_to_double(const float* in, int64_t rows, int32_t cols, int64_t ld_in, double* out) {
    const int64_t row = warp_row();
    if (row >= rows) return;
    for (int c = lane_id(); c < cols; c += 32) out[row * cols + c] = double(in[row * ld_in + c]);
}
UNICON_KERNEL void rows_to_float(const double* in, int64_t rows, int32_t cols, float* out, int64_t ld_out) {
    const int64_t row = warp_row();
    if (row >= rows) return;
    for (int c = lane_id(); c < cols; c += 32) out[row * ld_out + c] = float(in[row * cols + c]);
}

// out[i] = in[ids[i]], rows of `words` words without gaps.
#define GATHER(suffix, W)                                                                                                   \
    UNICON_KERNEL void gather_rows_##suffix(const W* in, const int32_t* ids, int64_t rows, int64_t words, W* out) {         \
        const int64_t row = warp_row();                                                                                     \
        if (row >= rows) return;                                                                                            \
        const W* from = in + int64_t(ids[row]) * words;                                                                     \
        for (int64_t c = lane_id(); c < words; c += 32) out[row * words + c] = from[c];                                     \
    }
GATHER(b16, uint16_t)
GATHER(b32, uint32_t)

// Gradient through the normalisation: out = (g - z (z . g)) / norm; 0 where norm is at most 1e-30, whose inverse fp32 has no
// room for.
UNICON_KERNEL void tangent_rows(const float* z, const float* norm, const float* g, int64_t ld_g, int64_t rows, int32_t r,
                                float* out) {
    const int64_t row = warp_row();
    if (row >= rows) return;
    const float inverse = norm[row] > 1e-30f ? 1.0f / norm[row] : 0.0f;
    float dot = 0.0f;
    for (int c = lane_id(); c < r; c += 32) dot += z[row * r + c] * g[row * ld_g + c];
    dot = warp_sum(dot);
    for (int c = lane_id(); c < r; c += 32)
        out[row * r + c] = inverse == 0.0f ? 0.0f : (g[row * ld_g + c] - z[row * r + c] * dot) * inverse;
}

// out[i][c] = row[i] sums[c] + sums[cols + c]: what all similarities being 0 leaves of the negatives' product.
UNICON_KERNEL void flat_rows(const double* row, const double* sums, int64_t rows, int32_t cols, float* out) {
    const int64_t i = warp_row();
    if (i >= rows) return;
    for (int c = lane_id(); c < cols; c += 32) out[i * cols + c] = float(row[i] * sums[c] + sums[cols + c]);
}

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

// The same similarities from values and remainders in double: positives are known to more digits than any tile.
template <class T>
__device__ __forceinline__ void pair_products(const Embeddings& z, const int32_t* row, const int32_t* col, int64_t pairs,
                                              double* out) {
    const int64_t pair = warp_row();
    if (pair >= pairs) return;
    const T* x = reinterpret_cast<const T*>(z.rows) + int64_t(row[pair]) * z.ld;
    const T* y = reinterpret_cast<const T*>(z.cols) + int64_t(col[pair]) * z.ld;
    double sum = 0.0;
    for (int c = lane_id(); c < z.depth; c += 32) {
        const double a = double(to_float(x[c])) + double(to_float(x[z.depth + c]));
        const double b = double(to_float(y[c])) + double(to_float(y[z.depth + c]));
        sum += a * b;
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) out[pair] = sum;
}

// out[i] = alpha out[i] + factor (sum over the entries p of row i with a column in [col_begin, col_end) of coefficient[p]
// values[columns[p] - col_begin]). Terms are added to the previous out one after another in the order of the list, so that
// the result does not depend on how the columns are divided into calls. Row i of `out` is row row_of[row_begin + i] (null: row_begin +
// i) of the entries. `remainder` as in widen_rows.
template <class V>
__device__ __forceinline__ void add_entries(const Csr& entries, const float* coefficient, const V* values, int64_t ld_values,
                                            int32_t remainder, float factor, const int32_t* row_of, int64_t row_begin,
                                            int64_t rows, int32_t col_begin, int32_t col_end, int32_t width, float alpha, float* out,
                                            int64_t ld_out) {
    const int64_t local = warp_row();
    if (local >= rows) return;
    const int64_t row = row_of ? row_of[row_begin + local] : row_begin + local;
    const int64_t begin = entries.offsets[row], end = entries.offsets[row + 1];
    for (int c = lane_id(); c < width; c += 32) {
        float& o = out[local * ld_out + c];
        float sum = alpha * o;
        for (int64_t p = begin; p < end; ++p) {
            const int32_t j = entries.columns[p];
            if (j < col_begin || j >= col_end) continue;
            const V* from = values + int64_t(j - col_begin) * ld_values + c;
            float v = to_float(from[0]);
            if (remainder != 0) v += to_float(from[remainder]);
            sum = fmaf(factor * coefficient[p], v, sum);
        }
        o = sum;
    }
}

}  // namespace

UNICON_KERNEL void pair_similarities_f16(Embeddings z, const int32_t* row, const int32_t* col, int64_t pairs, float* out) {
    pair_similarities<half_t>(z, row, col, pairs, out);
}
UNICON_KERNEL void pair_similarities_bf16(Embeddings z, const int32_t* row, const int32_t* col, int64_t pairs, float* out) {
    pair_similarities<bf16_t>(z, row, col, pairs, out);
}
UNICON_KERNEL void pair_products_f16(Embeddings z, const int32_t* row, const int32_t* col, int64_t pairs, double* out) {
    pair_products<half_t>(z, row, col, pairs, out);
}
UNICON_KERNEL void pair_products_bf16(Embeddings z, const int32_t* row, const int32_t* col, int64_t pairs, double* out) {
    pair_products<bf16_t>(z, row, col, pairs, out);
}

#define ADD_ENTRIES(suffix, V)                                                                                              \
    UNICON_KERNEL void add_entries_##suffix(Csr entries, const float* coefficient, const V* values, int64_t ld_values,      \
                                            int32_t remainder, float factor, const int32_t* row_of, int64_t row_begin,      \
                                            int64_t rows, int32_t col_begin, int32_t col_end, int32_t width, float alpha,   \
                                            float* out, int64_t ld_out) {                                                   \
        add_entries(entries, coefficient, values, ld_values, remainder, factor, row_of, row_begin, rows, col_begin,         \
                    col_end, width, alpha, out, ld_out);                                                                    \
    }
ADD_ENTRIES(f16, half_t)
ADD_ENTRIES(bf16, bf16_t)
ADD_ENTRIES(f32, float)
