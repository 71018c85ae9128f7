// SPDX-License-Identifier: Apache-2.0
// A launch's blocks, what they share, and how they meet.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda/emulator/launch.h"

namespace jp::cuda::emulator {

using Clock = std::chrono::steady_clock;

// What unwinds every thread of a launch that has failed.
struct LaunchEnded {};

// A quick source of random numbers (splitmix64).
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {}
  uint32_t Roll(uint32_t sides) { return static_cast<uint32_t>(Next() >> 33) % sides; }

 private:
  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  uint64_t state_;
};

class Grid;

// Where warps meet, each of them once all its lanes have come. Lanes order their memory by
// releasing to and acquiring from `order()`, taken before they arrive.
class Barrier {
 public:
  Barrier(Grid& grid, std::string name) : grid_(grid), name_(std::move(name)) {}
  Barrier(Barrier&& other) : grid_(other.grid_), name_(std::move(other.name_)) {}

  void* order() { return &order_[generation_.load(std::memory_order_relaxed) & 1]; }
  // Counts one warp of `warps`; the generation to wait for the end of.
  uint32_t Arrive(int warps);
  void Wait(uint32_t generation);
  // A warp that will not come again has ended.
  void Leave();

 private:
  void Fail(const std::string& what);

  Grid& grid_;
  std::string name_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<uint32_t> generation_ = 0;
  int arrived_ = 0, expected_ = 0;
  bool left_ = false;
  uint64_t order_[2] = {};
};

// What one block's warps share.
class Block {
 public:
  Block(Grid& grid, int index, size_t shared_bytes, int warps);
  ~Block();
  Block(const Block&) = delete;

  unsigned char* shared() { return memory_ + kGuard; }
  size_t shared_bytes() const { return shared_bytes_; }
  bool Holds(const void* address, size_t bytes) const;
  // Whether the memory around the shared memory is as it was.
  bool Intact() const;

  const int index;
  std::atomic<int> running;       // warps
  std::vector<Barrier> barriers;  // the whole block's, then the named ones

 private:
  static constexpr size_t kGuard = 128;

  size_t bytes() const { return shared_bytes_ + 2 * kGuard; }

  unsigned char* memory_;
  size_t shared_bytes_;
};

class Grid {
 public:
  Grid(const LaunchShape& shape, const LaunchOptions& options);

  const LaunchShape shape;
  const LaunchOptions options;
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<Barrier> cluster_barriers;

  Barrier& cluster_barrier(int block) { return cluster_barriers[block / shape.cluster]; }
  Block& InCluster(int block, int rank) {
    return *blocks[block / shape.cluster * shape.cluster + rank];
  }

  // Ends the launch; the first complaint is the one that is kept.
  void Fail(const std::string& what);
  bool failed() const { return failed_.load(std::memory_order_relaxed); }
  std::string complaint();

  bool jitter() const { return options.jitter_seed != 0; }
  // Holds the calling thread up, once in `rarity` calls for long.
  void Delay(Dice& dice, uint32_t rarity) const;

 private:
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;
  std::string complaint_;
};

}  // namespace jp::cuda::emulator
