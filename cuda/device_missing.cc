// SPDX-License-Identifier: Apache-2.0
// The GPUs of this machine, in a build without kernels for them.
#include <stdexcept>

#include "cuda/device.h"

namespace jp::cuda {
namespace {

std::string NoKernels() { return "this build has no CUDA kernels: " + std::string(Missing()); }

}  // namespace

std::string_view Missing() { return JP_CUDA_MISSING; }

DeviceFacts FactsOfDevice(int /*ordinal*/) { throw std::runtime_error(NoKernels()); }

std::string EnqueueOnDevice(const DeviceCall& /*call*/, const Forward& /*arrays*/) {
  return NoKernels();
}
std::string EnqueueOnDevice(const DeviceCall& /*call*/, const Backward& /*arrays*/) {
  return NoKernels();
}

}  // namespace jp::cuda
