// SPDX-License-Identifier: Apache-2.0
// The CPU's planner: a model of what a step costs, and the choices made by it.
#include "native/cpu/cpu_plan.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "native/cpu/planning.h"

namespace jp::cpu {
namespace {

// The cost of a step besides its products, counted in multiply-adds of vectors. Fitted to times of
// one and of two workers of both kinds (Xeon with AVX-512, H = 64 to 512, B = 1 to 64, T = 128 and
// 512).
constexpr double kUpdate = 60;      // of a vector of units, for each gate
constexpr double kHandover = 3.75;  // units divided: of each value that is exchanged

// So much of the weights stays in the L1 cache and costs nothing to read.
constexpr double kL1Bytes = 40 << 10;

// Weights read between the updates of two blocks, at most, unless a panel is larger: an update's
// operands are prefetched before the block's products, and must still be in an L2 cache of 512 KiB
// after them.
constexpr int64_t kBlockBytes = 400 << 10;

// Rows of weights that are packed at a time where they are read only once: packing all of them
// first would take several times as long.
constexpr int64_t kPackedAtOnce = 64;

// Bytes of a weight where a tile reads it.
int TileBytes(int64_t rows, int weight_bytes) { return rows < kWidenedRows ? weight_bytes : 4; }

// Half cycles that the tiles of all rows take for one panel and one row of weights, on a core that
// starts two multiply-adds and two loads a cycle and takes four cycles for one. 0: the tile does
// not fit in the registers.
int64_t TilesCost(int64_t rows, bool single_row, int vectors, int weight_bytes, int registers) {
  const int64_t most = TileRows(vectors, registers, weight_bytes);
  if (single_row && most < 2) return 0;  // a single row has two sets of accumulators
  const int64_t tiles = CeilDiv(rows, most);
  int64_t cost = 0;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t height = (i + 1) * rows / tiles - i * rows / tiles;
    const int64_t latency = single_row ? 4 : 8;
    cost += std::max({height * vectors, height + vectors, latency}) + 1;
  }
  return cost;
}

// The same, but at least the time in which the L2 cache delivers the weights, padding included. A
// small share of the tiles' cost breaks ties: fewer instructions are better.
double PanelCost(int64_t rows, bool single_row, int vectors, int weight_bytes,
                 const CpuFacts& facts) {
  constexpr double kHalfCycleBytes = 24, kTieBreak = 0.125;
  const auto tiles = static_cast<double>(
      TilesCost(rows, single_row, vectors, TileBytes(rows, weight_bytes), facts.vector_count));
  const double bytes = static_cast<double>(vectors) * facts.vector_lanes * weight_bytes;
  return tiles == 0 ? 0 : std::max(tiles, bytes / kHalfCycleBytes) + kTieBreak * tiles;
}

// The fastest width of panels for this many rows and vectors of columns.
int PanelVectors(int64_t rows, bool single_row, int64_t columns, int weight_bytes,
                 const CpuFacts& facts) {
  int best = 0;
  double least = 0;
  for (int vectors : kPanelVectors) {
    const double cost = static_cast<double>(CeilDiv(columns, vectors)) *
                        PanelCost(rows, single_row, vectors, weight_bytes, facts);
    if (cost > 0 && (best == 0 || cost < least)) {
      best = vectors;
      least = cost;
    }
  }
  return best;
}

// How the workers divide the recurrence of a group, and what a step costs then.
struct Division {
  int workers;
  bool splits_batch;
  double step;
};

// Either each worker has a part of the units and hands over its share of the `values` of each row,
// or it has a part of the batch and hands over nothing, but reads all weights, of the inputs too.
Division Divide(const Problem& problem, int64_t values, int weight_bytes, const CpuFacts& facts) {
  const int64_t hidden = problem.hidden, batch = problem.batch;
  const int gates = problem.cell.gates;
  const double lanes = facts.vector_lanes, rows = static_cast<double>(batch);
  const double units = static_cast<double>(hidden), weights = units * units * gates / lanes;
  const double handover = kHandover * static_cast<double>(values);
  const int64_t most = std::min<int64_t>(facts.threads, CeilDiv(hidden, facts.vector_lanes));
  const int by_units = static_cast<int>(
      std::clamp<double>(rows * (weights - handover) / kMeeting, 1, static_cast<double>(most)));
  const int by_rows = static_cast<int>(std::min(most, batch));
  const int64_t bytes = hidden * hidden * gates * weight_bytes;

  // A worker's step: `some` rows times one part in `parts` of the weights.
  const auto step = [&](double some, double parts) {
    const double in_l1 = std::min(1.0, kL1Bytes * parts / static_cast<double>(bytes));
    const double read = in_l1 + (1 - in_l1) * kL2Rows;
    return (std::max(some, read) * weights + some * kUpdate * gates * units / lanes) / parts;
  };
  const int64_t vectors = CeilDiv(hidden, facts.vector_lanes);
  const double largest =  // share of the units
      static_cast<double>(CeilDiv(vectors, by_units)) / static_cast<double>(vectors);
  const double units_divided =
      step(rows, 1 / largest) + (by_units - 1) * (kMeeting + handover * rows / by_units);
  const double batch_divided = step(static_cast<double>(CeilDiv(batch, by_rows)), 1) + kWaking;
  const bool can_divide_batch = by_rows > 1 && !Outgrows(2 * bytes, facts);
  return can_divide_batch && batch_divided < units_divided
             ? Division{by_rows, true, batch_divided}
             : Division{by_units, false, units_divided};
}

// How many groups are best run at once. If several, the division becomes that of a single worker.
int GroupsAtOnce(const Problem& problem, int64_t values, int weight_bytes, CpuFacts facts,
                 Division& division) {
  const auto most = static_cast<int>(std::min<int64_t>(facts.threads, problem.groups));
  facts.threads = 1;
  const Division alone = Divide(problem, values, weight_bytes, facts);
  const auto rounds = static_cast<double>(CeilDiv(problem.groups, most));
  const double in_turn = static_cast<double>(problem.groups) * division.step;
  if (most == 1) return 1;
  // Alone, a worker reads all of a group's weights at each step, from beyond its L2 cache if they
  // outgrow that. Backward does more besides, and keeps to the model.
  const int64_t bytes = problem.hidden * problem.hidden * problem.cell.gates * weight_bytes;
  if (problem.pass == Pass::kForward && Outgrows(bytes, facts)) return 1;
  if (rounds * alone.step + kWaking >= in_turn) return 1;
  division = alone;
  return most;
}

// Steps of a chunk: nearly equal chunks of at most kChunkRows rows, or of one step.
int64_t ChunkSteps(const Problem& problem) {
  const int64_t most = std::max<int64_t>(kChunkRows / problem.batch, 1);
  return CeilDiv(problem.steps, CeilDiv(problem.steps, most));
}

}  // namespace

