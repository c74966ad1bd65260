// Pass 1 of the clip loss: row and column sums of e^{s/tau} over the negatives, from one sweep and one exponential an
// entry. Row sums stay in registers, column sums go out per strip of rows; both are merged in a fixed order by
// merge_log_sums (reduce.cu), so results are reproducible to the bit.
#include "logsum.cuh"
#include "sweep.cuh"

namespace {

using sweep::Lane;

template <class State> struct Stats {
    const ClipStats& p;
    State rows[8];

    __device__ void write_column(const Lane& at, int tile_col, State v) const {
        const int col = tile_col + at.col(at.group >> 1, at.group & 1);
        if (col >= p.sweep.col_end) return;
        const int64_t cols = p.sweep.col_end - p.sweep.col_begin;
        write_partial(p.col_sum, p.col_max, (int64_t(blockIdx.x) * 2 + at.warp_row) * cols + col - p.sweep.col_begin, v);
    }

    // The four lanes of a quad hold parts of the same row; their order of addition is fixed by the butterfly.
    __device__ void write_rows(const Lane& at) {
        const int64_t count = p.sweep.row_end - p.sweep.row_begin;
#pragma unroll
        for (int m = 0; m < sweep::kMTiles; ++m)
            for (int h = 0; h < 2; ++h) {
                State v = rows[m * 2 + h];
                v = combine(v, v.exchange(1));
                v = combine(v, v.exchange(2));
                const int64_t row = int64_t(blockIdx.x) * shape::kSweepRows + at.row(m, h);
                if (at.quad == 0 && row < count)
                    write_partial(p.row_sum, p.row_max, (int64_t(blockIdx.y) * 4 + at.warp_col) * count + row, v);
            }
    }
};

struct FastStats : Stats<Sum> {
    template <bool Masked>
    __device__ __forceinline__ void tile(float (&acc)[4][4][4], const Lane& at, const sweep::Mask& mask, int col) {
        Sum cols[8] = {};
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint32_t word = Masked ? mask.word(at, m, h) : 0;
#pragma unroll
                for (int n = 0; n < 4; ++n)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        float v = exp2_approx(fmaf(acc[m][n][h * 2 + e], p.scale, -p.shift));
                        if (Masked && (word >> at.bit(n, e) & 1)) v = 0.0f;
                        rows[m * 2 + h].sum += v;
                        cols[n * 2 + e].sum += v;
                    }
            }
        write_column(at, col, sweep::reduce_columns(cols, at, [](Sum a, Sum b) { return combine(a, b); }));
    }
};

// For tau below about 0.015, where no constant shift keeps e^{s/tau} in range: running maxima, as in a stable log-sum-exp.
struct RobustStats : Stats<LogSum> {
    template <bool Masked>
    __device__ __forceinline__ void tile(float (&acc)[4][4][4], const Lane& at, const sweep::Mask& mask, int col) {
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint32_t word = Masked ? mask.word(at, m, h) : 0;
                float top = rows[m * 2 + h].max;
#pragma unroll
                for (int n = 0; n < 4; ++n)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        float& x = acc[m][n][h * 2 + e];
                        x = Masked && (word >> at.bit(n, e) & 1) ? -INFINITY : x * p.scale;
                        top = fmaxf(top, x);
                    }
                float sum = rows[m * 2 + h].sum * exp2_approx(rows[m * 2 + h].max - top);
#pragma unroll
                for (int n = 0; n < 4; ++n)
                    for (int e = 0; e < 2; ++e) sum += exp2_approx(acc[m][n][h * 2 + e] - top);
                rows[m * 2 + h] = {top, sum};
            }
        LogSum cols[8];
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                float top = kNothing, sum = 0.0f;
#pragma unroll
                for (int m = 0; m < 4; ++m) top = fmaxf(top, fmaxf(acc[m][n][e], acc[m][n][2 + e]));
#pragma unroll
                for (int m = 0; m < 4; ++m) sum += exp2_approx(acc[m][n][e] - top) + exp2_approx(acc[m][n][2 + e] - top);
                cols[n * 2 + e] = {top, sum};
            }
        write_column(at, col, sweep::reduce_columns(cols, at, [](LogSum a, LogSum b) { return combine(a, b); }));
    }
};

template <class T, class Epilogue> __device__ __forceinline__ void clip_stats(const ClipStats& p, Epilogue& epilogue) {
    UNICON_SHARED(shared);
    sweep::run<T>(p.sweep, shared, epilogue);
    epilogue.write_rows(Lane());
}

}  // namespace

#define CLIP_STATS(suffix, T)                                                                              \
    UNICON_KERNEL void __launch_bounds__(shape::kThreads, 2) clip_stats_##suffix(const ClipStats p) {      \
        FastStats epilogue{{p, {}}};                                                                       \
        clip_stats<T>(p, epilogue);                                                                        \
    }                                                                                                      \
    UNICON_KERNEL void __launch_bounds__(shape::kThreads, 1) clip_stats_robust_##suffix(const ClipStats p) {\
        RobustStats epilogue{{p, {}}};                                                                     \
        for (int i = 0; i < 8; ++i) epilogue.rows[i] = LogSum::nothing();                                   \
        clip_stats<T>(p, epilogue);                                                                        \
    }
CLIP_STATS(f16, half_t)
CLIP_STATS(bf16, bf16_t)
