// SPDX-License-Identifier: Apache-2.0
// Instructions of a lane alone, from registers to registers.
#pragma once

#include "tests/cuda/software_gpu/grid.h"

namespace jp::software_gpu {

// In the lanes of `mask`. False: the instruction is none of these.
bool Compute(Warp& warp, const Instruction& in, uint32_t mask);

}  // namespace jp::software_gpu
