// Fibres, barriers, collectives and copies of one block after another (device.h).
#include "core.h"

#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define UNICON_FIBRE_ANNOTATIONS 1
#endif

namespace emu {

Here here;
Block* block = nullptr;

void fail(const char* what) {
    fprintf(stderr, "emulation: %s\n", what);
    _exit(3);
}

namespace {

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

constexpr size_t kStack = 128 << 10;

struct Fibre {
    Context context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    bool done = true;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
    unsigned parity = 0;
    races::Actor actor, copies;
    size_t groups_done = 0;
    char group_keys[8] = {};  // of the copies of group k at k % 8
};

// Blocks that run in turn have slots in turn. A slot keeps what is costly to make.
struct Slot : Block {
    std::vector<std::unique_ptr<Fibre>> fibres;
    std::vector<Deposit> deposits[2];  // used in turn, so that one barrier per collective is enough
    Meeting all;
    std::vector<Meeting> warps;
    std::function<void()> body;
    char start_key = 0;

    // Of those that have done something.
    template <class Do> void each_actor(Do act) {
        const auto one = [&](races::Actor& a) {
            if (a.used()) act(a);
        };
        for (auto& f : fibres) one(f->actor), one(f->copies);
        for (auto& a : bulk_copies) one(a);
        for (auto& a : products) one(a);
    }
    void start(unsigned threads, size_t bytes, bool in_reverse);
    void run();
    void resume(unsigned thread);
};
Slot slots[races::kSlots];
Slot& slot() { return static_cast<Slot&>(*block); }

Context scheduler;
void* scheduling = nullptr;  // as races know it
#ifdef UNICON_FIBRE_ANNOTATIONS
const void* scheduler_stack = nullptr;
size_t scheduler_size = 0;
#endif

void leave(bool last) {
    Fibre& f = *slot().fibres[size_t(block->current)];
#ifdef UNICON_FIBRE_ANNOTATIONS
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(last ? nullptr : &fake, scheduler_stack, scheduler_size);
#endif
    (void)last;
    races::act_as(scheduling);
    Context::change(f.context, scheduler);
#ifdef UNICON_FIBRE_ANNOTATIONS
    __sanitizer_finish_switch_fiber(fake, &scheduler_stack, &scheduler_size);
#endif
}

void fibre_main() {
#ifdef UNICON_FIBRE_ANNOTATIONS
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);
#endif
    slot().body();
    slot().fibres[size_t(block->current)]->done = true;
    block->progress = true;
    leave(true);
    fail("a finished fibre ran on");
}

void Slot::resume(unsigned thread) {
    current = int(thread);
    here.thread.x = thread;
    Fibre& f = *fibres[thread];
#ifdef UNICON_FIBRE_ANNOTATIONS
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, f.stack.get(), kStack);
#endif
    races::act_as(f.actor);
    Context::change(scheduler, f.context);
#ifdef UNICON_FIBRE_ANNOTATIONS
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void Slot::start(unsigned threads, size_t bytes, bool in_reverse) {
    backwards = in_reverse;
    if (shared.size() != bytes) std::vector<unsigned char>(bytes).swap(shared);
    for (size_t i = 0; i < bytes; ++i) shared[i] = i % 2 ? 0x7f : 0xff;  // NaN as fp16, bf16 and fp32
    here.shared = shared.data();
    races::start_block(shared.data(), bytes);
    while (fibres.size() < threads) fibres.push_back(std::make_unique<Fibre>());
    for (auto& d : deposits) d.assign(threads, Deposit());
    extension.reset();
    all = Meeting();
    for (Meeting& m : named) m = Meeting();
    warps.assign((threads + 31) / 32, Meeting());
    for (unsigned t = 0; t < threads; ++t) {
        Fibre& f = *fibres[t];
        f.done = false;
        f.groups.clear();
        f.open.clear();
        f.parity = 0;
#ifdef UNICON_FIBRE_ANNOTATIONS
        // The last fibre there never returned from its outermost functions.
        __asan_unpoison_memory_region(f.stack.get(), kStack);
#endif
        f.context.prepare(f.stack.get(), kStack, fibre_main);
    }
}

void Slot::run() {
    const unsigned threads = here.threads.x;
    // A warp runs until all its lanes wait for other warps, then the next one does.
    for (bool running = true; running;) {
        running = false;
        bool moved = false;
        for (unsigned k = 0; k < threads; k += 32) {
            const unsigned first = backwards ? threads - 32 - k : k;
            do {
                progress = false;
                for (unsigned l = 0; l < 32; ++l) {
                    const unsigned t = first + (backwards ? 31 - l : l);
                    if (fibres[t]->done) continue;
                    running = true;
                    resume(t);
                }
                moved |= progress;
            } while (progress);
        }
        if (!running || moved || (extension && extension->advance())) continue;
        if (extension) extension->report();
        fail("deadlock: threads wait at barriers that others never reach");
    }
    if (extension) extension->finish();
    for (auto& f : fibres)
        if (!f->open.empty()) fail("copies were never committed");
}

// A block's threads know what was done before the launch, and what the block before them in this slot did.
void order_start(Slot& s, bool first, char& before) {
    if (!first) s.each_actor([&](races::Actor& a) { races::act_as(a), races::release(&s.start_key); });
    for (unsigned t = 0; t < here.threads.x; ++t) {
        races::act_as(s.fibres[t]->actor);
        races::acquire(&before);
        if (!first) races::acquire(&s.start_key);
    }
    races::act_as(scheduling);
}

}  // namespace

