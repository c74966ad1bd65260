// The losses whose phi is the identity: sigmoid, triplet_hard, triplet_smooth. Their exponentials do not factorise, so
// sums run over a row for every positive (i, k): psi(s_ij - nu s_ik) against all negatives j. Swapping the roles of x and y
// gives the columns. With one positive a row this is a single sweep.
#include "weights.cuh"

namespace {

constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

__device__ __forceinline__ float logistic(float x) { return reciprocal_approx(1.0f + exp2_approx(-x * kLog2E)); }

// log(1 + e^x). For small y = e^{-|x|} the logarithm loses digits of 1 + y, the series does not.
__device__ __forceinline__ float softplus(float x) {
    const float y = exp2_approx(-fabsf(x) * kLog2E);
    const float small = y * (1.0f - y * (0.5f - y * 0.33333334f));
    return fmaxf(x, 0.0f) + (y < 0.0078125f ? small : log2_approx(1.0f + y) * kLn2);
}

struct Sigmoid {
    float tau, inverse_tau, margin;
    __device__ __forceinline__ float psi(float t) const { return softplus(t * inverse_tau); }
    __device__ __forceinline__ float dpsi(float t) const { return inverse_tau * logistic(t * inverse_tau); }
};
struct TripletHard {
    float tau, inverse_tau, margin;
    __device__ __forceinline__ float psi(float t) const { return fmaxf(t + margin, 0.0f); }
    __device__ __forceinline__ float dpsi(float t) const { return t + margin > 0.0f ? 1.0f : 0.0f; }
};
struct TripletSmooth {
    float tau, inverse_tau, margin;
    __device__ __forceinline__ float psi(float t) const { return -tau * tau * softplus((margin - t) * inverse_tau); }
    __device__ __forceinline__ float dpsi(float t) const { return tau * logistic((margin - t) * inverse_tau); }
};

template <class Loss> struct Sums {
    const AdditiveSums& p;
    float psi[8], dpsi[8], threshold[8];

    template <bool Masked>
    __device__ __forceinline__ void tile(float (&acc)[4][4][4], const sweep::Lane& at, const sweep::Mask& mask, int) {
        const Loss loss{p.tau, 1.0f / p.tau, p.margin};
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint32_t word = Masked ? mask.word(at, m, h) : 0;
#pragma unroll
                for (int n = 0; n < 4; ++n)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const float t = acc[m][n][h * 2 + e] - threshold[m * 2 + h];
                        const bool counts = !Masked || !(word >> at.bit(n, e) & 1);
                        psi[m * 2 + h] += counts ? loss.psi(t) : 0.0f;
                        dpsi[m * 2 + h] += counts ? loss.dpsi(t) : 0.0f;
                    }
            }
    }
};

template <class T, class Loss> __device__ __forceinline__ void additive_sums(const AdditiveSums& p) {
    UNICON_SHARED(shared);
    Sums<Loss> sums{p, {}, {}, {}};
    const sweep::Lane at;
    const int rows = p.sweep.row_end - p.sweep.row_begin;
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = int(blockIdx.x) * shape::kSweepRows + at.row(m, h);
            sums.threshold[m * 2 + h] = row < rows ? p.threshold[p.sweep.row_begin + row] : 0.0f;
        }
    sweep::run<T>(p.sweep, shared, sums);
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float psi = sums.psi[m * 2 + h], dpsi = sums.dpsi[m * 2 + h];
            psi += shuffle_xor(psi, 1);
            dpsi += shuffle_xor(dpsi, 1);
            psi += shuffle_xor(psi, 2);
            dpsi += shuffle_xor(dpsi, 2);
            const int row = int(blockIdx.x) * shape::kSweepRows + at.row(m, h);
            if (at.quad == 0 && row < rows) {
                const int64_t i = (int64_t(blockIdx.y) * 4 + at.warp_col) * rows + row;
                p.psi[i] = psi;
                p.dpsi[i] = dpsi;
            }
        }
}

