// SPDX-License-Identifier: Apache-2.0
// What latency.py times, with the kernels' own instructions and waits.
#include "cuda/transports.h"

using namespace jp::cuda;
using namespace jp::cuda::arch;

constexpr int kSteps = 64, kMessage = 1024;  // bytes, from each block of a cluster to each

// Cycles of a step, once all blocks have started: `look` is called until it is true.
template <class Look>
JP_DEVICE void Time(uint32_t* cycles, const Look& look) {
  long long began = 0;
  for (int step = 0; step <= kSteps; ++step) {
    if (step == 1) began = clock64();
    Timeout timeout(100'000'000);
    for (bool first = true; !look(step, first); first = false) {
      if (timeout.Expired()) Trap("latency", step, 1, 0);
    }
    SyncWarp();
  }
  if (BlockIndex() == 0 && ThreadIndex() == 0) *cycles = (clock64() - began) / kSteps;
}

// Blocks 1 and 0 store by turns, each time in another line; all other warps watch.
extern "C" JP_KERNEL(256) trip(uint32_t* words) {
  Time(words, [&](int step, bool) {
    const bool stores = BlockIndex() == (step + 1) % 2 && ThreadIndex() < kLanes;
    if (stores && Lane() == 0) StoreRelaxed(words + 32 * step + 32, kUnwritten);
    return stores || Unwritten(LoadRelaxed(words + 32 * step + 32));
  });
}

// Each block of a cluster sends a message to each. Barriers are two deep; nobody reads the bytes.
extern "C" JP_KERNEL(256) arrival(uint32_t* words) {
  auto* barriers = reinterpret_cast<uint64_t*>(SharedMemory());
  unsigned char* mine = SharedMemory() + 128 + kMessage * BlockIndex() + ThreadIndex() / 4 * 16;
  if (ThreadIndex() < 2) InitByteBarrier(&barriers[ThreadIndex()]);
  FenceByteBarrierInit();
  SyncCluster();
  Time(words, [&](int step, bool first) {
    uint64_t* barrier = &barriers[step % 2];
    if (first && ThreadIndex() == 0) ArriveExpectingBytes(barrier, kMessage * gridDim.x);
    for (int rank = ThreadIndex() % 4; first && rank < gridDim.x; rank += 4) {
      StoreAsync(MapToRank(mine, rank), {}, MapToRank(barrier, rank));
    }
    return TryWait(barrier, step / 2 % 2);
  });
  SyncCluster();
}

// One warp's loads from L2, so many at once: 64 bytes of each of 8 rows, as of a message.
template <int kLoads>
JP_DEVICE void Load(uint32_t* words) {
  const uint32_t* row = words + 32 + Lane() / 4 * 16 * kLoads * (kSteps + 1) + Lane() % 4 * 4;
  Time(words, [&](int step, bool) {
    Vec16B found[kLoads];
    bool all = true;
    for (int n = 0; n < kLoads; ++n) found[n] = LoadRelaxed(row + 16 * (kLoads * step + n));
    for (int n = kLoads - 1; n >= 0; --n) all &= !Unwritten(found[n]);
    return all;
  });
}
extern "C" JP_KERNEL(kLanes) load_1(uint32_t* words) { Load<1>(words); }
extern "C" JP_KERNEL(kLanes) load_4(uint32_t* words) { Load<4>(words); }
