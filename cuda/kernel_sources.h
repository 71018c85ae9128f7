// SPDX-License-Identifier: Apache-2.0
// The headers that kernels are compiled from, as texts in the library.
#pragma once

#include <vector>

#include "cuda/nvrtc.h"

namespace jp::cuda {

// By the names that they are included by. CMake writes the definition, from kernel_sources.cc.in.
const std::vector<SourceFile>& KernelHeaders();

}  // namespace jp::cuda
