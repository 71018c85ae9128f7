#include "native/cpu/job.h"

#include <algorithm>
#include <type_traits>

namespace jp::cpu {
namespace {

// Floats from one row to the next: whole cache lines and one more, as rows a power of two apart
// would all fall into the same few sets of the L1 cache.
int64_t RowStride(int64_t values) { return (values + 15) / 16 * 16 + 16; }

}  // namespace

template <class Arrays>
Job<Arrays> MakeJob(const Shape& shape, const CellTraits& cell, DType dtype, const Arrays& arrays,
                    const CpuFacts& facts) {
  constexpr bool kIsForward = std::is_same_v<Arrays, Forward>;
  const int width = static_cast<int>(ByteWidth(dtype));
  const CpuPlan plan = PlanCpu(cell, shape.hidden, shape.batch, shape.steps, width, facts);
  Job<Arrays> job{};
  job.shape = shape;
  job.cell = cell;
  job.dtype = dtype;
  job.arrays = arrays;
  job.pass = kIsForward ? plan.forward : plan.backward;
  job.row = RowStride(kIsForward ? job.pass.padded_units() : job.pass.depth);
  const CpuChunkPlan chunk = PlanCpuChunk(cell, std::max<int64_t>(shape.inputs, 1), shape.hidden,
                                          shape.batch, shape.steps, width, facts);
  job.inputs = kIsForward ? chunk.inputs : chunk.d_inputs;
  job.d_weights = chunk.d_weights;
  job.chunk_steps = chunk.steps;
  const int64_t chunks = (shape.steps + chunk.steps - 1) / chunk.steps;
  job.phases =
      job.pass.by_rows() ? 1 + (kIsForward ? 1 : 2) * chunks : shape.steps + Arrays::kExtraSteps;
  job.part_rows = std::min<int64_t>(job.chunk_rows(), kChunkRows);
  job.copy_row = RowStride(job.inputs.depth);
  job.transposed_row = RowStride(job.d_weights.depth);
  return job;
}

template <class Arrays>
size_t LayOut(Job<Arrays>& job, void* memory) {
  constexpr bool kIsForward = std::is_same_v<Arrays, Forward>;
  size_t used = 0;
  const auto place = [&]<class Value>(Value*& pointer, size_t size) {
    size_t width = 1;
    if constexpr (!std::is_void_v<Value>) width = sizeof(Value);
    if (memory != nullptr) pointer = reinterpret_cast<Value*>(static_cast<char*>(memory) + used);
    used += (size * width + 63) / 64 * 64;
  };
  const Shape& shape = job.shape;
  const int64_t slices = job.pass.slices, workers = job.pass.workers;
  const int64_t columns = job.cell.gates * shape.hidden;
  place(job.packed, job.pass.packed_bytes);
  place(job.passing, workers * job.passing_size());
  place(job.exchange, 2 * shape.batch * job.row);
  place(job.carry, job.cell.states * shape.batch * job.pass.padded_units());
  if (job.multiplies_inputs()) {
    const int64_t rows = kIsForward ? job.chunk_rows() : job.part_rows;
    const int64_t features = kIsForward ? shape.inputs : columns;
    const bool copied = job.dtype != DType::kFloat32 || features % 2 != 0;
    place(job.packed_inputs, job.inputs.packed_bytes);
    place(job.bias, kIsForward ? slices * job.columns() : 0);
    place(job.products, (kIsForward ? slices : workers) * rows * job.columns());
    place(job.copies, copied ? workers * job.part_rows * job.copy_row : 0);
  }
  if constexpr (!kIsForward) {
    if (job.sums_weights()) {
      const int64_t features = std::max(shape.inputs, shape.hidden);
      const int64_t lanes = job.pass.lanes;
      place(job.d_gates, 2 * job.chunk_rows() * columns * ByteWidth(job.dtype));
      place(job.d_columns, job.gradients() * job.d_weights.packed_bytes / sizeof(float));
      place(job.d_sums, workers * job.sums_rows() * job.d_width());
      place(job.d_bias_sums, workers * job.gradients() * job.d_width());
      place(job.transposed,
            workers * ((features + lanes - 1) / lanes * lanes) * job.transposed_row);
    }
  }
  return used;
}

template Job<Forward> MakeJob(const Shape&, const CellTraits&, DType, const Forward&,
                              const CpuFacts&);
template Job<Backward> MakeJob(const Shape&, const CellTraits&, DType, const Backward&,
                               const CpuFacts&);
template size_t LayOut(Job<Forward>&, void*);
template size_t LayOut(Job<Backward>&, void*);

}  // namespace jp::cpu
