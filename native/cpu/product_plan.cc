// SPDX-License-Identifier: Apache-2.0
// Workers have panels of their own, as many each as the others or one more.
#include "native/cpu/product_plan.h"

#include <algorithm>

#include "native/cpu/planning.h"

namespace jp::cpu {

ProductPlan PlanProduct(const Product& product, const CpuFacts& facts) {
  const int64_t width = kProductVectors * facts.vector_lanes;
  const int64_t panels = CeilDiv(product.columns, width);
  const int workers = static_cast<int>(std::min<int64_t>(facts.threads, panels));
  return {
      .workers = workers,
      .panels = panels,
      .packed = product.packed_lanes == 0 ? CeilDiv(panels, workers) * product.depth * width : 0,
      .transposed = product.left_transposed ? kChunkRows * RowStride(product.depth) : 0,
      .edge = product.columns % width == 0 ? 0 : kChunkRows * width};
}

}  // namespace jp::cpu