GemmPlan PlanGemm(int64_t k, int64_t units, int gates, int64_t batch, int weight_bytes, int workers,
                  bool splits_batch, int64_t uses, const CpuFacts& facts) {
  GemmPlan plan;
  plan.k = CeilDiv(k, 2) * 2;
  plan.lanes = facts.vector_lanes;
  plan.gates = gates;
  plan.unit_vectors = CeilDiv(units, facts.vector_lanes);
  plan.slices = splits_batch ? 1 : workers;
  plan.workers = workers;
  const int64_t columns = CeilDiv(plan.unit_vectors, plan.slices) * gates;
  const int64_t share = splits_batch ? CeilDiv(batch, workers) : batch;
  const int64_t rows = std::min<int64_t>(share, kBlockRows);
  plan.panel_vectors = PanelVectors(rows, batch == 1, columns, weight_bytes, facts);
  plan.tile_rows = TileRows(plan.panel_vectors, facts.vector_count, TileBytes(rows, weight_bytes));
  plan.panels = CeilDiv(columns, plan.panel_vectors);
  const int64_t vector_bytes = plan.k * facts.vector_lanes * weight_bytes;
  plan.slice_bytes = plan.panels * plan.panel_vectors * vector_bytes;
  plan.prefetches = Outgrows(plan.slice_bytes, facts);
  const bool once = plan.SplitsBatch() || uses > 1;
  plan.packed_k = once ? plan.k : std::min(plan.k, kPackedAtOnce);
  plan.packed_bytes = plan.slice_bytes / plan.k * plan.packed_k * plan.slices;
  // Whole panels and whole units, and as many as the caches bear.
  const int step = std::lcm(gates, plan.panel_vectors);
  const int64_t fits =
      std::min<int64_t>(kBlockBytes / vector_bytes, kBlockRows * kMostBlockVectors / rows);
  plan.block_units = static_cast<int>(std::max<int64_t>(fits / step, 1) * step / gates);
  return plan;
}

