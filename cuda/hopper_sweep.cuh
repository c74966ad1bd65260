// The loop of the kernels that meet all columns without a V (statistics, weights panels): sweep.cuh with warpgroup
// products. A block holds a strip of 256 rows; similarities of 64 rows x 128 columns at a time reach an epilogue.
#pragma once

#include "hopper.cuh"

namespace hopper {

using SweepMask = Mask<2, kSweepCols>;

// The columns of a block.
struct SweepColumns {
    int first, tiles;
    __device__ explicit SweepColumns(const Sweep& p) {
        const int all = (p.col_end + kSweepCols - 1) / kSweepCols;
        const int begin = p.col_begin / kSweepCols + int(blockIdx.y) * p.tiles_per_block;
        first = begin * kSweepCols;
        tiles = min(all - begin, p.tiles_per_block);
    }
};

__device__ __forceinline__ int sweep_row(const Sweep& p) {
    return (p.row_begin / kSweepRows + int(blockIdx.x)) * kSweepRows;
}

// Orders the strip's rows and then every chunk of every column tile.
__device__ __forceinline__ void sweep_copies(const Sweep& p, Ring ring, unsigned char* rows, unsigned char* stages) {
    const int chunks = p.z.ld;
    const SweepColumns columns(p);
    const auto tile = [&](const uint16_t* packed, int64_t tile, int chunk) {
        return reinterpret_cast<const unsigned char*>(packed) + (tile * chunks + chunk) * kTileBytes;
    };
    barrier_arrive_expect(ring.rows(), uint32_t(4 * chunks * kTileBytes));
    for (int t = 0; t < 4; ++t)
        bulk_copy(rows + t * chunks * kTileBytes, tile(p.z.rows, sweep_row(p) / kTileRows + t, 0), uint32_t(chunks * kTileBytes), ring.rows());
    for (int t = 0; t < columns.tiles; ++t)
        for (int c = 0; c < chunks; ++c) {
            ring.acquire(kSweepStageBytes);
            for (int half = 0; half < 2; ++half)
                bulk_copy(stages + ring.stage * kSweepStageBytes + half * kTileBytes,
                          tile(p.z.cols, columns.first / kTileRows + t * 2 + half, c), kTileBytes, ring.full());
            ring.advance();
        }
}

// Starts acc = rows x columns of the tile whose chunks begin at `ring`. Columns' chunks are 16-bit values, then remainders;
// the products are hi hi and, of three, lo hi and hi lo. Wait: the chunks may not have come yet.
template <class T, bool Wait>
__device__ __forceinline__ void sweep_products(float (&acc)[64], const Sweep& p, Ring ring, const unsigned char* rows,
                                               const unsigned char* stages) {
    const int chunks = p.z.ld, depth_chunks = (p.z.depth + kDepth - 1) / kDepth;
    int col = 0;
    bool low = false;  // the product of the rows' remainders with this chunk
#pragma unroll 1
    do {
        if (Wait) ring.wait_full();
        const unsigned char* cols = stages + ring.stage * kSweepStageBytes;
        int row = col < depth_chunks ? col : col - depth_chunks;
        if (low) row += depth_chunks;
        wgmma_begin();
#pragma unroll
        for (int step = 0; step < 4; ++step)
            wgmma<T, 128>(acc, tile_operand(rows + row * kTileBytes, step), tile_operand(cols, step), low || col > 0 || step > 0);
        wgmma_commit();
        low = p.z.products == 3 && col < depth_chunks && !low;
        if (!low) {
            ++col;
            ring.advance();
        }
    } while (col < chunks);
}

// Runs the sweep of this block. `epilogue.template half<Masked>(acc, half, at, mask, col)` sees every tile's halves of the
// warpgroup's rows, `epilogue.columns(at, col)` comes after both. While one half is in an epilogue, the products of the
// other run; it therefore only reads its accumulators.
template <class T, class Epilogue>
__device__ __forceinline__ void sweep_run(const Sweep& p, unsigned char* shared, Epilogue& epilogue) {
    const int chunks = p.z.ld;
    unsigned char* rows = shared;
    unsigned char* stages = rows + 4 * chunks * kTileBytes;
    unsigned char* rest = stages + p.z.resident * kSweepStageBytes;
    Ring ring(rest, p.z.resident);
    ring.init();
    if (threadIdx.x < 128) {
        give_registers<kProducerRegisters>();
        if (threadIdx.x == 0) sweep_copies(p, ring, rows, stages);
        return;
    }
    take_registers<kConsumerRegisters>();
    const Lane at;
    const SweepColumns columns(p);
    SweepMask mask(rest + kBarrierBytes, p, at, sweep_row(p) + at.warpgroup * 128, columns.first);
    const unsigned char* first = rows + at.warpgroup * 2 * chunks * kTileBytes;
    const unsigned char* second = first + chunks * kTileBytes;

    float low[64], high[64];
    barrier_wait(ring.rows(), 0);
    sweep_products<T, true>(low, p, ring, first, stages);
    wgmma_wait<0>();
    ready(low);
    for (int tile = 0; tile < columns.tiles; ++tile) {
        const int col = columns.first + tile * kSweepCols;
        sweep_products<T, false>(high, p, ring, second, stages);
        const bool masked = mask.build(at, col);
        if (masked) {
            epilogue.template half<true>(low, 0, at, mask, col);
        } else {
            epilogue.template half<false>(low, 0, at, mask, col);
        }
        // The tile's stages are given back before the next tile is waited for: there may be no others.
        wgmma_wait<0>();
        for (int c = 0; c < chunks; ++c) {
            ring.release();
            ring.advance();
        }
        ready(high);
        if (tile + 1 < columns.tiles) sweep_products<T, true>(low, p, ring, first, stages);
        if (masked) {
            epilogue.template half<true>(high, 1, at, mask, col);
        } else {
            epilogue.template half<false>(high, 1, at, mask, col);
        }
        mask.done();
        epilogue.columns(at, col);
        wgmma_wait<0>();
        ready(low);
    }
}

// Where the exchange of column sums lies.
__device__ __forceinline__ unsigned char* sweep_exchange(const Sweep& p, unsigned char* shared) {
    return shared + 4 * p.z.ld * kTileBytes + p.z.resident * kSweepStageBytes + kBarrierBytes + kSweepMaskBytes;
}

}  // namespace hopper
