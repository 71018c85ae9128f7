// SPDX-License-Identifier: Apache-2.0
// The emulator as the device of tests.
#include <cstring>

#include "tests/cuda/kernels.h"
#include "tests/cuda/run_on_device.h"

namespace jp::test {
namespace {

// A device for cuda/launches.h that runs the kernels on this machine's CPU.
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
    const cuda::Kernel<Arrays> kernel = kernels.Of<Arrays>(args.geometry);
    const cuda::emulator::LaunchShape shape{blocks, cluster, args.geometry.threads(),
                                            static_cast<size_t>(args.geometry.shared_bytes)};
    error = cuda::emulator::Launch(kernel, args, shape, options);
    return error.empty();
  }
};

template <class Arrays>
std::string Run(const DeviceRun& run, const Arrays& arrays) {
  EmulatedDevice device{
      cuda::KernelsOf(run.problem.cell.kind, run.plan.precision), run.options, {}};
  cuda::Enqueue(run.problem, run.plan, arrays, run.workspace, run.timeout_ns, device);
  return device.error;
}

}  // namespace

std::string RunOnDevice(const DeviceRun& run, const Forward& arrays) { return Run(run, arrays); }
std::string RunOnDevice(const DeviceRun& run, const Backward& arrays) { return Run(run, arrays); }

bool IsBuilt(const CellTraits& cell, cuda::Precision precision) {
  return cuda::KernelsOf(cell.kind, precision).forward_cluster != nullptr;
}

}  // namespace jp::test
