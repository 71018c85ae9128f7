// SPDX-License-Identifier: Apache-2.0
// What the forward and the backward kernel share: a block's place, its exchange with the others,
// its product, and the (unit, row) pairs that each lane looks after.
#pragma once

#include "cuda/block_exchange.h"
#include "cuda/cluster_sums.h"
#include "cuda/step_gemm.h"

namespace jp::cuda {

// One (unit, row) pair of a tile.
struct Pair {
  int b, unit;
  bool exists;  // in the batch and in H
};

// The residual that holds the private state s, from 1 on: cell.h puts those states last.
template <class Cell>
constexpr int ResidualOfState(int s) {
  return Cell::kResiduals - Cell::kStates + s;
}

template <class Dtype, KernelTraits kTraits, class Arrays,
          template <class, class> class BlockExchange>
class PassBase {
 protected:
  using Bits = typename Dtype::Bits;
  static constexpr int kSlots = kTraits.slots();

  JP_DEVICE explicit PassBase(const LaunchArgs<Arrays>& args)
      : args_(args),
        at_(args.geometry, args.rows.batch),
        ends_(args, at_.group),
        exchange_(args, at_, ends_, kTraits.segments),
        gemm_(args.geometry, at_, args.streamed) {}

  // Warps past the last unit have nothing to do but to wait for their block.
  JP_DEVICE bool HasUnits() const { return at_.unit_block < args_.geometry.unit_blocks; }

  // Slots of a lane that its block looks after: the blocks that share K share them out, too.
  JP_DEVICE int SlotsOfBlock() const { return kSlots / args_.geometry.cut; }
  JP_DEVICE int FirstSlotOfBlock() const { return at_.part * SlotsOfBlock(); }
  // The warps of a unit block take its pairs in turn: where K is cut into as many parts as a lane
  // has pairs, or more, a warp looks after one at most.
  JP_DEVICE bool HasSlot() const { return at_.warp_k < SlotsOfBlock(); }
  JP_DEVICE int FirstSlot() const { return FirstSlotOfBlock() + at_.warp_k; }
  template <class F>
  JP_DEVICE void ForEachOwnSlot(const F& f) const {
    const int end = FirstSlotOfBlock() + SlotsOfBlock();
    for (int slot = FirstSlot(); slot < end; slot += args_.geometry.warps_k) f(slot);
  }
  template <class F>
  JP_DEVICE void ForEachOwnPair(const F& f) const {
    ForEachOwnSlot([&](int slot) {
      for (int tile = 0; tile < at_.tiles; ++tile) f(tile, slot);
    });
  }

  JP_DEVICE int RowOf(int tile, int in_tile) const {
    return (at_.first_tile + tile) * kTileRows + in_tile;
  }
  JP_DEVICE int RowsOf(int tile) const {
    const int left = args_.rows.batch - RowOf(tile, 0);
    return left < kTileRows ? left : kTileRows;
  }
  // Slot 2 eight + column: unit row + 8 eight of the block, batch row 2t + column of the tile.
  JP_DEVICE int FirstUnit(int slot) const {
    return at_.unit_block * kTraits.units() + slot / 2 * 8;
  }
  JP_DEVICE int RowInTile(int slot) const { return 2 * at_.t + slot % 2; }
  JP_DEVICE Pair PairOf(int tile, int slot) const {
    const int b = RowOf(tile, RowInTile(slot)), unit = FirstUnit(slot) + at_.row;
    return {b, unit, b < args_.rows.batch && unit < args_.hidden};
  }

  JP_DEVICE Rows<int> rows() const { return args_.RowsOf(at_.group); }

  // Where row b begins in an array of states, and (row b, time) in one of sequences.
  JP_DEVICE int64_t StateOffset(int b) const {
    return (int64_t{at_.group} * args_.rows.batch + b) * args_.hidden;
  }
  JP_DEVICE int64_t SequenceOffset(int b, int time, int features) const {
    const Rows<int>& r = args_.rows;
    return (args_.FirstRow(at_.group) + r.Index(b, time) * args_.ways) * features;
  }

