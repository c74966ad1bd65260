// libnccl.so.2: transfers between devices, of one process or of several, through a file that all map. As NCCL with a non-blocking communicator: a call
// only begins something, which is on its stream once ncclCommGetAsyncError says so.
#include "standin.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

using namespace standin;

namespace {

enum Status { kOk = 0, kSystem = 2, kInvalidArgument = 4, kInvalidUsage = 5, kRemote = 6, kInProgress = 7 };

constexpr int kMost = 8;              // ranks
constexpr size_t kRing = size_t(1) << 16;  // bytes on their way between two ranks

struct Ring {
    std::atomic<uint64_t> written, read;
    char bytes[kRing];
};
struct Shared {
    std::atomic<int> joined, failed;
    Ring rings[kMost][kMost];
};
struct UniqueId {
    char path[128];
};
struct Config {
    size_t size;
    unsigned magic, version;
    int blocking, cluster, least, most;
    const char* net;
    int split;
};

struct Op {
    bool sends;
    char* data;
    size_t bytes, done = 0;
    int peer;
};
struct Comm {
    Shared* shared;
    int rank, size;
    bool ready = false, aborted = false, finalized = false, failed = false;
    int asked = 0;  // how often the state has been asked for since the last call
    // What a group has asked for, and what waits to go on a stream.
    std::vector<Op> ops = {};
    void* stream = nullptr;
    bool begun = false;
};
thread_local int depth = 0;
thread_local std::vector<Comm*> in_group;

// Moves what can be moved; whether all has been.
bool advance(Shared* shared, int rank, std::vector<Op>& ops) {
    bool all = true;
    for (size_t k = 0; k < ops.size(); ++k) {
        Op& op = ops[k];
        if (op.done == op.bytes) continue;
        // Messages between two ranks follow one another.
        bool first = true;
        for (size_t j = 0; j < k; ++j) first &= ops[j].done == ops[j].bytes || ops[j].peer != op.peer || ops[j].sends != op.sends;
        if (!first) {
            all = false;
            continue;
        }
        if (!is_device(op.data, op.bytes)) fail("NCCL: " + std::to_string(op.bytes) + " bytes that are not device memory any more");
        Ring& ring = op.sends ? shared->rings[rank][op.peer] : shared->rings[op.peer][rank];
        while (op.done < op.bytes) {
            const uint64_t written = ring.written.load(), read = ring.read.load();
            const size_t free = op.sends ? kRing - size_t(written - read) : size_t(written - read);
            const size_t at = size_t(op.sends ? written : read) % kRing;
            size_t n = op.bytes - op.done;
            n = n < free ? n : free;
            n = n < kRing - at ? n : kRing - at;
            if (n == 0) break;
            if (op.sends) {
                memcpy(ring.bytes + at, op.data + op.done, n);
                ring.written += n;
            } else {
                memcpy(op.data + op.done, ring.bytes + at, n);
                ring.read += n;
            }
            op.done += n;
        }
        all &= op.done == op.bytes;
    }
    return all;
}

int ask(Comm* comm, Op op, void* stream) {
    if (!comm || comm->aborted || comm->finalized) return kInvalidArgument;
    if (!comm->ready || comm->begun) return kInvalidUsage;  // the call before has not been waited for
    if (depth == 0) fail("NCCL: a transfer outside of a group");
    if (op.peer < 0 || op.peer >= comm->size || op.peer == comm->rank) return kInvalidArgument;
    if (!is_device(op.data, op.bytes)) return kInvalidArgument;
    comm->ops.push_back(op);
    comm->stream = stream;
    bool known = false;
    for (Comm* c : in_group) known |= c == comm;
    if (!known) in_group.push_back(comm);
    return kOk;
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
    ENTER(ncclGetVersion, kSystem);
    *version = int(setting("UNICON_STANDIN_NCCL", 22805));
    return kOk;
}
const char* ncclGetErrorString(int status) {
    switch (status) {
        case kOk: return "no error";
        case kSystem: return "unhandled system error";
        case kInvalidArgument: return "invalid argument";
        case kInvalidUsage: return "invalid usage";
        case kRemote: return "remote process exited or there was a network error";
        case kInProgress: return "NCCL operation in progress";
        default: return "unknown result code";
    }
}
const char* ncclGetLastError(void*) { return ""; }

int ncclGetUniqueId(UniqueId* id) {
    ENTER(ncclGetUniqueId, kSystem);
    const char* folder = getenv("TMPDIR");
    memset(id, 0, sizeof *id);
    snprintf(id->path, sizeof id->path, "%s/standin-nccl-XXXXXX", folder && strlen(folder) < 90 ? folder : "/tmp");
    const int file = mkstemp(id->path);
    if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return kSystem;
    close(file);
    return kOk;
}

int ncclCommInitRankConfig(void** out, int size, UniqueId id, int rank, Config* config) {
    ENTER(ncclCommInitRankConfig, kSystem);
    if (!config || config->size < 48 || config->magic != 0xcafebeef || config->version < 21800) return kInvalidArgument;
    if (config->blocking != 0 || config->cluster != INT_MIN || config->net || config->split != INT_MIN) return kInvalidArgument;
    if (size < 1 || size > kMost || rank < 0 || rank >= size) return kInvalidArgument;
    const int file = open(id.path, O_RDWR);
    if (file < 0) return kSystem;
    void* shared = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (shared == MAP_FAILED) return kSystem;
    Comm* comm = new Comm{static_cast<Shared*>(shared), rank, size};
    // The last one to come takes the name away.
    if (++comm->shared->joined == size) unlink(id.path);
    *out = comm;
    return kInProgress;
}

int ncclCommGetAsyncError(Comm* comm, int* state) {
    ENTER(ncclCommGetAsyncError, kSystem);
    if (!comm || comm->aborted) return kInvalidArgument;
    *state = kOk;
    // Faults are counted where they do not depend on how long the others take: before all have come, and in a transfer.
    const char* step = !comm->ready ? "start" : comm->begun ? "async" : nullptr;
    if (const int status = step ? refused(step, kSystem) : kOk) comm->failed = true, *state = status;
    else if (comm->failed) *state = kSystem;
    else if (!comm->ready) {
        if (comm->shared->failed) *state = kRemote;
        else if (comm->shared->joined < comm->size) *state = kInProgress;
        else comm->ready = true;
    } else if (comm->begun) {
        if (comm->asked++ == 0) {
            *state = kInProgress;
        } else {
            // Now it goes on its stream, where it takes as long as the others do.
            comm->begun = false;
            auto ops = std::make_shared<std::vector<Op>>(std::move(comm->ops));
            comm->ops.clear();
            submit_polled(static_cast<Stream*>(comm->stream), [=] { return comm->aborted || advance(comm->shared, comm->rank, *ops); });
        }
    } else if (comm->finalized && comm->asked++ == 0) {
        *state = kInProgress;
    }
    return kOk;
}

int ncclGroupStart() {
    ENTER(ncclGroupStart, kSystem);
    ++depth;
    return kOk;
}
int ncclGroupEnd() {
    if (depth <= 0) return kInvalidUsage;
    --depth;
    std::vector<Comm*> comms;
    comms.swap(in_group);
    ENTER(ncclGroupEnd, kSystem);
    if (comms.empty()) return kOk;
    for (Comm* comm : comms) comm->begun = true, comm->asked = 0;
    return kInProgress;
}
int ncclSend(const void* from, size_t count, int type, int peer, Comm* comm, void* stream) {
    ENTER(ncclSend, kSystem);
    if (type != 0) return kInvalidArgument;
    return ask(comm, {true, static_cast<char*>(const_cast<void*>(from)), count, 0, peer}, stream);
}
int ncclRecv(void* to, size_t count, int type, int peer, Comm* comm, void* stream) {
    ENTER(ncclRecv, kSystem);
    if (type != 0) return kInvalidArgument;
    return ask(comm, {false, static_cast<char*>(to), count, 0, peer}, stream);
}
int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, Comm* comm, void* stream) {
    ENTER(ncclBroadcast, kSystem);
    if (type != 0 || !comm) return kInvalidArgument;
    if (comm->rank != root) return ask(comm, {false, static_cast<char*>(to), count, 0, root}, stream);
    if (!is_device(from, count) || !is_device(to, count)) return kInvalidArgument;
    for (int k = 0; k < comm->size; ++k)
        if (k != root)
            if (const int status = ask(comm, {true, static_cast<char*>(const_cast<void*>(from)), count, 0, k}, stream)) return status;
    // The root's own copy, where it is another place.
    if (from != to) submit(static_cast<Stream*>(stream), [=] { memcpy(to, from, count); });
    return kOk;
}

int ncclCommFinalize(Comm* comm) {
    ENTER(ncclCommFinalize, kSystem);
    if (!comm || comm->aborted || comm->begun) return kInvalidArgument;
    comm->finalized = true;
    comm->asked = 0;
    return kInProgress;
}
int ncclCommDestroy(Comm* comm) {
    ENTER(ncclCommDestroy, kSystem);
    if (!comm || !comm->finalized || comm->asked < 2) fail("NCCL: destroyed before it was finalized");
    comm->aborted = true;  // the object stays: a stream may still name it
    munmap(comm->shared, sizeof(Shared));
    return kOk;
}
int ncclCommAbort(Comm* comm) {
    ENTER(ncclCommAbort, kSystem);
    if (!comm || comm->aborted) return kInvalidArgument;
    comm->aborted = true;
    comm->shared->failed = 1;
    return kOk;
}

}  // extern "C"
