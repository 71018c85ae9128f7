// The types that both of the kernels' machines know.
#pragma once

#include <cstdint>

namespace jp::cuda {

// Sixteen bytes, as one thread loads and stores them.
struct alignas(16) Quad {
  uint32_t word[4];
};

constexpr int kLanes = 32;  // threads of a warp

// Element types of the matrix unit's operands; sums are float.
enum class Operand { kBfloat16, kFloat16, kTf32 };

}  // namespace jp::cuda
