// SPDX-License-Identifier: Apache-2.0
// One instruction of PTX, from its text.
#pragma once

#include <string>

#include "tests/cuda/software_gpu/operands.h"

namespace jp::software_gpu {

struct Decoded {
  Instruction instruction;
  std::string label;  // of a branch: where to
};

// Throws std::invalid_argument: what is not understood.
Decoded Decode(const std::string& text, Operands& operands);

}  // namespace jp::software_gpu
