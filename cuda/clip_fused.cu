// Pass 2 of the clip loss without a panel, for V up to a few hundred columns (embeddings, sketches): weights stay in
// registers, where the accumulator layout of one product is the operand layout of the next.
#include "weights.cuh"

namespace {

using namespace shape;
constexpr int kWarpMTiles = 1, kColTiles = kFusedCols / 8, kValueTiles = kFusedValues / 8;
constexpr int kRowBytes = kFusedRows * kDepthBytes, kColBytes = kFusedCols * kDepthBytes;
constexpr int kValueBytes = kFusedCols * kFusedValues * 2, kValueChunks = kFusedValues / kDepth;

// Shared memory: the strip of rows (depth chunks x 16 KiB), two column tiles (8 KiB a chunk), two V tiles (16 KiB).
// Grid: x strips of 128 rows, y chunks of 128 columns of V.
template <class T, class Weight> __device__ __forceinline__ void clip_fused(const ClipFused& p) {
    UNICON_SHARED(shared);
    const int depth_chunks = (p.sweep.z.depth + kDepth - 1) / kDepth;
    unsigned char* row_tiles = shared;
    unsigned char* col_tiles = row_tiles + depth_chunks * kRowBytes;
    unsigned char* value_tiles = col_tiles + 2 * depth_chunks * kColBytes;

    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, group = lane >> 2, quad = lane & 3;
    const int row_begin = p.sweep.row_begin + blockIdx.x * kFusedRows;
    const int value_begin = blockIdx.y * kFusedValues;
    const int tiles = (p.sweep.col_end - p.sweep.col_begin + kFusedCols - 1) / kFusedCols;
    const Weight weight{p.scale, p.shift};

    auto load_cols = [&](int tile) {
        const int col = p.sweep.col_begin + tile * kFusedCols, left = p.sweep.col_end - col;
        for (int c = 0; c < depth_chunks; ++c)
            load_tile<kFusedCols>(col_tiles + ((tile & 1) * depth_chunks + c) * kColBytes, p.sweep.z.cols, p.sweep.z.ld,
                                  c * kDepth, min(p.sweep.z.depth - c * kDepth, kDepth), left, [&](int r) { return col + r; });
        for (int c = 0; c < kValueChunks; ++c) {
            // Columns of V beyond its width are read as zeros, not as whatever the slot holds.
            const int width = min(max(int(p.ld_values) - value_begin - c * kDepth, 0), kDepth);
            unsigned char* to = value_tiles + (tile & 1) * kValueBytes + c * kColBytes;
            load_tile<kFusedCols>(to, p.values, p.ld_values, value_begin + c * kDepth, width, left, [&](int r) { return col + r; });
            const int piece = threadIdx.x & 7;
            if (piece * 8 >= width)
                for (int row = threadIdx.x >> 3; row < kFusedCols; row += kThreads / 8)
                    copy_async16(piece_address(to, row, piece), p.values, false);
        }
    };

    for (int c = 0; c < depth_chunks; ++c)
        load_tile<kFusedRows>(row_tiles + c * kRowBytes, p.sweep.z.rows, p.sweep.z.ld, c * kDepth,
                              min(p.sweep.z.depth - c * kDepth, kDepth), p.sweep.row_end - row_begin,
                              [&](int r) { return row_begin + r; });
    load_cols(0);
    copy_async_commit();

    // Each quad's four lanes share two rows; every lane walks both rows' masked entries.
    float row_factor[2];
    int64_t position[2], end[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int row = row_begin + warp * 16 + h * 8 + group;
        const bool valid = row < p.sweep.row_end;
        row_factor[h] = valid ? p.row[row] : 0.0f;
        position[h] = end[h] = 0;
        if (valid && p.sweep.masked.offsets) {
            position[h] = p.sweep.masked.offsets[row];
            end[h] = p.sweep.masked.offsets[row + 1];
            while (position[h] < end[h] && p.sweep.masked.columns[position[h]] < p.sweep.col_begin) ++position[h];
        }
    }

    float out[kValueTiles][4] = {};
    for (int tile = 0; tile < tiles; ++tile) {
        copy_async_wait<0>();
        // This tile has arrived, and nobody reads the other slot any more.
        block_barrier();
        if (tile + 1 < tiles) load_cols(tile + 1);
        copy_async_commit();

        float acc[kWarpMTiles][kColTiles][4] = {};
        for (int c = 0; c < depth_chunks; ++c)
            multiply_chunk<T>(acc, row_tiles + c * kRowBytes, col_tiles + ((tile & 1) * depth_chunks + c) * kColBytes,
                              warp * 16, 0, min(p.sweep.z.depth - c * kDepth, kDepth) / 16);

        const int col = p.sweep.col_begin + tile * kFusedCols;
        const int inside = p.sweep.col_end - col;
#pragma unroll
        for (int n = 0; n < kColTiles; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int j = n * 8 + quad * 2 + e;
                const float c = j < inside ? p.col[col + j] : 0.0f;
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    float& w = acc[0][n][h * 2 + e];
                    w = j < inside ? weight(w, row_factor[h], c) : 0.0f;
                }
            }
#pragma unroll
        for (int h = 0; h < 2; ++h)
            for (; position[h] < end[h] && p.sweep.masked.columns[position[h]] < col + kFusedCols; ++position[h]) {
                const int j = p.sweep.masked.columns[position[h]] - col;
#pragma unroll
                for (int n = 0; n < kColTiles; ++n)
#pragma unroll
                    for (int e = 0; e < 2; ++e)
                        if (j == n * 8 + quad * 2 + e) acc[0][n][h * 2 + e] = 0.0f;
            }

        warp_barrier();  // the lanes' masked entries differ, and what follows is done by the warp as one
        unsigned char* values = value_tiles + (tile & 1) * kValueBytes;
#pragma unroll
        for (int k = 0; k < kFusedCols / 16; ++k) {
            const uint32_t a[4] = {pack2<T>(acc[0][2 * k][0], acc[0][2 * k][1]), pack2<T>(acc[0][2 * k][2], acc[0][2 * k][3]),
                                   pack2<T>(acc[0][2 * k + 1][0], acc[0][2 * k + 1][1]),
                                   pack2<T>(acc[0][2 * k + 1][2], acc[0][2 * k + 1][3])};
#pragma unroll
            for (int n = 0; n < kValueTiles; n += 2) {
                uint32_t b[4];
                const int row = k * 16 + (lane & 15), piece = n + (lane >> 4);
                const unsigned char* from = piece_address(values + (piece >> 3) * kColBytes, row, piece & 7);
                load_matrix_x4_transposed(b, from);
                mma_16x8x16<T>(out[n], a, b[0], b[1]);
                mma_16x8x16<T>(out[n + 1], a, b[2], b[3]);
            }
        }
    }

#pragma unroll
    for (int n = 0; n < kValueTiles; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int row = row_begin + warp * 16 + (i >> 1) * 8 + group;
            const int col = value_begin + n * 8 + quad * 2 + (i & 1);
            if (row < p.sweep.row_end && col < p.width) {
                float& o = p.out[int64_t(row - p.sweep.row_begin) * p.ld_out + col];
                o = p.accumulate ? o + out[n][i] : out[n][i];
            }
        }
}

}  // namespace

#define CLIP_FUSED(name, T, Weight) \
    UNICON_KERNEL void __launch_bounds__(shape::kThreads, 1) name(const ClipFused p) { clip_fused<T, Weight>(p); }
CLIP_FUSED(clip_fused_f16, half_t, FastWeight)
CLIP_FUSED(clip_fused_bf16, bf16_t, FastWeight)
CLIP_FUSED(clip_fused_robust_f16, half_t, RobustWeight)
CLIP_FUSED(clip_fused_robust_bf16, bf16_t, RobustWeight)
