// libcuda.so.1: the driver API as src/backend/cuda and cudarc call it.
#include "kernels.h"
#include "memory.h"

#include <chrono>
#include <cstdarg>
#include <set>
#include <sstream>
#include <vector>

using standin::memory;
using standin::setting;
using standin::Stream;
using std::function;
using std::string;

namespace standin {
namespace {

enum Status { kOk = 0, kInvalid = 1, kOutOfMemory = 2, kNotInitialised = 3, kNoDevice = 100, kInvalidDevice = 101,
              kInvalidImage = 200, kInvalidContext = 201, kInvalidHandle = 400, kNotFound = 500, kNotReady = 600,
              kOutOfResources = 701, kUnknown = 999 };

struct Event {
    Stream* stream = nullptr;
    uint64_t at = 0;
    double seconds = 0;
    bool recorded() const { return stream == nullptr || stream->finished >= at; }
};
struct Function {
    const Kernel* kernel;
    size_t max_dynamic_shared = 48 << 10;
};
struct Pool {
    uint64_t release_threshold = 0;
};
struct Module {
    std::vector<Function*> functions;
};
struct Context {
    int device;
    int holders = 0;
};

// What is alive, and what has happened.
struct State {
    std::recursive_mutex lock;
    bool initialised = false;
    std::vector<Context*> contexts;
    std::set<Stream*> streams;
    std::set<Event*> events;
    std::set<Module*> modules;
    std::set<Pool*> pools;
    std::map<uintptr_t, size_t> registered;
    std::map<string, long> calls;
    std::map<std::pair<int, string>, long> calls_of;  // a device's
    Stream legacy;
};
State& state() {
    static State* s = new State;  // never destroyed: the process may end in any order
    return *s;
}
thread_local Context* current = nullptr;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
int devices() { return int(setting("UNICON_STANDIN_DEVICES", 1)); }
int here() { return current ? current->device : -1; }
int capability() { return int(setting("UNICON_STANDIN_SM", 90)); }
size_t most_shared() {
    const int sm = capability();
    return size_t(sm == 80 ? 163 : sm < 90 || sm >= 120 ? 99 : 227) << 10;
}

bool pinned(const void* p, size_t bytes) {
    if (const Allocation* a = memory().find(p, bytes)) return a->host;
    auto at = state().registered.upper_bound(uintptr_t(p));
    if (at == state().registered.begin()) return false;
    --at;
    return uintptr_t(p) + bytes <= at->first + at->second;
}

Stream* stream_of(void* handle) { return uintptr_t(handle) <= 2 ? nullptr : static_cast<Stream*>(handle); }
bool valid(void* handle) { return uintptr_t(handle) <= 2 || state().streams.count(static_cast<Stream*>(handle)); }

// Everything on the current device. Others may work on theirs meanwhile.
void wait_for_all() {
    const std::vector<Stream*> all(state().streams.begin(), state().streams.end());
    for (Stream* s : all)
        if (s->device == here()) s->drain();
}

// What a copy to or from a device may be made of; checked when it is asked for and again when it runs.
bool device_range(uint64_t p, size_t bytes) {
    if (bytes == 0) return true;
    const Allocation* a = memory().find(reinterpret_cast<void*>(p), bytes);
    return a && !a->host && a->device == here();
}
void still_there(uint64_t p, size_t bytes) {
    if (bytes && !is_device(reinterpret_cast<void*>(p), bytes)) fail("a copy of " + std::to_string(bytes) + " bytes runs after its memory was freed");
}

void report() {
    const char* path = getenv("UNICON_STANDIN_REPORT");
    if (!path) return;
    FILE* f = fopen(path, "a");
    if (!f) return;
    size_t device = 0, host = 0, unrun = 0, peak = 0;
    for (const size_t p : memory().peak) peak = p > peak ? p : peak;
    for (const auto& [start, a] : memory().live) {
        Memory::check(start, a);
        ++(a.host ? host : device);
    }
    for (Stream* s : state().streams) unrun += s->queue.size();
    fprintf(f, "peak %zu\nlive_device %zu\nlive_host %zu\nstreams %zu\nevents %zu\nmodules %zu\npools %zu\nunrun %zu\n", peak,
            device, host, state().streams.size(), state().events.size(), state().modules.size(), state().pools.size(), unrun);
    for (const auto& [name, count] : state().calls) fprintf(f, "call %s %ld\n", name.c_str(), count);
    fclose(f);
}
__attribute__((destructor)) void at_exit() { report(); }

}  // namespace

std::recursive_mutex& lock() { return state().lock; }

long long setting(const char* name, long long otherwise) {
    const char* text = getenv(name);
    return text && *text ? atoll(text) : otherwise;
}

void fail(const string& what) {
    fprintf(stderr, "stand-in: %s\n", what.c_str());
    _exit(96);
}

int refused(const char* name, int otherwise) {
    const long all = ++state().calls[name], own = ++state().calls_of[{here(), name}];
    const char* plan = getenv("UNICON_STANDIN_FAIL");
    const int only = int(setting("UNICON_STANDIN_FAIL_DEVICE", -1));
    if (!plan || (only >= 0 && only != here())) return 0;
    const long count = only >= 0 ? own : all;
    std::istringstream entries(plan);
    for (string entry; std::getline(entries, entry, ',');) {
        std::istringstream fields(entry);
        string who, which, code;
        std::getline(fields, who, ':');
        std::getline(fields, which, ':');
        std::getline(fields, code, ':');
        if (who != name || (which != "0" && std::to_string(count) != which)) continue;
        return code.empty() ? otherwise : atoi(code.c_str());
    }
    return 0;
}

void submit(Stream* stream, function<void()> work) {
    if (stream == nullptr) {
        const std::vector<Stream*> all(state().streams.begin(), state().streams.end());
        for (Stream* s : all)
            if (s->blocking && s->device == here()) s->drain();
        work();
        return;
    }
    static const bool eager = setting("UNICON_STANDIN_EAGER", 0) != 0;
    stream->queue.push_back([work = std::move(work)] {
        work();
        return true;
    });
    ++stream->submitted;
    if (eager) stream->drain();
}

void submit_polled(Stream* stream, function<bool()> work) {
    if (stream == nullptr) fail("work that waits for other processes on the legacy default stream");
    stream->queue.push_back(std::move(work));
    ++stream->submitted;
}

bool is_device(const void* p, size_t bytes) {
    const Allocation* a = memory().find(p, bytes);
    return a && !a->host;
}

}  // namespace standin

