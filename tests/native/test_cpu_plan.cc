// The plan is a pure function that lays every problem over every machine.
#include "native/plan/cpu_plan.h"

#include <string>
#include <utility>

#include "tests/native/check.h"

namespace {

using jp::CellTraits;
using jp::CpuChunkPlan;
using jp::CpuFacts;
using jp::CpuPass;
using jp::CpuPlan;
using jp::PlanCpu;

constexpr CpuFacts kDesktop{8, 8, 16, int64_t{1} << 20, int64_t{32} << 20};
constexpr int64_t kSteps = 128;

const CellTraits& Cell(const char* name) { return *jp::FindCell(name); }

// Sizes of one product: rows of weights, units, rows they are multiplied with.
struct Product {
  int64_t depth, hidden, batch;
  int gates, weight_bytes;
  bool may_be_empty = false;  // a slice
};

void CheckPass(const CpuPass& pass, const CpuPass& again, const CpuFacts& facts,
               const Product& of) {
  CHECK(pass.depth >= of.depth && pass.depth <= of.depth + 1, pass.depth, of.depth);
  CHECK(pass.depth % 2 == 0, pass.depth);
  CHECK(pass.lanes == facts.vector_lanes && pass.gates == of.gates);
  CHECK(pass.padded_units() >= of.hidden && pass.padded_units() - of.hidden < pass.lanes,
        of.hidden);
  CHECK(pass.workers >= 1 && pass.workers <= facts.threads, pass.workers);
  // A worker has a slice of the units or, of one slice, at least a row.
  CHECK(pass.slices == (pass.by_rows() ? 1 : pass.workers), pass.slices, pass.workers);
  CHECK(!pass.by_rows() || pass.workers <= of.batch, pass.workers, of.batch);
  CHECK(of.may_be_empty || pass.slices <= pass.units, pass.slices, pass.units);
  CHECK(pass.tile_rows >= 1, pass.tile_rows);
  // The sums, one row of weights and two more registers, unless even one row does not fit.
  CHECK(pass.tile_rows == 1 || pass.tile_rows * pass.vectors + 2 <= facts.vector_count);
  // Slices cut the units into neighbours without gap or overlap, none empty, none much larger.
  CHECK(pass.first_unit(0) == 0);
  CHECK(pass.first_unit(pass.slices) == pass.units);
  int64_t largest = 0;
  for (int slice = 0; slice < pass.slices; ++slice) {
    const int64_t units = pass.first_unit(slice + 1) - pass.first_unit(slice);
    CHECK(units >= (of.may_be_empty ? 0 : 1) && units <= pass.units / pass.slices + 1, slice,
          units);
    for (int64_t u = pass.first_unit(slice); u < pass.first_unit(slice + 1); ++u) {
      CHECK(pass.slice_of(u) == slice, u, slice);
    }
    largest = units > largest ? units : largest;
  }
  const int64_t columns = pass.panels * pass.vectors;
  CHECK(columns >= largest * of.gates && columns < largest * of.gates + pass.vectors, columns);
  const int64_t bytes = columns * pass.depth * facts.vector_lanes * of.weight_bytes;
  CHECK(pass.slice_bytes == bytes, pass.slice_bytes, bytes);
  CHECK(pass.packed_depth == pass.depth || pass.packed_depth == 64, pass.packed_depth);
  CHECK(pass.packed_bytes == pass.slices * (bytes / pass.depth * pass.packed_depth),
        pass.packed_bytes);

  // A block is whole panels and whole units, and its products fit the room that there is.
  const int64_t block = int64_t{pass.block_units} * of.gates;
  const int64_t share = pass.by_rows() ? (of.batch + pass.workers - 1) / pass.workers : of.batch;
  const int64_t rows = share < jp::kBlockRows ? share : jp::kBlockRows;
  CHECK(pass.block_units >= 1 && block % pass.vectors == 0, block, pass.vectors);
  CHECK(rows * block <= jp::kBlockRows * jp::kMostBlockVectors, rows, block);

  CHECK(again.workers == pass.workers && again.slices == pass.slices &&
        again.packed_bytes == pass.packed_bytes);
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
                const CpuPlan plan = PlanCpu(cell, hidden, batch, steps, bytes, facts);
                const CpuPlan again = PlanCpu(cell, hidden, batch, steps, bytes, facts);
                CheckPass(plan.forward, again.forward, facts, forward);
                CheckPass(plan.backward, again.backward, facts, backward);
                CHECK(Explain(plan, facts) == Explain(again, facts));
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
                const CpuChunkPlan plan =
                    PlanCpuChunk(cell, inputs, hidden, batch, steps, bytes, facts);
                const int64_t rows = plan.steps * batch;
                CHECK(plan.steps >= 1 && plan.steps <= steps, plan.steps, steps);
                CHECK(plan.steps == 1 || rows <= jp::kChunkRows, rows);
                // The last chunk is hardly smaller than the others.
                const int64_t chunks = (steps + plan.steps - 1) / plan.steps;
                CHECK(chunks * plan.steps - steps < chunks, plan.steps, steps);
                const Product in{inputs, hidden, rows, cell.gates, bytes};
                const Product d_in{cell.gates * hidden, inputs, rows, 1, bytes, true};
                const Product d_weights{rows, hidden, hidden, cell.gates, 4};
                CheckPass(plan.inputs, plan.inputs, facts, in);
                CheckPass(plan.d_inputs, plan.d_inputs, facts, d_in);
                CheckPass(plan.d_weights, plan.d_weights, facts, d_weights);
                // A worker projects the inputs of its own units, or of its own rows.
                const CpuPlan recurrence = PlanCpu(cell, hidden, batch, steps, bytes, facts);
                CHECK(plan.inputs.slices == recurrence.forward.slices);
                CHECK(plan.inputs.workers == recurrence.forward.workers);
                CHECK(plan.inputs.units == recurrence.forward.units);
                CHECK(plan.d_inputs.slices == recurrence.backward.slices);
                CHECK(plan.d_inputs.workers == recurrence.backward.workers);
                // What is summed over rows is divided by units.
                CHECK(plan.d_weights.slices == recurrence.backward.workers);
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
    const CpuPass pass = PlanCpu(lstm, hidden, 3, kSteps, 4, kDesktop).forward;
    const int64_t weights = pass.padded_units() * pass.depth * 4 * 4;
    CHECK(weights >= bytes && pass.workers >= workers, hidden);
    bytes = weights;
    workers = pass.workers;
  }
  CHECK(workers == kDesktop.threads, workers);
  workers = 0;
  for (int threads = 1; threads <= 64; ++threads) {
    CpuFacts facts = kDesktop;
    facts.threads = threads;
    const CpuPass pass = PlanCpu(lstm, 256, 4, kSteps, 4, facts).forward;
    CHECK(pass.workers >= workers, threads);
    workers = pass.workers;
  }
  workers = 0;
  for (int64_t batch = 1; batch <= 64; ++batch) {
    const CpuPass pass = PlanCpu(lstm, 48, batch, kSteps, 4, kDesktop).forward;
    CHECK(pass.workers >= workers, batch);
    workers = pass.workers;
  }
}

