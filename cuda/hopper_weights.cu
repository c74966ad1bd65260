// Pass 2 of the clip loss by panels for compute capability 9.0: clip_weights.cu from warpgroup products, for V too wide for
// hopper_fused.cu and for fp32.
#include "hopper_sweep.cuh"
#include "weights.cuh"

namespace {

using namespace hopper;

template <class Weight, class Out> struct WeightsPanel {
    const ClipWeights& p;
    float cols[32];  // coefficient of column slot n * 2 + e

    template <bool Masked>
    __device__ __forceinline__ void half(const float (&acc)[64], int half, const Lane& at, const SweepMask& mask, int col) {
        const Weight weight{p.scale, p.shift};
        if (half == 0) {
#pragma unroll
            for (int n = 0; n < 16; ++n)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    const int j = col + at.col(n, e);
                    cols[n * 2 + e] = j < p.sweep.col_end ? p.col[j] : 0.0f;
                }
        }
        const int first = sweep_row(p.sweep) + at.warpgroup * 128 + half * 64;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = first + at.row(h);
            const float factor = row < p.sweep.row_end ? p.row[row] : 0.0f;
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                const uint32_t word = Masked ? mask.word(at, half, h, k) : 0;
                float w[8];
#pragma unroll
                for (int n = 0; n < 4; ++n)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        const int slot = (k * 4 + n) * 2 + e;
                        w[n * 2 + e] = weight(acc[((k * 4 + n) * 2 + h) * 2 + e], factor, cols[slot]);
                        if (Masked && (word >> (at.col(n, e) & 31) & 1)) w[n * 2 + e] = 0.0f;
                    }
                panel::store_row<true>(static_cast<Out*>(p.out), p.ld_out, row - p.sweep.row_begin,
                                 p.sweep.row_end - p.sweep.row_begin, col - p.sweep.col_begin + k * 32,
                                 p.sweep.col_end - p.sweep.col_begin, w, at.quad);
            }
        }
    }
    __device__ void columns(const Lane&, int) {}
};

template <class T, class Weight, class Out> __device__ __forceinline__ void hopper_weights(const ClipWeights& p) {
    UNICON_HOPPER_SHARED(shared);
    WeightsPanel<Weight, Out> epilogue{p, {}};
    sweep_run<T>(p.sweep, shared, epilogue);
}

}  // namespace

#define HOPPER_WEIGHTS(name, T, Weight, Out) \
    UNICON_KERNEL void __launch_bounds__(hopper::kThreads, 1) name(const ClipWeights p) { hopper_weights<T, Weight, Out>(p); }
HOPPER_WEIGHTS(hopper_weights_f16, half_t, FastWeight, half_t)
HOPPER_WEIGHTS(hopper_weights_bf16, bf16_t, FastWeight, bf16_t)
HOPPER_WEIGHTS(hopper_weights_f32, half_t, FastWeight, float)
HOPPER_WEIGHTS(hopper_weights_robust_f16, half_t, RobustWeight, half_t)
HOPPER_WEIGHTS(hopper_weights_robust_bf16, bf16_t, RobustWeight, bf16_t)
HOPPER_WEIGHTS(hopper_weights_robust_f32, half_t, RobustWeight, float)
