// SPDX-License-Identifier: Apache-2.0
// The GPU kernels, run on the CPU, against a plain reference in double. One argument: `few`, or
// how the names of the cells begin that are to be run.
#include <algorithm>
#include <memory>
#include <string_view>

#include "tests/cuda/cases.h"

namespace {

using jp::CellTraits;
using jp::Part;
using jp::Problem;
using namespace jp::test;

std::string_view asked;  // how the names of the cells that are to be run begin

bool IsAsked(std::string_view cell) { return cell.starts_with(asked); }

constexpr Precision kPrecisions[] = {Precision::kBfloat16, Precision::kFloat32, Precision::kFloat16,
                                     Precision::kTf32};

// Odd sizes, one of each, rows past a tile, units past a block, several blocks, chunks and
// launches; rows that 16-byte loads can read, and rows that they can't.
constexpr Size kSizes[] = {{1, 3, 5, 7}, {2, 9, 4, 20}, {1, 1, 1, 1}, {1, 11, 4, 48}};

// Which parts a case has.
struct Options {
  bool lengths, resets, reset_state, second_way;
};

Problem With(const Options& options, Problem problem, int seed) {
  if (options.lengths) problem.Add(Part::lengths);
  if (options.resets) problem.Add(Part::resets);
  if (options.reset_state) problem.Add(Part::reset_state);
  problem.directions = EitherWay(problem.groups, options.second_way);
  if (seed % 5 == 0) problem.parts &= ~(1u << static_cast<uint32_t>(Part::recurrent_bias));
  problem.time_major = seed % 3 == 0;
  return problem;
}

// The cells and precisions whose kernels have code of their own; the others differ from one of
// them in an activation or in a conversion.
bool IsTypical(const CellTraits& cell, Precision precision) {
  return cell.kind != jp::CellKind::kElmanRelu &&
         (precision == Precision::kBfloat16 || precision == Precision::kFloat32);
}

// Every option with every exchange of every typical kernel, the sizes in turn. The other kernels
// have one exchange each: relu, float16 and tf32 have all three between them, each cell two or
// three.
void CheckAllOptions() {
  int seed = 0, kernel = 0;
  for (const CellTraits& cell : jp::kCells) {
    for (Precision precision : kPrecisions) {
      ++kernel;
      if (!IsBuilt(cell, precision)) continue;
      for (Exchange exchange : kExchanges) {
        const bool in_turn = exchange == kExchanges[(kernel + kernel / 4) % 3];
        if (!IsTypical(cell, precision) && !in_turn) continue;
        for (int option = 0; option < 12; ++option) {
          ++seed;
          if (!IsAsked(cell.name)) continue;
          const Options options{.lengths = option % 2 != 0,
                                .resets = option / 4 > 0,
                                .reset_state = option / 4 > 1,
                                .second_way = option / 2 % 2 != 0};
          const Size& size = kSizes[(seed + seed / 12) % 4];
          const Problem given = With(options, GivenToGpu(cell, precision, size, {}), seed);
          GpuCase c{given, exchange};
          if (IsTypical(cell, precision)) c.width = jp::cuda::kWidths[(seed / 4) % 3];
          if (c.width > 1 && seed % 2 == 0) c.cut = 2;
          CheckBothPasses(c, seed);
        }
      }
    }
  }
}

// Every kernel once, with all parts: under sanitizers a lane costs a hundred times as much.
void CheckEachKernel() {
  int seed = 0;
  for (const CellTraits& cell : jp::kCells) {
    for (Precision precision : kPrecisions) {
      if (!IsBuilt(cell, precision)) continue;
      for (Exchange exchange : kExchanges) {
        ++seed;
        if (!IsAsked(cell.name)) continue;
        const Options options{true, true, true, seed % 2 == 0};
        const Problem given = With(options, GivenToGpu(cell, precision, kSizes[1], {}), seed);
        CheckBothPasses({given, exchange}, seed);
      }
    }
  }
}

// Tiles whose rows end long before the last step, or have none at all, beside others that run to
// the end; in one layer of two all rows are empty.
void CheckEndedTiles(bool few) {
  constexpr int32_t kLengths[][19] = {
      {7, 3, 0, 7, 5, 1, 2, 6, /**/ 2, 1, 2, 0, 2, 2, 1, 0, /**/ 0, 0, 0},
      {0, 0, 0, 0, 0, 0, 0, 0, /**/ 0, 1, 0, 0, 0, 0, 0, 0, /**/ 7, 6, 4},
      {0}};
  int seed = 0;
  for (const char* name : {"lstm", "gru", "elman_tanh"}) {
    for (Exchange exchange : kExchanges) {
      for (int option = 0; option < 4; ++option) {
        const Options options{true, option % 2 != 0, option % 2 != 0, option / 2 != 0};
        const Precision precision = ++seed % 2 ? Precision::kBfloat16 : Precision::kFloat32;
        if (!IsAsked(name)) continue;
        if (few && (option == 1 || option == 2) != ((seed - 1) / 4 % 2 != 0)) continue;
        const Size size{2, 19, 7, 24};
        GpuCase c{With(options, GivenToGpu(*jp::FindCell(name), precision, size, {}), seed),
                  exchange, kSmallGpu, jp::cuda::kWidths[seed % 3]};
        if (c.width > 1) c.cut = 2;
        Arrays arrays = MakeArrays(c.given, seed);
        for (size_t i = 0; i < arrays.lengths.size(); ++i) {
          arrays.lengths[i] = kLengths[(seed + i / 19) % 3][i % 19];
        }
        CheckBothPasses(c, arrays,
                        {.jitter_seed = static_cast<uint32_t>(seed), .max_delay_us = 50});
      }
    }
  }
}

// Weights past the registers: in shared memory, and past that in L2.
void CheckWeightsBeyondRegisters() {
  struct Wide {
    const char* cell;
    int64_t hidden;
    int shared_bytes;  // with room for one chunk of weights
  };
  for (const auto& [name, H, little] : {Wide{"lstm", 165, 40 << 10}, Wide{"gru", 211, 44 << 10},
                                        Wide{"elman_tanh", 290, 28 << 10}}) {
    if (!IsAsked(name)) continue;
    for (int shared_bytes : {little, 227 << 10}) {
      const GpuCase c{
          GivenToGpu(*jp::FindCell(name), Precision::kFloat32, {1, 2, 3, H}, {Part::lengths}),
          Exchange::kGridData,
          {80, 3, shared_bytes, 1, 16 << 20}};
      const jp::cuda::Geometry g = jp::cuda::PlanKernel(c.forward(), c.facts, c.exchange).geometry;
      CHECK(g.shared_chunks > 0, c.name(), g.shared_chunks);
      CHECK((g.stream_chunks > 0) == (shared_bytes == little), c.name(), g.stream_chunks);
      CheckBothPasses(c, static_cast<int>(H));
    }
  }
}

// The same result, bit for bit, however the blocks meet and however late they are.
void CheckExchangesAgree() {
  for (const char* name : {"lstm", "gru", "elman_tanh"}) {
    if (!IsAsked(name)) continue;
    const Problem given = GivenToGpu(*jp::FindCell(name), Precision::kBfloat16, {1, 3, 6, 24},
                                     {Part::lengths, Part::resets, Part::reset_state});
    const auto run = [&](Exchange exchange, uint32_t seed) {
      const Arrays arrays = MakeArrays(given, 5);
      auto buffers = std::make_unique<Buffers>(arrays);
      const GpuCase c{given, exchange};
      const jp::cuda::emulator::LaunchOptions options{.jitter_seed = seed, .max_delay_us = 50};
      for (const std::string& error :
           {RunPass(c, c.forward(), buffers->forward(c.forward()), options),
            RunPass(c, c.backward(), buffers->backward(c.backward()), options)}) {
        CHECK(error.empty(), c.name(), error);
      }
      return buffers;
    };
    const auto expected = run(Exchange::kGridData, 0);
    for (Exchange exchange : {Exchange::kGridData, Exchange::kGridBarrier}) {
      const auto got = run(exchange, 1);
      CHECK(got->outputs.SameBytes(expected->outputs), name, static_cast<int>(exchange));
      CHECK(got->residuals.SameBytes(expected->residuals), name, static_cast<int>(exchange));
      CHECK(got->d_input_gates.SameBytes(expected->d_input_gates), name);
      CHECK(got->d_reset_state[0]->SameBytes(*expected->d_reset_state[0]), name);
    }
  }
}

// A flag that is never set changes no bit.
void CheckResetsUnset() {
  if (!IsAsked("gru")) return;
  for (Exchange exchange : kExchanges) {
    const GpuCase without{
        GivenToGpu(*jp::FindCell("gru"), Precision::kFloat32, {1, 3, 5, 24}, {Part::lengths}),
        exchange};
    GpuCase with = without;
    with.given.Add(Part::resets);
    const Arrays plain = MakeArrays(without.given, 4);  // resets: all zeros
    Buffers expected(plain), got(plain);
    for (auto* run : {&expected, &got}) {
      const GpuCase& c = run == &got ? with : without;
      const std::string forward = RunPass(c, c.forward(), run->forward(c.forward()));
      const std::string backward = RunPass(c, c.backward(), run->backward(c.backward()));
      CHECK(forward.empty() && backward.empty(), c.name(), forward, backward);
    }
    CHECK(got.outputs.SameBytes(expected.outputs), with.name());
    CHECK(got.d_input_gates.SameBytes(expected.d_input_gates), with.name());
    CHECK(got.d_initial_state[0]->SameBytes(*expected.d_initial_state[0]), with.name());
  }
}

}  // namespace

int main(int count, char** arguments) {
  const std::string_view argument = count > 1 ? arguments[1] : "";
  const bool few = argument == "few";
  if (!few) asked = argument;
  const auto is_asked = [](const CellTraits& cell) { return IsAsked(cell.name); };
  CHECK(std::any_of(std::begin(jp::kCells), std::end(jp::kCells), is_asked), asked);
  if (few) {
    CheckEachKernel();
  } else {
    CheckAllOptions();
  }
  CheckEndedTiles(few);
  CheckWeightsBeyondRegisters();
  CheckExchangesAgree();
  CheckResetsUnset();
  return jp::test::Finish("GPU kernels on the CPU");
}
