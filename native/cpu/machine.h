// SPDX-License-Identifier: Apache-2.0
// The facts of this machine's cores.
#pragma once

#include "native/cpu/cpu_plan.h"

namespace jp::cpu {

// The machine as the planner sees it, with this many threads to use, or as many as
// JAX_PERSISTENT_THREADS allows. Throws std::runtime_error if that is no number of threads.
CpuFacts ThisMachine(int threads);

}  // namespace jp::cpu
