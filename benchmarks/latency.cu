// SPDX-License-Identifier: Apache-2.0
// What latency.py times, with the kernels' own instructions. No wait is without an end.
#include "cuda/arch.h"

using namespace jp::cuda;
using namespace jp::cuda::arch;

struct Args {
  long long* cycles;  // the result: -1 if something did not come. Words of 0 follow.
  int steps;
  int each;  // arrival: messages of 16 bytes to a block
};

JP_DEVICE uint32_t* Words(const Args& a) { return reinterpret_cast<uint32_t*>(a.cycles) + 1024; }

// All of it is used, or the compiler would load less.
JP_DEVICE uint32_t AnyOf(const Vec16B& q) { return q.word[0] | q.word[1] | q.word[2] | q.word[3]; }

constexpr int kLooks = 1 << 20, kTries = 1 << 12;

// Blocks 0 and 1 answer each other through L2; all other warps watch.
extern "C" JP_KERNEL(256) trip(const Args a) {
  long long began = 0;
  bool late = false;
  for (int step = 0; step <= a.steps && !late; ++step) {
    if (step == 1) began = clock64();
    for (int turn = 0; turn < 2; ++turn) {
      uint32_t* word = Words(a) + 32 * turn;
      const auto next = static_cast<uint32_t>(step + 1);
      if (BlockIndex() == turn && ThreadIndex() < kLanes) {
        if (ThreadIndex() == 0) StoreRelaxed(word, next);
        continue;
      }
      int looks = 0;
      while (AnyOf(LoadRelaxed(word)) < next && ++looks < kLooks) {
      }
      late |= looks == kLooks;
    }
  }
  if (BlockIndex() == 0 && ThreadIndex() == 0) *a.cycles = late ? -1 : clock64() - began;
}

// All blocks of a cluster, 4 or 16, send to all, and wait for all.
extern "C" JP_KERNEL(256) arrival(const Args a) {
  auto* barriers = reinterpret_cast<uint64_t*>(SharedMemory());
  unsigned char* places = SharedMemory() + 128;
  const int size = static_cast<int>(gridDim.x), shift = size == 16 ? 4 : 2;
  const int bytes = 16 * a.each * size, stride = static_cast<int>(blockDim.x) >> shift;
  if (ThreadIndex() == 0) {
    InitByteBarrier(&barriers[0]);
    InitByteBarrier(&barriers[1]);
    FenceByteBarrierInit();
  }
  const int rank = ThreadIndex() & (size - 1);  // to which this thread sends
  const ClusterAddress there = MapToRank(places + 16 * a.each * BlockIndex(), rank);
  const ClusterAddress barrier = MapToRank(barriers, rank);
  SyncCluster();
  long long began = 0;
  bool late = false;
  for (int step = 0; step <= a.steps && !late; ++step) {
    if (step == 1) began = clock64();
    const int phase = step & 1;
    if (ThreadIndex() == 0) ArriveExpectingBytes(&barriers[phase], static_cast<uint32_t>(bytes));
    for (int n = ThreadIndex() >> shift; n < a.each; n += stride) {
      StoreAsync(there + phase * bytes + 16 * n, {}, barrier + 8 * phase);
    }
    int tries = 0;
    while (!TryWait(&barriers[phase], step >> 1 & 1) && ++tries < kTries) {
    }
    late = tries == kTries;
  }
  const long long ended = clock64();
  SyncCluster();
  if (BlockIndex() == 0 && ThreadIndex() == 0) *a.cycles = late ? -1 : ended - began;
}

// One warp's loads from L2, kLoads at a time: 64 bytes of each of 8 rows, as of a message. All
// words are 0, which the compiler does not know.
template <int kLoads>
JP_DEVICE void Load(const Args& a) {
  const int pitch = 64 * kLoads * a.steps;
  const auto* at = reinterpret_cast<const unsigned char*>(Words(a)) + Lane() / 4 * pitch;
  at += Lane() % 4 * 16;
  uint32_t none = 0;
  const long long began = clock64();
  for (int step = 0; step < a.steps; ++step) {
    Vec16B found[kLoads];
    JP_UNROLL
    for (int n = 0; n < kLoads; ++n) found[n] = LoadRelaxed(at + 64 * n);
    JP_UNROLL
    for (int n = kLoads - 1; n >= 0; --n) none |= AnyOf(found[n]);  // the last asked for first
    at += 64 * kLoads + none;  // no load of the next step before the last of this one
  }
  const long long ended = clock64();
  if (ThreadIndex() == 0) *a.cycles = ended - began + none;
}
extern "C" JP_KERNEL(kLanes) load_1(const Args a) { Load<1>(a); }
extern "C" JP_KERNEL(kLanes) load_4(const Args a) { Load<4>(a); }
extern "C" JP_KERNEL(kLanes) load_8(const Args a) { Load<8>(a); }
