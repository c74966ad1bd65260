// Runs the kernels on the host: the functions of ptx.cuh, one fibre for every thread of a block, blocks one after another.
// What runs them is in device.cpp, which a program that includes this is linked with.
//
// What it shows: wrong indices and fragment layouts, reads of shared memory that nobody wrote (it starts as NaN), a missing
// barrier or copy_async_wait (fibres run as far as they can, copies happen only at the wait), accesses out of bounds (every
// buffer is its own allocation, for AddressSanitizer), divergent collectives, deadlocks; under ThreadSanitizer also races
// (races.h). What it does not show: bank conflicts, speed.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <functional>

#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define UNICON_KERNEL static
#define UNICON_SHARED(name) unsigned char* name = emu::here.shared

using std::max;
using std::min;

struct half_t {
    uint16_t bits;
};
struct bf16_t {
    uint16_t bits;
};
struct uint4 {
    uint32_t x, y, z, w;
};
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

namespace emu {

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

// Of the thread that runs.
struct Here {
    Index thread, block, threads, blocks;
    unsigned char* shared = nullptr;
};
extern Here here;

// Ends the process at once: what abandoned stacks hold is no leak.
[[noreturn]] void fail(const char* what);

// Runs a grid of whole warps. Shared memory of exactly `shared` bytes is filled with NaN patterns before every block.
// `backwards` runs blocks and the warps of a block in the opposite order and lets asynchronous copies happen at once instead
// of as late as possible: both are allowed, and what depends on the choice is a missing barrier or wait.
void launch(Index grid, unsigned threads, size_t shared, bool backwards, std::function<void()> body);

void copy(void* destination, const void* source, bool valid);
void commit_copies();
void wait_for_copies(int pending);
void load_matrices(uint32_t (&r)[4], const uint32_t (&row)[4], bool transposed);
void multiply(float (&d)[4], const float (&values)[12]);  // a and b of this lane
uint64_t shuffle(uint64_t value, int lane);
uint32_t ballot(bool p);
void warp_barrier();
void block_barrier();

inline float half_value(uint16_t h) {
    _Float16 v;
    memcpy(&v, &h, 2);
    return float(v);
}
inline uint16_t half_bits(float f) {
    const _Float16 v = _Float16(f);
    uint16_t h;
    memcpy(&h, &v, 2);
    return h;
}
inline float bf16_value(uint16_t h) {
    const uint32_t w = uint32_t(h) << 16;
    float f;
    memcpy(&f, &w, 4);
    return f;
}
inline uint16_t bf16_bits(float f) {
    uint32_t w;
    memcpy(&w, &f, 4);
    if ((w & 0x7fffffffu) > 0x7f800000u) return uint16_t((w >> 16) | 0x40);
    return uint16_t((w + 0x7fffu + ((w >> 16) & 1)) >> 16);
}

inline float value_of(half_t v) { return half_value(v.bits); }
inline float value_of(bf16_t v) { return bf16_value(v.bits); }

// Largest relative error of the approximate instructions, alternating in sign so that nothing can rely on exactness.
inline float blur(float v) { return v * (1.0f + (here.thread.x & 1 ? 1.2e-7f : -1.2e-7f)); }
inline float flush(float v) { return fabsf(v) < 1.17549435e-38f ? 0.0f : v; }

}  // namespace emu

#define threadIdx (emu::here.thread)
#define blockIdx (emu::here.block)
#define blockDim (emu::here.threads)
#define gridDim (emu::here.blocks)

inline float to_float(float v) { return v; }
inline float to_float(half_t v) { return emu::half_value(v.bits); }
inline float to_float(bf16_t v) { return emu::bf16_value(v.bits); }
template <class T> inline T from_float(float f);
template <> inline float from_float<float>(float f) { return f; }
template <> inline half_t from_float<half_t>(float f) { return {emu::half_bits(f)}; }
template <> inline bf16_t from_float<bf16_t>(float f) { return {emu::bf16_bits(f)}; }
template <class T> inline uint32_t pack2(float low, float high) {
    return uint32_t(from_float<T>(low).bits) | uint32_t(from_float<T>(high).bits) << 16;
}

inline float exp2_approx(float x) { return emu::flush(emu::blur(exp2f(x))); }
inline float log2_approx(float x) { return log2f(x); }
inline float reciprocal_approx(float x) { return emu::flush(emu::blur(1.0f / x)); }

inline void copy_async16(void* destination, const void* source, bool valid) { emu::copy(destination, source, valid); }
inline void copy_async_commit() { emu::commit_copies(); }
template <int Pending> inline void copy_async_wait() { emu::wait_for_copies(Pending); }

inline void load_matrices(uint32_t (&r)[4], const void* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16) emu::fail("misaligned ldmatrix row");
    uint32_t words[4];
    for (int i = 0; i < 4; ++i) words[i] = static_cast<const uint32_t*>(row)[i];
    emu::load_matrices(r, words, transposed);
}
inline void load_matrix_x4(uint32_t (&r)[4], const void* row) { load_matrices(r, row, false); }
inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) { load_matrices(r, row, true); }

template <class T> inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
    float values[12];
    for (int i = 0; i < 12; ++i) values[i] = emu::value_of(T{uint16_t(i % 2 ? words[i / 2] >> 16 : words[i / 2])});
    emu::multiply(d, values);
}

template <class V> inline V shuffle_from(V v, int source) {
    static_assert(sizeof(V) <= 8);
    uint64_t word = 0;
    memcpy(&word, &v, sizeof v);
    word = emu::shuffle(word, source & 31);
    memcpy(&v, &word, sizeof v);
    return v;
}
template <class V> inline V shuffle_xor(V v, int mask) { return shuffle_from(v, int(threadIdx.x % 32) ^ mask); }
inline uint32_t warp_ballot(bool p) { return emu::ballot(p); }
inline int first_bit(uint32_t w) { return __builtin_ctz(w); }
inline void warp_barrier() { emu::warp_barrier(); }
inline void block_barrier() { emu::block_barrier(); }
