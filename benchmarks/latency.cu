// SPDX-License-Identifier: Apache-2.0
// What latency.py times, with the kernels' own instructions. No wait is without an end.
#include "cuda/arch.h"

using namespace jp::cuda;
using namespace jp::cuda::arch;

struct Args {
  long long* cycles;  // the result: negative if something did not come
  uint32_t* words;    // of 0
  int steps;
  int each;  // arrival: messages of 16 bytes to a block
};

// Looks until it is there, or `most` times; then `late` is set.
template <class Look>
JP_DEVICE void Await(int most, bool& late, const Look& look) {
  int looks = 0;
  while (!look() && ++looks < most) {
  }
  late |= looks == most;
}

// All of it is used, or the compiler would load less.
JP_DEVICE uint32_t AnyOf(const Vec16B& q) { return q.word[0] | q.word[1] | q.word[2] | q.word[3]; }

// Blocks 0 and 1 answer each other through L2; all other warps watch.
extern "C" JP_KERNEL(256) trip(const Args a) {
  long long began = 0;
  bool late = false;
  for (int step = 0; step <= a.steps && !late; ++step) {
    if (step == 1) began = clock64();  // now all have started
    for (int turn = 0; turn < 2; ++turn) {
      uint32_t* word = a.words + 32 * turn;
      const auto next = static_cast<uint32_t>(step + 1);
      if (BlockIndex() != turn || ThreadIndex() >= kLanes) {
        Await(1 << 20, late, [&] { return AnyOf(LoadRelaxed(word)) >= next; });
      } else if (ThreadIndex() == 0) {
        StoreRelaxed(word, next);
      }
    }
  }
  if (BlockIndex() == 0 && ThreadIndex() == 0) *a.cycles = late ? -1 : clock64() - began;
}

// All blocks of a cluster send to all and wait for all, two messages deep.
extern "C" JP_KERNEL(256) arrival(const Args a) {
  const int blocks = static_cast<int>(gridDim.x), bytes = 16 * a.each * blocks;
  auto* barriers = reinterpret_cast<uint64_t*>(SharedMemory());
  unsigned char* mine = SharedMemory() + 128 + 16 * a.each * BlockIndex();
  if (ThreadIndex() == 0) {
    InitByteBarrier(&barriers[0]);
    InitByteBarrier(&barriers[1]);
    FenceByteBarrierInit();
  }
  const int rank = ThreadIndex() % blocks;  // to which this thread sends
  const int first = ThreadIndex() / blocks, stride = 256 / blocks;  // of the messages
  const ClusterAddress there = MapToRank(mine, rank), barrier = MapToRank(barriers, rank);
  SyncCluster();
  long long began = 0;
  bool late = false;
  for (int step = 0; step <= a.steps && !late; ++step) {
    if (step == 1) began = clock64();
    const int phase = step % 2;
    if (ThreadIndex() == 0) ArriveExpectingBytes(&barriers[phase], static_cast<uint32_t>(bytes));
    for (int n = first; n < a.each; n += stride) {
      StoreAsync(there + phase * bytes + 16 * n, {}, barrier + 8 * phase);
    }
    Await(1 << 12, late, [&] { return TryWait(&barriers[phase], step / 2 % 2); });
  }
  const long long ended = clock64();
  SyncCluster();
  if (BlockIndex() == 0 && ThreadIndex() == 0) *a.cycles = late ? -1 : ended - began;
}

// One warp's loads from L2, so many at a time: 64 bytes of each of 8 rows, as of a message. All
// words are 0, which the compiler does not know.
template <int kLoads>
JP_DEVICE void Load(const Args& a) {
  const uint32_t* at = a.words + Lane() / 4 * 16 * kLoads * a.steps + Lane() % 4 * 4;
  uint32_t none = 0;
  const long long began = clock64();
  for (int step = 0; step < a.steps; ++step) {
    Vec16B found[kLoads];
    JP_UNROLL
    for (int n = 0; n < kLoads; ++n) found[n] = LoadRelaxed(at + 16 * n);
    JP_UNROLL
    for (int n = kLoads - 1; n >= 0; --n) none |= AnyOf(found[n]);  // the last asked for first
    at += 16 * kLoads + none;  // no load of the next step before the last of this one
  }
  if (ThreadIndex() == 0) *a.cycles = clock64() - began + none;
}
extern "C" JP_KERNEL(kLanes) load_1(const Args a) { Load<1>(a); }
extern "C" JP_KERNEL(kLanes) load_4(const Args a) { Load<4>(a); }
extern "C" JP_KERNEL(kLanes) load_8(const Args a) { Load<8>(a); }
