// The functions of ptx_hopper.cuh on the host. Copies happen as late as they may, when nothing else can go on, and products
// when they are waited for: a missing wait reads what was there before. `backwards` copies happen at once and products when
// nothing else can go on: a stage given back too early is overwritten.
// Operand words are taken apart as the hardware does. Not shown: proxies and fences, bank conflicts, speed.
#pragma once

#include <array>
#include <deque>
#include <map>

#include "device.h"

#define UNICON_HOPPER_SHARED(name) unsigned char* name = emu::block().shared.data()

namespace hopper {

// As in shared memory: phase parity 1 bit, arrivals expected 15, arrivals pending 15, initialised 1, bytes pending 32.
struct Barrier {
    uint64_t state;
};

}  // namespace hopper

namespace emu {

struct Hopper : Extension {
    struct Bulk {
        void* destination;
        const void* source;
        uint32_t bytes;
        hopper::Barrier* barrier;
    };
    struct Named {
        int arrived = 0, round = 0, threads = 0;
    };
    // One product of a warpgroup: its operands, decoded by whoever comes first once all have asked for it.
    struct Product {
        uint64_t a = 0, b = 0;
        int columns = 0, issued = 0, done = 0;
        bool from_registers = false, bf16 = false, add = false;
        std::vector<float> rows, cols;  // [64][16], [columns][16]
    };
    // A thread's part of a product that has not been waited for.
    struct Pending {
        size_t product;
        int group;
        float* d;
        int count;
        bool add;
        std::vector<float> hidden;  // what was in d, where this is the first that d waits for
    };
    struct Thread {
        size_t issued = 0;
        int group = 0;
        bool begun = false;  // wgmma_begin since registers may have changed
        std::vector<Pending> pending;
        const hopper::Barrier* barrier = nullptr;
        int parity = 0;
    };
    struct Warpgroup {
        std::deque<Product> products;
        size_t first = 0;  // number of the oldest that is kept
        int registers = 0;
    };

    std::vector<Bulk> bulks;
    std::array<Named, 16> named;
    std::vector<Thread> threads;
    std::vector<Warpgroup> warpgroups;
    int parked = 0, turn = 0;  // threads whose products wait until nothing else can go on, and how often that was so

    Hopper() : threads(block().threads.x), warpgroups((block().threads.x + 127) / 128) {
        for (Warpgroup& g : warpgroups) g.registers = int(65536 / block().threads.x / 8 * 8);
    }

    static void perform(const Bulk& c);
    bool advance() override {
        if (bulks.empty()) {
            ++turn;
            return parked > 0;
        }
        const Bulk next = bulks.back();  // the newest: copies may overtake each other
        bulks.pop_back();
        perform(next);
        return true;
    }
    void report() override {
        std::map<std::pair<size_t, int>, int> waiting;
        for (const Thread& t : threads)
            if (t.barrier) ++waiting[{size_t((const unsigned char*)t.barrier - block().shared.data()), t.parity}];
        for (const auto& [where, count] : waiting) {
            uint64_t state;
            memcpy(&state, block().shared.data() + where.first, 8);
            fprintf(stderr, "emulation: %d threads wait for parity %d of the barrier at %zu: %d arrivals and %d bytes to come\n", count,
                    where.second, where.first, int(state >> 16 & 0x7fff), int(state >> 32));
        }
    }
    void finish() override {
        if (!bulks.empty()) fail("a bulk copy was never waited for");
        int registers = 0;
        for (const Warpgroup& g : warpgroups) registers += g.registers * 128;
        if (registers > 65536) fail("more registers were taken than there are");
        for (const Thread& t : threads)
            if (!t.pending.empty()) fail("products were never waited for");
        for (const Warpgroup& g : warpgroups)
            if (!g.products.empty()) fail("a product that not all warps of its warpgroup asked for");
    }

    static Hopper& get() {
        auto& extension = block().extension;
        if (!extension) extension.reset(new Hopper);
        return static_cast<Hopper&>(*extension);
    }
    static Thread& thread() { return get().threads[block().current]; }
    static Warpgroup& warpgroup() { return get().warpgroups[block().current / 128]; }

    // Whether [p, p + bytes) lies in shared memory.
    static bool is_shared(const void* p, size_t bytes) {
        const auto& shared = block().shared;
        const size_t at = size_t(static_cast<const unsigned char*>(p) - shared.data());
        return at <= shared.size() && bytes <= shared.size() - at;
    }
    static void placed(const hopper::Barrier* b) {
        if (!is_shared(b, 8) || uintptr_t(b) % 8) fail("a barrier that is not in shared memory, aligned to 8");
    }
    static uint64_t& checked(hopper::Barrier* b) {
        placed(b);
        if (!(b->state >> 31 & 1)) fail("a barrier is used that was not initialised");
        return b->state;
    }
    static void settle(uint64_t& state) {
        if ((state >> 16 & 0x7fff) || state >> 32) return;
        const uint64_t expected = state >> 1 & 0x7fff;
        state = (state & 0xffff) ^ 1;
        state |= expected << 16 | uint64_t(1) << 31;
        block().progress = true;
    }
    static void arrive(hopper::Barrier* b, uint32_t bytes) {
        uint64_t& state = checked(b);
        if (bytes >= 1 << 20) fail("a barrier cannot count that many bytes");
        if (!(state >> 16 & 0x7fff)) fail("more arrivals at a barrier than it expects");
        state -= uint64_t(1) << 16;
        state += uint64_t(bytes) << 32;
        settle(state);
    }

