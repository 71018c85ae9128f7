// SPDX-License-Identifier: Apache-2.0
// Barriers, guarded shared memory, and the end of a launch that has failed.
#include "cuda/emulator/grid.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>

#include "cuda/emulator/sanitizer.h"

namespace jp::cuda::emulator {
namespace {

constexpr int kBarriers = 16;  // of a block
constexpr size_t kSharedAlignment = 128;
constexpr unsigned char kGuardFill = 0xa5;

}  // namespace

uint32_t Barrier::Arrive(int warps) {
  std::lock_guard lock(mutex_);
  const uint32_t generation = generation_.load(std::memory_order_relaxed);
  if (left_) Fail("a warp ended before it came");
  if (arrived_ > 0 && expected_ != warps) {
    const auto [less, more] = std::minmax(expected_, warps);
    Fail("one warp expects " + std::to_string(32 * more) + " threads, another " +
         std::to_string(32 * less));
  }
  expected_ = warps;
  if (++arrived_ == warps) {
    arrived_ = 0;
    generation_.store(generation + 1, std::memory_order_relaxed);
    changed_.notify_all();
  }
  return generation;
}

void Barrier::Wait(uint32_t generation) {
  const auto start = Clock::now();
  std::unique_lock lock(mutex_);
  while (generation_.load(std::memory_order_relaxed) == generation && !grid_.failed()) {
    // Woken now and then to see whether the launch has failed. By the system's clock: the wait on
    // the steady one is unknown to older ThreadSanitizers.
    changed_.wait_until(lock, std::chrono::system_clock::now() + std::chrono::milliseconds(10));
    const auto timeout = std::chrono::duration<double>(grid_.options.timeout_seconds);
    if (Clock::now() - start > timeout &&
        generation_.load(std::memory_order_relaxed) == generation) {
      Fail(std::to_string(arrived_) + " of " + std::to_string(expected_) +
           " warps had come at the timeout");
    }
  }
}

void Barrier::Leave() {
  std::lock_guard lock(mutex_);
  left_ = true;
  if (arrived_ > 0) Fail("a warp ended before it came");
}

void Barrier::Fail(const std::string& what) { grid_.Fail(name_ + ": " + what); }

Block::Block(Grid& grid, int index, size_t shared_bytes, int warps)
    : index(index), running(warps), shared_bytes_(shared_bytes) {
  for (int i = 0; i < kBarriers; ++i) {
    barriers.emplace_back(grid,
                          "block " + std::to_string(index) + "'s barrier " + std::to_string(i));
  }
  const size_t whole = (bytes() + kSharedAlignment - 1) / kSharedAlignment * kSharedAlignment;
  memory_ = static_cast<unsigned char*>(std::aligned_alloc(kSharedAlignment, whole));
  if (memory_ == nullptr) throw std::bad_alloc();
  std::memset(memory_, kGuardFill, bytes());
  std::memset(shared(), 0xff, shared_bytes_);
  Forbid(memory_, kGuard);
  Forbid(shared() + shared_bytes_, kGuard);
}

Block::~Block() {
  Allow(memory_, bytes());
  std::free(memory_);
}

bool Block::Holds(const void* address, size_t bytes) const {
  const auto* at = static_cast<const unsigned char*>(address);
  const unsigned char* const begin = memory_ + kGuard;
  return at >= begin && at + bytes <= begin + shared_bytes_;
}

bool Block::Intact() const {
  Allow(memory_, bytes());
  bool intact = true;
  for (size_t i = 0; i < kGuard; ++i) {
    intact &= memory_[i] == kGuardFill && memory_[kGuard + shared_bytes_ + i] == kGuardFill;
  }
  return intact;
}

Grid::Grid(const LaunchShape& shape, const LaunchOptions& options)
    : shape(shape), options(options) {
  for (int i = 0; i < shape.blocks; ++i) {
    blocks.push_back(std::make_unique<Block>(*this, i, shape.shared_bytes, shape.threads / 32));
  }
  for (int i = 0; i < shape.blocks / shape.cluster; ++i) {
    cluster_barriers.emplace_back(*this, "cluster " + std::to_string(i) + "'s barrier");
  }
}

void Grid::Fail(const std::string& what) {
  std::lock_guard lock(mutex_);
  if (complaint_.empty()) complaint_ = what;
  failed_.store(true, std::memory_order_relaxed);
}

std::string Grid::complaint() {
  std::lock_guard lock(mutex_);
  return complaint_;
}

void Grid::Delay(Dice& dice, uint32_t rarity) const {
  const uint32_t roll = dice.Roll(rarity);
  if (roll == 0) {
    const uint32_t longest = static_cast<uint32_t>(options.max_delay_us) + 1;
    std::this_thread::sleep_for(std::chrono::microseconds(dice.Roll(longest)));
  } else if (roll % 32 == 1) {
    std::this_thread::yield();
  }
}

}  // namespace jp::cuda::emulator
