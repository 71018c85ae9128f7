// SPDX-License-Identifier: Apache-2.0
// Which kernel: all that its code depends on, but for the architecture.
#pragma once

#include <string>

#include "cuda/plan.h"

namespace jp::cuda {

struct KernelId {
  CellKind cell{};
  Precision precision{};
  Pass pass{};
  bool cluster = false;
  int width = 1;  // Geometry's
};

inline KernelId KernelOf(const Problem& problem, const KernelPlan& plan) {
  return {problem.cell.kind, plan.precision, problem.pass, plan.geometry.cluster(),
          plan.geometry.width};
}

// As profilers show it, and as a C name: "lstm_bfloat16_forward_grid_4", 4 being its width.
std::string NameOf(const KernelId& kernel);

// Its source text: one extern "C" kernel of that name. The headers of kernel_sources.h are what it
// includes.
std::string SourceOf(const KernelId& kernel);

// The kernel's code for an architecture, 90 for sm_90: from the cache on disk, or compiled now, in
// about a second, and put there. Throws std::runtime_error.
std::string CompileKernel(const KernelId& kernel, int architecture);

}  // namespace jp::cuda
