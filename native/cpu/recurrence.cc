#include "native/cpu/recurrence.h"

#include "native/cpu/isa.h"
#include "native/cpu/machine.h"
#include "native/cpu/scratch.h"

namespace jp::cpu {
namespace {

template <class Arrays>
void RunJob(const Shape& shape, const CellTraits& cell, DType dtype, const Arrays& arrays,
            int threads, void (*step)(const Job<Arrays>& job, int slice, int64_t step),
            const Team::Schedule& schedule) {
  Job<Arrays> job = MakeJob(shape, cell, dtype, arrays, ThisMachine(threads));
  const Scratch memory(LayOut(job, nullptr));
  LayOut(job, memory.as<void>());
  Team::Run(job.pass.workers, shape.groups * job.phases, schedule,
            [&job, step](int slice, int64_t s) { step(job, slice, s); });
}

}  // namespace

void Run(const Shape& shape, const CellTraits& cell, DType dtype, const Forward& arrays,
         int threads, const Team::Schedule& schedule) {
  RunJob(shape, cell, dtype, arrays, threads, ChosenIsa().forward, schedule);
}

void Run(const Shape& shape, const CellTraits& cell, DType dtype, const Backward& arrays,
         int threads, const Team::Schedule& schedule) {
  RunJob(shape, cell, dtype, arrays, threads, ChosenIsa().backward, schedule);
}

}  // namespace jp::cpu
