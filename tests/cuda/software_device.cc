// SPDX-License-Identifier: Apache-2.0
// The software GPU as the device of tests, through all that the package does on a real one: NVRTC,
// the cache, the driver.
#include <type_traits>

#include "cuda/device.h"
#include "native/problem/operands.h"
#include "tests/cuda/run_on_device.h"
#include "tests/cuda/software_gpu/software_gpu.h"

namespace jp::test {
namespace {

// GPU 0 becomes one of these facts.
void BecomeDevice(const cuda::DeviceFacts& facts) {
  const SoftwareDevice device{facts.architecture,
                              facts.processors,
                              facts.shared_bytes,
                              facts.cluster_blocks,
                              static_cast<int>(facts.l2_bytes),
                              1};
  SoftwareGpuSetDevices(&device, 1);
}

// Kernels may touch the arrays and the workspace, and nothing else.
template <class Arrays>
void AllowMemory(const DeviceRun& run, const Arrays& arrays) {
  const Problem& problem = run.problem;
  const ArrayTypes types = ArrayTypesOf(problem);
  size_t operands = 0, results = 0;
  SoftwareGpuAllowAllMemory();
  SoftwareGpuAllowMemory(run.workspace, static_cast<uint64_t>(run.workspace_bytes));
  const auto allow = [&](const Operand& operand, const void* first) {
    const ArrayType& type =
        operand.is_result ? types.results[results++] : types.operands[operands++];
    uint64_t bytes = type.type == OperandType::kElement ? ByteWidth(problem.dtype)
                     : type.type == OperandType::kState ? ByteWidth(problem.StateDType())
                     : type.type == OperandType::kInt32 ? 4
                                                        : 1;
    for (const int64_t size : type.sizes) bytes *= static_cast<uint64_t>(size);
    SoftwareGpuAllowMemory(first, bytes);
  };
  ForEachOperand(arrays, [&](const Operand& operand, auto& member) {
    if (!problem.has(operand.part)) return;
    if constexpr (std::is_array_v<std::remove_reference_t<decltype(member)>>) {
      for (int i = 0; i < CountOf(operand, problem); ++i) allow(operand, member[i]);
    } else {
      allow(operand, member);
    }
  });
}

template <class Arrays>
std::string Run(const DeviceRun& run, const Arrays& arrays) {
  BecomeDevice(run.facts);
  SoftwareGpuSetRoundNs(run.timeout_ns / 20000);  // rounds enough for all but a standstill
  SoftwareGpuSetSeed(run.options.jitter_seed + 1);
  AllowMemory(run, arrays);
  cuda::DeviceKernel& kernel = cuda::KernelFor(TextOf(KernelOf(run.problem, run.plan)), run.facts);
  kernel.Load(0);
  const cuda::DeviceCall call{.problem = run.problem,
                              .plan = run.plan,
                              .kernel = kernel,
                              .workspace = run.workspace,
                              .timeout_ns = run.timeout_ns,
                              .ordinal = 0,
                              .stream = SoftwareGpuStream(0)};
  const std::string error = EnqueueOnDevice(call, arrays);
  SoftwareGpuForgive();
  return error.empty() ? error : error + ": " + SoftwareGpuLastError();
}

}  // namespace

std::string RunOnDevice(const DeviceRun& run, const Forward& arrays) { return Run(run, arrays); }
std::string RunOnDevice(const DeviceRun& run, const Backward& arrays) { return Run(run, arrays); }

bool IsBuilt(const CellTraits& /*cell*/, cuda::Precision /*precision*/) { return true; }

}  // namespace jp::test
