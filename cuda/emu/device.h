// Runs the kernels on the host: the functions of ptx.cuh, one fibre for every thread of a block, blocks one after another.
//
// What it shows: wrong indices and fragment layouts, reads of shared memory that nobody wrote (it starts as NaN), a missing
// barrier or copy_async_wait (fibres run as far as they can, copies happen only at the wait), accesses out of bounds (every
// buffer is its own allocation, for AddressSanitizer), divergent collectives, deadlocks. What it does not show: races
// between warps at the instruction level, bank conflicts, speed.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define UNICON_FIBRE_ANNOTATIONS 1
#endif

#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define UNICON_KERNEL static
#define UNICON_FAULT(name) (emu::fault() == emu::Fault::name)
#define UNICON_SHARED(name) unsigned char* name = emu::block().shared.data()

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

// The faults that UNICON_FAULT switches on.
enum class Fault {
    kNone,
    kMissingWait,
    kMissingBarrier,
    kEarlyLoad,
    kSwappedFragment,
    kColumnBound,
    kMissingMaskBarrier,
    kExceptionSearch,
    kFusedBarrier,
    kUntransposedValues,
    kSkippedExchange,
    kTieOrder,
    kHopperEarlyRelease,
    kHopperFullWait,
    kHopperParity,
    kHopperUnswizzled,
    kHopperStep,
    kHopperProductWait,
    kHopperRowBound,
    kHopperColumnBound,
    kHopperExceptionSearch,
    kHopperExchangeBarrier,
    kHopperChunkOrder,
    kHopperValueOrder,
    kCount
};
inline Fault& fault() {
    static Fault f = Fault::kNone;
    return f;
}

struct Index {
    unsigned x = 0, y = 0, z = 0;
};

// Ends the process at once: what abandoned stacks hold is no leak.
[[noreturn]] inline void fail(const char* what) {
    fprintf(stderr, "emulation: %s\n", what);
    _exit(3);
}