using namespace standin;

#define ENTER_CONTEXT(name, error) \
    ENTER(name, error);            \
    if (!current) return kInvalidContext

template <class T> static int fill(uint64_t to, T value, size_t count, void* stream) {
    if (!valid(stream)) return kInvalidHandle;
    if (!device_range(to, count * sizeof(T))) return kInvalid;
    submit(stream_of(stream), [=] {
        still_there(to, count * sizeof(T));
        for (size_t i = 0; i < count; ++i) reinterpret_cast<T*>(to)[i] = value;
    });
    return kOk;
}

extern "C" {

int cuInit(unsigned flags) {
    ENTER(cuInit, kUnknown);
    if (flags != 0) return kInvalid;
    if (devices() == 0) return kNoDevice;
    if (!state().initialised) {
        state().initialised = true;
        for (int i = 0; i < devices(); ++i) state().contexts.push_back(new Context{i});
        struct sigaction action = {};
        action.sa_sigaction = crossed;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, nullptr);
    }
    return kOk;
}
int cuDriverGetVersion(int* version) {
    ENTER(cuDriverGetVersion, kUnknown);
    *version = int(setting("UNICON_STANDIN_DRIVER", 13000));
    return kOk;
}
int cuDeviceGetCount(int* count) {
    ENTER(cuDeviceGetCount, kUnknown);
    if (!state().initialised) return kNotInitialised;
    *count = devices();
    return kOk;
}
int cuDeviceGet(int* device, int ordinal) {
    ENTER(cuDeviceGet, kUnknown);
    if (!state().initialised) return kNotInitialised;
    if (ordinal < 0 || ordinal >= devices()) return kInvalidDevice;
    *device = ordinal;
    return kOk;
}
int cuDeviceGetName(char* name, int length, int device) {
    ENTER(cuDeviceGetName, kUnknown);
    if (device < 0 || device >= devices()) return kInvalidDevice;
    snprintf(name, size_t(length), "Stand-in %d", device);
    return kOk;
}
int cuDeviceGetUuid_v2(char* uuid, int device) {
    ENTER(cuDeviceGetUuid_v2, kUnknown);
    memset(uuid, device, 16);
    return kOk;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    ENTER(cuDeviceTotalMem_v2, kUnknown);
    if (device < 0 || device >= devices()) return kInvalidDevice;
    *bytes = memory().limit;
    return kOk;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    ENTER(cuDeviceGetAttribute, kUnknown);
    if (device < 0 || device >= devices()) return kInvalidDevice;
    switch (attribute) {
        case 1: *value = 1024; break;                                  // threads a block
        case 2: case 3: *value = 1024; break;                          // block x, y
        case 4: *value = 64; break;                                    // block z
        case 5: *value = 0x7fffffff; break;                            // grid x
        case 6: case 7: *value = 65535; break;                         // grid y, z
        case 8: *value = 48 << 10; break;                              // shared memory a block without opting in
        case 10: *value = 32; break;                                   // warp
        case 12: case 82: *value = 65536; break;                       // registers
        case 13: *value = 1000000; break;                              // kHz
        case 16: *value = int(setting("UNICON_STANDIN_SMS", 4)); break;  // multiprocessors
        case 36: *value = 1000000; break;
        case 37: *value = 512; break;                                  // bits of the memory bus
        case 38: *value = 1 << 20; break;                              // L2
        case 39: *value = 2048; break;                                 // threads an SM
        case 41: *value = 1; break;                                    // unified addresses
        case 75: *value = capability() / 10; break;
        case 76: *value = capability() % 10; break;
        case 81: *value = int(most_shared() + 1024); break;            // shared memory an SM
        case 97: *value = int(most_shared()); break;                   // shared memory a block, opted in
        case 106: *value = 32; break;                                  // blocks an SM
        case 111: *value = 1024; break;                                // reserved shared memory a block
        case 115: *value = int(setting("UNICON_STANDIN_POOLS", 1)); break;
        default: *value = 0;
    }
    return kOk;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
    ENTER(cuDevicePrimaryCtxRetain, kUnknown);
    if (!state().initialised) return kNotInitialised;
    if (device < 0 || device >= devices()) return kInvalidDevice;
    ++state().contexts[size_t(device)]->holders;
    *context = state().contexts[size_t(device)];
    return kOk;
}
int cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER(cuDevicePrimaryCtxRelease_v2, kUnknown);
    if (device < 0 || device >= devices()) return kInvalidDevice;
    if (--state().contexts[size_t(device)]->holders < 0) return kInvalidContext;
    return kOk;
}
int cuCtxSetCurrent(void* context) {
    ENTER(cuCtxSetCurrent, kUnknown);
    current = static_cast<Context*>(context);
    return kOk;
}
int cuCtxGetCurrent(void** context) {
    ENTER(cuCtxGetCurrent, kUnknown);
    *context = current;
    return kOk;
}
int cuCtxGetDevice(int* device) {
    ENTER_CONTEXT(cuCtxGetDevice, kUnknown);
    *device = current->device;
    return kOk;
}
int cuCtxSynchronize() {
    ENTER_CONTEXT(cuCtxSynchronize, kUnknown);
    wait_for_all();
    return kOk;
}
int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    ENTER_CONTEXT(cuCtxGetStreamPriorityRange, kUnknown);
    *least = 0;
    *greatest = -5;
    return kOk;
}

