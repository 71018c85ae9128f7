// SPDX-License-Identifier: Apache-2.0
// A product of two matrices, each worker's share: the panels of its columns.
#pragma once

#include <cstring>

#include "native/cpu/gemm.h"
#include "native/cpu/pack.h"
#include "native/cpu/planning.h"
#include "native/cpu/product_plan.h"

namespace jp::cpu::JP_ISA {

class ProductKernel {
 public:
  static void Run(const ProductCall& call, int worker) { ProductKernel(call, worker).Run(); }

 private:
  static constexpr int64_t kWidth = kProductVectors * kLanes;

  ProductKernel(const ProductCall& call, int worker)
      : p_(call.product),
        call_(call),
        first_(worker * call.plan.panels / call.plan.workers),
        last_((worker + 1) * call.plan.panels / call.plan.workers),
        packed_(call.memory + worker * call.plan.WorkerFloats()),
        transposed_(packed_ + call.plan.packed),
        edge_(transposed_ + call.plan.transposed) {}

  void Run() const {
    for (int64_t panel = first_; !IsPacked() && panel < last_; ++panel) Pack(panel);
    for (int64_t row = 0; row < p_.rows; row += kChunkRows) {
      const int64_t here = p_.rows - row < kChunkRows ? p_.rows - row : kChunkRows;
      const float* in[kChunkRows];
      const int64_t stride = p_.left_transposed ? RowStride(p_.depth) : p_.depth;
      const float* const from = p_.left_transposed ? transposed_ : call_.left + row * stride;
      for (int64_t i = 0; i < here; ++i) in[i] = from + i * stride;
      if (p_.left_transposed) TransposeLeft(row, here, stride);
      for (int64_t panel = first_; panel < last_; ++panel) MultiplyPanelOf(panel, in, row, here);
    }
  }

  bool IsPacked() const { return p_.packed_lanes != 0; }
  float* Packed(int64_t panel) const { return packed_ + (panel - first_) * p_.depth * kWidth; }
  const float* Weights(int64_t panel) const {
    return IsPacked() ? call_.right + panel * p_.depth * kWidth : Packed(panel);
  }

  void Pack(int64_t panel) const {
    float* const to = Packed(panel);
    for (int c = 0; c < kProductVectors; ++c) {
      const int64_t column = panel * kWidth + c * kLanes;
      const int n = Lanes(p_.columns, column);
      if (p_.right_transposed) {
        TransposeRows(to, kProductVectors, c, 0, p_.depth, call_.right + column * p_.depth,
                      p_.depth, p_.depth, n);
      } else {
        CopyColumns(to, kProductVectors, c, 0, p_.depth, call_.right + column, p_.columns, p_.depth,
                    n);
      }
    }
  }

  void TransposeLeft(int64_t row, int64_t here, int64_t stride) const {
    for (int64_t k = 0; k < p_.depth; k += kLanes) {
      const float* rows[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        rows[i] = k + i < p_.depth ? call_.left + (k + i) * p_.rows + row : nullptr;
      }
      TransposeInto(transposed_ + k, stride, here, rows);
    }
  }

  void MultiplyPanelOf(int64_t panel, RowPointers in, int64_t row, int64_t here) const {
    const int64_t column = panel * kWidth, left = p_.columns - column;
    float* const to = call_.result + row * p_.columns + column;
    const bool full = left >= kWidth;
    // Those that were packed just now are in a cache.
    const float* const next = IsPacked() && panel + 1 < last_ ? Weights(panel + 1) : nullptr;
    Multiply(kProductVectors, CeilDiv(left, kLanes), in, here, here == 1, 0, p_.depth,
             Weights(panel), next, Traversal::kForwards, {nullptr, 0}, full ? to : edge_,
             full ? p_.columns : kWidth);
    for (int64_t r = 0; r < here && !full; ++r) {
      std::memcpy(to + r * p_.columns, edge_ + r * kWidth, left * sizeof(float));
    }
  }

  const Product& p_;
  const ProductCall& call_;
  const int64_t first_, last_;  // panels
  float *const packed_, *const transposed_, *const edge_;
};

}  // namespace jp::cpu::JP_ISA