CpuPlan PlanCpu(const Problem& problem, const CpuFacts& facts) {
  const bool forward = problem.pass == Pass::kForward;
  const int64_t hidden = problem.hidden, columns = problem.columns();
  const int64_t inputs = std::max<int64_t>(problem.inputs, 1);
  const int gates = problem.cell.gates, bytes = static_cast<int>(ByteWidth(problem.dtype));
  Division division = Divide(problem, forward ? hidden : columns, bytes, facts);
  CpuPlan plan{};
  plan.groups_at_once = GroupsAtOnce(problem, forward ? hidden : columns, bytes, facts, division);
  const int workers = division.workers;
  const bool splits = division.splits_batch;
  plan.chunk_steps = ChunkSteps(problem);
  const int64_t rows = plan.chunk_steps * problem.batch;
  const int64_t uses = problem.steps * CeilDiv(problem.batch, kChunkRows);
  const int64_t input_uses = CeilDiv(problem.steps * problem.batch, kChunkRows);
  if (forward) {
    plan.recurrence =
        PlanGemm(hidden, hidden, gates, problem.batch, bytes, workers, splits, uses, facts);
    plan.inputs = PlanGemm(inputs, hidden, gates, rows, bytes, workers, splits, input_uses, facts);
  } else {
    plan.recurrence =
        PlanGemm(columns, hidden, 1, problem.batch, bytes, workers, splits, uses, facts);
    plan.inputs = PlanGemm(columns, inputs, 1, rows, bytes, workers, splits, input_uses, facts);
    // A sum over all rows is one worker's, so that units are divided; its factor, the gates'
    // gradients, is read for the inputs and for h.
    plan.d_weights = PlanGemm(rows, hidden, gates, hidden, sizeof(float), workers, false, 2, facts);
    // What is read again and again, and so may need prefetching, is the accumulators.
    const GemmPlan& d = plan.d_weights;
    const int64_t width = d.panels * d.panel_vectors * d.lanes;
    plan.d_weights.prefetches =
        Outgrows((inputs + hidden) * width * static_cast<int64_t>(sizeof(float)), facts);
  }
  const GemmPlan& gemm = plan.recurrence;
  const bool in_l2 = gemm.PackedOnce() && gemm.slice_bytes <= facts.l2_bytes;
  const bool in_l3 = gemm.PackedOnce() && gemm.packed_bytes <= facts.l3_bytes;
  plan.residency = in_l2 ? "L2" : in_l3 ? "L3" : "memory";
  return plan;
}

std::string Explain(const CpuPlan& plan, const CpuFacts& facts) {
  const auto kibibytes = [](int64_t bytes) { return static_cast<long long>(bytes >> 10); };
  const GemmPlan& gemm = plan.recurrence;
  char work[128], text[512];
  if (plan.groups_at_once > 1) {
    std::snprintf(work, sizeof work, "for each of %d workers, which have groups of their own",
                  plan.groups_at_once);
  } else if (gemm.SplitsBatch()) {
    std::snprintf(work, sizeof work, "for each of %d workers, which have rows of their own",
                  gemm.workers);
  } else {
    std::snprintf(work, sizeof work, "over %d worker%s, %lld KiB each", gemm.workers,
                  gemm.workers == 1 ? "" : "s", kibibytes(gemm.slice_bytes));
  }
  if (!gemm.PackedOnce()) {
    std::snprintf(text, sizeof text,
                  "%lld KiB of weights %s, read once: a single step is too few to keep them",
                  kibibytes(gemm.slices * gemm.slice_bytes), work);
    return text;
  }
  std::snprintf(text, sizeof text,
                "%lld KiB of packed weights %s; a core's L2 is %lld KiB, the L3 %lld KiB: the "
                "weights stay in %s%s",
                kibibytes(gemm.packed_bytes), work, kibibytes(facts.l2_bytes),
                kibibytes(facts.l3_bytes), plan.residency.data(),
                plan.residency == "L2"   ? ""
                : plan.residency == "L3" ? " and stream through L2 once a step"
                                         : ", as no cache holds them, and stream once a step");
  return text;
}

}  // namespace jp::cpu
