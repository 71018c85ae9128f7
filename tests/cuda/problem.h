// A recurrence to be run by the GPU kernels on the CPU, and what it should come to.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "tests/cuda/emulated_device.h"
#include "tests/native/buffers.h"
#include "tests/native/reference.h"

namespace jp::test {

// How a case's blocks exchange messages.
enum class Exchange { kGridData, kGridBarrier, kCluster };

struct GpuCase {
  cpu::Shape shape;
  CellTraits cell;
  Precision number;
  Exchange exchange;
  DeviceFacts facts;

  cpu::DType dtype() const {
    return number == Precision::kBfloat16  ? cpu::DType::kBfloat16
           : number == Precision::kFloat16 ? cpu::DType::kFloat16
                                           : cpu::DType::kFloat32;
  }
  std::string name() const {
    constexpr const char* kNumbers[] = {"bfloat16", "float16", "tf32", "float32"};
    constexpr const char* kExchanges[] = {"grid", "grid with a barrier", "cluster"};
    const auto size = [](const char* letter, int64_t n) {
      return std::string(" ") + letter + "=" + std::to_string(n);
    };
    return std::string(cell.name) + " " + kNumbers[static_cast<int>(number)] + " " +
           kExchanges[static_cast<int>(exchange)] + size("N", shape.groups) +
           size("B", shape.batch) + size("T", shape.steps) + size("H", shape.hidden) +
           (shape.reverse ? " reverse" : "") + (shape.time_major ? " time-major" : "");
  }
};

// Runs one pass; what a trap said, or why there is no plan.
template <class CallArrays>
std::string RunPass(const GpuCase& c, const CallArrays& arrays,
                    const cuda::emulator::LaunchOptions& options = {},
                    uint64_t timeout_ns = 60'000'000'000) {
  const GpuProblem problem{c.cell,        !cuda::kIsForward<CallArrays>,
                           c.number,      c.shape.groups,
                           c.shape.batch, c.shape.hidden};
  const KernelPlan plan =
      PlanKernel(problem, c.facts,
              c.exchange == Exchange::kCluster ? GpuResidency::kCluster : GpuResidency::kGrid);
  if (!plan.runs) return plan.explanation;
  const cuda::Call<CallArrays> call{
      c.shape,
      c.cell,
      c.number,
      arrays,
      plan,
      c.exchange == Exchange::kGridBarrier ? cuda::Signal::kBarrier : cuda::Signal::kData,
      timeout_ns};
  // What the memory holds beforehand must not matter.
  std::vector<cuda::Vec16B> scratch(cuda::LayOutScratch(call).bytes / 16 + 1);
  std::memset(scratch.data(), 0x3c, scratch.size() * 16);
  HostDevice device{options, {}};
  cuda::Run(call, reinterpret_cast<unsigned char*>(scratch.data()), device);
  return device.error;
}

inline double Tolerance(Precision number) {
  switch (number) {
    case Precision::kFloat32: return 2e-5;  // rounding of sums of this length
    case Precision::kTf32: return 4e-3;     // 11 bits of each factor
    case Precision::kFloat16: return 1.0 / 256;
    case Precision::kBfloat16: return 1.0 / 32;  // a flip of the last bit, and what grows of it
  }
  return 0;
}

inline void CheckClose(const GpuCase& c, const char* what, const Buffer& got,
                       const std::vector<double>& expected) {
  const double relative = Tolerance(c.number);
  double scale = 1e-3;
  for (double value : expected) scale = std::fmax(scale, std::fmin(std::fabs(value), 1));
  const std::vector<double> values = got.values();
  CHECK(values.size() == expected.size(), c.name(), what);
  for (size_t i = 0; i < values.size(); ++i) {
    const double limit = relative * (scale + std::fabs(expected[i]));
    CHECK(std::fabs(values[i] - expected[i]) <= limit, c.name(), what, i, values[i], expected[i]);
  }
}

// Forward and backward against the reference in double. Backward from what the kernel itself
// stored, so that the two passes are judged apart.
inline void CheckBothPasses(const GpuCase& c, int seed,
                            const cuda::emulator::LaunchOptions& options = {},
                            uint64_t timeout_ns = 60'000'000'000) {
  Arrays arrays = MakeArrays(c.shape, c.cell, c.dtype(), seed);
  Buffers buffers(arrays, c.cell);
  const std::string forward = RunPass(c, buffers.forward(arrays, true), options, timeout_ns);
  CHECK(forward.empty(), c.name(), forward);
  ReferenceForward(c.shape, c.cell, arrays);
  CheckClose(c, "outputs", buffers.outputs, arrays.outputs);
  CheckClose(c, "saved", buffers.saved, arrays.saved);
  for (int i = 0; i < c.cell.states; ++i) {
    CheckClose(c, i == 0 ? "h" : "c", *buffers.final[i], arrays.final[i]);
  }

  const std::string backward = RunPass(c, buffers.backward(arrays), options, timeout_ns);
  CHECK(backward.empty(), c.name(), backward);
  arrays.outputs = buffers.outputs.values();
  arrays.saved = buffers.saved.values();
  ReferenceBackward(c.shape, c.cell, arrays);
  CheckClose(c, "d_gates_x", buffers.d_gates_x, arrays.d_gates_x);
  CheckClose(c, "d_product", buffers.d_product, arrays.d_product);
  for (int i = 0; i < c.cell.states; ++i) {
    CheckClose(c, i == 0 ? "d_h" : "d_c", *buffers.d_initial[i], arrays.d_initial[i]);
  }
  for (Buffer* buffer : buffers.all()) CHECK(buffer->Intact(), c.name());
}

}  // namespace jp::test
