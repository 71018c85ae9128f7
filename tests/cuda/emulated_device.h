// SPDX-License-Identifier: Apache-2.0
// A device for cuda/launches.h that runs the kernels on this machine's CPU.
#pragma once

#include <cstring>
#include <string>

#include "cuda/emulator/launch.h"
#include "cuda/launches.h"
#include "tests/cuda/kernels.h"

namespace jp::test {

struct EmulatedDevice {
  cuda::KernelSet kernels;
  cuda::emulator::LaunchOptions options;
  std::string error;  // of the first launch that failed

  bool Fill(void* to, int byte, int64_t bytes) {
    std::memset(to, byte, bytes);
    return true;
  }
  bool CopyRows(void* to, int64_t to_pitch, const void* from, int64_t from_pitch, int64_t width,
                int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) {
      std::memcpy(static_cast<char*>(to) + i * to_pitch,
                  static_cast<const char*>(from) + i * from_pitch, width);
    }
    return true;
  }
  template <class Arrays>
  bool Launch(const cuda::LaunchArgs<Arrays>& args, int blocks, int cluster) {
    const cuda::Kernel<Arrays> kernel = kernels.Of<Arrays>(args.geometry.cluster());
    const cuda::emulator::LaunchShape shape{blocks, cluster, args.geometry.threads(),
                                            static_cast<size_t>(args.geometry.shared_bytes)};
    error = cuda::emulator::Launch(kernel, args, shape, options);
    return error.empty();
  }
};

}  // namespace jp::test
