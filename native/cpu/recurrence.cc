#include "native/cpu/recurrence.h"

#include "native/cpu/isa.h"
#include "native/cpu/machine.h"
#include "native/cpu/scratch.h"

namespace jp::cpu {
namespace {

// Floats from one row of the exchange to the next: whole cache lines and one more, as rows a power
// of two apart would all fall into the same few sets of the L1 cache.
int64_t RowStride(int64_t values) { return (values + 15) / 16 * 16 + 16; }

template <class Arrays>
void RunJob(const Shape& shape, const CellTraits& cell, DType dtype, const Arrays& arrays,
            const CpuPass& pass, int64_t values,
            void (*step)(const Job<Arrays>& job, int slice, int64_t step),
            const Team::Schedule& schedule) {
  const int64_t row = RowStride(values);
  const int64_t carried = cell.states * shape.batch * pass.padded_units();
  const Scratch packed(pass.packed_bytes);
  const Scratch exchange(2 * shape.batch * row * sizeof(float));
  const Scratch carry(carried * sizeof(float));
  const Job<Arrays> job{
      shape, cell, dtype, pass, arrays, packed.as<void>(), exchange.as<float>(), carry.as<float>(),
      row};
  const int64_t steps = shape.groups * (shape.steps + Arrays::kExtraSteps);
  Team::Run(pass.slices, steps, schedule,
            [&job, step](int slice, int64_t s) { step(job, slice, s); });
}

CpuPlan PlanFor(const Shape& shape, const CellTraits& cell, DType dtype, int threads) {
  return PlanCpu(cell, shape.hidden, shape.batch, static_cast<int>(ByteWidth(dtype)),
                 ThisMachine(threads));
}

}  // namespace

void Run(const Shape& shape, const CellTraits& cell, DType dtype, const Forward& arrays,
         int threads, const Team::Schedule& schedule) {
  const CpuPass pass = PlanFor(shape, cell, dtype, threads).forward;
  RunJob(shape, cell, dtype, arrays, pass, pass.padded_units(), ChosenIsa().forward, schedule);
}

void Run(const Shape& shape, const CellTraits& cell, DType dtype, const Backward& arrays,
         int threads, const Team::Schedule& schedule) {
  const CpuPass pass = PlanFor(shape, cell, dtype, threads).backward;
  RunJob(shape, cell, dtype, arrays, pass, pass.depth, ChosenIsa().backward, schedule);
}

}  // namespace jp::cpu
