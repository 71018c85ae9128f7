// A whole recurrence on the CPU: plans it, finds the memory, and runs its workers to the end.
#pragma once

#include "native/cpu/job.h"
#include "native/cpu/team.h"

namespace jp::cpu {

// Both throw std::bad_alloc, and std::runtime_error where an environment variable is wrong.
void Run(const Shape& shape, const CellTraits& cell, DType dtype, const Forward& arrays,
         int threads, const Team::Schedule& schedule);
void Run(const Shape& shape, const CellTraits& cell, DType dtype, const Backward& arrays,
         int threads, const Team::Schedule& schedule);

}  // namespace jp::cpu
