// cuda/*.cu compiled for the host (cuda/emu/device.h). tests/cuda_build.rs checks that the list below names exactly the
// kernels of the compiled images.
#define UNICON_EMULATION 1
#include "kernels.h"

#include "../../cuda/params.cuh"
#include "../../cuda/ptx.cuh"
#include "../../cuda/sweep.cuh"
#include "../../cuda/tiles.cuh"
#include "../../cuda/weights.cuh"
#include "../../cuda/logsum.cuh"
#include "../../cuda/hopper_sweep.cuh"
#include "standin.h"

#include <map>
#include <tuple>

namespace clip_stats_cu {
#include "../../cuda/clip_stats.cu"
}
namespace clip_weights_cu {
#include "../../cuda/clip_weights.cu"
}
namespace clip_fused_cu {
#include "../../cuda/clip_fused.cu"
}
namespace hopper_pack_cu {
#include "../../cuda/hopper_pack.cu"
}
namespace hopper_stats_cu {
#include "../../cuda/hopper_stats.cu"
}
namespace hopper_weights_cu {
#include "../../cuda/hopper_weights.cu"
}
namespace hopper_fused_cu {
#include "../../cuda/hopper_fused.cu"
}
namespace additive_cu {
#include "../../cuda/additive.cu"
}
namespace search_cu {
#include "../../cuda/search.cu"
}
namespace rows_cu {
#include "../../cuda/rows.cu"
}
namespace reduce_cu {
#include "../../cuda/reduce.cu"
}
namespace gram_cu {
#include "../../cuda/gram.cu"
}

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
    emu::fault() = emu::Fault(setting("UNICON_STANDIN_FAULT", 0));
    static const bool backwards = setting("UNICON_STANDIN_BACKWARDS", 0) != 0;
    emu::launch({x, y, z}, threads, shared, backwards, std::move(body));
}

}  // namespace standin
