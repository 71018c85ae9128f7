// SPDX-License-Identifier: Apache-2.0
// The kernels' intrinsics on a CPU: every function of arch_device.cuh, with the same meaning. A
// lane is a fiber, a warp a thread of the operating system; cuda/emulator/launch.h runs a kernel.
#pragma once

#include <bit>
#include <cstdint>
#include <string>

#include "cuda/arch_types.h"
#include "cuda/emulator/conversions.h"
#include "cuda/emulator/launch.h"
#include "cuda/emulator/warp.h"

#define JP_DEVICE inline
#define JP_KERNEL(threads) void
#define JP_CONSTANT const

namespace jp::cuda::arch {

inline constexpr bool kHasClusters = true;

// ---- Where this thread is

JP_DEVICE int ThreadIndex() { return emulator::ThisLane().thread; }
JP_DEVICE int BlockIndex() { return emulator::ThisLane().warp->block.index; }
JP_DEVICE int Lane() { return ThreadIndex() % kLanes; }
JP_DEVICE int Warp() {
  emulator::ThisLane().StopFor(emulator::Stop::kWarpIndex);
  return ThreadIndex() / kLanes;
}
JP_DEVICE unsigned char* SharedMemory() { return emulator::ThisLane().warp->block.shared(); }

// ---- Barriers

void SyncBlock();
JP_DEVICE void SyncWarp() { emulator::ThisLane().SyncWarp(); }
void SyncNamed(int id, int threads);

// ---- Between the lanes of a warp

template <class T>
JP_DEVICE T Exchange(emulator::Stop how, T value, int lane) {
  static_assert(sizeof(T) == 4);
  emulator::Lane& self = emulator::ThisLane();
  self.Put(0, std::bit_cast<uint32_t>(value));
  self.Put(1, static_cast<uint32_t>(lane));
  self.StopFor(how);
  return std::bit_cast<T>(self.Got(0));
}
template <class T>
JP_DEVICE T Shuffle(T value, int lane) {
  return Exchange(emulator::Stop::kShuffle, value, lane);
}
template <class T>
JP_DEVICE T ShuffleXor(T value, int mask) {
  return Exchange(emulator::Stop::kShuffleXor, value, Lane() ^ mask);
}

template <Precision kPrecision>
JP_DEVICE void Multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulator::Lane& self = emulator::ThisLane();
  for (int i = 0; i < 4; ++i) self.Put(i, a[i]);
  self.Put(4, b0);
  self.Put(5, b1);
  for (int i = 0; i < 4; ++i) self.Put(6 + i, std::bit_cast<uint32_t>(sum[i]));
  self.StopFor(emulator::Stop::kMultiply, static_cast<uint32_t>(kPrecision));
  for (int i = 0; i < 4; ++i) sum[i] = std::bit_cast<float>(self.Got(6 + i));
}

// ---- Numbers as bits

JP_DEVICE uint32_t BitsOf(float value) { return std::bit_cast<uint32_t>(value); }
JP_DEVICE float FloatOf(uint32_t bits) { return std::bit_cast<float>(bits); }
using emulator::FromBfloat16;
using emulator::FromFloat16;
using emulator::RoundToBfloat16;
using emulator::RoundToFloat16;
using emulator::RoundToTf32;

// ---- Elementary functions

JP_DEVICE float Exp(float x) { return std::exp(x); }
JP_DEVICE float Tanh(float x) { return std::tanh(x); }
JP_DEVICE float Log(float x) { return std::log(x); }
JP_DEVICE float Log1p(float x) { return std::log1p(x); }
JP_DEVICE float Exp2(float x) { return std::exp2(x); }
JP_DEVICE float Expm1(float x) { return std::expm1(x); }
JP_DEVICE float Erf(float x) { return std::erf(x); }
JP_DEVICE float Sin(float x) { return std::sin(x); }
JP_DEVICE float Cos(float x) { return std::cos(x); }
JP_DEVICE float Tan(float x) { return std::tan(x); }
JP_DEVICE float Sqrt(float x) { return std::sqrt(x); }
JP_DEVICE float Floor(float x) { return std::floor(x); }
JP_DEVICE float Ceil(float x) { return std::ceil(x); }
JP_DEVICE float RoundToEven(float x) { return std::rint(x); }
JP_DEVICE float RoundAwayFromZero(float x) { return std::round(x); }
JP_DEVICE float Pow(float x, float y) { return std::pow(x, y); }
JP_DEVICE float QuickExp(float x) { return std::exp(x); }
JP_DEVICE float QuickDivide(float a, float b) { return a / b; }

// ---- Memory that other blocks write meanwhile

// The four words in any order.
Vec16B LoadRelaxed(const void* from);
void StoreRelaxed(uint32_t* to, uint32_t word);
uint32_t LoadAcquire(const uint32_t* from);
void AddRelease(uint32_t* to, uint32_t amount);
// Reads there, for AddressSanitizer to see.
void Prefetch(const void* address);

// ---- Clusters

using ClusterAddress = uintptr_t;

ClusterAddress MapToRank(const void* local, int rank);
void StoreAsync(ClusterAddress to, const Vec16B& q, ClusterAddress barrier);
void InitByteBarrier(uint64_t* barrier);
JP_DEVICE void FenceByteBarrierInit() {}
void ArriveExpectingBytes(uint64_t* barrier, uint32_t bytes);
bool TryWait(uint64_t* barrier, uint32_t parity);
void SyncCluster();

// ---- Waiting, and giving up

void Pause();
uint64_t Nanoseconds();
void Trap(const char* kernel, int step, uint32_t expected, uint32_t seen);

}  // namespace jp::cuda::arch
