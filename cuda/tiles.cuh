// Tile shapes, the shared-memory layout they imply, and the loads that fill it.
#pragma once

#include "ptx.cuh"

// The one table of shapes. Rows are embeddings of the x side, columns of the y side.
//   kDepth     64    16-bit elements: 128-byte rows, so eight 16-byte pieces swizzled over the 32 banks
//   sweep            statistics, weights panels, search: as in a large GEMM
//     128 x 128      64 accumulators a thread with 8 warps as 2 x 4; twice the arithmetic per byte of 64 x 128
//     3 stages       96 KiB streamed, 32 KiB for each resident 128 columns of r + 48 KiB: fits the 99 KiB of sm_86/89/120
//     64 tiles       columns per block: 8,192 terms per sum keep the fp32 partial sums exact to about 1e-6, and the
//                    merge of the partial sums is in double
//   fused            weights x V without a panel
//     128 x 64       a warp owns 16 rows, so weights go from accumulators to operands without shared memory
//     V 128 wide     64 accumulators for V beside 32 for s; wider V recomputes s for each 128 columns of V
namespace shape {
constexpr int kDepth = 64;
constexpr int kThreads = 256;
constexpr int kSweepRows = 128, kSweepCols = 128, kSweepStages = 3;
constexpr int kSweepWarpRows = 64, kSweepWarpCols = 32;   // 2 x 4 warps
constexpr int kFusedRows = 128, kFusedCols = 64, kFusedValues = 128;
}  // namespace shape

constexpr int kDepthBytes = shape::kDepth * 2;

// Address of 16-byte piece `piece` (0..7) of row `row` in a [rows][64] tile of 16-bit elements. Xor-ing the piece with
// the row spreads the eight rows that one ldmatrix reads over all banks.
__device__ __forceinline__ unsigned char* piece_address(unsigned char* tile, int row, int piece) {
    return tile + row * kDepthBytes + ((piece ^ (row & 7)) << 4);
}

// Fills a [Rows][64] tile with 16-bit elements source[row][k0 ..], `width` of them (a multiple of 8), asynchronously;
// rows at or beyond `rows_valid` become zeros. `row_of` maps the tile's row to the row of `source`.
template <int Rows, class RowOf>
__device__ __forceinline__ void load_tile(unsigned char* tile, const uint16_t* source, int64_t ld, int k0, int width,
                                          int rows_valid, RowOf row_of) {
    static_assert(Rows * 8 % shape::kThreads == 0, "whole pieces for every thread");
    const int piece = threadIdx.x & 7;
    if (piece * 8 >= width) return;
#pragma unroll
    for (int i = 0; i < Rows * 8 / shape::kThreads; ++i) {
        const int row = int(threadIdx.x >> 3) + i * (shape::kThreads / 8);
        const bool valid = row < rows_valid;
        const uint16_t* from = source + (valid ? int64_t(row_of(row)) * ld + k0 + piece * 8 : 0);
        copy_async16(piece_address(tile, row, piece), from, valid);
    }
}

// acc += A B^T over one 64-deep chunk of which `steps` times 16 are in use; A and B are [rows][64] tiles, and the warp
// computes rows row0.. x columns col0...
template <class T, int MTiles, int NTiles>
__device__ __forceinline__ void multiply_chunk(float (&acc)[MTiles][NTiles][4], unsigned char* a_tile,
                                               unsigned char* b_tile, int row0, int col0, int steps) {
    static_assert(NTiles % 2 == 0, "columns are loaded sixteen at a time");
    const int lane = threadIdx.x & 31;
#pragma unroll
    for (int step = 0; step < shape::kDepth / 16; ++step) {
        if (step >= steps) break;
        uint32_t b[NTiles / 2][4];
#pragma unroll
        for (int n = 0; n < NTiles / 2; ++n) {
            const int row = col0 + n * 16 + (lane & 7) + ((lane >> 4) << 3);
            load_matrix_x4(b[n], piece_address(b_tile, row, step * 2 + ((lane >> 3) & 1)));
        }
#pragma unroll
        for (int m = 0; m < MTiles; ++m) {
            uint32_t a[4];
            load_matrix_x4(a, piece_address(a_tile, row0 + m * 16 + (lane & 15), step * 2 + (lane >> 4)));
#pragma unroll
            for (int n = 0; n < NTiles; ++n)
                mma_16x8x16<T>(acc[m][n], a, b[n / 2][(n & 1) * 2], b[n / 2][(n & 1) * 2 + 1]);
        }
    }
}
