// Pass 2 of the clip loss by panels: recompute s, turn it into weights, and write the panel that cuBLAS multiplies by V.
#include "weights.cuh"

namespace {

template <class Weight, class Out> struct WeightsPanel {
    const ClipWeights& p;

    template <bool Masked>
    __device__ __forceinline__ void tile(float (&acc)[4][4][4], const sweep::Lane& at, const sweep::Mask& mask, int tile_col) {
        const Weight weight{p.scale, p.shift};
        float col[8];
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int j = tile_col + at.col(n, e);
                col[n * 2 + e] = j < p.sweep.col_end ? p.col[j] : 0.0f;
            }
        const int rows = p.sweep.row_end - p.sweep.row_begin;
#pragma unroll
        for (int m = 0; m < 4; ++m)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const uint32_t word = Masked ? mask.word(at, m, h) : 0;
                const int local = int(blockIdx.x) * shape::kSweepRows + at.row(m, h);
                const float row = local < rows ? p.row[p.sweep.row_begin + local] : 0.0f;
                float w[8];
#pragma unroll
                for (int n = 0; n < 4; ++n)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        w[n * 2 + e] = weight(acc[m][n][h * 2 + e], row, col[n * 2 + e]);
                        if (Masked && (word >> at.bit(n, e) & 1)) w[n * 2 + e] = 0.0f;
                    }
                panel::store_row<false>(static_cast<Out*>(p.out), p.ld_out, local, rows, tile_col - p.sweep.col_begin + at.warp_col * 32,
                                 p.sweep.col_end - p.sweep.col_begin, w, at.quad);
            }
    }
};

template <class T, class Weight, class Out> __device__ __forceinline__ void clip_weights(const ClipWeights& p) {
    UNICON_SHARED(shared);
    WeightsPanel<Weight, Out> epilogue{p};
    sweep::run<T>(p.sweep, shared, epilogue);
}

}  // namespace

// Two blocks on an SM, except that 128 registers do not hold the addresses of the fp32 panel.
#define CLIP_WEIGHTS(name, T, Weight, Out, blocks) \
    UNICON_KERNEL void __launch_bounds__(shape::kThreads, blocks) name(const ClipWeights p) { clip_weights<T, Weight, Out>(p); }
CLIP_WEIGHTS(clip_weights_f16, half_t, FastWeight, half_t, 2)
CLIP_WEIGHTS(clip_weights_bf16, bf16_t, FastWeight, bf16_t, 2)
CLIP_WEIGHTS(clip_weights_f32, half_t, FastWeight, float, 1)
CLIP_WEIGHTS(clip_weights_robust_f16, half_t, RobustWeight, half_t, 2)
CLIP_WEIGHTS(clip_weights_robust_bf16, bf16_t, RobustWeight, bf16_t, 2)
CLIP_WEIGHTS(clip_weights_robust_f32, half_t, RobustWeight, float, 1)
