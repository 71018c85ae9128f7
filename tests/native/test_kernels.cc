// SPDX-License-Identifier: Apache-2.0
// The kernels of every instruction set that runs here against a plain reference in double.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "native/cpu/machine.h"
#include "native/problem/parse.h"
#include "tests/native/buffers.h"
#include "tests/native/case.h"
#include "tests/native/check.h"
#include "tests/native/isas.h"
#include "tests/native/reference.h"
#include "tests/native/run.h"
#include "tests/native/weight_parts.h"

namespace {

using jp::CellTraits;
using jp::DType;
using jp::Part;
using jp::Problem;
using jp::WeightArrays;
using jp::cpu::Isa;
using jp::cpu::Units;
using jp::test::Arrays;
using jp::test::BackwardOf;
using jp::test::Buffer;
using jp::test::Buffers;
using jp::test::Case;
using jp::test::CheckClose;
using jp::test::ForwardOf;
using jp::test::PackOn;
using jp::test::RunOn;
using jp::test::WeightParts;

void CheckForward(const Case& c, Buffers& buffers, Arrays& arrays) {
  const Problem problem = ForwardOf(c.given);
  RunOn(c.isa, problem, 1, buffers.forward(problem));
  ReferenceForward(c.given, arrays);
  CheckClose(c, "outputs", buffers.outputs, arrays.outputs);
  CheckClose(c, "residuals", buffers.residuals, arrays.residuals);
  for (int s = 0; s < c.given.cell.states; ++s) {
    CheckClose(c, s == 0 ? "h" : "c", *buffers.final_state[s], arrays.final_state[s]);
  }
}

// From what the kernel itself stored, so that the two passes are judged apart.
void CheckBackward(const Case& c, Buffers& buffers, Arrays& arrays) {
  const Problem problem = BackwardOf(c.given, {Part::d_x, Part::d_weights, Part::d_gates});
  RunOn(c.isa, problem, 1, buffers.backward(problem));
  arrays.outputs = buffers.outputs.values();
  arrays.residuals = buffers.residuals.values();
  ReferenceBackward(c.given, arrays);
  CheckClose(c, "d_x", buffers.d_x, arrays.d_x);
  CheckClose(c, "d_input_gates", buffers.d_input_gates, arrays.d_input_gates);
  CheckClose(c, "d_recurrent_gates", buffers.d_recurrent_gates, arrays.d_recurrent_gates);
  for (int s = 0; s < c.given.cell.states; ++s) {
    CheckClose(c, s == 0 ? "d_h" : "d_c", *buffers.d_initial_state[s], arrays.d_initial_state[s]);
    if (!c.given.has(Part::reset_state)) continue;
    const double resets = static_cast<double>(c.given.steps);
    CheckClose(c, s == 0 ? "reset d_h" : "reset d_c", *buffers.d_reset_state[s],
               arrays.d_reset_state[s], resets);
  }
  const double terms = static_cast<double>(c.given.batch * c.given.steps);
  CheckClose(c, "d_input_kernel", buffers.d_input_kernel, arrays.d_input_kernel, terms);
  CheckClose(c, "d_bias", buffers.d_bias, arrays.d_bias, terms);
  CheckClose(c, "d_recurrent_kernel", buffers.d_recurrent_kernel, arrays.d_recurrent_kernel, terms);
  CheckClose(c, "d_recurrent_bias", buffers.d_recurrent_bias, arrays.d_recurrent_bias, terms);
}

// The number of workers must not show in a single bit.
void CheckThreads(const Case& c, Buffers& alone, const Arrays& arrays, int threads) {
  Buffers together(arrays);
  const Problem forward = ForwardOf(c.given);
  const Problem backward = BackwardOf(c.given, {Part::d_x, Part::d_weights, Part::d_gates});
  RunOn(c.isa, forward, threads, together.forward(forward));
  RunOn(c.isa, backward, threads, together.backward(backward));
  const auto expected = alone.all(), got = together.all();
  for (size_t i = 0; i < got.size(); ++i) {
    CHECK(got[i]->SameBytes(*expected[i]), c.name(), threads, i);
    CHECK(got[i]->Intact(), c.name(), threads, i);
  }
}

// Nor must what else is asked for: no residuals, and every part of the gradients by itself.
void CheckParts(const Case& c, Buffers& all, const Arrays& arrays, int threads) {
  Buffers some(arrays);
  const Problem bare = ForwardOf(c.given, false);
  RunOn(c.isa, bare, threads, some.forward(bare));
  CHECK(some.outputs.SameBytes(all.outputs), c.name());
  const Problem forward = ForwardOf(c.given);
  RunOn(c.isa, forward, threads, some.forward(forward));
  const auto run = [&](std::initializer_list<Part> wanted) {
    const Problem backward = BackwardOf(c.given, wanted);
    RunOn(c.isa, backward, threads, some.backward(backward));
    for (int s = 0; s < c.given.cell.states; ++s) {
      CHECK(some.d_initial_state[s]->SameBytes(*all.d_initial_state[s]), c.name(), s);
      CHECK(some.d_reset_state[s]->SameBytes(*all.d_reset_state[s]), c.name(), s);
    }
  };
  run({});
  run({Part::d_x});
  CHECK(some.d_x.SameBytes(all.d_x), c.name());
  run({Part::d_gates});
  CHECK(some.d_input_gates.SameBytes(all.d_input_gates), c.name());
  run({Part::d_weights});
  for (const auto& [got, expected] :
       {std::pair(&some.d_input_kernel, &all.d_input_kernel), std::pair(&some.d_bias, &all.d_bias),
        std::pair(&some.d_recurrent_kernel, &all.d_recurrent_kernel),
        std::pair(&some.d_recurrent_bias, &all.d_recurrent_bias)}) {
    CHECK(got->SameBytes(*expected), c.name());
  }
  for (Buffer* buffer : some.all()) CHECK(buffer->Intact(), c.name());
}

// Nor whether the kernels were packed before the call, whoever reads them.
void CheckPacked(const Case& c, Buffers& all, const Arrays& arrays, int threads) {
  Buffers packed(arrays);
  Problem forward = ForwardOf(c.given);
  forward.packed_lanes = c.isa.lanes;
  const auto pack = [&](Buffer& kernel, int64_t rows) {
    const Problem& p = c.given;
    const jp::Packing packing{p.dtype, p.cell.gates, p.groups, rows, p.hidden, c.isa.lanes};
    auto panels = std::make_unique<Buffer>(p.dtype, jp::PackedValues(packing));
    PackOn(c.isa, packing, 1, kernel.data(), panels->data());
    CHECK(panels->Intact(), c.name(), rows);
    return panels;
  };
  const auto input_panels = pack(packed.input_kernel, c.given.inputs);
  const auto recurrent_panels = pack(packed.recurrent_kernel, c.given.hidden);
  jp::Forward call = packed.forward(forward);
  call.input_kernel[0] = input_panels->data();
  call.recurrent_kernel[0] = recurrent_panels->data();
  RunOn(c.isa, forward, threads, call);
  CHECK(packed.outputs.SameBytes(all.outputs), c.name(), threads);
  CHECK(packed.residuals.SameBytes(all.residuals), c.name(), threads);
  for (int s = 0; s < c.given.cell.states; ++s) {
    CHECK(packed.final_state[s]->SameBytes(*all.final_state[s]), c.name(), threads, s);
  }
}

// Nor whether directions and gates have their weights in arrays of their own.
void CheckApart(const Case& c, Buffers& all, const Arrays& arrays, WeightArrays weights,
                int threads) {
  Problem given = c.given;
  given.weights = weights;
  Buffers apart(arrays);
  WeightParts w(given, arrays.input_kernel), b(given, arrays.bias);
  WeightParts r(given, arrays.recurrent_kernel), q(given, arrays.recurrent_bias);
  const Problem forward = ForwardOf(given);
  jp::Forward call = apart.forward(forward);
  w.Set(call.input_kernel), b.Set(call.bias);
  r.Set(call.recurrent_kernel), q.Set(call.recurrent_bias);
  RunOn(c.isa, forward, threads, call);
  const Problem backward = BackwardOf(given, {Part::d_x, Part::d_weights});
  const auto nothing = [](const std::vector<double>& like) {
    return std::vector<double>(like.size(), std::nan(""));
  };
  WeightParts d_w(given, nothing(arrays.d_input_kernel)), d_b(given, nothing(arrays.d_bias));
  WeightParts d_r(given, nothing(arrays.d_recurrent_kernel));
  WeightParts d_q(given, nothing(arrays.d_recurrent_bias));
  jp::Backward call_back = apart.backward(backward);
  w.Set(call_back.input_kernel), r.Set(call_back.recurrent_kernel);
  d_w.Set(call_back.d_input_kernel), d_b.Set(call_back.d_bias);
  d_r.Set(call_back.d_recurrent_kernel), d_q.Set(call_back.d_recurrent_bias);
  RunOn(c.isa, backward, threads, call_back);
  CHECK(apart.outputs.SameBytes(all.outputs), c.name(), threads);
  CHECK(apart.d_x.SameBytes(all.d_x), c.name(), threads);
  for (int s = 0; s < c.given.cell.states; ++s) {
    CHECK(apart.d_initial_state[s]->SameBytes(*all.d_initial_state[s]), c.name(), threads, s);
  }
  for (const auto& [got, expected] :
       {std::pair(&d_w, &all.d_input_kernel), std::pair(&d_b, &all.d_bias),
        std::pair(&d_r, &all.d_recurrent_kernel), std::pair(&d_q, &all.d_recurrent_bias)}) {
    CHECK(got->Joined() == expected->values(), c.name(), threads);
  }
  for (WeightParts* parts : {&w, &b, &r, &q, &d_w, &d_b, &d_r, &d_q}) {
    CHECK(parts->Intact(), c.name(), threads);
  }
}

// Whether the `nth` instruction set runs a case. Their code is one source's, so each leaves out
// others than the one before it. On each of them any two options still meet, and any option and
// size, but for a few under JP_FEW_CASES.
bool IsRun(int nth, int seed) {
#if defined(JP_FEW_CASES)
  return (seed + nth) % 3 == 0;
#else
  return (seed + nth) % 3 != 0;
#endif
}

void CheckCase(const Case& c, int seed) {
  Arrays arrays = jp::test::MakeArrays(c.given, seed);
  Buffers buffers(arrays);
  CheckForward(c, buffers, arrays);
  CheckBackward(c, buffers, arrays);
  for (Buffer* buffer : buffers.all()) CHECK(buffer->Intact(), c.name());
  CheckThreads(c, buffers, arrays, seed % 2 == 0 ? 2 : 3);
  CheckThreads(c, buffers, arrays, 5);
  CheckParts(c, buffers, arrays, 1 + seed % 3);
  CheckPacked(c, buffers, arrays, seed % 2 == 0 ? 5 : 1 + seed % 3);
  CheckApart(c, buffers, arrays, WeightArrays::kPerGate, seed % 2 == 0 ? 1 : 3);
  if (seed % 3 == 0) CheckApart(c, buffers, arrays, WeightArrays::kPerDirection, 2);
}

// What the backend runs is the chosen instruction set's kernel, and the others give the same.
void CheckBackend(const Case& c) {
  const jp::Backend& backend = jp::cpu::TheBackend();
  const Arrays arrays = jp::test::MakeArrays(c.given, 11);
  const Problem forward = ForwardOf(c.given);
  const Problem backward = BackwardOf(c.given, {Part::d_x, Part::d_weights, Part::d_gates});
  Buffers of_backend(arrays);
  jp::Resources resources;
  resources.threads = 2;
  resources.schedule = jp::test::OnHelpers();
  const jp::Facts facts = backend.FactsOf(resources);
  const auto chosen = static_cast<Units>(facts.at("bfloat16_units"));
  const auto run = [&](const Problem& problem, const auto& call_arrays) {
    const auto plan = backend.MakePlan(problem, facts, {});
    CHECK(plan->Refusal().empty(), c.name(), plan->Refusal());
    const std::string error = backend.Run(*plan, call_arrays, nullptr, resources);
    CHECK(error.empty(), c.name(), error);
  };
  run(forward, of_backend.forward(forward));
  run(backward, of_backend.backward(backward));
  const auto got = of_backend.all();
  for (const Isa* isa : jp::test::IsasHere()) {
    Buffers direct(arrays);
    jp::test::units = isa == &c.isa ? chosen : Units::kWidened;
    const bool alike = jp::test::units == chosen || c.given.dtype == DType::kFloat32;
    RunOn(*isa, forward, 2, direct.forward(forward));
    RunOn(*isa, backward, 2, direct.backward(backward));
    const auto expected = direct.all();
    for (size_t i = 0; i < got.size(); ++i) {
      const bool same = got[i]->SameBytes(*expected[i]);  // as arrays that the cell has not are
      if (alike && jp::test::Fuses(c.isa) == jp::test::Fuses(*isa)) {
        CHECK(same, c.name(), isa->name, i);
      } else if (!same) {
        const double terms = static_cast<double>(c.given.batch * c.given.steps);
        CheckClose(c, isa->name, *got[i], expected[i]->values(), terms);
      }
    }
  }
}

// What a call may be given and not.
const std::vector<std::vector<Part>> kGiven = {
    {Part::inputs, Part::bias, Part::recurrent_bias, Part::lengths},
    {Part::inputs, Part::bias, Part::recurrent_bias, Part::lengths, Part::resets,
     Part::reset_state},
    {Part::inputs},
    {Part::inputs, Part::bias, Part::recurrent_bias, Part::lengths, Part::resets},
    {Part::inputs, Part::lengths, Part::resets, Part::reset_state},
    {Part::inputs, Part::bias, Part::resets, Part::reset_state},
    {Part::inputs, Part::recurrent_bias, Part::resets},
};

// A problem of such sizes that is given the parts of kGiven[given], as far as the cell has them.
Problem MakeProblem(const CellTraits& cell, DType dtype, const int64_t (&sizes)[5], bool second_way,
                    bool time_major, size_t given) {
  Problem problem{.cell = cell,
                  .dtype = dtype,
                  .groups = sizes[0],
                  .batch = sizes[1],
                  .steps = sizes[2],
                  .inputs = sizes[3],
                  .hidden = sizes[4],
                  .directions = jp::test::EitherWay(sizes[0], second_way),
                  .time_major = time_major};
  for (Part part : kGiven[given]) {
    if (part != Part::recurrent_bias || cell.reset_after) problem.Add(part);
  }
  return problem;
}

// The checks see a wrong rule of resets: what the kernels give is far from the reference's results
// for other resets than those that were asked for.
void CheckResetsMatter(const Isa& isa, const CellTraits& cell, bool reverse) {
  constexpr int64_t kReset[] = {1, 3, 7, 5, 6};
  const Problem given = MakeProblem(cell, DType::kFloat32, kReset, reverse, false, 1);
  Arrays arrays = jp::test::MakeArrays(given, 4);
  arrays.lengths = {7, 3, 5};
  // At a first and at a middle step, at two in a row, and past a length.
  const int first = reverse ? 6 : 0;
  std::fill(arrays.resets.begin(), arrays.resets.end(), 0);
  for (int at : {first, 3, 7 + 1, 14 + 2, 14 + 3, 14 + 5}) arrays.resets[at] = 1;
  Buffers buffers(arrays);
  const Problem forward = ForwardOf(given), backward = BackwardOf(given, {Part::d_x});
  RunOn(isa, forward, 1, buffers.forward(forward));
  RunOn(isa, backward, 1, buffers.backward(backward));
  const auto distance = [&](const auto& change) {
    Arrays changed = arrays;
    change(changed);
    ReferenceForward(given, changed);
    ReferenceBackward(given, changed);
    double most = 0;
    const auto compare = [&](const Buffer& got, const std::vector<double>& expected) {
      const std::vector<double> values = got.values();
      for (size_t i = 0; i < values.size(); ++i) {
        most = std::fmax(most, std::fabs(values[i] - expected[i]));
      }
    };
    compare(buffers.outputs, changed.outputs);
    compare(buffers.d_x, changed.d_x);
    for (int s = 0; s < cell.states; ++s) {
      compare(*buffers.final_state[s], changed.final_state[s]);
      compare(*buffers.d_initial_state[s], changed.d_initial_state[s]);
      compare(*buffers.d_reset_state[s], changed.d_reset_state[s]);
    }
    return most;
  };
  const std::string name = std::string(isa.name) + " " + std::string(cell.name);
  CHECK(distance([](Arrays&) {}) < 1e-4, name, distance([](Arrays&) {}));
  for (int at : {first, 3, 7 + 1, 14 + 2, 14 + 3}) {
    CHECK(distance([&](Arrays& a) { a.resets[at] = 0; }) > 1e-3, name, "no reset", at);
  }
  CHECK(distance([](Arrays& a) { a.resets[14 + 5] = 0; }) < 1e-4, name, "past the length");
  CHECK(distance([](Arrays& a) { a.lengths[2] = 6; }) > 1e-3, name, "within the length");
  CHECK(distance([](Arrays& a) { std::swap(a.resets[3], a.resets[4]); }) > 1e-3, name,
        "a step late");
  CHECK(distance([](Arrays& a) { a.reset_state[0] = a.initial_state[0]; }) > 1e-3, name, "initial");
}

// N, B, T, I, H. The first two in all ways: few units, which workers divide or not, and rows that
// they divide.
constexpr int64_t kCrossed[][5] = {{1, 3, 5, 9, 7}, {2, 5, 3, 11, 66}};

// Odd sizes, one of each, rows beyond a tile, a block and a chunk, several chunks, units and inputs
// beyond a panel, inputs beyond a part of K, fewer inputs than slices, several workers with units
// and with rows of their own, as many rows each and not, a single step of weights that are not
// packed at once, or not at all, a smaller slice behind a larger one. In some ways each, other ones
// for each cell.
constexpr int64_t kSizes[][5] = {{3, 2, 4, 6, 37},   {1, 1, 1, 1, 1},    {1, 7, 2, 300, 33},
                                 {1, 13, 23, 4, 19}, {1, 67, 2, 17, 9},  {1, 131, 2, 5, 6},
                                 {1, 4, 6, 3, 8},    {1, 1, 150, 2, 16}, {1, 5, 31, 5, 50},
                                 {2, 3, 1, 150, 70}, {1, 1, 1, 70, 90},  {1, 127, 1, 5, 66},
                                 {1, 1, 3, 5, 130},  {1, 2, 3, 33, 71},  {2, 4, 2, 9, 67},
                                 {1, 14, 1, 51, 70}, {1, 19, 1, 131, 70}};

void CheckKernels(const Isa& isa, int nth) {
  const std::vector<Units> units = jp::test::UnitsOf(isa);
  int seed = 0, ran = 0;
  for (const CellTraits& cell : jp::kCells) {
    for (DType dtype : {DType::kFloat32, DType::kBfloat16}) {
      for (const auto& sizes : kCrossed) {
        for (size_t given = 0; given < kGiven.size(); ++given) {
          for (bool second_way : {false, true}) {
            for (bool time_major : {false, true}) {
              if (!IsRun(nth, ++seed)) continue;
              jp::test::units = units[ran++ % units.size()];
              CheckCase({isa, MakeProblem(cell, dtype, sizes, second_way, time_major, given)},
                        seed);
            }
          }
        }
      }
      for (const auto& sizes : kSizes) {
        for (int way = 0; way < 2; ++way) {
          if (!IsRun(nth, ++seed)) continue;
          jp::test::units = units[ran++ % units.size()];
          const Problem problem =
              MakeProblem(cell, dtype, sizes, seed % 4 < 2, seed % 2 == 0, seed % kGiven.size());
          CheckCase({isa, problem}, seed);
        }
      }
    }
  }
}

}  // namespace

