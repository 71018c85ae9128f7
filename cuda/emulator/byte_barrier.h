// SPDX-License-Identifier: Apache-2.0
// An mbarrier of one arrival a phase: a word of shared memory that counts arrivals and bytes.
#pragma once

#include <atomic>
#include <cstdint>

namespace jp::cuda::emulator {

// mark (16 bits) | phase (15) | arrivals to come (1) | bytes to come (32, signed: stores may
// overtake their announcement).
class ByteBarrier {
 public:
  explicit ByteBarrier(uint64_t* word) : word_(*word) {}

  void Init() { word_.store(Word(0, 1, 0), std::memory_order_relaxed); }

  // Null, or what is wrong.
  const char* Arrive(int32_t bytes) { return Add(1, bytes, std::memory_order_relaxed); }
  const char* Complete(int32_t bytes) { return Add(0, -bytes, std::memory_order_release); }
  // Acquires only where the phase has completed.
  const char* TryWait(uint32_t parity, bool* completed) {
    const uint64_t word = word_.load(std::memory_order_relaxed);
    *completed = (word >> 33 & 1) != parity;
    if (*completed) word_.load(std::memory_order_acquire);
    return word >> 48 == kMark ? nullptr : kUnknown;
  }

 private:
  static constexpr uint64_t kMark = 0xba55;
  static constexpr int32_t kMostBytes = (1 << 20) - 1;  // the hardware's
  static constexpr const char* kUnknown = "a byte barrier that was never initialised";

  static uint64_t Word(uint32_t phase, uint32_t arrivals, int32_t bytes) {
    return kMark << 48 | uint64_t{phase & 0x7fff} << 33 | uint64_t{arrivals} << 32 |
           static_cast<uint32_t>(bytes);
  }

  const char* Add(uint32_t arrived, int32_t bytes, std::memory_order order) {
    uint64_t word = word_.load(std::memory_order_relaxed), next;
    do {
      const uint32_t phase = word >> 33 & 0x7fff, arrivals = word >> 32 & 1;
      const int32_t left = static_cast<int32_t>(word) + bytes;
      if (word >> 48 != kMark) return kUnknown;
      if (arrived > arrivals) return "a second arrival in a byte barrier's phase";
      if (left > kMostBytes || left < -kMostBytes) return "more bytes than a byte barrier counts";
      const bool completed = arrivals == arrived && left == 0;
      next = completed ? Word(phase + 1, 1, 0) : Word(phase, arrivals - arrived, left);
    } while (!word_.compare_exchange_weak(word, next, order, std::memory_order_relaxed));
    return nullptr;
  }

  std::atomic_ref<uint64_t> word_;
};

}  // namespace jp::cuda::emulator
