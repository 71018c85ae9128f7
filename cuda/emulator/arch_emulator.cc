// SPDX-License-Identifier: Apache-2.0
// The intrinsics that check their arguments, or act on other lanes and blocks.
#include "cuda/emulator/arch_emulator.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <sstream>
#include <utility>

#include "cuda/emulator/byte_barrier.h"
#include "cuda/emulator/grid.h"

namespace jp::cuda::arch {
namespace {

using emulator::Stop;
using emulator::ThisLane;

// One call in so many is held up for long, where there is jitter.
constexpr uint32_t kRarity = 256;

emulator::Block& ThisBlock() { return ThisLane().warp->block; }
emulator::Grid& ThisGrid() { return ThisLane().warp->grid; }
bool IsLost() { return ThisBlock().index == ThisGrid().options.lost_block; }

void CheckAligned(const void* address, size_t alignment, const char* what) {
  if (reinterpret_cast<uintptr_t>(address) % alignment == 0) return;
  std::ostringstream text;
  text << what << " at " << address << ", not a multiple of " << alignment;
  ThisLane().Fail(text.str());
}

emulator::ByteBarrier OwnByteBarrier(uint64_t* barrier, const char* what) {
  CheckAligned(barrier, sizeof *barrier, what);
  if (!ThisBlock().Holds(barrier, sizeof *barrier)) {
    ThisLane().Fail(std::string(what) + ": the byte barrier is not in the block's shared memory");
  }
  return emulator::ByteBarrier(barrier);
}

void Check(const char* wrong, const char* what) {
  if (wrong != nullptr) ThisLane().Fail(std::string(what) + ": " + wrong);
}

}  // namespace

void SyncBlock() { ThisLane().SyncFor(Stop::kSyncBlock, ThisBlock().barriers[0]); }

void SyncNamed(int id, int threads) {
  const int most = ThisGrid().shape.threads;
  if (id < 1 || id > 15 || threads <= 0 || threads > most || threads % kLanes != 0) {
    ThisLane().Fail("SyncNamed(" + std::to_string(id) + ", " + std::to_string(threads) +
                    "): expected an id from 1 to 15 and whole warps of a block of " +
                    std::to_string(most) + " threads");
  }
  ThisLane().SyncFor(Stop::kSyncNamed, ThisBlock().barriers[id],
                     static_cast<uint32_t>(id + 16 * (threads / kLanes)));
}

void SyncCluster() {
  ThisLane().SyncFor(Stop::kSyncCluster, ThisGrid().cluster_barrier(BlockIndex()));
}

Vec16B LoadRelaxed(const void* from) {
  CheckAligned(from, sizeof(Vec16B), "LoadRelaxed");
  emulator::Lane& lane = ThisLane();
  lane.Check();
  auto* const words = static_cast<uint32_t*>(const_cast<void*>(from));
  int order[4] = {0, 1, 2, 3};
  for (uint32_t i = 4; i > 1; --i) std::swap(order[i - 1], order[lane.dice.Roll(i)]);
  Vec16B q;
  for (int i : order) {
    q.word[i] = std::atomic_ref(words[i]).load(std::memory_order_relaxed);
    lane.Delay(16 * kRarity);
  }
  return q;
}

void StoreRelaxed(uint32_t* to, uint32_t word) {
  ThisLane().Delay(kRarity);
  if (IsLost()) return;
  std::atomic_ref(*to).store(word, std::memory_order_relaxed);
}

uint32_t LoadAcquire(const uint32_t* from) {
  ThisLane().Check();
  return std::atomic_ref(*const_cast<uint32_t*>(from)).load(std::memory_order_acquire);
}

void AddRelease(uint32_t* to, uint32_t amount) {
  ThisLane().Delay(kRarity);
  if (IsLost()) return;
  std::atomic_ref(*to).fetch_add(amount, std::memory_order_release);
}

void Prefetch(const void* address) {
  auto* const byte = static_cast<unsigned char*>(const_cast<void*>(address));
  static_cast<void>(std::atomic_ref(*byte).load(std::memory_order_relaxed));
}

ClusterAddress MapToRank(const void* local, int rank) {
  emulator::Block& block = ThisBlock();
  if (rank < 0 || rank >= ThisGrid().shape.cluster || !block.Holds(local, 1)) {
    ThisLane().Fail(
        "MapToRank: expected an address in the block's shared memory and a rank below " +
        std::to_string(ThisGrid().shape.cluster) + ", got rank " + std::to_string(rank));
  }
  const auto offset = static_cast<const unsigned char*>(local) - block.shared();
  return reinterpret_cast<ClusterAddress>(ThisGrid().InCluster(block.index, rank).shared() +
                                          offset);
}

void StoreAsync(ClusterAddress to, const Vec16B& q, ClusterAddress barrier) {
  emulator::Lane& lane = ThisLane();
  lane.Delay(kRarity);
  if (IsLost()) return;
  auto* const words = reinterpret_cast<uint32_t*>(to);
  auto* const counter = reinterpret_cast<uint64_t*>(barrier);
  CheckAligned(words, sizeof q, "StoreAsync");
  CheckAligned(counter, sizeof *counter, "StoreAsync's byte barrier");
  if (ThisGrid().shape.cluster == 1) lane.Fail("StoreAsync: undefined in a cluster of one block");
  for (int rank = 0; rank < ThisGrid().shape.cluster; ++rank) {
    emulator::Block& block = ThisGrid().InCluster(BlockIndex(), rank);
    if (block.Holds(words, sizeof q) && block.Holds(counter, sizeof *counter)) {
      return lane.StoreAsync({&block, words, q, counter});
    }
  }
  lane.Fail("StoreAsync: memory and byte barrier are not in one block of the cluster");
}

void InitByteBarrier(uint64_t* barrier) { OwnByteBarrier(barrier, "InitByteBarrier").Init(); }

void ArriveExpectingBytes(uint64_t* barrier, uint32_t bytes) {
  Check(OwnByteBarrier(barrier, "ArriveExpectingBytes").Arrive(static_cast<int32_t>(bytes)),
        "ArriveExpectingBytes");
}

bool TryWait(uint64_t* barrier, uint32_t parity) {
  ThisLane().Delay(kRarity);
  bool completed = false;
  Check(OwnByteBarrier(barrier, "TryWait").TryWait(parity, &completed), "TryWait");
  if (!completed) ThisLane().StopFor(Stop::kPause);
  return completed;
}

void Pause() {
  ThisLane().Delay(kRarity);
  ThisLane().StopFor(Stop::kPause);
}

uint64_t Nanoseconds() {
  const auto now = emulator::Clock::now().time_since_epoch();
  const uint64_t leaps = ThisLane().clock_looks++ * ThisGrid().options.clock_leap_ns;
  return static_cast<uint64_t>(std::chrono::nanoseconds(now).count()) + leaps;
}

void Trap(const char* kernel, int step, uint32_t expected, uint32_t seen) {
  std::ostringstream text;
  text << "jax_persistent." << kernel << ": block " << BlockIndex() << " gave up waiting at step "
       << step << ": expected 0x" << std::hex << expected << ", saw 0x" << seen;
  ThisGrid().Fail(text.str());
  throw emulator::LaunchEnded{};
}

}  // namespace jp::cuda::arch
