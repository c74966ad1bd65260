// Every kernel for the host, each family in a namespace of its own.
#pragma once

#define UNICON_EMULATION 1
#include "../params.cuh"
#include "../ptx.cuh"
#include "../sweep.cuh"
#include "../tiles.cuh"
#include "../weights.cuh"
#include "../logsum.cuh"
#include "../hopper_sweep.cuh"

namespace clip_stats_cu {
#include "../clip_stats.cu"
}
namespace clip_weights_cu {
#include "../clip_weights.cu"
}
namespace clip_fused_cu {
#include "../clip_fused.cu"
}
namespace hopper_pack_cu {
#include "../hopper_pack.cu"
}
namespace hopper_stats_cu {
#include "../hopper_stats.cu"
}
namespace hopper_weights_cu {
#include "../hopper_weights.cu"
}
namespace hopper_fused_cu {
#include "../hopper_fused.cu"
}
namespace additive_cu {
#include "../additive.cu"
}
namespace search_cu {
#include "../search.cu"
}
namespace rows_cu {
#include "../rows.cu"
}
namespace reduce_cu {
#include "../reduce.cu"
}
namespace gram_cu {
#include "../gram.cu"
}
