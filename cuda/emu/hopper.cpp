// Barriers in shared memory, bulk copies and products of warpgroups (hopper.h).
#include "hopper.h"

#include <stdio.h>

#include <deque>
#include <map>

#include "core.h"

namespace emu {
namespace {

// All lanes of a warp, in the same operation.
void meet_warp(Collective operation) {
    Deposit mine;
    mine.operation = operation;
    exchange(mine);
}

struct Hopper : Extension {
    struct Bulk {
        void* destination;
        const void* source;
        uint32_t bytes;
        hopper::Barrier* barrier;
        size_t number;
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
        int group = 0, waited = 0;
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
    size_t ordered = 0;  // bulk copies so far
    int expected[16] = {};  // threads at each named barrier
    std::vector<Thread> threads;
    std::vector<Warpgroup> warpgroups;
    int parked = 0, turn = 0;  // threads whose products wait until nothing else can go on, and how often that was so

    Hopper() : threads(here.threads.x), warpgroups((here.threads.x + 127) / 128) {
        for (Warpgroup& g : warpgroups) g.registers = int(65536 / here.threads.x / 8 * 8);
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
            if (t.barrier) ++waiting[{size_t((const unsigned char*)t.barrier - here.shared), t.parity}];
        for (const auto& [where, count] : waiting) {
            uint64_t state;
            memcpy(&state, here.shared + where.first, 8);
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
        auto& extension = block->extension;
        if (!extension) extension.reset(new Hopper);
        return static_cast<Hopper&>(*extension);
    }
    static Thread& thread() { return get().threads[block->current]; }
    static Warpgroup& warpgroup() { return get().warpgroups[block->current / 128]; }

    // Whether [p, p + bytes) lies in shared memory.
    static bool is_shared(const void* p, size_t bytes) {
        const size_t at = size_t(static_cast<const unsigned char*>(p) - here.shared), all = block->shared.size();
        return at <= all && bytes <= all - at;
    }
    // Of the threads and copies that end a phase, and of those who wait for that.
    static char* key(hopper::Barrier* b, int parity) { return reinterpret_cast<char*>(b) + parity; }
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
        block->progress = true;
    }
    static void arrive(hopper::Barrier* b, uint32_t bytes) {
        uint64_t& state = checked(b);
        races::read(b, 8);
        races::release(key(b, int(state & 1)));
        if (bytes >= 1 << 20) fail("a barrier cannot count that many bytes");
        if (!(state >> 16 & 0x7fff)) fail("more arrivals at a barrier than it expects");
        state -= uint64_t(1) << 16;
        state += uint64_t(bytes) << 32;
        settle(state);
    }

    // Where element k of row i of an operand lies in shared memory.
    static size_t place(uint64_t operand, int i, int k) {
        const size_t at = ((operand & 0x3fff) << 4) + size_t(i / 8) * 1024 + size_t(i % 8) * 128 + size_t(k) * 2;
        return at ^ (at >> 7 & 7) << 4;
    }

    // Decodes `rows` rows of sixteen elements.
    static std::vector<float> decode(uint64_t operand, int rows, bool bf16) {
        std::vector<float> out(size_t(rows) * 16);
        for (int i = 0; i < rows; ++i)
            for (int k = 0; k < 16; ++k) {
                const size_t at = place(operand, i, k);
                uint16_t bits;
                memcpy(&bits, here.shared + at, 2);
                out[size_t(i) * 16 + k] = bf16 ? bf16_value(bits) : half_value(bits);
            }
        return out;
    }

    static void check_operand(uint64_t operand, int rows) {
        if ((operand & ~uint64_t(0x3fff)) != (uint64_t(1) << 16 | uint64_t(64) << 32 | uint64_t(1) << 62))
            fail("an operand that is not a swizzled tile");
        const size_t start = (operand & 0x3fff) << 4;
        if (start / 128 * 128 + size_t(rows) * 128 > block->shared.size()) fail("an operand beyond shared memory");
    }

    // What a warp's part of a product reads: of a its own sixteen rows, of b all. Sixteen elements of a row are 32 bytes.
    static void read_operands(const Product& p) {
        const int warp = block->current / 32;
        char* key = &block->product_keys[warp][thread().group % 8];
        const auto read = [](uint64_t operand, int from, int to) {
            for (int i = from; i < to; ++i) {
                const unsigned char* row = here.shared + place(operand, i, 0) / 32 * 32;
                races::seen_by_proxy(row, 32);
                races::read(row, 32);
            }
        };
        void* mine = races::acting();
        races::release(key);
        races::act_as(block->products[warp]);
        races::acquire(key);
        if (!p.from_registers) read(p.a, warp % 4 * 16, warp % 4 * 16 + 16);
        read(p.b, 0, p.columns);
        races::release(key);
        races::act_as(mine);
    }

