// SPDX-License-Identifier: Apache-2.0
// The exchange between blocks: however late each of them is, nobody reads a stale value or waits
// for ever; and a wait that cannot end says so.
#include <chrono>
#include <limits>
#include <memory>

#include "cuda/transports.h"
#include "tests/cuda/cases.h"

namespace {

using jp::CellTraits;
using jp::Part;
using jp::Problem;
using namespace jp::test;

// Blocks held up at random wherever they wait, write or meet. Few: either cell in either precision,
// each with and without what depends on the seed.
void CheckLateBlocks(bool few) {
  const CellTraits &lstm = *jp::FindCell("lstm"), &gru = *jp::FindCell("gru");
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    if (few && seed != 5 && seed != 6 && seed != 9 && seed != 10) continue;
    for (Exchange exchange : kExchanges) {
      const CellTraits& cell = seed % 2 ? lstm : gru;
      const Precision precision = seed % 3 == 0 ? Precision::kFloat32 : Precision::kBfloat16;
      const Size size{seed % 5 == 0 ? 2 : 1, 3, 7, cell.gates == 4 ? 26 : 40};
      Problem given = GivenToGpu(cell, precision, size, {Part::lengths, Part::resets});
      given.directions = EitherWay(size.N, seed % 2 == 0 || size.N > 1);
      if (seed % 4 < 2) given.Add(Part::reset_state);
      GpuCase c{given, exchange};
      if (seed % 3 != 1) c.facts.l2_bytes = 1 << 10;  // places of messages are fetched ahead
      c.width = jp::cuda::kWidths[seed % 3];
      c.cut = c.width > 1 && seed % 4 != 0 ? 2 : 1;
      CheckBothPasses(c, static_cast<int>(seed), {.jitter_seed = seed, .max_delay_us = 60});
    }
  }
}

// Messages of more chunks than a warp has loads in flight, from blocks that are late: the first
// ones are waited for together, those after them one by one.
void CheckLateChunks(bool few) {
  struct Long {
    Precision precision;
    int64_t hidden;
    int processors;
  };
  for (const auto& [precision, H, processors] :
       {Long{Precision::kBfloat16, 328, 6}, Long{Precision::kFloat32, 168, 4}}) {
    for (uint32_t seed = 1; seed <= (few ? 1 : 3); ++seed) {
      GpuCase c{GivenToGpu(*jp::FindCell("lstm"), precision, {1, 3, 4, H}, {Part::resets})};
      c.facts.processors = processors;
      for (const Problem& pass : {c.forward(), c.backward()}) {
        const jp::cuda::KernelPlan plan = PlanOf(c, pass);
        const int loads = jp::cuda::TraitsOf(pass.pass, 4, 2, plan.precision).loads_in_flight;
        CHECK(plan.geometry.warp_chunks > loads, c.name(), plan.geometry.warp_chunks);
      }
      CheckBothPasses(c, static_cast<int>(seed), {.jitter_seed = seed, .max_delay_us = 100});
    }
  }
}

