// Mistakes in the use of the Hopper instructions that the emulation must show (cuda/emu/hopper.h). Arguments: which one,
// 0 for none, and 1 to run backwards. Exit code 3 when it was noticed, 1 for wrong products, 64 when there is no such mistake.
#define UNICON_EMULATION 1
#include "ptx_hopper.cuh"

#include <stdio.h>
#include <stdlib.h>

#include <vector>

using namespace hopper;

namespace {

constexpr int kMistakes = 27;
constexpr int kBytes = 64 << 10;
int mistake = 0;
bool is(int which) { return mistake == which; }

uint16_t element(int i) { return emu::half_bits(float((i * 37 + i / 64 * 11) % 17 - 8) / 4); }

// Element k of row i of tiles that lie one after another.
float at(const std::vector<uint16_t>& tiles, int i, int k) {
    return emu::half_value(tiles[size_t(i) * 64 + size_t(((k / 8) ^ (i & 7)) * 8 + k % 8)]);
}

// The first warpgroup multiplies 64 rows by N rows, both 64 deep, twice: out = 2 a b^T. The rows of a are read from shared memory
// or held in registers.
template <int N, bool InRegisters> void multiply(const uint16_t* a, const uint16_t* b, float* out) {
    UNICON_HOPPER_SHARED(shared);
    Barrier* barrier = reinterpret_cast<Barrier*>(shared + kBytes - 64);
    unsigned char *rows = shared, *cols = shared + 8192;
    const int thread = int(threadIdx.x), warp = thread / 32, lane = thread % 32, g = lane / 4, q = lane % 4;
    if (thread == 0) {
        if (!is(1)) barrier_init(barrier, is(2) ? 2 : 1);
        if (is(3)) barrier_init(barrier, 0);
        if (is(4)) barrier_init(reinterpret_cast<Barrier*>(shared + kBytes), 1);
        barrier_init_fence();
    }
    block_barrier();
    if (is(5) || thread < 128) take_registers<240>();  // of 168; 240 for each of three are too many
    else give_registers<128>();
    if (is(6) && thread >= 256) give_registers<136>();
    if (is(7) && thread >= 256) take_registers<96>();
    if (thread >= 128) return;
    if (thread == 0) {
        const uint32_t all = 8192 + N * 128;
        if (is(8)) barrier_arrive(barrier);
        barrier_arrive_expect(barrier, is(9) ? all - 16 : is(10) ? all + 16 : is(11) ? 1 << 20 : all);
        bulk_copy(is(12) ? rows + 8 : is(13) ? shared + kBytes - 16 : rows, is(14) ? a + 4 : a, is(15) ? 8190 : 8192, barrier);
        bulk_copy(cols, b, N * 128, barrier);
        if (is(16)) barrier_arrive(barrier), barrier_arrive_expect(barrier, 16), barrier_arrive(barrier);
    }
    if (is(17)) {
        if (thread == 0) return;
    } else {
        barrier_wait(barrier, is(18) ? 1 : 0);
    }
    if (is(19)) named_barrier(1, warp ? 128 : 96);
    if (is(20)) named_barrier(16, 128);

    float d[N / 2];
    uint32_t registers[4][4];
    for (int step = 0; step < 4; ++step)
        for (int i = 0; i < 4; ++i) {
            const int row = warp * 16 + i % 2 * 8 + g, k = step * 16 + i / 2 * 8 + q * 2;
            memcpy(&registers[step][i], rows + row * 128 + ((k / 8) ^ (row & 7)) * 16 + k % 8 * 2, 4);
        }
    for (int turn = 0; turn < 2; ++turn) {
        if (!is(21)) wgmma_begin();
        for (int step = 0; step < 4; ++step) {
            const bool add = turn || step;
            const uint64_t y = tile_operand(is(22) && warp == 3 ? cols + 1024 : is(23) ? cols + 128 : is(24) ? shared + kBytes - 1024 : cols, step);
            if constexpr (InRegisters) wgmma_registers<half_t, N>(d, registers[step], y, add);
            else wgmma<half_t, N>(d, tile_operand(rows, step), y, is(25) && warp == 1 ? true : add);
        }
        if (!(is(26) && turn)) wgmma_commit();
        if (turn == 0) {  // nothing may have come yet
            wgmma_wait<1>();
            ready(d);
            if (thread == 0) out[0] = d[0];
        }
    }
    if (!is(27)) wgmma_wait<0>();
    ready(d);
    for (int i = 0; i < N / 2; ++i) out[(warp * 16 + i / 2 % 2 * 8 + g) * N + i / 4 * 8 + q * 2 + i % 2] = d[i];
}

template <int N, bool InRegisters> void check(bool backwards) {
    std::vector<uint16_t> a(64 * 64), b(N * 64);
    for (size_t i = 0; i < a.size(); ++i) a[i] = element(int(i));
    for (size_t i = 0; i < b.size(); ++i) b[i] = element(int(i) + 5);
    std::vector<float> out(size_t(64) * N, NAN);
    emu::launch({1, 1, 1}, 384, kBytes, backwards, [&] { multiply<N, InRegisters>(a.data(), b.data(), out.data()); });
    for (int i = 0; i < 64; ++i)
        for (int j = 0; j < N; ++j) {
            float want = 0;
            for (int k = 0; k < 64; ++k) want += 2 * at(a, i, k) * at(b, j, k);  // exact: multiples of 1/16
            if (out[size_t(i) * N + j] == want) continue;
            fprintf(stderr, "N = %d: entry %d, %d is %g instead of %g\n", N, i, j, double(out[size_t(i) * N + j]), double(want));
            exit(1);
        }
}

}  // namespace

int main(int argc, char** argv) {
    mistake = argc > 1 ? atoi(argv[1]) : 0;
    if (mistake < 0 || mistake > kMistakes) return 64;
    const bool backwards = argc > 2 && atoi(argv[2]);
    check<64, false>(backwards);
    check<128, false>(backwards);
    check<128, true>(backwards);
    check<256, true>(backwards);
}
