// SPDX-License-Identifier: Apache-2.0
// Shuffles and mma.sync, on the registers of a whole warp.
#include "tests/cuda/software_gpu/collectives.h"

#include <algorithm>

#include "tests/cuda/software_gpu/numbers.h"

namespace jp::software_gpu {

void ShuffleLanes(Warp& warp, const Instruction& in, uint32_t pc) {
  uint32_t* to = warp.Words(in.x[0]);
  const uint32_t* value = warp.Words(in.x[1]);
  const uint32_t* lane = warp.Words(in.x[2]);
  const uint32_t* clamp = warp.Words(in.x[3]);
  const uint32_t* members = warp.Words(in.x[4]);
  uint32_t result[kLanes];
  for (uint32_t l = 0; l < kLanes; ++l) {
    if (members[l] != kAll || clamp[l] != 31) Fail(warp, pc, "shfl of a part of a warp");
    uint32_t from = lane[l] & 31;
    if (static_cast<Shuffle>(in.kind) == Shuffle::kBfly) from = l ^ from;
    if (static_cast<Shuffle>(in.kind) == Shuffle::kUp) from = l >= from ? l - from : l;
    if (static_cast<Shuffle>(in.kind) == Shuffle::kDown) from = l + from < 32 ? l + from : l;
    result[l] = value[from];
    if (in.x[5] != kNone) warp.Words(in.x[5])[l] = 1;
  }
  std::copy_n(result, kLanes, to);
}

// PTX ISA, "Matrix Fragments for mma.m16n8k16" and "mma.m16n8k8": lane = 4 group + t. A word has
// one tf32 or two 16-bit values, of neighbours in k.
void MultiplyMatrices(Warp& warp, const Instruction& in) {
  const auto kind = static_cast<Factors>(in.kind);
  const int per_word = kind == Factors::kTf32 ? 1 : 2, depth = 8 * per_word;
  const auto at = [&](int operand, int lane) -> uint32_t& {
    return warp.Words(in.x[operand])[lane];
  };
  const auto value = [&](uint32_t word, int i) {
    if (kind == Factors::kTf32) return FromBits(word & ~uint32_t{0x1fff});
    const auto half = static_cast<uint16_t>(word >> 16 * i);
    return kind == Factors::kBfloat16 ? FromBits(uint32_t{half} << 16) : FromFloat16(half);
  };
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, t = lane % 4;
    for (int word = 0; word < 4; ++word) {
      for (int i = 0; i < per_word; ++i) {
        const int row = group + word % 2 * 8, k = word / 2 * 4 * per_word + t * per_word + i;
        a[row][k] = value(at(4 + word, lane), i);
        if (word < 2)
          b[word * 4 * per_word + t * per_word + i][group] = value(at(8 + word, lane), i);
      }
      c[group + word / 2 * 8][2 * t + word % 2] = FromBits(at(10 + word, lane));
    }
  }
  for (int m = 0; m < 16; ++m) {
    float sum[8];
    std::copy_n(c[m], 8, sum);
    for (int k = 0; k < depth; ++k) {
      for (int n = 0; n < 8; ++n) sum[n] += a[m][k] * b[k][n];
    }
    std::copy_n(sum, 8, c[m]);
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const int group = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) at(i, lane) = ToBits(c[group + i / 2 * 8][2 * t + i % 2]);
  }
}

}  // namespace jp::software_gpu
