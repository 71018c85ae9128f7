#include "native/plan/cpu_plan.h"

#include <algorithm>
#include <cstdio>

namespace jp {
namespace {

// Below this many multiply-adds a step, a second worker costs more in meeting than it saves: a
// meeting is two cache-line transfers, about 200 ns, in which a core does about this many.
constexpr int64_t kWorthAWorker = 8192;

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

CpuPass PlanPass(int64_t depth, int64_t hidden, int gates, int vectors, int64_t batch,
                 int weight_bytes, const CpuFacts& facts) {
  CpuPass pass;
  pass.depth = RoundUp(depth, 2);  // rows of weights are taken in pairs
  pass.vectors = vectors;
  pass.panel_units = vectors / gates * facts.vector_lanes;
  pass.panels = RoundUp(hidden, pass.panel_units) / pass.panel_units;
  const int64_t work = depth * hidden * gates * batch;
  const int64_t most = std::min<int64_t>(facts.threads, pass.panels);
  pass.slices = static_cast<int>(std::clamp<int64_t>(work / kWorthAWorker, 1, most));
  pass.tile_rows = TileRows(vectors, facts.vector_count);
  const int64_t panel_bytes = pass.depth * vectors * facts.vector_lanes * weight_bytes;
  pass.packed_bytes = pass.panels * panel_bytes;
  pass.slice_bytes = (pass.panels + pass.slices - 1) / pass.slices * panel_bytes;
  return pass;
}

}  // namespace

CpuPlan PlanCpu(const CellTraits& cell, int64_t hidden, int64_t batch, int weight_bytes,
                const CpuFacts& facts) {
  CpuPlan plan;
  plan.forward =
      PlanPass(hidden, hidden, cell.gates, ForwardVectors(cell.gates), batch, weight_bytes, facts);
  plan.backward =
      PlanPass(cell.gates * hidden, hidden, 1, kBackwardVectors, batch, weight_bytes, facts);
  const bool in_l2 = plan.forward.slice_bytes <= facts.l2_bytes;
  const bool in_l3 = plan.forward.packed_bytes <= facts.l3_bytes;
  plan.residency = in_l2 ? "L2" : in_l3 ? "L3" : "memory";

  char text[512];
  std::snprintf(
      text, sizeof text,
      "%lld KiB of packed weights over %d worker%s, %lld KiB each; a core's L2 is %lld KiB, the L3 "
      "%lld KiB: the weights stay in %s%s",
      static_cast<long long>(plan.forward.packed_bytes >> 10), plan.forward.slices,
      plan.forward.slices == 1 ? "" : "s", static_cast<long long>(plan.forward.slice_bytes >> 10),
      static_cast<long long>(facts.l2_bytes >> 10), static_cast<long long>(facts.l3_bytes >> 10),
      plan.residency.c_str(),
      in_l2   ? ""
      : in_l3 ? " and stream through L2 once a step"
              : ", as no cache holds them, and stream once a step");
  plan.explanation = text;
  return plan;
}

}  // namespace jp
