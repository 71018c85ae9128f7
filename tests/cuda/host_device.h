// A device for cuda/recurrence.h that runs the kernels on this machine's CPU.
#pragma once

#include <cstring>
#include <string>

#include "cuda/host/launch.h"
#include "cuda/recurrence.h"

namespace jp::test {

struct HostDevice {
  cuda::host::LaunchOptions options;
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
  bool Launch(cuda::Kernel<Arrays> kernel, const cuda::LaunchArgs<Arrays>& args, int blocks,
              int cluster) {
    const cuda::host::LaunchShape shape{blocks, cluster, args.pass.threads(),
                                        static_cast<size_t>(args.pass.shared_bytes)};
    error = cuda::host::Launch(kernel, args, shape, options);
    return error.empty();
  }
};

}  // namespace jp::test
