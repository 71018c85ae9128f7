// SPDX-License-Identifier: Apache-2.0
// A call of the CPU kernels: its problem, plan and arrays, and the memory that its workers share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "native/cpu/bfloat16.h"
#include "native/cpu/cpu_plan.h"
#include "native/problem/arrays.h"
#include "native/problem/problem.h"

namespace jp::cpu {

// State shared by the workers; each worker writes only its own units or rows.
template <class Arrays>
struct Workspace {
  static constexpr bool kIsForward = std::is_same_v<Arrays, Forward>;

  Problem problem;
  CpuPlan plan;
  // Barrier intervals of a group. Phase 0 packs the weights. If workers divide the units, each
  // later phase is a time step, and backward one more gives the initial states' gradients. If they
  // divide the batch, it is a chunk of steps or, backward, a chunk's weight gradients after it.
  int64_t phases;
  int64_t part_rows;  // of a chunk that are taken at a time, kChunkRows at most
  Arrays arrays;

  // What LayOut is given, and how much of it each worker takes where groups run at once. Behind
  // that are the second groups' parts of d_x, where both groups of a layer run at once.
  char* memory;
  size_t worker_bytes;
  void* d_x_parts;
  // Memory. An array of [slices] or [workers] has a part for each, one after the other; where the
  // workers divide the batch there is one slice.
  void* packed;           // [slices] recurrent weights, in the order in which they are read
  void* packed_inputs;    // [slices] input weights, likewise
  void* zeros;            // [H] in place of the reset state that the problem has not, of its dtype
  float* bias;            // [slices][InputColumns()] in the order of the packed columns
  float* recurrent_bias;  // forward, where cells reset after the product: likewise
  float* products;      // [slices] or backward [workers], [ProductRows()][InputColumns()] of inputs
  float* copies;        // [workers][part_rows][copy_row] factors that can't be read where they are
  bfloat16* rounded;    // [workers][RoundedSize()] factors as bfloat16, if its units take them
  void* d_gates;        // [2][ChunkRows()][G*H] of two chunks, by turns
  float* d_columns;     // [workers][Gradients()][packed] a chunk's gradients, packed as weights are
  float* d_sums;        // [workers][SumsRows()][DWidth()] the weights' gradients so far
  float* d_bias_sums;   // [workers][Gradients()][DWidth()]
  float* d_reset_sums;  // [states][B][padded units] the reset states' gradients so far
  float* transposed;    // [workers][I or H][transposed_row] factors
  float* passing;   // [workers][PassingSize()] products with weights that are packed at each use
  float* exchange;  // [2][B][row] what one step hands to the next: h, or the gates' gradients
  float* carry;     // forward [B], backward [states][B], [padded units]: what stays with a unit
  int64_t row;      // floats from one row of `exchange` to the next
  int64_t copy_row;
  int64_t transposed_row;

  // 2 if the recurrent and the input gates' gradients differ, else 1.
  [[gnu::always_inline]] int Gradients() const { return problem.cell.reset_after ? 2 : 1; }
  [[gnu::always_inline]] int64_t ChunkRows() const { return plan.chunk_steps * problem.batch; }
  [[gnu::always_inline]] int64_t InputColumns() const {
    return plan.inputs.panels * plan.inputs.panel_vectors * plan.inputs.lanes;
  }
  [[gnu::always_inline]] int64_t DWidth() const {
    return plan.d_weights.panels * plan.d_weights.panel_vectors * plan.d_weights.lanes;
  }
  [[gnu::always_inline]] int64_t PassingSize() const {
    const GemmPlan& gemm = plan.recurrence;
    const int64_t rows = WithSecondSums(problem.batch);
    return gemm.PackedOnce() ? 0 : rows * gemm.panels * gemm.panel_vectors * gemm.lanes;
  }
  // Rows of a part of `products`.
  [[gnu::always_inline]] int64_t ProductRows() const {
    return WithSecondSums(kIsForward ? ChunkRows() : part_rows);
  }
  // Rows of a product, with that in which a single one keeps its second sums.
  [[gnu::always_inline]] static int64_t WithSecondSums(int64_t rows) {
    return rows == 1 ? 2 : rows;
  }
  // The sums of an only chunk are done as soon as they are made, some rows at a time.
  [[gnu::always_inline]] bool SumsAreKept() const { return plan.chunk_steps < problem.steps; }
  [[gnu::always_inline]] int64_t SumsRows() const {
    const int64_t all = problem.inputs + problem.hidden;
    return SumsAreKept() || all < kChunkRows ? all : kChunkRows;
  }
  // Whether `zeros` stands in for the reset state.
  [[gnu::always_inline]] bool ReadsZeros() const {
    return problem.has(Part::resets) && !problem.has(Part::reset_state);
  }
  // Rows that a product rounds at once.
  [[gnu::always_inline]] int64_t RoundedSize() const {
    const GemmPlan& inputs = plan.inputs;
    if (plan.recurrence.units == Units::kWidened) return 0;
    const int64_t step = plan.recurrence.RoundedStride(), others = inputs.RoundedStride();
    return part_rows * (step > others ? step : others);
  }
  [[gnu::always_inline]] bfloat16* RoundedOf(int worker) const {
    return rounded + worker * RoundedSize();
  }
  // What there is to do besides the recurrence.
  [[gnu::always_inline]] bool MultipliesInputs() const {
    return kIsForward || problem.has(Part::d_x);
  }
  [[gnu::always_inline]] bool SumsWeights() const {
    return !kIsForward && problem.has(Part::d_weights);
  }
  [[gnu::always_inline]] bool SumsParts() const {
    return !kIsForward && problem.has(Part::d_x) && problem.ways() > 1 && plan.groups_at_once > 1;
  }
};

// All of a call that is the same every time. Precondition: that of PlanCpu; of the arrays, the
// problem's parts and those of Arrays' pass are given.
template <class Arrays>
Workspace<Arrays> MakeWorkspace(const Problem& problem, const CpuPlan& plan);

// Bytes of memory that a workspace takes. If `memory` is not null, assigns the buffers inside it;
// it is aligned to 64.
template <class Arrays>
size_t LayOut(Workspace<Arrays>& workspace, void* memory);

// The workspace of one of the workers that run whole groups.
template <class Arrays>
Workspace<Arrays> OfWorker(const Workspace<Arrays>& workspace, int worker);

}  // namespace jp::cpu