int cuMemGetInfo_v2(size_t* available, size_t* total) {
    ENTER_CONTEXT(cuMemGetInfo_v2, kUnknown);
    *total = memory().limit;
    *available = memory().limit - memory().used[here()];
    return kOk;
}
static int allocate(uint64_t* p, size_t bytes, Stream* stream) {
    if (bytes == 0) return kInvalid;
    void* start = memory().take(bytes, false, here());
    if (!start) {  // what was freed in stream order comes back once that order is reached
        stream ? stream->drain() : wait_for_all();
        start = memory().take(bytes, false, here());
    }
    *p = uint64_t(start);
    return start ? kOk : kOutOfMemory;
}
int cuMemAlloc_v2(uint64_t* p, size_t bytes) {
    ENTER_CONTEXT(cuMemAlloc_v2, kOutOfMemory);
    return allocate(p, bytes, nullptr);
}
int cuMemAllocAsync(uint64_t* p, size_t bytes, void* stream) {
    ENTER_CONTEXT(cuMemAllocAsync, kOutOfMemory);
    if (!valid(stream)) return kInvalidHandle;
    return allocate(p, bytes, stream_of(stream));
}
int cuMemPoolCreate(Pool** pool, const int* properties) {
    ENTER_CONTEXT(cuMemPoolCreate, kUnknown);
    if (properties[0] != 1) return kInvalid;  // device memory is "pinned" here
    state().pools.insert(*pool = new Pool);
    return kOk;
}
int cuMemPoolDestroy(Pool* pool) {
    ENTER_CONTEXT(cuMemPoolDestroy, kUnknown);
    if (!state().pools.erase(pool)) return kInvalidHandle;
    delete pool;
    return kOk;
}
int cuMemPoolSetAttribute(Pool* pool, int attribute, const uint64_t* value) {
    ENTER_CONTEXT(cuMemPoolSetAttribute, kUnknown);
    if (!state().pools.count(pool)) return kInvalidHandle;
    if (attribute == 4) pool->release_threshold = *value;
    return kOk;
}
// 5 and 7: reserved and used now; 6 and 8: at most so far. All memory counts, whichever pool it came from.
int cuMemPoolGetAttribute(Pool* pool, int attribute, uint64_t* value) {
    ENTER_CONTEXT(cuMemPoolGetAttribute, kUnknown);
    if (!state().pools.count(pool)) return kInvalidHandle;
    if (attribute < 4 || attribute > 8) return kInvalid;
    *value = attribute == 4 ? pool->release_threshold : attribute % 2 ? memory().used[here()] : memory().peak[here()];
    return kOk;
}
int cuMemPoolTrimTo(Pool* pool, size_t) {
    ENTER_CONTEXT(cuMemPoolTrimTo, kUnknown);
    return state().pools.count(pool) ? kOk : kInvalidHandle;
}
int cuMemAllocFromPoolAsync(uint64_t* p, size_t bytes, Pool* pool, void* stream) {
    ENTER_CONTEXT(cuMemAllocFromPoolAsync, kOutOfMemory);
    if (!state().pools.count(pool) || !valid(stream)) return kInvalidHandle;
    return allocate(p, bytes, stream_of(stream));
}
int cuMemFree_v2(uint64_t p) {
    ENTER_CONTEXT(cuMemFree_v2, kUnknown);
    if (p == 0) return kOk;
    wait_for_all();
    return memory().give_back(reinterpret_cast<void*>(p), false) ? kOk : kInvalid;
}
int cuMemFreeAsync(uint64_t p, void* stream) {
    ENTER_CONTEXT(cuMemFreeAsync, kUnknown);
    if (p == 0) return kOk;
    if (!valid(stream)) return kInvalidHandle;
    if (!is_device(reinterpret_cast<void*>(p), 1)) return kInvalid;
    submit(stream_of(stream), [p] {
        if (!memory().give_back(reinterpret_cast<void*>(p), false)) fail("device memory was freed twice");
    });
    return kOk;
}
int cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    ENTER_CONTEXT(cuMemHostAlloc, kOutOfMemory);
    *p = bytes ? memory().take(bytes, true, here()) : nullptr;
    return *p ? kOk : kInvalid;
}
int cuMemAllocHost_v2(void** p, size_t bytes) {
    ENTER_CONTEXT(cuMemAllocHost_v2, kOutOfMemory);
    *p = bytes ? memory().take(bytes, true, here()) : nullptr;
    return *p ? kOk : kInvalid;
}
int cuMemFreeHost(void* p) {
    ENTER_CONTEXT(cuMemFreeHost, kUnknown);
    wait_for_all();
    return memory().give_back(p, true) ? kOk : kInvalid;
}
int cuMemHostRegister_v2(void* p, size_t bytes, unsigned) {
    ENTER_CONTEXT(cuMemHostRegister_v2, kUnknown);
    if (!p || !bytes) return kInvalid;
    state().registered[uintptr_t(p)] = bytes;
    return kOk;
}
int cuMemHostUnregister(void* p) {
    ENTER_CONTEXT(cuMemHostUnregister, kUnknown);
    wait_for_all();
    return state().registered.erase(uintptr_t(p)) ? kOk : kInvalid;
}

