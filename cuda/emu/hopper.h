// The functions of ptx_hopper.cuh on the host (hopper.cpp). Copies happen as late as they may, when nothing else can go on, and
// products when they are waited for: a missing wait reads what was there before. `backwards` copies happen at once and products
// when nothing else can go on: a stage given back too early is overwritten.
// Operand words are taken apart as the hardware does. Not shown: bank conflicts, speed; proxies only with races.h.
#pragma once

#include <type_traits>

#include "device.h"

#define UNICON_HOPPER_SHARED(name) unsigned char* name = emu::here.shared

namespace hopper {

// As in shared memory: phase parity 1 bit, arrivals expected 15, arrivals pending 15, initialised 1, bytes pending 32.
struct Barrier {
    uint64_t state;
};

void barrier_init(Barrier* b, int arrivals);
inline void barrier_init_fence() {}
void proxy_fence();
void barrier_arrive(Barrier* b);
void barrier_arrive_expect(Barrier* b, uint32_t bytes);
void barrier_wait(Barrier* b, int parity);
void bulk_copy(void* destination, const void* source, uint32_t bytes, Barrier* b);
void named_barrier(int id, int threads);
void change_registers(int registers, bool take);
template <int Registers> inline void give_registers() {
    static_assert(Registers % 8 == 0 && Registers >= 24 && Registers <= 256);
    change_registers(Registers, false);
}
template <int Registers> inline void take_registers() {
    static_assert(Registers % 8 == 0 && Registers >= 24 && Registers <= 256);
    change_registers(Registers, true);
}
uint64_t tile_operand(const void* tile, int step);
void wgmma_begin();
void wgmma_commit();
void wait_for_products(int pending);
template <int Pending> inline void wgmma_wait() { wait_for_products(Pending); }
template <int N> inline void ready(float (&)[N]) {}
// registers: null, or the words that hold a.
void start_product(bool bf16, float* d, int columns, const uint32_t* registers, uint64_t a, uint64_t b, bool add);
template <class T, int N> inline void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool add) {
    start_product(std::is_same_v<T, bf16_t>, d, N, nullptr, a, b, add);
}
template <class T, int N>
inline void wgmma_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
    start_product(std::is_same_v<T, bf16_t>, d, N, a, 0, b, add);
}

}  // namespace hopper
