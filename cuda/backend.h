// SPDX-License-Identifier: Apache-2.0
// The CUDA backend. It plans in every build, and runs in those that have kernels.
//
// Options: exchange, how blocks are to exchange a step's values: "grid", "grid-barrier", "cluster",
// or "" for the planner's choice.
#pragma once

#include "native/backend.h"

namespace jp::cuda {

const Backend& TheBackend();

}  // namespace jp::cuda
