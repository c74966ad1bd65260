// Pass 2 of the clip loss without a panel for compute capability 9.0: clip_fused.cu from warpgroup products, for V up to 256
// columns. Weights stay in registers, where the accumulators of one product are the operand of the next; the similarities of
// the next columns are formed while the weights of these multiply V.
#include "hopper.cuh"
#include "weights.cuh"

namespace {

using namespace hopper;
using FusedMask = Mask<1, kFusedCols>;

struct FusedColumns {
    int first, tiles;
    __device__ explicit FusedColumns(const Sweep& p) {
        first = p.col_begin / kFusedCols * kFusedCols;
        tiles = (p.col_end - first + kFusedCols - 1) / kFusedCols;
    }
};

__device__ __forceinline__ int fused_row(const Sweep& p) {
    return (p.row_begin / kFusedRows + int(blockIdx.x)) * kFusedRows;
}

// Orders the strip's rows and then every column tile with its part of V.
template <int Values> __device__ __forceinline__ void fused_copies(const ClipFused& p, Ring ring, unsigned char* rows, unsigned char* stages) {
    const int chunks = p.sweep.z.ld, stage_bytes = fused_stage(chunks, Values);
    const auto packed = [](const uint16_t* from, int64_t tile, int bytes) {
        return reinterpret_cast<const unsigned char*>(from) + tile * bytes;
    };
    const uint32_t tile_bytes = uint32_t(chunks * kTileBytes), value_bytes = uint32_t(Values * 128);
    barrier_arrive_expect(ring.rows(), 2 * tile_bytes);
    for (int t = 0; t < 2; ++t)
        bulk_copy(rows + t * tile_bytes, packed(p.sweep.z.rows, fused_row(p.sweep) / kTileRows + t, int(tile_bytes)), tile_bytes, ring.rows());
    const FusedColumns columns(p.sweep);
    for (int t = 0; t < columns.tiles; ++t) {
        unsigned char* stage = stages + ring.stage * stage_bytes;
        const int64_t tile = columns.first / kFusedCols + t;
        ring.acquire(tile_bytes + value_bytes);
        bulk_copy(stage, packed(p.sweep.z.cols, tile, int(tile_bytes)), tile_bytes, ring.full());
        bulk_copy(stage + tile_bytes, packed(p.values, tile, int(value_bytes)), value_bytes, ring.full());
        ring.advance();
    }
}

// Starts s = rows x columns of a stage.
template <class T>
__device__ __forceinline__ void fused_products(float (&s)[32], int chunks, const unsigned char* rows, const unsigned char* cols) {
    int c = 0;
#pragma unroll 1
    do {
        wgmma_begin();
#pragma unroll
        for (int step = 0; step < 4; ++step)
            wgmma<T, 64>(s, tile_operand(rows + c * kTileBytes, step), tile_operand(cols + c * kTileBytes, step), c > 0 || step > 0);
        wgmma_commit();
    } while (++c < chunks);
}

// Similarities of a tile into weights, in place.
template <class Weight>
__device__ __forceinline__ void fused_weights(float (&s)[32], const Weight& weight, const float (&row)[2],
                                              const float (&col)[16], const Lane& at, const FusedMask& mask, bool masked) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        uint32_t word[2] = {0, 0};
        if (masked) {
            word[0] = mask.word(at, 0, h, 0);
            word[1] = mask.word(at, 0, h, 1);
        }
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                float& w = s[(n * 2 + h) * 2 + e];
                w = weight(w, row[h], col[n * 2 + e]);
                if (word[n >> 2] >> (at.col(n, e) & 31) & 1) w = 0.0f;
            }
    }
}

// Weights as the operand of four steps of sixteen columns: accumulators lie as operands do.
template <class T> __device__ __forceinline__ void fused_operand(const float (&w)[32], uint32_t (&a)[4][4]) {
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) a[k][i] = pack2<T>(w[(k * 4 + i) * 2], w[(k * 4 + i) * 2 + 1]);
}