void TestWhoDoesAStep() {
  CHECK(PlanCpu(Cell("elman_tanh"), 16, 1, kSteps, 4, kDesktop).forward.workers == 1);
  CHECK(PlanCpu(Cell("lstm"), 512, 4, kSteps, 4, kDesktop).forward.workers == 8);
  // Two cores with AVX-512, where one worker has been timed, and two with units and with rows.
  const CpuFacts xeon{2, 16, 32, 2 << 20, 256 << 20};
  const auto kind = [](const CpuPass& pass) {
    return pass.workers == 1 ? "one" : pass.by_rows() ? "rows" : "units";
  };
  const auto check = [&](const char* cell, int64_t hidden, int64_t batch, const char* forward,
                         const char* backward) {
    const CpuPlan plan = PlanCpu(Cell(cell), hidden, batch, kSteps, 4, xeon);
    CHECK(kind(plan.forward) == std::string(forward), cell, hidden, batch);
    CHECK(kind(plan.backward) == std::string(backward), cell, hidden, batch);
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
  check("lstm", 96, 2, "units", "units");
  // Backward a unit hands over a value a gate.
  check("lstm", 128, 4, "units", "rows");
  // The weights of all units are more than an L2 cache holds.
  check("lstm", 256, 16, "units", "units");
}

void TestWeightsBeyondTheCache() {
  const CpuFacts xeon{2, 16, 32, 2 << 20, 256 << 20};
  CHECK(!PlanCpu(Cell("lstm"), 256, 4, kSteps, 4, xeon).forward.streams);
  CHECK(PlanCpu(Cell("lstm"), 1024, 4, kSteps, 4, xeon).forward.streams);
  // A row waits for its weights: panels that need none but those are better than wider ones.
  const CpuPass exact = PlanCpu(Cell("lstm"), 512, 1, kSteps, 4, xeon).forward;
  CHECK(exact.slice_bytes == 512 * 4 * 512 * 4 / 2, exact.slice_bytes, exact.vectors);
  // Where they are as many in any, wider ones are better.
  CHECK(PlanCpu(Cell("gru"), 384, 1, kSteps, 4, xeon).forward.vectors == 6);
  CHECK(PlanCpu(Cell("elman_tanh"), 320, 3, kSteps, 4, xeon).forward.vectors == 5);
}

void CheckResidency(int64_t hidden, const CpuFacts& facts, const std::string& residency,
                    const std::string& says) {
  const CpuPlan plan = PlanCpu(Cell("lstm"), hidden, 4, kSteps, 4, facts);
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
  // What a plan says is what it counted: 512 * 4 * 512 floats, in panels of three vectors.
  const CpuFacts one{1, 8, 16, 1 << 20, 32 << 20};
  const std::string text = Explain(PlanCpu(Cell("lstm"), 512, 4, kSteps, 4, one), one);
  CHECK(text.find("4128 KiB of packed weights over 1 worker, 4128 KiB each") == 0, text);
}

void TestWeightsReadOnce() {
  const CpuPlan one = PlanCpu(Cell("gru"), 300, 4, 1, 4, kDesktop);
  const CpuPlan two = PlanCpu(Cell("gru"), 300, 4, 2, 4, kDesktop);
  CHECK(!one.forward.kept() && !one.backward.kept() && two.forward.kept() && two.backward.kept());
  CHECK(one.forward.packed_bytes * 300 == two.forward.packed_bytes * 64);
  CHECK(Explain(one, kDesktop).find("read once") != std::string::npos, Explain(one, kDesktop));
  // More rows than are multiplied at once.
  CHECK(!PlanCpu(Cell("gru"), 300, 128, 1, 4, kDesktop).forward.kept());
  CHECK(PlanCpu(Cell("gru"), 300, 129, 1, 4, kDesktop).forward.kept());
  // The inputs of one chunk, however many its steps.
  const auto inputs = [](int64_t steps) {
    return PlanCpuChunk(Cell("gru"), 300, 300, 4, steps, 4, kDesktop).inputs;
  };
  CHECK(!inputs(32).kept() && inputs(33).kept());
  // So few that a part of them would be all.
  CHECK(PlanCpu(Cell("gru"), 64, 4, 1, 4, kDesktop).forward.kept());
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
  return jp::test::Finish("plan");
}