    // Decodes `rows` rows of sixteen elements.
    static std::vector<float> decode(uint64_t operand, int rows, bool bf16) {
        if ((operand & ~uint64_t(0x3fff)) != (uint64_t(1) << 16 | uint64_t(64) << 32 | uint64_t(1) << 62))
            fail("an operand that is not a swizzled tile");
        const size_t start = (operand & 0x3fff) << 4;
        if (start / 128 * 128 + size_t(rows) * 128 > block().shared.size()) fail("an operand beyond shared memory");
        std::vector<float> out(size_t(rows) * 16);
        for (int i = 0; i < rows; ++i)
            for (int k = 0; k < 16; ++k) {
                size_t at = start + size_t(i / 8) * 1024 + size_t(i % 8) * 128 + size_t(k) * 2;
                at ^= (at >> 7 & 7) << 4;
                uint16_t bits;
                memcpy(&bits, block().shared.data() + at, 2);
                out[size_t(i) * 16 + k] = bf16 ? bf16_value(bits) : half_value(bits);
            }
        return out;
    }

    // Adds a product to this thread's entries.
    static void multiply(const Pending& p) {
        Warpgroup& group = warpgroup();
        const auto at = [&]() -> Product& { return group.products[p.product - group.first]; };
        while (at().from_registers && at().issued < 128) yield();  // else no warp waits for another
        block().progress = true;
        Product& product = at();
        if (product.cols.empty()) {
            if (!product.from_registers) product.rows = decode(product.a, 64, product.bf16);
            product.cols = decode(product.b, product.columns, product.bf16);
        }
        const int lane = block().current % 32, warp = block().current / 32 % 4;
        for (int i = 0; i < p.count; ++i) {
            const int row = warp * 16 + (i / 2 % 2) * 8 + lane / 4, col = i / 4 * 8 + lane % 4 * 2 + i % 2;
            const float *x = &product.rows[size_t(row) * 16], *y = &product.cols[size_t(col) * 16];
            float sum = p.add ? p.d[i] : 0.0f;
            for (int k = 0; k < 16; ++k) sum += x[k] * y[k];
            p.d[i] = sum;
        }
        ++product.done;
        while (!group.products.empty() && group.products.front().done == 128) {
            group.products.pop_front();
            ++group.first;
        }
    }

    static void hide(Pending& p) {
        p.hidden.assign(p.d, p.d + p.count);
        std::fill(p.d, p.d + p.count, NAN);
    }

    // Completes all but the newest `groups` groups.
    static void complete(int groups) {
        exchange(10, [](Deposit&) {});
        Thread& t = thread();
        t.begun = false;
        if (block().backwards && !t.pending.empty() && t.pending[0].group < t.group - groups) {
            Hopper& all = get();
            const int turn = all.turn;
            ++all.parked;
            while (all.turn == turn) yield();
            --all.parked;
            block().progress = true;
        }
        size_t done = 0;
        for (; done < t.pending.size() && t.pending[done].group < t.group - groups; ++done) {
            const Pending p = t.pending[done];
            if (!p.hidden.empty()) std::copy(p.hidden.begin(), p.hidden.end(), p.d);
            multiply(p);
        }
        t.pending.erase(t.pending.begin(), t.pending.begin() + std::ptrdiff_t(done));
        for (size_t i = 0; done && i < t.pending.size(); ++i) {
            bool first = t.pending[i].hidden.empty();
            for (size_t j = 0; j < i; ++j) first &= t.pending[j].d != t.pending[i].d;
            if (first) hide(t.pending[i]);
        }
    }