static int pointer_attribute(void* value, int attribute, uint64_t p) {
    const Allocation* a = memory().find(reinterpret_cast<void*>(p), 0);
    if (!a && !pinned(reinterpret_cast<void*>(p), 1)) return kInvalid;
    const bool device = a && !a->host;
    switch (attribute) {
        case 1: *static_cast<void**>(value) = state().contexts[size_t(a ? a->device : 0)]; return kOk;
        case 2: *static_cast<unsigned*>(value) = device ? 2 : 1; return kOk;
        case 3: *static_cast<uint64_t*>(value) = p; return kOk;
        case 8: *static_cast<unsigned*>(value) = 0; return kOk;
        case 9: *static_cast<int*>(value) = a ? a->device : 0; return kOk;
        case 11: *static_cast<uint64_t*>(value) = a ? uint64_t(a->mapping + a->mapped) : p; return kInvalid;
        default: return kInvalid;
    }
}
int cuPointerGetAttribute(void* value, int attribute, uint64_t p) {
    ENTER(cuPointerGetAttribute, kInvalid);
    return pointer_attribute(value, attribute, p);
}
int cuMemGetAddressRange_v2(uint64_t* start, size_t* bytes, uint64_t p) {
    ENTER_CONTEXT(cuMemGetAddressRange_v2, kUnknown);
    auto at = memory().live.upper_bound(uintptr_t(p));
    if (!memory().find(reinterpret_cast<void*>(p), 0)) return kNotFound;
    --at;
    if (start) *start = at->first;
    if (bytes) *bytes = at->second.bytes;
    return kOk;
}