void launch(Index grid, unsigned threads, size_t shared, bool backwards, std::function<void()> body) {
    static char begin, end;
    grid = {grid.x, max(grid.y, 1u), max(grid.z, 1u)};
    here.blocks = grid;
    here.threads = {threads, 1, 1};
    for (Slot& s : slots) s.body = body;
    scheduling = races::acting();
    races::release(&begin);
    const unsigned count = grid.x * grid.y * grid.z;
    // Races between blocks are looked for in one order only: the time goes with the number of fibres.
    const unsigned turns = backwards ? 1 : races::kSlots;
    for (unsigned k = 0; k < count; ++k) {
        const unsigned i = backwards ? count - 1 - k : k;
        here.block = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
        Slot& s = slots[k % turns];
        block = &s;
        s.start(threads, shared, backwards);
        order_start(s, k < turns, begin);
        s.run();
    }
    for (Slot& s : slots) s.each_actor([&](races::Actor& a) { races::act_as(a), races::release(&end); });
    races::act_as(scheduling);
    races::acquire(&end);
}

void yield() { leave(false); }

void meet(Meeting& meeting, int expected, bool orders_memory) {
    const int mine = meeting.round;
    char* key = orders_memory ? &meeting.keys[mine & 1] : nullptr;
    if (key) races::release(key);
    block->progress = true;
    if (++meeting.arrived == expected) {
        meeting.arrived = 0;
        ++meeting.round;
    } else {
        while (meeting.round == mine) yield();
        block->progress = true;
    }
    if (key) races::acquire(key);
}

const Deposit* exchange(const Deposit& mine) {
    Slot& s = slot();
    const size_t self = size_t(s.current), warp = self / 32;
    auto& deposits = s.deposits[s.fibres[self]->parity ^= 1];
    deposits[self] = mine;
    meet(s.warps[warp], 32, mine.operation == Collective::kBarrier);
    const Deposit* lanes = &deposits[warp * 32];
    for (int l = 0; l < 32; ++l)
        if (lanes[l].operation != mine.operation) fail("lanes of a warp met in different collectives");
    return lanes;
}

namespace {

void perform(const Copy& c) {
    if (c.valid) {
        memcpy(c.destination, c.source, 16);
    } else {
        memset(c.destination, 0, 16);
    }
}

}  // namespace

