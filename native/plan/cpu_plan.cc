#include "native/plan/cpu_plan.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

namespace jp {
namespace {

// What a step costs, in steps of a core's multiply-adds over a vector: the update of a vector of
// units, for each gate; where units are divided, with each worker more, the meeting, which is a few
// trips between cores, and handing over each value of what is exchanged; where rows are, a part of
// what it takes to wake the workers. Fitted to times of one and of two workers of both kinds (Xeon
// with AVX-512, H = 64 to 512, B = 1 to 64, T = 128 and 512).
constexpr double kUpdate = 60, kMeeting = 768, kHandover = 3.75, kWaking = 1000;

// Rows that it takes as long to multiply as to read the weights, which are in the L2 cache but for
// what the L1 cache keeps.
constexpr double kL2Rows = 2.5, kL1Bytes = 40 << 10;

// Weights read between the updates of two blocks, at most, unless a panel is larger: what an update
// needs is asked for before its products, and should be in an L2 cache of 512 KiB after them.
constexpr int64_t kBlockBytes = 400 << 10;

// Rows of weights that are packed at a time where they are read only once: to pack them all first
// would take several times as long.
constexpr int64_t kPassingDepth = 64;

int64_t CeilDiv(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Bytes of a weight as the tiles find it.
int TileBytes(int64_t rows, int weight_bytes) { return rows < kWidenedRows ? weight_bytes : 4; }

// Half cycles of all rows' tiles of a panel, for each row of weights, on a core that starts two
// multiply-adds and two loads a cycle and takes four cycles for one. 0: not to be used.
int64_t TilesCost(int64_t rows, bool alone, int vectors, int weight_bytes, int registers) {
  const int64_t most = TileRows(vectors, registers, weight_bytes);
  if (alone && most < 2) return 0;  // a row alone has the sums of two
  const int64_t tiles = CeilDiv(rows, most);
  int64_t cost = 0;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t height = (i + 1) * rows / tiles - i * rows / tiles;
    const int64_t latency = alone ? 4 : 8;
    cost += std::max({height * vectors, height + vectors, latency}) + 1;
  }
  return cost;
}

// The same, but not less than the L2 cache takes to deliver the weights: what a last panel is
// filled up with is read, too. Of two that are as fast by that the one with fewer instructions is
// better.
double PanelCost(int64_t rows, bool alone, int vectors, int weight_bytes, const CpuFacts& facts) {
  constexpr double kHalfCycleBytes = 24, kTieBreak = 0.125;
  const auto tiles = static_cast<double>(
      TilesCost(rows, alone, vectors, TileBytes(rows, weight_bytes), facts.vector_count));
  const double bytes = static_cast<double>(vectors) * facts.vector_lanes * weight_bytes;
  return tiles == 0 ? 0 : std::max(tiles, bytes / kHalfCycleBytes) + kTieBreak * tiles;
}

// The width of panels that is the fastest for this many rows and vectors of columns.
int PanelVectors(int64_t rows, bool alone, int64_t columns, int weight_bytes,
                 const CpuFacts& facts) {
  int best = 0;
  double least = 0;
  for (int vectors : kPanelVectors) {
    const double cost = static_cast<double>(CeilDiv(columns, vectors)) *
                        PanelCost(rows, alone, vectors, weight_bytes, facts);
    if (cost > 0 && (best == 0 || cost < least)) {
      best = vectors;
      least = cost;
    }
  }
  return best;
}

// Whether a worker's weights do not stay in its L2 cache, beside what else a step needs.
bool Outgrows(int64_t bytes, const CpuFacts& facts) { return bytes > facts.l2_bytes / 4 * 3; }

// Who does a step of the recurrence.
struct Workers {
  int count;
  bool by_rows;
};

// Each worker has a part of the units, and hands over so many values a row; or it has a part of the
// rows and hands over nothing, but reads all weights, those of the inputs too.
Workers PlanWorkers(const CellTraits& cell, int64_t values, int64_t hidden, int64_t batch,
                    int weight_bytes, const CpuFacts& facts) {
  const double lanes = facts.vector_lanes, rows = static_cast<double>(batch);
  const double units = static_cast<double>(hidden), weights = units * units * cell.gates / lanes;
  const double handover = kHandover * static_cast<double>(values);
  const int64_t most = std::min<int64_t>(facts.threads, CeilDiv(hidden, facts.vector_lanes));
  const int by_units = static_cast<int>(
      std::clamp<double>(rows * (weights - handover) / kMeeting, 1, static_cast<double>(most)));
  const int by_rows = static_cast<int>(std::min(most, batch));
  const int64_t bytes = hidden * hidden * cell.gates * weight_bytes;
  if (by_rows == 1 || Outgrows(2 * bytes, facts)) return {by_units, false};

  // A worker's step: so many rows times one in so many of the weights.
  const auto step = [&](double some, double parts) {
    const double in_l1 = std::min(1.0, kL1Bytes * parts / static_cast<double>(bytes));
    const double read = in_l1 + (1 - in_l1) * kL2Rows;
    return (std::max(some, read) * weights + some * kUpdate * cell.gates * units / lanes) / parts;
  };
  const int64_t vectors = CeilDiv(hidden, facts.vector_lanes);
  const double largest =  // share of the units
      static_cast<double>(CeilDiv(vectors, by_units)) / static_cast<double>(vectors);
  const double divided =
      step(rows, 1 / largest) + (by_units - 1) * (kMeeting + handover * rows / by_units);
  const double apart = step(static_cast<double>(CeilDiv(batch, by_rows)), 1) + kWaking;
  return apart < divided ? Workers{by_rows, true} : Workers{by_units, false};
}

// `uses`: how often all weights are read.
CpuPass PlanPass(int64_t depth, int64_t units, int gates, int64_t batch, int weight_bytes,
                 Workers workers, int64_t uses, const CpuFacts& facts) {
  CpuPass pass;
  pass.depth = CeilDiv(depth, 2) * 2;
  pass.lanes = facts.vector_lanes;
  pass.gates = gates;
  pass.units = CeilDiv(units, facts.vector_lanes);
  pass.slices = workers.by_rows ? 1 : workers.count;
  pass.workers = workers.count;
  const int64_t columns = CeilDiv(pass.units, pass.slices) * gates;
  const int64_t share = workers.by_rows ? CeilDiv(batch, workers.count) : batch;
  const int64_t rows = std::min<int64_t>(share, kBlockRows);
  pass.vectors = PanelVectors(rows, batch == 1, columns, weight_bytes, facts);
  pass.tile_rows = TileRows(pass.vectors, facts.vector_count, TileBytes(rows, weight_bytes));
  pass.panels = CeilDiv(columns, pass.vectors);
  const int64_t vector_bytes = pass.depth * facts.vector_lanes * weight_bytes;
  pass.slice_bytes = pass.panels * pass.vectors * vector_bytes;
  pass.streams = Outgrows(pass.slice_bytes, facts);
  const bool kept = pass.by_rows() || uses > 1;
  pass.packed_depth = kept ? pass.depth : std::min(pass.depth, kPassingDepth);
  pass.packed_bytes = pass.slice_bytes / pass.depth * pass.packed_depth * pass.slices;
  // Whole panels and whole units, and as many as the caches bear.
  const int step = std::lcm(gates, pass.vectors);
  const int64_t fits =
      std::min<int64_t>(kBlockBytes / vector_bytes, kBlockRows * kMostBlockVectors / rows);
  pass.block_units = static_cast<int>(std::max<int64_t>(fits / step, 1) * step / gates);
  return pass;
}

}  // namespace

CpuPlan PlanCpu(const CellTraits& cell, int64_t hidden, int64_t batch, int64_t steps,
                int weight_bytes, const CpuFacts& facts) {
  const int64_t columns = cell.gates * hidden, uses = steps * CeilDiv(batch, kChunkRows);
  CpuPlan plan;
  plan.forward =
      PlanPass(hidden, hidden, cell.gates, batch, weight_bytes,
               PlanWorkers(cell, hidden, hidden, batch, weight_bytes, facts), uses, facts);
  plan.backward =
      PlanPass(columns, hidden, 1, batch, weight_bytes,
               PlanWorkers(cell, columns, hidden, batch, weight_bytes, facts), uses, facts);
  const CpuPass& pass = plan.forward;
  const bool in_l2 = pass.kept() && pass.slice_bytes <= facts.l2_bytes;
  const bool in_l3 = pass.kept() && pass.packed_bytes <= facts.l3_bytes;
  plan.residency = in_l2 ? "L2" : in_l3 ? "L3" : "memory";
  return plan;
}

std::string Explain(const CpuPlan& plan, const CpuFacts& facts) {
  const auto kibibytes = [](int64_t bytes) { return static_cast<long long>(bytes >> 10); };
  const CpuPass& pass = plan.forward;
  char work[128], text[512];
  if (pass.by_rows()) {
    std::snprintf(work, sizeof work, "for each of %d workers, which have rows of their own",
                  pass.workers);
  } else {
    std::snprintf(work, sizeof work, "over %d worker%s, %lld KiB each", pass.workers,
                  pass.workers == 1 ? "" : "s", kibibytes(pass.slice_bytes));
  }
  if (!pass.kept()) {
    std::snprintf(text, sizeof text,
                  "%lld KiB of weights %s, read once: a single step is too few to keep them",
                  kibibytes(pass.slices * pass.slice_bytes), work);
    return text;
  }
  std::snprintf(text, sizeof text,
                "%lld KiB of packed weights %s; a core's L2 is %lld KiB, the L3 %lld KiB: the "
                "weights stay in %s%s",
                kibibytes(pass.packed_bytes), work, kibibytes(facts.l2_bytes),
                kibibytes(facts.l3_bytes), plan.residency.data(),
                plan.residency == "L2"   ? ""
                : plan.residency == "L3" ? " and stream through L2 once a step"
                                         : ", as no cache holds them, and stream once a step");
  return text;
}

CpuChunkPlan PlanCpuChunk(const CellTraits& cell, int64_t inputs, int64_t hidden, int64_t batch,
                          int64_t all_steps, int weight_bytes, const CpuFacts& facts) {
  const int64_t columns = cell.gates * hidden;
  CpuChunkPlan plan;
  const int64_t most = std::max<int64_t>(kChunkRows / batch, 1);
  plan.steps = CeilDiv(all_steps, CeilDiv(all_steps, most));
  const int64_t rows = plan.steps * batch;
  const Workers forward = PlanWorkers(cell, hidden, hidden, batch, weight_bytes, facts);
  const Workers backward = PlanWorkers(cell, columns, hidden, batch, weight_bytes, facts);
  const int64_t uses = CeilDiv(all_steps * batch, kChunkRows);
  plan.inputs = PlanPass(inputs, hidden, cell.gates, rows, weight_bytes, forward, uses, facts);
  plan.d_inputs = PlanPass(columns, inputs, 1, rows, weight_bytes, backward, uses, facts);
  // A sum over all rows is one worker's; its other factor is kept until it is taken.
  plan.d_weights =
      PlanPass(rows, hidden, cell.gates, hidden, sizeof(float), {backward.count, false}, 2, facts);
  // What is read once and again is the sums.
  const int64_t width = plan.d_weights.panels * plan.d_weights.vectors * plan.d_weights.lanes;
  plan.d_weights.streams =
      Outgrows((inputs + hidden) * width * static_cast<int64_t>(sizeof(float)), facts);
  return plan;
}

}  // namespace jp
