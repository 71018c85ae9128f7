// SPDX-License-Identifier: Apache-2.0
// What the emulator carries from block to block, under random delays.
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/arch.h"
#include "tests/native/check.h"

namespace {

using namespace jp::cuda;

struct Words {
  uint32_t* words;
};

// ---- Messages through memory: a ring of blocks where the data is the message.

constexpr int kSteps = 12;
constexpr uint32_t kNothing = ~0u;

// words: [step, block, thread]. A careless reader takes 16 bytes for
// whole when their first word is there.
template <bool kCareless>
JP_KERNEL(64)
Ring(JP_CONSTANT Words args) {
  const int blocks = 3, row = blocks * 64, thread = arch::ThreadIndex();
  const int self = arch::BlockIndex(), from = (self + blocks - 1) % blocks;
  uint32_t sum = static_cast<uint32_t>(self);
  for (int step = 0; step < kSteps; ++step) {
    arch::StoreRelaxed(args.words + step * row + 64 * self + thread, sum);
    const uint32_t* const there = args.words + step * row + 64 * from + thread / 4 * 4;
    for (;;) {
      const Vec16B q = arch::LoadRelaxed(there);
      sum = 0;
      bool whole = true;
      for (uint32_t word : q.word) {
        whole &= word != kNothing;
        sum = sum * 3 + word;
      }
      if (whole || (kCareless && q.word[0] != kNothing)) break;
      arch::Pause();
    }
    sum %= 1000003;
  }
}

// How many words of all that were sent are wrong.
template <bool kCareless>
int WrongMessages(uint32_t seed) {
  std::vector<Vec16B> words(kSteps * 3 * 16, {kNothing, kNothing, kNothing, kNothing});
  const std::string said =
      emulator::Launch(Ring<kCareless>, {words[0].word}, {3, 1, 64, 0}, {.jitter_seed = seed});
  CHECK(said.empty(), said);
  int wrong = 0;
  uint32_t sums[3] = {0, 1, 2};  // all threads of a block send the same
  for (int step = 0; step < kSteps; ++step) {
    for (int i = 0; i < 3 * 16; ++i) {
      for (uint32_t word : words[step * 3 * 16 + i].word) wrong += word != sums[i / 16];
    }
    const uint32_t before[3] = {sums[0], sums[1], sums[2]};
    for (int block = 0; block < 3; ++block) sums[block] = before[(block + 2) % 3] * 40 % 1000003;
  }
  return wrong;
}

// The careless reader must be found out: else this test could not fail.
void Messages() {
  bool found_out = false;
  for (uint32_t seed = 0; seed < 4; ++seed) {
    const int wrong = WrongMessages<false>(seed);
    CHECK(wrong == 0, seed, wrong);
  }
  for (uint32_t seed = 1; seed < 50 && !found_out; ++seed)
    found_out = WrongMessages<true>(seed) > 0;
  CHECK(found_out);
}

// ---- A grid barrier of AddRelease and LoadAcquire orders plain memory.

JP_KERNEL(64) Transpose(JP_CONSTANT Words args) {
  const int blocks = 4, row = blocks * 64;
  uint32_t* const arrivals = args.words;
  uint32_t* data = args.words + 4 + arch::BlockIndex() * 64 + arch::ThreadIndex();
  *data = static_cast<uint32_t>(arch::BlockIndex());
  for (int step = 1; step < 6; ++step) {
    arch::SyncBlock();
    if (arch::ThreadIndex() == 0) {
      arch::AddRelease(arrivals, 1);
      while (arch::LoadAcquire(arrivals) < static_cast<uint32_t>(blocks * step)) arch::Pause();
    }
    arch::SyncBlock();
    uint32_t sum = 0;
    const uint32_t* const before = args.words + 4 + (step - 1) * row;
    for (int block = 0; block < blocks; ++block) sum += before[64 * block + arch::ThreadIndex()];
    data += row;
    *data = sum + static_cast<uint32_t>(arch::BlockIndex());
  }
}

void GridBarrier() {
  std::vector<uint32_t> words(4 + 6 * 4 * 64);
  const std::string said =
      emulator::Launch(Transpose, {words.data()}, {4, 1, 64, 0}, {.jitter_seed = 2});
  CHECK(said.empty(), said);
  uint32_t sum = 6;
  for (int step = 1; step < 6; ++step, sum = 4 * sum + 6) {
    for (uint32_t i = 0; i < 4 * 64; ++i) {
      const uint32_t word = words[4 + step * 256 + i];
      CHECK(word == sum + i / 64, step, i, word, sum);
    }
  }
}

// ---- Clusters: each block sends its part of a vector to all, two buffers deep.

constexpr int kRanks = 3;

JP_KERNEL(64) Gather(JP_CONSTANT Words args) {
  // shared: two byte barriers, then two buffers of [rank, thread of warp 0] Vec16B.
  auto* const barriers = reinterpret_cast<uint64_t*>(arch::SharedMemory());
  auto* const buffers = reinterpret_cast<Vec16B*>(arch::SharedMemory() + 128);
  constexpr int kBuffer = kRanks * kLanes;
  const int rank = arch::BlockIndex() % kRanks, thread = arch::ThreadIndex();
  if (thread < 2) {
    arch::InitByteBarrier(barriers + thread);
    arch::FenceByteBarrierInit();
    arch::ArriveExpectingBytes(barriers + thread, kBuffer * sizeof(Vec16B));
  }
  arch::SyncCluster();
  uint32_t value = static_cast<uint32_t>(arch::BlockIndex());
  for (int step = 0; step < kSteps; ++step) {
    Vec16B* const buffer = buffers + step % 2 * kBuffer;
    uint64_t* const barrier = barriers + step % 2;
    if (thread < kLanes) {
      const Vec16B mine = {value, value + 1, value + 2, static_cast<uint32_t>(step)};
      for (int to = 0; to < kRanks; ++to) {
        arch::StoreAsync(arch::MapToRank(buffer + rank * kLanes + thread, to), mine,
                         arch::MapToRank(barrier, to));
      }
    }
    while (!arch::TryWait(barrier, static_cast<uint32_t>(step / 2 % 2))) {
    }
    value = 0;
    for (int from = 0; from < kRanks; ++from) {
      const Vec16B& q = buffer[from * kLanes + thread % kLanes];
      value = value * 5 + q.word[0] + q.word[1] + q.word[2] + q.word[3];
    }
    value %= 1000003;
    // Both warps have read before the next announcement, and so before anyone's next store here:
    // others send step + 2 only when they have our step + 1.
    arch::SyncBlock();
    if (thread == 0) arch::ArriveExpectingBytes(barrier, kBuffer * sizeof(Vec16B));
  }
  args.words[64 * arch::BlockIndex() + thread] = value;
  arch::SyncCluster();
}

void Cluster(uint32_t seed) {
  std::vector<uint32_t> words(2 * kRanks * 64);
  const size_t shared = 128 + 2 * kRanks * kLanes * sizeof(Vec16B);
  const std::string said = emulator::Launch(
      Gather, {words.data()}, {2 * kRanks, kRanks, 64, shared}, {.jitter_seed = seed});
  CHECK(said.empty(), said);
  for (uint32_t cluster = 0; cluster < 2; ++cluster) {
    uint32_t values[kRanks];
    for (uint32_t i = 0; i < kRanks; ++i) values[i] = cluster * kRanks + i;
    for (uint32_t step = 0; step < kSteps; ++step) {
      uint32_t next = 0;
      for (uint32_t value : values) next = next * 5 + 3 * value + 3 + step;
      for (uint32_t& value : values) value = next % 1000003;
    }
    for (uint32_t i = 0; i < kRanks * 64; ++i) {
      const uint32_t word = words[cluster * kRanks * 64 + i];
      CHECK(word == values[0], cluster, i, word, values[0]);
    }
  }
}

}  // namespace

int main() {
  Messages();
  GridBarrier();
  for (uint32_t seed = 0; seed < 4; ++seed) Cluster(seed);
  return jp::test::Finish("emulator: between blocks");
}
