// SPDX-License-Identifier: Apache-2.0
// A product of two matrices of float32, [rows, depth] x [depth, columns], each row-major as it is
// given or transposed.
#pragma once

#include <cstdint>

namespace jp {

struct Product {
  int64_t rows, depth, columns;
  bool left_transposed, right_transposed;  // given as [depth, rows], [columns, depth]
};

}  // namespace jp
