// SPDX-License-Identifier: Apache-2.0
// A product of two matrices, each worker's share: the panels of its columns.
#pragma once

#include <cstring>

#include "native/cpu/gemm.h"
#include "native/cpu/in_place.h"
#include "native/cpu/pack.h"
#include "native/cpu/planning.h"
#include "native/cpu/product_plan.h"

namespace jp::cpu::JP_ISA {

class ProductKernel {
 public:
  static void Run(const ProductCall& call, int worker) {
    const int64_t panels = call.plan.panels, all = call.product.heads * panels;
    const int64_t first = worker * all / call.plan.workers;
    const int64_t last = (worker + 1) * all / call.plan.workers;
    for (int64_t head = first / panels; head * panels < last; ++head) {
      const int64_t before = head * panels;
      const int64_t end = last - before < panels ? last - before : panels;
      ProductKernel(call, worker, head, first > before ? first - before : 0, end).Run();
    }
  }

 private:
  static constexpr int64_t kWidth = kProductVectors * kLanes;

  ProductKernel(const ProductCall& call, int worker, int64_t head, int64_t first, int64_t last)
      : p_(call.product),
        call_(call),
        left_(call.left + head * p_.rows),
        right_(call.right + head * p_.columns),
        result_(call.result + head * p_.rows * p_.columns),
        first_(first),
        last_(last),
        packed_(call.memory + worker * call.plan.WorkerFloats()),
        transposed_(packed_ + call.plan.packed),
        edge_(transposed_ + call.plan.transposed) {}

  // Some of the depth: a part, and how many of it.
  struct Part {
    int64_t begin, count;
  };

  // What is packed of a part stays in L2 while all rows are multiplied with it.
  void Run() const {
    if (call_.plan.in_place) return RunInPlace();
    for (int64_t k = 0; k < p_.depth; k += call_.plan.part) {
      const Part part{k, p_.depth - k < call_.plan.part ? p_.depth - k : call_.plan.part};
      for (int64_t panel = first_; !IsPacked() && panel < last_; ++panel) Pack(panel, part);
      for (int64_t row = 0; row < p_.rows; row += kChunkRows) MultiplyChunk(row, part);
    }
  }

  // A few rows at a time with the right matrix where it lies.
  void RunInPlace() const {
    const int64_t end = last_ * kWidth < p_.columns ? last_ * kWidth : p_.columns;
    for (int64_t column = first_ * kWidth; column < end; column += kInPlaceColumns) {
      const int64_t here = end - column < kInPlaceColumns ? end - column : kInPlaceColumns;
      for (int64_t row = 0; row < p_.rows; row += kInPlaceRows) {
        MultiplyInPlace(row, p_.rows - row < kInPlaceRows ? p_.rows - row : kInPlaceRows,
                        {right_ + column, p_.depth, p_.columns, here}, column);
      }
    }
  }

  void MultiplyInPlace(int64_t row, int64_t rows, const ColumnsInPlace<float>& of,
                       int64_t column) const {
    const float* in[kInPlaceRows];
    for (int64_t r = 0; r < rows; ++r) in[r] = left_ + (row + r) * p_.depth;
    SumsInPlace sums;
    const bool single = p_.rows == 1;
    std::memset(sums.at, 0, (rows + single) * sizeof sums.at[0]);
    AddInPlace(of, in, rows, single, Traversal::kForwards, call_.plan.prefetches, sums);
    for (int64_t r = 0; r < rows; ++r) {
      float* const to = result_ + (row + r) * p_.columns + column;
      for (int64_t c = 0; c < of.columns; c += kLanes) {
        const Vec sum = Load(sums.at[r] + c);
        StorePart(to + c, single ? sum + Load(sums.at[1] + c) : sum, Lanes(of.columns, c));
      }
    }
  }

  void MultiplyChunk(int64_t row, const Part& part) const {
    const int64_t here = p_.rows - row < kChunkRows ? p_.rows - row : kChunkRows;
    const float* in[kChunkRows];
    const int64_t stride = p_.left_transposed ? RowStride(part.count) : p_.depth;
    const float* const from = p_.left_transposed ? transposed_ : left_ + row * stride + part.begin;
    for (int64_t i = 0; i < here; ++i) in[i] = from + i * stride;
    if (p_.left_transposed) TransposeLeft(row, here, stride, part);
    for (int64_t panel = first_; panel < last_; ++panel) {
      MultiplyPanelOf(panel, in, row, here, part);
    }
  }

  bool IsPacked() const { return p_.packed_lanes != 0; }
  float* Packed(int64_t panel) const {
    return packed_ + (panel - first_) * call_.plan.part * kWidth;
  }
  const float* Weights(int64_t panel, const Part& part) const {
    return IsPacked() ? right_ + (panel * p_.depth + part.begin) * kWidth : Packed(panel);
  }

  void Pack(int64_t panel, const Part& part) const {
    float* const to = Packed(panel);
    for (int c = 0; c < kProductVectors; ++c) {
      const int64_t column = panel * kWidth + c * kLanes;
      const int n = Lanes(p_.columns, column);
      if (p_.right_transposed) {
        TransposeRows(to, kProductVectors, c, 0, part.count,
                      right_ + column * p_.depth + part.begin, p_.depth, part.count, n);
      } else {
        const int64_t stride = p_.heads * p_.columns;
        CopyColumns(to, kProductVectors, c, 0, part.count, right_ + part.begin * stride + column,
                    stride, part.count, n);
      }
    }
  }

  void TransposeLeft(int64_t row, int64_t here, int64_t stride, const Part& part) const {
    const int64_t to_next = p_.heads * p_.rows;
    const float* const from = left_ + part.begin * to_next + row;
    for (int64_t k = 0; k < part.count; k += kLanes) {
      const float* rows[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        rows[i] = k + i < part.count ? from + (k + i) * to_next : nullptr;
      }
      TransposeInto(transposed_ + k, stride, here, rows);
    }
  }

  void MultiplyPanelOf(int64_t panel, RowPointers in, int64_t row, int64_t here,
                       const Part& part) const {
    const int64_t column = panel * kWidth, left = p_.columns - column;
    float* const result = result_ + row * p_.columns + column;
    const bool full = left >= kWidth;
    float* const to = full ? result : edge_;
    const int64_t to_stride = full ? p_.columns : kWidth;
    for (int64_t r = 0; r < here && !full && part.begin > 0; ++r) {
      std::memcpy(to + r * to_stride, result + r * p_.columns, left * sizeof(float));
    }
    // Those that were packed just now are in a cache.
    const float* const next = IsPacked() && panel + 1 < last_ ? Weights(panel + 1, part) : nullptr;
    const Accumulator before{part.begin == 0 ? nullptr : to, to_stride};
    Multiply(kProductVectors, CeilDiv(left, kLanes), in, here, p_.rows == 1, 0, part.count,
             Weights(panel, part), next, Traversal::kForwards, before, to, to_stride);
    for (int64_t r = 0; r < here && !full; ++r) {
      std::memcpy(result + r * p_.columns, to + r * to_stride, left * sizeof(float));
    }
  }

  const Product& p_;
  const ProductCall& call_;
  const float *const left_, *const right_;
  float* const result_;
  const int64_t first_, last_;  // panels
  float *const packed_, *const transposed_, *const edge_;
};

}  // namespace jp::cpu::JP_ISA
