// SPDX-License-Identifier: Apache-2.0
// The GPUs of this machine, through CUDA's driver.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda/kernel_id.h"
#include "cuda/launches.h"
#include "cuda/program_arrays.h"
#include "native/backend.h"
#include "native/problem/arrays.h"

namespace jp::cuda {

inline constexpr int kMostDevices = 64;

// Why no kernel can be compiled or run here, and how to mend it; empty: all is there.
std::string Missing();

// What there is here, a name and a text each: the GPUs, NVRTC, the cache. Asks for no context.
std::vector<std::pair<std::string, std::string>> ReportHere();

// The facts of a device by its ordinal, asked for once. Throws std::runtime_error.
DeviceFacts FactsOfDevice(int ordinal);

// The ordinals of the devices that this process has a context on: those that jax uses.
std::vector<int> DevicesInUse();

// A kernel, compiled for one kind of device, and where it has been loaded.
class DeviceKernel {
 public:
  DeviceKernel(KernelText text, const DeviceFacts& facts) : text_(std::move(text)), facts_(facts) {}
  DeviceKernel(const DeviceKernel&) = delete;
  DeviceKernel& operator=(const DeviceKernel&) = delete;

  // Each does nothing the second time, and may be called by several threads at once. Load compiles
  // first where that has not been done. Both throw std::runtime_error.
  void Compile();
  void Load(int ordinal);

  // A CUfunction of the device; null if the kernel is not loaded there. Takes no lock.
  void* On(int ordinal) const {
    return ordinal >= 0 && ordinal < kMostDevices
               ? functions_[ordinal].load(std::memory_order_acquire)
               : nullptr;
  }

 private:
  const KernelText text_;
  const DeviceFacts facts_;
  std::mutex mutex_;
  std::string image_;
  std::array<std::atomic<void*>, kMostDevices> functions_{};
};

// The one for such a kernel and such a device, of this process. Lives as long as it does.
DeviceKernel& KernelFor(KernelText text, const DeviceFacts& facts);

// One call: what launches.h's Enqueue is given, and the machine it is for.
struct DeviceCall {
  const Problem& problem;
  const KernelPlan& plan;
  const DeviceKernel& kernel;
  unsigned char* workspace;
  uint64_t timeout_ns;
  int ordinal;
  void* stream;  // of that device
};

// Enqueues a call of a kernel that is loaded and returns at once; nothing is compiled, loaded or
// allocated. Empty, or what went wrong; a launch before it that failed on the device is reported
// here too.
std::string EnqueueOnDevice(const DeviceCall& call, const Forward& arrays);
std::string EnqueueOnDevice(const DeviceCall& call, const Backward& arrays);
std::string EnqueueOnDevice(const DeviceCall& call, const ProgramArrays& arrays);

// Backend's.
std::vector<uint32_t> RunSource(const SourceKernel& kernel, int64_t words, int ordinal);

}  // namespace jp::cuda
