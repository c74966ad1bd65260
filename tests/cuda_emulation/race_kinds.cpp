// Races that the emulation must show under ThreadSanitizer (cuda/emu/races.h), beside the faults of the kernels: what no kernel
// does today. Arguments: which one, 0 for none, and 1 to run backwards. A race is reported; without one the exit code is 0,
// and 64 when there is no such race.
#define UNICON_EMULATION 1
#include "ptx_hopper.cuh"

#include <stdio.h>
#include <stdlib.h>

#include <vector>

using namespace hopper;

namespace {

constexpr int kRaces = 14;
int race = 0;
bool is(int which) { return race == which; }

// Two warps. cp.async into shared memory, barriers of warps and of the block, shuffles; global memory that a block has for
// itself.
void portable(const uint32_t* in, uint32_t* out) {
    UNICON_SHARED(shared);
    uint32_t* words = reinterpret_cast<uint32_t*>(shared);
    const int thread = int(threadIdx.x), lane = thread % 32;
    copy_async16(words + thread * 4, in + thread * 4, true);
    copy_async_commit();
    const uint32_t early = is(1) ? words[thread * 4] : 0;  // its own copy, not waited for
    if (!is(2)) copy_async_wait<0>();
    if (!is(3)) block_barrier();
    uint32_t sum = early + words[(thread * 4 + 128) % 256];  // of the other warp
    if (is(2)) copy_async_wait<0>();
    if (!is(4)) block_barrier();
    words[thread] = sum;
    if (is(5)) shuffle_xor(sum, 1);  // orders no memory
    else warp_barrier();
    sum = words[thread ^ 1];
    const unsigned block = is(6) ? 0 : blockIdx.x;
    out[block * 64 + unsigned(thread)] = sum;
    if (is(7) && blockIdx.x > 0) out[blockIdx.x * 64 + unsigned(thread)] = out[lane];
    if (is(8)) words[255] = sum;
}

// The first warpgroup writes the operand of a product itself, and multiplies.
void operands(const uint16_t* next, float* out) {
    UNICON_HOPPER_SHARED(shared);
    Barrier* barrier = reinterpret_cast<Barrier*>(shared + 16384);
    unsigned char* tile = shared;
    const int thread = int(threadIdx.x);
    if (thread == 0) {
        barrier_init(barrier, 1);
        barrier_init_fence();
        proxy_fence();
    }
    block_barrier();
    if (is(9)) proxy_fence();
    for (int i = thread; i < 4096; i += 128) reinterpret_cast<uint16_t*>(tile)[i] = 0x3c00;  // 1
    if (!is(9) && !is(10)) proxy_fence();
    if (!is(11)) named_barrier(2, 128);
    float d[32];
    wgmma_begin();
    wgmma<half_t, 64>(d, tile_operand(tile, 0), tile_operand(tile, 1), false);
    wgmma_commit();
    if (is(12)) reinterpret_cast<uint16_t*>(tile)[thread] = 0;  // while the product may read it
    wgmma_wait<0>();
    ready(d);
    if (!is(13)) named_barrier(2, 128);
    if (thread == 0) {
        barrier_arrive_expect(barrier, 8192);
        bulk_copy(tile, next, 8192, barrier);
    }
    if (!is(14) || thread == 0) barrier_wait(barrier, 0);
    out[thread] = d[0] + float(reinterpret_cast<uint16_t*>(tile)[thread]);
}

}  // namespace

int main(int argc, char** argv) {
    race = argc > 1 ? atoi(argv[1]) : 0;
    if (race < 0 || race > kRaces) return 64;
    const bool backwards = argc > 2 && atoi(argv[2]);
    std::vector<uint32_t> in(256, 1), out(3 * 64);
    emu::launch({3, 1, 1}, 64, 1024, backwards, [&] { portable(in.data(), out.data()); });
    std::vector<uint16_t> next(4096);
    std::vector<float> sums(128);
    emu::launch({1, 1, 1}, 128, 16384 + 64, backwards, [&] { operands(next.data(), sums.data()); });
    if (race == 0 && (out[5] != 1 || sums[5] != 16)) return 1;
}
