// SPDX-License-Identifier: Apache-2.0
// A product of two matrices of float32, [rows, depth] x [depth, columns], each row-major as it is
// given or transposed, or the right one packed as packed.h says, of one gate. Of several heads, the
// left one being transposed, [depth, heads * rows] and [depth, heads * columns] are given, and the
// result is [heads, rows, columns]: each head's own columns are multiplied.
#pragma once

#include <cstdint>

namespace jp {

struct Product {
  int64_t rows, depth, columns;
  bool left_transposed, right_transposed;  // given as [depth, rows], [columns, depth]
  int64_t packed_lanes = 0;                // of the right one, if it is packed, and not transposed
  int64_t heads = 1;
};

}  // namespace jp
