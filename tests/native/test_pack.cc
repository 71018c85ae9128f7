// SPDX-License-Identifier: Apache-2.0
// Packed kernels lie as packed.h says, on every instruction set, whoever packs them; and any
// division of the units reads whole panels of them.
#include <string>
#include <vector>

#include "native/cpu/cpu_plan.h"
#include "native/problem/packed.h"
#include "tests/native/buffers.h"
#include "tests/native/check.h"
#include "tests/native/isas.h"
#include "tests/native/run.h"

namespace {

using jp::DType;
using jp::Packing;
using jp::cpu::CpuFacts;
using jp::cpu::GemmPlan;
using jp::cpu::Isa;
using jp::test::Buffer;
using jp::test::PackOn;

// Values that say where they come from, each of which either dtype holds.
std::vector<double> Kernels(const Packing& p) {
  std::vector<double> values(p.kernels * p.rows * p.gates * p.units);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = jp::test::RoundedTo(p.dtype, 1 + static_cast<double>(i % 113) / 128);
  }
  return values;
}

// The words of packed.h, a value at a time.
std::vector<double> Expected(const Packing& p, const std::vector<double>& kernels) {
  const int64_t vectors = jp::PanelVectors(p.gates), rows = jp::PackedRows(p.rows);
  const int64_t panels = jp::PanelCount(p.gates, p.units, p.lanes), width = vectors * p.lanes;
  std::vector<double> expected(jp::PackedValues(p), 0.0);
  for (int64_t n = 0; n < p.kernels; ++n) {
    for (int64_t k = 0; k < p.rows; ++k) {
      for (int64_t gate = 0; gate < p.gates; ++gate) {
        for (int64_t unit = 0; unit < p.units; ++unit) {
          const int64_t vector = unit / p.lanes * p.gates + gate;
          const int64_t column = vector % vectors * p.lanes + unit % p.lanes;
          const int64_t panel = n * panels + vector / vectors;
          const int64_t at = jp::ByteWidth(p.dtype) == 2
                                 ? ((panel * rows + k / 2 * 2) * width + 2 * column + k % 2)
                                 : (panel * rows + k) * width + column;
          expected[at] = kernels[((n * p.rows + k) * p.gates + gate) * p.units + unit];
        }
      }
    }
  }
  return expected;
}

void TestLayout(const Isa& isa) {
  for (int gates : {1, 2, 3, 4, 5, 6, 7}) {
    for (DType dtype : {DType::kFloat32, DType::kBfloat16}) {
      for (int64_t units : {1, 7, 37, 64}) {
        for (int64_t rows : {1, 6, 131}) {
          const Packing packing{dtype, gates, 2, rows, units, isa.lanes};
          const std::vector<double> kernels = Kernels(packing);
          Buffer from(dtype, kernels);
          Buffer to(dtype, jp::PackedValues(packing));
          PackOn(isa, packing, 1, from.data(), to.data());
          CHECK(to.values() == Expected(packing, kernels), isa.name, gates, rows, units);
          CHECK(to.Intact(), isa.name, gates, rows, units);
        }
      }
    }
  }
}

// Large enough for several workers.
void TestWorkers(const Isa& isa) {
  const Packing packing{DType::kFloat32, 3, 1, 701, 331, isa.lanes};
  const std::vector<double> kernels = Kernels(packing);
  const std::vector<double> expected = Expected(packing, kernels);
  Buffer from(packing.dtype, kernels);
  for (int threads : {2, 3, 7}) {
    const CpuFacts facts{threads, isa.lanes, isa.registers, 1 << 20, 32 << 20};
    CHECK(PlanPacking(packing, facts).workers > 1, threads);
    Buffer to(packing.dtype, jp::PackedValues(packing));
    PackOn(isa, packing, threads, from.data(), to.data());
    CHECK(to.values() == expected, isa.name, threads);
    CHECK(to.Intact(), isa.name, threads);
  }
}

// The layout does not know of batch, steps and workers: each slice begins with one of the panels.
void TestAnyDivisionReadsThem() {
  for (const jp::CellTraits& cell : jp::kCells) {
    for (int64_t hidden : {1, 33, 130, 512}) {
      for (int lanes : {4, 8, 16}) {
        const Packing packing{DType::kFloat32, cell.gates, 1, hidden, hidden, lanes};
        for (int threads : {1, 2, 3, 16}) {
          for (int64_t batch : {1, 4, 70}) {
            for (int64_t steps : {1, 50}) {
              jp::Problem problem{.cell = cell,
                                  .batch = batch,
                                  .steps = steps,
                                  .inputs = 5,
                                  .hidden = hidden,
                                  .packed_lanes = lanes};
              const CpuFacts facts{threads, lanes, lanes == 16 ? 32 : 16, 1 << 20, 32 << 20};
              const GemmPlan given = PlanCpu(problem, facts).recurrence;
              problem.packed_lanes = 0;
              const GemmPlan packed_by_call = PlanCpu(problem, facts).recurrence;
              CHECK(given.PackedOnce() && given.common_panels && packed_by_call.common_panels);
              CHECK(given.workers == packed_by_call.workers && given.slices <= given.unit_steps);
              CHECK(given.packed_bytes == 4 * jp::PackedValues(packing), cell.name, hidden);
              for (int slice = 0; slice < given.slices; ++slice) {
                const int64_t vectors = given.FirstUnit(slice) * cell.gates;
                CHECK(vectors % jp::PanelVectors(cell.gates) == 0, cell.name, hidden, slice);
                CHECK(given.FirstPanel(slice) == vectors / jp::PanelVectors(cell.gates));
              }
            }
          }
        }
      }
    }
  }
}

void TestWhatIsRefused() {
  const jp::Backend& backend = jp::cpu::TheBackend();
  jp::Resources one;
  one.threads = 1;
  const int64_t lanes = jp::cpu::ChosenIsa().lanes;
  float from[64] = {}, to[4096] = {};
  const auto says = [&](DType dtype, int64_t of_lanes) {
    return backend.Pack({dtype, 4, 1, 2, 3, of_lanes}, from, to, one);
  };
  CHECK(says(DType::kFloat32, lanes).empty());
  CHECK(says(DType::kFloat64, lanes).find("no cpu kernel for float64") == 0);
  const std::string other = says(DType::kFloat32, 2 * lanes);
  CHECK(other.find("packed for vectors of " + std::to_string(2 * lanes) + " units") !=
            std::string::npos,
        other);
  jp::Problem problem{.cell = *jp::FindCell("lstm"), .inputs = 3, .packed_lanes = 2 * lanes};
  problem.Add(jp::Part::inputs);
  const auto plan = backend.MakePlan(problem, backend.FactsOf(one), {});
  CHECK(plan->Refusal() == other, plan->Refusal());
}

}  // namespace

int main() {
  for (const Isa* isa : jp::test::IsasHere()) {
    TestLayout(*isa);
    TestWorkers(*isa);
  }
  TestAnyDivisionReadsThem();
  TestWhatIsRefused();
  return jp::test::Finish("pack");
}
