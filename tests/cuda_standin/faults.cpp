// Mistakes that the stand-ins must show. Argument: which one; exit code 0 when the mistake went unnoticed.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

extern "C" {
int cuInit(unsigned);
int cuDevicePrimaryCtxRetain(void**, int);
int cuCtxSetCurrent(void*);
int cuMemAlloc_v2(uint64_t*, size_t);
int cuMemFree_v2(uint64_t);
int cuMemFreeAsync(uint64_t, void*);
int cuMemAllocHost_v2(void**, size_t);
int cuMemcpyHtoDAsync_v2(uint64_t, const void*, size_t, void*);
int cuMemcpyDtoHAsync_v2(void*, uint64_t, size_t, void*);
int cuMemcpyDtoDAsync_v2(uint64_t, uint64_t, size_t, void*);
int cuMemsetD8Async(uint64_t, unsigned char, size_t, void*);
int cuStreamCreate(void**, unsigned);
int cuStreamSynchronize(void*);
int cuStreamWaitEvent(void*, void*, unsigned);
int cuEventCreate(void**, unsigned);
int cuEventRecord(void*, void*);
}

static void* stream;
static void check(int status) {
    if (status) fprintf(stderr, "error %d\n", status), exit(2);
}
static uint64_t device(size_t bytes) {
    uint64_t p;
    check(cuMemAlloc_v2(&p, bytes));
    return p;
}
static void must_hold(bool condition) {
    if (!condition) exit(3);
}

int main(int, char** arguments) {
    check(cuInit(0));
    const int which = atoi(arguments[1]);
    uint64_t p;
    if (which == 1) return cuMemAlloc_v2(&p, 16) == 0 ? 0 : 4;  // no current context
    void* context;
    check(cuDevicePrimaryCtxRetain(&context, 0));
    check(cuCtxSetCurrent(context));
    check(cuStreamCreate(&stream, 1));
    std::vector<char> host(100, 7);
    void* locked;
    check(cuMemAllocHost_v2(&locked, 100));
    p = device(100);
    switch (which) {
        case 0: {  // no mistake: what is waited for is there
            uint64_t q = device(100);
            void *other, *event;
            check(cuStreamCreate(&other, 1));
            check(cuEventCreate(&event, 0));
            check(cuMemcpyHtoDAsync_v2(p, host.data(), 100, stream));
            check(cuEventRecord(event, stream));
            check(cuStreamWaitEvent(other, event, 0));
            check(cuMemcpyDtoDAsync_v2(q, p, 100, other));
            check(cuMemcpyDtoHAsync_v2(locked, q, 100, other));
            check(cuStreamSynchronize(other));
            must_hold(memcmp(locked, host.data(), 100) == 0);
            check(cuMemFree_v2(p));
            check(cuMemFree_v2(q));
            return 0;
        }
        case 2:  // page-locked memory is read before anyone waited
            check(cuMemsetD8Async(p, 7, 100, stream));
            check(cuMemcpyDtoHAsync_v2(locked, p, 100, stream));
            must_hold(memcmp(locked, host.data(), 100) == 0);
            return 0;
        case 3:  // page-locked memory is overwritten before its copy ran
            memset(locked, 7, 100);
            check(cuMemcpyHtoDAsync_v2(p, locked, 100, stream));
            memset(locked, 8, 100);
            check(cuMemcpyDtoHAsync_v2(host.data(), p, 100, stream));
            must_hold(host[0] == 7);
            return 0;
        case 4: {  // two streams, no event between them
            void* other;
            check(cuStreamCreate(&other, 1));
            check(cuMemsetD8Async(p, 7, 100, stream));
            std::vector<char> got(100);
            check(cuMemcpyDtoHAsync_v2(got.data(), p, 100, other));
            must_hold(got == host);
            return 0;
        }
        case 5:  // past the end
            reinterpret_cast<char*>(p)[101] = 1;
            check(cuMemFree_v2(p));
            return 0;
        case 6:  // far past the end, only read
            return reinterpret_cast<volatile char*>(p)[200] == 1;
        case 7:  // before the beginning
            reinterpret_cast<char*>(p)[-1] = 1;
            check(cuMemFree_v2(p));
            return 0;
        case 8:  // freed before the copy runs
            check(cuMemcpyDtoHAsync_v2(locked, p, 100, stream));
            check(cuMemFreeAsync(p, nullptr));
            check(cuStreamSynchronize(stream));
            return 0;
        case 9:  // freed twice
            check(cuMemFree_v2(p));
            check(cuMemFree_v2(p));
            return 0;
        case 10:  // a copy larger than its memory
            check(cuMemcpyHtoDAsync_v2(p, host.data(), 101, stream));
            return 0;
        default: return 64;
    }
}
