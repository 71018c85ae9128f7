// The kernels by cell, element type and residency. Each pair of a cell and a type is a translation
// unit of its own, made from instance.in.
#pragma once

#include "cuda/launch_args.h"
#include "native/cells/cell.h"

namespace jp::cuda {

template <class Arrays>
using Kernel = void (*)(const LaunchArgs<Arrays>);

struct KernelSet {
  Kernel<cpu::Forward> forward_grid, forward_cluster;
  Kernel<cpu::Backward> backward_grid, backward_cluster;

  template <class Arrays>
  Kernel<Arrays> Of(bool cluster) const {
    if constexpr (std::is_same_v<Arrays, cpu::Forward>) {
      return cluster ? forward_cluster : forward_grid;
    } else {
      return cluster ? backward_cluster : backward_grid;
    }
  }
};

KernelSet KernelsOf(CellKind cell, Precision number);

}  // namespace jp::cuda
