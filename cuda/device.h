// SPDX-License-Identifier: Apache-2.0
// The GPUs of this machine. No CUDA header: callers know a stream as a pointer. A build without
// kernels has device_missing.cc in place of device.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "cuda/plan.h"
#include "native/problem/arrays.h"

namespace jp::cuda {

// Why this build has no kernels; empty: it has.
std::string_view Missing();

// The facts of a device by its ordinal. Throws std::runtime_error with CUDA's own words.
DeviceFacts FactsOfDevice(int ordinal);

// One call: what launches.h's Enqueue is given, and the machine it is for.
struct DeviceCall {
  const Problem& problem;
  const KernelPlan& plan;
  unsigned char* workspace;
  uint64_t timeout_ns;
  int shared_bytes;  // DeviceFacts' own
  int ordinal;
  void* stream;  // of that device
};

// Enqueues a call and returns at once. Empty, or what went wrong; a launch before it that failed
// on the device is reported here too.
std::string EnqueueOnDevice(const DeviceCall& call, const Forward& arrays);
std::string EnqueueOnDevice(const DeviceCall& call, const Backward& arrays);

}  // namespace jp::cuda
