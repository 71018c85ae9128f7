// SPDX-License-Identifier: Apache-2.0
// A warp's product of its weights with a tile of the exchanged vector, chunk by chunk.
//
// A chunk is 64 bytes of each of the tile's 8 rows. Lane 4 row + t loads 16 of them, from row `row`
// of the tile, and has the weights of the same elements for the rows `row` and `row` + 8 of each
// of the warp's kTiles tiles of weights: what mma calls column 2s and 2s+1 of its operands is word
// s of the 16 bytes, an order of K that both operands share. When the sums are finished the lane
// has
//   value[tile][2 half + column] = sum of row `row` + 8 half of the tile, column 2t + column.
#pragma once

#include "cuda/dtypes.h"

namespace jp::cuda {

// One chunk's weights of one lane, in mma's order of registers: for the words 2s and 2s + 1 of the
// lane's 16 bytes and one tile, word 2s of rows `row` and `row` + 8, then word 2s + 1 of both.
template <int kTiles>
struct WeightFragments {
  uint32_t fragment[2][kTiles][4];

  JP_DEVICE uint32_t Of(int word, int tile, int half) const {
    return fragment[word / 2][tile][word % 2 * 2 + half];
  }
};

// On the matrix units.
template <class Dtype, int kTiles>
class Accumulator {
  // Two sums where one would leave the matrix unit waiting for its own result.
  static constexpr int kChains = kTiles <= 2 ? 2 : 1;

 public:
  JP_DEVICE explicit Accumulator(Vec16B* /*stage*/) {}

  // Has `refill` load the next vector in place of this one as soon as nothing needs it: a load
  // into other registers would have to be moved, and the move waits for it.
  template <class Refill>
  JP_DEVICE void Add(const WeightFragments<kTiles>& w, const Vec16B& loaded, int /*rows*/,
                     const Refill& refill) {
    Vec16B vector = loaded;
    for (uint32_t& word : vector.word) word = Dtype::AsFactor(word);
    JP_UNROLL
    for (int s = 0; s < 2; ++s) {
      JP_UNROLL
      for (int tile = 0; tile < kTiles; ++tile) {
        arch::Multiply<Dtype::kPrecision>(sum_[s % kChains][tile], w.fragment[s][tile],
                                          vector.word[2 * s], vector.word[2 * s + 1]);
      }
    }
    refill();
  }

  JP_DEVICE void Finish(float (&value)[kTiles][4]) {
    JP_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      JP_UNROLL
      for (int i = 0; i < 4; ++i) {
        value[tile][i] = sum_[0][tile][i];
        if constexpr (kChains == 2) value[tile][i] += sum_[1][tile][i];
      }
    }
  }

 private:
  float sum_[kChains][kTiles][4] = {};
};

// In float32, on the ordinary units: a lane multiplies its weights with all 8 rows, for the
// elements it holds; the four lanes of a row are added up at the end.
template <int kTiles>
class Accumulator<Float32, kTiles> {
 public:
  // `stage`: 2 x 32 x 16 bytes of shared memory of this warp's own.
  JP_DEVICE explicit Accumulator(Vec16B* stage) : stage_(stage) {}

  template <class Refill>
  JP_DEVICE void Add(const WeightFragments<kTiles>& w, const Vec16B& vector, int rows,
                     const Refill& refill) {
    const int lane = arch::Lane(), t = lane % 4;
    stage_[lane] = vector;
    refill();
    arch::SyncWarp();
    JP_UNROLL
    for (int n = 0; n < kTileRows; ++n) {
      if (n >= rows) break;
      const Vec16B other = stage_[4 * n + t];
      JP_UNROLL
      for (int k = 0; k < 4; ++k) {
        const float x = arch::FloatOf(other.word[k]);
        JP_UNROLL
        for (int i = 0; i < 2 * kTiles; ++i) {
          sum_[i][n] += arch::FloatOf(w.Of(k, i / 2, i % 2)) * x;
        }
      }
    }
    // The next chunk goes to the other half: by when this one is used again, all have read it.
    half_ = kLanes - half_;
    stage_ += half_ ? kLanes : -kLanes;
  }

  // Each lane keeps the columns 2t and 2t+1 of what the four lanes of its row have in all.
  JP_DEVICE void Finish(float (&value)[kTiles][4]) {
    const int t = arch::Lane() % 4;
    JP_UNROLL
    for (int i = 0; i < 2 * kTiles; ++i) {
      float* sum = sum_[i];
      float pair[4];
      JP_UNROLL
      for (int n = 0; n < 4; ++n) {
        const float kept = t < 2 ? sum[n] : sum[n + 4], sent = t < 2 ? sum[n + 4] : sum[n];
        pair[n] = kept + arch::ShuffleXor(sent, 2);
      }
      JP_UNROLL
      for (int n = 0; n < 2; ++n) {
        const float kept = t % 2 ? pair[n + 2] : pair[n], sent = t % 2 ? pair[n] : pair[n + 2];
        value[i / 2][i % 2 * 2 + n] = kept + arch::ShuffleXor(sent, 1);
      }
    }
  }

 private:
  float sum_[2 * kTiles][kTileRows] = {};
  Vec16B* stage_;
  int half_ = 0;
};

}  // namespace jp::cuda
