// SPDX-License-Identifier: Apache-2.0
// What a grid is made of while it runs: blocks and their warps, and what they wait for.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/cuda/software_gpu/machine.h"

namespace jp::software_gpu {

inline constexpr int kLanes = 32;
inline constexpr uint32_t kAll = ~uint32_t{0};
inline constexpr int kBarriers = 16;
inline constexpr uint32_t kRankShift = 24;  // an address in a cluster: rank + 1, then its offset

struct Stop {  // thrown to end the launch
  Failure failure;
  std::string error;
};

class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint32_t Roll(uint32_t sides) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<uint32_t>(state_ >> 33) % sides;
  }

 private:
  uint64_t state_;
};

// Of one word of a block's stores that others do not see yet.
struct Pending {
  uint32_t value, bytes;  // bytes: a bit for each that was written
};

// An mbarrier: what is in memory is opaque to programs.
struct ByteBarrier {
  int64_t count = 0, arrivals = 0, bytes = 0;
  uint64_t phase = 0;

  void Advance() {
    if (arrivals != 0 || bytes != 0) return;
    ++phase;
    arrivals = count;
  }
};

struct Block;

struct Warp {
  Block* block = nullptr;
  int index = 0;
  std::vector<uint32_t> r32;  // columns of 32 lanes
  std::vector<uint64_t> r64;
  std::vector<unsigned char> local;  // of lane after lane
  std::array<uint32_t, kLanes> pc{};
  uint32_t done = 0;     // lanes that have ended
  uint32_t waiting = 0;  // lanes at a collective, for the others
  bool at_barrier = false;
  uint64_t cluster_phase = 0;

  uint32_t* Words(uint32_t column) { return &r32[size_t{column} * kLanes]; }
  uint64_t* Wide(uint32_t column) { return &r64[size_t{column} * kLanes]; }
};

struct Block {
  const Kernel* kernel = nullptr;
  int index = 0;
  size_t shared_bytes = 0;
  std::vector<unsigned char> memory;
  size_t guard = 0;  // bytes before the shared memory, for its alignment
  std::vector<std::unique_ptr<Warp>> warps;
  struct Barrier {
    uint32_t arrived = 0;
    std::vector<Warp*> warps;
  } barriers[kBarriers];
  std::map<uint32_t, ByteBarrier> byte_barriers;
  std::unordered_map<uint64_t, Pending> stores;  // by the address of a word

  unsigned char* shared() { return memory.data() + guard; }
};

struct Cluster {
  uint32_t arrived = 0;
  uint64_t phase = 0;
};

// Ends the launch; says where. `pc` may be kNone.
[[noreturn]] void Fail(const Warp& warp, uint32_t pc, const std::string& what,
                       Failure failure = Failure::kOther);

template <class F>
void ForLanes(uint32_t mask, const F& f) {
  for (int l = 0; l < kLanes; ++l) {
    if (mask >> l & 1) f(l);
  }
}

}  // namespace jp::software_gpu
