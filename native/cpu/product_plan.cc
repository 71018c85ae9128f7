// SPDX-License-Identifier: Apache-2.0
// Workers have panels of their own, as many each as the others or one more; a product that is done
// before another worker is awake has one.
#include "native/cpu/product_plan.h"

#include <algorithm>

#include "native/cpu/planning.h"

namespace jp::cpu {

ProductPlan PlanProduct(const Product& product, const CpuFacts& facts) {
  const int64_t width = kProductVectors * facts.vector_lanes;
  const int64_t panels = CeilDiv(product.columns, width);
  // The recurrence beside it may have woken the others, or is about to. Half of a call's saving was
  // level there: one row, T = 128, H = 128, of one gate (one worker) and of three (two).
  const auto work = static_cast<double>(product.rows * product.depth) *
                    static_cast<double>(CeilDiv(product.columns, facts.vector_lanes));
  auto workers = static_cast<int>(std::min<int64_t>(facts.threads, panels));
  if (work - work / workers < facts.waking / 2) workers = 1;
  return {
      .workers = workers,
      .panels = panels,
      .packed = product.packed_lanes == 0 ? CeilDiv(panels, workers) * product.depth * width : 0,
      .transposed = product.left_transposed ? kChunkRows * RowStride(product.depth) : 0,
      .edge = product.columns % width == 0 ? 0 : kChunkRows * width};
}

}  // namespace jp::cpu
