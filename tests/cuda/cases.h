// SPDX-License-Identifier: Apache-2.0
// A recurrence to be run by the GPU kernels on the CPU, and what it should come to.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "tests/cuda/run_on_device.h"
#include "tests/native/buffers.h"
#include "tests/native/check.h"
#include "tests/native/reference.h"

namespace jp::test {

using cuda::DeviceFacts;
using cuda::Exchange;
using cuda::Precision;

inline constexpr Exchange kExchanges[] = {Exchange::kGridData, Exchange::kGridBarrier,
                                          Exchange::kCluster};

// A part of a GPU: small problems already take all of its blocks.
inline constexpr DeviceFacts kSmallGpu{90, 4, 160 << 10, 4, 1 << 20};

constexpr uint64_t kLongTimeout = 60'000'000'000;

struct GpuCase {
  Problem
      given;  // the parts that say what is given; ForwardOf and BackwardOf make the passes of it
  Exchange exchange = Exchange::kGridData;
  DeviceFacts facts = kSmallGpu;
  int width = 1, cut = 1;  // where there is such a kernel

  Problem forward() const { return ForwardOf(given); }
  Problem backward() const { return BackwardOf(given, {Part::d_gates}); }

  std::string name() const {
    constexpr const char* kDTypes[] = {"float32", "bfloat16", "float16", "float64"};
    constexpr const char* kNames[] = {"any", "grid", "grid with a barrier", "cluster"};
    const auto size = [](const char* letter, int64_t n) {
      return std::string(" ") + letter + "=" + std::to_string(n);
    };
    const auto flag = [](bool is_there, const char* word) {
      return is_there ? std::string(" ") + word : std::string();
    };
    return std::string(given.cell.name) + " " + kDTypes[static_cast<int>(given.dtype)] +
           flag(given.tf32, "tf32") + (width != 1 ? size("width", width) : "") +
           (cut != 1 ? size("cut", cut) : "") + " " + kNames[static_cast<int>(exchange)] +
           size("N", given.groups) + size("B", given.batch) + size("T", given.steps) +
           size("H", given.hidden) + NameOf(given.directions) +
           flag(given.time_major, "time-major") + flag(given.has(Part::lengths), "lengths") +
           flag(given.has(Part::resets), "resets") +
           flag(given.has(Part::reset_state), "reset_state");
  }
};

struct Size {
  int64_t N, B, T, H;
};

// What the GPU kernels are given of a recurrence, with the optional parts named.
inline Problem GivenToGpu(const CellTraits& cell, Precision precision, const Size& size,
                          std::initializer_list<Part> parts) {
  Problem p{.cell = cell,
            .groups = size.N,
            .batch = size.B,
            .steps = size.T,
            .hidden = size.H,
            .tf32 = precision == Precision::kTf32};
  p.dtype = precision == Precision::kBfloat16  ? DType::kBfloat16
            : precision == Precision::kFloat16 ? DType::kFloat16
                                               : DType::kFloat32;
  p = Given(p, parts);
  p.Add(Part::input_gates);
  if (cell.reset_after) p.Add(Part::recurrent_bias);
  return p;
}

// Of the case's width and cut, or of 1 where there is no such kernel.
inline cuda::KernelPlan PlanOf(const GpuCase& c, const Problem& problem) {
  const Precision precision = problem.tf32                        ? Precision::kTf32
                              : problem.dtype == DType::kBfloat16 ? Precision::kBfloat16
                              : problem.dtype == DType::kFloat16  ? Precision::kFloat16
                                                                  : Precision::kFloat32;
  const bool has = c.width > 1 && c.exchange != Exchange::kCluster &&
                   cuda::HasWidth(problem.pass, problem.cell.gates, precision, c.width);
  const int cut = has && problem.pass == jp::Pass::kBackward ? c.cut : 1;
  return cuda::PlanKernel(problem, c.facts, c.exchange, has ? c.width : 1, cut);
}

// Runs one pass; what a trap said, or why there is no plan.
template <class PassArrays>
std::string RunPass(const GpuCase& c, const Problem& problem, const PassArrays& arrays,
                    const cuda::emulator::LaunchOptions& options = {},
                    uint64_t timeout_ns = kLongTimeout) {
  const cuda::KernelPlan plan = PlanOf(c, problem);
  if (!plan.runs()) return plan.refusal;
  // What the memory holds beforehand must not matter.
  const int64_t bytes = cuda::LayOutWorkspace(problem, plan).bytes;
  struct alignas(cuda::kWorkspaceLine) Line {
    unsigned char bytes[cuda::kWorkspaceLine];
  };
  std::vector<Line> workspace(bytes / sizeof(Line) + 1);
  std::memset(workspace.data(), 0x3c, workspace.size() * sizeof(Line));
  return RunOnDevice({problem, plan, c.facts, workspace[0].bytes, bytes, timeout_ns, options},
                     arrays);
}

inline double Tolerance(const Problem& problem) {
  switch (problem.dtype) {
    case DType::kFloat64: break;
    case DType::kFloat32: return problem.tf32 ? 4e-3 : 2e-5;  // 11 bits of each factor; sums
    case DType::kFloat16: return 1.0 / 256;
    case DType::kBfloat16: return 1.0 / 32;  // a flip of the last bit, and what grows of it
  }
  return 0;
}

inline void CheckClose(const GpuCase& c, const char* what, const Buffer& got,
                       const std::vector<double>& expected) {
  const double relative = Tolerance(c.given);
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
inline void CheckBothPasses(const GpuCase& c, Arrays arrays,
                            const cuda::emulator::LaunchOptions& options = {},
                            uint64_t timeout_ns = kLongTimeout) {
  Buffers buffers(arrays);
  const Problem forward = c.forward(), backward = c.backward();
  const std::string went = RunPass(c, forward, buffers.forward(forward), options, timeout_ns);
  CHECK(went.empty(), c.name(), went);
  ReferenceForward(forward, arrays);
  CheckClose(c, "outputs", buffers.outputs, arrays.outputs);
  CheckClose(c, "residuals", buffers.residuals, arrays.residuals);
  for (int s = 0; s < c.given.cell.states; ++s) {
    CheckClose(c, "final_state", *buffers.final_state[s], arrays.final_state[s]);
  }

  const std::string came = RunPass(c, backward, buffers.backward(backward), options, timeout_ns);
  CHECK(came.empty(), c.name(), came);
  arrays.outputs = buffers.outputs.values();
  arrays.residuals = buffers.residuals.values();
  ReferenceBackward(backward, arrays);
  CheckClose(c, "d_input_gates", buffers.d_input_gates, arrays.d_input_gates);
  CheckClose(c, "d_recurrent_gates", buffers.d_recurrent_gates, arrays.d_recurrent_gates);
  for (int s = 0; s < c.given.cell.states; ++s) {
    CheckClose(c, "d_initial_state", *buffers.d_initial_state[s], arrays.d_initial_state[s]);
    if (!backward.has(Part::reset_state)) continue;
    CheckClose(c, "d_reset_state", *buffers.d_reset_state[s], arrays.d_reset_state[s]);
  }
  for (Buffer* buffer : buffers.all()) CHECK(buffer->Intact(), c.name());
}
inline void CheckBothPasses(const GpuCase& c, int seed,
                            const cuda::emulator::LaunchOptions& options = {},
                            uint64_t timeout_ns = kLongTimeout) {
  CheckBothPasses(c, MakeArrays(c.given, seed), options, timeout_ns);
}

}  // namespace jp::test
