// SPDX-License-Identifier: Apache-2.0
// What a warp's lanes do together: shuffles and products of matrices.
#pragma once

#include "tests/cuda/software_gpu/grid.h"

namespace jp::software_gpu {

void ShuffleLanes(Warp& warp, const Instruction& in, uint32_t pc);
void MultiplyMatrices(Warp& warp, const Instruction& in);

}  // namespace jp::software_gpu
