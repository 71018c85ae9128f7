// What this machine's cores are like.
#pragma once

#include "native/plan/cpu_plan.h"

namespace jp::cpu {

// The machine as the planner sees it, with this many threads to use, or as many as
// JAX_PERSISTENT_THREADS allows. Throws std::runtime_error if that is no number of threads.
CpuFacts ThisMachine(int threads);

}  // namespace jp::cpu