void copy(void* destination, const void* source, bool valid) {
    if (reinterpret_cast<uintptr_t>(destination) % 16 || (valid && reinterpret_cast<uintptr_t>(source) % 16))
        fail("misaligned 16-byte copy");
    const Copy c{destination, source, valid};
    if (block->backwards) perform(c);
    slot().fibres[size_t(block->current)]->open.push_back(c);
}

void commit_copies() {
    Fibre& f = *slot().fibres[size_t(block->current)];
    if (!f.open.empty()) {
        char* key = &f.group_keys[(f.groups_done + f.groups.size()) % 8];
        if (f.groups.size() == 8) fail("more groups of copies than are told apart");
        races::release(key);
        races::act_as(f.copies);
        races::acquire(key);
        for (const Copy& c : f.open) {
            if (c.valid) races::read(c.source, 16);
            races::write(c.destination, 16);
        }
        races::release(key);
        races::act_as(f.actor);
    }
    f.groups.push_back(std::move(f.open));
    f.open.clear();
}

void wait_for_copies(int pending) {
    Fibre& f = *slot().fibres[size_t(block->current)];
    while (f.groups.size() > size_t(pending)) {
        if (!block->backwards)
            for (const Copy& c : f.groups.front()) perform(c);
        if (!f.groups.front().empty()) races::acquire(&f.group_keys[f.groups_done % 8]);
        f.groups.erase(f.groups.begin());
        ++f.groups_done;
    }
}

void load_matrices(uint32_t (&r)[4], const uint32_t (&row)[4], bool transposed) {
    Deposit mine;
    mine.operation = transposed ? Collective::kLoadTransposed : Collective::kLoad;
    memcpy(mine.words, row, 16);
    const Deposit* lanes = exchange(mine);
    const int lane = block->current % 32, g = lane / 4, q = lane % 4;
    for (int m = 0; m < 4; ++m) {
        auto element = [&](int i, int j) {
            const uint32_t w = lanes[m * 8 + i].words[j / 2];
            return j % 2 ? w >> 16 : w & 0xffffu;
        };
        r[m] = transposed ? element(2 * q, g) | element(2 * q + 1, g) << 16 : element(g, 2 * q) | element(g, 2 * q + 1) << 16;
    }
}

// values: the elements of a's four words and of b's two, in order.
void multiply(float (&d)[4], const float (&values)[12]) {
    Deposit mine;
    mine.operation = Collective::kMultiply;
    memcpy(mine.values, values, sizeof values);
    const Deposit* lanes = exchange(mine);
    const int lane = block->current % 32, g = lane / 4, q = lane % 4;
    for (int i = 0; i < 4; ++i) {
        const int row = g + (i / 2) * 8, col = 2 * q + i % 2;
        float sum = d[i];
        for (int k = 0; k < 16; ++k) {
            const float x = lanes[(row % 8) * 4 + (k % 8) / 2].values[((k / 8) * 2 + row / 8) * 2 + k % 2];
            const float y = lanes[col * 4 + (k % 8) / 2].values[(4 + k / 8) * 2 + k % 2];
            sum += x * y;
        }
        d[i] = sum;
    }
}

uint64_t shuffle(uint64_t value, int lane) {
    Deposit mine;
    mine.operation = Collective::kShuffle;
    mine.value = value;
    return exchange(mine)[lane].value;
}

uint32_t ballot(bool p) {
    Deposit mine;
    mine.operation = Collective::kBallot;
    mine.value = p;
    const Deposit* lanes = exchange(mine);
    uint32_t w = 0;
    for (int l = 0; l < 32; ++l) w |= uint32_t(lanes[l].value) << l;
    return w;
}

void warp_barrier() {
    Deposit mine;
    mine.operation = Collective::kBarrier;
    exchange(mine);
}

void block_barrier() { meet(slot().all, int(here.threads.x), true); }

}  // namespace emu
