// The exchange between blocks: however late each of them is, nobody reads a stale value or waits
// for ever; and a wait that cannot end says so.
#include <limits>

#include "tests/cuda/problem.h"

namespace {

using jp::CellTraits;
using jp::DeviceFacts;
using jp::Precision;
using jp::test::Arrays;
using jp::test::Buffers;
using jp::test::CheckBothPasses;
using jp::test::Exchange;
using jp::test::GpuCase;

constexpr DeviceFacts kFacts{90, 4, 160 << 10, 4, 1 << 20};
constexpr Exchange kExchanges[] = {Exchange::kGridData, Exchange::kGridBarrier, Exchange::kCluster};

// Blocks held up at random wherever they wait, write or meet.
void CheckLateBlocks() {
  const CellTraits &lstm = *jp::FindCell("lstm"), &gru = *jp::FindCell("gru");
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    for (Exchange exchange : kExchanges) {
      const CellTraits& cell = seed % 2 ? lstm : gru;
      const int64_t H = cell.gates == 4 ? 26 : 40;
      const Precision number = seed % 3 == 0 ? Precision::kFloat32 : Precision::kBfloat16;
      CheckBothPasses({{1, 3, 7, H, seed % 5 == 0, false}, cell, number, exchange, kFacts},
                      static_cast<int>(seed), {.jitter_seed = seed, .max_delay_us = 60});
    }
  }
}

// A value that the network really computes as NaN is not mistaken for one that is missing, be it
// with the very bits that mean "missing".
void CheckNotANumber() {
  for (Exchange exchange : kExchanges) {
    for (Precision number : {Precision::kBfloat16, Precision::kFloat16, Precision::kFloat32}) {
      for (const char* cell_name : {"lstm", "elman_tanh"}) {
        const CellTraits& cell = *jp::FindCell(cell_name);
        const GpuCase c{{1, 3, 4, 24, false, false}, cell, number, exchange, kFacts};
        Arrays arrays = jp::test::MakeArrays(c.shape, cell, c.dtype(), 3);
        arrays.lengths.assign(3, 4);
        Buffers buffers(arrays, cell);
        const size_t width = jp::cpu::ByteWidth(c.dtype());
        // Row 1: all its projected inputs at time 2, and its initial state's first unit.
        const size_t columns = cell.gates * 24, first = (1 * 4 + 2) * columns;
        std::memset(buffers.gates_x.data() + first * width, 0xff, columns * width);
        std::memset(buffers.initial[0]->data() + 2 * 24 * width, 0xff, width);
        const std::string error = RunPass(c, buffers.forward(arrays, true));
        CHECK(error.empty(), c.name(), error);
        const std::vector<double> h = buffers.outputs.values();
        for (int b = 0; b < 3; ++b) {
          for (int t = 0; t < 4; ++t) {
            // Row 2 begins with a NaN: all of its units have it from the first step on.
            const bool is_nan = b == 2 || (b == 1 && t >= 2);
            CHECK(std::isnan(h[(b * 4 + t) * 24 + 5]) == is_nan, c.name(), b, t);
          }
        }
        const std::string backward = RunPass(c, buffers.backward(arrays));
        CHECK(backward.empty(), c.name(), backward);
        CHECK(std::isfinite(buffers.d_gates_x.values()[0]), c.name());
        CHECK(std::isnan(buffers.d_gates_x.values()[first]), c.name());
      }
    }
  }
}

void CheckInfinity() {
  const CellTraits& cell = *jp::FindCell("elman_relu");
  for (Exchange exchange : kExchanges) {
    const GpuCase c{{1, 2, 3, 20, false, false}, cell, Precision::kBfloat16, exchange, kFacts};
    Arrays arrays = jp::test::MakeArrays(c.shape, cell, c.dtype(), 8);
    arrays.lengths.assign(2, 3);
    arrays.gates_x[0] = std::numeric_limits<double>::infinity();
    Buffers buffers(arrays, cell);
    const std::string error = RunPass(c, buffers.forward(arrays, true));
    CHECK(error.empty(), c.name(), error);
    CHECK(std::isinf(buffers.outputs.values()[0]), c.name());
  }
}

// One block's messages are lost: the others give up, and say what they waited for.
void CheckStuck() {
  const CellTraits& cell = *jp::FindCell("lstm");
  for (Exchange exchange : kExchanges) {
    const GpuCase c{{1, 2, 3, 24, false, false}, cell, Precision::kBfloat16, exchange, kFacts};
    const Arrays arrays = jp::test::MakeArrays(c.shape, cell, c.dtype(), 2);
    Buffers buffers(arrays, cell);
    const std::string error =
        RunPass(c, buffers.forward(arrays, true), {.lost_block = 0}, 50'000'000);
    CHECK(error.starts_with("jax_persistent.forward: block "), c.name(), error);
    CHECK(error.find("gave up waiting at step 1: expected 0x") != std::string::npos, c.name(),
          error);
  }
}

}  // namespace

int main() {
  CheckLateBlocks();
  CheckNotANumber();
  CheckInfinity();
  CheckStuck();
  return jp::test::Finish("exchange between GPU blocks");
}