// The reader by itself. Four rows of a warp's five chunks: one whole and late, word by word; one
// that ends after two, with memory beyond that nobody will write; one that is a state, which may
// hold any bits; one that is not in the batch.
void CheckFirstChunks() {
  constexpr int kChunks = 5, kWords = jp::cuda::kChunkBytes / 4;
  struct Rows {
    alignas(16) uint32_t words[4][(kChunks + 1) * kWords];
    jp::cuda::Vec16B seen[32][kChunks];
  };
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    auto rows = std::make_unique<Rows>();
    std::memset(rows.get(), 0xff, sizeof *rows);
    const auto thread = [&rows] {
      namespace arch = jp::cuda::arch;
      const int lane = arch::Lane(), row = lane / 4, t = lane % 4;
      if (arch::BlockIndex() == 0) {  // writes row 0 and the first two chunks of row 1, backwards
        if (lane >= 2) return;
        for (int i = (lane == 0 ? kChunks : 2) * kWords - 1; i >= 0; --i) {
          arch::StoreRelaxed(&rows->words[lane][i], static_cast<uint32_t>(lane * 1000 + i));
        }
        return;
      }
      constexpr int kHas[] = {kChunks + 1, 2, kChunks, 0};
      const auto* first = reinterpret_cast<const unsigned char*>(rows->words[row % 4]);
      jp::cuda::GridReader reader{.first = first + t * 16,
                                  .chunks = kHas[row % 4],
                                  .is_signal = row % 4 != 2,
                                  .context = {"reader", 10'000'000'000, 0}};
      jp::cuda::Vec16B vectors[kChunks + 2];
      for (int c = 0; c < kChunks + 2; ++c) vectors[c] = reader.Load(c);
      reader.AwaitFirst(vectors, kChunks);
      arch::SyncWarp();
      for (int c = 0; c < kChunks; ++c) rows->seen[lane][c] = vectors[c];
      reader.Finish();
    };
    const std::string error = jp::cuda::emulator::Run(
        thread, {2, 1, 32, 0}, {.jitter_seed = seed, .max_delay_us = 50, .timeout_seconds = 20});
    CHECK(error.empty(), error, seed);
    for (int i = 0; i < 32 * kChunks * 4; ++i) {
      const int lane = i / (kChunks * 4), c = i / 4 % kChunks, row = lane / 4 % 4;
      const int at = c * kWords + lane % 4 * 4 + i % 4;
      const uint32_t missing = row == 2 ? ~0u : 0;  // of the state; zeros past a row
      const bool written = row == 0 || (row == 1 && c < 2);
      const uint32_t expected = written ? static_cast<uint32_t>(row * 1000 + at) : missing;
      CHECK(rows->seen[lane][c].word[i % 4] == expected, seed, lane, c, i % 4);
    }
  }
}

// A value that the network really computes as NaN is not mistaken for one that is missing, be it
// with the very bits that mean "missing".
void CheckNotANumber() {
  for (Exchange exchange : kExchanges) {
    for (Precision precision : {Precision::kBfloat16, Precision::kFloat16, Precision::kFloat32}) {
      for (const char* cell_name : {"lstm", "elman_tanh"}) {
        const CellTraits& cell = *jp::FindCell(cell_name);
        if (!IsBuilt(cell, precision)) continue;
        const GpuCase c{GivenToGpu(cell, precision, {1, 3, 4, 24}, {}), exchange};
        const Arrays arrays = MakeArrays(c.given, 3);
        Buffers buffers(arrays);
        const size_t width = jp::ByteWidth(c.given.dtype);
        // Row 1: all its inputs at time 2, and row 2's initial state's first unit.
        const size_t columns = cell.gates * 24, first = (1 * 4 + 2) * columns;
        std::memset(buffers.input_gates.data() + first * width, 0xff, columns * width);
        std::memset(buffers.initial_state[0]->data() + 2 * 24 * width, 0xff, width);
        const std::string error = RunPass(c, c.forward(), buffers.forward(c.forward()));
        CHECK(error.empty(), c.name(), error);
        const std::vector<double> h = buffers.outputs.values();
        for (int b = 0; b < 3; ++b) {
          for (int t = 0; t < 4; ++t) {
            // Row 2 begins with a NaN: all of its units have it from the first step on.
            const bool is_nan = b == 2 || (b == 1 && t >= 2);
            CHECK(std::isnan(h[(b * 4 + t) * 24 + 5]) == is_nan, c.name(), b, t);
          }
        }
        const std::string backward = RunPass(c, c.backward(), buffers.backward(c.backward()));
        CHECK(backward.empty(), c.name(), backward);
        CHECK(std::isfinite(buffers.d_input_gates.values()[0]), c.name());
        CHECK(std::isnan(buffers.d_input_gates.values()[first]), c.name());
      }
    }
  }
}

// Nothing of the state before a reset comes across it, in either direction: not even a NaN.
void CheckResetEndsNotANumber() {
  for (Exchange exchange : kExchanges) {
    for (const char* name : {"lstm", "gru"}) {
      const GpuCase c{
          GivenToGpu(*jp::FindCell(name), Precision::kBfloat16, {1, 3, 5, 24}, {Part::resets}),
          exchange};
      Arrays arrays = MakeArrays(c.given, 3);
      arrays.resets.assign(3 * 5, 0);
      arrays.resets[1 * 5 + 3] = 1;  // row 1, before time 3
      const size_t columns = c.given.columns();
      const auto at = [](size_t time, size_t features) { return (1 * 5 + time) * features; };

      Buffers forward(arrays);
      std::memset(forward.input_gates.data() + at(1, columns) * 2, 0xff, columns * 2);
      const std::string went = RunPass(c, c.forward(), forward.forward(c.forward()));
      CHECK(went.empty(), c.name(), went);
      const std::vector<double> h = forward.outputs.values();
      for (size_t t = 0; t < 5; ++t) {
        CHECK(std::isnan(h[at(t, 24) + 5]) == (t == 1 || t == 2), c.name(), t);
      }

      Buffers backward(arrays);
      std::memset(backward.d_outputs.data() + at(4, 24) * 2, 0xff, 24 * 2);
      const std::string first = RunPass(c, c.forward(), backward.forward(c.forward()));
      const std::string came = RunPass(c, c.backward(), backward.backward(c.backward()));
      CHECK(first.empty() && came.empty(), c.name(), first, came);
      const std::vector<double> d = backward.d_input_gates.values();
      for (size_t t = 0; t < 5; ++t) {
        CHECK(std::isnan(d[at(t, columns) + 5]) == (t >= 3), c.name(), t);
      }
    }
  }
}

void CheckInfinity() {
  const CellTraits& relu = *jp::FindCell("elman_relu");
  if (!IsBuilt(relu, Precision::kBfloat16)) return;
  for (Exchange exchange : kExchanges) {
    const GpuCase c{GivenToGpu(relu, Precision::kBfloat16, {1, 2, 3, 20}, {}), exchange};
    Arrays arrays = MakeArrays(c.given, 8);
    arrays.input_gates[0] = std::numeric_limits<double>::infinity();
    Buffers buffers(arrays);
    const std::string error = RunPass(c, c.forward(), buffers.forward(c.forward()));
    CHECK(error.empty(), c.name(), error);
    CHECK(std::isinf(buffers.outputs.values()[0]), c.name());
  }
}

// What does not count: time in which nobody looked, of a machine that was suspended, say. A thread
// that looks all the time gives up when it should.
void CheckTimeout() {
  const auto give_up_after = [](uint64_t leap_ns) {
    auto looks = std::make_unique<int>(0);
    const std::string error = jp::cuda::emulator::Run(
        [&looks] {
          if (jp::cuda::arch::Lane() != 0) return;
          jp::cuda::Timeout timeout(200'000'000, 1);
          while (!timeout.Expired()) ++*looks;
        },
        {1, 1, 32, 0}, {.clock_leap_ns = leap_ns});
    CHECK(error.empty(), error);
    return *looks;
  };
  // Each look seems to come an hour after the one before: 200 ms are twenty times 10 ms.
  const int looks = give_up_after(3'600'000'000'000);
  CHECK(looks >= 20 && looks <= 22, looks);
  CHECK(give_up_after(0) > 22);
}

// A block's messages are lost and nobody notices, for no row runs: none is waited for.
void CheckNobodyWaits() {
  for (Exchange exchange : kExchanges) {
    for (bool reverse : {false, true}) {
      GpuCase c{
          GivenToGpu(*jp::FindCell("gru"), Precision::kBfloat16, {1, 9, 5, 40}, {Part::lengths}),
          exchange};
      c.given.directions = EitherWay(1, reverse);
      Arrays arrays = MakeArrays(c.given, 2);
      for (int32_t& length : arrays.lengths) length = 0;
      Buffers buffers(arrays);
      const jp::cuda::emulator::LaunchOptions options{.lost_block = 0};
      const std::string went =
          RunPass(c, c.forward(), buffers.forward(c.forward()), options, 1'000'000'000);
      const std::string came =
          RunPass(c, c.backward(), buffers.backward(c.backward()), options, 1'000'000'000);
      CHECK(went.empty() && came.empty(), c.name(), went, came);
    }
  }
}

// One block's messages are lost: the others give up, and say what they waited for. Through L2 they
// wait longer for the first time, for the block may not have started.
void CheckStuck() {
  constexpr uint64_t kTimeout = 20'000'000;
  for (Exchange exchange : kExchanges) {
    const GpuCase c{GivenToGpu(*jp::FindCell("lstm"), Precision::kBfloat16, {1, 2, 3, 24}, {}),
                    exchange};
    const Arrays arrays = MakeArrays(c.given, 2);
    Buffers buffers(arrays);
    const auto start = std::chrono::steady_clock::now();
    const std::string error =
        RunPass(c, c.forward(), buffers.forward(c.forward()), {.lost_block = 0}, kTimeout);
    const std::chrono::nanoseconds waited = std::chrono::steady_clock::now() - start;
    const uint64_t least =
        exchange == Exchange::kCluster ? kTimeout : kTimeout * jp::cuda::kTimeoutsToStart;
    CHECK(static_cast<uint64_t>(waited.count()) >= least, c.name(), waited.count());
    CHECK(error.starts_with("jax_persistent.forward: block "), c.name(), error);
    CHECK(error.find("gave up waiting at step 1: expected 0x") != std::string::npos, c.name(),
          error);
  }
}

}  // namespace

// With an argument: few of the late ones, for sanitizers, under which a lane costs a hundred times
// as much.
int main(int count, char** /*arguments*/) {
  CheckLateBlocks(count > 1);
  CheckLateChunks(count > 1);
  CheckFirstChunks();
  CheckNotANumber();
  CheckResetEndsNotANumber();
  CheckInfinity();
  CheckTimeout();
  CheckNobodyWaits();
  CheckStuck();
  return jp::test::Finish("exchange between GPU blocks");
}
