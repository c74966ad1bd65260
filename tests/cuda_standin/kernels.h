// The kernels by name, ready to run on the host.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace standin {

struct Kernel {
    const char* name;
    std::vector<size_t> sizes;  // of its parameters
    // Copies the parameters, as a launch does, and returns what every thread then runs.
    std::function<std::function<void()>(void**)> bind;
};

// null when there is no such kernel
const Kernel* kernel(const std::string& name);

void run_grid(unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared, std::function<void()> body);

}  // namespace standin
