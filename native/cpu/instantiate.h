// Turns a job's cell and element type into a kernel, for one instruction set.
#pragma once

#include "native/cells/elman.h"
#include "native/cells/gru.h"
#include "native/cells/lstm.h"
#include "native/cpu/backward.h"
#include "native/cpu/forward.h"
#include "native/cpu/isa.h"

namespace jp::cpu::JP_ISA {

template <template <class, class> class Kernel, class Cell, class Arrays>
static void StepOfType(const Job<Arrays>& job, int slice, int64_t step) {
  switch (job.dtype) {
    case DType::kFloat32: return Kernel<Cell, float>::Step(job, slice, step);
    case DType::kBfloat16: return Kernel<Cell, bfloat16>::Step(job, slice, step);
    case DType::kFloat16: return;  // its operands never come this far
  }
}

template <template <class, class> class Kernel, class Arrays>
static void StepOf(const Job<Arrays>& job, int slice, int64_t step) {
  switch (job.cell.kind) {
    case CellKind::kLstm: return StepOfType<Kernel, Lstm>(job, slice, step);
    case CellKind::kGru: return StepOfType<Kernel, Gru>(job, slice, step);
    case CellKind::kElmanTanh: return StepOfType<Kernel, ElmanTanh>(job, slice, step);
    case CellKind::kElmanRelu: return StepOfType<Kernel, ElmanRelu>(job, slice, step);
  }
}

static constexpr Isa kIsa(const char* name) {
  return {name, kLanes, kRegisters, StepOf<ForwardKernel, Forward>,
          StepOf<BackwardKernel, Backward>};
}

}  // namespace jp::cpu::JP_ISA
