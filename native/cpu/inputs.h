// The products with the input weights: of all rows of a chunk of time steps at once.
#pragma once

#include "native/cpu/slice.h"

namespace jp::cpu::JP_ISA {

// Calls f(first, number, rows) for all rows of `features` values, some at a time, each row as
// `depth` floats: where it is, or a copy with a zero behind an odd last value. from(r) is row r.
template <class T, class Arrays, class From, class F>
static void ForRows(const Job<Arrays>& job, int slice, int64_t rows, int64_t features,
                    const From& from, const F& f) {
  const bool in_place = sizeof(T) == sizeof(float) && features == job.inputs.depth;
  float* const copies = job.copies + slice * job.part_rows * job.copy_row;
  for (int64_t first = 0; first < rows; first += job.part_rows) {
    const int64_t here = rows - first < job.part_rows ? rows - first : job.part_rows;
    const float* row[kChunkRows];
    for (int64_t r = 0; r < here; ++r) {
      const T* values = from(first + r);
      if (in_place) {
        row[r] = reinterpret_cast<const float*>(values);
        continue;
      }
      float* copy = copies + r * job.copy_row;
      for (int64_t k = 0; k < features; k += kLanes) {
        Store(copy + k, LoadPart(values + k, Lanes(features, k)));
      }
      row[r] = copy;
    }
    f(first, here, row);
  }
}

}  // namespace jp::cpu::JP_ISA
