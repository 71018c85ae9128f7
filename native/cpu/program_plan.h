// SPDX-License-Identifier: Apache-2.0
// How a program is laid over a CPU's cores, and the memory of a call of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "native/cpu/cpu_plan.h"
#include "native/programs/program.h"

namespace jp::cpu {

inline constexpr int kBlockVectors = 16;  // of units and rows, in a register of a program

struct SlicePlan {
  GemmPlan gemm;
  int64_t packed;    // bytes into the memory of a call where weights that it packs begin
  int64_t products;  // floats into a worker's products where its own begin
};

// Where values lie, in floats: from a row to the next, and from a vector of units to the next.
struct View {
  const float* at;
  int64_t row, unit;
};

struct ProgramPlan {
  int workers = 1;
  bool splits_batch = false;
  bool meets = false;  // workers wait for each other after each stage
  std::vector<std::vector<std::vector<SlicePlan>>> slices;  // of each stage's loops
  std::vector<int64_t> buffer_rows;            // floats from a row of a buffer to the next
  std::vector<int64_t> buffers;                // bytes into the memory where each begins
  int64_t products = 0, product_floats = 0;    // where the workers' products begin, of one worker
  int64_t registers = 0, register_floats = 0;  // the same of their registers
  int64_t views = 0, view_count = 0;           // of where its registers' values are
  int64_t literals = 0;
  int64_t rounded = 0, rounded_values = 0;  // where workers' rounded rows begin, of one worker
  Units units = Units::kWidened;            // what multiplies bfloat16
  int64_t bytes = 0, packed_bytes = 0, worker_bytes = 0;
  int64_t main_stages = 0, phases = 0;  // stages of a step with a meeting; phases of a group
  std::string_view residency;
};

ProgramPlan PlanProgram(const Program& program, const CpuFacts& facts);
// With these workers, who divide the rows or, if not, the units of each loop.
ProgramPlan PlanProgram(const Program& program, const CpuFacts& facts, int workers,
                        bool splits_batch);
std::string Explain(const ProgramPlan& plan, const CpuFacts& facts);

// A call: operands and results in the program's order, and its memory, aligned to 64.
struct ProgramCall {
  const Program& program;
  const ProgramPlan& plan;
  const void* const* operands;
  void* const* results;  // carry, then ys
  char* memory;
};

}  // namespace jp::cpu