    template <class T> static void start(float* d, int columns, const uint32_t* registers, uint64_t a, uint64_t b, bool add) {
        const bool bf16 = std::is_same_v<T, bf16_t>;
        exchange(registers ? 8 : 7, [](Deposit&) {});
        Thread& t = thread();
        if (!t.begun) fail("a product without wgmma_begin");
        Warpgroup& group = warpgroup();
        const size_t number = t.issued++;
        if (number - group.first == group.products.size()) {
            Product p;
            p.a = a, p.b = b, p.columns = columns, p.from_registers = registers != nullptr, p.bf16 = bf16, p.add = add;
            if (registers) p.rows.resize(64 * 16);
            group.products.push_back(p);
        }
        Product& product = group.products[number - group.first];
        if (product.b != b || product.columns != columns || product.from_registers != (registers != nullptr) || product.a != a ||
            product.add != add)
            fail("the threads of a warpgroup want different products");
        ++product.issued;
        block().progress = true;
        if (registers) {
            const int lane = block().current % 32, warp = block().current / 32 % 4;
            for (int i = 0; i < 4; ++i)
                for (int e = 0; e < 2; ++e) {
                    const uint16_t bits = uint16_t(e ? registers[i] >> 16 : registers[i]);
                    const int row = warp * 16 + i % 2 * 8 + lane / 4, k = i / 2 * 8 + lane % 4 * 2 + e;
                    product.rows[size_t(row) * 16 + k] = bf16 ? bf16_value(bits) : half_value(bits);
                }
        }
        Pending p{number, t.group, d, columns / 2, add, {}};
        const bool waits = std::any_of(t.pending.begin(), t.pending.end(), [&](const Pending& o) { return o.d == d; });
        if (!waits) hide(p);
        t.pending.push_back(p);
    }
};

inline void Hopper::perform(const Bulk& c) {
    memcpy(c.destination, c.source, c.bytes);
    uint64_t& state = checked(c.barrier);
    if (state >> 32 < c.bytes) fail("a barrier received more bytes than it expects");
    state -= uint64_t(c.bytes) << 32;
    settle(state);
    block().progress = true;
}

}  // namespace emu

namespace hopper {

inline void barrier_init(Barrier* b, int arrivals) {
    emu::Hopper::placed(b);
    if (arrivals < 1) emu::fail("a barrier that expects nobody");
    b->state = uint64_t(arrivals) << 1 | uint64_t(arrivals) << 16 | uint64_t(1) << 31;
}
inline void barrier_init_fence() {}
inline void barrier_arrive(Barrier* b) { emu::Hopper::arrive(b, 0); }
inline void barrier_arrive_expect(Barrier* b, uint32_t bytes) { emu::Hopper::arrive(b, bytes); }
inline void barrier_wait(Barrier* b, int parity) {
    emu::Hopper::Thread& t = emu::Hopper::thread();
    t.barrier = b;
    t.parity = parity;
    while (int(emu::Hopper::checked(b) & 1) == parity) emu::yield();
    t.barrier = nullptr;
    emu::block().progress = true;
}
inline void bulk_copy(void* destination, const void* source, uint32_t bytes, Barrier* b) {
    if (uintptr_t(destination) % 16 || uintptr_t(source) % 16 || bytes % 16) emu::fail("a misaligned bulk copy");
    if (!emu::Hopper::is_shared(destination, bytes)) emu::fail("a bulk copy to a place that is not in shared memory");
    const emu::Hopper::Bulk copy{destination, source, bytes, b};
    if (emu::block().backwards) return emu::Hopper::perform(copy);
    emu::Hopper::get().bulks.push_back(copy);
}
inline void named_barrier(int id, int threads) {
    if (id < 1 || id > 15 || threads % 32) emu::fail("a named barrier that there is not");
    auto& b = emu::Hopper::get().named[size_t(id)];
    if (b.arrived && b.threads != threads) emu::fail("the threads at a barrier expect different numbers of them");
    b.threads = threads;
    emu::wait_round(b.arrived, b.round, threads);
}
template <int Registers> inline void give_registers() {
    static_assert(Registers % 8 == 0 && Registers >= 24 && Registers <= 256);
    if (emu::Hopper::warpgroup().registers < Registers) emu::fail("registers are given back that were not held");
    emu::Hopper::warpgroup().registers = Registers;
}
template <int Registers> inline void take_registers() {
    static_assert(Registers % 8 == 0 && Registers >= 24 && Registers <= 256);
    if (emu::Hopper::warpgroup().registers > Registers) emu::fail("registers are taken that were held already");
    emu::Hopper::warpgroup().registers = Registers;
}
inline uint64_t tile_operand(const void* tile, int step) {
    const size_t address = size_t((const unsigned char*)tile - emu::block().shared.data());
    if (address % 1024 || address >= 1 << 18) emu::fail("an operand that is not aligned to its swizzle");
    return ((address >> 4) + uint64_t(step) * 2) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
inline void wgmma_begin() { emu::Hopper::thread().begun = true; }
inline void wgmma_commit() {
    emu::exchange(9, [](emu::Deposit&) {});
    ++emu::Hopper::thread().group;
}
template <int Pending> inline void wgmma_wait() { emu::Hopper::complete(Pending); }
template <int N> inline void ready(float (&)[N]) {}
template <class T, int N> inline void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool add) {
    emu::Hopper::start<T>(d, N, nullptr, a, b, add);
}
template <class T, int N>
inline void wgmma_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add) {
    emu::Hopper::start<T>(d, N, a, 0, b, add);
}

}  // namespace hopper
