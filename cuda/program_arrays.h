// SPDX-License-Identifier: Apache-2.0
// What a kernel of a program is given: its operands and results, as native/programs/program.h
// orders them.
#pragma once

#include "cuda/launch_args.h"

namespace jp::cuda {

inline constexpr int kMostProgramArrays = 64;  // operands, and results

struct ProgramArrays {
  int64_t groups;
  const void* operands[kMostProgramArrays];
  void* results[kMostProgramArrays];
  // All rows run all steps: where some end early, or are reset, that is in the program.
  static constexpr const int32_t* lengths = nullptr;
  static constexpr const bool* resets = nullptr;
};

template <>
inline constexpr const char* kKernelOf<ProgramArrays> = "scan";

// Which axes of rows an operand has, as bits: those of ParseProgram's layouts.
inline constexpr int kHasGroups = 1, kHasRows = 2;

}  // namespace jp::cuda