// Copies from pageable memory are taken at the call; from page-locked memory when the copy runs.
static int to_device(uint64_t to, const void* from, size_t bytes, void* stream) {
    if (!valid(stream)) return kInvalidHandle;
    if (!device_range(to, bytes)) return kInvalid;
    if (pinned(from, bytes)) {
        submit(stream_of(stream), [=] { still_there(to, bytes), memcpy(reinterpret_cast<void*>(to), from, bytes); });
        return kOk;
    }
    const char* start = static_cast<const char*>(from);
    auto staged = std::make_shared<std::vector<char>>(start, start + bytes);
    submit(stream_of(stream), [=] { still_there(to, bytes), memcpy(reinterpret_cast<void*>(to), staged->data(), bytes); });
    return kOk;
}
// Copies to pageable memory are finished when the call returns.
static int to_host(void* to, uint64_t from, size_t bytes, void* stream) {
    if (!valid(stream)) return kInvalidHandle;
    if (!device_range(from, bytes)) return kInvalid;
    submit(stream_of(stream), [=] { still_there(from, bytes), memcpy(to, reinterpret_cast<void*>(from), bytes); });
    if (!pinned(to, bytes) && stream_of(stream)) stream_of(stream)->drain();
    return kOk;
}
static int on_device(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    if (!valid(stream)) return kInvalidHandle;
    if (!device_range(from, bytes) || !device_range(to, bytes)) return kInvalid;
    submit(stream_of(stream), [=] {
        still_there(from, bytes);
        still_there(to, bytes);
        if (from < to + bytes && to < from + bytes && bytes) fail("a device copy overlaps itself");
        memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    });
    return kOk;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    ENTER_CONTEXT(cuMemcpyHtoDAsync_v2, kUnknown);
    return to_device(to, from, bytes, stream);
}
int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t bytes) {
    ENTER_CONTEXT(cuMemcpyHtoD_v2, kUnknown);
    return to_device(to, from, bytes, nullptr);
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    ENTER_CONTEXT(cuMemcpyDtoHAsync_v2, kUnknown);
    return to_host(to, from, bytes, stream);
}
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
    ENTER_CONTEXT(cuMemcpyDtoH_v2, kUnknown);
    return to_host(to, from, bytes, nullptr);
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    ENTER_CONTEXT(cuMemcpyDtoDAsync_v2, kUnknown);
    return on_device(to, from, bytes, stream);
}
int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) {
    ENTER_CONTEXT(cuMemcpyDtoD_v2, kUnknown);
    return on_device(to, from, bytes, nullptr);
}

