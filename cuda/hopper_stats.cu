// Pass 1 of the clip loss for compute capability 9.0: the sums of clip_stats.cu from warpgroup products. Row sums stay in
// registers for the whole block; column sums are added over the 128 rows of a warpgroup before they go out.
#include "hopper_sweep.cuh"
#include "logsum.cuh"

namespace {

using namespace hopper;

template <class State> struct Stats {
    const ClipStats& p;
    unsigned char* exchange;  // [warpgroup][tile parity][warp][128 columns]
    State rows[4];            // row(h) of a half: half * 2 + h
    State cols[4];            // after a half: columns group * 4 .. of the 32 that a quad lane holds
    int parity = 0;

    __device__ Stats(const ClipStats& p, unsigned char* shared) : p(p), exchange(sweep_exchange(p.sweep, shared)) {
        for (State& r : rows) r = State::nothing();
    }

    // Column slot n * 2 + e of the eight lanes that hold the same columns, in three steps that halve what a lane keeps: the
    // lane of group g ends with slots 4 g .. 4 g + 3.
    template <int Kept> __device__ __forceinline__ void halve(State (&v)[32], const Lane& at) {
        const bool upper = at.group & Kept / 4;
#pragma unroll
        for (int i = 0; i < Kept; ++i) {
            const State give = upper ? v[i] : v[i + Kept];
            const State keep = upper ? v[i + Kept] : v[i];
            v[i] = combine(keep, give.exchange(Kept));
        }
    }
    __device__ __forceinline__ void reduce(State (&v)[32], const Lane& at) {
        halve<16>(v, at);
        halve<8>(v, at);
        halve<4>(v, at);
    }

    // Adds the four warps' sums and writes this tile's. The two tiles' places in turn: who writes the next but one has
    // passed the barrier of the next, and so has everyone who reads this one.
    __device__ __forceinline__ void columns(const Lane& at, int col) {
        State* all = reinterpret_cast<State*>(exchange) + (at.warpgroup * 2 + parity) * 4 * kSweepCols;
        parity ^= 1;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int slot = at.group * 4 + i;
            all[at.warp * kSweepCols + at.col(slot >> 1, slot & 1)] = cols[i];
        }
        named_barrier(1 + at.warpgroup, 128);
        const int mine = at.warp * 32 + at.lane;
        State total = all[mine];
        for (int w = 1; w < 4; ++w) total = combine(total, all[w * kSweepCols + mine]);
        if (col + mine < p.sweep.col_begin || col + mine >= p.sweep.col_end) return;
        const int64_t count = p.sweep.col_end - p.sweep.col_begin;
        write_partial(p.col_sum, p.col_max, (int64_t(blockIdx.x) * 2 + at.warpgroup) * count + col + mine - p.sweep.col_begin, total);
    }

    // The lanes of a quad hold parts of the same rows.
    __device__ void write_rows() {
        const Lane at;
        const int64_t count = p.sweep.row_end - p.sweep.row_begin;
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                State v = rows[half * 2 + h];
                v = combine(v, v.exchange(1));
                v = combine(v, v.exchange(2));
                const int64_t row = sweep_row(p.sweep) + at.warpgroup * 128 + half * 64 + at.row(h) - p.sweep.row_begin;
                if (at.quad == 0 && row >= 0 && row < count)
                    write_partial(p.row_sum, p.row_max, int64_t(blockIdx.y) * count + row, v);
            }
    }
};

struct FastStats : Stats<Sum> {
    Sum sums[32];  // of both halves, by column slot
    using Stats::Stats;

    template <bool Masked>
    __device__ __forceinline__ void half(const float (&acc)[64], int half, const Lane& at, const SweepMask& mask, int) {
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            uint32_t word[2];
            for (int h = 0; h < 2; ++h) word[h] = Masked ? mask.word(at, half, h, w) : 0;
#pragma unroll
            for (int n = w * 4; n < w * 4 + 4; ++n)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float v[2];
#pragma unroll
                    for (int h = 0; h < 2; ++h) {
                        v[h] = exp2_approx(fmaf(acc[(n * 2 + h) * 2 + e], p.scale, -p.shift));
                        if (Masked && (word[h] >> (at.col(n, e) & 31) & 1)) v[h] = 0.0f;
                        rows[half * 2 + h].sum += v[h];
                    }
                    float& sum = sums[n * 2 + e].sum;
                    sum = half == 0 ? v[0] + v[1] : sum + (v[0] + v[1]);
                }
        }
    }
    __device__ __forceinline__ void columns(const Lane& at, int col) {
        reduce(sums, at);
#pragma unroll
        for (int i = 0; i < 4; ++i) cols[i] = sums[i];
        Stats::columns(at, col);
    }
};

struct RobustStats : Stats<LogSum> {
    using Stats::Stats;

    template <bool Masked>
    __device__ __forceinline__ void half(const float (&acc)[64], int half, const Lane& at, const SweepMask& mask, int) {
        uint32_t words[2][4] = {};
        if (Masked) {
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
                for (int w = 0; w < 4; ++w) words[h][w] = mask.word(at, half, h, w);
        }
        // Exponent of an entry; computed anew where it is needed, for accumulators must not be written here.
        const auto exponent = [&](int n, int h, int e) {
            const float x = acc[(n * 2 + h) * 2 + e] * p.scale;
            return Masked && (words[h][n >> 2] >> (at.col(n, e) & 31) & 1) ? -INFINITY : x;
        };
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            LogSum& row = rows[half * 2 + h];
            float top = row.max;
#pragma unroll
            for (int n = 0; n < 16; ++n)
#pragma unroll
                for (int e = 0; e < 2; ++e) top = fmaxf(top, exponent(n, h, e));
            float sum = row.sum * exp2_approx(row.max - top);
#pragma unroll
            for (int n = 0; n < 16; ++n)
#pragma unroll
                for (int e = 0; e < 2; ++e) sum += exp2_approx(exponent(n, h, e) - top);
            row = {top, sum};
        }
        LogSum sums[32];
#pragma unroll
        for (int n = 0; n < 16; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float a = exponent(n, 0, e), b = exponent(n, 1, e), top = fmaxf(kNothing, fmaxf(a, b));
                sums[n * 2 + e] = {top, exp2_approx(a - top) + exp2_approx(b - top)};
            }
        reduce(sums, at);
#pragma unroll
        for (int i = 0; i < 4; ++i) cols[i] = half == 0 ? sums[i] : combine(cols[i], sums[i]);
    }
};

template <class T, class Epilogue> __device__ __forceinline__ void hopper_stats(const ClipStats& p) {
    UNICON_HOPPER_SHARED(shared);
    Epilogue epilogue(p, shared);
    sweep_run<T>(p.sweep, shared, epilogue);
    if (threadIdx.x >= 128) epilogue.write_rows();
}

}  // namespace

#define HOPPER_STATS(suffix, T)                                                                              \
    UNICON_KERNEL void __launch_bounds__(hopper::kThreads, 1) hopper_stats_##suffix(const ClipStats p) {     \
        hopper_stats<T, FastStats>(p);                                                                       \
    }                                                                                                        \
    UNICON_KERNEL void __launch_bounds__(hopper::kThreads, 1) hopper_stats_robust_##suffix(const ClipStats p) {\
        hopper_stats<T, RobustStats>(p);                                                                     \
    }
HOPPER_STATS(f16, half_t)
HOPPER_STATS(bf16, bf16_t)
