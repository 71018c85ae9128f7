// What the forward and the backward kernel share: a block's place, its team, its product, and the
// (unit, row) pairs that each lane looks after.
#pragma once

#include "cuda/step_gemm.h"
#include "cuda/block_exchange.h"

namespace jp::cuda {

// One (unit, row) pair of a tile.
struct Pair {
  int b, unit;
  bool exists;  // in the batch and in H
};

template <class Number, KernelTraits kTraits, class Arrays, template <class, class> class Team>
class Pass {
 protected:
  using Bits = typename Number::Bits;
  static constexpr int kSlots = kTraits.slots();

  JP_DEVICE explicit Pass(const LaunchArgs<Arrays>& args)
      : args_(args),
        shape_(args.shape),
        at_(args.pass, args.shape),
        layout_{args.shape, at_.group},
        team_(args, at_, kTraits.segments),
        product_(args.pass, at_, args.streamed) {}

  // Warps past the last unit have nothing to do but to wait for their block.
  JP_DEVICE bool HasUnits() const { return at_.unit_block < args_.pass.unit_blocks; }

  // The warps of a unit block take its pairs in turn: where K is cut into as many parts as a lane
  // has pairs, or more, a warp looks after one at most.
  template <class F>
  JP_DEVICE void ForEachOwnSlot(const F& f) const {
    for (int slot = at_.warp_k; slot < kSlots; slot += args_.pass.warps_k) f(slot);
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
    const int left = shape_.batch - RowOf(tile, 0);
    return left < kTileRows ? left : kTileRows;
  }
  // Slot 2 half + column: unit row + 8 half of the block, batch row 2t + column of the tile.
  JP_DEVICE int FirstUnit(int slot) const {
    return at_.unit_block * kTraits.units() + slot / 2 * 8;
  }
  JP_DEVICE int RowInTile(int slot) const { return 2 * at_.t + slot % 2; }
  JP_DEVICE Pair PairOf(int tile, int slot) const {
    const int b = RowOf(tile, RowInTile(slot)), unit = FirstUnit(slot) + at_.row;
    return {b, unit, b < shape_.batch && unit < shape_.hidden};
  }

  // Rows that only pad a batch may hold any length.
  JP_DEVICE int Length(int b) const {
    const int length = b < shape_.batch ? args_.arrays.lengths[at_.group * shape_.batch + b] : 0;
    return length < shape_.steps ? length : shape_.steps;
  }
  JP_DEVICE const Bits* StateRow(const void* array, int b) const {
    return static_cast<const Bits*>(array) + layout_.state(b);
  }
  JP_DEVICE float LoadState(const void* array, const Pair& p) const {
    return p.exists ? Number::ToFloat(StateRow(array, p.b)[p.unit]) : 0.0f;
  }
  JP_DEVICE void StoreState(void* array, const Pair& p, float value) const {
    if (p.exists) {
      static_cast<Bits*>(array)[layout_.state(p.b) + p.unit] = Number::FromFloat(value);
    }
  }

  // Values of one pair at one time, kCount of them, H elements apart, or zeros: as bits, so that
  // nothing waits for them before they are used. Those that are `ahead` in time go into L2.
  template <int kCount>
  JP_DEVICE void Load(const void* array, int time, int ahead, const Pair& p, bool wanted,
                      Bits (&values)[kCount]) const {
    const Bits* from = static_cast<const Bits*>(array) +
                       layout_.sequence(p.b, time, kCount * shape_.hidden) + p.unit;
    const int64_t rows = ahead * (shape_.time_major ? shape_.batch : 1);
    const bool exists = wanted && time + ahead >= 0 && time + ahead < shape_.steps;
    JP_UNROLL
    for (int i = 0; i < kCount; ++i) values[i] = wanted ? from[i * shape_.hidden] : Bits{0};
    // The eight lanes of a batch row share a line; each fetches that of another value.
    if (exists && at_.row < kCount) {
      arch::Prefetch(from + (rows * kCount + at_.row) * shape_.hidden);
    }
  }
  template <int kCount>
  JP_DEVICE static void ToFloats(const Bits (&bits)[kCount], float (&values)[kCount]) {
    JP_UNROLL
    for (int i = 0; i < kCount; ++i) values[i] = Number::ToFloat(bits[i]);
  }
  template <int kCount>
  JP_DEVICE void Store(void* array, int time, const Pair& p, const float (&values)[kCount]) const {
    Bits* to =
        static_cast<Bits*>(array) + layout_.sequence(p.b, time, kCount * shape_.hidden) + p.unit;
    JP_UNROLL
    for (int i = 0; i < kCount; ++i) {
      if (p.exists) to[i * shape_.hidden] = Number::FromFloat(values[i]);
    }
  }

  // What a pair keeps from step to step, in shared memory, touched by its own lane alone.
  JP_DEVICE float& Kept(int tile, int slot, int state) const {
    float* states = reinterpret_cast<float*>(arch::SharedMemory() + args_.pass.states);
    const int block = tile * args_.pass.warps_m + at_.warp_m;
    return states[((block * kSlots + slot) * kTraits.states + state) * kLanes + at_.lane];
  }

  const LaunchArgs<Arrays>& args_;
  const Shape& shape_;
  const ThreadCoords at_;
  const Layout layout_;
  Team<Number, Arrays> team_;
  StepGemm<Number, kTraits> product_;
};

}  // namespace jp::cuda
