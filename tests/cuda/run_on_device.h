// SPDX-License-Identifier: Apache-2.0
// What runs the kernels in tests: the emulator of their sources, or the software GPU, which runs
// what NVRTC makes of them. A program is linked with one of emulated_device.cc and
// software_device.cc.
#pragma once

#include <string>

#include "cuda/emulator/launch.h"
#include "cuda/launches.h"
#include "native/problem/arrays.h"

namespace jp::test {

struct DeviceRun {
  const Problem& problem;
  const cuda::KernelPlan& plan;
  const cuda::DeviceFacts& facts;
  unsigned char* workspace;
  int64_t workspace_bytes;
  uint64_t timeout_ns;
  cuda::emulator::LaunchOptions options;  // of which a software GPU knows the seed
};

// Empty, or what went wrong.
std::string RunOnDevice(const DeviceRun& run, const Forward& arrays);
std::string RunOnDevice(const DeviceRun& run, const Backward& arrays);

// Whether there is such a kernel: the emulator leaves out those that differ from others in a
// conversion or an activation.
bool IsBuilt(const CellTraits& cell, cuda::Precision precision);

}  // namespace jp::test
