// From a similarity to a weight of the clip loss, and from a tile of weights to the panel that cuBLAS multiplies.
#pragma once

#include "sweep.cuh"

// S_ij of a negative is -(e^{s_ij/tau + a_i} + e^{s_ij/tau + b_j}); both kernels work with its opposite, which is >= 0.
// The fast form takes one exponential and needs e^{a_i}, e^{b_j} in the range of a float.
struct FastWeight {
    float scale, shift;
    __device__ __forceinline__ float operator()(float s, float row, float col) const {
        return exp2_approx(fmaf(s, scale, -shift)) * (row + col);
    }
};
struct RobustWeight {
    float scale, shift;
    __device__ __forceinline__ float operator()(float s, float row, float col) const {
        return exp2_approx(fmaf(s, scale, row)) + exp2_approx(fmaf(s, scale, col));
    }
};

namespace panel {

// Transposes the 4 x 4 words that the quads' lanes hold: lane q ends with word q of each lane, in lane order.
__device__ __forceinline__ void transpose_quad(uint32_t (&w)[4], int quad) {
    auto exchange = [&](uint32_t& low, uint32_t& high, int lanes) {
        const bool upper = quad & lanes;
        const uint32_t got = shuffle_xor(upper ? low : high, lanes);
        (upper ? low : high) = got;
    };
    exchange(w[0], w[1], 1);
    exchange(w[2], w[3], 1);
    exchange(w[0], w[2], 2);
    exchange(w[1], w[3], 2);
}

// Writes a part of a row: w[n * 2 + e] for column first + n * 8 + quad * 2 + e, where rows [0, rows) and columns [0, cols)
// exist. 16-bit panels go out in whole 16-byte pieces, which is why their ld is at least the number of columns rounded up
// to 8 (the weights there are 0) and `first` a multiple of 8. Below: rows and columns may be negative.
template <bool Below, class Out>
__device__ __forceinline__ void store_row(Out* out, int64_t ld, int row, int rows, int first, int cols,
                                          const float (&w)[8], int quad) {
    uint32_t words[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) words[n] = pack2<Out>(w[n * 2], w[n * 2 + 1]);
    transpose_quad(words, quad);
    const int col = first + quad * 8;
    if (row < rows && col < cols && (!Below || (row >= 0 && col >= 0)))
        *reinterpret_cast<uint4*>(out + int64_t(row) * ld + col) = make_uint4(words[0], words[1], words[2], words[3]);
}
template <bool Below>
__device__ __forceinline__ void store_row(float* out, int64_t ld, int row, int rows, int first, int cols,
                                          const float (&w)[8], int quad) {
    if (row >= rows || (Below && row < 0)) return;
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int col = first + n * 8 + quad * 2 + e;
            if (col < cols && (!Below || col >= 0)) out[int64_t(row) * ld + col] = w[n * 2 + e];
        }
}

}  // namespace panel
