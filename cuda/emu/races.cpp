// Proxy fences, and what keeps ThreadSanitizer to the kernels' memory (races.h). Only in programs that look for races, whose
// kernels' stores pass through here (the linker's --wrap).
#include "core.h"

#include <stdio.h>
#include <stdlib.h>

#include <new>

// The emulation's own memory is no kernel's: ThreadSanitizer does not follow it.
extern "C" void* __libc_malloc(size_t);
extern "C" void __libc_free(void*);
void* operator new(size_t bytes) {
    if (void* p = __libc_malloc(bytes)) return p;
    abort();
}
void operator delete(void* p) noexcept { __libc_free(p); }
void operator delete(void* p, size_t) noexcept { __libc_free(p); }
extern "C" void* memcpy(void* to, const void* from, size_t bytes) {
    void* first = to;
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes)::"memory");
    return first;
}
extern "C" void* memset(void* to, int value, size_t bytes) {
    void* first = to;
    asm volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
    return first;
}
extern "C" void* memmove(void* to, const void* from, size_t bytes) {
    if (static_cast<char*>(to) - static_cast<const char*>(from) >= ptrdiff_t(bytes) || to <= from) return memcpy(to, from, bytes);
    char* last = static_cast<char*>(to) + bytes - 1;
    const char* source = static_cast<const char*>(from) + bytes - 1;
    asm volatile("std\n\trep movsb\n\tcld" : "+D"(last), "+S"(source), "+c"(bytes)::"memory");
    return to;
}

namespace emu {
namespace races {
namespace {

const unsigned char* begin = nullptr;
std::vector<uint16_t> writer;                  // of each word of shared memory, if not fenced since: 1 + the thread
std::vector<std::vector<uint32_t>> of_thread;  // the words that a thread wrote since its last fence

}  // namespace

void start_block(unsigned char* shared, size_t bytes) {
    begin = shared;
    writer.assign((bytes + 3) / 4, 0);
    of_thread.assign(here.threads.x, {});
}

void wrote(const void* p, size_t bytes) {
    const size_t at = size_t(static_cast<const unsigned char*>(p) - begin);
    if (at / 4 >= writer.size()) return;
    for (size_t w = at / 4; w < (at + bytes + 3) / 4; ++w) {
        writer[w] = uint16_t(1 + block->current);
        of_thread[size_t(block->current)].push_back(uint32_t(w));
    }
}

void proxy_fence() {
    auto& mine = of_thread[size_t(block->current)];
    for (const uint32_t w : mine)
        if (writer[w] == 1 + block->current) writer[w] = 0;
    mine.clear();
}

void seen_by_proxy(const void* p, size_t bytes) {
    const size_t at = size_t(static_cast<const unsigned char*>(p) - begin);
    for (size_t w = at / 4; w < (at + bytes + 3) / 4; ++w) {
        if (!writer[w]) continue;
        fprintf(stderr, "emulation: byte %zu of shared memory was written by thread %d, whose proxy fence is missing\n", w * 4, writer[w] - 1);
        fail("race of a store with a bulk copy or a product");
    }
}

}  // namespace races
}  // namespace emu

#define UNICON_STORE(bytes)                                                       \
    extern "C" void __tsan_write##bytes##_pc(void* p, void* from);                \
    extern "C" void __wrap___tsan_write##bytes(void* p) {                         \
        emu::races::wrote(p, bytes);                                              \
        __tsan_write##bytes##_pc(p, __builtin_return_address(0));                 \
    }
UNICON_STORE(1)
UNICON_STORE(2)
UNICON_STORE(4)
UNICON_STORE(8)
UNICON_STORE(16)
