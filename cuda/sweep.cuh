// The loop that every dense kernel shares: a strip of 128 rows meets its columns 128 at a time, s = Z_x Z_y^T is formed in
// registers, and an epilogue consumes it. No similarity reaches memory.
#pragma once

#include "masked.cuh"
#include "params.cuh"
#include "tiles.cuh"

namespace sweep {

using namespace shape;
constexpr int kTileBytes = kSweepRows * kDepthBytes;  // one 128 x 64 tile; row and column tiles are alike
constexpr int kMaskWords = kSweepCols / 32;
constexpr int kMaskBytes = kSweepRows * kMaskWords * 4;
constexpr int kMTiles = kSweepWarpRows / 16, kNTiles = kSweepWarpCols / 8;

// Where the entries a thread holds lie. Row slot m * 2 + h and column slot n * 2 + e belong to acc[m][n][h * 2 + e].
struct Lane {
    int warp_row, warp_col, group, quad;
    __device__ Lane() {
        const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
        warp_row = warp >> 2;
        warp_col = warp & 3;
        group = lane >> 2;
        quad = lane & 3;
    }
    __device__ int row(int m, int h) const { return warp_row * kSweepWarpRows + m * 16 + h * 8 + group; }
    __device__ int bit(int n, int e) const { return n * 8 + quad * 2 + e; }  // within the warp's 32 columns
    __device__ int col(int n, int e) const { return warp_col * 32 + bit(n, e); }
};

// One bit for every entry of the tile that must not count: masked entries, and rows and columns beyond the matrix (their
// embeddings are zeros, and e^0 is not zero). Thread t < 128 owns row t and walks that row's masked entries as the column
// tiles advance, so finding them costs one comparison a row and tile.
class Mask {
    uint32_t* words_;
    int* any_;
    const int32_t* columns_;
    int64_t position_ = 0, end_ = 0;
    bool valid_ = false;

   public:
    __device__ Mask(unsigned char* shared, const Sweep& p, int row, int col_begin)
        : words_(reinterpret_cast<uint32_t*>(shared)),
          any_(reinterpret_cast<int*>(shared + kMaskBytes)),
          columns_(p.masked.columns) {
        if (threadIdx.x >= kSweepRows) return;
        valid_ = row < p.row_end;
        if (!valid_ || p.masked.offsets == nullptr) return;
        const int64_t i = p.row_of ? p.row_of[row] : row;
        end_ = p.masked.offsets[i + 1];
        position_ = first_masked(columns_, p.masked.offsets[i], end_, col_begin);
    }

    // Writes the bits for columns [col, col + 128); a barrier must follow.
    __device__ void build(int col, int col_end) {
        if (threadIdx.x >= kSweepRows) return;
        uint32_t* row = words_ + threadIdx.x * kMaskWords;
        bool any = !valid_;
#pragma unroll
        for (int w = 0; w < kMaskWords; ++w) {
            const int inside = col_end - col - w * 32;
            const uint32_t outside = inside >= 32 ? 0u : inside <= 0 ? ~0u : ~0u << inside;
            row[w] = valid_ ? outside : ~0u;
            any |= outside != 0;
        }
        for (; position_ < end_ && columns_[position_] < col + kSweepCols; ++position_) {
            const int bit = columns_[position_] - col;
            row[bit >> 5] |= 1u << (bit & 31);
            any = true;
        }
        const uint32_t some = warp_ballot(any);
        if ((threadIdx.x & 31) == 0) any_[threadIdx.x >> 5] = some != 0;
    }

