// Stand-ins for the CUDA driver, cuBLAS and cuSOLVER, so that everything above them runs without a GPU: what they have in
// common. They behave as CUDA documents and no better: see README.md for what that shows and for the environment variables.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <deque>
#include <functional>
#include <mutex>
#include <string>

namespace standin {

// One lock for the whole driver: it is entered by every call and held while work runs.
std::recursive_mutex& lock();

// Work that was asked for and has not run. Nothing runs before someone waits for it.
struct Stream {
    std::deque<std::function<bool()>> queue;  // whether it is finished; asked again until it is
    uint64_t submitted = 0, finished = 0;
    int device = 0;
    bool blocking = true;  // waits for, and is waited for by, the legacy default stream

    // One piece of work, if there is one; false when it has to be asked again.
    bool step() {
        if (queue.empty()) return true;
        if (!queue.front()()) return false;
        queue.pop_front();
        ++finished;
        return true;
    }
    void run_until(uint64_t count) {
        while (finished < count)
            if (!step()) {
                // What it waits for may be done by another thread of this process.
                lock().unlock();
                usleep(50);
                lock().lock();
            }
    }
    void drain() { run_until(submitted); }
};

// Counts a call of `name`; the error to return instead of doing it, when UNICON_STANDIN_FAIL asks for one, else 0.
int refused(const char* name, int otherwise);

// Adds work to a stream (null: the legacy default stream, which runs it at once).
void submit(Stream* stream, std::function<void()> work);

// The same for work that waits for other devices: it is asked until it says that it is finished.
void submit_polled(Stream* stream, std::function<bool()> work);

// Whether [p, p + bytes) lies inside one device allocation that has not been freed.
bool is_device(const void* p, size_t bytes);

// A number from the environment.
long long setting(const char* name, long long otherwise);

[[noreturn]] void fail(const std::string& what);

}  // namespace standin

// The first line of an entry point.
#define ENTER(name, error)                                           \
    std::lock_guard<std::recursive_mutex> guard_(standin::lock());   \
    if (const int refused_ = standin::refused(#name, error)) return refused_