// With an argument: only what JAX_PERSISTENT_ISA chooses, against all that run here.
int main(int argc, char**) {
  std::vector<const Isa*> isas;
  if (argc < 2) isas = jp::test::IsasHere();
  int nth = 0;
  for (const Isa* isa : isas) {
    std::cout << isa->name << ", " << isa->lanes << " lanes\n";
    CheckKernels(*isa, nth++);
    for (const CellTraits& cell : jp::kCells) {
      for (bool reverse : {false, true}) CheckResetsMatter(*isa, cell, reverse);
    }
  }
  // Tiles of several heights, a single row, bfloat16 that is widened beforehand.
  size_t given = 0;
  constexpr int64_t kBackendSizes[][5] = {{2, 5, 3, 7, 66}, {1, 1, 4, 3, 37}, {1, 13, 3, 6, 19}};
  for (const auto& sizes : kBackendSizes) {
    for (const CellTraits& cell : jp::kCells) {
      for (DType dtype : {DType::kFloat32, DType::kBfloat16}) {
        ++given;
        const Problem problem =
            MakeProblem(cell, dtype, sizes, given % 2 == 0, given % 3 == 0, given % kGiven.size());
        CheckBackend({jp::cpu::ChosenIsa(), problem});
      }
    }
  }
  if (argc < 2) {
    CHECK(jp::test::runs_by_units > 0, jp::test::runs_by_units);
    CHECK(jp::test::runs_by_rows > 0 && jp::test::runs_by_groups > 0, jp::test::runs_by_groups);
  }
  return jp::test::Finish("kernels");
}
