// SPDX-License-Identifier: Apache-2.0
// What the planners of kernels and of programs share: sizes, and the cost of what both do.
#pragma once

#include <cstdint>

#include "native/cpu/cpu_plan.h"

namespace jp::cpu {

constexpr int64_t CeilDiv(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Floats from one row to the next: whole cache lines and one more, as rows a power of two apart
// would all fall into the same few sets of the L1 cache.
constexpr int64_t RowStride(int64_t values) { return CeilDiv(values, 16) * 16 + 16; }

// Counted in multiply-adds of vectors, and fitted with the costs in cpu_plan.cc.
inline constexpr double kMeeting = 768;    // units divided: of the barrier, for each worker but one
inline constexpr double kDividing = 1000;  // batch or groups divided: as a share of a step

// Multiplying this many rows takes as long as reading the weights from the L2 cache.
inline constexpr double kL2Rows = 2.5;

// What multiplies bfloat16, at the end of a plan in words.
inline const char* MultipliedBy(Units units) {
  switch (units) {
    case Units::kWidened: break;
    case Units::kPairs: return "; multiplied by AVX512_BF16";
    case Units::kTiles: return "; multiplied by AMX";
  }
  return "";
}

// What a step of so many rows is multiplied by: a single one fills no tile.
inline Units UnitsOfStep(Units units, int64_t rows) {
  return rows == 1 && units == Units::kTiles ? Units::kPairs : units;
}

// Whether a worker's weights are too large to stay in its L2 cache beside a step's other data.
inline bool Outgrows(int64_t bytes, const CpuFacts& facts) {
  return bytes > facts.l2_bytes / 4 * 3;
}

}  // namespace jp::cpu
