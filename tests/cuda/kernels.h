// SPDX-License-Identifier: Apache-2.0
// The kernels by cell, precision, exchange and width. Each pair of a cell and a precision is a
// translation unit of its own, made from instance.in.
#pragma once

#include "cuda/launch_args.h"

namespace jp::cuda {

template <class Arrays>
using Kernel = void (*)(const LaunchArgs<Arrays>);

struct KernelSet {
  // Of a grid, by the logarithm of the width.
  Kernel<Forward> forward_grid[3], forward_cluster;
  Kernel<Backward> backward_grid[3], backward_cluster;

  template <class Arrays>
  Kernel<Arrays> Of(const Geometry& g) const {
    const int wide = g.width / 2;
    if constexpr (LaunchArgs<Arrays>::kIsForward) {
      return g.cluster() ? forward_cluster : forward_grid[wide];
    } else {
      return g.cluster() ? backward_cluster : backward_grid[wide];
    }
  }
};

// Null pointers where this build has no such kernels.
KernelSet KernelsOf(CellKind cell, Precision precision);

}  // namespace jp::cuda
