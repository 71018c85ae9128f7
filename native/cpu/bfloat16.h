// SPDX-License-Identifier: Apache-2.0
// The storage type of bfloat16: the upper half of a float32. Arithmetic is done in float32.
#pragma once

#include <cstdint>

namespace jp::cpu {

struct bfloat16 {
  uint16_t bits;
};

}  // namespace jp::cpu
