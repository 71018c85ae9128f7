// SPDX-License-Identifier: Apache-2.0
// The plan is a pure function that lays every problem over every machine.
#include "native/cpu/cpu_plan.h"

#include <string>
#include <utility>

#include "tests/native/check.h"

namespace {

using jp::CellTraits;
using jp::DType;
using jp::Pass;
using jp::Problem;
using jp::cpu::CpuFacts;
using jp::cpu::CpuPlan;
using jp::cpu::GemmPlan;
using jp::cpu::PlanCpu;
using jp::cpu::Units;

constexpr CpuFacts kDesktop{8, 8, 16, int64_t{1} << 20, int64_t{32} << 20};
constexpr int64_t kSteps = 128;

const CellTraits& Cell(const char* name) { return *jp::FindCell(name); }

// The plans of the two passes of a problem without input features.
struct Plans {
  CpuPlan forward, backward;
};

Plans PlansOf(const CellTraits& cell, int64_t hidden, int64_t batch, int64_t steps,
              int weight_bytes, const CpuFacts& facts, int64_t inputs = 0) {
  Problem problem{.cell = cell,
                  .dtype = weight_bytes == 2 ? DType::kBfloat16 : DType::kFloat32,
                  .batch = batch,
                  .steps = steps,
                  .inputs = inputs,
                  .hidden = hidden};
  Plans plans;
  plans.forward = PlanCpu(problem, facts);
  problem.pass = Pass::kBackward;
  plans.backward = PlanCpu(problem, facts);
  return plans;
}

// Sizes of one product: rows of weights, units, rows they are multiplied with.
struct Product {
  int64_t k, hidden, batch;
  int gates, weight_bytes;
  bool may_be_empty = false;  // a slice
};

void CheckGemm(const GemmPlan& plan, const GemmPlan& again, const CpuFacts& facts,
               const Product& of) {
  CHECK(plan.k >= of.k && plan.k <= of.k + 1, plan.k, of.k);
  CHECK(plan.k % 2 == 0, plan.k);
  CHECK(plan.lanes == facts.vector_lanes && plan.gates == of.gates);
  CHECK(plan.PaddedUnits() >= of.hidden && plan.PaddedUnits() - of.hidden < plan.lanes, of.hidden);
  CHECK(plan.workers >= 1 && plan.workers <= facts.threads, plan.workers);
  // A worker has a slice of the units or, of one slice, at least a row.
  CHECK(plan.slices == (plan.SplitsBatch() ? 1 : plan.workers), plan.slices, plan.workers);
  CHECK(!plan.SplitsBatch() || plan.workers <= of.batch, plan.workers, of.batch);
  CHECK(of.may_be_empty || plan.slices <= plan.unit_vectors, plan.slices, plan.unit_vectors);
  CHECK(plan.tile_rows >= 1, plan.tile_rows);
  // The sums, one row of weights and two more registers, unless even one row does not fit.
  CHECK(plan.tile_rows == 1 || plan.tile_rows * plan.panel_vectors + 2 <= facts.vector_count);
  // Slices cut the units into neighbours without gap or overlap, none empty, none much larger.
  CHECK(plan.unit_step == (plan.common_panels ? jp::PanelUnits(of.gates) : 1), plan.unit_step);
  CHECK(plan.FirstUnit(0) == 0);
  CHECK(plan.FirstUnit(plan.slices) == plan.unit_vectors);
  int64_t largest = 0;
  for (int slice = 0; slice < plan.slices; ++slice) {
    const int64_t units = plan.FirstUnit(slice + 1) - plan.FirstUnit(slice);
    const int64_t most = (plan.unit_steps / plan.slices + 1) * plan.unit_step;
    CHECK(units >= (of.may_be_empty ? 0 : 1) && units <= most, slice, units);
    for (int64_t u = plan.FirstUnit(slice); u < plan.FirstUnit(slice + 1); ++u) {
      CHECK(plan.SliceOf(u) == slice, u, slice);
    }
    largest = units > largest ? units : largest;
  }
  const int64_t columns = plan.panels * plan.panel_vectors;
  CHECK(columns >= largest * of.gates && columns < largest * of.gates + plan.panel_vectors,
        columns);
  const int64_t bytes = columns * plan.k * facts.vector_lanes * of.weight_bytes;
  CHECK(plan.slice_bytes == bytes, plan.slice_bytes, bytes);
  CHECK(plan.packed_k == plan.k || plan.packed_k == (plan.in_place ? 0 : 64), plan.packed_k);
  CHECK(!plan.in_place || (plan.common_panels && of.batch <= jp::cpu::MostInPlaceRows(plan.lanes)),
        of.batch);
  const int64_t all_panels = plan.common_panels ? jp::PanelCount(of.gates, of.hidden, plan.lanes)
                                                : plan.panels * plan.slices;
  CHECK(plan.packed_bytes == all_panels * (bytes / plan.panels / plan.k * plan.packed_k),
        plan.packed_bytes);
  CHECK(!plan.common_panels || plan.panel_vectors == jp::PanelVectors(of.gates), of.gates);

  // A block is whole panels and whole units, and its products fit the room that there is.
  const int64_t block = int64_t{plan.block_units} * of.gates;
  const int64_t share =
      plan.SplitsBatch() ? (of.batch + plan.workers - 1) / plan.workers : of.batch;
  const int64_t rows = share < jp::cpu::kBlockRows ? share : jp::cpu::kBlockRows;
  CHECK(plan.block_units >= 1 && block % plan.panel_vectors == 0, block, plan.panel_vectors);
  CHECK(rows * block <= jp::cpu::kBlockRows * jp::cpu::kMostBlockVectors, rows, block);

  CHECK(again.workers == plan.workers && again.slices == plan.slices &&
        again.packed_bytes == plan.packed_bytes);
}

void TestEveryProblemHasAPlan() {
  for (const CellTraits& cell : jp::kCells) {
    for (int64_t hidden : {1, 2, 7, 8, 31, 32, 33, 129, 512, 1023, 4096}) {
      for (int64_t batch : {1, 2, 3, 4, 5, 9, 64, 131}) {
        for (int bytes : {2, 4}) {
          for (int threads : {1, 2, 5, 64}) {
            for (int lanes : {4, 8, 16}) {
              const CpuFacts facts{threads, lanes, lanes == 16 ? 32 : 16, 1 << 20, 32 << 20};
              const Product forward{hidden, hidden, batch, cell.gates, bytes};
              const Product backward{cell.gates * hidden, hidden, batch, 1, bytes};
              for (int64_t steps : {1, 9}) {
                const Plans plans = PlansOf(cell, hidden, batch, steps, bytes, facts);
                const Plans again = PlansOf(cell, hidden, batch, steps, bytes, facts);
                CheckGemm(plans.forward.recurrence, again.forward.recurrence, facts, forward);
                CheckGemm(plans.backward.recurrence, again.backward.recurrence, facts, backward);
                CHECK(Explain(plans.forward, facts) == Explain(again.forward, facts));
              }
            }
          }
        }
      }
    }
  }
}

void TestEveryProblemHasChunks() {
  for (const CellTraits& cell : jp::kCells) {
    for (int64_t inputs : {1, 3, 16, 301}) {
      for (int64_t hidden : {1, 33, 512}) {
        for (int64_t batch : {1, 3, 128, 131}) {
          for (int64_t steps : {1, 2, 43, 129, 1000}) {
            for (int bytes : {2, 4}) {
              for (int threads : {1, 5}) {
                const CpuFacts facts{threads, 8, 16, 1 << 20, 32 << 20};
                const Plans plans = PlansOf(cell, hidden, batch, steps, bytes, facts, inputs);
                const CpuPlan &forward = plans.forward, &backward = plans.backward;
                const int64_t chunk = forward.chunk_steps, rows = chunk * batch;
                CHECK(chunk >= 1 && chunk <= steps, chunk, steps);
                CHECK(chunk == 1 || rows <= jp::cpu::kChunkRows, rows);
                CHECK(backward.chunk_steps == chunk, chunk);
                // The last chunk is hardly smaller than the others.
                const int64_t chunks = (steps + chunk - 1) / chunk;
                CHECK(chunks * chunk - steps < chunks, chunk, steps);
                const Product in{inputs, hidden, rows, cell.gates, bytes};
                const Product d_in{cell.gates * hidden, inputs, rows, 1, bytes, true};
                const Product d_weights{rows, hidden, hidden, cell.gates, 4};
                CheckGemm(forward.inputs, forward.inputs, facts, in);
                CheckGemm(backward.inputs, backward.inputs, facts, d_in);
                CheckGemm(backward.d_weights, backward.d_weights, facts, d_weights);
                // A worker projects the inputs of its own units, or of its own rows.
                CHECK(forward.inputs.slices == forward.recurrence.slices);
                CHECK(forward.inputs.workers == forward.recurrence.workers);
                CHECK(forward.inputs.unit_vectors == forward.recurrence.unit_vectors);
                CHECK(backward.inputs.slices == backward.recurrence.slices);
                CHECK(backward.inputs.workers == backward.recurrence.workers);
                // Sums over rows are divided by units.
                CHECK(backward.d_weights.slices == backward.recurrence.workers);
              }
            }
          }
        }
      }
    }
  }
}

void TestMoreOfAnythingNeverTakesLess() {
  const CellTraits& lstm = Cell("lstm");
  int64_t bytes = 0;
  int workers = 0;
  for (int64_t hidden = 1; hidden <= 700; ++hidden) {
    const GemmPlan plan = PlansOf(lstm, hidden, 3, kSteps, 4, kDesktop).forward.recurrence;
    const int64_t weights = plan.PaddedUnits() * plan.k * 4 * 4;
    CHECK(weights >= bytes && plan.workers >= workers, hidden);
    bytes = weights;
    workers = plan.workers;
  }
  CHECK(workers == kDesktop.threads, workers);
  workers = 0;
  for (int threads = 1; threads <= 64; ++threads) {
    CpuFacts facts = kDesktop;
    facts.threads = threads;
    const GemmPlan plan = PlansOf(lstm, 256, 4, kSteps, 4, facts).forward.recurrence;
    CHECK(plan.workers >= workers, threads);
    workers = plan.workers;
  }
  workers = 0;
  for (int64_t batch = 1; batch <= 64; ++batch) {
    const GemmPlan plan = PlansOf(lstm, 48, batch, kSteps, 4, kDesktop).forward.recurrence;
    CHECK(plan.workers >= workers, batch);
    workers = plan.workers;
  }
}

void TestWhoDoesAStep() {
  CHECK(PlansOf(Cell("elman_tanh"), 16, 1, kSteps, 4, kDesktop).forward.recurrence.workers == 1);
  CHECK(PlansOf(Cell("lstm"), 512, 4, kSteps, 4, kDesktop).forward.recurrence.workers == 8);
  // Two cores with AVX-512, where one worker has been timed, and two with units and with rows.
  const CpuFacts xeon{2, 16, 32, 2 << 20, 256 << 20};
  const auto kind = [](const CpuPlan& of_pass) {
    const GemmPlan& plan = of_pass.recurrence;
    return plan.workers == 1 ? "one" : plan.SplitsBatch() ? "rows" : "units";
  };
  const auto check = [&](const char* cell, int64_t hidden, int64_t batch, const char* forward,
                         const char* backward) {
    const Plans plans = PlansOf(Cell(cell), hidden, batch, kSteps, 4, xeon);
    CHECK(kind(plans.forward) == std::string(forward), cell, hidden, batch);
    CHECK(kind(plans.backward) == std::string(backward), cell, hidden, batch);
  };
  // Waking another thread takes longer than the work.
  check("elman_tanh", 64, 2, "one", "one");
  check("elman_tanh", 128, 1, "one", "one");
  // A row can't be divided.
  check("gru", 128, 1, "units", "units");
  // To meet at each step takes longer than to read all weights.
  check("lstm", 64, 4, "rows", "rows");
  check("elman_tanh", 128, 4, "rows", "rows");
  check("lstm", 128, 16, "rows", "rows");
  // Of seven vectors of units one worker would have four.
  check("lstm", 112, 4, "rows", "rows");
  // Backward what two workers save is about what waking one costs.
  check("lstm", 96, 2, "units", "one");
  // Backward a unit hands over a value a gate.
  check("lstm", 128, 4, "units", "rows");
  // The weights of all units are more than an L2 cache holds.
  check("lstm", 256, 16, "units", "units");
  // A call of few steps is over before another thread is awake.
  const auto workers = [&](int64_t hidden, int64_t batch, int64_t steps) {
    return PlansOf(Cell("lstm"), hidden, batch, steps, 4, xeon).forward.recurrence.workers;
  };
  CHECK(workers(128, 4, 10) == 1 && workers(128, 4, 50) == 2 && workers(256, 16, 5) == 2);
}

void TestWeightsBeyondTheCache() {
  const CpuFacts xeon{2, 16, 32, 2 << 20, 256 << 20};
  CHECK(!PlansOf(Cell("lstm"), 256, 4, kSteps, 4, xeon).forward.recurrence.prefetches);
  CHECK(PlansOf(Cell("lstm"), 1024, 4, kSteps, 4, xeon).forward.recurrence.prefetches);
  // A row waits for its weights: panels that need none but those are better than wider ones.
  const GemmPlan exact = PlansOf(Cell("lstm"), 512, 1, kSteps, 4, xeon).forward.recurrence;
  CHECK(exact.slice_bytes == 512 * 4 * 512 * 4 / 2, exact.slice_bytes, exact.panel_vectors);
  // Where they are as many in any, wider ones are better.
  const auto own = [&](int64_t hidden, int gates, int64_t batch) {
    return PlanGemm(hidden, hidden, gates, batch, 4, 2, false, kSteps, xeon).panel_vectors;
  };
  CHECK(own(384, 3, 1) == 6 && own(320, 1, 3) == 5, own(384, 3, 1), own(320, 1, 3));
}

void CheckResidency(int64_t hidden, const CpuFacts& facts, const std::string& residency,
                    const std::string& says) {
  const CpuPlan plan = PlansOf(Cell("lstm"), hidden, 4, kSteps, 4, facts).forward;
  CHECK(plan.residency == residency, hidden, plan.residency, residency);
  const std::string text = Explain(plan, facts);
  CHECK(text.find(says) != std::string::npos, text);
}

void TestResidency() {
  CheckResidency(64, kDesktop, "L2", "the weights stay in L2");
  CheckResidency(1024, kDesktop, "L3", "stay in L3 and stream through L2 once a step");
  CheckResidency(4096, kDesktop, "memory", "as no cache holds them");
  const CpuFacts no_l3{2, 8, 16, int64_t{512} << 10, 0};
  CheckResidency(1024, no_l3, "memory", "the L3 0 KiB");
  // What a plan says is what it counted: 512 * 4 * 512 floats, in whole panels of four vectors.
  const CpuFacts one{1, 8, 16, 1 << 20, 32 << 20};
  const std::string text = Explain(PlansOf(Cell("lstm"), 512, 4, kSteps, 4, one).forward, one);
  CHECK(text.find("4096 KiB of packed weights over 1 worker, 4096 KiB each") == 0, text);
}

void TestWeightsReadOnce() {
  const Plans one = PlansOf(Cell("gru"), 300, 17, 1, 4, kDesktop);
  const Plans two = PlansOf(Cell("gru"), 300, 17, 2, 4, kDesktop);
  CHECK(!one.forward.recurrence.PackedOnce() && !one.backward.recurrence.PackedOnce() &&
        two.forward.recurrence.PackedOnce() && two.backward.recurrence.PackedOnce());
  CHECK(one.forward.recurrence.packed_bytes * 300 == two.forward.recurrence.packed_bytes * 64);
  CHECK(Explain(one.forward, kDesktop).find("read once") != std::string::npos,
        Explain(one.forward, kDesktop));
  // More rows than are multiplied at once.
  CHECK(!PlansOf(Cell("gru"), 300, 128, 1, 4, kDesktop).forward.recurrence.PackedOnce());
  CHECK(PlansOf(Cell("gru"), 300, 129, 1, 4, kDesktop).forward.recurrence.PackedOnce());
  // The inputs of one chunk, however many its steps.
  const auto inputs = [](int64_t steps) {
    return PlansOf(Cell("gru"), 300, 4, steps, 4, kDesktop, 300).forward.inputs;
  };
  CHECK(!inputs(32).PackedOnce() && inputs(33).PackedOnce());
  // So few that a part of them would be all.
  CHECK(PlansOf(Cell("gru"), 64, 17, 1, 4, kDesktop).forward.recurrence.PackedOnce());
}

void TestWeightsInPlace() {
  CpuFacts facts = kDesktop;
  const auto in_place = [&](int64_t batch, int64_t steps) {
    const CpuPlan plan = PlansOf(Cell("lstm"), 200, batch, steps, 4, facts).forward;
    const bool says = Explain(plan, facts).find("read where they lie") != std::string::npos;
    CHECK(plan.recurrence.in_place == says, Explain(plan, facts));
    CHECK(!says || plan.recurrence.packed_bytes == 0, plan.recurrence.packed_bytes);
    return says;
  };
  // Up to ten uses by tiles of four rows.
  CHECK(in_place(1, 10) && in_place(4, 10) && !in_place(4, 11));
  CHECK(in_place(5, 5) && !in_place(5, 6) && in_place(16, 2) && !in_place(16, 3));
  CHECK(!in_place(17, 1));
  facts.vector_lanes = 16;
  CHECK(in_place(48, 1) && !in_place(49, 1) && in_place(20, 2) && !in_place(21, 2));
  // Each product by its own rows: those of the inputs are of all steps.
  const auto inputs = [](int64_t steps) {
    return PlansOf(Cell("gru"), 300, 4, steps, 4, kDesktop, 300).forward.inputs.in_place;
  };
  CHECK(inputs(4) && !inputs(5));
  // Forward alone.
  CHECK(!PlansOf(Cell("lstm"), 200, 1, 1, 4, kDesktop).backward.recurrence.in_place);
}

// What multiplies bfloat16 shows in the sums: neither the workers nor the steps change it.
void TestUnits() {
  constexpr Units kAll[] = {Units::kWidened, Units::kPairs, Units::kTiles};
  for (Units units : kAll) {
    for (int threads : {1, 2, 7}) {
      for (int64_t batch : {1, 3, 70}) {
        for (int64_t steps : {1, 2, 90}) {
          CpuFacts facts{threads, 16, 32, 1 << 20, 32 << 20};
          facts.units = units;
          const bool row_in_tiles = batch == 1 && units == Units::kTiles;
          const Units of_step = row_in_tiles ? Units::kPairs : units;
          const Plans plans = PlansOf(Cell("gru"), 133, batch, steps, 2, facts, 35);
          const Plans wide = PlansOf(Cell("gru"), 133, batch, steps, 4, facts, 35);
          for (const CpuPlan& plan : {plans.forward, plans.backward}) {
            CHECK(plan.recurrence.units == of_step && plan.inputs.units == units, batch, steps);
            CHECK(!plan.inputs.in_place || units != Units::kTiles, batch, steps);
          }
          CHECK(plans.backward.d_weights.units == units, batch, steps);
          for (const CpuPlan& plan : {wide.forward, wide.backward}) {
            CHECK(plan.recurrence.units == Units::kWidened && plan.inputs.units == Units::kWidened);
          }
          const std::string text = Explain(plans.forward, facts);
          CHECK((text.find("AVX512_BF16") != std::string::npos) == (of_step == Units::kPairs),
                text);
          CHECK((text.find("by AMX") != std::string::npos) == (of_step == Units::kTiles), text);
        }
      }
    }
  }
}

// Of a panel that is mostly padding, the padding is not computed: only those of four vectors can
// be.
void TestPadding() {
  const auto panel = [](int64_t vectors) {
    return jp::cpu::PlanGemm(128, vectors * kDesktop.vector_lanes, 1, 16, 4, 1, false, 100,
                             kDesktop)
        .panel_vectors;
  };
  CHECK(panel(1) == 4 && panel(2) == 4 && panel(3) == 3, panel(1), panel(2), panel(3));
  using jp::cpu::ComputedVectors;
  CHECK(ComputedVectors(4, 1) == 1 && ComputedVectors(4, 2) == 2 && ComputedVectors(4, 3) == 4);
  CHECK(ComputedVectors(4, 9) == 4 && ComputedVectors(3, 1) == 3);
}

}  // namespace

int main() {
  TestEveryProblemHasAPlan();
  TestEveryProblemHasChunks();
  TestMoreOfAnythingNeverTakesLess();
  TestWhoDoesAStep();
  TestWeightsBeyondTheCache();
  TestResidency();
  TestWeightsReadOnce();
  TestWeightsInPlace();
  TestUnits();
  TestPadding();
  return jp::test::Finish("cpu_plan");
}
