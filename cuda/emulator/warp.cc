// SPDX-License-Identifier: Apache-2.0
// A warp's lanes in turns: what each stops for, and the collectives that all must come to.
#include "cuda/emulator/warp.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>

#include "cuda/emulator/byte_barrier.h"
#include "cuda/emulator/mma.h"
#include "cuda/emulator/sanitizer.h"

namespace jp::cuda::emulator {
namespace {

constexpr int kStopBits = 4;
constexpr int kYields = 30;  // looks at a still world before the warp's thread sleeps
constexpr int kLongestSleepUs = 400;

Stop WhyOf(uint32_t stop) { return static_cast<Stop>(stop & ((1 << kStopBits) - 1)); }
uint32_t DetailOf(uint32_t stop) { return stop >> kStopBits; }

const char* NameOf(Stop why) {
  switch (why) {
    case Stop::kNone: return "running";
    case Stop::kPause: return "in Pause";
    case Stop::kEnd: return "at its end";
    case Stop::kWarpIndex: return "in Warp";
    case Stop::kSyncWarp: return "in SyncWarp";
    case Stop::kShuffle: return "in Shuffle";
    case Stop::kShuffleXor: return "in ShuffleXor";
    case Stop::kMultiply: return "in Multiply";
    case Stop::kSyncBlock: return "in SyncBlock";
    case Stop::kSyncNamed: return "in SyncNamed";
    case Stop::kSyncCluster: return "in SyncCluster";
  }
  return "lost";
}

uint64_t Seed(const Grid& grid, int block, int thread) {
  return uint64_t{grid.options.jitter_seed} << 40 ^ static_cast<uint64_t>(block) << 16 ^
         static_cast<uint64_t>(thread + 1);
}

}  // namespace

void Lane::Check() const {
  if (warp->grid.failed()) throw LaunchEnded{};
}

void Lane::StopFor(Stop why, uint32_t detail) {
  Check();
  stop_.store(static_cast<uint32_t>(why) | detail << kStopBits, std::memory_order_relaxed);
  for (;;) {
    fiber_->Suspend();
    Check();
    if (!errand_.load(std::memory_order_relaxed)) return;
    Deliver(dice.Roll(static_cast<uint32_t>(pending_.size())));
  }
}

void Lane::SyncFor(Stop why, Barrier& barrier, uint32_t detail) {
  void* const order = barrier.order();
  Release(order);
  StopFor(why, detail);
  Acquire(order);
}

void Lane::SyncWarp() {
  void* const order = &warp->order[syncs_++ & 1];
  Release(order);
  StopFor(Stop::kSyncWarp);
  Acquire(order);
}

void Lane::StoreAsync(const PendingStore& store) {
  pending_.push_back(store);
  stores_.store(static_cast<uint32_t>(pending_.size()), std::memory_order_relaxed);
  if (!warp->grid.jitter() || dice.Roll(2) == 0) Deliver(pending_.size() - 1);
}

void Lane::Deliver(size_t i) {
  const PendingStore store = pending_[i];
  pending_.erase(pending_.begin() + static_cast<ptrdiff_t>(i));
  stores_.store(static_cast<uint32_t>(pending_.size()), std::memory_order_relaxed);
  if (store.block->running.load(std::memory_order_relaxed) == 0) {
    Fail("stored to the shared memory of block " + std::to_string(store.block->index) +
         ", which had ended");
  }
  for (int i = 0; i < 4; ++i) store.to[i] = store.value.word[i];
  const char* const wrong = ByteBarrier(store.barrier).Complete(sizeof(Vec16B));
  if (wrong != nullptr) Fail(std::string("stored to ") + wrong);
}

void Lane::Run(const std::function<void()>& thread) {
  try {
    thread();
    while (!pending_.empty()) StopFor(Stop::kPause);
  } catch (const LaunchEnded&) {
  } catch (const std::exception& error) {
    warp->grid.Fail(Name() + " threw: " + error.what());
  } catch (...) {
    warp->grid.Fail(Name() + " threw");
  }
  stop_.store(static_cast<uint32_t>(Stop::kEnd), std::memory_order_relaxed);
}

void Lane::Fail(const std::string& what) {
  warp->grid.Fail(Name() + " " + what);
  throw LaunchEnded{};
}

void Lane::Delay(uint32_t rarity) {
  if (warp->grid.jitter()) warp->grid.Delay(dice, rarity);
}

std::string Lane::Name() const {
  return "block " + std::to_string(warp->block.index) + ", thread " + std::to_string(thread);
}

Warp::Warp(Grid& grid, Block& block, int index)
    : grid(grid), block(block), index_(index), dice_(Seed(grid, block.index, -2 - index)) {
  for (int i = 0; i < kLanes; ++i) {
    Lane& lane = lanes_[i];
    lane.warp = this;
    lane.thread = index * kLanes + i;
    lane.dice = Dice(Seed(grid, block.index, lane.thread));
    lane.fiber_ = Fiber::Take();
  }
}

Warp::~Warp() {
  for (Lane& lane : lanes_) Fiber::Give(std::move(lane.fiber_));
}

void Warp::Run(const std::function<void()>& thread) {
  while (Running()) {
    RunLanes(thread);
    DeliverStores(false);
    Settle();
  }
  block.running.fetch_sub(1, std::memory_order_relaxed);
  if (grid.failed()) return;
  block.barriers[0].Leave();
  grid.cluster_barrier(block.index).Leave();
}

bool Warp::Running() const {
  return std::any_of(std::begin(lanes_), std::end(lanes_), [](const Lane& lane) {
    return WhyOf(lane.stop_.load(std::memory_order_relaxed)) != Stop::kEnd;
  });
}

void Warp::RunLanes(const std::function<void()>& thread) {
  const uint32_t first = grid.jitter() ? dice_.Roll(kLanes) : 0;
  const uint32_t stride = grid.jitter() ? 2 * dice_.Roll(kLanes / 2) + 1 : 1;
  for (uint32_t i = 0; i < kLanes; ++i) {
    Lane& lane = lanes_[(first + i * stride) % kLanes];
    const Stop why = WhyOf(lane.stop_.load(std::memory_order_relaxed));
    const bool free = why == Stop::kNone || why == Stop::kPause || grid.failed();
    if (free && why != Stop::kEnd) RunLane(lane, thread);
  }
}

void Warp::RunLane(Lane& lane, const std::function<void()>& thread) {
  current_lane.store(&lane, std::memory_order_relaxed);
  if (lane.started_) {
    lane.fiber_->Resume();
  } else if (grid.failed()) {
    lane.stop_.store(static_cast<uint32_t>(Stop::kEnd), std::memory_order_relaxed);
  } else {
    lane.started_ = true;
    lane.fiber_->Start([&lane, &thread] { lane.Run(thread); });
  }
}

// All stores under way, or each with even odds; in random order.
void Warp::DeliverStores(bool all) {
  if (!grid.jitter()) return;
  for (bool left = true; left && !grid.failed();) {
    left = false;
    for (Lane& lane : lanes_) {
      if (lane.stores_.load(std::memory_order_relaxed) == 0) continue;
      if (dice_.Roll(2) == 0) {
        left |= all;
        continue;
      }
      current_lane.store(&lane, std::memory_order_relaxed);
      lane.errand_.store(true, std::memory_order_relaxed);
      lane.fiber_->Resume();
      lane.errand_.store(false, std::memory_order_relaxed);
      left |= all && lane.stores_.load(std::memory_order_relaxed) > 0;
    }
  }
}

// Deals with the lanes' reasons for stopping: a collective that all have come to is carried out.
void Warp::Settle() {
  const Lane* met = nullptr;
  bool paused = false;
  for (const Lane& lane : lanes_) {
    const uint32_t stop = lane.stop_.load(std::memory_order_relaxed);
    if (WhyOf(stop) == Stop::kNone || WhyOf(stop) == Stop::kPause) {
      paused = true;
    } else if (met == nullptr) {
      met = &lane;
    } else if (const uint32_t other = met->stop_.load(std::memory_order_relaxed); other != stop) {
      if (grid.failed()) return;
      const bool same = WhyOf(stop) == WhyOf(other);
      grid.Fail(Name() + " diverged: thread " + std::to_string(met->thread) + " is " +
                NameOf(WhyOf(other)) + ", thread " + std::to_string(lane.thread) + " " +
                NameOf(WhyOf(stop)) + (same ? " of another kind" : ""));
      return;
    }
  }
  if (grid.failed()) return;
  if (paused) return Idle();
  idle_ = 0;
  Complete(met->stop_.load(std::memory_order_relaxed));
}

// Some lanes wait for what another warp will do.
void Warp::Idle() {
  if (idle_++ == 0) idle_since_ = Clock::now();
  if (idle_ < kYields) return std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::microseconds(std::min(10 * idle_, kLongestSleepUs)));
  if (Clock::now() - idle_since_ > std::chrono::duration<double>(grid.options.timeout_seconds)) {
    grid.Fail(Name() + " waited too long in Pause or TryWait");
  }
}

