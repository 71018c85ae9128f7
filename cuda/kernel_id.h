// SPDX-License-Identifier: Apache-2.0
// Which kernel: all that its code depends on, but for the architecture; and its source.
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

// The struct of cuda/dtypes.h, and the same in lower case.
const char* StructOf(Precision precision);
std::string NameOf(Precision precision);

// As profilers show it, and as a C name: "lstm_bfloat16_forward_grid_4", 4 being its width.
std::string NameOf(const KernelId& kernel);

// A kernel to be compiled: one extern "C" function of that name, which no other kernel has. The
// headers of kernel_sources.h are what its source includes.
struct KernelText {
  std::string name, source;
  bool cluster;
};
KernelText TextOf(const KernelId& kernel);

// The kernel's code for an architecture, 90 for sm_90: from the cache on disk, or compiled now, in
// about a second, and put there. Throws std::runtime_error.
std::string CompileKernel(const KernelText& kernel, int architecture);

}  // namespace jp::cuda