template <class T, class Weight, int Values> __device__ __forceinline__ void hopper_fused(const ClipFused& p) {
    UNICON_HOPPER_SHARED(shared);
    const int chunks = p.sweep.z.ld, stage_bytes = fused_stage(chunks, Values);
    unsigned char* rows = shared;
    unsigned char* stages = rows + 2 * chunks * kTileBytes;
    unsigned char* rest = stages + p.sweep.z.resident * stage_bytes;
    Ring ring(rest, p.sweep.z.resident);
    ring.init();
    if (threadIdx.x < 128) {
        give_registers<kProducerRegisters>();
        if (threadIdx.x == 0) fused_copies<Values>(p, ring, rows, stages);
        return;
    }
    take_registers<kConsumerRegisters>();
    const Lane at;
    const FusedColumns columns(p.sweep);
    const int first = fused_row(p.sweep) + at.warpgroup * 64;
    FusedMask mask(rest + kBarrierBytes, p.sweep, at, first, columns.first);
    const unsigned char* mine = rows + at.warpgroup * chunks * kTileBytes;
    const Weight weight{p.scale, p.shift};
    float row[2], col[16];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int i = first + at.row(h);
        row[h] = i >= p.sweep.row_begin && i < p.sweep.row_end ? p.row[i] : 0.0f;
    }
    const auto load_coefficients = [&](int tile) {
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int j = columns.first + tile * kFusedCols + at.col(n, e);
                col[n * 2 + e] = j < p.sweep.col_end ? p.col[j] : 0.0f;
            }
    };

    float s[32], out[Values / 2] = {};
    uint32_t a[4][4];
    barrier_wait(ring.rows(), 0);
    ring.wait_full();
    fused_products<T>(s, chunks, mine, stages + ring.stage * stage_bytes);
    load_coefficients(0);
    bool masked = mask.build(at, columns.first);
    wgmma_wait<0>();
    ready(s);
    fused_weights(s, weight, row, col, at, mask, masked);
    mask.done();
    fused_operand<T>(s, a);

    const auto multiply_values = [&](const unsigned char* stage) {
        wgmma_begin();
#pragma unroll
        for (int k = 0; k < 4; ++k)
            wgmma_registers<T, Values>(out, a[k], tile_operand(stage + chunks * kTileBytes, k), true);
        wgmma_commit();
    };
    for (int tile = 0; tile + 1 < columns.tiles; ++tile) {
        Ring ahead = ring;
        ahead.advance();
        ahead.wait_full();
        fused_products<T>(s, chunks, mine, stages + ahead.stage * stage_bytes);
        multiply_values(stages + ring.stage * stage_bytes);
        load_coefficients(tile + 1);
        masked = mask.build(at, columns.first + (tile + 1) * kFusedCols);
        wgmma_wait<1>();
        ready(s);
        fused_weights(s, weight, row, col, at, mask, masked);
        mask.done();
        wgmma_wait<0>();
        ready(out);
        ring.release();
        ring = ahead;
        ready(s);  // the operand's registers are free only now
        fused_operand<T>(s, a);
    }
    multiply_values(stages + ring.stage * stage_bytes);
    wgmma_wait<0>();
    ready(out);

#pragma unroll
    for (int n = 0; n < Values / 8; ++n)
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int i = first + at.row(h) - p.sweep.row_begin, d = at.col(n, e);
                if (i < 0 || i >= p.sweep.row_end - p.sweep.row_begin || d >= p.width) continue;
                float& o = p.out[int64_t(i) * p.ld_out + d];
                o = p.accumulate ? o + out[(n * 2 + h) * 2 + e] : out[(n * 2 + h) * 2 + e];
            }
}

}  // namespace

#define HOPPER_FUSED(name, T, Weight, values) \
    UNICON_KERNEL void __launch_bounds__(hopper::kThreads, 1) name(const ClipFused p) { hopper_fused<T, Weight, values>(p); }
HOPPER_FUSED(hopper_fused128_f16, half_t, FastWeight, 128)
HOPPER_FUSED(hopper_fused128_bf16, bf16_t, FastWeight, 128)
HOPPER_FUSED(hopper_fused128_robust_f16, half_t, RobustWeight, 128)
HOPPER_FUSED(hopper_fused128_robust_bf16, bf16_t, RobustWeight, 128)
HOPPER_FUSED(hopper_fused256_f16, half_t, FastWeight, 256)
HOPPER_FUSED(hopper_fused256_bf16, bf16_t, FastWeight, 256)
HOPPER_FUSED(hopper_fused256_robust_f16, half_t, RobustWeight, 256)
HOPPER_FUSED(hopper_fused256_robust_bf16, bf16_t, RobustWeight, 256)
