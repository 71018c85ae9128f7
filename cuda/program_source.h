// SPDX-License-Identifier: Apache-2.0
// Writes a program's kernel: the source of its step, and of the pass that runs it.
#pragma once

#include "cuda/kernel_id.h"
#include "cuda/program_step.h"

namespace jp::cuda {

// Of a step that is not refused. Its name says G, the element type, the exchange and the width of a
// unit block, and ends in 32 digits that follow from the text: "scan_4_float32_grid_1_0123...".
KernelText ProgramKernel(const Program& program, const ProgramStep& step, const KernelPlan& plan);

}  // namespace jp::cuda
