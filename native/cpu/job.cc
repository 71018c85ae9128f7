#include "native/cpu/job.h"

#include <algorithm>
#include <type_traits>

namespace jp::cpu {
namespace {

// Floats from one row to the next: whole cache lines and one more, as rows a power of two apart
// would all fall into the same few sets of the L1 cache.
int64_t RowStride(int64_t values) { return (values + 15) / 16 * 16 + 16; }

int64_t CeilDiv(int64_t n, int64_t by) { return (n + by - 1) / by; }

}  // namespace

template <class Arrays>
Job<Arrays> MakeJob(const Shape& shape, const CellTraits& cell, DType dtype, const Arrays& arrays,
                    const CpuFacts& facts) {
  constexpr bool kIsForward = std::is_same_v<Arrays, Forward>;
  const int width = static_cast<int>(ByteWidth(dtype));
  const CpuPlan plan = PlanCpu(cell, shape.hidden, shape.batch, width, facts);
  Job<Arrays> job{};
  job.shape = shape;
  job.cell = cell;
  job.dtype = dtype;
  job.arrays = arrays;
  job.pass = kIsForward ? plan.forward : plan.backward;
  job.row = RowStride(kIsForward ? job.pass.padded_units() : job.pass.depth);
  const CpuInputsPlan inputs = PlanCpuInputs(cell, std::max<int64_t>(shape.inputs, 1), shape.hidden,
                                             shape.batch, width, facts);
  job.inputs = kIsForward ? inputs.forward : inputs.backward;
  job.chunk_steps = CeilDiv(shape.steps, CeilDiv(shape.steps, inputs.chunk_steps));
  job.part_rows = std::min<int64_t>(job.chunk_steps * shape.batch, kChunkRows);
  job.copy_row = RowStride(job.inputs.depth);
  return job;
}

template <class Arrays>
size_t LayOut(Job<Arrays>& job, void* memory) {
  constexpr bool kIsForward = std::is_same_v<Arrays, Forward>;
  size_t used = 0;
  const auto place = [&](auto*& pointer, size_t bytes) {
    using Pointer = std::remove_reference_t<decltype(pointer)>;
    if (memory != nullptr) pointer = reinterpret_cast<Pointer>(static_cast<char*>(memory) + used);
    used += (bytes + 63) / 64 * 64;
  };
  const int64_t batch = job.shape.batch, slices = job.pass.slices;
  place(job.packed, job.pass.packed_bytes);
  place(job.exchange, 2 * batch * job.row * sizeof(float));
  place(job.carry, job.cell.states * batch * job.pass.padded_units() * sizeof(float));
  if (job.shape.inputs > 0) {
    const int64_t rows = kIsForward ? job.chunk_steps * batch : job.part_rows;
    const int64_t features = kIsForward ? job.shape.inputs : job.cell.gates * job.shape.hidden;
    const bool copied = job.dtype != DType::kFloat32 || features % 2 != 0;
    place(job.packed_inputs, job.inputs.packed_bytes);
    place(job.bias, slices * job.columns() * sizeof(float));
    place(job.products, slices * rows * job.columns() * sizeof(float));
    place(job.copies, copied ? slices * job.part_rows * job.copy_row * sizeof(float) : 0);
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