struct Copy2d {
    size_t from_x, from_y;
    unsigned from_type;
    const void* from_host;
    uint64_t from_device;
    void* from_array;
    size_t from_pitch, to_x, to_y;
    unsigned to_type;
    void* to_host;
    uint64_t to_device;
    void* to_array;
    size_t to_pitch, width, height;
};
// Row by row; types 1 host, 2 device.
static int copy_2d(const Copy2d* c, void* stream) {
    for (size_t i = 0; i < c->height; ++i) {
        const size_t from = (c->from_y + i) * c->from_pitch + c->from_x, to = (c->to_y + i) * c->to_pitch + c->to_x;
        int status = kInvalid;
        const char* host = static_cast<const char*>(c->from_host);
        if (c->from_type == 1 && c->to_type == 2) status = to_device(c->to_device + to, host + from, c->width, stream);
        if (c->from_type == 2 && c->to_type == 1)
            status = to_host(static_cast<char*>(c->to_host) + to, c->from_device + from, c->width, stream);
        if (c->from_type == 2 && c->to_type == 2) status = on_device(c->to_device + to, c->from_device + from, c->width, stream);
        if (status != kOk) return status;
    }
    return kOk;
}
int cuMemcpy2DAsync_v2(const Copy2d* c, void* stream) {
    ENTER_CONTEXT(cuMemcpy2DAsync_v2, kUnknown);
    return copy_2d(c, stream);
}
int cuMemcpy2D_v2(const Copy2d* c) {
    ENTER_CONTEXT(cuMemcpy2D_v2, kUnknown);
    return copy_2d(c, nullptr);
}

int cuMemsetD8Async(uint64_t to, unsigned char value, size_t count, void* stream) {
    ENTER_CONTEXT(cuMemsetD8Async, kUnknown);
    return fill(to, value, count, stream);
}
int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t count) {
    ENTER_CONTEXT(cuMemsetD8_v2, kUnknown);
    return fill(to, value, count, nullptr);
}
int cuMemsetD32Async(uint64_t to, unsigned value, size_t count, void* stream) {
    ENTER_CONTEXT(cuMemsetD32Async, kUnknown);
    return fill(to, value, count, stream);
}

int cuStreamCreateWithPriority(void** stream, unsigned flags, int) {
    ENTER_CONTEXT(cuStreamCreateWithPriority, kUnknown);
    auto* s = new Stream;
    s->blocking = !(flags & 1);
    s->device = here();
    state().streams.insert(s);
    *stream = s;
    return kOk;
}
int cuStreamCreate(void** stream, unsigned flags) {
    ENTER_CONTEXT(cuStreamCreate, kUnknown);
    auto* s = new Stream;
    s->blocking = !(flags & 1);
    s->device = here();
    state().streams.insert(s);
    *stream = s;
    return kOk;
}
int cuStreamDestroy_v2(void* stream) {
    ENTER_CONTEXT(cuStreamDestroy_v2, kUnknown);
    Stream* s = stream_of(stream);
    if (!s || !valid(stream)) return kInvalidHandle;
    s->drain();
    state().streams.erase(s);  // the object stays: events may still name it
    return kOk;
}
int cuStreamSynchronize(void* stream) {
    ENTER_CONTEXT(cuStreamSynchronize, kUnknown);
    if (!valid(stream)) return kInvalidHandle;
    submit(nullptr, [] {});
    if (Stream* s = stream_of(stream)) s->drain();
    return kOk;
}
int cuStreamQuery(void* stream) {
    ENTER_CONTEXT(cuStreamQuery, kUnknown);
    if (!valid(stream)) return kInvalidHandle;
    Stream* s = stream_of(stream);
    if (!s || s->queue.empty()) return kOk;
    s->step();
    return kNotReady;
}
int cuStreamIsCapturing(void*, int* capturing) {
    ENTER_CONTEXT(cuStreamIsCapturing, kUnknown);
    *capturing = 0;
    return kOk;
}
int cuStreamGetCtx(void* stream, void** context) {
    ENTER_CONTEXT(cuStreamGetCtx, kUnknown);
    if (!valid(stream)) return kInvalidHandle;
    const Stream* s = stream_of(stream);
    *context = s ? state().contexts[size_t(s->device)] : current;
    return kOk;
}
int cuStreamWaitEvent(void* stream, Event* event, unsigned) {
    ENTER_CONTEXT(cuStreamWaitEvent, kUnknown);
    if (!valid(stream) || !state().events.count(event)) return kInvalidHandle;
    Stream* source = event->stream;
    const uint64_t at = event->at;
    if (!stream_of(stream)) {
        if (source) source->run_until(at);
        return kOk;
    }
    submit_polled(stream_of(stream), [=] {
        while (source && source->finished < at)
            if (!source->step()) return false;
        return true;
    });
    return kOk;
}
int cuLaunchHostFunc(void* stream, void (*f)(void*), void* data) {
    ENTER_CONTEXT(cuLaunchHostFunc, kUnknown);
    if (!valid(stream)) return kInvalidHandle;
    submit(stream_of(stream), [=] { f(data); });
    return kOk;
}

