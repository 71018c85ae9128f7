// SPDX-License-Identifier: Apache-2.0
// A launch that goes wrong ends, every thread of it, and says why.
#include <chrono>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/arch.h"
#include "tests/native/check.h"

namespace {

using namespace jp::cuda;

enum class Wrong {
  kNothing,
  kTrap,
  kThrow,
  kShuffleOrSync,
  kEndOrSync,
  kOperands,
  kBarrierIds,
  kBarrierSizes,
  kBarrierId,
  kMissingWarp,
  kStuckBarrier,
  kStuckPause,
  kStuckBytes,
  kGuard,
  kUnaligned,
  kNoBarrier,
  kTwoArrivals,
  kRank,
  kEndedBlock,
};

struct Args {
  Wrong wrong;
  uint32_t* words;
};

// Memory that a kernel's guards watch is written by one that the compiler can't follow.
[[gnu::noinline, gnu::no_sanitize_address]] void Poke(unsigned char* at) { *at = 1; }

void GoWrong(const Args& args) {
  auto* const bytes = reinterpret_cast<uint64_t*>(arch::SharedMemory());
  const int thread = arch::ThreadIndex(), block = arch::BlockIndex(), warp = thread / kLanes;
  float sum[4] = {};
  const uint32_t a[4] = {};
  switch (args.wrong) {
    case Wrong::kNothing: break;
    case Wrong::kTrap:
      if (block == 1 && thread == 40) arch::Trap("lstm_forward", 7, 0xffffffff, 0x2a);
      if (block == 0) arch::SyncCluster();
      if (warp == 0) arch::SyncBlock();
      for (;;) arch::Pause();
    case Wrong::kThrow:
      if (block == 2 && thread == 3) throw std::runtime_error("out of luck");
      arch::SyncBlock();
      break;
    case Wrong::kShuffleOrSync:
      if (thread == 5) arch::Shuffle(1, 0);
      arch::SyncWarp();
      break;
    case Wrong::kEndOrSync:
      if (thread == 6) return;
      arch::SyncWarp();
      break;
    case Wrong::kOperands:
      if (thread % 2 == 0) {
        arch::Multiply<Precision::kBfloat16>(sum, a, 0, 0);
      } else {
        arch::Multiply<Precision::kTf32>(sum, a, 0, 0);
      }
      break;
    case Wrong::kBarrierIds: arch::SyncNamed(1 + thread % 2, 64); break;
    case Wrong::kBarrierSizes: arch::SyncNamed(1, warp == 0 ? 32 * 2 : 32 * 1); break;
    case Wrong::kBarrierId: arch::SyncNamed(16, 64); break;
    case Wrong::kMissingWarp:
      if (warp == 0) arch::SyncBlock();
      break;
    case Wrong::kStuckBarrier:
      if (warp == 0) arch::SyncBlock();
      if (warp == 1) arch::SyncNamed(1, 64);
      break;
    case Wrong::kStuckPause:
      for (;;) arch::Pause();
    case Wrong::kStuckBytes:
      if (thread == 0) arch::InitByteBarrier(bytes);
      arch::SyncBlock();
      while (!arch::TryWait(bytes, 0)) {
      }
      break;
    case Wrong::kGuard:
      if (block == 2 && thread == 0) Poke(arch::SharedMemory() + 100);
      break;
    case Wrong::kUnaligned: arch::LoadRelaxed(args.words + 1); break;
    case Wrong::kNoBarrier: arch::TryWait(bytes, 0); break;
    case Wrong::kTwoArrivals:
      if (thread != 0) break;
      arch::InitByteBarrier(bytes);
      arch::ArriveExpectingBytes(bytes, 16);
      arch::ArriveExpectingBytes(bytes, 16);
      break;
    case Wrong::kRank: arch::MapToRank(bytes, 2); break;
    case Wrong::kEndedBlock: {
      if (block == 0) arch::InitByteBarrier(bytes);
      arch::FenceByteBarrierInit();
      arch::SyncCluster();
      const auto until = arch::Nanoseconds() + 100'000'000;
      while (block == 1 && arch::Nanoseconds() < until) arch::Pause();
      if (block == 1 && thread == 9) {
        arch::StoreAsync(arch::MapToRank(bytes + 2, 0), {}, arch::MapToRank(bytes, 0));
      }
      break;
    }
  }
}

JP_KERNEL(64) Kernel(JP_CONSTANT Args args) { GoWrong(args); }

// Four blocks in two clusters, each of two warps and 100 bytes.
void Expect(Wrong wrong, const std::string& words, uint32_t seed = 0) {
  std::vector<Vec16B> memory(2);
  const auto start = std::chrono::steady_clock::now();
  const std::string said = emulator::Launch(Kernel, {wrong, memory[0].word}, {4, 2, 64, 100},
                                            {.jitter_seed = seed, .timeout_seconds = 0.5});
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const bool right = words.empty() ? said.empty() : said.find(words) != std::string::npos;
  CHECK(right, said, "expected", words);
  CHECK(took.count() < 30, words, took.count());
}

void Shapes() {
  const std::vector<emulator::LaunchShape> shapes = {{4, 1, 33, 0}, {4, 1, 0, 0},  {4, 1, 1056, 0},
                                                     {4, 3, 32, 0}, {0, 1, 32, 0}, {2, 0, 32, 0}};
  for (const emulator::LaunchShape& shape : shapes) {
    const std::string said = emulator::Launch(Kernel, {Wrong::kNothing, nullptr}, shape);
    CHECK(said.find("whole warps") != std::string::npos, said);
  }
}

// As many lanes as the tests will ever have, twice, so that fibers are used again.
void Many() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr int kBlocks = 2;
#else
  constexpr int kBlocks = 16;
#endif
  for (int i = 0; i < 2; ++i) {
    const auto kernel = +[](const Args args) {
      for (int step = 0; step < 5; ++step) {
        arch::SyncBlock();
        arch::SyncCluster();
      }
      if (arch::ThreadIndex() == 0) arch::StoreRelaxed(args.words + arch::BlockIndex(), 5);
    };
    std::vector<uint32_t> words(kBlocks);
    const std::string said =
        emulator::Launch(kernel, {Wrong::kNothing, words.data()}, {kBlocks, kBlocks, 256, 64});
    CHECK(said.empty(), said);
    for (uint32_t word : words) CHECK(word == 5, word);
  }
}

}  // namespace

