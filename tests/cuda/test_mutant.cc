// The exchange's checks on one kernel alone, which is built once as it is and once with each of the
// faults in CMakeLists.txt: with a fault they must fail, or they would prove nothing.
#include "native/cells/elman.h"
#include "native/cells/lstm.h"
#include "tests/cuda/problem.h"

namespace jp::cuda {

KernelSet JP_KERNELS();
KernelSet KernelsOf(CellKind /*cell*/, Precision /*number*/) { return JP_KERNELS(); }

}  // namespace jp::cuda

namespace {

using jp::test::Exchange;
using jp::test::GpuCase;

constexpr uint64_t kWait = 500'000'000;

}  // namespace

int main() {
  constexpr jp::CellTraits kCell = jp::JP_CELL::kTraits;
  const GpuCase c{{1, 3, 6, 24, false, false},
                  kCell,
                  jp::Precision::JP_NUMBER,
                  Exchange::kGridData,
                  {90, 4, 160 << 10, 4, 1 << 20}};
  for (uint32_t seed = 1; seed <= 40 && jp::test::failures == 0; ++seed) {
    CheckBothPasses(c, static_cast<int>(seed), {.jitter_seed = seed, .max_delay_us = 100}, kWait);
  }
  // A NaN with all its bits set, as the network's own value.
  jp::test::Arrays arrays = jp::test::MakeArrays(c.shape, kCell, c.dtype(), 1);
  jp::test::Buffers buffers(arrays, kCell);
  std::memset(buffers.gates_x.data(), 0xff, buffers.gates_x.bytes());
  const std::string error = RunPass(c, buffers.forward(arrays, true), {}, kWait);
  CHECK(error.empty(), error);
  return jp::test::Finish("mutant");
}
