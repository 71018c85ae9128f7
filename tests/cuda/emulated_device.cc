// SPDX-License-Identifier: Apache-2.0
// cuda/device.h with the emulator in the place of GPU 3.
#include <stdexcept>

#include "cuda/device.h"
#include "tests/cuda/cases.h"

namespace jp::cuda {
namespace {

template <class PassArrays>
std::string Emulate(const DeviceCall& call, const PassArrays& arrays) {
  if (call.ordinal != 3 || call.stream != &test::kSmallGpu) return "not the call's own stream";
  if (reinterpret_cast<uintptr_t>(call.workspace) % kWorkspaceLine != 0) return "workspace astray";
  test::EmulatedDevice device{{}, {}};
  Enqueue(call.problem, call.plan, arrays, call.workspace, call.timeout_ns, device);
  return device.error;
}

}  // namespace

std::string_view Missing() { return {}; }

DeviceFacts FactsOfDevice(int ordinal) {
  if (ordinal != 3) throw std::runtime_error("no such device");
  return test::kSmallGpu;
}

std::string EnqueueOnDevice(const DeviceCall& call, const Forward& arrays) {
  return Emulate(call, arrays);
}
std::string EnqueueOnDevice(const DeviceCall& call, const Backward& arrays) {
  return Emulate(call, arrays);
}

}  // namespace jp::cuda