// Switching between fibres. x86-64 swaps stacks by hand (a hundred times faster than swapcontext, which makes a system
// call); elsewhere swapcontext does.
#if defined(__x86_64__) && !defined(UNICON_UCONTEXT)
extern "C" void unicon_switch_stack(void** from, void* to);
asm(R"(
.text
.globl unicon_switch_stack
.type unicon_switch_stack,@function
unicon_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size unicon_switch_stack,.-unicon_switch_stack
)");
struct Context {
    void* stack_pointer = nullptr;
    void prepare(char* stack, size_t size, void (*entry)()) {
        void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + size) & ~uintptr_t(15));
        *--top = nullptr;  // keeps the entry's stack aligned as after a call
        *--top = reinterpret_cast<void*>(entry);
        for (int i = 0; i < 6; ++i) *--top = nullptr;
        stack_pointer = top;
    }
    static void change(Context& from, Context& to) { unicon_switch_stack(&from.stack_pointer, to.stack_pointer); }
};
#else
struct Context {
    ucontext_t context;
    void prepare(char* stack, size_t size, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = size;
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
    static void change(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
};
#endif

struct Copy {
    void* destination;
    const void* source;
    bool valid;
};

struct Fibre {
    Context context;
    char* stack = nullptr;
    bool done = true;
    int block_round = 0, warp_round = 0;  // barriers passed
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
    unsigned parity = 0;
};

// What a lane shows the others in a collective. Two, used in turn, so that one barrier per collective is enough.
struct Deposit {
    int operation = 0;
    const void* pointer = nullptr;
    uint32_t words[8] = {};
    uint64_t value = 0;
};

// What another header adds to a block (hopper.h). One for each block, made when first needed.
struct Extension {
    virtual ~Extension() = default;
    virtual bool advance() = 0;  // does a piece of asynchronous work, if there is any
    virtual void report() = 0;   // says on standard error who waits for what
    virtual void finish() = 0;   // fails if something was left undone
};

constexpr size_t kStack = 128 << 10;

struct Block {
    Index thread, block, threads, blocks;
    std::vector<unsigned char> shared;
    std::vector<Fibre> fibres;
    std::vector<Deposit> deposits[2];
    int current = 0, arrived = 0, round = 0;
    std::vector<int> warp_arrived, warp_round;
    Context scheduler;
    bool progress = false, backwards = false;
    std::function<void()> body;
    std::unique_ptr<Extension> extension;
#ifdef UNICON_FIBRE_ANNOTATIONS
    const void* scheduler_stack = nullptr;
    size_t scheduler_size = 0;
#endif
};
inline Block& block() {
    static Block b;
    return b;
}

inline void yield(bool last = false) {
    Block& b = block();
    Fibre& f = b.fibres[b.current];
#ifdef UNICON_FIBRE_ANNOTATIONS
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(last ? nullptr : &fake, b.scheduler_stack, b.scheduler_size);
#endif
    (void)last;
    Context::change(f.context, b.scheduler);
#ifdef UNICON_FIBRE_ANNOTATIONS
    __sanitizer_finish_switch_fiber(fake, &b.scheduler_stack, &b.scheduler_size);
#endif
}

inline void fibre_main() {
    Block& b = block();
#ifdef UNICON_FIBRE_ANNOTATIONS
    __sanitizer_finish_switch_fiber(nullptr, &b.scheduler_stack, &b.scheduler_size);
#endif
    b.body();
    b.fibres[b.current].done = true;
    b.progress = true;
    yield(true);
    fail("a finished fibre ran on");
}

inline void resume(int i) {
    Block& b = block();
    b.current = i;
    b.thread.x = unsigned(i);
#ifdef UNICON_FIBRE_ANNOTATIONS
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, b.fibres[i].stack, kStack);
#endif
    Context::change(b.scheduler, b.fibres[i].context);
#ifdef UNICON_FIBRE_ANNOTATIONS
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

// Runs a grid of whole warps. Shared memory of exactly `shared` bytes is filled with NaN patterns before every block.
// `backwards` runs the warps of a block in the opposite order and lets asynchronous copies happen at once instead of as late
// as possible: both are allowed, and what depends on the choice is a missing barrier or wait.
inline void launch(Index grid, unsigned threads, size_t shared, bool backwards, std::function<void()> body) {
    Block& b = block();
    b.blocks = grid;
    b.threads = {threads, 1, 1};
    b.backwards = backwards;
    b.body = std::move(body);
    std::vector<std::unique_ptr<char[]>> stacks;
    for (unsigned t = 0; t < threads; ++t) stacks.emplace_back(new char[kStack]);
    for (unsigned z = 0; z < max(grid.z, 1u); ++z)
        for (unsigned y = 0; y < max(grid.y, 1u); ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                b.block = {x, y, z};
                b.shared = std::vector<unsigned char>();
                b.shared.resize(shared);
                for (size_t i = 0; i < shared; ++i) b.shared[i] = i % 2 ? 0x7f : 0xff;  // NaN as fp16, bf16 and fp32
                b.fibres = std::vector<Fibre>(threads);
                for (auto& d : b.deposits) d.assign(threads, Deposit());
                b.extension.reset();
                b.arrived = b.round = 0;
                b.warp_arrived.assign((threads + 31) / 32, 0);
                b.warp_round.assign((threads + 31) / 32, 0);
                for (unsigned t = 0; t < threads; ++t) {
                    b.fibres[t].done = false;
                    b.fibres[t].stack = stacks[t].get();
#ifdef UNICON_FIBRE_ANNOTATIONS
                    // The last fibre there never returned from its outermost functions.
                    __asan_unpoison_memory_region(stacks[t].get(), kStack);
#endif
                    b.fibres[t].context.prepare(stacks[t].get(), kStack, fibre_main);
                }
                // A warp runs until all its lanes wait for other warps, then the next one does.
                for (bool running = true; running;) {
                    running = false;
                    bool moved = false;
                    for (unsigned k = 0; k < threads; k += 32) {
                        const unsigned first = backwards ? threads - 32 - k : k;
                        do {
                            b.progress = false;
                            for (unsigned l = 0; l < 32; ++l) {
                                const unsigned t = first + (backwards ? 31 - l : l);
                                if (b.fibres[t].done) continue;
                                running = true;
                                resume(int(t));
                            }
                            moved |= b.progress;
                        } while (b.progress);
                    }
                    if (!running || moved || (b.extension && b.extension->advance())) continue;
                    if (b.extension) b.extension->report();
                    fail("deadlock: threads wait at barriers that others never reach");
                }
                if (b.extension) b.extension->finish();
                for (auto& f : b.fibres)
                    if (!f.open.empty()) fail("copies were never committed");
            }
}

inline void wait_round(int& arrived, int& round, int expected) {
    Block& b = block();
    const int mine = round;
    b.progress = true;
    if (++arrived == expected) {
        arrived = 0;
        ++round;
        return;
    }
    while (round == mine) yield();
    b.progress = true;
}

// All lanes deposit, meet, and read each other's deposits.
template <class Fill> Deposit* exchange(int operation, Fill fill) {
    Block& b = block();
    const int self = b.current, warp = self / 32;
    auto& deposits = b.deposits[b.fibres[self].parity ^= 1];
    deposits[self] = Deposit();
    deposits[self].operation = operation;
    fill(deposits[self]);
    wait_round(b.warp_arrived[warp], b.warp_round[warp], 32);
    Deposit* lanes = &deposits[warp * 32];
    for (int l = 0; l < 32; ++l)
        if (lanes[l].operation != operation) fail("lanes of a warp met in different collectives");
    return lanes;
}

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
inline float blur(float v) { return v * (1.0f + (block().current & 1 ? 1.2e-7f : -1.2e-7f)); }
inline float flush(float v) { return fabsf(v) < 1.17549435e-38f ? 0.0f : v; }

}  // namespace emu

#define threadIdx (emu::block().thread)
#define blockIdx (emu::block().block)
#define blockDim (emu::block().threads)
#define gridDim (emu::block().blocks)

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

inline void perform(const emu::Copy& c) {
    if (c.valid) {
        memcpy(c.destination, c.source, 16);
    } else {
        memset(c.destination, 0, 16);
    }
}
inline void copy_async16(void* destination, const void* source, bool valid) {
    if (reinterpret_cast<uintptr_t>(destination) % 16 || (valid && reinterpret_cast<uintptr_t>(source) % 16))
        emu::fail("misaligned 16-byte copy");
    auto& b = emu::block();
    if (b.backwards) return perform({destination, source, valid});
    b.fibres[b.current].open.push_back({destination, source, valid});
}
inline void copy_async_commit() {
    auto& f = emu::block().fibres[emu::block().current];
    f.groups.push_back(std::move(f.open));
    f.open.clear();
}
template <int Pending> inline void copy_async_wait() {
    auto& f = emu::block().fibres[emu::block().current];
    while (f.groups.size() > size_t(Pending)) {
        for (const auto& c : f.groups.front()) perform(c);
        f.groups.erase(f.groups.begin());
    }
}

inline void load_matrices(uint32_t (&r)[4], const void* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16) emu::fail("misaligned ldmatrix row");
    emu::Deposit* lanes = emu::exchange(transposed ? 2 : 1, [&](emu::Deposit& d) { memcpy(d.words, row, 16); });
    const int lane = emu::block().current % 32, g = lane / 4, q = lane % 4;
    for (int m = 0; m < 4; ++m) {
        auto element = [&](int i, int j) {
            const uint32_t w = lanes[m * 8 + i].words[j / 2];
            return j % 2 ? w >> 16 : w & 0xffffu;
        };
        r[m] = transposed ? element(2 * q, g) | element(2 * q + 1, g) << 16 : element(g, 2 * q) | element(g, 2 * q + 1) << 16;
    }
}
inline void load_matrix_x4(uint32_t (&r)[4], const void* row) { load_matrices(r, row, false); }
inline void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) { load_matrices(r, row, true); }

