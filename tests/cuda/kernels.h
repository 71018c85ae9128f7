// SPDX-License-Identifier: Apache-2.0
// The kernels by cell, precision and exchange. Each pair of a cell and a precision is a translation
// unit of its own, made from instance.in.
#pragma once

#include "cuda/launch_args.h"

namespace jp::cuda {

template <class Arrays>
using Kernel = void (*)(const LaunchArgs<Arrays>);

struct KernelSet {
  Kernel<Forward> forward_grid, forward_cluster;
  Kernel<Backward> backward_grid, backward_cluster;

  template <class Arrays>
  Kernel<Arrays> Of(bool cluster) const {
    if constexpr (LaunchArgs<Arrays>::kIsForward) {
      return cluster ? forward_cluster : forward_grid;
    } else {
      return cluster ? backward_cluster : backward_grid;
    }
  }
};

// Null pointers where this build has no such kernels.
KernelSet KernelsOf(CellKind cell, Precision precision);

}  // namespace jp::cuda
