// SPDX-License-Identifier: Apache-2.0
// The types that the GPU, its emulator and the planner share.
#pragma once

#include "native/portable.h"

namespace jp::cuda {

// Sixteen bytes: the most that a thread loads or stores at once.
struct alignas(16) Vec16B {
  uint32_t word[4];
};

constexpr int kLanes = 32;  // threads of a warp

// What the factors of a product are rounded to; sums are always float32. kTf32: of float32 arrays.
enum class Precision { kBfloat16, kFloat16, kTf32, kFloat32 };

constexpr int ElementBytes(Precision precision) {
  return precision == Precision::kBfloat16 || precision == Precision::kFloat16 ? 2 : 4;
}

}  // namespace jp::cuda