int cuEventCreate(Event** event, unsigned) {
    ENTER_CONTEXT(cuEventCreate, kUnknown);
    *event = new Event;
    state().events.insert(*event);
    return kOk;
}
int cuEventDestroy_v2(Event* event) {
    ENTER_CONTEXT(cuEventDestroy_v2, kUnknown);
    return state().events.erase(event) ? kOk : kInvalidHandle;  // the object stays: work may still name it
}
int cuEventRecord(Event* event, void* stream) {
    ENTER_CONTEXT(cuEventRecord, kUnknown);
    if (!valid(stream) || !state().events.count(event)) return kInvalidHandle;
    submit(stream_of(stream), [=] { event->seconds = now(); });
    event->stream = stream_of(stream);
    event->at = event->stream ? event->stream->submitted : 0;
    return kOk;
}
int cuEventQuery(Event* event) {
    ENTER_CONTEXT(cuEventQuery, kUnknown);
    if (!state().events.count(event)) return kInvalidHandle;
    if (event->recorded()) return kOk;
    event->stream->step();
    return kNotReady;
}
int cuEventSynchronize(Event* event) {
    ENTER_CONTEXT(cuEventSynchronize, kUnknown);
    if (!state().events.count(event)) return kInvalidHandle;
    if (event->stream) event->stream->run_until(event->at);
    return kOk;
}
static int elapsed(float* milliseconds, Event* from, Event* to) {
    if (!state().events.count(from) || !state().events.count(to)) return kInvalidHandle;
    if (!from->recorded() || !to->recorded()) return kNotReady;
    *milliseconds = float((to->seconds - from->seconds) * 1e3);
    return kOk;
}
int cuEventElapsedTime(float* milliseconds, Event* from, Event* to) {
    ENTER_CONTEXT(cuEventElapsedTime, kUnknown);
    return elapsed(milliseconds, from, to);
}
int cuEventElapsedTime_v2(float* milliseconds, Event* from, Event* to) {
    ENTER_CONTEXT(cuEventElapsedTime_v2, kUnknown);
    return elapsed(milliseconds, from, to);
}

