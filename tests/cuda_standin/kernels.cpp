// cuda/*.cu compiled for the host (cuda/emu/), in a library of its own, so that one with faults can take its place.
// tests/cuda_build.rs checks that the list below names exactly the kernels of the compiled images.
#include "kernels.h"

#include "emu/kernels.h"

#include <stdlib.h>

#include <map>
#include <tuple>

namespace standin {
namespace {

template <class... A, size_t... I> std::tuple<A...> copy(void** from, std::index_sequence<I...>) {
    return {*static_cast<A*>(from[I])...};
}

template <class... A> Kernel make(const char* name, void (*f)(A...)) {
    return {name, {sizeof(A)...}, [f](void** from) -> std::function<void()> {
                const auto values = std::make_shared<std::tuple<A...>>(copy<A...>(from, std::index_sequence_for<A...>()));
                return [f, values] { std::apply(f, *values); };
            }};
}

std::map<std::string, Kernel> all() {
    using namespace clip_stats_cu;
    using namespace clip_weights_cu;
    using namespace clip_fused_cu;
    using namespace hopper_pack_cu;
    using namespace hopper_stats_cu;
    using namespace hopper_weights_cu;
    using namespace hopper_fused_cu;
    using namespace additive_cu;
    using namespace search_cu;
    using namespace rows_cu;
    using namespace reduce_cu;
    using namespace gram_cu;
    std::map<std::string, Kernel> kernels;
#define KERNEL(name) kernels.emplace(#name, make(#name, &name));
#include "kernels.inc"
#undef KERNEL
    return kernels;
}

}  // namespace

const Kernel* kernel(const std::string& name) {
    static const auto* kernels = new std::map<std::string, Kernel>(all());
    const auto at = kernels->find(name);
    return at == kernels->end() ? nullptr : &at->second;
}

void run_grid(unsigned x, unsigned y, unsigned z, unsigned threads, size_t shared, std::function<void()> body) {
    static const char* order = getenv("UNICON_STANDIN_BACKWARDS");
    const bool backwards = order && atoi(order);
    emu::launch({x, y, z}, threads, shared, backwards, std::move(body));
}

}  // namespace standin
