// The plan is a pure function that lays every problem over every machine.
#include "native/plan/cpu_plan.h"

#include <string>

#include "tests/native/check.h"

namespace {

using jp::CellTraits;
using jp::CpuFacts;
using jp::CpuPass;
using jp::CpuPlan;
using jp::PlanCpu;

constexpr CpuFacts kDesktop{8, 8, 16, int64_t{1} << 20, int64_t{32} << 20};

const CellTraits& Cell(const char* name) { return *jp::FindCell(name); }

void CheckPass(const CpuPass& pass, const CpuPass& again, const CpuFacts& facts, int64_t depth,
               int64_t hidden, int weight_bytes) {
  CHECK(pass.depth >= depth && pass.depth <= depth + 1, pass.depth, depth);
  CHECK(pass.depth % 2 == 0, pass.depth);
  CHECK(pass.panel_units % facts.vector_lanes == 0, pass.panel_units);
  CHECK(pass.padded_units() >= hidden && pass.padded_units() - hidden < pass.panel_units, hidden);
  CHECK(pass.slices >= 1 && pass.slices <= facts.threads && pass.slices <= pass.panels, pass.slices,
        pass.panels);
  CHECK(pass.tile_rows >= 1, pass.tile_rows);
  // The sums, one row of weights and two more registers, unless even one row does not fit.
  CHECK(pass.tile_rows == 1 || pass.tile_rows * pass.vectors + 2 <= facts.vector_count);

  // Slices cut the panels into neighbours without gap or overlap, none empty, none much larger.
  CHECK(pass.first_panel(0) == 0);
  CHECK(pass.first_panel(pass.slices) == pass.panels);
  int64_t largest = 0;
  for (int slice = 0; slice < pass.slices; ++slice) {
    const int64_t panels = pass.first_panel(slice + 1) - pass.first_panel(slice);
    CHECK(panels >= 1 && panels <= pass.panels / pass.slices + 1, slice, panels);
    largest = panels > largest ? panels : largest;
  }
  const int64_t panel_bytes = pass.depth * pass.vectors * facts.vector_lanes * weight_bytes;
  CHECK(pass.packed_bytes == pass.panels * panel_bytes, pass.packed_bytes);
  CHECK(pass.slice_bytes == largest * panel_bytes, pass.slice_bytes, largest);

  CHECK(again.slices == pass.slices && again.packed_bytes == pass.packed_bytes);
}

void TestEveryProblemHasAPlan() {
  for (const CellTraits& cell : jp::kCells) {
    for (int64_t hidden : {1, 2, 7, 8, 31, 32, 33, 129, 512, 1023, 4096}) {
      for (int64_t batch : {1, 3, 64}) {
        for (int bytes : {2, 4}) {
          for (int threads : {1, 2, 5, 64}) {
            for (int lanes : {4, 8, 16}) {
              const CpuFacts facts{threads, lanes, lanes == 16 ? 32 : 16, 1 << 20, 32 << 20};
              const CpuPlan plan = PlanCpu(cell, hidden, batch, bytes, facts);
              const CpuPlan again = PlanCpu(cell, hidden, batch, bytes, facts);
              CheckPass(plan.forward, again.forward, facts, hidden, hidden, bytes);
              CheckPass(plan.backward, again.backward, facts, cell.gates * hidden, hidden, bytes);
              CHECK(plan.explanation == again.explanation);
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
  int slices = 0;
  for (int64_t hidden = 1; hidden <= 700; ++hidden) {
    const CpuPass pass = PlanCpu(lstm, hidden, 3, 4, kDesktop).forward;
    CHECK(pass.packed_bytes >= bytes && pass.slices >= slices, hidden);
    bytes = pass.packed_bytes;
    slices = pass.slices;
  }
  CHECK(slices == kDesktop.threads, slices);
  slices = 0;
  for (int threads = 1; threads <= 64; ++threads) {
    CpuFacts facts = kDesktop;
    facts.threads = threads;
    const CpuPass pass = PlanCpu(lstm, 256, 4, 4, facts).forward;
    CHECK(pass.slices >= slices, threads);
    slices = pass.slices;
  }
  slices = 0;
  for (int64_t batch = 1; batch <= 64; ++batch) {
    const CpuPass pass = PlanCpu(lstm, 48, batch, 4, kDesktop).forward;
    CHECK(pass.slices >= slices, batch);
    slices = pass.slices;
  }
}

void TestSmallProblemsStayOnOneWorker() {
  CHECK(PlanCpu(Cell("elman_tanh"), 16, 1, 4, kDesktop).forward.slices == 1);
  CHECK(PlanCpu(Cell("lstm"), 512, 4, 4, kDesktop).forward.slices == 8);
}

void CheckResidency(int64_t hidden, const CpuFacts& facts, const std::string& residency,
                    const std::string& says) {
  const CpuPlan plan = PlanCpu(Cell("lstm"), hidden, 4, 4, facts);
  CHECK(plan.residency == residency, hidden, plan.residency, residency);
  CHECK(plan.explanation.find(says) != std::string::npos, plan.explanation);
}

void TestResidency() {
  CheckResidency(64, kDesktop, "L2", "the weights stay in L2");
  CheckResidency(1024, kDesktop, "L3", "stay in L3 and stream through L2 once a step");
  CheckResidency(4096, kDesktop, "memory", "as no cache holds them");
  const CpuFacts no_l3{2, 8, 16, int64_t{512} << 10, 0};
  CheckResidency(1024, no_l3, "memory", "the L3 0 KiB");
  // What a plan says is what it counted: 512 * 4 * 512 floats.
  const CpuPlan plan = PlanCpu(Cell("lstm"), 512, 4, 4, {1, 8, 16, 1 << 20, 32 << 20});
  CHECK(plan.explanation.find("4096 KiB of packed weights over 1 worker, 4096 KiB each") == 0,
        plan.explanation);
}

}  // namespace

int main() {
  TestEveryProblemHasAPlan();
  TestMoreOfAnythingNeverTakesLess();
  TestSmallProblemsStayOnOneWorker();
  TestResidency();
  return jp::test::Finish("plan");
}