  JP_DEVICE const Bits* StateRow(const void* array, int b) const {
    return static_cast<const Bits*>(array) + StateOffset(b);
  }
  // Of a pair that exists; an operand that a problem has not stands for zeros.
  JP_DEVICE Bits StateBits(const void* array, const Pair& p) const {
    return array != nullptr ? StateRow(array, p.b)[p.unit] : Bits{0};
  }
  JP_DEVICE float LoadState(const void* array, const Pair& p) const {
    return p.exists ? Dtype::ToFloat(StateBits(array, p)) : 0.0f;
  }
  JP_DEVICE void StoreState(void* array, const Pair& p, float value) const {
    if (p.exists) static_cast<Bits*>(array)[StateOffset(p.b) + p.unit] = Dtype::FromFloat(value);
  }

  // Values of one pair at one time, kCount of them, H elements apart, or zeros: as bits, so that
  // nothing waits for them before they are used. Those that are `ahead` in time go into L2.
  template <int kCount>
  JP_DEVICE void Load(const void* array, int time, int ahead, const Pair& p, bool wanted,
                      Bits (&values)[kCount]) const {
    const Bits* from =
        static_cast<const Bits*>(array) + SequenceOffset(p.b, time, kCount * args_.hidden) + p.unit;
    const int64_t rows = ahead * (args_.rows.time_major ? args_.rows.batch : 1) * args_.ways;
    const bool exists = wanted && time + ahead >= 0 && time + ahead < args_.rows.steps;
    JP_UNROLL
    for (int i = 0; i < kCount; ++i) values[i] = wanted ? from[i * args_.hidden] : Bits{0};
    // The eight lanes of a batch row share a line; each fetches that of another value.
    if (exists && at_.row < kCount) {
      arch::Prefetch(from + (rows * kCount + at_.row) * args_.hidden);
    }
  }
  // Brings the flag that is read at `time`, for the step after it, into L2.
  JP_DEVICE void PrefetchReset(const Pair& p, int time) const {
    const Rows<int> rows = this->rows();
    const int after = rows.After(time);
    const bool exists = p.exists && after >= 0 && after < rows.steps;
    if (rows.resets != nullptr && exists && at_.row == 0) {
      arch::Prefetch(rows.resets + rows.Index(p.b, after));
    }
  }
  template <int kCount>
  JP_DEVICE static void ToFloats(const Bits (&bits)[kCount], float (&values)[kCount]) {
    JP_UNROLL
    for (int i = 0; i < kCount; ++i) values[i] = Dtype::ToFloat(bits[i]);
  }
  template <int kCount>
  JP_DEVICE void Store(void* array, int time, const Pair& p, const float (&values)[kCount]) const {
    Bits* to =
        static_cast<Bits*>(array) + SequenceOffset(p.b, time, kCount * args_.hidden) + p.unit;
    JP_UNROLL
    for (int i = 0; i < kCount; ++i) {
      if (p.exists) to[i * args_.hidden] = Dtype::FromFloat(values[i]);
    }
  }

  // What a pair keeps from step to step, in shared memory, touched by its own lane alone.
  JP_DEVICE float& Kept(int tile, int slot, int state) const {
    return OwnFloat(args_.geometry.states, tile, slot, state);
  }
  JP_DEVICE float& ResetSum(int tile, int slot, int state) const {
    return OwnFloat(args_.geometry.reset_sums, tile, slot, state);
  }

  const LaunchArgs<Arrays>& args_;
  const ThreadCoords at_;
  const TileEnds<Arrays> ends_;
  BlockExchange<Dtype, Arrays> exchange_;
  StepGemm<Dtype, kTraits> gemm_;

 private:
  JP_DEVICE float& OwnFloat(int offset, int tile, int slot, int state) const {
    float* floats = reinterpret_cast<float*>(arch::SharedMemory() + offset);
    const int block = tile * args_.geometry.warps_m + at_.warp_m;
    slot -= FirstSlotOfBlock();
    return floats[((block * SlotsOfBlock() + slot) * kTraits.states + state) * kLanes + at_.lane];
  }
};

}  // namespace jp::cuda