template <class T> inline void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    emu::Deposit* lanes = emu::exchange(3, [&](emu::Deposit& w) {
        for (int i = 0; i < 4; ++i) w.words[i] = a[i];
        w.words[4] = b0;
        w.words[5] = b1;
    });
    auto part = [](uint32_t w, int e) { return emu::value_of(T{uint16_t(e ? w >> 16 : w)}); };
    const int lane = emu::block().current % 32, g = lane / 4, q = lane % 4;
    for (int i = 0; i < 4; ++i) {
        const int row = g + (i / 2) * 8, col = 2 * q + i % 2;
        float sum = d[i];
        for (int k = 0; k < 16; ++k) {
            const float x = part(lanes[(row % 8) * 4 + (k % 8) / 2].words[(k / 8) * 2 + row / 8], k % 2);
            const float y = part(lanes[col * 4 + (k % 8) / 2].words[4 + k / 8], k % 2);
            sum += x * y;
        }
        d[i] = sum;
    }
}

template <class V> inline V shuffle_from(V v, int source) {
    static_assert(sizeof(V) <= 8);
    emu::Deposit* lanes = emu::exchange(4, [&](emu::Deposit& d) { memcpy(&d.value, &v, sizeof v); });
    V out;
    memcpy(&out, &lanes[source & 31].value, sizeof out);
    return out;
}
template <class V> inline V shuffle_xor(V v, int mask) { return shuffle_from(v, (emu::block().current % 32) ^ mask); }
inline uint32_t warp_ballot(bool p) {
    emu::Deposit* lanes = emu::exchange(5, [&](emu::Deposit& d) { d.value = p; });
    uint32_t w = 0;
    for (int l = 0; l < 32; ++l) w |= uint32_t(lanes[l].value) << l;
    return w;
}
inline int first_bit(uint32_t w) { return __builtin_ctz(w); }
inline void warp_barrier() {
    emu::exchange(6, [](emu::Deposit&) {});
}
inline void block_barrier() {
    auto& b = emu::block();
    emu::wait_round(b.arrived, b.round, int(b.threads.x));
}