    __device__ bool any(const Lane& at) const { return any_[at.warp_row * 2] | any_[at.warp_row * 2 + 1]; }
    __device__ uint32_t word(const Lane& at, int m, int h) const { return words_[at.row(m, h) * kMaskWords + at.warp_col]; }
};

// Runs the sweep of this block. `epilogue.template tile<Masked>(acc, at, mask, col)` sees every tile, in ascending columns;
// Masked says whether any entry of the warp's part has its mask bit set.
template <class T, class Epilogue> __device__ __forceinline__ void run(const Sweep& p, unsigned char* shared, Epilogue& epilogue) {
    const int row_begin = p.row_begin + blockIdx.x * kSweepRows;
    const int col_begin = p.col_begin + blockIdx.y * p.tiles_per_block * kSweepCols;
    const int col_end = min(p.col_end, col_begin + p.tiles_per_block * kSweepCols);
    const int depth_chunks = (p.z.depth + kDepth - 1) / kDepth;
    const int chunks = depth_chunks * p.z.products;
    const int tiles = (col_end - col_begin + kSweepCols - 1) / kSweepCols;
    const int row_slots = p.z.resident ? depth_chunks * (p.z.products == 1 ? 1 : 2) : kSweepStages;

    unsigned char* row_tiles = shared;
    unsigned char* col_tiles = row_tiles + row_slots * kTileBytes;
    const Lane at;
    Mask mask(col_tiles + kSweepStages * kTileBytes, p, row_begin + threadIdx.x, col_begin);

    // Chunk c is 64 columns of one of the products hi hi, hi lo, lo hi.
    auto row_slot = [&](int chunk, int stage) {
        if (!p.z.resident) return stage;
        return chunk < depth_chunks ? chunk : chunk - depth_chunks;  // the second product reuses hi, the third is lo
    };
    auto load = [&](int tile, int chunk, int stage) {
        const int product = chunk / depth_chunks, k0 = (chunk - product * depth_chunks) * kDepth;
        const int width = min(p.z.depth - k0, kDepth);
        if (!p.z.resident || (tile == 0 && product != 1)) {
            load_tile<kSweepRows>(row_tiles + row_slot(chunk, stage) * kTileBytes, p.z.rows, p.z.ld,
                                  k0 + (product == 2 ? p.z.depth : 0), width, p.row_end - row_begin,
                                  [&](int r) { return p.row_of ? p.row_of[row_begin + r] : row_begin + r; });
        }
        const int col = col_begin + tile * kSweepCols;
        load_tile<kSweepCols>(col_tiles + stage * kTileBytes, p.z.cols, p.z.ld, k0 + (product == 1 ? p.z.depth : 0), width,
                              col_end - col, [&](int c) { return col + c; });
    };

    // The pipeline runs over (tile, chunk) without a break, so loads are in flight during the epilogue too.
    int next_tile = 0, next_chunk = 0, next_stage = 0;
    auto load_next = [&] {
        if (next_tile < tiles) load(next_tile, next_chunk, next_stage);
        copy_async_commit();
        next_stage = next_stage + 1 == kSweepStages ? 0 : next_stage + 1;
        if (++next_chunk == chunks) next_chunk = 0, ++next_tile;
    };
    for (int i = 0; i < kSweepStages - 1; ++i) load_next();

    int stage = 0;
    for (int tile = 0; tile < tiles; ++tile) {
        const int col = col_begin + tile * kSweepCols;
        float acc[kMTiles][kNTiles][4] = {};
        for (int chunk = 0; chunk < chunks; ++chunk) {
            copy_async_wait<kSweepStages - 2>();
            // The chunk has arrived for every thread, and the slot loaded next is no longer read.
            block_barrier();
            load_next();
            if (chunk == 0) mask.build(col, col_end);  // all warps are past the previous tile's epilogue
            const int k0 = (chunk % depth_chunks) * kDepth;
            multiply_chunk<T>(acc, row_tiles + row_slot(chunk, stage) * kTileBytes, col_tiles + stage * kTileBytes,
                              at.warp_row * kSweepWarpRows, at.warp_col * kSweepWarpCols,
                              min(p.z.depth - k0, kDepth) / 16);
            stage = stage + 1 == kSweepStages ? 0 : stage + 1;
        }
        // With more chunks a barrier has already passed since the mask was built.
        if (chunks == 1) block_barrier();
        if (mask.any(at)) {
            epilogue.template tile<true>(acc, at, mask, col);
        } else {
            epilogue.template tile<false>(acc, at, mask, col);
        }
    }
    copy_async_wait<0>();
}

// Adds up (or merges) eight column slots over the eight lanes that hold the same columns, halving at each step; the lane
// with group g is left with slot g.
template <class V, class Combine> __device__ __forceinline__ V reduce_columns(V (&v)[8], const Lane& at, Combine combine) {
#pragma unroll
    for (int half = 4; half > 0; half >>= 1) {
        const bool upper = at.group & half;
#pragma unroll
        for (int k = 0; k < half; ++k) {
            const V give = upper ? v[k] : v[k + half];
            const V keep = upper ? v[k + half] : v[k];
            v[k] = combine(keep, give.exchange(half * 4));
        }
    }
    return v[0];
}

}  // namespace sweep
