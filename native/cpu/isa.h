// SPDX-License-Identifier: Apache-2.0
// The instruction sets that the kernels are built for, and the choice among them at run time.
#pragma once

#include <cstdint>
#include <string_view>

#include "native/cpu/product_plan.h"
#include "native/cpu/program_plan.h"
#include "native/cpu/workspace.h"
#include "native/problem/packed.h"

namespace jp::cpu {

// Kernels to be packed by workers who divide their panels.
struct PackCall {
  Packing packing;
  GemmPlan plan;
  const void* from;
  void* to;
};

struct Isa {
  const char* name;
  int lanes;      // float32 values in a vector
  int registers;  // vectors
  // Runs one phase of one worker; see Workspace.
  void (*forward)(const Workspace<Forward>& space, int worker, int64_t phase);
  void (*backward)(const Workspace<Backward>& space, int worker, int64_t phase);
  void (*program)(const ProgramCall& call, int worker, int64_t phase);
  // A worker's panels of each kernel.
  void (*pack)(const PackCall& call, int worker);
  // A worker's columns.
  void (*multiply)(const ProductCall& call, int worker);
};

// The best instruction set of this machine, or what JAX_PERSISTENT_ISA names. Throws
// std::runtime_error if that is unknown or can't run here.
const Isa& ChosenIsa();

// JP_BASELINE_ONLY: a build with sanitizers, which would take minutes for the same code in other
// instructions.
#if defined(__x86_64__) && !defined(JP_BASELINE_ONLY)
extern const Isa kAvx512Isa;
extern const Isa kAvx2Isa;
#endif
#if defined(__aarch64__) && !defined(JP_BASELINE_ONLY)
extern const Isa kNeonIsa;  // each processor has it
#else
extern const Isa kBaselineIsa;
#endif

}  // namespace jp::cpu
