// SPDX-License-Identifier: Apache-2.0
// A warp: one thread of the operating system, whose 32 lanes run in turns.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/arch_types.h"
#include "cuda/emulator/fiber.h"
#include "cuda/emulator/grid.h"

namespace jp::cuda::emulator {

// Why a lane does not run. All but the first three are collective: every lane of the warp must
// come.
enum class Stop : uint32_t {
  kNone,
  kPause,
  kEnd,
  kWarpIndex,
  kSyncWarp,
  kShuffle,
  kShuffleXor,
  kMultiply,
  kSyncBlock,
  kSyncNamed,
  kSyncCluster,
};

// A StoreAsync under way.
struct PendingStore {
  Block* block;
  uint32_t* to;
  Vec16B value;
  uint64_t* barrier;
};

class Warp;

// A lane as its own code sees it: every member function is for the lane itself to call. What lane
// and warp tell each other is in atomics, since switching between them orders no memory.
class Lane {
 public:
  Lane() = default;

  // Suspends the lane; the others go on, and this one when the warp has dealt with its reason.
  // `detail` must be the same in all lanes of a collective.
  void StopFor(Stop why, uint32_t detail = 0);
  // The same, between what orders memory among those who meet.
  void SyncFor(Stop why, Barrier& barrier, uint32_t detail = 0);
  void SyncWarp();
  void StoreAsync(const PendingStore& store);
  // Runs the lane to its end, or to the launch's.
  void Run(const std::function<void()>& thread);

  // Unwinds the lane if the launch has failed.
  void Check() const;
  [[noreturn]] void Fail(const std::string& what);
  void Delay(uint32_t rarity);

  void Put(int i, uint32_t word) { words_[i].store(word, std::memory_order_relaxed); }
  uint32_t Got(int i) const { return words_[i].load(std::memory_order_relaxed); }

  Warp* warp = nullptr;
  int thread = 0;  // of the block
  Dice dice{0};
  uint64_t clock_looks = 0;

 private:
  friend Warp;

  void Deliver(size_t i);
  std::string Name() const;

  std::unique_ptr<Fiber> fiber_;
  bool started_ = false;
  int syncs_ = 0;
  std::vector<PendingStore> pending_;
  std::atomic<uint32_t> stop_ = 0;        // Stop, and its detail above kStopBits
  std::atomic<uint32_t> stores_ = 0;      // how many are pending
  std::atomic<bool> errand_ = false;      // woken to deliver a store, and for nothing else
  std::atomic<uint32_t> words_[10] = {};  // what it gives to and takes from a collective
};

class Warp {
 public:
  // Made before the launch and kept beyond it, fibers with it: a lane that took over another's
  // would seem to ThreadSanitizer to come after it.
  Warp(Grid& grid, Block& block, int index);
  ~Warp();

  // Runs all lanes to their end, on the calling thread.
  void Run(const std::function<void()>& thread);

  Grid& grid;
  Block& block;
  uint64_t order[2] = {};  // SyncWarp's: even and odd ones

 private:
  bool Running() const;
  void RunLanes(const std::function<void()>& thread);
  void RunLane(Lane& lane, const std::function<void()>& thread);
  void DeliverStores(bool all);
  void Settle();
  void Idle();
  void Complete(uint32_t meeting);
  void Meet(Barrier& barrier, int warps);
  void Shuffle();
  void Multiply(Precision precision);
  std::string Name() const;

  const int index_;
  Dice dice_;
  int idle_ = 0;
  Clock::time_point idle_since_;
  Lane lanes_[kLanes];
};

// The lane that runs on this thread of the system.
inline constinit thread_local std::atomic<Lane*> current_lane = nullptr;
inline Lane& ThisLane() { return *current_lane.load(std::memory_order_relaxed); }

}  // namespace jp::cuda::emulator
