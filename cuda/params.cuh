// Kernel arguments, passed by value. src/backend/cuda/params.rs declares the same structs; both sides assert the sizes.
#pragma once

#include <stddef.h>
#include <stdint.h>

// Positives, or any set of entries that the dense tiles must leave out: row i holds columns[offsets[i] .. offsets[i + 1]],
// ascending. offsets = nullptr is the empty set.
struct Csr {
    const int64_t* offsets;
    const int32_t* columns;
};

// Embeddings are stored as [n][ld] 16-bit elements. `depth` is r rounded up to a multiple of 16, the rest zeros. Each row
// is the 16-bit values and then their 16-bit remainders, ld = 2 depth (with products = 1 the remainders may be missing).
// products = 1: s = hi hi. products = 3 (fp32 mode, search): s = hi hi + hi lo + lo hi.
// The Hopper kernels take packed tiles instead (hopper_pack.cu): ld is then the number of chunks of 64 columns, remainders
// included, and `resident` the number of column stages.
struct Embeddings {
    const uint16_t* rows;
    const uint16_t* cols;
    int32_t depth;
    int32_t ld;
    int32_t products;
    int32_t resident;  // keep the strip of rows in shared memory for the whole sweep
};

// One launch: rows [row_begin, row_end) against columns [col_begin, col_end). grid.x counts strips of 128 rows, grid.y
// groups of `tiles_per_block` column tiles. `row_of` (may be null) maps a row of the sweep to a row of the embeddings
// and of `masked`: the additive losses sweep one row for each positive.
struct Sweep {
    Embeddings z;
    Csr masked;
    const int32_t* row_of;
    int32_t row_begin, row_end, col_begin, col_end;
    int32_t tiles_per_block;
    int32_t reserved;
};

// Sums of 2^(scale s - shift) over the entries that are not masked, scale = log2(e)/tau. Partial results are
// [grid.y * 4][rows] and [grid.x * 2][cols]; the robust kernel ignores `shift` and writes maxima (in units of log2) too.
struct ClipStats {
    Sweep sweep;
    float scale, shift;
    float *row_sum, *row_max, *col_sum, *col_max;
};

// Weights of the clip loss times `1`, the caller having folded a power of two into the coefficients.
//   fast:   2^(scale s - shift) (row[i] + col[j])             row, col >= 0
//   robust: 2^(scale s + row[i]) + 2^(scale s + col[j])        row, col in units of log2, -inf allowed
// Row and column coefficients are indexed by the whole matrix. Masked entries become 0.
struct ClipWeights {
    Sweep sweep;
    float scale, shift;
    const float* row;
    const float* col;
    void* out;       // [row_end - row_begin][ld_out], the panel
    int64_t ld_out;  // at least the columns rounded up to 8
};

// out[i][0 .. width) = sum over columns j of w_ij values[j], with w as in ClipWeights, for the rows of the sweep; with
// `accumulate` the previous out takes part.
struct ClipFused {
    Sweep sweep;
    float scale, shift;
    const float* row;
    const float* col;
    const uint16_t* values;  // [cols][ld_values], 16-bit as the embeddings, ld_values a multiple of 8
    int64_t ld_values;
    int32_t width, accumulate;
    float* out;  // [row_end - row_begin][ld_out]
    int64_t ld_out;
};

// For every positive p = (i, k), a row of the sweep: the sums over negatives j of psi(s_ij - threshold[p]) and of its
// derivative; threshold = nu s_ik. Partial results are [grid.y * 4][rows of the sweep].
struct AdditiveSums {
    Sweep sweep;
    float tau, margin;
    const float* threshold;
    float *psi, *dpsi;
};

// w_ij = row_factor[i] sum_{k in P_x(i)} psi'(s_ij - row_threshold) + col_factor[j] sum_{k in P_y(j)} psi'(s_ij - col_threshold);
// thresholds are indexed by the entries of the positives by row and by column.
struct AdditiveWeights {
    Sweep sweep;
    float tau, margin;
    const int64_t* row_offsets;
    const float* row_threshold;
    const float* row_factor;
    const int64_t* col_offsets;
    const float* col_threshold;
    const float* col_factor;
    void* out;
    int64_t ld_out;
};

// The k best columns of every row: partial lists [grid.y * 4][rows of the sweep][k], best first, equal similarities by
// lower column; unused places hold (-inf, INT32_MAX).
struct TopK {
    Sweep sweep;
    int32_t k, reserved;
    float* value;
    int32_t* index;
};

// Columns, masked entries left out, beside (best[i], best_index[i]): how many have a larger similarity, how many the same, and
// how many of these are lower columns. Partial counts are [3][grid.y * 4][rows of the sweep].
struct Ranks {
    Sweep sweep;
    const float* best;
    const int32_t* best_index;
    int32_t* count;
};

#define UNICON_LAYOUT(type, size, field, offset) \
    static_assert(sizeof(type) == size && offsetof(type, field) == offset, "params.rs declares " #type " otherwise")
UNICON_LAYOUT(Csr, 16, columns, 8);
UNICON_LAYOUT(Embeddings, 32, resident, 28);
UNICON_LAYOUT(Sweep, 80, row_of, 48);
UNICON_LAYOUT(Sweep, 80, tiles_per_block, 72);
UNICON_LAYOUT(ClipStats, 120, shift, 84);
UNICON_LAYOUT(ClipStats, 120, col_max, 112);
UNICON_LAYOUT(ClipWeights, 120, row, 88);
UNICON_LAYOUT(ClipWeights, 120, ld_out, 112);
UNICON_LAYOUT(ClipFused, 144, ld_values, 112);
UNICON_LAYOUT(ClipFused, 144, accumulate, 124);
UNICON_LAYOUT(ClipFused, 144, ld_out, 136);
UNICON_LAYOUT(AdditiveSums, 112, threshold, 88);
UNICON_LAYOUT(AdditiveSums, 112, dpsi, 104);
UNICON_LAYOUT(AdditiveWeights, 152, row_offsets, 88);
UNICON_LAYOUT(AdditiveWeights, 152, col_offsets, 112);
UNICON_LAYOUT(AdditiveWeights, 152, ld_out, 144);
UNICON_LAYOUT(TopK, 104, k, 80);
UNICON_LAYOUT(TopK, 104, index, 96);
UNICON_LAYOUT(Ranks, 104, best, 80);
UNICON_LAYOUT(Ranks, 104, count, 96);
#undef UNICON_LAYOUT
