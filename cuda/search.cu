// Retrieval without a matrix of similarities: the k best columns of every row, and the rank of a row's best positive.
#include "sweep.cuh"

namespace {

using sweep::Lane;
constexpr int32_t kNoColumn = 0x7fffffff;

__device__ __forceinline__ bool before(float s, int32_t j, float other, int32_t other_j) {
    return s > other || (s == other && j < other_j);
}

// Inserts (s, j) into a sorted list of k that the whole warp holds in memory; all lanes pass the same arguments. Entries
// move back by one from the end, 32 at a time.
__device__ __forceinline__ void insert(float* value, int32_t* index, int k, float s, int32_t j) {
    const int lane = threadIdx.x & 31;
    for (int base = (k - 1) / 32 * 32; base >= 0; base -= 32) {
        const int i = base + lane;
        const bool inside = i < k;
        const float here = inside ? value[i] : 0.0f, ahead = inside && i > 0 ? value[i - 1] : 0.0f;
        const int32_t here_j = inside ? index[i] : 0, ahead_j = inside && i > 0 ? index[i - 1] : 0;
        const bool displaced = inside && before(s, j, here, here_j);
        const bool first = i == 0 || !before(s, j, ahead, ahead_j);
        warp_barrier();
        if (displaced) {
            value[i] = first ? s : ahead;
            index[i] = first ? j : ahead_j;
        }
        warp_barrier();
    }
}

// Each warp keeps the lists of its 64 rows for its own 32 columns of every tile, so no two warps share a list; merge_top_k
// joins the four lists of a row and those of other blocks.
struct Best {
    const TopK& p;
    float last[8];

    __device__ int64_t list(const Lane& at, int row) const {
        const int64_t rows = p.sweep.row_end - p.sweep.row_begin;
        return ((int64_t(blockIdx.y) * 4 + at.warp_col) * rows + int64_t(blockIdx.x) * shape::kSweepRows + row) * p.k;
    }

    __device__ void clear(const Lane& at) {
        const int rows = p.sweep.row_end - p.sweep.row_begin;
        for (int r = 0; r < shape::kSweepWarpRows; ++r) {
            const int row = at.warp_row * shape::kSweepWarpRows + r;
            if (int(blockIdx.x) * shape::kSweepRows + row >= rows) break;
            for (int i = threadIdx.x & 31; i < p.k; i += 32) {
                p.value[list(at, row) + i] = -INFINITY;
                p.index[list(at, row) + i] = kNoColumn;
            }
        }
        for (float& v : last) v = -INFINITY;
        warp_barrier();
    }

    template <bool Masked>
    __device__ __forceinline__ void tile(float (&acc)[4][4][4], const Lane& at, const sweep::Mask& mask, int tile_col) {
        const int lane = threadIdx.x & 31;
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint32_t word = Masked ? mask.word(at, m, h) : 0;
                uint32_t candidates = 0;  // bit c: this lane's column c may enter the list
#pragma unroll
                for (int c = 0; c < 8; ++c) {
                    const bool counts = !Masked || !(word >> at.bit(c >> 1, c & 1) & 1);
                    if (counts && acc[m][c >> 1][h * 2 + (c & 1)] >= last[m * 2 + h]) candidates |= 1u << c;
                }
                while (const uint32_t lanes = warp_ballot(candidates != 0)) {
                    const int leader = first_bit(lanes);
                    const int c = first_bit(shuffle_from(candidates, leader));
                    float s = 0.0f;
#pragma unroll
                    for (int i = 0; i < 8; ++i)
                        if (i == c) s = acc[m][i >> 1][h * 2 + (i & 1)];
                    s = shuffle_from(s, leader);
                    const int32_t j = tile_col + at.warp_col * 32 + (c >> 1) * 8 + (leader & 3) * 2 + (c & 1);
                    const int64_t at_list = list(at, at.warp_row * shape::kSweepWarpRows + m * 16 + h * 8 + (leader >> 2));
                    insert(p.value + at_list, p.index + at_list, p.k, s, j);
                    const float now_last = p.value[at_list + p.k - 1];
                    if (lane == leader) candidates &= candidates - 1;
                    if ((lane >> 2) == (leader >> 2)) last[m * 2 + h] = now_last;
                }
            }
    }
};