int cuModuleLoadData(Module** module, const void* image) {
    ENTER_CONTEXT(cuModuleLoadData, kInvalidImage);
    uint32_t magic;
    memcpy(&magic, image, 4);
    if (magic != 0xba55ed50u || uintptr_t(image) % 8) return kInvalidImage;  // a fatbin, aligned
    *module = new Module;
    state().modules.insert(*module);
    return kOk;
}
int cuModuleLoadDataEx(Module** module, const void* image, unsigned, int*, void**) { return cuModuleLoadData(module, image); }
int cuModuleLoadFatBinary(Module** module, const void* image) { return cuModuleLoadData(module, image); }
int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    ENTER_CONTEXT(cuModuleGetFunction, kNotFound);
    if (!state().modules.count(module)) return kInvalidHandle;
    const Kernel* k = kernel(name);
    if (!k) return kNotFound;
    module->functions.push_back(*function = new Function{k});
    return kOk;
}
int cuModuleUnload(Module* module) {
    ENTER_CONTEXT(cuModuleUnload, kUnknown);
    wait_for_all();
    if (!state().modules.erase(module)) return kInvalidHandle;
    for (Function* f : module->functions) delete f;
    delete module;
    return kOk;
}
int cuFuncSetAttribute(Function* function, int attribute, int value) {
    ENTER_CONTEXT(cuFuncSetAttribute, kInvalid);
    if (attribute == 8) {
        if (value < 0 || size_t(value) > most_shared()) return kInvalid;
        function->max_dynamic_shared = size_t(value);
    }
    return kOk;
}
int cuFuncSetCacheConfig(Function*, int) {
    ENTER_CONTEXT(cuFuncSetCacheConfig, kUnknown);
    return kOk;
}
int cuFuncGetAttribute(int* value, int attribute, Function* function) {
    ENTER_CONTEXT(cuFuncGetAttribute, kUnknown);
    const int values[] = {256, 0, 0, 0, 128, capability(), capability(), 0, int(function->max_dynamic_shared)};
    *value = attribute >= 0 && attribute < 9 ? values[attribute] : 0;
    return kOk;
}
int cuFuncGetParamInfo(Function* function, size_t index, size_t* offset, size_t* size) {
    ENTER_CONTEXT(cuFuncGetParamInfo, kInvalid);
    const auto& sizes = function->kernel->sizes;
    if (index >= sizes.size()) return kInvalid;
    size_t at = 0;
    for (size_t i = 0; i <= index; ++i) {
        const size_t alignment = sizes[i] % 8 == 0 ? 8 : 4;
        at = (at + alignment - 1) / alignment * alignment;
        if (i < index) at += sizes[i];
    }
    if (offset) *offset = at;
    if (size) *size = sizes[index];
    return kOk;
}
static int blocks_per_multiprocessor(int* blocks, size_t shared) {
    const size_t all = most_shared() + 1024;
    *blocks = shared > most_shared() ? 0 : int(all / (shared + 1024) < 2 ? all / (shared + 1024) : 2);
    return kOk;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function*, int, size_t shared) {
    ENTER_CONTEXT(cuOccupancyMaxActiveBlocksPerMultiprocessor, kUnknown);
    return blocks_per_multiprocessor(blocks, shared);
}
int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, Function*, int, size_t shared, unsigned) {
    ENTER_CONTEXT(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags, kUnknown);
    return blocks_per_multiprocessor(blocks, shared);
}
int cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void* stream, void** parameters, void** extra) {
    ENTER_CONTEXT(cuLaunchKernel, kOutOfResources);
    if (!valid(stream)) return kInvalidHandle;
    if (!gx || !gy || !gz || gx > 0x7fffffffu || gy > 65535 || gz > 65535) return kInvalid;
    if (by != 1 || bz != 1 || bx == 0 || bx > 1024 || shared > function->max_dynamic_shared || extra) return kInvalid;
    // The kernels are written for whole warps; __launch_bounds__ is 256, and 384 where warpgroups have roles.
    const string kernel = function->kernel->name;
    const bool roles = kernel.rfind("hopper_", 0) == 0 && kernel.rfind("hopper_pack", 0) != 0;
    if (roles && capability() != 90) fail(kernel + " is launched on another architecture");
    if (bx > (roles ? 384 : 256)) return kOutOfResources;
    if (bx % 32) fail(string(function->kernel->name) + " is launched with part of a warp");
    submit(stream_of(stream), [=, body = function->kernel->bind(parameters)] { run_grid(gx, gy, gz, bx, shared, body); });
    return kOk;
}

int cuGetErrorName(int error, const char** name) {
    static const std::map<int, const char*> names = {
        {0, "CUDA_SUCCESS"}, {1, "CUDA_ERROR_INVALID_VALUE"}, {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {3, "CUDA_ERROR_NOT_INITIALIZED"},
        {100, "CUDA_ERROR_NO_DEVICE"}, {101, "CUDA_ERROR_INVALID_DEVICE"}, {200, "CUDA_ERROR_INVALID_IMAGE"},
        {201, "CUDA_ERROR_INVALID_CONTEXT"}, {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {400, "CUDA_ERROR_INVALID_HANDLE"},
        {500, "CUDA_ERROR_NOT_FOUND"}, {600, "CUDA_ERROR_NOT_READY"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"}, {719, "CUDA_ERROR_LAUNCH_FAILED"}, {999, "CUDA_ERROR_UNKNOWN"}};
    const auto at = names.find(error);
    *name = at == names.end() ? nullptr : at->second;
    return at == names.end() ? kInvalid : kOk;
}
int cuGetErrorString(int error, const char** text) {
    const char* name;
    if (cuGetErrorName(error, &name)) {
        *text = nullptr;
        return kInvalid;
    }
    *text = error == 2 ? "out of memory" : error == 100 ? "no CUDA-capable device is detected" : name;
    return kOk;
}

}  // extern "C"
