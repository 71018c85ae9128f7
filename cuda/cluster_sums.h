// SPDX-License-Identifier: Apache-2.0
// A product whose K is cut over the blocks of a cluster: each multiplies its part for the units of
// all of them, and each unit's sums travel to the block that looks after it.
//
// They go into its shared memory, two steps deep, and one of its byte barriers counts them. A block
// sends a step's sums when all its warps have come to the product, after they have read those of
// the step before from all blocks; and each of those was sent when all of its sender's warps had
// read the ones before that: what is overwritten has been read.
#pragma once

#include "cuda/message_barriers.h"

namespace jp::cuda {

// Of passes with one sum a unit: the four slots of sixteen units are one vector of a lane.
template <class Arrays>
class ClusterSums {
  static constexpr int kSlots = 4;  // of a vector

 public:
  JP_DEVICE ClusterSums(const LaunchArgs<Arrays>& args, const ThreadCoords& at,
                        const TileEnds<Arrays>& ends, int slots)
      : args_(args),
        at_(at),
        ends_(ends),
        barriers_(args, ends),
        vectors_(reinterpret_cast<Vec16B*>(arch::SharedMemory() + args.geometry.sums) + at.lane),
        each_(slots / kSlots / args.geometry.cut) {}

  JP_DEVICE bool Exist() const { return args_.geometry.cut > 1; }

  // Whole block.
  JP_DEVICE void Start() const {
    barriers_.Start(at_.tiles, [this](int) { return Bytes(); });
    arch::SyncCluster();
  }

  // After the product, every warp: it adds up some of the others' sums and sends them. `sum_of`:
  // a slot's.
  template <class SumOf>
  JP_DEVICE void Send(int step, int tile, const SumOf& sum_of) const {
    const Geometry& g = args_.geometry;
    // The last warps first, for the first ones look after pairs.
    for (int i = g.warps_k - 1 - at_.warp_k; i < each_ * (g.cut - 1); i += g.warps_k) {
      const int rank = i / each_ < at_.part ? i / each_ : i / each_ + 1, which = i % each_;
      Vec16B sums;
      JP_UNROLL
      for (int slot = 0; slot < kSlots; ++slot) {
        sums.word[slot] = arch::BitsOf(sum_of((rank * each_ + which) * kSlots + slot));
      }
      arch::StoreAsync(arch::MapToRank(From(step, tile, at_.part, which), rank), sums,
                       arch::MapToRank(barriers_.Of(step, tile), rank));
    }
  }

  // A warp that looks after pairs, before it asks for a sum of the step. The blocks of a cluster
  // start together, but each waits for blocks that may not have started.
  JP_DEVICE void Await(int step, int tile) const {
    barriers_.Await(step, tile, Bytes(), ContextOf(args_, step, step > ends_.FirstMessage(tile)));
  }

  // A slot's sum over all blocks, in the order of their ranks. `own`: this block's.
  JP_DEVICE float Total(int step, int tile, int slot, float own) const {
    const int in_block = slot - at_.part * each_ * kSlots;
    float total = 0.0f;
    for (int rank = 0; rank < args_.geometry.cut; ++rank) {
      const Vec16B* from = From(step, tile, rank, in_block / kSlots);
      total += rank == at_.part ? own : arch::FloatOf(from->word[in_block % kSlots]);
    }
    return total;
  }

 private:
  JP_DEVICE uint32_t Bytes() const {
    return static_cast<uint32_t>((args_.geometry.cut - 1) * each_ * kLanes) * sizeof(Vec16B);
  }
  JP_DEVICE Vec16B* From(int step, int tile, int rank, int which) const {
    const int message = MessageBarriers<Arrays>::Which(step, tile) * args_.geometry.cut + rank;
    return vectors_ + (message * each_ + which) * kLanes;
  }

  const LaunchArgs<Arrays>& args_;
  const ThreadCoords at_;
  const TileEnds<Arrays> ends_;
  const MessageBarriers<Arrays> barriers_;
  Vec16B* vectors_;
  int each_;  // vectors of a lane that a block receives of another
};

}  // namespace jp::cuda