template <class T> __device__ __forceinline__ void top_k(const TopK& p) {
    UNICON_SHARED(shared);
    Best best{p, {}};
    best.clear(Lane());
    sweep::run<T>(p.sweep, shared, best);
}

// Counts of a row: columns above its best positive, columns as similar, and those of them that are lower columns.
struct Ahead {
    const Ranks& p;
    float best[8];
    int32_t best_index[8], above[8], tied[8], lower[8];

    template <bool Masked>
    __device__ __forceinline__ void tile(float (&acc)[4][4][4], const Lane& at, const sweep::Mask& mask, int tile_col) {
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint32_t word = Masked ? mask.word(at, m, h) : 0;
                const int r = m * 2 + h;
#pragma unroll
                for (int c = 0; c < 8; ++c) {
                    const bool counts = !Masked || !(word >> at.bit(c >> 1, c & 1) & 1);
                    const float s = acc[m][c >> 1][h * 2 + (c & 1)];
                    const bool equal = counts && s == best[r];
                    above[r] += counts && s > best[r];
                    tied[r] += equal;
                    lower[r] += equal && before(s, tile_col + at.col(c >> 1, c & 1), best[r], best_index[r]);
                }
            }
    }
};

// Adds up the four lanes that share a row and writes the row's count.
__device__ __forceinline__ void put(int32_t count, const Lane& at, int row, int rows, int32_t* out) {
    count += shuffle_xor(count, 1);
    count += shuffle_xor(count, 2);
    if (at.quad == 0 && row < rows) out[(int64_t(blockIdx.y) * 4 + at.warp_col) * rows + row] = count;
}

template <class T> __device__ __forceinline__ void ranks(const Ranks& p) {
    UNICON_SHARED(shared);
    const Lane at;
    const int rows = p.sweep.row_end - p.sweep.row_begin;
    Ahead ahead{p, {}, {}, {}, {}, {}};
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = int(blockIdx.x) * shape::kSweepRows + at.row(m, h);
            ahead.best[m * 2 + h] = row < rows ? p.best[p.sweep.row_begin + row] : INFINITY;
            ahead.best_index[m * 2 + h] = row < rows ? p.best_index[p.sweep.row_begin + row] : 0;
        }
    sweep::run<T>(p.sweep, shared, ahead);
    const int64_t plane = int64_t(gridDim.y) * 4 * rows;
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = int(blockIdx.x) * shape::kSweepRows + at.row(m, h);
            put(ahead.above[m * 2 + h], at, row, rows, p.count);
            put(ahead.tied[m * 2 + h], at, row, rows, p.count + plane);
            put(ahead.lower[m * 2 + h], at, row, rows, p.count + 2 * plane);
        }
}

}  // namespace

UNICON_KERNEL void __launch_bounds__(shape::kThreads, 1) top_k_f16(const TopK p) { top_k<half_t>(p); }
UNICON_KERNEL void __launch_bounds__(shape::kThreads, 1) top_k_bf16(const TopK p) { top_k<bf16_t>(p); }
UNICON_KERNEL void __launch_bounds__(shape::kThreads, 1) ranks_f16(const Ranks p) { ranks<half_t>(p); }
UNICON_KERNEL void __launch_bounds__(shape::kThreads, 1) ranks_bf16(const Ranks p) { ranks<bf16_t>(p); }

// Joins `lists` sorted lists [lists][rows][k] of each row into list 0: one warp a row, 8 rows a block. Entries come in the
// order of the lists; equal similarities are settled by the column, so the order does not show.
UNICON_KERNEL void __launch_bounds__(shape::kThreads) merge_top_k(float* value, int32_t* index, int32_t lists, int32_t rows,
                                                                  int32_t k) {
    const int row = int(blockIdx.x) * (shape::kThreads / 32) + (threadIdx.x >> 5);
    if (row >= rows) return;
    float* to = value + int64_t(row) * k;
    int32_t* to_index = index + int64_t(row) * k;
    for (int l = 1; l < lists; ++l)
        for (int i = 0; i < k; ++i) {
            const int64_t from = (int64_t(l) * rows + row) * k + i;
            const float s = value[from];
            const int32_t j = index[from];
            if (!before(s, j, to[k - 1], to_index[k - 1])) break;
            insert(to, to_index, k, s, j);
        }
}