template <class Loss, class Out> struct WeightsPanel {
    const AdditiveWeights& p;

    template <bool Masked>
    __device__ __forceinline__ void tile(float (&acc)[4][4][4], const sweep::Lane& at, const sweep::Mask& mask, int tile_col) {
        const Loss loss{p.tau, 1.0f / p.tau, p.margin};
        const int rows = p.sweep.row_end - p.sweep.row_begin;
        // A positive of a column serves the lane's eight rows at once. The loops over positives stay rolled: there are sixteen
        // of them, and unrolled they cost minutes of compilation and the instruction cache.
        float w[8][8];  // [row m * 2 + h][column n * 2 + e]
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            const int j = tile_col + at.col(c >> 1, c & 1);
            float sum[8] = {};
            if (j < p.sweep.col_end) {
#pragma unroll 1
                for (int64_t k = p.col_offsets[j], end = p.col_offsets[j + 1]; k < end; ++k) {
                    const float threshold = p.col_threshold[k];
#pragma unroll
                    for (int i = 0; i < 8; ++i) sum[i] += loss.dpsi(acc[i >> 1][c >> 1][(i & 1) * 2 + (c & 1)] - threshold);
                }
            }
            const float factor = j < p.sweep.col_end ? p.col_factor[j] : 0.0f;
#pragma unroll
            for (int i = 0; i < 8; ++i) w[i][c] = factor * sum[i];
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            const int m = i >> 1, h = i & 1;
            const uint32_t word = Masked ? mask.word(at, m, h) : 0;
            const int local = int(blockIdx.x) * shape::kSweepRows + at.row(m, h);
            if (local < rows) {
                const int row = p.sweep.row_begin + local;
                float sum[8] = {};
#pragma unroll 1
                for (int64_t k = p.row_offsets[row], end = p.row_offsets[row + 1]; k < end; ++k) {
                    const float threshold = p.row_threshold[k];
#pragma unroll
                    for (int c = 0; c < 8; ++c) sum[c] += loss.dpsi(acc[m][c >> 1][h * 2 + (c & 1)] - threshold);
                }
                const float factor = p.row_factor[row];
#pragma unroll
                for (int c = 0; c < 8; ++c) w[i][c] += factor * sum[c];
            }
#pragma unroll
            for (int c = 0; c < 8; ++c)
                if (Masked && (word >> at.bit(c >> 1, c & 1) & 1)) w[i][c] = 0.0f;
            warp_barrier();  // the loops above diverge, and the store shuffles
            panel::store_row<false>(static_cast<Out*>(p.out), p.ld_out, local, rows, tile_col - p.sweep.col_begin + at.warp_col * 32,
                             p.sweep.col_end - p.sweep.col_begin, w[i], at.quad);
        }
    }
};

template <class T, class Loss, class Out> __device__ __forceinline__ void additive_weights(const AdditiveWeights& p) {
    UNICON_SHARED(shared);
    WeightsPanel<Loss, Out> epilogue{p};
    sweep::run<T>(p.sweep, shared, epilogue);
}

}  // namespace

#define ADDITIVE(loss, Loss)                                                                                          \
    UNICON_KERNEL void __launch_bounds__(shape::kThreads, 1) loss##_sums_f16(const AdditiveSums p) {                  \
        additive_sums<half_t, Loss>(p);                                                                               \
    }                                                                                                                 \
    UNICON_KERNEL void __launch_bounds__(shape::kThreads, 1) loss##_sums_bf16(const AdditiveSums p) {                 \
        additive_sums<bf16_t, Loss>(p);                                                                               \
    }                                                                                                                 \
    UNICON_KERNEL void __launch_bounds__(shape::kThreads, 1) loss##_weights_f16(const AdditiveWeights p) {            \
        additive_weights<half_t, Loss, half_t>(p);                                                                    \
    }                                                                                                                 \
    UNICON_KERNEL void __launch_bounds__(shape::kThreads, 1) loss##_weights_bf16(const AdditiveWeights p) {           \
        additive_weights<bf16_t, Loss, bf16_t>(p);                                                                    \
    }                                                                                                                 \
    UNICON_KERNEL void __launch_bounds__(shape::kThreads, 1) loss##_weights_f32(const AdditiveWeights p) {            \
        additive_weights<half_t, Loss, float>(p);                                                                     \
    }
ADDITIVE(sigmoid, Sigmoid)
ADDITIVE(triplet_hard, TripletHard)
ADDITIVE(triplet_smooth, TripletSmooth)
