// What compute capability 9.0 has beyond ptx.cuh: products of a warpgroup (four warps) that read tiles from shared memory,
// copies of whole tiles that announce themselves at a barrier in shared memory, and registers that move between
// warpgroups. As there, every instruction is behind a named function and emu/hopper.h supplies the same on the host.
#pragma once

#include "ptx.cuh"

#ifdef UNICON_EMULATION
#include "emu/hopper.h"
#else

#define UNICON_HOPPER_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

namespace hopper {

// A barrier in shared memory. A phase ends when the expected arrivals and bytes have come; the next begins at once.
// Waiting names the parity of the phase: 0 for the first, then alternating.
struct Barrier {
    uint64_t state;
};
__device__ __forceinline__ void barrier_init(Barrier* b, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
// Between the initialisation and the first use by others, together with a block barrier and a proxy fence.
__device__ __forceinline__ void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// Bulk copies and products see what this thread stored in shared memory before; others' stores need a fence of their own.
__device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void barrier_arrive(Barrier* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
// Arrives, and expects that many bytes of bulk copies in this phase.
__device__ __forceinline__ void barrier_arrive_expect(Barrier* b, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
// Waits until the phase of this parity has ended. A wait of seconds is a fault of these kernels; it ends in an illegal
// access, which the host gets as an error, for nothing may hang (a trap would take registers from every kernel).
__device__ __forceinline__ void barrier_wait(Barrier* b, int parity) {
    const uint32_t address = shared_address(b);
#pragma unroll 1
    for (int tries = 0; tries < (1 << 22); ++tries) {
        uint32_t done;
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2, %3;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(address), "r"(parity), "r"(1000)
                     : "memory");
        if (done) return;
    }
    *reinterpret_cast<volatile uint32_t*>(uintptr_t(16)) = 0;
}

// Copies `bytes` (a multiple of 16, both addresses aligned to 16) from global to shared memory and announces them at b.
__device__ __forceinline__ void bulk_copy(void* destination, const void* source, uint32_t bytes, Barrier* b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(destination)),
                 "l"(source), "r"(bytes), "r"(shared_address(b))
                 : "memory");
}

// A barrier of some warps of the block; id 0 is block_barrier.
__device__ __forceinline__ void named_barrier(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Registers of each thread of the calling warpgroup from here on, a multiple of 8.
template <int Registers> __device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers));
}
template <int Registers> __device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers));
}

// The operand tile at `tile`: rows of 64 16-bit elements (128 bytes, the direction that is summed over), 16-byte pieces
// xor-swizzled as piece_address does, eight rows 1,024 bytes. `step` counts sixteen elements along a row.
__device__ __forceinline__ uint64_t tile_operand(const void* tile, int step) {
    const uint64_t address = (shared_address(tile) & 0x3ffff) >> 4;
    return (address + uint64_t(step) * 2) | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

// Products run while the warpgroup goes on. wgmma_begin comes before the first after registers were written,
// wgmma_commit closes a group, wgmma_wait waits until at most `Pending` groups are unfinished; `ready` after it keeps the
// compiler from reading accumulators before.
__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending> __device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}
template <int N> __device__ __forceinline__ void ready(float (&acc)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(acc[i])::"memory");
}

// d = a b^T (+ d with `add`), a 64 x 16, b N x 16 tiles; with g = lane / 4, q = lane % 4, w = warp % 4 a thread's
// d[(n * 2 + h) * 2 + e] is row 16 w + 8 h + g, column 8 n + 2 q + e.
template <class T, int N> __device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool add);
// The same with a in registers: a[0..4) as for mma_16x8x16, each warp its sixteen rows.
template <class T, int N>
__device__ __forceinline__ void wgmma_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool add);

// "+f"(d[i]) .. "+f"(d[i + 7]), and so on
#define UNICON_D8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define UNICON_D32(i) UNICON_D8(i), UNICON_D8(i + 8), UNICON_D8(i + 16), UNICON_D8(i + 24)
#define UNICON_D64(i) UNICON_D32(i), UNICON_D32(i + 32)
#define UNICON_D128(i) UNICON_D64(i), UNICON_D64(i + 64)
#define UNICON_LIST32 \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define UNICON_LIST64                                                                                                    \
    UNICON_LIST32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56," \
                  "%57,%58,%59,%60,%61,%62,%63"
#define UNICON_LIST128                                                                                              \
    UNICON_LIST64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87," \
                  "%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109," \
                  "%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"

#define UNICON_WGMMA(T, type, n, half, a, b, add)                                                                     \
    template <> __device__ __forceinline__ void wgmma<T, n>(float (&d)[half], uint64_t x, uint64_t y, bool more) {     \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" add ", 0;\n"                                                \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" UNICON_LIST##half "}, %" a   \
                     ", %" b ", p, 1, 1, 0, 0;\n}"                                                                    \
                     : UNICON_D##half(0)                                                                              \
                     : "l"(x), "l"(y), "r"(int(more)));                                                               \
    }
UNICON_WGMMA(half_t, "f16", 64, 32, "32", "33", "34")
UNICON_WGMMA(bf16_t, "bf16", 64, 32, "32", "33", "34")
UNICON_WGMMA(half_t, "f16", 128, 64, "64", "65", "66")
UNICON_WGMMA(bf16_t, "bf16", 128, 64, "64", "65", "66")
#undef UNICON_WGMMA

#define UNICON_WGMMA(T, type, n, half, a0, a1, a2, a3, b, add)                                                        \
    template <>                                                                                                       \
    __device__ __forceinline__ void wgmma_registers<T, n>(float (&d)[half], const uint32_t (&a)[4], uint64_t y, bool more) { \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" add ", 0;\n"                                                \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" UNICON_LIST##half           \
                     "}, {%" a0 ",%" a1 ",%" a2 ",%" a3 "}, %" b ", p, 1, 1, 0;\n}"                                    \
                     : UNICON_D##half(0)                                                                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(y), "r"(int(more)));                           \
    }
UNICON_WGMMA(half_t, "f16", 128, 64, "64", "65", "66", "67", "68", "69")
UNICON_WGMMA(bf16_t, "bf16", 128, 64, "64", "65", "66", "67", "68", "69")
UNICON_WGMMA(half_t, "f16", 256, 128, "128", "129", "130", "131", "132", "133")
UNICON_WGMMA(bf16_t, "bf16", 256, 128, "128", "129", "130", "131", "132", "133")
#undef UNICON_WGMMA
#undef UNICON_D8
#undef UNICON_D32
#undef UNICON_D64
#undef UNICON_D128
#undef UNICON_LIST32
#undef UNICON_LIST64
#undef UNICON_LIST128

}  // namespace hopper

#endif  // UNICON_EMULATION
