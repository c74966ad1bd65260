// What the kernels for compute capability 9.0 share: packed operands, the ring of stages that a producer fills, and the
// entries that do not count. Similarities and weights are those of the portable kernels (sweep.cuh, weights.cuh); these
// kernels form them with warpgroup products, which the portable ones cannot.
#pragma once

#include "masked.cuh"
#include "params.cuh"
#include "ptx_hopper.cuh"

namespace hopper {

// The table of shapes. A block is a producer warpgroup, of which one thread orders copies, and two that compute.
//   tile           64 x 64   16-bit elements as packed by hopper_pack.cu: 8 KiB that one bulk copy moves; the tiles of 64
//                            rows follow one another along the depth, chunk by chunk
//   sweep         256 x 128  statistics, weights panels: each warpgroup 128 rows in two halves of 64, so that one half's
//                            exponentials run beside the other's products; rows stay in shared memory (at most 128 KiB),
//                            a stage is one chunk of the columns (16 KiB)
//   fused         128 x 64   weights x V: each warpgroup 64 rows, V 128 or 256 wide in its accumulators; a stage is a
//                            tile of columns with all chunks and its part of V
//   registers     40 / 232   of a thread that copies / that computes
constexpr int kThreads = 384;
constexpr int kTileRows = 64, kTileBytes = kTileRows * 128, kDepth = 64;
constexpr int kSweepRows = 256, kSweepCols = 128, kSweepStageBytes = 2 * kTileBytes;
constexpr int kFusedRows = 128, kFusedCols = 64;
constexpr int kWarps = 8, kProducerRegisters = 40, kConsumerRegisters = 232;
constexpr int kMostStages = 12;
constexpr int kBarrierBytes = 256;  // full and empty of every stage, and one for the rows
static_assert((1 + 2 * kMostStages) * sizeof(Barrier) <= kBarrierBytes, "room for all barriers");

__device__ constexpr int fused_stage(int chunks, int padded) { return chunks * kTileBytes + padded * 128; }
// Shared memory: rows, stages, barriers, masks, and for the sweep the exchange of column sums.
constexpr int kSweepMaskBytes = kWarps * 32 * 4 * 4, kExchangeBytes = 2 * 2 * 4 * kSweepCols * 8;
constexpr int kFusedMaskBytes = kWarps * 16 * 2 * 4;
__device__ constexpr int sweep_shared(int chunks, int stages) {
    return 4 * chunks * kTileBytes + stages * kSweepStageBytes + kBarrierBytes + kSweepMaskBytes + kExchangeBytes;
}
__device__ constexpr int fused_shared(int chunks, int stages, int padded) {
    return 2 * chunks * kTileBytes + stages * fused_stage(chunks, padded) + kBarrierBytes + kFusedMaskBytes;
}

static_assert(sweep_shared(0, 0) == 256 + 4096 + 16384 && fused_shared(0, 0, 0) == 256 + 1024, "hopper.rs declares otherwise");

// The stages in turn. Each is filled by the producer (full) and given back by every consuming warp (empty).
struct Ring {
    Barrier* barriers;
    int stages, stage = 0, parity = 0;
    __device__ Ring(unsigned char* memory, int stages) : barriers(reinterpret_cast<Barrier*>(memory)), stages(stages) {}
    __device__ Barrier* rows() const { return barriers; }
    __device__ Barrier* full() const { return barriers + 1 + stage; }
    __device__ Barrier* empty() const { return barriers + 1 + stages + stage; }
    __device__ void advance() {
        if (++stage == stages) stage = 0, parity ^= 1;
    }
    // By the whole block, before anything else.
    __device__ void init() const {
        if (threadIdx.x == 0) {
            barrier_init(rows(), 1);
            for (int s = 0; s < stages; ++s) {
                barrier_init(barriers + 1 + s, 1);
                barrier_init(barriers + 1 + stages + s, kWarps);
            }
            barrier_init_fence();
            proxy_fence();
        }
        block_barrier();
    }
    // The producer's side: a stage that nobody reads any more, about to receive `bytes`.
    __device__ void acquire(uint32_t bytes) const {
        barrier_wait(empty(), parity ^ 1);
        barrier_arrive_expect(full(), bytes);
    }
    // The consumers' side.
    __device__ void wait_full() const { barrier_wait(full(), parity); }
    __device__ void release() const {
        if ((threadIdx.x & 31) == 0) barrier_arrive(empty());
    }
};

// Where a thread's entries of a 64-row product lie: acc[(n * 2 + h) * 2 + e] is row(h), column col(n, e).
struct Lane {
    int warpgroup, warp, lane, group, quad;  // warpgroup 0 or 1 of those that compute, warp 0..3 in it
    __device__ Lane() {
        const int thread = int(threadIdx.x) - 128;
        warpgroup = thread >> 7;
        warp = (thread >> 5) & 3;
        lane = thread & 31;
        group = lane >> 2;
        quad = lane & 3;
    }
    __device__ int row(int h) const { return warp * 16 + h * 8 + group; }
    __device__ int col(int n, int e) const { return n * 8 + quad * 2 + e; }
};

// One bit for every entry of a warp's rows and the current columns that must not count: masked entries, and rows and columns
// outside of the sweep. Each row is kept by one lane of the warp that computes it, so only lanes of a warp wait for each
// other. Halves: 64-row products of a warpgroup; Cols: columns of a tile.
template <int Halves, int Cols> class Mask {
    static constexpr int kWords = Cols / 32;
    uint32_t* words_;  // of this warp: [Halves * 16][kWords]
    const int32_t* columns_;
    int64_t position_ = 0, end_ = 0;
    int col_begin_, col_end_;
    bool valid_ = false, any_ = false;

    __device__ bool before(int column) const { return position_ < end_ && columns_[position_] < column; }

   public:
    // first: the row of the sweep that the warpgroup begins with; begin: the block's first column.
    __device__ Mask(unsigned char* memory, const Sweep& p, const Lane& at, int first, int begin)
        : words_(reinterpret_cast<uint32_t*>(memory) + (at.warpgroup * 4 + at.warp) * Halves * 16 * kWords),
          columns_(p.masked.columns), col_begin_(p.col_begin), col_end_(p.col_end) {
        if (at.lane >= Halves * 16) {
            valid_ = true;  // keeps no row
            return;
        }
        const int row = first + (at.lane >> 4) * 64 + at.warp * 16 + (at.lane & 15);
        valid_ = row >= p.row_begin && row < p.row_end;
        words_ += at.lane * kWords;
        if (!valid_ || p.masked.offsets == nullptr) return;
        end_ = p.masked.offsets[row + 1];
        position_ = first_masked(columns_, p.masked.offsets[row], end_, begin);
    }

    // Looks at columns [col, col + Cols), in ascending order of col; the same answer for the whole warp.
    __device__ bool build(const Lane& at, int col) {
        const bool cut = col < col_begin_ || col + Cols > col_end_;
        any_ = warp_ballot(cut || !valid_ || before(col + Cols)) != 0;
        if (!any_) return false;
        if (at.lane < Halves * 16) {
#pragma unroll
            for (int w = 0; w < kWords; ++w) {
                const int low = col_begin_ - col - w * 32, high = col_end_ - col - w * 32;
                const uint32_t below = low <= 0 ? 0u : low >= 32 ? ~0u : (1u << low) - 1;
                const uint32_t above = high >= 32 ? 0u : high <= 0 ? ~0u : ~0u << high;
                words_[w] = valid_ ? below | above : ~0u;
            }
            for (; before(col + Cols); ++position_) {
                const int bit = columns_[position_] - col;
                if (bit >= 0) words_[bit >> 5] |= 1u << (bit & 31);
            }
        }
        warp_barrier();
        return true;
    }
    // After the tile, before the next is built.
    __device__ void done() const {
        if (any_) warp_barrier();
    }
    // Bits of columns [32 word, 32 word + 32) of the row `row(h)` of a half.
    __device__ uint32_t word(const Lane& at, int half, int h, int word) const {
        const uint32_t* first = at.lane < Halves * 16 ? words_ - at.lane * kWords : words_;
        return first[(half * 16 + h * 8 + at.group) * kWords + word];
    }
};

}  // namespace hopper
