// SPDX-License-Identifier: Apache-2.0
// Which steps of a tile have anything to multiply: those at which one of its rows runs.
#pragma once

#include "cuda/thread_coords.h"

namespace jp::cuda {

// Rows of other lengths than T: a tile's longest is its end, in shared memory. Every warp of a team
// comes to the same conclusion, so that what none waits for none sends.
template <class Arrays>
class TileEnds {
 public:
  JP_DEVICE TileEnds(const LaunchArgs<Arrays>& args, int group)
      : args_(args),
        group_(group),
        ends_(reinterpret_cast<int*>(arch::SharedMemory() + args.geometry.ends)) {}

  // Whole block.
  JP_DEVICE void Find(const ThreadCoords& at) const {
    const Rows<int> rows = args_.RowsOf(at.group);
    if (rows.lengths == nullptr) return;
    const int tile = arch::ThreadIndex();
    if (tile < at.tiles) {
      int end = 0;
      for (int row = 0; row < kTileRows; ++row) {
        const int b = (at.first_tile + tile) * kTileRows + row;
        const int length = b < rows.batch ? rows.Length(b) : 0;
        if (length > end) end = length;
      }
      ends_[tile] = end;
    }
    arch::SyncBlock();
  }

  // Has the step a product? Forward one of h before the step, if a row runs at its time; backward
  // one of the gradients of the step before it, which was later in time, if a row ran there. The
  // steps that have one follow each other without a gap.
  JP_DEVICE bool HasProduct(int step, int tile) const {
    const Rows<int> rows = args_.RowsOf(group_);
    const int time = rows.Time(LaunchArgs<Arrays>::kIsForward ? step : rows.steps - step);
    return time >= 0 && time < End(tile);
  }

  // The first step that has a product and reads a message for it.
  JP_DEVICE int FirstMessage(int tile) const {
    constexpr bool kForward = LaunchArgs<Arrays>::kIsForward;
    const int late = kForward == args_.RowsOf(group_).reverse ? args_.rows.steps - End(tile) : 0;
    return kForward ? (late > 1 ? late : 1) : 1 + late;
  }

 private:
  JP_DEVICE int End(int tile) const {
    return args_.rows.lengths != nullptr ? ends_[tile] : args_.rows.steps;
  }

  const LaunchArgs<Arrays>& args_;
  const int group_;
  int* ends_;
};

}  // namespace jp::cuda
