// SPDX-License-Identifier: Apache-2.0
// The rows that the input weights are multiplied with: those of a chunk of time steps at once.
#pragma once

#include "native/cpu/slice.h"

namespace jp::cpu::JP_ISA {

// Calls f(first, number, rows) for all rows of `features` values, some at a time, each row as K
// floats: where it is, or a copy with a zero behind an odd last value. from(r) is row r.
template <class T, class Arrays, class From, class F>
static void ForRows(const Workspace<Arrays>& space, int worker, int64_t rows, int64_t features,
                    const From& from, const F& f) {
  const bool in_place = sizeof(T) == sizeof(float) && features == space.plan.inputs.k;
  float* const copies = space.copies + worker * space.part_rows * space.copy_row;
  for (int64_t first = 0; first < rows; first += space.part_rows) {
    const int64_t here = rows - first < space.part_rows ? rows - first : space.part_rows;
    const float* row[kChunkRows];
    for (int64_t r = 0; r < here; ++r) {
      const T* values = from(first + r);
      if (in_place) {
        row[r] = reinterpret_cast<const float*>(values);
        continue;
      }
      float* copy = copies + r * space.copy_row;
      for (int64_t i = 0; i < features; i += kLanes) {
        Store(copy + i, LoadPart(values + i, Lanes(features, i)));
      }
      row[r] = copy;
    }
    f(first, here, row);
  }
}

}  // namespace jp::cpu::JP_ISA
