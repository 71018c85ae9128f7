// SPDX-License-Identifier: Apache-2.0
// How a product of two matrices is divided among workers, and its memory.
#pragma once

#include <cstddef>

#include "native/cpu/cpu_plan.h"
#include "native/problem/product.h"

namespace jp::cpu {

inline constexpr int kProductVectors = 4;  // across a panel of the right matrix

struct ProductPlan {
  int workers;
  int64_t panels;   // of a head
  int64_t part;     // of the depth, multiplied at a time
  bool in_place;    // the right matrix is read where it lies, and not packed
  bool prefetches;  // and it is prefetched: a worker's part is more than an L2 cache holds
  // In floats, of each worker: its packed panels; rows of the left matrix that was transposed; the
  // results of a panel that is not full.
  int64_t packed, transposed, edge;

  int64_t WorkerFloats() const { return packed + transposed + edge; }
  size_t Bytes() const { return workers * WorkerFloats() * sizeof(float); }
};

// Precondition: all sizes are at least 1, the depth is even.
ProductPlan PlanProduct(const Product& product, const CpuFacts& facts);

struct ProductCall {
  Product product;
  ProductPlan plan;
  const float *left, *right;
  float* result;
  float* memory;  // Bytes() of them, aligned to a vector
};

}  // namespace jp::cpu
