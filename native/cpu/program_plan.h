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
inline constexpr int kInPlaceGates = 16;  // at most, of a slice whose weights are read in place

struct SlicePlan {
  GemmPlan gemm;
  int64_t packed;    // bytes into the memory of a call where weights that it packs begin
  int64_t products;  // floats into a worker's products where its own begin
};

struct LoopPlan {
  std::vector<SlicePlan> slices;
  int64_t links, streams;  // where those of its code begin, among a worker's
  int64_t stream_count;
};

// Where values of a block lie, in floats: from a row to the next, and from a vector of units to the
// next.
struct View {
  const float* at;
  int64_t row, unit;
};

// What an address changes with besides a block's rows and units: nothing, time, or which copy of a
// buffer belongs to a step, or to the step after it.
enum class Clock : uint8_t { kNone, kTime, kStep, kNextStep };

// Where a block's first value is, in bytes: from what the clock says, from a row, and from a vector
// of units to the next.
struct Address {
  char* origin;
  int64_t of_clock, of_row, of_unit;
};

// An instruction as a worker runs it: addresses in place of numbers.
struct Link {
  Operation op;
  Clock clock;      // of the address
  bool in_one_run;  // all vectors of a block lie one right after the other
  bool of_rows;     // what is moved or computed is alike in all units
  bool is_view;     // what is loaded stays where it is, if all lanes of a block are units
  int32_t from[3];  // among the views: what is read
  float* to;        // the result's own memory
  Address address;  // what is loaded or stored
};

// What a loop reads of xs or writes of ys, which no cache has.
struct Stream {
  Address address;  // changes with time
  int64_t vector_bytes;
  bool is_written;
};

struct ProgramPlan {
  int workers = 1;
  bool splits_batch = false;
  bool meets = false;                          // workers wait for each other after each stage
  std::vector<std::vector<LoopPlan>> loops;    // of each stage
  std::vector<int64_t> buffer_rows;            // floats from a row of a buffer to the next
  std::vector<int64_t> buffers;                // bytes into the memory where each begins
  int64_t products = 0, product_floats = 0;    // where the workers' products begin, of one worker
  int64_t registers = 0, register_floats = 0;  // the same of their registers
  int64_t literals = 0;
  // Of each worker's links, views (of the literals, then of the links' results), streams, and of
  // which view each register has while a loop is linked.
  int64_t links = 0, link_count = 0, views = 0, view_count = 0, streams = 0, stream_count = 0;
  int64_t latest = 0, latest_count = 0;
  int64_t rounded = 0, rounded_values = 0;  // where workers' rounded rows begin, of one worker
  Units units = Units::kWidened;            // what multiplies bfloat16
  int64_t bytes = 0, packed_bytes = 0, worker_bytes = 0;
  int64_t in_place_bytes = 0;           // of weights that are read where they lie
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
