// SPDX-License-Identifier: Apache-2.0
// The matrix unit: what mma.sync m16n8k16 (bfloat16, float16) and m16n8k8 (tf32) do to a warp's
// registers, by the PTX ISA's "Matrix Fragments" sections. A product is exact, sums are float.
#pragma once

#include <bit>
#include <cstdint>

#include "cuda/arch_types.h"
#include "cuda/emulator/conversions.h"

namespace jp::cuda::emulator {

// One lane's registers.
struct Fragments {
  uint32_t a[4];
  uint32_t b[2];
  float sum[4];
};

inline float FromNarrow(Precision precision, uint32_t word, int half) {
  const auto bits = static_cast<uint16_t>(word >> (16 * half));
  return precision == Precision::kBfloat16 ? FromBfloat16(bits) : FromFloat16(bits);
}

inline void MultiplyFragments(Precision precision, Fragments (&lanes)[kLanes]) {
  // a: [16,K], b: [K,8], sum: [16,8]. Lane 4 * row + t holds a's rows `row` and `row` + 8, b's
  // column `row`, and of them the elements that t counts.
  float a[16][16] = {}, b[16][8] = {};
  const int K = precision == Precision::kTf32 ? 8 : 16;
  for (int lane = 0; lane < kLanes; ++lane) {
    const int row = lane / 4, t = lane % 4;
    const Fragments& mine = lanes[lane];
    if (precision == Precision::kTf32) {
      const auto number = [](uint32_t word) { return std::bit_cast<float>(word & ~0x1fffu); };
      for (int i = 0; i < 4; ++i) a[row + 8 * (i % 2)][t + 4 * (i / 2)] = number(mine.a[i]);
      for (int i = 0; i < 2; ++i) b[t + 4 * i][row] = number(mine.b[i]);
    } else {
      for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < 4; ++i) {
          a[row + 8 * (i % 2)][2 * t + 8 * (i / 2) + half] = FromNarrow(precision, mine.a[i], half);
        }
        for (int i = 0; i < 2; ++i) {
          b[2 * t + 8 * i + half][row] = FromNarrow(precision, mine.b[i], half);
        }
      }
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      for (int k = 0; k < K; ++k) lanes[lane].sum[i] += a[row][k] * b[k][column];
    }
  }
}

}  // namespace jp::cuda::emulator
