// SPDX-License-Identifier: Apache-2.0
// Workers have panels of their own, as many each as the others or one more; a product that is done
// before another worker is awake has one.
#include "native/cpu/product_plan.h"

#include <algorithm>

#include "native/cpu/planning.h"

namespace jp::cpu {
namespace {

// Rows of the right matrix: what a worker packs of a deeper one would not stay in L2. 256 and 1024
// were slower for the gradient of a kernel over 2048 vectors, and level elsewhere.
constexpr int64_t kPart = 512;

}  // namespace

ProductPlan PlanProduct(const Product& product, const CpuFacts& facts) {
  const int64_t width = kProductVectors * facts.vector_lanes;
  const int64_t panels = CeilDiv(product.columns, width);
  // The recurrence beside it may have woken the others, or is about to. Half of a call's saving was
  // level there: one row, T = 128, H = 128, of one gate (one worker) and of three (two).
  const auto work = static_cast<double>(product.heads * product.rows * product.depth) *
                    static_cast<double>(CeilDiv(product.columns, facts.vector_lanes));
  auto workers = static_cast<int>(std::min<int64_t>(facts.threads, product.heads * panels));
  if (work - work / workers < facts.waking / 2) workers = 1;
  const int64_t own = std::min(CeilDiv(product.heads * panels, workers), panels);
  // A single row has sums of its own for odd rows of the matrix, from the first to the last.
  const int64_t part = product.rows == 1 ? product.depth : std::min(product.depth, kPart);
  const bool lies_in_rows = !product.left_transposed && !product.right_transposed;
  const bool in_place = product.packed_lanes == 0 && lies_in_rows &&
                        ReadsInPlace(product.rows, 1, Units::kWidened, facts);
  const int64_t bytes = own * product.depth * width * static_cast<int64_t>(sizeof(float));
  return {.workers = workers,
          .panels = panels,
          .part = part,
          .in_place = in_place,
          .prefetches = Outgrows(bytes, facts),
          .packed = product.packed_lanes == 0 && !in_place ? own * part * width : 0,
          .transposed = product.left_transposed ? kChunkRows * RowStride(part) : 0,
          .edge = in_place || product.columns % width == 0 ? 0 : kChunkRows * width};
}

}  // namespace jp::cpu