int main() {
  for (uint32_t seed = 0; seed < 3; ++seed) {
    Expect(Wrong::kNothing, "", seed);
    Expect(Wrong::kTrap,
           "jax_persistent.lstm_forward: block 1 gave up waiting at step 7: expected 0xffffffff, "
           "saw 0x2a",
           seed);
    Expect(Wrong::kThrow, "block 2, thread 3 threw: out of luck", seed);
    Expect(Wrong::kShuffleOrSync, "warp 0 diverged", seed);
    Expect(Wrong::kEndOrSync, "warp 0 diverged", seed);
    Expect(Wrong::kEndedBlock, "stored to the shared memory of block", seed);
  }
  Expect(Wrong::kEndOrSync, "thread 0 is in SyncWarp, thread 6 at its end");
  Expect(Wrong::kOperands, " in Multiply of another kind");
  Expect(Wrong::kBarrierIds, "in SyncNamed of another kind");
  Expect(Wrong::kBarrierSizes, "'s barrier 1: one warp expects 64 threads, another 32");
  Expect(Wrong::kBarrierId, "SyncNamed(16, 64): expected an id from 1 to 15");
  Expect(Wrong::kMissingWarp, "'s barrier 0: a warp ended before it came");
  Expect(Wrong::kStuckBarrier, "1 of 2 warps had come at the timeout");
  Expect(Wrong::kStuckPause, "waited too long in Pause");
  Expect(Wrong::kStuckBytes, "waited too long in Pause");
  Expect(Wrong::kGuard, "block 2 wrote beside its shared memory");
  Expect(Wrong::kUnaligned, "not a multiple of 16");
  Expect(Wrong::kNoBarrier, "never initialised");
  Expect(Wrong::kTwoArrivals, "a second arrival");
  Expect(Wrong::kRank, "a rank below 2, got rank 2");
  Shapes();
  Many();
  return jp::test::Finish("emulator: launches that go wrong");
}
