// What ThreadSanitizer must know to find races of kernels: who reads and writes what, and who waits for whom. With
// UNICON_RACES the kernels are compiled for ThreadSanitizer, which sees their accesses by itself, while the files of this
// folder are not and say what they do. Without it everything here is nothing.
//
// Every thread of a block is a fibre of ThreadSanitizer's. What runs beside the threads has fibres of its own, which know
// only what the thread knew that started it, and of which a thread knows only what it waited for: cp.async of a
// thread, bulk copies, the reads of a warp's products. Blocks share global memory without waiting for each other: those that
// run in turn have fibres of their own (kSlots). Barriers, mbarriers and __syncwarp order memory; shuffles, votes, ldmatrix
// and products do not.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef UNICON_RACES
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read_range(void* p, unsigned long bytes);
extern "C" void __tsan_write_range(void* p, unsigned long bytes);
#endif

namespace emu {
namespace races {

#ifdef UNICON_RACES
constexpr bool kFound = true;
constexpr unsigned kSlots = 2;

// To whom accesses and waits are put down.
class Actor {
    void* fibre_ = nullptr;

   public:
    // A new fibre when it is first needed, for there cannot be many thousands of them.
    void* get() {
        if (!fibre_) fibre_ = __tsan_create_fiber(0);
        return fibre_;
    }
    bool used() const { return fibre_ != nullptr; }
};
// From here on.
inline void act_as(Actor& a) { __tsan_switch_to_fiber(a.get(), __tsan_switch_to_fiber_no_sync); }
inline void act_as(void* fibre) { __tsan_switch_to_fiber(fibre, __tsan_switch_to_fiber_no_sync); }
inline void* acting() { return __tsan_get_current_fiber(); }

// What was done before release is ordered before what is done after acquire of the same key.
inline void release(void* key) { __tsan_release(key); }
inline void acquire(void* key) { __tsan_acquire(key); }

inline void read(const void* p, size_t bytes) { __tsan_read_range(const_cast<void*>(p), bytes); }
inline void write(void* p, size_t bytes) { __tsan_write_range(p, bytes); }

// Proxies: bulk copies and products see what a thread wrote into shared memory only after its proxy fence.
void start_block(unsigned char* shared, size_t bytes);
void proxy_fence();                                // by the thread that runs
void wrote(const void* p, size_t bytes);           // by it, other than by a store of the kernel
void seen_by_proxy(const void* p, size_t bytes);   // fails if something there was not fenced
#else
constexpr bool kFound = false;
constexpr unsigned kSlots = 1;
struct Actor {
    bool used() const { return false; }
};
inline void act_as(Actor&) {}
inline void act_as(void*) {}
inline void* acting() { return nullptr; }
inline void release(void*) {}
inline void acquire(void*) {}
inline void read(const void*, size_t) {}
inline void write(void*, size_t) {}
inline void start_block(unsigned char*, size_t) {}
inline void proxy_fence() {}
inline void wrote(const void*, size_t) {}
inline void seen_by_proxy(const void*, size_t) {}
#endif

}  // namespace races
}  // namespace emu
