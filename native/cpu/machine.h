// What this machine's cores are like.
#pragma once

#include "native/plan/cpu_plan.h"

namespace jp::cpu {

// The machine as the planner sees it, with this many threads to use.
CpuFacts ThisMachine(int threads);

}  // namespace jp::cpu
