// SPDX-License-Identifier: Apache-2.0
// Sizes and places of the buffers that the workers of a call share.
#include "native/cpu/workspace.h"

#include <algorithm>

#include "native/cpu/planning.h"

namespace jp::cpu {
template <class Arrays>
Workspace<Arrays> MakeWorkspace(const Problem& problem, const CpuPlan& plan) {
  using Space = Workspace<Arrays>;
  Space space{};
  space.problem = problem;
  space.plan = plan;
  const GemmPlan& gemm = plan.recurrence;
  space.row = RowStride(Space::kIsForward ? gemm.PaddedUnits() : gemm.k);
  const int64_t chunks = CeilDiv(problem.steps, plan.chunk_steps);
  if (gemm.SplitsBatch()) {
    space.phases = 1 + (Space::kIsForward ? 1 : 2) * chunks;
  } else {
    space.phases = 1 + problem.steps + (Space::kIsForward ? 0 : 1);
  }
  space.part_rows = std::min<int64_t>(space.ChunkRows(), kChunkRows);
  space.copy_row = RowStride(plan.inputs.k);
  space.transposed_row = RowStride(plan.d_weights.k);
  return space;
}

namespace {

// The same of one worker or, where groups are run one after the other, of all.
template <class Arrays>
size_t LayOutWorker(Workspace<Arrays>& space, void* memory) {
  constexpr bool kIsForward = Workspace<Arrays>::kIsForward;
  size_t used = 0;
  const auto place = [&]<class Value>(Value*& pointer, size_t size) {
    size_t width = 1;
    if constexpr (!std::is_void_v<Value>) width = sizeof(Value);
    if (memory != nullptr) pointer = reinterpret_cast<Value*>(static_cast<char*>(memory) + used);
    used += (size * width + 63) / 64 * 64;
  };
  const Problem& problem = space.problem;
  const CpuPlan& plan = space.plan;
  const GemmPlan& gemm = plan.recurrence;
  const int64_t columns = problem.columns(), batch = problem.batch;
  const int64_t width = static_cast<int64_t>(ByteWidth(problem.dtype));
  const bool packs = problem.packed_lanes == 0;
  place(space.packed, packs ? gemm.packed_bytes : 0);
  place(space.passing, gemm.workers * space.PassingSize());
  place(space.zeros, space.ReadsZeros() ? problem.hidden * width : 0);
  place(space.rounded, gemm.workers * space.RoundedSize());
  place(space.exchange, 2 * batch * space.row);
  const int kept_states = kIsForward ? problem.cell.states - 1 : problem.cell.states;
  place(space.carry, kept_states * batch * gemm.PaddedUnits());
  if (space.MultipliesInputs()) {
    const int64_t parts = kIsForward ? gemm.slices : gemm.workers;
    const int64_t features = kIsForward ? problem.inputs : columns;
    const bool copied = problem.dtype != DType::kFloat32 || features % 2 != 0;
    place(space.packed_inputs, packs ? plan.inputs.packed_bytes : 0);
    const int64_t biases = kIsForward ? gemm.slices * space.InputColumns() : 0;
    place(space.bias, biases);
    place(space.recurrent_bias, problem.cell.reset_after ? biases : 0);
    place(space.products, parts * space.ProductRows() * space.InputColumns());
    place(space.copies, copied ? gemm.workers * space.part_rows * space.copy_row : 0);
  }
  if constexpr (!kIsForward) {
    if (!problem.has(Part::d_gates)) place(space.d_gates, 2 * space.ChunkRows() * columns * width);
    if (problem.has(Part::reset_state)) {
      place(space.d_reset_sums, problem.cell.states * batch * gemm.PaddedUnits());
    }
    if (space.SumsWeights()) {
      const int64_t features = std::max(problem.inputs, problem.hidden);
      place(space.d_columns, space.Gradients() * plan.d_weights.packed_bytes / sizeof(float));
      place(space.d_sums, gemm.workers * space.SumsRows() * space.DWidth());
      place(space.d_bias_sums, gemm.workers * space.Gradients() * space.DWidth());
      const int64_t padded_features = CeilDiv(features, gemm.lanes) * gemm.lanes;
      place(space.transposed, gemm.workers * padded_features * space.transposed_row);
    }
  }
  return used;
}

}  // namespace

template <class Arrays>
size_t LayOut(Workspace<Arrays>& space, void* memory) {
  const Problem& p = space.problem;
  space.memory = static_cast<char*>(memory);
  space.worker_bytes = LayOutWorker(space, memory);
  const size_t bytes = space.worker_bytes * space.plan.groups_at_once;
  if (!space.SumsParts()) return bytes;
  if (memory != nullptr) space.d_x_parts = space.memory + bytes;
  return bytes + p.groups / p.ways() * p.batch * p.steps * p.inputs * ByteWidth(p.dtype);
}

template <class Arrays>
Workspace<Arrays> OfWorker(const Workspace<Arrays>& space, int worker) {
  Workspace<Arrays> own = space;
  LayOutWorker(own, space.memory + worker * space.worker_bytes);
  return own;
}

template Workspace<Forward> MakeWorkspace(const Problem&, const CpuPlan&);
template Workspace<Backward> MakeWorkspace(const Problem&, const CpuPlan&);
template size_t LayOut(Workspace<Forward>&, void*);
template size_t LayOut(Workspace<Backward>&, void*);
template Workspace<Forward> OfWorker(const Workspace<Forward>&, int);
template Workspace<Backward> OfWorker(const Workspace<Backward>&, int);

}  // namespace jp::cpu
