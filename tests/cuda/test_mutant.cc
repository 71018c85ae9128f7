// SPDX-License-Identifier: Apache-2.0
// The checks on one kernel alone, `test_mutant Lstm Bfloat16`: linked with the kernels as they are,
// and once with each of the faults in CMakeLists.txt. With a fault they must fail, or they would
// prove nothing.
#include <string_view>

#include "tests/cuda/cases.h"

namespace {

using jp::Part;
using namespace jp::test;

constexpr uint64_t kTimeout = 200'000'000;

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const std::string_view name = arguments[1], dtype = arguments[2];
  const jp::CellTraits& cell = *jp::FindCell(name == "Lstm" ? "lstm" : "elman_tanh");
  const Precision precision = dtype == "Bfloat16" ? Precision::kBfloat16 : Precision::kFloat32;
  const GpuCase plain{GivenToGpu(cell, precision, {1, 11, 6, 24}, {Part::lengths})};
  // A NaN with all its bits set, as the network's own value.
  const Arrays arrays = MakeArrays(plain.given, 1);
  Buffers buffers(arrays);
  std::memset(buffers.input_gates.data(), 0xff, buffers.input_gates.bytes());
  const std::string error =
      RunPass(plain, plain.forward(), buffers.forward(plain.forward()), {}, kTimeout);
  CHECK(error.empty(), error);

  GpuCase with_resets = plain;
  with_resets.given.Add(Part::resets).Add(Part::reset_state);
  // From 2 on: the first has a K that is cut.
  for (uint32_t seed = 2; seed <= 40 && failures == 0; ++seed) {
    GpuCase c = seed % 2 ? with_resets : plain;
    c.given.directions = EitherWay(1, seed % 3 != 0);
    c.exchange = seed % 4 == 1   ? Exchange::kCluster
                 : seed % 4 == 3 ? Exchange::kGridBarrier
                                 : Exchange::kGridData;
    c.width = jp::cuda::kWidths[seed % 3];
    c.cut = c.width > 1 ? 2 : 1;
    CheckBothPasses(c, static_cast<int>(seed), {.jitter_seed = seed, .max_delay_us = 100},
                    kTimeout);
  }
  // More chunks than a warp has loads in flight.
  GpuCase wide = plain;
  wide.given.hidden = 400;
  wide.given.batch = 3;
  wide.facts.processors = 7;
  for (uint32_t seed = 1; seed <= 5 && failures == 0; ++seed) {
    CheckBothPasses(wide, static_cast<int>(seed), {.jitter_seed = seed, .max_delay_us = 100},
                    kTimeout);
  }
  // Blocks of a cluster that overtake each other where they can: an Elman network's parts of K have
  // other units.
  GpuCase late = plain;
  late.given.batch = 3;
  late.given.steps = 20;
  late.given.hidden = 48;
  late.width = late.cut = 2;
  for (uint32_t seed = 1; seed <= 10 && failures == 0; ++seed) {
    CheckBothPasses(late, static_cast<int>(seed), {.jitter_seed = seed, .max_delay_us = 1000},
                    10 * kTimeout);
  }
  return Finish("mutant");
}
