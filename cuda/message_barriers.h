// SPDX-License-Identifier: Apache-2.0
// When all of a message has come into a block's shared memory: barriers that count its bytes.
#pragma once

#include "cuda/tile_ends.h"
#include "cuda/transports.h"

namespace jp::cuda {

// Two a tile, for even and odd steps: messages are two deep. Each has a phase every second step,
// from the first that has a product on.
template <class Arrays>
class MessageBarriers {
 public:
  JP_DEVICE MessageBarriers(const LaunchArgs<Arrays>& args, const TileEnds<Arrays>& ends)
      : ends_(ends),
        barriers_(reinterpret_cast<uint64_t*>(arch::SharedMemory() + args.geometry.barriers)) {}

  // Whole block, with a SyncCluster behind it. `bytes(tile)`: of a message.
  template <class BytesOf>
  JP_DEVICE void Start(int tiles, const BytesOf& bytes) const {
    if (arch::ThreadIndex() >= 2 * tiles) return;
    uint64_t* barrier = barriers_ + arch::ThreadIndex();
    arch::InitByteBarrier(barrier);
    arch::FenceByteBarrierInit();
    arch::ArriveExpectingBytes(barrier, bytes(arch::ThreadIndex() / 2));
  }

  JP_DEVICE static int Which(int step, int tile) { return 2 * tile + (step & 1); }
  JP_DEVICE uint64_t* Of(int step, int tile) const { return barriers_ + Which(step, tile); }

  // `bytes`: of the message after the next, which takes this one's place. Its phase cannot end
  // before this block has taken part in the step between.
  JP_DEVICE void Await(int step, int tile, uint32_t bytes, const TimeoutContext& context) const {
    const uint32_t parity = static_cast<uint32_t>((step - ends_.FirstMessage(tile)) / 2) & 1;
    uint64_t* barrier = Of(step, tile);
    Timeout timeout(context.timeout_ns, 1);
    while (!arch::TryWait(barrier, parity)) {
      if (timeout.Expired()) arch::Trap(context.kernel, context.step, parity, !parity);
    }
    if (arch::ThreadIndex() == 0) arch::ArriveExpectingBytes(barrier, bytes);
  }

 private:
  const TileEnds<Arrays> ends_;
  uint64_t* barriers_;
};

}  // namespace jp::cuda