void Warp::Complete(uint32_t meeting) {
  const uint32_t detail = DetailOf(meeting);
  const int warps = grid.shape.threads / kLanes;
  switch (WhyOf(meeting)) {
    case Stop::kEnd: return;
    case Stop::kShuffle:
    case Stop::kShuffleXor: Shuffle(); break;
    case Stop::kMultiply: Multiply(static_cast<Precision>(detail)); break;
    case Stop::kSyncBlock: Meet(block.barriers[0], warps); break;
    case Stop::kSyncNamed: Meet(block.barriers[detail % 16], static_cast<int>(detail / 16)); break;
    case Stop::kSyncCluster:
      Meet(grid.cluster_barrier(block.index), warps * grid.shape.cluster);
      break;
    default: break;
  }
  for (Lane& lane : lanes_) {
    lane.stop_.store(static_cast<uint32_t>(Stop::kNone), std::memory_order_relaxed);
  }
}

// Stores under way may arrive after the others have passed the barrier: it does not order them.
void Warp::Meet(Barrier& barrier, int warps) {
  if (grid.jitter()) grid.Delay(dice_, 8);
  const uint32_t generation = barrier.Arrive(warps);
  if (grid.jitter()) grid.Delay(dice_, 16);
  DeliverStores(true);
  barrier.Wait(generation);
}

void Warp::Shuffle() {
  uint32_t given[kLanes];
  for (int i = 0; i < kLanes; ++i) given[i] = lanes_[i].Got(0);
  for (Lane& lane : lanes_) lane.Put(0, given[lane.Got(1) % kLanes]);
}

void Warp::Multiply(Precision precision) {
  Fragments fragments[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const Lane& lane = lanes_[i];
    for (int j = 0; j < 4; ++j) fragments[i].a[j] = lane.Got(j);
    for (int j = 0; j < 2; ++j) fragments[i].b[j] = lane.Got(4 + j);
    for (int j = 0; j < 4; ++j) fragments[i].sum[j] = std::bit_cast<float>(lane.Got(6 + j));
  }
  MultiplyFragments(precision, fragments);
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < 4; ++j) {
      lanes_[i].Put(6 + j, std::bit_cast<uint32_t>(fragments[i].sum[j]));
    }
  }
}

std::string Warp::Name() const {
  return "block " + std::to_string(block.index) + ", warp " + std::to_string(index_);
}

}  // namespace jp::cuda::emulator
