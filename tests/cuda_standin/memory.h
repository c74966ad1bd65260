// Device memory: every allocation is its own mapping that ends at a page nobody may touch.
#pragma once

#include "standin.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>

namespace standin {

struct Allocation {
    size_t bytes;
    char* mapping;
    size_t mapped;
    bool host;  // page-locked host memory
    int device;
};
constexpr int kMostDevices = 16;

// Kernels need 16-byte aligned rows, so an allocation ends within 15 bytes of the forbidden page; those bytes and the ones
// in front of it hold a pattern that is checked when it is freed. New memory is all ones: NaN as fp16, bf16, fp32 and fp64.
class Memory {
  public:
    static constexpr unsigned char kGuard = 0xa5;
    std::map<uintptr_t, Allocation> live;
    // Of each device.
    size_t used[kMostDevices] = {}, peak[kMostDevices] = {}, limit = size_t(setting("UNICON_STANDIN_MEMORY", 1ll << 30));

    void* take(size_t bytes, bool host, int device) {
        if (!host && (bytes > limit || used[device] > limit - bytes)) return nullptr;
        const size_t page = size_t(sysconf(_SC_PAGESIZE)), padded = (bytes + 15) / 16 * 16;
        const size_t body = (padded + page - 1) / page * page;
        char* mapping = static_cast<char*>(mmap(nullptr, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (mapping == MAP_FAILED) return nullptr;
        mprotect(mapping + body, page, PROT_NONE);
        char* start = mapping + body - padded;
        memset(mapping, kGuard, body);
        memset(start, 0xff, bytes);
        live[uintptr_t(start)] = {bytes, mapping, body + page, host, device};
        if (!host) {
            used[device] += bytes;
            if (used[device] > peak[device]) peak[device] = used[device];
        }
        return start;
    }

    bool give_back(void* p, bool host) {
        const auto at = live.find(uintptr_t(p));
        if (at == live.end() || at->second.host != host) return false;
        check(at->first, at->second);
        munmap(at->second.mapping, at->second.mapped);
        if (!host) used[at->second.device] -= at->second.bytes;
        live.erase(at);
        return true;
    }

    // The allocation that holds [p, p + bytes), or null.
    const Allocation* find(const void* p, size_t bytes) const {
        auto at = live.upper_bound(uintptr_t(p));
        if (at == live.begin()) return nullptr;
        --at;
        return uintptr_t(p) - at->first <= at->second.bytes && bytes <= at->second.bytes - (uintptr_t(p) - at->first) ? &at->second : nullptr;
    }

    static void check(uintptr_t start, const Allocation& a) {
        const char* end = reinterpret_cast<const char*>(start) + a.bytes;
        const size_t slack = (16 - a.bytes % 16) % 16;
        for (const char* c = a.mapping; c < reinterpret_cast<const char*>(start); ++c)
            if (static_cast<unsigned char>(*c) != kGuard) fail("written before an allocation of " + std::to_string(a.bytes) + " bytes");
        for (size_t i = 0; i < slack; ++i)
            if (static_cast<unsigned char>(end[i]) != kGuard) fail("written past an allocation of " + std::to_string(a.bytes) + " bytes");
    }
};

inline Memory& memory() {
    static Memory* m = new Memory;
    return *m;
}

// Says whose end was crossed before the process dies of it. Only what a signal handler may do, except that the map is read.
inline void crossed(int, siginfo_t* info, void*) {
    const uintptr_t p = uintptr_t(info->si_addr);
    char text[160];
    int length = snprintf(text, sizeof text, "stand-in: access to %p, which is nobody's memory\n", info->si_addr);
    auto at = memory().live.upper_bound(p);
    if (at != memory().live.begin()) {
        --at;
        const uintptr_t end = at->first + at->second.bytes;
        if (p >= end && p < uintptr_t(at->second.mapping) + at->second.mapped)
            length = snprintf(text, sizeof text, "stand-in: access %zu bytes past an allocation of %zu bytes\n", size_t(p - end), at->second.bytes);
    }
    if (write(2, text, size_t(length)) < 0) _exit(98);
    _exit(97);
}

}  // namespace standin