    // Adds a product to this thread's entries.
    static void multiply(const Pending& p) {
        Warpgroup& group = warpgroup();
        const auto at = [&]() -> Product& { return group.products[p.product - group.first]; };
        while (at().from_registers && at().issued < 128) yield();  // else no warp waits for another
        block->progress = true;
        Product& product = at();
        if (product.cols.empty()) {
            if (!product.from_registers) product.rows = decode(product.a, 64, product.bf16);
            product.cols = decode(product.b, product.columns, product.bf16);
        }
        const int lane = block->current % 32, warp = block->current / 32 % 4;
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
        meet_warp(Collective::kWait);
        Thread& t = thread();
        t.begun = false;
        for (; t.waited < t.group - groups; ++t.waited) races::acquire(&block->product_keys[block->current / 32][t.waited % 8]);
        if (block->backwards && !t.pending.empty() && t.pending[0].group < t.group - groups) {
            Hopper& all = get();
            const int turn = all.turn;
            ++all.parked;
            while (all.turn == turn) yield();
            --all.parked;
            block->progress = true;
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

    static void start(bool bf16, float* d, int columns, const uint32_t* registers, uint64_t a, uint64_t b, bool add) {
        meet_warp(registers ? Collective::kProductOfRegisters : Collective::kProduct);
        Thread& t = thread();
        if (!t.begun) fail("a product without wgmma_begin");
        Warpgroup& group = warpgroup();
        const size_t number = t.issued++;
        if (number - group.first == group.products.size()) {
            Product p;
            p.a = a, p.b = b, p.columns = columns, p.from_registers = registers != nullptr, p.bf16 = bf16, p.add = add;
            if (registers) p.rows.resize(64 * 16);
            if (!registers) check_operand(a, 64);
            check_operand(b, columns);
            group.products.push_back(p);
        }
        Product& product = group.products[number - group.first];
        if (product.b != b || product.columns != columns || product.from_registers != (registers != nullptr) || product.a != a ||
            product.add != add)
            fail("the threads of a warpgroup want different products");
        if (races::kFound && block->current % 32 == 0) read_operands(product);
        ++product.issued;
        block->progress = true;
        if (registers) {
            const int lane = block->current % 32, warp = block->current / 32 % 4;
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

void Hopper::perform(const Bulk& c) {
    uint64_t& state = checked(c.barrier);
    const size_t i = c.number % 8;
    void* before = races::acting();
    races::act_as(block->bulk_copies[i]);
    races::acquire(&block->bulk_keys[i]);
    races::read(c.source, c.bytes);
    races::write(c.destination, c.bytes);
    races::read(c.barrier, 8);
    races::release(key(c.barrier, int(state & 1)));
    races::act_as(before);
    memcpy(c.destination, c.source, c.bytes);
    if (state >> 32 < c.bytes) fail("a barrier received more bytes than it expects");
    state -= uint64_t(c.bytes) << 32;
    settle(state);
    block->progress = true;
}

}  // namespace
}  // namespace emu

namespace hopper {

using emu::block;
using emu::fail;
using emu::here;
using emu::Hopper;
namespace races = emu::races;

void barrier_init(Barrier* b, int arrivals) {
    Hopper::placed(b);
    if (arrivals < 1) fail("a barrier that expects nobody");
    races::write(b, 8);
    races::wrote(b, 8);
    b->state = uint64_t(arrivals) << 1 | uint64_t(arrivals) << 16 | uint64_t(1) << 31;
}
void proxy_fence() { races::proxy_fence(); }
void barrier_arrive(Barrier* b) { Hopper::arrive(b, 0); }
void barrier_arrive_expect(Barrier* b, uint32_t bytes) { Hopper::arrive(b, bytes); }
void barrier_wait(Barrier* b, int parity) {
    Hopper::Thread& t = Hopper::thread();
    t.barrier = b;
    t.parity = parity;
    races::read(b, 8);
    while (int(Hopper::checked(b) & 1) == parity) emu::yield();
    races::acquire(Hopper::key(b, parity));
    t.barrier = nullptr;
    block->progress = true;
}
void bulk_copy(void* destination, const void* source, uint32_t bytes, Barrier* b) {
    if (uintptr_t(destination) % 16 || uintptr_t(source) % 16 || bytes % 16) fail("a misaligned bulk copy");
    if (!Hopper::is_shared(destination, bytes)) fail("a bulk copy to a place that is not in shared memory");
    Hopper::checked(b);
    Hopper& all = Hopper::get();
    const Hopper::Bulk copy{destination, source, bytes, b, all.ordered++};
    races::seen_by_proxy(destination, bytes);
    races::seen_by_proxy(b, 8);
    races::release(&block->bulk_keys[copy.number % 8]);
    if (block->backwards) return Hopper::perform(copy);
    all.bulks.push_back(copy);
}
void named_barrier(int id, int threads) {
    if (id < 1 || id > 15 || threads % 32) fail("a named barrier that there is not");
    emu::Meeting& meeting = block->named[id];
    int& expected = Hopper::get().expected[id];
    if (meeting.arrived && expected != threads) fail("the threads at a barrier expect different numbers of them");
    expected = threads;
    emu::meet(meeting, threads, true);
}
void change_registers(int registers, bool take) {
    int& held = Hopper::warpgroup().registers;
    if (!take && held < registers) fail("registers are given back that were not held");
    if (take && held > registers) fail("registers are taken that were held already");
    held = registers;
}
uint64_t tile_operand(const void* tile, int step) {
    const size_t address = size_t(static_cast<const unsigned char*>(tile) - here.shared);
    if (address % 1024 || address >= 1 << 18) fail("an operand that is not aligned to its swizzle");
    return ((address >> 4) + uint64_t(step) * 2) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}
void wgmma_begin() { Hopper::thread().begun = true; }
void wgmma_commit() {
    emu::meet_warp(emu::Collective::kCommit);
    ++Hopper::thread().group;
}
void wait_for_products(int pending) { Hopper::complete(pending); }
void start_product(bool bf16, float* d, int columns, const uint32_t* registers, uint64_t a, uint64_t b, bool add) {
    Hopper::start(bf16, d, columns, registers, a, b, add);
}

}  // namespace hopper
