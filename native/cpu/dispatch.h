// SPDX-License-Identifier: Apache-2.0
// Calls the kernel of a workspace's cell and dtype, in one instruction set.
#pragma once

#include "native/cells/cells.h"
#include "native/cpu/backward.h"
#include "native/cpu/forward.h"
#include "native/cpu/isa.h"
#include "native/cpu/product.h"
#include "native/cpu/program_kernel.h"

namespace jp::cpu::JP_ISA {

template <template <class, class> class Kernel, class Cell, class Arrays>
static void RunPhaseOf(const Workspace<Arrays>& space, int worker, int64_t phase) {
  switch (space.problem.dtype) {
    case DType::kFloat32: return Kernel<Cell, float>::RunPhase(space, worker, phase);
    case DType::kBfloat16: return Kernel<Cell, bfloat16>::RunPhase(space, worker, phase);
    case DType::kFloat16:
    case DType::kFloat64: return;  // refused when planned
  }
}

template <template <class, class> class Kernel, class Arrays>
static void RunPhase(const Workspace<Arrays>& space, int worker, int64_t phase) {
  switch (space.problem.cell.kind) {
#define JP_CELL(name, Cell) \
  case CellKind::k##Cell: return RunPhaseOf<Kernel, Cell>(space, worker, phase);
#include "native/cells/cells.def"
#undef JP_CELL
  }
}

static void Pack(const PackCall& call, int worker) {
  const Packing& packing = call.packing;
  if (packing.dtype == DType::kFloat32) {
    PackKernels<float>(packing, call.plan, call.from, call.to, worker);
  } else {
    PackKernels<bfloat16>(packing, call.plan, call.from, call.to, worker);
  }
}

static constexpr Isa MakeIsa(const char* name) {
  return {name,
          kLanes,
          kRegisters,
          RunPhase<ForwardKernel, Forward>,
          RunPhase<BackwardKernel, Backward>,
          ProgramKernel::RunPhase,
          Pack,
          ProductKernel::Run};
}

}  // namespace jp::cpu::JP_ISA
